"""Hard rules by an independent checker and hypothesis; names, ties and reasons by tables."""

import importlib
import sys
from array import array
from contextlib import suppress
from dataclasses import replace
from itertools import pairwise, product
from math import inf, nan
from random import Random
from threading import Event, Thread
from typing import Any

import pytest
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st

from slipstream.core.costs import Costs
from slipstream.core.device import Device, LinkQuality, Offer, Resources
from slipstream.core.energy import RADIOS
from slipstream.core.errors import NoDevice, UsageError
from slipstream.core.problem import Problem, Schedule, schedule
from slipstream.core.scheduler import Job, Placed, assign
from slipstream.runtime_ext.scheduler import Infeasible, Packed, fleet

EPS = 1e-9
unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

# ---- the independent checker


def arrival(p: Problem, s: Schedule, producer: int, size: float, at: int) -> float:
    here = s.device[producer]
    if here == at:
        return s.end[producer]
    rate = p.bandwidth[here][at]
    if rate is None:
        return inf
    return s.end[producer] + (p.latency[here][at] if p.latency else 0.0) + size / rate


def crowded(p: Problem, s: Schedule, steps: list[int], capacity: int) -> bool:
    """Whether more than `capacity` of these steps run at some moment at which one that was not fixed runs."""
    steps = [i for i in steps if s.end[i] > s.start[i]]
    for moment in (s.start[i] for i in steps):
        running = [i for i in steps if s.start[i] <= moment + EPS and s.end[i] > moment + EPS]
        if len(running) > capacity and any(i not in p.fixed for i in running):
            return True
    return False


def violations(p: Problem, s: Schedule) -> list[str]:
    n, m = len(p.seconds), len(p.bandwidth)
    bad = []
    for i in range(n):
        on = s.device[i]
        if i in p.fixed:
            if (on, s.start[i], s.end[i]) != p.fixed[i]:
                bad.append(f"{i} was fixed")
            continue
        row = p.seconds[i]
        seconds = row / p.speed[on] if isinstance(row, float) else row[on]
        if seconds is None:
            bad.append(f"{i} cannot run on {on}")
            continue
        if abs(s.end[i] - s.start[i] - seconds) > EPS or s.start[i] < 0:
            bad.append(f"{i} does not take its time")
        begin, until = p.available[on] if p.available else (0.0, None)
        if s.start[i] < begin - EPS or (until is not None and s.end[i] > until + EPS):
            bad.append(f"{i} is outside the window of {on}")
    for producer, consumer, size in p.deps:
        late = s.start[consumer] < arrival(p, s, producer, size, s.device[consumer]) - EPS
        if consumer not in p.fixed and late:
            bad.append(f"{consumer} starts before the output of {producer} is there")
    for on in range(m):
        if crowded(p, s, [i for i in range(n) if s.device[i] == on], p.slots[on] if p.slots else 1):
            bad.append(f"too much at once on {on}")
    bad += [f"group {g} overlaps" for g in p.exclusive if crowded(p, s, list(dict.fromkeys(g)), 1)]
    if s.makespan != max([0.0, *s.end]):
        bad.append("makespan")
    if s.late != [i for i in range(n) if s.end[i] > p.deadlines.get(i, inf)]:
        bad.append("late")
    return bad


def links_allow_some_assignment(p: Problem) -> bool:
    n, m = len(p.seconds), len(p.bandwidth)
    open_to = [
        [p.fixed[i][0]] if i in p.fixed else [q for q in range(m) if p.seconds[i][q] is not None] for i in range(n)
    ]
    edges = [(i, j) for i, j, _ in p.deps if j not in p.fixed]
    return any(
        all(at[i] == at[j] or p.bandwidth[at[i]][at[j]] is not None for i, j in edges) for at in product(*open_to)
    )


@st.composite
def problems(draw: st.DrawFn, n_max: int = 9, windows: bool = True) -> Problem:
    n, m = draw(st.integers(1, n_max)), draw(st.integers(1, 4))
    number = st.floats(0, 20).map(lambda x: round(x, 2))

    def maybe(strategy: st.SearchStrategy[float], odds: int) -> st.SearchStrategy[float | None]:
        return st.integers(0, odds).flatmap(lambda k: strategy if k else st.none())

    def table(rows: int, cell: st.SearchStrategy[float | None]) -> list[list[float | None]]:
        return draw(st.lists(st.lists(cell, min_size=m, max_size=m), min_size=rows, max_size=rows))

    names = draw(st.permutations(range(n)))
    pairs = draw(st.lists(st.tuples(st.integers(0, n - 1), st.integers(0, n - 1)), max_size=2 * n))
    steps = st.integers(0, n - 1)
    available = [
        (begin, None if length is None else begin + length)
        for begin, length in draw(st.lists(st.tuples(number, maybe(st.floats(5, 60), 2)), min_size=m, max_size=m))
    ]
    fixed = draw(
        st.dictionaries(steps, st.tuples(st.integers(0, m - 1), st.floats(-9, 3), st.floats(0, 9)), max_size=3)
    )
    return Problem(
        table(n, maybe(number, 5)),
        [(names[min(a, b)], names[max(a, b)], draw(number)) for a, b in pairs if a != b],
        table(m, maybe(st.floats(0.1, 50), draw(st.sampled_from([1, 4])))),
        draw(st.sampled_from([[], [[0.25] * m] * m])),
        draw(st.one_of(st.just([]), st.lists(st.integers(1, 3), min_size=m, max_size=m))),
        available if windows and draw(st.booleans()) else [],
        draw(st.lists(st.lists(steps, max_size=4), max_size=2)),
        {i: (p, start, start + length) for i, (p, start, length) in fixed.items()},
        draw(st.dictionaries(steps, st.floats(-1, 60), max_size=3)),
    )


@unhurried
@given(problems(), st.sampled_from([0, 300, 3000]))
def test_no_hard_rule_ever_bends(problem: Problem, work: int) -> None:
    try:
        found = schedule(problem, work=work)
    except NoDevice as error:
        step, rule = error.where["step"], error.where["rule"]
        row = problem.seconds[step]
        assert rule in ("device", "window", "link")
        assert (rule == "device") == (all(x is None for x in row) and step not in problem.fixed)
        return
    assert violations(problem, found) == []


@settings(unhurried, max_examples=300)
@given(problems(n_max=5, windows=False))
def test_what_only_links_and_skills_forbid_is_refused_exactly_when_no_assignment_exists(problem: Problem) -> None:
    try:
        schedule(problem)
        possible = True
    except NoDevice:
        possible = False
    assert possible == links_allow_some_assignment(problem)


@unhurried
@given(problems())
def test_the_same_problem_has_the_same_schedule(problem: Problem) -> None:
    answers = []
    for _ in range(2):
        try:
            answers.append(schedule(problem, work=2000))
        except NoDevice as error:
            answers.append(str(error))
    assert answers[0] == answers[1]


def solved(problem: Problem, work: int) -> Schedule:
    """Its schedule; skips problems that have none."""
    try:
        return schedule(problem, work=work)
    except NoDevice:
        reject()


@unhurried
@given(problems())
def test_more_work_never_makes_a_schedule_worse(problem: Problem) -> None:
    found = [solved(problem, work) for work in (0, 100, 400, 1600, 6400)]
    worth = [(sum(problem.weights.get(i, 1) for i in s.late), s.makespan) for s in found]
    if not any(s.late for s in found):
        assert all(after[1] <= before[1] * (1 + 1e-12) for before, after in pairwise(worth))
    assert [len(s.late) for s in found] == sorted((len(s.late) for s in found), reverse=True)


