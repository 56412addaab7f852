"""`slip monitor`: the terminal UI, of this machine's daemon or of a recorded run."""

from __future__ import annotations

import argparse
import gc
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from .. import trace
from ..core.errors import UsageError
from .parsing import state_of

if TYPE_CHECKING:
    from ..tui.app import Monitor


def add(parser: argparse.ArgumentParser) -> None:
    """Its arguments."""
    parser.add_argument("--read-only", action="store_true", help="only look: over a socket that changes nothing")
    parser.add_argument("--replay", metavar="TRACE", help="a recorded run: its id, or a file (slip trace list)")
    parser.add_argument("--web", action="store_true", help="in a browser on this machine, read-only")
    parser.add_argument("--port", type=int, default=0, metavar="N", help="with --web: the port (default: a free one)")


def main(args: argparse.Namespace) -> int:
    """Show it until it is closed.

    Raises:
        UsageError: there is no terminal, or no such trace.
    """
    state = state_of(args)
    if args.web:
        from ..monitor_web import serve

        command = [sys.executable, "-m", "slipstream", "monitor", "--read-only", "--state", str(state)]
        return serve([*command, *(["--replay", args.replay] if args.replay else [])], port=args.port)
    if args.json:
        raise UsageError("slip monitor is for people", "it draws on a terminal", "slip events --json", field="json")
    if args.replay is not None:
        return replay(trace.find(state, args.replay))
    _require_terminal()
    from ..monitor_source import DaemonSource
    from ..tui.app import Monitor

    return _run(Monitor(DaemonSource(state, read_only=args.read_only)))


def replay(path: Path) -> int:
    """Show a recorded run; the daemon is not needed.

    Raises:
        UsageError: there is no terminal, or it cannot be read.
    """
    _require_terminal()
    head, frames = trace.read(path)
    from ..tui.app import Monitor
    from ..tui.player import Player

    return _run(Monitor(None, Player(frames, str(head.get("goal") or head.get("run")))))


def _require_terminal() -> None:
    # keys come from stdin, and Textual draws on stderr; in a browser it has a driver of its own
    if "TEXTUAL_DRIVER" not in os.environ and not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise UsageError("slip monitor needs a terminal", "it is started without one, or its stderr goes elsewhere",
                         "slip status or slip events --plain, which need none")  # fmt: skip


def _run(monitor: Monitor) -> int:
    """The exit code. The mouse stays the terminal's own: text is marked and copied as everywhere."""
    gc.enable()  # this process is not short-lived
    gc.freeze()  # what was imported stays
    monitor.run(mouse=False)
    return monitor.return_code or 0
