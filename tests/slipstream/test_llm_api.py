"""What requests of OpenAI's protocol mean here, who may ask, and what answers look like: tables, no sockets."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipstream.core.errors import Refused, SkillFailed, SlipError, UsageError
from slipstream.llm_api import PATHS, Answer, ApiError, Ask, Gate, chat_of, completion_of, error_of, routed
from slipstream.runtime_ext.reply import Call, Problem
from slipstream.skills.packs.llm.local import Chance, Piece, Usage

HELLO = [{"role": "user", "content": "Hello"}]
TOOL = {"type": "function", "function": {"name": "find", "parameters": {"type": "object", "properties": {}}}}
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}
FORMAT = {"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": SCHEMA}}
DONE = Piece(finish="stop", usage=Usage(10, 6, 4, 0.1, 0.2))


def chat(**fields: Any) -> Ask:
    return chat_of(json.dumps({"messages": HELLO} | fields).encode())


# -- what requests mean


def test_a_request_that_says_nothing_more_gets_what_the_protocol_has_by_default() -> None:
    assert chat() == Ask("", HELLO, {
        "temperature": 1.0, "top_p": 1.0, "seed": None, "stop": [], "max_tokens": None, "tools": [], "schema": None,
        "logprobs": None,
    }, stream=False, include_usage=False)  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "option", "value"),
    [
        ({"temperature": 0}, "temperature", 0),
        ({"temperature": None}, "temperature", 1.0),
        ({"top_p": 0.5}, "top_p", 0.5),
        ({"seed": 7}, "seed", 7),
        ({"seed": -1}, "seed", 2**64 - 1),
        ({"stop": "END"}, "stop", ["END"]),
        ({"stop": ["a", "b"]}, "stop", ["a", "b"]),
        ({"max_tokens": 9}, "max_tokens", 9),
        ({"max_completion_tokens": 8}, "max_tokens", 8),
        ({"max_tokens": 9, "max_completion_tokens": 8}, "max_tokens", 8),
        ({"tools": [TOOL]}, "tools", [TOOL]),
        ({"tools": [TOOL], "tool_choice": "auto"}, "tools", [TOOL]),
        ({"tools": [TOOL], "tool_choice": "none"}, "tools", []),
        ({"tools": [TOOL], "tool_choice": "none", "response_format": FORMAT}, "schema", SCHEMA),
        ({"response_format": {"type": "text"}}, "schema", None),
        ({"response_format": {"type": "json_object"}}, "schema", {"type": "object"}),
        ({"response_format": FORMAT}, "schema", SCHEMA),
        ({"logprobs": True}, "logprobs", 0),
        ({"logprobs": True, "top_logprobs": 3}, "logprobs", 3),
        ({"logprobs": False}, "logprobs", None),
        ({"user": "me", "metadata": {"a": 1}, "store": True, "made_up": [1]}, "logprobs", None),
        ({"n": 1, "frequency_penalty": 0.0, "logit_bias": {}, "top_k": -1, "audio": None}, "logprobs", None),
    ],
)
def test_a_field_says_what_the_engine_is_told(fields: dict[str, Any], option: str, value: Any) -> None:
    assert chat(**fields).options[option] == value


def test_streams_and_models_are_asked_for_by_name() -> None:
    asked = chat(model="m", stream=True, stream_options={"include_usage": True})
    assert (asked.model, asked.stream, asked.include_usage, asked.chat) == ("m", True, True, True)
    text = completion_of(b'{"prompt": ["Once"], "model": "m", "max_tokens": 3}')
    assert (text.said, text.chat, text.options["max_tokens"]) == ("Once", False, 3)
    assert not {"tools", "schema"} & set(text.options)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"messages": []}, "messages"),
        ({"messages": "Hello"}, "messages"),
        ({"messages": ["Hello"]}, "messages.0"),
        ({"model": 5}, "model"),
        ({"max_tokens": "9"}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"temperature": -1}, "temperature"),
        ({"top_p": 2}, "top_p"),
        ({"top_logprobs": 21, "logprobs": True}, "top_logprobs"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"stream": "yes"}, "stream"),
        ({"n": 2}, "n"),
        ({"frequency_penalty": 0.5}, "frequency_penalty"),
        ({"logit_bias": {"5": 1}}, "logit_bias"),
        ({"parallel_tool_calls": False}, "parallel_tool_calls"),
        ({"functions": [{"name": "find"}]}, "functions"),
        ({"audio": {"voice": "x"}}, "audio"),
        ({"tool_choice": "required", "tools": [TOOL]}, "tool_choice"),
        ({"tool_choice": {"type": "function", "function": {"name": "find"}}}, "tool_choice"),
        ({"tools": [{"type": "function"}]}, "tools.0"),
        ({"tools": [TOOL], "response_format": FORMAT}, "response_format"),
        ({"response_format": {"type": "json_schema"}}, "response_format"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
    ],
)
def test_what_will_not_do_is_refused_by_name_as_the_asker_s_fault(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(SlipError) as caught:
        chat(**fields)
    status, told = error_of(caught.value)
    assert (status, told["error"]["param"], told["error"]["type"]) == (400, field, "invalid_request_error")


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b"{}", "prompt"),
        (b'{"prompt": ["a", "b"]}', "prompt"),
        (b'{"prompt": [1, 2]}', "prompt"),
        (b'{"prompt": "a", "echo": true}', "echo"),
        (b'{"prompt": "a", "suffix": "b"}', "suffix"),
        (b'{"prompt": "a", "logprobs": 2}', "logprobs"),
    ],
)
def test_a_text_is_one_and_is_gone_on_with_at_its_end(body: bytes, field: str) -> None:
    with pytest.raises(SlipError) as caught:
        completion_of(body)
    assert error_of(caught.value)[1]["error"]["param"].split(".")[0] == field


@given(st.binary(max_size=60) | st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(),
    lambda x: st.lists(x) | st.dictionaries(st.sampled_from(["messages", "stop", "tools", "n", "response_format"]), x),
).map(lambda value: json.dumps(value).encode()))  # fmt: skip
def test_whatever_a_body_holds_it_is_a_request_or_an_error_that_names_it(body: bytes) -> None:
    for read in (chat_of, completion_of):
        try:
            assert isinstance(read(body), Ask)
        except (ApiError, UsageError) as error:
            assert error_of(error)[0] == 400
            json.dumps(error_of(error)[1])


def test_json_that_is_nested_without_end_is_no_crash() -> None:
    with pytest.raises(ApiError):
        chat_of(b'{"messages": ' + b"[" * 200_000)


# -- who may ask


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": "localhost:8080"}, None),
        ({"host": "LOCALHOST"}, None),
        ({"host": "127.0.0.1:8080"}, None),
        ({"host": "[::1]:8080"}, None),
        ({"host": "192.168.1.7"}, None),
        ({"host": "car.local:8080"}, None),
        ({"host": "localhost:8080", "origin": "http://localhost:8080"}, None),
        ({}, 403),
        ({"host": ""}, 403),
        ({"host": "evil.example:8080"}, 403),
        ({"host": "localhost.evil.example"}, 403),
        ({"host": "127.0.0.1.evil.example"}, 403),
        ({"host": "[evil.example]"}, 403),
        ({"host": "localhost:8080", "origin": "http://evil.example"}, 403),
        ({"host": "localhost:8080", "origin": "http://localhost:3000"}, 403),
        ({"host": "localhost:8080", "origin": "null"}, 403),
    ],
)
def test_names_that_are_not_ours_and_pages_of_others_are_turned_away(headers: dict[str, str], status: int) -> None:
    gate = Gate(frozenset({"localhost", "car.local"}))
    if status is None:
        gate.check(headers)
        return
    with pytest.raises(ApiError) as caught:
        gate.check(headers)
    assert caught.value.status == status


@pytest.mark.parametrize("shown", ["", "Bearer", "Bearer ", "Bearer wrong", "Basic s3cret", "s3cret", "Bearer s3crét"])
def test_who_does_not_show_the_key_is_turned_away_and_the_key_is_in_no_message(shown: str) -> None:
    gate = Gate(key="s3cret")
    gate.check({"host": "localhost", "authorization": "bearer s3cret"})
    for headers in ({"host": "localhost", "authorization": shown}, {"host": "localhost"}):
        with pytest.raises(ApiError) as caught:
            gate.check(headers)
        status, told = error_of(caught.value)
        assert (status, told["error"]["type"]) == (401, "authentication_error")
        assert "s3cr" not in json.dumps(told)


def test_paths_are_known_with_their_methods() -> None:
    for path, method in PATHS.items():
        assert routed(method, f"{path}?a=b") == path
    assert routed("HEAD", "/health") == "/health"
    assert routed("GET", "/v1/models/some") == "/v1/models/some"
    for method, target, status in (
        ("GET", "/", 404), ("POST", "/v1/embeddings", 404), ("GET", "/v1/chat/completions", 405),
        ("POST", "/health", 405), ("HEAD", "/v1/completions", 405), ("GET", "http://localhost/health", 404),
    ):  # fmt: skip
        with pytest.raises(ApiError) as caught:
            routed(method, target)
        assert caught.value.status == status


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (UsageError("wrong"), 400, "invalid_request_error"),
        (UsageError("no such", field="model"), 404, "invalid_request_error"),
        (Refused("no room"), 503, "server_error"),
        (SkillFailed("broken"), 500, "server_error"),
        (ApiError(429, "too many"), 429, "rate_limit_error"),
    ],
)
def test_an_error_says_what_why_and_what_next(error: SlipError, status: int, kind: str) -> None:
    found, told = error_of(error)
    assert (found, told["error"]["type"]) == (status, kind)
    assert told["error"]["code"] == ("model_not_found" if status == 404 else None)
    assert error_of(UsageError("what", "why", "next"))[1]["error"]["message"] == "what: why; next"


# -- what answers look like


def test_a_whole_answer_has_text_reasoning_calls_and_what_it_took() -> None:
    pieces = [Piece(reasoning="Hm"), Piece(text="Yes"), Piece(text="."), DONE]
    told = Answer(chat(), "m", "7", 5).whole(pieces)
    assert told == {
        "id": "chatcmpl-7", "object": "chat.completion", "created": 5, "model": "m",
        "choices": [{"index": 0, "finish_reason": "stop", "logprobs": None, "message": {
            "role": "assistant", "content": "Yes.", "reasoning_content": "Hm"}}],
        "usage": {"prompt_tokens": 10, "completion_tokens": 4, "total_tokens": 14,
                  "prompt_tokens_details": {"cached_tokens": 6}},
    }  # fmt: skip
    text = Answer(completion_of(b'{"prompt": "a"}'), "m", "7", 5).whole(pieces[1:])
    assert (text["object"], text["id"]) == ("text_completion", "cmpl-7")
    assert text["choices"] == [{"index": 0, "finish_reason": "stop", "logprobs": None, "text": "Yes."}]


def test_calls_have_ids_of_their_own_and_what_is_none_is_told_apart() -> None:
    calls = Piece(calls=(Call("find", {"x": "é"}), Call("find", {})))
    pieces = [calls, Piece(calls=(Call("warm", {}),), problems=(Problem("<tool_call>{", "it does not end"),)),
              Piece(finish="tool_calls")]  # fmt: skip
    message = Answer(chat(), "m", "7", 5).whole(pieces)["choices"][0]["message"]
    assert [call["id"] for call in message["tool_calls"]] == ["call_7_0", "call_7_1", "call_7_2"]
    assert message["tool_calls"][0]["function"] == {"name": "find", "arguments": '{"x": "é"}'}
    assert message["content"] is None
    assert message["problems"] == ["it does not end: <tool_call>{"]
    answer = Answer(chat(), "m", "7", 5)
    chunks = [chunk["choices"][0] for piece in pieces for chunk in answer.chunks(piece)]
    streamed = [call for chunk in chunks for call in chunk["delta"].get("tool_calls", [])]
    assert streamed == [call | {"index": number} for number, call in enumerate(message["tool_calls"])]
    assert [chunk["finish_reason"] for chunk in chunks] == [None] * (len(chunks) - 1) + ["tool_calls"]


@pytest.mark.parametrize("told", [True, False])
def test_a_stream_begins_with_the_role_and_ends_with_why_and_what_it_took_if_asked_for(told: bool) -> None:
    answer = Answer(chat(stream=True, stream_options={"include_usage": told}), "m", "7", 5)
    chunks = [chunk for piece in (Piece(text="Yes"), Piece(), DONE) for chunk in answer.chunks(piece)]
    assert [choice["delta"] for chunk in chunks for choice in chunk["choices"]] == [
        {"role": "assistant", "content": ""}, {"content": "Yes"}, {},
    ]  # fmt: skip
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert [chunk.get("usage") is not None for chunk in chunks] == [False] * 3 + [True] * told


@pytest.mark.parametrize("finish", ["length", "context", "deadline", "energy"])
def test_whatever_ran_out_is_told_as_length(finish: Any) -> None:
    whole = Answer(chat(), "m", "7", 5).whole([Piece(text="a"), Piece(finish=finish)])
    assert whole["choices"][0]["finish_reason"] == "length"


def test_chances_are_told_as_the_protocol_has_them_and_are_always_json() -> None:
    answer = Answer(chat(logprobs=True, top_logprobs=1), "m", "7", 5)
    piece = Piece(chances=(Chance(b"\xf0\x9f", -0.5, ((b"a", float("-inf")),)),))
    (_, chunk) = answer.chunks(piece)
    assert chunk["choices"][0]["logprobs"] == answer.whole([piece])["choices"][0]["logprobs"] == {
        "refusal": None, "content": [{"token": "\ufffd", "logprob": -0.5, "bytes": [0xF0, 0x9F], "top_logprobs": [
            {"token": "a", "logprob": -9999.0, "bytes": [97]}]}],
    }  # fmt: skip


@given(st.lists(st.builds(Piece, text=st.text(), reasoning=st.text())))
def test_a_stream_says_what_the_whole_says(pieces: list[Piece]) -> None:
    pieces = [*pieces, DONE]
    message = Answer(chat(), "m", "7", 5).whole(pieces)["choices"][0]["message"]
    answer = Answer(chat(), "m", "7", 5)
    deltas = [chunk["choices"][0]["delta"] for piece in pieces for chunk in answer.chunks(piece)]
    for name in ("content", "reasoning_content"):
        assert "".join(delta.get(name, "") for delta in deltas) == message.get(name, "")
