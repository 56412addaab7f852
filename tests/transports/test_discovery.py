"""Discovery: whom to dial and when (sans-IO), what mDNS may make us believe, and real mDNS between real processes."""

from __future__ import annotations

import base64
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any

import anyio
import pytest
from anyio.streams.buffered import BufferedByteReceiveStream
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from trio.testing import MockClock

from slipstream.transports import addresses, discovery
from slipstream.transports.discovery import ADDRESSES, CANDIDATES, SERVICE, Candidates, Discovery, Found

OWN, CAR, HUB = "o" * 32, "c" * 32, "h" * 32
HERE = ("tls://192.168.1.7:7447",)
THERE = ("tls://192.168.1.8:7447",)


def invented(number: int) -> str:
    return base64.b32encode(number.to_bytes(20, "big")).decode().lower()


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


# Candidates


def test_a_suggestion_is_due_at_once_and_not_again_while_it_is_dialled() -> None:
    candidates = Candidates(OWN)
    assert candidates.add(Found(CAR, HERE, "mdns"), 5.0)
    assert candidates.next_due() == 5.0
    assert candidates.due(5.0) == [Found(CAR, HERE, "mdns")]
    assert candidates.due(1e9) == []
    assert candidates.next_due() is None


def test_the_same_suggestion_again_is_no_news() -> None:
    candidates = Candidates(OWN)
    assert candidates.add(Found(CAR, HERE, "mdns"), 0.0)
    candidates.due(0.0)
    candidates.failed(CAR, 0.0)
    wait = candidates.next_due()
    assert not candidates.add(Found(CAR, HERE, "mdns"), 0.1)
    assert not candidates.add(Found(CAR, HERE, "gossip"), 0.1)
    assert candidates.next_due() == wait


def test_a_device_does_not_dial_itself() -> None:
    candidates = Candidates(OWN)
    assert not candidates.add(Found(OWN, HERE, "mdns"), 0.0)
    assert candidates.due(0.0) == []


def waits(seed: int, device: str = CAR, dials: int = 12) -> list[float]:
    candidates, now, seen = Candidates(OWN, seed), 0.0, []
    candidates.add(Found(device, HERE, "static"), now)
    for _ in range(dials):
        assert candidates.due(now)
        candidates.failed(device, now)
        due = candidates.next_due()
        assert due is not None
        seen.append(due - now)
        now = due
    return seen


def test_each_failure_doubles_the_wait_up_to_a_minute() -> None:
    for wait, longest in zip(waits(1), [0.5, 1, 2, 4, 8, 16, 32, 60, 60, 60, 60, 60], strict=True):
        assert longest / 2 <= wait <= longest


def test_the_jitter_depends_on_the_seed_and_the_device_alone() -> None:
    assert waits(1) == pytest.approx(waits(1))
    assert waits(1) != pytest.approx(waits(2))
    assert waits(1) != pytest.approx(waits(1, HUB))


def test_a_linked_device_is_not_dialled_and_a_lost_one_at_once() -> None:
    candidates = Candidates(OWN)
    candidates.add(Found(CAR, HERE, "mdns"), 0.0)
    candidates.due(0.0)
    candidates.linked(CAR)
    candidates.add(Found(CAR, THERE, "mdns"), 1.0)
    assert candidates.next_due() is None
    candidates.lost(CAR, 60.0)
    assert candidates.due(60.0) == [Found(CAR, THERE, "mdns")]


def test_a_link_that_breaks_at_once_is_dialled_once_a_second() -> None:
    candidates = Candidates(OWN)
    candidates.add(Found(CAR, HERE, "mdns"), 0.0)
    candidates.due(0.0)
    candidates.linked(CAR)
    candidates.lost(CAR, 0.01)
    assert candidates.next_due() == 1.0


