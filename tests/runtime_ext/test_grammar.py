"""Grammars: what they allow, force and refuse, over the vocabulary of a small byte-level tokenizer."""

from __future__ import annotations

import gc
import json
import runpy
import sys
import weakref
from array import array
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("regex", reason="the extra `llm` is not installed: no regex")
pytest.importorskip("llguidance", reason="the extra `llm` is not installed: no llguidance")

from slipstream.runtime_ext.grammar import TEXT_LIMIT, Grammar, GrammarError, Kind
from slipstream.runtime_ext.tokens import Tokenizer

MAKE = Path(__file__).parents[1] / "models" / "make_gguf.py"
SKILLS = ["cabin.warm", "cabin.route", "nav.find"]
PLAN: dict[str, Any] = {
    "type": "object",
    "properties": {
        "skill": {"enum": SKILLS},
        "note": {"type": "string", "maxLength": 12},
        "after": {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 99}, "maxItems": 3},
    },
    "required": ["skill", "note", "after"],
    "additionalProperties": False,
}
PLANS = st.fixed_dictionaries({
    "skill": st.sampled_from(SKILLS),
    "note": st.text(st.characters(exclude_categories=["C"]), max_size=12),
    "after": st.lists(st.integers(0, 99), max_size=3),
})  # fmt: skip


METADATA: dict[str, Any] = runpy.run_path(str(MAKE))["byte_bpe"](1024)
TOKENIZER = Tokenizer(METADATA)


def allowed(grammar: Grammar, size: int = TOKENIZER.size) -> set[int]:
    mask = array("I", [0] * ((size + 31) // 32))
    grammar.fill(mask)
    return {i for i in range(32 * len(mask)) if mask[i // 32] >> i % 32 & 1}


def compact(plan: dict[str, Any]) -> list[int]:
    """The tokens of a plan, as JSON without white space, in the schema's order."""
    value = {key: plan[key] for key in PLAN["properties"]}
    return TOKENIZER.encode(json.dumps(value, separators=(",", ":"), ensure_ascii=False), bos=False)


def pieces(tokens: list[int]) -> bytes:
    return b"".join(map(TOKENIZER.piece, tokens))


@given(PLANS)
@settings(deadline=None, max_examples=30)
def test_each_token_of_a_value_that_fits_is_allowed_or_forced_to_the_same_text(plan: dict[str, Any]) -> None:
    grammar, tokens = Grammar.of_schema(TOKENIZER, PLAN), compact(plan)
    assert grammar.admits(tokens) == len(tokens)
    for i, token in enumerate(tokens):
        if forced := grammar.forced():
            assert pieces(tokens[i:]).startswith(pieces(forced))
        else:
            assert token in allowed(grammar)
            assert not grammar.whole
        grammar.accept([token])
    assert grammar.whole
    assert grammar.done
    assert allowed(grammar) == TOKENIZER.eos_ids


@given(PLANS, st.data())
@settings(deadline=None, max_examples=30)
def test_a_grammar_that_accepted_the_same_tokens_allows_the_same(plan: dict[str, Any], data: st.DataObject) -> None:
    tokens = compact(plan)
    cut = data.draw(st.integers(0, len(tokens)))
    one = Grammar.of_schema(TOKENIZER, PLAN)
    for token in tokens[:cut]:
        one.forced()
        allowed(one)
        one.accept([token])
    other = Grammar(TOKENIZER, one.kind, one.text)
    other.accept(tokens[:cut])
    assert other.forced() == one.forced()
    assert allowed(other) == allowed(one)


def test_what_can_only_be_one_text_is_forced_as_the_tokenizer_cuts_it_and_masked_to_it() -> None:
    grammar = Grammar.of_schema(TOKENIZER, PLAN)
    forced = grammar.forced()
    assert TOKENIZER.decode(forced) == '{"skill":"'
    assert forced == TOKENIZER.encode('{"skill":"', bos=False)
    assert allowed(grammar) == {forced[0]}
    grammar.accept(forced)
    assert grammar.forced() == []
    assert {TOKENIZER.decode([token])[0] for token in allowed(grammar)} == {"c", "n"}
    grammar.accept(TOKENIZER.encode("cab", bos=False))
    assert TOKENIZER.decode(grammar.forced()).startswith("in")


def test_no_token_of_white_space_or_control_is_allowed_between_the_tokens_of_json() -> None:
    grammar = Grammar.of_schema(TOKENIZER, {"type": "array", "items": {"type": "integer"}})
    assert {TOKENIZER.piece(token)[:1] for token in allowed(grammar)} == {b"["}
    grammar.accept(TOKENIZER.encode("[", bos=False))
    assert not allowed(grammar) & {*TOKENIZER.hidden, *TOKENIZER.encode(" \n", bos=False)}


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ({"enum": []}, "nothing fits the schema"),
        ({"type": "integer", "minimum": 5, "maximum": 3}, "nothing fits the schema"),
        ({"type": "string", "minLength": 5, "maxLength": 2}, "nothing fits the schema"),
        ({"type": "object", "properties": {"a": False}, "required": ["a"]}, "'a' is unsatisfiable"),
        ({"type": "array", "minItems": 1, "items": False}, "nothing fits the schema"),
        ({"allOf": [{"type": "string"}, {"type": "integer"}]}, "nothing fits the schema"),
        ({"not": {"type": "string"}}, 'not supported: ["not"]; leave them out'),
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"type": "nonsense"}, "nonsense"),
        ({"$ref": "#/nowhere"}, "nowhere"),
        ({"type": "string", "pattern": "[a-"}, "[a-"),
        ({"const": {1, 2}}, "is no JSON"),
        ({"const": "x" * TEXT_LIMIT}, "at most"),
    ],
)  # fmt: skip
def test_a_schema_that_cannot_be_met_is_refused_with_the_reason(schema: dict[str, Any], said: str) -> None:
    with pytest.raises(GrammarError) as error:
        Grammar.of_schema(TOKENIZER, schema)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_schema_nested_without_end_is_refused() -> None:
    schema: dict[str, Any] = {}
    for _ in range(5000):
        schema = {"items": schema}
    with pytest.raises(GrammarError):
        Grammar.of_schema(TOKENIZER, schema)


