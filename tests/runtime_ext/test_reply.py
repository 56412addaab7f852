"""Answers taken apart: text, reasoning and calls, the same however the stream is cut."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipstream.runtime_ext.reply import Call, Piece, Problem, Reader, Reply

TOOLS = [
    {"type": "function", "function": {"name": "climate", "parameters": {
        "type": "object",
        "properties": {
            "degrees": {"type": "number"}, "zone": {"type": "string"}, "on": {"type": "boolean"},
            "fan": {"type": "integer"}, "seats": {"type": "array"}, "more": {"type": "object"},
            "note": {"anyOf": [{"type": "string"}, {"type": "null"}]}, "either": {"type": ["integer", "string"]},
            "mode": {"$ref": "#/$defs/Mode"}, "level": {"enum": [1, 2]}, "any": {}, "loop": {"$ref": "#/$defs/Loop"},
        },
        "$defs": {"Mode": {"enum": ["eco", "max"]}, "Loop": {"anyOf": [{"$ref": "#/$defs/Loop"}, {"type": "integer"}]}},
    }}},
    {"type": "function", "function": {"name": "stop"}},
]  # fmt: skip


def read(text: str, *cuts: int, tools: Any = None, thinking: bool = False) -> tuple[list[Piece], Reply]:
    reader = Reader(tools, thinking)
    pieces = [piece for a, b in pairwise([0, *sorted(cuts), len(text)]) for piece in reader.feed(text[a:b])]
    rest, reply = reader.finish()
    return pieces + rest, reply


def hermes(name: str, **arguments: Any) -> str:
    return "<tool_call>\n" + json.dumps({"name": name, "arguments": arguments}) + "\n</tool_call>"


def mimo(name: str, **values: str) -> str:
    inner = "".join(f"<parameter={key}>\n{value}\n</parameter>\n" for key, value in values.items())
    return f"<tool_call>\n<function={name}>\n{inner}</function>\n</tool_call>"


@pytest.mark.parametrize(
    ("text", "reply"),
    [
        ("", Reply("", "", (), ())),
        (" Hello\nyou ", Reply("Hello\nyou", "", (), ())),
        ("<think>\nhm\n</think>\n\nYes", Reply("Yes", "hm", (), ())),
        ("<think>never done", Reply("", "never done", (), ())),
        ("a <think> b </think>", Reply("a <think> b </think>", "", (), ())),
        ("1 < 2 <tool_cal", Reply("1 < 2 <tool_cal", "", (), ())),
        ("<think>" + hermes("stop") + "</think>x", Reply("x", hermes("stop"), (), ())),
        (hermes("stop"), Reply("", "", (Call("stop", {}),), ())),
        ('<tool_call>{"name": "stop"}</tool_call>', Reply("", "", (Call("stop", {}),), ())),
        (
            '<tool_call>{"name": "stop", "arguments": "{\\"a\\": 1}"}</tool_call>',
            Reply("", "", (Call("stop", {"a": 1}),), ()),
        ),
        (
            "Wait.\n" + hermes("a", x=1) + "\n" + hermes("b"),
            Reply("Wait.", "", (Call("a", {"x": 1}), Call("b", {})), ()),
        ),
        ("a\n" + hermes("b") + "\nc", Reply("a\n\nc", "", (Call("b", {}),), ())),
        (
            hermes("say", text='quoted " and \\ and </tool_call> and <tool_call>'),
            Reply("", "", (Call("say", {"text": 'quoted " and \\ and </tool_call> and <tool_call>'}),), ()),
        ),
        (mimo("stop"), Reply("", "", (Call("stop", {}),), ())),
        (mimo("say", text='{"a": 1}\n "'), Reply("", "", (Call("say", {"text": '{"a": 1}\n "'}),), ())),
    ],
)
def test_an_answer_is_text_reasoning_and_calls(text: str, reply: Reply) -> None:
    assert read(text)[1] == reply
    assert read(text, *range(len(text)))[1] == reply


def test_an_answer_may_begin_within_its_reasoning() -> None:
    assert read("so</think>Yes", thinking=True)[1] == Reply("Yes", "so", (), ())


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("<tool_call>{bad}</tool_call>", "it is no JSON: "),
        ('<tool_call>{"name": 5}</tool_call>', "it has no name"),
        ('<tool_call>{"name": "a", "arguments": [1]}</tool_call>', "its arguments are no object"),
        ('<tool_call>{"name": "a", "arguments": {"x": NaN}}</tool_call>', "NaN is no JSON"),
        ("<tool_call>" + '{"a":' * 100_000 + "</tool_call>", "it is nested too deep"),
        ('<tool_call>{"name": "a"} and</tool_call>', "it is no JSON: Extra data"),
        ("<tool_call>climate()</tool_call>", "it is neither a JSON object nor <function=NAME>"),
        ("<tool_call><function=a><parameter=x>1</function></tool_call>", "is no <parameter=NAME>...</parameter>"),
        ("<tool_call><function=a>text</function></tool_call>", "'text' is no <parameter=NAME>"),
        (
            "<tool_call><function=a><parameter=x>1</parameter><parameter=x>2</parameter></function></tool_call>",
            "the parameter 'x' is there twice",
        ),
    ],
)
def test_a_malformed_call_is_a_problem_that_keeps_what_was_written(text: str, why: str) -> None:
    pieces, reply = read(f"Before {text} after {hermes('stop')}")
    assert reply.text == "Before  after"
    assert reply.calls == (Call("stop", {}),)
    assert [problem.text for problem in reply.problems] == [text]
    assert why in reply.problems[0].why
    assert Piece(problem=reply.problems[0]) in pieces
    whole = f"Before {text} after {hermes('stop')}"
    assert read(whole, *range(0, len(whole), 1 + len(whole) // 500))[1] == reply


def test_a_call_that_does_not_end_is_a_problem() -> None:
    assert read('x <tool_call>{"name"')[1] == Reply("x", "", (), (Problem('<tool_call>{"name"', "it does not end"),))


def test_after_a_string_that_does_not_end_the_rest_is_read() -> None:
    bad = '<tool_call>{"name": "a</tool_call>'
    reply = read(f"{bad} so {hermes('stop')}!")[1]
    assert reply == Reply("so !", "", (Call("stop", {}),), (Problem(bad, "a string in it does not end"),))


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("degrees", "21.5", 21.5), ("degrees", "21", 21), ("degrees", " 2e1 ", 20.0), ("zone", "21", "21"),
        ("zone", "\"x\"", "\"x\""), ("on", "true", True), ("on", "True", True), ("on", "False", False), ("fan", "3", 3),
        ("fan", "3.0", 3), ("seats", "[1, 2]", [1, 2]), ("more", '{"a": null}', {"a": None}), ("note", "null", None),
        ("note", "None", None), ("note", "5", "5"), ("either", "5", 5), ("either", "five", "five"),
        ("mode", "eco", "eco"), ("level", "2", 2), ("any", "5", "5"),
        ("unknown", "5", "5"), ("loop", "5", 5), ("zone", " a\n b ", " a\n b "),
    ],
)  # fmt: skip
def test_values_in_tags_have_the_type_of_their_schema(key: str, text: str, value: Any) -> None:
    (call,) = read(mimo("climate", **{key: text}), tools=TOOLS)[1].calls
    assert call == Call("climate", {key: value})
    assert type(call.arguments[key]) is type(value)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (mimo("climate", fan="fast"), "the parameter 'fan' is no integer: 'fast'"),
        (mimo("climate", fan="3.5"), "the parameter 'fan' is no integer: '3.5'"),
        (mimo("climate", on="1"), "the parameter 'on' is no boolean: '1'"),
        (mimo("climate", fan="true"), "the parameter 'fan' is no integer: 'true'"),
        (mimo("climate", degrees="Infinity"), "the parameter 'degrees' is no number"),
        (mimo("fly"), "there is no tool 'fly'"),
        (hermes("fly"), "there is no tool 'fly'"),
    ],
)
def test_a_call_that_does_not_fit_the_tools_is_a_problem(text: str, why: str) -> None:
    reply = read(text, tools=TOOLS)[1]
    assert (reply.calls, reply.problems[0].text) == ((), text)
    assert why in reply.problems[0].why


def test_a_schema_that_refers_to_itself_again_and_again_is_looked_through_once() -> None:
    defs = {f"D{i}": {"anyOf": [{"$ref": f"#/$defs/D{i + 1}"}] * 3} for i in range(60)} | {"D60": {"type": "integer"}}
    tool = {"name": "a", "parameters": {"properties": {"x": {"$ref": "#/$defs/D0"}}, "$defs": defs}}
    assert read(mimo("a", x="5"), tools=[tool])[1].calls == (Call("a", {"x": 5}),)


scraps = st.sampled_from([
    "<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_", "call>", "</", "{", "}", '"', "\\", '\\"', " ",
    "\n", "a",
    '{"name": "stop", "arguments": {}}', '{"name": "say", "arguments": {"x": "</tool_call>"}}', "<function=stop>",
    "</function>", "<parameter=x>", "</parameter>", hermes("stop"), mimo("climate", fan="2"), "é😀",
])  # fmt: skip


@given(st.lists(scraps | st.text(max_size=3), max_size=25).map("".join), st.data(), st.booleans(), st.booleans())
def test_however_the_stream_is_cut_the_same_comes_out(
    text: str, data: st.DataObject, tools: bool, thinking: bool
) -> None:
    given_tools = TOOLS if tools else None
    cuts = data.draw(st.lists(st.integers(0, len(text)), max_size=8))
    whole = read(text, tools=given_tools, thinking=thinking)[1]
    for pieces, reply in (
        read(text, *cuts, tools=given_tools, thinking=thinking),
        read(text, *range(len(text)), tools=given_tools, thinking=thinking),
    ):
        assert reply == whole
        assert "".join(piece.text for piece in pieces) == whole.text
        assert "".join(piece.reasoning for piece in pieces) == whole.reasoning
        assert tuple(piece.call for piece in pieces if piece.call) == whole.calls
        assert tuple(piece.problem for piece in pieces if piece.problem) == whole.problems


@given(st.lists(scraps | st.text(max_size=3), max_size=25).map("".join))
def test_nothing_that_was_written_is_lost(text: str) -> None:
    """But for tags, and for the space around text."""
    pieces, reply = read(text)
    kept = "".join(p.text + p.reasoning + (p.problem.text if p.problem else "") for p in pieces)
    if not reply.calls:
        for tag in ("<think>", "</think>"):
            text, kept = text.replace(tag, ""), kept.replace(tag, "")
        assert "".join(kept.split()) == "".join(text.split())


def test_text_is_said_as_soon_as_it_is_certain() -> None:
    reader = Reader()
    fed = [
        reader.feed(text) for text in ("Hi", " ", "you <", "tool_", "x <tool_call>", '{"name": "a"}', "</tool_call>")
    ]
    assert fed == [
        [Piece(text="Hi")], [], [Piece(text=" you")], [], [Piece(text=" <tool_x")], [], [Piece(call=Call("a", {}))],
    ]  # fmt: skip
