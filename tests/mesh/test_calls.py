"""Calls between nodes in memory, on virtual time: streams, cancels, deadlines, lost links, who is here and who not."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import anyio
import pytest
from trio.testing import MockClock

from slipstream import testing
from slipstream.core.errors import LinkLost, SlipError, TimedOut, UsageError
from slipstream.core.events import Event
from slipstream.core.node import Node
from slipstream.core.session import WINDOW
from slipstream.core.skill import Context, Effect, skill
from slipstream.core.wire import CHUNK
from slipstream.transports.memory import HIGH_WATER, Conditions

pytestmark = pytest.mark.anyio

SLACK = 0.05
"""Seconds by which a call may outlive its deadline at most."""


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "trio", {"clock": MockClock(autojump_threshold=0)}


class World:
    """What the skills of a test did."""

    def __init__(self) -> None:
        self.began: list[tuple[float, str]] = []
        self.ended: list[tuple[float, str]] = []
        self.cancelled: list[tuple[float, str]] = []
        self.deadlines: list[float] = []
        self.produced = 0
        self.changed = anyio.Event()

    def note(self, where: list[tuple[float, str]], what: str) -> None:
        where.append((anyio.current_time(), what))
        self.changed.set()
        self.changed = anyio.Event()

    async def until(self, true: Callable[[], bool]) -> None:
        while not true():
            await self.changed.wait()

    def skills(self) -> list[Any]:
        world = self

        @skill("test.nap", effect=Effect.READ)
        async def nap(ctx: Context, seconds: float, name: str = "nap") -> str:
            """Take some time."""
            world.note(world.began, name)
            world.deadlines.append(ctx.deadline or 0.0)
            try:
                for i in range(10):
                    await ctx.progress(i / 10, f"part {i}")
                    await anyio.sleep(seconds / 10)
            except BaseException:
                world.note(world.cancelled, name)
                raise
            world.note(world.ended, name)
            return f"{name} on {ctx.device}"

        @skill("test.stubborn", effect=Effect.READ)
        async def stubborn(ctx: Context, seconds: float) -> str:
            """Take some time, whatever anybody says."""
            world.note(world.began, "stubborn")
            with anyio.CancelScope(shield=True):
                await anyio.sleep(seconds)
            world.note(world.ended, "stubborn")
            return "done after all"

        @skill("test.pay", effect=Effect.ONCE)
        async def pay(ctx: Context, seconds: float, amount: int) -> int:
            """Pay; twice would be bad."""
            world.note(world.began, f"pay {amount}")
            await anyio.sleep(seconds)
            world.note(world.ended, f"pay {amount}")
            return amount

        @skill("test.count", effect=Effect.READ)
        async def count(ctx: Context, to: int, size: int = 0) -> AsyncIterator[bytes]:
            """Count, with some weight in every item."""
            world.produced = 0
            try:
                for i in range(to):
                    world.produced += 1
                    yield i.to_bytes(4, "big") + bytes(size)
            finally:
                world.note(world.ended, "count")

        @skill("test.mixed", effect=Effect.READ)
        async def mixed(ctx: Context) -> AsyncIterator[bytes]:
            """Begin with small items, and go on with large ones."""
            for i in range(1000):
                size = 1_000 if i < 200 else 100_000
                world.produced += size
                yield bytes(size)

        @skill("test.photo", effect=Effect.READ)
        async def photo(ctx: Context, size: int) -> bytes:
            """Give some bytes."""
            return bytes(size)

        @skill("test.relay", effect=Effect.READ)
        async def relay(ctx: Context, on: str, seconds: float) -> str:
            """Have another device take some time."""
            answer: str = (await ctx.call("test.nap", on=on, seconds=seconds))["result"]
            return answer

        return [nap, stubborn, pay, count, mixed, photo, relay]


def everywhere(world: World, *names: str) -> dict[str, Any]:
    """The test's skills on every device."""
    skills = world.skills()
    return dict.fromkeys(names, skills)


