"""A model file, run on this device: loaded once, one answer at a time, conversations gone on with where they were.

Laws: the event loop never waits for a pass: each runs in a thread. Whoever stops listening ends the answer within some
milliseconds; what the session took in by then is of use to the next one. A model that would not fit is refused before
its weights are touched. Nothing heavy is imported before a file is opened.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, Final, Literal, Self

import anyio
from anyio import from_thread, to_thread

from ....core.errors import Refused, SkillFailed, UsageError
from ....runtime_ext.memory import available

if TYPE_CHECKING:
    from ....runtime_ext.chat import Template
    from ....runtime_ext.generate import Generation, Options
    from ....runtime_ext.generate import Piece as Passed
    from ....runtime_ext.model import Model, Session
    from ....runtime_ext.reply import Call, Problem, Reader
    from ....runtime_ext.tokens import Tokenizer

Progress = Callable[[float], Coroutine[Any, Any, None]]
Finish = Literal["stop", "length", "tool_calls", "context", "deadline", "energy"]
"""Why an answer ended: it is whole, or tokens, context, time or joules ran out."""
Kv = Literal["f16", "q8_0"]
"""How a session keeps keys and values."""
CONTEXT: Final = 4096
"""Tokens of a conversation and its answer, if nobody says how many."""
SESSIONS: Final = 4
"""Conversations of a model that are kept; the one that was used longest ago goes first."""


@dataclass(frozen=True, slots=True)
class Card:
    """What a model file says of itself: sizes in bytes, context in tokens."""

    name: str
    architecture: str
    context: int
    """What it was trained for."""
    weights: int
    kv_token: int
    """Keys and values of one token."""

    def needs(self, context: int) -> int:
        """Bytes that are in memory while it answers with so many tokens held."""
        return self.weights + context * self.kv_token


@dataclass(frozen=True, slots=True)
class Usage:
    """What an answer took: tokens, seconds, and joules where they were measured."""

    prompt_tokens: int
    reused_tokens: int
    """Tokens of the prompt that an earlier turn had read already."""
    completion_tokens: int
    prefill_seconds: float
    decode_seconds: float
    joules: float | None = None


@dataclass(frozen=True, slots=True)
class Chance:
    """How likely a token was: its bytes, the natural logarithm of its probability, and the likeliest in its place."""

    token: bytes
    logprob: float
    likeliest: tuple[tuple[bytes, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Piece:
    """What is new of an answer; the last one says why it ended and what it took."""

    text: str = ""
    reasoning: str = ""
    calls: tuple[Call, ...] = ()
    problems: tuple[Problem, ...] = ()
    """What was meant as a call and is none."""
    chances: tuple[Chance, ...] = ()
    """Of a pass's tokens, if asked for: they come before what the tokens say is certain."""
    finish: Finish | None = None
    usage: Usage | None = None


@dataclass(slots=True)
class _Budget:
    """Joules that may still be used, as a meter counts them."""

    most: float | None
    meter: Callable[[], float | None] | None
    first: float | None = field(init=False, default=None)

    def begin(self) -> None:
        self.first = None if self.meter is None else self.meter()
        if self.most is not None and self.first is None:
            raise Refused("no budget in joules can be kept here", "this device cannot measure what it uses",
                          "leave max_joules out, or run it on a device that can measure")  # fmt: skip

    def used(self) -> float | None:
        now = None if self.meter is None or self.first is None else self.meter()
        return None if now is None or self.first is None else max(0.0, now - self.first)

    def over(self) -> bool:
        used = None if self.most is None else self.used()
        return used is not None and self.most is not None and used >= self.most


