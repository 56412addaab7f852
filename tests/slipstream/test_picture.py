"""The README's picture, made as `make picture` makes it: a real run of the demo, as the monitor shows it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from slipstream.picture import HEIGHT, SCREENS, WIDTH, screens
from slipstream.tui.text import text_of, width_of


def told(seq: int, **rows: Any) -> dict[str, Any]:
    named = {key.replace("_", "/", 1): row for key, row in rows.items()}
    return {"seq": seq, "whole": seq == 0, "time": 1000.0 + seq / 10, "rows": named, "events": []}


def test_of_many_frames_the_mesh_the_whole_course_of_the_plan_and_what_moved_are_shown() -> None:
    frames = [
        told(0, device_a={"id": "a", "name": "pixel-9"}),
        told(1),
        told(2, run_r={"run": "r", "state": "running"}),
    ]
    frames += [told(n, run_r={"run": "r", "state": "running", "goal": f"goal {n}"}) for n in range(3, 40)]
    frames += [told(40, run_r={"run": "r", "state": "done", "goal": "goal 40"})]
    shown = [[text_of(line) for line in lines] for lines in screens(frames)]
    assert len(shown) == SCREENS
    assert all(len(lines) == HEIGHT for lines in shown)
    assert any("pixel-9" in line for line in shown[0])
    assert "goal 40" in shown[-2][1]
    goals = [int(found[1]) for lines in shown[2:-1] if (found := re.search(r"goal (\d+)", lines[1]))]
    assert goals == sorted(set(goals)), "from the beginning to the end"
    assert len(goals) == SCREENS - 3
    assert any("FROM → TO" in line for line in shown[-1])
    assert all(width_of(line) <= WIDTH for lines in screens(frames) for line in lines)


def test_of_few_frames_each_is_shown() -> None:
    assert len(screens([told(0), told(1, run_r={"run": "r", "state": "running"})])) == 3


def test_the_picture_shows_a_real_run_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "picture.svg"
    env = {**os.environ, "TMPDIR": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path / "run")}
    done = subprocess.run([sys.executable, "-m", "slipstream.picture", path], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    picture = path.read_text(encoding="utf-8")
    assert len(picture.encode()) < 200_000
    root = ElementTree.fromstring(picture)
    assert len(root.findall("{*}g[@class='frame']")) in range(4, SCREENS + 1)
    texts = {text.text for text in root.iter("{http://www.w3.org/2000/svg}text")}
    assert {"phone", "car", "hub", "report", "done"} <= texts | {word for text in texts for word in str(text).split()}
    assert {left.name for left in tmp_path.iterdir()} <= {"picture.svg", "run"}