def told(node: Node, kind: str, device: str) -> list[Event]:
    """What a node told of a device."""
    return [e for e in node.events.recent if e.kind == kind and e.fields["device"] == device]


async def lost(node: Node, device: str) -> tuple[float, str]:
    """Wait until a node tells that a device left: when, and why."""
    found: list[tuple[float, str]] = []
    gone = anyio.Event()

    def listen(event: Event) -> None:
        if event.kind == "device.left" and event.fields["device"] == device:
            found.append((anyio.current_time(), event.fields["why"]))
            gone.set()

    stop = node.events.listen(listen)
    await gone.wait()
    stop()
    return found[0]


# -- calls and streams -------------------------------------------------------------------------------------------------


async def test_calls_run_side_by_side() -> None:
    world = World()
    async with testing.mesh("phone", "car", skills=everywhere(world, "phone", "car")) as m:
        began = anyio.current_time()
        answers: list[Any] = []

        async def one(i: int) -> None:
            answers.append(await m.call("test.nap", {"seconds": 1.0, "name": f"{i}"}, on="car"))

        async with anyio.create_task_group() as group:
            for i in range(200):
                group.start_soon(one, i)
        assert sorted(a["result"] for a in answers) == sorted(f"{i} on car" for i in range(200))
        assert anyio.current_time() - began < 1.1


async def test_progress_arrives_in_order_and_before_the_answer() -> None:
    world = World()
    async with testing.mesh("phone", "car", skills=everywhere(world, "phone", "car")) as m:
        seen: list[tuple[float, str]] = []
        await m["phone"].call(
            "test.nap", {"seconds": 1.0}, on="car", on_progress=lambda fraction, note: seen.append((fraction, note))
        )
        assert seen == [(i / 10, f"part {i}") for i in range(10)]


async def test_a_stream_comes_in_order_and_whole() -> None:
    world = World()
    async with testing.mesh("phone", "car", skills=everywhere(world, "phone", "car")) as m:
        args = {"to": 500, "size": 3000}
        got = [item async for item in m["phone"].stream("test.count", args, on="car")]
        assert [int.from_bytes(item[:4], "big") for item in got] == list(range(500))
        here = [item async for item in m["phone"].stream("test.count", args, on="phone")]
        assert here == got


async def test_calling_a_streaming_skill_gives_all_of_its_items_at_once_from_near_and_far() -> None:
    world = World()
    async with testing.mesh("phone", "car", skills=everywhere(world, "phone", "car")) as m:
        far = await m.call("test.count", {"to": 3}, on="car")
        near = await m.call("test.count", {"to": 3}, on="phone")
        assert far == near == {"result": [i.to_bytes(4, "big") for i in range(3)]}
        assert m["phone"].reachable("car")


@pytest.mark.parametrize("size", [100, 5_000, 100_000])
async def test_a_slow_reader_stops_the_producer(size: int) -> None:
    world = World()
    async with testing.mesh("phone", "car", skills=everywhere(world, "phone", "car")) as m:
        read = 0
        stream = m["phone"].stream("test.count", {"to": 10_000, "size": size}, on="car")
        async for _ in stream:
            read += 1
            await anyio.sleep(1)
            assert (world.produced - read) * size <= WINDOW + 2 * size
            if read == 5:
                break
        await stream.aclose()
        await world.until(lambda: bool(world.ended))
        assert world.produced * size <= WINDOW + 8 * size


