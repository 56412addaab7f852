"""Who is here: the rules one by one, then any network at all, then a hundred devices."""

from __future__ import annotations

import math
from itertools import combinations, pairwise, permutations
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from slipstream.core.device import Device, LinkQuality, Offer, Resources
from slipstream.core.errors import ProtocolError, UsageError
from slipstream.core.members import BATCH, QUALITY_EVERY, VERSION_LIMIT, Members
from slipstream.core.wire import Kind, pack, unpack


def device(name: str, incarnation: int = 1, sequence: int = 0, links: str = "", **fields: Any) -> Device:
    """A device whose id is its name, linked with the devices that the letters of `links` name."""
    return Device(name, fields.pop("called", name), "phone", (incarnation, sequence),
                  neighbours={peer: LinkQuality() for peer in links}, **fields)  # fmt: skip


def wire(*args: Any, **fields: Any) -> dict[str, Any]:
    return over_the_wire([device(*args, **fields).to_wire()])[0]


def over_the_wire(news: list[dict[str, Any]]) -> list[Any]:
    return unpack(pack([Kind.NEWS, news]))[1]  # type: ignore[no-any-return]


def linked(me: str = "a", peers: str = "b", now: float = 0.0, **times: Any) -> Members:
    """Members of `me` with links to devices that announced themselves."""
    members = Members(device(me), **times)
    for peer in peers:
        members.link_up(peer, now)
        members.digest_from(peer, {peer: [1, 1]}, now)
        members.receive(peer, [wire(peer, 1, 1, me)], now)
    members.gossip()
    members.events()
    return members


def join(*ends: Members) -> None:
    """Link each of these with the next."""
    for one, other in pairwise(ends):
        one.link_up(other.me.id, 0.0)
        other.link_up(one.me.id, 0.0)
        one.digest_from(other.me.id, other.digest(), 0.0)
        other.digest_from(one.me.id, one.digest(), 0.0)


def settle(*members: Members) -> None:
    """Pass news on until there is none."""
    mesh = {m.me.id: m for m in members}
    while sent := [(m.me.id, *out) for m in members for out in m.gossip()]:
        for source, target, news in sent:
            mesh[target].receive(source, over_the_wire(news), 0.0)


def here(members: Members) -> str:
    return "".join(d.id for d in members.present())


def told(members: Members) -> dict[str, list[str]]:
    """Which announcements each linked device is sent now."""
    return {peer: sorted(n["id"] for n in news) for peer, news in members.gossip()}


# -- presence --------------------------------------------------------------------------------------------------------


def test_a_device_is_here_once_both_ends_announce_a_path_of_links_to_it() -> None:
    a = Members(device("a"))
    a.receive("b", [wire("b", 1, 1, "ac"), wire("c", 1, 1, "b")], 0.0)
    assert here(a) == "a"
    a.link_up("b", 1.0)
    assert here(a) == "a"  # b did not say yet that it is still what it was
    a.digest_from("b", {"b": [1, 1], "c": [1, 1]}, 1.0)
    assert here(a) == "abc"
    a.receive("b", [wire("c", 1, 2, "")], 2.0)
    assert here(a) == "ab"
    a.receive("b", [wire("c", 1, 3, "b"), wire("b", 1, 2, "a")], 3.0)
    assert here(a) == "ab"


def test_a_device_that_restarted_is_not_here_by_what_it_said_in_its_former_life() -> None:
    a = linked("a", "b")
    a.link_down("b", 1.0, "cut")
    a.events()
    a.link_up("b", 2.0)
    a.digest_from("b", {"b": [2, 0]}, 2.0)
    assert here(a) == "a"
    a.receive("b", [wire("b", 2, 1, "a")], 2.0)
    assert here(a) == "ab"
    assert [kind for kind, _ in a.events()] == ["device.joined"]


def test_the_own_end_of_a_link_counts_at_once() -> None:
    a = linked("a", "b")
    a.receive("b", [wire("b", 1, 2, "ac"), wire("c", 1, 1, "b")], 0.0)
    assert here(a) == "abc"
    a.link_down("b", 1.0, "cut")
    assert here(a) == "a"
    assert [a.state(x) for x in "abc"] == ["self", "absent", "absent"]


def test_states_and_ways_follow_the_shortest_path() -> None:
    a = linked("a", "bc")
    a.receive("c", [wire("c", 1, 2, "ad")], 0.0)
    a.receive("b", [wire("b", 1, 2, "ad"), wire("d", 1, 1, "cbe"), wire("e", 1, 1, "d")], 0.0)
    assert {x: (a.state(x), a.via(x)) for x in "abcdez"} == {
        "a": ("self", None), "b": ("linked", "b"), "c": ("linked", "c"), "d": ("via", "b"), "e": ("via", "b"),
        "z": ("absent", None),
    }  # fmt: skip
    a.link_down("b", 1.0, "cut")
    assert (a.state("d"), a.via("d")) == ("via", "c")


def test_present_devices_come_in_one_order_this_one_first() -> None:
    a = linked("a", "bcd")
    a.receive("b", [wire("b", 1, 2, "a", called="zeta")], 0.0)
    a.receive("c", [wire("c", 1, 2, "a", called="eta")], 0.0)
    assert [d.name for d in a.present()] == ["a", "d", "eta", "zeta"]