@unhurried
@given(problems())
def test_no_schedule_is_worse_than_keeping_all_on_one_device(problem: Problem) -> None:
    n, m = len(problem.seconds), len(problem.bandwidth)
    found = solved(problem, 0)
    for p in range(m):
        rows = [row[p] for row in problem.seconds if not isinstance(row, float)]
        if problem.fixed or problem.exclusive or problem.deadlines or any(x is None for x in rows):
            continue
        begin, until = problem.available[p] if problem.available else (0.0, None)
        slots = problem.slots[p] if problem.slots else 1
        alone = begin + sum(x for x in rows if x is not None)
        if slots == 1 and (until is None or alone <= until):
            assert found.makespan <= alone + EPS
    assert found.bound <= found.makespan + EPS
    assert len(found.device) == n


@settings(unhurried, max_examples=40)
@given(problems(n_max=6), st.randoms(use_true_random=False))
def test_the_numbers_of_devices_mean_nothing(problem: Problem, draw: Random) -> None:
    m = len(problem.bandwidth)
    new = draw.sample(range(m), m)  # new[p] is the device that now has number p
    old = {q: p for p, q in enumerate(new)}
    other = replace(
        problem,
        seconds=[[row[q] for q in new] for row in problem.seconds if not isinstance(row, float)],
        bandwidth=[[problem.bandwidth[a][b] for b in new] for a in new],
        slots=[problem.slots[q] for q in new] if problem.slots else [],
        available=[problem.available[q] for q in new] if problem.available else [],
        fixed={i: (old[p], a, b) for i, (p, a, b) in problem.fixed.items()},
    )
    one, two = solved(problem, 60_000), solved(other, 60_000)
    assert one.makespan == pytest.approx(two.makespan, rel=1e-9)
    assert len(one.late) == len(two.late)


def shorter(p: Problem, limit: float) -> bool:
    """Whether some schedule ends before `limit`: every order and every device, cut off as soon as it is too late."""
    n, m = len(p.seconds), len(p.bandwidth)
    rows = [[row / s for s in p.speed] if isinstance(row, float) else row for row in p.seconds]
    least = [min((x for x in row if x is not None), default=0.0) for row in rows]
    after: list[float] = [0.0] * n
    for i in reversed(range(n)):
        after[i] = max((least[j] + after[j] for a, j, _ in p.deps if a == i), default=0.0)
    lanes = [list(range(sum(p.slots[:q]), sum(p.slots[: q + 1]))) if p.slots else [q] for q in range(m)]
    groups = [[g for g, group in enumerate(p.exclusive) if i in group] for i in range(n)]

    def go(done: dict[int, tuple[int, float]], free: dict[int, float], held: dict[int, float]) -> bool:
        if len(done) == n:
            return True
        for i in range(n):
            needs = [(a, size) for a, j, size in p.deps if j == i]
            if i in done or not all(a in done for a, _ in needs):
                continue
            for q in range(m):
                seconds = rows[i][q]
                if seconds is None:
                    continue
                begin, until = p.available[q] if p.available else (0.0, None)
                t = max([begin, *(held.get(g, 0.0) for g in groups[i] if seconds > 0)])
                for a, size in needs:
                    at, end = done[a]
                    rate = p.bandwidth[at][q]
                    if at != q and rate is None:
                        t = inf
                    elif at != q and rate is not None:
                        end += (p.latency[at][q] if p.latency else 0.0) + size / rate
                    t = max(t, end)
                lane = min(lanes[q], key=lambda x: (free.get(x, 0.0) > t, -free.get(x, 0.0) if free.get(x, 0.0) <= t
                                                    else free.get(x, 0.0)))  # fmt: skip
                if seconds > 0:
                    t = max(t, free.get(lane, 0.0))
                end = t + seconds
                if end + after[i] >= limit or (until is not None and end > until + EPS):
                    continue
                now = {lane: end} if seconds > 0 else {}
                if go({**done, i: (q, end)}, free | now, held | (dict.fromkeys(groups[i], end) if seconds > 0 else {})):
                    return True
        return False

    return go({}, {}, {})


@settings(unhurried, max_examples=60)
@given(problems(n_max=7))
def test_of_small_problems_the_shortest_schedule_is_found(problem: Problem) -> None:
    problem = replace(problem, fixed={}, deadlines={}, deps=[d for d in problem.deps if d[0] < d[1]])
    found = solved(problem, 300_000)
    assert not shorter(problem, found.makespan * (1 - 1e-9) - 1e-12)


def full(m: int, rate: float = 1.0) -> list[list[float | None]]:
    return [[rate] * m for _ in range(m)]


def test_the_example_of_the_heft_paper_is_solved_no_worse_than_there() -> None:
    seconds = [(14, 16, 9), (13, 19, 18), (11, 13, 19), (13, 8, 17), (12, 13, 10),
               (13, 16, 9), (7, 15, 11), (5, 11, 14), (18, 12, 20), (21, 7, 16)]  # fmt: skip
    deps = [(1, 2, 18), (1, 3, 12), (1, 4, 9), (1, 5, 11), (1, 6, 14), (2, 8, 19), (2, 9, 16), (3, 7, 23), (4, 8, 27),
            (4, 9, 23), (5, 9, 13), (6, 8, 15), (7, 10, 17), (8, 10, 11), (9, 10, 13)]  # fmt: skip
    problem = Problem(seconds, [(i - 1, j - 1, c) for i, j, c in deps], full(3))
    found = schedule(problem)
    assert violations(problem, found) == []
    assert found.makespan <= 80


def test_a_short_step_fills_the_gap_before_a_long_one() -> None:
    # step 2 waits on device 1 for the output of 0 until 7; step 3 can only run there and fits before
    problem = Problem([[5, None], [None, 1], [None, 10], [None, 4]], [(0, 2, 2)], full(2))
    found = schedule(problem)
    assert violations(problem, found) == []
    assert found.makespan == 17
    assert found.end[3] <= 7


def test_slots_run_steps_side_by_side() -> None:
    assert schedule(Problem([[1.0]] * 4, [], [[None]], slots=[4])).makespan == 1
    assert schedule(Problem([[1.0]] * 4, [], [[None]], slots=[3])).makespan == 2
    assert schedule(Problem([[1.0]] * 4, [], [[None]])).makespan == 4


def test_two_steps_of_a_group_never_overlap_even_on_two_devices() -> None:
    assert schedule(Problem([[1, None], [None, 1]], [], full(2))).makespan == 1
    assert schedule(Problem([[1, None], [None, 1]], [], full(2), exclusive=[[0, 1]])).makespan == 2


def test_a_step_that_only_fits_into_a_window_gets_it_before_those_that_fit_elsewhere() -> None:
    problem = Problem([[4, 30], [3, None]], [], full(2), available=[(0, 5), (0, None)])
    found = schedule(problem)
    assert violations(problem, found) == []
    assert found.device == [1, 0]


def test_a_deadline_comes_before_the_makespan() -> None:
    # by rank the long chain goes first; with the deadline the short step does
    chain = Problem([[2.0], [2.0], [1.0]], [(0, 1, 0)], [[None]])
    assert schedule(chain).start[2] > 1
    urgent = Problem(chain.seconds, chain.deps, chain.bandwidth, deadlines={2: 1.0})
    assert schedule(urgent).late == []
    assert schedule(Problem(chain.seconds, chain.deps, chain.bandwidth, deadlines={2: 0.5})).late == [2]


