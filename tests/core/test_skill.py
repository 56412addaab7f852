"""What `@skill` makes of a function: the spec that others see, and both validators of its own device."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Mapping
from datetime import UTC, date, datetime, timedelta
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal
from uuid import UUID

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from slipstream.core.errors import SkillFailed, UsageError
from slipstream.core.skill import (
    Catalogue,
    Consent,
    Context,
    Cost,
    Effect,
    Outcome,
    Pack,
    SkillSpec,
    Submitted,
    nearest,
    skill,
    spec_of,
)


class Unit(Enum):
    CELSIUS = "c"
    KELVIN = "k"


class Place(BaseModel):
    lat: float = Field(ge=-90, le=90)
    lon: float


class Trip(BaseModel):
    to: Place
    via: list[Place] = []
    label: str | None = None


class Photo(BaseModel):
    data: bytes
    taken: datetime
    unit: Unit = Unit.KELVIN
    thumbs: dict[int, bytes] = {}


class Mail(BaseModel):
    sender: str = Field(alias="from")


class Tree(BaseModel):
    name: str
    children: list[Tree] = []


def make(fn: Callable[..., Any], name: str = "test.it", effect: Effect = Effect.READ, **more: Any) -> SkillSpec:
    """The spec of a function as a skill."""
    return skill(name, effect=effect, **more)(fn).spec


async def route(
    ctx: Context,
    to: Place,
    when: datetime | None = None,
    mode: Literal["fast", "short"] = "fast",
    limit: Annotated[int, Field(ge=1, le=9)] = 3,
    unit: Unit = Unit.CELSIUS,
    *,
    avoid: tuple[str, ...] = (),
) -> Trip:
    """Find a way.

    It goes by roads.
    """
    return Trip(to=to)


def test_the_decorated_function_is_the_function_itself() -> None:
    decorated = skill("nav.route", effect=Effect.READ)(route)
    assert decorated is route  # type: ignore[comparison-overlap]
    trip = anyio.run(lambda: decorated(Context(), Place(lat=1, lon=2)), backend="trio")
    assert trip.to.lat == 1
    assert spec_of(decorated).name == "nav.route"


def test_name_docstring_signature_and_hints_become_the_spec() -> None:
    wire = make(
        route, "nav.route", title="Route", needs=["net"], phrases=["go to {to}"], lock="map", consent=Consent.ALWAYS,
        cost=Cost(latency_ms=80, energy_mwh=2), resumable=True,
    ).to_wire()  # fmt: skip
    assert wire["name"] == "nav.route"
    assert wire["title"] == "Route"
    assert wire["description"] == "Find a way.\n\nIt goes by roads."
    assert wire["needs"] == ["net"]
    assert wire["phrases"] == ["go to {to}"]
    assert wire["lock"] == "map"
    assert wire["consent"] == "always"
    assert wire["cost"] == {"latency_ms": 80, "energy_mwh": 2}
    assert wire["resumable"]
    assert not wire["undoable"]
    assert not wire["streaming"]
    schema = wire["inputSchema"]
    assert schema["type"] == "object"
    assert schema["additionalProperties"] is False
    assert schema["required"] == ["to"]
    assert list(schema["properties"]) == ["to", "when", "mode", "limit", "unit", "avoid"]
    assert schema["properties"]["to"] == {"$ref": "#/$defs/Place"}
    assert schema["$defs"]["Place"]["properties"]["lat"]["maximum"] == 90
    defaults = {name: p["default"] for name, p in schema["properties"].items() if "default" in p}
    assert defaults == {"when": None, "mode": "fast", "limit": 3, "unit": "c", "avoid": []}
    assert wire["outputSchema"]["type"] == "object"
    assert set(wire["outputSchema"]["properties"]) == {"to", "via", "label"}
    json.dumps(wire)


@pytest.mark.parametrize(
    ("effect", "read_only", "destructive", "idempotent", "open_world"),
    [
        (Effect.READ, True, False, True, False),
        (Effect.IDEMPOTENT, False, False, True, True),
        (Effect.ONCE, False, True, False, True),
        (Effect.PHYSICAL, False, True, False, True),
    ],
)
def test_the_effect_gives_all_four_hints(
    effect: Effect, read_only: bool, destructive: bool, idempotent: bool, open_world: bool
) -> None:
    assert make(route, effect=effect).annotations == {
        "readOnlyHint": read_only,
        "destructiveHint": destructive,
        "idempotentHint": idempotent,
        "openWorldHint": open_world,
    }
    assert effect.repeatable is idempotent


# -- declarations that will not do ---------------------------------------------------------------------------------


async def good(ctx: Context) -> int:
    """Do it."""
    return 1


async def silent(ctx: Context) -> int:
    return 1


def plain(ctx: Context) -> int:
    """Do it."""
    return 1


async def nothing() -> int:
    """Do it."""
    return 1


async def no_context(celsius: float) -> int:
    """Do it."""
    return 1


async def untyped(ctx: Context, what) -> int:  # type: ignore[no-untyped-def]
    """Do it."""
    return 1


async def many(ctx: Context, *what: int) -> int:
    """Do it."""
    return 1


async def keywords(ctx: Context, **what: int) -> int:
    """Do it."""
    return 1


async def positional(ctx: Context, what: int, /) -> int:
    """Do it."""
    return 1


async def no_return(ctx: Context):  # type: ignore[no-untyped-def]
    """Do it."""
    return 1


async def stream_of_what(ctx: Context):  # type: ignore[no-untyped-def]
    """Do it."""
    yield 1


async def bare_stream(ctx: Context) -> AsyncIterator:  # type: ignore[type-arg]
    """Do it."""
    yield 1


async def unknown_hint(ctx: Context, what: Missing) -> int:  # type: ignore[name-defined]  # noqa: F821
    """Do it."""
    return 1


async def no_schema(ctx: Context, what: anyio.Event) -> int:
    """Do it."""
    return 1


async def wrong_default(ctx: Context, what: int = "three") -> int:  # type: ignore[assignment]
    """Do it."""
    return 1


@pytest.mark.parametrize(
    ("fn", "says"),
    [
        (silent, "docstring"), (plain, "not async"), (nothing, "no context"), (no_context, "no context"),
        (untyped, "what"), (many, "what"), (keywords, "what"), (positional, "what"), (no_return, "returns"),
        (stream_of_what, "returns"), (bare_stream, "yields"), (unknown_hint, "hint"), (no_schema, "schema"),
        (wrong_default, "default"),
    ],
)  # fmt: skip
def test_a_bad_declaration_is_refused_with_the_skills_name_and_the_next_step(fn: Callable[..., Any], says: str) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        make(fn, "test.bad")
    assert "test.bad" in caught.value.what
    assert caught.value.hint
    assert caught.value.where == {"skill": "test.bad"}


@pytest.mark.parametrize(
    "name", ["", "route", "Nav.route", "nav.", ".route", "nav route.x", "slip.undo", "nav.1st", "a.b\n"]
)
def test_a_bad_name_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="no skill name") as caught:
        make(good, name)
    assert "nav.route" in caught.value.hint


def test_a_function_that_is_no_skill_has_no_spec() -> None:
    with pytest.raises(UsageError, match="'silent' is no skill"):
        spec_of(silent)


# -- what goes in --------------------------------------------------------------------------------------------------


def test_checked_arguments_are_what_the_function_is_called_with() -> None:
    spec = make(route)
    args = spec.check({"to": {"lat": 1, "lon": 2}, "when": "2026-01-02T03:04:05Z", "unit": "k", "avoid": ["toll"]})
    assert args == {
        "to": Place(lat=1, lon=2),
        "when": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        "unit": Unit.KELVIN,
        "avoid": ("toll",),
    }
    assert spec.check({"to": Place(lat=1, lon=2)}) == {"to": Place(lat=1, lon=2)}


@pytest.mark.parametrize(
    ("args", "field"),
    [
        ({}, "to"),
        ({"to": {"lat": 1}}, "to.lon"),
        ({"to": {"lat": 91, "lon": 2}}, "to.lat"),
        ({"to": {"lat": 1, "lon": 2}, "limit": 10}, "limit"),
        ({"to": {"lat": 1, "lon": 2}, "mode": "scenic"}, "mode"),
        ({"to": {"lat": 1, "lon": 2}, "speed": 10}, "speed"),
        ({"to": {"lat": 1, "lon": 2}, "avoid": ["a", 3]}, "avoid.1"),
        ([1, 2], "arguments"),
    ],
)
def test_check_names_the_wrong_argument(args: Any, field: str) -> None:
    with pytest.raises(UsageError) as caught:
        make(route, "nav.route").check(args)
    assert caught.value.what.startswith(f"nav.route: {field}: ")
    assert caught.value.where == {"skill": "nav.route", "field": field}
    assert caught.value.fault == "caller"
    assert caught.value.hint == "slip skills show nav.route"


def test_check_names_each_wrong_argument() -> None:
    with pytest.raises(UsageError) as caught:
        make(route).check({"limit": 0, "speed": 1, "mode": "x"})
    told = str(caught.value)
    assert all(field in told for field in ("to: ", "limit: ", "speed: ", "mode: "))


def test_an_error_about_arguments_stays_short_whatever_the_caller_sends() -> None:
    with pytest.raises(UsageError) as caught:
        make(route).check({f"{i}" * 5000: "x" * 5000 for i in range(100)})
    assert len(str(caught.value)) < 5000


async def keep(ctx: Context, photo: bytes, at: datetime, sender: Annotated[str, Field(alias="from")] = "me") -> None:
    """Keep a photo."""


def test_typed_arguments_cross_the_wire_and_come_back() -> None:
    spec = make(keep)
    args = {"photo": b"\xff\x00", "at": datetime(2026, 1, 2, tzinfo=UTC), "from": "you"}
    plain = spec.dump_args(args)
    assert plain == {"photo": b"\xff\x00", "at": "2026-01-02T00:00:00Z", "from": "you"}
    assert spec.check(plain) == {"photo": b"\xff\x00", "at": args["at"], "sender": "you"}


# -- what comes out --------------------------------------------------------------------------------------------------


async def gives_nothing(ctx: Context) -> None:
    """Do it."""


async def gives_int(ctx: Context) -> int:
    """Do it."""
    return 1


async def gives_list(ctx: Context) -> list[Place]:
    """Do it."""
    return []


async def gives_date(ctx: Context) -> date:
    """Do it."""
    return date.min


async def gives_unit(ctx: Context) -> Unit:
    """Do it."""
    return Unit.CELSIUS


async def gives_bytes(ctx: Context) -> bytes:
    """Do it."""
    return b""


async def gives_photo(ctx: Context) -> Photo:
    """Do it."""
    raise NotImplementedError


async def gives_mail(ctx: Context) -> Mail:
    """Do it."""
    raise NotImplementedError


async def gives_tree(ctx: Context) -> Tree:
    """Do it."""
    raise NotImplementedError


async def gives_either(ctx: Context) -> Place | None:
    """Do it."""
    return None


async def gives_map(ctx: Context) -> dict[str, timedelta]:
    """Do it."""
    return {}


NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("fn", "value", "plain"),
    [
        (gives_nothing, None, {"result": None}),
        (gives_int, 7, {"result": 7}),
        (gives_list, [Place(lat=1, lon=2)], {"result": [{"lat": 1.0, "lon": 2.0}]}),
        (gives_date, date(2026, 1, 2), {"result": "2026-01-02"}),
        (gives_unit, Unit.KELVIN, {"result": "k"}),
        (gives_bytes, b"\xff\x00", {"result": b"\xff\x00"}),
        (gives_photo, Photo(data=b"\xff", taken=NOON, thumbs={7: b"\xfe"}),
         {"data": b"\xff", "taken": "2026-01-02T12:00:00Z", "unit": "k", "thumbs": {"7": b"\xfe"}}),
        (gives_mail, Mail(**{"from": "me"}), {"from": "me"}),
        (gives_tree, Tree(name="a", children=[Tree(name="b")]),
         {"result": {"name": "a", "children": [{"name": "b", "children": []}]}}),
        (gives_either, None, {"result": None}),
        (gives_either, Place(lat=1, lon=2), {"result": {"lat": 1.0, "lon": 2.0}}),
        (gives_map, {"a": timedelta(seconds=90)}, {"a": "PT1M30S"}),
    ],
)  # fmt: skip
def test_a_result_crosses_the_wire_as_its_schema_says_and_comes_back_as_its_type(
    fn: Callable[..., Any], value: Any, plain: Any
) -> None:
    spec = make(fn)
    assert spec.output_schema["type"] == "object"
    assert spec.dump(value) == plain
    assert spec.load(plain) == value
    assert set(spec.output_schema.get("properties", plain)) == set(plain)


@given(st.dictionaries(st.text(), st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.text() | st.binary() | st.dates() | st.uuids(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8,
)))  # fmt: skip
def test_whatever_a_binary_result_holds_is_plain_afterwards(tree: dict[str, Any]) -> None:
    async def give(ctx: Context) -> Mixed:
        """Do it."""
        raise NotImplementedError

    def check(value: Any) -> None:
        assert value is None or type(value) in (bool, int, str, bytes, list, dict)
        for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
            check(inner)

    check(make(give).dump(Mixed(data=b"", rest=tree)))


class Mixed(BaseModel):
    data: bytes
    rest: dict[str, Any]


def test_the_definitions_of_a_wrapped_result_stay_at_the_top_of_its_schema() -> None:
    schema = make(gives_list).output_schema
    assert schema["properties"]["result"]["items"] == {"$ref": "#/$defs/Place"}
    assert schema["$defs"]["Place"]["required"] == ["lat", "lon"]
    assert make(gives_tree).output_schema["properties"]["result"] == {"$ref": "#/$defs/Tree"}


@pytest.mark.parametrize(
    ("fn", "value"),
    [
        (gives_int, "many"),
        (gives_int, None),
        (gives_list, [{"lat": 1}]),
        (gives_photo, {"data": b""}),
        (gives_list, [Place.model_construct(lat="north", lon=2)]),
        (gives_photo, Photo.model_construct(data=7, taken=NOON, unit=Unit.KELVIN, thumbs={})),
        (gives_nothing, 0),
    ],
)
def test_a_result_that_does_not_fit_is_the_skills_fault(fn: Callable[..., Any], value: Any) -> None:
    with pytest.raises(SkillFailed, match="returned what its schema does not allow") as caught:
        make(fn).dump(value)
    assert caught.value.fault == "skill"
    assert caught.value.why
    assert caught.value.hint
    assert caught.value.where == {"skill": "test.it"}


def test_why_a_result_does_not_fit_names_the_field() -> None:
    with pytest.raises(SkillFailed) as caught:
        make(gives_list).dump([{"lat": 100, "lon": 0}])
    assert caught.value.why.startswith("0.lat: Input should be less than or equal to 90")


@pytest.mark.parametrize(
    ("fn", "plain"), [(gives_int, {"result": "x"}), (gives_int, {}), (gives_int, 3), (gives_photo, {"data": b""})]
)
def test_a_result_from_elsewhere_that_does_not_fit_says_so(fn: Callable[..., Any], plain: Any) -> None:
    with pytest.raises(SkillFailed, match="sent a result that does not fit") as caught:
        make(fn).load(plain)
    assert "different versions" in caught.value.hint


def test_a_generator_streams_items_and_its_whole_result_is_their_list() -> None:
    async def places(ctx: Context, n: int) -> AsyncIterator[Place]:
        """Give places."""
        for i in range(n):
            yield Place(lat=i, lon=0)

    spec = make(places)
    assert spec.to_wire()["streaming"]
    result = spec.output_schema["properties"]["result"]
    assert result["type"] == "array"
    assert result["items"]["required"] == ["lat", "lon"]
    assert spec.dump(Place(lat=1, lon=0)) == {"lat": 1.0, "lon": 0.0}
    assert spec.load({"result": [{"lat": 1, "lon": 0}]}) == [Place(lat=1, lon=0)]


async def sends(ctx: Context) -> Place | Submitted:
    """Send it on."""
    return Submitted()


def test_submitted_is_an_outcome_and_no_part_of_the_schema() -> None:
    spec = make(sends)
    assert set(spec.output_schema["properties"]) == {"lat", "lon"}
    assert spec.dump(Submitted(detail="queued")) == {"detail": "queued"}
    assert spec.dump(Place(lat=1, lon=2)) == {"lat": 1.0, "lon": 2.0}


# -- beside the function ---------------------------------------------------------------------------------------------


def test_undo_and_reconcile_are_registered_and_stay_what_they_are() -> None:
    async def act(ctx: Context) -> int:
        """Do it."""
        return 1

    async def back(ctx: Context, args: dict[str, Any], result: int) -> None: ...

    async def ask(ctx: Context, args: dict[str, Any]) -> Outcome:
        return Outcome.DONE

    decorated = skill("test.act", effect=Effect.ONCE, undoable=True)(act)
    assert decorated.undo(back) is back
    assert decorated.reconcile(ask) is ask
    assert decorated.spec.undo_fn is back
    assert decorated.spec.reconcile_fn is ask


def test_undo_of_what_was_not_declared_undoable_is_refused() -> None:
    async def act(ctx: Context) -> int:
        """Do it."""
        return 1

    async def back(ctx: Context, args: dict[str, Any], result: int) -> None: ...

    with pytest.raises(UsageError, match=r"test\.act is not undoable") as caught:
        skill("test.act", effect=Effect.ONCE)(act).undo(back)
    assert caught.value.hint == "say undoable=True"


@pytest.mark.parametrize("which", ["undo", "reconcile"])
def test_what_stands_beside_a_skill_is_async_too(which: str) -> None:
    async def act(ctx: Context) -> int:
        """Do it."""
        return 1

    def sync(*args: Any) -> None: ...

    decorated = skill("test.act", effect=Effect.ONCE, undoable=True)(act)
    with pytest.raises(UsageError, match=f"its {which} is not async"):
        getattr(decorated, which)(sync)


def test_equal_specs_have_equal_digests_and_every_change_shows() -> None:
    def declare(**more: Any) -> SkillSpec:
        async def act(ctx: Context, n: int) -> int:
            """Do it."""
            return n

        return make(act, **{"name": "test.act", "effect": Effect.READ, **more})

    async def other_body(ctx: Context, n: int) -> int:
        """Do it."""
        return n + 1

    async def other_doc(ctx: Context, n: int) -> int:
        """Do that."""
        return n

    async def other_type(ctx: Context, n: float) -> int:
        """Do it."""
        return 1

    async def other_default(ctx: Context, n: int = 1) -> int:
        """Do it."""
        return n

    same = declare().digest
    assert declare().digest == same
    assert make(other_body, "test.act").digest == same
    others = [make(fn, "test.act").digest for fn in (other_doc, other_type, other_default)]
    changes: list[dict[str, Any]] = [
        {"name": "test.other"}, {"effect": Effect.ONCE}, {"title": "x"}, {"lock": "x"}, {"needs": ["x"]},
        {"phrases": ["x"]}, {"undoable": True}, {"resumable": True}, {"consent": Consent.NEVER},
        {"cost": Cost(energy_mwh=1)},
    ]  # fmt: skip
    others += [declare(**change).digest for change in changes]
    assert len({same, *others}) == len(others) + 1


# -- the context that belongs to no mesh -----------------------------------------------------------------------------


def test_a_context_finds_the_backend_of_a_class_and_says_what_is_missing() -> None:
    ctx = Context("bus", Path("x"))
    assert ctx.backend(Path) == Path("x")
    with pytest.raises(SkillFailed, match="no UUID") as caught:
        ctx.backend(UUID)
    assert "pack" in caught.value.hint


def test_a_checkpoint_adds_to_the_state_and_leaves_the_given_one_alone() -> None:
    given_state = {"position": 1}
    ctx = Context(state=given_state)

    async def play() -> None:
        await ctx.checkpoint(position=2, volume=3)
        await ctx.progress(0.5, "half")

    anyio.run(play, backend="trio")
    assert ctx.state == {"position": 2, "volume": 3}
    assert given_state == {"position": 1}


def test_a_context_of_no_mesh_calls_nothing() -> None:
    with pytest.raises(SkillFailed, match=r"nav\.route cannot be called from here") as caught:
        anyio.run(lambda: Context().call("nav.route", to="x"), backend="trio")
    assert "testing.mesh" in caught.value.hint


# -- the catalogue ---------------------------------------------------------------------------------------------------


def declared(name: str, **more: Any) -> Callable[..., Any]:
    async def act(ctx: Context) -> int:
        """Do it."""
        return 1

    return skill(name, effect=Effect.READ, **more)(act)


def test_a_catalogue_offers_only_what_its_device_is_capable_of() -> None:
    catalogue = Catalogue()
    pack = Pack("p", (declared("a.any"), declared("a.bus", needs=["bus"]), declared("a.both", needs=["bus", "gps"])))
    catalogue.add(pack, ["bus"])
    assert sorted(catalogue.specs) == ["a.any", "a.bus"]


def test_two_packs_that_offer_one_name_are_refused_and_one_pack_twice_is_not() -> None:
    catalogue = Catalogue()
    pack = Pack("first", (declared("a.b"),))
    catalogue.add(pack)
    catalogue.add(pack)
    with pytest.raises(UsageError, match=r"two packs offer a\.b") as caught:
        catalogue.add(Pack("second", (declared("a.b"),)))
    assert "second" in caught.value.why
    assert catalogue.specs["a.b"].fn is pack.skills[0]


def test_of_two_backends_of_one_skill_the_one_that_is_here_is_offered() -> None:
    catalogue = Catalogue()
    real, simulated = declared("a.torch", needs=["termux"]), declared("a.torch")
    catalogue.add(Pack("sim", (simulated,)))
    catalogue.add(Pack("termux", (real,)), [])
    assert catalogue.get("a.torch").fn is simulated


def test_an_unknown_skill_is_refused_with_the_nearest_name() -> None:
    catalogue = Catalogue()
    catalogue.add(Pack("p", (declared("cabin.climate"), declared("nav.route"))))
    with pytest.raises(UsageError, match=r"unknown skill cabin\.climat") as caught:
        catalogue.get("cabin.climat")
    assert caught.value.hint == "did you mean cabin.climate?"
    assert nearest("zzz", ["a.b"]) == ""


def test_a_pack_without_a_backend_opens_to_nothing_and_is_capable_of_nothing() -> None:
    async def enter(settings: Mapping[str, Any]) -> Any:
        async with pack.open(settings) as backend:
            return backend

    pack = Pack("p", ())
    assert anyio.run(enter, {}, backend="trio") is None
    assert list(pack.capabilities(None)) == []