# -- versions --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", list(permutations([(1, 1), (1, 2), (2, 0), (2, 1)])))
def test_news_that_comes_late_never_wins_over_newer(order: list[tuple[int, int]]) -> None:
    a = linked("a", "c")
    for version in order:
        a.receive("c", [wire("b", *version, called=f"{version}")], 0.0)
    assert a.get("b").name == "(2, 1)"


LIES = st.lists(
    st.builds(
        lambda version, links, **fields: wire("b", *version, links, **fields),
        st.tuples(st.integers(1, 9), st.integers(2, 9)), st.sampled_from(["", "a", "acd"]), called=st.just("x"),
        leaving=st.booleans(), offers=st.just((Offer("doors.unlock", "0" * 16, "physical"),)),
    ),
    min_size=1, max_size=5,
)  # fmt: skip


@given(LIES)
def test_what_others_say_of_a_linked_device_counts_once_its_link_is_gone_and_then_the_newest_of_it(
    lies: list[Any],
) -> None:
    a = linked("a", "bcd")
    before = a.get("b")
    for lie in lies:
        a.receive("c", [lie], 1.0)
    assert told(a).keys() <= {"b"}  # nobody else is told so
    assert a.get("b") == before
    assert (a.state("b"), a.events()) == ("linked", [])
    a.receive("b", [wire("b", 1, 2, "a", called="own")], 2.0)
    assert a.get("b").name == "own"
    assert told(a) == {"d": ["b"]}  # c said that it has newer news
    a.link_down("b", 3.0, "cut")
    newest = max(tuple(lie["version"]) for lie in lies)
    assert (a.get("b").name, a.get("b").version) == (("x", newest) if newest > (1, 2) else ("own", (1, 2)))
    assert told(a)["d"] == (["a", "b"] if newest > (1, 2) else ["a"])


def test_a_linked_device_is_told_what_others_say_of_it_once_a_link_and_outlives_it() -> None:
    a, b = linked("a", "bc"), Members(device("b", 1, 1, "a"))
    b.link_up("a", 0.0)
    b.digest_from("a", a.digest(), 0.0)
    former = wire("b", 7, 3, "c", called="former")
    assert a.receive("c", [former], 1.0)
    ((peer, news),) = a.gossip()
    assert peer == "b"
    a.receive("c", [former], 1.0)
    assert a.gossip() == []
    assert here(a) == "abc"
    b.receive("a", over_the_wire(news), 1.0)
    ((_, news),) = b.gossip()
    a.receive("b", over_the_wire(news), 1.0)
    assert a.get("b") == b.me
    assert b.me.version == (8, 0)
    a.receive("c", [former], 2.0)
    a.link_down("b", 3.0, "cut")
    assert a.get("b") == b.me


def test_what_others_said_of_a_linked_device_outlasts_a_link_that_another_one_replaced() -> None:
    a = linked("a", "bc")
    a.receive("c", [wire("b", 1, 5, "c", called="newer")], 1.0)
    a.gossip()
    a.link_up("b", 2.0)
    a.digest_from("b", {"b": [1, 1]}, 2.0)
    assert "b" in told(a)["b"]
    a.link_down("b", 3.0, "cut")
    assert a.get("b").name == "newer"


def test_many_changes_before_the_next_gossip_are_one_version() -> None:
    a = linked("a", "b")
    before = a.me.version
    a.change(1.0, name="x")
    a.change(1.0, name="y", addresses=("tls://h:1",))
    assert a.me.version == (before[0], before[1] + 1)
    ((_, [news]),) = a.gossip()
    assert (news["name"], news["version"]) == ("y", a.me.version)
    a.change(2.0, name="z")
    assert a.me.version == (before[0], before[1] + 2)


def test_a_change_that_changes_nothing_is_no_news() -> None:
    a = linked("a", "b")
    a.change(1.0, name="a", offers=())
    assert a.gossip() == []


@pytest.mark.parametrize("field", ["id", "version", "neighbours", "nonsense"])
def test_what_members_itself_decides_cannot_be_changed_from_outside(field: str) -> None:
    with pytest.raises(TypeError, match=field):
        linked().change(0.0, **{field: None})


@pytest.mark.parametrize(("former", "then"), [((9, 4), (10, 0)), ((1, 7), (2, 0)), ((1, 2), (1, 3)), ((0, 9), (1, 2))])
def test_a_device_outlives_what_a_former_life_of_it_left_behind(former: tuple[int, int], then: tuple[int, int]) -> None:
    by_digest, by_news = Members(device("a", 1, 2)), Members(device("a", 1, 2))
    for a in (by_digest, by_news):
        a.link_up("b", 0.0)
    by_digest.digest_from("b", {"a": list(former)}, 0.0)
    by_news.receive("b", [wire("a", *former, called="former")], 0.0)
    assert by_digest.me.version == by_news.me.version == then


