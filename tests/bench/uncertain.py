"""What a plan is worth when its steps take longer or shorter than was thought: makespan over that of HEFT, kept.

`python tests/bench/uncertain.py [--plans 60] [--draws 20] [--seed 1] [--everywhere] [--instances DIR] [--json]`.
Random phone-car plans, or the families slip, rand and riot of a folder of instances (slipstream-sched/1). True
durations are log-normal with the known mean, drawn for each step on each device, and the same for every policy. A step
begins when its inputs are there and its device is free, in the planned order of that device. When one ends, a policy
may plan anew what has not begun; an input for a step that is moved is sent only then, or, with `--everywhere`, was sent
to all devices when it was made, as the core takes for granted. `_ratio`: geometric mean over plans and draws, which
depends on how far HEFT is off on such plans; `_over_kept`: the same over our first plan, kept; `_error`,
`_over_kept_error`: their standard errors, by plans; `_replans`, `_moves`: how often was planned anew, and how many
steps went elsewhere, a run; `_replan_us`: the median time, packing included.
"""

from __future__ import annotations

import argparse
import json
import math
import random
from bisect import insort
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist, fmean, median, stdev
from time import perf_counter

from slipstream.core.problem import Problem
from slipstream.runtime_ext.scheduler import Packed

NAME = "uncertain"
SIGMA = 0.5
"""Of the logarithm of a duration over its mean."""
FIRST = 30_000
"""Units of work for the first plan of every policy but HEFT's."""
FAMILIES = ("slip", "rand", "riot")
NEVER = math.inf

Fixed = dict[int, tuple[int, float, float]]
Plan = tuple[list[int], list[float]]


@dataclass(frozen=True)
class Policy:
    """How the first plan is made, and what is done when a step ends."""

    name: str
    search: bool = True
    """Whether it is ours, or HEFT."""
    replan: bool = True
    work: int = 0
    """Units of work for a replan."""
    keep: bool = True
    """Whether what runs stays unless something beats it, by the part `margin`."""
    margin: float = 0.0
    scale: float = 1.0
    """What is planned on, over the mean."""
    off: float = 0.0
    """Replan only when a step took that part more or less than its mean."""
    watch: bool = False
    """Whether one that still runs after that also counts."""
    learn: bool = False
    """Whether what still runs after so long is expected to go on for as long as such steps do."""


P75 = math.exp(SIGMA * NormalDist().inv_cdf(0.75) - SIGMA**2 / 2)
"""The 75th percentile of a duration over its mean."""
POLICIES = (
    Policy("heft_replanned", search=False),
    Policy("ours_kept", replan=False),
    Policy("ours_scratch", work=3000, keep=False),
    Policy("ours_0"),
    Policy("ours_300", work=300),
    Policy("ours_3000", work=3000),
    Policy("ours_10000", work=10_000),
    Policy("ours_3000_m2", work=3000, margin=0.02),
    Policy("ours_10000_m2", work=10_000, margin=0.02),
    Policy("ours_3000_m5", work=3000, margin=0.05),
    Policy("ours_3000_m2_off20", work=3000, margin=0.02, off=0.2),
    Policy("ours_3000_m2_p75", work=3000, margin=0.02, scale=P75),
    Policy("ours_3000_m2_watch", work=3000, margin=0.02, off=0.2, watch=True, learn=True),
    Policy("ours_3000_m2_learn", work=3000, margin=0.02, learn=True),
)


# ---- problems ---------------------------------------------------------------------------------------------------


