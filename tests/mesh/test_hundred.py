"""Many devices whose links are cut and healed again and again: all agree on who is there, by the bench itself."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import anyio
import pytest
from trio.testing import MockClock

BENCH = runpy.run_path(str(Path(__file__).resolve().parents[1] / "bench" / "mesh.py"), run_name="bench_mesh")


def on_virtual_time(*args: Any) -> Any:
    return anyio.run(*args, backend="trio", backend_options={"clock": MockClock(autojump_threshold=0)})


@pytest.mark.parametrize("seed", [1, 2])
def test_all_agree_on_who_is_there_ten_seconds_after_links_were_cut_and_devices_crashed(seed: int) -> None:
    figures = on_virtual_time(BENCH["live"], 24, 240.0, seed, 20.0)
    assert figures["disagreed"] == 0
    assert figures["rounds"] >= 8
    assert figures["agree_after_s_max"] <= 10


async def who_disagrees(knows: bool) -> list[str]:
    """Who disagrees, 10 s after a silent cut around two devices, with a truth that `knows` of the cut or does not."""
    draw, names = BENCH["random"].Random(3), [f"device-{i}" for i in range(10)]
    async with BENCH["CountingNetwork"](3) as network, anyio.create_task_group() as group:
        mesh = BENCH["Mesh"](network, group, draw, names)
        for name in names:
            await mesh.start(name)
        await anyio.sleep(10)
        around = {edge for edge in mesh.edges if len({*edge} & {"device-0", "device-1"}) == 1}
        for edge in around:
            network.cut(*edge)
        await anyio.sleep(10)
        mesh.cut = around if knows else set()
        wrong: list[str] = mesh.disagree()
        group.cancel_scope.cancel()
    return wrong


def test_a_group_that_is_cut_off_sees_itself_only_and_a_truth_that_differs_is_noticed() -> None:
    assert on_virtual_time(who_disagrees, True) == []
    assert len(on_virtual_time(who_disagrees, False)) == 10


def test_the_graph_of_the_bench_is_in_one_piece_and_gives_everybody_about_eight_neighbours() -> None:
    names = [f"device-{i}" for i in range(100)]
    edges = BENCH["edges_of"](BENCH["random"].Random(5), names)
    degrees = [sum(name in edge for edge in edges) for name in names]
    assert max(degrees) == 8
    assert sum(degrees) / len(names) > 7
    assert len({frozenset(edge) for edge in edges}) == len(edges)
