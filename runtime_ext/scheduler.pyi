from collections.abc import Collection, Mapping, Sequence

class Infeasible(Exception):
    step: int
    rule: str
    def __init__(self, step: int, rule: str) -> None: ...

def solve(
    seconds: Sequence[Sequence[float | None]],
    deps: Collection[tuple[int, int, float]],
    bandwidth: Sequence[Sequence[float | None]],
    latency: Sequence[Sequence[float]] = (),
    slots: Sequence[int] = (),
    available: Sequence[tuple[float, float | None]] = (),
    exclusive: Sequence[Sequence[int]] = (),
    fixed: Mapping[int, tuple[int, float, float]] | None = None,
    deadlines: Mapping[int, float] | None = None,
) -> tuple[list[int], list[float], list[float], float, list[int]]: ...
