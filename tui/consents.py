"""The questions that wait for a person: which is shown, and when a key counts. Sans-IO; clocks are handed in.

Laws: a question takes no answer for its first GUARD seconds on the screen, so that nobody answers it with keys that
were meant for something else. What moves something in the world is allowed only by typing its device's name in full.
Whoever does nothing denies: the daemon does so when the time is up.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from typing import Any, Final

from .board import Board, Row, number, word
from .text import Line, duration, fit, plain

GUARD: Final = 0.6
"""Seconds for which a question that was just shown takes no answer."""
TOLD: Final = 4.0
"""Seconds for which it is told how a question ended."""
ARGUMENTS: Final = 8
"""Arguments that are shown."""
ANSWERS: Final = {"y": "once", "a": "always", "n": "no", "N": "never"}
EFFECTS: Final = {
    "read": "looks something up; changes nothing", "idempotent": "changes something; done twice is as done once",
    "once": "changes something, and cannot take it back by itself", "physical": "MOVES SOMETHING IN THE WORLD",
}  # fmt: skip
_BAR: Final = 20


@dataclass(frozen=True, slots=True)
class Answer:
    """What a person decided."""

    request: str
    answer: str


class Consents:
    """The queue of one monitor."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self.key: str | None = None
        """The question that is shown, by its key."""
        self.typed = ""
        """As much of the device's name as was typed."""
        self.wanted = ""
        """The answer that waits for the device's name."""
        self.told = ""
        self._shown_at = inf
        self._told_until = -inf
        self._row: Row = {}
        self._wrong = False
        self._answered: set[str] = set()
        """What this monitor answered already, and the daemon has not taken away yet."""

    @property
    def waiting(self) -> list[str]:
        """The keys of the open questions, the oldest first."""
        rows = self._board.rows["consent"]
        open_ = [key for key in rows if key not in self._answered]
        return sorted(open_, key=lambda key: (number(rows[key].get("asked_at")) or 0.0, key))

    def refresh(self, now: float, wall: float) -> None:
        """The board may have changed: show the next question if the shown one is gone. `now` is monotonic."""
        rows = self._board.rows["consent"]
        self._answered &= rows.keys()
        if self.key is not None and self.key not in rows:
            until = number(self._row.get("until"))
            if until is not None and wall >= until - 0.5:
                self.tell(f"{word(self._row.get('skill'))}: nobody answered in time, denied", now)
            elif not self.told:
                self.tell(f"{word(self._row.get('skill'))} was answered elsewhere, or taken back", now)
        queue = self.waiting
        if self.key not in queue:
            self._show(queue[0] if queue else None, now)
        if self.key is not None:
            self._row = rows[self.key]
        if now >= self._told_until:
            self.told = ""

    def choose(self, request: str, now: float) -> None:
        """Show the question with that id."""
        for key in self.waiting:
            if word(self._board.rows["consent"][key].get("id")) == request and key != self.key:
                self._show(key, now)
                self._row = self._board.rows["consent"][key]

    def next(self, now: float) -> None:
        """Show the next question."""
        queue = self.waiting
        if len(queue) > 1 and self.key in queue:
            self._show(queue[(queue.index(self.key) + 1) % len(queue)], now)
            self._row = self._board.rows["consent"][str(self.key)]

    def guarded(self, now: float) -> bool:
        """Whether keys are ignored: the question has just come on the screen."""
        return self.key is None or now < self._shown_at + GUARD

    def press(self, key: str, now: float) -> Answer | None:
        """A key; the answer if it is one. While a device's name is asked for, keys are its letters."""
        if self.guarded(now):
            return None
        if self.wanted:
            return self._spell(key)
        if key == "tab":
            self.next(now)
            return None
        answer = ANSWERS.get(key)
        if answer is None:
            return None
        if answer in ("once", "always") and self._row.get("effect") == "physical":
            self.wanted, self.typed, self._wrong = answer, "", False
            return None
        return self._answer(answer)

    def _spell(self, key: str) -> Answer | None:
        name = word(self._row.get("device_name"))
        if key == "backspace":
            self.typed = self.typed[:-1]
        elif key == "escape":
            self.wanted, self.typed = "", ""
        elif key == "enter":
            if self.typed == name and name:
                return self._answer(self.wanted)
            self.typed, self._wrong = "", True
        elif len(key) == 1 and len(self.typed) < 100:
            self.typed, self._wrong = self.typed + key, False
        elif key == "space":
            self.typed += " "
        return None

    def _answer(self, answer: str) -> Answer:
        assert self.key is not None
        self._answered.add(self.key)
        self.wanted, self.typed = "", ""
        return Answer(word(self._row.get("id")), answer)

    def tell(self, text: str, now: float) -> None:
        """Say for a while what became of an answer."""
        self.told, self._told_until = plain(text), now + TOLD

    def failed(self, request: str) -> None:
        """An answer did not arrive: the question is open as before."""
        rows = self._board.rows["consent"]
        self._answered -= {key for key in self._answered if word(rows.get(key, {}).get("id")) == request}

    def _show(self, key: str | None, now: float) -> None:
        self.key, self._shown_at = key, now if key is not None else inf
        self.typed, self.wanted = "", ""
        self._row = {}

    # -- drawing -------------------------------------------------------------------------------------------------------

    def lines(self, width: int, now: float, wall: float) -> list[Line]:
        """The question that is shown, for a box of that width."""
        queue = self.waiting
        if self.key is None:
            return [((f" {self.told or 'No question is open.'}", "title"),), (), ((" esc closes this", "dim"),)]
        row = self._row
        more = f"  1 of {len(queue)}; tab shows the next" if len(queue) > 1 else ""
        lines: list[Line] = [
            ((" May this be done?", "warn"), (more, "dim")), (),
            *_field("what", f"{word(row.get('title')) or word(row.get('skill'))} ({word(row.get('skill'))})", width),
            *_field("effect", EFFECTS.get(word(row.get("effect")), word(row.get("effect")) or "not told"), width,
                    "bad" if row.get("effect") == "physical" else ""),
            *_field("on", f"{word(row.get('device_name'))}  {word(row.get('device'))}", width, "title"),
            *_field("asked by", _who(row), width),
        ]  # fmt: skip
        if word(row.get("run")):
            goal = word(row.get("goal"))
            where = f"step {word(row.get('step'))} of run {word(row.get('run'))}"
            lines += _field("for", f"{where}{f': {goal}' if goal else ''}", width)
        lines += [(), *_arguments(row.get("args"), width), (), self._time(wall), ()]
        if self.guarded(now):
            lines.append(((" read first: keys count in a moment ...", "dim"),))
        elif self.wanted:
            lines.append(((f" type the device's name, then enter ({self.wanted}); esc goes back: ", "warn"),
                          (f"{self.typed}▏", "title")))  # fmt: skip
            if self._wrong:
                lines.append(((" that is not its name", "bad"),))
        else:
            lines.append(((" y once   a always   n no   N never", "title"), ("   esc later", "dim")))
        if self.told:
            lines.append(((f" {self.told}", "accent"),))
        return lines

    def _time(self, wall: float) -> Line:
        until, asked = number(self._row.get("until")), number(self._row.get("asked_at"))
        if until is None or asked is None:
            return ()
        left = max(0.0, until - wall)
        part = min(1.0, left / max(until - asked, 1e-9))
        full = round(part * _BAR)
        style = "good" if part > 0.5 else "busy" if part > 0.2 else "bad"
        return ((" " + "█" * full + "░" * (_BAR - full), style), (f" {duration(left)} left, then it is denied", ""))


def _who(row: Row) -> str:
    caller, origin = word(row.get("caller_name")), word(row.get("origin_name"))
    said = f"{caller}  {word(row.get('caller'))[:14]}"
    return said if row.get("origin") == row.get("caller") or not origin else f"{said}, for {origin}"


def _arguments(args: Any, width: int) -> list[Line]:
    """The arguments, the short ones first: what a person decides by is seldom long."""
    given = args if isinstance(args, Mapping) else {}
    texts = {str(name): _short(value) for name, value in given.items()}
    names = sorted(texts, key=lambda name: len(texts[name]) > 60)
    lines = [line for name in names[:ARGUMENTS] for line in _field(name, texts[name], width)[:2]]
    if len(names) > ARGUMENTS:
        lines.append(((f"  and {len(names) - ARGUMENTS} more: slip consent list", "dim"),))
    return lines or [(("  without arguments", "dim"),)]


def _short(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _field(name: str, text: str, width: int, style: str = "") -> list[Line]:
    room = max(10, width - 18)
    parts = [text[i : i + room] for i in range(0, max(len(text), 1), room)][:3]
    return [((f"  {fit(name if i == 0 else '', 13)} ", "dim"), (part, style)) for i, part in enumerate(parts)]
