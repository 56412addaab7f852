"""One invocation on one device: the first answer stands, and what may not be doubled never is."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
from pydantic import BaseModel
from trio.testing import MockClock

from slipstream.core.errors import (
    Cancelled,
    Denied,
    Fault,
    LinkLost,
    SkillFailed,
    SlipError,
    UnknownOutcome,
    UsageError,
)
from slipstream.core.events import Events
from slipstream.core.gate import Caller
from slipstream.core.invoke import RECONCILE_SECONDS, Blocked, Invoker
from slipstream.core.journal import Journal
from slipstream.core.skill import Catalogue, Context, Effect, Outcome, Pack, Skill, SkillSpec, Submitted, skill
from slipstream.testing import OpenDoor

pytestmark = pytest.mark.anyio

REPEATABLE = [Effect.READ, Effect.IDEMPOTENT]
SINGLE = [Effect.ONCE, Effect.PHYSICAL]


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "trio", {"clock": MockClock(autojump_threshold=0)}


class Done(BaseModel):
    n: int


class MeshStub:
    """A node that only notes what skills call."""

    id, name = "id-car", "car"

    def __init__(self) -> None:
        self.called: list[tuple[str, dict[str, Any], str | None, float | None]] = []

    async def call(
        self, skill: str, args: Mapping[str, Any], *, on: str | None, deadline: float | None, origin: str
    ) -> Any:
        self.called.append((skill, dict(args), on, deadline))
        return {"from": skill}


class House:
    """A device with its journal on disk: started again at will, also from what a power cut would have left."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.mesh = MeshStub()
        self.catalogue = Catalogue()
        self.events = Events(lambda: 0.0)
        self.did: list[Any] = []
        """What skills really did, in order."""
        self.start()

    def start(self) -> None:
        self.journal = Journal(self.folder / "journal.db", lambda: 0.0)
        self.invoker = Invoker(self.mesh, self.catalogue, self.journal, self.events, OpenDoor())

    async def invoke(self, spec: SkillSpec, args: dict[str, Any], caller: str = "id-phone", **more: Any) -> Any:
        return await self.invoker.invoke(spec, args, caller=Caller(caller), **more)

    async def undo(self, key: str, caller: str = "id-phone") -> bool:
        return await self.invoker.undo(key, Caller(caller))

    def restart(self) -> None:
        self.journal.close()
        self.start()

    def image(self, to: Path) -> House:
        """The device as it would come up if it lost its power now."""
        shutil.copytree(self.folder, to)
        return House(to)

    def offer(
        self, fn: Callable[..., Awaitable[Any]], effect: Effect = Effect.ONCE, name: str = "test.act", **more: Any
    ) -> Skill[..., Any]:
        made = skill(name, effect=effect, **more)(fn)
        self.catalogue.add(Pack("test", (made,)))
        return made

    def actor(self, effect: Effect = Effect.ONCE, seconds: float = 0.0, **more: Any) -> Skill[..., Any]:
        """A skill that does something, after a while."""

        async def act(ctx: Context, n: int = 1) -> Done:
            """Do it."""
            await anyio.sleep(seconds)
            self.did.append(n)
            return Done(n=n)

        return self.offer(act, effect, **more)

    def begun(self, spec: SkillSpec, key: str = "k", **args: Any) -> None:
        """What the journal holds of an invocation whose device died in the middle of it."""
        self.journal.begin(key, spec.name, args, durable=True, caller="id-phone")

    def state(self, key: str = "k") -> str | None:
        row = self.journal.invocation(key)
        return row.state if row else None


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    (tmp_path / "car").mkdir()
    house = House(tmp_path / "car")
    yield house
    house.journal.close()


async def failure(of: Awaitable[Any]) -> SlipError:
    """The error that something ends with."""
    try:
        await of
    except SlipError as error:
        return error
    raise AssertionError("it did not fail")


# -- the first answer stands -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("effect", list(Effect))
async def test_the_first_answer_to_a_key_stands_also_over_a_restart(house: House, effect: Effect) -> None:
    spec = house.actor(effect).spec
    first = await house.invoke(spec, {"n": 1}, key="k")
    assert first == ("done", {"n": 1})
    assert await house.invoke(spec, {"n": 1}, key="k") == first
    house.restart()
    assert await house.invoke(spec, {"n": 1}, key="k") == first
    assert house.did == [1]


