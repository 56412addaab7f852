"""Radios as timelines: an independent checker of the model, hypothesis over every extension, every order of few.

The model: a transfer of `size` from p to q holds the radios of p and q, where they have one, for size / bandwidth; what
holds one does not overlap with what holds the same, and none begins before its producer's end or before 0. The latency
comes after and holds nothing. A transfer may serve several readers on a device, if it carries as much as each wants.
"""

from dataclasses import replace
from itertools import pairwise
from math import inf

import pytest
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st

from slipstream.core.costs import Costs
from slipstream.core.device import Device, LinkQuality, Offer, Resources
from slipstream.core.errors import NoDevice, UsageError
from slipstream.core.problem import Problem, Schedule, schedule
from slipstream.core.scheduler import Job, assign
from slipstream.runtime_ext.scheduler import Packed

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


@unhurried
@given(problems())
def test_the_same_problem_has_the_same_schedule(problem: Problem) -> None:
    assert solved(problem, 2000) == solved(problem, 2000)


@unhurried
@given(problems())
def test_no_schedule_is_worse_than_keeping_all_on_one_device(problem: Problem) -> None:
    problem = replace(problem, fixed={}, exclusive=[], deadlines={}, slots=[], available=[])
    found = solved(problem, 0)
    for column in zip(*problem.seconds, strict=True):  # type: ignore[arg-type]
        if None not in column:
            assert found.makespan <= sum(column) + EPS


@unhurried
@given(problems())
def test_without_a_radio_nothing_is_otherwise(problem: Problem) -> None:
    without = solved(replace(problem, radio=[]), 2000)
    assert solved(replace(problem, radio=[False] * len(problem.radio)), 2000) == without
    assert without.transfers == {}


@unhurried
@given(problems(), st.data())
def test_whatever_was_planned_before_no_hard_rule_bends(problem: Problem, data: st.DataObject) -> None:
    if not any(problem.radio):
        reject()
    n, m = len(problem.seconds), len(problem.bandwidth)
    devices = data.draw(st.lists(st.integers(-1, m), min_size=n, max_size=n))
    starts = data.draw(st.lists(st.floats(-5, 50), min_size=n, max_size=n))
    p = problem
    packed = Packed(p.seconds, p.deps, p.bandwidth, p.latency, p.slots, p.available, p.exclusive, p.fixed, p.deadlines,
                    radio=p.radio)  # fmt: skip
    solved(problem, 0)
    now, margin = (devices, starts), 0.1
    for work in (1, 2000, 1):
        found = Schedule(*packed.solve(work, incumbent=now, margin=margin), packed.transfers())
        assert violations(problem, found) == []
        now = found.device, found.start


# ---- every order of few steps


def shortest(p: Problem) -> float:
    """The makespan of the best of all orders and devices: transfers are appended to what both radios did before."""
    n, m = len(p.seconds), len(p.bandwidth)
    best = inf

    def go(done: dict[int, tuple[int, float]], free: list[float], air: list[float], sent: dict[tuple[int, int], float]
           ) -> None:  # fmt: skip
        nonlocal best
        if len(done) == n:
            best = min(best, max(end for _, end in done.values()))
        for i, q in ((i, q) for i in range(n) for q in range(m)):
            row = p.seconds[i]
            needs = [(a, size) for a, j, size in p.deps if j == i]
            if i in done or any(a not in done for a, _ in needs) or isinstance(row, float) or row[q] is None:
                continue
            t, held, known = free[q], list(air), dict(sent)
            for a, size in sorted(needs, key=lambda need: done[need[0]][1]):
                at, end = done[a]
                rate = p.bandwidth[at][q]
                if at == q or rate is None:
                    t = max(t, end if at == q else inf)
                    continue
                radios = [r for r in (at, q) if p.radio[r] and size > 0]
                begin = max([end, *(held[r] for r in radios)])
                till = known.setdefault((a, q), begin + size / rate)
                for r in radios:
                    held[r] = max(held[r], till)
                t = max(t, till + (p.latency[at][q] if p.latency else 0.0))
            end = t + (row[q] or 0.0)
            if end < best:
                go({**done, i: (q, end)}, [end if r == q else x for r, x in enumerate(free)], held, known)

    go({}, [0.0] * m, [0.0] * m, {})
    return best


