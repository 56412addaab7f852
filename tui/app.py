"""`slip monitor`: frames in, keys in, lines out. Everything it shows and does is decided in screen, keys and ui.

It paints when a frame came, when a key was pressed, and once a second for what counts time; never otherwise.
"""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from typing import Any, ClassVar, Final, Protocol

from textual import events
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.timer import Timer

from ..core.errors import SlipError
from .bar import CommandBar, FilterBar
from .board import Board, word
from .canvas import Canvas
from .command import Command
from .consent_screen import ConsentScreen
from .consents import GUARD, Answer, Consents
from .form_screen import FormScreen
from .keys import Do, press
from .plan_view import PlanState
from .player import Player
from .preview import preview_board
from .screen import frame
from .text import harmless, plain
from .ui import VIEWS, Ui, shown_board, sift

RATE: Final = 4.0
"""Frames that it asks for, per second."""
RETRY_SECONDS: Final = (0.5, 1.0, 2.0, 5.0)
SHARE: Final = 40.0
"""Drawing what changed by itself takes at most one part of so many of the time: a large plan is drawn less often."""
CALL_SECONDS: Final = 120.0
"""How long a called skill may take, a person's answer included."""
_VERBS: Final = {
    "cancel": "runs.cancel", "resume": "runs.resume", "move": "runs.move", "ping": "devices.ping",
    "forget": "devices.forget",
}  # fmt: skip


class Source(Protocol):
    """Where a monitor hears of the mesh and says what a person wants."""

    read_only: bool

    def frames(self, rate: float) -> AsyncIterator[Mapping[str, Any]]:
        """What there is, and what changes from then on."""

    async def ask(self, verb: str, args: Mapping[str, Any], seconds: float = ...) -> dict[str, Any]:
        """Ask the daemon something."""

    def traces(self) -> Sequence[Mapping[str, Any]]:
        """The recorded runs, the newest first."""

    def recorded(self, run: str) -> tuple[Sequence[Mapping[str, Any]], str]:
        """The frames of one, and what it is called."""

    def files(self) -> Sequence[str]:
        """Plan files near here."""

    def plan(self, file: str, inputs: Mapping[str, str]) -> dict[str, Any]:
        """What a plan file says, as the verbs `plan` and `run` take it."""