def test_nobody_can_make_a_device_use_up_its_lives() -> None:
    by_digest, by_news = Members(device("a", 1, 2)), Members(device("a", 1, 2))
    for a in (by_digest, by_news):
        a.link_up("b", 0.0)
    by_digest.digest_from("b", {"a": [2**53 - 1, 0]}, 0.0)
    by_news.receive("b", [wire("a", 2**53 - 1, 0, called="former")], 0.0)
    assert by_digest.me.version == by_news.me.version == (1, 2)


def test_the_echo_of_an_own_announcement_is_no_former_life() -> None:
    a = linked("a", "bc")
    a.change(1.0, addresses=tuple(f"tls://[::{n}]:1" for n in range(40)))
    ((_, news), _) = a.gossip()
    before = a.me
    a.receive("c", over_the_wire(news), 1.0)
    assert a.me == before
    assert a.gossip() == []


def test_two_devices_with_one_key_do_not_flood_the_mesh() -> None:
    one, other, hub = Members(device("x")), Members(device("x", called="copy")), Members(device("h"))
    join(one, hub)
    settle(one, hub)
    versions = set()
    for n in range(1000):  # the copy's news reaches this device every 10 ms for 10 s
        now = 1.0 + n / 100
        other.receive("h", over_the_wire([one.me.to_wire()]), now)
        one.receive("h", over_the_wire([other.me.to_wire()]), now)
        versions |= {one.me.version, other.me.version}
    assert 10 <= len(versions) <= 23


def test_a_forgetful_device_is_put_right_by_those_who_remember_it_wherever_they_are() -> None:
    before, hub, old = Members(device("x", 7)), Members(device("h")), Members(device("o"))
    join(before, old)
    settle(before, old)
    old.link_down("x", 1.0, "gone")
    after = Members(device("x", 1, called="new"))
    join(after, hub)
    settle(after, hub)
    join(hub, old)
    settle(after, hub, old)
    assert here(old) == "ohx"
    assert old.get("x") == hub.get("x") == after.me
    assert after.me.version > (7, 0)


# -- gossip ----------------------------------------------------------------------------------------------------------


def test_news_goes_to_every_linked_device_but_the_one_that_sent_it() -> None:
    a = linked("a", "bcd")
    a.receive("b", [wire("x", 1, 1)], 1.0)
    a.receive("c", [wire("x", 1, 1)], 1.0)
    assert told(a) == {"d": ["x"]}
    assert told(a) == {}


def test_a_new_link_is_told_what_its_digest_lacks_and_nothing_before_the_digest() -> None:
    a = linked("a", "b")
    a.receive("b", [wire("b", 1, 2, "ac"), wire("c", 1, 5, "b")], 0.0)
    a.gossip()
    a.link_up("d", 1.0)
    assert told(a) == {"b": ["a"]}
    a.digest_from("d", {"d": [1, 1], "c": [1, 5], "b": [1, 1]}, 1.0)
    assert told(a) == {"d": ["a", "b"]}
    assert told(a) == {}


def test_another_digest_on_the_same_link_mends_what_was_lost() -> None:
    a = linked("a", "b")
    a.receive("b", [wire("b", 1, 2, "ac"), wire("c", 1, 5, "b")], 0.0)
    a.change(0.0, name="x")
    assert told(a) == {"b": ["a"]}
    a.digest_from("b", {"b": [1, 2]}, 1.0)
    assert told(a) == {"b": ["a", "c"]}


def test_a_link_in_place_of_another_is_told_all_that_its_digest_lacks() -> None:
    a = linked("a", "bc")
    before = a.me.version
    a.link_up("b", 1.0)
    a.digest_from("b", {"b": [1, 1], "a": list(before)}, 1.0)
    assert told(a) == {"b": ["a", "c"], "c": ["a"]}
    assert a.events() == []


def test_absent_devices_are_not_gossiped_except_to_correct_older_news() -> None:
    a = linked("a", "b")
    a.receive("b", [wire("x", 1, 5), wire("y", 1, 5)], 0.0)
    a.gossip()
    a.link_up("d", 1.0)
    a.digest_from("d", {"d": [1, 1], "y": [1, 2]}, 1.0)
    assert told(a) == {"b": ["a"], "d": ["a", "b", "y"]}


def test_a_device_that_becomes_present_is_told_to_those_that_joined_while_it_was_absent() -> None:
    a = linked("a", "b")
    a.receive("b", [wire("b", 1, 2, "a"), wire("c", 1, 1, "b")], 0.0)
    a.link_up("d", 1.0)
    a.digest_from("d", {"d": [1, 1]}, 1.0)
    assert "c" not in told(a)["d"]
    a.receive("b", [wire("b", 1, 3, "ac")], 2.0)
    assert told(a) == {"d": ["b", "c"]}


def test_an_announcement_is_passed_on_as_it_came_with_what_newer_versions_add() -> None:
    a = linked("a", "bc")
    news = {**wire("x", 1, 1), "signature": b"\0\1"}
    a.receive("b", [news], 1.0)
    ((_, [passed]),) = a.gossip()
    assert passed is news


