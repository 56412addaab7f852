"""Who did what here and who let them: one JSON object a line, appended only, each chained to the line before.

Laws:
- Every line has a MAC over all of it, and the MAC of the line before: who lacks the device's key can change, move,
  insert or remove none without `verify` finding the first such line. Who has the key can write another history.
- `audit.head` says how far the log goes, as of the last 64th line, rotation, start or clean end. So what can be cut off
  at the end unnoticed is what came after it: at most 63 lines of a daemon that runs or was killed, none of one that
  ended cleanly. A copy of all files, put back together, looks like what it was then.
- Nothing is dropped in silence: half a line stays, and the line after it says what it is; a start that finds lines
  missing says so in the log, and goes on from where the head says it was. A power cut may cost the last lines, for they
  are not synced one by one: that looks like a theft, and is told as one.
"""

from __future__ import annotations

import hmac
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, NoReturn

from .errors import SlipError, UsageError
from .identity import AUDIT_KEY, KEY

LOG: Final = "audit.log"
BEFORE: Final = "audit.log.1"
HEAD: Final = "audit.head"
ROTATE_AT: Final = 16 * 1024 * 1024
LINE_LIMIT: Final = 16 * 1024
"""Longest line, in bytes; of a longer one only the beginning is kept, and it says so."""
HEAD_EVERY: Final = 64

START: Final = "0" * 64
_END: Final = len(',"mac":"') + 64 + len('"}\n')
_OURS: Final = frozenset(("seq", "time", "what", "prev", "mac"))
_encode = json.JSONEncoder(separators=(",", ":"), default=str).encode


def audit_key(state: Path) -> bytes:
    """The key of the audit log in a state folder: of the device's first key, which outlives that key's rotation.

    Raises:
        UsageError: it cannot be read.
    """
    try:
        if (kept := state / AUDIT_KEY).exists():
            return kept.read_bytes()
        return sha256(b"slipstream audit" + (state / KEY).read_bytes()).digest()
    except OSError as error:
        raise UsageError(f"no key in {state}", f"{error.filename}: {error.strerror}",
                         "name the daemon's state folder: --state DIR") from None  # fmt: skip


@dataclass(frozen=True, slots=True)
class Head:
    """How far the log goes: its last line and that one's MAC, and the first line of the oldest file."""

    seq: int
    mac: str
    first: int

    def sealed(self, key: bytes) -> bytes:
        """As it is written."""
        body = f"{self.seq} {self.mac} {self.first}"
        return f"{body} {hmac.digest(key, f'head {body}'.encode(), 'sha256').hex()}\n".encode()

    @classmethod
    def read(cls, path: Path, key: bytes) -> Head | None:
        """What the file says; None if this device did not write it so.

        Raises:
            FileNotFoundError: there is none.
        """
        data = path.read_bytes()
        try:
            seq, mac, first, _ = data.decode("ascii").split(" ")
            head = cls(int(seq), mac, int(first))
        except ValueError:
            return None
        return head if hmac.compare_digest(head.sealed(key), data) else None


