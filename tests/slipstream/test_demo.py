"""`slip demo` as somebody runs it: a subprocess that starts real daemons, and what it says about them must be true."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from slipstream.cli.timeline import WIDTH, Timeline, ascii_only

DEMO = [sys.executable, "-m", "slipstream", "demo", "--json"]


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def environment(folder: Path) -> dict[str, str]:
    # a folder of its own, so that what is left behind can be seen
    return {**os.environ, "TMPDIR": str(folder), "XDG_RUNTIME_DIR": str(folder / "run")}


def test_the_demo_happens_as_it_says_and_leaves_nothing_behind(tmp_path: Path) -> None:
    done = subprocess.run(DEMO, capture_output=True, text=True, env=environment(tmp_path), cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    told = [json.loads(line) for line in done.stdout.splitlines()]
    assert all(line["v"] == 1 for line in told)
    summary = told[-1]
    assert summary["ok"]
    assert all(summary["claims"].values())

    assert set(summary["pids"]) == {"phone", "car", "hub"}
    linked = {(line["device"], line["who"]) for line in told if line["event"] == "linked"}
    assert len(linked) == 6
    assert any(line["found_ms"] is not None for line in told if line["event"] == "linked"), "mDNS found nobody"

    killed = next(line for line in told if line["event"] == "killed")
    assert killed["pid"] == summary["pids"]["hub"]
    assert next(line for line in told if line["event"] == "gone")["code"] == -signal.SIGKILL
    assert killed["holding"]
    assert all(summary["where"][step] in ("phone", "car") for step in killed["holding"])
    after = told[told.index(killed) :]
    assert {line["step"] for line in after if line["event"] == "moved"} >= set(killed["holding"])

    assert summary["state"] == "done"
    assert set(summary["where"].values()) == {"phone", "car", "hub"}
    assert summary["output"]["stops"], "a trip with a charging stop"
    assert all(gone(pid) for pid in summary["pids"].values())
    assert [path for path in tmp_path.rglob("*") if path.name != "run"] == []


def test_an_interrupted_demo_ends_what_it_started(tmp_path: Path) -> None:
    with subprocess.Popen(DEMO, stdout=subprocess.PIPE, text=True, env=environment(tmp_path), cwd=tmp_path) as demo:
        assert demo.stdout is not None
        pids = []
        for line in demo.stdout:
            told = json.loads(line)
            if told["event"] == "started":
                pids.append(told["pid"])
            if told["event"] == "up":
                break
        demo.send_signal(signal.SIGINT)
        demo.stdout.read()
    assert demo.returncode == 130
    assert len(pids) == 3
    assert all(gone(pid) for pid in pids)
    assert [path for path in tmp_path.rglob("*") if path.name != "run"] == []


def test_devices_do_not_outlive_a_demo_that_is_killed(tmp_path: Path) -> None:
    with subprocess.Popen(DEMO, stdout=subprocess.PIPE, text=True, env=environment(tmp_path), cwd=tmp_path) as demo:
        assert demo.stdout is not None
        pids = []
        for line in demo.stdout:
            told = json.loads(line)
            if told["event"] == "started":
                pids.append(told["pid"])
            if told["event"] == "met":
                break
        watched = [os.pidfd_open(pid) for pid in pids]
        demo.kill()
    for descriptor in watched:
        select.select([descriptor], [], [])  # readable once the process has ended (pidfd_open(2))
        os.close(descriptor)
    assert len(pids) == 3


EVENTS: list[dict[str, Any]] = [
    {"kind": "run.started", "time": 100.0},
    {"kind": "run.assigned", "time": 100.0, "assignment": {"one": {"why": "it is quick"}, "two": {"why": "x " * 200}}},
    {"kind": "step.armed", "time": 100.0, "step": "one", "name": "phone"},
    {"kind": "step.armed", "time": 100.0, "step": "two", "name": "hub"},
    {"kind": "step.started", "time": 100.5, "step": "one", "name": "phone"},
    {"kind": "step.done", "time": 101.0, "step": "one", "name": "phone", "state": "done", "seconds": 0.5},
    {"kind": "run.assigned", "time": 101.0, "assignment": {"two": {"why": "the only one left"}}},
    {"kind": "step.armed", "time": 101.0, "step": "two", "name": "car"},
    {"kind": "step.done", "time": 102.0, "step": "two", "name": "car", "state": "skipped", "seconds": None},
]


@pytest.mark.parametrize("count", range(len(EVENTS) + 1))
def test_a_timeline_fits_its_columns_at_every_moment_of_a_run(count: int) -> None:
    timeline = Timeline(killed={"hub": 0.9})
    for event in EVENTS[:count]:
        timeline.see(event)
    assert all(len(line) <= WIDTH for line in timeline.lines())
    assert all(line.isascii() for line in timeline.lines(plain=True))


def test_a_step_that_moved_has_a_bar_on_both_devices_each_with_its_reason() -> None:
    timeline = Timeline(killed={"hub": 0.9})
    for event in EVENTS:
        timeline.see(event)
    assert [(b.step, b.device, b.state) for b in timeline.bars] == [
        ("one", "phone", "done"), ("two", "hub", "moved"), ("two", "car", "skipped"),
    ]  # fmt: skip
    assert timeline.where() == {"one": "phone", "two": "car"}
    text = "\n".join(timeline.lines())
    assert "here because: the only one left" in text
    assert "hub (killed at 0.90 s)" in text
    assert text.index("done    one") < text.index("moved   two")


def test_glyphs_have_plain_stand_ins() -> None:
    assert ascii_only("✓ – ✗ ⇄ ░█ ▶ → é") == "+ - x > .# > > ?"