def test_what_is_sent_together_stays_below_the_size_that_is_cut_into_chunks() -> None:
    a = linked("a", "bc")
    offers = tuple(Offer(f"skill.{n:04}", "0" * 16, "read") for n in range(100))
    news = [wire(f"x{n}", 1, 1, offers=offers) for n in range(40)]
    a.receive("b", news, 1.0)
    out = a.gossip()
    assert len(out) >= 4
    assert all(peer == "c" and len(pack([batch])) <= BATCH + 16 for peer, batch in out)
    assert sorted(n["id"] for _, batch in out for n in batch) == sorted(n["id"] for n in news)


def test_a_known_announcement_is_not_read_again() -> None:
    a = linked("a", "b")
    a.receive("b", [wire("x", 1, 5)], 0.0)
    kept = a.get("x")
    a.receive("b", [{"id": "x", "version": [1, 5]}, {"id": "x", "version": [1, 4]}], 1.0)
    assert a.get("x") is kept


def test_a_device_that_tells_nothing_of_energy_is_read_and_one_that_does_is_understood() -> None:
    told = Device(
        "x", "x", "phone", (1, 1), offers=(Offer("a.b", "0", "read", joules=2.5),),
        resources=Resources(battery=0.5, capacity=54_000.0, radio="cell\u202eular"),
    )  # fmt: skip
    news = told.to_wire()
    again = Device.from_wire(news)
    assert again.offers == told.offers
    assert again.resources == Resources(battery=0.5, capacity=54_000.0, radio="cellular")
    for name in ("capacity", "radio"):
        del news["resources"][name]
    del news["offers"][0]["joules"]
    older = Device.from_wire(news)
    assert (older.offers[0].joules, older.resources) == (None, Resources(battery=0.5))


# -- what is malformed -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "news",
    [
        3, "announcement", [], {}, None, {"id": "x"}, {"id": "x", "version": [1]}, {"id": "x", "version": [1, 1]},
        {**wire("x"), "id": ["x"]}, {**wire("x"), "id": 7}, {**wire("x"), "id": ""}, {**wire("x"), "id": "x\u200b"},
        {**wire("x"), "id": "x" * 65}, {**wire("x"), "version": "11"}, {**wire("x"), "version": [1.0, 1]},
        {**wire("x"), "version": [-1, 1]}, {**wire("x"), "version": [1, VERSION_LIMIT]},
        {**wire("x"), "version": [True, 1]}, {**wire("x"), "version": [math.nan, 1]},
        {**wire("a"), "version": [2**63, 1]}, {**wire("a"), "version": [9, 9], "resources": []},
        {**wire("x"), "neighbours": [["b", [None, None]]]}, {**wire("x"), "neighbours": {"b": [math.nan, None]}},
        {**wire("x"), "neighbours": {"b": [-1.0, None]}}, {**wire("x"), "neighbours": {"b": [None, math.inf]}},
        {**wire("x"), "resources": {"battery": None, "charging": None, "load": 0, "slots": math.inf}},
        {**wire("x"), "resources": {**wire("x")["resources"], "capacity": math.inf}},
        {**wire("x"), "resources": {**wire("x")["resources"], "capacity": "much"}},
        {**wire("x"), "offers": [{"name": "n", "digest": "", "effect": "", "lock": None, "seconds": 1, "joules": -1}]},
        {**wire("x"), "offers": [{"name": "n"}]}, {**wire("x"), "more": "x" * 300_000}, {**wire("x"), "more": object()},
    ],
)  # fmt: skip
def test_a_malformed_announcement_is_a_protocol_error_and_those_before_it_count(news: Any) -> None:
    a = linked("a", "b")
    with pytest.raises(ProtocolError):
        a.receive("b", [wire("y", 1, 1), news, wire("z", 1, 1)], 0.0)
    assert a.find("y") is not None
    assert a.find("z") is None
    assert a.me.version[0] == 1


@pytest.mark.parametrize("digest", [3, [], {"a": 3}, {"a": [1]}, {"a": ["1", "1"]}, {"b": [1, -1]}, {"a": [2**60, 0]}])
def test_a_malformed_digest_is_a_protocol_error(digest: Any) -> None:
    with pytest.raises(ProtocolError):
        linked("a", "b").digest_from("b", digest, 0.0)


_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(
    st.lists(
        _values | st.builds(lambda k, v: {**wire("x", 3, 3, "ab"), k: v}, st.sampled_from(list(wire("x"))), _values)
    )
)
def test_whatever_arrives_is_read_or_refused_and_leaves_the_view_whole(news: list[Any]) -> None:
    a = linked("a", "b")
    try:
        a.receive("b", news, 1.0)
    except ProtocolError:
        pass
    a.gossip()
    a.events()
    assert here(a).startswith("ab")


def test_at_the_limit_the_absent_device_that_was_seen_least_recently_is_forgotten() -> None:
    a = linked("a", "b", max_devices=3)
    a.receive("b", [wire("x", 1, 1)], 1.0)
    a.receive("b", [wire("y", 1, 1)], 2.0)
    a.receive("b", [wire("x", 1, 2)], 3.0)
    a.receive("b", [wire("z", 1, 1)], 4.0)
    assert [d.id for d, _ in a.known()] == ["b", "z", "x"]


