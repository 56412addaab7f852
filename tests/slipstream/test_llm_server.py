"""The model server on real loopback sockets, on a small file of random weights: answers, refusals, bad clients."""

from __future__ import annotations

import json
import runpy
import socket
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import pytest

pytest.importorskip("regex", reason="the extra `llm` is not installed: no regex")
pytest.importorskip("jinja2", reason="the extra `llm` is not installed: no jinja2")
pytest.importorskip("httpx", reason="the extra `llm` is not installed: no httpx")
pytest.importorskip("h11", reason="the extra `llm` is not installed: no h11")

import httpx
from anyio.abc import SocketStream

from slipstream.core.errors import SkillFailed
from slipstream.llm_api import BODY_LIMIT, Gate
from slipstream.llm_server import HEAD_LIMIT, Limits, Server
from slipstream.runtime_ext.reply import Reader
from slipstream.skills.packs.llm import local
from slipstream.skills.packs.llm.backend import Llm, LlmSettings
from slipstream.skills.packs.llm.local import Engine, Piece

pytestmark = pytest.mark.anyio
MAKE = Path(__file__).parents[1] / "models" / "make_gguf.py"
HELLO = [{"role": "user", "content": "Where is the car?"}]
SCHEMA = {
    "type": "object", "properties": {"skill": {"enum": ["cabin.warm", "nav.find"]}, "soon": {"type": "boolean"}},
    "required": ["skill", "soon"], "additionalProperties": False,
}  # fmt: skip
TOOL = {"type": "function", "function": {"name": "find", "parameters": {"type": "object", "properties": {}}}}
CHAT = "/v1/chat/completions"
LONG = {"messages": HELLO, "stream": True, "temperature": 0}
"""More than a thousand tokens, for whoever does not stop it."""


class House:
    """A server, what it serves, and ways to it."""

    def __init__(self, server: Server, llm: Llm, port: int, faults: list[Exception]) -> None:
        self.server, self.llm, self.port, self.faults = server, llm, port, faults
        self.client = httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60, trust_env=False)
        self.ended = anyio.Event()

    async def ask(self, **fields: Any) -> httpx.Response:
        return await self.client.post(CHAT, json={"messages": HELLO, "temperature": 0, "max_tokens": 8} | fields)

    async def said(self, **fields: Any) -> str:
        answer = await self.ask(**fields)
        assert answer.status_code == 200
        text: str = answer.json()["choices"][0]["message"]["content"]
        return text

    @asynccontextmanager
    async def raw(self, data: bytes = b"") -> AsyncIterator[SocketStream]:
        async with await anyio.connect_tcp("127.0.0.1", self.port) as stream:
            await stream.send(data)
            yield stream

    async def asked(self, count: int) -> None:
        """Wait until so many answers are asked for."""
        while (await self.client.get("/health")).json()["models"][0]["requests"] != count:
            pass

    async def free(self) -> None:
        """Wait until nobody is answered any more."""
        await self.asked(0)

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """A block while which all answers wait."""
        await self.engine._turn.acquire()
        try:
            yield
        finally:
            self.engine._turn.release()

    @property
    def engine(self) -> Engine:
        found = self.llm.loaded("large")
        assert found is not None
        return found


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"  # threads and sockets are real, so is time


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ...]:
    folder, make = tmp_path_factory.mktemp("models"), runpy.run_path(str(MAKE))["make"]
    make(folder / "large.gguf", "tiny", "Q8_0", "qwen3")
    make(folder / "small.gguf", "tiny", "Q4_0")
    return folder / "large.gguf", folder / "small.gguf"


@asynccontextmanager
async def served(
    files: tuple[Path, ...], gate: Gate | None = None, limits: Limits | None = None
) -> AsyncGenerator[House, None]:
    faults: list[Exception] = []
    llm = Llm(LlmSettings(models=files, threads=1, context=2048))
    server = Server(llm, gate or Gate(), faults.append, limits)
    async with anyio.create_task_group() as group:
        ready: anyio.Event = anyio.Event()
        ports: list[int] = []

        def listening(port: int) -> None:
            ports.append(port)
            ready.set()

        async def serve() -> None:
            await server.serve("127.0.0.1", 0, listening)
            house.ended.set()

        group.start_soon(serve)
        await ready.wait()
        house = House(server, llm, ports[0], faults)
        async with house.client:
            yield house
            server.stop()
            await house.ended.wait()


