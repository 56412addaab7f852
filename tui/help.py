"""Help for each view: its keys, and what its signs mean."""

from __future__ import annotations

from typing import Final

from .text import Line, fit

_EVERYWHERE: Final = (
    ("1 2 3 4 5", "mesh, plan, handoffs, log, replay"), (":", "command: run a plan, call a skill, ping, approve ..."),
    ("/", "filter this list: dev:car skill:nav.* !progress words"), ("enter", "look closer"), ("esc", "back"),
    ("y", "copy what is chosen"), ("c", "questions that wait for a yes or no; tab: the next"),
    ("q ctrl+c", "quit (the daemon goes on)"),
)  # fmt: skip
_LIST: Final = (("j k ↓ ↑ PgDn PgUp g G", "choose a row"),)
_VIEWS: Final = {
    "mesh": (
        *_LIST, ("● ready", "linked with this device"), ("◌ via NAME", "reached through another device"),
        ("? silent", "nothing was heard of it for a while"), ("○", "gone"),
        ("sim", "simulated: its hardware is a program"), ("█████ +", "charge; + is charging"),
        ("LINK", "round trip from here"), ("RUNS", "steps that run there now"),
    ),
    "plan": (
        ("j k n p g G", "choose a step; by time, by device"), ("h l ← →", "move in time"), ("+ -", "zoom"),
        ("f F", "fit the whole plan; follow what runs"), ("e", "draw the way of every result, or not"),
        ("[ ]", "other runs"), ("enter", "why this step is where it is"),
        ("✓ » - ✗ × !", "done, submitted, skipped, failed, cancelled, nobody knows"),
        ("▶ … ? ⇄", "running, waits, waits for a person, was there before"),
        ("━ ▒ ·", "so far, still to come, predicted"), ("╮ ┊ ╰➤", "a result goes to another device"),
        ("¦ ░", "as planned at first; of the chosen step: all of it"),
        ("┃ ▼", "now; time is stretched where steps are short"),
    ),
    "handoffs": (*_LIST, ("✓ ⇄ ✗", "done, moving, failed"), ("TOOK", "from the first phase to the last")),
    "log": (
        *_LIST, ("enter", "all that an event says"), ("space", "pause, go on"), ("G", "follow what comes"),
        ("/skill:nav.* dev:car !progress", "all of these words, and no line with progress"),
        ("dev:", "a device's name, id or kind"),
    ),
    "replay": (
        ("enter", "play a recorded run"), ("space", "play, pause"), (", .", "a frame back, on"),
        ("< >", "slower, faster"),
        ("0", "from the beginning"), (":goto 12", "12 seconds after the beginning"),
        ("esc", "back to what happens now"),
        ("1 to 4", "the other views, as they were then"),
    ),
}  # fmt: skip


def help_lines(view: str, width: int) -> list[Line]:
    """The help of a view."""
    lines: list[Line] = [((f" {view.capitalize()}", "title"),), ()]
    lines += [_line(keys, what, width) for keys, what in _VIEWS[view]]
    lines += [(), ((" Everywhere", "title"),), ()]
    return lines + [_line(keys, what, width) for keys, what in _EVERYWHERE]


def _line(keys: str, what: str, width: int) -> Line:
    return ((f"  {fit(keys, 32)} ", "accent"), (fit(what, max(1, width - 35)).rstrip(), ""))
