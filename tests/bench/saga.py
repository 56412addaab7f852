"""Our schedules beside those of SAGA (anrg-saga 2.0.2), on the same problems in the same run, problem by problem.

`python tests/bench/saga.py [--instances DIR] [--python build/saga/bin/python] [--budget-us 10000] [--json]`. SAGA's
licence forbids commercial use: it is a yardstick in an environment of its own, which a child process runs in, and
nothing of ours imports it. `heft_*`: HEFT alone on random problems, another one each time; ours from Python lists,
packing included, against the scheduler alone (`_ratio`) and with its objects built (`_built_ratio`). With a folder of
instances (slipstream-sched/1): our makespan with that budget over SAGA's best list schedule of each problem, and over
its HEFT. Every schedule is checked here, ours too; what breaks a rule does not count, and is counted.
"""

from __future__ import annotations

import argparse
import inspect
import json
import math
import os
import random
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import geometric_mean, median
from time import perf_counter
from typing import Any

from slipstream.core.problem import Problem, schedule
from slipstream.runtime_ext.scheduler import Packed

NAME = "saga"
HOW = "there is no SAGA here; make it: python3.11 -m venv build/saga && build/saga/bin/pip install anrg-saga==2.0.2"
LONG = 20.0
"""Seconds after which one of SAGA's algorithms is cut off, and not tried again on problems as large."""
NEAR = 1e-6
"""What counts as the same time, as a part of the makespan."""
SIZES = ((10, 10, 400, 30), (100, 10, 120, 15), (100, 100, 30, 3))
"""Steps, devices, how many problems ours is timed on in turn, and how many of them SAGA is."""


# ---- SAGA, in its own interpreter -------------------------------------------------------------------------------


def answer() -> None:
    """What the child runs, alone: a problem a line in; for each algorithm its time and schedule, a line out."""
    import json
    import logging
    import os
    import signal
    import sys
    import time

    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    logging.disable()

    import saga.schedulers as known
    from saga import Network, TaskGraph

    searching = {"BruteForceScheduler", "SMTScheduler", "HybridScheduler"}
    names = [name for name in known.__all__ if name not in searching]
    print(json.dumps(names), file=out, flush=True)

    class Long(BaseException):
        """It takes too long."""

    def cut(*_: object) -> None:
        raise Long

    signal.signal(signal.SIGALRM, cut)
    for line in sys.stdin:
        asked = json.loads(line)
        costs, speeds, links = asked["costs"], asked["speeds"], asked["links"]
        pairs = [(p, q) for q in range(len(speeds)) for p in range(q)]
        found = {}
        for name in asked["names"]:
            signal.setitimer(signal.ITIMER_REAL, asked["long"])
            try:
                begin = time.perf_counter()
                network = Network.create(
                    [(str(p), speed) for p, speed in enumerate(speeds)],
                    [(str(p), str(q), links[p][q]) for p, q in pairs],
                )
                graph = TaskGraph.create(
                    [(str(i), cost) for i, cost in enumerate(costs)],
                    [(str(i), str(j), size) for i, j, size in asked["deps"]],
                )
                built = time.perf_counter()
                made = getattr(known, name)().schedule(network, graph)
                end = time.perf_counter()
                signal.setitimer(signal.ITIMER_REAL, 0)
                steps = [
                    (int(step.name), int(p), step.start, step.end)
                    for p, row in made.mapping.items()
                    for step in row
                    if not step.name.startswith("__super")
                ]
                found[name] = {"s": end - built, "built_s": end - begin, "makespan": made.makespan, "steps": steps}
            except Long:
                found[name] = {"s": asked["long"], "failed": "long"}
            except Exception as error:
                found[name] = {"s": 0, "failed": repr(error)[:200]}
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
        print(json.dumps(found), file=out, flush=True)


class Peer:
    """SAGA as a child process; its ties follow the hash seed, which is set."""

    def __init__(self, child: subprocess.Popen[str]) -> None:
        self._child = child
        self.names: list[str] = self._read()
        self._too_large: dict[str, int] = {}

    def _read(self) -> Any:
        assert self._child.stdout is not None
        line = self._child.stdout.readline()
        if not line:
            raise EOFError("SAGA ended" if hasattr(self, "names") else HOW)
        return json.loads(line)

    def ask(self, data: dict[str, Any], names: list[str]) -> dict[str, Any]:
        """What each algorithm answers to a problem without extensions, but for those that take too long on the like."""
        assert self._child.stdin is not None
        costs, speeds = data["tasks"]["cost"], data["devices"]["speed"]
        large = len(costs) * len(speeds)
        names = [name for name in names if large < self._too_large.get(name, large + 1)]
        asked = {"names": names, "costs": costs, "speeds": speeds, "links": data["links"]["speed"],
                 "deps": data["deps"], "long": LONG}  # fmt: skip
        self._child.stdin.write(json.dumps(asked) + "\n")
        self._child.stdin.flush()
        found: dict[str, Any] = self._read()
        for name, one in found.items():
            if one.get("failed") == "long":
                self._too_large[name] = large
        return found


