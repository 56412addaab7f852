"""`slip`, and `python -m slipstream`."""

from __future__ import annotations

import gc
import sys

from . import cli


def main() -> int:
    """Run the verb that the command line names; the exit code."""
    # a short-lived process ends before collecting garbage could pay; the daemon turns it on again when it is ready
    gc.disable()
    return cli.main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
