"""What a line in the command bar means, and what it may become."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipstream.tui.command import VERBS, Command, complete, parse

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
        ("plan", Command("plan_view")),
        ("call nav.route to=x --on hub", Command("call", {"on": "hub", "skill": "nav.route"}, {"to": "x"})),
        ("cancel r", Command("cancel", {"run": "r1"})),
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
        ("call nav.route --on", "needs a device"), ("approve x", "no open question x"),
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
        ("cancel ", ["cancel r1 "]), ("approve ", ["approve q77 "]), ("nothere x", []), ("ping hub ", []),
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
        assert completion.line.startswith(text.lstrip().rpartition(" ")[0])


def test_every_verb_is_told_of() -> None:
    assert all(verb.about for verb in VERBS.values())
