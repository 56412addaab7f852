"""How quick the scheduling core is, and how short its schedules: against proven optima where a folder has them.

`python tests/bench/schedule.py [--instances DIR [--budget-us N]] [--json]`. Without a folder: the speed. With one: each
problem of it (`*.json`, slipstream-sched/1) is packed and solved within the budget, judged, and compared with the
`references.json` beside or above it, if there is one.
"""

from __future__ import annotations

import argparse
import json
import random
from array import array
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from math import inf
from pathlib import Path
from statistics import geometric_mean, median
from time import perf_counter
from timeit import repeat
from typing import Any

from slipstream.core.costs import Costs
from slipstream.core.device import Device, LinkQuality, Offer
from slipstream.core.problem import Problem, schedule
from slipstream.core.scheduler import Job, assign
from slipstream.runtime_ext.scheduler import Packed, fleet

NAME = "schedule"
STEPS, DEVICES, OFFERS, PLANS = 12, 4, 20, 64
ROUNDS = 15
SIZES = ((10, 4), (10, 10), (100, 10), (100, 100), (1000, 100))
FLEET, CANDIDATES, FLEET_DEVICES = 100_000, 8, 10_000


# -- speed -------------------------------------------------------------------------------------------------------------


def mesh(seed: int) -> tuple[list[Job], list[Device], Costs, dict[tuple[str, str], LinkQuality]]:
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


def numbers(n: int, m: int, seed: int) -> dict[str, Any]:
    """A random problem: costs, speeds, links of unequal bandwidth, one to three inputs a step."""
    draw = random.Random(seed)
    return {
        "seconds": [draw.uniform(0.1, 2) for _ in range(n)],
        "deps": [(j, i, draw.uniform(0.1, 3)) for i in range(1, n)
                 for j in draw.sample(range(max(0, i - 12), i), min(i, draw.randint(1, 3)))],
        "bandwidth": [[draw.uniform(1, 20) for _ in range(m)] for _ in range(m)],
        "speed": [draw.uniform(0.5, 4) for _ in range(m)],
    }  # fmt: skip


def heft(problem: dict[str, Any]) -> None:
    """HEFT from Python's numbers."""
    Packed(**problem).heft()


def replan(problem: dict[str, Any], was: tuple[list[int], list[float]]) -> None:
    """From Python's numbers to a plan that can go on."""
    Packed(**problem).solve(1, incumbent=was)


def each(calls: Sequence[Callable[[], object]]) -> float:
    """The median over rounds of what one call takes, in µs, if they are made in turn."""
    rounds = []
    for _ in range(ROUNDS):
        began = perf_counter()
        for call in calls:
            call()
        rounds.append((perf_counter() - began) / len(calls) * 1e6)
    return median(rounds)


