"""policy.toml as people write it: what the default lets whom do, what is said of a wrong file, and `slip policy`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from slipstream import cli, policy_file
from slipstream.cli import policy as verb
from slipstream.core.errors import SlipError, UsageError
from slipstream.core.policy import Policy
from slipstream.core.skill import Driving, SkillSpec
from slipstream.core.trust import Member, Role
from slipstream.policy_file import DEFAULT, hours, load, read
from slipstream.policy_source import LOOK_EVERY, PolicyFile
from slipstream.skills.packs import car, hub, phone

ROOT = Path(__file__).parents[2]
NOW = datetime(2026, 11, 25, 12, 30)
OWNER = Member("o" * 32, "phone", "phone", Role.OWNER)
MEMBER = Member("m" * 32, "car", "car", Role.MEMBER)
VALET = Member("v" * 32, "valet", "phone", Role.GUEST, 2e9, "valet")
PASSENGER = Member("p" * 32, "passenger", "phone", Role.GUEST, 2e9, "passenger")
GUEST = Member("g" * 32, "visitor", "tablet", Role.GUEST, 2e9)
CAR = {fn.spec.name: fn.spec for fn in cast(Any, car.pack.skills)}
REAL: dict[str, SkillSpec] = {fn.spec.name: fn.spec for p in (car, hub, phone) for fn in cast(Any, p.pack.skills)}


@pytest.fixture(scope="module")
def default() -> Policy:
    return load(None)


def says(policy: Policy, who: Member, skill: str, args: dict[str, Any] | None = None, **more: Any) -> str:
    """The answer of the device that has the skill: a parked car, or what is no car."""
    driving = more.get("driving", Driving.PARKED if skill in CAR else None)
    return policy.decide(REAL[skill], args or {}, who, more.get("origin", who), driving, NOW).answer


# -- the default -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("who", "allowed", "asked"),
    [
        (VALET, "car.state car.soc car.range lights.set doors.lock cabin.climate.get cabin.climate.set seat.heat",
         "doors.unlock"),
        (PASSENGER, "car.media.play car.media.pause cabin.climate.get cabin.climate.set weather.at", ""),
        (GUEST, "", ""),
    ],
    ids=lambda v: getattr(v, "name", None),
)  # fmt: skip
def test_guests_may_do_what_their_profile_says_and_nothing_else(
    default: Policy, who: Member, allowed: str, asked: str
) -> None:
    answers = {name: says(default, who, name) for name in REAL}
    assert sorted(n for n, a in answers.items() if a == "allow") == sorted(allowed.split())
    assert sorted(n for n, a in answers.items() if a == "ask") == sorted(asked.split())


def test_a_passenger_heats_their_own_seat_only(default: Policy) -> None:
    assert says(default, PASSENGER, "seat.heat", {"level": 2, "seat": "passenger"}) == "allow"
    assert says(default, PASSENGER, "seat.heat", {"level": 2, "seat": "driver"}) == "refuse"
    assert says(default, PASSENGER, "seat.heat", {"level": 2}) == "refuse"


def test_owners_are_asked_only_before_a_car_or_a_house_is_opened(default: Policy) -> None:
    answers = {name: says(default, OWNER, name) for name in REAL}
    assert {name for name, answer in answers.items() if answer != "allow"} == {"doors.unlock", "garage.open"}


def test_members_look_and_make_it_comfortable_and_a_person_confirms_the_rest(default: Policy) -> None:
    answers = {name: says(default, MEMBER, name) for name in REAL}
    assert "refuse" not in answers.values()
    assert {name for name, answer in answers.items() if answer == "ask"} == {
        "doors.unlock", "garage.open", "windows.set", "horn.honk", "message.send", "call.start", "call.end",
        "calendar.add", "camera.take", "cabin.camera", "clipboard.get", "clipboard.set",
    }  # fmt: skip


def test_a_weaker_role_is_never_asked_less(default: Policy) -> None:
    rank = {"allow": 0, "ask": 1, "refuse": 2}
    for name in REAL:
        owner, member, *guests = (rank[says(default, d, name)] for d in (OWNER, MEMBER, VALET, PASSENGER, GUEST))
        assert owner <= member, name
        assert all(member <= guest for guest in guests if name != "doors.unlock"), name


@pytest.mark.parametrize(
    "plan", [ROOT / "slipstream" / "trip.json", *sorted(ROOT.glob("examples/*/plan.json"))], ids=lambda p: p.parent.name
)
@pytest.mark.parametrize("driving", [Driving.PARKED, Driving.MOVING])
def test_a_plan_of_an_owner_that_we_show_runs_without_a_person(default: Policy, plan: Path, driving: Driving) -> None:
    steps = [s["skill"] for s in json.loads(plan.read_text())["steps"] if s["skill"] in REAL]
    assert steps
    for skill in steps:
        assert says(default, OWNER, skill, driving=driving if skill in CAR else None) == "allow", skill


def test_the_default_names_its_own_lines(default: Policy) -> None:
    verdict = default.decide(REAL["garage.open"], {}, VALET, VALET, None, NOW)
    name, line = verdict.rule.split(":")
    assert name == DEFAULT.name
    assert DEFAULT.read_text().split("\n")[int(line) - 1] == "[[rule]]"
    assert verdict.answer == "refuse"


def test_personal_values_stay_among_owners_and_members(default: Policy) -> None:
    assert [default.may_see(d, "personal") for d in (OWNER, MEMBER, VALET)] == [True, True, False]
    assert [default.may_answer(d) for d in (OWNER, MEMBER, VALET)] == [True, False, False]


# -- reading a file --------------------------------------------------------------------------------------------------

RULE = '[[rule]]\nwho = ["owner"]\nskills = ["*"]\nthen = "allow"\n'


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "policy.toml"
    path.write_text(text)
    return path


def test_an_empty_file_refuses_everything(tmp_path: Path) -> None:
    policy = load(written(tmp_path, ""))
    assert {says(policy, OWNER, name) for name in REAL} == {"refuse"}


def test_every_condition_reaches_the_policy(tmp_path: Path) -> None:
    text = f"""
{RULE.replace('"owner"', '"device:car"')}
  [[ rule ]]  # with spaces, and a word
