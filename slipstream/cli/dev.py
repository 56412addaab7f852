"""`slip dev`: a simulated phone and car in real processes, with the skill files that somebody is writing.

The files are read again whenever they are saved. Between the two devices there can be a bad network, and either can
fall asleep: `--latency`, `--drop`, `--sleep`.
"""

from __future__ import annotations

import signal
import tempfile
import time
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, Final

from .. import control
from ..core.errors import SlipError, UsageError
from .output import paint, show_json
from .throwaway import LOOPBACK, Daemon, Devices, Heard

KINDS: Final = ("phone", "car")
LOOK_SECONDS: Final = 0.3
UP_SECONDS: Final = 15.0
RELOAD_SECONDS: Final = 10.0


def add(parser: ArgumentParser) -> None:
    """The arguments of `slip dev`."""
    parser.add_argument("file", nargs="*", type=Path, help="a skill file; read anew on every save")
    parser.add_argument("--on", choices=KINDS, default="phone", help="the device that offers them (default: phone)")
    parser.add_argument("--latency", type=_latency, default=0.0, metavar="MS", help="delay each way between the two")
    parser.add_argument("--drop", type=_share, default=0.0, metavar="PERCENT",
                        help="loss on the way: TCP sends again, so bytes come late, or the link ends")  # fmt: skip
    parser.add_argument("--sleep", type=_nap, metavar="DEVICE:SECONDS",
                        help="let a device sleep that long, wake that long, and so on")  # fmt: skip


def main(args: Namespace) -> int:
    """Run until Ctrl-C.

    Raises:
        UsageError: a file is not there.
        SlipError: a device ended.
    """
    files = [path.resolve() for path in args.file]
    for path in files:
        if not path.is_file() or path.suffix != ".py":
            raise UsageError(f"no skill file {path}", "it ends in .py", "slip new skill NAME writes one", field="file")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.default_int_handler)
    with Devices(Path(tempfile.mkdtemp(prefix="slipstream-dev-"))) as devices:
        workshop = Workshop(devices, args.on, files, Said(args.json))
        workshop.start(args.latency, args.drop)
        workshop.work(args.sleep)
    raise AssertionError("work has no end but an exception")


def _latency(text: str) -> float:
    """Milliseconds, as seconds."""
    value = float(text)
    if not 0 <= value <= 10_000:
        raise ArgumentTypeError(f"{text} ms are not within 0 to 10000")
    return value / 1000


def _share(text: str) -> float:
    """Percent, as a share."""
    value = float(text.removesuffix("%"))
    if not 0 <= value <= 90:
        raise ArgumentTypeError(f"{text} % are not within 0 to 90")
    return value / 100


def _nap(text: str) -> tuple[str, float]:
    device, _, seconds = text.partition(":")
    if device not in KINDS or not seconds.replace(".", "", 1).isdigit() or not float(seconds):
        raise ArgumentTypeError(f"{text!r} is not like car:30")
    return device, float(seconds)


@dataclass(frozen=True, slots=True)
class Said:
    """Lines for the person, or objects for a program."""

    as_json: bool

    def __call__(self, text: str, style: str = "", **data: Any) -> None:
        if self.as_json:
            if data:
                show_json(data)
        else:
            print(paint(text, style) if style else text, flush=True)


Specs = dict[str, Mapping[str, Any]]


