"""`slip new skill NAME`: a small package with one skill, its entry point and its test."""

from __future__ import annotations

import keyword
import re
from argparse import ArgumentParser, Namespace
from pathlib import Path
from string import Template

from ..core.errors import UsageError
from .output import show_json

_NAME = re.compile(r"[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)*")
_TAKEN = ("phone", "car", "hub", "llm", "slip")
"""Packs that come with Slipstream: they would be found first."""


def add(parser: ArgumentParser) -> None:
    """The arguments of `slip new`."""
    parser.add_argument("what", choices=["skill"], help="what to write")
    parser.add_argument("name", help="the skill's name, such as tea.brew")
    parser.add_argument("--dir", type=Path, metavar="FOLDER", help="the folder to make (default: slipstream-NAME)")


def main(args: Namespace) -> int:
    """Write the package.

    Raises:
        UsageError: the name will not do, or the folder is there already.
    """
    names = names_of(args.name)
    folder = args.dir or Path(names["project"])
    files = write(folder, names)
    if args.json:
        show_json({"skill": names["skill"], "folder": str(folder.resolve()), "files": files})
        return 0
    print(f"{folder}: the skill {names['skill']}, its entry point and its test")
    print(f"next:\n  cd {folder}\n  python -m pytest\n  slip dev {names['module']}.py")
    return 0


def names_of(name: str) -> dict[str, str]:
    """Everything that is called after the skill; a name without a dot becomes `NAME.greet`.

    Raises:
        UsageError: it is no name for a skill, or for the function behind it.
    """
    if not _NAME.fullmatch(name) or len(name) > 80:
        raise UsageError(f"{name[:80]!r} is no skill name", "it needs lower-case words, digits and _, joined by dots",
                         "name it like tea.brew", field="name")  # fmt: skip
    skill = name if "." in name else f"{name}.greet"
    pack, function = name.replace(".", "_"), skill.rpartition(".")[2]
    if name.partition(".")[0] == "slip" or pack in _TAKEN:
        raise UsageError(f"{name} is taken", "Slipstream uses that name itself", "name it like tea.brew", field="name")
    if keyword.iskeyword(function) or function == "pack":
        raise UsageError(f"{name} cannot be a function in Python", f"{function!r} means something there already",
                         f"try {skill}_it", field="name")  # fmt: skip
    project = f"slipstream-{pack.replace('_', '-')}".rstrip("-")
    return {"skill": skill, "pack": pack, "function": function, "project": project, "module": f"slipstream_{pack}",
            "test": f"test_{pack}"}  # fmt: skip


def write(folder: Path, names: dict[str, str]) -> list[str]:
    """Write the package into a new folder; the names of its files.

    Raises:
        UsageError: the folder is there already, or cannot be made.
    """
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        raise UsageError(f"{folder} is there already", "nothing in it was touched", "say --dir ANOTHER",
                         field="dir") from None  # fmt: skip
    except OSError as error:
        raise UsageError(f"{folder} cannot be made", str(error), "say --dir ANOTHER", field="dir") from None
    files = {
        "pyproject.toml": _PROJECT,
        f"{names['module']}.py": _MODULE,
        f"{names['test']}.py": _TEST,
        "README.md": _README,
    }
    for name, text in files.items():
        (folder / name).write_text(Template(text).substitute(names), encoding="utf-8")
    return list(files)


_PROJECT = """\
[build-system]
requires = ["setuptools>=80,<90"]
build-backend = "setuptools.build_meta"

[project]
name = "$project"
version = "0.1.0"
description = "The skill $skill, for Slipstream."
requires-python = ">=3.11"
dependencies = ["slipstream-mesh"]

[project.optional-dependencies]
test = ["pytest>=8.3", "trio>=0.30"]

[project.entry-points."slipstream.skills"]
$pack = "$module"

[tool.setuptools]
py-modules = ["$module"]

[tool.pytest.ini_options]
addopts = ["-q"]
pythonpath = ["."]
testpaths = ["$test.py"]
"""

_MODULE = '''\
"""The skill $skill: greets somebody, and says on which device that was."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, Field

from slipstream import Context, Cost, Effect, Pack, skill


class Greeting(BaseModel):
    """What was said, and where."""

    text: str
    device: str = Field(description="the device that said it")


@skill("$skill", effect=Effect.READ, cost=Cost(latency_ms=1), phrases=["greet {name}"])
async def $function(
    ctx: Context,
    name: Annotated[str, Field(min_length=1, max_length=100, description="whom to greet")],
) -> Greeting:
    """Greet somebody by name."""
    return Greeting(text=f"Hello, {name}!", device=ctx.device)


pack = Pack("$pack", ($function,))
'''

_TEST = '''\
"""The skill as a function, and called from another device: two devices in memory, on virtual time."""

from typing import Any

import pytest
from trio.testing import MockClock

from slipstream import Context, SlipError, testing
from $module import $function, pack

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "trio", {"clock": MockClock(autojump_threshold=0)}


async def test_the_function_itself_needs_no_mesh() -> None:
    assert (await $function(Context(), "Ada")).text == "Hello, Ada!"


async def test_another_device_calls_it() -> None:
    async with testing.mesh("laptop", "helper", packs={"helper": [pack]}) as m:
        greeting = await m.call("$skill", {"name": "Ada"}, of="laptop")
        assert greeting == {"text": "Hello, Ada!", "device": "helper"}


async def test_an_empty_name_is_refused() -> None:
    async with testing.mesh("laptop", "helper", packs={"helper": [pack]}) as m:
        with pytest.raises(SlipError, match="name"):
            await m.call("$skill", {"name": ""}, of="laptop")
'''

_README = """\
# $project

The skill `$skill` for Slipstream.

    python -m pip install -e '.[test]'     # in the environment that slip is in
    python -m pytest             # the function, and a call from another device
    slip dev $module.py          # try it on a simulated phone and car, read anew on every save
    slip call $skill name=Ada

The daemon finds it by the entry point in `pyproject.toml`: start it with `slip up --pack $pack`.
"""