@pytest.mark.parametrize("effect", list(Effect))
async def test_without_a_key_every_call_runs_and_none_is_journalled(house: House, effect: Effect) -> None:
    spec = house.actor(effect).spec
    for _ in range(3):
        assert await house.invoke(spec, {"n": 2}) == ("done", {"n": 2})
    assert house.did == [2, 2, 2]
    assert house.journal.invocation("") is None


@pytest.mark.parametrize("effect", list(Effect))
@pytest.mark.parametrize("lock", [None, "door"])
async def test_calls_with_one_key_at_one_time_run_the_skill_once(
    house: House, effect: Effect, lock: str | None
) -> None:
    spec = house.actor(effect, seconds=10, lock=lock).spec
    answers: list[Any] = []

    async def call() -> None:
        answers.append(await house.invoke(spec, {"n": 1}, key="k"))

    async with anyio.create_task_group() as group:
        for _ in range(5):
            group.start_soon(call)
    assert answers == [("done", {"n": 1})] * 5
    assert house.did == [1]


async def test_calls_with_one_key_that_meet_while_it_is_asked_whether_it_happened_run_it_once(house: House) -> None:
    act = house.actor(seconds=1)

    @act.reconcile
    async def ask(ctx: Context, args: dict[str, Any]) -> Outcome:
        await anyio.sleep(1)
        return Outcome.NOT_DONE

    house.begun(act.spec)
    answers: list[Any] = []

    async def call() -> None:
        answers.append(await house.invoke(act.spec, {}, key="k"))

    async with anyio.create_task_group() as group:
        group.start_soon(call)
        group.start_soon(call)
    assert answers == [("done", {"n": 1})] * 2
    assert house.did == [1]


async def test_calls_with_different_keys_run_side_by_side(house: House) -> None:
    spec = house.actor(seconds=10).spec
    start = anyio.current_time()
    async with anyio.create_task_group() as group:
        for i in range(5):
            group.start_soon(partial(house.invoke, spec, {"n": i}, key=f"k{i}"))
    assert sorted(house.did) == [0, 1, 2, 3, 4]
    assert anyio.current_time() - start == pytest.approx(10)


async def test_a_caller_that_gives_up_waiting_for_a_key_disturbs_nobody(house: House) -> None:
    spec = house.actor(seconds=10).spec
    async with anyio.create_task_group() as group:
        group.start_soon(partial(house.invoke, spec, {}, key="k"))
        await anyio.sleep(1)
        with anyio.move_on_after(1):
            await house.invoke(spec, {}, key="k")
        assert house.state() == "begun"
    assert house.did == [1]
    assert await house.invoke(spec, {}, key="k") == ("done", {"n": 1})


async def test_when_the_first_of_two_fails_at_what_may_be_repeated_the_second_tries(house: House) -> None:
    async def read(ctx: Context) -> int:
        """Read it."""
        house.did.append("try")
        await anyio.sleep(1)
        if len(house.did) == 1:
            raise LookupError("not yet")
        return 7

    spec = house.offer(read, Effect.READ).spec
    answers: list[Any] = []

    async def call() -> None:
        try:
            answers.append(await house.invoke(spec, {}, key="k"))
        except SlipError as error:
            answers.append(error.code)

    async with anyio.create_task_group() as group:
        group.start_soon(call)
        group.start_soon(call)
    assert sorted(answers, key=str) == [("done", {"result": 7}), "skill_failed"]
    assert house.did == ["try", "try"]


async def test_a_key_that_another_skill_has_used_is_refused(house: House) -> None:
    first, second = house.actor(name="test.first").spec, house.actor(name="test.second").spec
    await house.invoke(first, {}, key="k")
    error = await failure(house.invoke(second, {}, key="k"))
    assert isinstance(error, UsageError)
    assert "test.first" in error.what
    assert "new key" in error.hint
    assert house.did == [1]


async def test_wrong_arguments_reach_neither_the_skill_nor_the_journal(house: House) -> None:
    error = await failure(house.invoke(house.actor().spec, {"n": "many"}, key="k"))
    assert error.fault == "caller"
    assert house.did == []
    assert house.state() is None


