"""What stands before skills: who may call, on whose behalf, what the vehicle does meanwhile, and asking a person."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from trio.testing import MockClock

from slipstream import testing
from slipstream.core.errors import Denied, Refused, SlipError, TimedOut
from slipstream.core.gate import REFUSALS_TOLD
from slipstream.core.policy import Asking
from slipstream.core.skill import Consent, Context, Driving, Effect, Pack, skill
from slipstream.core.specs import Specs
from slipstream.core.trust import Role
from slipstream.policy_file import load
from slipstream.testing import Policy, Rule

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "trio", {"clock": MockClock(autojump_threshold=0)}


DID: list[str] = []


@skill("cabin.look", effect=Effect.READ)
async def look(ctx: Context) -> str:
    """Look."""
    return "seen"


@skill("doors.unlock", effect=Effect.PHYSICAL, consent=Consent.ALWAYS)
async def unlock(ctx: Context) -> str:
    """Unlock."""
    DID.append(ctx.caller)
    return "open"


@skill("windows.set", effect=Effect.PHYSICAL, driving=Driving.MOVING)
async def windows(ctx: Context, percent: int) -> int:
    """Open."""
    DID.append(f"windows {percent}")
    return percent


@skill("help.look", effect=Effect.READ)
async def deputy(ctx: Context) -> str:
    """Look into the car for whoever asks."""
    return str(await ctx.call("cabin.look", on="car"))


class Vehicle:
    """What the car does."""

    state = Driving.PARKED


@asynccontextmanager
async def open_car(settings: Any) -> AsyncIterator[Vehicle]:
    yield Vehicle()


CAR = Pack("car", (look, unlock, windows), open=open_car, driving=lambda car: car.state)
DEFAULT = load(None)
ROLES = {"friend": Role.MEMBER, "valet": Role.GUEST}


@asynccontextmanager
async def house(policy: Policy = DEFAULT, *names: str) -> AsyncIterator[testing.Mesh]:
    DID.clear()
    Vehicle.state = Driving.PARKED
    async with testing.mesh(
        "phone", "car", *names, skills={"phone": [deputy], **{name: [deputy] for name in names}},
        packs={"car": [CAR]}, policy=policy, roles=ROLES,
    ) as m:  # fmt: skip
        yield m


def refusals(m: testing.Mesh, name: str = "car") -> list[str]:
    return [event.fields["rule"] for event in m[name].events.recent if event.kind == "policy.refused"]


# -- who ---------------------------------------------------------------------------------------------------------------


async def test_a_guest_may_do_what_its_profile_allows_and_nothing_else() -> None:
    only = Policy([Rule(("owner",), ("*",), "allow"), Rule(("guest",), ("cabin.*",), "allow")])
    async with house(only, "valet") as m:
        assert await m.call("cabin.look", of="valet") == {"result": "seen"}
        with pytest.raises(Denied, match="no rule lets valet"):
            await m.call("windows.set", {"percent": 50}, of="valet")
        assert refusals(m) == ["default: nothing allows it"]
        assert not DID


async def test_a_refused_step_of_a_run_is_denied_and_nothing_of_it_happened() -> None:
    async with house(Policy([Rule(("owner",), ("*",), "allow")]), "valet") as m:
        step = {"id": "air", "skill": "windows.set", "args": {"percent": 50}}
        run = await m.run({"goal": "air", "steps": [step]}, of="valet")
        assert run.steps["air"].state == "denied"
        assert isinstance(run.error, Denied)
        assert not DID


async def test_a_device_that_acts_for_another_may_do_only_what_both_may() -> None:
    async with house(Policy([Rule(("owner",), ("*",), "allow"), Rule(("*",), ("help.*",), "allow")]), "valet") as m:
        assert await m.call("help.look", on="phone", of="phone") == {"result": "{'result': 'seen'}"}
        with pytest.raises(SlipError, match="not allowed"):  # the phone may look, but not for the valet
            await m.call("help.look", on="phone", of="valet")
        assert refusals(m) == ["default: nothing allows it"]


async def test_a_forged_origin_gains_nothing() -> None:
    async with house(Policy([Rule(("owner",), ("*",), "allow")]), "valet") as m:
        with pytest.raises(Denied):
            await m.call("cabin.look", on="car", of="valet", origin="phone")
        with pytest.raises(Denied):  # also one that names the device itself
            await m.call("cabin.look", on="car", of="valet", origin="car")
        with pytest.raises(Refused, match="not of this mesh"):
            await m.call("cabin.look", on="car", of="phone", origin="nobody")


async def test_a_key_belongs_to_the_device_that_used_it_first() -> None:
    async with house(testing.Rules().policy, "friend") as m:
        await m.call("windows.set", {"percent": 7}, of="phone", key="k")
        assert DID == ["windows 7"]
        with pytest.raises(Refused, match="another device"):
            await m.call("windows.set", {"percent": 7}, of="friend", on="car", key="k")
        with pytest.raises(Refused, match="another device"):
            await m["friend"].request("car", "slip.undo", {"key": "k"}, anyio.current_time() + 3)
        assert DID == ["windows 7"]


async def test_nobody_but_its_owner_takes_a_step_of_a_run_back() -> None:
    async with house(testing.Rules().policy, "friend") as m:
        step = {"id": "s", "epoch": 1, "key": "r/s/0", "skill": "cabin.look", "args": {}, "needs": ["never"],
                "reads": [], "when": None, "for_each": None, "seconds": None, "sends": [], "from": {}}  # fmt: skip
        until = anyio.current_time() + 3
        await m["phone"].request("car", "slip.arm", {"run": "r", "have": {}, "steps": [step]}, until)
        for target, more in (("slip.disarm", {"epoch": 9, "stop": True}), ("slip.withhold", {"to": "phone"}),
                             ("slip.arm", {"have": {"never": ("done", None)}, "steps": []})):  # fmt: skip
            with pytest.raises(Refused, match="owns this run"):
                await m["friend"].request("car", target, {"run": "r", "step": "s", **more}, until)


# -- what is told of it ------------------------------------------------------------------------------------------------


class Log:
    """What a device writes into its audit log."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, m: testing.Mesh, name: str = "car") -> None:
        self.lines: list[dict[str, Any]] = []
        monkeypatch.setattr(m[name].audit, "tell", lambda what, **fields: self.lines.append({"what": what, **fields}))

    def refused(self, caller: str) -> int:
        return sum(line["what"] == "refused" and line.get("caller") == caller for line in self.lines)

    def summed_up(self) -> list[dict[str, int]]:
        return [line["more"] for line in self.lines if "more" in line]


