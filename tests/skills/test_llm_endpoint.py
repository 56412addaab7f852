"""Models behind endpoints: real sockets of a server that answers as a test says, and our own server."""

from __future__ import annotations

import json
import os
import runpy
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.abc import SocketStream
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

pytest.importorskip("httpx", reason="the extra `llm` is not installed: no httpx")

from slipstream.core.errors import Denied, LinkLost, Refused, SkillFailed, SlipError, TimedOut, UsageError
from slipstream.core.skill import Context
from slipstream.skills.packs.llm import endpoint as module
from slipstream.skills.packs.llm import pack
from slipstream.skills.packs.llm.endpoint import Endpoint, EndpointSettings
from slipstream.skills.packs.llm.generate import llm_generate, llm_models
from slipstream.skills.packs.llm.local import Piece
from slipstream.skills.packs.llm.openai import Answer, Events, body

pytestmark = pytest.mark.anyio
HELLO = [{"role": "user", "content": "hello"}]
SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"], "additionalProperties": False}
MAKE = Path(__file__).parents[1] / "models" / "make_gguf.py"
SECRET = "sk-secret-0123456789"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"  # real sockets


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_pause", lambda tries, after: 0.0)


def delta(**said: Any) -> dict[str, Any]:
    finish = said.pop("finish", None)
    return {"choices": [{"index": 0, "delta": said, "finish_reason": finish}]}


def stream(*chunks: Any, end: str = "data: [DONE]\n\n") -> bytes:
    head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
    return (head + "".join(f"data: {json.dumps(c, ensure_ascii=False)}\n\n" for c in chunks) + end).encode()


def plain(status: int, said: Any, **headers: str) -> bytes:
    text = said if isinstance(said, str) else json.dumps(said)
    more = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    kind = "text/html" if isinstance(said, str) else "application/json"
    return f"HTTP/1.1 {status} X\r\ncontent-type: {kind}\r\nconnection: close\r\n{more}\r\n{text}".encode()


Reply = bytes | Callable[[SocketStream], Awaitable[None]]


class Fake:
    """A server that gives one reply after the other, the last one again and again."""

    def __init__(self, *replies: Reply) -> None:
        self._replies = list(replies)
        self.asked: list[dict[str, Any]] = []
        self.heads: list[str] = []
        self.hung_up = anyio.Event()
        self.port = 0

    async def serve(self, connection: SocketStream) -> None:
        async with connection:
            data = b""
            while b"\r\n\r\n" not in data:
                data += await connection.receive()
            head, _, sent = data.partition(b"\r\n\r\n")
            length = int(
                next(x for x in head.decode().lower().split("\r\n") if x.startswith("content-length")).split()[1]
            )
            while len(sent) < length:
                sent += await connection.receive()
            self.asked.append(json.loads(sent))
            self.heads.append(head.decode())
            reply = self._replies.pop(0) if len(self._replies) > 1 else self._replies[0]
            if isinstance(reply, bytes):
                await connection.send(reply)
            else:
                await reply(connection)

    async def until_hung_up(self, connection: SocketStream) -> None:
        try:
            while await connection.receive():
                pass
        except (anyio.EndOfStream, anyio.BrokenResourceError):
            self.hung_up.set()


@asynccontextmanager
async def served(*replies: Reply, **settings: Any) -> AsyncIterator[tuple[Endpoint, Fake]]:
    fake = Fake(*replies)
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    fake.port = listener.extra(anyio.abc.SocketAttribute.local_port)
    async with anyio.create_task_group() as group:
        group.start_soon(listener.serve, fake.serve)
        url = f"http://127.0.0.1:{fake.port}/v1"
        yield Endpoint("far", EndpointSettings(url=url, model="mimo", **settings)), fake
        group.cancel_scope.cancel()
    await listener.aclose()


async def answer(endpoint: Endpoint, messages: list[dict[str, Any]] = HELLO, **options: Any) -> list[Piece]:
    async with aclosing(endpoint.chat(messages, **options)) as pieces:
        return [piece async for piece in pieces]