def test_a_device_that_dialled_us_is_remembered_as_linked() -> None:
    candidates = Candidates(OWN)
    candidates.linked(CAR)
    candidates.add(Found(CAR, HERE, "mdns"), 0.0)
    assert candidates.due(0.0) == []
    candidates.lost(CAR, 9.0)
    assert candidates.due(9.0) == [Found(CAR, HERE, "mdns")]


def test_a_late_failure_does_not_undo_a_link() -> None:
    candidates = Candidates(OWN)
    candidates.add(Found(CAR, HERE, "known"), 0.0)
    candidates.due(0.0)
    candidates.linked(CAR)
    candidates.failed(CAR, 1.0)
    assert candidates.next_due() is None


def test_an_address_that_turns_up_during_a_dial_is_tried_beside_it() -> None:
    candidates = Candidates(OWN)
    candidates.add(Found(CAR, HERE, "known"), 0.0)
    candidates.due(0.0)
    assert candidates.add(Found(CAR, THERE, "mdns"), 0.05)
    due = candidates.next_due()
    assert due is not None
    assert due < 0.1
    assert candidates.due(due) == [Found(CAR, THERE, "known")]
    candidates.failed(CAR, 5.0)
    assert candidates.next_due() is None, "one of the two dials is still under way"
    candidates.failed(CAR, 5.0)
    due = candidates.next_due()
    assert due is not None
    assert candidates.due(due) == [Found(CAR, THERE + HERE, "known")], "the freshest source first"


def test_news_shortens_the_wait_but_flapping_answers_are_dialled_ever_more_seldom() -> None:
    candidates, dials = Candidates(OWN), []
    for tick in range(36_000):
        now = tick / 10
        candidates.add(Found(CAR, (f"tls://192.168.1.{tick % 2}:7447",), "mdns"), now)
        if candidates.due(now):
            dials.append(now)
            candidates.failed(CAR, now)
    gaps = [b - a for a, b in pairwise(dials)]
    assert max(gaps[:5]) < 2.0
    assert min(gaps[10:]) > 3.7


def test_one_source_cannot_crowd_out_the_addresses_of_another() -> None:
    candidates = Candidates(OWN)
    candidates.add(Found(CAR, HERE, "static"), 0.0)
    candidates.add(Found(CAR, THERE, "known"), 0.0)
    candidates.add(Found(CAR, tuple(f"tls://10.0.0.{n}:1" for n in range(100)), "mdns"), 0.0)
    assert len(candidates.addresses(CAR)) == ADDRESSES
    assert set(HERE + THERE) < set(candidates.addresses(CAR)[:3])


def test_a_goodbye_takes_back_only_what_mdns_said() -> None:
    candidates = Candidates(OWN)
    candidates.add(Found(CAR, HERE, "static"), 0.0)
    candidates.add(Found(CAR, THERE, "mdns"), 0.0)
    assert candidates.add(Found(CAR, (), "mdns"), 1.0)
    assert candidates.addresses(CAR) == HERE
    candidates.add(Found(HUB, THERE, "mdns"), 1.0)
    assert candidates.add(Found(HUB, (), "mdns"), 2.0)
    assert len(candidates) == 1


def test_the_vouched_for_are_dialled_first_and_strangers_leave_them_room() -> None:
    candidates = Candidates(OWN)
    for number in range(100):
        candidates.add(Found(invented(number), HERE, "mdns"), 0.0)
    candidates.add(Found(HUB, HERE, "known"), 1.0)
    candidates.add(Found(CAR, HERE, "static"), 2.0)
    first = candidates.due(2.0)
    assert [found.device for found in first[:2]] == [CAR, HUB]
    assert len(first) == 18
    assert candidates.next_due() is None, "strangers wait for one of the sixteen to end"
    candidates.add(Found("d" * 32, HERE, "static"), 3.0)
    assert [found.device for found in candidates.due(3.0)] == ["d" * 32]
    candidates.failed(first[2].device, 4.0)
    assert len(candidates.due(4.0)) == 1


