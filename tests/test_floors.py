"""The house: imports go down, sans-IO files do no I/O, the daemon's imports stay light, files stay one idea long."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("core", "transports", "skills", "runtime_ext", "tui", "slipstream")
ALLOWED = {
    "runtime_ext": {"runtime_ext"},
    "core": {"core", "runtime_ext"},
    "transports": {"transports", "core"},
    "skills": {"skills", "core"},
    "tui": {"tui", "core"},
    "slipstream": {"slipstream", "tui", "skills", "transports", "core", "runtime_ext"},
}
SANS_IO = (
    "wire", "session", "members", "plan", "scheduler", "schema", "costs", "run", "trust", "policy", "driving", "labels",
    "label_graph", "placing", "energy", "scene",
)  # fmt: skip
IMPURE = {"anyio", "asyncio", "socket", "time", "random", "trio", "threading", "subprocess"}
SANS_IO_MAY = {"run": {"anyio"}}  # its `ended` is an event that callers await
LONG_WITH_REASON = 500


def files(folder: str) -> list[Path]:
    return [p for p in sorted((ROOT / folder).rglob("*.py")) if not any(part.is_symlink() for part in p.parents)]


def imports(path: Path) -> Iterator[tuple[str, ...]]:
    """Every module that a file imports, as its parts, relative ones resolved inside the package."""
    here = path.relative_to(ROOT).with_suffix("").parts
    package = here[:-1]
    if here[0] == "slipstream":
        package = package[1:]
        package = ("slipstream", *package[0:]) if package else ("slipstream",)
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (tuple(name.name.split(".")) for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = tuple((node.module or "").split(".")) if node.module else ()
            if node.level == 0:
                yield from ((*module, name.name) for name in node.names)
                continue
            base = _package_of(path)[: len(_package_of(path)) - node.level + 1]
            yield from ((*base, *module, name.name) for name in node.names)


def _package_of(path: Path) -> tuple[str, ...]:
    """The package that a file lies in, as Python sees it: everything is below `slipstream`."""
    parts = path.relative_to(ROOT).parts[:-1]
    return parts if parts[0] == "slipstream" else ("slipstream", *parts)


@pytest.mark.parametrize("folder", FOLDERS)
def test_imports_only_go_down(folder: str) -> None:
    wrong = []
    for path in files(folder):
        for module in imports(path):
            if module[0] != "slipstream" or len(module) < 2:
                continue
            floor = module[1] if module[1] in ALLOWED else "slipstream"
            if floor == "runtime_ext" and path.parent == ROOT / "skills" / "packs" / "llm":
                continue  # the pack that runs models
            if floor not in ALLOWED[folder]:
                wrong.append(f"{path.relative_to(ROOT)} imports {'.'.join(module)}")
    assert not wrong


@pytest.mark.parametrize("name", SANS_IO)
def test_sans_io_files_take_clock_and_seed_as_arguments(name: str) -> None:
    path = ROOT / "core" / f"{name}.py"
    found = {module[0] for module in imports(path)} & (IMPURE - SANS_IO_MAY.get(name, set()))
    assert not found


def test_skills_know_the_contract_and_the_errors_only() -> None:
    wrong = [
        f"{path.relative_to(ROOT)} imports {'.'.join(module)}"
        for path in files("skills")
        for module in imports(path)
        if module[:2] == ("slipstream", "core") and len(module) > 2 and module[2] not in ("skill", "errors", "schema")
    ]
    assert not wrong


HEAVY = ("textual", "mcp", "grpc", "opentelemetry", "numpy", "cryptography", "zeroconf", "trio", "pytest")
HEAVIER = (*HEAVY, "asyncio", "anyio", "pydantic", "msgpack")


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("import slipstream.daemon, slipstream.core.node, slipstream.transports.tls", HEAVY),
        ("import slipstream", HEAVIER),
        ("import slipstream.__main__", HEAVIER),
    ],
)
def test_what_is_always_on_imports_nothing_heavy(code: str, absent: tuple[str, ...]) -> None:
    """The light-import law, by `sys.modules` and not by time."""
    show = f"import sys; {code}; print([m for m in {absent!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", show], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_files_are_one_idea_long_or_say_why_not() -> None:
    long = []
    for folder in FOLDERS:
        for path in [*files(folder), *(ROOT / folder).glob("*.pyx")]:
            text = path.read_text()
            if text.count("\n") > LONG_WITH_REASON and "one file because" not in text[:2500].lower():
                long.append(f"{path.relative_to(ROOT)}: {text.count(chr(10))} lines, and no `One file because ...`")
    assert not long


def test_no_file_names_a_path_or_an_index_of_some_machine() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False).stdout
    names = [name for name in listed.split("\0") if name and not (ROOT / name).is_symlink()]
    wrong = []
    for name in names or [str(p.relative_to(ROOT)) for f in FOLDERS for p in files(f)]:
        path = ROOT / name
        if path.is_file() and path != Path(__file__):
            text = path.read_text(errors="replace")
            wrong += [
                f"{name}: {bad}" for bad in ("/root/", "/home/", "--index-url", "--extra-index-url") if bad in text
            ]
    assert not wrong
