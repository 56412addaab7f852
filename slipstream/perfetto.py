"""A recorded run in Chrome's trace format, for ui.perfetto.dev: a process a device, a thread a sub-lane.

Steps are complete events; results that go to another device, and handoffs, are flow arrows; questions are instants.
Source: "Trace Event Format", Google, 2016 (complete `X`, metadata `M`, flow `s`/`f` with `bp: e`, instant `i`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

from .tui.board import Board, number, word

Made = dict[str, Any]


@dataclass(slots=True)
class _Slice:
    """Something that took time on a device, in µs."""

    name: str
    device: str
    begin: int
    end: int
    args: Made
    lane: int = 0


def export(head: Mapping[str, Any], frames: Sequence[Mapping[str, Any]]) -> Made:
    """The run as an object that is to be written as JSON; times are µs after the run's beginning."""
    board = Board(keep=1_000_000)
    for frame in frames:
        board.take(frame)
    run = next(iter(board.rows["run"]), word(head.get("run")))
    zero = number(board.get("run", run).get("began")) or number(head.get("began")) or 0.0
    ran = _steps(board, run, zero)
    waited = _moves(board, zero)
    slices = sorted([*ran.values(), *(s for s, _ in waited)], key=lambda s: (s.begin, -s.end, s.name))
    devices = list(dict.fromkeys(s.device for s in slices))
    pid = {device: i for i, device in enumerate(devices, 1)}
    lanes = _lay(slices)
    events: list[Made] = []
    for device in devices:
        events.append(_meta("process_name", pid[device], 0, board.name_of(device)))
        for lane in range(lanes[device]):
            events.append(_meta("thread_name", pid[device], lane + 1, f"{board.name_of(device)} {lane + 1}"))
    for s in slices:
        events.append({"ph": "X", "name": s.name, "cat": "step", "pid": pid[s.device], "tid": s.lane + 1, "ts": s.begin,
                       "dur": s.end - s.begin, "args": s.args})  # fmt: skip
    ids = count(1)
    for row in board.steps(run):
        target = ran.get(word(row.get("step")))
        needs = row.get("needs")
        for need in needs if isinstance(needs, list) else ():
            source = ran.get(need) if isinstance(need, str) else None
            if source is not None and target is not None and source.device != target.device:
                events += _arrow(next(ids), "result", source, target, pid)
    for source, step in waited:
        if (target := ran.get(step)) is not None and target.device != source.device:
            events += _arrow(next(ids), "handoff", source, target, pid)
    events += _questions(board, zero, pid)
    events.sort(key=lambda e: (e["ph"] != "M", e.get("ts", 0)))
    row = board.get("run", run)
    about = {"run": run, "goal": word(row.get("goal")), "state": word(row.get("state")),
             "device": word(head.get("device"))}  # fmt: skip
    return {"traceEvents": events, "displayTimeUnit": "ms", "otherData": about}


def _steps(board: Board, run: str, zero: float) -> dict[str, _Slice]:
    found = {}
    for row in board.steps(run):
        began, ended, device = number(row.get("began")), number(row.get("ended")), word(row.get("device"))
        if began is None or not device:
            continue
        end = board.time if ended is None else ended
        planned, attempt = row.get("planned"), row.get("attempt")
        args: Made = {"skill": word(row.get("skill")), "state": word(row.get("state")), "why": word(row.get("why")),
                "attempt": attempt if isinstance(attempt, int) else None}  # fmt: skip
        if isinstance(planned, list) and len(planned) == 3 and None not in (number(planned[1]), number(planned[2])):
            args["predicted_ms"] = round((float(planned[2]) - float(planned[1])) * 1000, 3)
        found[word(row.get("step"))] = _slice(word(row.get("step")), device, began, end, zero, args)
    return found


def _moves(board: Board, zero: float) -> list[tuple[_Slice, str]]:
    """Where steps waited that then moved: a slice on the device that they left, and the step."""
    armed: dict[str, tuple[str, float]] = {}
    found = []
    for event in board.events:
        step, device, at = word(event.get("step")), word(event.get("device")), number(event.get("time"))
        if event.get("kind") != "step.armed" or at is None:
            continue
        before = armed.get(step)
        if before is not None and before[0] != device:
            args = {"to": board.name_of(device)}
            found.append((_slice(f"{step} (waits, moves)", before[0], before[1], at, zero, args), step))
        if before is None or before[0] != device:
            armed[step] = (device, at)
    return found


def _slice(name: str, device: str, begin: float, end: float, zero: float, args: Made) -> _Slice:
    first = max(0, round((begin - zero) * 1e6))
    return _Slice(name, device, first, max(first + 1, round((end - zero) * 1e6)), args)


def _lay(slices: Sequence[_Slice]) -> dict[str, int]:
    """Put slices on lanes on which none touches another, first-fit; how many each device has."""
    free: dict[str, list[int]] = {}
    for s in slices:
        lanes = free.setdefault(s.device, [])
        s.lane = next((i for i, until in enumerate(lanes) if until <= s.begin), len(lanes))
        lanes[s.lane : s.lane + 1] = [s.end]
    return {device: len(lanes) for device, lanes in free.items()}


def _meta(kind: str, pid: int, tid: int, name: str) -> Made:
    return {"ph": "M", "name": kind, "pid": pid, "tid": tid, "args": {"name": name}}


def _arrow(id_: int, what: str, source: _Slice, target: _Slice, pid: Mapping[str, int]) -> list[Made]:
    """An arrow from within the end of one slice to the beginning of another; none would lead back in time."""
    if target.begin < source.begin:
        return []
    arrow = {"name": what, "cat": what, "id": id_}
    leaves = max(source.begin, min(source.end - 1, target.begin))
    return [
        {"ph": "s", **arrow, "pid": pid[source.device], "tid": source.lane + 1, "ts": leaves},
        {"ph": "f", "bp": "e", **arrow, "pid": pid[target.device], "tid": target.lane + 1, "ts": target.begin},
    ]


def _questions(board: Board, zero: float, pid: Mapping[str, int]) -> list[Made]:
    return [
        {"ph": "i", "s": "p", "name": f"{event['kind']} {word(event.get('skill'))}", "cat": "consent",
         "pid": pid[word(event.get("device"))], "tid": 1, "ts": max(0, round((at - zero) * 1e6)),
         "args": {"answer": word(event.get("answer")), "by": word(event.get("by"))}}
        for event in board.events
        if word(event.get("kind")).startswith("consent.") and word(event.get("device")) in pid
        and (at := number(event.get("time"))) is not None
    ]  # fmt: skip