def test_strangers_are_dialled_in_turn() -> None:
    candidates, order, now = Candidates(OWN), [], 0.0
    for number in range(50):
        candidates.add(Found(invented(number), HERE, "mdns"), 0.0)
    while len(order) < 50:
        for found in candidates.due(now):
            order.append(found.device)
            candidates.failed(found.device, now)
        now += 0.001
    assert len(set(order)) == 50


def test_a_flood_of_inventions_neither_grows_nor_hides_a_real_device() -> None:
    candidates, now = Candidates(OWN), 0.0
    candidates.add(Found(HUB, HERE, "static"), now)
    candidates.due(now)
    candidates.failed(HUB, now)
    for number in range(2000):
        candidates.add(Found(invented(number), HERE, "mdns"), now)
    assert len(candidates) == CANDIDATES
    dialled = set()
    while CAR not in dialled:
        now += 1.0
        candidates.add(Found(CAR, HERE, "mdns"), now)
        for found in candidates.due(now):
            dialled.add(found.device)
            candidates.failed(found.device, now)
        assert now < 30, "256 inventions, 16 at a time, cannot keep it out for longer than their one round"
    assert candidates.addresses(HUB) == HERE
    assert HUB in dialled


class CandidatesUnderAnything(RuleBasedStateMachine):
    """Whatever is suggested and however dials end: bounded, never two dials to one address, never stuck, never idle."""

    devices = st.integers(0, 400).map(invented)
    sources = st.sampled_from(["static", "known", "gossip", "mdns"])
    places = st.lists(st.integers(0, 30), max_size=12).map(lambda ns: tuple(f"tls://10.0.0.{n}:7447" for n in ns))

    def __init__(self) -> None:
        super().__init__()
        self.candidates, self.now = Candidates(OWN, 7), 0.0
        self.dials: dict[str, list[tuple[str, ...]]] = {}
        self.links: set[str] = set()

    @rule(device=devices, addresses=places, source=sources)
    def suggest(self, device: str, addresses: tuple[str, ...], source: Any) -> None:
        self.candidates.add(Found(device, addresses, source), self.now)

    @rule(start=st.integers(0, 10**6), count=st.integers(1, 300), source=sources)
    def flood(self, start: int, count: int, source: Any) -> None:
        for number in range(start, start + count):
            self.candidates.add(Found(invented(number), HERE, source), self.now)

    @rule(seconds=st.floats(0, 100))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def dial(self) -> None:
        expected = self.candidates.next_due()
        dials = self.candidates.due(self.now)
        if expected is not None and expected > self.now:
            assert not dials
        for found in dials:
            assert found.device not in self.links
            assert 0 < len(found.addresses) <= ADDRESSES
            under_way = self.dials.setdefault(found.device, [])
            assert not {a for dial in under_way for a in dial} & set(found.addresses)
            under_way.append(found.addresses)
        after = self.candidates.next_due()
        assert after is None or after > self.now, "what can be dialled now was handed out"

    @rule(data=st.data())
    def a_dial_fails(self, data: st.DataObject) -> None:
        if self.dials:
            device = data.draw(st.sampled_from(sorted(self.dials)))
            self.candidates.failed(device, self.now)
            self.dials[device].pop()
            if not self.dials[device]:
                del self.dials[device]
                if self.candidates.addresses(device) and sum(map(len, self.dials.values())) < 16:
                    due = self.candidates.next_due()
                    assert due is not None, "a failure always leads to another try"
                    assert due <= self.now + 60

    @rule(data=st.data())
    def a_dial_succeeds(self, data: st.DataObject) -> None:
        if self.dials:
            device = data.draw(st.sampled_from(sorted(self.dials)))
            self.candidates.linked(device)
            del self.dials[device]
            self.links.add(device)

    @rule(data=st.data())
    def a_link_is_lost(self, data: st.DataObject) -> None:
        if self.links:
            device = data.draw(st.sampled_from(sorted(self.links)))
            self.links.discard(device)
            self.candidates.lost(device, self.now)

    @invariant()
    def it_is_bounded(self) -> None:
        assert len(self.candidates) <= CANDIDATES
        assert sum(map(len, self.dials.values())) <= 32
        assert max(map(len, self.dials.values()), default=0) <= 3


