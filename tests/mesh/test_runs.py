"""Runs of plans over many nodes in memory, on virtual time: where steps go, what moves, what is never doubled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio
import pytest
from pydantic import BaseModel
from trio.testing import MockClock

from slipstream import testing
from slipstream.core.errors import SkillFailed, UsageError
from slipstream.core.plan import load
from slipstream.core.skill import Context, Cost, Effect, Outcome, skill

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "trio", {"clock": MockClock(autojump_threshold=0)}


class Number(BaseModel):
    n: int
    by: str = ""


class World:
    """What the skills of a test did, on which device."""

    def __init__(self) -> None:
        self.did: list[tuple[str, str]] = []
        self.fail: dict[str, int] = {}
        self.seconds: dict[str, float] = {}
        self.on: dict[str, Callable[[], Any]] = {}

    async def work(self, ctx: Context, what: str) -> None:
        """Take the time, fail as often, and do what the test asked for."""
        self.did.append((what, ctx.device))
        if act := self.on.get(what):
            await act()
        await anyio.sleep(self.seconds.get(what, 0.01))
        if self.fail.get(what, 0) > 0:
            self.fail[what] -= 1
            error = SkillFailed(f"{what} does not work")
            error.retry = True
            raise error

    def count(self, what: str) -> int:
        return sum(1 for name, _ in self.did if name == what)

    def where(self, what: str) -> list[str]:
        return [device for name, device in self.did if name == what]


def make(world: World) -> dict[str, Any]:
    @skill("num.one", effect=Effect.READ, cost=Cost(latency_ms=10))
    async def one(ctx: Context) -> Number:
        """Give one."""
        await world.work(ctx, "one")
        return Number(n=1, by=ctx.device)

    @skill("num.add", effect=Effect.READ, cost=Cost(latency_ms=10))
    async def add(ctx: Context, a: int, b: int = 1) -> Number:
        """Add two numbers."""
        await world.work(ctx, "add")
        return Number(n=a + b, by=ctx.device)

    @skill("num.many", effect=Effect.READ)
    async def many(ctx: Context, count: int) -> list[int]:
        """Give the first numbers."""
        await world.work(ctx, "many")
        return list(range(count))

    @skill("thing.send", effect=Effect.ONCE, undoable=True)
    async def send(ctx: Context, text: str) -> Number:
        """Send something that cannot be sent twice."""
        await world.work(ctx, f"send {text}")
        return Number(n=len(text))

    @send.undo
    async def _(ctx: Context, args: dict[str, Any], result: Number) -> None:
        world.did.append((f"unsend {args['text']}", ctx.device))

    @skill("thing.post", effect=Effect.ONCE)
    async def post(ctx: Context, text: str) -> Number:
        """Post something, and be able to tell whether it was posted."""
        await world.work(ctx, f"post {text}")
        return Number(n=len(text))

    @post.reconcile
    async def _(ctx: Context, args: dict[str, Any]) -> Outcome | Number:
        return Number(n=99)

    @skill("photo.take", effect=Effect.READ)
    async def photo(ctx: Context, size: int) -> bytes:
        """Take a photo."""
        await world.work(ctx, "photo")
        return b"p" * size

    @skill("photo.size", effect=Effect.READ)
    async def size(ctx: Context, photo: bytes) -> Number:
        """How large a photo is."""
        await world.work(ctx, "size")
        return Number(n=len(photo))

    return {s.spec.name: s for s in (one, add, many, send, post, photo, size)}


def step(id_: str, skill_: str, on: str | None = None, **fields: Any) -> dict[str, Any]:
    return {"id": id_, "skill": skill_, **({"on": on} if on else {}), **fields}


def ref(path: str) -> dict[str, str]:
    return {"$ref": path}


CHAIN = {
    "goal": "count to three",
    "steps": [
        step("one", "num.one", "phone"),
        step("two", "num.add", "car", args={"a": ref("one.n")}),
        step("three", "num.add", "phone", args={"a": ref("two.n")}),
    ],
    "output": {"n": ref("three.n")},
}


async def test_a_chain_runs_across_devices_and_every_step_says_where_and_why() -> None:
    world = World()
    skills = make(world)
    async with testing.mesh("phone", "car", skills={"phone": skills.values(), "car": skills.values()}) as m:
        run = await m.run(CHAIN)
        assert run.state == "done", run.error
        assert run.output == {"n": 3}
        assert world.did == [("one", "phone"), ("add", "car"), ("add", "phone")]
        assert "asked for" in run.steps["two"].why


async def test_results_go_straight_from_device_to_device_without_a_round_through_the_owner() -> None:
    world = World()
    skills = make(world)
    everywhere = {name: skills.values() for name in ("hub", "phone", "car")}
    async with testing.mesh("hub", "phone", "car", skills=everywhere) as m:
        seconds: list[float] = []

        async def look() -> None:
            seconds.append(anyio.current_time())
            if len(seconds) == 2:  # from here on the owner is not there; phone and car go on without it
                m.network.partition(["hub"], ["phone", "car"])

        world.on["add"] = look
        plan = {"goal": "x", "steps": [step("one", "num.one", "phone")] + [
            step(f"s{i}", "num.add", "car" if i % 2 else "phone", args={"a": ref(f"s{i - 1}.n" if i > 1 else "one.n")})
            for i in range(1, 8)]}  # fmt: skip
        run = await m["hub"].start(load(plan))
        await m.until(lambda: world.count("add") == 7)
        m.network.heal()
        await run.ended.wait()
        assert run.state == "done", run.error
        assert world.count("add") == 7


async def test_when_a_device_dies_in_the_middle_the_rest_is_run_elsewhere() -> None:
    world = World()
    skills = make(world)
    everywhere = {name: skills.values() for name in ("phone", "car", "hub")}
    async with testing.mesh("phone", "car", "hub", skills=everywhere) as m:
        world.seconds["photo"] = 5

        async def die() -> None:
            if world.where("photo") == ["hub"]:
                m["phone"]._group.start_soon(m.crash, "hub")

        world.on["photo"] = die
        plan = {"goal": "x", "steps": [step("shot", "photo.take", args={"size": 10}),
                                       step("size", "photo.size", args={"photo": ref("shot.result")})],
                "output": {"n": ref("size.n")}}  # fmt: skip
        # the hub is the quickest by far, so the scheduler goes there first
        for name in ("phone", "car"):
            for _ in range(40):
                m["phone"].costs.saw("photo.take", name, 9.0, 100, anyio.current_time())
        run = await m.run(plan)
        assert run.state == "done", run.error
        assert run.output == {"n": 10}
        assert world.where("photo")[0] == "hub"
        assert world.count("photo") == 2
        assert any(e.kind == "run.assigned" and "hub" in e.fields["why"] for e in m["phone"].events.recent)


async def test_a_once_step_whose_device_died_in_the_middle_ends_unknown_and_is_not_repeated() -> None:
    world = World()
    skills = make(world)
    async with testing.mesh("phone", "car", skills={"phone": skills.values(), "car": skills.values()}) as m:
        world.seconds["send x"] = 5

        async def die() -> None:
            m["phone"]._group.start_soon(m.crash, "car")

        world.on["send x"] = die
        run = await m.run({"goal": "x", "steps": [step("send", "thing.send", "car", args={"text": "x"})]})
        assert run.state == "unknown"
        assert world.count("send x") == 1


async def test_a_once_step_whose_device_comes_back_is_reconciled_and_the_run_goes_on() -> None:
    world = World()
    skills = make(world)
    async with testing.mesh("phone", "car", skills={"phone": skills.values(), "car": skills.values()}) as m:
        world.seconds["post x"] = 5

        async def die() -> None:
            async def crash_and_return() -> None:
                await m.crash("car")
                await anyio.sleep(2)
                await m.restart("car")

            m["phone"]._group.start_soon(crash_and_return)

        world.on["post x"] = die
        plan = {"goal": "x", "steps": [step("post", "thing.post", "car", args={"text": "x"})],
                "output": {"n": ref("post.n")}}  # fmt: skip
        run = await m.run(plan)
        assert run.state == "done", run.error
        assert run.output == {"n": 99}
        assert world.count("post x") == 1


async def test_a_once_step_that_cannot_have_begun_moves_when_its_device_is_gone() -> None:
    world = World()
    skills = make(world)
    everywhere = {name: skills.values() for name in ("phone", "car", "hub")}
    async with testing.mesh("phone", "car", "hub", skills=everywhere) as m:
        world.seconds["one"] = 6

        async def die() -> None:
            m["phone"]._group.start_soon(m.crash, "hub")

        world.on["one"] = die
        for name in ("phone", "car"):  # the hub sends best
            for _ in range(40):
                m["phone"].costs.saw("thing.send", name, 9.0, 100, anyio.current_time())
        plan = {"goal": "x", "steps": [step("one", "num.one", "car"),
                                       step("send", "thing.send", args={"text": "x"}, after=["one"])]}  # fmt: skip
        run = await m.run(plan)
        assert run.state == "done", run.error
        assert world.count("send x") == 1
        assert world.where("send x") != ["hub"]


async def test_a_step_that_waits_behind_others_that_take_longer_than_was_thought_moves() -> None:
    world = World()
    skills = make(world)
    async with testing.mesh("phone", "car", skills={name: skills.values() for name in ("phone", "car")}) as m:
        for name, seconds in (("phone", 0.01), ("car", 0.5)):
            for _ in range(40):
                m["phone"].costs.saw("num.many", m[name].id, seconds, 100, anyio.current_time())
                m["phone"].costs.saw("num.one", m[name].id, 0.05, 100, anyio.current_time())
                m["phone"].costs.saw("num.add", m[name].id, 2.0, 100, anyio.current_time())
        world.seconds.update(one=60, many=0.5, add=2)
        hogs = [step(f"hog{i}", "num.one", "phone") for i in range(4)]  # as many as the phone runs at once
        then = step("then", "num.add", "car", args={"a": 1}, after=["many"])
        plan = {"goal": "x", "steps": [*hogs, step("many", "num.many", args={"count": 3}), then]}
        run = await m.run(plan)
        assert run.state == "done", run.error
        assert world.where("many") == ["car"]
        many, hog = run.steps["many"], run.steps["hog0"]
        assert many.ended is not None
        assert hog.ended is not None
        assert many.ended < hog.ended - 50
        moved = [e for e in m["phone"].events.recent if e.kind == "run.assigned" and "many" in e.fields["assignment"]]
        assert [e.fields["assignment"]["many"]["device"] for e in moved] == ["phone", "car"]  # and not to and fro


async def test_an_urgent_plan_goes_before_what_has_not_begun_and_around_what_has() -> None:
    world = World()
    skills = make(world)
    async with testing.mesh("phone", "car", skills={name: skills.values() for name in ("phone", "car")}) as m:
        for name in ("phone", "car"):
            for skill_name in ("num.one", "num.many"):
                for _ in range(40):
                    m["phone"].costs.saw(skill_name, m[name].id, 10.0, 100, anyio.current_time())
        world.seconds.update(one=10, many=10)
        slow = {"goal": "slow", "steps": [step(f"s{i}", "num.one", "car") for i in range(12)]}
        first = await m["phone"].start(load(slow))
        await anyio.sleep(5)
        urgent = {"goal": "urgent", "priority": 9, "steps": [step("now", "num.many", "car", args={"count": 1})]}
        second = await m["phone"].start(load(urgent))
        free = await m["phone"].start(load({"goal": "free", "steps": [step("x", "num.many", args={"count": 1})]}))
        for run in (first, second, free):
            await run.ended.wait()
            assert run.state == "done", run.error
        # what had begun went on, the free step went where there was room, and the urgent one was of the next four
        assert world.did[:5] == [*[("one", "car")] * 4, ("many", "phone")]
        assert ("many", "car") in world.did[5:9]
        assert world.count("one") == 12


async def test_a_failed_read_is_tried_elsewhere_and_a_failed_once_is_not_tried_again() -> None:
    world = World()
    skills = make(world)
    async with testing.mesh("phone", "car", skills={"phone": skills.values(), "car": skills.values()}) as m:
        world.fail["one"] = 1
        run = await m.run({"goal": "x", "steps": [step("one", "num.one")]})
        assert run.state == "done", run.error
        assert sorted(world.where("one")) == ["car", "phone"]
        world.fail["send x"] = 1
        run = await m.run({"goal": "x", "steps": [step("send", "thing.send", args={"text": "x"})]})
        assert run.state == "failed"
        assert run.error is not None
        assert run.error.fault == "skill"
        assert world.count("send x") == 1


async def test_when_and_skips_pass_on_along_the_data_but_not_along_the_order() -> None:
    world = World()
    skills = make(world)
    async with testing.mesh("phone", "car", skills={"phone": skills.values(), "car": skills.values()}) as m:
        plan = {"goal": "x", "steps": [
            step("one", "num.one", "phone"),
            step("not", "num.add", "car", args={"a": 1}, when={"op": "gt", "left": ref("one.n"), "right": 5}),
            step("reads", "num.add", "phone", args={"a": ref("not.n")}),
            step("follows", "num.add", "car", args={"a": 5}, after=["not"]),
            step("yes", "num.add", "car", args={"a": 7}, when={"op": "eq", "left": ref("one.by"), "right": "phone"}),
        ], "output": {"reads": ref("reads.n"), "follows": ref("follows.n"), "yes": ref("yes.n")}}  # fmt: skip
        run = await m.run(plan)
        assert run.state == "done", run.error
        assert {name: s.state for name, s in run.steps.items()} == {
            "one": "done", "not": "skipped", "reads": "skipped", "follows": "done", "yes": "done"}  # fmt: skip
        assert run.output == {"reads": None, "follows": 6, "yes": 8}


async def test_for_each_runs_once_per_item_and_a_list_that_is_empty_is_done_at_once() -> None:
    world = World()
    skills = make(world)
    async with testing.mesh("phone", "car", skills={"phone": skills.values(), "car": skills.values()}) as m:
        plan = {"goal": "x", "inputs": {"count": 5}, "steps": [
            step("many", "num.many", "phone", args={"count": ref("inputs.count")}),
            step("each", "num.add", "car", args={"a": ref("item"), "b": 10}, for_each=ref("many.result")),
        ], "output": {"all": ref("each.result")}}  # fmt: skip
        run = await m.run(plan)
        assert [item["n"] for item in run.output["all"]] == [10, 11, 12, 13, 14]
        run = await m.run(plan, inputs={"count": 0})
        assert run.output == {"all": []}


async def test_a_failed_run_is_compensated_in_reverse_order() -> None:
    world = World()
    skills = make(world)
    async with testing.mesh("phone", "car", skills={"phone": skills.values(), "car": skills.values()}) as m:
        world.fail["send c"] = 9
        plan = {"goal": "x", "on_failure": "compensate", "steps": [
            step("a", "thing.send", "phone", args={"text": "a"}),
            step("b", "thing.send", "car", args={"text": "b"}, after=["a"]),
            step("c", "thing.send", "car", args={"text": "c"}, after=["b"]),
        ]}  # fmt: skip
        run = await m.run(plan)
        assert run.state == "failed"
        assert [what for what, _ in world.did] == ["send a", "send b", "send c", "unsend b", "unsend a"]


async def test_a_cancelled_run_stops_what_runs_on_every_device_and_starts_nothing_more() -> None:
    world = World()
    skills = make(world)
    async with testing.mesh("phone", "car", skills={"phone": skills.values(), "car": skills.values()}) as m:
        world.seconds["one"] = 1000
        plan = {"goal": "x", "steps": [step("one", "num.one", "car"),
                                       step("two", "num.add", "phone", args={"a": ref("one.n")})]}  # fmt: skip
        run = await m["phone"].start(load(plan))
        await m.until(lambda: world.count("one") == 1)
        before = anyio.current_time()
        run.cancel()
        await run.ended.wait()
        assert run.state == "cancelled"
        assert anyio.current_time() - before < 5
        assert world.count("add") == 0
        await m.until(lambda: m["car"].executor.running == 0)


async def test_deadlines_travel_with_the_steps_and_end_the_run() -> None:
    world = World()
    skills = make(world)
    async with testing.mesh("phone", "car", skills={"phone": skills.values(), "car": skills.values()}) as m:
        world.seconds["one"] = 1000
        run = await m.run({"goal": "x", "deadline_ms": 2000, "steps": [step("one", "num.one", "car")]})
        assert run.state == "failed"
        assert run.error is not None
        assert run.error.code == "timed_out"
        run = await m.run({"goal": "x", "steps": [step("one", "num.one", "car", deadline_ms=500, on_error="skip")]})
        assert run.state == "done"
        assert run.steps["one"].state == "skipped"


async def test_large_results_are_handed_over_directly_and_again_when_the_reader_moves() -> None:
    world = World()
    skills = make(world)
    everywhere = {name: skills.values() for name in ("hub", "phone", "car")}
    async with testing.mesh("hub", "phone", "car", skills=everywhere) as m:
        plan = {"goal": "x", "steps": [step("shot", "photo.take", "phone", args={"size": 3_000_000}),
                                       step("size", "photo.size", "car", args={"photo": ref("shot.result")})],
                "output": {"n": ref("size.n")}}  # fmt: skip
        run = await m.run(plan)
        assert run.state == "done", run.error
        assert run.output == {"n": 3_000_000}
        assert not run.steps["shot"].has_value


async def test_a_plan_that_no_device_can_run_is_refused_and_nothing_starts() -> None:
    world = World()
    skills = make(world)
    async with testing.mesh("phone", skills={"phone": [skills["num.one"]]}) as m:
        with pytest.raises(UsageError, match="step two: skill"):
            await m.run({"goal": "x", "steps": [step("one", "num.one"), step("two", "num.add", args={"a": 1})]})
        assert world.did == []
        run = await m.run({"goal": "x", "steps": [step("one", "num.one", "submarine")]})
        assert run.error is not None
        assert run.error.code == "no_device"
        assert world.did == []


async def test_an_owner_that_was_killed_resumes_its_run_and_does_nothing_twice() -> None:
    world = World()
    skills = make(world)
    async with testing.mesh("phone", "car", skills={"phone": skills.values(), "car": skills.values()}) as m:
        world.seconds["send b"] = 3
        plan = {"goal": "x", "steps": [
            step("a", "thing.send", "car", args={"text": "a"}),
            step("b", "thing.send", "car", args={"text": "b"}, after=["a"]),
            step("c", "thing.send", "phone", args={"text": "c"}, after=["b"]),
        ], "output": {"c": ref("c.n")}}  # fmt: skip
        run = await m["phone"].start(load(plan))
        await m.until(lambda: world.count("send b") == 1)
        await m.crash("phone")
        phone = await m.restart("phone")
        assert [row.id for row in phone.runs.interrupted()] == [run.id]
        again = await phone.resume(run.id)
        await again.ended.wait()
        assert again.state == "done", again.error
        assert [what for what, _ in world.did] == ["send a", "send b", "send c"]
        with pytest.raises(UsageError, match="is over"):
            await phone.resume(run.id)
