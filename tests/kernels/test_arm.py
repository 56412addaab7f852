"""The C cores on an emulated ARM processor: the same bits as here, whatever instruction sets it has.

Zig compiles for it, Debian's qemu-user-static runs it. It says nothing about speed. `make oracle` brings Zig.
"""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

QEMU = shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64")
ZIG = [sys.executable, "-m", "ziglang"] if importlib.util.find_spec("ziglang") else [shutil.which("zig") or ""]

pytestmark = [
    pytest.mark.skipif(not ZIG[-1], reason="no Zig to compile for ARM with: make oracle"),
    pytest.mark.skipif(
        QEMU is None, reason="no qemu-aarch64-static to run ARM programs: apt-get install qemu-user-static"
    ),
]

KERNELS = Path(__file__).parents[2] / "runtime_ext" / "kernels"
FLAGS = ["-std=gnu11", "-O2", "-ffp-contract=off", f"-I{KERNELS.parent}", f"-I{KERNELS / 'llm'}"]
ZIG_TARGET = ["cc", "-target", "aarch64-linux-musl", "-static"]
SETS = {
    "cortex-a53": ["scalar", "neon"],
    "cortex-a76": ["scalar", "neon", "dotprod"],
    "max": ["scalar", "neon", "dotprod", "i8mm"],
}
"""What qemu calls the processor, and the kernels that run on it."""


class Built:
    """The test program of a core, for this processor and for ARM, and what it prints on each."""

    def __init__(self, program: str, core: Path, folder: Path) -> None:
        self.here, self.arm = folder / f"{program}-here", folder / f"{program}-arm"
        files = [Path(__file__).with_name(f"{program}.c"), *sorted(core.glob("*.c"))]
        for compiler, made in ((["gcc"], self.here), ([*ZIG, *ZIG_TARGET], self.arm)):
            command = [*compiler, *FLAGS, *map(str, files), "-lm", "-lpthread", "-o", str(made)]
            subprocess.run(command, check=True, cwd=folder)

    def said(self, cpu: str | None = None) -> str:
        """Its output here, or on an ARM processor."""
        command = [str(self.here)] if cpu is None else [str(QEMU), "-cpu", cpu, str(self.arm)]
        return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> Built:
    return Built("llm", KERNELS / "llm", tmp_path_factory.mktemp("llm"))


@pytest.mark.parametrize("cpu", SETS)
def test_the_inference_core_gives_the_same_bits_on_arm(cpu: str, llm: Built) -> None:
    result, names = llm.said(cpu).strip().split(": ")[1:]
    print(f"{cpu}: {result}: {names}")
    assert names.split() == SETS[cpu]
    assert result == llm.said().split(": ")[1]


def test_the_scheduling_core_finds_as_many_schedules_on_arm(tmp_path: Path) -> None:
    """Each of them is checked by the program."""
    schedule = Built("schedule", KERNELS, tmp_path)
    print(schedule.said("cortex-a53").strip())
    assert schedule.said("cortex-a53") == schedule.said()