CandidatesUnderAnything.TestCase.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
TestCandidatesUnderAnything = CandidatesUnderAnything.TestCase


# What mDNS says


def answer(
    device: str = CAR,
    *,
    name: str | None = None,
    port: int = 7447,
    hosts: tuple[str, ...] = ("192.168.1.7",),
    **txt: Any,
) -> Any:
    from zeroconf import ServiceInfo

    return ServiceInfo(
        SERVICE,
        f"{name or device}.{SERVICE}",
        port=port,
        server=f"{device}.local.",
        parsed_addresses=list(hosts),
        properties={"v": "1", "id": device, "port": str(port)} | txt,
    )


def test_an_answer_becomes_a_suggestion() -> None:
    found = discovery.read_answer(answer(hosts=("2001:db8::7", "192.168.1.7", "fd00::7")))
    assert found == Found(CAR, ("tls://192.168.1.7:7447", "tls://[2001:db8::7]:7447", "tls://[fd00::7]:7447"), "mdns")


@pytest.mark.parametrize(
    "info",
    [
        answer("C" * 32),
        answer("c" * 31),
        answer("c" * 31 + "1"),
        answer("c" * 31 + "\u202e"),
        answer(name=f"{CAR}.{CAR[:20]}"),
        answer(port=0),
        answer(port=65536),
        answer(port=70_000),
        answer(id=HUB),
        answer(id=None),
        answer(id=CAR + "\0"),
        answer(v=""),
        answer(v=None),
        answer(v="1" * 6),
        answer(v="-1"),
        answer(v="१"),
        answer(hosts=()),
        answer(hosts=("127.0.0.1", "::1")),
        answer(hosts=("0.0.0.0", "::")),
        answer(hosts=("224.0.0.251", "255.255.255.255", "240.0.0.1", "ff02::fb")),
        answer(hosts=("::ffff:10.0.0.1",)),
        answer(hosts=("fe80::1",)),
    ],
    ids=lambda info: f"{info.name[:34]}:{info.port} {info.text[:20]!r} {info.parsed_addresses()}",
)
def test_an_answer_that_contradicts_itself_or_leads_nowhere_is_dropped(info: Any) -> None:
    assert discovery.read_answer(info) is None


def test_an_answer_whose_txt_names_another_port_is_dropped() -> None:
    info = answer()
    info.port = 7448
    assert discovery.read_answer(info) is None


@pytest.mark.parametrize("text", [b"", b"\xff", b"\xffid=", b"\x00" * 300, secrets.token_bytes(5000)])
def test_a_broken_txt_record_is_dropped(text: bytes) -> None:
    from zeroconf import ServiceInfo

    info = ServiceInfo(SERVICE, f"{CAR}.{SERVICE}", port=7447, parsed_addresses=["10.0.0.1"], properties=text)
    assert discovery.read_answer(info) is None


def test_an_answer_with_too_many_addresses_is_cut() -> None:
    found = discovery.read_answer(answer(hosts=tuple(f"10.0.{n // 250}.{n % 250 + 1}" for n in range(1000))))
    assert found is not None
    assert len(found.addresses) == ADDRESSES


def test_a_link_local_address_carries_the_interface_that_heard_it() -> None:
    from zeroconf import ServiceInfo

    index, name = socket.if_nameindex()[0]
    for scope, expected in ((index, f"tls://[fe80::1%{name}]:7447"), (2**20, None)):
        info = ServiceInfo(
            SERVICE,
            f"{CAR}.{SERVICE}",
            port=7447,
            addresses=[socket.inet_pton(socket.AF_INET6, "fe80::1")],
            interface_index=scope,
            properties={"v": "1", "id": CAR, "port": "7447"},
        )
        found = discovery.read_answer(info)
        assert (found and found.addresses[0]) == expected


