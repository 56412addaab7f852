"""What of a run is not as it was planned: steps that take long, steps that are kept waiting, links that changed.

Whatever is found only has the rest looked at again: what is assigned stays unless something else is better by a margin
(placing.py), so that a look too many costs its time and moves nothing. Nothing here polls: each step says when it would
be late, and links are looked at when somebody measured them.
"""

from __future__ import annotations

from math import inf

from .costs import SMALL
from .device import LinkQuality
from .plan import Plan
from .run import GOOD, OFF_PART, OFF_SECONDS, Checked, Desk, Run, StepState
from .scene import BANDWIDTH, RTT, SIZE
from .scheduler import Placed

OVERRUN_FACTOR, OVERRUN_SLACK = 3.0, 1.0
"""A step overruns when it takes this many times its predicted time and this many seconds more."""
LINK_FACTOR = 1.5
"""What is still to go over a link must take that many times as long as was thought, or as short (and OFF_SECONDS more
or less), for the rest to be looked at again; then what the link is by now is what is thought."""
LINK_SECONDS = 1.0
"""At most so often: a link that swings does not keep its runs busy."""


class Watch(Run):
    """A run, and what is unexpected about it."""

    def __init__(self, desk: Desk, run_id: str, plan: Plan, checked: Checked) -> None:
        super().__init__(desk, run_id, plan, checked)
        self._links: dict[str, dict[str, LinkQuality]] = {}
        """How the links were when the steps were assigned, by sender and receiver."""
        self._link_off = False
        self._links_rest = -inf
        """Until when links are not looked at again."""

    def next_late(self) -> float:
        """When to look next, if nothing happens before."""
        at = self._links_rest if self._link_off else inf
        for s in self.steps.values():
            if s.state == "running":
                at = min(at, self._off_at(s))
            elif s.state == "armed" and s.predicted is not None and s.predicted.start < at:
                at = min(at, self._kept_at(s, s.predicted.start))
        return at

    # -- steps that take long ----------------------------------------------------------------------------------------

    def _off_at(self, s: StepState) -> float:
        """When a running step is later than was thought, or overruns."""
        if s.predicted is None or s.began is None or s.consent:
            return inf
        length = s.predicted.end - s.predicted.start
        late = s.began + length * (1 + OFF_PART) + OFF_SECONDS
        return late if s.slow else min(late, self._overrun_at(s, s.began, length))

    @staticmethod
    def _overrun_at(s: StepState, began: float, length: float) -> float:
        return began + (length if s.thought is None else s.thought) * OVERRUN_FACTOR + OVERRUN_SLACK

    def find_late(self, now: float) -> list[StepState]:
        """Look at the running steps; those that overran, and are later than was thought once more, are returned."""
        slow = []
        for s in self.steps.values():
            if s.state != "running" or s.predicted is None or s.began is None or now < self._off_at(s):
                continue
            at, length, took = s.predicted.start, s.predicted.end - s.predicted.start, now - s.began
            s.slow = s.slow or now >= self._overrun_at(s, s.began, length)
            s.thought = length if s.thought is None else s.thought
            s.predicted = Placed(s.device, at, at + 2 * took)  # expect as long again
            self.replan(f"{s.step.id} takes longer than predicted on {self.mesh.name_of(s.device)}")
            if s.slow:
                slow.append(s)
        return slow

    # -- steps that are kept waiting ---------------------------------------------------------------------------------

    def _kept_at(self, s: StepState, due: float) -> float:
        """When an armed step should have begun that was to begin at `due`, and that be known here; inf: it lacks what
        it needs."""
        if not s.told or s.asking or s.away_since is not None:
            return inf
        for need in s.needs:
            p = self.steps[need]
            if p.state not in GOOD or p.ended is None:
                return inf
            way = self.mesh.link_between(p.device, s.device) if p.device != s.device else None
            if way is not None and way.bandwidth is None and p.size >= SMALL:
                return inf  # nobody knows how long that takes
            due = max(due, p.ended + (0.0 if way is None else _travel(way, 1, p.size) * (1 + OFF_PART)))
        back = self.mesh.link_between(self.mesh.id, s.device) if s.device != self.mesh.id else None
        due = max(due, self._desk.full.get(s.device, (0.0, -inf))[1])
        return due + OFF_SECONDS + (0.0 if back is None else _travel(back, 2, 0.0))

    def find_kept(self, now: float) -> None:
        """Look at the steps that should have begun: a device that does not begin them is full of what others run there.

        Nobody says for how long: for as long again as it has been so far. That way a step waits for about what it would
        lose by going elsewhere, for twice that at most, and a device that stays full is looked at less and less often
        (the rent-or-buy rule: Karlin, Manasse, Rudolph, Sleator, "Competitive snoopy caching", Algorithmica 3, 1988).
        """
        for s in self.steps.values():
            if s.state != "armed" or s.predicted is None or now < s.predicted.start:
                continue
            if now < (due := self._kept_at(s, s.predicted.start)):
                continue
            since, until = self._desk.full.get(s.device, (due, -inf))
            if due > until + (until - since):  # it never was, or that is long ago
                since = due - OFF_SECONDS
            self._desk.full[s.device] = since, now + (now - since)
            self.replan(f"{s.step.id} is kept waiting on {self.mesh.name_of(s.device)}")

    # -- links that changed ------------------------------------------------------------------------------------------

    def link_changed(self, device: str) -> None:
        """Some link of a device was measured, or announced, anew."""
        if not self._link_off and self._off_link(device):
            self._link_off = True
            self.poke()

    def find_links(self, now: float) -> None:
        """Have the rest looked at again if some link is not what it was, but not too often."""
        if not self._link_off or now < self._links_rest:
            return
        self._link_off = False
        if why := self._off_link():
            self._links_rest = now + LINK_SECONDS
            self.replan(why)

    def _off_link(self, device: str = "") -> str:
        """A link (of that device) on which what steps that have not begun read would take much longer, or shorter."""
        for sender, (count, size) in self._to_send().items():
            then = self._links.get(sender, {})
            for receiver in then if device in ("", sender) else [device] if device in then else []:
                fresh = self.mesh.link_between(sender, receiver)
                if fresh is None or fresh == then[receiver]:
                    continue
                before, after = _travel(then[receiver], count, size), _travel(fresh, count, size)
                less, more = sorted((before, after))
                if more >= less * LINK_FACTOR and more - less >= OFF_SECONDS:
                    ends = f"{self.mesh.name_of(sender)} and {self.mesh.name_of(receiver)}"
                    return f"the link between {ends} is {'slower' if after > before else 'faster'} than it was"
        return ""

    def _to_send(self) -> dict[str, tuple[int, float]]:
        """By device, how many results it makes or has for steps that have not begun, and their bytes."""
        found: dict[str, tuple[int, float]] = {}
        for s in self.steps.values():
            for need in s.needs if s.state in ("waiting", "armed") else ():
                p = self.steps[need]
                size = p.size if p.state in GOOD else self._desk.costs.size(p.step.skill, SIZE)
                if p.device:
                    count, sizes = found.get(p.device, (0, 0.0))
                    found[p.device] = count + 1, sizes + size
        return found


def _travel(link: LinkQuality, count: int, size: float) -> float:
    """Seconds that `count` results of together `size` bytes take, one after the other."""
    rtt = RTT if link.rtt is None else link.rtt
    rate = link.bandwidth if link.bandwidth is not None and link.bandwidth >= 1 else BANDWIDTH
    return count * rtt / 2 + size / rate
