"""Where a monitor hears of the mesh: this machine's daemon, over its sockets, on asyncio's loop.

A monitor that only reads is connected with `ro.sock`, on which there is nothing that changes anything.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from . import trace
from .cli.planfile import read_plan
from .control import ANSWER_SECONDS, REPLY_LIMIT, VERSION, encode
from .core.errors import NotRunning, SlipError, TimedOut, UsageError, from_wire
from .places import short_path, socket_of

DEPTH: Final = 3
FILES: Final = 200
ITEMS: Final = 1000
"""How deep, and how many plan files are looked for; how many items of an answer are kept."""


class DaemonSource:
    """The daemon of a state folder."""

    def __init__(self, state: Path, *, read_only: bool) -> None:
        self.read_only = read_only
        self._state = state
        self._path = socket_of(state, read_only=read_only)

    def files(self) -> list[str]:
        """Plan files in this folder and the ones below it, by their paths from here."""
        found = []
        for folder, below, names in os.walk("."):
            depth = folder.count(os.sep)
            below[:] = [name for name in below if not name.startswith(".") and depth < DEPTH]
            found += [os.path.relpath(os.path.join(folder, name)) for name in names if name.endswith(".json")]
            if len(found) > FILES:
                break
        return sorted(found, key=lambda path: (path.count(os.sep), path))[:FILES]

    def plan(self, file: str, inputs: Mapping[str, str]) -> dict[str, Any]:
        """What a plan file says, with values for its inputs, as the verbs `plan` and `run` take it.

        Raises:
            UsageError: it is no file, or cannot be read.
        """
        if not Path(file).is_file():  # of a terminal or a pipe the screen would wait for what never comes
            raise UsageError(f"{file} is no plan file", "it is not there, or no plain file", ":run FILE.json")
        return read_plan(file, inputs)

    def traces(self) -> list[dict[str, Any]]:
        """The recorded runs, the newest first."""
        return trace.listed(self._state)

    def recorded(self, run: str) -> tuple[list[dict[str, Any]], str]:
        """The frames of a recorded run, by its id or file, and what it is called.

        Raises:
            UsageError: there is none, or it cannot be read.
        """
        head, frames = trace.read(trace.find(self._state, run))
        return frames, str(head.get("goal") or head.get("run"))

    async def frames(self, rate: float) -> AsyncIterator[Mapping[str, Any]]:
        """What there is, and from then on what changes; ends when the daemon goes.

        Raises:
            SlipError: there is no daemon, or it refuses.
        """
        async with self._asked("watch", {"rate": rate}) as reader:
            while (line := await _line(reader)) is not None:
                if line.get("end"):
                    if "error" in line:
                        raise from_wire(line["error"])
                    return
                yield line

    async def ask(self, verb: str, args: Mapping[str, Any], seconds: float = ANSWER_SECONDS) -> dict[str, Any]:
        """Ask something; the answer, with what came on the way as `items`.

        Raises:
            SlipError: the daemon refuses, or there is none.
        """
        try:
            items: list[Any] = []
            async with asyncio.timeout(seconds), self._asked(verb, args) as reader:
                while (line := await _line(reader)) is not None:
                    if line.get("end"):
                        if "error" in line:
                            raise from_wire(line["error"])
                        return line | ({"items": items} if items else {})
                    if "item" in line and len(items) < ITEMS:
                        items.append(line["item"])
        except TimeoutError:
            raise TimedOut(f"the daemon did not answer {verb}", f"within {seconds:g} s", "slip doctor") from None
        raise NotRunning("the daemon went away", "before it answered", "slip up")

    @asynccontextmanager
    async def _asked(self, verb: str, args: Mapping[str, Any]) -> AsyncIterator[asyncio.StreamReader]:
        name, folder = short_path(self._path)
        try:
            reader, writer = await asyncio.open_unix_connection(name, limit=REPLY_LIMIT)
        except OSError as error:
            why = f"nobody listens at {self._path}"
            if not isinstance(error, FileNotFoundError | ConnectionRefusedError | NotADirectoryError):
                why += f" ({error.strerror or error})"
            raise NotRunning("no daemon is running", why, "slip up") from None
        finally:
            if folder is not None:
                os.close(folder)
        try:
            writer.write(encode({"v": VERSION, "verb": verb, "args": dict(args)}))
            await writer.drain()
            yield reader
        finally:
            writer.close()


async def _line(reader: asyncio.StreamReader) -> dict[str, Any] | None:
    """The next line, None when the daemon is gone."""
    try:
        line = await reader.readline()
    except (ConnectionError, ValueError):
        return None
    if not line.endswith(b"\n"):
        return None
    try:
        said = json.loads(line)
    except ValueError:
        raise SlipError("the daemon talks nonsense", "a line is no JSON", "use the slip that came with it") from None
    return said if isinstance(said, dict) else {}
