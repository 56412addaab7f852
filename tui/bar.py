"""The lines at the bottom in which a person types: a command, or a filter."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Final

from rich.text import Text
from textual import events
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.message import Message
from textual.widgets import Input, Static

from .board import Board
from .command import Command, Completion, complete, parse
from .text import fit

_HISTORY: Final = 100
"""Lines that can be had again."""
_CSS = """
{name} {{ dock: bottom; height: auto; max-height: 12; background: ansi_default; }}
{name} Static {{ height: auto; background: ansi_default; color: ansi_default; }}
{name} Input {{ height: 1; border: none; padding: 0; background: ansi_default; color: ansi_default; }}
{name} Input:focus {{ border: none; }}
"""


class _Bar(Vertical):
    """An input with lines above it; always there, and hidden: keys that follow the one that opens it are its own."""

    SIGN: ClassVar[str] = ""

    def __init__(self) -> None:
        super().__init__()
        self.above = Static("", markup=False)
        self.input = Input(placeholder=self.SIGN, select_on_focus=False)
        self.display = False

    def compose(self) -> ComposeResult:
        """What is above, then the input."""
        yield self.above
        yield self.input

    def open(self, text: str = "") -> None:
        """Show it with a text, and take the keys."""
        self.display = True
        self.input.value = text
        self.input.cursor_position = len(text)
        self.screen.set_focus(self.input)

    def close(self) -> None:
        """Hide it, and give the keys back."""
        self.display = False
        self.screen.set_focus(None)


class CommandBar(_Bar):
    """Types a command, with completions above; Tab takes one, ↑ and ↓ choose, Esc leaves."""

    DEFAULT_CSS: ClassVar[str] = _CSS.format(name="CommandBar")
    SIGN = ": a command; tab completes, enter does it, esc leaves"

    @dataclass
    class Said(Message):
        """A command was typed."""

        command: Command

    class Left(Message):
        """Nothing was."""

    def __init__(self, board: Callable[[], Board], files: Callable[[], Sequence[str]]) -> None:
        super().__init__()
        self._board, self._find = board, files
        self._found: Sequence[str] | None = None
        """The plan files, as they were when one was first to be offered since the bar was opened."""
        self._offered: list[Completion] = []
        self._chosen = 0
        self._head = ""
        """What stands before the cursor, as far as it was completed."""
        self._history: deque[str] = deque(maxlen=_HISTORY)
        self._back = 0
        """How far back the line that is shown was said; 0: it is a new one."""
        self._wrong = ""

    def open(self, text: str = "") -> None:
        """Show what there is to type."""
        super().open(text)
        self._back, self._wrong, self._found = 0, "", None
        self._offer()

    def on_input_changed(self, event: Input.Changed) -> None:
        """Another letter: other completions."""
        event.stop()
        self._wrong, self._chosen = "", 0
        self._offer()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Enter."""
        event.stop()
        text = self.input.value.strip()
        if not text:
            self._leave()
            return
        try:
            command = parse(self._board(), text)
        except ValueError as error:
            self._wrong = str(error)
            self._offer()
            return
        if not self._history or self._history[-1] != text:
            self._history.append(text)
        self.close()
        self.post_message(self.Said(command))

    def on_key(self, event: events.Key) -> None:
        """The keys that the input does not know."""
        match event.key:
            case "escape":
                self._leave()
            case "tab":
                if self._head != self.input.value[: self.input.cursor_position]:
                    self._chosen = 0
                    self._offer()
                if self._offered:
                    rest = self.input.value[self.input.cursor_position :]
                    self._put(self._offered[self._chosen].line, rest)
            case "up" if self._is_said() or not self.input.value:
                self._back = min(len(self._history), self._back + 1 if self.input.value else 1)
                self._put(self._history[-self._back] if self._back else "")
            case "down" if self._is_said():
                self._back -= 1
                self._put(self._history[-self._back] if self._back else "")
            case "down" | "up":
                if self._offered:
                    self._chosen = (self._chosen + (1 if event.key == "down" else -1)) % len(self._offered)
                    self._offer(again=False)
            case _:
                return
        event.stop()
        event.prevent_default()

    def _files(self) -> Sequence[str]:
        if self._found is None:  # folders are not looked through at every key
            self._found = self._find()
        return self._found

    def _is_said(self) -> bool:
        """Whether the line is one that was said before, and not changed since."""
        return self._back > 0 and self.input.value == self._history[-self._back]

    def _put(self, line: str, rest: str = "") -> None:
        """Have this line, the cursor before the rest of it."""
        self.input.value = line + rest
        self.input.cursor_position = len(line)

    def _leave(self) -> None:
        self.close()
        self.post_message(self.Left())

    def _offer(self, *, again: bool = True) -> None:
        if again:
            self._head = self.input.value[: self.input.cursor_position]
            self._offered = complete(self._board(), self._head, self._files)
        width = max(10, self.app.size.width)
        shown = Text()
        for i, offered in enumerate(self._offered):
            line = f" {fit(offered.shown, min(28, width // 2))} {offered.about}"
            shown.append(f"{fit(line, width - 1).rstrip()}\n", "reverse" if i == self._chosen else "dim")
        if self._wrong:
            shown.append(f" {fit(self._wrong, width - 2).rstrip()}\n", "red")
        shown.right_crop(1)
        self.above.update(shown)


class FilterBar(_Bar):
    """Types a filter; Enter takes it, Esc leaves it as it was."""

    DEFAULT_CSS: ClassVar[str] = _CSS.format(name="FilterBar")
    SIGN = "/ dev:car skill:nav.* !progress"

    @dataclass
    class Said(Message):
        """A filter was typed; None: it stays."""

        text: str | None

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Enter."""
        event.stop()
        self.close()
        self.post_message(self.Said(self.input.value))

    def on_key(self, event: events.Key) -> None:
        """Escape."""
        if event.key == "escape":
            event.stop()
            self.close()
            self.post_message(self.Said(None))