@contextmanager
def peer(python: str) -> Iterator[Peer]:
    """SAGA under that interpreter.

    Raises:
        EOFError: it is not there, or fails.
    """
    try:
        child = subprocess.Popen(
            [python, "-P", "-c", f"{inspect.getsource(answer)}\nanswer()"], text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            env={"PATH": os.defpath, "PYTHONHASHSEED": "0", "PYTHONWARNINGS": "ignore"},
        )  # fmt: skip
    except OSError:
        raise EOFError(HOW) from None
    with child:
        try:
            yield Peer(child)
        finally:
            child.kill()


# ---- problems and their judge -----------------------------------------------------------------------------------


def broken(data: dict[str, Any], steps: list[tuple[int, int, float, float]]) -> str | None:
    """What is wrong with a schedule of (step, device, start, end) for a problem without extensions."""
    costs, speeds, links = data["tasks"]["cost"], data["devices"]["speed"], data["links"]["speed"]
    if sorted(i for i, *_ in steps) != list(range(len(costs))):
        return "steps are missing, or there twice"
    near = NEAR * max(end for *_, end in steps)
    placed = {i: (p, start, end) for i, p, start, end in steps}
    for i, p, start, end in steps:
        if not (start >= -near and abs(end - start - costs[i] / speeds[p]) <= near):
            return f"step {i} has the wrong times"
    for i, j, size in data["deps"]:
        (p, _, end), (q, start, _) = placed[i], placed[j]
        if start < end + (size / links[p][q] if p != q else 0) - near:
            return f"step {j} starts before it has what {i} made"
    until: dict[int, float] = {}
    for _, p, start, end in sorted(steps, key=lambda step: (step[2], step[3])):
        if end - start > near:
            if start < until.get(p, 0.0) - near:
                return f"device {p} does two steps at once"
            until[p] = end
    return None


def plain(data: dict[str, Any]) -> bool:
    """Whether it has no extensions and all links, alike in both directions: all that SAGA knows."""
    speed = data["links"]["speed"]
    pairs = [(speed[p][q], speed[q][p]) for q in range(len(speed)) for p in range(q)]
    more = data["tasks"].get("time"), data["devices"].get("slots"), data["devices"].get("available")
    return not any((*more, data.get("exclusive"), data["links"].get("latency"))) and all(
        there is not None and there > 0 and there == back for there, back in pairs
    )