def test_present_devices_are_never_forgotten_for_more_and_a_person_is_told_once() -> None:
    a = linked("a", "bc", max_devices=2)
    a.receive("b", [wire("x", 1, 1), wire("y", 1, 1)], 1.0)
    assert [d.id for d, _ in a.known()] == ["b", "c"]
    assert [kind for kind, _ in a.events()] == ["warning"]


# -- links and their quality -----------------------------------------------------------------------------------------


def test_links_are_announced_when_they_come_and_go() -> None:
    a = linked("a", "bc")
    assert set(a.me.neighbours) == {"b", "c"}
    a.link_down("c", 1.0, "cut")
    a.link_down("c", 1.0, "cut again")
    assert set(a.me.neighbours) == {"b"}
    assert told(a) == {"b": ["a"]}


def test_a_quality_is_announced_when_it_is_half_more_or_less_and_not_too_often() -> None:
    a = linked("a", "b")
    fresh = LinkQuality(0.010, None)
    steps = [
        (0.0, fresh, True),
        (1.0, LinkQuality(0.030, None), False),  # too soon
        (QUALITY_EVERY, LinkQuality(0.014, None), False),  # too little
        (QUALITY_EVERY, LinkQuality(0.016, None), True),
        (3 * QUALITY_EVERY, LinkQuality(0.016, 1e6), True),  # the first of its kind
        (5 * QUALITY_EVERY, LinkQuality(None, 1.4e6), False),
        (5 * QUALITY_EVERY, LinkQuality(0.016, 0.4e6), True),
    ]
    for now, quality, announced in steps:
        a.measured("b", quality, now)
        assert (a.me.neighbours["b"] == quality) is announced
        assert a.link("a", "b") in (quality, LinkQuality(quality.rtt or 0.016, quality.bandwidth))
        assert bool(a.gossip()) is announced
    a.measured("nobody", fresh, 100.0)
    assert a.gossip() == []


def test_the_quality_of_a_link_is_what_its_better_known_end_tells() -> None:
    a = linked("a", "bc")
    b, c = device("b", 1, 9, "a").to_wire(), device("c", 1, 9, "a").to_wire()
    b["neighbours"] = {"a": [0.5, 7.0], "c": [None, 3.0], "d": [0.1, None]}
    c["neighbours"] = {"a": [None, None], "b": [0.2, 4.0]}
    a.receive("b", [b], 0.0)
    a.receive("c", [c], 0.0)
    a.measured("b", LinkQuality(0.4, None), 0.0)
    for one, other, quality in [
        ("a", "b", LinkQuality(0.4, 7.0)), ("b", "c", LinkQuality(0.2, 3.0)), ("b", "d", LinkQuality(0.1, None)),
        ("a", "c", LinkQuality()), ("c", "d", None), ("a", "d", None), ("a", "a", None), ("y", "z", None),
    ]:  # fmt: skip
        assert a.link(one, other) == a.link(other, one) == quality


# -- time ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("heard", "suspected"), [(0.0, 2.5), (0.3, 2.5), (0.6, 2.6), (1.2, 3.2)])
def test_a_silent_peer_is_suspected_then_lost_and_the_events_say_so(heard: float, suspected: float) -> None:
    a = linked("a", "bc")
    a.receive("b", [wire("b", 1, 2, "ad"), wire("d", 1, 1, "b")], 0.0)
    a.events()
    a.heard("b", heard)
    now, lost = 0.0, heard + 3.0
    happened: dict[str, list[Any]] = {}
    while "device.left" not in happened:
        a.heard("c", now)
        expired = a.tick(now)
        for peer in a.beats_due(now):
            a.sent(peer, now)
        for kind, fields in a.events():
            happened.setdefault(kind, []).append((now, fields, expired))
        assert a.state("b") == ("linked" if now < suspected else "suspect" if now < lost else "absent")
        due = a.next_timer()
        assert due is not None
        assert due > now
        now = due
    assert happened == {
        "device.suspect": [(suspected, {"device": "b", "name": "b"}, [])],
        "device.left": [
            (lost, {"device": "b", "name": "b", "why": "nothing was heard of it for 3.0 s"}, ["b"]),
            (lost, {"device": "d", "name": "d", "why": "out of reach: it was reached through b"}, ["b"]),
        ],
    }
    assert here(a) == "ac"


def test_any_byte_ends_a_suspicion() -> None:
    a = linked("a", "b")
    a.tick(2.0)
    assert a.state("b") == "suspect"
    a.heard("b", 2.1)
    assert a.state("b") == "linked"
    assert a.tick(3.2) == []
    assert [kind for kind, _ in a.events()] == ["device.suspect", "device.changed"]


def test_a_device_that_overslept_doubts_itself_before_its_peers() -> None:
    a = linked("a", "b")
    a.tick(0.0)
    due = a.next_timer()
    assert due == 1.25
    assert a.tick(60.0) == []
    assert a.state("b") == "linked"
    assert (a.tick(60.75), a.state("b")) == ([], "suspect")
    assert a.tick(61.75) == ["b"]


