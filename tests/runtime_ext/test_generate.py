"""Generations on a small model of random weights: the same answer however it is made, cut and gone on with."""

from __future__ import annotations

import re
import runpy
import threading
from array import array
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from queue import SimpleQueue
from tempfile import TemporaryDirectory
from typing import Any, Literal

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("regex", reason="the extra `llm` is not installed: no regex")

from slipstream.runtime_ext import generate
from slipstream.runtime_ext.draft import Lookup
from slipstream.runtime_ext.generate import GenerateError, Generation, Options, Piece
from slipstream.runtime_ext.gguf import Gguf
from slipstream.runtime_ext.grammar import Grammar, GrammarError
from slipstream.runtime_ext.model import Model, Session, Stopped
from slipstream.runtime_ext.tokens import Decoder, Tokenizer

MAKE = Path(__file__).parents[1] / "models" / "make_gguf.py"
SCHEMA = {
    "type": "object",
    "properties": {
        "skill": {"enum": ["cabin.warm", "cabin.route", "nav.find"]},
        "note": {"type": "string", "maxLength": 8},
        "after": {"type": "array", "items": {"enum": ["warm", "window"]}, "maxItems": 3},
    },
    "required": ["skill", "note", "after"],
    "additionalProperties": False,
}


@cache
def loaded() -> tuple[Model, Tokenizer]:
    with TemporaryDirectory() as folder:
        path = Path(folder, "tiny.gguf")
        runpy.run_path(str(MAKE))["make"](path, "tiny", "Q8_0")
        with Gguf.open(path) as gguf:
            return Model(gguf), Tokenizer(gguf.metadata)


def begun(
    options: Options, grammar: Grammar | None = None, text: str = "The car is parked", context: int = 256,
    kv: Literal["f16", "q8_0"] = "f16",
) -> Any:  # fmt: skip
    """A generation on a session of its own."""
    model, tokenizer = loaded()
    return Generation(Session(model, context, kv=kv), tokenizer, tokenizer.encode(text), options, grammar)


def whole(pieces: Sequence[Piece]) -> str:
    return "".join(piece.text for piece in pieces)


def schema() -> Grammar:
    pytest.importorskip("llguidance", reason="the extra `llm` is not installed: no llguidance")
    return Grammar.of_schema(loaded()[1], SCHEMA)


