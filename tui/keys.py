"""What each key does to what a person sees, and what it asks of the application."""

from __future__ import annotations

from dataclasses import dataclass

from .board import Board, number, word
from .log_view import clock, sentence
from .plan_view import PlanState, plan_key
from .player import Player
from .ui import VIEWS, Ui, current_run, keys_of, run_keys, shown_board, sift
from .window import moved_by


@dataclass(frozen=True, slots=True)
class Do:
    """What a key asks of the application, which the screen cannot do itself."""

    what: str
    """`quit`, `command`, `filter`, `consent`, `copy`, `open` (a trace), `live`."""
    with_: str = ""


def press(ui: Ui, live: Board, key: str, height: int) -> Do | None:
    """What a key does; a printable key is its character, others are called as Textual calls them."""
    if key in ("?", "f1"):
        ui.help, ui.top = not ui.help, 0
        return None
    if key == "escape":
        return _back(ui)
    if key == ":":
        return Do("command")
    if ui.help:
        ui.top += moved_by(key, height - 4) or 0
        return None
    if key in tuple("12345"):
        ui.view, ui.detail, ui.preview = VIEWS[int(key) - 1], None, None
        return Do("traces") if ui.view == "replay" and ui.player is None else None
    if key == "c" and live.rows["consent"]:
        return Do("consent")
    if key == "q":
        return Do("quit")
    board = shown_board(ui, live)
    if key == "y":
        return Do("copy", _copied(ui, board))
    if ui.detail is not None:
        by = moved_by(key, height - 4)
        ui.top = max(0, ui.top + by) if by is not None else ui.top
        return None
    if key == "/":
        return Do("filter")
    if ui.player is not None and _play(ui.player, key):
        return None
    if ui.preview is not None and key == "enter":
        return Do("start")
    return _in_view(ui, board, key, height)


def _in_view(ui: Ui, board: Board, key: str, height: int) -> Do | None:
    by = moved_by(key, height - 4)
    match ui.view:
        case "log":
            if key in ("space", " ", "p"):
                ui.log.paused = not ui.log.paused
            elif by is not None:
                ui.log.move(by)
            elif key == "enter" and ui.log.chosen:
                step = ui.log.chosen.get("step")
                if step and ui.log.chosen.get("run"):
                    ui.detail, ui.top = ("step", f"{ui.log.chosen.get('run')}/{step}"), 0
                else:
                    ui.event, ui.detail, ui.top = ui.log.chosen, ("event", word(ui.log.chosen.get("kind"))), 0
        case "replay" if ui.player is None:
            keys = [word(row.get("run")) for row in ui.traces]
            if by is not None:
                ui.windows["replay"].move(keys, by)
            elif key == "enter" and ui.windows["replay"].key:
                return Do("open", ui.windows["replay"].key)
        case "plan" | "replay":
            ui.plan.run = current_run(ui, board)
            if key in ("[", "]"):
                runs = run_keys(board)
                if runs:
                    at = runs.index(ui.plan.run) if ui.plan.run in runs else 0
                    ui.plan = PlanState(run=runs[(at + (1 if key == "]" else -1)) % len(runs)])
            elif key == "enter" and ui.plan.run and ui.plan.cursor:
                ui.detail, ui.top = ("step", f"{ui.plan.run}/{ui.plan.cursor}"), 0
            elif ui.plan.run:
                ui.plan = plan_key(board, ui.plan, key)
        case _:
            keys, window = keys_of(ui, board), ui.windows[ui.view]
            if by is not None:
                window.move(keys, by)
            elif key == "enter" and window.key:
                ui.detail, ui.top = ("handoff" if ui.view == "handoffs" else "device", window.key), 0
    return None


def _back(ui: Ui) -> Do | None:
    if ui.help:
        ui.help = False
    elif ui.detail is not None:
        ui.detail, ui.top = None, 0
    elif ui.preview is not None:
        ui.preview = None
    elif ui.filter_text.get(ui.view):
        sift(ui, "")
    elif ui.player is not None:
        return Do("live")
    return None


def _play(player: Player, key: str) -> bool:
    match key:
        case "space" | " ":
            player.toggle()
        case "." | ",":
            player.step(1 if key == "." else -1)
        case ">" | "<":
            player.faster(1 if key == ">" else -1)
        case "0":
            player.seek(player.begin)
        case _:
            return False
    return True


def _copied(ui: Ui, board: Board) -> str:
    if ui.detail is not None:
        return ui.detail[1]
    match ui.view:
        case "log":
            event = ui.log.chosen
            return f"{clock(number(event.get('time')))} {word(event.get('kind'))} {sentence(event)}" if event else ""
        case "plan":
            return f"{ui.plan.run or ''}{f'/{ui.plan.cursor}' if ui.plan.cursor else ''}"
        case _:
            return ui.windows[ui.view].key or ""