@pytest.fixture
async def house(files: tuple[Path, ...]) -> AsyncIterator[House]:
    async with served(files) as made:
        yield made
    assert made.faults == []


class Held:
    """Answers that have begun and go on only when they are ended."""

    def __init__(self, patched: pytest.MonkeyPatch) -> None:
        self.ended, self.undo = anyio.Event(), patched.undo

        async def chat(*_: Any, **__: Any) -> AsyncGenerator[Piece, None]:
            try:
                yield Piece(text="Yes")
                await anyio.sleep_forever()
            finally:
                self.ended.set()

        patched.setattr(local.Engine, "chat", chat)


@pytest.fixture
async def held(monkeypatch: pytest.MonkeyPatch) -> Held:
    return Held(monkeypatch)


def events(text: str) -> list[dict[str, Any]]:
    """What a stream said, which ended as it should."""
    *told, done = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
    assert done == "[DONE]"
    return [json.loads(each) for each in told]


def post(body: bytes, *headers: str, path: str = CHAT) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


async def status(stream: SocketStream) -> int:
    """The status of the next answer on a connection."""
    return int((await stream.receive()).split(b" ")[1])


async def rest(stream: SocketStream) -> bytes:
    data = b""
    try:
        while True:
            data += await stream.receive()
    except anyio.EndOfStream:
        return data


# -- answers


async def test_health_and_models_say_what_there_is_and_what_it_does(house: House, held: Held) -> None:
    idle = {"loaded": False, "busy": False, "requests": 0}
    told = (await house.client.get("/health")).json()
    assert told == {"status": "ok", "models": [{"id": "large", **idle}, {"id": "small", **idle}]}
    listed = (await house.client.get("/v1/models")).json()["data"]
    assert [model["id"] for model in listed] == ["large", "small"]
    assert (await house.client.get("/v1/models/small")).json() == listed[1]
    missing = await house.client.get("/v1/models/none")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "model_not_found")
    async with house.client.stream("POST", CHAT, json=LONG) as answer:
        await anext(answer.aiter_lines())
        told = (await house.client.get("/health")).json()
        assert told["models"][0] == {"id": "large", "loaded": True, "busy": False, "requests": 1}
    await house.free()
    async with house.turn():
        assert (await house.client.get("/health")).json()["models"][0]["busy"]


async def test_an_answer_is_what_the_engine_says_whole_and_as_a_stream(house: House) -> None:
    whole = (await house.ask()).json()
    expected = "".join([piece.text async for piece in house.engine.chat(HELLO, max_tokens=8)])
    assert whole["choices"][0]["message"]["content"] == expected != ""
    assert (whole["choices"][0]["finish_reason"], whole["usage"]["completion_tokens"]) == ("length", 8)
    streamed = await house.ask(stream=True, stream_options={"include_usage": True})
    assert streamed.headers["content-type"] == "text/event-stream; charset=utf-8"
    *chunks, last = events(streamed.text)
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == expected
    assert len(chunks) > 3
    assert last["usage"]["total_tokens"] == whole["usage"]["total_tokens"]
    assert {chunk["id"] for chunk in chunks} == {last["id"]} != {whole["id"]}


async def test_a_model_is_chosen_by_name_and_a_seed_gives_the_same_answer_again(house: House) -> None:
    warm = {"temperature": 1.5, "seed": 7}
    texts = [await house.said(model=model, **warm) for model in ("large", "small", "small", "")]
    assert texts[0] == texts[3] != texts[1] == texts[2]
    assert (await house.ask(model="none")).status_code == 404