def test_a_running_step_holds_its_device_and_its_output_is_there_at_its_end() -> None:
    problem = Problem([[1, 1], [1, 5]], [(0, 1, 3)], full(2), fixed={0: (0, -2, 4)})
    found = schedule(problem)
    assert (found.device[1], found.start[1]) == (0, 4)
    assert violations(problem, found) == []


@pytest.mark.parametrize(
    ("problem", "step", "rule"),
    [
        (Problem([[1], [None]], [], [[None]]), 1, "device"),
        (Problem([[4], [6]], [], [[None]], available=[(0, 5)]), 1, "window"),
        (Problem([[4], [4]], [], [[None]], available=[(0, 5)]), None, "window"),
        (Problem([[1, None], [None, 1]], [(0, 1, 0)], [[None, None], [1, None]]), None, "link"),
    ],
)
def test_what_cannot_be_names_the_step_and_the_rule(problem: Problem, step: int | None, rule: str) -> None:
    with pytest.raises(NoDevice) as error:
        schedule(problem)
    assert error.value.where["rule"] == rule
    assert step is None or error.value.where["step"] == step


@pytest.mark.parametrize(
    ("problem", "words"),
    [
        (Problem([[1.0], [1.0]], [(0, 1, 0), (1, 0, 0)], [[None]]), "waits for itself"),
        (Problem([[1.0]], [(0, 0, 0)], [[None]]), "waits for itself"),
        (Problem([[nan]], [], [[None]]), "seconds"),
        (Problem([[-1.0]], [], [[None]]), "seconds"),
        (Problem([[1.0, 1.0]], [], [[None]]), "seconds"),
        (Problem([[1.0]], [(0, 1, 0)], [[None]]), "deps"),
        (Problem([[1.0]], [(-1, 0, 0)], [[None]]), "deps"),
        (Problem([[1.0]], [], [[None, None]]), "bandwidth"),
        (Problem([[1.0, 1.0]], [], full(2, 0.0)), "bandwidth"),
        (Problem([[1.0]], [], [[None]], slots=[0]), "slots"),
        (Problem([[1.0]], [], [[None]], slots=[1, 1]), "slots"),
        (Problem([[1.0]], [], [[None]], exclusive=[[3]]), "exclusive"),
        (Problem([[1.0]], [], [[None]], fixed={0: (2, 0, 1)}), "fixed"),
        (Problem([[1.0]], [], [[None]], fixed={0: (0, 2, 1)}), "fixed"),
        (Problem([[1.0]], [], [[None]], deadlines={0: nan}), "deadlines"),
    ],
)
def test_numbers_that_describe_no_problem_are_a_usage_error(problem: Problem, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        schedule(problem)


def test_no_steps_make_an_empty_schedule() -> None:
    empty = schedule(Problem([], [], []))
    assert (empty.device, empty.start, empty.end, empty.makespan, empty.proven) == ([], [], [], 0.0, True)


# ---- the JSON form


def document() -> dict[str, object]:
    return {
        "format": "slipstream-sched/1", "name": "x", "family": "ext", "source": {},
        "tasks": {"name": ["a", "b"], "cost": [2.0, 3], "time": [None, [1.0, None]]},
        "deps": [[0, 1, 0.5]],
        "devices": {"name": ["p", "q"], "speed": [1.0, 4.0], "slots": [1, 2], "available": [[0, None], [1.5, 9]]},
        "links": {"speed": [[None, 2.0], [0, None]], "latency": [[0, 0.1], [0.2, 0]]},
        "exclusive": {"lock": [0, 1]},
    }  # fmt: skip


def test_a_document_becomes_a_problem_extensions_included() -> None:
    problem = Problem.from_json(document())
    assert (problem.seconds, problem.speed) == ([2.0, [1.0, None]], [1.0, 4.0])
    assert problem.bandwidth == [[None, 2.0], [None, None]]
    assert (problem.slots, problem.available, problem.exclusive) == ([1, 2], [(0, None), (1.5, 9)], [[0, 1]])
    found = schedule(problem)
    assert found.device == [0, 0]
    assert violations(problem, found) == []


@pytest.mark.parametrize(
    ("path", "value", "field"),
    [
        (("format",), "other/2", "format"),
        (("tasks",), [], "tasks"),
        (("tasks", "cost"), [1, -1], "tasks.cost.1"),
        (("tasks", "cost"), [1, inf], "tasks.cost.1"),
        (("tasks", "time"), [None], "tasks.time"),
        (("tasks", "time"), [None, [1.0]], "tasks.time.1"),
        (("devices", "speed"), [1, 0], "devices.speed.1"),
        (("devices", "slots"), [1], "devices.slots"),
        (("devices", "slots"), [1, 0], "devices.slots.1"),
        (("devices", "available"), [[0, None]], "devices.available"),
        (("links", "speed"), [[None, 1.0]], "links.speed"),
        (("links", "speed"), [[None, 1.0], [None]], "links.speed.1"),
        (("links", "latency"), [[0, 0]], "links.latency"),
        (("deps",), [[0, 2, 1.0]], "deps.0"),
        (("deps",), [[0, 1, -1.0]], "deps.0.2"),
        (("exclusive",), {"lock": [7]}, "exclusive.lock"),
    ],
)
def test_a_wrong_document_names_the_field(path: tuple[str, ...], value: object, field: str) -> None:
    data = document()
    inner: object = data
    for part in path[:-1]:
        inner = inner[part]  # type: ignore[index]
    inner[path[-1]] = value  # type: ignore[index]
    with pytest.raises(UsageError) as error:
        Problem.from_json(data)
    assert error.value.where["field"] == field


# ---- names


def device(
    name: str, *skills: str | Offer, kind: str = "phone", id: str = "", leaving: bool = False, slots: int = 4
) -> Device:
    offers = tuple(s if isinstance(s, Offer) else Offer(s, "d", "read", seconds=1.0) for s in skills)
    return Device(id or f"id-{name}", name, kind, offers=offers, leaving=leaving, resources=Resources(slots=slots))


def near(p: str, q: str) -> LinkQuality:
    return LinkQuality(0.01, 1e6)


def nowhere(p: str, q: str) -> None:
    return None


PIXEL = device("pixel", "nav.route", "contacts.find")
CAR = device("car7", "nav.route", "nav.set", kind="car")
HUB = device("hub1", "nav.route", kind="hub")


def where(jobs: list[Job], devices: list[Device], **more: object) -> dict[str, str]:
    made = assign(jobs, devices, Costs(), near, **more)  # type: ignore[arg-type]
    return {step: placed.device for step, placed in made.steps.items()}


@pytest.mark.parametrize(
    ("on", "expected"), [("id-car7", "id-car7"), ("car7", "id-car7"), ("car", "id-car7"), (None, "id-pixel")]
)
def test_a_step_goes_where_the_plan_asks_by_id_name_or_kind(on: str | None, expected: str) -> None:
    assert where([Job("a", "nav.route", on=on)], [PIXEL, CAR, HUB]) == {"a": expected}


def test_a_kind_that_several_devices_have_leaves_the_choice() -> None:
    slow = device("old", Offer("nav.route", "d", "read", seconds=9.0))
    assert where([Job("a", "nav.route", on="phone")], [slow, PIXEL, CAR]) == {"a": "id-pixel"}


def test_a_name_that_two_devices_have_is_refused_with_their_ids() -> None:
    twins = [device("pixel", "nav.route", id="id-one"), device("pixel", "nav.route", id="id-two")]
    with pytest.raises(UsageError) as error:
        assign([Job("a", "nav.route", on="pixel")], twins, Costs(), near)
    assert error.value.why == "id-one and id-two"
    assert "id" in error.value.hint


def test_a_leaving_or_refusing_device_gets_no_new_step_but_its_results_are_used() -> None:
    leaving = device("pixel", "nav.route", "contacts.find", leaving=True)
    jobs = [Job("a", "contacts.find"), Job("b", "nav.route", needs=("a",))]
    made = assign(jobs, [leaving, CAR, HUB], Costs(), near, fixed={"a": Placed("id-pixel", -2.0, -1.0)})
    assert made.steps["b"].device == "id-car7"
    assert made.refused("b") == {"pixel": "is leaving"}
    assert where([Job("a", "nav.route", avoid=frozenset({"id-pixel"}))], [PIXEL, CAR]) == {"a": "id-car7"}


def test_equal_choices_go_to_the_device_with_most_inputs_then_to_the_first() -> None:
    assert where([Job("a", "nav.route")], [HUB, PIXEL, CAR]) == {"a": "id-hub1"}

    def instant(p: str, q: str) -> LinkQuality:
        return LinkQuality(0.0, 1e300)

    jobs = [Job("a", "nav.set"), Job("b", "nav.route", needs=("a",))]
    made = assign(jobs, [PIXEL, CAR, HUB], Costs(), instant)
    assert made.steps["b"].device == "id-car7"


def test_a_lock_is_held_by_one_step_at_a_time_whatever_the_device() -> None:
    locked = Offer("cabin.set", "d", "physical", lock="cabin", seconds=1.0)
    devices = [device("a", locked), device("b", locked)]
    jobs = [Job(f"s{k}", "cabin.set", on=name) for k, name in enumerate("ab")]
    first, second = sorted((x.start, x.end) for x in assign(jobs, devices, Costs(), near).steps.values())
    assert second[0] >= first[1]
    running = {"s0": Placed("id-a", -0.5, 3.0)}
    assert assign(jobs, devices, Costs(), near, fixed=running).steps["s1"].start == 3.0


def test_what_was_learned_outweighs_the_authors_guess() -> None:
    costs = Costs()
    for k in range(20):
        costs.saw("nav.route", "id-hub1", 0.1, 10, float(k))
    made = assign([Job("a", "nav.route")], [PIXEL, CAR, HUB], costs, near)
    assert made.steps["a"].device == "id-hub1"
    assert made.makespan == pytest.approx(0.1)


def test_where_a_step_ran_does_not_loosen_what_another_asks_for() -> None:
    jobs = [Job("a", "nav.route", on="car"), Job("b", "nav.route", on="car")]
    made = assign(jobs, [PIXEL, CAR], Costs(), near, fixed={"a": Placed("id-pixel", -2.0, -1.0)})
    assert made.steps["b"].device == "id-car7"


def test_big_outputs_keep_steps_together() -> None:
    costs = Costs()
    for k in range(20):
        costs.saw("contacts.find", "id-pixel", 0.1, 5e6, float(k))
    slow = device("pixel", Offer("nav.route", "d", "read", seconds=2.0), "contacts.find")
    made = assign([Job("a", "contacts.find"), Job("b", "nav.route", ("a",))], [slow, CAR], costs, near)
    assert made.steps["b"].device == "id-pixel"
    assert made.why("b") == "its inputs are here: 2 s, and 6 s on car7"


def test_a_deadline_that_cannot_be_met_is_reported() -> None:
    made = assign([Job("a", "nav.route", deadline=0.5), Job("b", "nav.route", deadline=5.0)], [CAR], Costs(), near)
    assert made.late == ("a",)


def test_a_deadline_is_promised_on_what_steps_take_nine_times_out_of_ten() -> None:
    costs = Costs()
    for k in range(20):
        costs.saw("nav.route", CAR.id, 3.0 if k % 5 == 0 else 1.0, 10.0, float(k))
    jobs = [
        Job("a", "nav.route"),
        Job("b", "nav.route", ("a",), deadline=2.5),
        Job("c", "nav.route", ("b",), deadline=9.5),
    ]
    made = assign(jobs, [CAR], costs, near)
    assert made.steps["b"].end == 2.0  # most times it is in time
    assert made.late == ("b",)


def test_the_results_of_a_gone_device_are_out_of_reach_but_only_for_who_needs_them() -> None:
    jobs = [Job("a", "contacts.find"), Job("b", "nav.route", needs=("a",))]
    gone = {"a": Placed("id-gone", -2.0, -1.0)}
    assert where(jobs[:1], [CAR], fixed=gone) == {"a": "id-gone"}
    with pytest.raises(NoDevice) as error:
        assign(jobs, [CAR], Costs(), near, fixed=gone)
    assert "the result of a is on id-gone, which is gone" in error.value.why
    assert error.value.where == {"step": "b", "skill": "nav.route"}


NO_TV = "pixel has no tv.play; car7 has no tv.play"


@pytest.mark.parametrize(
    ("job", "what", "why"),
    [
        (Job("a", "tv.play"), "no device can run tv.play", NO_TV),
        (Job("a", "tv.play", on="hub"), "tv.play must run on hub; none is here", NO_TV),
        (Job("a", "tv.play", on="car"), "tv.play must run on car, which cannot run it now", NO_TV),
        (
            Job("a", "nav.set", on="pixel"),
            "nav.set must run on pixel, which cannot run it now",
            "pixel has no nav.set; car7 is not pixel, which the plan asks for",
        ),
        (
            Job("a", "nav.set", avoid=frozenset({"id-car7"})),
            "no device can run nav.set",
            "pixel has no nav.set; car7 refused it before",
        ),
    ],
)
def test_a_step_without_a_place_says_for_each_device_why(job: Job, what: str, why: str) -> None:
    with pytest.raises(NoDevice) as error:
        assign([job], [PIXEL, CAR], Costs(), near)
    assert (error.value.what, error.value.why) == (what, why)
    assert error.value.where == {"step": "a", "skill": job.skill}


def test_a_missing_link_is_a_hard_rule_and_is_named() -> None:
    jobs = [Job("a", "contacts.find"), Job("b", "nav.route", needs=("a",))]
    made = assign(jobs, [PIXEL, CAR], Costs(), nowhere)
    assert made.steps["b"].device == "id-pixel"
    assert made.refused("b") == {"car7": "has no link from pixel"}
    assert made.why("b") == "the only device with the links it needs: car7 has no link from pixel"
    with pytest.raises(NoDevice, match="no link carries"):
        assign([jobs[0], Job("b", "nav.set", needs=("a",))], [PIXEL, CAR], Costs(), nowhere)


def test_a_step_stays_where_what_follows_it_needs_its_output() -> None:
    costs = Costs()
    for k in range(20):
        costs.saw("nav.route", "id-car7", 2.0, 5e6, float(k))
    jobs = [Job("a", "nav.route"), Job("b", "nav.set", needs=("a",))]
    made = assign(jobs, [PIXEL, CAR], costs, near)
    assert made.steps["a"].device == "id-car7"
    assert made.why("a") == "what follows it goes quicker from here than from pixel"


def test_no_devices_at_all_is_said_so() -> None:
    with pytest.raises(NoDevice, match="no device is here"):
        assign([Job("a", "nav.route")], [], Costs(), near)


def test_a_need_that_is_no_step_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="there is no such step"):
        assign([Job("a", "nav.route", needs=("zz",))], [CAR], Costs(), near)


