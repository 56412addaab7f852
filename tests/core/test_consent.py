"""People are asked: whatever is lost, late, doubled or hostile, only an answer that counts allows anything."""

from __future__ import annotations

import sqlite3
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import count
from typing import Any

import anyio
import msgpack
import pytest
from anyio.abc import TaskGroup
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from slipstream.core.consent import CALLER_LIMIT, LONGEST, OPEN_LIMIT, Consents
from slipstream.core.consent_table import KEEP_SECONDS, Stands
from slipstream.core.errors import Denied, TimedOut, UsageError
from slipstream.core.events import Events
from slipstream.core.readable import LEAVES, readable
from slipstream.core.skill import Context, Effect, skill
from slipstream.core.timers import Timers

pytestmark = pytest.mark.anyio

SECONDS = 30.0


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "trio", {"clock": MockClock(autojump_threshold=0)}


@skill("car.window", effect=Effect.PHYSICAL, title="Open a window")
async def window(ctx: Context, percent: int = 0) -> None:
    """Open a window."""


@skill("car.horn", effect=Effect.ONCE)
async def horn(ctx: Context) -> None:
    """Blow the horn."""


class Device:
    """One device: its table outlives `restart`, everything else does not."""

    def __init__(self, mesh: Mesh, name: str) -> None:
        self.mesh, self.name = mesh, name
        self.database = sqlite3.connect(":memory:", isolation_level=None)
        self.events = Events(mesh.wall)
        self.skew = 0.0
        self.consents: Consents
        self.scope: anyio.CancelScope

    async def run(self, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        async with anyio.create_task_group() as self.group:
            self.scope, timers = self.group.cancel_scope, Timers()
            self.consents = Consents(
                self.name, self.database, self.events, anyio.current_time, lambda: self.mesh.wall() + self.skew, timers,
                lambda: f"id{next(self.mesh.ids)}", self._send, self._people, lambda d: d in self.mesh.owners,
                lambda d: d,
            )  # fmt: skip
            self.group.start_soon(timers.run)
            task_status.started()

    def _send(self, device: str, content: dict[str, Any]) -> None:
        if self.mesh.linked(self.name, device):
            packed = msgpack.packb(content)
            assert len(packed) < 256 * 1024
            self.mesh.wire.append((self.name, device, packed))

    def _people(self) -> list[str]:
        return [d for d in self.mesh.devices if self.mesh.linked(self.name, d) and d in self.mesh.owners]

    def said(self, kind: str) -> list[dict[str, Any]]:
        return [e.fields for e in self.events.recent if e.kind == kind]


class Mesh:
    """A car that asks, a phone and a tablet where people are, and a member that may not answer."""

    def __init__(self, group: TaskGroup) -> None:
        self._group = group
        self.ids = count(1)
        self.owners = {"phone", "tablet"}
        self.wire: deque[tuple[str, str, bytes]] = deque()
        self.down: set[str] = set()
        self.begun = anyio.current_time()
        self.devices: dict[str, Device] = {}

    def wall(self) -> float:
        return 1e9 + anyio.current_time() - self.begun

    def linked(self, one: str, other: str) -> bool:
        return one != other and not {one, other} & self.down

    async def start(self, name: str) -> Device:
        device = self.devices.setdefault(name, Device(self, name))
        await self._group.start(device.run)
        return device

    async def restart(self, name: str) -> None:
        """End a device as `kill -9` would, and start it again; its links are new ones."""
        old = self.devices[name]
        old.consents.close()
        old.scope.cancel()
        await anyio.wait_all_tasks_blocked()
        self.wire = deque(m for m in self.wire if name not in m[:2])
        await self.start(name)
        self.link(name)

    def cut(self, name: str) -> None:
        """A device has no link any more, and what was on the way is lost."""
        self.down.add(name)
        self.wire = deque(m for m in self.wire if name not in m[:2])

    def link(self, name: str) -> None:
        """A device has links again."""
        self.down.discard(name)
        for other in self.devices:
            if self.linked(name, other):
                self.devices[name].consents.link_up(other)
                self.devices[other].consents.link_up(name)

    async def deliver(self, messages: int = 10_000) -> None:
        """Let messages arrive, in order, and everybody act on them."""
        await anyio.wait_all_tasks_blocked()
        while self.wire and messages > 0:
            sender, receiver, packed = self.wire.popleft()
            self.devices[receiver].consents.note(sender, msgpack.unpackb(packed))
            await anyio.wait_all_tasks_blocked()
            messages -= 1

    def ask(self, key: str = "", caller: str = "watch", fn: Any = window, **args: Any) -> Outcome:
        car = self.devices["car"]
        return Outcome(car.group, lambda: car.consents.ask(fn.spec, args, key, caller, caller, SECONDS))

    def say(self, device: str, request: str, answer: str) -> Outcome:
        one = self.devices[device]
        return Outcome(one.group, lambda: one.consents.answer(request, answer, one.name))

    def open(self, device: str) -> list[str]:
        return [r.id for r in self.devices[device].consents.open()]


class Outcome:
    """What becomes of a call that waits: nothing yet, what it returned, or why it did not."""

    def __init__(self, group: TaskGroup, call: Callable[[], Awaitable[Any]]) -> None:
        self.value: Any = "waiting"
        self.scope = anyio.CancelScope()
        group.start_soon(self._run, call)

    async def _run(self, call: Callable[[], Awaitable[Any]]) -> None:
        with self.scope:
            try:
                self.value = await call()
            except (Denied, UsageError, TimedOut) as error:
                self.value = error


@asynccontextmanager
async def running() -> AsyncIterator[Mesh]:
    async with anyio.create_task_group() as group:
        mesh = Mesh(group)
        for name in ("car", "phone", "tablet", "member"):
            await mesh.start(name)
        yield mesh
        for device in mesh.devices.values():
            device.consents.close()
        group.cancel_scope.cancel()


# -- one question ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["car", "phone", "tablet"])
@pytest.mark.parametrize(("answer", "allowed"), [("once", True), ("always", True), ("no", False), ("never", False)])
async def test_a_person_decides_wherever_they_are(where: str, answer: str, allowed: bool) -> None:
    async with running() as mesh:
        asked = mesh.ask(percent=40)
        await mesh.deliver()
        assert mesh.open("car") == mesh.open("phone") == mesh.open("tablet") == ["id1"]
        assert mesh.open("member") == []
        shown = mesh.devices[where].consents.open()[0]
        assert (shown.device, shown.caller, shown.skill, shown.title) == ("car", "watch", "car.window", "Open a window")
        assert (shown.args, shown.effect, shown.until - shown.asked_at) == ({"percent": 40}, "physical", SECONDS)
        said = mesh.say(where, "id1", answer)
        await mesh.deliver()
        assert said.value == Stands("id1", answer, where)
        assert asked.value is None if allowed else isinstance(asked.value, Denied)
        assert mesh.open("car") == mesh.open("phone") == mesh.open("tablet") == []
        for device in ("car", "phone", "tablet"):
            assert len(mesh.devices[device].said("consent.asked")) == 1
            assert mesh.devices[device].said("consent.answered") == [
                {"request": "id1", "device": "car", "skill": "car.window", "answer": answer, "by": where}
            ]


async def test_of_two_that_answer_at_once_the_first_to_arrive_stands_and_both_are_told() -> None:
    async with running() as mesh:
        asked = mesh.ask()
        await mesh.deliver()
        no = mesh.say("tablet", "id1", "no")
        await anyio.wait_all_tasks_blocked()
        yes = mesh.say("phone", "id1", "always")
        await mesh.deliver()
        assert no.value == yes.value == Stands("id1", "no", "tablet")
        assert isinstance(asked.value, Denied)
        assert asked.value.why == "tablet said no"
        assert mesh.devices["car"].consents.grants() == []
        for late in ("car", "phone", "tablet"):
            again = mesh.say(late, "id1", "once")
            await mesh.deliver()
            assert isinstance(again.value, UsageError)
            assert again.value.why == "tablet said no"


async def test_nobody_answers_in_time() -> None:
    async with running() as mesh:
        asked = mesh.ask("key")
        await mesh.deliver()
        await anyio.sleep(SECONDS - 1)
        assert asked.value == "waiting"
        await anyio.sleep(2)
        await mesh.deliver()
        assert isinstance(asked.value, Denied)
        assert asked.value.why == "nobody answered within 30 s"
        assert mesh.open("phone") == []
        again = mesh.ask("key")
        late = mesh.say("phone", "id1", "once")
        await mesh.deliver()
        assert isinstance(again.value, Denied)
        assert isinstance(late.value, UsageError)


async def test_nobody_is_there_and_the_refusal_says_so() -> None:
    async with running() as mesh:
        mesh.cut("phone")
        mesh.cut("tablet")
        asked = mesh.ask()
        await anyio.sleep(SECONDS + 1)
        assert isinstance(asked.value, Denied)
        assert "no device of a person who may was here" in asked.value.why


async def test_who_appears_meanwhile_is_asked_for_the_time_that_is_left() -> None:
    async with running() as mesh:
        mesh.cut("phone")
        asked = mesh.ask()
        await anyio.sleep(20)
        mesh.devices["phone"].skew = 3e8  # its clock is ten years off
        mesh.link("phone")
        await mesh.deliver()
        (shown,) = mesh.devices["phone"].consents.open()
        assert shown.until == pytest.approx(mesh.wall() + 3e8 + 10)
        mesh.say("phone", "id1", "once")
        await mesh.deliver()
        assert asked.value is None


async def test_an_answer_that_was_lost_with_its_link_is_told_again() -> None:
    async with running() as mesh:
        asked = mesh.ask()
        await mesh.deliver()
        said = mesh.say("phone", "id1", "once")
        await anyio.wait_all_tasks_blocked()
        mesh.cut("phone")
        await anyio.sleep(6)
        assert isinstance(said.value, TimedOut)
        assert asked.value == "waiting"
        mesh.link("phone")
        await mesh.deliver()
        assert asked.value is None


async def test_who_answered_without_a_link_is_told_who_was_faster() -> None:
    async with running() as mesh:
        mesh.ask()
        await mesh.deliver()
        mesh.cut("phone")
        late = mesh.say("phone", "id1", "once")
        mesh.say("tablet", "id1", "no")
        await mesh.deliver()
        mesh.link("phone")
        await mesh.deliver()
        assert late.value == Stands("id1", "no", "tablet")


@pytest.mark.parametrize("meanwhile", ["answered", "withdrawn"])
async def test_what_ended_while_a_device_was_away_is_not_open_there_when_it_is_back(meanwhile: str) -> None:
    async with running() as mesh:
        asked = mesh.ask()
        await mesh.deliver()
        mesh.cut("phone")
        if meanwhile == "answered":
            mesh.say("tablet", "id1", "once")
        else:
            asked.scope.cancel()
        await mesh.deliver()
        assert mesh.open("phone") == ["id1"]
        mesh.link("phone")
        await mesh.deliver()
        assert mesh.open("phone") == []


# -- keys, restarts, what is remembered --------------------------------------------------------------------------------


@pytest.mark.parametrize(("answer", "allowed"), [("once", True), ("no", False)])
async def test_the_same_key_is_not_asked_about_twice(answer: str, allowed: bool) -> None:
    async with running() as mesh:
        both = [mesh.ask("key", percent=1), mesh.ask("key", percent=1)]
        await mesh.deliver()
        assert mesh.open("car") == ["id1"]
        mesh.say("phone", "id1", answer)
        await mesh.deliver()
        await mesh.restart("car")
        both.append(mesh.ask("key", percent=1))
        await mesh.deliver()
        assert [one.value is None for one in both] == [allowed] * 3
        assert mesh.open("car") == []


@pytest.mark.parametrize("other", [{"caller": "member"}, {"fn": horn}, {"percent": 100}])
async def test_an_answer_is_for_no_other_call_that_takes_the_same_key(other: dict[str, Any]) -> None:
    async with running() as mesh:
        mesh.ask("key", percent=1)
        await mesh.deliver()
        mesh.say("phone", "id1", "once")
        await mesh.deliver()
        forged = mesh.ask("key", **{"percent": 1, **other} if "fn" not in other else other)
        await mesh.deliver()
        assert forged.value == "waiting"
        assert len(mesh.open("phone")) == 1


@pytest.mark.parametrize("wait", [10.0, 60.0])
async def test_an_open_question_goes_on_after_a_restart_with_the_time_that_is_left(wait: float) -> None:
    async with running() as mesh:
        mesh.ask("key")
        await mesh.deliver()
        await anyio.sleep(wait)
        await mesh.restart("car")
        asked = mesh.ask("key")
        await mesh.deliver()
        assert mesh.open("car") == mesh.open("phone") == (["id1"] if wait < SECONDS else [])
        await anyio.sleep(SECONDS - wait - 1 if wait < SECONDS else 0.1)
        assert (asked.value == "waiting") == (wait < SECONDS)
        await anyio.sleep(2)
        assert isinstance(asked.value, Denied)


async def test_an_answer_counts_that_comes_after_a_restart_and_before_the_call_is_repeated() -> None:
    async with running() as mesh:
        mesh.ask("key")
        await mesh.deliver()
        await mesh.restart("car")
        mesh.say("phone", "id1", "once")
        await mesh.deliver()
        asked = mesh.ask("key")
        await mesh.deliver()
        assert asked.value is None


async def test_a_question_without_a_key_ends_with_the_daemon() -> None:
    async with running() as mesh:
        mesh.ask()
        await mesh.deliver()
        said = mesh.say("phone", "id1", "once")
        await mesh.restart("car")
        await mesh.deliver()
        assert mesh.open("car") == mesh.open("phone") == mesh.open("tablet") == []
        assert said.value == Stands("id1", "withdrawn", "")


async def test_a_call_that_is_cancelled_takes_its_question_back_unless_another_waits() -> None:
    async with running() as mesh:
        one, other = mesh.ask("key"), mesh.ask("key")
        await mesh.deliver()
        one.scope.cancel()
        await mesh.deliver()
        assert mesh.open("phone") == ["id1"]
        other.scope.cancel()
        await mesh.deliver()
        assert mesh.open("car") == mesh.open("phone") == []
        mesh.ask("key")
        await mesh.deliver()
        assert mesh.open("phone") == ["id2"]


async def test_always_and_never_are_remembered_for_skill_and_device_until_they_are_forgotten() -> None:
    for answer, allowed in (("always", True), ("never", False)):
        async with running() as mesh:
            first, waits = mesh.ask(percent=1), mesh.ask(percent=2)
            await mesh.deliver()
            mesh.say("phone", "id1", answer)
            await mesh.deliver()
            await mesh.restart("car")
            after, other_device, other_skill = mesh.ask(percent=3), mesh.ask(caller="member"), mesh.ask(fn=horn)
            await mesh.deliver()
            assert [one.value is None for one in (first, waits, after)] == [allowed] * 3
            assert other_device.value == other_skill.value == "waiting"
            consents = mesh.devices["car"].consents
            (grant,) = consents.grants()
            assert (grant["skill"], grant["caller"], grant["answer"], grant["by"]) == (
                "car.window", "watch", answer, "phone",
            )  # fmt: skip
            consents.forget(grant["id"])
            with pytest.raises(UsageError, match="nothing is remembered"):
                consents.forget(grant["id"])
            again = mesh.ask(percent=3)
            await mesh.deliver()
            assert again.value == "waiting"


async def test_never_stands_above_an_answer_that_was_given_to_the_key_before() -> None:
    async with running() as mesh:
        mesh.ask("key")
        await mesh.deliver()
        mesh.say("phone", "id1", "once")
        mesh.ask()
        await mesh.deliver()
        mesh.say("phone", "id2", "never")
        await mesh.deliver()
        again = mesh.ask("key")
        await mesh.deliver()
        assert isinstance(again.value, Denied)
        assert again.value.why == "phone said never"


async def test_old_answers_are_dropped_at_a_start() -> None:
    async with running() as mesh:
        mesh.ask("key")
        await mesh.deliver()
        mesh.say("car", "id1", "once")
        await mesh.deliver()
        mesh.devices["car"].skew = KEEP_SECONDS + SECONDS + 1
        await mesh.restart("car")
        again = mesh.ask("key")
        await mesh.deliver()
        assert again.value == "waiting"


# -- hostile -----------------------------------------------------------------------------------------------------------

ASK: dict[str, Any] = {
    "id": "x", "skill": "s", "title": "t", "effect": "once", "args": {}, "caller": "c", "origin": "o", "run": "",
    "step": "", "seconds": 5,
}  # fmt: skip
UNREADABLE: list[dict[str, Any]] = [
    {"ask": 1}, {"ask": {}}, {"ask": []}, *({"ask": {**ASK, name: None}} for name in ASK),
    *({"ask": {**ASK, "seconds": s}} for s in (-1, LONGEST + 1, float("nan"), float("inf"), True, "5")),
    {"ask": {**ASK, "id": 5}}, {"ask": {**ASK, "args": [1]}}, {"answer": "yes"}, {"answer": {"id": "x"}},
    {"answer": {"id": 1, "answer": "once"}}, {"answer": {"id": "x", "answer": "yes"}}, {"settled": {}},
    {"settled": {"id": "x", "answer": "perhaps", "by": "b"}}, {"withdrawn": 1}, {"open": 1}, {"open": [1]},
]  # fmt: skip


@pytest.mark.parametrize("content", UNREADABLE, ids=str)
async def test_what_cannot_be_read_is_an_error_and_changes_nothing(content: dict[str, Any]) -> None:
    async with running() as mesh:
        with pytest.raises((KeyError, TypeError, ValueError)):
            mesh.devices["phone"].consents.note("member", content)
        assert mesh.open("phone") == []


async def test_an_answer_of_a_device_that_may_not_answer_does_not_count_and_is_told_once() -> None:
    async with running() as mesh:
        asked = mesh.ask()
        await mesh.deliver()
        car = mesh.devices["car"]
        for _ in range(100):
            car.consents.note("member", {"answer": {"id": "id1", "answer": "always", "by": "phone"}})
        await mesh.deliver()
        assert asked.value == "waiting"
        assert len(car.said("warning")) == 1
        assert not [m for m in mesh.wire if m[1] == "member"]


async def test_answers_to_questions_that_were_never_asked_allow_nothing() -> None:
    async with running() as mesh:
        car = mesh.devices["car"]
        car.consents.note("phone", {"answer": {"id": "id1", "answer": "always", "by": ""}})
        await mesh.deliver()
        asked = mesh.ask()
        await mesh.deliver()
        assert asked.value == "waiting"
        assert car.consents.grants() == []


@pytest.mark.parametrize("content", [{"settled": {"id": "id1", "answer": "once", "by": "phone"}}, {"withdrawn": "id1"},
                                     {"open": []}], ids=str)  # fmt: skip
async def test_only_the_device_that_asks_ends_a_question_and_only_by_an_answer(content: dict[str, Any]) -> None:
    async with running() as mesh:
        asked = mesh.ask()
        await mesh.deliver()
        mesh.devices["phone"].consents.note("member", content)
        for sender in ("member", "phone", "car"):
            mesh.devices["car"].consents.note(sender, content)
        await mesh.deliver()
        assert asked.value == "waiting"
        assert mesh.open("car") == mesh.open("phone") == ["id1"]


async def test_a_question_under_the_id_of_another_one_is_answered_for_neither() -> None:
    async with running() as mesh:
        asked = mesh.ask()
        await mesh.deliver()
        mesh.devices["phone"].consents.note("member", {"ask": {**ASK, "id": "id1"}})
        said = mesh.say("phone", "id1", "once")
        await mesh.deliver()
        assert isinstance(said.value, UsageError)
        assert asked.value == "waiting"


async def test_an_answer_that_names_its_device_reaches_no_question_of_another_one_under_that_id() -> None:
    async with running() as mesh:
        asked = mesh.ask()
        await mesh.deliver()
        phone = mesh.devices["phone"].consents
        phone.note("member", {"ask": {**ASK, "id": "id1"}})
        phone.note("member", {"withdrawn": "id1"})  # just as the person presses a key for it
        with pytest.raises(UsageError):
            await phone.answer("id1", "once", "phone", "member")
        await mesh.deliver()
        assert asked.value == "waiting"


async def test_what_a_person_sees_does_not_change_under_their_hands() -> None:
    async with running() as mesh:
        phone = mesh.devices["phone"].consents
        phone.note("member", {"ask": {**ASK, "title": "harmless"}})
        phone.note("member", {"ask": {**ASK, "title": "unlock"}})
        assert [r.title for r in phone.open()] == ["harmless"]


async def test_a_flood_of_questions_is_bounded_and_holds_up_nobody_elses() -> None:
    async with running() as mesh:
        for i in range(1000):
            mesh.devices["phone"].consents.note(
                "member", {"ask": {**ASK, "id": str(i), "args": {"x" * 500: "y" * 9000}}}
            )
        assert len(mesh.open("phone")) == OPEN_LIMIT
        mesh.ask()
        await mesh.deliver()
        assert "id1" in mesh.open("phone")


async def test_one_caller_cannot_fill_the_screens_of_people() -> None:
    async with running() as mesh:
        many = [mesh.ask(f"key{i}") for i in range(3 * CALLER_LIMIT)]
        other = mesh.ask(caller="member")
        await mesh.deliver()
        assert Counter(type(one.value) for one in many) == {str: CALLER_LIMIT, Denied: 2 * CALLER_LIMIT}
        assert other.value == "waiting"
        assert len(mesh.open("phone")) == CALLER_LIMIT + 1


async def test_texts_of_others_are_cleaned() -> None:
    async with running() as mesh:
        phone = mesh.devices["phone"].consents
        evil = dict.fromkeys(("skill", "title", "effect", "caller", "origin", "run", "step"), "\x1b[31m\u202eevil" * 50)
        phone.note("member", {"ask": {**ASK, **evil, "args": {"\x07": "\x1b]0;x"}}})
        assert not {"\x1b", "\u202e", "\x07"} & set(str(phone.open()))
        phone.note("member", {"settled": {"id": "x", "answer": "once", "by": "\x1b[1m"}})
        assert not {"\x1b", "\u202e"} & set(str(mesh.devices["phone"].said("consent.answered")))


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(st.dictionaries(st.text(), PLAIN, max_size=300))
def test_what_is_shown_is_short_plain_and_says_what_it_leaves_out(args: dict[str, Any]) -> None:
    shown = readable(args)
    assert len(msgpack.packb(shown)) < 200 * 1024
    assert len(args) <= LEAVES or "…" in shown


# -- anything may happen -----------------------------------------------------------------------------------------------

DEVICES = st.sampled_from(["car", "phone", "tablet"])
ANSWER = st.sampled_from(["once", "once", "no", "always", "never"])
OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("ask"), st.sampled_from(["", "k1", "k2"])),
        st.tuples(st.just("say"), DEVICES, ANSWER),
        st.tuples(st.just("deliver"), st.integers(1, 4)),
        st.tuples(st.just("deliver"), st.just(1000)),
        st.tuples(st.just("cut"), DEVICES),
        st.tuples(st.just("link"), DEVICES),
        st.tuples(st.just("restart"), DEVICES),
        st.tuples(st.just("wait"), st.floats(0.1, 20)),
        st.tuples(st.just("cancel")),
        st.tuples(st.just("member")),
    ),
    min_size=3, max_size=30,
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(OPERATIONS)
def test_whatever_happens_one_answer_stands_and_all_are_told_the_same(operations: list[tuple[Any, ...]]) -> None:
    anyio.run(_any_order, operations, backend="trio", backend_options={"clock": MockClock(autojump_threshold=0)})