async def test_a_conversation_goes_on_where_it_was(house: House) -> None:
    first = (await house.ask()).json()
    longer = [*HELLO, first["choices"][0]["message"], {"role": "user", "content": "And now?"}]
    usage = (await house.ask(messages=longer)).json()["usage"]
    assert first["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
    assert usage["prompt_tokens_details"]["cached_tokens"] >= first["usage"]["prompt_tokens"]


async def test_a_text_is_gone_on_with_without_a_template(house: House) -> None:
    asked = {"prompt": "Where is the car?", "max_tokens": 6, "temperature": 0}
    told = (await house.client.post("/v1/completions", json=asked)).json()
    expected = "".join([piece.text async for piece in house.engine.complete("Where is the car?", max_tokens=6)])
    assert told["choices"][0]["text"] == expected
    streamed = (await house.client.post("/v1/completions", json=asked | {"stream": True})).text
    assert "".join(chunk["choices"][0]["text"] for chunk in events(streamed)) == expected


async def test_an_answer_by_a_schema_fits_it_and_what_nothing_satisfies_is_the_asker_s_fault(house: House) -> None:
    pytest.importorskip("llguidance", reason="the extra `llm` is not installed: no llguidance")

    def by(schema: dict[str, Any]) -> dict[str, Any]:
        return {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}}

    said = json.loads(await house.said(**by(SCHEMA), max_tokens=200))
    assert said["skill"] in ("cabin.warm", "nav.find")
    for stream in (True, False):  # in a stream it is an error of the whole, too
        answer = await house.ask(**by({"type": "string", "minLength": 3, "maxLength": 1}), stream=stream)
        assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_request_error")
    assert await house.said()