async def test_a_stream_of_this_device_comes_as_it_is_made_and_ends_with_its_reader() -> None:
    world = World()
    async with testing.mesh("phone", skills=everywhere(world, "phone")) as m:
        stream = m["phone"].stream("test.count", {"to": 10_000}, on="phone")
        for read in range(1, 6):
            await anext(stream)
            await anyio.sleep(1)
            assert world.produced <= read + 2
        await stream.aclose()
        await world.until(lambda: bool(world.ended))
        late = m["phone"].stream("test.count", {"to": 10_000}, on="phone", deadline=anyio.current_time() + 3)
        await anext(late)
        await anyio.sleep(4)
        with pytest.raises(TimedOut):
            [item async for item in late]
        await world.until(lambda: len(world.ended) == 2)
        with pytest.raises(UsageError):
            [item async for item in m["phone"].stream("test.count", {"to": "many"}, on="phone")]
        assert len([item async for item in m["phone"].stream("test.count", {"to": 3}, on="phone")]) == 3


async def test_a_little_credit_does_not_let_large_items_pass() -> None:
    world = World()
    async with testing.mesh("phone", "car", skills=everywhere(world, "phone", "car")) as m:
        stream = m["phone"].stream("test.mixed", {}, on="car")
        for _ in range(50):
            await anext(stream)
            await anyio.sleep(1)
        assert world.produced <= WINDOW + 2 * 100_000
        await stream.aclose()


# -- cancels and deadlines ---------------------------------------------------------------------------------------------


async def test_a_caller_that_gives_up_cancels_the_skill_where_it_runs() -> None:
    world = World()
    async with testing.mesh("phone", "car", skills=everywhere(world, "phone", "car")) as m:
        began = anyio.current_time()
        with anyio.move_on_after(2):
            await m.call("test.nap", {"seconds": 20}, on="car")
        await world.until(lambda: bool(world.cancelled))
        assert world.cancelled[0][0] - began < 2 + SLACK
        assert not m["car"].links.up["phone"].busy


async def test_a_call_that_nobody_waits_for_does_not_stay_open_when_its_skill_refuses_to_be_cancelled() -> None:
    world = World()
    async with testing.mesh("phone", "car", skills=everywhere(world, "phone", "car")) as m:
        with anyio.move_on_after(1):
            await m.call("test.stubborn", {"seconds": 1000}, on="car")
        assert await m.call("test.photo", {"size": 1}, on="car") == {"result": b"\0"}
        assert not m["car"].links.up["phone"].busy
        assert not world.ended


@pytest.mark.parametrize("name", ["test.nap", "test.stubborn"])
@pytest.mark.parametrize("on", ["phone", "car"])
async def test_no_call_outlives_its_deadline(name: str, on: str) -> None:
    world = World()
    async with testing.mesh("phone", "car", skills=everywhere(world, "phone", "car")) as m:
        began = anyio.current_time()
        with pytest.raises(TimedOut) as overdue:
            await m.call(name, {"seconds": 20}, on=on, deadline=began + 2)
        assert 2 <= anyio.current_time() - began <= 2 + SLACK
        assert overdue.value.retry


async def test_no_call_outlives_its_deadline_on_a_link_that_was_cut_silently() -> None:
    world = World()
    async with testing.mesh("phone", "car", skills=everywhere(world, "phone", "car")) as m:
        began = anyio.current_time()
        m.drop_link("phone", "car")
        with pytest.raises(TimedOut):
            await m.call("test.nap", {"seconds": 1}, on="car", deadline=began + 1.5)
        assert anyio.current_time() - began <= 1.5 + SLACK
        assert world.began == []


async def test_a_deadline_travels_through_a_skill_that_calls_another() -> None:
    world = World()
    async with testing.mesh("phone", "car", "hub", skills=everywhere(world, "phone", "car", "hub")) as m:
        began = anyio.current_time()
        with pytest.raises(TimedOut):
            await m.call("test.relay", {"on": "hub", "seconds": 20}, on="car", deadline=began + 3)
        assert anyio.current_time() - began <= 3 + SLACK
        await world.until(lambda: bool(world.cancelled))
        assert world.cancelled[0][0] - began <= 3 + SLACK
        assert world.deadlines == [pytest.approx(began + 3, abs=SLACK)]


# -- lost links --------------------------------------------------------------------------------------------------------


