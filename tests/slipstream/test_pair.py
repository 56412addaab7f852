"""`slip pair`, as two people with two devices meet it: real processes, codes, questions on a terminal, daemons."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from slipstream import cli, control, places
from slipstream.cli.pair import named
from slipstream.core import authority
from slipstream.core.authority import Authority
from slipstream.core.errors import UsageError
from slipstream.core.identity import Identity, format_id
from slipstream.core.journal import Journal
from slipstream.core.roster_file import RosterFile
from slipstream.core.trust import Role

Slip = Callable[..., subprocess.CompletedProcess[str]]
PATIENCE = 60.0
"""A net below waits that end by themselves; no test depends on it."""


@pytest.fixture
def here(clean_env: dict[str, str]) -> dict[str, str]:
    """A machine that can be reached on loopback only."""
    return {**clean_env, "SLIPSTREAM_HOSTS": "127.0.0.1"}


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Any]:
    """Run `slip pair` in this process with --json: its exit code and what it printed."""
    monkeypatch.chdir(tmp_path)

    def run(*args: object) -> tuple[int, dict[str, Any]]:
        capsys.readouterr()
        code = cli.main(["pair", *map(str, args), "--json"])
        (line,) = capsys.readouterr().out.splitlines()
        return code, json.loads(line)

    return run


@pytest.fixture
def phone(tmp_path: Path) -> Path:
    """The state of an owner."""
    authority.found(tmp_path / "phone", "phone", "phone")
    return tmp_path / "phone"


@contextmanager
def running(env: dict[str, str], *args: object) -> Iterator[subprocess.Popen[str]]:
    """`slip pair` in a process of its own that goes on while the block runs."""
    command = [sys.executable, "-m", "slipstream", "pair", *map(str, args)]
    with subprocess.Popen(
        command, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def line_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip() or pytest.fail(process.communicate(timeout=PATIENCE)[1])


def pair(slip: Slip, here: dict[str, str], shows: list[object], dials: list[object]) -> tuple[dict[str, Any], ...]:
    """Let two devices meet by a code; what the one that shows it said in the end, and what the other one said."""
    with running(here, *shows, "--json") as process:
        shown = json.loads(line_of(process))
        assert shown["v"] == 1
        assert shown["seconds"] == 600
        verb, *more = dials
        done = slip("pair", str(verb), shown["code"], *map(str, more), "--json", env=here)
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stderr == ""
        end = json.loads(line_of(process))
        assert process.wait(PATIENCE) == 0
    return end, json.loads(done.stdout)


def members(state: Path) -> list[tuple[str, str]]:
    return [(m.name, m.role.value) for m in RosterFile(state).load().members()]


# -- letting in --------------------------------------------------------------------------------------------------------


def test_the_first_device_of_a_mesh_is_made_once(said: Any, tmp_path: Path) -> None:
    code, made = said("new", "--state", tmp_path / "a", "--name", "phone", "--kind", "phone")
    assert code == 0
    assert made["device"] == {"id": Identity.load(tmp_path / "a").id, "name": "phone", "kind": "phone"}
    code, again = said("new", "--state", tmp_path / "a")
    assert code == 2
    assert "belongs to a mesh already" in again["error"]["what"]
    assert members(tmp_path / "a") == [("phone", "owner")]


def test_an_invitation_lets_a_device_in(slip: Slip, here: dict[str, str], phone: Path, tmp_path: Path) -> None:
    owner, newcomer = pair(
        slip, here, ["invite", "--state", phone, "--yes"], ["join", "--state", tmp_path / "b", "--name", "car"]
    )
    car = Identity.load(tmp_path / "b")
    assert owner["joined"] == {
        "id": car.id, "name": "car", "kind": "computer", "role": "member", "until": None, "profile": "",
    }  # fmt: skip
    assert newcomer["joined"]["id"] == car.id
    assert newcomer["joined"]["by"] == {"id": Identity.load(phone).id, "name": "phone"}
    assert members(phone) == members(tmp_path / "b") == [("car", "member"), ("phone", "owner")]
    assert (tmp_path / "b").stat().st_mode & 0o777 == 0o700


def test_a_device_that_can_show_but_not_type_is_let_in(
    slip: Slip, here: dict[str, str], phone: Path, tmp_path: Path
) -> None:
    newcomer, owner = pair(
        slip, here, ["show", "--state", tmp_path / "b", "--name", "car", "--kind", "car"],
        ["accept", "--state", phone, "--yes", "--role", "guest", "--for", "2h", "--profile", "valet", "--name", "lent"],
    )  # fmt: skip
    member = RosterFile(tmp_path / "b").load().member(newcomer["joined"]["id"])
    assert member is not None
    assert (member.name, member.kind, member.role, member.profile) == ("lent", "car", Role.GUEST, "valet")
    assert member.until == owner["joined"]["until"] == newcomer["joined"]["until"]
    assert 0 < member.until - time.time() <= 7200
    assert Identity.load(tmp_path / "b").id == member.id


def test_an_owner_that_was_let_in_lets_in_others(slip: Slip, here: dict[str, str], phone: Path, tmp_path: Path) -> None:
    pair(slip, here, ["invite", "--state", phone, "--yes", "--role", "owner"],
         ["join", "--state", tmp_path / "b", "--name", "hub"])  # fmt: skip
    pair(slip, here, ["invite", "--state", tmp_path / "b", "--yes"],
         ["join", "--state", tmp_path / "c", "--name", "car"])  # fmt: skip
    assert members(tmp_path / "c") == [("car", "member"), ("hub", "owner"), ("phone", "owner")]


def test_a_device_that_joined_finds_the_mesh_without_mdns(
    make: Any, slip: Slip, here: dict[str, str], tmp_path: Path
) -> None:
    phone = make("phone", "--name", "phone").start("--new-mesh")
    car = make("car", "--name", "car")
    pair(slip, here, ["invite", "--state", phone.state, "--yes"], ["join", "--state", car.state, "--name", "car"])
    address = control.ask(phone.state, "status")["device"]["addresses"][0]
    with closing(Journal(car.state / places.JOURNAL, time.time)) as journal:
        assert journal.fact("known") == {Identity.load(phone.state).id: address}
    car.start()
    for at in (car, phone):
        with control.talk(at.state, "events", {"since": 0, "kinds": ["device.joined"]}) as lines:
            assert any("event" in line for line in lines)
    known = control.ask(phone.state, "roster.reload")
    assert known["members"] == 2


def test_the_daemon_of_an_owner_hears_at_once_what_the_command_line_did(
    make: Any, slip: Slip, here: dict[str, str], tmp_path: Path
) -> None:
    phone = make("phone", "--name", "phone").start("--new-mesh")
    with control.talk(phone.state, "events", {"kinds": ["trust.changed"]}) as lines:
        assert "listening" in next(lines)
        pair(slip, here, ["invite", "--state", phone.state, "--yes"], ["join", "--state", tmp_path / "b"])
        car = Identity.load(tmp_path / "b").id
        assert next(lines)["event"]["joined"] == [car]
        done = slip("pair", "revoke", car, "--yes", state=phone.state)
        assert done.returncode == 0, done.stderr
        assert next(lines)["event"]["revoked"] == [car]


def test_a_device_of_a_mesh_does_not_join_again(said: Any, phone: Path, tmp_path: Path) -> None:
    code = "slip:cei76vd5kuvixd476h3sk7hulcxbkzbb33y2x5hfcudvpiixiqoackaddlezrmybp4aaaaocz47a"
    for args in (("join", code), ("show",)):
        status, answer = said(*args, "--state", phone)
        assert status == 2
        assert "belongs to a mesh already" in answer["error"]["what"]


def test_a_code_for_one_side_is_not_for_the_other(
    slip: Slip, here: dict[str, str], phone: Path, tmp_path: Path
) -> None:
    with running(here, "show", "--state", tmp_path / "b") as process:
        code = line_of(process)
        assert code.startswith("slip:")
        done = slip("pair", "join", code, state=tmp_path / "c", env=here)
        assert done.returncode == 2
        assert "slip pair accept CODE" in done.stderr
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 130
    with running(here, "invite", "--yes", "--state", phone) as process:
        done = slip("pair", "accept", line_of(process), "--yes", state=phone, env=here)
        assert done.returncode == 2
        assert "slip pair join CODE" in done.stderr


def test_a_code_is_withdrawn_by_ctrl_c(slip: Slip, here: dict[str, str], phone: Path, tmp_path: Path) -> None:
    with running(here, "invite", "--yes", "--state", phone) as process:
        code = line_of(process)
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=PATIENCE) == ("", "")
        assert process.returncode == 130
    done = slip("pair", "join", code, state=tmp_path / "b", env=here)
    assert done.returncode == 1
    assert "nobody waits at 127.0.0.1" in done.stderr
    assert "slip pair invite" in done.stderr
    assert not (tmp_path / "b" / "device.key").exists()


# -- questions ---------------------------------------------------------------------------------------------------------


class Screen:
    """`slip pair` on a terminal."""

    def __init__(self, env: dict[str, str], *args: object) -> None:
        self._ours, theirs = pty.openpty()
        command = [sys.executable, "-m", "slipstream", "pair", *map(str, args)]
        self.process = subprocess.Popen(
            command, env={**env, "TERM": "xterm"}, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
        )
        os.close(theirs)
        self.shown = ""

    def until(self, words: str) -> str:
        """All that was shown, once the words are."""
        while words not in self.shown:
            try:
                self.shown += os.read(self._ours, 65536).decode(errors="replace")
            except OSError:  # EIO: the other end is closed
                pytest.fail(self.shown)
        return self.shown

    def type(self, text: str) -> None:
        os.write(self._ours, text.encode())

    def end(self) -> tuple[int, str]:
        """Its exit code, and all that it showed."""
        try:
            while piece := os.read(self._ours, 65536):
                self.shown += piece.decode(errors="replace")
        except OSError:  # EIO
            pass
        os.close(self._ours)
        return self.process.wait(PATIENCE), self.shown


def code_on(screen: Screen) -> str:
    lines = screen.until("Ctrl-C withdraws it").splitlines()
    (code,) = [line for line in lines if line.startswith("slip:")]
    drawn = [line for line in lines if "\u2588" in line]
    assert 15 < len(drawn) <= 25
    assert all(len(line) <= 80 for line in drawn)
    return code


def test_the_owner_is_asked_with_name_kind_and_id(here: dict[str, str], phone: Path, tmp_path: Path) -> None:
    screen = Screen(here, "invite", "--state", phone)
    code = code_on(screen)
    screen.type("n\n")  # before the question: it answers nothing
    with running(here, "join", code, "--state", tmp_path / "b", "--name", "car", "--kind", "car") as joining:
        asked = screen.until("[y/N]")
        assert "let car (car) in as member?" in asked
        screen.type("y\n")
        assert joining.wait(PATIENCE) == 0
    assert format_id(Identity.load(tmp_path / "b").id) in asked
    ended, shown = screen.end()
    assert ended == 0
    assert "car (car) is of this mesh now, as member" in shown


@pytest.mark.parametrize("answer", ["n\n", "\n", "yes please\n", "\x04"])
def test_whoever_is_not_confirmed_is_not_let_in(here: dict[str, str], phone: Path, tmp_path: Path, answer: str) -> None:
    screen = Screen(here, "invite", "--state", phone)
    with running(here, "join", code_on(screen), "--state", tmp_path / "b", "--name", "car") as joining:
        screen.until("[y/N]")
        screen.type(answer)
        _, why = joining.communicate(timeout=PATIENCE)
        assert joining.returncode == 5
        assert "the owner did not let this device in" in why
    assert screen.end()[0] == 5
    assert members(phone) == [("phone", "owner")]
    assert not (tmp_path / "b" / "device.pem").exists()


def test_a_question_ends_when_the_newcomer_is_gone(here: dict[str, str], phone: Path, tmp_path: Path) -> None:
    screen = Screen(here, "invite", "--state", phone)
    with running(here, "join", code_on(screen), "--state", tmp_path / "b") as joining:
        screen.until("[y/N]")
        joining.kill()
    ended, shown = screen.end()
    assert ended == 1
    assert "the other side hung up" in shown
    assert members(phone) == [("phone", "owner")]


def test_what_has_to_be_asked_and_cannot_be_is_refused_before_a_code_is_shown(said: Any, phone: Path) -> None:
    for args in (("invite",), ("revoke", "phone")):
        authority.admit_here(phone, phone.parent / args[0], "hub", "hub", role=Role.OWNER)
        code, answer = said(*args, "--no-input", "--state", phone)
        assert code == 2
        assert "--no-input forbids it" in answer["error"]["why"]
        assert answer["error"]["hint"] == f"slip pair {args[0]} --yes"


# -- throwing out, and who is in ---------------------------------------------------------------------------------------


def test_the_roster_says_who_let_whom_in(
    said: Any, phone: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub = authority.admit_here(phone, tmp_path / "hub", "hub", "hub", role=Role.OWNER)
    authority.admit_here(tmp_path / "hub", tmp_path / "x", "visitor", "phone", role=Role.GUEST, until=0.0,
                         profile="valet")  # fmt: skip
    RosterFile(phone).take([s.to_wire() for s in RosterFile(tmp_path / "hub").load().statements])
    code, answer = said("roster", "--state", phone)
    assert code == 0
    by_name = {m["name"]: m for m in answer["members"]}
    assert by_name["phone"]["by"] is None
    assert by_name["hub"]["by"] == Identity.load(phone).id
    assert by_name["visitor"] == {
        "id": Identity.load(tmp_path / "x").id, "name": "visitor", "kind": "phone", "role": "guest", "until": 0.0,
        "profile": "valet", "by": hub.id,
    }  # fmt: skip
    assert cli.main(["pair", "roster", "--state", str(phone)]) == 0
    header, *rows = capsys.readouterr().out.splitlines()
    assert header.split() == ["NAME", "KIND", "ROLE", "UNTIL", "ID", "LET", "IN", "BY"]
    assert [row.split()[0] for row in rows] == ["hub", "phone", "visitor"]
    assert "guest (valet)" in rows[2]
    assert rows[2].endswith("hub")


def test_a_device_is_thrown_out_by_name_or_id(said: Any, phone: Path, tmp_path: Path) -> None:
    for name, call in (("car", str), ("hub", lambda m: m.id), ("tab", lambda m: format_id(m.id)),
                       ("van", lambda m: m.id[:12])):  # fmt: skip
        made = authority.admit_here(phone, tmp_path / name, name, "x")
        wanted = name if call is str else call(made)
        code, answer = said("revoke", wanted, "--yes", "--state", phone)
        assert (code, answer["revoked"]) == (0, {"id": made.id, "name": name, "keys": [made.id]})
    assert members(phone) == [("phone", "owner")]


def test_a_name_that_two_devices_have_names_neither(phone: Path, tmp_path: Path) -> None:
    made = [authority.admit_here(phone, tmp_path / f"{n}", "car", "car") for n in range(2)]
    roster = RosterFile(phone).load()
    with pytest.raises(UsageError, match="could be 2 devices"):
        named(roster, "car")
    assert named(roster, made[1].id[:20]).id == made[1].id
    for unknown in ("cat", "", "-"):
        with pytest.raises(UsageError, match="in this mesh"):
            named(roster, unknown)


def test_the_last_owner_is_not_thrown_out(said: Any, phone: Path, tmp_path: Path) -> None:
    code, answer = said("revoke", "phone", "--yes", "--state", phone)
    assert code == 2
    assert "the last owner" in answer["error"]["what"]
    authority.admit_here(phone, tmp_path / "hub", "hub", "hub", role=Role.OWNER)
    code, answer = said("revoke", "phone", "--yes", "--state", phone)
    assert code == 2
    assert "throw itself out" in answer["error"]["what"]
    assert said("revoke", "phone", "--yes", "--state", tmp_path / "hub")[0] == 0


def test_an_owner_gives_itself_a_new_key_and_a_member_needs_its_daemon_for_one(
    said: Any, phone: Path, tmp_path: Path
) -> None:
    before = Identity.load(phone).id
    code, answer = said("rotate", "--state", phone)
    assert code == 0
    assert answer == {"v": 1, "device": Identity.load(phone).id, "revoked": before}
    assert Authority.load(phone).identity.id != before
    car = authority.admit_here(phone, tmp_path / "car", "car", "car")
    code, answer = said("rotate", "--state", tmp_path / "car")
    assert code == 3
    assert answer["error"]["hint"] == "slip up"
    assert Identity.load(tmp_path / "car").id == car.id


def test_a_member_neither_lets_in_nor_throws_out(said: Any, phone: Path, tmp_path: Path) -> None:
    authority.admit_here(phone, tmp_path / "car", "car", "car")
    for args in (("invite",), ("revoke", "phone")):
        code, answer = said(*args, "--yes", "--state", tmp_path / "car")
        assert code == 2
        assert "no owner" in answer["error"]["what"]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("invite --yes --role guest", "a guest stays for some time"), ("invite --yes --for 2h", "only a guest"),
        ("invite --yes --profile valet", "only a guest"), ("invite --yes --role king", "invalid choice"),
        ("invite --yes --for soon", "no time like"), ("join", "which code?"), ("join abc", "no code of slip pair"),
        ("accept slip:abc --yes", "no code of slip pair"), ("revoke --yes", "which device?"),
        ("roster --yes", "takes no --yes"), ("new --role owner", "takes no --role"), ("rotate x", "takes no 'x'"),
        ("join x --for 2h", "takes no --for"), ("invite --kind car", "takes no --kind"), ("dance", "invalid choice"),
    ],
)  # fmt: skip
def test_what_is_asked_for_wrongly_is_refused_with_the_reason(said: Any, phone: Path, line: str, words: str) -> None:
    code, answer = said(*line.split(), "--state", phone)
    assert code == 2
    error = answer["error"]
    assert words in f"{error['what']} {error['why']}"
    assert error["hint"]


@pytest.mark.parametrize("line", ["roster", "rotate", "revoke x --yes", "invite --yes"])
def test_a_device_of_no_mesh_is_told_how_to_become_one(said: Any, tmp_path: Path, line: str) -> None:
    (tmp_path / "none").mkdir(mode=0o700)
    code, answer = said(*line.split(), "--state", tmp_path / "none")
    assert code == 2
    assert "slip pair join CODE" in answer["error"]["hint"]