FAST_CAR = device("car7", Offer("nav.route", "d", "read", seconds=0.5), kind="car", slots=1)


ROUTE = Job("a", "nav.route")
AVOIDING = Job("a", "nav.route", avoid=frozenset({"id-car7"}))
BOTH = [ROUTE, Job("r", "nav.route")]


@pytest.mark.parametrize(
    ("jobs", "devices", "fixed", "sentence"),
    [
        ([Job("a", "nav.set")], [PIXEL, CAR], {}, "the only device that has nav.set"),
        ([Job("a", "nav.route", on="car")], [PIXEL, CAR], {}, "asked for by the plan (on: car)"),
        ([AVOIDING], [PIXEL, CAR], {}, "the only device left for it: car7 refused it before"),
        ([ROUTE], [PIXEL, FAST_CAR], {}, "0.5 s here, 1 s on pixel"),
        ([ROUTE], [PIXEL, CAR], {}, "no later here than on car7"),
        (BOTH, [PIXEL, FAST_CAR], {"r": Placed("id-car7", -1.0, 4.0)}, "car7 is busy then"),
        ([ROUTE], [PIXEL], {"a": Placed("id-pixel", -1.0, 4.0)}, "it runs there already"),
        ([ROUTE], [PIXEL], {"a": Placed("id-pixel", -5.0, -4.0)}, "it is done there"),
    ],
)
def test_every_choice_can_say_why(
    jobs: list[Job], devices: list[Device], fixed: dict[str, Placed], sentence: str
) -> None:
    assert assign(jobs, devices, Costs(), near, fixed=fixed).why("a") == sentence