class Case:
    """A plan on its devices: mean durations, what goes where, and how long that takes."""

    def __init__(
        self, seconds: list[list[float]], deps: list[tuple[int, int, float]], rates: list[list[float]]
    ) -> None:
        self.seconds, self.deps, self.rates = seconds, deps, rates
        self.n, self.m = len(seconds), len(rates)
        self.needs: list[list[tuple[int, float]]] = [[] for _ in seconds]
        self.feeds: list[list[tuple[int, float]]] = [[] for _ in seconds]
        for i, j, size in deps:
            self.needs[j].append((i, size))
            self.feeds[i].append((j, size))
        self.order: list[int] = []
        waiting = [len(needs) for needs in self.needs]
        ready = [i for i, count in enumerate(waiting) if not count]
        while ready:
            self.order.append(i := ready.pop())
            for j, _ in self.feeds[i]:
                waiting[j] -= 1
                if not waiting[j]:
                    ready.append(j)
        self.place = {i: x for x, i in enumerate(self.order)}
        apart = [1 / rates[p][q] for p in range(self.m) for q in range(self.m) if p != q]
        self.ranks = [0.0] * self.n
        for i in reversed(self.order):
            after = max((self.ranks[j] + size * fmean(apart or [0.0]) for j, size in self.feeds[i]), default=0.0)
            self.ranks[i] = fmean(seconds[i]) + after

    def comm(self, size: float, p: int, q: int) -> float:
        """How long it takes to send that."""
        return 0.0 if p == q else size / self.rates[p][q]

    def truth(self, draw: random.Random) -> list[list[float]]:
        """Durations as they turn out."""
        return [[t * math.exp(draw.gauss(-(SIGMA**2) / 2, SIGMA)) for t in row] for row in self.seconds]

    def heft(self, fixed: Fixed) -> Plan:
        """The earliest end for one step after the other by mean rank, gaps included, from now on."""
        device, start, end = [0] * self.n, [0.0] * self.n, [0.0] * self.n
        busy: list[list[tuple[float, float]]] = [[] for _ in range(self.m)]
        for i, (p, begin, until) in fixed.items():
            device[i], start[i], end[i] = p, begin, until
            insort(busy[p], (begin, until))
        for i in sorted(self.order, key=lambda i: (-self.ranks[i], self.place[i])):
            if i in fixed:
                continue
            best = NEVER
            for p in range(self.m):
                at = max((end[j] + self.comm(size, device[j], p) for j, size in self.needs[i]), default=0.0)
                at = max(at, 0.0)
                for begin, until in busy[p]:
                    if at + self.seconds[i][p] <= begin:
                        break
                    at = max(at, until)
                if at + self.seconds[i][p] < best:
                    best = at + self.seconds[i][p]
                    device[i], start[i], end[i] = p, at, best
            insort(busy[device[i]], (start[i], end[i]))
        return device, start

    def search(self, policy: Policy, work: int, fixed: Fixed, now: Plan | None = None) -> Plan:
        """Our schedule from now on."""
        seconds = self.seconds
        if policy.scale != 1:
            seconds = [[t * policy.scale for t in row] for row in seconds]
        packed = Packed(seconds, self.deps, self.rates, fixed=fixed)
        device, start, *_ = packed.solve(work, incumbent=now, margin=policy.margin if now else 0)
        return device, start


SPEEDS = {"phone": (0.4, 1.8), "car": (1.8, 4.7), "watch": (0.08, 0.18), "hub": (1.0, 2.4), "tablet": (0.9, 2.2),
          "cloud": (6.0, 15.0)}  # fmt: skip
SLOW = {"watch": (0.03, 0.3), "cloud": (0.7, 8.0)}
"""Rates of the links of such a device; of the others, one in five is slow."""


def random_case(draw: random.Random) -> Case:
    """A plan of 10 to 25 steps that part and join, on a phone, a car, and up to four devices more."""
    kinds = ["phone", "car", *draw.choices(list(SPEEDS), weights=(1, 1, 1, 2, 2, 3), k=draw.randint(1, 4))]
    speeds = [draw.uniform(*SPEEDS[kind]) for kind in kinds]
    m, n = len(kinds), draw.randint(10, 25)
    rates = [[1.0] * m for _ in range(m)]
    for p in range(m):
        for q in range(p):
            low, high = min((SLOW[k] for k in (kinds[p], kinds[q]) if k in SLOW), default=(6.0, 100.0))
            if high == 100 and draw.random() < 0.2:
                low, high = 0.3, 4.0
            rates[p][q] = rates[q][p] = math.exp(draw.uniform(math.log(low), math.log(high)))
    data = draw.choice((1.0, 1.0, 12.0))
    layers: list[list[int]] = []
    deps = []
    i = 0
    while i < n:
        width = min(n - i, draw.choice((1, 1, 2, 3, 4, 5)))
        for step in range(i, i + width):
            near = [j for layer in layers[-2:] for j in layer]
            some = draw.sample(near, min(len(near), draw.choice((1, 1, 2, 3)))) if near else []
            deps += [(j, step, data * math.exp(draw.gauss(-1.2, 1.6))) for j in sorted(some)]
        layers.append(list(range(i, i + width)))
        i += width
    costs = [min(math.exp(draw.gauss(-0.7, 1.0)), 5.0) for _ in range(n)]
    return Case([[cost / speed for speed in speeds] for cost in costs], deps, rates)