async def test_submitted_is_an_answer_that_stands_and_is_not_done(house: House) -> None:
    async def send(ctx: Context) -> Done | Submitted:
        """Send it on."""
        house.did.append("sent")
        return Submitted(detail="queued")

    spec = house.offer(send).spec
    for _ in range(2):
        assert await house.invoke(spec, {}, key="k") == ("submitted", {"detail": "queued"})
        house.restart()
    assert house.did == ["sent"]
    assert house.state() == "submitted"


# -- an effect that may not be doubled ---------------------------------------------------------------------------------


@pytest.mark.parametrize("effect", SINGLE)
async def test_the_journal_says_begun_before_the_effect_begins(house: House, effect: Effect, tmp_path: Path) -> None:
    found: list[str | None] = []

    async def act(ctx: Context, n: int) -> None:
        """Do it."""
        lost = house.image(tmp_path / "lost")
        row = lost.journal.invocation("k")
        found.append(row and f"{row.state} {row.skill} {row.args}")
        lost.journal.close()

    await house.invoke(house.offer(act, effect).spec, {"n": 3}, key="k")
    assert found == ["begun test.act {'n': 3}"]


@pytest.mark.parametrize("effect", list(Effect))
async def test_beginning_and_end_wait_for_the_disk_only_where_it_must_not_happen_twice(
    house: House, effect: Effect
) -> None:
    spec = house.actor(effect, resumable=True).spec
    asked: list[str] = []
    house.journal._db.set_trace_callback(asked.append)
    await house.invoke(spec, {}, key="k")
    full, written = False, []
    for statement in asked:
        if "synchronous" in statement:
            full = statement.endswith("full")
        if statement.split()[0] in ("insert", "update"):
            written.append((statement.split()[0], full))
    assert written == [("insert", effect in SINGLE), ("update", effect in SINGLE)]


@pytest.mark.parametrize("effect", REPEATABLE)
async def test_what_was_begun_and_may_be_repeated_now_is(house: House, effect: Effect) -> None:
    spec = house.actor(effect).spec  # the version before this one may have had another effect
    house.begun(spec)
    assert await house.invoke(spec, {}, key="k") == ("done", {"n": 1})
    assert house.did == [1]


@pytest.mark.parametrize("effect", SINGLE)
async def test_what_was_begun_and_cannot_be_asked_about_is_unknown_and_never_repeated(
    house: House, effect: Effect
) -> None:
    spec = house.actor(effect).spec
    house.begun(spec)
    for _ in range(3):
        error = await failure(house.invoke(spec, {}, key="k"))
        assert isinstance(error, UnknownOutcome)
        assert error.where == {"skill": "test.act"}
        assert error.hint
        assert not error.retry
        house.restart()
    assert house.did == []


async def _raises() -> Any:
    raise LookupError("the bus is away")


async def _denies() -> Any:
    raise Denied("no")


async def _says(answer: Any) -> Any:
    return answer


@pytest.mark.parametrize(
    "answer",
    [
        partial(_says, Outcome.UNKNOWN), partial(_says, Outcome.SUBMITTED), partial(_says, Outcome.FAILED),
        partial(_says, Outcome.CANCELLED), partial(_says, None), partial(_says, "done"), partial(_says, {"m": 1}),
        _raises, _denies, anyio.sleep_forever,
    ],
)  # fmt: skip
@pytest.mark.parametrize("effect", SINGLE)
async def test_an_answer_that_does_not_settle_it_leaves_it_unknown(
    house: House, effect: Effect, answer: Callable[[], Awaitable[Any]]
) -> None:
    act = house.actor(effect)

    @act.reconcile
    async def ask(ctx: Context, args: dict[str, Any]) -> Any:
        return await answer()

    house.begun(act.spec)
    start = anyio.current_time()
    assert isinstance(await failure(house.invoke(act.spec, {}, key="k")), UnknownOutcome)
    assert anyio.current_time() - start <= RECONCILE_SECONDS + 0.01
    assert house.did == []
    assert house.state() == "begun"