@unhurried
@given(st.floats(), st.floats(), st.floats())
def test_no_number_that_a_device_tells_can_break_an_assignment(rtt: float, rate: float, guess: float) -> None:
    devices = [
        device("a", Offer("x.y", "d", "read", seconds=guess)),
        device("b", Offer("x.z", "d", "read", seconds=guess)),
    ]
    made = assign([Job("1", "x.y"), Job("2", "x.z", ("1",))], devices, Costs(), lambda p, q: LinkQuality(rtt, rate))
    assert 0 <= made.steps["2"].start < inf


@unhurried
@given(st.data())
def test_an_assignment_keeps_what_the_steps_ask_for(data: st.DataObject) -> None:
    skills = ["a.a", "b.b", "c.c"]
    some = st.sets(st.sampled_from(skills), min_size=1).map(sorted)
    count = data.draw(st.integers(1, 4))
    devices = [device(f"d{k}", *data.draw(some), slots=data.draw(st.integers(1, 2))) for k in range(count)]
    ids = [d.id for d in devices]
    jobs = [
        Job(f"s{i}", data.draw(st.sampled_from(skills)), tuple(f"s{j}" for j in range(i) if data.draw(st.booleans())),
            data.draw(st.sampled_from([None, *ids])), None, data.draw(st.frozensets(st.sampled_from(ids), max_size=1)))
        for i in range(data.draw(st.integers(1, 6)))
    ]  # fmt: skip
    try:
        made = assign(jobs, devices, Costs(), near)
    except NoDevice as error:
        job = next(j for j in jobs if j.id == error.where["step"])
        assert not [d for d in devices if d.offer(job.skill) and job.on in (None, d.id) and d.id not in job.avoid]
        return
    for job in jobs:
        placed = made.steps[job.id]
        chosen = next(d for d in devices if d.id == placed.device)
        assert chosen.offer(job.skill)
        assert job.on in (None, chosen.id)
        assert chosen.id not in job.avoid
        assert all(made.steps[need].end <= placed.start for need in job.needs)
        assert made.why(job.id)
        assert chosen.name not in made.refused(job.id)
    assert made.makespan == max(placed.end for placed in made.steps.values())


def test_an_extension_that_is_not_built_names_the_command_to_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "slipstream.runtime_ext.scheduler", None)
    monkeypatch.delitem(sys.modules, "slipstream.core.scheduler")
    with pytest.raises(ImportError, match="make test"):
        importlib.import_module("slipstream.core.scheduler")


def test_of_every_device_it_says_what_was_predicted_or_why_it_cannot_be_there() -> None:
    jobs = [Job("look", "contacts.find"), Job("go", "nav.route", ("look",))]
    costs = Costs()
    for name, seconds in (("car7", 0.5), ("pixel", 2.0), ("hub1", 9.0)):
        for k in range(20):
            costs.saw("nav.route", f"id-{name}", seconds, 1000.0, float(k))
    found = assign(jobs, [PIXEL, CAR, HUB], costs, near)
    go = found.candidates("go")
    assert [(c.device, c.chosen) for c in go] == [("car7", True), ("pixel", False), ("hub1", False)]
    assert [c.seconds for c in go] == [0.5, 2.0, 9.0]
    assert go[0].end == found.steps["go"].end
    assert all(c.end is not None and c.ready is not None and c.end >= c.ready for c in go)
    look = found.candidates("look")
    assert [(c.device, c.seconds, c.why_not) for c in look] == [
        ("pixel", 1.0, ""), ("car7", None, "has no contacts.find"), ("hub1", None, "has no contacts.find"),
    ]  # fmt: skip
    busy = assign([Job(f"s{i}", "x") for i in range(3)], [device("a", "x", slots=2), device("b", "x", slots=2)], costs,
                  near)  # fmt: skip
    alone = next(s for s in busy.steps if [p.device for p in busy.steps.values()].count(busy.steps[s].device) == 1)
    assert [c.why_not for c in busy.candidates(alone)] == ["", "is busy then"]


# ---- replans


def replanned(gain: float, seconds: float) -> str:
    """Where a job goes that is placed on the car, where it takes 1 s, and would take so long on the phone."""
    job = Job("a", "x")
    costs = Costs()
    for name, took in (("phone", seconds), ("car", 1.0)):
        for k in range(20):
            costs.saw("x", f"id-{name}", took, 10.0, float(k))
    here = [device("phone", "x"), device("car", "x")]
    placed = {"a": Placed("id-car", 0.0, 1.0)}
    found = assign([job], here, costs, near, incumbent=placed, gain=gain).steps["a"]
    return found.device.removeprefix("id-")


@pytest.mark.parametrize(
    ("gain", "seconds", "where"),
    [(0.1, 0.95, "car"), (0.1, 0.85, "phone"), (0.0, 0.95, "phone"), (0.0, 1.0, "car"), (0.5, 0.6, "car")],
)
def test_what_runs_stays_unless_something_else_is_better_by_enough(gain: float, seconds: float, where: str) -> None:
    assert replanned(gain, seconds) == where


@unhurried
@given(problems(), st.data())
def test_whatever_was_planned_before_no_hard_rule_bends(problem: Problem, data: st.DataObject) -> None:
    n, m = len(problem.seconds), len(problem.bandwidth)
    devices = data.draw(st.lists(st.integers(-1, m), min_size=n, max_size=n))
    starts = data.draw(st.lists(st.floats(-5, 50), min_size=n, max_size=n))
    p = problem
    packed = Packed(p.seconds, p.deps, p.bandwidth, p.latency, p.slots, p.available, p.exclusive, p.fixed, p.deadlines)
    best = solved(problem, 0)
    for work in (1, 2000):
        device, start, end, late, makespan, bound, proven, energy, moved, used = packed.solve(
            work, incumbent=(devices, starts), margin=0.1
        )
        found = Schedule(device, start, end, late, makespan, bound, proven, energy, moved, used)
        assert violations(problem, found) == []
        if work > 1 and not best.late and not found.late:
            assert found.makespan <= best.makespan / 0.9 + EPS