def speed() -> dict[str, float]:
    """HEFT alone (again and again, and other problems in turn), whole assignments, a replan, and many free steps."""
    figures: dict[str, float] = {}
    for n, m in SIZES:
        made = [numbers(n, m, seed) for seed in range(max(3, min(PLANS, 20_000 // (n * m))))]
        packed = [Packed(**problem) for problem in made]
        times = max(1, 100_000 // (n * m))
        hot = repeat(partial(packed[0].heft, times), number=1, repeat=ROUNDS)
        figures[f"heft_{n}x{m}_hot_us"] = median(hot) / times * 1e6
        figures[f"heft_{n}x{m}_cold_us"] = each([p.heft for p in packed])
        figures[f"heft_{n}x{m}_cold_with_packing_us"] = each([partial(heft, p) for p in made])
        figures[f"arena_{n}x{m}_mb"] = packed[0].memory / 1e6
    plans = []
    for seed in range(PLANS):
        jobs, devices, costs, links = mesh(seed)
        plans.append(partial(assign, jobs, devices, costs, lambda p, q, links=links: links.get((p, q)), work=0))
    figures[f"assign_{STEPS}x{DEVICES}_cold_us"] = each(plans)
    replans, alone = [], []
    for seed in range(PLANS):
        problem = numbers(100, 10, seed)
        device, start, *_ = Packed(**problem).solve()
        gone = device[0]
        rows = [
            [None if p == gone else cost / s for p, s in enumerate(problem["speed"])] for cost in problem["seconds"]
        ]
        left = problem | {"seconds": rows}
        was = [-1 if p == gone else p for p in device], start
        replans.append(partial(replan, left, was))
        alone.append(partial(Packed(**left).solve, 1, incumbent=was))
    figures["replan_100x10_us"], figures["replan_100x10_with_packing_us"] = each(alone), each(replans)
    draw = random.Random(1)
    candidates = array("i", [draw.randrange(FLEET_DEVICES) for _ in range(FLEET * CANDIDATES)])
    takes = array("d", [draw.uniform(0.1, 1) for _ in range(FLEET * CANDIDATES)])
    chosen, rates = array("i", [0] * FLEET), []
    for _ in range(ROUNDS):
        free_at = array("d", [0.0] * FLEET_DEVICES)
        began = perf_counter()
        fleet(candidates, takes, free_at, chosen)
        rates.append(FLEET / (perf_counter() - began))
    figures["fleet_million_per_s"] = median(rates) / 1e6
    figures["fleet_longest_to_mean"] = max(free_at) / (sum(free_at) / FLEET_DEVICES)
    return figures


# -- quality -----------------------------------------------------------------------------------------------------------


def judge(data: dict[str, Any], device: Sequence[int], start: Sequence[float]) -> float:
    """The makespan of a schedule, worked out from the document and nothing else.

    Raises:
        AssertionError: it breaks a rule of the format; the message says which.
    """
    tasks, devices, links = data["tasks"], data["devices"], data["links"]
    own = tasks.get("time") or [None] * len(device)
    took = [tasks["cost"][i] / devices["speed"][p] if own[i] is None else own[i][p] for i, p in enumerate(device)]
    assert None not in took, f"step {took.index(None)} cannot run there"
    end = [s + t for s, t in zip(start, took, strict=True)]
    near = 1e-6 * max(end, default=0.0)
    for i, p in enumerate(device):
        opens, closes = (devices.get("available") or {p: (0, None)})[p]
        assert start[i] >= opens - near, f"step {i} begins before its device is there"
        assert end[i] <= (inf if closes is None else closes) + near, f"step {i} ends after its device is gone"
    for i, j, size in data["deps"]:
        p, q = device[i], device[j]
        if p != q:
            rate = links["speed"][p][q]
            assert rate is not None, f"step {j} has no link to its input"
            assert rate > 0, f"step {j} has no link to its input"
        travel = 0.0 if p == q else (links.get("latency") or {p: {q: 0.0}})[p][q] + size / links["speed"][p][q]
        assert start[j] >= end[i] + travel - near, f"step {j} begins before the output of {i} is there"
    slots = devices.get("slots") or [1] * len(devices["speed"])
    crowds = [([i for i, at in enumerate(device) if at == p], slots[p], f"device {p}") for p in set(device)]
    crowds += [(group, 1, f"group {name}") for name, group in (data.get("exclusive") or {}).items()]
    for members, capacity, name in crowds:
        edges = sorted(
            edge for i in members if took[i] > 2 * near for edge in ((start[i] + near, 1), (end[i] - near, -1))
        )
        running = 0
        for _, step in edges:
            running += step
            assert running <= capacity, f"too much at once: {name}"
    return max(end, default=0.0)


def quality(folder: Path, budget_us: float) -> tuple[dict[str, float], dict[str, Any]]:
    """The figures of each family, and the schedule of each problem."""
    paths = (
        sorted(folder.glob("*.json"))
        if not (folder / "instances").is_dir()
        else sorted(folder.glob("instances/*.json"))
    )
    known = next((p for p in (folder / "references.json", folder.parent / "references.json") if p.exists()), None)
    bounds: dict[str, Any] = json.loads(known.read_text()) if known else {}
    ratios: dict[str, list[float]] = defaultdict(list)
    took: dict[str, list[float]] = defaultdict(list)
    shortest: dict[str, int] = defaultdict(int)
    schedules: dict[str, Any] = {}
    for path in paths:
        data = json.loads(path.read_text())
        if not str(data.get("format", "")).startswith("slipstream-sched/"):
            continue
        problem = Problem.from_json(data)
        began = perf_counter()
        found = schedule(problem, budget_us=budget_us)
        us = (perf_counter() - began) * 1e6
        makespan = judge(data, found.device, found.start)
        assert abs(makespan - found.makespan) <= 1e-9 * makespan, f"{path.stem}: {makespan} is not {found.makespan}"
        schedules[path.stem] = {"device": found.device, "start": found.start, "makespan": makespan, "us": us,
                                "bound": found.bound}  # fmt: skip
        family, reference = data.get("family", "none"), bounds.get(path.stem, {})
        took[family].append(us)
        shortest[family] += found.proven
        if reference.get("proven"):
            ratios[family].append(makespan / reference["upper_bound"])
            ratios["all"].append(makespan / reference["upper_bound"])
    figures: dict[str, float] = {"problems": len(schedules)}
    for family, values in sorted(took.items()):
        figures[f"{family}_us"] = median(values)
        figures[f"{family}_proven_shortest"] = shortest[family]
    for family, values in sorted(ratios.items()):
        figures[f"{family}_to_optimum_mean"], figures[f"{family}_to_optimum_worst"] = (
            geometric_mean(values),
            max(values),
        )
    return figures, schedules


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--instances", metavar="DIR", help="problems to solve; without it, only the speed")
    parser.add_argument("--budget-us", type=float, default=1000, metavar="N", help="for each problem (default 1000)")
    parser.add_argument("--json", action="store_true", help="one line of JSON, with the schedules")
    args = parser.parse_args()
    if args.instances and not Path(args.instances).is_dir():
        parser.error(f"no folder {args.instances}")
    if not args.budget_us >= 0:
        parser.error("--budget-us: at least 0")
    found, schedules = (speed(), {}) if args.instances is None else quality(Path(args.instances), args.budget_us)
    if args.json:
        print(json.dumps({"v": 1, "bench": NAME, "figures": found, "schedules": schedules}))
        return
    for name, one in schedules.items():
        print(f"{name:28} makespan {one['makespan']:10.5g}  bound {one['bound']:10.5g}  {one['us']:9.1f} µs")
    for name, value in found.items():
        print(f"{name:36}{value:12.4g}")


if __name__ == "__main__":
    main()