def one_by_one(prompt: list[int], options: Options, grammar: Grammar | None = None) -> list[int]:
    """The tokens by the book: a pass for each, a mask for each that is not forced."""
    model, tokenizer = loaded()
    session, found = Session(model, 256), list[int]()
    session.advance(prompt)
    session.random = options.seed or 0
    mask = array("I", bytes(4 * ((tokenizer.size + 31) // 32)))
    while len(found) < options.max_tokens and not (grammar and grammar.done):
        if grammar and grammar.forced():
            token = grammar.forced()[0]
        else:
            if grammar:
                grammar.fill(mask)
            token = session.sample(
                temperature=options.temperature, top_k=options.top_k, top_p=options.top_p, min_p=options.min_p,
                penalty=options.penalty, recent=options.recent, mask=memoryview(mask).cast("B") if grammar else None,
            )  # fmt: skip
            if token in tokenizer.eos_ids:
                break
        if grammar:
            grammar.accept([token])
        found.append(token)
        session.advance([token])
    return found


KV: list[Literal["f16", "q8_0"]] = ["f16", "q8_0"]
OPTIONS = st.builds(
    Options,
    max_tokens=st.integers(1, 40), temperature=st.sampled_from([0.0, 0.3, 1.0]), top_k=st.sampled_from([0, 1, 5]),
    top_p=st.sampled_from([1.0, 0.7]), min_p=st.sampled_from([0.0, 0.05]), penalty=st.sampled_from([1.0, 1.3]),
    seed=st.integers(0, 2**64 - 1), speculate=st.sampled_from([None, True, False]),
    logprobs=st.sampled_from([None, None, 2]),
)  # fmt: skip
PROMPTS = st.sampled_from(
    ["The car", "warm warm warm warm warm", '{"name": "cabin.warm", "a": 1, "name": "cabin.', "é🚗"]
)


@given(OPTIONS, PROMPTS)
@settings(deadline=None, max_examples=60)
def test_drafts_and_passes_change_nothing_of_what_is_sampled(options: Options, text: str) -> None:
    generation = begun(options, text=text)
    pieces = list(generation)
    assert generation.generated == one_by_one(loaded()[1].encode(text), options)
    assert [token for piece in pieces for token in piece.tokens] == generation.generated
    assert generation.reason in ("length", "eos")


@given(OPTIONS)
@settings(deadline=None, max_examples=40)
def test_with_a_grammar_drafts_and_forced_tokens_change_nothing_either(options: Options) -> None:
    text = '{"skill":"cabin.route","note":"warm","after":["warm"]}'
    generation = begun(options, schema(), text)
    list(generation)
    assert generation.generated == one_by_one(loaded()[1].encode(text), options, schema())


@given(OPTIONS, PROMPTS)
@settings(deadline=None, max_examples=40)
def test_pieces_are_the_text_of_the_tokens_and_split_no_character(options: Options, text: str) -> None:
    tokenizer = loaded()[1]
    generation = begun(options, text=text)
    pieces = list(generation)
    assert whole(pieces) == tokenizer.decode(generation.generated)
    for before, after in pairwise(pieces):
        cut = before.text[-1:] + after.text[:1]
        assert "\ufffd" in cut or cut.encode().decode() == cut


def test_drafts_of_what_repeats_are_right_and_save_passes() -> None:
    plain, drafted = begun(Options(max_tokens=120, speculate=False)), begun(Options(max_tokens=120, speculate=True))
    assert len(list(plain)) == 120
    assert len(list(drafted)) < 60
    assert drafted.usage.accepted > 60
    assert drafted.usage.drafted >= drafted.usage.accepted
    assert plain.usage.drafted == 0


def test_forced_tokens_take_one_pass_together() -> None:
    generation = begun(Options(seed=1), schema())
    pieces = list(generation)
    assert pieces[0].text.startswith('{"skill":"')
    assert len(pieces) < len(generation.generated) - 8
    assert generation.reason == "eos"
    assert generation.usage.generated == len(generation.generated)


def test_what_is_forced_altogether_is_said_without_a_pass() -> None:
    schema()
    generation = begun(Options(), Grammar.of_schema(loaded()[1], {"const": {"all": "said"}}))
    assert whole(list(generation)) == '{"all":"said"}'
    assert generation.reason == "eos"
    assert len(generation._session) == 0
    short = begun(Options(max_tokens=2), Grammar.of_schema(loaded()[1], {"const": {"all": "said"}}))
    assert '{"all":"said"}'.startswith(whole(list(short)))
    assert (len(short.generated), short.reason) == (2, "length")


@given(st.integers(0, 2**32), st.floats(0.2, 2.0))
@settings(deadline=None, max_examples=40)
def test_what_is_held_to_a_schema_fits_it(seed: int, temperature: float) -> None:
    import json

    generation = begun(Options(seed=seed, temperature=temperature), schema())
    value = json.loads(whole(list(generation)))
    assert value.keys() == SCHEMA["properties"].keys()  # type: ignore[attr-defined]
    assert len(value["note"]) <= 8
    assert set(value["after"]) <= {"warm", "window"}


# Stop strings


@given(
    st.integers(0, 50),
    st.lists(st.tuples(st.integers(0, 80), st.integers(1, 12)), min_size=1, max_size=4),
    st.booleans(),
)
@settings(deadline=None, max_examples=80)
def test_the_text_ends_before_the_first_stop_string(seed: int, cuts: list[tuple[int, int]], speculate: bool) -> None:
    options = Options(seed=seed, temperature=0.9, max_tokens=40, speculate=speculate)
    free = begun(options)
    pieces = list(free)
    text = whole(pieces)
    stops = tuple(text[at : at + n] for at, n in cuts if text[at : at + n]) or ("nowhere",)
    generation = begun(replace(options, stop=stops))
    tokenizer, seen, right, ended = loaded()[1], "", text, False
    decoder = Decoder(tokenizer)
    for token in free.generated:
        seen += decoder.feed(token)
        if found := [at for stop in stops if (at := seen.find(stop)) >= 0]:
            right, ended = seen[: min(found)], True
            break
    else:
        seen += decoder.flush()
        if found := [at for stop in stops if (at := seen.find(stop)) >= 0]:
            right, ended = seen[: min(found)], True
    assert whole(list(generation)) == right
    assert (generation.reason == "stop") == ended


def test_what_may_become_a_stop_string_is_held_back_until_it_is_none() -> None:
    generation = begun(Options(stop=("abc", "bd")))
    given_out = []
    for text in ("xa", "b", "c"):
        generation._said = []
        end = generation._say(text)
        given_out.append(("".join(generation._said), end))
    assert given_out == [("x", None), ("", None), ("", "stop")]
    generation = begun(Options(stop=("abc", "bd")))
    for text in ("a", "b", "x"):
        generation._said = []
        assert generation._say(text) is None
    assert generation._said == ["abx"]


# Where it is cut and goes on


def moved(generation: Generation) -> Generation:
    """The same generation somewhere else: its state as bytes, its session restored of tokens and blocks."""
    model, tokenizer = loaded()
    session = generation._session
    state = msgpack.unpackb(msgpack.packb(generation.state()))
    other = Session.restore(model, session.tokens, session.blocks(), session.tail(), session.context, kv=session.kv)
    return Generation.resume(other, tokenizer, state)


@given(
    OPTIONS, st.sets(st.integers(0, 12), max_size=4), st.booleans(), st.sampled_from([(), ("ta",), ("\ufffd", " r")]),
    st.sampled_from([24, 256]), st.sampled_from(KV),
)  # fmt: skip
@settings(deadline=None, max_examples=100)
def test_a_generation_that_moves_between_any_pieces_gives_the_same_text(
    options: Options, cuts: set[int], constrained: bool, stop: tuple[str, ...], context: int, kv: Literal["f16", "q8_0"]
) -> None:
    options = replace(options, stop=stop, context_full="slide")
    stayed = begun(options, schema() if constrained else None, context=context, kv=kv)
    generation: Generation = begun(options, schema() if constrained else None, context=context, kv=kv)
    text, number = "", 0
    while True:
        if number in cuts:
            generation = moved(generation)
        piece = next(generation, None)
        if piece is None:
            break
        text, number = text + piece.text, number + 1
    assert text == whole(list(stayed))
    assert generation.generated == stayed.generated
    assert generation.reason == stayed.reason
    assert generation.usage.generated == stayed.usage.generated


def test_what_is_cancelled_anywhere_goes_on_elsewhere() -> None:
    options = Options(max_tokens=40, temperature=1.0, seed=5, stop=("ing of", "\ufffd\ufffd\ufffd"))
    text, held = whole(list(begun(options))), set()
    for passes in range(30):
        generation = begun(options)
        pieces = [next(generation) for _ in range(passes)]
        generation.cancel()
        assert list(generation) == []
        assert generation.reason == "cancelled"
        state = generation.state()
        held |= {name for name in ("bytes", "text") if state[name]}
        assert whole(pieces) + whole(list(moved(generation))) == text
    assert held == {"bytes", "text"}


def test_what_could_have_become_a_stop_string_is_said_at_the_end() -> None:
    options = Options(max_tokens=20, temperature=0.8, seed=2)
    text = whole(list(begun(options)))
    generation = begun(replace(options, stop=(text[-3:] + "more",)))
    assert whole(list(generation)) == text
    assert generation.reason == "length"


def test_any_token_that_ends_a_text_ends_the_answer_and_is_not_part_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    free = begun(Options(max_tokens=20, temperature=0.8, seed=2))
    list(free)
    end = free.generated[7]
    monkeypatch.setattr(loaded()[1], "eos_ids", frozenset({10**6, end}))
    generation = begun(Options(max_tokens=20, temperature=0.8, seed=2))
    list(generation)
    assert generation.generated == free.generated[: free.generated.index(end)]
    assert generation.reason == "eos"


def test_what_has_ended_stays_ended_elsewhere() -> None:
    generation = begun(Options(max_tokens=3))
    list(generation)
    other = moved(generation)
    assert list(other) == []
    assert other.reason == "length"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"version": 1}, "version 1; supported: 2"),
        ({"held": 3}, "does not hold the 3 tokens"),
        ({"digest": b""}, "does not hold"),
        ({"context": "x"}, "cannot be read"),
        ({"generated": [10**9]}, "tokens that are none here"),
        ({"pending": ["x"]}, "tokens that are none here"),
        ({"options": {}}, "cannot be read"),
        ({"options": None}, "cannot be read"),
        ({"options": {"stop": [], "max_tokens": -1}}, "max_tokens"),
        ({"bytes": "x"}, "cannot be read"),
        ({"random": -1}, "cannot be read"),
        ({"usage": {"x": 1}}, "cannot be read"),
        ({"left": "x"}, "cannot be read"),
        ({"reason": "x"}, "cannot be read"),
        ({"grammar": ["x", "y"]}, "no kind of grammar"),
        ({"grammar": ["regex", "[0-9]"]}, "does not go on by the regex"),
    ],
)  # fmt: skip
def test_a_state_that_makes_no_sense_here_is_refused_with_the_reason(change: dict[str, Any], said: str) -> None:
    if "grammar" in change:
        schema()  # skips without the library
    generation = begun(Options(max_tokens=5, seed=1))
    next(generation)
    session, tokenizer = generation._session, loaded()[1]
    with pytest.raises((GenerateError, GrammarError), match=said):
        Generation.resume(session, tokenizer, generation.state() | change)
    state = generation.state()
    for key in change:
        del state[key]
    with pytest.raises(GenerateError):
        Generation.resume(session, tokenizer, state)