@unhurried
@given(problems(), st.sampled_from([0.0, 0.05]))
def test_its_own_plan_is_a_plan_to_go_on_with_again_and_again(problem: Problem, margin: float) -> None:
    p = problem
    packed = Packed(p.seconds, p.deps, p.bandwidth, p.latency, p.slots, p.available, p.exclusive, p.fixed, p.deadlines)
    best = solved(problem, 500)
    found = best
    for seed in range(4):
        found = Schedule(*packed.solve(500, 0.0, seed, (found.device, found.start), margin))
        assert violations(problem, found) == []
    if not best.late and max(problem.slots, default=1) == 1:
        assert found.makespan <= best.makespan + EPS


@unhurried
@given(problems(windows=False), st.data())
def test_when_a_device_left_its_steps_are_placed_and_the_others_stay_where_they_are(
    problem: Problem, data: st.DataObject
) -> None:
    before = solved(problem, 300)
    gone = data.draw(st.integers(0, len(problem.bandwidth) - 1))
    rows = [[None if p == gone else x for p, x in enumerate(row)] for row in problem.seconds]  # type: ignore[arg-type]
    left = replace(problem, seconds=rows)
    try:
        schedule(left)
    except NoDevice:
        reject()
    held = {i for i, p in enumerate(before.device) if p != gone and i not in problem.fixed}
    devices = [p if i in held else -1 for i, p in enumerate(before.device)]
    p = left
    packed = Packed(p.seconds, p.deps, p.bandwidth, p.latency, p.slots, p.available, p.exclusive, p.fixed, p.deadlines)
    answers = []
    for nonsense, work in ((0.0, 1), (-7.0, 1), (0.0, 3000)):
        starts = [t if i in held else nonsense for i, t in enumerate(before.start)]
        found = Schedule(*packed.solve(work, incumbent=(devices, starts), margin=1.0))
        assert violations(left, found) == []
        answers.append(found)
    assert answers[0] == answers[1]
    if all(rate is not None for q, row in enumerate(p.bandwidth) for at, rate in enumerate(row) if q != at):
        assert [i for i in held if answers[0].device[i] != before.device[i]] == []
        if len(answers[2].late) == len(answers[0].late) and answers[2].makespan > 0:
            assert [i for i in held if answers[2].device[i] != before.device[i]] == []


def test_what_runs_keeps_its_order_whatever_is_planned_for_tomorrow() -> None:
    packed = Packed([[1.0]] * 3, [], [[None]])
    assert packed.solve(1, incumbent=([0, 0, 0], [0.004, 0.0, 86_400.0]))[1] == [1.0, 0.0, 2.0]


def test_what_runs_goes_on_before_what_is_given_for_later() -> None:
    packed = Packed([[1.0], [2.0], [1.0]], [], [[None]], fixed={1: (0, 3.0, 5.0)}, apart=[1])
    assert packed.solve(1, incumbent=([0, -1, 0], [1.0, 0.0, 0.0]))[1] == [1.0, 3.0, 0.0]


def test_local_search_uses_the_time_before_what_is_given_for_later() -> None:
    later = {8: (0, 10.0, 20.0), 9: (1, 10.0, 20.0)}
    for seed in range(20):
        draw = Random(seed)
        sizes = []
        for _ in later:  # pieces that fill the time before exactly
            cuts = [0, *sorted(draw.randint(1, 99) for _ in range(3)), 100]
            sizes += [(end - begin) / 10 for begin, end in pairwise(cuts)]
        draw.shuffle(sizes)
        rows: list[list[float | None]] = [[size, size] for size in [*sizes, 1.0, 1.0]]
        assert Packed(rows, [], full(2), fixed=later, apart=later).solve(30_000)[4] == pytest.approx(10.0)


SOON: list[list[float | None]] = [[1.0], [1.0]]


@pytest.mark.parametrize(
    ("seconds", "bandwidth", "more"),
    [
        ([[1e308], [1e308]], [[None]], {}), ([[1e16]], [[None]], {}), (SOON, [[None, 1e-310], [1.0, None]], {}),
        ([2.0, 1.0], [[None]], {"speed": [1e-300]}), (SOON, [[None]], {"fixed": {0: (0, -1e300, 0.0)}}),
        (SOON, [[None]], {"weights": {0: 1e308}}), (SOON, [[None]], {"joules": [[1e300], [0.0]]}),
    ],
)  # fmt: skip
def test_numbers_whose_sums_would_end_nowhere_are_refused(seconds: Any, bandwidth: Any, more: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"finite|too little|entries|goes from"):
        Packed(seconds, [], bandwidth, **more).solve()


def test_a_step_without_a_device_is_said_by_every_way_in_and_every_time() -> None:
    packed = Packed([[None]], [], [[None]])
    for _ in range(2):
        with pytest.raises(Infeasible) as error:
            packed.solve(100)
        assert error.value.rule == "device"
    with pytest.raises(ValueError, match="can run nowhere"):
        packed.heft()
    with pytest.raises(ValueError, match="once is the least"):
        Packed(SOON, [], [[None]]).heft(0)
    apart = Packed([[1.0, None], [None, 1.0]], [(0, 1, 1.0)], [[None, None], [None, None]])
    rules = []
    for _ in range(2):
        with pytest.raises(Infeasible) as error:
            apart.solve()
        rules.append(error.value.rule)
    assert rules == ["link", "link"]


def test_what_is_given_takes_its_slots_in_the_order_of_time() -> None:
    packed = Packed([[1.0]] * 4, [], [[None]], slots=[2], fixed={0: (0, 5.0, 10.0), 1: (0, 0.0, 3.0), 2: (0, 0.0, 3.0)})
    assert packed.solve()[1][3] == 3.0


def test_no_device_can_make_an_owner_wait_for_ever() -> None:
    costs = Costs()
    for k in range(20):
        costs.saw("nav.route", CAR.id, 1.7e308, 1.7e308, float(k))
    made = assign([Job(f"s{i}", "nav.route") for i in range(12)], [CAR, HUB], costs, near)
    assert {made.steps[f"s{i}"].device for i in range(12)} == {HUB.id}


@pytest.mark.parametrize(
    ("devices", "starts"), [([0], [0.0]), ([0, 0, 0], [0.0, 0.0, 0.0]), ([0, 0], [0.0, nan]), ([0, 0], [inf, 0.0])]
)
def test_what_was_planned_must_fit_the_steps(devices: list[int], starts: list[float]) -> None:
    with pytest.raises(ValueError, match="incumbent"):
        Packed([[1.0], [1.0]], [], [[None]]).solve(1, incumbent=(devices, starts))


def test_what_other_plans_do_takes_room_and_counts_for_nothing_else() -> None:
    seconds, links = [[1.0, 5.0], [3.0, 3.0]], full(2)
    for work in (0, 2000):
        packed = Packed(seconds, [], links, fixed={1: (0, 0.0, 3.0)}, apart=[1])
        device, start, end, late, makespan, *_ = packed.solve(work)
        assert (device, start[0], end[0], late, makespan) == ([0, 0], 3.0, 4.0, [], 4.0)
        far = Packed(seconds, [], links, fixed={1: (0, 50.0, 90.0)}, apart=[1]).solve(work)
        assert (far[0], far[1][0], far[4], far[5], far[6]) == ([0, 0], 0.0, 1.0, 1.0, True)
    with pytest.raises(ValueError, match="not fixed"):
        Packed(seconds, [], links, apart=[0])


