"""The roster: each law by an example, then any statements in any order, against a model that is slow and plain."""

from __future__ import annotations

from collections.abc import Iterable
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from slipstream.core.errors import Refused
from slipstream.core.trust import ROSTER_LIMIT, VOUCH_LIMIT, WAITING_LIMIT, Role, Roster, Statement

ROOT = "root"
OWNER, MEMBER, GUEST = Role.OWNER, Role.MEMBER, Role.GUEST


def say(signer: str, seq: int, subject: str, role: Role | None = None, **more: Any) -> Statement:
    """What a signer says of a subject: that it is of the mesh, or without a role that it is not any more."""
    fields: dict[str, Any] = {
        "name": subject, "device_kind": "car", "until": None, "profile": "", "number": 1, "keeps": b"", "at": 0.0,
        "mesh": ROOT, "spki": b"", "signature": b"",
    }  # fmt: skip
    kind: Any = "revoke" if role is None else "add"
    return Statement(kind=kind, signer=signer, seq=seq, subject=subject, role=role, **(fields | more))


def roster(*statements: Statement) -> Roster:
    made = Roster(ROOT)
    made.merge(statements)
    return made


def who(of: Roster) -> str:
    """The devices of a mesh."""
    return "".join(sorted(m.id for m in of.members()))


def thrown_out(of: Roster) -> set[str]:
    return {s.subject for s in of.statements if of.revoked(s.subject)}


def everything(of: Roster) -> tuple[object, ...]:
    """All that a roster says."""
    return of.digest, of.members(), thrown_out(of)


FIRST = say(ROOT, 1, "a", OWNER)


# -- the laws, one by one --------------------------------------------------------------------------------------------


def test_the_root_lets_the_first_owner_in_who_lets_others_in() -> None:
    known = roster(FIRST, say("a", 1, "b", OWNER), say("b", 1, "c", MEMBER), say("b", 2, "d", GUEST, until=9.0))
    assert [(m.id, m.role, m.by) for m in known.members()] == [
        ("a", OWNER, ROOT), ("b", OWNER, "a"), ("c", MEMBER, "b"), ("d", GUEST, "b"),
    ]  # fmt: skip


@pytest.mark.parametrize("role", [MEMBER, GUEST])
def test_who_is_no_owner_lets_nobody_in_and_throws_nobody_out(role: Role) -> None:
    assert who(roster(FIRST, say("a", 1, "b", role), say("b", 1, "c", OWNER), say("b", 2, "a"))) == "ab"


def test_what_strangers_and_other_meshes_say_counts_for_nothing() -> None:
    known = roster(FIRST, say("z", 1, "z", OWNER), say("z", 2, "a"), say(ROOT, 2, "y", OWNER, mesh="another"))
    assert who(known) == "a"
    assert known.statements == (FIRST,)


def test_a_statement_waits_for_its_signer_to_be_let_in() -> None:
    late = Roster(ROOT)
    assert late.merge([say("b", 1, "c", OWNER), say("c", 1, "d", MEMBER)]) == []
    assert late.merge([say("a", 1, "b", OWNER)]) == []
    assert len(late.merge([FIRST])) == 4
    assert who(late) == "abcd"


def test_of_a_revoked_owner_nothing_counts_whenever_it_said_it_but_the_one_statement_that_is_kept() -> None:
    owners = [FIRST, say("a", 1, "b", OWNER), say("a", 2, "x", OWNER)]
    kept = say("b", 1, "c", OWNER)
    known = roster(*owners, kept, say("b", 2, "d", MEMBER), say("a", 3, "b", keeps=kept.id), say("c", 1, "g", MEMBER),
                   say("b", 1, "e", OWNER), say("e", 1, "f", OWNER), say("b", 4, "x"))  # fmt: skip
    assert who(known) == "acgx"
    assert thrown_out(known) == {"b"}


