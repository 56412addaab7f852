"""A form for a skill's arguments: what it asks for, what it makes of what is typed."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipstream.core.errors import UsageError
from slipstream.tui.form import Form

SCHEMA = {
    "type": "object",
    "properties": {
        "soc": {"anyOf": [{"type": "number"}, {"type": "null"}], "default": None},
        "to": {"type": "string", "description": "a town"},
        "mode": {"enum": ["fast", "short"], "type": "string", "default": "fast"},
        "stops": {"type": "array", "items": {"type": "string"}},
    },
    "required": ["to"],
}  # fmt: skip
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=6)
    | st.sampled_from(["#/properties/a", "object", "$ref"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["type", "properties", "anyOf", "$ref", "enum", "default", "items", "a"]), inner
        )
    ),
    max_leaves=10,
)


def test_needed_fields_come_first_and_each_says_what_it_may_be() -> None:
    form = Form("nav.route", SCHEMA)
    assert [(field.name, field.hint) for field in form.fields] == [
        ("to", "string, needed"), ("soc", "number, else null"), ("mode", "fast | short, else fast"),
        ("stops", "array (JSON), may be left out"),
    ]  # fmt: skip


def test_what_is_typed_is_read_as_the_schema_wants_and_empty_fields_are_left_out() -> None:
    form = Form("nav.route", SCHEMA)
    form.typed = {"to": "007", "soc": "80", "stops": "Ulm, Bonn", "mode": "  "}
    assert form.args() == {"to": "007", "soc": 80, "stops": ["Ulm", "Bonn"]}


@pytest.mark.parametrize(("typed", "field"), [({}, "to"), ({"to": "x", "soc": "much"}, "soc")])
def test_what_will_not_do_names_its_field(typed: dict[str, str], field: str) -> None:
    form = Form("nav.route", SCHEMA)
    form.typed = typed
    with pytest.raises(UsageError) as error:
        form.args()
    assert error.value.where["field"] == field


@given(VALUES | st.fixed_dictionaries({"properties": st.dictionaries(st.text(max_size=3), VALUES, max_size=4)}))
def test_no_schema_brings_it_down(schema: Any) -> None:
    form = Form("x.y", schema)
    form.typed = {field.name: "1" for field in form.fields}
    try:
        form.args()
    except UsageError as error:
        assert error.what