async def _any_order(operations: list[tuple[Any, ...]]) -> None:
    async with running() as mesh:
        asked: list[tuple[str, Outcome]] = []
        keys: dict[str, str] = {}
        said: list[Outcome] = []
        for operation, *more in operations:
            if operation == "ask":
                asked.append((more[0], mesh.ask(*more)))
                await anyio.wait_all_tasks_blocked()
                keys.update({r.id: r.key for r in mesh.devices["car"].consents.open()})
            elif operation == "say":
                said += [mesh.say(more[0], i, more[1]) for i in mesh.open(more[0])]
                await anyio.wait_all_tasks_blocked()
            elif operation == "deliver":
                await mesh.deliver(more[0])
            elif operation == "restart":
                await mesh.restart(more[0])
            elif operation == "wait":
                await anyio.sleep(more[0])
            elif operation == "cancel" and asked:
                asked[-1][1].scope.cancel()
                await anyio.wait_all_tasks_blocked()
            elif operation == "member":
                for i in mesh.open("car"):
                    mesh.devices["car"].consents.note("member", {"answer": {"id": i, "answer": "always", "by": "x"}})
            elif operation in ("cut", "link"):
                getattr(mesh, operation)(more[0])
        for name in list(mesh.down):
            mesh.link(name)
        await mesh.deliver()
        await anyio.sleep(2 * SECONDS)
        await mesh.deliver()

        answered = mesh.devices["car"].said("consent.answered")
        assert max(Counter(event["request"] for event in answered).values(), default=0) <= 1
        stands = {event["request"]: (event["answer"], event["by"]) for event in answered}
        assert {by for _, by in stands.values()} <= {"car", "phone", "tablet", ""}
        told = [(v.id, v.answer, v.by) for v in (one.value for one in said) if isinstance(v, Stands)]
        for name in ("phone", "tablet"):
            told += [(e["request"], e["answer"], e["by"]) for e in mesh.devices[name].said("consent.answered")]
        for request, answer, by in told:
            assert answer in ("nobody", "withdrawn") or (answer, by) == stands[request]

        yes = Counter(keys[request] for request, (answer, _) in stands.items() if answer in ("once", "always"))
        if not any(answer == "always" for answer, _ in stands.values()):
            allowed = Counter(key for key, one in asked if one.value is None)
            assert allowed[""] <= yes[""]
            assert all(yes[key] for key in allowed)
        assert all(mesh.open(name) == [] for name in mesh.devices)