# ---- many free steps


def test_free_steps_go_to_one_of_their_two_best_devices_and_not_all_to_one() -> None:
    steps, each = 1000, 3
    candidates, seconds = array("i", [0, 1, 2] * steps), array("d", [1.0, 1.0, 9.0] * steps)
    free_at, chosen = array("d", [0.0, 0.0, 0.0]), array("i", [0] * steps)
    assert fleet(candidates, seconds, free_at, chosen) == steps
    assert each * steps == len(candidates)
    counts = [chosen.count(p) for p in range(3)]
    assert all(abs(end - sum(seconds[i * each + p] for i, p in enumerate(chosen) if p == q)) < 1e-6
               for q, end in enumerate(free_at))  # fmt: skip
    assert 400 < counts[0] < 520
    assert 400 < counts[1] < 520
    assert fleet(array("i", [-1, 7]), array("d", [1.0, 1.0]), array("d", [0.0]), found := array("i", [0])) == 0
    assert list(found) == [-1]
    with pytest.raises(ValueError, match="do not fit"):
        fleet(array("i", [0, 1, 2]), array("d", [1.0] * 3), array("d", [0.0] * 3), array("i", [0, 0]))


def test_a_hundred_thousand_steps_are_placed() -> None:
    n = 100_000
    found = schedule(Problem([[1.0, 1.0]] * n, [], [[None, 1.0], [1.0, None]]))
    assert found.makespan == n / 2
    chain = schedule(Problem([[1.0, 2.0]] * n, [(i, i + 1, 1.0) for i in range(n - 1)], [[None, 1.0], [1.0, None]]))
    assert (chain.makespan, chain.proven) == (n, True)


def test_as_many_slots_as_steps_take_no_table_of_both() -> None:
    n = 100_000
    assert Packed([[1.0]] * n, [], [[None]], slots=[n]).memory < 100e6


def test_two_threads_cannot_solve_one_problem_at_once() -> None:
    packed = Packed([[1.0, 2.0, 3.0]] * 50, [(i, i + 7, 1.0) for i in range(43)], full(3))
    want, found, done = packed.solve(300_000), [], Event()

    def solve_on() -> None:
        while not done.is_set():
            with suppress(ValueError):  # the other one was quicker
                found.append(packed.solve(300_000))

    def insist() -> None:
        for _ in range(20_000):
            packed.solve()

    thread = Thread(target=solve_on)
    thread.start()
    try:
        with pytest.raises(ValueError, match="another thread solves it"):
            insist()
    finally:
        done.set()
        thread.join()
    assert all(answer == want for answer in found)


def test_a_time_cuts_the_work_short_and_leaves_a_schedule() -> None:
    rows: list[list[float | None]] = [[1.0 + (i * p) % 7 for p in range(1, 9)] for i in range(200)]
    problem = Problem(rows, [(i, i + k, 1.0) for i in range(190) for k in (3, 7)], full(8))
    for budget_us in (1.0, 3000.0):
        found = schedule(problem, work=10**12, budget_us=budget_us)
        assert violations(problem, found) == []
        assert found.proven or found.work < 10**12


def test_the_longest_path_is_a_bound_on_many_devices_too() -> None:
    chain = [(i, i + 1, 1.0) for i in range(4)]
    for m in (3, 17):
        found = schedule(Problem([[2.0] + [3.0] * (m - 1)] * 5, chain, full(m), available=[(1.0, None)] * m))
        assert (found.makespan, found.bound, found.proven) == (11.0, 11.0, True)


def test_a_cost_may_be_a_whole_number() -> None:
    assert Packed([6, 4.0], [], [[None]], speed=[2.0]).solve()[4] == 5.0


def test_what_can_not_be_packed_twice_or_used_unpacked_says_so() -> None:
    packed = Packed([[1.0]], [], [[None]])
    with pytest.raises(ValueError, match="packed already"):
        packed.__init__([[1.0]], [], [[None]])  # type: ignore[misc]
    for use in (lambda p: p.solve(), lambda p: p.heft()):
        with pytest.raises(ValueError, match="nothing is packed"):
            use(Packed.__new__(Packed))


# ---- energy


def powered(name: str, kind: str, joules: float | None, seconds: float = 1.0, **resources: object) -> Device:
    offers = (Offer("x.y", "d", "read", seconds=seconds, joules=joules), Offer(f"{name}.own", "d", "read", seconds=1.0))
    return Device(f"id-{name}", name, kind, offers=offers, resources=Resources(**resources))  # type: ignore[arg-type]


EMPTYING = powered("pixel", "phone", 5.0, battery=0.2)
FULL = powered("nova", "phone", 5.0, battery=0.9)
CHARGED = powered("kona", "car", 5.0, battery=0.5)
PLUGGED = powered("hub1", "hub", 5.0)


@pytest.mark.parametrize(
    ("devices", "expected"),
    [
        ([EMPTYING, FULL, CHARGED, PLUGGED], "id-hub1"),
        ([EMPTYING, FULL, CHARGED], "id-kona"),
        ([EMPTYING, FULL], "id-nova"),
        ([FULL, powered("tab", "phone", 5.0, battery=0.1, charging=True)], "id-tab"),
        ([FULL, powered("tab", "phone", 1.0, battery=0.9)], "id-tab"),
        ([powered("quick", "phone", 500.0, 0.5, battery=0.1), PLUGGED], "id-quick"),
        ([FULL, powered("silent", "phone", None, battery=0.9)], "id-nova"),
        ([powered("silent", "phone", None, battery=0.2), FULL], "id-nova"),
    ],
)
def test_of_places_that_are_as_quick_the_one_whose_joules_are_worth_least_is_taken(
    devices: list[Device], expected: str
) -> None:
    assert where([Job("a", "x.y")], devices) == {"a": expected}


def test_nothing_is_later_for_the_sake_of_energy() -> None:
    jobs = [Job("a", "x.y"), Job("b", "pixel.own", ("a",))]
    assert where(jobs, [EMPTYING, PLUGGED])["a"] == "id-pixel"


def test_what_has_time_goes_where_its_energy_is_cheap_and_says_so() -> None:
    slow = powered("hub1", "hub", 5.0, 1.5)
    jobs = [Job("a", "x.y"), Job("b", "pixel.own"), Job("c", "pixel.own", ("b",)), Job("d", "pixel.own", ("a", "c"))]
    made = assign(jobs, [EMPTYING, slow], Costs(), near)
    assert made.makespan == pytest.approx(3.0)
    assert made.steps["a"].device == "id-hub1"
    assert made.why("a") == "soon enough here, and its energy is dearer on pixel"
    assert assign([jobs[0]], [EMPTYING, PLUGGED], Costs(), near).why("a") == (
        "no later here than on pixel, where its energy is dearer"
    )


CHAIN = [(0, 1, 0.0), (1, 2, 0.0)]
"""Three steps of 2 s on device 2, beside which the others of a problem have time."""