class Monitor(App[None]):
    """The monitor; with a player it shows a recorded trace, and hears no daemon."""

    CSS: ClassVar[str] = "Screen { background: ansi_default; }"
    BINDINGS: ClassVar[list[BindingType]] = [Binding("ctrl+c", "quit", show=False, priority=True)]
    ENABLE_COMMAND_PALETTE = False
    AUTO_FOCUS = None  # else a hidden input has the keys

    def __init__(self, source: Source | None, player: Player | None = None) -> None:
        super().__init__(ansi_color=True)
        self._source = source
        self.board = Board()
        self.ui = Ui(read_only=source is None or source.read_only, player=player)
        if player is not None:
            self.ui.view = "replay"
        self._canvas = Canvas()
        self._command, self._filter = CommandBar(self._shown, self._files), FilterBar()
        self._consents = Consents(self.board)
        self._painted = self._cost = 0.0
        self._soon: Timer | None = None
        self._rung: set[str] = set()
        """The questions that the bell was rung for."""
        self._previewed: Mapping[str, Any] | None = None
        self._previewed_at = 0.0
        self._played = time.monotonic()

    def compose(self) -> ComposeResult:
        """One canvas; everything else comes over it."""
        yield self._canvas
        yield self._command
        yield self._filter

    def on_mount(self) -> None:
        """Begin to listen."""
        if not (self.is_headless or self.is_web):  # else the terminal would stay as it was drawn
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self.exit, None, 128 + signal.SIGTERM)
        self.set_interval(1.0, self._tick)
        if self._source is not None:
            self.run_worker(self._listen(), exclusive=True, group="listen")
        self.set_interval(1 / RATE, self._go_on)

    # -- hearing -------------------------------------------------------------------------------------------------------

    async def _listen(self) -> None:
        assert self._source is not None
        failed = 0
        while True:
            try:
                async for told in self._source.frames(RATE):
                    failed = 0
                    self._hear(told)
                    if self.board.lost:
                        break
                self.ui.lost = "the daemon went away; trying again"
            except SlipError as error:
                hint, why = f"; try: {error.hint}" if error.hint else "", f"  ({error.why})" if error.why else ""
                self.ui.lost = plain(f"{error.what}{hint}{why}")
            if not self.board.lost:
                self.ui.connected = False
                self.paint()
            await asyncio.sleep(RETRY_SECONDS[min(failed, len(RETRY_SECONDS) - 1)])
            failed += 1

    def _hear(self, told: Mapping[str, Any]) -> None:
        self.ui.heard, self.ui.connected, self.ui.lost = time.monotonic(), True, ""
        changed = self.board.take(told)
        if any(key.startswith("consent/") for key in changed):
            self._consents.refresh(time.monotonic(), time.time())
            self._raise_questions()
        self.paint_soon()

    def _raise_questions(self) -> None:
        """Put questions to the person that were not put off; when something is typed, once that is done."""
        fresh = [] if self.ui.read_only else self._consents.fresh
        if set(fresh) - self._rung:
            self.bell()
        self._rung = set(fresh)
        if fresh and self._idle():
            self._ask(word(self.board.get("consent", fresh[0]).get("id")))

    def _idle(self) -> bool:
        """Whether nobody types into the command bar or a filter, or looks at a question."""
        return len(self.screen_stack) == 1 and not (self._command.display or self._filter.display)

    # -- painting ------------------------------------------------------------------------------------------------------

    def paint(self) -> None:
        """Show what there is now."""
        width, height = self.size
        if width and height:
            began = time.monotonic()
            self._canvas.show(frame(self.ui, self.board, width, height, began, time.time()))
            self._painted = time.monotonic()
            self._cost = self._painted - began
        if self._soon is not None:
            self._soon.stop()
            self._soon = None

    def paint_soon(self) -> None:
        """Show it as soon as drawing has not taken more than a part of the time; what a person does, `paint` shows."""
        wait = self._painted + SHARE * self._cost - time.monotonic()
        if wait <= 0:
            self.paint()
        elif self._soon is None:
            self._soon = self.set_timer(wait, self.paint)

    def _tick(self) -> None:
        self._raise_questions()
        self.paint_soon()

    def on_resize(self, event: events.Resize) -> None:
        """Another size of the terminal."""
        self.call_after_refresh(self.paint)

    def _go_on(self) -> None:
        now = time.monotonic()
        elapsed, self._played = now - self._played, now
        if self.ui.player is not None and self.ui.player.advance(elapsed):
            self.paint()

    # -- keys ----------------------------------------------------------------------------------------------------------

    async def on_event(self, event: events.Event) -> None:
        """A key is obeyed at once, so that one which opens a line to type in has the next ones go there."""
        if not isinstance(event, events.Key) or event.key == "ctrl+c" or not self._idle():
            await super().on_event(event)
            return
        key = event.character if event.is_printable and event.character else event.key
        self._do(press(self.ui, self.board, key, self.size.height))
        self.paint()

    def _do(self, wanted: Do | None) -> None:
        match wanted:
            case None:
                return
            case Do("quit"):
                self.exit()
            case Do("command"):
                self._command.open()
            case Do("filter"):
                self._filter.open(self.ui.filter_text.get(self.ui.view, ""))
            case Do("consent"):
                self._ask()
            case Do("copy", text):
                if text:
                    self.copy_to_clipboard(text)
                    self._say(f"copied: {text}", "dim")
            case Do("live") if self._source is None:
                self._say("this is a recorded run; q closes it", "dim")
            case Do("live"):
                self.ui.player = None
            case Do("traces") if self._source is not None:
                self._try(self._list_traces())
            case Do("open", run) if self._source is not None:
                self._try(self._open(run))
            case Do("start") if self._previewed is not None and not self.ui.read_only:
                # an enter that was meant for the command starts nothing that nobody saw yet
                if time.monotonic() >= self._previewed_at + GUARD:
                    self._try(self._start(self._previewed))
                else:
                    self._previewed_at = time.monotonic()

    def _shown(self) -> Board:
        return shown_board(self.ui, self.board)

    def _files(self) -> Sequence[str]:
        return () if self._source is None else self._source.files()

    def _say(self, text: str, style: str = "") -> None:
        self.ui.say(text, style, time.monotonic())
        self.paint()

    def _try(self, doing: Coroutine[Any, Any, None]) -> None:
        """Do something that takes time or may fail; how it failed is said in the last line."""

        async def tried() -> None:
            try:
                await doing
            except SlipError as error:
                self._say(plain("; ".join(part for part in (error.what, error.why, error.hint) if part)), "bad")
            self.paint()

        self.run_worker(tried())

    # -- commands ------------------------------------------------------------------------------------------------------

    def on_filter_bar_said(self, said: FilterBar.Said) -> None:
        """A filter was typed."""
        try:
            if said.text is not None:
                sift(self.ui, said.text)
        except ValueError as error:
            self._say(str(error), "bad")
        self._raise_questions()
        self.paint()

    def on_command_bar_left(self, left: CommandBar.Left) -> None:
        """The command bar was closed."""
        self._raise_questions()
        self.paint()

    def on_command_bar_said(self, said: CommandBar.Said) -> None:
        """A command was typed."""
        self._obey(said.command)
        self._raise_questions()
        self.paint()

    def _obey(self, command: Command) -> None:
        ui, verb, args = self.ui, command.verb, command.args
        if verb == "plan_view" or (verb in VIEWS and verb != "plan"):
            view = verb.removesuffix("_view")
            self._do(press(ui, self.board, str(VIEWS.index(view) + 1), self.size.height))
        elif verb == "help":
            ui.help, ui.top = True, 0
        elif verb == "quit":
            self.exit()
        elif verb == "filter":
            sift(ui, args.get("text", ""))
        elif verb == "goto":
            if ui.player is None:
                self._say("nothing is replayed: 5, then enter", "bad")
            else:
                ui.player.seek(ui.player.begin + float(args["seconds"]))
        elif verb in ("approve", "deny"):
            self._ask(args["request"])
        elif self._source is None:
            self._say("a recorded run can only be looked at", "bad")
        elif ui.read_only and verb not in ("run", "plan"):
            self._say(f"READ-ONLY: no {verb}; slip monitor, without --read-only", "bad")
        elif verb in ("run", "plan"):
            self._try(self._preview(args["file"], command.inputs))
        elif verb == "call":
            self._try(self._call(args["skill"], args.get("on"), command.inputs))
        else:
            self._try(self._ask_daemon(verb, args))

    async def _preview(self, file: str, inputs: Mapping[str, str]) -> None:
        assert self._source is not None
        plan = self._source.plan(file, inputs)
        answer = await self._source.ask("plan", plan)
        self._previewed, self._previewed_at = plan, time.monotonic()
        self.ui.preview = preview_board(answer["plan"], self.board.me)
        self.ui.view, self.ui.detail, self.ui.plan = "plan", None, PlanState()
        if self.ui.read_only:
            self._say("this is how it would run; READ-ONLY starts nothing; esc goes back", "accent")
        else:
            self._say("this is how it would run; enter starts it, esc drops it", "accent")

    async def _start(self, plan: Mapping[str, Any]) -> None:
        assert self._source is not None
        answer = await self._source.ask("run", {**plan, "detach": True})
        self._previewed, self.ui.preview = None, None
        self.ui.plan = PlanState(run=word(answer["run"].get("run")))
        self._say(f"run {self.ui.plan.run} began", "good")

    async def _call(self, skill: str, on: str | None, typed: Mapping[str, str]) -> None:
        assert self._source is not None
        spec = (await self._source.ask("skills.show", {"skill": skill}))["skill"]
        given: Mapping[str, Any] | None = {}
        if not typed and (spec.get("inputSchema") or {}).get("properties"):
            given = await self.push_screen_wait(FormScreen(skill, spec["inputSchema"]))
        if given is None:
            return
        self._say(f"{skill} runs ...", "busy")
        args = {"skill": skill, "args": dict(given), "text": dict(typed)} | ({"on": on} if on else {})
        answer = await self._source.ask("call", args, seconds=CALL_SECONDS)
        value = answer.get("items", answer.get("value"))
        shown = {"on": answer.get("device"), "outcome": answer.get("outcome"), "value": value}
        self._show(skill, shown)

    async def _ask_daemon(self, verb: str, args: Mapping[str, str]) -> None:
        assert self._source is not None
        target = _VERBS[verb]
        if verb == "move":
            run, _, step = args["step"].partition("/")
            args = {"run": run, "step": step, "device": args["device"]}
        answer = await self._source.ask(target, {**args, **({"detach": True} if verb == "resume" else {})})
        told = ", ".join(f"{k} {v}" for k, v in harmless(answer).items() if k not in ("v", "end") and v is not None)
        self._say(f"{verb}: {told}", "good")

    def _show(self, title: str, value: Any) -> None:
        """A page with a value."""
        text = json.dumps(harmless(value), indent=2, ensure_ascii=False, default=str)
        self.ui.page = (((f" {title}", "title"),), (), *(((f"  {line}", ""),) for line in text.splitlines()))
        self.ui.detail, self.ui.top = ("page", title), 0
        self._say("done", "good")

    # -- questions -----------------------------------------------------------------------------------------------------

    def _ask(self, request: str = "") -> None:
        """Put the open questions to the person."""
        if self.ui.read_only or self._source is None:
            self._say("READ-ONLY answers nothing: slip monitor, without --read-only", "bad")
        elif len(self.screen_stack) == 1:
            self._consents.refresh(time.monotonic(), time.time())
            if request:
                self._consents.choose(request)
            self.push_screen(ConsentScreen(self._consents, self._answer))

    async def _answer(self, answer: Answer) -> str:
        """Tell the daemon; what stands then."""
        assert self._source is not None
        try:
            said_to = {"id": answer.request, "answer": answer.answer, "device": answer.device}
            stands = harmless(await self._source.ask("consent.answer", said_to))
        except SlipError as error:
            self._consents.failed(answer)
            said, style = plain("; ".join(part for part in (error.what, error.why) if part)), "bad"
        else:
            said, style = f"{stands.get('by')} said {stands.get('answer')}", "good"
        self._say(said, style)
        return said

    # -- recorded runs -------------------------------------------------------------------------------------------------

    async def _list_traces(self) -> None:
        assert self._source is not None
        self.ui.traces = harmless(await asyncio.to_thread(self._source.traces))

    async def _open(self, run: str) -> None:
        assert self._source is not None
        frames, title = await asyncio.to_thread(self._source.recorded, run)
        self.ui.player, self.ui.plan = Player(frames, title), PlanState()
        self._played = time.monotonic()