# What the session holds


@given(st.integers(0, 60), st.integers(1, 60), st.sampled_from([1, 901]))
@settings(deadline=None, max_examples=30)
def test_a_prefix_that_the_session_holds_is_not_taken_in_again(common: int, length: int, other: int) -> None:
    model, tokenizer = loaded()
    prompt = [(7 * i * i) % 898 + 2 for i in range(length)]
    session = Session(model, 256)
    session.advance([*prompt[:common], other, other])
    options = Options(max_tokens=10, temperature=0.7, seed=2)
    generation = Generation(session, tokenizer, prompt, options)
    assert whole(list(generation)) == whole(list(Generation(Session(model, 256), tokenizer, prompt, options)))
    assert generation.usage.reused == min(common, length - 1)


def test_the_next_turn_goes_on_from_prompt_and_answer() -> None:
    model, tokenizer = loaded()
    session, prompt = Session(model, 256), tokenizer.encode("The car is parked")
    first = Generation(session, tokenizer, prompt, Options(max_tokens=20, speculate=True))
    list(first)
    held = session.tokens
    assert held == (prompt + first.generated)[: len(held)]
    assert len(held) >= len(prompt) + 19
    second = Generation(session, tokenizer, [*prompt, *first.generated, 5, 6], Options(max_tokens=1))
    assert second.usage.reused == len(held)


