"""A form for a skill's arguments: what it asks for, what it makes of what is typed, and schemas that are none."""

from __future__ import annotations

import json
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from slipstream.core import arguments
from slipstream.core import schema as js
from slipstream.core.errors import UsageError
from slipstream.core.skill import Context, Effect, skill
from slipstream.tui.form import MOST, Form, sound
from slipstream.tui.text import plain

SCHEMA = {
    "type": "object",
    "properties": {
        "soc": {"anyOf": [{"type": "number"}, {"type": "null"}], "default": None},
        "to": {"type": "string", "description": "a town", "title": "To"},
        "mode": {"enum": ["fast", "short"], "type": "string", "default": "fast"},
        "stops": {"type": "array", "items": {"type": "string"}},
        "celsius": {"type": "number", "minimum": 16, "maximum": 28, "title": "Cabin temperature"},
        "loud": {"type": "boolean"},
        "at": {"$ref": "#/$defs/Place"},
    },
    "required": ["to"],
    "$defs": {"Place": {"type": "object", "properties": {"lat": {"type": "number"}}, "required": ["lat"]}},
}  # fmt: skip


def form(schema: Any = SCHEMA, **typed: str) -> Form:
    made = Form("nav.route", schema)
    made.typed = typed
    return made


def test_needed_fields_come_first_and_each_says_what_it_may_be() -> None:
    assert [(field.name, field.hint, field.about) for field in form().fields] == [
        ("to", "text, needed", "a town"), ("soc", "a number, may be left out", ""),
        ("mode", "fast | short, else fast", ""), ("stops", 'a list: a, b or ["a", "b"], may be left out', ""),
        ("celsius", "a number from 16 to 28, may be left out", "Cabin temperature"),
        ("loud", "yes or no, may be left out", ""), ("at", 'JSON: {"name": "value"}, may be left out', ""),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("shape", "kind"),
    [
        ({"type": "integer", "exclusiveMinimum": 0, "exclusiveMaximum": 9}, "a whole number more than 0, less than 9"),
        ({"type": "string", "minLength": 1, "maxLength": 40}, "text of at least 1, of at most 40 characters"),
        ({"anyOf": [{"type": "integer", "minimum": 1}, {"type": "null"}]}, "a whole number at least 1"),
        ({"type": ["string", "integer"]}, "a whole number or text"), ({}, "anything"), ({"type": "odd\x1b"}, "odd"),
    ],
)  # fmt: skip
def test_a_kind_is_told_in_words_with_its_bounds(shape: dict[str, Any], kind: str) -> None:
    assert form({"properties": {"x": shape}}).fields[0].kind == kind


def test_what_is_typed_is_read_as_the_schema_wants_and_empty_fields_are_left_out() -> None:
    made = form(to="007", soc="80", stops="Ulm, Bonn", mode="  ", loud="yes", at='{"lat": 1.5}')
    assert made.args() == {"to": "007", "soc": 80, "stops": ["Ulm", "Bonn"], "loud": True, "at": {"lat": 1.5}}
    assert form(to="x", soc="null").args() == {"to": "x", "soc": None}


@pytest.mark.parametrize(
    ("typed", "wrong"),
    [
        ({}, {"to": "is needed"}), ({"to": " "}, {"to": "is needed"}),
        ({"to": "x", "soc": "much"}, {"soc": "should be a number"}),
        ({"soc": "much", "celsius": "99", "mode": "slow"},
         {"to": "is needed", "soc": "should be a number", "celsius": "should be at most 28",
          "mode": "should be one of fast, short"}),
        ({"to": "x", "at": "{}"}, {"at": "lat is missing"}),
        ({"to": "x", "at": '{"lat": "north"}'}, {"at": "lat should be number, not string"}),
        ({"to": "x", "at": "{"}, {"at": 'should be JSON: {"name": "value"}'}),
        ({"to": "x", "loud": "maybe"}, {"loud": "should be yes or no"}),
    ],
)  # fmt: skip
def test_every_field_that_will_not_do_says_why(typed: dict[str, str], wrong: dict[str, str]) -> None:
    made = form(**typed)
    assert made.errors() == wrong
    with pytest.raises(UsageError) as error:
        made.args()
    assert error.value.where["field"] == next(iter(wrong))


def test_what_may_be_left_out_is_left_out_first_where_there_is_too_much() -> None:
    names = [f"a{i}" for i in range(MOST + 10)]
    made = form({"properties": {name: {"type": "string"} for name in names}, "required": names[-2:]})
    assert [field.name for field in made.fields[:3]] == [*names[-2:], "a0"]
    assert (len(made.fields), made.left_out) == (MOST, 10)


class Stop(BaseModel):
    """Where to stop."""

    place: str = Field(min_length=1, description="a town or a street")
    minutes: int = Field(default=5, ge=0, le=120)


