"""`kill -9` at random moments of real runs, by the bench; its judge, which must be able to say no; what it found."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest
from pydantic import BaseModel
from trio.testing import MockClock

from slipstream import testing
from slipstream.core.errors import Refused
from slipstream.core.plan import load
from slipstream.core.skill import Context, Effect, skill
from slipstream.transports.memory import Conditions

KILL = Path(__file__).resolve().parents[1] / "bench" / "kill.py"
KILLS = 30
PLAN = {"goal": "run-1", "steps": [
    {"id": f"s{i}", "skill": f"kill.{name}", "args": {"n": [{"$ref": f"s{i - 1}.n"}] if i else []}}
    for i, name in enumerate(["read", "set", "send", "post"] + ["read"] * 6)
]}  # fmt: skip


def test_thirty_kills_lose_nothing_that_was_acknowledged_and_double_nothing_that_may_happen_once() -> None:
    bench = [sys.executable, str(KILL), "--kills", str(KILLS), "--seed", "30", "--json"]
    done = subprocess.run(bench, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)["figures"]
    assert {name: figures[name] for name in ("doubled", "lost", "failed", "stuck")} == {
        "doubled": 0, "lost": 0, "failed": 0, "stuck": 0,
    }, done.stderr  # fmt: skip
    assert figures["kills"] == KILLS
    assert figures["runs_done"] > 0


@pytest.fixture(scope="module")
def bench() -> dict[str, Any]:
    return runpy.run_path(str(KILL), run_name="bench_kill")


def outcome(
    bench: dict[str, Any], *, state: str = "done", world: dict[str, int] | None = None, acknowledged: bool = True,
    error: dict[str, Any] | None = None, begun: set[str] = frozenset(), **steps: Any,
) -> dict[str, int]:  # fmt: skip
    """What the judge says of a run that is done, and in which all happened once, but for what is given."""
    values = {f"s{i}": {"n": i + 1, "token": f"t{i}"} for i in range(10)}
    times = {"s1": 1, "s2": 1, "s3": 1, **(world or {})}
    lines = [{"step": s, "token": values[s]["token"]} for s, count in times.items() for _ in range(count)]
    journal = {"state": state, "output": {"n": 10}, "error": error,
               "steps": {**{s: ["done", value, "phone"] for s, value in values.items()}, **steps}}  # fmt: skip
    found = bench["Outcomes"]()
    bench["judge"](found, PLAN, lines, journal, values if acknowledged else {}, begun)
    return {name: count for name in ("done", "unknown", "doubled", "lost", "failed") if (count := getattr(found, name))}


def test_the_judge_accepts_a_run_in_which_everything_happened_as_told(bench: dict[str, Any]) -> None:
    assert outcome(bench) == {"done": 1}
    assert outcome(bench, world={"s1": 3}) == {"done": 1}  # what is idempotent may happen again


def test_the_judge_sees_what_happened_twice_and_what_never_did(bench: dict[str, Any]) -> None:
    assert outcome(bench, world={"s2": 2}) == {"done": 1, "doubled": 1}
    assert outcome(bench, world={"s3": 0}) == {"done": 1, "lost": 1}


def test_the_judge_sees_an_acknowledged_step_that_is_not_done_or_has_another_result(bench: dict[str, Any]) -> None:
    assert outcome(bench, s0=["done", {"n": 1, "token": "another"}, "phone"]) == {"done": 1, "lost": 1}
    assert outcome(bench, s0=["done", {"n": 1, "token": "another"}, "phone"], acknowledged=False) == {"done": 1}
    assert outcome(bench, s9=["armed", None, "phone"])["lost"] == 2  # also in a run that says that it is done


def test_the_judge_takes_unknown_only_for_a_once_step_that_was_half_way_and_cannot_be_looked_up(
    bench: dict[str, Any],
) -> None:
    def ends(step: str, begun: set[str]) -> dict[str, int]:
        error = {"code": "unknown", "where": {"step": step}}
        return outcome(bench, state="unknown", error=error, begun=begun, acknowledged=False)

    assert ends("s2", {"s2"}) == {"unknown": 1}
    assert ends("s2", set()) == {"failed": 1}
    assert ends("s3", {"s3"}) == {"failed": 1}
    assert outcome(bench, state="failed", error={"code": "skill_failed", "where": {"step": "s2"}}) == {"failed": 1}


# -- what the bench found, on virtual time ---------------------------------------------------------------------------


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "trio", {"clock": MockClock(autojump_threshold=0)}


class Count(BaseModel):
    n: int


did: list[tuple[str, str]] = []


@skill("count.look", effect=Effect.READ)
async def look(ctx: Context, what: str, n: list[int], seconds: float) -> Count:
    """Change nothing."""
    did.append((what, ctx.device))
    await anyio.sleep(seconds)
    return Count(n=1 + sum(n))


@skill("count.send", effect=Effect.ONCE)
async def send(ctx: Context, what: str, n: list[int], seconds: float) -> Count:
    """Do what must not happen twice."""
    did.append((what, ctx.device))
    await anyio.sleep(seconds)
    return Count(n=1 + sum(n))


def step(id_: str, verb: str, on: str | None, *needs: str, seconds: float = 0.01) -> dict[str, Any]:
    args = {"what": id_, "n": [{"$ref": f"{need}.n"} for need in needs], "seconds": seconds}
    return {"id": id_, "skill": f"count.{verb}", **({"on": on} if on else {}), "args": args}


def three() -> Any:
    did.clear()
    return testing.mesh("phone", "car", "hub", skills=dict.fromkeys(("phone", "car", "hub"), (look, send)))


@pytest.mark.anyio
async def test_an_owner_that_was_killed_does_not_move_a_once_step_that_may_have_begun_where_nobody_answers() -> None:
    async with three() as m:
        for name in ("phone", "car"):  # the hub sends best
            for _ in range(40):
                m["phone"].costs.saw("count.send", name, 9.0, 100, anyio.current_time())
        steps = [
            step("a", "look", "phone"),
            step("b", "look", "car", "a"),
            step("c", "send", None, "a", "b", seconds=1),
        ]
        run = await m["phone"].start(load({"goal": "x", "steps": steps, "output": {"n": {"$ref": "c.n"}}}))
        await m.until(lambda: run.steps["b"].final)
        await anyio.sleep(0.5)
        assert did[-1] == ("c", "hub")
        await m.crash("phone")
        m.network.partition(["hub"], ["phone", "car"])
        phone = await m.restart("phone")
        again = await phone.resume(run.id)
        await anyio.sleep(10)
        m.network.heal()
        await phone.connect("hub", ["memory://hub"])
        await again.ended.wait()
        assert again.state == "done", again.error
        assert [what for what, _ in did].count("c") == 1
        assert again.output == {"n": 4}


@pytest.mark.anyio
async def test_a_result_that_was_made_while_its_owner_was_down_reaches_the_owners_own_steps() -> None:
    async with three() as m:
        steps = [step("a", "look", "car", seconds=1), step("b", "send", "phone", "a")]
        run = await m["phone"].start(load({"goal": "x", "steps": steps}))
        await anyio.sleep(0.5)
        await m.crash("phone")
        await anyio.sleep(1)
        await m.crash("car")
        phone = await m.restart("phone")
        again = await phone.resume(run.id)
        await m.restart("car")
        with anyio.fail_after(60):
            await again.ended.wait()
        assert again.state == "done", again.error
        assert did == [("a", "car"), ("b", "phone")]


@pytest.mark.anyio
async def test_the_owner_hands_out_a_result_whose_maker_died_before_it_sent_it_to_its_reader() -> None:
    async with three() as m:
        m.network.cut("car", "hub")  # what the car makes does not get to the hub
        steps = [step("a", "look", "car"), step("b", "send", "hub", "a")]
        run = await m["phone"].start(load({"goal": "x", "steps": steps}))
        await m.until(lambda: run.steps["a"].final)
        await m.crash("car")
        with anyio.fail_after(60):
            await run.ended.wait()
        assert run.state == "done", run.error
        assert did == [("a", "car"), ("b", "hub")]


@pytest.mark.anyio
async def test_a_run_that_was_killed_before_it_was_assigned_waits_for_its_devices_when_it_is_resumed() -> None:
    async with three() as m:
        m["phone"].journal.run_began("run", load({"goal": "x", "steps": [step("a", "send", "car")]}).to_wire())
        await m.crash("phone")
        await m.crash("car")
        phone = await m.restart("phone")
        run = await phone.resume("run")
        await anyio.sleep(5)
        await m.restart("car")
        await run.ended.wait()
        assert run.state == "done", run.error
        assert did == [("a", "car")]


@pytest.mark.anyio
async def test_a_device_that_was_cut_off_does_not_begin_what_was_moved_meanwhile_when_it_is_back() -> None:
    async with three() as m:
        phone = m["phone"]
        for name in ("phone", "car"):  # the hub sends best
            for _ in range(40):
                phone.costs.saw("count.send", name, 9.0, 100, anyio.current_time())
        steps = [step("a", "look", "car", seconds=8), step("b", "send", None, "a"), step("c", "look", "hub", "a")]
        run = await phone.start(load({"goal": "x", "steps": steps}))
        await m.until(lambda: run.steps["a"].state == "running")
        assert run.steps["b"].device == "hub"
        m.network.partition(["hub"], ["phone", "car"])
        await m.until(lambda: run.steps["b"].device != "hub")
        for _ in range(300):  # by now the phone sends best
            phone.costs.saw("count.send", "hub", 60.0, 100, anyio.current_time())
            phone.costs.saw("count.send", "phone", 0.01, 100, anyio.current_time())
        m.network.heal()
        await phone.connect("hub", ["memory://hub"])
        await m["car"].connect("hub", ["memory://hub"])
        await run.ended.wait()
        assert run.state == "done", run.error
        assert [what for what, _ in did].count("b") == 1


@pytest.mark.anyio
@pytest.mark.parametrize("tenths", range(38, 80, 2))
async def test_a_step_that_came_back_to_its_device_gets_its_input_whenever_that_is_ready(tenths: int) -> None:
    async with three() as m:
        for other in ("phone", "car"):
            m.network.set(other, "hub", Conditions(delay=0.2))
        steps = [step("a", "look", "car", seconds=tenths / 10), step("b", "send", "hub", "a")]
        run = await m["phone"].start(load({"goal": "x", "steps": steps}))
        await m.until(lambda: run.steps["a"].state == "running")
        await m.crash("hub")
        await m.until(lambda: not run.steps["b"].device)
        await m.restart("hub")
        with anyio.fail_after(60):
            await run.ended.wait()
        assert run.state == "done", run.error
        assert did == [("a", "car"), ("b", "hub")]


@pytest.mark.anyio
async def test_a_device_that_was_restarted_gives_no_step_back_that_it_began_and_does_not_know_what_it_sent() -> None:
    async with three() as m:
        hub = m["hub"]
        hub.journal.begin("run/a/0", "count.send", {}, durable=True)
        hub.journal.begin("run/b/1/0", "count.send", {}, durable=True)  # the first item of a for_each

        async def ask(target: str, **content: Any) -> Any:
            return await m["phone"].request("hub", target, {"run": "run", **content}, anyio.current_time() + 3)

        for begun in ("a", "b"):
            with pytest.raises(Refused, match="begun before"):
                await ask("slip.disarm", step=begun, epoch=2)
        assert await ask("slip.disarm", step="c", epoch=2) == {"state": "absent"}
        assert await ask("slip.withhold", step="a", to="car") == {"sent": True}
