"""Recorded runs: the frames that a monitor would have been shown, one after the other, in a file for each run.

A file is a stream of msgpack values: a head (`{"slipstream": "trace", "schema": 1, "run", "goal", "began", "device"}`),
frames (feed.py; the first is whole), and at last a tail (`{"end": true, "state", "seconds"}`) and the tail's length in
five bytes, so that a list of traces reads two small pieces of each. A file without a tail was cut off: what is whole of
it is shown. Recording is never a reason for a run to fail.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import aclosing
from functools import partial
from math import isfinite
from pathlib import Path
from typing import Any, BinaryIO, Final

import anyio
from anyio import to_thread
from anyio.abc import TaskGroup
from msgpack import FormatError, OutOfData, StackError, Unpacker, packb, unpackb

from .core.errors import UsageError
from .core.events import Event
from .core.node import Node
from .feed import SCHEMA, Feed, Viewer

FOLDER: Final = "traces"
SUFFIX: Final = ".slt"
KEPT: Final = 50
RATE: Final = 10.0
"""Frames a second; what is in them has its own times."""
LARGEST: Final = 32 * 1024 * 1024
"""Bytes of a trace, written or read."""
TOGETHER: Final = 256 * 1024 * 1024
"""Bytes of all traces, one that is being written included."""
_LISTS, _MAPS, _TEXTS = 10_000, 200_000, 1024 * 1024
"""Lengths of what is read: a list takes memory before there is anything in it."""
_LATEST: Final = 1e11
"""Wall time, in seconds, beyond which no calendar is asked."""
_KINDS: Final = ("self", "device", "consent")
_RUNS: Final = ("run", "step", "why", "handoff")


class Recorder:
    """Records each run that this device owns, from its beginning to its end."""

    def __init__(self, node: Node, feed: Feed, state: Path) -> None:
        self._node, self._feed, self._folder = node, feed, state / FOLDER
        self._group: TaskGroup | None = None
        node.events.listen(self._heard)

    async def run(self) -> None:
        """Record until cancelled."""
        async with anyio.create_task_group() as self._group:
            await anyio.sleep_forever()

    def _heard(self, event: Event) -> None:
        if event.kind == "run.started" and self._group is not None:
            self._group.start_soon(self._record, event.fields["run"], event.seq - 1)

    async def _record(self, run_id: str, since: int) -> None:
        try:
            file = await to_thread.run_sync(self._create, run_id)
            try:
                await self._write(run_id, since, file)
            finally:
                file.close()
        except Exception as error:  # whatever it is, neither the run nor the device ends of it
            why = (error.strerror if isinstance(error, OSError) else None) or f"{type(error).__name__}: {error}"[:200]
            self._node.events.tell("warning", what=f"run {run_id} is not recorded", why=why, hint="slip doctor")

    def _create(self, run_id: str) -> BinaryIO:
        self._folder.mkdir(mode=0o700, exist_ok=True)
        there = [(path, path.stat()) for path in self._folder.glob(f"*{SUFFIX}")]
        room = TOGETHER - LARGEST
        for i, (path, stat) in enumerate(sorted(there, key=lambda entry: -entry[1].st_mtime), 1):
            room -= stat.st_size
            if i >= KEPT or room < 0:
                path.unlink(missing_ok=True)
        name = self._folder / f"{run_id}{SUFFIX}"
        return os.fdopen(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb")

    async def _write(self, run_id: str, since: int, file: BinaryIO) -> None:
        run = self._node.runs.by_id.get(run_id)
        if run is None:
            return
        began, left = self._node.wall(), LARGEST
        head = {"slipstream": "trace", "schema": SCHEMA, "run": run_id, "goal": run.plan.goal, "began": began,
                "device": self._node.name}  # fmt: skip
        put = partial(self._put, file)
        left -= await to_thread.run_sync(put, head)
        viewer = Viewer(self._feed, wants=partial(_concerns, run_id), since=since)
        last = b""
        try:
            async with aclosing(self._feed.frames(viewer, RATE)) as frames:
                async for frame in frames:
                    over = run.ended.is_set()  # before it was made: then it has the end in it
                    left -= await to_thread.run_sync(put, frame)
                    if left < 0:
                        self._node.events.tell("warning", what=f"run {run_id} is recorded no further",
                                               why=f"its trace has {LARGEST >> 20} MiB", hint="")  # fmt: skip
                        return
                    if over:
                        break
        except anyio.get_cancelled_exc_class():  # the device stops: as far as it came
            last = _packed(viewer.frame())
            raise
        finally:
            if left >= 0:
                tail = packb({"end": True, "state": run.state, "seconds": self._node.wall() - began})
                file.write(last + tail + b"\xce" + len(tail).to_bytes(4, "big"))

    def _put(self, file: BinaryIO, value: Mapping[str, Any]) -> int:
        data = _packed(value)
        file.write(data)
        file.flush()
        return len(data)


def _packed(value: Mapping[str, Any]) -> bytes:
    data: bytes = packb(value, default=str, unicode_errors="replace")
    return data


def _concerns(run: str, key: str) -> bool:
    kind, _, rest = key.partition("/")
    return kind in _KINDS or (kind in _RUNS and rest.partition("/")[0] == run)


# -- reading -----------------------------------------------------------------------------------------------------------


def listed(state: Path) -> list[dict[str, Any]]:
    """The recorded runs of a state folder, the newest first: run, goal, began, device, state, seconds, path."""
    found = []
    for path in (state / FOLDER).glob(f"*{SUFFIX}"):
        try:
            with path.open("rb") as file:
                found.append({**_head(path, _unpacker(file)), **_tail(file), "path": str(path)})
        except (OSError, UsageError):
            continue  # `find` and `read` say what is wrong with a file; a list shows those that can be shown
    return sorted(found, key=lambda row: -row["began"])


def find(state: Path, named: str) -> Path:
    """The file of a recorded run: by a path, or by the run's id or its beginning.

    Raises:
        UsageError: there is none, or several.
    """
    if named.endswith(SUFFIX) or "/" in named:
        return Path(named)
    fits = sorted((state / FOLDER).glob(f"*{SUFFIX}"))
    fits = [path for path in fits if path.stem == named] or [path for path in fits if path.stem.startswith(named)]
    if len(fits) != 1:
        why = f"{len(fits)} runs begin like that" if fits else f"there is none in {state / FOLDER}"
        raise UsageError(f"no recorded run {named}", why, "slip trace list")
    return fits[0]


def read(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The head of a trace, with what its tail says, and its frames; one that was cut off has `"cut": true` in its head.

    Raises:
        UsageError: it cannot be read, is no trace, is of another version, or is too large.
    """
    try:
        if path.stat().st_size > LARGEST * 2:
            raise UsageError(f"{path} is too large", f"more than {LARGEST >> 19} MiB", "slip trace list")
        with path.open("rb") as file:
            values = _values(_unpacker(file))
            head = _head(path, values)
            frames: list[dict[str, Any]] = []
            end: dict[str, Any] | None = None
            for value in values:
                if (end := _end(value)) is not None:
                    break
                if isinstance(value, dict) and isinstance(value.get("seq"), int):
                    events = value.get("events")
                    kept = list(filter(_is_event, events)) if isinstance(events, list) else []
                    frames.append({**value, "events": kept})
    except OSError as error:
        raise UsageError(f"{path} cannot be read", error.strerror or str(error), "slip trace list") from None
    if not frames:
        raise UsageError(f"nothing is in the trace {path}", "it was cut off before its first frame", "slip trace list")
    return {**head, **(end if end is not None else {"cut": True, "state": "cut off", "seconds": None})}, frames


