"""How quick a plan is assigned, and how short the schedules are: against proven lower bounds where a data folder is.

`python tests/bench/schedule.py [--data FOLDER] [--json]`; the folder holds `instances/*.json` (slipstream-sched/1),
`references.json` (bounds) and `validate.py` (the judge of every schedule).
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import random
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from statistics import geometric_mean, median
from time import perf_counter
from timeit import repeat
from typing import Any

from slipstream.core.costs import Costs
from slipstream.core.device import Device, LinkQuality, Offer
from slipstream.core.problem import Problem, schedule
from slipstream.core.scheduler import Job, assign

NAME = "schedule"
STEPS, DEVICES, OFFERS = 12, 4, 20


def p50(call: Callable[[], object]) -> float:
    """The median over batches of what one call takes, in µs."""
    return median(repeat(call, number=50, repeat=60)) / 50 * 1e6


def mesh(seed: int = 1) -> tuple[list[Job], list[Device], Costs, dict[tuple[str, str], LinkQuality]]:
    """Twelve steps of as many skills, with one to three inputs each, on four devices with twenty skills each."""
    draw = random.Random(seed)
    skills = [f"pack.skill{i}" for i in range(OFFERS)]
    devices, costs = [], Costs()
    for p, kind in enumerate(("phone", "car", "hub", "tablet")[:DEVICES]):
        offers = tuple(Offer(s, "0" * 16, "read", "cabin" if s.endswith("3") else None, 0.2) for s in skills)
        devices.append(Device(f"{p:052d}", f"{kind}-{p}", kind, offers=offers))
        for skill in skills:
            scale = draw.uniform(0.02, 1.0)
            for k in range(16):
                costs.saw(skill, devices[p].id, scale * draw.uniform(0.8, 1.2), draw.uniform(1e3, 1e6), float(k))
    links = {
        (a.id, b.id): LinkQuality(draw.uniform(0.002, 0.02), draw.uniform(1e6, 5e7)) for a in devices for b in devices
    }
    jobs = [
        Job(f"s{i}", skills[i], tuple(f"s{j}" for j in sorted(draw.sample(range(i), min(i, draw.randint(1, 3))))))
        for i in range(STEPS)
    ]
    return jobs, devices, costs, links


def speed() -> dict[str, float]:
    """The whole path by name, and the numbered problem alone, at 12 steps on 4 devices."""
    jobs, devices, costs, links = mesh()
    draw = random.Random(2)
    problem = Problem(
        [[draw.uniform(0.02, 1.0) for _ in range(DEVICES)] for _ in range(STEPS)],
        [(int(need[1:]), i, draw.uniform(1e3, 1e6)) for i, job in enumerate(jobs) for need in job.needs],
        [[draw.uniform(1e6, 5e7) for _ in range(DEVICES)] for _ in range(DEVICES)],
        [[0.005] * DEVICES] * DEVICES,
        [4] * DEVICES,
    )

    def link(p: str, q: str) -> LinkQuality | None:
        return links.get((p, q))

    return {
        "assign_12x4_us": p50(lambda: assign(jobs, devices, costs, link)),
        "solve_12x4_us": p50(lambda: schedule(problem)),
    }


def quality(folder: Path) -> dict[str, float]:
    """Makespan over proven lower bound, by family: geometric mean and worst; every schedule is judged by validate.py.

    Raises:
        AssertionError: a schedule breaks a rule, or its makespan is not what was said.
    """
    spec = importlib.util.spec_from_file_location("validate", folder / "validate.py")
    assert spec, folder
    assert spec.loader, folder
    judge = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(judge)
    bounds: dict[str, Any] = json.loads((folder / "references.json").read_text())
    ratios: dict[str, list[float]] = defaultdict(list)
    count, slowest = 0, 0.0
    for path in sorted((folder / "instances").glob("*.json")):
        data = json.loads(path.read_text())
        problem = Problem.from_json(data)
        begin = perf_counter()
        found = schedule(problem)
        slowest = max(slowest, perf_counter() - begin)
        makespan, broken = judge.check(data, found.device, found.start)
        assert not broken, f"{path.stem}: {broken[:3]}"
        assert abs(makespan - found.makespan) <= 1e-9 * makespan, f"{path.stem}: {makespan} is not {found.makespan}"
        count += 1
        lower = bounds.get(path.stem, {}).get("lower_bound", 0.0)
        if lower > 0:
            ratios[data["family"]].append(makespan / lower)
    figures: dict[str, float] = {"instances": count, "slowest_solve_us": slowest * 1e6}
    for family, values in sorted(ratios.items()):
        figures[f"{family}_mean_ratio"] = geometric_mean(values)
        figures[f"{family}_worst_ratio"] = max(values)
    return figures


def figures(args: argparse.Namespace) -> dict[str, float]:
    """All figures: µs, and ratios to the lower bound (1 is optimal). `args.data` is the folder, if there is one."""
    return speed() | ({} if args.data is None else quality(Path(args.data)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", help="folder of instances; without it, only the speed")
    parser.add_argument("--json", action="store_true", help="one line of JSON")
    args = parser.parse_args()
    if args.data and not Path(args.data).is_dir():
        parser.error(f"no folder {args.data}")
    found = figures(args)
    if args.json:
        print(json.dumps({"v": 1, "bench": NAME, "figures": found}))
        return
    for name, value in found.items():
        print(f"{name:24}{value:12.4g}")


if __name__ == "__main__":
    main()
