"""`slip dev` and what `slip new skill` writes, with real daemons: loaded, called from the other device, read anew."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

import anyio
import pytest
from anyio.abc import SocketAttribute

from slipstream import control
from slipstream.cli import new
from slipstream.cli.dev import _nap, _share
from slipstream.cli.impair import REPETITIONS, TIMEOUT, Proxy
from slipstream.cli.impair import Path as Way

SLIP = [sys.executable, "-m", "slipstream"]


@contextmanager
def dev(folder: Path, *words: str) -> Iterator[Iterator[dict[str, Any]]]:
    """What a running `slip dev --json` tells, line by line."""
    run = {**os.environ, "TMPDIR": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    run.pop("XDG_RUNTIME_DIR", None)
    with subprocess.Popen(
        [*SLIP, "dev", "--json", *words], stdout=subprocess.PIPE, text=True, cwd=folder, env=run
    ) as process:
        assert process.stdout is not None
        lines = process.stdout
        try:
            yield (json.loads(line) for line in lines)
        finally:
            process.terminate()
            process.wait()
            assert list(folder.glob("slipstream-dev-*")) == [], "it left its folder behind"


def until(told: Iterator[dict[str, Any]], *events: str) -> dict[str, Any]:
    for line in told:
        if line.get("event") in events:
            return line
    raise AssertionError(f"it ended before {events}")


def call(told: dict[str, Any], of: str, skill: str, **args: Any) -> dict[str, Any]:
    answer: dict[str, Any] = control.ask(Path(told["state"][of]), "call", {"skill": skill, "args": args})
    return answer


@pytest.fixture(autouse=True)
def sockets_in_state_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)


def save(path: Path, text: str) -> None:
    """As editors do: a new file in place of the old one."""
    fresh = path.with_suffix(".new")
    fresh.write_text(text)
    fresh.replace(path)


def test_a_new_skill_is_called_from_the_other_device_and_read_anew_on_every_save(tmp_path: Path) -> None:
    names = new.names_of("tea.brew")
    new.write(tmp_path / "made", names)
    file = tmp_path / "made" / "slipstream_tea_brew.py"
    first = file.read_text()
    with dev(tmp_path, str(file)) as told:
        linked = until(told, "linked")
        assert linked["skills"] == ["tea.brew"]
        answer = call(linked, "car", "tea.brew", name="Ada")
        assert answer["value"] == {"text": "Hello, Ada!", "device": "phone"}

        save(file, first.replace("Hello, {name}!", "Moin {name}"))
        assert until(told, "reloaded", "reload.failed")["event"] == "reloaded"
        assert call(linked, "car", "tea.brew", name="Ada")["value"]["text"] == "Moin Ada"

        save(file, first.replace("max_length=100", "max_length=50"))
        assert until(told, "reloaded", "reload.failed")["changed"] == ["tea.brew"]

        save(file, first + "\ndef (\n")
        failed = until(told, "reloaded", "reload.failed")
        assert failed["event"] == "reload.failed"
        assert f"{file}:{len(first.splitlines()) + 2}" in failed["why"]
        assert call(linked, "car", "tea.brew", name="Ada")["value"]["text"] == "Hello, Ada!", "the version before stays"


def test_a_skill_on_the_car_is_called_over_a_slow_network_from_the_phone(tmp_path: Path) -> None:
    names = new.names_of("tea.brew")
    new.write(tmp_path / "made", names)
    file = tmp_path / "made" / "slipstream_tea_brew.py"
    with dev(tmp_path, str(file), "--on", "car", "--latency", "150") as told:
        linked = until(told, "linked")
        answer = call(linked, "phone", "tea.brew", name="Ada")
        assert answer["value"]["device"] == "car"
        assert answer["seconds"] >= 0.3, "there and back again through the proxy"


def test_what_is_no_skill_file_is_refused_before_anything_starts(tmp_path: Path) -> None:
    done = subprocess.run([*SLIP, "dev", str(tmp_path / "none.py")], capture_output=True, text=True)
    assert done.returncode == 2
    assert "no skill file" in done.stderr
    assert "slip new skill" in done.stderr


def test_a_path_keeps_the_order_and_its_latency() -> None:
    way = Way(0.05, 0.0, Random(0))
    assert [way.arrival(now) for now in (1.0, 1.01, 1.01)] == pytest.approx([1.05, 1.06, 1.06])


def test_a_drop_holds_up_what_follows_for_the_retransmission_timeout() -> None:
    way = Way(0.05, 0.5, Random(3))
    late = [at - now for now in range(0, 2000, 20) if (at := way.arrival(now)) is not None]
    # nothing, once the timeout, or that and its doublings
    expected = [0.05 + TIMEOUT * (2**times - 1) for times in range(REPETITIONS + 1)]
    assert all(any(abs(wait - one) < 1e-9 for one in expected) for wait in late)
    assert min(late) == pytest.approx(0.05)
    assert max(late) > 0.05 + TIMEOUT
    held = Way(0.0, 0.5, Random(3))
    arrivals = [at for now in range(100) if (at := held.arrival(now / 1000)) is not None]
    assert arrivals == sorted(arrivals), "nothing overtakes what is sent again"


def test_a_path_that_loses_everything_gives_up() -> None:
    assert Way(0.0, 1.0, Random(0)).arrival(0.0) is None


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_bytes_come_through_the_proxy_whole_and_both_ways(anyio_backend: str) -> None:
    sent = Random(1).randbytes(300_000)

    async def echo(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            async for piece in stream:
                await stream.send(piece)

    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, anyio.create_task_group() as group:
        group.start_soon(listener.serve, echo)
        port = await group.start(Proxy(listener.extra(SocketAttribute.local_port), 0.001, 0.02, seed=5).run)
        got = b""
        async with await anyio.connect_tcp("127.0.0.1", port) as stream:
            group.start_soon(stream.send, sent)
            while len(got) < len(sent):
                got += await stream.receive()
        assert got == sent
        group.cancel_scope.cancel()


@pytest.mark.parametrize("text", ["boat:3", "car", "car:", "car:0", "car:-1", "car:x"])
def test_a_nap_that_makes_no_sense_is_refused(text: str) -> None:
    with pytest.raises(Exception, match=text):
        _nap(text)


def test_a_nap_and_a_share_are_read_as_they_are_written() -> None:
    assert _nap("car:2.5") == ("car", 2.5)
    assert _share("5%") == 0.05
