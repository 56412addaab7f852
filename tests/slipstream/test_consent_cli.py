"""`slip consent` against a daemon that has questions, and `slip audit` against a folder without a daemon."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from anyio.from_thread import start_blocking_portal

from slipstream import cli
from slipstream.control_server import ControlServer, Talk
from slipstream.core.audit import LOG, Audit, audit_key
from slipstream.core.errors import UsageError
from slipstream.places import socket_of

WINDOW = {
    "id": "4f2a90", "skill": "car.window", "title": "Open a window", "effect": "physical", "run": "r1", "step": "air",
    "args": {"seat": "left", "percent": 40, "why": "\x1b[31mhot"}, "device": "carcarcar", "device_name": "car",
    "caller": "phonephone", "caller_name": "phone", "origin": "watchwatch", "origin_name": "watch", "asked_at": 1e9,
    "seconds_left": 43.2,
}  # fmt: skip
MAIL: dict[str, Any] = {
    **WINDOW, "id": "4f77c1", "skill": "mail.send", "title": "Send a mail", "effect": "once", "args": {}, "run": "",
    "origin": "phonephone",
}  # fmt: skip
GRANT = {
    "id": "91bc00", "skill": "mail.send", "caller": "phonephone", "origin": "phonephone", "answer": "always",
    "caller_name": "phone", "origin_name": "phone",
}  # fmt: skip


class Daemon:
    """What a daemon would answer, and what it was told; `first` is the answer that somebody gave before."""

    def __init__(self) -> None:
        self.open: list[dict[str, Any]] = [WINDOW, MAIL]
        self.told: list[tuple[str, str]] = []
        self.first = ""

    def table(self) -> dict[str, Any]:
        return {
            "consent.list": self._list, "consent.answer": self._answer, "consent.grants": self._grants,
            "consent.forget": self._forget,
        }  # fmt: skip

    async def _list(self, args: dict[str, Any], talk: Talk) -> dict[str, Any]:
        return {"open": self.open}

    async def _answer(self, args: dict[str, Any], talk: Talk) -> dict[str, Any]:
        if args["id"] not in [one["id"] for one in self.open]:
            raise UsageError(f"{args['id']} is answered already", "tablet said no", "slip consent list")
        self.told.append((args["id"], args["answer"]))
        return {"id": args["id"], "answer": self.first or args["answer"], "by": "tablet" if self.first else "here"}

    async def _grants(self, args: dict[str, Any], talk: Talk) -> dict[str, Any]:
        return {"grants": [GRANT]}

    async def _forget(self, args: dict[str, Any], talk: Talk) -> dict[str, Any]:
        self.told.append((args["id"], "forget"))
        return {"forgotten": args["id"]}


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("XDG_RUNTIME_DIR", "SLIPSTREAM_STATE"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "state"


@pytest.fixture
def daemon(state: Path) -> Iterator[Daemon]:
    made = Daemon()

    def fault(error: Exception) -> None:
        raise AssertionError("no verb was to fail") from error

    with start_blocking_portal("asyncio") as portal:
        with portal.wrap_async_context_manager(ControlServer(made.table(), fault).serve(socket_of(state))):
            yield made


Slip = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(state: Path, capsys: pytest.CaptureFixture[str]) -> Slip:
    def slip(*args: str) -> tuple[int, str, str]:
        code = cli.main([*args, "--state", str(state)])
        return (code, *capsys.readouterr())

    return slip


def test_a_question_is_shown_with_all_that_a_person_needs_to_decide(daemon: Daemon, run: Slip) -> None:
    code, out, _ = run("consent")
    assert code == 0
    for needed in ("4f2a90", "car: Open a window", "car.window", "physical", "phone", "on behalf of watch",
                   'seat = "left"', "percent = 40", "run r1, step air", "43.2 s"):  # fmt: skip
        assert needed in out
    assert "\x1b" not in out
    assert json.loads(run("consent", "list", "--json")[1])["open"] == [WINDOW, MAIL]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("approve", "4f7"), ("4f77c1", "once")),
        (("approve", "4f77c1", "--always"), ("4f77c1", "always")),
        (("deny", "4f2"), ("4f2a90", "no")),
        (("deny", "4f2", "--always"), ("4f2a90", "never")),
        (("approve", "4f2", "--device", "car"), ("4f2a90", "once")),
        (("approve", "4f2", "--always", "--device", "car", "--no-input"), ("4f2a90", "always")),
        (("forget", "91"), ("91bc00", "forget")),
    ],
)
def test_what_is_typed_is_what_is_told(
    daemon: Daemon, run: Slip, words: tuple[str, ...], told: tuple[str, str]
) -> None:
    code, out, err = run("consent", *words)
    assert (code, daemon.told) == (0, [told]), err
    assert told[0] in out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("approve",), "which question?"),
        (("approve", "4f"), "2 begin like that"),
        (("approve", "4f2", "--no-input"), "--device NAME"),
        (("approve", "4f2"), "--device NAME"),
        (("approve", "4f2", "--device", "ca"), "nothing was approved"),
        (("approve", "4f2", "--device", "Car"), "nothing was approved"),
        (("approve", "4f2", "--device", ""), "nothing was approved"),
        (("approve", "0000"), "tablet said no"),
        (("deny", "0000"), "tablet said no"),
        (("forget",), "which grant?"),
    ],
)
def test_what_will_not_do_is_a_usage_error_and_nothing_is_told(
    daemon: Daemon, run: Slip, words: tuple[str, ...], says: str
) -> None:
    code, out, err = run("consent", *words)
    assert (code, out, daemon.told) == (2, "", [])
    assert says in err


def test_an_effect_that_is_not_known_needs_the_name_as_well(daemon: Daemon, run: Slip) -> None:
    daemon.open = [{**MAIL, "effect": "Physical "}]
    assert run("consent", "approve", MAIL["id"])[0] == 2
    assert daemon.told == []


def test_who_comes_second_is_told_who_answered_what(daemon: Daemon, run: Slip) -> None:
    daemon.first = "never"
    code, _, err = run("consent", "approve", MAIL["id"])
    assert code == 2
    assert "tablet said never" in err


def test_what_is_remembered_is_listed(daemon: Daemon, run: Slip) -> None:
    _, out, _ = run("consent", "grants")
    assert out.splitlines()[1].split() == ["91bc00", "always", "mail.send", "phone", "phone"]
    assert json.loads(run("consent", "grants", "--json")[1])["grants"] == [GRANT]


@pytest.mark.parametrize(("typed", "told"), [("car\n", [("4f2a90", "once")]), ("phone\n", []), ("\n", [])])
def test_a_person_at_a_terminal_types_the_name(
    daemon: Daemon, state: Path, clean_env: dict[str, str], typed: str, told: list[tuple[str, str]]
) -> None:
    person, terminal = pty.openpty()
    command = [sys.executable, "-m", "slipstream", "consent", "approve", "4f2", "--state", str(state)]
    with subprocess.Popen(
        command, stdin=terminal, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=clean_env
    ) as slip:
        os.write(person, typed.encode())
        out, _ = slip.communicate(timeout=60)
    os.close(person)
    os.close(terminal)
    assert slip.returncode == (0 if told else 2)
    assert daemon.told == told
    assert b"Open a window" in out


# -- slip audit --------------------------------------------------------------------------------------------------------


@pytest.fixture
def logged(state: Path) -> Path:
    state.mkdir(mode=0o700)
    (state / "device.key").write_bytes(b"a key")
    log = Audit(state / LOG, audit_key(state), time.time)
    for n in range(80):
        log.tell("refused", skill="car.window", caller="abcdefg", why="\x1b[31mno", n=n)
    log.close()
    return state


def test_the_log_is_listed_and_verified_without_a_daemon(logged: Path, run: Slip) -> None:
    code, out, _ = run("audit", "list", "--last", "3")
    assert code == 0
    assert [row.split()[0] for row in out.splitlines()] == ["SEQ", "78", "79", "80"]
    assert "skill=car.window" in out
    assert "\x1b" not in out
    assert [line["n"] for line in json.loads(run("audit", "--json")[1])["lines"]] == list(range(30, 80))
    assert run("audit", "verify")[:2] == (0, "80 lines are as they were written\n")
    assert json.loads(run("audit", "verify", "--json")[1]) == {
        "v": 1, "ok": True, "lines": 80, "torn": 0, "file": "", "line": 0, "why": "",
    }  # fmt: skip


def test_a_changed_line_is_named_and_the_exit_code_says_it(logged: Path, run: Slip) -> None:
    data = (logged / LOG).read_bytes()
    (logged / LOG).write_bytes(data.replace(b'"n":11,', b'"n":12,'))
    code, out, err = run("audit", "verify")
    assert (code, out) == (1, "")
    assert "audit.log, line 12" in err
    code, out, _ = run("audit", "verify", "--json")
    assert (code, json.loads(out)["line"]) == (1, 12)


@pytest.mark.parametrize("line", [b"\xff\n", b"[]\n", b'{"time":1e300,"what":[1]}\n', b'{"time":"x"}\n', b"[" * 90000])
def test_a_line_with_anything_in_it_can_still_be_listed(logged: Path, run: Slip, line: bytes) -> None:
    with (logged / LOG).open("ab") as log:
        log.write(line)
    assert run("audit")[0] == 0
    assert run("audit", "verify")[0] == 1


def test_no_log_and_no_number_are_usage_errors(state: Path, run: Slip) -> None:
    state.mkdir()
    assert run("audit")[0] == run("audit", "verify")[0] == run("audit", "--last", "0")[0] == 2


@pytest.mark.parametrize("verb", ["consent", "audit"])
def test_they_import_nothing_heavy(verb: str) -> None:
    heavy = ("asyncio", "anyio", "pydantic", "msgpack", "cryptography", "sqlite3", "ssl")
    code = f"import sys, slipstream.cli.{verb}; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
