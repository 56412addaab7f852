"""What a line in the command bar means, and what it may become."""

from __future__ import annotations

import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipstream.tui.board import Board
from slipstream.tui.command import VERBS, Command, complete, parse
from slipstream.tui.text import plain

from .scenes import board_of, device, rows, trip

MADE = rows(trip())
MADE["device/aaaa1111"] = device("twin", id="aaaa1111")
MADE["device/bbbb2222"] = device("twin", id="bbbb2222")
MADE["consent/hub/q77"] = {"id": "q77", "skill": "garage.open", "device_name": "hub"}
BOARD = board_of(MADE)
FILES = ["examples/trip.json", "odd name.json"]


@pytest.mark.parametrize(
    ("line", "command"),
    [
        ("run trip.json city=Bonn n=2", Command("run", {"file": "trip.json"}, {"city": "Bonn", "n": "2"})),
        ("plan 'odd name.json'", Command("plan", {"file": "odd name.json"})),
        ("plan", Command("plan_view")), ("run a=b c=d", Command("run", {"file": "a=b"}, {"c": "d"})),
        ("call nav.route to=x --on hub", Command("call", {"on": "hub", "skill": "nav.route"}, {"to": "x"})),
        ("cancel r", Command("cancel", {"run": "r1"})),
        ("move tell hub", Command("move", {"step": "r1/tell", "device": "hub"})),
        ("move r1/preh ioniq-5", Command("move", {"step": "r1/preheat", "device": "ioniq-5"})),
        ("ping hub", Command("ping", {"device": "hub"})),
        ("ping aaaa", Command("ping", {"device": "aaaa1111"})),
        ("approve q7", Command("approve", {"request": "q77"})),
        ("goto 12.5s", Command("goto", {"seconds": "12.5"})),
        ("filter dev:hub !progress", Command("filter", {"text": "dev:hub !progress"})),
        ("filter", Command("filter", {"text": ""})),
        ("  quit ", Command("quit")), ("q", Command("quit")),
    ],
)  # fmt: skip
def test_lines_are_read(line: str, command: Command) -> None:
    assert parse(BOARD, line) == command


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("", "type a command"), ("runn x", "did you mean run"), ("run", "run needs a file"), ("ping", "needs a device"),
        ("ping ionix-5", "did you mean ioniq-5"), ("ping twin", "2 devices are called twin: say the id, like aaaa111"),
        ("call nav.rout", "did you mean nav.route"), ("cancel zz", "no run zz"), ("quit now", "no use for now"),
        ("goto soon", "no seconds"), ("goto -1", "no seconds"), ("run 'open", "quotation mark"),
        ("run a.json n=1 m=2 n=3", "n is there twice"), ("filter !", "nothing to look for"),
        ("call nav.route --on", "needs a device"), ("approve x", "no open question x"),
        ("move route hub", "no step that has not begun route"), ("move tell", "move needs a device"),
    ],
)  # fmt: skip
def test_what_is_no_command_says_which_word_and_what_is_near(line: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        parse(BOARD, line)


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("ca", ["call ", "cancel "]), ("qt", ["quit"]), ("run ", ["run examples/trip.json ", "run 'odd name.json' "]),
        ("call nav", ["call nav.route "]), ("call cp", ["call cabin.preheat "]),
        ("call nav.route ", ["call nav.route --on "]),
        ("call nav.route --on io", ["call nav.route --on ioniq-5 "]), ("ping aaa", ["ping aaaa1111 "]),
        ("cancel ", ["cancel r1 "]),
        ("move te", ["move r1/tell "]), ("move tell hu", ["move tell hub "]),
        ("approve ", ["approve q77 "]), ("nothere x", []), ("ping hub ", []),
    ],
)  # fmt: skip
def test_words_are_completed_from_what_is_there(text: str, lines: list[str]) -> None:
    assert [c.line for c in complete(BOARD, text, lambda: FILES)] == lines


