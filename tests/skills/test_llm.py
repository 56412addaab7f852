"""The pack of models on a small file with random weights: answers, budgets, conversations, cancelling, refusals."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
import threading
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
import trio
from trio.testing import MockClock

pytest.importorskip("regex", reason="the extra `llm` is not installed: no regex")
pytest.importorskip("jinja2", reason="the extra `llm` is not installed: no jinja2")

import anyio.lowlevel

from slipstream.core.errors import Refused, SkillFailed, TimedOut, UsageError
from slipstream.core.skill import Catalogue, Context, spec_of
from slipstream.runtime_ext.generate import Generation, Options
from slipstream.runtime_ext.model import Session
from slipstream.runtime_ext.reply import Reader
from slipstream.skills.packs.llm import local, pack
from slipstream.skills.packs.llm.backend import GUESSED, IDLE, READ
from slipstream.skills.packs.llm.generate import Said, llm_generate, llm_models
from slipstream.skills.packs.llm.local import Engine, Piece
from slipstream.testing import mesh

pytestmark = pytest.mark.anyio
MAKE = Path(__file__).parents[1] / "models" / "make_gguf.py"
HELLO = [{"role": "user", "content": "Where is the car?"}]
SCHEMA = {
    "type": "object", "properties": {"skill": {"enum": ["cabin.warm", "nav.find"]}, "soon": {"type": "boolean"}},
    "required": ["skill", "soon"], "additionalProperties": False,
}  # fmt: skip
TOOL = {"type": "function", "function": {"name": "find", "parameters": {"type": "object", "properties": {}}}}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"  # threads are real, so is time


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two models; the first has the larger file."""
    folder, make = tmp_path_factory.mktemp("models"), runpy.run_path(str(MAKE))["make"]
    large, small = folder / "large.gguf", folder / "small.gguf"
    make(large, "tiny", "F16")
    make(small, "tiny", "Q8_0", "qwen3")
    return large, small


@pytest.fixture
async def engine(files: tuple[Path, Path]) -> Engine:
    return await Engine.open(files[1], threads=1, context=512)


async def answer(engine: Engine, messages: list[dict[str, Any]] = HELLO, **options: Any) -> list[Piece]:
    return [piece async for piece in engine.chat(messages, **options)]


async def items(ctx: Context, **args: Any) -> list[Said]:
    spec = spec_of(llm_generate)
    return [item async for item in spec.fn(ctx, **spec.check({"messages": HELLO} | args))]


def text(pieces: list[Any]) -> str:
    return "".join(piece.text for piece in pieces)


async def test_an_answer_comes_in_pieces_and_the_last_one_says_why_it_ended_and_what_it_took(engine: Engine) -> None:
    pieces = await answer(engine, max_tokens=20)
    assert len([piece for piece in pieces if piece.text]) > 1
    assert [piece.finish for piece in pieces[:-1]] == [None] * (len(pieces) - 1)
    last = pieces[-1]
    assert last.finish == "length"
    assert last.usage is not None
    assert last.usage.completion_tokens == 20
    assert last.usage.prompt_tokens > 5
    assert last.usage.joules is None
    assert engine.rate is not None


async def test_the_rate_counts_only_tokens_that_a_pass_of_their_own_made(engine: Engine) -> None:
    usage = (await answer(engine, max_tokens=2, temperature=1.0, seed=1))[-1].usage
    assert usage is not None
    assert engine.rate == pytest.approx(1 / usage.decode_seconds)  # the first came out of the pass over the prompt


async def test_the_same_seed_gives_the_same_answer_whatever_was_said_before(engine: Engine) -> None:
    first = await answer(engine, max_tokens=16, temperature=1.0, seed=7)
    await answer(engine, [{"role": "user", "content": "Something else"}], max_tokens=9)
    assert text(await answer(engine, max_tokens=16, temperature=1.0, seed=7)) == text(first)


