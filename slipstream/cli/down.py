"""`slip down`: have the daemon leave the mesh and end."""

from __future__ import annotations

import argparse
import fcntl

from ..control import ANSWER_SECONDS, talk
from ..core.errors import NotRunning
from ..places import LOCK
from . import output
from .parsing import state_of


def add(parser: argparse.ArgumentParser) -> None:
    """Its arguments: none of its own."""


def main(args: argparse.Namespace) -> int:
    """Ask it to stop, and wait until it has let go of its state folder."""
    state = state_of(args)
    with talk(state, "stop", timeout=ANSWER_SECONDS) as lines:
        answer = next(lines)
    try:
        # the kernel wakes us when the daemon's lock is gone: nothing is polled
        with open(state / LOCK, "rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH)
    except FileNotFoundError:
        raise NotRunning("the daemon's state folder is gone", str(state)) from None
    if args.json:
        output.show_json({"stopped": answer["pid"]})
    else:
        output.note(f"stopped (process {answer['pid']})")
    return 0
