"""`slip new skill`: what it writes works as it is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from argparse import Namespace
from pathlib import Path

import pytest

from slipstream.cli import new
from slipstream.cli.parsing import Parser
from slipstream.core.errors import UsageError
from slipstream.skills import load_file


def arguments(*words: str) -> Namespace:
    parser = Parser("slip new", "")
    new.add(parser)
    parser.add_common()
    return parser.parse_args(words)


@pytest.mark.parametrize(
    ("name", "skill", "project", "module"),
    [
        ("tea", "tea.greet", "slipstream-tea", "slipstream_tea"),
        ("tea.brew", "tea.brew", "slipstream-tea-brew", "slipstream_tea_brew"),
        ("house.tea_pot.fill", "house.tea_pot.fill", "slipstream-house-tea-pot-fill", "slipstream_house_tea_pot_fill"),
    ],
)
def test_everything_is_called_after_the_skill(name: str, skill: str, project: str, module: str) -> None:
    names = new.names_of(name)
    assert (names["skill"], names["project"], names["module"]) == (skill, project, module)


@pytest.mark.parametrize(
    "name",
    ["", "Tea", "tea brew", "tea-brew", "9lives", "tea.", ".tea", "../tea", "tea.import", "phone", "slip.up", "x" * 81],
)
def test_a_bad_name_is_refused_with_a_hint_and_nothing_is_written(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError) as found:
        new.main(arguments("skill", name))
    assert found.value.hint
    assert found.value.where == {"field": "name"}
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_exists_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep me")
    with pytest.raises(UsageError, match="is there already"):
        new.main(arguments("skill", "tea.brew", "--dir", str(tmp_path)))
    assert [entry.name for entry in tmp_path.iterdir()] == ["mine.txt"]


def test_the_package_passes_its_own_test_and_loads_as_a_pack(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "made"
    assert new.main(arguments("skill", "tea.brew", "--dir", str(folder), "--json")) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["v"] == 1
    assert sorted(told["files"]) == sorted(entry.name for entry in folder.iterdir())
    project = tomllib.loads((folder / "pyproject.toml").read_text())
    assert project["project"]["entry-points"]["slipstream.skills"] == {"tea_brew": "slipstream_tea_brew"}
    pack = load_file(folder / "slipstream_tea_brew.py")
    assert pack.name == "tea_brew"
    done = subprocess.run([sys.executable, "-m", "pytest", "-p", "no:cacheprovider"], cwd=folder, text=True,
                          capture_output=True, env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"})  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 passed" in done.stdout