async def test_a_conversation_is_gone_on_with_where_it_was_though_others_were_between(engine: Engine) -> None:
    first = await answer(engine, max_tokens=8)
    await answer(engine, [{"role": "system", "content": "Be brief."}, *HELLO], max_tokens=8)
    longer = [*HELLO, {"role": "assistant", "content": text(first)}, {"role": "user", "content": "And now?"}]
    again = (await answer(engine, longer, max_tokens=8))[-1].usage
    assert first[-1].usage is not None
    assert again is not None
    assert again.reused_tokens >= first[-1].usage.prompt_tokens


async def test_each_token_of_an_answer_has_its_chance_if_asked_for(engine: Engine) -> None:
    pieces = await answer(engine, max_tokens=6, logprobs=3)
    chances = [chance for piece in pieces for chance in piece.chances]
    assert len(chances) == 6
    assert b"".join(chance.token for chance in chances).decode(errors="replace").strip() == text(pieces)
    for chance in chances:
        assert [chance.token, chance.logprob] == list(chance.likeliest[0])  # at temperature 0
        assert 0 > chance.likeliest[0][1] >= chance.likeliest[1][1] >= chance.likeliest[2][1]
    assert not [piece for piece in await answer(engine, max_tokens=6) if piece.chances]


async def test_a_text_is_gone_on_with_as_it_is(engine: Engine) -> None:
    pieces = [piece async for piece in engine.complete("Where is the car?", max_tokens=6)]
    prompt = engine._tokenizer.encode("Where is the car?")
    expected = Generation(Session(engine._model), engine._tokenizer, prompt, Options(max_tokens=6))
    assert text(pieces) == text(list(expected)) != ""
    assert pieces[-1].usage is not None
    assert pieces[-1].usage.prompt_tokens == len(prompt)
    with pytest.raises(UsageError):
        [piece async for piece in engine.complete("Hello", max_tokens=0)]


async def test_conversations_that_are_kept_are_few(engine: Engine) -> None:
    for number in range(local.SESSIONS + 3):
        await answer(engine, [{"role": "user", "content": f"{number} {'x' * number}"}], max_tokens=2)
    assert len(engine._sessions) == local.SESSIONS