async def test_no_answer_is_not_the_result_of_a_skill_that_returns_nothing(house: House) -> None:
    async def act(ctx: Context) -> None:
        """Do it."""

    made = house.offer(act)

    @made.reconcile
    async def ask(ctx: Context, args: dict[str, Any]) -> None:
        """Forget to answer."""

    house.begun(made.spec)
    assert isinstance(await failure(house.invoke(made.spec, {}, key="k")), UnknownOutcome)


async def test_a_question_that_goes_wrong_is_told_as_a_warning(house: House) -> None:
    act = house.actor()

    @act.reconcile
    async def ask(ctx: Context, args: dict[str, Any]) -> Any:
        raise LookupError("the bus is away")

    house.begun(act.spec)
    await failure(house.invoke(act.spec, {}, key="k"))
    (event,) = house.events.recent
    assert event.kind == "warning"
    assert "test.act" in event.fields["what"]
    assert event.fields["why"] == "the bus is away"


@pytest.mark.parametrize(("answer", "value"), [(Outcome.DONE, {}), (Done(n=9), {"n": 9}), ({"n": 9}, {"n": 9})])
async def test_what_turns_out_to_have_happened_is_done_and_stays_so(house: House, answer: Any, value: Any) -> None:
    act = house.actor()
    asked: list[Any] = []

    @act.reconcile
    async def ask(ctx: Context, args: dict[str, Any]) -> Any:
        asked.append((ctx.key, args))
        return answer

    house.begun(act.spec, n=9)
    for _ in range(2):
        assert await house.invoke(act.spec, {"n": 9}, key="k") == ("done", value)
        house.restart()
    assert asked == [("k", {"n": 9})]
    assert house.did == []


async def test_what_turns_out_not_to_have_happened_is_done_now(house: House) -> None:
    act = house.actor()

    @act.reconcile
    async def ask(ctx: Context, args: dict[str, Any]) -> Outcome:
        return Outcome.NOT_DONE

    house.begun(act.spec)
    assert await house.invoke(act.spec, {}, key="k") == ("done", {"n": 1})
    assert house.did == [1]
    assert house.state() == "done"


@pytest.mark.parametrize("effect", REPEATABLE)
async def test_what_may_be_repeated_runs_again_after_a_crash_or_a_failure(house: House, effect: Effect) -> None:
    async def read(ctx: Context) -> int:
        """Read it."""
        house.did.append("try")
        if len(house.did) < 3:
            raise LookupError("not yet")
        return 7

    spec = house.offer(read, effect).spec
    for _ in range(2):
        await failure(house.invoke(spec, {}, key="k"))
        house.restart()
    assert await house.invoke(spec, {}, key="k") == ("done", {"result": 7})
    assert await house.invoke(spec, {}, key="k") == ("done", {"result": 7})
    assert len(house.did) == 3


@pytest.mark.parametrize("effect", SINGLE)
async def test_an_effect_that_failed_stays_failed(house: House, effect: Effect) -> None:
    async def act(ctx: Context) -> int:
        """Do it."""
        house.did.append("try")
        raise LookupError("stuck")

    spec = house.offer(act, effect).spec
    errors = []
    for _ in range(3):
        errors.append((await failure(house.invoke(spec, {}, key="k"))).to_wire())
        house.restart()
    assert errors[0] == errors[1] == errors[2]
    assert errors[0]["code"] == "skill_failed"
    assert house.did == ["try"]
    assert house.state() == "failed"


# -- cancelled ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "state"),
    [(Outcome.DONE, "done"), (Done(n=4), "done"), (Outcome.NOT_DONE, "cancelled"), (Outcome.UNKNOWN, "begun"),
     (None, "begun")],
)  # fmt: skip
@pytest.mark.parametrize("effect", SINGLE)
async def test_a_cancelled_effect_is_asked_about_at_once_and_the_answer_stands(
    house: House, effect: Effect, answer: Any, state: str
) -> None:
    act = house.actor(effect, seconds=10)
    asked: list[float] = []

    @act.reconcile
    async def ask(ctx: Context, args: dict[str, Any]) -> Any:
        await anyio.sleep(1)  # the caller's cancellation does not reach it
        asked.append(anyio.current_time())
        return answer

    start = anyio.current_time()
    with anyio.move_on_after(2) as scope:
        await house.invoke(act.spec, {}, key="k")
    assert scope.cancelled_caught
    assert asked == [start + 3]
    assert house.state() == state
    house.restart()
    again = house.invoke(act.spec, {}, key="k")
    if state == "done":
        assert await again == ("done", {} if answer is Outcome.DONE else {"n": 4})
    else:
        assert isinstance(await failure(again), Cancelled if state == "cancelled" else UnknownOutcome)
    assert house.did == []


