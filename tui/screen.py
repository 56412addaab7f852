"""The whole screen as lines: a function of a board and of what a person chose.

Law: nothing here waits or knows a terminal, so a recorded trace, a test and a picture show the same screens.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import islice
from typing import Final

from . import handoff_view, mesh_view
from .board import Board, number, word
from .detail import device_lines, event_lines, handoff_lines, step_lines
from .help import help_lines
from .log_view import clock, event_line, sentence
from .plan_view import plan_lines
from .player import Player
from .text import Line, Span, duration, fit, right, width_of
from .ui import VIEWS, Ui, current_run, keys_of, shown_board

_NAME: Final = 20
"""Cells of this device's name in the first line."""
STALE_SECONDS: Final = 12.0
"""Without a frame for so long, what is shown may be old, and says so."""


def frame(ui: Ui, live: Board, width: int, height: int, now: float, wall: float) -> list[Line]:
    """The screen: exactly `height` lines, none wider than `width` cells; `now` is monotonic, `wall` the time of day."""
    board = shown_board(ui, live)
    if board is ui.preview:
        wall = 0.0  # its times count from whenever it is begun
    elif ui.player is not None:
        wall = ui.player.at
    stale = _stale(ui, board, now)
    if stale:
        wall = board.time  # nothing is known to go on since
    room = height - 3 - (ui.player is not None)
    body = _body(ui, board, width, max(1, room - bool(stale)), wall)
    if stale:
        body = [((f" ‖ {stale}; what follows is how it was then", "bad"),), *map(_dimmed, body)]
    lines = [_header(ui, board, live, width, now), *body[:room]]
    lines += [()] * (1 + room - len(lines))
    if ui.player is not None:
        lines.append(_scrubber(ui.player, width))
    lines += [_last(ui, board, width, now), _footer(ui, width)]
    return [cut(line, width) for line in lines[:height]]


def cut(line: Line, width: int) -> Line:
    """The line, in no more cells than there are."""
    if width_of(line) <= width:
        return line
    kept: list[Span] = []
    for text, style in line:
        taken = width_of(tuple(kept))
        if taken + width_of(((text, style),)) > width:
            kept.append((fit(text, width - taken), style))
            break
        kept.append((text, style))
    return tuple(kept)


# -- the frame around the views ----------------------------------------------------------------------------------------


def _stale(ui: Ui, board: Board, now: float) -> str:
    """Why what is shown may not be so any more; empty: it is so."""
    if ui.help or ui.preview is board or ui.player is not None or not board.time:
        return ""
    ago = duration(max(0.0, now - ui.heard))
    if not ui.connected:
        return f"the daemon is gone, last heard {ago} ago"
    return f"nothing was heard of the daemon for {ago}" if now - ui.heard > STALE_SECONDS else ""


def _dimmed(line: Line) -> Line:
    return tuple((text, style if style == "cursor" else "dim") for text, style in line)


def _header(ui: Ui, board: Board, live: Board, width: int, now: float) -> Line:
    if ui.player is not None:
        state: Span = ("▶ replay" if ui.player.playing else "‖ replay", "accent")
    elif not ui.connected:
        state = ("○ no daemon", "bad")
    elif now - ui.heard > STALE_SECONDS:
        state = (f"◌ silent {duration(now - ui.heard)}", "busy")
    else:
        state = ("● live", "good")
    devices = len(board.rows["device"])
    runs = sum(row.get("state") in ("running", "cancelling") for row in board.rows["run"].values())
    asked = len(live.rows["consent"])
    name = word(board.me.get("name")) or "-"
    spans: list[Span] = [(" slipstream ", "title"), state]
    if asked:  # before what may be cut
        spans.append((f"  ?{asked} consent", "warn"))
    spans += [(f"  on {fit(name, _NAME) if width_of(((name, ''),)) > _NAME else name}", ""),
              (f"  {_many(devices, 'device')}  {_many(runs, 'run')}", "")]  # fmt: skip
    if board.me.get("simulated") is True:
        spans.append(("  SIMULATED", "busy"))
    mode = "READ-ONLY" if ui.read_only else "READ-WRITE"
    shown = cut(tuple(spans), max(1, width - len(mode) - 3))
    return (*shown, (right(mode, max(len(mode) + 2, width - width_of(shown) - 1)), "dim"))