@given(st.text() | st.text("runcalplg '\"=-. ", max_size=20))
def test_no_line_brings_it_down_and_completions_only_lengthen(text: str) -> None:
    try:
        parse(BOARD, text)
    except ValueError as error:
        assert str(error)
    for completion in complete(BOARD, text, lambda: FILES):
        assert text.startswith(completion.line.rstrip(" ").removesuffix(shlex.quote(completion.shown)))


def test_every_verb_is_told_of() -> None:
    assert all(verb.about for verb in VERBS.values())


ROWS = {
    "device/car1": {"name": "ioniq-5", "kind": "car"}, "device/hub1": {"name": "my hub", "kind": "hub"},
    "device/none1": {"name": "", "kind": "odd"}, "skills/car1": {"names": ["doors.unlock", "nav.route"]},
    "skills/hub1": {"names": ["nav.route", 7, None]},
    "run/r1": {"state": "running", "goal": "home"}, "run/r2": {"state": "interrupted"}, "run/r3": {"state": "done"},
}  # fmt: skip
HARD = [
    "plans/my trip.json",
    "it's.json",
    'a"b.json',
    "back\\slash.json",
    "\x1b[31mred.json",
    "bidi\u202e.json",
    "a\nb",
    "",
]


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("run plans/my", ["run 'plans/my trip.json' "]), ("run 'plans/my t", ["run 'plans/my trip.json' "]),
        ('run "plans/my t', ["run 'plans/my trip.json' "]), ("run plans/my\\ t", ["run 'plans/my trip.json' "]),
        ("run 'plans/my trip.json' x", []), ("ping 'my h", ["ping 'my hub' "]), ("ping none", ["ping none1 "]),
        ("call doors.unlock --on ", ["call doors.unlock --on ioniq-5 "]),
        ("call nav.route to=x --on m", ["call nav.route to=x --on 'my hub' "]),
        ("call nav.route --on ioniq-5 ", []), ("call --on ", []),
        ("cancel ", ["cancel r1 ", "cancel r2 "]), ("resume ", ["resume r2 "]),
    ],
)  # fmt: skip
def test_quoted_words_go_on_and_only_what_can_be_meant_is_offered(text: str, lines: list[str]) -> None:
    assert [c.line for c in complete(board_of(ROWS), text, lambda: HARD)] == lines


def test_a_file_is_offered_only_if_its_name_is_what_is_shown_and_is_read_back_as_it_is() -> None:
    found = complete(Board(), "run ", lambda: HARD)
    assert [c.shown for c in found] == HARD[:4]
    assert [parse(Board(), c.line).args["file"] for c in found] == HARD[:4]


@given(st.lists(st.text(), max_size=5), st.text(max_size=3))
def test_names_of_files_are_data(names: list[str], typed: str) -> None:
    for completion in complete(Board(), f"run {shlex.quote(typed)[:-1] or typed}", lambda: names):
        assert plain(completion.line, 10_000) == completion.line
        assert parse(Board(), completion.line).args["file"] in names


def test_what_begins_so_comes_before_what_has_the_letters_alike_in_the_order_of_the_list() -> None:
    files = ["xarb", "zab", "abz", "a-b", "ABa"]
    assert [c.shown for c in complete(Board(), "plan ab", lambda: files)] == ["abz", "ABa", "xarb", "zab", "a-b"]


@given(st.dictionaries(st.sampled_from(["name", "names", "id", "state", "goal"]), st.none() | st.integers() | st.text()
                       | st.lists(st.text() | st.integers(), max_size=2)))  # fmt: skip
def test_rows_of_any_form_do_no_harm(row: dict[str, object]) -> None:
    board = board_of({f"{kind}/x": row for kind in ("device", "skills", "run", "consent")})
    for verb in VERBS:
        complete(board, f"{verb} ", list)
        try:
            parse(board, f"{verb} x")
        except ValueError as error:
            assert str(error)