def test_loopback_is_believed_only_where_loopback_is_all_there_is() -> None:
    assert discovery.read_answer(answer(hosts=("127.0.0.1",)), loopback=True) == Found(
        CAR, ("tls://127.0.0.1:7447",), "mdns"
    )


# Own addresses


def test_loopback_is_left_out_where_there_is_something_else() -> None:
    every = addresses.local_addresses(loopback=True)
    assert ("lo", "127.0.0.1") in every
    usual = addresses.local_addresses()
    assert set(usual) <= set(every)
    assert all(interface == "lo" for interface, _ in usual) or all(interface != "lo" for interface, _ in usual)


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", [("trio", {"clock": MockClock(autojump_threshold=0)})], ids=["virtual"])
async def test_where_netlink_is_denied_a_change_is_seen_by_looking(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = [[("eth0", "10.0.0.1")], [("eth0", "10.0.0.1")], [("eth0", "10.0.0.1")], [("wlan0", "10.0.1.1")]]
    monkeypatch.setattr(addresses, "_netlink", lambda: None)
    monkeypatch.setattr(addresses, "local_addresses", lambda loopback: seen.pop(0) if len(seen) > 1 else seen[0])
    start = anyio.current_time()
    async with anyio.create_task_group() as group:
        changed = anyio.Event()
        await group.start(lambda task_status: addresses.watch_addresses(changed.set, task_status=task_status))
        await changed.wait()
        group.cancel_scope.cancel()
    assert anyio.current_time() - start == pytest.approx(90)


# Real mDNS, within this machine


class Peer:
    """One Discovery, and an event for everything it finds."""

    def __init__(self, device: str, **options: Any) -> None:
        self.seen: dict[str, tuple[str, ...]] = {}
        self.warnings: list[tuple[str, str, str]] = []
        self.news = anyio.Event()
        self.discovery = Discovery(
            device, 7447, self.found, warn=self.warn, **({"interfaces": ["127.0.0.1", "::1"]} | options)
        )

    def found(self, found: Found) -> None:
        self.seen[found.device] = found.addresses
        self.tell()

    def warn(self, *warning: str) -> None:
        self.warnings.append(warning)  # type: ignore[arg-type]
        self.tell()

    def tell(self) -> None:
        self.news.set()
        self.news = anyio.Event()

    async def until(self, holds: Any) -> None:
        with anyio.fail_after(30):
            while not holds():
                await self.news.wait()

    @asynccontextmanager
    async def up(self) -> AsyncIterator[Peer]:
        async with anyio.create_task_group() as group:
            await group.start(self.discovery.run)
            yield self
            group.cancel_scope.cancel()


def some_device() -> str:
    return base64.b32encode(secrets.token_bytes(20)).decode().lower()


@pytest.fixture(scope="module")
def multicast() -> None:
    """Skips where the kernel carries no multicast over loopback."""
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as ear,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as mouth,
    ):
        try:
            ear.bind(("", 0))
            here = socket.inet_aton("127.0.0.1")
            ear.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton("224.0.0.251") + here)
            mouth.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, here)
            mouth.sendto(b"?", ("224.0.0.251", ear.getsockname()[1]))
            ear.settimeout(2)
            ear.recv(1)
        except OSError as error:
            pytest.skip(f"no multicast over loopback here: {error}")


@pytest.mark.anyio
@pytest.mark.usefixtures("multicast")
async def test_two_devices_find_each_other_and_a_goodbye_is_heard() -> None:
    one, two = some_device(), some_device()
    async with Peer(one).up() as first:
        async with Peer(two).up() as second:
            await first.until(lambda: first.seen.get(two))
            await second.until(lambda: second.seen.get(one))
            assert first.seen[two] == ("tls://127.0.0.1:7447", "tls://[::1]:7447")
            assert [found.device for found in second.discovery.candidates.due(anyio.current_time())] == [one]
            assert one not in first.seen, "a device does not find itself"
        await first.until(lambda: first.seen[two] == ())
    assert not first.warnings