def _many(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _last(ui: Ui, board: Board, width: int, now: float) -> Line:
    if ui.note and now < ui.note_until:
        return ((f" {ui.note}", ui.note_style),)
    if ui.lost and not ui.connected and ui.player is None:
        return ((f" {ui.lost}", "bad"),)
    for event in islice(reversed(board.events), 100):
        if event.get("kind") not in ("device.changed", "step.progress"):
            return ((f" {clock(number(event.get('time')))} ", "dim"), (f"{word(event.get('kind'))} ", "accent"),
                    (sentence(event), ""))  # fmt: skip
    return ()


def _footer(ui: Ui, width: int) -> Line:
    spans: list[Span] = []
    for i, name in enumerate(VIEWS, 1):
        spans += [(f" {i} {name.capitalize()}", "cursor" if name == ui.view else "dim")]
    keys = "  / filter  : command  ? help"
    if ui.detail or ui.help or ui.preview:
        keys = "  esc back  ? help"
    spans.append((keys, "dim"))
    return tuple(spans)


def _scrubber(player: Player, width: int) -> Line:
    length = max(player.end - player.begin, 1e-9)
    part = (player.at - player.begin) / length
    said = f" {'▶' if player.playing else '‖'} {player.at - player.begin:7.2f} s of {length:.2f} s  ×{player.speed:g} "
    room = max(4, width - len(said) - 1)
    at = min(room - 1, round(part * (room - 1)))
    return ((said, "accent"), ("━" * at + "●" + "─" * (room - 1 - at), "dim"))


# -- the views ---------------------------------------------------------------------------------------------------------


def _body(ui: Ui, board: Board, width: int, height: int, wall: float) -> list[Line]:
    if ui.help:
        return _scrolled(ui, help_lines(ui.view, width), height)
    if ui.detail is not None:
        kind, key = ui.detail
        if kind in ("page", "event"):
            return _scrolled(ui, ui.page if kind == "page" else event_lines(ui.event, width), height)
        return _scrolled(ui, _detail(board, kind, key, width), height)
    match ui.view:
        case "plan":
            return _plan(ui, board, width, height, wall)
        case "log":
            return _log(ui, board, width, height)
        case "replay" if ui.player is None:
            return _traces(ui, width, height)
        case "replay":
            return _plan(ui, board, width, height, wall)
        case _:
            return _list(ui, board, width, height, wall)


def _scrolled(ui: Ui, lines: Sequence[Line], height: int) -> list[Line]:
    ui.top = max(0, min(ui.top, len(lines) - height))
    return list(lines[ui.top : ui.top + height])


def _detail(board: Board, kind: str, key: str, width: int) -> list[Line]:
    if kind == "device":
        return device_lines(board, key, width)
    if kind == "handoff":
        return handoff_lines(board, key, width)
    run, _, step = key.partition("/")
    return step_lines(board, run, step, width)


def _chosen(spans: Line, width: int, chosen: bool) -> Line:
    if not chosen:
        return spans
    line = cut(spans, width)
    text = "".join(text for text, _ in line)
    return ((fit(f">{text[1:]}", width), "cursor"),)


def _filter_line(ui: Ui, shown: int, there: int) -> list[Line]:
    text = ui.filter_text.get(ui.view, "")
    return [((f" /{text}", "accent"), (f"  {shown} of {there}; esc clears it", "dim"))] if text else []


def _list(ui: Ui, board: Board, width: int, height: int, wall: float) -> list[Line]:
    handoffs = ui.view == "handoffs"
    keys = keys_of(ui, board)
    there = len(board.rows["handoff" if handoffs else "device"])
    lines = _filter_line(ui, len(keys), there)
    lines.append(handoff_view.handoff_head(width) if handoffs else mesh_view.device_head(width))
    window = ui.windows[ui.view]
    for i in window.show(keys, height - len(lines)):
        line = (
            handoff_view.handoff_line(board, keys[i], width, wall)
            if handoffs
            else mesh_view.device_line(board, keys[i], width)
        )
        lines.append(_chosen(line, width, keys[i] == window.key))
    if not keys:
        lines += _empty(ui, there)
    elif not handoffs and len(board.rows["device"]) == 1 and not ui.filter_text.get(ui.view):
        lines += [(), (("  No other device yet. Let one in: slip pair invite, and there: slip pair join CODE", "dim"),)]
    return lines


def _empty(ui: Ui, there: int) -> list[Line]:
    if there:
        return [((f"  None of {there} fits the filter; esc clears it", "dim"),)]
    if not ui.connected and ui.player is None:
        return [((f"  {ui.lost or 'Asking the daemon ...'}", "dim"),)]
    if ui.view == "handoffs":
        return [(("  Nothing has moved yet. A step moves when its device leaves, or another one would end it", "dim"),),
                (("  sooner; slip demo shows it.", "dim"),)]  # fmt: skip
    return [(("  No device yet.", "dim"),)]


def _plan(ui: Ui, board: Board, width: int, height: int, wall: float) -> list[Line]:
    ui.plan.run = current_run(ui, board)
    if ui.plan.run is None:
        if not ui.connected and ui.player is None:
            return [(), ((f"  {ui.lost or 'Asking the daemon ...'}", "dim"),)]
        how = "in a shell: slip run FILE.json, or: slip demo"
        if not ui.read_only:
            how = ":run FILE.json (it is shown first), or in a shell: slip demo"
        return [(), (("  No plan runs. Start one:", "dim"),), ((f"  {how}", "dim"),)]
    return plan_lines(board, ui.plan, width, height, wall)


def _log(ui: Ui, board: Board, width: int, height: int) -> list[Line]:
    ui.log.refresh(board)
    lines: list[Line] = []
    if ui.log.paused:
        behind = board.seen - ui.log.taken
        lines.append(((f" ‖ paused, {behind} more since; space goes on", "busy"),))
    lines += _filter_line(ui, ui.log.count, len(board.events))
    room = height - len(lines)
    found = ui.log.lines(room)
    if not found:
        return [*lines, *(_empty(ui, len(board.events)) if board.events else [(("  Nothing happened yet.", "dim"),)])]
    for _, event, chosen in found:
        line = event_line(event, width)
        lines.append(_chosen(line, width, chosen) if chosen and not ui.log.following else line)
    return lines


def _traces(ui: Ui, width: int, height: int) -> list[Line]:
    head: Line = ((fit(f"  {fit('RECORDED', 20)} {fit('RUN', 11)} {right('TOOK', 6)} {fit('STATE', 10)} GOAL", width),
                   "head"),)  # fmt: skip
    if not ui.traces:
        return [head, (("  No run is recorded yet; every run is, as soon as one is started. :run FILE.json", "dim"),)]
    keys = [word(row.get("run")) for row in ui.traces]
    window = ui.windows["replay"]
    lines = [head]
    for i in window.show(keys, height - 1):
        row = ui.traces[i]
        began, seconds = number(row.get("began")), number(row.get("seconds"))
        at = clock(began)[:8]
        line: Line = (
            (f"  {fit(f'{_day(began)} {at}', 20)} {fit(keys[i], 11)} {right(duration(seconds), 6)} "
             f"{fit(word(row.get('state')), 10)} {word(row.get('goal'))}", ""),
        )  # fmt: skip
        lines.append(_chosen(line, width, keys[i] == window.key))
    return lines


def _day(at: float | None) -> str:
    return "-" if at is None or not 0 <= at < 4e9 else time.strftime("%Y-%m-%d", time.localtime(at))
