"""The questions that wait for a person: which is shown, and when a key counts. Sans-IO; clocks are handed in.

Laws:
- A question takes no key before it was on the screen for GUARD seconds, and nobody typed for as long: keys that were
  meant for something else answer nothing. What a question says may not change under a hand: then it begins anew.
- Only the effects in HARMLESS are allowed by one key. Any other one, unknown ones too, is allowed only by typing its
  device's name in full; what is pasted is not typed.
- Whoever does nothing denies: the daemon does so when the time is up.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from textwrap import wrap
from typing import Any, Final

from rich.cells import chop_cells

from .board import Board, Row, number, word
from .text import Line, duration, fit, plain

GUARD: Final = 0.6
"""Seconds for which a question that was just shown takes no answer."""
TOLD: Final = 4.0
"""Seconds for which it is told how a question ended."""
HARMLESS: Final = ("read", "idempotent", "once")
"""Effects that are allowed without the device's name."""
ANSWERS: Final = {"y": "once", "a": "always", "n": "no", "N": "never"}
EFFECTS: Final = {
    "read": "looks something up; changes nothing", "idempotent": "changes something; done twice is as done once",
    "once": "changes something, and cannot take it back by itself", "physical": "MOVES SOMETHING IN THE WORLD",
}  # fmt: skip
_UNKNOWN: Final = "NOT KNOWN HERE: taken to move something"
_BAR: Final = 20
_LABEL: Final = 17
"""Cells before the text of a field."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a person decided."""

    request: str
    answer: str
    device: str
    """Whose question it is: ids are made by whoever asks."""


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
        """Since when the question is on the screen and no key was ignored; infinite: it is not on it yet."""
        self._told_until = -inf
        self._row: Row = {}
        self._wrong = False
        self._answered: set[str] = set()
        """What this monitor answered already, and the daemon has not taken away yet."""
        self._later: set[str] = set()
        """What was put off: it does not come up again by itself."""

    @property
    def waiting(self) -> list[str]:
        """The keys of the open questions, the oldest first."""
        rows = self._board.rows["consent"]
        open_ = [key for key in rows if key not in self._answered]
        return sorted(open_, key=lambda key: (number(rows[key].get("asked_at")) or 0.0, key))

    @property
    def fresh(self) -> list[str]:
        """Those of them that nobody put off here."""
        return [key for key in self.waiting if key not in self._later]

    def put_off(self) -> None:
        """A person saw the open questions and wants to answer them later."""
        self._later.update(self.waiting)

    def refresh(self, now: float, wall: float) -> None:
        """The board may have changed: show the next question if the shown one is gone. `now` is monotonic."""
        rows = self._board.rows["consent"]
        self._answered &= rows.keys()
        self._later &= rows.keys()
        if self.key is not None and self.key not in rows:
            self.tell(f"{word(self._row.get('skill'))}: {self._ending(wall)}", now)
        queue = self.waiting
        if self.key not in queue:
            self._show(queue[0] if queue else None)
        elif self.key is not None and _asked(rows[self.key]) != _asked(self._row):
            self._show(self.key)
        if now >= self._told_until:
            self.told = ""

    def choose(self, request: str) -> None:
        """Show the question with that id."""
        for key in self.waiting:
            if word(self._board.rows["consent"][key].get("id")) == request and key != self.key:
                self._show(key)

    def next(self) -> None:
        """Show the next question."""
        queue = self.waiting
        if len(queue) > 1 and self.key in queue:
            self._show(queue[(queue.index(self.key) + 1) % len(queue)])

    def appear(self) -> None:
        """The screen was closed and comes up again: what it shows is new to whoever looks."""
        self._show(self.key if self.key in self.waiting else None)

    def guarded(self, now: float) -> bool:
        """Whether keys are ignored: the question has just come on the screen, or somebody still types."""
        return self.key is not None and now < self._shown_at + GUARD

    def press(self, key: str, now: float) -> Answer | None:
        """A key; the answer if it is one. While a device's name is asked for, keys are its letters."""
        if self.guarded(now):
            self.pasted(now)
            return None
        if self.key is None:
            return None
        if self.wanted:
            return self._spell(key)
        if key == "tab":
            self.next()
            return None
        answer = ANSWERS.get(key)
        if answer is None:
            return None
        if answer in ("once", "always") and self._row.get("effect") not in HARMLESS:
            self.wanted, self.typed, self._wrong = answer, "", False
            return None
        return self._answer(answer)

    def pasted(self, now: float) -> None:
        """Something came that is no answer, whatever it says: a paste, or a key that is ignored."""
        if self.guarded(now) and self._shown_at != inf:
            self._shown_at = now

    def _spell(self, key: str) -> Answer | None:
        if key == "backspace":
            self.typed = self.typed[:-1]
        elif key == "escape":
            self.wanted, self.typed = "", ""
        elif key == "enter":
            name = _folded(self._name())
            if name and _folded(self.typed) == name:
                return self._answer(self.wanted)
            self.typed, self._wrong = "", True
        elif len(key) == 1 and len(self.typed) < 400:
            self.typed, self._wrong = self.typed + key, False
        elif key == "space":
            self.typed += " "
        return None

    def _name(self) -> str:
        """What is to be typed; empty: the device has no name, and is allowed to move nothing."""
        return word(self._row.get("device_name")).strip()

    def _ending(self, wall: float) -> str:
        """How the shown question ended, as far as it was told."""
        device, _, request = str(self.key).rpartition("/")
        for event in reversed(self._board.events):
            if event.get("kind") == "consent.answered" and event.get("request") == request:
                if event.get("device") != device:
                    continue
                answer = word(event.get("answer"))
                if answer == "withdrawn":
                    return "not asked any more: nobody wants it now"
                if answer != "nobody":
                    return f"{word(event.get('by')) or 'somebody'} said {answer}"
                return "nobody answered in time, denied"
        until = number(self._row.get("until"))
        return (
            "nobody answered in time, denied"
            if until is not None and wall >= until - 0.5
            else "answered elsewhere, or taken back"
        )

    def _answer(self, answer: str) -> Answer:
        assert self.key is not None
        self._answered.add(self.key)
        self.wanted, self.typed = "", ""
        return Answer(word(self._row.get("id")), answer, self.key.partition("/")[0])

    def tell(self, text: str, now: float) -> None:
        """Say for a while what became of an answer."""
        self.told, self._told_until = plain(text), now + TOLD

    def failed(self, answer: Answer) -> None:
        """An answer did not arrive: the question is open as before."""
        self._answered.discard(f"{answer.device}/{answer.request}")

    def _show(self, key: str | None) -> None:
        self.key, self._shown_at = key, inf
        self.typed, self.wanted, self._wrong = "", "", False
        self._row = {} if key is None else self._board.rows["consent"][key]

    # -- drawing -------------------------------------------------------------------------------------------------------

    def lines(self, width: int, height: int, now: float, wall: float) -> list[Line]:
        """The question that is shown, in a box of that size; from the first time on it counts as seen."""
        if self.key is None:
            told = fit(self.told or "One moment ...", width - 1).rstrip()
            return [((f" {told}", "title"),), (), ((" esc closes this", "dim"),)]
        if self._shown_at == inf:
            self._shown_at = now
        queue, row = self.waiting, self._row
        more = f"  1 of {len(queue)}; tab shows the next" if len(queue) > 1 else ""
        skill, effect = word(row.get("skill")), word(row.get("effect"))
        top: list[Line] = [
            ((" May this be done?", "warn"), (more, "dim")), (),
            *_field("what", f"{word(row.get('title')) or skill} ({skill})", width),
            *_field("effect", EFFECTS.get(effect, _UNKNOWN), width, "" if effect in HARMLESS else "bad"),
            *_field("on", f"{word(row.get('device_name'))}  {word(row.get('device'))}", width, "title", most=10),
            *_field("asked by", _who(row), width),
        ]  # fmt: skip
        if word(row.get("run")):
            goal = word(row.get("goal"))
            where = f"step {word(row.get('step'))} of run {word(row.get('run'))}"
            top += _field("for", f"{where}{f': {goal}' if goal else ''}", width)
        bottom = [(), self._time(width, wall), (), *self._keys(width, now)]
        args = _arguments(row.get("args"), width, height - len(top) - len(bottom) - 1)
        # what is asked and how to answer stays on a screen that is too small for all of it
        return [*[*top, (), *args][: max(0, height - len(bottom))], *bottom[-height:]]

    def _keys(self, width: int, now: float) -> list[Line]:
        """What may be pressed now."""
        if self.guarded(now):
            lines = _flow("read first: keys count in a moment ...", "dim", width)
        elif self.wanted:
            lines = _flow(f"type the device's name, then enter ({self.wanted}); esc goes back", "warn", width)
            lines.append(((f" {'that is not its name: ' if self._wrong else ''}", "bad"),
                          (f"{self.typed[-max(1, width - 26) :]}▏", "title")))  # fmt: skip
        else:
            lines = _flow("y once   a always   n no   N never   esc later", "title", width)
        if self.told:
            lines.append(((f" {fit(self.told, width - 1).rstrip()}", "accent"),))
        return lines

    def _time(self, width: int, wall: float) -> Line:
        until, asked = number(self._row.get("until")), number(self._row.get("asked_at"))
        if until is None or asked is None:
            return ((" it does not say for how long it is asked", "dim"),)
        left = max(0.0, until - wall)
        part = min(1.0, left / max(until - asked, 1e-9))
        bar = max(0, min(_BAR, width - 32))
        full = round(part * bar)
        style = "good" if part > 0.5 else "busy" if part > 0.2 else "bad"
        return ((" " + "█" * full + "░" * (bar - full), style), (f" {duration(left)} left, then it is denied", ""))


