"""Talking to this machine's daemon over its control socket: a Unix socket, JSON lines, nothing but blocking stdlib.

A connection carries one request, `{"v":1,"verb":...,"args":{...}}`; closing it takes the request back. What comes are
lines `{"v":1,...}`; the last one has `"end": true`, and an error is `{"v":1,"end":true,"error":{...}}`.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from .core.errors import NotRunning, SlipError, TimedOut, UsageError, from_wire
from .places import short_path, socket_of

VERSION: Final = 1
REQUEST_LIMIT: Final = 1024 * 1024
"""Longest line that a daemon reads, in bytes."""
REPLY_LIMIT: Final = 64 * 1024 * 1024
ANSWER_SECONDS: Final = 10.0
"""How long a daemon may take for an answer that needs no other device."""


def encode(line: dict[str, Any]) -> bytes:
    """One line. Bytes become `{"$bytes": base64}`; numbers that JSON lacks (NaN, ±inf) become null."""
    try:
        text = json.dumps(line, ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_plain)
    except (ValueError, TypeError):
        text = json.dumps(_finite(line), ensure_ascii=False, separators=(",", ":"), default=_plain)
    return text.encode("utf-8", "surrogatepass") + b"\n"


def _plain(value: Any) -> Any:
    if isinstance(value, (bytes, bytearray, memoryview)):
        from base64 import b64encode

        return {"$bytes": b64encode(value).decode()}
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    raise TypeError(f"{type(value).__name__} is no JSON")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(name): _finite(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and (value != value or abs(value) == float("inf")) else value


def connect(state: Path, timeout: float | None = ANSWER_SECONDS) -> socket.socket:
    """A connection to the daemon of that state folder.

    Raises:
        NotRunning: there is none.
        TimedOut: it accepts nobody any more.
    """
    path = socket_of(state)
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(timeout)
    folder = None
    try:
        name, folder = short_path(path)
        connection.connect(name)
    except (BlockingIOError, TimeoutError):
        connection.close()
        raise TimedOut("the daemon does not answer", f"too many wait at {path}", "slip doctor") from None
    except OSError as error:
        connection.close()
        why = f"nobody listens at {path}"
        if not isinstance(error, (FileNotFoundError, ConnectionRefusedError, NotADirectoryError)):
            why += f" ({error.strerror or error})"
        raise NotRunning("no daemon is running", why, "slip up") from None
    finally:
        if folder is not None:
            os.close(folder)
    return connection


@contextmanager
def talk(
    state: Path, verb: str, args: dict[str, Any] | None = None, *, timeout: float | None = None
) -> Iterator[Iterator[dict[str, Any]]]:
    """Ask something and go through the lines that come, the one with `end` last; leaving early takes it back.

    Raises:
        NotRunning: there is no daemon, or it went away before the end.
        TimedOut: it was silent for `timeout` seconds.
        SlipError: what the daemon reported.
    """
    request = encode({"v": VERSION, "verb": verb, "args": args or {}})
    if len(request) > REQUEST_LIMIT:
        raise UsageError("that is too much for one request", f"{len(request)} bytes; {REQUEST_LIMIT} are allowed")
    with connect(state, timeout) as connection:
        try:
            connection.sendall(request)
        except ConnectionError:
            pass  # it answered and hung up before it had read all: the answer says why
        yield _lines(connection, verb)


def ask(state: Path, verb: str, args: dict[str, Any] | None = None, *, timeout: float | None = ANSWER_SECONDS) -> Any:
    """The last line of the answer, without what frames it.

    Raises:
        SlipError: as `talk`.
    """
    with talk(state, verb, args, timeout=timeout) as lines:
        for line in lines:
            if line.get("end"):
                return {name: value for name, value in line.items() if name not in ("v", "end")}
    raise AssertionError("the lines end with `end` or an error")


def _lines(connection: socket.socket, verb: str) -> Iterator[dict[str, Any]]:
    buffer = bytearray()
    seen = 0
    while True:
        end = buffer.find(b"\n", seen)
        if end < 0:
            seen = len(buffer)
            if seen > REPLY_LIMIT:
                raise SlipError("the daemon's answer is too long", f"more than {REPLY_LIMIT} bytes")
            try:
                piece = connection.recv(65536)
            except TimeoutError:
                raise TimedOut("the daemon does not answer", f"it was silent for {connection.gettimeout():g} s",
                               "slip doctor") from None  # fmt: skip
            except ConnectionError:
                piece = b""
            if not piece:
                raise NotRunning("the daemon went away", f"before {verb} ended", "look at its log, then: slip up")
            buffer += piece
            continue
        line = json.loads(buffer[:end])
        del buffer[: end + 1]
        seen = 0
        if "error" in line:
            raise from_wire(line["error"])
        yield line
        if line.get("end"):
            return
