"""The daemon's log: one line per event on stderr, as JSON for programs or plain for a terminal.

A reader that does not read must not hold the daemon up, so a line goes out only if stderr takes it at once; how many
did not is said in the next line that does.
"""

from __future__ import annotations

import json
import os
import select
import time
from typing import Any, Final, Literal

from .core.device import clean
from .core.events import Event

Form = Literal["auto", "json", "plain"]
LINE_LIMIT: Final = 4000
"""A pipe that polls as writable takes PIPE_BUF bytes (4096 on Linux) without waiting (pipe(7))."""
_QUIET: Final = frozenset(("step.progress",))


class Log:
    """Where a daemon's events are written."""

    def __init__(self, form: Form, descriptor: int = 2) -> None:
        self._descriptor = descriptor
        self.plain = form == "plain" or (form == "auto" and os.isatty(descriptor))
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLOUT)
        self._missed = 0

    def event(self, event: Event) -> None:
        """Write down what happened, unless it happens all the time."""
        if event.kind not in _QUIET:
            self.line(event.kind, at=event.time, **event.fields)

    def line(self, kind: str, *, at: float | None = None, **fields: Any) -> None:
        """Write one line."""
        if self._missed:
            fields["lines_missed"] = self._missed
        when = time.time() if at is None else at
        if self.plain:
            clock = time.strftime("%H:%M:%S", time.localtime(when)) + f".{int(when * 1000) % 1000:03d}"
            words = " ".join(f"{name}={clean(value, 400)}" for name, value in fields.items())
            text = f"{clock} {kind} {words}"
        else:
            level = "warning" if kind == "warning" else "info"
            text = json.dumps({"time": when, "level": level, "kind": kind, **fields}, default=str)
            if len(text) > LINE_LIMIT:
                text = json.dumps({"time": when, "level": level, "kind": kind, "cut": text[:1500]})
        try:
            if not any(mask & select.POLLOUT for _, mask in self._poll.poll(0)):
                raise BlockingIOError
            os.write(self._descriptor, text.encode("utf-8", "backslashreplace")[:LINE_LIMIT] + b"\n")
            self._missed = 0
        except OSError:  # full, or nobody is left to read it
            self._missed += 1