USAGE = {
    "usage": {"prompt_tokens": 7, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 4}},
    "choices": [],
}


async def test_an_answer_is_streamed_with_what_it_took() -> None:
    async with served(stream(delta(content="Grüß "), delta(content="Gott"), delta(finish="stop"), USAGE)) as (
        far,
        fake,
    ):
        *pieces, last = await answer(far, temperature=0.5, stop=["x"], seed=3, max_tokens=9)
    assert [piece.text for piece in pieces] == ["Grüß ", "Gott"]
    assert last.finish == "stop"
    assert last.usage is not None
    assert (last.usage.prompt_tokens, last.usage.reused_tokens, last.usage.completion_tokens) == (7, 4, 3)
    [asked] = fake.asked
    assert asked["model"] == "mimo"
    assert asked["stream_options"] == {"include_usage": True}
    assert (asked["temperature"], asked["stop"], asked["seed"], asked["max_tokens"]) == (0.5, ["x"], 3, 9)


async def test_what_an_endpoint_does_not_tell_is_not_told_as_nothing_and_a_rate_is_of_what_came_in_time() -> None:
    for reply in (stream(delta(content="a"), delta(finish="stop")), plain(200, {"choices": [{"message": {}}]})):
        async with served(reply) as (far, _):
            assert (await answer(far))[-1].usage is None
            assert far.rate is None
    whole = {"choices": [{"message": {"content": "hi"}}], "usage": {"prompt_tokens": 2, "completion_tokens": 50}}
    async with served(plain(200, whole)) as (far, _):
        usage = (await answer(far))[-1].usage
        assert usage is not None
        assert usage.completion_tokens == 50
        assert far.rate is None, "it came at once: nobody knows how long it took"


async def test_an_answer_that_is_asked_for_twice_took_both() -> None:
    replies = [stream(delta(content=text), delta(finish="stop"), USAGE) for text in ('{"n": "x"}', '{"n": 4}')]
    async with served(*replies) as (far, _):
        [last] = await answer(far, schema=SCHEMA)
    assert last.usage is not None
    assert (last.usage.prompt_tokens, last.usage.reused_tokens, last.usage.completion_tokens) == (14, 8, 6)


async def test_calls_of_tools_come_in_parts_and_reasoning_goes_back_with_them_only() -> None:
    def part(index: int, **function: str) -> dict[str, Any]:
        return delta(tool_calls=[{"index": index, "id": f"c{index}", "function": function}])

    reply = stream(
        delta(reasoning_content="hm, "), part(0, name="find", arguments='{"a"'), part(1, name="go", arguments="{nope"),
        part(0, arguments=": 1}"), delta(finish="tool_calls"),
    )  # fmt: skip
    call = {"role": "assistant", "content": "", "reasoning_content": "why", "tool_calls": [{"id": "c0"}]}
    text = {"role": "assistant", "content": "ok", "reasoning_content": "why"}
    async with served(reply) as (far, fake):
        first, last = await answer(far, [*HELLO, call, text], tools=[{"type": "function"}])
    assert first.reasoning == "hm, "
    assert [(c.name, c.arguments) for c in last.calls] == [("find", {"a": 1})]
    assert [p.text for p in last.problems] == ["go({nope)"]
    assert last.finish == "tool_calls"
    _, sent, other = fake.asked[0]["messages"]
    assert sent["reasoning_content"] == "why"
    assert "reasoning_content" not in other


async def test_certificates_are_read_once_and_not_on_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    def tls() -> Any:
        threads.append(threading.get_ident())
        return real()

    real, threads = module._tls, list[int]()
    monkeypatch.setattr(module, "_tls", tls)
    async with served(stream(delta(content="hi"), delta(finish="stop"))) as (far, _):
        await answer(far)
    assert threads
    assert threading.get_ident() not in threads
    assert real() is real()