who = ["owner"]
skills = ["seat.*", "!seat.move"]
effects = ["physical"]
driving = ["parked"]
when = "mon-fri 07:00-22:00"
then = "allow"
[rule.args]
seat = ["driver"]
level = [1, 2]

[labels]
personal = []
[consent]
seconds = 10
answer = ["guest:valet"]
"""
    policy = load(written(tmp_path, text))
    seat = {"seat": "driver", "level": 1}
    verdict = policy.decide(REAL["seat.heat"], seat, OWNER, OWNER, Driving.PARKED, NOW)
    assert (verdict.answer, verdict.rule) == ("allow", "policy.toml:7")
    assert says(policy, OWNER, "seat.heat", {**seat, "level": 3}) == "refuse"
    assert says(policy, OWNER, "seat.heat", seat, driving=Driving.IDLING) == "refuse"
    assert not policy.may_see(OWNER, "personal")
    assert policy.consent_seconds == 10
    assert policy.may_answer(VALET)
    sunday = datetime(2026, 11, 29, 12, 30)
    assert policy.decide(REAL["seat.heat"], seat, OWNER, OWNER, Driving.PARKED, sunday).answer == "refuse"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("07:00-22:00", [(420 + day * 1440, 1320 + day * 1440) for day in range(7)]),
        ("mon-fri 07:00-22:00", [(420 + day * 1440, 1320 + day * 1440) for day in range(5)]),
        ("Sat, Sun", [(5 * 1440, 6 * 1440), (6 * 1440, 7 * 1440)]),
        ("sun 22:00-06:00", [(6 * 1440 + 1320, 7 * 1440 + 360)]),
        ("sat-mon 00:00-24:00", [(0, 1440), (5 * 1440, 6 * 1440), (6 * 1440, 7 * 1440)]),
        ("wed 9:30 - 10:00", [(2 * 1440 + 570, 2 * 1440 + 600)]),
    ],
)
def test_hours_are_read_as_people_write_them(text: str, found: list[tuple[int, int]]) -> None:
    assert list(hours(text)) == found


@pytest.mark.parametrize(
    "text", ["", " ", "monday", "mon-", "mon 7-22", "25:00-26:00", "07:60-08:00", "08:00-08:00", "24:00-06:00", ",",
             "07:00-22:00 mon", "mon 07:00", "mon;tue"],
)  # fmt: skip
def test_hours_that_cannot_be_read_say_how_they_are_written(text: str) -> None:
    with pytest.raises(ValueError, match="mon-fri 07:00-22:00"):
        hours(text)


CHECK = "slip policy check"
KEYS = "there is no such key; there are"


@pytest.mark.parametrize(
    ("text", "line", "field", "what", "hint"),
    [
        (f"{RULE}\n{RULE.replace('owner', 'owners')}", 7, "who", "guest:PROFILE", "did you mean owner?"),
        (f"{RULE}wen = 'mon'", 5, "wen", f"{KEYS} who, skills", "did you mean when?"),
        (f"{RULE}\n[[rule]]\nwho = ['owner']\nskills = ['*']", 6, "then", "it is needed and not there", CHECK),
        (RULE.replace("allow", "alow"), 4, "then", "'allow', 'ask' or 'refuse'", "did you mean allow?"),
        (RULE.replace('"*"', '"Cabin.*"'), 3, "skills", "a pattern like cabin.*", CHECK),
        (RULE.replace('"*"', '"!cabin.*"'), 3, "skills", "it only takes out", CHECK),
        (RULE.replace('["*"]', '"*"'), 3, "skills", "valid list", CHECK),
        (RULE.replace('["*"]', "[]"), 3, "skills", "at least 1", CHECK),
        (f"{RULE}when = 'mon 7-22'", 5, "when", "mon-fri 07:00-22:00", CHECK),
        (f"{RULE}effects = ['reads']", 5, "effects", "'read'", "did you mean read?"),
        (f"{RULE}driving = ['park']", 5, "driving", "'parked'", "did you mean parked?"),
        (f"{RULE}args = {{ seat = 'rear' }}", 5, "args.seat", "valid list", CHECK),
        (f"{RULE}[rule.args]\nseat = [[1]]", 5, "args.seat", "a text, a number, or true or false", CHECK),
        (f"{RULE}args = {{ level = [nan] }}", 5, "args.level", "a text, a number, or true or false", CHECK),
        (f"{RULE}args = {{ level = [2026-11-25] }}", 5, "args.level", "a text, a number, or true or false", CHECK),
        (f"{RULE}\n[labels]\npersonal = ['owner']\ndevice = ['owner']", 8, "device", f"{KEYS} personal", CHECK),
        (f"{RULE}\n[labels]\npersonal = ['ovner']", 7, "personal", "guest:PROFILE", "did you mean owner?"),
        (f"{RULE}\n[consent]\nseconds = 1", 7, "seconds", "greater than or equal to 5", CHECK),
        (f"{RULE}\n[consent]\nsecond = 10", 7, "second", KEYS, "did you mean seconds?"),
        (f"{RULE}\n[[rules]]\nwho = ['owner']", 6, "rules", f"{KEYS} rule", "did you mean rule?"),
        ("rule = 3", 1, "rule", "valid list", CHECK),
        (f"{RULE}\n\nthen = ", 7, None, "no TOML", CHECK),
        (f"{RULE}\nthen = x\n\n", 6, None, "no TOML", CHECK),
        ('["]"]', 1, "]", KEYS, CHECK),
        (f"{RULE}\n[labels]\n']' = 1", 6, "]", KEYS, CHECK),
        (f"{RULE}\nx = '''\n[[rule]]\n'''", 6, "x", KEYS, CHECK),
        ("rule = [{who = ['owner'], skills = ['*'], then = 'ask'}]", 1, "rule", "not as many", "begin each rule"),
        ("a = " + "[" * 5000, None, None, "no TOML", CHECK),
        ("a = " + "9" * 5000, None, None, "no TOML", CHECK),
    ],
)  # fmt: skip
def test_what_is_wrong_names_file_line_and_field_and_says_what_to_do(
    tmp_path: Path, text: str, line: int | None, field: str | None, what: str, hint: str
) -> None:
    path = written(tmp_path, text)
    with pytest.raises(UsageError) as caught:
        load(path)
    error = caught.value
    assert error.what.startswith(f"{path}: " if line is None else f"{path}:{line}: ")
    assert error.where.get("field") == field
    assert what in f"{error.what} {error.why}"
    assert hint in error.hint


def test_a_file_that_is_not_there_or_too_long_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        load(tmp_path / "policy.toml")
    with pytest.raises(UsageError, match="cannot be read"):
        load(tmp_path)
    with pytest.raises(UsageError, match="too long"):
        load(written(tmp_path, "#" * 300_000))
    with pytest.raises(UsageError, match="rule"):
        load(written(tmp_path, RULE * 1001))


@settings(deadline=None)
@given(st.data())
def test_a_broken_file_raises_errors_of_ours_and_nothing_else(tmp_path_factory: Any, data: st.DataObject) -> None:
    text = DEFAULT.read_text()
    begin = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(begin, min(len(text), begin + 200)))
    broken = (
        text[:begin] + data.draw(st.text(max_size=20) | st.sampled_from(('"', "[", "]]", "=", "{", "'''"))) + text[end:]
    )
    path = tmp_path_factory.getbasetemp() / "broken.toml"
    path.write_bytes(broken.encode("utf-8", "surrogatepass"))
    try:
        found = read(path)
    except UsageError as error:
        assert str(path) in error.what
        assert error.hint
    else:
        lines = broken.split("\n")
        assert all(lines[n - 1].strip().startswith("[[") for n in found.lines)
        found.policy()


@settings(deadline=None)
@given(st.text(max_size=30))
@example("mon-mon")
def test_hours_are_within_the_week_or_refused(text: str) -> None:
    try:
        found = hours(text)
    except ValueError:
        return
    assert found
    assert all(0 <= begin < 7 * 1440 and begin < end <= begin + 1440 for begin, end in found)


# -- the file in force -------------------------------------------------------------------------------------------------


class Watched:
    """The policy of a state folder on a clock of its own, and what was told of it."""

    def __init__(self, state: Path) -> None:
        self.now = 0.0
        self.told: list[SlipError] = []
        self.file = PolicyFile(state, lambda: self.now, self.told.append)

    def says(self) -> str:
        """What it says of the owner's `doors.lock`, a look later."""
        self.now += LOOK_EVERY
        return says(self.file.current(), OWNER, "doors.lock")


