"""`slip llm run`: one answer of a model, as it comes.

The passes run in a thread of their own: this one hears Ctrl-C in the middle of them, and stops them within
milliseconds. What was said until then stays on the screen.
"""

from __future__ import annotations

import argparse
import io
import json
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final

from ..core.energy import Drain
from ..core.errors import UsageError
from ..machine import machine
from ..runtime_ext.memory import available
from . import output
from .llm import RUN, Memory, explained, opened, processors, size
from .parsing import need

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..runtime_ext.generate import Generation, Options, Piece
    from ..runtime_ext.gguf import Gguf
    from ..runtime_ext.tokens import Tokenizer

_SHORT: Final = ("length", "context", "deadline", "dead end")
"""Ends at which an answer is not whole."""


def run(path: Path, args: argparse.Namespace) -> int:
    """Load, generate, and say what it took; 130 if it was interrupted, 1 if JSON was asked for and is not whole."""
    said = need(next(iter(args.words), None), "prompt", RUN)
    if said == "-":
        said = sys.stdin.read()
    schema = None if args.schema is None else _schema(Path(args.schema))
    with explained(path):
        options = _options(args)
        began = perf_counter()
        generation = _ready(path, args, said, schema, options)
        answer = Answer(generation, perf_counter() - began)
        _speak(answer, as_json=args.json)
    told = answer.told()
    if args.json:
        output.show_json(told)
    else:
        output.note(_summary(told))
    if generation.reason == "cancelled":
        return 130
    if schema is not None and generation.reason in _SHORT:
        output.note(f"the JSON is not whole: {generation.reason}")
        return 1
    return 0


def _options(args: argparse.Namespace) -> Options:
    from ..runtime_ext.generate import Options

    return Options(
        max_tokens=args.max_tokens, temperature=args.temperature, top_k=args.top_k, top_p=args.top_p, min_p=args.min_p,
        seed=args.seed, stop=tuple(args.stop), deadline=args.deadline,
        context_full="slide" if args.slide else "stop",
    )  # fmt: skip


def _schema(path: Path) -> Mapping[str, Any]:
    try:
        found = json.loads(path.read_text())
    except OSError as error:
        raise UsageError(f"{path} cannot be opened", error.strerror or str(error), "--schema FILE") from None
    except ValueError as error:
        raise UsageError(f"{path} is no JSON", str(error), '{"type": "object", "properties": {...}}') from None
    if not isinstance(found, dict):
        raise UsageError(f"{path} is no JSON object", "", '{"type": "object", "properties": {...}}')
    return found


def _ready(
    path: Path, args: argparse.Namespace, said: str, schema: Mapping[str, Any] | None, options: Options
) -> Generation:
    """A generation that can begin: everything is checked before the weights are touched."""
    from ..runtime_ext.architecture import Shape
    from ..runtime_ext.generate import Generation
    from ..runtime_ext.grammar import Grammar
    from ..runtime_ext.model import Model, Session
    from ..runtime_ext.tokens import Tokenizer

    with opened(path) as gguf:
        shape, tokenizer = Shape.of(gguf), Tokenizer(gguf.metadata)
        prompt = _prompt(gguf, tokenizer, args, said)
        grammar = None if schema is None else Grammar.of_schema(tokenizer, schema)
        context = args.context or min(shape.context, len(prompt) + options.max_tokens)
        kept, free = Memory.of(gguf, shape).kept(context), available()
        if free is not None and kept > free:
            raise MemoryError(f"it needs {size(kept)} for {context} tokens, and {size(free)} are free")
        try:
            model = Model(gguf, args.threads or processors(), progress=_loading)
        finally:
            output.progress("")
    return Generation(Session(model, context, kv=args.kv), tokenizer, prompt, options, grammar)


def _loading(part: float) -> None:
    output.progress(f"loading {part:4.0%}")