@pytest.mark.anyio
@pytest.mark.usefixtures("multicast")
async def test_a_flood_of_lies_on_the_wire_hides_no_real_device() -> None:
    from zeroconf import DNSOutgoing
    from zeroconf.asyncio import AsyncZeroconf

    one, two = some_device(), some_device()
    async with Peer(one).up() as first, AsyncZeroconf(["127.0.0.1"]) as liar:

        def speak(lie: Any) -> None:
            out = DNSOutgoing(0x8400)
            for record in (lie.dns_pointer(), lie.dns_service(), lie.dns_text(), *lie.dns_addresses()):
                out.add_answer_at_time(record, 0)
            liar.zeroconf.async_send(out)

        async with Peer(two).up():
            await first.until(lambda: first.seen.get(two))
        await first.until(lambda: not first.seen[two])
        for number in range(400):
            speak(answer(invented(number), hosts=(f"10.0.0.{number % 250 + 1}",)))
            if number < CANDIDATES:
                await first.until(lambda: len(first.discovery.candidates) > number)  # noqa: B023
        speak(answer(invented(999), hosts=("10.0.0.1",), id="no"))
        speak(answer(one, hosts=("10.6.6.6",)))
        first.discovery.suggest(Found(two, HERE, "known"))
        assert two in first.seen
        assert len(first.discovery.candidates) == CANDIDATES
        async with Peer(two).up():
            await first.until(lambda: len(first.seen[two]) > 1)
        assert not {one, invented(999)} & set(first.seen), "what came before the real one was read before it"


@pytest.mark.anyio
@pytest.mark.usefixtures("multicast")
async def test_where_mdns_cannot_be_had_it_warns_once_and_tries_again(monkeypatch: pytest.MonkeyPatch) -> None:
    import zeroconf.asyncio

    tries: list[Any] = []
    real = zeroconf.asyncio.AsyncZeroconf
    changes: list[Any] = []

    def denied(interfaces: Any) -> Any:
        tries.append(interfaces)
        peer.tell()
        raise PermissionError(1, "Operation not permitted")

    async def watch(changed: Any, *, task_status: Any) -> None:
        changes.append(changed)
        task_status.started()

    monkeypatch.setattr(zeroconf.asyncio, "AsyncZeroconf", denied)
    monkeypatch.setattr(discovery, "watch_addresses", watch)
    one, two = some_device(), some_device()
    peer = Peer(one, peers=[Found(CAR, HERE, "static")])
    async with peer.up():
        assert peer.seen == {CAR: HERE}, "what needs no mDNS is there at once"
        await peer.until(lambda: peer.warnings)
        assert "not permitted" in peer.warnings[0][1]
        for number in range(2, 5):
            changes[0]()
            await peer.until(lambda: len(tries) == number)  # noqa: B023
        assert len(peer.warnings) == 1
        monkeypatch.setattr(zeroconf.asyncio, "AsyncZeroconf", real)
        changes[0]()
        async with Peer(two).up():
            await peer.until(lambda: peer.seen.get(two))


def test_the_way_to_ready_does_not_load_zeroconf() -> None:
    program = (
        "import sys, slipstream.transports.discovery; "
        "print([m for m in ('zeroconf', 'ifaddr', 'ctypes') if m in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", program], text=True).strip() == "[]"


# Real processes in network namespaces

PROGRAM = """
import json, sys, anyio
from slipstream.transports.discovery import Discovery

def say(*what):
    print(json.dumps(what), flush=True)

async def main():
    discovery = Discovery(
        sys.argv[1], 7447, lambda found: say("found", found.device, found.addresses), interfaces=sys.argv[2:],
        warn=lambda *why: say("warn", *why), addresses_changed=lambda: say("changed"),
    )
    await discovery.run()

anyio.run(main)
"""


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