def test_of_two_revokes_that_keep_different_things_nothing_is_kept() -> None:
    told = [FIRST, say("a", 1, "b", OWNER), say("a", 2, "x", OWNER), say("b", 1, "c", MEMBER), say("b", 2, "d", MEMBER)]
    assert who(roster(*told, say("a", 3, "b", keeps=told[3].id), say("x", 1, "b", keeps=told[3].id))) == "acx"
    assert who(roster(*told, say("a", 3, "b", keeps=told[3].id), say("x", 1, "b", keeps=told[4].id))) == "ax"
    assert who(roster(*told, say("a", 3, "b", keeps=told[3].id), say("x", 1, "b"))) == "ax"


def test_a_revoke_wins_over_every_admission_of_that_key() -> None:
    known = roster(FIRST, say("a", 1, "b", MEMBER), say("a", 2, "b"), say("a", 3, "b", OWNER, number=9))
    assert who(known) == "a"
    with pytest.raises(Refused, match="was revoked"):
        known.admitted("b", 0.0)


def test_who_was_revoked_before_revoked_nobody() -> None:
    chain = [FIRST, *(say("a", n, x, OWNER) for n, x in enumerate("bcd", 1))]
    known = roster(*chain, say("c", 1, "d"), say("b", 1, "c"), say("a", 4, "b"))
    assert who(known) == "ac"


def test_two_owners_who_revoke_each_other_are_both_out_and_nobody_is_in_by_what_they_did_meanwhile() -> None:
    owners = [FIRST, say("a", 1, "b", OWNER), say("a", 2, "c", OWNER), say("a", 3, "d", MEMBER)]
    known = roster(*owners, say("b", 1, "c"), say("c", 1, "b"), say("b", 2, "x", MEMBER), say("c", 2, "d"))
    assert who(known) == "a"
    assert thrown_out(known) == {"b", "c", "d"}


def test_an_owner_that_was_thrown_out_does_not_come_back_by_revoking_its_revoker_through_a_friend() -> None:
    told = [FIRST, say("a", 1, "b", OWNER), say("a", 2, "x", OWNER), say("a", 3, "z", MEMBER), say("x", 1, "z"),
            say("x", 2, "b")]  # fmt: skip
    assert thrown_out(roster(*told)) == {"b", "z"}
    through_a_friend = roster(*told, say("b", 1, "friend", OWNER), say("friend", 1, "x"))
    assert who(through_a_friend) == "a"
    assert {"b", "z"} <= thrown_out(through_a_friend)


def test_three_who_revoke_each_other_in_a_ring_are_all_out() -> None:
    owners = [FIRST, *(say("a", n, x, OWNER) for n, x in enumerate("bcd", 1))]
    assert who(roster(*owners, say("b", 1, "c"), say("c", 1, "d"), say("d", 1, "b"))) == "a"


def test_a_third_owner_decides_between_two_who_revoke_each_other() -> None:
    owners = [FIRST, say("a", 1, "b", OWNER), say("a", 2, "c", OWNER)]
    each_other = [say("b", 1, "c"), say("c", 1, "b"), say("c", 2, "x", MEMBER)]
    assert who(roster(*owners, *each_other)) == "a"
    assert who(roster(*owners, *each_other, say("a", 3, "b"))) == "acx"


def test_a_revoke_that_would_undo_its_own_signer_counts_for_nothing() -> None:
    told = [FIRST, say("a", 1, "b", OWNER), say("a", 2, "c", MEMBER), say("b", 1, "a")]
    assert who(roster(*told)) == "abc"
    assert who(roster(*told, say("a", 3, "b"))) == "ac"