async def test_all_calls_in_flight_fail_at_once_when_their_device_dies() -> None:
    world = World()
    async with testing.mesh("phone", "car", skills=everywhere(world, "phone", "car")) as m:
        failed: list[tuple[float, SlipError]] = []

        async def one() -> None:
            try:
                await m.call("test.nap", {"seconds": 20}, on="car")
            except LinkLost as error:
                failed.append((anyio.current_time(), error))

        async with anyio.create_task_group() as group:
            for _ in range(100):
                group.start_soon(one)
            await world.until(lambda: len(world.began) == 100)
            died = anyio.current_time()
            await m.crash("car")
        assert len(failed) == 100
        assert all(at - died < 0.1 for at, _ in failed)
        assert all(error.fault == "network" and error.retry for _, error in failed)


async def test_a_read_is_repeated_on_a_new_link() -> None:
    world = World()
    async with testing.mesh("phone", "car", "hub", skills=everywhere(world, "phone", "car", "hub")) as m:
        async with anyio.create_task_group() as group:

            async def break_link() -> None:
                await world.until(lambda: bool(world.began))
                m["phone"].links.up["car"].link.abort()

            group.start_soon(break_link)
            assert await m.call("test.nap", {"seconds": 2}, on="car") == {"result": "nap on car"}
        assert len(world.began) == 2
        assert len(world.cancelled) == 1
        assert len(world.ended) == 1


async def test_what_must_not_happen_twice_is_asked_for_again_under_its_key_and_done_once() -> None:
    world = World()
    async with testing.mesh("phone", "car", "hub", skills=everywhere(world, "phone", "car", "hub")) as m:
        async with anyio.create_task_group() as group:

            async def break_links() -> None:
                await world.until(lambda: bool(world.began))
                m["phone"].links.up["car"].link.abort()

            group.start_soon(break_links)
            assert await m.call("test.pay", {"seconds": 2, "amount": 5}, on="car") == {"result": 5}
        assert [what for _, what in world.began] == ["pay 5"]
        # and the first answer stands, also for a caller that asks again
        again = await m["hub"].call("test.pay", {"seconds": 2, "amount": 6}, on="car", key="k1")
        assert await m["hub"].call("test.pay", {"seconds": 2, "amount": 6}, on="car", key="k1") == again
        assert [what for _, what in world.began] == ["pay 5", "pay 6"]


async def test_a_device_that_cannot_be_dialled_fails_a_call_at_once_and_does_not_hold_up_the_others() -> None:
    world = World()
    async with testing.mesh("phone", "hub", skills=everywhere(world, "phone", "hub")) as m:
        m.network.cut("phone", "car")
        car = await m.add("car", packs=[testing.Pack("car skills", tuple(world.skills()))])
        car.addresses_are([])
        phone = m["phone"]
        await m.until(lambda: phone.reachable("car") and not phone.addresses_of("car"))
        began = anyio.current_time()
        with pytest.raises(LinkLost, match="no address"):
            await m.call("test.photo", {"size": 1}, on="car")
        assert anyio.current_time() == began


async def test_dialling_counts_towards_the_deadline() -> None:
    world = World()
    async with testing.mesh("phone", "hub", skills=everywhere(world, "phone", "hub")) as m:
        m.network.cut("phone", "car")
        await m.add("car", packs=[testing.Pack("car skills", tuple(world.skills()))])
        await m.until(lambda: m["phone"].reachable("car"))
        began = anyio.current_time()
        with pytest.raises(TimedOut, match="was not reached"):
            await m.call("test.photo", {"size": 1}, on="car", deadline=began + 1)
        assert anyio.current_time() - began <= 1 + SLACK


async def test_a_link_that_the_skill_itself_lost_is_its_answer_and_not_asked_for_again() -> None:
    world = World()
    async with testing.mesh("phone", "car", "hub", skills=everywhere(world, "phone", "car", "hub")) as m:
        async with anyio.create_task_group() as group:

            async def die() -> None:
                await world.until(lambda: bool(world.began))
                await m.crash("hub")

            group.start_soon(die)
            with pytest.raises(LinkLost, match="hub"):
                await m.call("test.relay", {"on": "hub", "seconds": 5}, on="car")
        assert len(world.began) == 1