async def test_calls_and_chances_are_told(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    told = (await house.ask(logprobs=True, top_logprobs=2, max_tokens=3)).json()["choices"][0]["logprobs"]["content"]
    assert [len(each["top_logprobs"]) for each in told] == [2, 2, 2]
    assert all(each["token"] == each["top_logprobs"][0]["token"] for each in told)

    class Calling(Reader):
        """Random weights call nothing: what is fed is a call, whatever they say."""

        fed = False

        def feed(self, text: str) -> list[Any]:
            call, self.fed = "" if self.fed else '<tool_call>{"name": "find", "arguments": {}}</tool_call>', True
            return super().feed(call)

    monkeypatch.setattr("slipstream.runtime_ext.reply.Reader", Calling)
    choice = (await house.ask(tools=[TOOL])).json()["choices"][0]
    assert choice["message"]["tool_calls"][0]["function"] == {"name": "find", "arguments": "{}"}
    back = [*HELLO, choice["message"], {"role": "tool", "tool_call_id": choice["message"]["tool_calls"][0]["id"],
                                        "content": "in the garage"}]  # fmt: skip
    assert (await house.ask(messages=back, tools=[TOOL])).status_code == 200


async def test_two_clients_at_once_each_get_their_answer(house: House) -> None:
    asked = [[{"role": "user", "content": word}] for word in ("One", "Two", "Three")]
    alone = [await house.said(messages=messages) for messages in asked]
    found: dict[int, str] = {}

    async def ask(number: int) -> None:
        found[number] = await house.said(messages=asked[number])

    async with anyio.create_task_group() as group:
        for number in range(3):
            group.start_soon(ask, number)
    assert [found[number] for number in range(3)] == alone


# -- refusals


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET /health HTTP/1.1\r\n\r\n", 400),  # without Host
        (b"GET /health HTTP/1.0\r\n\r\n", 403),
        (b"GET /health HTTP/1.1\r\nHost: evil.example\r\n\r\n", 403),
        (b"GET /health HTTP/1.1\r\nHost: localhost\r\nOrigin: http://evil.example\r\n\r\n", 403),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
        (b"GET /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n\r\n", 405),
        (b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * HEAD_LIMIT, 431),
        (post(b'{"messages": '), 400),
        (post(b'{"messages": []}'), 400),
        (post(b"\xff\xfe"), 400),
        (post(b'{"messages": [{"role": "pirate", "content": "Arr"}]}'), 400),
        (b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999\r\n\r\n", 413),
        (b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: x\r\n\r\n", 400),
    ],
)
async def test_what_is_no_request_of_ours_is_refused_with_its_status(house: House, request_: bytes, code: int) -> None:
    async with house.raw(request_) as stream:
        data = await stream.receive()
        assert int(data.split(b" ")[1]) == code
        assert json.loads(data.partition(b"\r\n\r\n")[2])["error"]["message"]
    assert (await house.client.get("/health")).status_code == 200


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_that_is_too_large_is_refused_and_the_client_hears_so(house: House, chunked: bool) -> None:
    async def parts() -> AsyncIterator[bytes]:
        for _ in range(BODY_LIMIT // 2**16 + 2):
            yield b" " * 2**16

    content = parts() if chunked else b" " * (BODY_LIMIT + 1)
    answer = await house.client.post(CHAT, content=content)
    assert (answer.status_code, answer.json()["error"]["type"]) == (413, "invalid_request_error")


async def test_a_key_is_asked_for_everywhere_and_before_a_body_is_read(files: tuple[Path, ...]) -> None:
    async with served(files, Gate(key="s3cret")) as house:
        for path in ("/health", "/v1/models", CHAT):
            refused = await house.client.get(path, headers={"authorization": "Bearer wrong"})
            assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
        async with house.raw(post(b"{}", "Expect: 100-continue")[:-2]) as stream:
            assert await status(stream) == 401
        house.client.headers["authorization"] = "Bearer s3cret"
        assert await house.said()


async def test_who_asks_whether_to_send_a_body_is_told_to(house: House) -> None:
    body = json.dumps({"messages": HELLO, "max_tokens": 2}).encode()
    async with house.raw(post(body, "Expect: 100-continue")[: -len(body)]) as stream:
        assert await status(stream) == 100
        await stream.send(body)
        assert await status(stream) == 200


async def test_requests_follow_each_other_on_a_connection_even_if_sent_at_once(house: House) -> None:
    get = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
    async with house.raw(get) as stream:
        assert await status(stream) == 200
        await stream.send(
            get + get.replace(b"GET", b"HEAD") + get.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
        )
        told = await rest(stream)
    assert told.count(b"HTTP/1.1 200") == 3
    assert told.count(b'"status":"ok"') == 2


async def test_an_old_client_gets_a_stream_that_ends_with_the_connection(house: House) -> None:
    body = json.dumps(LONG | {"max_tokens": 3}).encode()
    async with house.raw(post(body).replace(b"HTTP/1.1", b"HTTP/1.0")) as stream:
        told = (await rest(stream)).decode()
    assert "chunked" not in told
    assert events(told.partition("\r\n\r\n")[2])


# -- bad clients


async def test_who_hangs_up_in_mid_stream_ends_the_answer_and_the_next_one_begins(house: House, held: Held) -> None:
    async with house.client.stream("POST", CHAT, json=LONG) as answer:
        await anext(answer.aiter_lines())
        assert not held.ended.is_set()
    await held.ended.wait()
    held.undo()
    async with house.client.stream("POST", CHAT, json=LONG) as answer:
        await anext(answer.aiter_lines())
    assert await house.said()
    assert max(len(session) for session in house.engine._sessions) < 1900  # of 2048
    await house.free()


async def test_who_hangs_up_while_it_waits_leaves_the_queue(house: House) -> None:
    await house.ask()
    async with house.turn():
        async with house.raw(post(json.dumps(LONG).encode())):
            await house.asked(1)
        await house.free()
        assert house.engine.busy  # with what this test holds
    assert await house.said()


async def test_more_requests_than_may_wait_are_told_to_come_again(files: tuple[Path, ...]) -> None:
    async with served(files, limits=Limits(waiting=1)) as house:
        await house.ask()
        async with house.turn(), house.raw(post(json.dumps(LONG).encode())):
            await house.asked(1)
            refused = await house.ask()
            assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
            assert await house.said(model="small")  # each model has its own
        await house.free()
        assert await house.said()


async def test_more_connections_than_there_may_be_are_refused(files: tuple[Path, ...]) -> None:
    async with served(files, limits=Limits(clients=1)) as house, house.raw() as first:
        await first.send(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert await status(first) == 200
        async with house.raw() as second:
            assert await status(second) == 503
            assert await rest(second) == b""


@pytest.mark.parametrize("begun", [b"GET /he", b"GET /health HTTP/1.1\r\nHost: localhost\r\n", post(b"{}")[:-1]])
async def test_a_request_that_never_ends_is_refused(files: tuple[Path, ...], begun: bytes) -> None:
    async with served(files, limits=Limits(request_seconds=0.05)) as house, house.raw(begun) as stream:
        assert await status(stream) == 408
        assert await rest(stream) == b""


async def test_a_connection_that_says_nothing_is_closed(files: tuple[Path, ...]) -> None:
    async with served(files, limits=Limits(idle_seconds=0.05)) as house, house.raw() as stream:
        assert await rest(stream) == b""


async def test_who_does_not_take_its_answer_loses_it_and_others_are_answered(
    files: tuple[Path, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = anyio.Event()

    async def endless(*_: Any, **__: Any) -> AsyncGenerator[Piece, None]:
        try:
            while True:
                yield Piece(text="x" * 2**16)
        finally:
            ended.set()

    async with served(files, limits=Limits(send_seconds=0.05)) as house:
        with socket.socket() as near, monkeypatch.context() as patched:
            patched.setattr(local.Engine, "chat", endless)
            near.connect(("127.0.0.1", house.port))
            near.sendall(post(json.dumps(LONG).encode()))
            await ended.wait()
            await house.free()
        assert await house.said()


async def test_who_sends_on_and_on_before_its_answer_is_cut_off(house: House) -> None:
    await house.ask()
    async with house.raw(post(json.dumps(LONG).encode())) as stream:
        with suppress(anyio.BrokenResourceError):
            while True:
                await stream.send(b"x" * 2**16)
    await house.free()
    assert max(len(session) for session in house.engine._sessions) < 1000


# -- what goes wrong here, and the end


async def test_a_fault_of_ours_costs_one_answer(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: Any, **__: Any) -> AsyncGenerator[Piece, None]:
        raise RuntimeError("oops")
        yield Piece()

    with monkeypatch.context() as patched:
        patched.setattr(local.Engine, "chat", broken)
        answer = await house.ask()
        assert (answer.status_code, "oops" in answer.text) == (500, False)
        assert [str(fault) for fault in house.faults] == ["oops"]
        house.faults.clear()
    assert await house.said()


async def test_an_error_in_mid_stream_ends_it_and_is_told(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: Any, **__: Any) -> AsyncGenerator[Piece, None]:
        yield Piece(text="Yes")
        raise SkillFailed("the answer cannot go on")

    with monkeypatch.context() as patched:
        patched.setattr(local.Engine, "chat", broken)
        answer = await house.ask(stream=True)
    assert answer.status_code == 200
    last = answer.text.strip().split("\n\n")[-1]
    assert json.loads(last.removeprefix("data: "))["error"]["message"] == "the answer cannot go on"
    assert await house.said()


async def test_a_stop_ends_answers_and_tells_their_clients(files: tuple[Path, ...], held: Held) -> None:
    async with served(files) as house:
        told: dict[bool, Any] = {}
        begun = anyio.Event()

        async def ask(stream: bool) -> None:
            if not stream:
                told[stream] = await house.ask(max_tokens=2000)
                return
            async with house.client.stream("POST", CHAT, json=LONG) as answer:
                lines = answer.aiter_lines()
                told[stream] = [await anext(lines)]
                begun.set()
                told[stream] += [line async for line in lines if line]

        async with anyio.create_task_group() as group, house.raw() as idle:
            group.start_soon(ask, True)
            await begun.wait()
            group.start_soon(ask, False)
            await house.asked(2)
            house.server.stop()
            await house.ended.wait()
            assert await rest(idle) == b""
        assert json.loads(told[True][-1].removeprefix("data: "))["error"]["message"].startswith("the server stops")
        assert told[False].status_code == 503
        assert held.ended.is_set()
        with pytest.raises(OSError, match="connection attempts failed"):
            await anyio.connect_tcp("127.0.0.1", house.port)