def cases(folder: Path | None, count: int, draw: random.Random) -> Iterator[Case]:
    """That many random plans, or those of a folder."""
    if folder is None:
        for _ in range(count):
            yield random_case(draw)
        return
    for path in sorted(folder.glob("*.json")):
        data = json.loads(path.read_text())
        if data.get("family") in FAMILIES:
            problem = Problem.from_json(data)
            rates = [[rate or 1.0 for rate in row] for row in problem.bandwidth]
            seconds = [[cost / speed for speed in problem.speed] for cost in data["tasks"]["cost"]]
            yield Case(seconds, list(problem.deps), rates)


# ---- what comes of it -------------------------------------------------------------------------------------------


def expected(mean: float, ran: float) -> float:
    """The mean of those durations of such a step that are longer than it ran already."""
    if ran <= 0:
        return mean
    normal, x = NormalDist(), math.log(ran / mean) / SIGMA
    left = normal.cdf(-x - SIGMA / 2)
    return mean * normal.cdf(SIGMA / 2 - x) / left if left > 1e-9 else ran


class Simulation:
    """One plan, as its steps turn out, under one policy."""

    def __init__(self, case: Case, truth: list[list[float]], policy: Policy, plan: Plan, everywhere: bool) -> None:
        self.case, self.truth, self.policy, self.everywhere = case, truth, policy, everywhere
        self.now = 0.0
        self.began: dict[int, float] = {}
        self.ended: dict[int, float] = {}
        self.running: dict[int, int] = {}
        self.sent: dict[tuple[int, int, int], float] = {}
        self.alarms: dict[int, float] = {}
        self.took: list[float] = []
        self.moves = 0
        self.take(plan)

    def take(self, plan: Plan) -> None:
        """Go on by that plan."""
        self.device, self.start = list(plan[0]), list(plan[1])
        left = [i for i in range(self.case.n) if i not in self.began]
        self.queues: list[list[int]] = [[] for _ in range(self.case.m)]
        for i in sorted(left, key=lambda i: (self.start[i], self.case.place[i]), reverse=True):
            self.queues[self.device[i]].append(i)
        self.send()

    def send(self) -> None:
        """Results go where they are needed, as soon as both are known."""
        for i, j, size in self.case.deps:
            if i in self.ended and j not in self.began:
                key = i, j, self.device[j]
                if key not in self.sent:
                    at = self.ended[i] if self.everywhere else self.now
                    self.sent[key] = at + self.case.comm(size, self.device[i], self.device[j])

    def makespan(self) -> float:
        """When the last step ended."""
        case, policy = self.case, self.policy
        while len(self.ended) < case.n:
            begin, finish, alarm = (NEVER, -1), (NEVER, -1), (NEVER, -1)
            for p, queue in enumerate(self.queues):
                if p in self.running or not queue:
                    continue
                i = queue[-1]
                if all(j in self.ended for j, _ in case.needs[i]):
                    begin = min(begin, (max([self.now, *(self.sent[j, i, p] for j, _ in case.needs[i])]), i))
            for p, i in self.running.items():
                finish = min(finish, (self.began[i] + self.truth[i][p], i))
                alarm = min(alarm, (self.alarms.get(i, NEVER), i))
            self.now, i = min(begin, finish, alarm, key=lambda event: event[0])
            assert i >= 0, "no step can go on"
            p = self.device[i]
            if self.now == finish[0]:
                p, i = self.device[finish[1]], finish[1]
                self.ended[i] = self.now
                del self.running[p]
                self.send()
                mean = case.seconds[i][p]
                if policy.replan and abs(self.truth[i][p] - mean) >= policy.off * mean:
                    self.replan()
            elif self.now == alarm[0]:
                del self.alarms[alarm[1]]
                self.replan()
            else:
                self.queues[p].pop()
                self.began[i] = self.now
                self.running[p] = i
                if policy.watch:
                    self.alarms[i] = self.now + case.seconds[i][p] * (1 + policy.off)
        return self.now

    def replan(self) -> None:
        """Plan what has not begun."""
        case, policy, now = self.case, self.policy, self.now
        if len(self.began) == case.n:
            return
        fixed = {}
        for i, begin in self.began.items():
            p = self.device[i]
            mean = case.seconds[i][p]
            until = begin + (expected(mean, now - begin) if policy.learn else mean * policy.scale)
            fixed[i] = (p, begin - now, self.ended.get(i, max(until, now)) - now)
        clock = perf_counter()
        if policy.search:
            plan = (self.device, [start - now for start in self.start]) if policy.keep else None
            device, start = case.search(policy, policy.work, fixed, plan)
        else:
            device, start = case.heft(fixed)
        self.took.append(perf_counter() - clock)
        self.moves += sum(p != q for p, q in zip(device, self.device, strict=True))
        self.take((device, [at + now for at in start]))


