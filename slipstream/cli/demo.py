"""`slip demo`: the tour. Three real daemons find each other, run a trip together, and lose one in the middle."""

from __future__ import annotations

import json
import signal
import sys
import tempfile
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import fill
from typing import Any, Final

from .. import control
from ..core.errors import SlipError
from .output import paint, show_json
from .throwaway import Devices, Heard
from .timeline import Timeline, ascii_only

KINDS: Final = ("phone", "car", "hub")
VICTIM: Final = "hub"
FIND_SECONDS, RUN_SECONDS = 15.0, 30.0
PLAN: Final = Path(__file__).parents[1] / "trip.json"


def add(parser: ArgumentParser) -> None:
    """The arguments of `slip demo`."""
    parser.add_argument("--keep", action="store_true", help="leave the daemons running, and say how to talk to them")


def main(args: Namespace) -> int:
    """Give the tour; 0 only if everything in it really happened."""
    told = Told(args.json)
    told.say("slip demo: a phone, a car and a home hub, on this computer.")
    told.say("The devices are simulated; everything between them is real: three processes,")
    told.say("each with its own key and port. They find each other by mDNS on loopback, and")
    told.say("every link is TLS 1.3 with both ends proven. Nothing leaves this computer.")
    told.say("")
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    folder = Path(tempfile.mkdtemp(prefix="slipstream-demo-"))
    try:
        with Devices(folder, keep=args.keep) as devices:
            tour = Tour(devices, told)
            tour.meet()
            tour.travel()
            claims = tour.claims()
    except SlipError as error:
        told.summary(ok=False, failed=str(error), error=error.to_wire())
        if args.json:
            return error.exit_code
        raise
    wrong = [claim for claim, true in claims.items() if not true]
    told.drawing(tour.timeline)
    said = tour.result["output"]["text"] if not wrong else f"This did not happen: {'; '.join(wrong)}."
    told.say(f"\n{fill(said, 80)}", "bad" if wrong else "")
    told.summary(
        ok=not wrong, failed="; ".join(wrong) or None, claims=claims, seconds=time.time() - told.began,
        state=tour.result["state"], output=tour.result["output"], where=tour.timeline.where(), moved=tour.moved,
        killed=VICTIM, noticed_ms=tour.noticed_ms, pids=tour.pids, folder=str(folder), kept=args.keep,
    )  # fmt: skip
    _next(told, devices if args.keep else None)
    return 1 if wrong else 0


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


class Told:
    """What the person, or with `--json` the program, is told."""

    def __init__(self, as_json: bool) -> None:
        self.began = time.time()
        self._json = as_json
        self.plain = "utf" not in (sys.stdout.encoding or "").lower()

    def say(self, text: str, style: str = "") -> None:
        """A line of prose."""
        if not self._json:
            text = ascii_only(text) if self.plain else text
            print(paint(text, style) if style else text, flush=True)

    def happened(self, at: float, device: str, text: str, style: str = "", **data: Any) -> None:
        """Something happened on a device at a time (`time.time()`)."""
        if self._json:
            show_json({"seconds": round(at - self.began, 4), "device": device, **data})
        else:
            self.say(f"{at - self.began:6.2f} s  {device:<6} {text}"[:80], style)

    def drawing(self, timeline: Timeline) -> None:
        """The run as bars."""
        self.say("\nWho did what, when, and why there (0 s is the start of the run):")
        for line in timeline.lines(plain=self.plain):
            self.say(line, "dim" if "here because" in line or line.startswith("      ") else "")

    def summary(self, **data: Any) -> None:
        """The last line of `--json`."""
        if self._json:
            show_json({"event": "summary", **data})


