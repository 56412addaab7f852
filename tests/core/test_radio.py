"""Radios as timelines: an independent checker of the model, hypothesis over every extension, every order of few.

The model: a transfer of `size` from p to q holds the radios of p and q, where they have one, for size / bandwidth; what
holds one does not overlap with what holds the same, and none begins before its producer's end or before 0. The latency
comes after and holds nothing. A transfer may serve several readers on a device, if it carries as much as each wants.
"""

from dataclasses import replace
from itertools import pairwise
from math import inf

from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st

from slipstream.core.errors import NoDevice
from slipstream.core.problem import Problem, Schedule, schedule

EPS = 1e-9
unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

# ---- the independent checker


def on_air(p: Problem, s: Schedule) -> list[str]:
    """What is wrong with the transfers."""
    held: list[set[tuple[float, float, int, int]]] = [set() for _ in p.bandwidth]
    wanted = {k for k, (i, j, _) in enumerate(p.deps) if j not in p.fixed and s.device[i] != s.device[j]}
    bad = [] if wanted == set(s.transfers) else ["some transfer is missing, or one too many"]
    for k in wanted & set(s.transfers):
        i, j, size = p.deps[k]
        here, there = s.device[i], s.device[j]
        rate = p.bandwidth[here][there]
        if rate is None:
            bad.append(f"{i} -> {j} has no link")
            continue
        start, end = s.transfers[k]
        carried = [
            other for x, (a, b, other) in enumerate(p.deps)
            if a == i and s.device[b] == there and s.transfers.get(x) == (start, end) and other >= size
        ]  # fmt: skip
        if not any(abs(end - start - other / rate) <= EPS for other in carried):
            bad.append(f"{i} -> {j} does not take its time")
        if start < s.end[i] - EPS:
            bad.append(f"{i} -> {j} begins before it is made")
        if s.start[j] < end + (p.latency[here][there] if p.latency else 0.0) - EPS:
            bad.append(f"{j} starts before the output of {i} is there")
        if size > 0 and (p.radio[here] or p.radio[there]):
            if start < 0:
                bad.append(f"{i} -> {j} was in the past")
            for q in (here, there):
                held[q].add((start, end, i, there))
    for q, transfers in enumerate(held):
        if p.radio[q] and any(a[1] > b[0] + EPS for a, b in pairwise(sorted(transfers))):
            bad.append(f"transfers overlap on {q}")
    return bad


def crowded(p: Problem, s: Schedule, steps: list[int], capacity: int) -> bool:
    """Whether more than `capacity` of these steps run at some moment at which one that was not fixed runs."""
    steps = [i for i in steps if s.end[i] > s.start[i]]
    for moment in (s.start[i] for i in steps):
        running = [i for i in steps if s.start[i] <= moment + EPS and s.end[i] > moment + EPS]
        if len(running) > capacity and any(i not in p.fixed for i in running):
            return True
    return False


def violations(p: Problem, s: Schedule) -> list[str]:
    bad = on_air(p, s)
    for i, row in enumerate(p.seconds):
        q = s.device[i]
        if i in p.fixed:
            if (q, s.start[i], s.end[i]) != p.fixed[i]:
                bad.append(f"{i} was fixed")
            continue
        assert not isinstance(row, float)
        seconds, (begin, until) = row[q], p.available[q] if p.available else (0.0, None)
        if seconds is None or abs(s.end[i] - s.start[i] - seconds) > EPS:
            bad.append(f"{i} cannot run on {q}, or does not take its time")
        if s.start[i] < begin - EPS or (until is not None and s.end[i] > until + EPS):
            bad.append(f"{i} is outside the window of {q}")
        bad += [f"{i} does not wait for {a}" for a, b, _ in p.deps if b == i and s.start[i] < s.end[a] - EPS]
    for q in range(len(p.bandwidth)):
        if crowded(p, s, [i for i, on in enumerate(s.device) if on == q], p.slots[q] if p.slots else 1):
            bad.append(f"too much at once on {q}")
    bad += [f"group {g} overlaps" for g in p.exclusive if crowded(p, s, list(dict.fromkeys(g)), 1)]
    if s.makespan != max([0.0, *s.end]):
        bad.append("the makespan")
    if s.late != [i for i, end in enumerate(s.end) if end > p.deadlines.get(i, inf)]:
        bad.append("late")
    if s.bound > s.makespan + EPS:
        bad.append("the bound")
    return bad


@st.composite
def problems(draw: st.DrawFn, n_max: int = 9) -> Problem:
    n, m = draw(st.integers(1, n_max)), draw(st.integers(1, 4))
    number = st.floats(0, 20).map(lambda x: round(x, 2))
    steps = st.integers(0, n - 1)

    def maybe(strategy: st.SearchStrategy[float], odds: int) -> st.SearchStrategy[float | None]:
        return st.integers(0, odds).flatmap(lambda k: strategy if k else st.none())

    def table(rows: int, cell: st.SearchStrategy[float | None]) -> list[list[float | None]]:
        return draw(st.lists(st.lists(cell, min_size=m, max_size=m), min_size=rows, max_size=rows))

    names = draw(st.permutations(range(n)))
    pairs = draw(st.lists(st.tuples(steps, steps), max_size=2 * n))
    windows = st.tuples(number, maybe(st.floats(5, 90), 2))
    available = draw(st.one_of(st.just([]), st.lists(windows, min_size=m, max_size=m)))
    running = st.tuples(st.integers(0, m - 1), st.floats(-9, 3), st.floats(0, 9))
    return Problem(
        table(n, maybe(number, 5)),
        [(names[min(a, b)], names[max(a, b)], draw(number)) for a, b in pairs if a != b],
        table(m, maybe(st.floats(0.1, 50), draw(st.sampled_from([1, 9])))),
        draw(st.sampled_from([[], [[0.25] * m] * m])),
        draw(st.one_of(st.just([]), st.lists(st.integers(1, 3), min_size=m, max_size=m))),
        [(begin, None if length is None else begin + length) for begin, length in available],
        draw(st.lists(st.lists(steps, max_size=4), max_size=2)),
        {i: (q, start, start + length)
         for i, (q, start, length) in draw(st.dictionaries(steps, running, max_size=3)).items()},
        draw(st.dictionaries(steps, st.floats(-1, 60), max_size=3)),
        radio=draw(st.one_of(st.just([True] * m), st.lists(st.booleans(), min_size=m, max_size=m))),
    )  # fmt: skip


def solved(problem: Problem, work: int) -> Schedule:
    """Its schedule; skips problems that have none."""
    try:
        return schedule(problem, work=work)
    except NoDevice:
        reject()


@settings(unhurried, max_examples=400)
@given(problems(), st.sampled_from([0, 300, 3000]))
def test_no_hard_rule_ever_bends_and_no_two_transfers_overlap_on_a_radio(problem: Problem, work: int) -> None:
    found = solved(problem, work)
    problem = problem if any(problem.radio) else replace(problem, radio=[])
    if problem.radio:
        assert violations(problem, found) == []
    else:
        assert found.transfers == {}