async def test_conversations_make_room_where_memory_is_short(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    await answer(engine, max_tokens=2)
    monkeypatch.setattr(local, "available", lambda: 0)
    await answer(engine, [{"role": "user", "content": "Something else"}], max_tokens=2)
    assert len(engine._sessions) == 1


async def test_an_answer_by_a_schema_is_json_that_fits_it(engine: Engine) -> None:
    pytest.importorskip("llguidance", reason="the extra `llm` is not installed: no llguidance")
    pieces = await answer(engine, schema=SCHEMA, max_tokens=200)
    said = json.loads(text(pieces))
    assert said.keys() == {"skill", "soon"}
    assert said["skill"] in ("cabin.warm", "nav.find")
    assert pieces[-1].finish == "stop"


async def test_what_nothing_satisfies_is_the_askers_fault_and_the_next_one_is_answered(engine: Engine) -> None:
    pytest.importorskip("llguidance", reason="the extra `llm` is not installed: no llguidance")
    with pytest.raises(UsageError) as wrong:
        await answer(engine, schema={"type": "string", "minLength": 3, "maxLength": 1})
    assert (wrong.value.where["field"], "schema" in wrong.value.hint) == ("schema", True)
    assert (await answer(engine, max_tokens=2))[-1].finish == "length"


async def test_a_call_ends_with_tool_calls_and_reads_back_as_a_message(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Calling(Reader):
        """Random weights call nothing: what is fed is a call, whatever they say."""

        fed = False

        def feed(self, text: str) -> Any:
            fed, self.fed = self.fed, True
            return [] if fed else super().feed('<tool_call>{"name": "find", "arguments": {"a": "ü"}}</tool_call>')

    end = text(await answer(engine, tools=[TOOL], max_tokens=20))[3]
    monkeypatch.setattr("slipstream.runtime_ext.reply.Reader", Calling)
    pieces = await answer(engine, tools=[TOOL], stop=[end])
    assert pieces[-1].finish == "tool_calls"
    [call] = [call for piece in pieces for call in piece.calls]
    assert json.loads(local.arguments(call)) == {"a": "ü"}
    message = {"role": "assistant", "content": "", "tool_calls": [
        {"id": "1", "type": "function", "function": {"name": call.name, "arguments": local.arguments(call)}},
    ]}  # fmt: skip
    monkeypatch.undo()
    result = {"role": "tool", "tool_call_id": "1", "content": "below the house"}
    assert (await answer(engine, [*HELLO, message, result], tools=[TOOL], max_tokens=2))[-1].finish == "length"


async def test_tools_and_a_schema_together_are_refused(engine: Engine) -> None:
    with pytest.raises(UsageError, match="together"):
        await answer(engine, tools=[TOOL], schema=SCHEMA)


@pytest.mark.parametrize(
    ("messages", "options"),
    [
        ([{"role": "pirate", "content": "x"}], {}),
        ([{"role": "user", "content": 5}], {}),
        ([{"role": "user", "content": "word " * 600}], {}),
        (HELLO, {"stop": ["x" * 300]}),
        (HELLO, {"temperature": -1.0}),
    ],
)
async def test_what_will_not_do_is_the_askers_fault(engine: Engine, messages: Any, options: Any) -> None:
    with pytest.raises(UsageError) as wrong:
        await answer(engine, messages, **options)
    assert wrong.value.hint
    assert not engine.busy


async def test_a_budget_of_time_that_is_over_ends_the_answer(engine: Engine) -> None:
    pieces = await answer(engine, deadline=0.0)
    assert pieces[-1].finish == "deadline"


async def test_a_budget_of_time_counts_waiting_for_others(engine: Engine) -> None:
    async with aclosing(engine.chat(HELLO, max_tokens=400)) as other:
        await anext(other)  # it has the model until it is closed
        pieces = await answer(engine, deadline=0.01)
    assert pieces[-1].finish == "deadline"
    assert text(pieces) == ""


@pytest.mark.parametrize(
    ("max_ms", "left", "given"),
    [(None, None, None), (9000, None, 9.0), (None, 20, 19.5), (9000, 20, 9.0), (None, 1, 0.9)],
)
async def test_an_answer_ends_with_what_it_has_before_its_callers_deadline(
    files: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
    max_ms: int | None,
    left: float | None,
    given: float | None,
) -> None:
    async def chat(self: Engine, messages: Any, *, deadline: float | None, **options: Any) -> Any:
        asked.append(deadline)
        for each in texts:
            yield Piece(each)
        yield Piece(finish="deadline")

    asked: list[float | None] = []
    texts = ["half an"]
    monkeypatch.setattr(Engine, "chat", chat)
    async with pack.open({"models": [files[1]], "threads": 1}) as llm:
        await llm.engine("")  # loading takes none of the time
        ctx = Context(llm)
        ctx.deadline = None if left is None else anyio.current_time() + left
        [said] = await items(ctx, stream=False, max_ms=max_ms)
        assert (said.text, said.finish) == ("half an", "deadline")
        assert asked == [None if given is None else pytest.approx(given, rel=0.1)]
        texts.clear()
        if given == 9.0:  # the budget that was asked for: to have said nothing by then is an answer
            assert [item.finish for item in await items(ctx, max_ms=max_ms)] == ["deadline"]
        elif left is not None:
            with pytest.raises(TimedOut, match="said nothing in time"):
                await items(ctx, max_ms=max_ms)


async def test_joules_end_an_answer_where_they_are_measured_and_are_refused_elsewhere(engine: Engine) -> None:
    used = iter(range(1000))
    pieces = await answer(engine, max_joules=3.0, meter=lambda: float(next(used)), max_tokens=100)
    assert pieces[-1].finish == "energy"
    assert pieces[-1].usage is not None
    assert pieces[-1].usage.completion_tokens < 100
    assert pieces[-1].usage.joules is not None
    for meter in (None, lambda: None):
        with pytest.raises(Refused, match="joules"):
            await answer(engine, max_joules=3.0, meter=meter)


async def test_whoever_stops_listening_gives_the_model_to_the_next(engine: Engine) -> None:
    async def patient() -> None:
        found.extend(await answer(engine, max_tokens=3))

    found: list[Piece] = []
    async with anyio.create_task_group() as group:
        async with aclosing(engine.chat(HELLO, max_tokens=400)) as first:
            await anext(first)
            group.start_soon(patient)
            await anyio.wait_all_tasks_blocked()
            assert not found
    assert found[-1].finish == "length"
    assert not engine.busy


async def test_cancelling_in_the_middle_of_a_pass_leaves_a_model_that_answers(engine: Engine) -> None:
    right = text(await answer(engine, max_tokens=12))
    long = [{"role": "user", "content": "word " * 100}]
    for delay in (0.0, 0.001, 0.003, 0.01, 0.03):
        with anyio.move_on_after(delay):
            await answer(engine, long, max_tokens=400)
        assert not engine.busy
        assert text(await answer(engine, max_tokens=12)) == right


async def test_a_pass_that_nobody_waits_for_is_stopped_and_the_next_answer_begins_after_it(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, stopped, asked, end = (threading.Event() for _ in range(4))
    seen: list[bool] = []
    real_next, real_cancel = Generation.__next__, Generation.cancel

    def slow(self: Generation) -> Any:
        if begun.is_set():
            seen.append(end.is_set())
            return real_next(self)
        begun.set()
        seen.append(stopped.wait(10))  # seconds, after which nobody has told it to stop
        end.wait(10)
        return None

    def cancel(self: Generation) -> None:
        stopped.set()
        real_cancel(self)

    class Watched:
        """The lock of passes, telling that somebody waits for it."""

        lock = engine._pass

        def __enter__(self) -> None:
            if begun.is_set():
                asked.set()
            self.lock.acquire()

        def __exit__(self, *_: object) -> None:
            self.lock.release()

    monkeypatch.setattr(engine, "_pass", Watched())
    monkeypatch.setattr(Generation, "__next__", slow)
    monkeypatch.setattr(Generation, "cancel", cancel)
    async with anyio.create_task_group() as group:
        group.start_soon(answer, engine)
        await anyio.to_thread.run_sync(begun.wait)
        group.cancel_scope.cancel()
    async with anyio.create_task_group() as group:
        group.start_soon(partial(answer, engine, max_tokens=2))
        assert await anyio.to_thread.run_sync(asked.wait, 10)
        end.set()
    assert seen[0]
    assert len(seen) > 1
    assert all(seen)


async def test_the_loop_goes_on_while_the_model_thinks(engine: Engine) -> None:
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            await anyio.lowlevel.checkpoint()
            turns += 1

    async with anyio.create_task_group() as group:
        group.start_soon(count)
        pieces = await answer(engine, max_tokens=20)
        group.cancel_scope.cancel()
    assert turns > len(pieces)


async def test_loading_tells_how_far_it_is_and_can_be_cancelled(files: tuple[Path, Path]) -> None:
    told: list[float] = []

    async def tell(part: float) -> None:
        told.append(part)

    await Engine.open(files[0], threads=1, progress=tell)
    assert told == sorted(told)
    assert 0 <= told[0] < told[-1] <= 1

    async def leave(part: float) -> None:
        told.append(part)
        scope.cancel()

    told.clear()
    with anyio.CancelScope() as scope:
        await Engine.open(files[0], threads=1, progress=leave)
    assert scope.cancelled_caught
    assert len(told) == 1


async def test_what_does_not_fit_is_refused_before_it_is_loaded_and_a_smaller_one_is_named(
    files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with pack.open({"models": files, "threads": 1, "context": 64}) as llm:
        large, small = await llm.card("large"), await llm.card("small")
        assert large.weights > small.weights
        for module in ("local", "backend"):
            monkeypatch.setattr(f"slipstream.skills.packs.llm.{module}.available", lambda: large.needs(64) - 1)
        with pytest.raises(Refused) as refused:
            await llm.engine("")
        assert "small" in refused.value.hint
        assert llm.loaded("large") is None
        assert await llm.engine("small") is llm.loaded("small")


async def test_a_file_that_does_not_fit_is_not_loaded(
    files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "available", lambda: 1_000_000)
    with pytest.raises(Refused, match="no room"):
        await Engine.open(files[0])


async def test_a_model_that_nobody_uses_makes_room(files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    async with pack.open({"models": files, "threads": 1, "context": 64}) as llm:
        small, large = await llm.engine("small"), await llm.card("large")

        def room() -> int:
            return large.needs(64) - (llm.loaded("small") is not None)

        for module in ("local", "backend"):
            monkeypatch.setattr(f"slipstream.skills.packs.llm.{module}.available", room)
        async with aclosing(small.chat(HELLO, max_tokens=40)) as busy:
            await anext(busy)
            with pytest.raises(Refused):
                await llm.engine("large")
        assert await llm.engine("large") is llm.loaded("large")
        assert llm.loaded("small") is None


@pytest.mark.parametrize("anyio_backend", [("trio", {"clock": MockClock()})])
async def test_a_model_that_nobody_asked_for_a_while_is_unloaded_and_loaded_again_when_it_is_asked(
    files: tuple[Path, Path],
) -> None:
    async def later(seconds: float) -> None:
        clock = trio.lowlevel.current_clock()
        assert isinstance(clock, MockClock)
        clock.jump(seconds)
        await anyio.wait_all_tasks_blocked()

    async with pack.open({"models": files, "threads": 1}) as llm:
        ctx, small = Context(llm), await llm.engine("small")
        for _ in range(3):
            await later(IDLE - 1)
            await items(ctx, max_tokens=1, model="small")
        async with aclosing(small.chat(HELLO, max_tokens=40)) as busy:
            await anext(busy)
            await later(3 * IDLE)
            assert llm.loaded("small") is small
        await later(IDLE - 1)
        await llm.engine("large")
        assert llm.loaded("small") is small
        await later(1)
        assert llm.loaded("small") is None
        assert llm.loaded("large") is not None
        await items(ctx, max_tokens=1, model="small")
        assert llm.loaded("small") is not None


async def test_the_skill_streams_or_gives_one_item_and_says_which_model_it_was(files: tuple[Path, Path]) -> None:
    async with pack.open({"models": files, "threads": 1}) as llm:
        streamed = await items(Context(llm), max_tokens=12, model="small")
        [whole] = await items(Context(llm), max_tokens=12, model="small", stream=False)
        assert len(streamed) > 1
        assert whole.text == text(streamed)
        assert (whole.finish, whole.model) == (streamed[-1].finish, streamed[-1].model) == ("length", "small")
        with pytest.raises(UsageError) as unknown:
            await items(Context(llm), model="smal")
        assert "small" in unknown.value.hint


async def test_who_has_to_wait_for_the_answer_to_another_is_told_so(files: tuple[Path, Path]) -> None:
    class Told(Context):
        async def progress(self, fraction: float, note: str = "") -> None:
            notes.append(note)

    notes: list[str] = []
    async with pack.open({"models": [files[1]], "threads": 1}) as llm:
        engine = await llm.engine("small")
        await items(Told(llm), max_tokens=1)
        assert not notes
        async with anyio.create_task_group() as group, aclosing(engine.chat(HELLO, max_tokens=40)) as first:
            await anext(first)
            group.start_soon(partial(items, Told(llm), max_tokens=1))
            await anyio.wait_all_tasks_blocked()
            assert notes == ["small answers somebody else first"]


async def test_a_file_that_is_gone_leaves_the_answering_to_the_next_one(
    files: tuple[Path, Path], tmp_path: Path
) -> None:
    async with pack.open({"models": [tmp_path / "gone.gguf", files[1]], "threads": 1}) as llm:
        [said] = await items(Context(llm), max_tokens=1, stream=False)
        assert said.model == "small"
        with pytest.raises(SkillFailed, match=r"gone\.gguf"):
            await items(Context(llm), model="gone")
    async with pack.open({"models": [tmp_path / "gone.gguf"]}) as llm:
        with pytest.raises(SkillFailed, match=r"gone\.gguf"):
            await items(Context(llm))


async def test_models_are_listed_with_what_is_wrong_with_them(files: tuple[Path, Path], tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF but no more")
    async with pack.open({"models": [*files, broken, tmp_path / "gone.gguf"]}) as llm:
        listed = {each.name: each for each in (await llm_models(Context(llm))).models}
        assert (listed["small"].architecture, listed["small"].context) == ("qwen3", 2048)
        assert not listed["small"].problem
        assert "broken.gguf" in listed["broken"].problem
        assert "gone.gguf" in listed["gone"].problem
        for name in ("broken", "gone"):
            with pytest.raises(SkillFailed):
                await llm.engine(name)


@pytest.mark.parametrize(
    ("models", "offered"),
    [(["small"], {"llm.generate", "llm.models"}), (["gone"], {"llm.models"}), ([], set())],
)
async def test_a_device_offers_what_it_has_a_file_for(files: Any, tmp_path: Path, models: Any, offered: Any) -> None:
    paths = {"small": files[1], "gone": tmp_path / "gone.gguf"}
    catalogue = Catalogue()
    async with pack.open({"models": [paths[name] for name in models]}) as llm:
        catalogue.add(pack, pack.capabilities(llm))
    assert catalogue.specs.keys() == offered


async def test_conversations_in_half_the_memory_are_answered_as_well(files: tuple[Path, Path]) -> None:
    whole, half = [await Engine.open(files[1], threads=1, context=256, kv=kv) for kv in ("f16", "q8_0")]
    assert 32 * half.card.kv_token == 17 * whole.card.kv_token
    assert half.card.needs(0) == whole.card.needs(0)
    pieces = await answer(half, max_tokens=20)
    assert pieces[-1].usage is not None
    assert pieces[-1].usage.completion_tokens == 20


@pytest.mark.parametrize("models", [["/a/m.gguf", "/b/m.gguf"], ["m.gguf"]])
async def test_two_files_of_one_name_and_a_path_that_begins_nowhere_are_refused(models: list[str]) -> None:
    with pytest.raises(UsageError, match="models"):
        async with pack.open({"models": models}):
            pass


async def test_a_phone_asks_the_car_and_what_is_said_is_personal(files: tuple[Path, Path]) -> None:
    labels = spec_of(llm_generate).to_wire()
    assert labels["inputSchema"]["properties"]["messages"]["privacy"] == "personal"
    here = replace(pack, open=lambda _: pack.open({"models": [files[1]], "threads": 1}))
    async with mesh("phone", "car", packs={"car": [here]}) as m:
        offer = m["phone"].members.get("car").offer("llm.generate")
        assert offer is not None
        assert offer.seconds == GUESSED * files[1].stat().st_size / READ
        result = await m.call("llm.generate", {"messages": HELLO, "max_tokens": 6, "stream": False}, of="phone")
    [said] = result["result"]
    assert said["finish"] == "length"
    assert said["usage"]["completion_tokens"] == 6


def test_a_device_that_has_the_pack_imports_nothing_heavy_before_it_is_asked() -> None:
    heavy = ("jinja2", "regex", "llguidance", "httpx", "slipstream.runtime_ext.model", "slipstream.runtime_ext.tokens")
    show = f"import sys, slipstream.skills.packs.llm; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", show], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