def test_a_new_key_takes_the_place_of_the_one_that_let_it_in_and_what_it_does_not_say_again_is_void() -> None:
    heir = say("a", 2, "new a", OWNER)
    told = [FIRST, say("a", 1, "b", MEMBER), heir, say("new a", 1, "a", keeps=heir.id), say("new a", 2, "d", MEMBER)]
    assert [m.id for m in roster(*told).members()] == ["d", "new a"]
    # whoever has the old key says what he likes, with whatever number: nobody comes in by it
    thief = [say("a", 2, "puppet", OWNER), say("a", 1, "b", MEMBER, number=9)]
    assert [m.id for m in roster(*told, *thief).members()] == ["d", "new a"]
    # he can throw everybody out with it, as owners can who revoke each other: such a mesh is at an end
    assert who(roster(*told, *thief, say("a", 3, "new a"))) == ""


def test_whoever_has_any_key_of_a_device_is_out_with_all_of_them() -> None:
    told = [FIRST, say("a", 1, "b", MEMBER), say("a", 2, "c", MEMBER, line="b"), say("a", 3, "d", MEMBER, line="c")]
    other = say("a", 4, "x", MEMBER)
    assert [m.id for m in roster(*told, other).line("c")] == ["b", "c", "d"]
    for key in "bcd":
        assert who(roster(*told, other, say("a", 5, key))) == "ax"
    retired = [*told, say("a", 5, "b", line="c"), say("a", 6, "c", line="d")]
    assert who(roster(*retired, other)) == "adx"
    for key in "bcd":  # an old key that is out already still names the line
        assert [m.id for m in roster(*retired).line(key)] == ["d"]
        assert who(roster(*retired, other, say("a", 7, key))) == "ax"


def test_an_owner_is_in_no_line_and_whose_word_is_void_makes_none() -> None:
    owner = [FIRST, say("a", 1, "b", MEMBER), say("a", 2, "c", OWNER, line="b")]
    assert who(roster(*owner, say("a", 3, "b"))) == "ac"
    liar = [FIRST, say("a", 1, "b", OWNER), say("a", 2, "v", MEMBER), say("b", 1, "x", MEMBER, line="v")]
    assert who(roster(*liar, say("b", 2, "x"))) == "ab"
    assert who(roster(*liar, say("b", 2, "x"), say("a", 3, "b"))) == "av"


def test_nobody_throws_himself_out() -> None:
    assert who(roster(FIRST, say("a", 1, "b", OWNER), say("b", 1, "b"), say("b", 2, "c", MEMBER))) == "abc"


def test_the_latest_admission_says_what_a_device_is_unless_it_is_an_owner() -> None:
    told = [FIRST, say("a", 1, "b", MEMBER), say("a", 2, "b", GUEST, number=2, until=5.0, profile="valet", name="B")]
    member = roster(*told).member("b")
    assert member is not None
    assert (member.role, member.until, member.profile, member.name) == (GUEST, 5.0, "valet", "B")
    once_more = roster(*told, say("a", 3, "b", OWNER, number=3), say("a", 4, "b", MEMBER, number=4)).member("b")
    assert once_more is not None
    assert once_more.role is OWNER


def test_of_two_admissions_with_one_number_the_lesser_role_counts() -> None:
    known = roster(FIRST, say("a", 1, "c", OWNER), say("a", 2, "b", MEMBER), say("c", 1, "b", GUEST, until=5.0))
    member = known.member("b")
    assert member is not None
    assert member.role is GUEST


def test_the_time_of_a_guest_is_over_at_its_end() -> None:
    known = roster(FIRST, say("a", 1, "g", GUEST, until=100.0))
    assert known.admitted("g", 99.9).role is GUEST
    with pytest.raises(Refused, match="the time of g is over") as caught:
        known.admitted("g", 100.0)
    assert "--for" in caught.value.hint
    assert known.member("g") is not None
    again = say("a", 2, "g", GUEST, until=200.0, number=2)
    known.merge([again])
    assert known.admitted("g", 100.0).until == 200.0


def test_who_is_not_of_the_mesh_is_told_so() -> None:
    with pytest.raises(Refused, match="is not of this mesh") as caught:
        roster(FIRST).admitted("b" * 32, 0.0)
    assert "b" * 8 not in str(caught.value)