def _flow(text: str, style: str, width: int) -> list[Line]:
    """Words of our own, in as many lines as they take."""
    return [((f" {part}", style),) for part in wrap(text, max(10, width - 1), drop_whitespace=True)]


def _asked(row: Row) -> dict[str, Any]:
    """What a question says; how long it is open is not of it."""
    return {name: value for name, value in row.items() if name != "until"}


def _folded(name: str) -> str:
    """A name as it is compared: a letter with its accent is the same, however it was typed."""
    return unicodedata.normalize("NFC", name).strip()


def _who(row: Row) -> str:
    caller, origin = _named(row, "caller"), _named(row, "origin")
    return caller if row.get("origin") == row.get("caller") or not origin else f"{caller}, for {origin}"


def _named(row: Row, who: str) -> str:
    return f"{word(row.get(f'{who}_name'))}  {word(row.get(who))[:7]}".strip()


def _arguments(args: Any, width: int, height: int) -> list[Line]:
    """The arguments in at most so many lines, the short ones first: what a person decides by is seldom long."""
    given = args if isinstance(args, Mapping) else {}
    texts = {str(name): _short(value) for name, value in given.items()}
    if not texts:
        return [(("  without arguments", "dim"),)]
    left, lines = sorted(texts, key=lambda name: len(texts[name]) > 60), list[Line]()
    while left:
        shown = _field(left[0], texts[left[0]], width)
        if len(lines) + len(shown) + (len(left) > 1) > height:
            return [*lines, ((f"  and {len(left)} more: slip consent list", "warn"),)]
        lines += shown
        del left[0]
    return lines


def _short(value: Any) -> str:
    return value or '""' if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _field(name: str, text: str, width: int, style: str = "", most: int = 2) -> list[Line]:
    """A text beside its label, in at most so many lines; how long it is where it does not fit."""
    room = max(10, width - _LABEL)
    parts: Sequence[str] = chop_cells(text, room) or [""]
    if len(parts) > most:
        end = f" ({len(text)} characters)" if room >= 40 else ""
        parts = [*parts[: most - 1], fit(f"{parts[most - 1]}…", room - len(end)).rstrip() + end]
    labels = [name, *[""] * len(parts)]
    return [
        ((f"  {fit(label, _LABEL - 4)}  ", "dim"), (part, style)) for label, part in zip(labels, parts, strict=False)
    ]
