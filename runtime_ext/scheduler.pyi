from collections.abc import Collection, Mapping, Sequence
from typing import Any, final

class Infeasible(Exception):
    step: int
    rule: str
    def __init__(self, step: int, rule: str) -> None: ...

@final
class Packed:
    def __init__(
        self,
        seconds: Sequence[Sequence[float | None] | float],
        deps: Collection[tuple[int, int, float]],
        bandwidth: Sequence[Sequence[float | None]],
        latency: Sequence[Sequence[float]] = (),
        slots: Sequence[int] = (),
        available: Sequence[tuple[float, float | None]] = (),
        exclusive: Sequence[Sequence[int]] = (),
        fixed: Mapping[int, tuple[int, float, float]] | None = None,
        deadlines: Mapping[int, float] | None = None,
        weights: Mapping[int, float] | None = None,
        joules: Sequence[Sequence[float]] = (),
        carry: Sequence[Sequence[float]] = (),
        speed: Sequence[float] = (),
        apart: Collection[int] = (),
        radio: Sequence[bool] = (),
    ) -> None: ...
    def solve(
        self,
        work: int = 0,
        budget_us: float = 0.0,
        seed: int = 1,
        incumbent: tuple[Sequence[int], Sequence[float]] | None = None,
        margin: float = 0.0,
    ) -> tuple[list[int], list[float], list[float], list[int], float, float, bool, float, float, int]: ...
    def transfers(self) -> dict[int, tuple[float, float]]: ...
    def heft(self, times: int = 1) -> float: ...
    @property
    def memory(self) -> int: ...

def fleet(candidates: Any, seconds: Any, free_at: Any, chosen: Any, seed: int = 1) -> int: ...
