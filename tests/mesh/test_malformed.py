"""Members that say nonsense about runs: it is refused with a reason, nothing of it stays, and no run is disturbed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from math import inf, nan
from typing import Any

import anyio
import pytest
from trio.testing import MockClock

from slipstream import testing
from slipstream.core.dispatch import Dispatch
from slipstream.core.errors import ProtocolError, Refused, SlipError
from slipstream.core.plan import load
from slipstream.core.skill import Context, Effect, Pack, skill
from slipstream.core.trust import Role

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "trio", {"clock": MockClock(autojump_threshold=0)}


DID: list[str] = []


class Gate:
    """Opens when a test lets it."""

    event = anyio.Event()


@skill("lamp.on", effect=Effect.ONCE)
async def lamp(ctx: Context, which: str = "left") -> str:
    """Switch on."""
    DID.append(which)
    return which


@skill("lamp.wait", effect=Effect.READ)
async def wait(ctx: Context) -> str:
    """Wait for somebody."""
    await Gate.event.wait()
    return "waited"


@skill("note.say", effect=Effect.READ)
async def say(ctx: Context, what: str = "") -> str:
    """Say it again."""
    return what


@asynccontextmanager
async def house() -> AsyncIterator[tuple[testing.Mesh, Dispatch]]:
    """A phone whose run is under way on the car, and a friend who turns on them; the run ends well all the same."""
    DID.clear()
    Gate.event = anyio.Event()
    async with testing.mesh(
        "phone", "car", "friend", skills={"phone": [say], "car": [lamp, wait], "friend": [say]},
        roles={"friend": Role.MEMBER},
    ) as m:  # fmt: skip
        with anyio.fail_after(600):  # of virtual time: what is disturbed fails, and does not hang
            plan = {"goal": "x", "steps": [
                {"id": "w", "skill": "lamp.wait"},
                {"id": "l", "skill": "lamp.on", "args": {"which": "right"}, "after": ["w"]},
            ]}  # fmt: skip
            run = await m["phone"].start(load(plan))
            await m.until(lambda: run.steps["w"].state == "running")
            yield m, run
            assert run.steps["w"].state == "running"
            Gate.event.set()
            await run.ended.wait()
            assert run.state == "done", run.error
            assert DID[-1:] == ["right"]
            assert DID.count("right") == 1
            assert m["car"].executor.running == 0


def step(name: str = "s", run: str = "r", **more: Any) -> dict[str, Any]:
    return {"id": name, "epoch": 1, "key": f"{run}/{name}/0", "skill": "lamp.on", "args": {}, "needs": [], "reads": [],
            "when": None, "for_each": None, "seconds": None, "sends": [], "from": {}, **more}  # fmt: skip


async def ask(m: testing.Mesh, target: str, content: Any, of: str = "friend") -> Any:
    return await m[of].request("car", target, content, anyio.current_time() + 3)


async def arm(m: testing.Mesh, *steps: Any, of: str = "friend", **more: Any) -> Any:
    return await ask(m, "slip.arm", {"run": "r", "have": {}, "steps": list(steps), **more}, of)


# -- orders ------------------------------------------------------------------------------------------------------------

UNREADABLE: dict[str, Any] = {
    **{f"no {field}": {k: v for k, v in step().items() if k != field} for field in step()},
    "another type": step(args=[1]), "too long": step("s" * 301), "a negative epoch": step(epoch=-1),
    "a negative time": step(seconds=-1), "no time": step(seconds=nan), "for ever": step(seconds=inf),
    "reads what it does not wait for": step(reads=["never"]), "a condition without sides": step(when={"op": "eq"}),
    "a maker of what it does not wait for": step(**{"from": {"a": "x"}}),
    "the key of another step": step(key="r/good/0"), "too many readers": step(sends=[f"d{i}" for i in range(1001)]),
    "no map": 7, "the same step again": step("good"),
}  # fmt: skip


@pytest.mark.parametrize("name", UNREADABLE)
async def test_an_order_with_one_step_that_cannot_be_read_is_refused_with_all_its_steps(name: str) -> None:
    async with house() as (m, _):
        link = m["car"].links.up["friend"]
        for steps in ([step("good"), UNREADABLE[name]], [UNREADABLE[name], step("good")]):
            with pytest.raises(ProtocolError, match=r"slip\.arm cannot be read") as error:
                await arm(m, *steps)
            assert error.value.why
        assert await ask(m, "slip.disarm", {"run": "r", "step": "good", "epoch": 9}) == {"state": "absent"}
        assert m["car"].links.up["friend"] is link
        assert not DID


async def test_an_order_with_the_key_of_another_device_is_refused_with_all_its_steps() -> None:
    async with house() as (m, _):
        await m.call("lamp.on", {"which": "mine"}, of="phone", on="car", key="r/s/0")
        for steps in ([step("good"), step()], [step(), step("good")]):
            with pytest.raises(Refused, match="the key of another device"):
                await arm(m, *steps)
        assert await arm(m) == {}  # whatever makes the car look again at what is ready
        assert (await arm(m, step("other", needs=["never"])))["other"]["state"] == "armed"
        assert await ask(m, "slip.disarm", {"run": "r", "step": "good", "epoch": 9}) == {"state": "absent"}
        assert DID == ["mine"]


async def test_an_order_for_the_run_of_another_device_changes_nothing_of_it() -> None:
    async with house() as (m, run):
        theirs = run.steps["l"]
        forged = step("l", run.id, epoch=theirs.epoch + 1, args={"which": "wrong"})
        for more in ({"steps": [forged]}, {"steps": [], "have": {"w": ["done", {"result": "forged"}]}}):
            with pytest.raises(Refused, match="owns this run"):
                await ask(m, "slip.arm", {"run": run.id, "have": {}, **more})
        assert not DID


BROKEN = {
    "a skill that there is not": step(skill="no.such"),
    "an argument that there is not": step(args={"no": "such"}),
    "an argument of another type": step(args={"which": 7}),
    "a reference that is none": step(args={"which": {"$ref": 7}}),
    "a reference to a step that there is not": step(args={"which": {"$ref": "nobody.result"}}),
    "a reference to something inside nothing": step(args={"which": {"$ref": ""}}),
    "conditions inside of nothing": step(when={"op": "and", "left": 7, "right": None}),
    "to go through what is no list": step(for_each={"$ref": "nobody.result"}),
    "to go through too much": step(for_each=list(range(1001))),
}


@pytest.mark.parametrize("name", BROKEN)
async def test_a_step_that_makes_no_sense_fails_alone_and_says_why(name: str) -> None:
    async with house() as (m, _):
        told = await arm(m, BROKEN[name], step("good"))
        assert {told[s]["state"] for s in ("s", "good")} <= {"running", "armed"}
        await m.until(lambda: m["car"].executor.running == 1)  # the phone's
        told = await arm(m, BROKEN[name], step("good"))
        assert told["good"]["state"] == "done"
        assert told["s"]["state"] in ("failed", "denied")
        assert told["s"]["error"]["what"]
        assert DID == ["left"]


async def test_a_result_for_a_device_that_there_is_not_keeps_no_other_from_running() -> None:
    async with house() as (m, _):
        await arm(m, step(sends=["nobody"], args={"which": "for nobody"}), step("good"))
        await m.until(lambda: sorted(DID) == ["for nobody", "left"])


async def test_a_step_that_waits_for_what_never_comes_keeps_no_other_from_running() -> None:
    async with house() as (m, _):
        waiting = [step(f"s{i}", needs=["never"], **{"from": {"never": "phone"}}) for i in range(100)]
        told = await arm(m, *waiting, step("good"))
        await m.until(lambda: DID == ["left"])
        assert {told[f"s{i}"]["state"] for i in range(100)} == {"armed"}


# -- answers -----------------------------------------------------------------------------------------------------------

ANSWER = {"step": "s", "epoch": 1, "state": "armed", "value": None, "inline": True, "size": 0, "error": None,
          "seconds": None}  # fmt: skip
ANSWERS: dict[str, Any] = {
    "nothing": None, "a text": "s", "a list": ["s"], "a text about it": {"s": "armed"}, "an empty map": {"s": {}},
    **{f"no {field}": {"s": {k: v for k, v in ANSWER.items() if k != field}} for field in ANSWER},
    "another step": {"s": {**ANSWER, "step": "t"}}, "another state": {"s": {**ANSWER, "state": "gone"}},
    "a negative size": {"s": {**ANSWER, "state": "done", "seconds": 1.0, "size": -1}},
    "a negative time": {"s": {**ANSWER, "state": "done", "seconds": -1.0}},
    "no time": {"s": {**ANSWER, "state": "done", "seconds": nan}},
    "an error that is none": {"s": {**ANSWER, "state": "failed", "error": "broken"}},
}  # fmt: skip


@pytest.mark.parametrize("name", ANSWERS)
async def test_a_device_that_answers_nonsense_fails_its_step_and_no_other_run(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with house() as (m, _):
        await m.add("liar", packs=[Pack("liar", (lie,))])
        monkeypatch.setattr(m["liar"].executor, "arm", lambda owner, request: ANSWERS[name])
        run = await m.run({"goal": "lie", "steps": [{"id": "s", "skill": "liar.lie"}]})
        assert isinstance(run.error, ProtocolError), run.error
        assert "what a device says of its steps cannot be read" in str(run.error)
        assert run.error.why


@skill("liar.lie", effect=Effect.READ)
async def lie(ctx: Context) -> str:
    """Lie."""
    return "never"


# -- reports -----------------------------------------------------------------------------------------------------------

REPORTS: dict[str, dict[str, Any]] = {
    "a negative size": {"size": -1}, "a negative time": {"seconds": -1.0}, "no time": {"seconds": nan},
    "for ever": {"seconds": inf}, "a size of another type": {"size": "10"}, "an epoch of another type": {"epoch": True},
    "a state that there is not": {"state": "gone"}, "an error that is none": {"error": "broken"},
    "a step of another type": {"step": ["w"]}, "a run of another type": {"run": {}},
}  # fmt: skip


@pytest.mark.parametrize("name", REPORTS)
async def test_a_report_that_cannot_be_read_ends_the_link_with_the_reason_and_changes_nothing(name: str) -> None:
    async with house() as (m, run):
        s = run.steps["w"]
        report = {**ANSWER, "run": run.id, "step": "w", "epoch": s.epoch, "state": "done", "seconds": 1.0,
                  "value": {"result": "forged"}, **REPORTS[name]}  # fmt: skip
        m["car"].note("phone", "slip.report", report)
        await m.until(lambda: any(e.kind == "link.down" for e in m["phone"].events.recent))
        (down,) = [e for e in m["phone"].events.recent if e.kind == "link.down"]
        assert down.fields["device"] == "car"
        assert "slip.report cannot be read" in down.fields["why"]
        assert await m.call("note.say", {"what": "here"}, of="friend", on="phone") == {"result": "here"}
        await m["car"].connect("phone")
        await m.until(lambda: m["phone"].reachable("car"))
        assert s.value is None


async def test_a_report_of_whom_the_step_is_not_with_or_of_an_old_epoch_changes_nothing() -> None:
    async with house() as (m, run):
        s = run.steps["w"]
        report = {**ANSWER, "run": run.id, "step": "w", "epoch": s.epoch, "state": "done", "seconds": 1.0}
        for of, more in (("friend", {}), ("car", {"epoch": s.epoch - 1}), ("car", {"epoch": s.epoch + 1}),
                         ("car", {"step": "nobody"}), ("car", {"run": "no run"})):  # fmt: skip
            m[of].note("phone", "slip.report", {**report, **more})
        m["friend"].note("phone", "slip.progress", {**report, "fraction": 0.5, "note": "forged"})
        m["friend"].note("car", "slip.deliver", {"run": run.id, "step": "w", "state": "done", "value": {}})
        await anyio.sleep(1)
        assert (s.state, s.value) == ("running", None)
        assert not [e for e in m["phone"].events.recent if e.kind == "step.progress"]


@pytest.mark.parametrize(("fraction", "shown"), [(nan, 0.0), (-3, 0.0), (inf, 1.0), (7, 1.0), (0.5, 0.5)])
async def test_progress_of_a_step_is_kept_within_its_range_and_its_note_cleaned(fraction: float, shown: float) -> None:
    async with house() as (m, run):
        content = {"run": run.id, "step": "w", "epoch": run.steps["w"].epoch, "fraction": fraction}
        m["car"].note("phone", "slip.progress", {**content, "note": "\x1b[2Jhalf\u202e" + "x" * 500})
        await m.until(lambda: any(e.kind == "step.progress" for e in m["phone"].events.recent))
        (told,) = [e.fields for e in m["phone"].events.recent if e.kind == "step.progress"]
        assert told["fraction"] == shown
        assert told["note"] == "[2Jhalf" + "x" * 193


@pytest.mark.parametrize("more", [{"seconds": 1e308}, {"size": 2**63}, {"error": {"code": 7, "where": []}}])
async def test_a_report_of_what_cannot_be_true_is_believed_of_its_own_step_and_harms_no_other_run(
    more: dict[str, Any],
) -> None:
    async with house() as (m, _):
        await m.add("liar", packs=[Pack("liar", (lie,))])
        told = {**ANSWER, "state": "done", "seconds": 1.0, "value": {"result": "lied"}, **more}
        m["liar"].executor.arm = lambda owner, request: {  # type: ignore[method-assign]
            s["id"]: {**told, "step": s["id"], "epoch": s["epoch"]} for s in request["steps"]
        }
        for _ in range(3):
            await m.run({"goal": "lie", "steps": [{"id": "s", "skill": "liar.lie"}]})
        steps = [{"id": "s", "skill": "liar.lie"}, {"id": "n", "skill": "note.say", "after": ["s"]}]
        run = await m.run({"goal": "go on", "steps": steps})
        assert run.state == "done" or isinstance(run.error, SlipError)
        assert (await m.run({"goal": "x", "steps": [{"id": "n", "skill": "note.say"}]})).state == "done"