async def test_a_cancelled_effect_that_nobody_can_ask_about_is_unknown(house: House) -> None:
    spec = house.actor(seconds=10).spec
    with anyio.move_on_after(2):
        await house.invoke(spec, {}, key="k")
    assert house.state() == "begun"
    assert isinstance(await failure(house.invoke(spec, {}, key="k")), UnknownOutcome)


async def test_a_question_that_hangs_holds_up_a_cancellation_for_seconds_only(house: House) -> None:
    act = house.actor(seconds=10)

    @act.reconcile
    async def ask(ctx: Context, args: dict[str, Any]) -> Any:
        await anyio.sleep_forever()

    start = anyio.current_time()
    with anyio.move_on_after(2):
        await house.invoke(act.spec, {}, key="k")
    assert anyio.current_time() - start == pytest.approx(2 + RECONCILE_SECONDS)
    assert house.state() == "begun"


async def test_what_was_cancelled_while_it_waited_for_its_lock_never_began(house: House) -> None:
    spec = house.actor(seconds=10, lock="door").spec
    async with anyio.create_task_group() as group:
        group.start_soon(partial(house.invoke, spec, {"n": 1}, key="k1"))
        await anyio.sleep(1)
        with anyio.move_on_after(1):
            await house.invoke(spec, {"n": 2}, key="k2")
        assert house.state("k2") is None
    assert await house.invoke(spec, {"n": 2}, key="k2") == ("done", {"n": 2})
    assert house.did == [1, 2]


@pytest.mark.parametrize("effect", REPEATABLE)
async def test_what_may_be_repeated_leaves_nothing_behind_when_it_is_cancelled(house: House, effect: Effect) -> None:
    spec = house.actor(effect, seconds=10).spec
    with anyio.move_on_after(2):
        await house.invoke(spec, {}, key="k")
    assert house.state() is None
    assert await house.invoke(spec, {}, key="k") == ("done", {"n": 1})


# -- resumable ---------------------------------------------------------------------------------------------------------


def player(house: House, effect: Effect) -> SkillSpec:
    async def play(ctx: Context, uri: str) -> Done:
        """Play it."""
        for position in range(ctx.state.get("position", 0), 10):
            house.did.append(position)
            await anyio.sleep(1)
            await ctx.checkpoint(position=position + 1)
        return Done(n=10)

    return house.offer(play, effect, "music.play", resumable=True).spec


@pytest.mark.parametrize("effect", list(Effect))
async def test_a_resumable_skill_that_was_cancelled_goes_on_from_its_last_checkpoint(
    house: House, effect: Effect
) -> None:
    spec = player(house, effect)
    with anyio.move_on_after(3.5):
        await house.invoke(spec, {"uri": "x"}, key="k")
    assert house.did == [0, 1, 2, 3]
    house.restart()
    assert await house.invoke(spec, {"uri": "x"}, key="k") == ("done", {"n": 10})
    assert house.did[4:] == [3, 4, 5, 6, 7, 8, 9]
    assert await house.invoke(spec, {"uri": "x"}, key="k") == ("done", {"n": 10})
    assert len(house.did) == 11


@pytest.mark.parametrize("effect", list(Effect))
async def test_a_resumable_skill_goes_on_after_a_crash(house: House, effect: Effect, tmp_path: Path) -> None:
    spec = player(house, effect)
    async with anyio.create_task_group() as group:
        group.start_soon(partial(house.invoke, spec, {"uri": "x"}, key="k"))
        await anyio.sleep(5.5)
        after = house.image(tmp_path / "after")
        group.cancel_scope.cancel()
    assert await after.invoke(player(after, effect), {"uri": "x"}, key="k") == ("done", {"n": 10})
    assert after.did == [5, 6, 7, 8, 9]
    after.journal.close()


