"""The lines at the bottom in which a person types: a command, or a filter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from rich.text import Text
from textual import events
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.message import Message
from textual.widgets import Input, Static

from .board import Board
from .command import Command, Completion, complete, parse
from .text import fit

_HISTORY: list[str] = []
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
        self._board, self._files = board, files
        self._offered: list[Completion] = []
        self._chosen = 0
        self._back = 0
        self._wrong = ""

    def open(self, text: str = "") -> None:
        """Show what there is to type."""
        super().open(text)
        self._back, self._wrong = 0, ""
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
        if not _HISTORY or _HISTORY[-1] != text:
            _HISTORY.append(text)
        self.close()
        self.post_message(self.Said(command))

    def on_key(self, event: events.Key) -> None:
        """The keys that the input does not know."""
        match event.key:
            case "escape":
                self._leave()
            case "tab":
                if self._offered:
                    rest = self.input.value[self.input.cursor_position :]
                    self._put(self._offered[self._chosen].line, rest)
            case "down" | "up" if self.input.value or not _HISTORY or event.key == "down":
                if self._offered:
                    self._chosen = (self._chosen + (1 if event.key == "down" else -1)) % len(self._offered)
                    self._offer(again=False)
            case "up":
                self._back = self._back % len(_HISTORY) + 1
                self._put(_HISTORY[-self._back])
            case _:
                return
        event.stop()
        event.prevent_default()

    def _put(self, line: str, rest: str = "") -> None:
        """Have this line, the cursor before the rest of it."""
        self.input.value = line + rest
        self.input.cursor_position = len(line)

    def _leave(self) -> None:
        self.close()
        self.post_message(self.Left())

    def _offer(self, *, again: bool = True) -> None:
        if again:
            self._offered = complete(self._board(), self.input.value[: self.input.cursor_position], self._files)
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
