"""A run while the world changes: links, slow steps, devices that leave, queues, other owners' steps."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from itertools import pairwise
from math import inf
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from trio.testing import MockClock

from slipstream import testing
from slipstream.core.device import Resources
from slipstream.core.dispatch import AWAY_SECONDS, Dispatch
from slipstream.core.node import Node
from slipstream.core.plan import load
from slipstream.core.runs import Runs
from slipstream.core.skill import Context, Effect, Pack, skill
from slipstream.core.watch import LINK_SECONDS, Watch
from slipstream.transports.memory import Conditions

pytestmark = pytest.mark.anyio
MB = 1_000_000


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "trio", {"clock": MockClock(autojump_threshold=0)}


class World:
    """What the skills of a test did and when, and how long each takes where."""

    def __init__(self) -> None:
        self.did: list[tuple[str, str]] = []
        self.seconds: dict[tuple[str, str], float] = {}
        self.on: dict[str, Callable[[], Awaitable[None]]] = {}

    async def work(self, ctx: Context, skill_: str, name: str) -> None:
        """Take the time that the named step takes here, or else its skill."""
        self.did.append((name, ctx.device))
        if act := self.on.get(name):
            await act()
        await anyio.sleep(self.seconds.get((name, ctx.device), self.seconds.get((skill_, ctx.device), 0.1)))

    def where(self, name: str) -> list[str]:
        return [device for did, device in self.did if did == name]

    def learned(self, node: Node, size: int = 100) -> None:
        """Let a node know how long the skills take, as if it had seen them often."""
        for (skill_, device), seconds in self.seconds.items():
            if skill_.startswith("work."):
                for _ in range(40):
                    node.costs.saw(skill_, device, seconds, size if skill_ == "work.make" else 100, 0.0)

    def skills(self, *names: str) -> list[Any]:
        @skill("work.make", effect=Effect.READ)
        async def make(ctx: Context, name: str, size: int) -> bytes:
            """Make something large."""
            await self.work(ctx, "work.make", name)
            return b"x" * size

        @skill("work.use", effect=Effect.READ)
        async def use(ctx: Context, name: str, made: bytes) -> int:
            """Use something large."""
            await self.work(ctx, "work.use", name)
            return len(made)

        @skill("work.long", effect=Effect.READ)
        async def long(ctx: Context, name: str) -> int:
            """Take long."""
            await self.work(ctx, "work.long", name)
            return 1

        @skill("work.short", effect=Effect.READ)
        async def short(ctx: Context, name: str) -> int:
            """Take little."""
            await self.work(ctx, "work.short", name)
            return 1

        every = {s.spec.name: s for s in (make, use, long, short)}
        return [every[name] for name in names or every]


def step(id_: str, skill_: str, on: str | None = None, after: tuple[str, ...] = (), **args: Any) -> dict[str, Any]:
    return {
        "id": id_,
        "skill": skill_,
        "args": {"name": id_, **args},
        "after": list(after),
        **({"on": on} if on else {}),
    }


def events(m: testing.Mesh, kind: str, of: str = "phone") -> list[dict[str, Any]]:
    return [e.fields for e in m[of].events.recent if e.kind == kind]


def pairs(count: int, size: int) -> dict[str, Any]:
    """One large thing after the other, each made on the phone and used somewhere."""
    steps = []
    for i in range(count):
        steps.append(step(f"make{i}", "work.make", "phone", (f"use{i - 1}",) if i else (), size=size))
        steps.append(step(f"use{i}", "work.use", made={"$ref": f"make{i}.result"}))
    return {"goal": "x", "steps": steps}


# -- links that change -------------------------------------------------------------------------------------------------


@pytest.fixture
def replans(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, str]]:
    """When and why any run was looked at again."""
    seen: list[tuple[float, str]] = []
    assign = Dispatch._assign

    def and_note(run: Dispatch) -> None:
        seen.append((anyio.current_time(), run._replan))
        assign(run)

    monkeypatch.setattr(Dispatch, "_assign", and_note)
    return seen


async def over_a_link(m: testing.Mesh, world: World, act: Callable[[], Awaitable[None]], jitter: float = 0) -> float:
    """How long forty pairs take between phone and car, one of which lets something happen."""
    world.learned(m["phone"], 2 * MB)
    m.network.set("phone", "car", Conditions(delay=0.002, jitter=jitter, bandwidth=10e6))
    await anyio.sleep(60)  # the link is measured
    world.on["make15"] = act
    began = anyio.current_time()
    run = await m.run(pairs(40, 2 * MB))
    assert run.state == "done", run.error
    return anyio.current_time() - began


TWO_PLACES = {("work.make", "phone"): 0.1, ("work.use", "phone"): 0.9, ("work.use", "car"): 0.5}


async def test_when_a_link_falls_to_a_tenth_what_is_left_moves_and_the_run_ends_sooner(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    took = []
    for watched in (True, False):
        world = World()
        world.seconds = dict(TWO_PLACES)
        async with testing.mesh("phone", "car", skills={name: world.skills() for name in ("phone", "car")}) as m:

            async def slow_down(m: testing.Mesh = m) -> None:
                m.network.set("phone", "car", Conditions(delay=0.002, bandwidth=1e6))

            took.append(await over_a_link(m, world, slow_down))
            if watched:
                assert world.where("use14") == ["car"]
                assert world.where("use39") == ["phone"]
                first, moved = events(m, "run.assigned")
                assert (first["moved"], first["gain"]) == (0, 0.0)
                assert moved["why"] == "the link between phone and car is slower than it was"
                assert moved["moved"] == len(moved["assignment"]) > 15
                assert moved["gain"] > 5
            else:
                assert world.where("use39") == ["car"]
        monkeypatch.setattr(Runs, "link_changed", lambda runs, device: None)
        monkeypatch.setattr(Watch, "_kept_at", lambda run, s, due: inf)
    assert took[0] < 0.6 * took[1]


async def test_a_link_that_only_jitters_has_nothing_looked_at_again(replans: list[tuple[float, str]]) -> None:
    world = World()
    world.seconds = dict(TWO_PLACES)
    async with testing.mesh("phone", "car", skills={name: world.skills() for name in ("phone", "car")}) as m:
        await over_a_link(m, world, anyio.lowlevel.checkpoint, jitter=0.04)
        assert [why for _, why in replans if why.startswith("the link")] == []
        assert len(events(m, "run.assigned")) == 1


async def test_a_link_that_swings_is_looked_at_once_a_second_at_most_and_moves_nothing_to_and_fro(
    replans: list[tuple[float, str]],
) -> None:
    world = World()
    world.seconds = dict(TWO_PLACES)
    async with testing.mesh("phone", "car", skills={name: world.skills() for name in ("phone", "car")}) as m:

        async def swing() -> None:
            async def to_and_fro() -> None:
                while True:
                    for rtt in (2.0, 0.0):
                        for _ in range(12):
                            m["phone"].costs.saw_rtt("car", rtt)
                        m["phone"].peer_measured(m["phone"].links.up["car"], rtt, None)
                        await anyio.sleep(0.05)

            m["phone"]._group.start_soon(to_and_fro)

        took = await over_a_link(m, world, swing)
        looks = [at for at, why in replans if why.startswith("the link")]
        assert 5 < len(looks) <= took / LINK_SECONDS + 1
        assert all(later - at > LINK_SECONDS - 1e-6 for at, later in pairwise(looks))


# -- stability ---------------------------------------------------------------------------------------------------------


async def test_what_is_assigned_does_not_move_for_what_is_as_good_or_hardly_better(
    replans: list[tuple[float, str]],
) -> None:
    world, names = World(), ("phone", "car", "hub")
    async with testing.mesh(*names, skills={name: world.skills() for name in names}) as m:
        steps = [step(f"s{i}", "work.long" if i % 2 else "work.short", None, (f"s{i - 3}",) if i > 2 else ())
                 for i in range(24)]  # fmt: skip
        run = None
        for turn in range(60):
            for name in names:  # each is the best in its turn, by a little
                for kind in ("work.long", "work.short"):
                    world.seconds[kind, name] = 0.49 if names[turn % 3] == name else 0.5
            world.learned(m["phone"])
            if run is None:
                run = await m["phone"].start(load({"goal": "x", "steps": steps}))
            elif not run.ended.is_set():
                run.replan("somebody asked")
            await anyio.sleep(0.07)
        assert run is not None
        await run.ended.wait()
        assert run.state == "done", run.error
        assert len(replans) > 30
        assert len(events(m, "run.assigned")) == 1
        assert all(s.epoch == 1 for s in run.steps.values())


# -- steps that take long ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("elsewhere", "devices", "seconds"),
    [(60.0, ["car"], 10.0), (1.0, ["car", "phone"], 2.4), (None, ["car"], 10.0)],
    ids=["slower elsewhere", "quicker elsewhere", "nowhere else"],
)
async def test_a_slow_step_leaves_only_for_a_place_where_it_ends_sooner(
    elsewhere: float | None, devices: list[str], seconds: float
) -> None:
    world = World()
    world.seconds = {("work.long", "car"): 0.1, ("work.long", "phone"): elsewhere or 0.0}
    skills = {"phone": world.skills() if elsewhere else world.skills("work.short"), "car": world.skills()}
    async with testing.mesh("phone", "car", skills=skills) as m:
        world.learned(m["phone"])
        world.seconds["slow", "car"] = 10.0
        began = anyio.current_time()
        run = await m.run({"goal": "x", "steps": [step("slow", "work.long")]})
        assert run.state == "done", run.error
        assert world.where("slow") == devices
        assert anyio.current_time() - began == pytest.approx(seconds, abs=0.2)
        assert len(events(m, "step.retried")) == len(devices) - 1


async def test_a_slow_step_leaves_once_a_better_place_has_joined() -> None:
    world = World()
    world.seconds = {("work.long", "car"): 0.1, ("work.long", "hub"): 0.1}
    skills = {"phone": world.skills("work.short"), "car": world.skills()}
    async with testing.mesh("phone", "car", skills=skills) as m:
        world.learned(m["phone"])
        world.seconds["slow", "car"] = 100.0
        run = await m["phone"].start(load({"goal": "x", "steps": [step("slow", "work.long")]}))
        await anyio.sleep(5)
        await m.add("hub", packs=[Pack("hub", tuple(world.skills()))])
        began = anyio.current_time()
        await run.ended.wait()
        assert run.state == "done", run.error
        assert world.where("slow") == ["car", "hub"]
        assert anyio.current_time() - began < 20


# -- devices that leave ------------------------------------------------------------------------------------------------


async def test_a_device_that_says_it_leaves_is_left_at_once_and_that_is_no_try() -> None:
    world = World()
    world.seconds = {("work.long", "car"): 0.1, ("work.long", "phone"): 2.0}
    async with testing.mesh("phone", "car", skills={name: world.skills() for name in ("phone", "car")}) as m:
        world.learned(m["phone"])
        m["car"].executor.leaving = True  # its refusal comes before the news
        run = await m.run({"goal": "x", "steps": [step("one", "work.long")]})
        assert run.state == "done", run.error
        assert world.where("one") == ["phone"]
        assert run.steps["one"].attempt == 0
        assert [e["why"] for e in events(m, "step.retried")] == ["this device is leaving the mesh"]


async def test_what_only_a_leaving_device_can_run_waits_for_it_and_the_rest_goes_on() -> None:
    world = World()
    skills = {"phone": world.skills("work.short"), "car": world.skills()}
    async with testing.mesh("phone", "car", skills=skills) as m:
        m["car"].executor.leaving = True
        steps = [step("one", "work.long"), step("other", "work.short", "phone")]
        run = await m["phone"].start(load({"goal": "x", "steps": steps}))
        await anyio.sleep(5)
        assert world.did == [("other", "phone")]
        assert len(events(m, "step.retried")) == 1  # it is not asked again and again
        await m.leave("car")
        await m.restart("car")
        await run.ended.wait()
        assert run.state == "done", run.error
        assert world.where("one") == ["car"]
        assert run.steps["one"].attempt == 0


async def test_a_leaving_device_that_does_not_come_back_is_not_waited_for_for_ever() -> None:
    world = World()
    skills = {"phone": world.skills("work.short"), "car": world.skills()}
    async with testing.mesh("phone", "car", skills=skills) as m:
        m["car"].executor.leaving = True
        began = anyio.current_time()
        run = await m.run({"goal": "x", "steps": [step("one", "work.long")]})
        assert run.error is not None
        assert run.error.code == "no_device"
        assert anyio.current_time() - began == pytest.approx(AWAY_SECONDS, abs=0.5)


# -- queues ------------------------------------------------------------------------------------------------------------


async def test_a_step_that_waits_for_a_slot_and_is_armed_again_keeps_its_turn() -> None:
    world = World()
    world.seconds = {("work.long", "car"): 1.0}
    async with testing.mesh("phone", skills={"phone": world.skills("work.short")}) as m:
        await m.add("car", packs=[Pack("car", tuple(world.skills()))], resources=Resources(slots=1))
        world.learned(m["phone"])
        names = ["a", "b", "c", "d"]
        run = await m["phone"].start(load({"goal": "x", "steps": [step(name, "work.long") for name in names]}))
        await m.until(lambda: len(world.did) == 1)
        run.steps["b"].told = False
        run.poke()
        await run.ended.wait()
        assert run.state == "done", run.error
        assert [name for name, _ in world.did] == names


# -- devices that several owners share ---------------------------------------------------------------------------------

SHARED = ("phone", "tablet", "car", "hub")


async def beside_another_owner(hogs: dict[str, int], plan: dict[str, Any]) -> tuple[float, World, list[Any]]:
    """How long the tablet's plan takes while steps of the phone's, a minute long, run on other devices."""
    world = World()
    world.seconds = {("work.short", "car"): 0.1, ("work.short", "hub"): 0.5, ("work.long", "car"): 60.0,
                     ("work.long", "hub"): 60.0}  # fmt: skip
    skills = {name: world.skills() if name in ("car", "hub") else [] for name in SHARED}
    async with testing.mesh(*SHARED, skills=skills) as m:
        for owner in ("phone", "tablet"):
            world.learned(m[owner])
        steps = [step(f"{device}{i}", "work.long", device) for device, count in hogs.items() for i in range(count)]
        await m["phone"].start(load({"goal": "hogs", "steps": steps}))
        await m.until(lambda: len(world.did) == sum(hogs.values()))
        began = anyio.current_time()
        run = await m.run(plan, of="tablet")
        assert run.state == "done", run.error
        return anyio.current_time() - began, world, events(m, "run.assigned", "tablet")


QUICK = {"goal": "quick", "steps": [step("one", "work.short"), step("two", "work.short", None, ("one",))]}


async def test_what_a_device_full_of_another_owners_steps_does_not_begin_goes_elsewhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seconds, world, assigned = await beside_another_owner({"car": 4}, QUICK)
    assert [(event["why"], event["moved"]) for event in assigned] == [
        ("scheduled", 0), ("one is kept waiting on car", 2)]  # fmt: skip
    assert world.where("one") == world.where("two") == ["hub"]
    assert seconds < 3  # the hub needs 1 s
    monkeypatch.setattr(Watch, "_kept_at", lambda run, s, due: inf)
    assert (await beside_another_owner({"car": 4}, QUICK))[0] > 60


async def test_where_all_is_full_a_step_moves_ever_less_often() -> None:
    seconds, _, assigned = await beside_another_owner({"car": 4, "hub": 4}, QUICK)
    assert seconds < 60.5
    assert len(assigned) < 16  # of one look after the other twice as late, none of them sooner than 50 ms


async def test_room_that_another_owner_leaves_is_used() -> None:
    seconds, _, assigned = await beside_another_owner({"car": 3}, QUICK)
    assert seconds < 0.3
    assert len(assigned) == 1