async def test_an_answer_that_is_not_streamed_is_taken_as_well() -> None:
    whole = {"choices": [{"message": {"content": "hi"}, "finish_reason": "length"}], "usage": {"prompt_tokens": 2}}
    async with served(plain(200, whole)) as (far, _):
        first, last = await answer(far)
    assert (first.text, last.finish) == ("hi", "length")


async def test_json_that_does_not_fit_is_asked_for_once_more_with_what_is_wrong() -> None:
    replies = [stream(delta(content=text), delta(finish="stop")) for text in ('{"n": "x"}', '{"n": 4}')]
    async with served(*replies) as (far, fake):
        [last] = await answer(far, schema=SCHEMA)
    assert last.text == '{"n": 4}'
    assert fake.asked[0]["response_format"]["json_schema"]["schema"] == SCHEMA
    assert "n should be integer" in fake.asked[1]["messages"][-1]["content"]


async def test_json_that_never_fits_is_a_clear_error() -> None:
    async with served(stream(delta(content="no"), delta(finish="stop"))) as (far, fake):
        with pytest.raises(SkillFailed, match="no answer that fits the schema"):
            await answer(far, schema=SCHEMA)
    assert len(fake.asked) == 2


async def test_an_endpoint_that_knows_no_schemas_is_told_of_it_in_words() -> None:
    good = stream(delta(content='{"n": 1}'), delta(finish="stop"))
    async with served(plain(400, {"error": {"message": "unknown response_format"}}), good) as (far, fake):
        [last] = await answer(far, schema=SCHEMA)
        await answer(far, schema=SCHEMA)
    assert last.text == '{"n": 1}'
    assert fake.asked[1]["response_format"] == {"type": "json_object"}
    assert json.dumps(SCHEMA) in fake.asked[1]["messages"][-1]["content"]
    assert fake.asked[1]["messages"][-1]["content"].startswith("hello")
    assert fake.asked[2]["response_format"] == {"type": "json_object"}  # it is remembered


async def test_a_conversation_that_is_not_taken_does_not_mean_that_schemas_are_unknown() -> None:
    good = stream(delta(content='{"n": 1}'), delta(finish="stop"))
    long = plain(400, {"error": {"message": "context is 4096"}})
    async with served(long, long, good) as (far, fake):
        with pytest.raises(UsageError, match="4096"):
            await answer(far, schema=SCHEMA)
        await answer(far, schema=SCHEMA)
    assert fake.asked[2]["response_format"]["type"] == "json_schema"


async def hang_up(connection: SocketStream) -> None:
    """Close without a word."""


@pytest.mark.parametrize("first", [plain(429, {}, retry_after="0"), plain(503, "busy"), hang_up, stream(end="")])
async def test_before_the_first_token_it_is_tried_again(first: Reply) -> None:
    async with served(first, first, stream(delta(content="hi"), delta(finish="stop"))) as (far, fake):
        pieces = await answer(far)
    assert pieces[0].text == "hi"
    assert len(fake.asked) == 3


async def test_it_is_not_tried_for_ever() -> None:
    async with served(plain(429, {"error": {"message": "too many"}})) as (far, fake):
        with pytest.raises(Refused, match="too many"):
            await answer(far)
    assert len(fake.asked) == module.TRIES


async def test_after_the_first_token_nothing_is_tried_again() -> None:
    async with served(stream(delta(content="half a wo"), end="")) as (far, fake):
        with pytest.raises(LinkLost, match="broke off"):
            await answer(far)
    assert len(fake.asked) == 1


def cut(reply: bytes, at: int) -> Reply:
    async def send(connection: SocketStream) -> None:
        await connection.send(reply[:at])

    return send


