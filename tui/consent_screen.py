"""The questions, over everything else; what is shown and which key counts, consents.py decides."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import ClassVar

from rich.text import Text
from textual import events
from textual.app import ComposeResult
from textual.screen import ModalScreen
from textual.widgets import Static

from .consents import Answer, Consents
from .theme import STYLES


class ConsentScreen(ModalScreen[None]):
    """Shows one open question after another; closes when there is none, or at Esc."""

    DEFAULT_CSS: ClassVar[str] = """
    ConsentScreen { align: center middle; background: ansi_default; }
    ConsentScreen Static {
        width: 90%; max-width: 100; height: auto; max-height: 100%; border: heavy ansi_yellow; padding: 0 1;
        background: ansi_default; color: ansi_default;
    }
    """

    def __init__(self, queue: Consents, answer: Callable[[Answer], Awaitable[str]]) -> None:
        super().__init__()
        self._queue, self._answer = queue, answer
        self._box = Static("", markup=False)
        self._telling = 0
        """Answers of which it is not known yet whether they count."""

    def compose(self) -> ComposeResult:
        """One box."""
        yield self._box

    def on_mount(self) -> None:
        """Begin to count the time that is left."""
        self._queue.appear()
        self.set_interval(0.2, self.look)
        self.look()

    def look(self) -> None:
        """Show the question as it is now; close when the last one was told of."""
        now = time.monotonic()
        self._queue.refresh(now, time.time())
        if self._queue.key is None and not self._queue.told and not self._telling:
            if self.is_current:
                self.dismiss()
            return
        width = max(20, min(100, int(self.app.size.width * 0.9)) - 4)
        height = max(6, self.app.size.height - 2)
        shown = Text("\n").join(
            Text.assemble(*((text, STYLES.get(style, "")) for text, style in line))
            for line in self._queue.lines(width, height, now, time.time())
        )
        self._box.update(shown)

    def on_paste(self, event: events.Paste) -> None:
        """What is pasted answers nothing."""
        event.stop()
        self._queue.pasted(time.monotonic())

    def on_key(self, event: events.Key) -> None:
        """A key."""
        event.stop()
        event.prevent_default()
        if event.key == "escape" and not self._queue.wanted and not self._queue.guarded(time.monotonic()):
            self._queue.put_off()
            self.dismiss()
            return
        key = event.character if event.is_printable and event.character else event.key
        answer = self._queue.press(key, time.monotonic())
        if answer is not None:
            self._telling += 1
            self.app.run_worker(self._tell(answer))  # the screen's own would end with it
        self.look()

    async def _tell(self, answer: Answer) -> None:
        said = await self._answer(answer)
        self._telling -= 1
        self._queue.refresh(time.monotonic(), time.time())
        if self._queue.key is not None:  # beside the next question, or the same one if the answer did not arrive
            self._queue.tell(said, time.monotonic())
        if self.is_attached:
            self.look()
