"""`llm.generate` and `llm.models`: an answer of a model on this device, and which models there are."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Annotated, Any, Final
from uuid import uuid4

import anyio
from pydantic import BaseModel, Field, JsonValue

from ....core.errors import Denied, SlipError, TimedOut
from ....core.skill import Context, Cost, Effect, skill
from ..labels import Personal
from .backend import Llm
from .endpoint import Endpoint
from .local import Finish, Piece, arguments

MARGIN: Final = 0.5
"""Seconds before a caller's deadline at which an answer ends with what it has, at most a tenth of what is left: time
for the pass under way, and for the way back."""


class Function(BaseModel):
    """Which tool is called, and with what."""

    name: str
    arguments: str = Field(description="JSON, as a text")


class ToolCall(BaseModel):
    """A call of a tool, in OpenAI's form: it goes back into `messages` as it is."""

    id: str
    type: str = "function"
    function: Function


class Spent(BaseModel):
    """What an answer took."""

    prompt_tokens: int
    reused_tokens: int = Field(description="tokens of the prompt that an earlier turn had read already")
    completion_tokens: int
    prefill_seconds: float
    decode_seconds: float
    joules: float | None = Field(None, description="null where this device cannot measure")


class Said(BaseModel):
    """What is new of an answer. The texts of all items, one after the other, are its text."""

    text: Personal[str] = ""
    reasoning: Personal[str] = ""
    tool_calls: Personal[list[ToolCall]] = Field(default_factory=list)
    problems: Personal[list[str]] = Field(default_factory=list, description="what was meant as a call and is none")
    finish: Finish | None = Field(None, description="in the last item: why it ended; stop: it is whole")
    usage: Spent | None = Field(None, description="in the last item; null if an endpoint did not tell")
    model: str = Field("", description="in the last item: which model answered")


class ModelInfo(BaseModel):
    """A model of this device."""

    name: str
    loaded: bool
    where: str = Field("here", description="here, or the host of the endpoint that runs it")
    architecture: str = ""
    context: int | None = Field(None, description="tokens of a conversation and its answer")
    weights_bytes: int | None = None
    tokens_per_second: float | None = Field(None, description="of its last answer")
    problem: str = Field("", description="why it cannot answer")


class Models(BaseModel):
    """The models of this device; the first that has no problem answers if none is named."""

    models: list[ModelInfo]


@skill("llm.generate", effect=Effect.READ, needs=["llm.generate"], cost=Cost(latency_ms=8000, energy_mwh=20))
async def llm_generate(
    ctx: Context,
    messages: Annotated[
        Personal[list[dict[str, JsonValue]]],
        Field(min_length=1, max_length=1000, description="the conversation, in OpenAI's form: role, content"),
    ],
    tools: Annotated[
        list[dict[str, JsonValue]], Field(max_length=200, description="tools that may be called, in OpenAI's form")
    ] = [],  # noqa: B006
    schema: Annotated[
        dict[str, JsonValue] | None,
        Field(
            description="the text is JSON that fits this JSON schema; what it does not bound may never end: "
            "say additionalProperties: false, maxLength, maxItems"
        ),
    ] = None,
    model: Annotated[
        str, Field(max_length=200, description="which model; left out: the device's first that can answer")
    ] = "",
    max_tokens: Annotated[int, Field(ge=1, le=2**20, description="budget of the answer, in tokens")] = 512,
    max_ms: Annotated[
        int | None,
        Field(
            ge=1, description="budget from the question on, in ms; not loading. Before a caller's deadline it ends, too"
        ),
    ] = None,
    max_joules: Annotated[float | None, Field(gt=0, description="budget in J, where it can be measured")] = None,
    temperature: Annotated[float, Field(ge=0, le=100, description="0: the likeliest token")] = 0.0,
    top_p: Annotated[float, Field(ge=0, le=1)] = 1.0,
    seed: Annotated[int | None, Field(ge=0, description="the same answer again")] = None,
    stop: Annotated[list[str], Field(max_length=16, description="texts that end the answer before them")] = [],  # noqa: B006
    stream: Annotated[
        bool, Field(description="false: one item, with the whole answer: what plans and skills read, as result.0.text")
    ] = True,
) -> AsyncIterator[Said]:
    """Answer a conversation with a language model: of a file, which runs here and shows nobody anything, or behind an
    endpoint that this device's config names."""
    llm = ctx.backend(Llm)
    name = model or [*llm.answers, *llm.names][0]
    engine = await llm.answering(name, lambda part: ctx.progress(part, f"loading {name}"))
    if ctx.private and isinstance(engine, Endpoint) and not engine.settings.here:
        raise Denied("the conversation holds what may not leave this device", f"{name} is at {engine.settings.host}",
                     "ask a model that runs on this device", model=name)  # fmt: skip
    if engine.busy:
        await ctx.progress(0.0, f"{name} answers somebody else first")
    asked, left = None if max_ms is None else max_ms / 1000, _left(ctx)
    answer = engine.chat(
        messages, tools=tools, schema=schema, max_tokens=max_tokens, temperature=temperature, top_p=top_p, seed=seed,
        stop=stop, deadline=min((each for each in (asked, left) if each is not None), default=None),
        max_joules=max_joules, meter=ctx.joules,
    )  # fmt: skip
    items: list[Said] = []
    said = False
    async with aclosing(answer) as pieces:
        async for piece in pieces:
            said = said or bool(piece.text or piece.reasoning or piece.calls)
            if piece.finish == "deadline" and not said and (asked is None or (left is not None and left < asked)):
                raise TimedOut(f"{name} said nothing in time", "loading, waiting for other answers or reading the "
                               "conversation took it all", "allow it more time, or ask a smaller model")  # fmt: skip
            if stream:
                yield _said(piece, name)
            else:
                items.append(_said(piece, name))
    if not stream:
        yield _joined(items)


