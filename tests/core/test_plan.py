"""Plans: what is refused, with the step and the field, and how references and conditions are read."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from slipstream.core import plan as plans
from slipstream.core.errors import UsageError
from slipstream.core.skill import Context, Effect, skill


class Place(BaseModel):
    lat: float
    name: str
    tags: list[str] = []


@skill("place.find", effect=Effect.READ)
async def find(ctx: Context, text: str) -> Place:
    """Find a place."""
    return Place(lat=1, name=text)


@skill("place.show", effect=Effect.READ)
async def show(ctx: Context, lat: float, zoom: int = 3) -> None:
    """Show a place."""


SPECS: dict[str, Any] = {f.spec.name: f.spec.to_wire() for f in (find, show)}  # type: ignore[attr-defined]


def of(*steps: dict[str, Any], **fields: Any) -> plans.Plan:
    """A plan with these steps."""
    return plans.load({"goal": "test", "steps": list(steps), **fields})


FIND = {"id": "find", "skill": "place.find", "args": {"text": "x"}}


@pytest.mark.parametrize(
    ("data", "step", "field", "why"),
    [
        ([], None, "plan", "dictionary"),
        ({"goal": "x", "steps": []}, None, "steps", "there are none"),
        ({"goal": "x", "steps": [{"id": "a", "skil": "a.b"}]}, "a", "skil", "is unknown here"),
        ({"goal": "x", "steps": [FIND], "colour": 1}, None, "colour", "is unknown here"),
        ({"goal": "x", "steps": [FIND, FIND]}, "find", "id", "twice"),
        ({"goal": "x", "steps": [{"id": "item", "skill": "a.b"}]}, "item", "id", "may not be"),
        ({"goal": "x", "steps": [{**FIND, "after": ["fnid"]}]}, "find", "after", "no step fnid"),
        ({"goal": "x", "steps": [{**FIND, "args": {"text": {"$ref": "gone.name"}}}]}, "find", "args.text", "gone"),
        ({"goal": "x", "steps": [{**FIND, "args": {"text": {"$ref": "item"}}}]}, "find", "args.text", "for_each"),
        ({"goal": "x", "steps": [{**FIND, "args": {"text": {"$ref": "inputs.t"}}}]}, "find", "args.text", "no input"),
        ({"goal": "x", "steps": [{**FIND, "deadline_ms": 0}]}, "find", "deadline_ms", "more than 0"),
        ({"goal": "x", "priority": 10, "steps": [FIND]}, None, "priority", "from 0 to 9"),
        ({"goal": "x", "priority": -1, "steps": [FIND]}, None, "priority", "from 0 to 9"),
        ({"goal": "x", "steps": [{**FIND, "when": {"op": "like", "left": 1}}]}, "find", "when.op", "'eq'"),
        ({"goal": "x", "steps": [FIND], "output": {"o": {"$ref": "other"}}}, None, "output.o", "no step other"),
        ({"goal": "x", "steps": [{**FIND, "after": ["find"]}]}, "find", "needs", "find waits for find"),
    ],
)
def test_a_plan_of_the_wrong_form_is_refused_with_step_and_field(
    data: Any, step: str | None, field: str, why: str
) -> None:
    with pytest.raises(UsageError) as caught:
        plans.load(data)
    assert caught.value.where.get("step") == step
    assert caught.value.where["field"] == field
    assert why in caught.value.why


def test_a_cycle_is_shown_as_the_circle_that_it_is() -> None:
    with pytest.raises(UsageError) as caught:
        of(
            {**FIND, "id": "a", "after": ["c"]},
            {**FIND, "id": "b", "after": ["a"]},
            {**FIND, "id": "c", "after": ["b"]},
        )
    assert caught.value.why == "a cycle: a waits for c waits for b waits for a"


@pytest.mark.parametrize(
    ("step", "field", "why"),
    [
        ({"skill": "place.fnd"}, "skill", "no device has"),
        ({"skill": "place.show"}, "args.lat", "is missing"),
        ({"skill": "place.show", "args": {"lat": "north"}}, "args.lat", "should be number, not string"),
        ({"skill": "place.show", "args": {"lat": 1, "colour": 2}}, "args.colour", "is unknown"),
        ({"skill": "place.show", "args": {"lat": {"$ref": "find.lon"}}}, "args.lat", "place.find gives no lon"),
        ({"skill": "place.show", "args": {"lat": {"$ref": "find.name"}}}, "args.lat", "find.name is string"),
        ({"skill": "place.show", "args": {"lat": {"$ref": "find.tags"}}}, "args.lat", "find.tags is array"),
        ({"skill": "place.find", "args": {"text": {"$ref": "item"}}, "for_each": {"$ref": "find.lat"}}, "for_each",
         "find.lat is number"),
    ],
)  # fmt: skip
def test_a_plan_that_does_not_fit_the_skills_is_refused_with_step_and_field(
    step: dict[str, Any], field: str, why: str
) -> None:
    with pytest.raises(UsageError) as caught:
        plans.check(of(FIND, {"id": "second", **step}), SPECS)
    assert caught.value.where["step"] == "second"
    assert caught.value.where["field"] == field
    assert why in caught.value.why


def test_a_sound_plan_passes_and_survives_the_wire() -> None:
    plan = of(
        FIND,
        {"id": "show", "skill": "place.show", "args": {"lat": {"$ref": "find.lat"}, "zoom": 4},
         "when": {"op": "and", "left": {"op": "gt", "left": {"$ref": "find.lat"}, "right": 0},
                  "right": {"op": "not", "left": {"op": "in", "left": "x", "right": {"$ref": "find.tags"}}}}},
        {"id": "each", "skill": "place.find", "args": {"text": {"$ref": "item"}}, "for_each": {"$ref": "find.tags"}},
        output={"all": {"$ref": "each.result"}},
    )  # fmt: skip
    plans.check(plan, SPECS)
    assert plans.load(plan.to_wire()) == plan
    assert plan.step("show").needs == ("find",)


def test_inputs_that_are_given_later_replace_those_of_the_plan() -> None:
    data = {"goal": "x", "inputs": {"t": "a"}, "steps": [{**FIND, "args": {"text": {"$ref": "inputs.t"}}}]}
    assert plans.load(data, {"t": "b"}).inputs == {"t": "b"}


def test_an_input_that_the_plan_does_not_have_is_refused_with_the_nearest_one() -> None:
    data = {"goal": "x", "inputs": {"place": "a"}, "steps": [{**FIND, "args": {"text": {"$ref": "inputs.place"}}}]}
    with pytest.raises(UsageError) as caught:
        plans.load(data, {"palce": "b"})
    assert caught.value.where["field"] == "inputs.palce"
    assert caught.value.hint == "did you mean place?"


@pytest.mark.parametrize(
    ("condition", "holds"),
    [
        ({"op": "lt", "left": {"$ref": "a.n"}, "right": 20}, True),
        ({"op": "ge", "left": {"$ref": "a.n"}, "right": 20}, False),
        ({"op": "eq", "left": {"$ref": "a.s"}, "right": "x"}, True),
        ({"op": "in", "left": 2, "right": {"$ref": "a.l"}}, True),
        ({"op": "lt", "left": {"$ref": "a.s"}, "right": 20}, False),
        ({"op": "not", "left": {"op": "ne", "left": 1, "right": 1}}, True),
        ({"op": "or", "left": {"op": "eq", "left": 1, "right": 2}, "right": {"op": "le", "left": 1, "right": 1}}, True),
    ],
)
def test_conditions_are_comparisons_of_results(condition: dict[str, Any], holds: bool) -> None:
    assert plans.holds(condition, {"a": {"n": 10, "s": "x", "l": [1, 2]}}) is holds


def test_a_reference_into_nothing_says_where() -> None:
    with pytest.raises(UsageError) as caught:
        plans.fill({"x": {"$ref": "a.b.7"}}, {"a": {"b": [1]}})
    assert caught.value.where["field"] == "a.b.7"


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


def test_arguments_that_are_nested_too_deep_are_refused() -> None:
    with pytest.raises(UsageError) as caught:
        of({**FIND, "args": {"text": nested(500)}})
    assert "deep" in caught.value.why


json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=10) | st.just({"$ref": "a.b"}),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)


steps = st.fixed_dictionaries(
    {"id": st.sampled_from("abc"), "skill": st.just("place.find")},
    optional={"args": json, "when": json, "for_each": json, "after": json},
)


@given(json | st.fixed_dictionaries({"goal": st.text(), "steps": st.lists(steps, max_size=4)}))
def test_whatever_json_comes_it_is_a_plan_or_one_clear_error(data: Any) -> None:
    try:
        plans.check(plans.load(data), SPECS)
    except UsageError as error:
        assert error.what
        assert error.why