@pytest.mark.parametrize(
    ("carry", "deps", "devices", "energy"),
    [
        (0.0, [], [1, 1], 3.0 + 2.0),  # each on its own
        (9.0, [(3, 4, 1.0)], [1, 1], 3.0 + 2.0),  # one alone would take more: both at once
        (9.0, [(3, 4, 1.0), (0, 3, 1.0)], [1, 1], 3.0 + 9.0 + 2.0),
        (0.5, [(3, 4, 4.0), (4, 2, 2.0)], [1, 1], 3.0 + 2.0 + 1.0),
    ],
)
def test_what_has_time_beside_the_longest_chain_is_where_it_takes_least_energy(
    carry: float, deps: list[tuple[int, int, float]], devices: list[int], energy: float
) -> None:
    chain, other = [None, None, 2.0], [0.5, 0.75, None]
    problem = Problem(
        [chain, chain, chain, other, other], CHAIN + deps, [[1e6] * 3] * 3,
        joules=[[0.0, 0.0, 1.0]] * 3 + [[5.0, 1.0, 0.0]] * 2,
        carry=[[0.0 if p == q else carry for p in range(3)] for q in range(3)],
    )  # fmt: skip
    found = schedule(problem, work=2000)
    assert (found.makespan, found.proven, found.device[3:]) == (6.0, True, devices)
    assert found.energy == pytest.approx(energy)
    assert found.work < 500


def test_a_list_schedule_breaks_ties_by_the_energy_of_the_run_and_of_its_inputs_way_there() -> None:
    links, carry = [[None, 1e6, 1e6]] * 3, [[0.0, 5.0, 1.0]] * 3
    rows = [[1.0, None, None], [None, 1.0, 1.0]]
    plain = Problem(rows, [(0, 1, 1.0)], links, joules=[[0.0, 0.0, 0.0], [0.0, 2.0, 3.0]], carry=carry)
    assert schedule(plain).device == [0, 2]
    assert schedule(replace(plain, carry=[])).device == [0, 1]
    assert schedule(replace(plain, slots=[2, 2, 2])).device == [0, 2]


@st.composite
def priced(draw: st.DrawFn) -> Problem:
    problem = draw(problems())
    n, m = len(problem.seconds), len(problem.bandwidth)
    worth = st.lists(st.sampled_from([0.0, 0.1, 1.0, 2.5, 7.0]), min_size=m, max_size=m)
    joules, carry = (draw(st.lists(worth, min_size=k, max_size=k)) for k in (n, m))
    return replace(problem, joules=joules, carry=carry)


@unhurried
@given(priced())
def test_no_rule_bends_and_nothing_gets_longer_for_less_energy_and_more_work_takes_no_more_of_it(
    problem: Problem,
) -> None:
    found = [solved(problem, work) for work in (0, 200, 1000, 5000, 20000)]
    for plan in found:
        assert violations(problem, plan) == []
        assert not plan.proven or (not plan.late and plan.makespan == pytest.approx(plan.bound, rel=1e-9))
    for less, more in pairwise(found):
        if less.proven:
            assert more.proven
            assert more.energy <= less.energy * (1 + 1e-6)


@unhurried
@given(priced(), st.data())
def test_what_is_only_cheaper_moves_nothing_that_runs_where_a_gain_is_asked_for(
    problem: Problem, data: st.DataObject
) -> None:
    p = replace(problem, deadlines={})
    best = solved(replace(p, joules=[], carry=[]), 500)
    packed = Packed(p.seconds, p.deps, p.bandwidth, p.latency, p.slots, p.available, p.exclusive, p.fixed,
                    joules=p.joules, carry=p.carry)  # fmt: skip
    again = Schedule(*packed.solve(2000, incumbent=(best.device, best.start), margin=0.05))
    if best.proven:
        assert again.device == best.device


def test_what_goes_quicker_from_there_is_not_said_to_be_for_the_sake_of_energy() -> None:
    costs = Costs()
    for k in range(20):
        costs.saw("x.y", "id-kona", 2.0, 5e6, float(k))
    made = assign([Job("a", "x.y"), Job("b", "kona.own", ("a",))], [EMPTYING, CHARGED], costs, near)
    assert made.why("a") == "what follows it goes quicker from here than from pixel"


@pytest.mark.parametrize("order", [1, -1])
def test_of_places_that_are_as_quick_the_one_whose_radio_draws_less_is_taken(order: int) -> None:
    costs = Costs()
    for k in range(20):
        costs.saw("hub1.own", "id-hub1", 1.0, 1e6, float(k))
    source = Device("id-hub1", "hub1", "hub", offers=(Offer("hub1.own", "d", "read", seconds=1.0),))
    near_by = [powered(name, "phone", 5.0, battery=0.5, radio=name) for name in ("wifi", "cellular")][::order]
    jobs = [Job("a", "hub1.own"), Job("b", "x.y", ("a",))]
    assert assign(jobs, [source, *near_by], costs, near).steps["b"].device == "id-wifi"


def test_what_the_radios_draw_counts_at_both_ends_and_by_their_kind() -> None:
    costs = Costs()
    for k in range(20):
        costs.saw("pixel.own", "id-pixel", 1.0, 1e6, float(k))
    jobs = [Job("a", "pixel.own"), Job("b", "x.y", ("a",))]

    def link(p: str, q: str) -> LinkQuality:
        return LinkQuality(0.0, 1e6)

    takes = {}
    for kind in ("wifi", "cellular", "ethernet"):
        phone = powered("pixel", "phone", 5.0, 9.0, battery=0.5, radio=kind)
        made = assign(jobs, [phone, powered("hub1", "hub", 5.0, radio="ethernet")], costs, link)
        (there, here) = made.candidates("b")
        assert (there.device, here.device) == ("hub1", "pixel")
        assert here.joules == 5.0
        takes[kind] = there.joules
        assert made.joules == there.joules  # nobody says what the other step takes
    sent, wire = RADIOS["wifi"], RADIOS["ethernet"]
    assert takes["wifi"] == pytest.approx(5.0 + 1e6 * (sent.send + wire.receive) + sent.watts * 1.0)
    assert takes["ethernet"] < takes["wifi"] < takes["cellular"]


def test_where_nobody_tells_of_energy_none_is_predicted_and_none_weighed() -> None:
    made = assign([Job("a", "nav.route")], [PIXEL, CAR], Costs(), near)
    assert made.joules is None
    assert all(c.joules is None for c in made.candidates("a"))
    assert not made._scene.carry
    assert not made._scene.dear


def test_what_is_done_is_not_expected_to_take_anything_any_more() -> None:
    jobs = [Job("a", "x.y"), Job("b", "x.y")]
    assert assign(jobs, [PLUGGED], Costs(), near).joules == 10.0
    gone = {"a": Placed("id-gone", -2.0, -1.0)}
    assert assign(jobs, [PLUGGED], Costs(), near, fixed=gone).joules == 5.0
    assert (
        assign(jobs, [powered("silent", "hub", None), PLUGGED], Costs(), near, fixed=gone).steps["b"].device
        == "id-silent"
    )


@unhurried
@given(st.floats(), st.floats(), st.floats(), st.sampled_from(["phone", "hub"]))
def test_no_energy_that_a_device_tells_can_break_an_assignment(
    joules: float, battery: float, capacity: float, kind: str
) -> None:
    told = powered("a", kind, joules, battery=battery, capacity=capacity)
    jobs = [Job("1", "a.own"), Job("2", "x.y", ("1",))]
    made = assign(jobs, [told, powered("b", "phone", joules, battery=battery)], Costs(), near)
    assert made.why("2")
    assert made.joules is None or 0 <= made.joules < inf