def test_without_links_there_is_no_timer() -> None:
    a = Members(device("a"))
    assert (a.next_timer(), a.tick(5.0), a.beats_due(5.0)) == (None, [], [])


@given(st.lists(st.floats(0, 1.25), min_size=1, max_size=6))
def test_an_idle_device_wakes_once_per_heartbeat_however_its_peers_beat(phases: list[float]) -> None:
    """Peers beat every 1.25 s in any phase; the device's own wake-ups do not grow with their number."""
    peers = "bcdefg"[: len(phases)]
    a = linked("a", "")
    for peer, phase in zip(peers, phases, strict=True):
        a.link_up(peer, phase)
    now, wakes, beats = 1.25, 0, 0
    while now < 101.25:
        for peer, phase in zip(peers, phases, strict=True):
            a.heard(peer, phase + 1.25 * math.floor((now - phase) / 1.25))
        assert a.tick(now) == []
        for peer in a.beats_due(now):
            a.sent(peer, now)
            beats += 1
        wakes += 1
        now = a.next_timer() or math.inf
    assert a.events() == []
    assert wakes <= 80 + 3
    assert 78 * len(peers) <= beats <= 82 * len(peers)


def test_a_busy_link_gets_no_heartbeats() -> None:
    a = linked("a", "bc")
    a.sent("b", 1.0)
    assert a.beats_due(1.2) == []
    assert a.beats_due(1.25) == ["c"]


def test_bytes_of_links_that_never_came_up_leave_nothing_behind() -> None:
    a = linked("a", "b")
    for n in range(100):
        a.heard(f"stranger {n}", 0.5)
        a.sent(f"stranger {n}", 0.5)
    a.tick(1.0)
    assert set(a._heard) == set(a._sent) == {"b"}


@pytest.mark.parametrize("times", [(1.0, 3.0, 1.25), (2.0, 2.0, 1.25), (2.0, 3.0, 0.0)])
def test_times_in_an_impossible_order_are_refused(times: tuple[float, float, float]) -> None:
    with pytest.raises(ValueError, match="heartbeat_every"):
        Members(device("a"), *times)


# -- events ----------------------------------------------------------------------------------------------------------


def test_joining_changing_and_leaving_are_told_once_each() -> None:
    a = linked("a", "b")
    a.receive("b", [wire("c", 1, 1, "b"), wire("b", 1, 2, "ac")], 1.0)
    assert a.events() == [
        ("device.changed", {"device": "b", "name": "b"}),
        ("device.joined", {"device": "c", "name": "c", "via": "b"}),
    ]
    a.receive("b", [wire("c", 1, 2, "b", called="cc"), wire("c", 1, 3, "b", called="ccc")], 2.0)
    assert a.events() == [("device.changed", {"device": "c", "name": "ccc"})]
    a.link_down("b", 3.0, "connection reset")
    assert a.events() == [
        ("device.left", {"device": "b", "name": "b", "why": "connection reset"}),
        ("device.left", {"device": "c", "name": "ccc", "why": "out of reach: it was reached through b"}),
    ]
    assert a.events() == []


def test_a_graceful_leave_is_told_at_once_and_passed_on() -> None:
    a = linked("a", "bc")
    a.receive("b", [wire("b", 1, 2, "a", leaving=True)], 1.0)
    assert a.events() == [("device.left", {"device": "b", "name": "b", "why": "left"})]
    assert here(a) == "ac"
    assert told(a) == {"c": ["b"]}
    a.link_down("b", 1.0, "closed")
    assert a.events() == []


def test_a_restart_in_between_is_a_leave_and_a_join() -> None:
    a = linked("a", "b")
    a.receive("b", [wire("b", 2, 1, "a")], 1.0)
    assert a.events() == [
        ("device.left", {"device": "b", "name": "b", "why": "restarted"}),
        ("device.joined", {"device": "b", "name": "b", "via": None}),
    ]


def test_what_undid_itself_between_two_looks_is_not_told() -> None:
    a = linked("a", "b")
    a.receive("b", [wire("b", 1, 2, "ac"), wire("c", 1, 1, "b"), wire("b", 1, 3, "a")], 1.0)
    a.events()
    a.receive("b", [wire("b", 1, 4, "ac")], 2.0)
    a.receive("b", [wire("b", 1, 5, "a")], 3.0)
    assert [kind for kind, _ in a.events()] == ["device.changed"]


# -- names, and who was here -----------------------------------------------------------------------------------------


def test_a_device_is_found_by_id_and_by_name_and_a_name_of_two_names_both() -> None:
    a = linked("a", "bcd")
    a.receive("b", [wire("b", 1, 2, "a", called="car")], 0.0)
    a.receive("c", [wire("c", 1, 2, "a", called="car")], 0.0)
    assert a.get("b").id == "b"
    assert a.get("d").id == "d"
    assert a.find("nobody") is None
    with pytest.raises(UsageError, match="2 devices are called car: they are b, c"):
        a.get("car")
    a.link_down("c", 1.0, "cut")
    assert a.get("car").id == "b"
    with pytest.raises(UsageError, match="known are a, car, d"):
        a.get("nobody")