STRICT = RULE.replace("allow", "refuse")


def test_a_strict_file_that_an_editor_takes_away_for_a_moment_is_never_lifted(tmp_path: Path) -> None:
    path = written(tmp_path, STRICT)
    watched = Watched(tmp_path)
    path.unlink()
    assert [watched.says() for _ in range(5)] == ["refuse"] * 5
    (gone,) = watched.told
    assert gone.what == f"{path} is gone"
    assert "put it back" in gone.hint
    written(tmp_path, STRICT.replace("refuse", "ask"))
    assert (watched.says(), len(watched.told)) == ("ask", 1)
    path.unlink()
    assert (watched.says(), len(watched.told)) == ("ask", 2)
    assert Watched(tmp_path).says() == "allow"  # a start takes the default


def test_a_folder_that_never_had_a_file_has_the_default_until_there_is_one_and_says_nothing(tmp_path: Path) -> None:
    watched = Watched(tmp_path)
    assert (watched.says(), watched.told) == ("allow", [])
    written(tmp_path, STRICT)
    assert (watched.says(), watched.told) == ("refuse", [])


@contextmanager
def nobody_may_read(path: Path) -> Iterator[None]:
    """Take the rights to the file's folder away, from root too."""
    user = os.geteuid()
    path.parent.chmod(0)
    try:
        if not user:
            os.seteuid(65534)
        yield
    finally:
        os.seteuid(user)
        path.parent.chmod(0o700)


