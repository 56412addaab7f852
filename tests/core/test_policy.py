"""What a policy says: by tables, against a reading of its rules one by one, and what must hold for whatever rules."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slipstream.core.driving import FLOOR, named
from slipstream.core.policy import WEEK, Asking, Policy, Rule, Verdict, belongs
from slipstream.core.skill import Consent, Context, Driving, Effect, SkillSpec, skill
from slipstream.core.trust import Member, Role
from slipstream.skills.packs import car, hub, phone

MONDAY = datetime(2026, 11, 23)
NOON = MONDAY + timedelta(hours=12)
OWNER = Member("o" * 32, "phone", "phone", Role.OWNER)
MEMBER = Member("m" * 32, "car", "car", Role.MEMBER)
VALET = Member("v" * 32, "valet", "phone", Role.GUEST, 2e9, "valet")
GUEST = Member("g" * 32, "visitor", "tablet", Role.GUEST, 2e9)
DEVICES = (OWNER, MEMBER, VALET, GUEST)
REAL = {fn.spec.name: fn.spec for pack in (car.pack, phone.pack, hub.pack) for fn in cast(Any, pack.skills)}
STRICTNESS = {"allow": 0, "ask": 1, "refuse": 2}
ALLOW = Rule(("*",), ("*",), "allow", where="policy.toml:1")


def made(
    name: str, effect: Effect = Effect.READ, *, consent: Consent = Consent.DEFAULT, driving: Driving | None = None,
    lock: str | None = None,
) -> SkillSpec:  # fmt: skip
    """The spec of a skill that is not in our packs, with a few arguments."""

    @skill(name, effect=effect, consent=consent, driving=driving, lock=lock)
    async def fn(
        ctx: Context, seat: str = "driver", level: int | None = None, percent: Any = 0, text: Any = ""
    ) -> None:
        """Do it."""

    return fn.spec


def ask(
    rules: list[Rule], spec: SkillSpec, args: Mapping[str, Any] | None = None, caller: Member = OWNER,
    origin: Member | None = None, driving: Driving | None = None, now: datetime = NOON,
) -> Verdict:  # fmt: skip
    """One question to a policy of its own."""
    return Policy(rules).decide(spec, args or {}, caller, origin or caller, driving, now)


# -- who, and which skills -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("who", "fits"),
    [
        ("owner", [OWNER]),
        ("member", [MEMBER]),
        ("guest", [VALET, GUEST]),
        ("guest:valet", [VALET]),
        ("guest:passenger", []),
        ("kind:phone", [OWNER, VALET]),
        ("device:car", [MEMBER]),
        (f"device:{'g' * 32}", [GUEST]),
        (f"device:{'-'.join(['ggggggg', 'ggggggg', 'ggggggg', 'ggggggg', 'gggg'])}", [GUEST]),
        ("device:nobody", []),
        ("*", [*DEVICES]),
        ("own", []),
        ("valet", []),
    ],
)
def test_a_rule_names_devices_by_role_profile_kind_name_or_id(who: str, fits: list[Member]) -> None:
    assert [device for device in DEVICES if belongs(device, (who,))] == fits


@pytest.mark.parametrize(
    ("patterns", "name", "fits"),
    [
        (("cabin.*",), "cabin.climate.set", True),
        (("cabin.*",), "cabinet.open", False),
        (("cabin.*", "!cabin.photo"), "cabin.photo", False),
        (("!cabin.photo", "cabin.*"), "cabin.photo", False),
        (("!cabin.*", "*"), "seat.heat", True),
        (("seat.heat",), "seat.heater", False),
        (("*.set",), "lights.set", True),
        ((), "lights.set", False),
    ],
)
def test_patterns_take_in_and_take_out_whatever_their_order(patterns: tuple[str, ...], name: str, fits: bool) -> None:
    assert named(name, patterns) is fits


# -- which rule decides ----------------------------------------------------------------------------------------------


def test_the_first_rule_that_fits_decides_and_says_where_it_stands() -> None:
    rules = [
        Rule(("guest",), ("*",), "refuse", where="policy.toml:3"),
        Rule(("owner",), ("seat.*",), "ask", where="policy.toml:8"),
        Rule(("*",), ("*",), "allow", where="policy.toml:13"),
    ]
    spec = made("seat.heat")
    assert ask(rules, spec, caller=GUEST).rule == "policy.toml:3"
    assert ask(rules, spec, caller=GUEST).answer == "refuse"
    assert ask(rules, spec).rule == "policy.toml:8"
    assert ask(rules, spec, caller=MEMBER) == Verdict("allow", "policy.toml:13", "car (member) may call seat.heat", "")


def test_what_no_rule_allows_is_refused() -> None:
    verdict = ask([], made("seat.heat"))
    assert (verdict.answer, verdict.rule) == ("refuse", "default: nothing allows it")
    assert "phone (owner)" in verdict.why
    assert "slip policy show" in verdict.hint


def test_a_skill_can_have_a_person_asked_and_cannot_keep_a_rule_from_asking() -> None:
    asking = [Rule(("*",), ("*",), "ask")]
    assert ask([ALLOW], made("doors.open", consent=Consent.ALWAYS)).answer == "ask"
    assert ask([ALLOW], made("doors.open", consent=Consent.NEVER)).answer == "allow"
    assert ask(asking, made("doors.open", consent=Consent.NEVER)).answer == "ask"
    assert ask(asking, made("doors.open", consent=Consent.DEFAULT)).answer == "ask"
    assert ask([], made("doors.open", consent=Consent.ALWAYS)).answer == "refuse"


def test_a_rule_for_some_effects_lets_others_pass_by() -> None:
    rules = [Rule(("*",), ("*",), "allow", effects=frozenset((Effect.READ, Effect.IDEMPOTENT)))]
    assert [ask(rules, made("a.b", e)).answer for e in Effect] == ["allow", "allow", "refuse", "refuse"]


def test_a_rule_for_a_parked_car_fits_what_is_no_car() -> None:
    rules = [Rule(("*",), ("*",), "allow", driving=frozenset((Driving.PARKED,)))]
    spec = made("a.b")
    states = [None, *Driving]
    assert [ask(rules, spec, driving=d).answer for d in states] == ["allow", "allow", "refuse", "refuse"]


@pytest.mark.parametrize(
    ("begin", "end", "fits", "not_any_more"),
    [
        (7 * 60, 22 * 60, MONDAY.replace(hour=7), MONDAY.replace(hour=22)),
        (0, 1440, MONDAY, MONDAY + timedelta(days=1)),
        (WEEK - 120, WEEK + 360, MONDAY + timedelta(hours=5, minutes=59, seconds=59), MONDAY.replace(hour=6)),
        (WEEK - 120, WEEK, MONDAY - timedelta(seconds=1), MONDAY),
    ],
)
def test_hours_begin_with_their_first_minute_and_end_before_their_last(
    begin: int, end: int, fits: datetime, not_any_more: datetime
) -> None:
    rules = [Rule(("*",), ("*",), "allow", hours=((begin, end),))]
    assert ask(rules, made("a.b"), now=fits).answer == "allow"
    assert ask(rules, made("a.b"), now=not_any_more).answer == "refuse"


SEAT = [Rule(("*",), ("seat.*",), "allow", args={"seat": frozenset(("rear", "passenger"))})]
LEVELS = [Rule(("*",), ("seat.*",), "refuse", args={"level": frozenset((3,))}), ALLOW]
SWITCH = [Rule(("*",), ("*",), "allow", args={"percent": frozenset((True,))})]


@pytest.mark.parametrize(
    ("rules", "args", "answer"),
    [
        (SEAT, {"seat": "passenger"}, "allow"),
        (SEAT, {"seat": "driver"}, "refuse"),
        (SEAT, {}, "refuse"),  # the skill's default is the driver's
        (SEAT, {"seat": None}, "refuse"),
        (SEAT, {"seat": ["passenger"]}, "refuse"),
        (LEVELS, {"level": 2}, "allow"),
        (LEVELS, {}, "allow"),
        (LEVELS, {"level": 3}, "refuse"),
        (LEVELS, {"level": 3.0}, "refuse"),
        (LEVELS, {"level": "3"}, "refuse"),  # the skill would take it for 3
        (LEVELS, {"level": [3]}, "refuse"),
        (SWITCH, {"percent": True}, "allow"),
        (SWITCH, {"percent": 1}, "refuse"),
    ],
)
def test_a_rule_about_arguments_knows_defaults_and_doubts_what_it_cannot_read(
    rules: list[Rule], args: dict[str, Any], answer: str
) -> None:
    assert ask(rules, made("seat.heat"), args).answer == answer


def test_a_device_that_is_let_in_anew_with_another_role_is_looked_at_anew() -> None:
    policy, spec = Policy([Rule(("owner",), ("*",), "allow")]), made("a.b")
    assert policy.decide(spec, {}, OWNER, OWNER, None, NOON).answer == "allow"
    weaker = replace(OWNER, role=Role.MEMBER)
    assert policy.decide(spec, {}, weaker, weaker, None, NOON).answer == "refuse"
    assert policy.decide(spec, {}, OWNER, weaker, None, NOON).answer == "refuse"


def test_a_skill_that_is_loaded_anew_with_another_effect_is_looked_at_anew() -> None:
    policy = Policy([Rule(("*",), ("*",), "allow", effects=frozenset((Effect.READ,)))])
    assert policy.decide(made("a.b"), {}, OWNER, OWNER, None, NOON).answer == "allow"
    assert policy.decide(made("a.b", Effect.ONCE), {}, OWNER, OWNER, None, NOON).answer == "refuse"


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("slipstream.core.policy.KEPT", 8)
    policy, spec = Policy([ALLOW]), made("a.b")
    for n in range(20):
        device = replace(OWNER, id=f"{n:032d}")
        assert policy.decide(spec, {}, device, device, None, NOON).answer == "allow"
        assert len(policy._known) <= 8


# -- labels and people -----------------------------------------------------------------------------------------------


def test_only_personal_values_can_be_granted() -> None:
    policy = Policy([], dict.fromkeys(("personal", "device", "secret", "other"), ("*",)))
    assert policy.may_see(GUEST, "public")
    assert policy.may_see(GUEST, "personal")
    assert not any(policy.may_see(OWNER, label) for label in ("device", "secret", "other", ""))
    assert not Policy([], {"personal": ("owner", "member")}).may_see(GUEST, "personal")
    assert not Policy([]).may_see(OWNER, "personal")


def test_people_answer_on_the_devices_that_the_policy_names() -> None:
    policy = Policy([], consent=Asking(20.0, ("owner", "device:visitor")))
    assert policy.consent_seconds == 20.0
    assert [d for d in DEVICES if policy.may_answer(d)] == [OWNER, GUEST]


# -- the floor -------------------------------------------------------------------------------------------------------

UNSAFE: list[tuple[SkillSpec, dict[str, Any], Driving]] = [
    (REAL["doors.unlock"], {}, Driving.IDLING),
    (REAL["windows.set"], {"percent": 11}, Driving.IDLING),
    (REAL["windows.set"], {"percent": 100, "which": "all"}, Driving.IDLING),
    (REAL["windows.set"], {"percent": "5"}, Driving.IDLING),
    (REAL["windows.set"], {"percent": float("nan")}, Driving.IDLING),
    (REAL["windows.set"], {}, Driving.IDLING),
    (REAL["nav.set"], {"destination": "x" * 201}, Driving.IDLING),
    (REAL["charge.start"], {}, Driving.IDLING),
    (made("car.trunk.open", Effect.IDEMPOTENT), {}, Driving.IDLING),
    (made("frunk.unlock", Effect.ONCE), {}, Driving.IDLING),
    (made("windows.open", Effect.PHYSICAL, driving=Driving.MOVING), {}, Driving.IDLING),
    (made("seat.move", Effect.PHYSICAL, driving=Driving.MOVING), {}, Driving.IDLING),
    (made("seat.position.set", Effect.ONCE), {}, Driving.IDLING),
    (made("charge.port.open", Effect.PHYSICAL, driving=Driving.MOVING), {}, Driving.IDLING),
    (made("video.play", Effect.ONCE), {}, Driving.PARKED),
    (made("car.video.play", Effect.ONCE), {}, Driving.PARKED),
    (made("car.setup.wifi", Effect.ONCE), {}, Driving.PARKED),
    (made("keyboard.ask"), {}, Driving.IDLING),
    (made("notify.show", Effect.ONCE), {"text": ["x" * 201]}, Driving.IDLING),
    (made("any.thing", lock="car.display"), {"text": {"a": ["x" * 201]}}, Driving.IDLING),
    (made("third.party", Effect.PHYSICAL), {}, Driving.IDLING),
    (made("third.careful", driving=Driving.PARKED), {}, Driving.PARKED),
]


@pytest.mark.parametrize(("spec", "args", "most"), UNSAFE, ids=lambda v: getattr(v, "name", None))
def test_the_floor_lets_nobody_do_it_in_a_car_that_goes_faster(
    spec: SkillSpec, args: dict[str, Any], most: Driving
) -> None:
    order = list(Driving)
    for state in order:
        verdict = ask([ALLOW], spec, args, driving=state)
        if order.index(state) <= order.index(most):
            assert verdict.answer != "refuse"
        else:
            assert verdict.answer == "refuse"
            assert verdict.rule.startswith("the floor: ")
            assert verdict.rule.endswith(f"while {state.value}")
            assert verdict.hint.startswith("do it again when the vehicle ")
    assert ask([ALLOW], spec, args).answer != "refuse"


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("windows.set", {"percent": 10}), ("windows.set", {"percent": 0}), ("doors.lock", {}), ("lights.set", {}),
        ("horn.honk", {}), ("seat.heat", {"level": 3}), ("charge.stop", {}), ("cabin.climate.set", {"celsius": 21}),
        ("nav.set", {"destination": "x" * 200}), ("car.media.play", {}), ("car.speak", {"text": "x" * 900}),
        ("car.state", {}),
    ],
)  # fmt: skip
def test_what_a_driver_needs_works_while_moving(name: str, args: dict[str, Any]) -> None:
    assert ask([ALLOW], REAL[name], args, driving=Driving.MOVING).answer == "allow"


def test_every_line_of_the_floor_forbids_something_that_is_tested() -> None:
    reached = {limit for spec, args, _ in UNSAFE for limit in FLOOR
               if any(named(n, limit.patterns) for n in (spec.name, f"lock:{spec.lock}"))
               and limit.forbids(args, Driving.MOVING)}  # fmt: skip
    assert reached == set(FLOOR)


# -- whatever the rules ----------------------------------------------------------------------------------------------

SPECS = [
    made("seat.heat", Effect.PHYSICAL, driving=Driving.MOVING), made("seat.move", Effect.PHYSICAL), made("car.state"),
    made("doors.unlock", Effect.PHYSICAL, consent=Consent.ALWAYS), made("home.lights.set", Effect.IDEMPOTENT),
    made("notify.show", Effect.ONCE),
]  # fmt: skip
whos = st.sampled_from(("owner", "member", "guest", "guest:valet", "kind:phone", "device:car", "*"))
patterns = st.sampled_from(("*", "seat.*", "*.set", "car.state", "!seat.move", "doors.unlock", "notify.*"))
spans = st.tuples(st.integers(0, WEEK - 1), st.integers(1, 2 * 1440)).map(lambda s: (s[0], s[0] + s[1]))
plain: st.SearchStrategy[Any] = st.sampled_from(("driver", "rear", 0, 1, 3, 1.5, True, False, "3"))


@st.composite
def rule(draw: st.DrawFn, who: st.SearchStrategy[Any] | None = None) -> Rule:
    return Rule(
        draw(who if who is not None else st.lists(whos, min_size=1, max_size=2).map(tuple)),
        draw(st.lists(patterns, min_size=1, max_size=3).map(tuple)),
        draw(st.sampled_from(("allow", "ask", "refuse"))),
        draw(st.just(frozenset[Effect]()) | st.frozensets(st.sampled_from(Effect), min_size=1)),
        draw(st.just(frozenset[Driving]()) | st.frozensets(st.sampled_from(Driving), min_size=1)),
        draw(st.just(()) | st.lists(spans, min_size=1, max_size=2).map(tuple)),
        draw(st.just({}) | st.dictionaries(st.sampled_from(("seat", "level")), st.frozensets(plain, min_size=1))),
        f"policy.toml:{draw(st.integers(1, 999))}",
    )  # fmt: skip


rulesets = st.lists(rule(), max_size=8)
calls = st.fixed_dictionaries(
    {
        "spec": st.sampled_from(SPECS),
        "args": st.dictionaries(st.sampled_from(("seat", "level", "percent")), plain | st.none() | st.just(["rear"])),
        "driving": st.none() | st.sampled_from(Driving),
        "now": st.integers(0, WEEK * 60 - 1).map(lambda second: MONDAY + timedelta(seconds=second)),
    }
)
devices = st.sampled_from(DEVICES)


def one_by_one(rules: list[Rule], spec: SkillSpec, args: Mapping[str, Any], device: Member,
               driving: Driving | None, now: datetime) -> Rule | None:  # fmt: skip
    """The rule that decides, found as a person would read the file."""
    properties = spec.input_schema["properties"]
    minute = (now - MONDAY) // timedelta(minutes=1)

    def kind(value: Any) -> str:
        return "truth" if isinstance(value, bool) else "number" if isinstance(value, (int, float)) else "text"

    def has(name: str, values: frozenset[Any], then: str) -> bool:
        value = args.get(name, properties[name].get("default"))
        if value is None:
            return False
        if isinstance(value, list):
            return then != "allow"
        if any(kind(value) == kind(v) and value == v for v in values):
            return True
        return then != "allow" and kind(value) not in {kind(v) for v in values}

    for r in rules:
        if (
            belongs(device, r.who)
            and named(spec.name, r.skills)
            and (not r.effects or spec.effect in r.effects)
            and (not r.driving or driving is None or driving in r.driving)
            and (not r.hours or any((minute - b) % WEEK < e - b for b, e in r.hours))
            and all(has(name, values, r.then) for name, values in r.args.items())
        ):
            return r
    return None


@settings(deadline=None)
@given(rulesets, calls, devices)
def test_masks_find_the_rule_that_reading_one_by_one_finds(
    rules: list[Rule], call: dict[str, Any], device: Member
) -> None:
    verdict = ask(rules, caller=device, **call)
    if verdict.rule.startswith("the floor"):
        return
    found = one_by_one(rules, call["spec"], call["args"], device, call["driving"], call["now"])
    if found is None:
        assert verdict.rule == "default: nothing allows it"
        assert verdict.answer == "refuse"
    else:
        assert verdict.rule == found.where
        asked = found.then == "allow" and call["spec"].consent is Consent.ALWAYS
        assert verdict.answer == ("ask" if asked else found.then)


@settings(deadline=None)
@given(rulesets, calls, devices, devices)
def test_an_origin_takes_authority_away_and_never_adds_any(
    rules: list[Rule], call: dict[str, Any], caller: Member, origin: Member
) -> None:
    alone = STRICTNESS[ask(rules, caller=caller, **call).answer]
    itself = STRICTNESS[ask(rules, caller=origin, **call).answer]
    both = STRICTNESS[ask(rules, caller=caller, origin=origin, **call).answer]
    assert both == max(alone, itself)


@settings(deadline=None)
@given(rulesets, calls, devices, st.data())
def test_taking_a_rule_out_turns_no_refusal_into_a_yes_unless_it_was_that_which_refused(
    rules: list[Rule], call: dict[str, Any], device: Member, data: st.DataObject
) -> None:
    rules = [replace(r, where=f"policy.toml:{n}") for n, r in enumerate(rules)]
    before = ask(rules, caller=device, **call)
    for n, taken in enumerate(rules):
        after = ask(rules[:n] + rules[n + 1 :], caller=device, **call)
        if before.rule != taken.where:
            assert after == before
        elif taken.then == "allow":
            assert before.answer != "refuse"


upward = st.sampled_from((("owner",), ("owner", "member"), ("owner", "member", "guest"), ("*",)))


@settings(deadline=None)
@given(st.lists(rule(upward).map(lambda r: replace(r, then="allow")), max_size=8), calls)
def test_where_what_is_granted_to_some_is_granted_to_all_above_a_weaker_role_is_no_gain(
    rules: list[Rule], call: dict[str, Any]
) -> None:
    answers = [STRICTNESS[ask(rules, caller=device, **call).answer] for device in (OWNER, MEMBER, GUEST)]
    assert answers == sorted(answers)


@settings(deadline=None)
@given(rulesets, st.sampled_from(UNSAFE), devices, devices)
def test_the_floor_holds_under_any_rules_for_anybody(
    rules: list[Rule], case: tuple[SkillSpec, dict[str, Any], Driving], caller: Member, origin: Member
) -> None:
    spec, args, _ = case
    verdict = ask([*rules, ALLOW], spec, args, caller, origin, Driving.MOVING)
    assert (verdict.answer, verdict.rule.startswith("the floor: ")) == ("refuse", True)


@settings(deadline=None)
@given(rulesets, calls, devices, st.text().filter(lambda text: text not in list(Driving)))
def test_what_nobody_knows_about_driving_is_moving(
    rules: list[Rule], call: dict[str, Any], device: Member, unknown: str
) -> None:
    call["driving"] = cast(Driving, unknown)
    before = ask(rules, caller=device, **call)
    call["driving"] = Driving.MOVING
    assert ask(rules, caller=device, **call) == before