async def test_two_devices_alone_dial_a_lost_link_again_within_the_call() -> None:
    world = World()
    async with testing.mesh("phone", "car", skills=everywhere(world, "phone", "car")) as m:
        async with anyio.create_task_group() as group:

            async def break_link() -> None:
                await world.until(lambda: bool(world.began))
                m["phone"].links.up["car"].link.abort()

            group.start_soon(break_link)
            assert await m.call("test.nap", {"seconds": 2}, on="car") == {"result": "nap on car"}
        assert len(told(m["phone"], "link.up", "car")) == 2


async def test_a_stream_whose_link_dies_ends_with_that_reason_and_its_producer_ends_too() -> None:
    world = World()
    async with testing.mesh("phone", "car", skills=everywhere(world, "phone", "car")) as m:
        stream = m["phone"].stream("test.count", {"to": 10_000, "size": 10_000}, on="car")
        await anext(stream)
        m["phone"].links.up["car"].link.abort()
        with pytest.raises(LinkLost):
            [item async for item in stream]
        await world.until(lambda: bool(world.ended))
        assert world.produced < 100


async def test_small_calls_overtake_a_large_blob_on_a_narrow_link() -> None:
    world = World()
    async with testing.mesh("phone", "car", skills=everywhere(world, "phone", "car")) as m:
        bandwidth = 1_000_000
        m.network.set("phone", "car", Conditions(delay=0.001, bandwidth=bandwidth))
        size = 3_000_000
        took: list[float] = []
        blob_took = 0.0

        async def blob() -> None:
            nonlocal blob_took
            began = anyio.current_time()
            assert len((await m.call("test.photo", {"size": size}, on="car"))["result"]) == size
            blob_took = anyio.current_time() - began
            group.cancel_scope.cancel()

        async with anyio.create_task_group() as group:
            group.start_soon(blob)
            while True:
                await anyio.sleep(0.1)
                began = anyio.current_time()
                await m.call("test.photo", {"size": 1}, on="car")
                took.append(anyio.current_time() - began)
        assert len(took) >= 8
        # what the link has taken already is before them, and a chunk that was being written
        assert max(took) <= (HIGH_WATER + 2 * CHUNK) / bandwidth + 0.01
        assert size / bandwidth <= blob_took <= 1.05 * size / bandwidth


@pytest.mark.parametrize("delays", [(0.0, 0.0), (0.01, 0.0), (0.02, 0.005)])
async def test_two_devices_that_dial_each_other_at_once_end_with_one_link_and_lose_no_call(
    delays: tuple[float, float],
) -> None:
    world = World()
    async with testing.mesh("phone", skills=everywhere(world, "phone")) as m:
        m.network.cut("phone", "car")
        car = await m.add("car", packs=[testing.Pack("car skills", tuple(world.skills()))])
        m.network.heal()
        m.network.set("phone", "car", Conditions(delay=delays[0], jitter=delays[1]))
        phone = m["phone"]
        answers: list[Any] = []

        async def dial_and_call(a: Node, b: str) -> None:
            await a.connect(b, [f"memory://{b}"])
            peer = a.links.up[b]
            answers.append(await peer.call("test.photo", {"size": 1}))
            for i in range(5):
                answers.append(await a.links.up[b].call("test.nap", {"seconds": 0.2 * i}))

        async with anyio.create_task_group() as group:
            group.start_soon(dial_and_call, phone, "car")
            group.start_soon(dial_and_call, car, "phone")
        assert len(answers) == 12
        await anyio.sleep(1)
        (one,), (other,) = phone.links._all, car.links._all
        assert one is phone.links.up["car"]
        assert other is car.links.up["phone"]
        assert one.link.other is other.link  # type: ignore[attr-defined]
        assert other.link.dialled  # "car" is the smaller id
        assert not told(phone, "link.down", "car")
        assert not told(phone, "device.left", "car")