def _unpacker(file: BinaryIO) -> Unpacker:
    return Unpacker(
        file, max_buffer_size=LARGEST * 2, max_array_len=_LISTS, max_map_len=_MAPS, max_str_len=_TEXTS,
        max_bin_len=_TEXTS, max_ext_len=0,
    )  # fmt: skip


def _is_time(value: Any) -> bool:
    return type(value) in (int, float) and isfinite(value) and 0 <= value < _LATEST


def _is_event(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("kind"), str) and _is_time(value.get("time"))


def _end(value: Any) -> dict[str, Any] | None:
    """What the tail of a trace says, if it is one."""
    if not isinstance(value, dict) or value.get("end") is not True or not isinstance(value.get("state"), str):
        return None
    seconds = value.get("seconds")
    return {"state": value["state"], "seconds": seconds if _is_time(seconds) else None}


def _values(values: Iterator[Any]) -> Iterator[Any]:
    """Values as long as they are whole."""
    while True:
        try:
            yield next(values)
        except (StopIteration, OutOfData, FormatError, StackError, ValueError):
            return


def _head(path: Path, values: Iterator[Any]) -> dict[str, Any]:
    head = next(_values(values), None)
    if not isinstance(head, dict) or head.get("slipstream") != "trace":
        raise UsageError(f"{path} is no trace", "it does not begin like one", "slip trace list")
    if head.get("schema") != SCHEMA:
        raise UsageError(f"{path} is of another version", f"{head.get('schema')!r}; this reads {SCHEMA}",
                         "use the slip that recorded it")  # fmt: skip
    texts = {name: head.get(name) for name in ("run", "goal", "device")}
    if not _is_time(head.get("began")) or not all(isinstance(text, str) for text in texts.values()):
        raise UsageError(f"{path} is no trace", "it does not say of which run", "slip trace list")
    return {"slipstream": "trace", "schema": SCHEMA, "began": head["began"], **texts}


def _tail(file: BinaryIO) -> dict[str, Any]:
    size = file.seek(0, os.SEEK_END)
    if size > 5:
        file.seek(size - 5)
        mark = file.read(5)
        length = int.from_bytes(mark[1:], "big")
        if mark[0] == 0xCE and 0 < length < min(4096, size - 5):
            file.seek(size - 5 - length)
            try:
                tail = _end(unpackb(file.read(length)))
            except (ValueError, FormatError, StackError):
                tail = None
            if tail is not None:
                return tail
    return {"state": "cut off", "seconds": None}
