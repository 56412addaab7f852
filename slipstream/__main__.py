"""`slip`, and `python -m slipstream`."""

from __future__ import annotations

import gc
import io
import sys

from . import cli


def main() -> int:
    """Run the verb that the command line names; the exit code."""
    # a short-lived process ends before collecting garbage could pay; the daemon turns it on again when it is ready
    gc.disable()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # what is streamed is there when it happens, in a pipe as well
    return cli.main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