@skill("nav.drive", effect=Effect.READ)
async def drive(
    ctx: Context,
    to: str,
    stops: list[Stop] | None = None,
    mode: Literal["fast", "short"] = "fast",
    via: Stop | None = None,
) -> None:
    """Drive somewhere."""


def test_the_schema_of_a_real_skill_makes_a_form_and_loses_nothing() -> None:
    schema = drive.spec.input_schema
    made = Form("nav.drive", schema)
    assert {field.name for field in made.fields} == {"to", "stops", "mode", "via"}
    assert sound(schema)["properties"]["mode"]["enum"] == ["fast", "short"]
    made.typed = {"to": "Bonn", "stops": '[{"place": "Ulm", "minutes": 10}]', "via": '{"place": "x"}', "mode": "short"}
    typed = {field.name: made.typed[field.name] for field in made.fields}
    assert made.args() == arguments.read("nav.drive", schema, typed)
    made.typed["stops"] = '[{"place": "", "minutes": 999}]'
    assert list(made.errors()) == ["stops"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6)
    | st.sampled_from(["object", "array", "string", "integer", "#/$defs/a", "#/$defs/b", "$ref"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["type", "properties", "anyOf", "oneOf", "$ref", "$defs", "enum", "default", "items", "const",
                         "required", "additionalProperties", "minimum", "maxLength", "title", "description", "a", "b"]),
        inner, max_size=5),
    max_leaves=12,
)  # fmt: skip
SCHEMAS = JSON | st.fixed_dictionaries(
    {"properties": st.dictionaries(st.text(max_size=3), JSON, max_size=4)},
    optional={"$defs": st.dictionaries(st.sampled_from("ab"), JSON), "required": JSON},
)


@given(SCHEMAS, st.sampled_from(["1", "", "{}", "[[1]]", "null", '{"a": {"b": [1]}}', "x, y", "\x1b[31m", "NaN"]))
def test_no_schema_brings_it_down(schema: Any, text: str) -> None:
    made = Form("x.y", schema)
    made.typed = {field.name: text for field in made.fields}
    for field in made.fields:
        assert all(plain(said) == said for said in (field.hint, field.about, *field.choices))
    errors = made.errors()
    assert all(plain(said) == said for said in errors.values())
    if errors:
        with pytest.raises(UsageError):
            made.args()
    else:
        assert made.args().keys() <= {field.name for field in made.fields}


@given(SCHEMAS)
def test_what_is_sound_stays_as_it_is(schema: Any) -> None:
    once = sound(schema)
    assert sound(once) == once or "NaN" in json.dumps(once)


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(depth):
        schema = {"anyOf": [schema, {"type": "array", "items": schema}], "properties": {"a": schema}}
    return schema


def holds_itself() -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "object", "default": []}
    schema["properties"] = {"a": schema, "b": {"anyOf": [schema, schema], "enum": [schema], "default": schema}}
    schema["default"].append(schema["default"])
    return schema


@pytest.mark.parametrize(
    "schema",
    [
        nested(5000), holds_itself(),
        {"properties": {"a": {"$ref": "#/$defs/a"}}, "$defs": {"a": {"$ref": "#/$defs/a"}}},
        {"properties": {"a": {"$ref": "#/$defs/a"}}, "$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}] * 99}}},
        {"properties": {"a": {"type": [1, "string", []]}, "b": {"enum": {"x": 1}}, 3: {}, "c": []}, "required": [[],
        1]},
        {"properties": {f"a{i}": {"properties": {f"b{j}": {} for j in range(100)}} for i in range(5000)}},
        {"properties": {"a": {"enum": list(range(100_000))}, "b": {"description": "x" * 1_000_000}}},
        {"properties": {"a": {"minimum": float("nan"), "maximum": "9", "minLength": True, "maxLength": -1.5}}},
        [], "", None, 7, {"properties": 7}, {"properties": {"a": True, "b": False}},
    ],
)  # fmt: skip
def test_hostile_schemas_make_some_form(schema: Any) -> None:
    made = Form("x.y", schema)
    made.typed = {field.name: "1" for field in made.fields}
    made.errors()
    assert len(made.fields) <= MOST


def test_json_that_is_nested_as_deep_as_the_schema_of_a_tree_allows_is_an_error() -> None:
    tree = {
        "properties": {"t": {"$ref": "#/$defs/T"}},
        "$defs": {"T": {"type": "array", "items": {"$ref": "#/$defs/T"}}},
    }
    found = {depth: form(tree, t="[" * depth + "]" * depth).errors() for depth in (3, 900, 100_000)}
    assert found[3] == {}
    assert found[900] == {"t": "is nested too deep"}
    assert found[100_000]
    assert js.types(sound(tree)["$defs"]["T"]) == {"array"}
    assert form(tree, t="[[[]]]").args() == {"t": [[[]]]}
