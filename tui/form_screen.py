"""A form over everything else: the arguments of a skill, one a line."""

from __future__ import annotations

from typing import Any, ClassVar

from rich.text import Text
from textual import events
from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Input, Static

from ..core.errors import UsageError
from .form import Form
from .text import plain


class FormScreen(ModalScreen[dict[str, Any] | None]):
    """Gives the arguments, or None if nothing is to be done: ↑ and ↓ choose a field, Enter goes on, Esc leaves."""

    DEFAULT_CSS: ClassVar[str] = """
    FormScreen { align: center middle; background: ansi_default; }
    FormScreen VerticalScroll {
        width: 90%; max-width: 100; height: auto; max-height: 90%; border: heavy ansi_cyan; padding: 0 1;
        background: ansi_default; color: ansi_default;
    }
    FormScreen Static { height: auto; background: ansi_default; color: ansi_default; }
    FormScreen Input {
        height: 1; border: none; padding: 0 1; background: ansi_bright_black; color: ansi_default;
    }
    FormScreen Input:focus { border: none; background: ansi_blue; }
    """

    def __init__(self, skill: str, schema: Any) -> None:
        super().__init__()
        self.form = Form(plain(skill), schema)
        self._inputs = [Input(name=field.name) for field in self.form.fields]
        self._wrong = Static("", markup=False)

    def compose(self) -> ComposeResult:
        """A line of words and an input for each field."""
        with VerticalScroll(can_focus=False):
            yield Static(Text(self.form.skill, "bold"), markup=False)
            for field, line in zip(self.form.fields, self._inputs, strict=True):
                yield Static(Text.assemble((field.name, "bold"), (f"  {field.hint}", "dim"),
                                           (f"  {field.about}" if field.about else "")), markup=False)  # fmt: skip
                yield line
            yield self._wrong
            yield Static(Text("enter goes on, and at the last field calls it; esc leaves", "dim"), markup=False)

    def on_mount(self) -> None:
        """Begin at the first field."""
        if self._inputs:
            self._inputs[0].focus()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Enter: the next field, or the call."""
        event.stop()
        at = self._inputs.index(event.input)
        if at + 1 < len(self._inputs):
            self._inputs[at + 1].focus()
            return
        self.form.typed = {str(line.name): line.value for line in self._inputs}
        try:
            self.dismiss(self.form.args())
        except UsageError as error:
            self._wrong.update(Text(plain("; ".join(part for part in (error.what, error.why) if part)), "red"))
            named = [line for line in self._inputs if line.name == error.where.get("field")]
            (named or self._inputs)[0].focus()

    def on_key(self, event: events.Key) -> None:
        """Other fields; away."""
        at = next((i for i, line in enumerate(self._inputs) if line.has_focus), 0)
        match event.key:
            case "escape":
                self.dismiss(None)
            case "down" | "up" if self._inputs:
                self._inputs[(at + (1 if event.key == "down" else -1)) % len(self._inputs)].focus()
            case _:
                return
        event.stop()
