from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise

import anyio
import anyio.lowlevel
import pytest
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from slipstream.core.errors import LinkLost
from slipstream.core.link import Link
from slipstream.transports.memory import DIAL_TIMEOUT, HIGH_WATER, Conditions, MemoryTransport, Network

pytestmark = pytest.mark.anyio


class Ear:
    """Keeps what a link tells, with the time."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.heard: list[tuple[float, bytes]] = []
        self.lost: list[tuple[float, LinkLost | None]] = []
        self.room = 0
        link.start(self)

    @property
    def data(self) -> bytes:
        return b"".join(piece for _, piece in self.heard)

    def data_received(self, data: bytes) -> None:
        assert not self.lost
        self.heard.append((anyio.current_time(), data))

    def writable(self) -> None:
        self.room += 1

    def link_lost(self, reason) -> None:
        self.lost.append((anyio.current_time(), reason))


class Echo(Ear):
    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self.link.write(data)


@asynccontextmanager
async def pair(network: Network, ear: type[Ear] = Ear) -> AsyncIterator[tuple[Ear, Ear]]:
    """A link from `phone` to `car`, both ends started."""
    accepted: list[Ear] = []
    knocked = anyio.Event()

    def accept(link: Link) -> None:
        accepted.append(ear(link))
        knocked.set()

    async with MemoryTransport(network, "car").serve(accept) as (address,):
        ours = Ear(await MemoryTransport(network, "phone").dial(address, "car"))
        await knocked.wait()
        yield ours, accepted[0]


@pytest.fixture
def anyio_backend():
    return "trio", {"clock": MockClock(autojump_threshold=0)}


def run(main) -> None:
    options = {"clock": MockClock(autojump_threshold=0)}
    anyio.run(main, backend="trio", backend_options=options)


async def test_both_ends_know_each_other_and_who_dialled():
    async with Network() as network, pair(network) as (ours, theirs):
        assert isinstance(ours.link, Link)
        assert (ours.link.peer, ours.link.address, ours.link.dialled) == ("car", "memory://car", True)
        assert (theirs.link.peer, theirs.link.address, theirs.link.dialled) == ("phone", "memory://phone", False)


async def test_without_delay_bytes_arrive_on_the_next_turn_joined_and_no_time_passes():
    async with Network() as network, pair(network, Echo) as (ours, theirs):
        now = anyio.current_time()
        ours.link.write(b"one ")
        ours.link.write(b"two")
        assert not theirs.heard
        await anyio.sleep(0.0001)
        assert theirs.heard == [(now, b"one two")] == ours.heard


async def test_two_devices_without_delay_that_answer_each_other_forever_let_others_run():
    async with Network() as network, pair(network, Echo) as (ours, theirs):
        ours.data_received = lambda data: ours.link.write(data)
        ours.link.write(b"ball")
        for _ in range(100):
            await anyio.lowlevel.checkpoint()
        ours.link.abort()
        assert 10 < len(theirs.heard) < 200


def test_the_network_runs_on_asyncio_and_its_real_clock_too():
    async def main():
        async with Network(conditions=Conditions(delay=0.001)) as network:
            done = anyio.Event()
            async with MemoryTransport(network, "car").serve(Echo) as (address,):
                ours = Ear(await MemoryTransport(network, "phone").dial(address, "car"))
                ours.writable = lambda: None
                ours.data_received = lambda data: done.set()
                ours.link.write(b"x")
                await done.wait()

    anyio.run(main)


async def test_a_delay_counts_both_ways():
    async with Network(conditions=Conditions(delay=0.05)) as network, pair(network, Echo) as (ours, _):
        sent = anyio.current_time()
        ours.link.write(b"x")
        await anyio.sleep(1)
        assert ours.heard[0][0] - sent == pytest.approx(0.1, abs=0.002)


@given(
    st.integers(0, 1000),
    st.lists(st.tuples(st.integers(1, 5000), st.floats(0, 0.05)), min_size=1, max_size=30),
    st.floats(0, 0.5),
    st.sampled_from([1e4, 1e6, float("inf")]),
)
async def test_whatever_the_weather_a_links_bytes_arrive_whole_and_in_order(seed, writes, loss, bandwidth):
    weather = Conditions(delay=0.01, jitter=0.2, loss=loss, bandwidth=bandwidth)
    async with Network(seed, weather) as network, pair(network) as (ours, theirs):
        sent = b""
        for number, (size, pause) in enumerate(writes):
            sent += (piece := bytes([number]) * size)
            ours.link.write(piece)
            if number % 7 == 3:
                network.cut("phone", "car")
            elif number % 7 == 5:
                network.heal("phone", "car")
            await anyio.sleep(pause)
        network.heal()
        ours.link.close()
        await anyio.sleep(2000)
        assert theirs.data == sent
        assert [reason for _, reason in theirs.lost] == [None] == [reason for _, reason in ours.lost]


def test_equal_seeds_give_equal_times_and_other_seeds_other_ones():
    def times(seed: int) -> list[float]:
        result: list[float] = []

        async def main():
            weather = Conditions(delay=0.01, jitter=0.1, loss=0.2)
            async with Network(seed, weather) as network, pair(network, Echo) as (ours, _):
                for number in range(50):
                    ours.link.write(b"%d" % number)
                    await anyio.sleep(0.02)
                await anyio.sleep(100)
                result.extend(when for when, _ in ours.heard)

        run(main)
        return result

    assert times(1) == times(1) != times(2)


async def test_links_overtake_each_other_though_none_reorders_itself():
    order: list[tuple[int, int]] = []
    async with Network(3, Conditions(delay=0.01, jitter=0.2)) as network:

        def accept(link):
            ear = Ear(link)
            ear.data_received = lambda data: order.extend((data[i], data[i + 1]) for i in range(0, len(data), 2))

        async with MemoryTransport(network, "car").serve(accept) as (address,):
            links = []
            for name in ("phone", "watch"):
                links.append(await MemoryTransport(network, name).dial(address, "car"))
                Ear(links[-1])
            for number in range(40):
                for which, link in enumerate(links):
                    link.write(bytes([which, number]))
                await anyio.sleep(0.01)
            await anyio.sleep(5)
    for which in (0, 1):
        assert [n for w, n in order if w == which] == list(range(40))
    sent = [(which, number) for number in range(40) for which in (0, 1)]
    assert order != sent
    assert sorted(order) == sorted(sent)


async def test_lost_packets_cost_retransmissions():
    async with Network(1, Conditions(delay=0.01, loss=0.1)) as network, pair(network) as (ours, theirs):
        began = anyio.current_time()
        for _ in range(400):
            ours.link.write(b"x")
            await anyio.sleep(10)
        late = [when for i, (when, _) in enumerate(theirs.heard) if when - began - 10 * i > 0.2]
        assert len(theirs.heard) == 400
        assert 20 < len(late) < 65


async def test_bandwidth_spreads_a_transfer_over_time():
    async with Network(conditions=Conditions(bandwidth=100_000)) as network, pair(network) as (ours, theirs):
        began = anyio.current_time()
        for _ in range(100):
            ours.link.write(b"x" * 10_000)
        await anyio.sleep(20)
        assert theirs.heard[-1][0] - began == pytest.approx(10, rel=0.01)
        assert all(a <= b for (a, _), (b, _) in pairwise(theirs.heard))


async def test_a_full_link_says_when_it_has_room_again():
    async with Network(conditions=Conditions(bandwidth=1e6)) as network, pair(network) as (ours, theirs):
        while not ours.link.full():
            ours.link.write(b"x" * 10_000)
        assert not ours.room
        await anyio.sleep(1)
        assert ours.room == 1
        assert not ours.link.full()
        assert len(theirs.data) >= HIGH_WATER


async def test_a_cut_tells_nobody_and_what_waited_arrives_in_order_when_it_heals():
    async with Network(conditions=Conditions(delay=0.02)) as network, pair(network) as (ours, theirs):
        ours.link.write(b"in flight ")
        network.cut("car", "phone")
        ours.link.write(b"held ")
        theirs.link.write(b"answer")
        await anyio.sleep(3600)
        assert not theirs.heard
        assert not ours.heard
        assert not ours.lost
        assert not theirs.lost
        network.heal("phone", "car")
        ours.link.write(b"after")
        await anyio.sleep(1)
        assert theirs.data == b"in flight held after"
        assert ours.data == b"answer"


async def test_who_gave_up_during_a_cut_is_not_heard_of_before_it_heals():
    async with Network() as network, pair(network) as (ours, theirs):
        network.cut("phone", "car")
        ours.link.abort()
        theirs.link.write(b"into the void")
        await anyio.sleep(60)
        assert len(ours.lost) == 1
        assert not theirs.lost
        network.heal()
        await anyio.sleep(1)
        assert "reset" in theirs.lost[0][1].why
        assert not ours.heard


async def test_a_dial_through_a_cut_times_out_and_one_that_heals_in_time_succeeds():
    async with Network() as network, MemoryTransport(network, "car").serve(Ear) as (address,):
        phone = MemoryTransport(network, "phone")
        network.cut("phone", "car")
        began = anyio.current_time()
        with pytest.raises(LinkLost, match="no answer"):
            await phone.dial(address, "car")
        assert anyio.current_time() - began == pytest.approx(DIAL_TIMEOUT)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(phone.dial, address, "car")
            await anyio.sleep(2)
            network.heal("phone", "car")


async def test_partitions_cut_between_groups_and_not_within():
    async with Network() as network, anyio.create_task_group() as tasks:
        names = ["a", "b", "c", "d"]

        async def serve(name, *, task_status):
            async with MemoryTransport(network, name).serve(Ear):
                task_status.started()
                await anyio.sleep_forever()

        for name in names:
            await tasks.start(serve, name)
        network.partition({"a", "b"}, {"c"}, {"d"})
        reached = set()
        for a in names:
            for b in names:
                if a < b and await network.reach(a, b):
                    reached.add(a + b)
        assert reached == {"ab"}
        network.heal()
        assert all([await network.reach(a, b) for a in names for b in names])
        tasks.cancel_scope.cancel()


async def test_a_killed_device_resets_its_links_and_answers_no_dial_until_it_serves_again():
    async with Network(conditions=Conditions(delay=0.01)) as network, pair(network) as (ours, theirs):
        theirs.link.write(b"last words")
        killed = anyio.current_time()
        network.kill("car")
        await anyio.sleep(1)
        assert ours.lost[0][0] - killed == pytest.approx(0.01, abs=0.001)
        assert "reset" in ours.lost[0][1].why
        assert not ours.heard
        assert "killed" in theirs.lost[0][1].why
        phone = MemoryTransport(network, "phone")
        with pytest.raises(LinkLost, match="refused"):
            await phone.dial("memory://car", "car")
        async with MemoryTransport(network, "car").serve(Ear):
            await phone.dial("memory://car", "car")


async def test_close_lets_what_is_under_way_arrive_and_abort_drops_it():
    weather = Conditions(delay=0.01, bandwidth=1000)
    async with Network(conditions=weather) as network:
        async with pair(network) as (ours, theirs):
            ours.link.write(b"x" * 5000)
            ours.link.close()
            ours.link.write(b"ignored")
            await anyio.sleep(10)
            assert theirs.data == b"x" * 5000
            assert [r for _, r in ours.lost] == [None] == [r for _, r in theirs.lost]
        async with pair(network) as (ours, theirs):
            ours.link.write(b"x" * 5000)
            ours.link.abort()
            ours.link.close()
            await anyio.sleep(10)
            assert not theirs.heard
            assert len(ours.lost) == len(theirs.lost) == 1
            assert "gave it up" in ours.lost[0][1].why
            assert "reset" in theirs.lost[0][1].why


async def test_nothing_is_lost_before_a_link_is_started():
    accepted: list[Link] = []
    async with Network() as network, MemoryTransport(network, "car").serve(accepted.append) as (address,):
        dialled = await MemoryTransport(network, "phone").dial(address, "car")
        dialled.write(b"early")
        dialled.close()
        await anyio.sleep(1)
        theirs, ours = Ear(accepted[0]), Ear(dialled)
        assert not theirs.heard
        assert not ours.lost
        await anyio.sleep(1)
        assert theirs.data == b"early"
        assert theirs.lost[0][1] is None
        assert ours.lost[0][1] is None


@pytest.mark.parametrize(
    ("address", "peer", "why"),
    [("memory://car", "watch", "expected watch, got car"), ("memory://nobody", "nobody", "refused"),
     ("tls://car", "car", "no address"), ("memory://", "", "no address")],
)  # fmt: skip
async def test_a_dial_that_cannot_succeed_says_why(address, peer, why):
    async with Network() as network, MemoryTransport(network, "car").serve(Ear):
        with pytest.raises(LinkLost, match=why):
            await MemoryTransport(network, "phone").dial(address, peer)


async def test_a_device_that_leaves_between_dial_and_knock_resets_the_link():
    async with Network(conditions=Conditions(delay=0.1)) as network:
        async with MemoryTransport(network, "car").serve(Ear) as (address,):
            ours = Ear(await MemoryTransport(network, "phone").dial(address, "car"))
        await anyio.sleep(1)
        assert "reset" in ours.lost[0][1].why


async def test_two_servers_of_one_device_are_an_error():
    async with Network() as network, MemoryTransport(network, "car").serve(Ear):
        with pytest.raises(OSError):
            async with MemoryTransport(network, "car").serve(Ear):
                pass


def test_a_receivers_error_is_loud():
    async def main():
        async with Network() as network, pair(network) as (ours, theirs):
            theirs.data_received = lambda data: 1 / 0
            ours.link.write(b"x")
            await anyio.sleep(1)

    with pytest.raises(BaseExceptionGroup) as failed:
        run(main)
    assert failed.group_contains(ZeroDivisionError)


async def test_hours_with_many_devices_pass_in_a_moment():
    async with Network(7, Conditions(delay=0.01, jitter=0.03, loss=0.01)) as network:
        ears: list[Ear] = []
        async with anyio.create_task_group() as tasks:

            async def device(number: int) -> None:
                me = MemoryTransport(network, f"d{number}")
                async with me.serve(lambda link: ears.append(Echo(link))):
                    await anyio.sleep(1)
                    ear = Ear(await me.dial(f"memory://d{(number + 1) % 50}", f"d{(number + 1) % 50}"))
                    for _ in range(60):
                        ear.link.write(b"beat")
                        await anyio.sleep(60)
                    assert ear.data == b"beat" * 60
                    await anyio.sleep(60)

            for number in range(50):
                tasks.start_soon(device, number)
        assert anyio.current_time() > 3600
        assert len(ears) == 50