@skill("llm.models", effect=Effect.READ, needs=["llm.models"], cost=Cost(latency_ms=100))
async def llm_models(ctx: Context) -> Models:
    """Which language models this device has, and what each can hold."""
    llm = ctx.backend(Llm)
    found = []
    for name in llm.paths:
        engine = llm.loaded(name)
        told = ModelInfo(name=name, loaded=engine is not None)
        try:
            card = engine.card if engine is not None else await llm.card(name)
        except SlipError as error:
            told.problem = str(error)
        else:
            told.architecture, told.weights_bytes = card.architecture, card.weights
            told.context = llm.context(card)
            told.tokens_per_second = None if engine is None else engine.rate
        found.append(told)
    for name, endpoint in llm.endpoints.items():
        told = ModelInfo(name=name, loaded=True, where=endpoint.settings.host, context=endpoint.settings.context)
        told.tokens_per_second = endpoint.rate
        told.problem = "" if endpoint.allowed else "it may not be sent what is personal: personal = false"
        found.append(told)
    return Models(models=found)


def _left(ctx: Context) -> float | None:
    """Seconds until an answer has to end, so that its caller still hears of it; None if nobody set a deadline."""
    if ctx.deadline is None:
        return None
    left = max(0.0, ctx.deadline - anyio.current_time())
    return left - min(MARGIN, left / 10)


def _said(piece: Piece, model: str) -> Said:
    made: dict[str, Any] = {}
    if piece.finish is not None:
        made["finish"], made["model"] = piece.finish, model
    if (usage := piece.usage) is not None:
        made["usage"] = Spent(
            prompt_tokens=usage.prompt_tokens, reused_tokens=usage.reused_tokens,
            completion_tokens=usage.completion_tokens, prefill_seconds=usage.prefill_seconds,
            decode_seconds=usage.decode_seconds, joules=usage.joules,
        )  # fmt: skip
    return Said(
        text=piece.text, reasoning=piece.reasoning, problems=[f"{p.why}: {p.text}" for p in piece.problems],
        tool_calls=[
            ToolCall(id=f"call_{uuid4().hex}", function=Function(name=call.name, arguments=arguments(call)))
            for call in piece.calls
        ],
        **made,
    )  # fmt: skip


def _joined(items: list[Said]) -> Said:
    return Said(
        text="".join(item.text for item in items), reasoning="".join(item.reasoning for item in items),
        tool_calls=[call for item in items for call in item.tool_calls],
        problems=[problem for item in items for problem in item.problems],
        finish=items[-1].finish, usage=items[-1].usage, model=items[-1].model,
    )  # fmt: skip