def test_absent_devices_are_remembered_with_when_they_were_last_here() -> None:
    a = linked("a", "bc")
    a.link_down("b", 5.0, "cut")
    assert here(a) == "ac"
    a.link_down("c", 9.0, "cut")
    assert [(d.id, seen) for d, seen in a.known()] == [("c", 9.0), ("b", 5.0)]
    a.link_up("c", 12.0)
    a.digest_from("c", {"c": list(a.get("c").version)}, 12.0)
    assert [(d.id, seen) for d, seen in a.known()] == [("c", None), ("b", 5.0)]


def test_a_forgotten_device_is_not_listed_until_it_is_back() -> None:
    a = linked("a", "bc")
    a.link_down("b", 5.0, "cut")
    a.forget("b")
    assert [d.id for d, _ in a.known()] == ["c"]
    assert a.find("b") is None
    for gone in ("b", "nobody", "a", "c"):
        with pytest.raises(UsageError):
            a.forget(gone)
    a.link_up("b", 6.0)
    a.digest_from("b", {"b": list(a.digest()["b"])}, 6.0)  # nothing of it changed, so no news of it comes
    assert [d.id for d, _ in a.known()] == ["b", "c"]
    assert a.get("b").id == "b"


# -- any network -----------------------------------------------------------------------------------------------------

NAMES = "abcdef"