@pytest.mark.parametrize(
    ("reply", "error", "says"),
    [
        (plain(200, "<html>hello</html>"), SkillFailed, "talks nonsense"),
        (plain(200, {"hello": 1}), SkillFailed, "no choices"),
        (stream({"choices": [{"delta": 4}]}), SkillFailed, "neither delta nor message"),
        (stream({"choices": 4}), SkillFailed, "no choices"), (stream([1]), SkillFailed, "no object"),
        (stream({"error": {"message": "out of memory"}}), SkillFailed, "out of memory"),
        (stream({"error": {"message": f"bad key {SECRET}"}}), SkillFailed, "bad key ..."),
        (plain(401, {"error": {"message": "x" * 290 + SECRET}}), Denied, "does not let"),
        (stream({"error": {"message": "x" * 275 + SECRET}}), SkillFailed, "it reports"),
        (stream(delta(content="a"), end="data: {nope\n\n"), SkillFailed, "talks nonsense"),
        (stream().replace(b"[DONE]", b"\xff"), SkillFailed, "talks nonsense"),
        (plain(401, {"error": {"message": f"bad key {SECRET}"}}), Denied, "does not let this device in"),
        (plain(403, {}), Denied, "does not let"), (plain(404, {"detail": "no model"}), SkillFailed, "no model"),
        (plain(400, {"error": "context is 4096"}), UsageError, "context is 4096"),
        (plain(302, "", location="http://elsewhere/"), SkillFailed, "somewhere else"),
        (plain(418, {}), UsageError, "418"), (stream(delta(content="x" * (2 << 20))), SkillFailed, "more than"),
    ],
)  # fmt: skip
async def test_each_failure_is_an_error_that_says_what_why_and_what_next(
    reply: bytes, error: type[SlipError], says: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    key = tmp_path / "key"
    key.write_text(SECRET)
    key.chmod(0o600)
    async with served(reply, key_file=key) as (far, fake):
        with pytest.raises(error) as raised:
            await answer(far)
    told = str(raised.value.to_wire())
    assert says in told
    assert raised.value.hint
    assert f"Bearer {SECRET}" in fake.heads[0]
    for shown in (told, repr(raised.value), repr(far), repr(far.settings), caplog.text):
        assert SECRET[:9] not in shown


@pytest.mark.parametrize("at", range(90, 330, 7))
async def test_a_stream_that_is_cut_anywhere_is_a_lost_link_or_tried_again(at: int) -> None:
    reply = stream(delta(content="漢字"), delta(content="仮名"), delta(finish="stop"))
    async with served(cut(reply, at), stream(delta(content="again"), delta(finish="stop"))) as (far, fake):
        try:
            pieces = await answer(far)
        except LinkLost:
            assert len(fake.asked) == 1
        else:
            text = "".join(piece.text for piece in pieces)
            assert text in ("again", "漢字仮名")
            assert "\ufffd" not in text


async def test_nobody_there_is_told_after_some_tries() -> None:
    async with served(hang_up) as (far, _):
        pass
    with pytest.raises(LinkLost, match="cannot be reached"):
        await answer(far)


@pytest.mark.parametrize("before", [b"", stream(delta(content="a"), end="")])
async def test_an_endpoint_that_stalls_is_given_up_and_one_past_the_deadline_ends_the_answer(before: bytes) -> None:
    async def stall(connection: SocketStream) -> None:
        await connection.send(before) if before else None
        await fake.until_hung_up(connection)

    async with served(stall, first_seconds=0.1, between_seconds=0.1) as (far, fake):
        with pytest.raises(TimedOut, match="nothing came"):
            await answer(far)
        await fake.hung_up.wait()
    async with served(stall, first_seconds=9, between_seconds=9) as (far, fake):
        pieces = await answer(far, deadline=0.1)
        assert pieces[-1].finish == "deadline"
        await fake.hung_up.wait()


async def test_whoever_stops_listening_ends_the_request() -> None:
    async def slowly(connection: SocketStream) -> None:
        await connection.send(stream(delta(content="a"), end=""))
        await fake.until_hung_up(connection)

    async with served(slowly) as (far, fake):
        async with aclosing(far.chat(HELLO)) as pieces:
            await anext(pieces)
        await fake.hung_up.wait()


async def test_what_cannot_be_done_there_is_refused_before_anything_is_sent(tmp_path: Path) -> None:
    async with served(stream()) as (far, fake):
        with pytest.raises(Refused, match="joules"):
            await answer(far, max_joules=1.0)
        with pytest.raises(UsageError, match="tools and a schema"):
            await answer(far, tools=[{}], schema=SCHEMA)
        with pytest.raises(UsageError, match="message 0 has no role"):
            await answer(far, [{"content": "x"}])
    away = Endpoint("away", EndpointSettings(url="https://api.example.com/v1", model="m"))
    with pytest.raises(Denied, match="not sent anything personal"):
        await answer(away)
    assert fake.asked == []


async def test_a_key_that_others_can_read_or_that_is_not_there_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = tmp_path / "key"
    key.write_text(SECRET)
    key.chmod(0o644)
    async with served(stream(), key_file=key) as (far, fake):
        with pytest.raises(SkillFailed, match="can be read by others"):
            await answer(far)
        key.unlink()
        with pytest.raises(SkillFailed, match="cannot be read"):
            await answer(far)
    async with served(stream(delta(content="a"), delta(finish="stop")), key_env="TEST_KEY") as (far, fake):
        with pytest.raises(SkillFailed, match="there is no key"):
            await answer(far)
        monkeypatch.setenv("TEST_KEY", f" {SECRET}\n")
        await answer(far)
        assert f"authorization: Bearer {SECRET}" in fake.heads[-1]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"url": "http://example.com/v1"}, "write https"), ({"url": "ftp://x"}, "write like"),
        ({"url": "https://me:key@x/v1"}, "does not belong"), ({"url": "https://x/v1?key=1"}, "does not belong"),
        ({"url": "https://x/v1", "key_env": "A", "key_file": "b"}, "not both"),
        ({"url": "https://x/v1", "key": "x"}, "key"),
    ],
)  # fmt: skip
def test_settings_that_are_not_safe_are_refused(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        EndpointSettings(model="m", **settings)


async def test_what_may_not_leave_this_device_is_not_sent_to_an_endpoint_elsewhere() -> None:
    away = {"url": "https://api.example.com/v1", "model": "m", "personal": True}
    async with served(stream(delta(content="hi"), delta(finish="stop"))) as (far, fake):
        near = {"url": far.settings.url, "model": "mimo"}
        async with pack.open({"endpoints": {"away": away, "near": near}}) as llm:
            ctx = Context(llm)
            ctx.private = True
            with pytest.raises(Denied, match="may not leave this device"):
                [item async for item in llm_generate(ctx, HELLO, model="away")]
            said = [item async for item in llm_generate(ctx, HELLO, model="near")]
            assert said[0].text == "hi"
    assert len(fake.asked) == 1


async def test_an_endpoint_that_fails_at_schemas_is_told_of_one_in_words() -> None:
    good = stream(delta(content='{"n": 1}'), delta(finish="stop"))
    async with served(plain(500, {"error": {"message": "KeyError"}}), good) as (far, fake):
        [last] = await answer(far, schema=SCHEMA)
    assert last.text == '{"n": 1}'
    assert [asked["response_format"]["type"] for asked in fake.asked] == ["json_schema", "json_object"]


async def test_the_skill_answers_by_an_endpoint_and_tells_which_models_are_where() -> None:
    async with served(stream(delta(content="hi"), delta(finish="stop"))) as (far, _):
        near = {"url": far.settings.url, "model": "mimo"}
        away = {"url": "https://api.example.com/v1", "model": "m"}
        async with pack.open({"endpoints": {"far": near, "away": away}}) as llm:
            assert set(pack.capabilities(llm)) == {"llm.models", "llm.generate"}
            said = [item async for item in llm_generate(Context(llm), HELLO)]
            assert (said[0].text, said[-1].model) == ("hi", "far")
            listed = {each.name: each for each in (await llm_models(Context(llm))).models}
            assert listed["far"].where == "127.0.0.1"
            assert "personal" in listed["away"].problem
        async with pack.open({"endpoints": {"away": away}}) as llm:
            assert pack.capabilities(llm) == ["llm.models"]


async def test_our_own_server_is_such_an_endpoint(tmp_path: Path) -> None:
    for library in ("h11", "regex", "jinja2", "llguidance"):
        pytest.importorskip(library, reason=f"the extra `llm` is not installed: no {library}")
    from slipstream.llm_api import Gate
    from slipstream.llm_server import Server
    from slipstream.skills.packs.llm.backend import Llm, LlmSettings

    model = tmp_path / "tiny.gguf"
    runpy.run_path(str(MAKE))["make"](model, "tiny", "F16")
    llm = Llm(LlmSettings(models=(model,), threads=1, context=512))
    server = Server(llm, Gate(("127.0.0.1",), SECRET), lambda error: None)
    ports: list[int] = []
    up = anyio.Event()

    def ready(port: int) -> None:
        ports.append(port)
        up.set()

    key = tmp_path / "key"
    key.write_text(SECRET)
    key.chmod(0o600)
    async with anyio.create_task_group() as group:
        group.start_soon(server.serve, "127.0.0.1", 0, ready)
        await up.wait()
        far = Endpoint("far", EndpointSettings(url=f"http://127.0.0.1:{ports[0]}/v1", model="tiny", key_file=key))
        *pieces, last = await answer(far, max_tokens=12)
        assert last.usage is not None
        assert last.usage.completion_tokens == 12
        assert last.finish == "length"
        engine = await llm.engine("tiny")
        async with aclosing(engine.chat(HELLO, max_tokens=12)) as own:
            assert "".join(p.text for p in pieces) == "".join([p.text async for p in own])
        [made] = await answer(far, schema=SCHEMA, max_tokens=60)
        assert isinstance(json.loads(made.text)["n"], int)
        server.stop()
        group.cancel_scope.cancel()


@pytest.mark.skipif(
    not os.environ.get("SLIPSTREAM_OPENAI_SERVER"), reason="SLIPSTREAM_OPENAI_SERVER=URL names no server"
)
async def test_another_server_is_such_an_endpoint() -> None:
    far = Endpoint("far", EndpointSettings(url=os.environ["SLIPSTREAM_OPENAI_SERVER"], model="any", personal=True))
    *pieces, last = await answer(far, max_tokens=8)
    assert "".join(p.text for p in pieces)
    assert last.finish in ("length", "stop")


@given(st.lists(st.text(max_size=5).filter(lambda t: "\r" not in t and "\n" not in t), max_size=4), st.data())
def test_events_are_the_same_however_the_stream_is_cut(texts: list[str], data: st.DataObject) -> None:
    end = data.draw(st.sampled_from(["\n", "\r\n", "\r"]))
    raw = "".join(f": a comment{end}event: x{end}data: {text}{end}{end}" for text in texts).encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(raw)), max_size=6)))
    events, found = Events(), []
    for a, b in zip([0, *cuts], [*cuts, len(raw)], strict=True):
        found += list(events.feed(raw[a:b]))
    assert found == texts


FIELDS = st.sampled_from(["choices", "delta", "content", "tool_calls", "function", "usage", "index"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(FIELDS, inner),
)


@given(VALUES)
def test_no_chunk_brings_an_answer_down(chunk: Any) -> None:
    said = Answer()
    try:
        said.piece(chunk, 0.0)
        said.piece({"choices": [chunk]}, 0.0)
    except ValueError:
        return
    said.end()


def test_options_that_were_not_given_are_not_sent() -> None:
    sent = body("m", HELLO, None, None, True, {"seed": None, "stop": [], "max_tokens": 3})
    assert set(sent) == {"model", "messages", "stream", "stream_options", "max_tokens"}
