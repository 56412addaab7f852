"""The picture in the README: what the monitor shows of a real run of the demo. `python -m slipstream.picture FILE`.

Nothing in it is drawn for it: three daemons run the trip, one is killed, and the frames are those that the phone's
daemon sends to any monitor.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, Final

from . import control
from .cli.demo import Told, Tour
from .cli.throwaway import Devices
from .core.errors import NotRunning, SlipError, TimedOut
from .tui.board import Board
from .tui.picture import svg
from .tui.screen import frame
from .tui.text import Line
from .tui.ui import Ui

WIDTH, HEIGHT, SCREENS, SECONDS = 80, 24, 8, 2.5
RATE: Final = 20.0
PATIENCE: Final = 10.0

Frame = Mapping[str, Any]


def record(owner: str = "phone") -> list[Frame]:
    """Run the demo; the frames that its owner's daemon sent, from before the run to its end.

    Raises:
        SlipError: something of the demo did not happen.
    """
    heard: SimpleQueue[Frame] = SimpleQueue()
    with Devices(Path(tempfile.mkdtemp(prefix="slipstream-picture-"))) as devices:
        tour = Tour(devices, Told(as_json=False))
        tour.meet()
        Thread(target=_watch, args=(devices.daemons[owner].state, heard), daemon=True).start()
        frames = [_next(heard)]
        tour.travel()
        if wrong := [claim for claim, true in tour.claims().items() if not true]:
            raise SlipError("this demo is no picture of what there is", "; ".join(wrong), "make demo")
        while _run(frames[-1]).get("state") != "done":
            frames.append(_next(heard))
    return frames


def _watch(state: Path, heard: SimpleQueue[Frame]) -> None:
    with suppress(NotRunning), control.talk(state, "watch", {"rate": RATE}) as lines:
        for line in lines:
            heard.put(line)


def _next(heard: SimpleQueue[Frame]) -> Frame:
    try:
        return heard.get(timeout=PATIENCE)
    except Empty:
        raise TimedOut("the daemon sent no frame", f"within {PATIENCE:g} s", "make demo") from None


def _run(told: Frame) -> Mapping[str, Any]:
    """The row of the run in a frame; empty if it is not in it."""
    return next((row for key, row in told["rows"].items() if key.startswith("run/") and row), {})


def screens(frames: Sequence[Frame]) -> list[list[Line]]:
    """What a monitor shows of it: the mesh before the run, its plan while it runs, and what moved; at most SCREENS."""
    board, ui = Board(), Ui(connected=True)
    first: list[Line] = []
    plan: list[list[Line]] = []
    for told in frames:
        board.take(told)
        ui.heard = now = told["time"]
        ui.view = "plan" if any(board.all("run")) else "mesh"
        lines = frame(ui, board, WIDTH, HEIGHT, now, now)
        if ui.view == "plan":
            plan.append(lines)
        else:
            first = lines
    ui.view = "handoffs"
    last = frame(ui, board, WIDTH, HEIGHT, ui.heard, ui.heard)
    room = SCREENS - 2
    chosen = [plan[round(i * (len(plan) - 1) / (room - 1))] for i in range(room)] if len(plan) > room else plan
    return [first, *chosen, last]


def main() -> None:
    """Write the picture."""
    Path(sys.argv[1]).write_text(svg(screens(record()), SECONDS), encoding="utf-8")


if __name__ == "__main__":
    main()