UNREADABLE: dict[str, Callable[[Path], Any]] = {
    "a folder": lambda path: path.mkdir(),
    "a pipe": lambda path: os.mkfifo(path),
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "a link to itself": lambda path: path.symlink_to(path),
    "a link to nothing": lambda path: path.symlink_to(path.with_name("nothing")),
    "a way through a file": lambda path: path.symlink_to(Path(__file__) / "policy.toml"),
    "no text": lambda path: path.write_bytes(b"# \xff\xfe\n"),
    "nonsense": lambda path: path.write_text("nonsense"),
}


@pytest.mark.parametrize("make", UNREADABLE.values(), ids=UNREADABLE)
def test_what_cannot_be_read_is_refused_at_the_start_and_later_told_once_and_changes_nothing(
    tmp_path: Path, make: Callable[[Path], Any]
) -> None:
    path = written(tmp_path, STRICT)
    watched = Watched(tmp_path)
    path.unlink()
    make(path)
    assert [watched.says() for _ in range(5)] == ["refuse"] * 5
    with pytest.raises(UsageError) as refused:
        PolicyFile(tmp_path, lambda: 0.0, print)
    for error in (*watched.told, refused.value):
        assert error.what.startswith(str(path))
        assert "slip policy check" in error.hint
    assert len(watched.told) == 1
    if path.is_dir():
        path.rmdir()
    else:
        path.unlink()
    written(tmp_path, RULE)
    assert (watched.says(), len(watched.told)) == ("allow", 1)


def test_a_file_that_nobody_may_read_for_a_while_changes_nothing_and_counts_again_after_that(tmp_path: Path) -> None:
    path = written(tmp_path, STRICT)
    watched = Watched(tmp_path)
    with nobody_may_read(path):
        assert [watched.says() for _ in range(5)] == ["refuse"] * 5
        with pytest.raises(UsageError, match="Permission denied"):
            PolicyFile(tmp_path, lambda: 0.0, print)
    (told,) = watched.told
    assert told.why == "Permission denied"
    path.write_text(RULE)
    assert (watched.says(), len(watched.told)) == ("allow", 1)