@pytest.mark.parametrize("speculate", [True, False])
def test_a_full_context_ends_the_answer_or_forgets_its_oldest_part(speculate: bool) -> None:
    options = Options(max_tokens=100, speculate=speculate, temperature=0.5, seed=1)
    generation = begun(options, context=40)
    list(generation)
    prompt = generation.usage.prompt
    assert generation.reason == "context"
    assert len(generation.generated) == 41 - prompt
    slid = begun(replace(options, context_full="slide"), context=40)
    list(slid)
    assert slid.reason == "length"
    assert slid.generated[: 41 - prompt] == generation.generated


def test_where_it_slides_a_quarter_at_the_beginning_and_the_latest_half_stay() -> None:
    model, tokenizer = loaded()
    prompt, session = [*range(20, 40)], Session(model, 40)
    generation = Generation(session, tokenizer, prompt, Options(max_tokens=60, context_full="slide", speculate=False))
    lengths = []
    for _ in generation:
        lengths.append(len(session))
        tokens = prompt + generation.generated[:-1]
        if len(tokens) == 41:
            assert session.tokens == tokens[:10] + tokens[-20:]
    assert lengths[:24] == [*range(20, 41), 30, 31, 32]


@pytest.mark.parametrize("kv", KV)
def test_what_slides_goes_on_for_many_contexts_in_the_same_room_wherever_it_moves(
    monkeypatch: pytest.MonkeyPatch, kv: Literal["f16", "q8_0"]
) -> None:
    options = Options(max_tokens=800, context_full="slide", temperature=0.7, penalty=1.2, seed=4, speculate=False)
    stayed, moves = begun(options, context=72, kv=kv), begun(options, context=72, kv=kv)
    model, tokenizer = loaded()
    monkeypatch.setattr(tokenizer, "eos_ids", frozenset())
    slides, length = 0, 0
    for number, piece in enumerate(stayed):
        session = stayed._session
        assert len(session) <= session.context
        if len(session) < length:
            slides += 1
        if len(session) < length or number % 97 == 0:
            moves = moved(moves)
        length = len(session)
        assert next(moves).tokens == piece.tokens
    assert stayed.reason == moves.reason == "length"
    assert len(stayed.generated) == 800 > 10 * 72
    assert slides > 10
    session, fresh = stayed._session, Session(model, 72, kv=kv)
    fresh.advance([*session.tokens, 5])
    session.advance([5])
    assert session.logits() == fresh.logits()