class Engine:
    """A loaded model and the conversations that it goes on with."""

    def __init__(
        self, path: Path, card: Card, model: Model, tokenizer: Tokenizer, template: Template, context: int, kv: Kv
    ) -> None:
        self.path, self.card, self.context, self.kv = path, card, context, kv
        self._model, self._tokenizer, self._template = model, tokenizer, template
        self._sessions: list[Session] = []  # the one used last is the last
        self._turn = anyio.Semaphore(1, max_value=1)  # a generator may be closed by another task than began it
        self._pass = Lock()  # also held by a pass that nobody waits for any more, until it sees that
        self.rate: float | None = None
        """Tokens per second of the last answer."""
        self.used = anyio.current_time()
        """When its last answer ended, or it was loaded; in s, on anyio's clock."""

    @classmethod
    async def open(
        cls, path: Path, *, threads: int | None = None, context: int | None = None, kv: Kv = "f16",
        progress: Progress | None = None,
    ) -> Self:  # fmt: skip
        """Load a model file; `progress` is told the part done; `context`: tokens, 4096 or what the model has if less;
        `kv`: the form of keys and values, q8_0 takes about half the memory.

        Raises:
            SkillFailed: the file cannot be run here, or a library is missing.
            Refused: it does not fit into memory now.
        """
        return cls(*await to_thread.run_sync(partial(cls._open, path, threads, context, kv, progress)))

    @classmethod
    def _open(
        cls, path: Path, threads: int | None, context: int | None, kv: Kv, progress: Progress | None
    ) -> tuple[Path, Card, Model, Tokenizer, Template, int, Kv]:
        with _explained(path):
            from ....runtime_ext.chat import CHATML, Template
            from ....runtime_ext.gguf import Gguf
            from ....runtime_ext.model import Model
            from ....runtime_ext.tokens import Tokenizer

            with Gguf.open(path) as gguf:
                card = _card(gguf, path, kv)
                context = min(context or CONTEXT, card.context)
                fits(card, context)
                tokenizer = Tokenizer(gguf.metadata)
                own = "tokenizer.chat_template" in gguf.metadata
                if not own and "<|im_start|>" not in tokenizer.specials:
                    raise SkillFailed(f"{path.name} cannot hold a conversation", "it has no chat template",
                                      "take a file of the model's chat or instruct form")  # fmt: skip
                template = Template.of(gguf.metadata, tokenizer) if own else Template.by(CHATML, tokenizer)
                model = Model(gguf, threads or len(os.sched_getaffinity(0)), progress=_Progress(progress))
        return path, card, model, tokenizer, template, context, kv

    @property
    def busy(self) -> bool:
        """Whether somebody is answered, or waits for it."""
        return self._turn.value == 0

    async def chat(
        self, messages: Sequence[Mapping[str, Any]], *, tools: Sequence[Mapping[str, Any]] | None = None,
        schema: Mapping[str, Any] | None = None, max_tokens: int = 512, temperature: float = 0.0, top_p: float = 1.0,
        seed: int | None = None, stop: Sequence[str] = (), logprobs: int | None = None, deadline: float | None = None,
        max_joules: float | None = None, meter: Callable[[], float | None] | None = None,
    ) -> AsyncGenerator[Piece, None]:  # fmt: skip
        """Answer a conversation (OpenAI's messages and tools), piece by piece; close it early to cancel.

        `schema`: a JSON schema that the whole text fits. `logprobs`: tell each token's chance, and so many of the
        likeliest in its place. `deadline`: seconds from now, waiting for other answers included. `meter` tells the
        joules that this device has used so far.

        Raises:
            UsageError: messages, tools, schema or options will not do.
            Refused: `max_joules` cannot be measured, or memory is short.
            SkillFailed: nothing that the model may say fits the schema.
        """
        if tools and schema is not None:
            raise UsageError("tools and a schema cannot go together", "an answer is a call or fits the schema",
                             "ask for one of them", field="schema")  # fmt: skip
        options = {"max_tokens": max_tokens, "temperature": temperature, "top_p": top_p, "seed": seed,
                   "stop": tuple(stop), "logprobs": logprobs}  # fmt: skip
        until = None if deadline is None else anyio.current_time() + deadline
        budget = _Budget(max_joules, meter)
        budget.begin()
        with _explained(self.path):
            prompt, thinking = await to_thread.run_sync(self._prompt, messages, tools, schema is not None)
        reader = self._reader(tools, schema, thinking)
        async with aclosing(self._answer(prompt, schema, reader, options, until, budget)) as pieces:
            async for piece in pieces:
                yield piece

    async def complete(
        self, text: str, *, max_tokens: int = 512, temperature: float = 0.0, top_p: float = 1.0,
        seed: int | None = None, stop: Sequence[str] = (), logprobs: int | None = None,
    ) -> AsyncGenerator[Piece, None]:  # fmt: skip
        """Go on with a text that is no conversation: no template, nothing taken apart; close it early to cancel.

        Raises:
            UsageError: text or options will not do.
            Refused: memory is short.
        """
        options = {"max_tokens": max_tokens, "temperature": temperature, "top_p": top_p, "seed": seed,
                   "stop": tuple(stop), "logprobs": logprobs}  # fmt: skip
        prompt = await to_thread.run_sync(self._tokenizer.encode, text)
        async with aclosing(self._answer(prompt, None, None, options, None, _Budget(None, None))) as pieces:
            async for piece in pieces:
                yield piece

    async def _answer(
        self, prompt: list[int], schema: Mapping[str, Any] | None, reader: Reader | None, options: dict[str, Any],
        until: float | None, budget: _Budget,
    ) -> AsyncGenerator[Piece, None]:  # fmt: skip
        """What the model says after a prompt, once nobody else is answered."""
        with anyio.CancelScope(deadline=math.inf if until is None else until) as waiting:
            await self._turn.acquire()
        if waiting.cancelled_caught:
            yield Piece(finish="deadline", usage=Usage(len(prompt), 0, 0, 0.0, 0.0, budget.used()))
            return
        try:
            budget.begin()  # what others used meanwhile is theirs
            left = None if until is None else max(0.0, until - anyio.current_time())
            with _explained(self.path):
                generation = await self._thread(partial(self._begin, prompt, schema, options | {"deadline": left}))
            async with aclosing(self._pieces(generation, reader, budget)) as pieces:
                async for piece in pieces:
                    yield piece
        finally:
            self._turn.release()
            self.used = anyio.current_time()

    async def _pieces(
        self, generation: Generation, reader: Reader | None, budget: _Budget
    ) -> AsyncGenerator[Piece, None]:
        over, first = False, 0
        try:
            while not over:
                with _explained(self.path):
                    passed = await self._thread(partial(next, generation, None))
                if passed is None:
                    break
                first = first or len(passed.tokens)
                if passed.logprobs:
                    yield Piece(chances=self._chances(passed))
                for piece in _read(passed, reader):
                    yield piece
                over = budget.over()
        finally:
            generation.cancel()  # nothing if it has ended
        rest, reply = reader.finish() if reader is not None else ([], None)
        for each in rest:
            yield _piece(each)
        usage = generation.usage
        if usage.decode:
            self.rate = (usage.generated - first) / usage.decode  # the first pass reads the prompt
        reason = generation.reason
        if reason == "dead end":
            raise SkillFailed("the answer cannot go on", "nothing that the model may say fits the schema",
                              "allow more in the schema")  # fmt: skip
        finish: Finish = "stop"
        if reason in ("length", "context", "deadline"):
            finish = reason
        elif over and reason is None:
            finish = "energy"
        elif reply is not None and reply.calls:
            finish = "tool_calls"
        yield Piece(finish=finish, usage=Usage(
            usage.prompt, usage.reused, usage.generated, usage.prefill, usage.decode, budget.used(),
        ))  # fmt: skip

    def _chances(self, passed: Passed) -> tuple[Chance, ...]:
        piece = self._tokenizer.piece
        return tuple(
            Chance(piece(token), chance.logprob, tuple((piece(other), value) for other, value in chance.likeliest))
            for token, chance in zip(passed.tokens, passed.logprobs, strict=True)
        )

    async def _thread(self, call: Callable[[], Any]) -> Any:
        """Make a call in a thread, alone; whoever is cancelled does not wait for its end."""

        def alone() -> Any:
            with self._pass:
                return call()

        return await to_thread.run_sync(alone, abandon_on_cancel=True)

    def _prompt(
        self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] | None, plain: bool
    ) -> tuple[list[int], bool]:
        """The prompt's tokens, and whether it leaves the model in the middle of its reasoning."""
        settings: dict[str, Any] = {"enable_thinking": False} if plain else {}
        parts = self._template.render(messages, tools or None, **settings)
        thinking = bool(parts) and parts[-1][1] and parts[-1][0].rstrip().endswith("<think>")
        if thinking and plain:  # what fits a schema begins with the answer
            parts.append(("\n</think>\n\n", True))
        return self._tokenizer.encode_parts(parts), thinking

    def _reader(
        self, tools: Sequence[Mapping[str, Any]] | None, schema: Mapping[str, Any] | None, thinking: bool
    ) -> Reader | None:
        """What takes the answer apart; none for JSON, in whose strings tags mean nothing."""
        from ....runtime_ext.reply import Reader

        return None if schema is not None else Reader(tools or (), thinking)

    def _begin(self, prompt: list[int], schema: Mapping[str, Any] | None, options: dict[str, Any]) -> Generation:
        from ....runtime_ext.generate import GenerateError, Generation, Options
        from ....runtime_ext.grammar import Grammar

        checked: Options = Options(**options)
        grammar = None if schema is None else Grammar.of_schema(self._tokenizer, schema)
        if len(prompt) > self.context:
            raise GenerateError(f"the conversation has {len(prompt)} tokens, and the context is {self.context}",
                                "leave older messages out, or set a larger context for the pack llm")  # fmt: skip
        return Generation(self._session(prompt), self._tokenizer, prompt, checked, grammar)

    def _session(self, prompt: list[int]) -> Session:
        """A session that holds as much of the prompt as any does; what goes on otherwise there is kept as well."""
        from ....runtime_ext.model import Session

        common, best = max(((_common(each.tokens, prompt), i) for i, each in enumerate(self._sessions)), default=(0, 0))
        if not common:
            session = Session(self._model, self.context, kv=self.kv)
        elif common < len(self._sessions[best]) - 1:  # the last token is read again anyway
            session = self._sessions[best].fork()
        else:
            session = self._sessions.pop(best)
        self._sessions.append(session)
        room = available()
        while len(self._sessions) > SESSIONS or (
            room is not None and len(self._sessions) > 1 and room < (self.context - common) * self.card.kv_token
        ):
            room = None if room is None else room + len(self._sessions.pop(0)) * self.card.kv_token
        return session