@pytest.mark.parametrize(
    ("kind", "text"), [("lark", "start: x"), ("lark", "start: /[/"), ("regex", "[a-"), ("schema", "{")]
)
def test_a_text_that_is_no_grammar_is_refused(kind: Kind, text: str) -> None:
    with pytest.raises(GrammarError, match=f"the {kind} can"):
        Grammar(TOKENIZER, kind, text)


def test_a_token_that_does_not_fit_is_an_error() -> None:
    grammar = Grammar.of_regex(TOKENIZER, "[0-9]{2}")
    tokens = TOKENIZER.encode("1x", bos=False)
    assert grammar.admits(tokens) == 1
    with pytest.raises(GrammarError, match="does not go on by the regex"):
        grammar.accept(tokens)


def test_lark_and_regex_describe_the_same() -> None:
    lark = Grammar.of_lark(TOKENIZER, 'start: "yes" | "no" ("!")*')
    regex = Grammar.of_regex(TOKENIZER, "yes|no!*")
    assert allowed(lark) == allowed(regex)
    for grammar in (lark, regex):
        grammar.accept(TOKENIZER.encode("no", bos=False))
        assert grammar.whole
        assert not grammar.done
    assert allowed(lark) == allowed(regex) > TOKENIZER.eos_ids


def test_where_no_text_can_follow_nothing_is_allowed() -> None:
    grammar = Grammar.of_lark(TOKENIZER, "start: /a[^\\x00-\\u{10ffff}]/")
    mask = array("I", [0xFFFFFFFF] * 33)
    grammar.fill(mask)
    assert [*mask] == [0] * 32 + [0xFFFFFFFF]


def test_words_of_a_mask_behind_the_vocabulary_stay_and_a_short_mask_is_refused() -> None:
    grammar = Grammar.of_regex(TOKENIZER, "[a-z]+")
    assert allowed(grammar, TOKENIZER.size + 500) == allowed(grammar)
    with pytest.raises(GrammarError, match="too short"):
        grammar.fill(array("I", [0]))


def test_a_vocabulary_is_made_ready_once_and_let_go_with_its_tokenizer() -> None:
    from slipstream.runtime_ext import grammar as module

    tokenizer = Tokenizer(METADATA)
    one, other = Grammar.of_regex(tokenizer, "a"), Grammar.of_regex(tokenizer, "b")
    assert module._trie(tokenizer) is module._trie(tokenizer)
    gone = weakref.ref(tokenizer)
    del tokenizer, one, other
    gc.collect()
    assert gone() is None


def test_a_vocabulary_without_an_end_has_no_grammars() -> None:
    tokens = ["a", "b"]
    tokenizer = Tokenizer(
        {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.tokens": tokens, "tokenizer.ggml.merges": []}
    )
    with pytest.raises(GrammarError, match="no token that ends"):
        Grammar.of_regex(tokenizer, "a")


def test_without_llguidance_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(GrammarError, match=r"pip install 'slipstream-mesh\[llm\]'"):
        Grammar.of_regex(TOKENIZER, "a")