def test_what_a_grammar_forces_at_once_may_be_longer_than_the_context_where_it_slides() -> None:
    pytest.importorskip("llguidance", reason="the extra `llm` is not installed: no llguidance")
    model, tokenizer = loaded()
    said = "The window is closed and the cabin is warm, " * 4
    grammar = Grammar.of_regex(tokenizer, re.escape(said) + "[a-z]{3}")
    prompt = tokenizer.encode("The car is parked")
    generation = Generation(Session(model, 24), tokenizer, prompt, Options(context_full="slide"), grammar)
    assert whole(list(generation)).startswith(said)
    assert generation.reason == "eos"
    assert generation._session.tokens[:6] == prompt[:6]


def test_an_answer_that_slides_goes_on_in_a_context_of_the_same_size_only() -> None:
    def larger(generation: Any) -> Session:
        session = generation._session
        return Session.restore(session.model, session.tokens, session.blocks(), session.tail(), 512)

    for options, goes_on in ((Options(max_tokens=30), True), (Options(max_tokens=30, context_full="slide"), False)):
        generation = begun(options)
        next(generation)
        if goes_on:
            list(Generation.resume(larger(generation), loaded()[1], generation.state()))
            continue
        with pytest.raises(GenerateError, match="not 512; restore the session with a context of 256"):
            Generation.resume(larger(generation), loaded()[1], generation.state())


# Ends from outside


class Clock:
    """Seconds that pass by themselves at each pass of a session."""

    def __init__(
        self,
        session: Session,
        *,
        each: float = 0.0,
        per_token: float = 0.0,
        act: Callable[[int], None] = lambda _: None,
    ) -> None:
        self.now, self.each, self.act, self.passes, self._session = 0.0, each, act, 0, session
        self.per_token = per_token

    def advance(self, tokens: Sequence[int], wanted: int = 1) -> None:
        self.passes += 1
        self.act(self.passes)
        self._session.advance(tokens, wanted)
        self.now += self.each + self.per_token * len(tokens)

    def __len__(self) -> int:
        return len(self._session)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "random":
            self._session.random = value
        else:
            super().__setattr__(name, value)


def clocked(options: Options, text: str = "The car", **keys: Any) -> tuple[Any, Clock]:
    model, tokenizer = loaded()
    session: Any = Clock(Session(model, 2048), **keys)
    return Generation(session, tokenizer, tokenizer.encode(text), options), session