def card(path: Path, kv: Kv = "f16") -> Card:
    """What a model file says of itself; it reads the header only.

    Raises:
        SkillFailed: it cannot be run here.
    """
    with _explained(path):
        from ....runtime_ext.gguf import Gguf

        with Gguf.open(path) as gguf:
            return _card(gguf, path, kv)


def fits(card: Card, context: int) -> None:
    """Refuse what does not fit into memory now.

    Raises:
        Refused: it says what is needed and what is there.
    """
    if (room := available()) is not None and card.needs(context) > room:
        raise Refused(
            f"there is no room for {card.name}",
            f"it needs {card.needs(context) / 1e9:.1f} GB for {context} tokens, and {room / 1e9:.1f} GB are free",
            "take a smaller model, or set a smaller context for the pack llm",
        )


class _Progress:
    """Tells of every twentieth part, and ends a loading that nobody waits for any more."""

    def __init__(self, tell: Progress | None) -> None:
        self._tell, self._next = tell, 0.0

    def __call__(self, part: float) -> None:
        from_thread.check_cancelled()
        if self._tell is not None and part >= self._next:
            self._next = part + 0.05
            from_thread.run(self._tell, part)


def _card(gguf: Any, path: Path, kv: Kv) -> Card:
    from ....runtime_ext.architecture import Shape

    shape = Shape.of(gguf)
    values = shape.layers * shape.kv_heads * shape.head_dim * 2
    weights = sum(tensor.nbytes for tensor in gguf.tensors.values())
    token = values * 2 if kv == "f16" else values * 34 // 32  # of 32 values and their scale
    return Card(shape.name or path.stem, shape.architecture, shape.context, weights, token)