@st.composite
def few_steps(draw: st.DrawFn) -> Problem:
    n, m = draw(st.integers(1, 5)), draw(st.integers(2, 3))
    number = st.integers(1, 80).map(lambda x: x / 10)
    sizes = draw(st.lists(number, min_size=n, max_size=n))
    row = st.lists(number, min_size=m, max_size=m)
    return Problem(
        draw(st.lists(row, min_size=n, max_size=n)),
        [(i, j, sizes[i]) for j in range(n) for i in range(j) if draw(st.booleans())],
        draw(st.lists(st.lists(st.sampled_from([0.5, 1, 2, 4]), min_size=m, max_size=m), min_size=m, max_size=m)),
        draw(st.sampled_from([[], [[0.3] * m] * m])),
        radio=[True, *draw(st.lists(st.booleans(), min_size=m - 1, max_size=m - 1))],
    )


@settings(unhurried, max_examples=60, derandomize=True)
@given(few_steps())
def test_of_few_steps_no_order_is_shorter(problem: Problem) -> None:
    found = schedule(problem, work=1_000_000)
    assert violations(problem, found) == []
    assert found.makespan <= shortest(problem) * (1 + 1e-9)


# ---- by hand


def full(m: int, rate: float = 1.0) -> list[list[float | None]]:
    return [[rate] * m for _ in range(m)]


def test_two_transfers_of_one_sender_go_one_after_the_other() -> None:
    fan = Problem([[0, None, None], [None, 1, None], [None, None, 1]], [(0, 1, 4), (0, 2, 4)], full(3))
    assert schedule(fan, work=500).makespan == 5
    for radio, makespan in (([1, 1, 1], 9), ([1, 0, 0], 9), ([0, 1, 1], 5)):
        found = schedule(replace(fan, radio=[bool(x) for x in radio]), work=500)
        assert found.makespan == makespan
    assert sorted(schedule(replace(fan, radio=[True] * 3)).transfers.values()) == [(0, 4), (4, 8)]


def test_the_latency_holds_nothing() -> None:
    seconds = [[0, None], [0, None], [None, 0], [None, 0]]
    two = Problem(seconds, [(0, 2, 4), (1, 3, 5)], full(2), [[2.0, 2.0]] * 2, radio=[True, True])
    assert schedule(two, work=500).makespan == 4 + 5 + 2


def test_the_larger_part_of_an_output_serves_who_reads_less_of_it() -> None:
    fan = Problem([[0, None], [None, 1], [None, 1]], [(0, 1, 4), (0, 2, 5)], full(2), radio=[True, True])
    found = schedule(fan, work=500)
    assert found.makespan == 7
    assert found.transfers == {0: (0, 5), 1: (0, 5)}


def test_one_output_goes_to_a_device_once() -> None:
    fan = Problem([[0, None], [None, 1], [None, 1]], [(0, 1, 4), (0, 2, 4)], full(2), radio=[True, True])
    found = schedule(fan, work=500)
    assert found.transfers == {0: (0, 4), 1: (0, 4)}
    assert found.makespan == 6


def test_what_was_done_before_now_is_sent_from_now_on_and_what_is_fixed_is_not_sent() -> None:
    seconds = [[1, None], [None, 1], [1, 1]]
    done = Problem(seconds, [(0, 2, 1), (0, 1, 3)], full(2), fixed={0: (0, -5, -4), 2: (1, -1, 1)}, radio=[True, True])
    found = schedule(done)
    assert (found.transfers, found.start[1]) == ({1: (0, 3)}, 3)


