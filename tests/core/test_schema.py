"""Looking into JSON Schemas as pydantic writes them, and judging literals and references against them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, datetime
from decimal import Decimal
from enum import Enum, IntEnum
from typing import Annotated, Any, Literal
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from slipstream.core.schema import at, fits, problem, resolve, types


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Level(IntEnum):
    LOW = 1
    HIGH = 2


class Seat(BaseModel):
    model_config = ConfigDict(extra="forbid")
    row: int = Field(ge=1, le=3)
    heat: float = Field(default=0, gt=-1, lt=1)
    colour: Colour | None = None


class Bike(BaseModel):
    kind: Literal["bike"] = "bike"
    size: int


class Van(BaseModel):
    kind: Literal["van"] = "van"
    size: str
    seats: list[Seat] = Field(default=[], max_length=2)


class Node(BaseModel):
    name: str
    children: list[Node] = []


class Car(BaseModel):
    plate: str = Field(min_length=1, max_length=8)
    seats: list[Seat]
    spare: Seat | None = None
    tags: dict[str, int] = {}
    extra: Any = None
    other: Bike | Van | None = None
    corners: tuple[float, float] = (0, 0)
    matrix: list[list[int]] = []
    level: Level = Level.LOW
    tree: Node | None = None


CAR = Car.model_json_schema()


# -- at --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "kinds"),
    [
        ("plate", {"string"}), ("seats", {"array"}), ("seats.0", {"object"}), ("seats.17.row", {"integer"}),
        ("spare", {"object", "null"}), ("spare.heat", {"number"}), ("spare.colour", {"string", "null"}),
        ("tags", {"object"}), ("tags.any", {"integer"}), ("other.size", {"integer", "string"}),
        ("other.seats.0.row", {"integer"}), ("other.kind", {"string"}), ("corners.1", set()),
        ("matrix.0.0", {"integer"}), ("level", {"integer"}), ("extra", set()), ("extra.deeper.still", set()),
        ("extra.0", set()), ("tree.children.0.children.0.name", {"string"}),
    ],
)  # fmt: skip
def test_a_path_leads_to_what_may_be_there(path: str, kinds: set[str]) -> None:
    found = at(CAR, path.split("."))
    assert found is not None
    assert types(found) == kinds


@pytest.mark.parametrize(
    "path",
    ["wheels", "seats.row", "seats.0.weight", "plate.0", "tags.any.more", "other.wings", "spare.0", "seats.-1",
     "level.x", "seats.²"],
)  # fmt: skip
def test_a_path_that_leads_nowhere_is_told(path: str) -> None:
    assert at(CAR, path.split(".")) is None


def test_what_is_at_a_path_can_be_looked_into_again() -> None:
    seats = at(CAR, ["other"])
    assert seats is not None
    row = at(seats, ["seats", "0", "row"])
    assert row is not None
    assert row["maximum"] == 3


def test_the_empty_path_is_the_schema_itself() -> None:
    assert at(CAR, []) == CAR
    assert at({}, ["anything", "at", "all"]) == {}


def test_a_map_of_anything_has_everything() -> None:
    for schema in ({"type": "object"}, {"type": "object", "additionalProperties": {}}, {"type": ["object", "null"]}):
        assert at(schema, ["x"]) == {}
    assert at({"type": "object", "additionalProperties": False}, ["x"]) is None


def test_a_schema_that_leads_back_to_itself_ends() -> None:
    again = {"$ref": "#/$defs/A"}
    for loop in (again, {"anyOf": [again, again]}, {"anyOf": [{"anyOf": [again]}, {"type": "string"}]}):
        schema = {**again, "$defs": {"A": loop}}
        at(schema, ["x"])
        assert types(schema) <= {"string"}
        assert problem("x", schema) is None
    assert resolve(again, {"$defs": {"A": again}}) == {}


def test_a_schema_that_doubles_at_every_turn_is_judged_in_no_time() -> None:
    defs: dict[str, Any] = {f"A{i}": {"anyOf": [{"$ref": f"#/$defs/A{i + 1}"}] * 2} for i in range(60)}
    schema = {"$ref": "#/$defs/A0", "$defs": {**defs, "A60": {"type": "string"}}}
    assert types(schema) == {"string"}
    assert problem(3, schema) == ("", "should be string, not integer")


# -- fits ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "target", "may"),
    [
        (int, int, True), (int, float, True), (float, int, True), (str, int, False), (int, str, False),
        (bool, int, False), (int, int | None, True), (int | None, int, True), (None, int, False),
        (datetime, str, True), (date, datetime, True), (Colour, str, True), (Level, int, True), (Level, str, False),
        (Literal["a", 1], int, True), (Literal["a", 1], bool, False), (Any, int, True), (int, Any, True),
        (Seat, Bike, True), (Seat, list[Seat], False), (list[int], list[str], True), (Seat, dict[str, Any], True),
        (int | str, float | None, True), (int | str, list[int] | None, False), (UUID, str, True), (bytes, str, True),
    ],
)  # fmt: skip
def test_a_reference_is_refused_only_when_its_type_never_fits(source: Any, target: Any, may: bool) -> None:
    assert fits(TypeAdapter(source).json_schema(), TypeAdapter(target).json_schema()) is may


def test_a_field_that_differs_between_the_members_of_a_union_fits_as_either() -> None:
    size = at(CAR, ["other", "size"])
    assert size is not None
    assert fits(size, {"type": "string"})
    assert fits(size, {"type": "integer"})
    assert not fits(size, {"type": "array"})


# -- problem ---------------------------------------------------------------------------------------------------------

SEAT = {"row": 1}


@pytest.mark.parametrize(
    "value",
    [
        {"plate": "a", "seats": []},
        {"plate": "a", "seats": [{"row": 3, "heat": 0.5, "colour": "red"}, {"row": 1, "colour": None}]},
        {"plate": "a", "seats": {"$ref": "other.seats"}},
        {"plate": {"$ref": "inputs.plate"}, "seats": [{"$ref": "item"}, {"row": {"$ref": "x.row"}}]},
        {"$ref": "make.car"},
        {"plate": "a", "seats": [], "other": {"kind": "van", "size": "l"}},
        {"plate": "a", "seats": [], "other": {"kind": "bike", "size": 3}},
        {"plate": "a", "seats": [], "level": 2, "extra": {"deep": [1, {"er": None}]}, "matrix": [[1], []]},
        {"plate": "a", "seats": [{"row": 2.0}]},
        {"plate": "a", "seats": (SEAT,), "unknown": 1},
    ],
)
def test_a_literal_that_fits_has_no_problem(value: Any) -> None:
    assert problem(value, CAR) is None


@pytest.mark.parametrize(
    ("value", "field", "says"),
    [
        ({"seats": []}, "plate", "is missing"),
        ({"plate": 3, "seats": []}, "plate", "should be string, not integer"),
        ({"plate": "", "seats": []}, "plate", "has 0"),
        ({"plate": "x" * 9, "seats": []}, "plate", "has 9"),
        ({"plate": "a", "seats": "none"}, "seats", "should be array, not string"),
        ({"plate": "a", "seats": [SEAT, {"row": 0}]}, "seats.1.row", "at least 1"),
        ({"plate": "a", "seats": [{"row": 4}]}, "seats.0.row", "at most 3"),
        ({"plate": "a", "seats": [{"row": 1, "heat": -1}]}, "seats.0.heat", "more than -1"),
        ({"plate": "a", "seats": [{"row": 1, "heat": 1.0}]}, "seats.0.heat", "less than 1"),
        ({"plate": "a", "seats": [{"row": True}]}, "seats.0.row", "should be integer, not boolean"),
        ({"plate": "a", "seats": [{"row": 1.5}]}, "seats.0.row", "should be integer, not number"),
        ({"plate": "a", "seats": [{"row": 1, "weight": 3}]}, "seats.0.weight", "unknown; there are row, heat, colour"),
        ({"plate": "a", "seats": [{"row": 1, "colour": "pink"}]}, "seats.0.colour", "one of red, blue"),
        ({"plate": "a", "seats": [{"row": None}]}, "seats.0.row", "should be integer, not null"),
        ({"plate": "a", "seats": [], "level": 3}, "level", "one of 1, 2"),
        ({"plate": "a", "seats": [], "matrix": [[1, "x"]]}, "matrix.0.1", "should be integer"),
        ({"plate": "a", "seats": [], "corners": [1.0]}, "corners", "has 1"),
        ({"plate": "a", "seats": [], "other": {"size": [1]}}, "other.size", "should be"),
        ([], "", "should be object, not array"),
    ],
)
def test_a_literal_that_does_not_fit_is_told_by_field_and_reason(value: Any, field: str, says: str) -> None:
    wrong = problem(value, CAR)
    assert wrong is not None
    assert wrong[0] == field
    assert says in wrong[1]


def test_an_unknown_argument_of_a_skill_without_any_is_told() -> None:
    schema = {"type": "object", "properties": {}, "additionalProperties": False}
    assert problem({"x": 1}, schema) == ("x", "is unknown; there are no arguments")


def test_a_constant_is_told() -> None:
    assert problem("van", TypeAdapter(Literal["bike"]).json_schema()) == ("", "should be bike")


# -- and pydantic itself ---------------------------------------------------------------------------------------------

text = st.text(max_size=4)
seats = st.builds(Seat, row=st.integers(1, 3), heat=st.floats(-0.9, 0.9), colour=st.sampled_from([None, *Colour]))
trees = st.recursive(st.builds(Node, name=text), lambda inner: st.builds(Node, name=text, children=st.lists(inner)))
cars = st.builds(
    Car, plate=st.text(min_size=1, max_size=8), seats=st.lists(seats, max_size=3), spare=st.none() | seats,
    tags=st.dictionaries(text, st.integers()), extra=st.none() | st.integers() | st.lists(text),
    other=st.none() | st.builds(Bike, size=st.integers())
    | st.builds(Van, size=text, seats=st.lists(seats, max_size=2)),
    corners=st.tuples(*[st.floats(allow_nan=False, allow_infinity=False)] * 2),
    matrix=st.lists(st.lists(st.integers())), level=st.sampled_from(Level), tree=st.none() | trees,
)  # fmt: skip


class Odds(BaseModel):
    when: datetime | None = None
    day: date = date(2026, 1, 1)
    id: UUID | int = 0
    price: Decimal = Decimal(1)
    both: Annotated[int, Field(gt=0)] | Annotated[str, Field(min_length=2)] = 1
    which: Literal["a", 1, None] = None
    some: set[int] = set()
    tagged: Annotated[Bike | Van, Field(discriminator="kind")] = Bike(size=1)
    whole: int = Field(default=0, multiple_of=1)


odds = st.builds(
    Odds, when=st.none() | st.datetimes(), day=st.dates(), id=st.uuids() | st.integers(),
    price=st.decimals(allow_nan=False, allow_infinity=False), both=st.integers(1) | st.text(min_size=2),
    which=st.sampled_from(["a", 1, None]), some=st.sets(st.integers()),
    tagged=st.builds(Bike, size=st.integers()) | st.builds(Van, size=text), whole=st.integers(),
)  # fmt: skip


@given(cars | odds)
def test_what_a_model_gives_is_never_a_problem_for_its_schemas(value: BaseModel) -> None:
    plain = value.model_dump(mode="json")
    assert problem(plain, value.model_json_schema()) is None
    assert problem(plain, value.model_json_schema(mode="serialization")) is None


def _mutations(plain: Any, draw: Callable[[st.SearchStrategy[Any]], Any]) -> Any:
    """The same value with something in it replaced, dropped or added."""
    if isinstance(plain, dict) and plain and draw(st.booleans()):
        name = draw(st.sampled_from(sorted(plain)))
        if draw(st.booleans()):
            return {**plain, name: _mutations(plain[name], draw)}
        return {key: inner for key, inner in plain.items() if key != name}
    if isinstance(plain, list) and plain and draw(st.booleans()):
        i = draw(st.integers(0, len(plain) - 1))
        return [*plain[:i], _mutations(plain[i], draw), *plain[i + 1 :]]
    return draw(
        st.none() | st.booleans() | st.integers(-1, 4) | st.sampled_from([0.5, 1.0, "red", "van", [], {}, "xxxxxxxxx"])
    )


@given(cars | odds, st.data())
def test_what_pydantic_takes_strictly_as_json_is_never_a_problem(value: BaseModel, data: st.DataObject) -> None:
    kind = type(value)
    mutated = _mutations(value.model_dump(mode="json"), data.draw)
    try:
        kind.model_validate_json(TypeAdapter(Any).dump_json(mutated), strict=True)
    except ValidationError:
        return
    assert problem(mutated, kind.model_json_schema()) is None


@given(cars, st.data())
def test_a_type_missing_field_or_bound_that_is_broken_is_always_a_problem(value: Car, data: st.DataObject) -> None:
    plain = value.model_dump(mode="json")
    breaks = data.draw(st.sampled_from([
        lambda: plain.pop("plate"), lambda: plain.update(plate=""), lambda: plain.update(seats=None),
        lambda: plain["seats"].append({"row": 9}), lambda: plain["seats"].append({"row": 1, "more": 1}),
        lambda: plain.update(level="low"), lambda: plain.update(other={"kind": "ship", "size": 1}),
    ]))  # fmt: skip
    breaks()
    with pytest.raises(ValidationError):
        Car.model_validate(plain)
    assert problem(plain, CAR) is not None