class Workshop:
    """The two devices, and the files that are watched."""

    def __init__(self, devices: Devices, on: str, files: list[Path], said: Said) -> None:
        self._devices, self._on, self._files, self._said = devices, on, files, said
        self._stamps = self._look()
        self._reloading: float | None = None
        """Since when (monotonic) an answer to a reload is awaited."""
        self._again = False
        self._specs: Specs = {}
        self._up: set[str] = set()

    def start(self, latency: float, drop: float) -> None:
        """Bring both devices up and link them, over a bad network if one is asked for."""
        self._said("slip dev: a simulated phone and a simulated car, as real processes.")
        bad = bool(latency or drop)
        phone = self._start("phone", ["--no-mdns"] if bad else [])
        if bad:
            self._devices.wait(self._is_up, UP_SECONDS, "the start of the phone")
            port = _through_bad_network(phone.port, latency, drop)
            self._said(f"between them: {latency * 1000:g} ms each way, {drop:.0%} lost (TCP sends those again, later)",
                       event="network", latency_ms=latency * 1000, drop=drop)  # fmt: skip
            self._start("car", ["--no-mdns", "--peer", f"{phone.id}=tls://{LOOPBACK}:{port}"])
        else:
            self._start("car", [])
        self._devices.wait(self._linked, UP_SECONDS, "the link of phone and car")
        self._specs = self._offered()
        own = sorted(name for name, spec in self._specs.items() if name not in self._built_in())
        self._said("they are linked.", "good", event="linked", skills=own,
                   state={name: str(daemon.state) for name, daemon in self._devices.daemons.items()})  # fmt: skip
        other = self._devices.daemons["car" if self._on == "phone" else "phone"]
        if own:
            self._said(f"\nThe {self._on} offers {', '.join(own)}. Call it from the {other.name}, in another terminal:")
        else:
            other = self._devices.daemons["phone"]
            self._said("\nCall the car from the phone, in another terminal (skills of your own: slip dev FILE.py):")
        for name in own or ["car.soc"]:
            spec = self._specs[name] if own else {}
            self._said(f"  slip --state {other.state} call {name}{_example(spec)}")
        self._said(
            "\nFiles are read again when they are saved. Ctrl-C ends it all." if own else "\nCtrl-C ends it all."
        )

    def work(self, nap: tuple[str, float] | None) -> None:
        """Reload what is saved, and let a device sleep, until something ends it."""
        asleep, change_at = False, time.monotonic() + nap[1] if nap else float("inf")
        while True:
            try:
                self._heard(self._devices.heard.get(timeout=LOOK_SECONDS))
            except Empty:
                pass
            if nap and time.monotonic() >= change_at:
                asleep, change_at = not asleep, time.monotonic() + nap[1]
                number = signal.SIGSTOP if asleep else signal.SIGCONT
                self._devices.daemons[nap[0]].process.send_signal(number)
                self._said(f"{nap[0]} {'sleeps' if asleep else 'wakes'}", "busy", event="sleep", device=nap[0],
                           asleep=asleep)  # fmt: skip
            self._reload_if_saved()

    def _start(self, kind: str, flags: Iterable[str]) -> Daemon:
        packs = [kind, *(str(path) for path in self._files)] if kind == self._on else [kind]
        return self._devices.start(kind, kind, packs, flags=flags)

    def _is_up(self, heard: Heard) -> bool:
        if heard.event.get("kind") != "node.started":
            return False
        self._devices.daemons[heard.device].port = int(str(heard.event["addresses"][0]).rpartition(":")[2])
        return True

    def _linked(self, heard: Heard) -> bool:
        if heard.event.get("kind") == "device.joined" and heard.event["device"] in self._devices.names:
            self._up.add(heard.device)
        return len(self._up) == len(KINDS)

    # -- reloading ---------------------------------------------------------------------------------------------------

    def _look(self) -> dict[Path, tuple[int, int] | None]:
        found: dict[Path, tuple[int, int] | None] = {}
        for path in self._files:
            try:
                at = path.stat()
                found[path] = (at.st_mtime_ns, at.st_size)
            except OSError:
                found[path] = None  # an editor replaces it just now
        return found

    def _reload_if_saved(self) -> None:
        stamps = self._look()
        if stamps != self._stamps and None not in stamps.values():
            self._stamps, self._again = stamps, True
        now = time.monotonic()
        if self._reloading is not None and now > self._reloading + RELOAD_SECONDS:
            self._reloading = None
            self._said(f"the {self._on} does not say whether it reloaded", "bad", event="reload.silent")
        if self._again and self._reloading is None:
            self._again, self._reloading = False, now
            self._devices.daemons[self._on].process.send_signal(signal.SIGHUP)

    def _heard(self, heard: Heard) -> None:
        if heard.code is not None:
            raise SlipError(f"the {heard.device} ended with exit code {heard.code}",
                            self._devices.daemons[heard.device].log)  # fmt: skip
        event, kind = heard.event, heard.event.get("kind", "")
        if kind in ("link.up", "link.down"):
            self._said(f"{heard.device}: {kind.replace('.', ' ')}", "dim", event=kind, device=heard.device)
        if heard.device != self._on or self._reloading is None:
            return
        if kind == "config.reloaded":
            self._reloading = None
            self._tell_changes()
        elif kind == "warning" and str(event["what"]).startswith("the config was not reloaded"):
            self._reloading = None
            what = str(event["what"]).partition(": ")[2]
            self._said(f"✗ {what}\n  {event['why']}\n  the version before stays offered", "bad", event="reload.failed",
                       what=what, why=event["why"])  # fmt: skip

    def _tell_changes(self) -> None:
        before, after = self._specs, self._offered()
        self._specs = after
        changes = {
            "added": sorted(after.keys() - before.keys()),
            "removed": sorted(before.keys() - after.keys()),
            "changed": sorted(name for name in after.keys() & before.keys() if after[name] != before[name]),
        }
        words = "; ".join(f"{what} {', '.join(names)}" for what, names in changes.items() if names)
        self._said(f"✓ reloaded: {words or 'the same signatures'}", "good", event="reloaded", **changes)

    def _offered(self) -> Specs:
        """What the device offers now, by name."""
        state = self._devices.daemons[self._on].state
        names = [skill["name"] for skill in control.ask(state, "skills")["skills"] if self._on in skill["devices"]]
        return {name: control.ask(state, "skills.show", {"skill": name})["skill"] for name in names}

    def _built_in(self) -> set[str]:
        from ..core.skill import spec_of
        from ..skills import load

        return {spec_of(fn).name for pack in load([self._on]) for fn in pack.skills}


def _through_bad_network(port: int, latency: float, drop: float) -> int:
    """A port that leads to `port` over a bad network, for as long as this process lives.

    Only the car dials, so every link goes this way; a phone that calls the car while there is no link knows its address
    from the last one, and dials past it.
    """
    import anyio

    from .impair import Proxy

    ports: SimpleQueue[int] = SimpleQueue()

    async def run() -> None:
        async with anyio.create_task_group() as group:
            ports.put(await group.start(Proxy(port, latency, drop).run))

    Thread(target=anyio.run, args=(run,), daemon=True).start()
    return ports.get(timeout=UP_SECONDS)


def _example(spec: Mapping[str, Any]) -> str:
    """Arguments to try a skill with: those that it needs, with a word for each type."""
    schema = spec.get("inputSchema", {})
    words = {"string": "Ada", "integer": "1", "number": "1.5", "boolean": "true", "array": "[]", "object": "{}"}
    needed = schema.get("required", ())
    return "".join(f" {name}={words.get(schema['properties'][name].get('type'), '...')}" for name in needed)