async def test_another_key_starts_from_the_beginning(house: House) -> None:
    spec = player(house, Effect.ONCE)
    await house.invoke(spec, {"uri": "x"}, key="k1")
    await house.invoke(spec, {"uri": "x"}, key="k2")
    await house.invoke(spec, {"uri": "x"})
    assert house.did == [*range(10)] * 3


# -- locks -------------------------------------------------------------------------------------------------------------


async def test_one_invocation_at_a_time_holds_a_lock(house: House) -> None:
    inside: list[str] = []

    def holder(name: str, lock: str | None) -> SkillSpec:
        async def hold(ctx: Context) -> None:
            """Hold it."""
            assert lock is None or not any(other in inside for other in ("door.open", "door.close"))
            inside.append(name)
            await anyio.sleep(1)
            inside.remove(name)

        return house.offer(hold, Effect.IDEMPOTENT, name, lock=lock).spec

    held, shared, free = holder("door.open", "door"), holder("door.close", "door"), holder("door.look", None)
    start = anyio.current_time()
    async with anyio.create_task_group() as group:
        for i in range(3):
            group.start_soon(partial(house.invoke, held, {}))
            group.start_soon(partial(house.invoke, shared, {}, key=f"k{i}"))
            group.start_soon(partial(house.invoke, free, {}))
    assert anyio.current_time() - start == pytest.approx(6)


async def test_a_lock_is_free_again_after_a_failure_and_a_cancellation(house: House) -> None:
    async def act(ctx: Context, how: str) -> None:
        """Do it."""
        if how == "raise":
            raise LookupError
        await anyio.sleep(0 if how == "well" else 100)

    spec = house.offer(act, lock="door").spec
    await failure(house.invoke(spec, {"how": "raise"}))
    with anyio.move_on_after(1):
        await house.invoke(spec, {"how": "long"}, key="k")
    assert await house.invoke(spec, {"how": "well"}) == ("done", {"result": None})


# -- streams -----------------------------------------------------------------------------------------------------------


def counter(house: House, **more: Any) -> SkillSpec:
    async def count(ctx: Context, n: int) -> AsyncIterator[Done]:
        """Count."""
        try:
            for i in range(n):
                yield Done(n=i)
        finally:
            house.did.append("closed")

    return house.offer(count, Effect.READ, "test.count", **more).spec  # type: ignore[arg-type]


async def test_a_stream_hands_its_items_on_as_they_come(house: House) -> None:
    items: list[Any] = []

    async def on_item(item: Any) -> None:
        items.append(item)

    answer = await house.invoke(counter(house), {"n": 3}, on_item=on_item)
    assert items == [{"n": 0}, {"n": 1}, {"n": 2}]
    assert answer == ("done", {"result": []})


async def test_a_stream_that_nobody_reads_is_a_list_as_its_schema_says(house: House) -> None:
    spec = counter(house)
    assert await house.invoke(spec, {"n": 2}) == ("done", {"result": [{"n": 0}, {"n": 1}]})
    state, value = await house.invoke(spec, {"n": 2}, key="k")
    house.restart()
    assert await house.invoke(spec, {"n": 2}, key="k") == (state, value)
    assert spec.load(value) == [Done(n=0), Done(n=1)]


async def test_a_stream_whose_reader_goes_is_closed_before_its_lock_is_free(house: House) -> None:
    async def gone(item: Any) -> None:
        raise LinkLost("the reader left")

    async def slow(item: Any) -> None:
        await anyio.sleep(100)

    spec = counter(house, lock="tape")
    assert isinstance(await failure(house.invoke(spec, {"n": 3}, on_item=gone)), LinkLost)
    assert house.did == ["closed"]
    with anyio.move_on_after(1):
        await house.invoke(spec, {"n": 3}, on_item=slow)
    assert house.did == ["closed", "closed"]


async def test_an_item_that_does_not_fit_ends_the_stream_as_the_skills_fault(house: House) -> None:
    async def count(ctx: Context) -> AsyncIterator[int]:
        """Count."""
        yield 1
        yield "two"  # type: ignore[misc]

    spec = house.offer(count, Effect.READ).spec  # type: ignore[arg-type]
    assert (await failure(house.invoke(spec, {}))).fault == "skill"


# -- whose fault -------------------------------------------------------------------------------------------------------


