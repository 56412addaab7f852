"""`slip`, and `python -m slipstream`."""

from __future__ import annotations

import sys

from .cli import run


def main() -> int:
    """Run the verb that the command line names; the exit code."""
    return run(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