def _common(held: Sequence[int], prompt: Sequence[int]) -> int:
    """How many tokens two begin with."""
    return next((i for i, (a, b) in enumerate(zip(held, prompt, strict=False)) if a != b), min(len(held), len(prompt)))


def _read(passed: Passed, reader: Reader | None) -> Iterator[Piece]:
    if reader is None:
        if passed.text:
            yield Piece(text=passed.text)
        return
    yield from map(_piece, reader.feed(passed.text))


def _piece(said: Any) -> Piece:
    return Piece(
        said.text, said.reasoning, () if said.call is None else (said.call,),
        () if said.problem is None else (said.problem,),
    )  # fmt: skip


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """What can be wrong with a model file, and with what is asked of it, as errors that say whose fault it is.

    Raises:
        SkillFailed: the file, or this device, will not do.
        Refused: memory is short now.
        UsageError: what is asked will not do.
    """
    try:
        from ....runtime_ext.architecture import ModelError
        from ....runtime_ext.generate import GenerateError
        from ....runtime_ext.gguf import GgufError
        from ....runtime_ext.grammar import GrammarError
        from ....runtime_ext.sandbox import TemplateError
        from ....runtime_ext.tokens import TokenizerError
    except ImportError as error:
        what, _, hint = str(error).partition("; run: ")
        raise SkillFailed("a library that models need is missing", what, hint) from None
    try:
        yield
    except OSError as error:
        raise SkillFailed(f"{path} cannot be opened", error.strerror or str(error),
                          "put the file there, or mend models of the pack llm") from None  # fmt: skip
    except (GgufError, ModelError, TokenizerError) as error:
        raise SkillFailed(f"{path.name} cannot be run here", str(error), "take another file of the model") from None
    except TemplateError as error:
        raise UsageError("the model does not take this conversation", str(error), "mend messages or tools",
                         field="messages") from None  # fmt: skip
    except GrammarError as error:
        raise UsageError(
            error.what, "", error.hint or "mend the schema, or ask for less in it", field="schema"
        ) from None
    except GenerateError as error:
        raise UsageError(error.what, "", error.hint or "mend what it names") from None
    except MemoryError as error:
        raise Refused(f"memory ran out for {path.name}", str(error), "take a smaller model, or shorten the "
                      "conversation") from None  # fmt: skip


def arguments(call: Call) -> str:
    """A call's arguments as OpenAI's protocol has them: JSON in a text."""
    return json.dumps(call.arguments, ensure_ascii=False)