def test_a_deadline_ends_the_answer_and_moves_with_what_is_left_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    clock: Any = Clock(Session(loaded()[0], 64))
    monkeypatch.setattr(generate, "monotonic", lambda: clock.now)
    generation, clock = clocked(Options(deadline=10.0, speculate=False), each=2.5)
    assert len(next(generation).tokens) == 1
    assert generation.state()["left"] == 7.5
    assert len(list(generation)) == 3
    assert generation.reason == "deadline"
    assert clock.passes == 4
    other = moved(clocked(Options(deadline=10.0), each=4.0)[0])
    clock.now += 9.0
    assert next(other).tokens
    clock.now += 1.0
    assert list(other) == []
    assert other.reason == "deadline"
    late, _ = clocked(Options(deadline=0.0))
    assert list(late) == []
    assert late.reason == "deadline"


def test_a_long_prompt_stops_between_its_parts_and_keeps_what_is_in() -> None:
    cancelled: list[Any] = []
    generation, clock = clocked(
        Options(max_tokens=5, seed=1),
        "warm the cabin, find Anna; " * 90,
        act=lambda n: n == 3 and cancelled[0].cancel(),
    )
    cancelled.append(generation)
    assert list(generation) == []
    assert generation.reason == "cancelled"
    assert len(clock) == 2 * generate.CHUNK  # the third was told before it began
    assert clock.tokens == loaded()[1].encode("warm the cabin, find Anna; " * 90)[: 2 * generate.CHUNK]
    whole_one, _ = clocked(Options(max_tokens=5, seed=1), "warm the cabin, find Anna; " * 90)
    assert whole(list(moved(generation))) == whole(list(whole_one))


def test_seconds_count_as_prefill_until_the_prompt_is_in(monkeypatch: pytest.MonkeyPatch) -> None:
    generation, clock = clocked(Options(max_tokens=5, speculate=False), "warm the cabin, find Anna; " * 90, each=1.0)
    monkeypatch.setattr(generate, "perf_counter", lambda: clock.now)
    list(generation)
    assert generation.usage.prompt > 3 * generate.CHUNK
    assert (generation.usage.prefill, generation.usage.decode) == (clock.passes - 4, 4)


@pytest.mark.parametrize(("each", "per_token", "pays"), [(1.0, 0.0, True), (0.0, 1.0, False)])
def test_drafts_are_made_where_they_are_measured_to_pay(
    monkeypatch: pytest.MonkeyPatch, each: float, per_token: float, pays: bool
) -> None:
    generation, clock = clocked(Options(max_tokens=200), each=each, per_token=per_token)
    monkeypatch.setattr(generate, "perf_counter", lambda: clock.now)
    list(generation)
    assert len(generation.generated) == 200
    assert (clock.passes < 80) == pays
    assert generation.usage.decode < (80 if pays else 205)  # where nothing is gained, nothing is lost
    assert generation._worth.right > 0.5  # told without drafts, too


def test_nothing_is_drafted_that_a_grammar_refuses() -> None:
    schema()
    tokenizer = loaded()[1]
    one, two, three, letter = (tokenizer.encode(text, bos=False)[0] for text in "123x")
    generation = begun(Options(speculate=True), Grammar.of_regex(tokenizer, "[0-9]+"))
    generation._pending[:] = [two]
    for before, draft in (([one, two, letter], []), ([one, two, three, letter], [three])):
        generation._lookup = Lookup([*before, one, two])
        assert generation._draft() == draft


def test_a_stop_that_was_meant_for_an_earlier_pass_ends_nothing() -> None:
    def stop(number: int) -> None:
        if number in (1, 4):
            raise Stopped

    generation, _ = clocked(Options(max_tokens=5), act=stop)
    assert whole(list(generation)) == whole(list(clocked(Options(max_tokens=5))[0]))
    assert generation.reason == "length"


def test_another_thread_cancels_an_answer_without_end() -> None:
    generation = begun(Options(max_tokens=2**31 - 1, context_full="slide", temperature=1.0, penalty=1.1))
    generation._tokenizer.eos_ids = frozenset()
    pieces: SimpleQueue[Piece] = SimpleQueue()

    def iterate() -> None:
        for piece in generation:
            pieces.put(piece)

    thread = threading.Thread(target=iterate)
    thread.start()
    pieces.get()
    generation.cancel()
    thread.join(30)
    assert not thread.is_alive()
    assert generation.reason == "cancelled"


# What is told, and what is refused