class Home(SlipError):
    code, fault, retry = "home", "person", True


def _raise(error: BaseException) -> Any:
    raise error


FAULTS: list[tuple[Callable[[], Any], type[SlipError], Fault, str]] = [
    (lambda: _raise(LookupError("no such room")), SkillFailed, "skill", "test.act raised LookupError: no such room"),
    (lambda: _raise(ExceptionGroup("g", [OSError("x")])), SkillFailed, "skill", "raised ExceptionGroup"),
    (lambda: _raise(SystemExit(3)), SkillFailed, "skill", "test.act raised SystemExit: 3"),
    (lambda: _raise(TimeoutError()), SkillFailed, "skill", "raised TimeoutError"),
    (lambda: _raise(Blocked()), SkillFailed, "skill", "test.act blocked the event loop"),
    (lambda: "many", SkillFailed, "skill", "returned what its schema does not allow"),
    (lambda: None, SkillFailed, "skill", "returned what its schema does not allow"),
    (lambda: _raise(Denied("the person said no")), Denied, "person", "the person said no"),
    (lambda: _raise(Home("nobody is there", "it is late")), Home, "person", "nobody is there: it is late"),
]


@pytest.mark.parametrize(("does", "kind", "fault", "says"), FAULTS)
@pytest.mark.parametrize("key", ["", "k"])
@pytest.mark.parametrize("effect", [Effect.READ, Effect.ONCE])
async def test_an_error_says_whose_fault_it_is(
    house: House, effect: Effect, key: str, does: Callable[[], Any], kind: type[SlipError], fault: Fault, says: str
) -> None:
    async def act(ctx: Context) -> int:
        """Do it."""
        value: int = does()
        return value

    error = await failure(house.invoke(house.offer(act, effect).spec, {}, key=key))
    assert type(error) is kind
    assert error.fault == fault
    assert says in str(error)
    assert house.state("k") == ("failed" if key and effect is Effect.ONCE else None)


async def test_a_skill_that_raises_is_told_with_its_file_and_line(house: House) -> None:
    async def act(ctx: Context) -> int:
        """Do it."""
        raise LookupError

    error = await failure(house.invoke(house.offer(act).spec, {}))
    assert error.hint.startswith(f"{__file__}:")
    assert int(error.hint.rpartition(":")[2]) == act.__code__.co_firstlineno + 2


@pytest.mark.parametrize("effect", list(Effect))
async def test_a_result_that_the_journal_cannot_hold_is_the_skills_fault(house: House, effect: Effect) -> None:
    async def act(ctx: Context) -> int:
        """Do it."""
        return 2**70

    error = await failure(house.invoke(house.offer(act, effect).spec, {}, key="k"))
    assert error.fault == "skill"
    assert "cannot be kept" in error.what


async def test_arguments_that_the_journal_cannot_hold_are_refused_before_anything_happens(house: House) -> None:
    error = await failure(house.invoke(house.actor().spec, {"n": 2**70}, key="k"))
    assert error.fault == "caller"
    assert house.did == []


async def test_the_guard_watches_exactly_while_skills_run(house: House) -> None:
    class Watch:
        def __init__(self) -> None:
            self.inside = self.most = 0

        def enter(self) -> None:
            self.inside += 1
            self.most = max(self.most, self.inside)

        def leave(self) -> None:
            self.inside -= 1

    watch = house.invoker.guard = Watch()
    spec = house.actor(seconds=5).spec
    async with anyio.create_task_group() as group:
        group.start_soon(partial(house.invoke, spec, {}))
        group.start_soon(partial(house.invoke, spec, {}, key="k"))
        await anyio.sleep(1)
        assert watch.inside == 2
        group.cancel_scope.cancel()
    assert (watch.inside, watch.most) == (0, 2)


# -- the context of an invocation --------------------------------------------------------------------------------------