async def refuse(m: testing.Mesh, of: str, times: int, skill: str = "cabin.look") -> None:
    for _ in range(times):
        with pytest.raises(Denied):
            await m.call(skill, of=of, on="car")


async def test_of_many_refusals_of_one_caller_some_are_told_and_the_rest_is_counted_in_one_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with house(Policy([Rule(("owner",), ("*",), "allow")]), "valet", "friend") as m:
        log = Log(monkeypatch, m)
        await refuse(m, "valet", REFUSALS_TOLD + 80)
        await refuse(m, "friend", 3)  # in the same second, behind the flood
        assert log.refused("valet") == REFUSALS_TOLD
        assert log.refused("friend") == 3
        assert len(refusals(m)) == REFUSALS_TOLD + 3
        assert not log.summed_up()
        await anyio.sleep(2)  # and nobody calls any more
        assert log.summed_up() == [{"valet": 80}]
        await refuse(m, "valet", 1)
        await anyio.sleep(2)
        assert log.refused("valet") == REFUSALS_TOLD + 1
        assert log.summed_up() == [{"valet": 80}]


async def test_what_was_only_counted_is_told_before_a_device_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    async with house(Policy([Rule(("owner",), ("*",), "allow")]), "valet") as m:
        log = Log(monkeypatch, m)
        await refuse(m, "valet", REFUSALS_TOLD + 1)
        await m.leave("car")
        assert log.summed_up() == [{"valet": 1}]