def test_a_change_that_keeps_the_size_and_the_time_of_the_file_is_seen(tmp_path: Path) -> None:
    path = written(tmp_path, STRICT)
    watched = Watched(tmp_path)
    same = path.stat()
    while path.stat().st_ctime_ns == same.st_ctime_ns:  # clocks of file systems tick slowly
        path.write_text(STRICT.replace('"refuse"', '"allow" '))
        os.utime(path, ns=(same.st_atime_ns, same.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (same.st_size, same.st_mtime_ns)
    assert watched.says() == "allow"


# -- slip policy -----------------------------------------------------------------------------------------------------


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SLIPSTREAM_STATE", str(tmp_path))
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    capsys.readouterr()
    code = cli.main(["policy", *words])
    return code, capsys.readouterr().out


def test_show_names_the_file_that_counts(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out = run(capsys, "show")
    assert (code, out.splitlines()[0]) == (0, str(DEFAULT))
    assert "seat=passenger" in out
    written(state, RULE)
    _, out = run(capsys, "--json")
    shown = json.loads(out)
    assert shown["file"] == str(state / "policy.toml")
    assert shown["rules"] == [{"line": 1, "who": ["owner"], "skills": ["*"], "then": "allow"}]
    assert shown["consent"] == {"seconds": 60.0, "answer": ["owner"]}


def test_check_looks_at_the_file_that_counts_or_at_another(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "check") == (0, f"{DEFAULT} ok, {len(load(None).rules)} rules\n")
    other = written(state, RULE.replace("allow", "alow"))
    code, out = run(capsys, "check", str(other), "--json")
    error = json.loads(out)["error"]
    assert code == 2
    assert error["what"].startswith(f"{other}:4: rule 1: then: ")
    assert run(capsys, "check")[0] == 2


def test_explain_asks_the_daemon_and_shows_its_answer(
    state: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def answer(*request: Any) -> dict[str, Any]:
        asked.append(request)
        return {"answer": "ask", "rule": "policy.toml:8", "why": "a person\x1b[2J decides", "hint": "park"}

    monkeypatch.setattr(verb, "ask", answer)
    code, out = run(
        capsys, "explain", "car", "seat.heat", "seat=driver", "--driving", "moving", "--on-behalf-of", "hub"
    )
    assert (code, out) == (0, "ask     a person[2J decides\nby      policy.toml:8\nhint    park\n")
    request = {"device": "car", "skill": "seat.heat", "text": {"seat": "driver"}, "origin": "hub", "driving": "moving"}
    assert asked == [(state, "policy.explain", request)]
    _, out = run(capsys, "explain", "car", "seat.heat", "--json")
    assert json.loads(out)["rule"] == "policy.toml:8"


@pytest.mark.parametrize("words", [("explain",), ("explain", "car"), ("show", "x"), ("check", "a", "b")])
def test_what_is_missing_or_too_much_is_said(
    state: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    assert run(capsys, *words)[0] == 2


def test_a_car_explains_itself_and_reads_its_file_again_but_never_a_wrong_one(make: Any, slip: Any) -> None:
    daemon = make("car", "--name", "car", "--kind", "car", "--pack", "car").start("--new-mesh")

    def explained(skill: str, *more: str) -> dict[str, Any]:
        done = slip("policy", "explain", "car", skill, *more, "--json", state=daemon.state)
        return cast(dict[str, Any], json.loads(done.stdout))

    moving = explained("windows.set", "percent=50", "--driving", "moving")
    assert (moving["answer"], moving["rule"].partition(":")[0]) == ("refuse", "the floor")
    assert explained("windows.set", "percent=10", "--driving", "moving")["answer"] == "allow"
    assert explained("doors.unlock")["answer"] == "ask"
    assert "did you mean windows.set?" in explained("windows.st")["error"]["hint"]
    written(daemon.state, f"{RULE}\n{RULE}".replace("allow", "refuse", 1).replace("*", "windows.*", 1))
    daemon.reload()
    assert explained("windows.set")["rule"] == "policy.toml:1"
    assert explained("doors.lock")["rule"] == "policy.toml:6"
    written(daemon.state, "nonsense")
    daemon.reload()
    assert explained("windows.set")["rule"] == "policy.toml:1"


def test_the_verb_that_only_asks_imports_nothing_heavy() -> None:
    heavy = ("asyncio", "anyio", "pydantic", "msgpack")
    code = f"import sys, slipstream.cli.policy; print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_the_default_is_a_file_of_the_package() -> None:
    assert DEFAULT.parent == Path(policy_file.__file__).parent
    assert DEFAULT.is_file()
