"""`slip`, and `python -m slipstream`."""

from __future__ import annotations

import sys

from . import cli


def main() -> int:
    """Run the verb that the command line names; the exit code."""
    return cli.main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
