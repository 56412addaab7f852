"""The example that thinks: it runs over two devices, with a model of random weights that is made on the spot."""

from __future__ import annotations

import json
import runpy
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("regex", reason="the extra `llm` is not installed: no regex")
pytest.importorskip("jinja2", reason="the extra `llm` is not installed: no jinja2")
pytest.importorskip("llguidance", reason="the extra `llm` is not installed: no llguidance")

from slipstream import testing
from slipstream.skills import load
from slipstream.skills.packs.llm import pack

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "replies"

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"  # a model thinks in threads: they are real, so is time


async def test_a_message_is_sorted_and_answered_by_the_model_of_another_device(tmp_path: Path) -> None:
    model = tmp_path / "model.gguf"
    runpy.run_path(str(ROOT / "tests" / "models" / "make_gguf.py"))["make"](model)
    thinks = replace(pack, open=lambda _: pack.open({"models": [model], "threads": 1}))
    phone = load(["phone", str(EXAMPLE / "replies.py")])
    async with testing.mesh("phone", "car", packs={"phone": phone, "car": [thinks]}) as m:
        run = await m.run(json.loads((EXAMPLE / "plan.json").read_text(encoding="utf-8")))
        assert run.state == "done", run.error
        assert {step: state.device for step, state in run.steps.items()} == {
            "sorted": "phone", "draft": "car", "shown": "phone",
        }  # fmt: skip
        assert run.output["sorted"]["wants"] in ("an answer", "a call", "nothing")
        assert run.output["draft"] == run.steps["draft"].value["result"][0]["text"] != ""