def test_logprobs_tell_of_each_token_and_of_the_likeliest() -> None:
    generation = begun(Options(max_tokens=12, logprobs=3))
    model, tokenizer = loaded()
    session = Session(model, 256)
    session.advance(tokenizer.encode("The car is parked"))
    for piece in generation:
        assert len(piece.logprobs) == len(piece.tokens)
        for token, chance in zip(piece.tokens, piece.logprobs, strict=True):
            assert chance.likeliest == session.likeliest(3)
            assert chance.likeliest[0] == (token, chance.logprob)  # greedy
            session.advance([token])


def test_with_logprobs_each_forced_token_has_its_own() -> None:
    options = Options(seed=3, temperature=1.0)
    generation = begun(replace(options, logprobs=1), schema())
    pieces = list(generation)
    plain = begun(options, schema())
    list(plain)
    assert generation.generated == plain.generated
    assert sum(len(piece.logprobs) for piece in pieces) == len(generation.generated)
    assert any(chance.likeliest[0][0] != token
               for piece in pieces for token, chance in zip(piece.tokens, piece.logprobs, strict=True))  # fmt: skip


def test_a_grammar_that_cannot_go_on_is_a_dead_end() -> None:
    schema()
    grammar = Grammar.of_lark(loaded()[1], "start: /a[^\\x00-\\u{10ffff}]/")
    generation = begun(Options(), grammar)
    assert whole(list(generation)) in ("", "a")
    assert generation.reason == "dead end"


def test_tokens_behind_the_tokenizer_s_are_never_generated() -> None:
    model, tokenizer = loaded()
    gguf_size = tokenizer.size
    tokens = tokenizer.tokens[:300]
    small = Tokenizer({"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.tokens": tokens, "tokenizer.ggml.merges": [],
                       "tokenizer.ggml.eos_token_id": 299})  # fmt: skip
    generation = Generation(Session(model, 256), small, [1, 2, 3], Options(max_tokens=60, temperature=3.0, seed=1))
    list(generation)
    assert len(set(generation.generated)) > 10
    assert max(generation.generated) < 300 < gguf_size


@pytest.mark.parametrize(
    "options",
    [
        {"max_tokens": 0}, {"max_tokens": 1.5}, {"max_tokens": True}, {"temperature": -1.0},
        {"temperature": float("nan")}, {"top_p": 1.1}, {"top_k": -1}, {"min_p": "x"}, {"penalty": 0.0},
        {"recent": 5000}, {"seed": -1}, {"seed": 2**64}, {"stop": ("",)},
        {"stop": ["x"]}, {"stop": ("x" * 1000,)}, {"stop": ("x",) * 100}, {"logprobs": 1000},
        {"context_full": "x"}, {"speculate": 1}, {"deadline": -1.0},
    ],
)  # fmt: skip
def test_an_option_out_of_its_range_is_refused_by_name(options: dict[str, Any]) -> None:
    with pytest.raises(GenerateError, match=next(iter(options))):
        Options(**options)


def test_a_prompt_of_nothing_or_of_too_much_is_refused_with_what_to_do() -> None:
    model, tokenizer = loaded()
    with pytest.raises(GenerateError, match="no tokens"):
        Generation(Session(model, 8), tokenizer, [])
    with pytest.raises(GenerateError, match="9 tokens, and the session holds 8; shorten it"):
        Generation(Session(model, 8), tokenizer, [1] * 9)


@pytest.mark.parametrize("tokens", [1, 31, 32, 33, 64, 100])
def test_a_mask_of_the_first_tokens_allows_these(tokens: int) -> None:
    mask = generate._first(tokens, 100)
    assert len(mask) == 4
    assert [i for i in range(128) if mask[i // 32] >> i % 32 & 1] == list(range(tokens))


def test_a_tokenizer_of_another_model_is_refused() -> None:
    model, tokenizer = loaded()
    tokens = [*tokenizer.tokens, *(f"more{i}" for i in range(10))]
    large = Tokenizer({"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.tokens": tokens, "tokenizer.ggml.merges": []})
    with pytest.raises(GenerateError, match="take both from one file"):
        Generation(Session(model, 8), large, [1])
