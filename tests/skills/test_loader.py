"""Finding packs: built in, by entry point, or as a file; and what is said when that fails."""

import importlib.metadata
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from slipstream import skills
from slipstream.core.errors import UsageError
from slipstream.core.skill import Context, spec_of
from slipstream.skills import available, load

EXAMPLE = Path(__file__).parents[2] / "examples" / "third_party"
HEAD = "from slipstream.core.skill import Context, Effect, Pack, skill\n"
SKILL = (
    HEAD
    + '''
@skill("tea.make", effect=Effect.READ)
async def make(ctx: Context) -> str:
    """Make tea."""
    return "green"
'''
)


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that is on the path like site-packages; `install` puts distributions there."""
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


def install(where: Path, dist: str, points: dict[str, str], **modules: str) -> None:
    info = where / f"{dist}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {dist}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[slipstream.skills]\n" + "".join(f"{name} = {value}\n" for name, value in points.items())
    )
    for name, source in modules.items():
        (where / f"{name}.py").write_text(source)


def test_built_in_packs_are_found_without_scanning_what_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def scan(**_: object) -> None:
        raise AssertionError("the installed distributions were scanned")

    monkeypatch.setattr(importlib.metadata, "entry_points", scan)
    assert [pack.name for pack in load(["hub", "phone", "hub"])] == ["hub", "phone"]
    with pytest.raises(AssertionError, match="were scanned"):
        load(["somebody elses"])


def test_loading_the_phone_brings_in_neither_the_hub_nor_the_monitor() -> None:
    code = (
        "import sys; from slipstream.skills import load; load(['phone']);"
        "heavy = {'textual', 'mcp', 'grpc', 'numpy', 'msgpack', 'zeroconf'};"
        "print(sorted({m.split('.')[0] for m in sys.modules} & heavy),"
        "[m for m in sys.modules if m.startswith('slipstream.skills.packs.hub')])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[] []"


@pytest.mark.parametrize("name", ["phone", "hub"])
def test_a_built_in_pack_has_sound_skills_with_a_cost_and_at_least_one_phrase(name: str) -> None:
    (pack,) = load([name])
    assert pack.simulated
    specs = [spec_of(fn) for fn in pack.skills]
    assert len({spec.name for spec in specs}) == len(specs)
    assert all(spec.cost.latency_ms > 0 for spec in specs)
    assert [spec.name for spec in specs if not spec.phrases] == ["summary.text"]  # its facts come from a plan


def test_an_installed_pack_is_found_by_the_name_of_its_entry_point(installed: Path) -> None:
    install(installed, "tea", {"tea": "tea_pack", "strong-tea": "tea_pack:strong.pack"},
            tea_pack=SKILL + 'pack = Pack("tea", (make,))\nclass strong: pack = Pack("strong", (make,))\n')  # fmt: skip
    assert [pack.name for pack in load(["tea", "strong-tea"])] == ["tea", "strong"]
    assert {"phone", "hub", "tea", "strong-tea"} <= set(available())
    assert available() == sorted(set(available()))


def test_the_example_of_a_third_party_is_found_once_it_is_installed(
    installed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    declared = (EXAMPLE / "pyproject.toml").read_text()
    assert 'parking = "slipstream_parking"' in declared
    monkeypatch.syspath_prepend(str(EXAMPLE))
    install(installed, "slipstream_parking", {"parking": "slipstream_parking"})
    (pack,) = load(["parking"])
    assert [spec_of(fn).name for fn in pack.skills] == ["parking.remember", "parking.find"]


def test_the_example_of_a_third_party_passes_its_own_test() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider"],
        cwd=EXAMPLE, env={"PYTHONPATH": str(EXAMPLE), "PYTHONDONTWRITEBYTECODE": "1"}, capture_output=True, text=True,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr
    assert "3 passed" in run.stdout


def test_a_file_without_a_pack_offers_the_skills_that_it_defines_and_not_those_that_it_imports(tmp_path: Path) -> None:
    file = tmp_path / "tea.py"
    file.write_text("from slipstream.skills.packs.common import weather_at\n" + SKILL)
    (pack,) = load([str(file)])
    assert (pack.name, [spec_of(fn).name for fn in pack.skills]) == ("tea", ["tea.make"])
    assert not list(tmp_path.glob("__pycache__"))


def test_a_file_with_a_pack_is_that_pack() -> None:
    (pack,) = load([str(EXAMPLE / "slipstream_parking.py")])
    assert pack.name == "parking"


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["trio"])
async def test_a_file_saved_again_at_once_is_read_anew_and_what_still_runs_keeps_its_module(tmp_path: Path) -> None:
    file = tmp_path / "matcha.py"
    file.write_text(SKILL)
    (before,) = load([str(file)])
    file.write_text(SKILL.replace("green", "black"))  # the same size, within the same second
    (after,) = load([str(file)])
    assert [await pack.skills[0](Context()) for pack in (before, after)] == ["green", "black"]
    assert [name for name in sys.modules if name.endswith("_matcha")] == [after.skills[0].__module__]


def test_a_failed_reload_leaves_the_last_good_module_in_place(tmp_path: Path) -> None:
    file = tmp_path / "coffee.py"
    file.write_text(SKILL)
    (before,) = load([str(file)])
    file.write_text(SKILL + "oops(\n")
    with pytest.raises(UsageError):
        load([str(file)])
    assert [name for name in sys.modules if name.endswith("_coffee")] == [before.skills[0].__module__]


@pytest.mark.parametrize(
    ("source", "why", "line"),
    [
        ("import nothing_of_that_name\n", "ModuleNotFoundError: No module named 'nothing_of_that_name'", 1),
        ("x = 1\nraise RuntimeError('no kettle')\n", "RuntimeError: no kettle", 2),
        ("x = (\n", "SyntaxError", 1),
        ("import sys\n\nsys.exit(3)\n", "SystemExit: 3", 3),
        (SKILL.replace("tea.make", "Tea!"), "UsageError: 'Tea!' is no skill name", 3),
        (SKILL.replace('    """Make tea."""\n', ""), "UsageError: tea.make has no docstring", 3),
    ],
)
def test_a_pack_that_cannot_be_imported_says_which_exception_and_where(
    installed: Path, source: str, why: str, line: int
) -> None:
    name = f"broken_{abs(hash(source))}"
    install(installed, "broken", {"broken": name}, **{name: source})
    for asked in ("broken", str(installed / f"{name}.py")):
        with pytest.raises(UsageError, match="cannot be imported") as error:
            load([asked])
        assert error.value.why.startswith(why)
        assert error.value.why.endswith(f"({installed / name}.py:{line})")


def test_an_entry_point_that_leads_nowhere_says_what_is_missing(installed: Path) -> None:
    install(installed, "ghost", {"ghost": "ghost_pack.deep"})
    with pytest.raises(UsageError, match="ghost cannot be imported") as error:
        load(["ghost"])
    assert error.value.why == "ModuleNotFoundError: No module named 'ghost_pack'"


@pytest.mark.parametrize(
    ("point", "why"),
    [
        ("plain_pack", "it is a dict"),
        ("plain_pack:make", "it is a function"),
        ("plain_pack:gone.pack", "there is nothing"),
    ],
)
def test_an_entry_point_that_is_no_pack_is_refused_with_what_it_is(installed: Path, point: str, why: str) -> None:
    install(installed, "plain", {"plain": point}, plain_pack=SKILL + "pack = {}\n")
    with pytest.raises(UsageError, match="has no Pack") as error:
        load(["plain"])
    assert (error.value.why, point in error.value.what) == (why, True)


def test_an_unknown_pack_names_the_nearest_and_what_there_is() -> None:
    with pytest.raises(UsageError, match="unknown pack 'fone'") as error:
        load(["fone"])
    assert "hub" in error.value.why
    assert "phone" in error.value.why
    assert error.value.hint == "did you mean phone?"


def test_two_packs_of_one_name_are_refused_with_both_owners(installed: Path) -> None:
    install(installed, "green", {"drinks": "green_tea"})
    install(installed, "black", {"drinks": "black_tea"})
    with pytest.raises(UsageError, match="two packs") as error:
        load(["drinks"])
    assert error.value.why == "they come from black, green"


def test_a_file_that_is_not_there_or_has_no_skill_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot read"):
        load([str(tmp_path / "gone.py")])
    (tmp_path / "empty.py").write_text("x = 1\n")
    with pytest.raises(UsageError, match="no skill in"):
        load([str(tmp_path / "empty.py")])


def test_what_is_built_in_is_what_is_declared() -> None:
    declared = importlib.metadata.entry_points(group=skills.GROUP)
    assert set(skills._built_in()) <= {point.name for point in declared}