Rows = dict[str, dict[str, float]]


def measure(found: Iterator[Case], draws: int, draw: random.Random, everywhere: bool) -> Rows:
    """For each policy, and for a plan made in hindsight, its figures."""
    logs: dict[str, list[float]] = defaultdict(list)
    runs: dict[str, list[Simulation]] = defaultdict(list)
    static, kept = Policy("heft", search=False, replan=False), Policy("hindsight", replan=False)
    for case in found:
        heft = case.heft({})
        firsts = {p.name: case.search(p, FIRST, {}) if p.search else heft for p in POLICIES}
        ours: dict[str, list[float]] = defaultdict(list)
        for _ in range(draws):
            truth = case.truth(draw)
            base = Simulation(case, truth, static, heft, everywhere).makespan()
            known = Case(truth, case.deps, case.rates).search(kept, FIRST, {})
            for policy in (*POLICIES, kept):
                run = Simulation(case, truth, policy, firsts.get(policy.name, known), everywhere)
                ours[policy.name].append(math.log(run.makespan() / base))
                runs[policy.name].append(run)
        for name, values in ours.items():
            logs[name].append(fmean(values))
    rows: Rows = {}
    for name, values in logs.items():
        over = [a - b for a, b in zip(values, logs["ours_kept"], strict=True)]
        rows[name] = {}
        for key, error, part in (("ratio", "error", values), ("over_kept", "over_kept_error", over)):
            rows[name][key] = ratio = math.exp(fmean(part))
            rows[name][error] = ratio * stdev(part) / len(part) ** 0.5 if len(part) > 1 else 0.0
        took = [seconds for run in runs[name] for seconds in run.took]
        rows[name]["replans"] = len(took) / len(runs[name])
        rows[name]["moves"] = fmean(run.moves for run in runs[name])
        rows[name]["replan_us"] = median(took) * 1e6 if took else 0.0
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--instances", type=Path, help="folder of problems, instead of random plans")
    parser.add_argument("--plans", type=int, default=60, help="how many random plans")
    parser.add_argument("--draws", type=int, default=20, help="how often the durations of each are drawn")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--everywhere", action="store_true", help="moving a step costs no new transfer")
    parser.add_argument("--json", action="store_true", help="one line of JSON")
    args = parser.parse_args()
    if args.instances and not args.instances.is_dir():
        parser.error(f"no folder {args.instances}")
    if args.plans < 1 or args.draws < 1:
        parser.error("at least one plan and one draw are needed")
    found = cases(args.instances, args.plans, random.Random(args.seed))
    rows = measure(found, args.draws, random.Random(f"durations {args.seed}"), args.everywhere)
    if not rows:
        parser.error(f"no plan of {', '.join(FAMILIES)} is in {args.instances}")
    if args.json:
        figures = {f"{name}_{key}": value for name, row in rows.items() for key, value in row.items()}
        print(json.dumps({"v": 1, "bench": NAME, "figures": figures}))
        return
    print(f"{'':20}{'ratio':>8}{'error':>8}{'over kept':>11}{'error':>8}{'replans':>9}{'moves':>7}{'µs':>8}")
    for name, row in rows.items():
        print(f"{name:20}{row['ratio']:8.4f}{row['error']:8.4f}{row['over_kept']:11.4f}{row['over_kept_error']:8.4f}"
              f"{row['replans']:9.1f}{row['moves']:7.1f}{row['replan_us']:8.0f}")  # fmt: skip


if __name__ == "__main__":
    main()