def test_the_next_numbers_count_everything_that_was_said() -> None:
    known = roster(FIRST, say("a", 1, "b", MEMBER), say("a", 7, "b"), say("b", 3, "c", MEMBER))
    assert [known.next_seq(x) for x in (ROOT, "a", "b", "z")] == [2, 8, 1, 1]
    assert [known.next_number(x) for x in "abz"] == [2, 2, 1]


def test_a_roster_tells_what_another_one_lacks() -> None:
    some, all_of_it = roster(FIRST), roster(FIRST, say("a", 1, "b", OWNER), say("b", 1, "c", MEMBER))
    assert some.digest != all_of_it.digest
    lacking = all_of_it.lacking(some.ids())
    assert some.merge(lacking) == lacking
    assert some.digest == all_of_it.digest
    assert some.lacking(all_of_it.ids()) == []


# -- vouching --------------------------------------------------------------------------------------------------------


def roots(vouch: Iterable[Statement], device: str) -> bool:
    """Whether somebody who knows nothing but the root lets the device in then."""
    return roster(*vouch).member(device) is not None


def test_a_vouch_is_the_way_from_the_root_to_the_device() -> None:
    told = [FIRST, say("a", 1, "b", OWNER), say("b", 1, "c", OWNER), say("c", 1, "d", MEMBER), say("a", 2, "x", OWNER)]
    assert roster(*told).vouch("d") == [told[0], told[1], told[2], told[3]]
    assert roster(*told).vouch("a") == [FIRST]
    assert roster(*told).vouch("z") == []


def test_a_vouch_goes_through_an_owner_who_is_out_by_now() -> None:
    kept = say("b", 1, "c", MEMBER)
    known = roster(FIRST, say("a", 1, "b", OWNER), kept, say("a", 2, "b", keeps=kept.id))
    assert roots(known.vouch("c"), "c")


def test_owners_who_let_each_other_in_again_are_still_vouched_for_from_the_root() -> None:
    known = roster(FIRST, say("a", 1, "b", OWNER), say("b", 1, "a", OWNER, number=2), say("b", 2, "c", MEMBER))
    assert [len(known.vouch(x)) for x in "abc"] == [3, 2, 3]
    assert all(roots(known.vouch(x), x) for x in "abc")


def test_a_vouch_always_fits_into_a_hello() -> None:
    ring = [say(f"d{n}", 1, f"d{n + 1}", OWNER) for n in range(2 * VOUCH_LIMIT)]
    vouch = roster(say(ROOT, 1, "d0", OWNER), *ring).vouch(f"d{2 * VOUCH_LIMIT}")
    assert vouch == ring[-VOUCH_LIMIT:]


# -- limits ----------------------------------------------------------------------------------------------------------


def test_statements_that_nobody_vouches_for_are_forgotten_beyond_a_limit() -> None:
    known = roster(FIRST)
    known.merge(say("z", n, f"x{n}", MEMBER) for n in range(1, WAITING_LIMIT + 501))
    assert len(known.merge([say("a", 1, "z", OWNER)])) == 1 + WAITING_LIMIT


def test_a_roster_has_an_end() -> None:
    known = roster(FIRST, *(say("a", n, f"x{n}", MEMBER) for n in range(1, ROSTER_LIMIT + 100)))
    assert len(known.statements) == len(known.members()) == ROSTER_LIMIT


# -- any statements at all -------------------------------------------------------------------------------------------

_NAMES = "abcde"
_roles = st.sampled_from([OWNER, OWNER, OWNER, None, None, None, MEMBER, GUEST])
anything = st.builds(
    lambda signer, seq, subject, role, number, keeps, line: say(
        signer, seq, subject, role, number=number, keeps=keeps if role is None else b"", line=line
    ),
    st.sampled_from([ROOT, *_NAMES]), st.integers(1, 4), st.sampled_from([*_NAMES, ROOT]), _roles, st.integers(1, 3),
    st.sampled_from([b"", *(say("a", 1, x, OWNER).id for x in _NAMES), say("b", 1, "c", OWNER).id]),
    st.sampled_from(["", "", "", *_NAMES]),
)  # fmt: skip
of_a_mesh = st.lists(anything, max_size=14).map(lambda some: [FIRST, say("a", 1, "b", OWNER), *some])