async def test_refusals_that_a_person_decided_once_for_all_are_told_no_more_often(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with house() as m:
        async with anyio.create_task_group() as group:
            group.start_soon(refuse, m, "phone", 1, "doors.unlock")
            await m["phone"].gate.consents.answer(await question(m, "phone"), "never", "Anna")
        await anyio.sleep(2)
        log = Log(monkeypatch, m)
        await refuse(m, "phone", 3 * REFUSALS_TOLD, "doors.unlock")
        await anyio.sleep(2)
        assert log.refused("phone") == REFUSALS_TOLD
        assert log.summed_up() == [{"phone": 2 * REFUSALS_TOLD}]


async def test_an_audit_log_that_cannot_be_written_does_not_end_the_device_that_counts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with house(Policy([Rule(("owner",), ("*",), "allow")]), "valet") as m:
        await refuse(m, "valet", REFUSALS_TOLD + 1)

        def full(what: str, **fields: Any) -> None:
            raise SlipError("the audit log cannot be written", "no space left on the disk", "make room")

        monkeypatch.setattr(m["car"].audit, "tell", full)
        await anyio.sleep(2)
        warned = [event.fields["why"] for event in m["car"].events.recent if event.kind == "warning"]
        assert warned == ["no space left on the disk"]
        assert await m.call("cabin.look") == {"result": "seen"}


# -- the vehicle -------------------------------------------------------------------------------------------------------


async def test_what_the_floor_forbids_is_refused_to_everybody_while_the_car_moves() -> None:
    async with house(testing.Rules().policy) as m:
        Vehicle.state = Driving.MOVING
        for of in ("phone", "car"):
            with pytest.raises(Denied, match="moving"):
                await m.call("doors.unlock", of=of)
            with pytest.raises(Denied, match="moving"):
                await m.call("windows.set", {"percent": 80}, of=of)
        assert await m.call("windows.set", {"percent": 8}) == {"result": 8}
        assert DID == ["windows 8"]


async def test_a_car_that_moves_off_while_a_person_is_asked_refuses_what_was_approved() -> None:
    async with house() as m:
        async with anyio.create_task_group() as group:
            refused: list[SlipError] = []

            async def ask() -> None:
                with pytest.raises(Denied, match="moving") as error:
                    await m.call("doors.unlock", of="phone")
                refused.append(error.value)

            group.start_soon(ask)
            request = await question(m, "phone")
            Vehicle.state = Driving.MOVING
            await m["phone"].gate.consents.answer(request, "once", "Anna")
        assert refused
        assert not DID


# -- consent -----------------------------------------------------------------------------------------------------------


async def question(m: testing.Mesh, at: str, *but: str) -> str:
    """The id of the question that is open at a device, once there is one."""

    def ids() -> list[str]:
        return [r.id for r in m[at].gate.consents.open() if r.id not in but]

    await m.until(lambda: bool(ids()))
    return ids()[0]


async def test_a_person_is_asked_where_people_are_and_the_answer_lets_it_happen() -> None:
    async with house() as m:
        run = await m["phone"].start(testing.load({"goal": "open", "steps": [{"id": "u", "skill": "doors.unlock"}]}))
        request = await question(m, "phone")
        await m.until(lambda: run.steps["u"].consent)
        assert not DID
        await anyio.sleep(10)
        await m["phone"].gate.consents.answer(request, "once", "Anna")
        await run.ended.wait()
        assert run.state == "done", run.error
        assert DID == ["phone"]
        for name in ("phone", "car"):  # how long a person thought says nothing of the skill
            assert m[name].costs.duration("doors.unlock", m["car"].id, 0.25) == 0.25
        kinds = [event.kind for event in m["phone"].events.recent]
        assert "step.asking" in kinds
        assert "consent.asked" in kinds


async def test_a_step_that_waits_for_a_person_keeps_no_other_from_running_and_runs_once_when_it_may() -> None:
    async with house() as m:
        m["car"].executor.slots = 1
        looks = [{"id": f"look{i}", "skill": "cabin.look"} for i in range(3)]
        plan = {"goal": "look", "steps": [{"id": "u", "skill": "doors.unlock"}, *looks]}
        run = await m["phone"].start(testing.load(plan))
        request = await question(m, "phone")
        await m.until(lambda: all(run.steps[look["id"]].final for look in looks))
        assert run.steps["u"].consent
        assert [r.id for r in m["phone"].gate.consents.open()] == [request]
        assert not DID
        await m["phone"].gate.consents.answer(request, "once", "Anna")
        await run.ended.wait()
        assert run.state == "done", run.error
        assert DID == ["phone"]
        assert m["car"].executor.running == 0


@pytest.mark.parametrize("how", ["answered", "cancelled", "nobody answers"])
async def test_a_step_with_many_questions_gives_one_place_back_and_takes_one_again(how: str) -> None:
    busy = 0
    most = 0

    @skill("seat.heat", effect=Effect.READ)
    async def heat(ctx: Context) -> None:
        """Take its time."""
        nonlocal busy, most
        busy += 1
        most = max(most, busy)
        await anyio.sleep(1)
        busy -= 1

    asking = Policy([Rule(("*",), ("cabin.*",), "ask"), Rule(("*",), ("*",), "allow")], {}, Asking(20, ("owner",)))
    async with testing.mesh(
        "phone", "car", skills={"phone": [deputy], "car": [look, heat]}, policy=asking
    ) as m:  # fmt: skip
        m["car"].executor.slots = 2
        each = {"id": "each", "skill": "cabin.look", "for_each": {"$ref": "inputs.sides"}}
        plan = testing.load({"goal": "look", "inputs": {"sides": ["left", "right"]}, "steps": [each]})
        run = await m["phone"].start(plan)
        first = await question(m, "phone")
        second = await question(m, "phone", first)
        heats = [{"id": f"heat{i}", "skill": "seat.heat"} for i in range(6)]
        await m.run({"goal": "heat", "steps": heats})
        assert most == 2
        assert m["car"].executor.running == 0
        if how == "answered":
            await m["phone"].gate.consents.answer(first, "once", "Anna")
            assert run.steps["each"].consent  # there is one more question
            await m["phone"].gate.consents.answer(second, "once", "Anna")
        elif how == "cancelled":
            run.cancel()
        await run.ended.wait()
        assert (run.state == "done") is (how == "answered"), run.error
        assert m["car"].executor.running == 0


async def test_who_says_no_or_nothing_denies_it() -> None:
    asking = Policy([Rule(("*",), ("*",), "allow")], {"personal": ("*",)}, Asking(seconds=20, who=("owner",)))
    async with house(asking) as m:
        for said in ("no", None):
            run = await m["phone"].start(
                testing.load({"goal": "open", "steps": [{"id": "u", "skill": "doors.unlock"}]})
            )
            request = await question(m, "phone")
            if said:
                await m["phone"].gate.consents.answer(request, said, "Anna")
            await run.ended.wait()
            assert run.steps["u"].state == "denied"
        assert not DID


async def test_a_question_outlives_the_device_that_asked_it() -> None:
    async with house() as m:
        run = await m["phone"].start(testing.load({"goal": "open", "steps": [{"id": "u", "skill": "doors.unlock"}]}))
        request = await question(m, "phone")
        await m.crash("car")
        await m.restart("car")
        assert await question(m, "car") == request
        await m.until(lambda: any(r.id == request for r in m["phone"].gate.consents.open()))
        await m["phone"].gate.consents.answer(request, "once", "Anna")
        await run.ended.wait()
        assert run.state == "done", run.error
        assert DID == ["phone"]


async def test_of_two_people_who_answer_at_once_one_answer_stands_and_both_hear_it() -> None:
    async with house(DEFAULT, "tablet") as m:
        run = await m["phone"].start(testing.load({"goal": "open", "steps": [{"id": "u", "skill": "doors.unlock"}]}))
        request = await question(m, "phone")
        assert await question(m, "tablet") == request
        stood = []

        async def say(at: str, answer: str) -> None:
            stood.append(await m[at].gate.consents.answer(request, answer, at))

        async with anyio.create_task_group() as group:
            group.start_soon(say, "phone", "once")
            group.start_soon(say, "tablet", "no")
        await run.ended.wait()
        assert stood[0] == stood[1]
        assert (run.state == "done") == (stood[0].answer == "once") == bool(DID)


async def test_what_is_remembered_is_for_that_skill_and_device_until_it_is_forgotten() -> None:
    async with house(DEFAULT, "tablet") as m:
        async with anyio.create_task_group() as group:
            group.start_soon(m.call, "doors.unlock")
            await m["phone"].gate.consents.answer(await question(m, "phone"), "always", "Anna")
        await m.call("doors.unlock", of="phone")
        assert DID == ["phone", "phone"]
        grant = m["car"].gate.consents.grants()[0]["id"]
        m["car"].gate.consents.forget(grant)
        with pytest.raises(TimedOut):  # it asks again, and nobody answers
            await m.call("doors.unlock", of="phone", deadline=anyio.current_time() + 3)
        assert DID == ["phone", "phone"]


async def test_who_may_not_answer_is_not_asked_and_not_heard() -> None:
    async with house(DEFAULT, "friend") as m:
        run = await m["phone"].start(testing.load({"goal": "open", "steps": [{"id": "u", "skill": "doors.unlock"}]}))
        request = await question(m, "phone")
        assert not m["friend"].gate.consents.open()
        m["friend"].note("car", "slip.consent", {"answer": {"id": request, "answer": "once", "by": "friend"}})
        await anyio.sleep(1)
        assert not DID
        run.cancel()
        await run.ended.wait()


@skill("trunk.close", effect=Effect.PHYSICAL, undoable=True, driving=Driving.MOVING)
async def close_trunk(ctx: Context) -> str:
    """Close."""
    DID.append("closed")
    return "closed"


@close_trunk.undo
async def _(ctx: Context, args: Any, result: str) -> None:
    DID.append("opened")


async def test_what_moves_is_undone_only_when_parked() -> None:
    car = Pack("car", (close_trunk,), open=open_car, driving=lambda car: car.state)
    DID.clear()
    Vehicle.state = Driving.PARKED
    async with testing.mesh("phone", "car", skills={"phone": [deputy]}, packs={"car": [car]}) as m:
        await m.call("trunk.close", key="k")
        for state in (Driving.IDLING, Driving.MOVING):
            Vehicle.state = state
            with pytest.raises(Denied, match="undoing"):
                await m["phone"].request("car", "slip.undo", {"key": "k"}, anyio.current_time() + 3)
        assert DID == ["closed"]
        Vehicle.state = Driving.PARKED
        await m["phone"].request("car", "slip.undo", {"key": "k"}, anyio.current_time() + 3)
        assert DID == ["closed", "opened"]


async def test_a_remembered_never_holds_whomever_the_device_says_it_asks_for() -> None:
    async with house(DEFAULT, "tablet") as m:
        async with anyio.create_task_group() as group:

            async def refused() -> None:
                with pytest.raises(Denied):
                    await m.call("doors.unlock", of="tablet")

            group.start_soon(refused)
            await m["phone"].gate.consents.answer(await question(m, "phone"), "never", "Anna")
        with pytest.raises(Denied):
            await m.call("doors.unlock", of="tablet", origin="phone")
        assert not m["phone"].gate.consents.open()
        assert not DID


async def test_a_spec_is_taken_only_under_the_digest_that_is_its_own() -> None:
    async with house() as m:
        real = look.spec.to_wire()
        forged = {**real, "effect": "read", "outputSchema": {"type": "object"}, "description": "forged"}
        told = {look.spec.digest: forged}

        async def answer(device: str, target: str, content: dict[str, Any], deadline: float) -> Any:
            return told

        heard = Specs(answer, m["phone"].events, anyio.current_time)
        assert await heard.of_mesh([m["car"].members.me]) == {}
        told[look.spec.digest] = real
        assert (await heard.of_mesh([m["car"].members.me]))["cabin.look"] == real