@dataclass
class Tour:
    """The story, and what is needed to tell whether it is true."""

    devices: Devices
    told: Told
    timeline: Timeline = field(default_factory=Timeline)
    result: dict[str, Any] = field(default_factory=dict)
    moved: dict[str, str] = field(default_factory=dict)
    """Steps that the victim held and another device ended, and which."""
    pids: dict[str, int] = field(default_factory=dict)
    noticed_ms: float | None = None
    _up: dict[str, float] = field(default_factory=dict)
    _found: dict[tuple[str, str], float] = field(default_factory=dict)
    _linked: dict[tuple[str, str], float] = field(default_factory=dict)
    _shown: set[tuple[str, str]] = field(default_factory=set)
    _killed_at: float = 0.0
    _only_there: set[str] = field(default_factory=set)
    _long: set[str] = field(default_factory=set)
    """Steps that are predicted to take so long that their start is worth a line."""
    _held: set[str] = field(default_factory=set)

    def meet(self) -> None:
        """Start the devices and wait until each lists both others as reachable."""
        for kind in KINDS:
            daemon = self.devices.start(kind, kind, [kind])
            self.pids[kind] = daemon.process.pid
            self.told.happened(daemon.began, kind, f"starts: a simulated {kind}, process {daemon.process.pid}",
                               event="started", pid=daemon.process.pid, simulated=True)  # fmt: skip
        self.devices.wait(self._met, FIND_SECONDS, "the devices' finding each other")
        simulated = True
        for kind in KINDS:
            status = control.ask(self.devices.daemons[kind].state, "status")
            there = {p["name"]: p["state"] for p in status["peers"]}
            if {n for n, state in there.items() if state in ("linked", "via")} != set(KINDS) - {kind}:
                raise SlipError(f"the {kind} does not reach both others", f"it lists {there}")
            simulated &= all(p["simulated"] for p in status["peers"])
        words = "each lists both others as reachable" + (", and as simulated" if simulated else "")
        self.told.happened(time.time(), "all", words, "good", event="met", simulated=simulated)

    def _met(self, heard: Heard) -> bool:
        event, device = heard.event, heard.device
        kind, who = event.get("kind"), self.devices.names.get(event.get("device", ""), "")
        if kind == "node.started":
            self._up[device] = heard.at
            ms = round(1000 * (heard.at - self.devices.daemons[device].began))
            port = int(str(event["addresses"][0]).rpartition(":")[2])
            self.told.happened(heard.at, device, f"is up, on port {port}", event="up", port=port, ms=ms)
        elif kind == "discovery.found" and who:  # other meshes may be about on this computer: they stay strangers
            self._found.setdefault((device, who), heard.at)
        elif kind == "device.joined":
            self._linked[device, who] = heard.at
        for pair in [pair for pair in self._linked if pair not in self._shown and set(pair) <= set(self._up)]:
            self._show_link(*pair)
        return len(self._shown) == len(KINDS) * (len(KINDS) - 1)

    def _show_link(self, device: str, who: str) -> None:
        """Who was found by whom, and how long after both were up."""
        self._shown.add((device, who))
        both = max(self._up[device], self._up[who])
        linked, found = self._linked[device, who], self._found.get((device, who))
        by_me = found is not None and found <= linked
        after = round(1000 * (linked - both))
        how = f"found the {who} by mDNS" if by_me else f"was found by the {who}"
        text = f"{how}; linked, {after} ms after both were up"
        found_ms = round(1000 * (found - both)) if found is not None and by_me else None
        self.told.happened(linked, device, text, event="linked", who=who, found_ms=found_ms, linked_ms=after)

    def travel(self) -> None:
        """Run the trip, and pull the plug of a device that still has something to do."""
        plan = json.loads(PLAN.read_text(encoding="utf-8"))
        self.told.say(f'\nThe trip: "{plan["goal"]}".')
        self.told.say(f"{len(plan['steps'])} steps, owned by the phone; each goes where it can be done best.\n")
        phone = self.devices.daemons["phone"].state
        run = control.ask(phone, "run", {"plan": plan, "detach": True})["run"]["run"]
        self.devices.wait(lambda heard: self._travelled(heard, run), RUN_SECONDS, "the end of the trip")
        self.result = control.ask(phone, "runs.show", {"run": run})["run"]

    def _travelled(self, heard: Heard, run: str) -> bool:
        event, at = heard.event, heard.at
        if heard.device == VICTIM and heard.code is not None:
            self.told.happened(at, VICTIM, "its process is gone", "bad", event="gone", code=heard.code)
        if heard.device != "phone":
            return False
        kind = event.get("kind", "")
        if kind == "link.down" and self._killed_at and self.noticed_ms is None:
            self.noticed_ms = round(1000 * (at - self._killed_at), 1)
            text = f"lost the {event['name']}, {self.noticed_ms:g} ms after the kill"
            self.told.happened(at, "phone", text, "busy", event="noticed", who=event["name"], ms=self.noticed_ms)
        if event.get("run") != run:
            return False
        self.timeline.see(event)
        step = event.get("step", "")
        if kind == "run.assigned":
            self._assigned(at, event)
        elif kind == "step.started" and step in self._long:
            self.told.happened(at, event["name"], f"▶ {step} ({event['skill']})", event="step.started", step=step)
        elif kind == "step.done":
            took = "" if event["seconds"] is None else f" in {event['seconds'] * 1000:.0f} ms"
            word = "not needed" if event["state"] == "skipped" else event["state"] + took
            good = event["state"] in ("done", "skipped", "submitted")
            text = f"{'✓' if good else '✗'} {step} ({event['skill']}): {word}"
            self.told.happened(at, event["name"], text, "" if good else "bad", event="step.done", step=step,
                               state=event["state"], took=event["seconds"])  # fmt: skip
        if not self._killed_at and (held := self._held_by_victim()):
            self._kill(held)
        return bool(kind == "run.done")

    def _assigned(self, at: float, event: Mapping[str, Any]) -> None:
        """Show what was decided: everything at first, then what moved."""
        for step, placed in event["assignment"].items():
            if placed["device"] == VICTIM and len(placed["refused"]) == len(KINDS) - 1:
                self._only_there.add(step)
            if placed["end"] - placed["start"] >= 0.1:
                self._long.add(step)
            if not self._killed_at:
                continue
            if step in self._held:
                self.moved[step] = placed["device"]
            self.told.happened(at, "phone", f"⇄ plans again ({event['why']}): {step} → {placed['device']}", "busy",
                               event="moved", step=step, to=placed["device"], why=placed["why"])  # fmt: skip
        if not self._killed_at:
            shares: dict[str, int] = {}
            for placed in event["assignment"].values():
                shares[placed["device"]] = shares.get(placed["device"], 0) + 1
            words = ", ".join(f"{count} on the {device}" for device, count in shares.items())
            self.told.happened(at, "phone", f"plans: {words}", event="planned", shares=shares, why=event["why"])

    def _held_by_victim(self) -> list[str]:
        """What the victim is still to do, once all is done that nobody else can do."""
        bars = {bar.step: bar for bar in self.timeline.bars}
        if not self._only_there or any(s not in bars or bars[s].ended is None for s in self._only_there):
            return []
        return [step for step, bar in bars.items() if bar.device == VICTIM and bar.ended is None]

    def _kill(self, held: list[str]) -> None:
        self._killed_at = time.time()
        self._held = set(held)
        pid = self.devices.kill(VICTIM)
        self.timeline.killed[VICTIM] = self._killed_at - self.timeline.began
        text = f"✗ kill -9 {pid}, while it holds: {', '.join(held)}"
        self.told.happened(self._killed_at, VICTIM, text, "bad", event="killed", pid=pid, holding=held)

    def claims(self) -> dict[str, bool]:
        """What this tour shows, and whether it is so."""
        where, killed = self.timeline.where(), self.devices.daemons[VICTIM]
        return {
            "three devices found each other": len(self._shown) == len(KINDS) * (len(KINDS) - 1),
            "the hub was killed with SIGKILL": self._killed_at > 0 and killed.process.wait() == -signal.SIGKILL,
            "the hub held a step then": bool(self._held),
            "every such step was done elsewhere": self._held <= set(self.moved)
            and all(where.get(step) not in (None, VICTIM) for step in self._held),
            "the run was done": self.result["state"] == "done",
            "steps ran on three devices": len(set(where.values())) == len(KINDS),
        }


def _next(told: Told, kept: Devices | None) -> None:
    if kept is None:
        told.say("\nAll processes have ended; nothing is left behind. Next:")
        told.say("  slip demo --keep           leave them running, and talk to them")
        told.say("  slip new skill tea.brew    write a skill of your own, with its test")
        told.say("  slip dev                   try skills on a simulated phone and car")
        return
    alive = [daemon for name, daemon in kept.daemons.items() if name != VICTIM]
    told.say(f"\nThe {' and the '.join(daemon.name for daemon in alive)} go on. Next:")
    told.say(f"  slip --state {alive[0].state} status")
    told.say(f"  slip --state {alive[0].state} call car.soc")
    told.say(f"  slip --state {alive[0].state} skills")
    told.say("To end them:")
    for daemon in alive:
        told.say(f"  slip --state {daemon.state} down")
    told.say(f"  rm -r {kept.folder}")