async def test_a_skill_learns_where_and_for_whom_it_runs_and_is_heard(house: House) -> None:
    seen: list[Any] = []

    async def act(ctx: Context) -> None:
        """Do it."""
        seen.append((ctx.device, ctx.key, ctx.caller, ctx.deadline, ctx.backend(Done)))
        await ctx.progress(0.5, "half")
        seen.append(await ctx.call("nav.route", on="phone", to="home"))

    house.invoker.backends = ("other", Done(n=1))
    await house.invoke(
        house.offer(act).spec, {}, key="k", caller="id-phone", deadline=99.0,
        on_progress=lambda fraction, note: seen.append((fraction, note)),
    )  # fmt: skip
    assert seen == [("car", "k", "id-phone", 99.0, Done(n=1)), (0.5, "half"), {"from": "nav.route"}]
    assert house.mesh.called == [("nav.route", {"to": "home"}, "phone", 99.0)]


async def test_a_checkpoint_without_a_key_stays_in_the_invocation(house: House) -> None:
    async def act(ctx: Context) -> int:
        """Do it."""
        await ctx.checkpoint(n=3)
        return int(ctx.state["n"])

    spec = house.offer(act, resumable=True).spec
    assert await house.invoke(spec, {}) == ("done", {"result": 3})
    assert house.journal.state("") == {}


# -- undo --------------------------------------------------------------------------------------------------------------


def undoable(house: House, effect: Effect = Effect.ONCE, seconds: float = 0) -> Skill[..., Any]:
    act = house.actor(effect, undoable=True)

    @act.undo
    async def back(ctx: Context, args: dict[str, Any], result: Done | None) -> None:
        await anyio.sleep(seconds)
        house.did.append(("undone", args, result))

    return act


@pytest.mark.parametrize("effect", list(Effect))
async def test_what_was_done_is_undone_once_also_over_a_restart(house: House, effect: Effect) -> None:
    act = undoable(house, effect)
    await house.invoke(act.spec, {"n": 5}, key="k")
    house.restart()
    assert await house.undo("k") is True
    assert await house.undo("k") is False
    house.restart()
    assert await house.undo("k") is False
    assert house.did == [5, ("undone", {"n": 5}, Done(n=5))]
    assert (await house.invoke(act.spec, {"n": 5}, key="k"))[1] == {"n": 5}
    assert house.did[2:] == []


async def test_two_that_undo_at_one_time_undo_once(house: House) -> None:
    act = undoable(house, seconds=5)
    await house.invoke(act.spec, {}, key="k")
    answers: list[bool] = []

    async def undo() -> None:
        answers.append(await house.undo("k"))

    async with anyio.create_task_group() as group:
        group.start_soon(undo)
        group.start_soon(undo)
    assert sorted(answers) == [False, True]
    assert len(house.did) == 2


@pytest.mark.parametrize("state", ["begun", "failed", "unknown", "cancelled", "submitted", None])
async def test_only_what_is_done_is_undone(house: House, state: str | None) -> None:
    act = undoable(house)
    if state is not None:
        house.begun(act.spec)
    if state not in ("begun", None):
        house.journal.end("k", state or "", {"n": 1})
    assert await house.undo("k") is False
    assert house.did == []


async def test_what_cannot_be_undone_is_left(house: House) -> None:
    await house.invoke(house.actor().spec, {}, key="k")
    assert await house.undo("k") is False
    assert house.state() == "done"


@pytest.mark.parametrize(("error", "kind"), [(OSError("jammed"), SkillFailed), (Denied("no"), Denied)])
async def test_an_undo_that_fails_says_so_and_may_be_tried_again(
    house: House, error: Exception, kind: type[SlipError]
) -> None:
    act = house.actor(undoable=True)

    @act.undo
    async def back(ctx: Context, args: dict[str, Any], result: Done) -> None:
        house.did.append("back")
        if len(house.did) == 2:
            raise error

    await house.invoke(act.spec, {}, key="k")
    assert type(await failure(house.undo("k"))) is kind
    assert house.state() == "done"
    assert await house.undo("k") is True
    assert house.did == [1, "back", "back"]


async def test_an_undo_while_the_same_key_runs_waits_for_its_end(house: House) -> None:
    act = house.actor(seconds=5, undoable=True)

    @act.undo
    async def back(ctx: Context, args: dict[str, Any], result: Done) -> None:
        house.did.append("back")

    async with anyio.create_task_group() as group:
        group.start_soon(partial(house.invoke, act.spec, {}, key="k"))
        await anyio.sleep(1)
        assert await house.undo("k") is True
    assert house.did == [1, "back"]