def _prompt(gguf: Gguf, tokenizer: Tokenizer, args: argparse.Namespace, said: str) -> Sequence[int]:
    """The tokens of what is said, in the form that the model speaks."""
    from ..runtime_ext.chat import CHATML, Template

    chat = args.chat
    if chat is None:
        chat = "file" if "tokenizer.chat_template" in gguf.metadata else "none"
        if chat == "none":
            output.note("the file has no chat template: the prompt is taken as plain text; or say --chat chatml")
    if chat == "none":
        if args.system is not None:
            raise UsageError("--system needs a chat template", "", "--chat chatml, or put it into the prompt")
        return tokenizer.encode(said)
    template = Template.of(gguf.metadata, tokenizer) if chat == "file" else Template.by(CHATML, tokenizer)
    messages = [] if args.system is None else [{"role": "system", "content": args.system}]
    return tokenizer.encode_parts(template.render([*messages, {"role": "user", "content": said}]))


class Answer:
    """A generation in a thread of its own, its pieces as they come, and what it took."""

    def __init__(self, generation: Generation, load: float) -> None:
        self.generation, self.load = generation, load
        self.text: list[str] = []
        self._pieces: SimpleQueue[Piece | BaseException | None] = SimpleQueue()
        self._meter = machine()
        self._first = self._last = 0.0
        self._count = 0
        self._drains: list[Drain | None] = []

    def __iter__(self) -> Iterator[Piece]:
        """Its pieces. Whoever leaves before the end cancels the rest."""
        thread = Thread(target=self._generate, name="generation")
        before = signal.signal(signal.SIGINT, lambda *_: self.generation.cancel())
        self._began = perf_counter()
        thread.start()
        try:
            while isinstance(piece := self._pieces.get(), tuple):
                self.text.append(piece.text)
                yield piece
            if piece is not None:
                raise piece
        finally:
            self.generation.cancel()
            thread.join()
            signal.signal(signal.SIGINT, before)

    def _generate(self) -> None:
        try:
            for piece in self.generation:
                if not self._first:
                    self._first, self._count = perf_counter(), len(piece.tokens)
                    self._drains.append(self._meter().get("drain"))
                self._pieces.put(piece)
            self._last = perf_counter()
            self._drains.append(self._meter().get("drain"))
            self._pieces.put(None)
        except BaseException as error:  # it is raised where the pieces are taken
            self._pieces.put(error)

    def told(self) -> dict[str, Any]:
        """What was said and what it took: seconds, tokens per second, joules per token of the answer."""
        usage, after = self.generation.usage, self.generation.usage.generated - self._count
        took = self._last - self._first
        fresh = usage.prompt - usage.reused
        return {
            "end": self.generation.reason,
            "text": "".join(self.text),
            "prompt_tokens": usage.prompt,
            "tokens": usage.generated,
            "drafted": usage.drafted,
            "accepted": usage.accepted,
            "load_seconds": self.load,
            "first_token_seconds": self._first - self._began if self._first else None,
            "prefill_per_second": fresh / usage.prefill if usage.prefill and self._first else None,
            "decode_per_second": after / took if self._first and after > 0 else None,
            "joules_per_token": joules(self._drains) / after if after > 0 and joules(self._drains) else None,
        }


def joules(drains: Sequence[Drain | None]) -> float:
    """What left the gauge between the first and the last reading; 0 if nobody can tell."""
    first, last = (drains[0], drains[-1]) if drains else (None, None)
    if first is None or last is None or first.source != last.source:
        return 0.0
    return max(0.0, last.joules - first.joules)


def _speak(answer: Answer, *, as_json: bool) -> None:
    """Print the pieces; on a terminal without what could steer it, elsewhere as they are."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a model may say what this terminal has no letters for
    shown, last = sys.stdout.isatty(), "\n"
    for piece in answer:
        if as_json:
            output.show_json({"text": piece.text, "tokens": piece.tokens})
        elif piece.text:
            last = output.harmless(piece.text) if shown else piece.text
            print(last, end="", flush=True)
    if not last.endswith("\n"):
        print(flush=True)


def _summary(told: Mapping[str, Any]) -> str:
    spoken = [f"loaded in {output.duration(told['load_seconds'])}"]
    if told["prefill_per_second"]:
        spoken.append(f"{told['prompt_tokens']} tokens read at {told['prefill_per_second']:.0f}/s")
    rate = f" at {told['decode_per_second']:.1f}/s" if told["decode_per_second"] else ""
    spoken.append(f"{told['tokens']} written{rate} ({told['end']})")
    per_token = told["joules_per_token"]
    spoken.append(f"{output.energy(per_token)}/token" if per_token else "energy: not measurable here")
    return "; ".join(spoken)
