"""What a person chose to see: the view, the chosen rows, filters, a plan in preview, a trace that plays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from . import handoff_view, mesh_view
from .board import Board, Row, number
from .filter import Filter
from .log import Log
from .plan_view import PlanState
from .player import Player
from .text import Line
from .window import Window

VIEWS: Final = ("mesh", "plan", "handoffs", "log", "replay")
NOTE_SECONDS: Final = 8.0


@dataclass(slots=True)
class Ui:
    """What a person chose to see."""

    view: str = "mesh"
    windows: dict[str, Window] = field(default_factory=lambda: {name: Window() for name in VIEWS})
    filters: dict[str, Filter] = field(default_factory=lambda: {name: Filter.parse("") for name in VIEWS})
    filter_text: dict[str, str] = field(default_factory=dict)
    plan: PlanState = field(default_factory=PlanState)
    log: Log = field(default_factory=Log)
    detail: tuple[str, str] | None = None
    """A kind of row and its key; `page`: what a command answered; `event`: one of the log."""
    event: Row = field(default_factory=dict)
    page: Sequence[Line] = ()
    top: int = 0
    """First line shown of detail and help."""
    help: bool = False
    player: Player | None = None
    traces: Sequence[Row] = ()
    """Recorded runs that can be played."""
    read_only: bool = False
    connected: bool = False
    heard: float = 0.0
    """When the last frame came, on the clock that `frame` is given."""
    preview: Board | None = None
    """A plan that is shown before it is started."""
    lost: str = ""
    """Why there is no daemon to hear."""
    note: str = ""
    note_style: str = ""
    note_until: float = 0.0

    def say(self, text: str, style: str, now: float) -> None:
        """Show a sentence for a while."""
        self.note, self.note_style, self.note_until = text, style, now + NOTE_SECONDS


def shown_board(ui: Ui, live: Board) -> Board:
    """The board that the views show: a trace's while one plays, a previewed plan's in the plan view."""
    if ui.preview is not None and ui.view == "plan":
        return ui.preview
    return ui.player.board if ui.player is not None else live


def current_run(ui: Ui, board: Board) -> str | None:
    """The run whose plan is shown: the chosen one if it is there, else the newest, those that run first."""
    runs = board.rows["run"]
    if ui.plan.run in runs:
        return ui.plan.run
    return max(
        runs,
        key=lambda r: (runs[r].get("state") == "running", number(runs[r].get("began")) or 0.0, r),
        default=None,
    )


def run_keys(board: Board) -> list[str]:
    """The runs, the oldest first."""
    runs = board.rows["run"]
    return sorted(runs, key=lambda r: (number(runs[r].get("began")) or 0.0, r))


def keys_of(ui: Ui, board: Board) -> list[str]:
    """The rows of the list that is shown, filtered."""
    keys, words = (
        (handoff_view.handoff_keys(board), handoff_view.handoff_words)
        if ui.view == "handoffs"
        else (mesh_view.device_keys(board), mesh_view.device_words)
    )
    chosen = ui.filters[ui.view]
    return [key for key in keys if chosen.fits(*words(board, key))] if ui.filter_text.get(ui.view) else keys


def sift(ui: Ui, text: str) -> None:
    """Filter the list of the view.

    Raises:
        ValueError: it is no filter.
    """
    ui.filters[ui.view] = Filter.parse(text)
    ui.filter_text[ui.view] = text.strip()
    if ui.view == "log":
        ui.log.sift(text)