class Audit:
    """The audit log of a running daemon, the only one that writes it; `path` None keeps nothing, for tests."""

    def __init__(self, path: Path | None, key: bytes, wall: Callable[[], float]) -> None:
        """Open or create it, and close off what a killed daemon left half written.

        Raises:
            SlipError: it cannot be read or written.
        """
        self._path, self._key, self._wall = path, key, wall
        self._macs = hmac.new(key, digestmod="sha256")  # to copy: half the price of a new one
        self._seq, self._mac, self._first, self._file_first = 0, START, 1, 1
        self._file, self._size = -1, 0
        if path is not None:
            try:
                self._go_on(path)
            except OSError as error:
                _unwritten(path, error)

    def tell(self, what: str, *, durable: bool = False, **fields: Any) -> None:
        """Something was decided or done; `durable` also waits for the disk.

        Raises:
            SlipError: it cannot be written; nothing of it was.
        """
        if not _OURS.isdisjoint(fields):
            raise ValueError(f"fields that every line has: {sorted(_OURS & set(fields))}")
        if self._path is None:
            return
        try:
            self._append(self._line(what, fields))
            if durable:
                os.fsync(self._file)
            if self._seq % HEAD_EVERY == 0:
                self._write_head()
        except OSError as error:
            _unwritten(self._path, error)

    def close(self) -> None:
        """Write down how far it goes, and let go of the file."""
        if self._path is not None and self._file >= 0:
            self._write_head()
            os.close(self._file)
            self._file = -1

    # -- writing -----------------------------------------------------------------------------------------------------

    def _line(self, what: str, fields: dict[str, Any]) -> bytes:
        own = f'{{"seq":{self._seq + 1},"time":{self._wall():.3f},"what":{_encode(what)},'
        text = f'{own}{_encode(fields)[1:-1]}{"," if fields else ""}"prev":"{self._mac[:32]}"}}'
        if len(text) > LINE_LIMIT - _END:
            return self._line(what, {"cut_from": len(text), "beginning": text[:1000]})
        body = text.encode()
        mac = self._macs.copy()
        mac.update(body)
        return b'%b,"mac":"%b"}\n' % (body[:-1], mac.hexdigest().encode())

    def _append(self, line: bytes, before: bytes = b"") -> None:
        if self._size + len(line) > ROTATE_AT and not before:  # what closes half a line off stays beside it
            self._rotate()
        data = before + line
        written = os.write(self._file, data)
        if written != len(data):  # the disk is full: half of a line that nobody was told is written is no record
            os.ftruncate(self._file, self._size)
            raise OSError(28, "no space left on the disk")
        if self._size == 0:
            self._file_first = self._seq + 1
        self._size += written
        self._seq, self._mac = self._seq + 1, line[-_END + 8 : -3].decode()

    def _rotate(self) -> None:
        assert self._path is not None
        self._first = self._file_first
        self._write_head()  # first: lines before the first that it names are no fault, lines missing after it are
        os.replace(self._path, self._path.with_name(BEFORE))
        os.close(self._file)
        self._open(self._path)

    def _open(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.fchmod(self._file, 0o600)
        self._size = os.fstat(self._file).st_size

    def _write_head(self) -> None:
        assert self._path is not None
        fresh = self._path.with_name(f"{HEAD}.new")
        handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(handle, 0, 1)  # blocks that ext4 has reserved make the renaming below wait for the disk
            os.write(handle, Head(self._seq, self._mac, self._first).sealed(self._key))
        finally:
            os.close(handle)
        os.replace(fresh, self._path.with_name(HEAD))

    # -- starting ----------------------------------------------------------------------------------------------------

    def _go_on(self, path: Path) -> None:
        here, rest = _tail(path, self._key)
        last = here or _tail(path.with_name(BEFORE), self._key)[0]
        self._seq, self._mac = (last["seq"], last["mac"]) if last else (0, START)
        broken = ""
        try:
            head = Head.read(path.with_name(HEAD), self._key)
        except FileNotFoundError:
            head, broken = None, f"{HEAD} was missing" if last or rest else ""
        else:
            broken = "" if head else f"{HEAD} was not what this device wrote"
        oldest = _first_seq(path.with_name(BEFORE)) or _first_seq(path)
        self._first = head.first if head else oldest or self._seq + 1
        self._file_first = _first_seq(path) or self._first
        if head is not None and head.seq > self._seq:
            broken = f"lines {self._seq + 1} to {head.seq} were missing"
            self._seq, self._mac = head.seq, head.mac
        self._open(path)
        if rest and read_line(rest + b"\n", self._key) is not None:
            self._size += os.write(self._file, b"\n")
        elif rest:
            torn = {"bytes": len(rest), "sha256": sha256(rest).hexdigest()}
            self._append(self._line("torn", torn), before=b"\n")
        if broken:
            self._append(self._line("broken", {"why": broken}))
        self._write_head()


def _unwritten(path: Path, error: OSError) -> NoReturn:
    raise SlipError(f"the audit log {path} cannot be written", error.strerror or str(error),
                    f"make room on the disk of {path.parent}, and see that its files are yours") from None  # fmt: skip


# -- reading ---------------------------------------------------------------------------------------------------------


def read_line(line: bytes, key: bytes) -> dict[str, Any] | None:
    """A line of ours; None if it is not what this device wrote."""
    if len(line) <= _END or line[-_END : -_END + 8] != b',"mac":"' or line[-3:] != b'"}\n':
        return None
    mac = hmac.digest(key, line[:-_END] + b"}", "sha256").hex().encode()
    if not hmac.compare_digest(mac, line[-_END + 8 : -3]):
        return None
    found: dict[str, Any] = json.loads(line)
    return found


def _tail(path: Path, key: bytes) -> tuple[dict[str, Any] | None, bytes]:
    """The last line of a file that is ours, and what lies behind its last end of a line."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 4 * LINE_LIMIT))
            *lines, rest = file.read().split(b"\n")
    except FileNotFoundError:
        return None, b""
    whole = read_line(rest + b"\n", key)  # only the end of the line is missing
    found = whole or next((line for text in reversed(lines) if (line := read_line(text + b"\n", key))), None)
    return found, rest


def _first_seq(path: Path) -> int | None:
    """The number of the first line of a file; None if there is none that says it."""
    try:
        with path.open("rb") as file:
            seq = json.loads(file.readline(LINE_LIMIT))["seq"]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
    return seq if type(seq) is int else None
