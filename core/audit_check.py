"""Whether the audit log is as it was written, and what it says. No daemon is needed, only the state folder.

What `verify` can find and what it cannot, the laws in audit.py say.
"""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import IO, Any

from .audit import BEFORE, HEAD, LOG, START, Head, read_line
from .errors import UsageError


@dataclass(frozen=True, slots=True)
class Verdict:
    """What `verify` found: how many lines are as they were written, and the first that is not."""

    lines: int
    torn: int
    """Half-written lines that the daemon itself closed off."""
    file: str = ""
    line: int = 0
    """Counted from 1; 0 if it is about the file as a whole."""
    why: str = ""

    @property
    def ok(self) -> bool:
        """Whether nothing was changed."""
        return not self.why


def verify(folder: Path, key: bytes) -> Verdict:
    """Go through the log from its oldest line on, and stop at the first that is changed, missing, moved or inserted.

    Raises:
        UsageError: there is no log, or it cannot be read.
    """
    with ExitStack() as stack:
        files, head = _opened(folder, key, stack)
        return _verify(files, head, key)


def _opened(folder: Path, key: bytes, stack: ExitStack) -> tuple[list[tuple[str, IO[bytes]]], Head | bool | None]:
    """The files as they are at one moment, oldest first, and the head (False: missing); the daemon may write on."""
    while True:
        try:
            found: list[tuple[str, IO[bytes]]] = []
            for name in (BEFORE, LOG):
                if (folder / name).exists():
                    found.append((name, stack.enter_context((folder / name).open("rb"))))
            head: Head | bool | None
            try:
                head = Head.read(folder / HEAD, key)
            except FileNotFoundError:
                head = False
            if not found and head is False:
                raise UsageError(f"no audit log in {folder}", "no daemon ran with it yet", "slip up")
            if all(os.path.samestat(os.fstat(file.fileno()), (folder / name).stat()) for name, file in found):
                return found, head
        except FileNotFoundError:
            pass  # it was rotated in between
        except OSError as error:
            raise UsageError(f"the audit log in {folder} cannot be read", str(error)) from None


def _verify(files: list[tuple[str, IO[bytes]]], head: Head | bool | None, key: bytes) -> Verdict:
    count = torn = 0
    last: dict[str, Any] = {"seq": 0, "mac": START}
    unread: tuple[str, int, bytes] | None = None  # a line that counts only if the next one says that it was torn
    name, n = LOG, 0
    for name, n, text in _lines(files):
        line = read_line(text, key)
        if line is None:
            if unread is not None:
                break
            unread = name, n, text
            continue
        closes = (line.get("bytes"), line.get("sha256")) if line["what"] == "torn" else None
        if unread is not None:
            rest = unread[2][:-1]
            if closes != (len(rest), sha256(rest).hexdigest()):
                break
            unread, torn = None, torn + 1
        elif closes is not None:
            return Verdict(count, torn, name, n, "the half line before it, which it closes off, is missing")
        why = _misfit(line, last, head if isinstance(head, Head) else None, first=not count)
        if why:
            return Verdict(count, torn, name, n, why)
        count, last = count + 1, line
    if unread is not None:
        half = (
            "" if unread[2].endswith(b"\n") else "; half a line is what a killed daemon leaves: slip up closes it off"
        )
        return Verdict(count, torn, unread[0], unread[1], f"it is not what this device wrote{half}")
    if not isinstance(head, Head):
        return Verdict(count, torn, HEAD, 0, "it is missing" if head is False else "it is not what this device wrote")
    if head.seq > last["seq"]:
        return Verdict(count, torn, name, n + 1, f"lines {last['seq'] + 1} to {head.seq} are missing at the end")
    return Verdict(count, torn)


def _misfit(line: dict[str, Any], last: dict[str, Any], head: Head | None, *, first: bool) -> str:
    """Why a line of ours does not belong behind the last one; empty if it does."""
    seq, due = line["seq"], last["seq"] + 1
    if first and head is not None and seq <= head.first:
        due = seq  # what was before it went with a rotation
    if seq > due:
        return f"line {due} should be here and line {seq} is: one is missing, or was moved"
    if seq < due:
        return f"line {due} should be here and line {seq} is: it was moved, or put in again"
    if line["prev"] != last["mac"][:32] and not (first and seq > 1):
        return "it does not follow the line before it"
    if head is not None and seq == head.seq and line["mac"] != head.mac:
        return f"it is not the line {seq} that {HEAD} knows"
    return f"here a start found the log broken: {line.get('why')}" if line["what"] == "broken" else ""


def _lines(files: list[tuple[str, IO[bytes]]]) -> Iterator[tuple[str, int, bytes]]:
    for name, file in files:
        for n, text in enumerate(file, 1):
            yield name, n, text


def read(folder: Path, last: int = 50) -> list[dict[str, Any]]:
    """The last lines, oldest first, as they are there: whether they are as they were written, `verify` says.

    Raises:
        UsageError: there is no log, or it cannot be read.
    """
    kept: deque[bytes] = deque(maxlen=last)
    try:
        for name in (BEFORE, LOG):
            if (folder / name).exists():
                with (folder / name).open("rb") as file:
                    kept.extend(file)
    except OSError as error:
        raise UsageError(f"the audit log in {folder} cannot be read", str(error)) from None
    if not kept and not (folder / HEAD).exists():
        raise UsageError(f"no audit log in {folder}", "no daemon ran with it yet", "slip up")
    return [_shown(text) for text in kept]


def _shown(text: bytes) -> dict[str, Any]:
    try:
        line = json.loads(text)
    except (ValueError, RecursionError):
        line = None
    return line if isinstance(line, dict) else {"what": "unreadable", "bytes": len(text)}
