"""`slip bench`: measure this device and its links, beside the floor and the peers; in a checkout, not in a wheel."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from ..core.errors import UsageError

PASSES_ON = True
"""What this verb does not know is the bench's own."""
BENCHES = Path(__file__).resolve().parents[2] / "tests" / "bench"


def add(parser: argparse.ArgumentParser) -> None:
    """The arguments of the verb."""
    parser.add_argument("name", nargs="?", help="what to measure; without it, what there is")


def main(args: argparse.Namespace) -> int:
    """Become the bench: it prints its figures itself.

    Raises:
        UsageError: there is no such bench, or none at all here.
    """
    there = {path.stem: path for path in sorted(BENCHES.glob("*.py"))}
    if not there:
        raise UsageError("no benches here", "they come with a checkout, not with an installed package",
                         "clone the repository, then: make bench")  # fmt: skip
    if args.name is None:
        print("\n".join(there))
        return 0
    if args.name not in there:
        raise UsageError(f"no bench {args.name}", f"there are {', '.join(there)}", "slip bench")
    rest = [*args.rest, *(["--json"] if getattr(args, "json", False) else [])]
    os.execv(sys.executable, [sys.executable, str(there[args.name]), *rest])
