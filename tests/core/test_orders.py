"""The form of what devices tell each other about runs: orders, answers and reports, each field wrong in each way."""

from __future__ import annotations

from collections.abc import Iterator
from math import inf, nan
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipstream.core.errors import ProtocolError
from slipstream.core.orders import KEY_LIMIT, check_order
from slipstream.core.plan import STEPS_LIMIT
from slipstream.core.run import check_answer, check_report

UNREADABLE = (KeyError, TypeError, ValueError)
LONG = "x" * (KEY_LIMIT + 1)
MANY = [f"s{i}" for i in range(STEPS_LIMIT + 1)]

STEP: dict[str, Any] = {
    "id": "s", "epoch": 1, "key": "r/s/0", "skill": "cabin.look", "args": {"x": {"$ref": "a.result"}},
    "needs": ["a", "b"], "reads": ["a"], "when": {"op": "eq", "left": 1, "right": 1}, "for_each": None, "seconds": 1.5,
    "sends": ["phone"], "from": {"a": "car"},
}  # fmt: skip
ORDER: dict[str, Any] = {"run": "r", "have": {"a": ["done", {"result": 1}]}, "steps": [STEP]}
REPORT: dict[str, Any] = {
    "step": "s", "epoch": 1, "state": "done", "value": {"result": 1}, "inline": True, "size": 10, "error": None,
    "seconds": 0.5,
}  # fmt: skip

NUMBERS = [nan, inf, -inf, -1, -0.5]
WRONG_STEP: dict[str, list[Any]] = {
    "id": [None, 7, b"s", ["s"], LONG, "t"], "epoch": [None, "1", 1.0, True, -1, 2**53, nan],
    "priority": [None, "1", True, 1.0, -1, 10, 2**53, nan],
    "key": [None, 7, b"r/s/0", "", "r/s", "r/t/0", "q/s/0", LONG, "r/s/" + LONG], "skill": [None, 7, LONG],
    "args": [None, [], "x", 7], "needs": [None, "ab", {}, [7], [LONG], [["a"]], ["b"], [], MANY],
    "reads": [None, "a", [7], ["c"], ["a", LONG], MANY],
    "when": [[], "x", True, {}, {"op": "exec", "left": 1, "right": 1}, {"op": ["eq"], "left": 1, "right": 1},
             {"op": "eq"}, {"op": "eq", "left": 1}],
    "for_each": ["a", 7, True, {}, {"$ref": 7}, {"$ref": "a", "more": 1}, [{"$ref": "a"}], [[{"x": [{"$ref": "a"}]}]]],
    "seconds": ["1", True, [], *NUMBERS], "sends": [None, "phone", {"phone": 1}, [7], [LONG], MANY],
    "from": [None, [], "a", {"a": 7}, {"a": LONG}, {"c": "car"}, {7: "car"}, {b"a": "car"}],
}  # fmt: skip
WRONG_ORDER: dict[str, list[Any]] = {
    "run": [None, 7, b"r", ["r"], LONG, "q"],
    "have": [None, [], "a", {7: ["done", 1]}, {LONG: ["done", 1]}, {"a": None}, {"a": "ok"}, {"a": {"done": 1, "x": 2}},
             {"a": ["done"]}, {"a": ["done", 1, 2]}, {"a": ["failed", 1]}, {"a": ["running", 1]}, {"a": [7, 1]}],
    "steps": [None, {}, "s", [7], [None], ["s"], [[]], [{}], [STEP, STEP]],
}  # fmt: skip
WRONG_REPORT: dict[str, list[Any]] = {
    "step": [None, 7, b"s", ["s"]], "epoch": [None, "1", 1.0, True, nan], "state": [None, 7, "", "gone", ["done"]],
    "inline": [None, 1, "yes"], "size": [None, "10", 1.0, True, -1, -(2**63), nan, inf], "error": [7, "bad", ["bad"]],
    "seconds": ["1", [], *map(float, NUMBERS)],
}  # fmt: skip


def wrong(good: dict[str, Any], values: dict[str, list[Any]]) -> Iterator[Any]:
    """Each field left out, and in each wrong form."""
    for field in good:
        yield pytest.param({k: v for k, v in good.items() if k != field}, id=f"no {field}")
        for value in values.get(field, ()):
            yield pytest.param({**good, field: value}, id=f"{field}: {value!r:.20}")


def test_what_is_right_is_let_through() -> None:
    check_order(ORDER)
    check_order({"run": "r", "steps": []})
    check_report(REPORT)
    check_answer({"s": REPORT, "of a newer version": 7}, ["s", "t"])


@pytest.mark.parametrize("step", [*wrong(STEP, WRONG_STEP)])
def test_a_step_that_is_wrong_anywhere_makes_the_whole_order_unreadable(step: Any) -> None:
    good = {**STEP, "id": "g", "key": "r/g/0"}
    for steps in ([step], [good, step], [step, good]):
        with pytest.raises(UNREADABLE):
            check_order({**ORDER, "steps": steps})


@pytest.mark.parametrize("order", [p for p in wrong(ORDER, WRONG_ORDER) if p.id != "no have"])
def test_an_order_that_is_wrong_is_unreadable(order: Any) -> None:
    with pytest.raises(UNREADABLE):
        check_order(order)


@pytest.mark.parametrize("report", [*wrong(REPORT, WRONG_REPORT)])
def test_a_report_that_is_wrong_is_unreadable_and_so_is_an_answer_with_it(report: Any) -> None:
    with pytest.raises(UNREADABLE):
        check_report(report)
    with pytest.raises(ProtocolError, match="cannot be read") as error:
        check_answer({"g": {**REPORT, "step": "g"}, "s": report}, ["g", "s"])
    assert error.value.why


@pytest.mark.parametrize("answer", [None, 7, "", "s", b"s", [], ["s"], {"s": None}, {"s": "x"}, {"s": []}, {"s": {}}])
def test_an_answer_that_is_none_is_a_protocol_error(answer: Any) -> None:
    with pytest.raises(ProtocolError, match="cannot be read"):
        check_answer(answer, ["s"])


def test_an_answer_of_one_step_in_the_place_of_another_is_a_protocol_error() -> None:
    with pytest.raises(ProtocolError, match="of another step"):
        check_answer({"s": REPORT, "t": REPORT}, ["s", "t"])


_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(max_size=5) | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5) | st.integers(), inner, max_size=3),
    max_leaves=8,
)


def _nearly(good: dict[str, Any]) -> st.SearchStrategy[Any]:
    return _values | st.builds(lambda field, value: {**good, field: value}, st.sampled_from(sorted(good)), _values)


@given(_nearly(ORDER) | _nearly(STEP).map(lambda step: {**ORDER, "steps": [step]}), _nearly(REPORT))
def test_whatever_comes_is_right_or_unreadable_and_nothing_else(order: Any, report: Any) -> None:
    for check, came in ((check_order, order), (check_report, report)):
        try:
            check(came)
        except UNREADABLE:
            continue
        assert isinstance(came, dict)
    try:
        check_answer({"s": report}, ["s"])
    except ProtocolError:
        pass
