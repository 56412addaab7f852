"""Devices that members announce and nobody let in: few are remembered, none is here, no member makes way for one."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipstream.core.device import Device, LinkQuality
from slipstream.core.members import STRANGERS, Members
from slipstream.core.wire import Kind, pack, unpack

MEMBERS = frozenset("abcdefgh")


def wire(name: str, sequence: int = 1, links: str = "", **more: Any) -> dict[str, Any]:
    """An announcement of a device whose id is its name, as another device sends it."""
    neighbours = {peer: LinkQuality() for peer in links}
    announced = Device(name, name, "phone", (1, sequence), neighbours=neighbours).to_wire()
    sent: list[dict[str, Any]] = unpack(pack([Kind.NEWS, [{**announced, **more}]]))[1]
    return sent[0]


def invented(count: int, first: int = 0) -> list[dict[str, Any]]:
    return [wire(f"invented {i}", 1, "ab") for i in range(first, first + count)]


def house(peers: str = "bc", **more: Any) -> Members:
    """Members of a, whose roster knows the devices a to h, with links to some."""
    members = Members(Device("a", "a", "phone", (1, 0)), **more)
    members.admits = MEMBERS.__contains__
    for peer in peers:
        members.link_up(peer, 0.0)
        members.digest_from(peer, {peer: [1, 1]}, 0.0)
        members.receive(peer, [wire(peer, 1, "a")], 0.0)
    members.gossip()
    members.events()
    return members


def strangers(members: Members) -> set[str]:
    return members.digest().keys() - MEMBERS


def test_of_ten_thousand_invented_devices_few_are_kept_none_is_here_and_none_makes_more_of_itself_known() -> None:
    a = house()
    for first in range(0, 10_000, 500):
        a.receive("bc"[first % 1000 // 500], invented(500, first), 1.0)
    assert len(strangers(a)) == STRANGERS
    assert [d.id for d in a.present()] == ["a", "b", "c"]
    assert [d.id for d, _ in a.known()] == ["b", "c"]
    assert a.find("invented 0") is None
    assert not a.events()
    passed_on = [announced["id"] for _, news in a.gossip() for announced in news]
    assert len(set(passed_on)) <= STRANGERS


def test_what_a_peer_invents_leaves_no_trace_of_itself_beside_the_few_that_are_kept() -> None:
    a = house("b")
    a.receive("b", invented(1000), 1.0)
    link = a._links["b"]
    assert link.has.keys() <= a.digest().keys()


@given(st.permutations([*"defgh", *range(STRANGERS + 10)]))
def test_members_that_are_announced_among_strangers_are_all_known_wherever_they_come(order: list[str | int]) -> None:
    a = house()
    for name in order:
        a.receive("b", [wire(name, 1, "b")] if isinstance(name, str) else invented(1, name), 1.0)
    assert {d.id for d, _ in a.known()} == MEMBERS - {"a"}
    assert len(strangers(a)) == STRANGERS


@pytest.mark.parametrize("first", ["members", "strangers"])
def test_no_member_is_forgotten_for_a_stranger_and_every_stranger_for_a_member(first: str) -> None:
    a = house("bc", max_devices=5)
    absent, others = [wire(name) for name in "def"], invented(100)
    for news in (absent, others) if first == "members" else (others, absent):
        a.receive("b", news, 1.0)
    assert {d.id for d, _ in a.known()} == {*"bcdef"}
    assert not strangers(a)
    assert not a.events()  # a mesh is not large for what strangers it could have


def test_a_stranger_makes_way_for_a_member_before_a_member_that_was_seen_longer_ago() -> None:
    a = house("bc", max_devices=5)
    for now, news in enumerate(([wire("d"), wire("e")], invented(1), [wire("f")]), 1):
        a.receive("b", news, float(now))
    assert {d.id for d, _ in a.known()} == {*"bcdef"}


def test_a_stranger_that_the_roster_knows_later_is_here_without_being_announced_again() -> None:
    a = house("b")
    a.receive("b", [wire("b", 2, "ai"), wire("i", 1, "b")], 1.0)
    assert [d.id for d in a.present()] == ["a", "b"]
    a.admits = (MEMBERS | {"i"}).__contains__
    a.roster_changed()
    assert [d.id for d in a.present()] == ["a", "b", "i"]


def test_of_a_stranger_only_what_this_version_reads_is_kept_and_passed_on() -> None:
    a = house()
    a.receive("b", [wire("i", 1, "b", more="x" * 100_000), wire("d", 1, "b", more="new")], 1.0)
    sent = {announced["id"]: announced for _, news in a.gossip() for announced in news}
    assert all("more" not in announced for name, announced in sent.items() if name != "d")
    assert len(pack([a._records["i"].wire])) < 1000
