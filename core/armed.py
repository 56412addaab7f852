"""What a device holds of the runs that others own: steps that were armed here, and the results that came for them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .errors import SlipError
from .skill import SkillSpec
from .workers import Worker


@dataclass(slots=True)
class Armed:
    """A step that this device will run, runs or ran."""

    step: str
    epoch: int
    key: str
    skill: str
    args: dict[str, Any]
    needs: tuple[str, ...]
    reads: tuple[str, ...]
    when: dict[str, Any] | None
    for_each: dict[str, Any] | None
    seconds: float | None
    sends: set[str]
    makers: dict[str, str]
    """Which device makes each result that it waits for, as its owner says: nobody else may deliver that."""
    priority: int = 0
    """Of its run: what waits for a slot goes by it, among the runs of one owner."""
    asked: bool = False
    """Whether a person was: then how long it took says nothing of the skill."""
    sent: set[str] = field(default_factory=set)
    state: str = "armed"
    queued: bool = False
    """Whether it has all that it needs and waits until fewer others run; it has not begun, so it can be given back."""
    value: Any = None
    size: int = 0
    fresh: bool = False
    """Whether the journal had nothing of its key when it was armed."""
    error: SlipError | None = None
    began: float | None = None
    ended: float | None = None
    worker: Worker | None = None
    asking: int = 0
    """How many questions to a person it waits for: one for each item that it goes through at once."""
    private: bool = False
    """Whether it was given what may not leave this device: nor may what it made of it."""
    spec: SkillSpec | None = None
    """Of the skill, as it was when the step began or its result was found: it says what in the result is private."""

    @property
    def final(self) -> bool:
        """Whether it ended."""
        return self.state not in ("armed", "running")

    def gives_way(self, key: str, epoch: int) -> bool:
        """Whether an order with that key and epoch begins the step anew."""
        return self.epoch <= epoch and (self.state == "armed" or (self.key != key and self.epoch < epoch))


@dataclass(slots=True)
class RunHere:
    """What this device knows of a run: its owner, what was armed here, and the results that came.

    Results that came before anybody armed what reads them wait as `early`, by step and sender; the owner of such a run
    is not known yet, and `sender` is who sent the first of them.
    """

    id: str
    owner: str
    sender: str = ""
    steps: dict[str, Armed] = field(default_factory=dict)
    values: dict[str, tuple[str, Any]] = field(default_factory=dict)
    made: dict[str, Armed] = field(default_factory=dict)
    """The steps whose values here were made here: what of them may not leave is as their specs said then."""
    early: dict[tuple[str, str], tuple[str, Any]] = field(default_factory=dict)
    cancelled: bool = False
