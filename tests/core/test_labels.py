"""Labels: where schemas have them, what others see of values, and what handles give back."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import Annotated, Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, TypeAdapter

from slipstream.core.errors import SkillFailed, UsageError
from slipstream.core.label_graph import SCHEMA_LIMIT
from slipstream.core.labels import (
    HANDLES_BYTES,
    HANDLES_LIMIT,
    Handles,
    Label,
    conceal,
    label_at,
    labels_of,
    redact,
    through,
)
from slipstream.skills.packs.labels import DeviceOnly, Personal, Secret

PUBLIC, PERSONAL, DEVICE, SECRET = Label
TEXT = {"type": "string"}


def said(label: str, schema: dict[str, Any] | None = None) -> dict[str, Any]:
    return {**(TEXT if schema is None else schema), "privacy": label}


def an_object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties}


class Address(BaseModel):
    town: Personal[str]
    country: str


class Person(BaseModel):
    name: Personal[str]
    number: DeviceOnly[str] | None = None
    pin: Secret[int] = 0
    homes: list[Address] = []
    work: Annotated[DeviceOnly[Address], "the one that pays"] | None = None
    marks: dict[str, DeviceOnly[str]] = {}
    times: int = 0


class Contact(Person):
    known_by: list[Contact] = []


CONTACT = TypeAdapter(Contact).json_schema()
ANNA = Contact(
    name="Anna", number="+49", pin=7, homes=[Address(town="Bonn", country="DE")], times=3, marks={"a": "x"},
    work=Address(town="Ulm", country="DE"), known_by=[Contact(name="Bob", times=1)],
).model_dump()  # fmt: skip


# -- schemas -----------------------------------------------------------------------------------------------------------


def test_labels_are_ordered_by_strictness() -> None:
    assert PUBLIC < PERSONAL < DEVICE < SECRET
    assert max([DEVICE, PUBLIC, PERSONAL]) is DEVICE
    assert SECRET >= SECRET > PERSONAL <= DEVICE


@pytest.mark.parametrize(
    ("schema", "path", "label"),
    [
        (said("personal"), "", PERSONAL),
        (said("device"), "", DEVICE),
        (said("public"), "", PUBLIC),
        (TEXT, "", PUBLIC),
        (said("top-secret"), "", SECRET),
        ({"privacy": None}, "", SECRET),
        ({"privacy": ["device"]}, "", SECRET),
        (an_object(privacy=TEXT), "privacy", PUBLIC),
        (an_object(a=said("device"), b=TEXT), "", DEVICE),
        (an_object(a=said("device"), b=TEXT), "a", DEVICE),
        (an_object(a=said("device"), b=TEXT), "b", PUBLIC),
        (an_object(a=said("device"), b=TEXT), "c.d", PUBLIC),
        (said("personal", an_object(a=said("public"), b=said("secret"))), "a", PERSONAL),
        (said("personal", an_object(a=said("public"), b=said("secret"))), "b", SECRET),
        (said("personal", an_object(a=TEXT)), "a.b.c", PERSONAL),
        ({"type": "array", "items": said("device")}, "3", DEVICE),
        ({"type": "array", "items": an_object(a=said("device"), b=TEXT)}, "0.b", PUBLIC),
        ({"type": "array", "prefixItems": [TEXT, said("device")]}, "0", DEVICE),
        ({"type": "array", "prefixItems": [TEXT], "items": said("device")}, "1", DEVICE),
        ({"type": "object", "additionalProperties": said("device"), "properties": {"a": TEXT}}, "a", PUBLIC),
        ({"type": "object", "additionalProperties": said("device"), "properties": {"a": TEXT}}, "b", DEVICE),
        ({"type": "object", "patternProperties": {"^x": said("device")}, "properties": {"a": TEXT}}, "a", DEVICE),
        ({"type": "object", "propertyNames": said("personal"), "additionalProperties": TEXT}, "", PERSONAL),
        ({"anyOf": [TEXT, said("personal"), said("device")]}, "", DEVICE),
        ({"oneOf": [an_object(a=TEXT), an_object(a=said("device"))]}, "a", DEVICE),
        ({"oneOf": [an_object(a=TEXT), {"type": "object", "additionalProperties": said("device")}]}, "a", DEVICE),
        ({"allOf": [{"$ref": "#/$defs/A"}], "$defs": {"A": said("device")}}, "", DEVICE),
        ({"$ref": "#/$defs/A", "privacy": "personal", "$defs": {"A": TEXT}}, "", PERSONAL),
        ({"$ref": "#/$defs/A", "privacy": "personal", "$defs": {"A": said("device")}}, "", DEVICE),
        ({"$ref": "#/$defs/Gone", "$defs": {}}, "", PUBLIC),
        (an_object(next={"$ref": "#"}, a=said("device")), "next.next.next.a", DEVICE),
        (CONTACT, "", SECRET),
        (CONTACT, "number", DEVICE),
        (CONTACT, "homes", PERSONAL),
        (CONTACT, "homes.0.country", PUBLIC),
        (CONTACT, "work.country", DEVICE),
        (CONTACT, "marks.any", DEVICE),
        (CONTACT, "known_by.0.known_by.1.number", DEVICE),
        (CONTACT, "known_by.0.times", PUBLIC),
    ],
)  # fmt: skip
def test_the_strictest_label_at_or_below_a_path_counts(schema: Any, path: str, label: Label) -> None:
    assert label_at(schema, path.split(".") if path else []) is label


@pytest.mark.parametrize("schema", [
    {}, TEXT, None, True, 3, [], an_object(a=TEXT), {"$ref": "#"}, {"$ref": "#/$defs/A", "$defs": {"A": {"$ref": "#"}}},
    an_object(a=said("public")), {"anyOf": [{"$ref": "#"}, TEXT], "items": {"$ref": "#"}},
])  # fmt: skip
def test_a_schema_without_labels_costs_one_truth_test(schema: Any) -> None:
    assert labels_of(schema) is None


def deep(levels: int) -> Any:
    schema: Any = said("device")
    for _ in range(levels):
        schema = an_object(a=schema)
    return schema


def test_a_schema_as_deep_as_a_well_is_still_read() -> None:
    assert label_at(deep(1100), ["a"] * 1099) is DEVICE


@pytest.mark.parametrize("schema", [
    deep(SCHEMA_LIMIT),
    {"anyOf": [{}] * (SCHEMA_LIMIT + 1)},
    an_object(**{f"n{i}": {"anyOf": [{"type": "null"} for _ in range(200)]} for i in range(200)}),
    {"anyOf": [an_object(**{f"n{i}": TEXT}) for i in range(2000)]},
    {**an_object(**{f"n{i}": True for i in range(2000)}), "patternProperties": {f"p{i}": True for i in range(2000)}},
    {"anyOf": [{"items": {"anyOf": [{"$ref": f"#/$defs/{j}"} for j in range(24) if j != i]}} for i in range(24)],
     "$defs": {str(j): {"items": {"anyOf": [{"$ref": f"#/$defs/{(j * k + 1) % 24}"} for k in range(1, 24)]},
                        "properties": {f"{j}_{k}": {"$ref": f"#/$defs/{(j + k) % 24}"} for k in range(24)}}
               for j in range(24)}},
])  # fmt: skip
def test_a_schema_that_takes_too_long_to_look_at_is_secret_as_a_whole(schema: Any) -> None:
    labels = labels_of(schema)
    assert labels is not None
    assert labels.label is SECRET
    assert conceal([1, 2], labels, lambda label: False, lambda part: "x") == "x"


def test_a_schema_that_holds_itself_is_read_once() -> None:
    schema = an_object(a=said("device"))
    schema["properties"]["more"] = schema
    schema["items"] = schema
    assert label_at(schema, ["more", "0", "more", "a"]) is DEVICE


plain = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8,
)
keywords = st.sampled_from([
    "$ref", "$defs", "anyOf", "oneOf", "allOf", "items", "prefixItems", "properties", "additionalProperties",
    "patternProperties", "propertyNames", "privacy", "a", "b",
])  # fmt: skip
odd_schemas = st.recursive(
    st.none() | st.booleans() | st.integers() | st.binary(max_size=2)
    | st.sampled_from(["#", "#/$defs/a", "#/$defs/b", "#/$defs/", "device", "personal", "secret", "?"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keywords, inner, max_size=5),
    max_leaves=40,
)  # fmt: skip


@given(odd_schemas, plain, st.lists(st.sampled_from(["a", "b", "0"]), max_size=4))
def test_whatever_a_schema_is_it_is_read_and_worked_with(schema: Any, value: Any, path: list[str]) -> None:
    labels = labels_of(schema)
    handles = Handles("here")
    hidden = conceal(value, labels, lambda label: False, handles.mint)
    assert conceal(hidden, labels, lambda label: False, handles.mint) == hidden
    assert handles.resolve(hidden, labels) == value
    assert label_at(schema, path) <= label_at(schema, path[:1]) <= label_at(schema, [])
    if labels is not None:
        labels.keeps(labels)
        assert redact(value, labels, SECRET) == redact(redact(value, labels, SECRET), labels, SECRET)


# -- values ------------------------------------------------------------------------------------------------------------


class Made:
    """A schema, a value of it with canaries wherever something is labelled, and that value as it must be concealed."""

    def __init__(self, draw: st.DrawFn) -> None:
        self._draw, self._names = draw, count()
        self._defs: dict[str, Any] = {}
        schema, self.value, self.concealed = self._make(4, False)
        self.schema = {**schema, "$defs": self._defs}

    def _make(self, depth: int, covered: bool) -> tuple[Any, Any, Any]:
        draw = self._draw
        label = draw(st.sampled_from([None, None, None, "personal", "device", "secret"]))
        inside = covered or label is not None
        kind = draw(st.sampled_from(["text", "bytes", "object", "map", "list", "maybe", "ref"] if depth else ["text"]))
        schema: dict[str, Any] = {}
        value: Any
        concealed: Any
        if kind == "text":
            schema = dict(TEXT)
            value = concealed = f"{'canary' if inside else 'plain'}-{draw(st.integers(0, 99))}"
        elif kind == "bytes":
            value = concealed = b"canary" if inside else b"plain"
        elif kind == "object":
            parts = {f"n{i}": self._make(depth - 1, inside) for i in range(draw(st.integers(0, 3)))}
            schema = an_object(**{n: p[0] for n, p in parts.items()})
            value, concealed = ({n: p[i] for n, p in parts.items()} for i in (1, 2))
        elif kind in ("map", "list"):
            inner, part, hidden = self._make(depth - 1, inside)
            n = draw(st.integers(0, 2))
            if kind == "map":
                schema = {"type": "object", "additionalProperties": inner}
                value, concealed = ({f"k{i}": p for i in range(n)} for p in (part, hidden))
            else:
                schema, value, concealed = {"type": "array", "items": inner}, [part] * n, [hidden] * n
        else:
            inner, value, concealed = self._make(depth - 1, inside)
            schema = {"anyOf": [inner, {"type": "null"}]}
            if kind == "ref":
                name = f"D{next(self._names)}"
                self._defs[name], schema = inner, {"$ref": f"#/$defs/{name}"}
        if label is not None:
            schema, concealed = said(label, schema), "hidden"
        return schema, value, concealed


@st.composite
def made(draw: st.DrawFn) -> Made:
    return Made(draw)


@given(made())
def test_no_labelled_part_is_left_in_what_is_concealed_and_every_other_part_is(case: Made) -> None:
    labels = labels_of(case.schema)
    before = msgpack.packb(case.value)
    concealed = conceal(case.value, labels, lambda label: False, lambda part: "hidden")
    assert concealed == case.concealed
    assert b"canary" not in msgpack.packb(concealed)
    assert msgpack.packb(case.value) == before
    assert conceal(case.value, labels, lambda label: True, lambda part: "hidden") is case.value


@given(made())
def test_what_was_concealed_comes_back_whole_to_its_own_device_only(case: Made) -> None:
    labels, here, there = labels_of(case.schema), Handles("here"), Handles("there")
    concealed = conceal(case.value, labels, lambda label: False, here.mint)
    assert b"canary" not in msgpack.packb(concealed)
    assert conceal(concealed, labels, lambda label: False, here.mint) == concealed
    assert here.resolve(concealed, labels) == case.value
    assert there.resolve(concealed, labels) is concealed


@given(made(), st.sampled_from([PERSONAL, DEVICE, SECRET]))
def test_what_is_redacted_is_what_may_not_be_seen_from_that_label_on(case: Made, least: Label) -> None:
    labels = labels_of(case.schema)
    redacted = redact(case.value, labels, least)
    hidden = conceal(case.value, labels, lambda label: label < least, lambda part: "hidden")
    blind = str(redacted)
    for label in Label:
        blind = blind.replace(f"‹{label}›", "hidden")
    assert blind == str(hidden)


def test_a_label_shows_what_is_below_it_only_to_who_may_see_that_too() -> None:
    seen: list[Label] = []
    got = conceal(ANNA, labels_of(CONTACT), lambda label: seen.append(label) or label is PERSONAL, lambda part: "…")  # type: ignore[func-returns-value]
    assert got == {
        "name": "Anna", "number": "…", "pin": "…", "homes": [{"town": "Bonn", "country": "DE"}], "work": "…",
        "marks": {"a": "…"}, "known_by": [{**ANNA["known_by"][0], "number": "…", "pin": "…", "work": "…"}], "times": 3,
    }  # fmt: skip
    assert PUBLIC not in seen


def test_traces_say_what_kind_of_thing_they_leave_out() -> None:
    labels = labels_of(CONTACT)
    assert redact(ANNA, labels) == {**ANNA, "pin": "‹secret›", "known_by": [{**ANNA["known_by"][0], "pin": "‹secret›"}]}
    strict = redact(ANNA, labels, PERSONAL)
    assert (strict["name"], strict["number"], strict["times"]) == ("‹personal›", "‹device›", 3)


def test_of_values_that_may_not_be_seen_even_their_absence_is_concealed() -> None:
    nobody = conceal({"name": "x", "number": None}, labels_of(CONTACT), lambda label: False, lambda part: "…")
    assert nobody["number"] == "…"


# -- handles -----------------------------------------------------------------------------------------------------------


def numbered() -> Iterator[bytes]:
    return (n.to_bytes(16, "big") for n in count())


KEPT = labels_of(an_object(to=said("personal"), all={"type": "array", "items": said("device")}))


def test_a_handle_is_an_opaque_text_that_names_its_device() -> None:
    handle = Handles("abc", lambda n: b"\xff" * n).mint({"number": "+49"})
    assert handle == f"slip-handle:abc:{'_' * 21}w"


def test_handles_are_the_same_for_the_same_value_of_the_same_invocation_only() -> None:
    handles = Handles("here")
    assert handles.mint("+49", "a") == handles.mint("+49", "a")
    assert len({handles.mint("+49", "a"), handles.mint("+49", "b"), handles.mint("+49"), handles.mint("+49")}) == 4
    assert len({handles.mint(value, "a") for value in (1, True, 1.0, "1", b"1")}) == 5


def test_a_text_that_looks_like_a_handle_is_concealed_like_any_other() -> None:
    handles = Handles("here")
    for text in ("slip-handle:here:" + "A" * 22, "slip-handle:+49170123456:" + "A" * 22):
        handle = handles.mint(text)
        assert handle != text
        assert handles.mint(handle) == handle
        assert handles.resolve({"to": handle}, KEPT) == {"to": text}


def test_handles_are_resolved_wherever_they_stand_and_texts_that_only_look_like_them_are_not() -> None:
    handles = Handles("here")
    handle, other = handles.mint({"n": [1]}), Handles("there").mint("x")
    args = {"to": handle, "all": [handle, other, "slip-handle:here:short", f"to {handle}", 3, None], "plain": ["x"]}
    assert handles.resolve(args, KEPT) == {**args, "to": {"n": [1]}, "all": [{"n": [1]}, *args["all"][1:]]}
    assert args["to"] == handle
    untouched = {"to": "Anna", "all": [], "plain": {"a": ["b"]}}
    assert handles.resolve(untouched, KEPT) is untouched


def test_what_a_handle_stands_for_cannot_be_changed_by_who_got_it() -> None:
    handles, value = Handles("here"), {"n": [1]}
    handle = handles.mint(value)
    value["n"].append(2)
    handles.resolve({"to": handle}, KEPT)["to"]["n"].append(3)
    assert handles.resolve({"to": handle}, KEPT) == {"to": {"n": [1]}}


@pytest.mark.parametrize("args", [{"plain": "H"}, {"deep": [{"er": "H"}]}, {"more": {"to": "H"}}])
def test_a_handle_goes_into_nothing_that_does_not_promise_to_keep_it(args: dict[str, Any]) -> None:
    handles = Handles("here")
    handle = handles.mint("+49")
    args = msgpack.unpackb(msgpack.packb(args).replace(b"\xa1H", msgpack.packb(handle)))
    for labels in (KEPT, None):
        with pytest.raises(UsageError, match="cannot go there") as refused:
            handles.resolve(args, labels)
        assert "+49" not in str(refused.value.to_wire())
    assert refused.value.where["field"] in ("plain", "deep.0.er", "more.to")


def test_after_a_restart_a_handle_is_refused_with_what_to_do() -> None:
    handle = Handles("here").mint("+49")
    with pytest.raises(UsageError, match="restarted since") as refused:
        Handles("here").resolve({"all": ["x", handle]}, KEPT)
    assert refused.value.where["field"] == "all.1"
    assert refused.value.hint == "run the step again that gave it"


def test_only_so_many_handles_are_kept_and_those_in_use_longest() -> None:
    numbers = numbered()
    handles = Handles("here", lambda n: next(numbers))
    first, second = handles.mint("first", "k"), handles.mint("second", "k")
    for n in range(HANDLES_LIMIT - 1):
        handles.mint(n, "k")
        assert handles.mint("first", "k") == first
    assert handles.resolve({"to": first}, KEPT) == {"to": "first"}
    with pytest.raises(UsageError, match="restarted since"):
        handles.resolve({"to": second}, KEPT)
    assert handles.mint("second", "k") != second


def test_only_so_many_bytes_are_kept_but_always_the_last_value() -> None:
    handles = Handles("here")
    small, large = handles.mint("small"), handles.mint(b"x" * HANDLES_BYTES)
    assert handles.resolve({"to": large}, KEPT) == {"to": b"x" * HANDLES_BYTES}
    with pytest.raises(UsageError):
        handles.resolve({"to": small}, KEPT)


def test_what_is_no_plain_value_is_refused_without_showing_it() -> None:
    for value in (2**70, {1, 2}, "secret\ud800"):
        with pytest.raises(SkillFailed) as failed:
            Handles("here").mint(value)
        assert "secret" not in str(failed.value.to_wire())


def test_what_a_skill_made_of_a_kept_value_is_kept_as_strictly() -> None:
    echo, handles = labels_of(an_object(text=said("personal"), length={"type": "integer"})), Handles("phone")
    result = {"text": "+49", "length": 3}
    assert conceal(result, echo, lambda label: label <= PERSONAL, handles.mint) is result
    kept = conceal(result, echo, through(lambda label: label <= PERSONAL), handles.mint)
    assert kept["text"].startswith("slip-handle:")
    assert kept["length"] == 3


class Text(str):
    __slots__ = ()


DEEP: Any = "slip-handle:"
for _ in range(100):
    DEEP = [DEEP]
MAY_HOLD = [
    ("slip-handle:", True),
    ({"a": [{"b": ["x", "slip-handle:here:…"]}]}, True),
    ({"slip-handle:": 1}, False),
    (["slip-handle", " slip-handle:", "", b"slip-handle:", 3, 2.5, None, True], False),
    (Text("other"), True),
    (("x",), True),
    ({"a": object()}, True),
    (DEEP, True),
    ({"ä": "š", "b": {}}, False),
]


@pytest.mark.parametrize(("value", "may"), MAY_HOLD)
def test_only_a_plain_value_without_any_handle_is_let_pass_unread(value: Any, may: bool) -> None:
    assert Handles.any_in(value) is may