# -- who is here -------------------------------------------------------------------------------------------------------


async def test_a_device_that_leaves_is_gone_at_once_and_everybody_knows_why() -> None:
    async with testing.mesh("phone", "car", "hub") as m:
        asked = anyio.current_time()
        async with anyio.create_task_group() as group:
            group.start_soon(m.leave, "car")
            at, why = await lost(m["phone"], "car")
        assert at - asked < 0.1
        assert why == "left"
        assert [e.fields["why"] for e in told(m["hub"], "device.left", "car")] == ["left"]
        assert anyio.current_time() - asked < 0.1
        assert not m["phone"].reachable("car")
        assert m["phone"].reachable("hub")


async def test_a_device_that_is_killed_is_gone_at_once() -> None:
    async with testing.mesh("phone", "car") as m:
        killed = anyio.current_time()
        async with anyio.create_task_group() as group:
            group.start_soon(m.crash, "car")
            at, why = await lost(m["phone"], "car")
        assert at - killed < 0.1
        assert "reset" in why


@pytest.mark.parametrize("phase", [0.0, 0.4, 0.8, 1.2])
async def test_a_silent_partition_is_noticed_in_time_whenever_it_begins(phase: float) -> None:
    async with testing.mesh("phone", "car") as m:
        await anyio.sleep(10 + phase)
        m.drop_link("phone", "car")
        cut = anyio.current_time()
        at, why = await lost(m["phone"], "car")
        assert 1.5 < at - cut <= 3.5
        assert "nothing was heard" in why
        assert told(m["phone"], "device.suspect", "car")


async def test_heartbeats_keep_an_idle_mesh_together_for_an_hour() -> None:
    async with testing.mesh("phone", "car", "hub") as m:
        await anyio.sleep(3600)
        for name, other in (("phone", "car"), ("car", "hub"), ("hub", "phone")):
            assert m[name].reachable(other)
            assert not told(m[name], "device.left", other)
            assert not told(m[name], "device.suspect", other)


async def test_a_device_that_is_known_only_through_others_is_shown_with_its_way() -> None:
    async with testing.mesh("phone", "hub") as m:
        m.network.cut("phone", "car")
        await m.add("car")
        phone = m["phone"]
        await m.until(lambda: bool(told(phone, "device.joined", "car")))
        assert phone.members.state("car") == "via"
        assert phone.members.via("car") == "hub"
        assert told(phone, "device.joined", "car")[0].fields["via"] == "hub"
        assert "car" not in phone.links.up
        m.network.heal()
        await phone.connect("car", ["memory://car"])
        await m.until(lambda: phone.members.state("car") == "linked")


async def test_a_device_that_restarts_is_told_as_gone_and_come_back() -> None:
    async with testing.mesh("phone", "car") as m:
        before = m["phone"].members.get("car").version
        m["phone"].events.recent.clear()
        await m.crash("car")
        await m.restart("car")
        kinds = [e.kind for e in m["phone"].events.recent if e.kind in ("device.left", "device.joined")]
        assert kinds == ["device.left", "device.joined"]
        assert m["phone"].members.get("car").version[0] > before[0]


async def test_a_partition_that_heals_brings_the_devices_together_again() -> None:
    world = World()
    async with testing.mesh("phone", "car", "hub", skills=everywhere(world, "phone", "car", "hub")) as m:
        m.network.partition(["phone"], ["car", "hub"])
        await lost(m["phone"], "car")
        await anyio.sleep(30)
        m.network.heal()
        healed = anyio.current_time()
        await m["phone"].connect("hub", ["memory://hub"])
        await m.until(lambda: m["phone"].reachable("car"))
        assert anyio.current_time() - healed < 2
        assert await m.call("test.photo", {"size": 1}, on="car") == {"result": b"\0"}