def test_a_step_that_goes_back_takes_its_transfers_back() -> None:
    # windows close before all is placed; what was sent to a device for a step that left it serves nobody there
    seconds = [[6, 5, 5], [1, 1, 1], [5, 5, 3], [2, 1, 3], [1, 2, 3], [6, 3, 2], [None, 6, 3], [2, 5, 5]]
    deps = [*((0, j, 4) for j in (1, 2, 4, 5, 6)), *((1, j, 3) for j in (3, 4, 6, 7))]
    links: list[list[float | None]] = [[1, 1, 1], [1, 1, 1], [1, None, 1]]
    tight = Problem(seconds, deps, links, available=[(0, 8), (0, 17), (0, None)], radio=[True] * 3)
    for work in (0, 3000):
        assert violations(tight, schedule(tight, work=work)) == []


def test_a_plan_that_knows_of_the_radio_keeps_together_what_it_would_have_scattered() -> None:
    # four inputs side by side on four devices, and one step that reads them all: on air that is one after the other
    join = Problem([[1.0] * 4 for _ in range(4)] + [[1.0] * 4], [(i, 4, 1.0) for i in range(4)], full(4))
    assert schedule(join, work=2000).makespan == 3
    found = schedule(replace(join, radio=[True] * 4), work=2000)
    assert found.makespan == 4
    assert len(found.transfers) <= 2


def test_a_document_may_say_which_devices_have_a_radio() -> None:
    document = {
        "format": "slipstream-sched/1", "tasks": {"cost": [1, 1]}, "deps": [[0, 1, 1]],
        "devices": {"speed": [1, 1], "radio": [1, 0]}, "links": {"speed": [[None, 1], [1, None]]},
    }  # fmt: skip
    assert Problem.from_json(document).radio == [True, False]
    with pytest.raises(UsageError, match=r"devices\.radio"):
        Problem.from_json(document | {"devices": {"speed": [1, 1], "radio": [True]}})
    with pytest.raises(ValueError, match="radio need 2 entries"):
        Packed([[1.0, 1.0]], [], full(2), radio=[True])
    packed = Packed([[1.0, 1.0]], [], full(2), radio=[True, True])
    with pytest.raises(ValueError, match="no schedule"):
        packed.transfers()


def test_what_radios_take_longer_counts_as_work_that_much_more() -> None:
    rows = [[1.0 + (i * 7 + p * 5) % 4 for p in range(3)] for i in range(12)]
    plain = Problem(rows, [(i, i + 3, 0.0) for i in range(9)], full(3))
    without, there = schedule(plain), schedule(replace(plain, radio=[True] * 3))
    tried = without.work // (12 * 2)
    assert (without.proven, there.makespan) == (False, without.makespan)
    assert there.work == without.work + tried * 9 * 3


def test_a_devices_radio_is_held_by_one_transfer_at_a_time_where_it_says_that_it_has_one() -> None:
    """Two large inputs for a car: over one phone's Wi-Fi they queue, so that the car reads both later."""
    slow = LinkQuality(0.0, 1e6)

    def planned(radio: str | None) -> float:
        costs = Costs()
        for _ in range(20):
            for skill, device, size in (("photo", "p", 1_000_000), ("video", "p", 1_000_000), ("look", "c", 10)):
                costs.saw(skill, device, 0.1, size, 0.0)
        devices = [
            Device("p", "phone", "phone", offers=(Offer("photo", "", "read"), Offer("video", "", "read")),
                   resources=Resources(radio=radio)),
            Device("c", "car", "car", offers=(Offer("look", "", "read"),), resources=Resources(radio=radio)),
        ]  # fmt: skip
        jobs = [Job("a", "photo"), Job("b", "video"), Job("l", "look", ("a", "b"))]
        return assign(jobs, devices, costs, lambda p, q: slow).makespan

    assert planned("wifi") == pytest.approx(2.2, abs=0.02)
    assert planned("ethernet") == planned(None) == pytest.approx(1.2, abs=0.02)