def random_problem(draw: random.Random, n: int, m: int) -> dict[str, Any]:
    """Steps with one to three inputs each, on unequal devices that all reach each other."""
    links: list[list[float | None]] = [[None] * m for _ in range(m)]
    for p in range(m):
        for q in range(p):
            links[p][q] = links[q][p] = draw.uniform(0.5, 5.0)
    return {
        "tasks": {"cost": [draw.uniform(0.1, 2.0) for _ in range(n)]},
        "deps": [
            (j, i, draw.uniform(0.1, 2.0))
            for i in range(1, n)
            for j in sorted(draw.sample(range(max(0, i - n // 3), i), min(i, draw.randint(1, 3), n // 3)))
        ],
        "devices": {"speed": [draw.uniform(0.5, 4.0) for _ in range(m)]},
        "links": {"speed": links},
    }


# ---- figures ----------------------------------------------------------------------------------------------------


def ours(problems: list[dict[str, Any]]) -> float:
    """The median over passes of what packing a problem and one HEFT pass take, in µs; another problem each time."""
    given = [(p["tasks"]["cost"], p["deps"], p["links"]["speed"], p["devices"]["speed"]) for p in problems]
    took = []
    for _ in range(5):
        begin = perf_counter()
        for costs, deps, links, speeds in given:
            Packed(costs, deps, links, speed=speeds).heft()
        took.append((perf_counter() - begin) / len(given))
    return median(took) * 1e6


def speed(saga: Peer) -> dict[str, float]:
    """HEFT against HEFT, in µs, and how much longer its schedules are than ours."""
    figures: dict[str, float] = {}
    saga.ask(random_problem(random.Random(0), 10, 4), ["HeftScheduler"])
    for n, m, count, asked in SIZES:
        draw = random.Random(1)
        problems = [random_problem(draw, n, m) for _ in range(count)]
        took, alone, built, lengths = [], [], [], []
        for problem in problems[:asked]:
            took.append(ours(problems))
            found = saga.ask(problem, ["HeftScheduler"])["HeftScheduler"]
            assert "failed" not in found, found
            assert not broken(problem, found["steps"])
            alone.append(found["s"] * 1e6)
            built.append(found["built_s"] * 1e6)
            packed = Packed(problem["tasks"]["cost"], problem["deps"], problem["links"]["speed"],
                            speed=problem["devices"]["speed"])  # fmt: skip
            lengths.append(packed.heft() / found["makespan"])
        name = f"heft_{n}x{m}"
        figures |= {
            f"{name}_us": median(took),
            f"{name}_saga_us": median(alone),
            f"{name}_ratio": median(a / t for a, t in zip(alone, took, strict=True)),
            f"{name}_built_ratio": median(b / t for b, t in zip(built, took, strict=True)),
            f"{name}_makespan_ratio": geometric_mean(lengths),
        }
    return figures


def quality(saga: Peer, folder: Path, budget_us: float) -> dict[str, float]:
    """Our makespan over SAGA's best and over its HEFT, by family and over all, and what of SAGA was left out.

    Raises:
        AssertionError: a schedule of ours breaks a rule.
    """
    problems = [(path, json.loads(path.read_text())) for path in folder.glob("*.json")]
    problems = [(path, data) for path, data in problems if data.get("tasks", {}).get("cost") and plain(data)]
    problems.sort(key=lambda known: (len(known[1]["tasks"]["cost"]) * len(known[1]["devices"]["speed"]), known[0].stem))
    best: dict[str, list[float]] = defaultdict(list)
    heft: dict[str, list[float]] = defaultdict(list)
    invalid: Counter[str] = Counter()
    failed: Counter[str] = Counter()
    wins: Counter[str] = Counter()
    slowest, valid = 0.0, 0
    for path, data in problems:
        problem = Problem.from_json(data)
        begin = perf_counter()
        found = schedule(problem, budget_us=budget_us)
        slowest = max(slowest, perf_counter() - begin)
        wrong = broken(data, list(zip(range(len(found.device)), found.device, found.start, found.end, strict=True)))
        assert wrong is None, f"{path.stem}: {wrong}"
        theirs: dict[str, float] = {}
        for name, one in saga.ask(data, saga.names).items():
            if "failed" in one:
                failed[name] += 1
            elif broken(data, one["steps"]):
                invalid[name] += 1
            else:
                theirs[name] = max(end for *_, end in one["steps"])
        if not theirs:
            continue
        valid += len(theirs)
        first = min(theirs, key=lambda name: theirs[name])
        wins.update(name for name, makespan in theirs.items() if makespan <= theirs[first] * (1 + NEAR))
        ratio = found.makespan / theirs[first] if theirs[first] else 1.0
        if ratio > 1 + NEAR:
            print(f"{path.stem}: {ratio:.4f} of {first}", file=sys.stderr)
        for family in (data.get("family", "none"), "all"):
            best[family].append(ratio)
            if theirs.get("HeftScheduler"):
                heft[family].append(found.makespan / theirs["HeftScheduler"])
    for what, counts in (("invalid", invalid), ("failed", failed), ("best", wins)):
        print(f"{what}: {', '.join(f'{name} {count}' for name, count in counts.most_common())}", file=sys.stderr)
    figures: dict[str, float] = {}
    for family, values in sorted(best.items()):
        figures |= {
            f"{family}_problems": len(values),
            f"{family}_mean_ratio": geometric_mean(values),
            f"{family}_worst_ratio": max(values),
            f"{family}_heft_mean_ratio": geometric_mean(heft[family]) if heft[family] else math.nan,
        }
    return figures | {
        "saga_valid": valid, "saga_invalid": invalid.total(), "saga_failed": failed.total(),
        "slowest_solve_us": slowest * 1e6,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--instances", type=Path, help="folder of problems; without it, only the speed")
    parser.add_argument("--python", default="build/saga/bin/python", help="an interpreter that has SAGA")
    parser.add_argument("--budget-us", type=float, default=10_000, help="for each schedule of ours")
    parser.add_argument("--json", action="store_true", help="one line of JSON")
    args = parser.parse_args()
    if args.instances and not args.instances.is_dir():
        parser.error(f"no folder {args.instances}")
    try:
        with peer(args.python) as saga:
            found = speed(saga)
            if args.instances:
                found |= quality(saga, args.instances, args.budget_us)
    except EOFError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    if args.json:
        print(json.dumps({"v": 1, "bench": NAME, "figures": found}))
        return
    for name, value in found.items():
        print(f"{name:28}{value:12.4g}")


if __name__ == "__main__":
    main()