@pytest.fixture
def rooms() -> Iterator[list[str]]:
    """Two network namespaces joined by a veth pair `left`-`right`, with IPv4 and link-local IPv6 addresses."""
    if shutil.which("ip") is None or os.geteuid() != 0:
        pytest.skip("network namespaces need root and iproute2")
    names = [f"slip{os.getpid()}{side}" for side in "lr"]
    try:
        for name in names:
            ip("netns", "add", name)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"network namespaces are not permitted here: {error.stderr.strip()}")
    try:
        ip("link", "add", "left", "netns", names[0], "type", "veth", "peer", "name", "right", "netns", names[1])
        for name, end, address in zip(names, ("left", "right"), ("10.77.0.1/24", "10.77.0.2/24"), strict=True):
            ip("-n", name, "addr", "add", address, "dev", end)
            ip("-n", name, "link", "set", end, "up")
        yield names
    finally:
        for name in names:
            ip("netns", "del", name)


@asynccontextmanager
async def process(room: str, device: str, *interfaces: str) -> AsyncIterator[Any]:
    """A Discovery in a process of its own; yields a function that waits until it said something that fits."""
    command = ["ip", "netns", "exec", room, sys.executable, "-c", PROGRAM, device, *interfaces]
    async with await anyio.open_process(command, stderr=None) as child:
        assert child.stdout is not None
        lines = BufferedByteReceiveStream(child.stdout)

        async def says(fits: Any) -> list[Any]:
            with anyio.fail_after(30):
                while True:
                    line: list[Any] = json.loads(await lines.receive_until(b"\n", 65536))
                    if fits(line):
                        return line

        try:
            yield says
        finally:
            child.kill()


def finds(device: str, *hosts: str) -> Any:
    return lambda line: line[:2] == ["found", device] and all(any(h in a for a in line[2]) for h in hosts)


@pytest.mark.anyio
async def test_two_processes_find_each_other_over_ipv4_and_ipv6_and_follow_new_addresses(rooms: list[str]) -> None:
    left, right = rooms
    async with process(left, OWN) as first, process(right, CAR) as second:
        await first(finds(CAR, "//10.77.0.2:7447", "[fe80:"))
        await second(finds(OWN, "//10.77.0.1:7447", "[fe80:"))
        ip("-n", right, "addr", "add", "fd77::2/64", "dev", "right", "nodad")
        await first(finds(CAR, "[fd77::2]:7447"))
        ip("-n", right, "addr", "add", "10.78.0.2/24", "dev", "right")
        await first(finds(CAR, "//10.78.0.2:7447"))
        ip("-n", right, "link", "set", "right", "down")
        await first(lambda line: line == ["changed"])
        ip("-n", right, "addr", "flush", "dev", "right")
        ip("-n", right, "addr", "add", "10.77.0.3/24", "dev", "right")
        ip("-n", right, "link", "set", "right", "up")
        await first(finds(CAR, "//10.77.0.3:7447"))


@pytest.mark.anyio
async def test_two_processes_find_each_other_over_ipv6_alone(rooms: list[str]) -> None:
    left, right = rooms
    ip("-n", left, "addr", "del", "10.77.0.1/24", "dev", "left")
    ip("-n", right, "addr", "del", "10.77.0.2/24", "dev", "right")
    async with process(left, OWN) as first, process(right, CAR) as second:
        await first(finds(CAR, "%left]:7447"))
        await second(finds(OWN, "%right]:7447"))


@pytest.mark.anyio
async def test_a_device_without_a_network_says_so_and_finds_others_when_one_comes_up(rooms: list[str]) -> None:
    left, right = rooms
    ip("-n", right, "link", "set", "right", "down")
    async with process(right, CAR) as second:
        warning = await second(lambda line: line[0] == "warn")
        assert "no interface is up" in warning[2]
        async with process(left, OWN) as first:
            ip("-n", right, "link", "set", "right", "up")
            await second(finds(OWN, "//10.77.0.1:7447"))
            await first(finds(CAR, "//10.77.0.2:7447"))