@settings(deadline=None)
@given(of_a_mesh, st.randoms(use_true_random=False), st.integers(1, 5))
def test_any_order_doubling_and_split_comes_to_the_same(told: list[Statement], draw: Random, size: int) -> None:
    shuffled = told + draw.sample(told, len(told) // 2)
    draw.shuffle(shuffled)
    by_pieces = Roster(ROOT)
    new = [s for at in range(0, len(shuffled), size) for s in by_pieces.merge(shuffled[at : at + size])]
    assert everything(by_pieces) == everything(roster(*told))
    assert len(new) == len(by_pieces.statements)
    assert set(new) == set(by_pieces.statements)


@settings(deadline=None)
@given(of_a_mesh, st.data())
def test_parts_that_heard_different_things_are_of_one_mind_once_they_talk(told: list[Statement], data: Any) -> None:
    parts = [roster(*data.draw(st.lists(st.sampled_from(told)))) for _ in range(3)]
    for one, other in [(0, 1), (1, 2), (2, 0)] * len(told):  # what waited in one part may be rooted by another one
        parts[other].merge(parts[one].lacking(parts[other].ids()))
        parts[one].merge(parts[other].lacking(parts[one].ids()))
    assert len({p.digest for p in parts}) == 1
    assert everything(parts[0]) == everything(parts[1]) == everything(parts[2])


@settings(deadline=None)
@given(of_a_mesh)
def test_every_device_that_is_in_can_prove_it_to_who_knows_the_root_only(told: list[Statement]) -> None:
    known = roster(*told)
    for member in known.members():
        assert roots(known.vouch(member.id), member.id)


@settings(deadline=None)
@given(of_a_mesh, st.integers(1, 9), st.sampled_from([MEMBER, GUEST]))
def test_nobody_who_is_out_comes_back_as_a_member_or_guest(told: list[Statement], number: int, role: Role) -> None:
    known = roster(*told)
    out = thrown_out(known)
    known.merge(say(by, 90 + n, x, role, number=number) for by in (ROOT, *_NAMES) for n, x in enumerate(out))
    assert thrown_out(known) == out


@settings(deadline=None)
@given(of_a_mesh, st.lists(anything, max_size=6))
def test_nothing_that_is_said_next_by_who_is_no_owner_now_lets_anybody_in_or_back_in(
    told: list[Statement], more: list[Statement]
) -> None:
    known = roster(*told)
    members, out = set(known.members()), thrown_out(known)
    owners = {ROOT, *(m.id for m in members if m.role is OWNER)}
    known.merge(s for s in more if s.signer not in owners)
    assert set(known.members()) <= members
    assert thrown_out(known) >= out


# -- a model that follows the words ----------------------------------------------------------------------------------


def model(told: list[Statement]) -> tuple[dict[str, Role], set[str]]:
    """Who is in, as what, and who is out, worked out the slow way from the laws."""
    told = [s for s in told if s.mesh == ROOT]

    def counting(held: set[Statement]) -> set[Statement]:
        """What counts if exactly these revokes are held to count."""
        found: set[Statement] = set()
        while True:
            more = {
                s for s in told
                if (s.signer == ROOT or any(o.role is OWNER and o.subject == s.signer for o in found))
                and not any(
                    r.subject == s.signer and s.id != r.keeps for r in held
                )
            }  # fmt: skip
            if more == found:
                return found
            found = more

    revokes = {s for s in told if s.kind == "revoke" and s in counting({s})}
    revokes = {r for r in revokes if r.signer != r.subject}
    certain: set[Statement] = set()
    while True:
        possible = counting(certain) & revokes
        again = counting(possible) & revokes
        if again == certain:
            break
        certain = again
    out = {r.subject for r in possible}
    owners = {s.subject for s in counting(possible) if s.role is OWNER}
    ties = [{s.subject, s.line} for s in counting(possible) if s.role is not None and s.line]
    thrown = {r.subject for r in possible if not r.line}
    for _ in ties:
        thrown |= {key for tie in ties if tie & thrown and not tie & owners for key in tie}
    out |= thrown
    best: dict[str, Statement] = {}
    rank = [OWNER, MEMBER, GUEST]
    adds = [s for s in counting(possible) if s.role is not None and s.subject not in out]
    for s in sorted(adds, key=lambda s: (s.role is OWNER, s.number, rank.index(s.role or OWNER), s.id)):
        best[s.subject] = s
    return {subject: s.role for subject, s in best.items() if s.role is not None}, out


@settings(max_examples=300, deadline=None)
@given(of_a_mesh)
def test_the_roster_is_what_the_slow_model_says(told: list[Statement]) -> None:
    known = roster(*told)
    members, out = model(told)
    assert {m.id: m.role for m in known.members()} == members
    assert {x for x in (*_NAMES, ROOT) if known.revoked(x)} == out


class Meshes(RuleBasedStateMachine):
    """Devices with a roster each: owners act on what they know, news travels in part, late or never."""

    def __init__(self) -> None:
        super().__init__()
        self.rosters = {x: roster(FIRST) for x in _NAMES}
        self.said = {FIRST}

    def _say(self, by: str, subject: str, role: Role | None, **more: Any) -> None:
        known = self.rosters[by]
        member = known.member(by)
        if member is None or member.role is not OWNER:
            return
        statement = say(by, known.next_seq(by), subject, role, **more)
        assert known.merge([statement]) == [statement]
        assert (known.member(subject) is None) == (role is None)
        self.said.add(statement)

    @rule(by=st.sampled_from(_NAMES), subject=st.sampled_from(_NAMES), role=st.sampled_from([OWNER, OWNER, MEMBER]))
    def let_in(self, by: str, subject: str, role: Role) -> None:
        if not self.rosters[by].revoked(subject):
            self._say(by, subject, role, number=self.rosters[by].next_number(subject))

    @rule(by=st.sampled_from(_NAMES), subject=st.sampled_from(_NAMES))
    def throw_out(self, by: str, subject: str) -> None:
        if by != subject and self.rosters[by].member(subject) is not None:
            self._say(by, subject, None, keeps=self.rosters[by].stands_on(by, subject))

    @rule(source=st.sampled_from(_NAMES), to=st.sampled_from(_NAMES), data=st.data())
    def tell_some(self, source: str, to: str, data: Any) -> None:
        lacking = self.rosters[source].lacking(self.rosters[to].ids())
        if lacking:
            self.rosters[to].merge(data.draw(st.lists(st.sampled_from(lacking), unique=True)))

    @rule(one=st.sampled_from(_NAMES), other=st.sampled_from(_NAMES))
    def tell_each_other_all(self, one: str, other: str) -> None:
        for source, to in ((one, other), (other, one)):
            self.rosters[to].merge(self.rosters[source].lacking(self.rosters[to].ids()))
        assert everything(self.rosters[one]) == everything(self.rosters[other])

    @invariant()
    def each_says_what_its_statements_come_to(self) -> None:
        for known in self.rosters.values():
            assert everything(known) == everything(roster(*known.statements))
            assert all(roots(known.vouch(m.id), m.id) for m in known.members())

    def teardown(self) -> None:
        healed = roster(*self.said)
        assert set(healed.statements) == self.said
        members, out = model(list(self.said))
        assert {m.id: m.role for m in healed.members()} == members
        assert thrown_out(healed) == out


TestMeshes = Meshes.TestCase
TestMeshes.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
