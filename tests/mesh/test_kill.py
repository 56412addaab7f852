"""`kill -9` at random moments of real runs, by the bench itself; and its judge, which must be able to say no."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

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
