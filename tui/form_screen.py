"""A form over everything else: the arguments of a skill, one a line."""

from __future__ import annotations

from typing import Any, ClassVar

from rich.text import Text
from textual import events
from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.screen import ModalScreen
from textual.suggester import SuggestFromList
from textual.widgets import Input, Static

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
        self._inputs = [
            Input(select_on_focus=False,
                  suggester=SuggestFromList(field.choices, case_sensitive=False) if field.choices else None)
            for field in self.form.fields
        ]  # fmt: skip
        self._wrong = [Static("", markup=False, classes="wrong") for _ in self.form.fields]

    def compose(self) -> ComposeResult:
        """A line of words and an input for each field."""
        with VerticalScroll(can_focus=False):
            yield Static(Text(self.form.skill, "bold"), markup=False)
            for field, line, wrong in zip(self.form.fields, self._inputs, self._wrong, strict=True):
                yield Static(Text.assemble((plain(field.name), "bold"), (f"  {field.hint}", "dim"),
                                           (f"  {field.about}" if field.about else "")), markup=False)  # fmt: skip
                yield line
                yield wrong
            if self.form.left_out:
                yield Static(Text(f"and {self.form.left_out} more: slip call {self.form.skill} --args JSON", "dim"))
            yield Static(Text("enter goes on, and at the last field calls it; → takes what is suggested; esc leaves",
                              "dim"))  # fmt: skip

    def on_mount(self) -> None:
        """Begin at the first field."""
        for said in self._wrong:
            said.display = False
        if self._inputs:
            self._inputs[0].focus()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Enter: the next field, or the call."""
        event.stop()
        at = self._inputs.index(event.input)
        if at + 1 < len(self._inputs):
            self._inputs[at + 1].focus()
            return
        self._done()

    def _done(self) -> None:
        """Give the arguments, or say beside each field what is wrong with it."""
        self.form.typed = {field.name: line.value for field, line in zip(self.form.fields, self._inputs, strict=True)}
        errors = self.form.errors()
        if not errors:
            self.dismiss(self.form.args())
            return
        for field, said in zip(self.form.fields, self._wrong, strict=True):
            said.update(Text(f"✗ {errors[field.name]}" if field.name in errors else "", "red"))
            said.display = field.name in errors
        at = next(i for i, field in enumerate(self.form.fields) if field.name in errors)
        self._inputs[at].focus()

    def on_key(self, event: events.Key) -> None:
        """Other fields; away."""
        at = next((i for i, line in enumerate(self._inputs) if line.has_focus), 0)
        match event.key:
            case "escape":
                self.dismiss(None)
            case "enter" if not self._inputs:
                self._done()
            case "down" | "up" if self._inputs:
                self._inputs[(at + (1 if event.key == "down" else -1)) % len(self._inputs)].focus()
            case _:
                return
        event.stop()
