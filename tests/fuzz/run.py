"""Fuzz one target, guided by the coverage of our Python (atheris): `python tests/fuzz/run.py NAME [--seconds 60]`.

A target is a module beside this one: `seeds()` gives inputs that are right, `check(data)` lets our errors pass and
raises whatever should not be. Ends with 0 if nothing was found, and the memory did not grow; a finding is written to
`build/fuzz-NAME-*`, and `--again FILE` shows it.
"""

from __future__ import annotations

import argparse
import importlib
import resource
import sys
import tempfile
from pathlib import Path
from random import Random

from mutate import mutated

TARGETS = sorted({path.stem for path in Path(__file__).parent.glob("*.py")} - {"mutate", "run", "test_corpus"})
INPUT_LIMIT = 1 << 16
"""Bytes of one input."""
GROWTH_LIMIT = 96
"""MiB that a target may take beyond what its first inputs took; the corpus that the fuzzer collects is part of it."""
SLOWEST = 10
"""Seconds that one input may take."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=TARGETS)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--again", type=Path, help="one input, without the fuzzer")
    args = parser.parse_args()
    if args.again:
        importlib.import_module(args.name).check(args.again.read_bytes())
        return
    fuzz(args.name, args.seconds)


def fuzz(name: str, seconds: int) -> None:
    """Run one target; never returns."""
    import atheris

    with atheris.instrument_imports(include=["slipstream.core", "slipstream.runtime_ext.gguf", name]):
        target = importlib.import_module(name)
    seeds = target.seeds()
    for seed in seeds:
        target.check(seed)
    allowed = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024 + GROWTH_LIMIT

    def change(data: bytes, size: int, seed: int) -> bytes:
        draw = Random(seed)
        if draw.random() < 0.2:
            return bytes(atheris.Mutate(data, size))
        return mutated(data, draw, min(size, INPUT_LIMIT))

    Path("build").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="slipstream-fuzz-") as corpus:
        for number, seed in enumerate(seeds):
            (Path(corpus) / f"seed-{number}").write_bytes(seed)
        flags = [
            f"-max_total_time={seconds}", f"-max_len={INPUT_LIMIT}", f"-rss_limit_mb={allowed}", f"-timeout={SLOWEST}",
            f"-artifact_prefix=build/fuzz-{name}-", "-print_final_stats=1", "-verbosity=1",
        ]  # fmt: skip
        atheris.Setup([sys.argv[0], *flags, corpus], target.check, custom_mutator=change)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