class AnyNetwork(RuleBasedStateMachine):
    """A network that delays, reorders, repeats, cuts and goes silent; in the end all agree on who is here."""

    @initialize(count=st.integers(2, 6))
    def begin(self, count: int) -> None:
        self.now = 0.0
        self.boots = {name: [1_000_000] for name in NAMES[:count]}
        self.mesh = {name: Members(device(name, 1_000_000)) for name in self.boots}
        self.gone: set[str] = set()
        self.ends: dict[tuple[str, str], int] = {}  # (device, peer) -> the connection of that end
        self.live: dict[int, bool] = {}  # connection -> whether bytes still come through
        self.connections = 0
        self.air: list[tuple[int, str, str, str, Any]] = []  # connection, from, to, what, content
        self.seen: dict[str, set[str]] = {name: set() for name in self.boots}

    def name(self, pick: int) -> str:
        return NAMES[pick % len(self.mesh)]

    def spread(self, name: str) -> None:
        for peer, news in self.mesh[name].gossip():
            connection = self.ends[name, peer]
            if self.live.get(connection):
                self.air.append((connection, name, peer, "news", over_the_wire(news)))

    def close(self, name: str, peer: str) -> None:
        connection = self.ends.pop((name, peer))
        self.mesh[name].link_down(peer, self.now, "cut")
        if self.live.pop(connection, False):
            self.air.append((connection, name, peer, "end", None))

    picks = st.integers(0, 5)

    @rule(i=picks, j=picks)
    def connect(self, i: int, j: int) -> None:
        one, other = self.name(i), self.name(j)
        ends = (one, other), (other, one)
        if one == other or {one, other} & self.gone or (ends[0] in self.ends and ends[1] in self.ends):
            return
        self.connections += 1
        self.live[self.connections] = True
        for name, peer in ends:  # an end that has not noticed that the last one broke gets this one in its place
            self.live.pop(self.ends.get((name, peer), 0), None)
            self.ends[name, peer] = self.connections
            self.mesh[name].link_up(peer, self.now)
            digest = {k: list(v) for k, v in self.mesh[name].digest().items()}
            self.air.append((self.connections, name, peer, "digest", digest))

    @rule(i=picks, j=picks)
    def cut(self, i: int, j: int) -> None:
        if (self.name(i), self.name(j)) in self.ends:
            self.close(self.name(i), self.name(j))

    @rule(i=picks, j=picks)
    def fall_silent(self, i: int, j: int) -> None:
        connection = self.ends.get((self.name(i), self.name(j)), 0)
        if self.live.get(connection):
            self.live[connection] = False
            self.air = [message for message in self.air if message[0] != connection]

    @rule(i=picks, name=st.sampled_from(["car", "phone", "hub"]), load=st.floats(0, 1))
    def change(self, i: int, name: str, load: float) -> None:
        self.mesh[self.name(i)].change(self.now, name=name, resources=Resources(load=load))

    @rule(i=picks, j=picks, rtt=st.floats(0.001, 1))
    def measure(self, i: int, j: int, rtt: float) -> None:
        self.now += 4
        for name in self.mesh:
            for peer in (p for n, p in self.ends if n == name):
                self.mesh[name].heard(peer, self.now)
        self.mesh[self.name(i)].measured(self.name(j), LinkQuality(rtt), self.now)

    @rule(speak=st.sets(picks), arrive=st.lists(st.tuples(st.integers(0, 99), st.booleans()), max_size=12))
    def gossip(self, speak: set[int], arrive: list[tuple[int, bool]]) -> None:
        for i in speak:
            self.spread(self.name(i))
        for pick, again in arrive:
            if self.air:
                self.deliver(pick % len(self.air), again)

    def deliver(self, at: int, again: bool) -> None:
        connection, source, target, what, content = self.air[at]
        if not again:
            del self.air[at]
        mine = self.ends.get((target, source)) == connection
        if what == "news":  # this may come after the end of its connection
            self.mesh[target].receive(source, content, self.now)
        elif what == "digest" and mine:
            self.mesh[target].digest_from(source, content, self.now)
        elif what == "end" and mine:
            self.close(target, source)

    @rule(i=picks, forgetful=st.booleans())
    def restart(self, i: int, forgetful: bool) -> None:
        name = self.name(i)
        boots = self.boots[name]
        for peer in [p for n, p in self.ends if n == name]:
            self.close(name, peer)
        boot = (max(boots[-1], self.mesh[name].me.version[0]) // 1000 + 1) * 1000
        if forgetful and min(boots) == boots[0]:  # its state was lost, once
            boot = boots[0] - 1000
        boots.append(boot)
        self.mesh[name] = Members(device(name, boot))
        self.seen[name] = set()
        self.gone.discard(name)

    @rule(i=picks)
    def leave(self, i: int) -> None:
        name = self.name(i)
        self.mesh[name].change(self.now, leaving=True)
        self.spread(name)
        for peer in [p for n, p in self.ends if n == name]:
            self.close(name, peer)
        self.gone.add(name)

    @rule()
    def grow_quiet(self) -> None:
        for _ in range(60):
            for name in self.mesh:
                self.spread(name)
            while self.air:
                self.deliver(0, False)
                for name in self.mesh:
                    self.spread(name)
            before, self.now = self.digests(), self.now + 1.0
            for name, members in self.mesh.items():
                for n, peer in self.ends:
                    if n == name and self.live.get(self.ends[n, peer]):
                        members.heard(peer, self.now)
                for peer in members.tick(self.now):
                    assert not self.live.get(self.ends[name, peer])
                    del self.ends[name, peer]
            for name in self.mesh:
                self.spread(name)
            if not self.air and before == self.digests() and all(self.live.get(c) for c in self.ends.values()):
                break
        else:
            raise AssertionError("the mesh does not come to rest")
        for name in self.mesh.keys() - self.gone:
            self.check(name)

    def digests(self) -> list[Any]:
        return [members.digest() for members in self.mesh.values()]

    def check(self, name: str) -> None:
        component = [name]
        for at in component:
            component += [p for n, p in self.ends if n == at and p not in component]
        members = self.mesh[name]
        others = sorted((self.mesh[x].me for x in component[1:]), key=lambda d: (d.name, d.id))
        assert members.present() == [members.me, *others]
        assert all(members.get(other.id) == other for other in others)
        assert {x for x in self.mesh if members.state(x) == "linked"} == {p for n, p in self.ends if n == name}

    @invariant()
    def the_events_tell_who_is_here(self) -> None:
        for name, members in getattr(self, "mesh", {}).items():
            seen = self.seen[name]
            for kind, fields in members.events():
                if kind == "device.joined":
                    assert fields["device"] not in seen
                    seen.add(fields["device"])
                elif kind == "device.left":
                    seen.remove(fields["device"])
                else:
                    assert kind == "device.changed" or fields["device"] in seen
            assert seen == {d.id for d in members.present()[1:]}

    def teardown(self) -> None:
        if getattr(self, "mesh", None):
            self.grow_quiet()


TestAnyNetwork = AnyNetwork.TestCase
TestAnyNetwork.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


# -- a hundred devices -----------------------------------------------------------------------------------------------


def test_a_hundred_devices_agree_while_links_are_cut_and_healed() -> None:
    random = Random(7)
    ids = [f"device-{n:03}" for n in range(100)]
    mesh = {i: Members(device(i)) for i in ids}
    pairs = random.sample(list(combinations(ids, 2)), 400)
    up: set[tuple[str, str]] = set()

    def heal(chosen: list[tuple[str, str]]) -> None:
        for a, b in chosen:
            mesh[a].link_up(b, 0.0)
            mesh[b].link_up(a, 0.0)
        for a, b in chosen:
            mesh[a].digest_from(b, mesh[b].digest(), 0.0)
            mesh[b].digest_from(a, mesh[a].digest(), 0.0)
        up.update(chosen)

    def cut(chosen: list[tuple[str, str]]) -> None:
        for a, b in chosen:
            mesh[a].link_down(b, 0.0, "cut")
            mesh[b].link_down(a, 0.0, "cut")
        up.difference_update(chosen)

    def agree() -> int:
        rounds = 0
        while sent := [(m.me.id, *out) for m in mesh.values() for out in m.gossip()]:
            rounds += 1
            for source, target, news in sent:
                mesh[target].receive(source, news, 0.0)
        left = set(ids)
        while left:
            component = [min(left)]
            for at in component:
                ends = {b if a == at else a for a, b in up if at in (a, b)}
                component += ends - set(component)
            left -= set(component)
            for i in component:
                assert mesh[i].present() == [mesh[i].me, *(mesh[x].me for x in sorted(component) if x != i)]
        return rounds

    heal(pairs)
    assert agree() <= 8
    for _ in range(2):
        chosen = random.sample(pairs, 80)
        cut(chosen)
        assert agree() <= 8
        heal(chosen)
        assert agree() <= 8
