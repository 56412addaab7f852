"""`kill -9` at random moments of runs: nothing acknowledged is lost, nothing that may happen once happens twice.

Three devices are three processes, over mutually authenticated TLS on loopback, each with its journal on disk. Skills
append to a file per run, the world: the truth that every journal is judged by. While a run of a random plan is under
way, its owner or an executor is killed at a random moment, is started again on the same state, and the run goes on.
`python tests/bench/kill.py [--kills N] [--seed S] [--json]`, or `slip bench kill`.

Longer than most files, because the devices are forks of this very script: driver, device and judge are one program.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import secrets
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import AsyncIterator, Container, Iterable, Mapping
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

import anyio
from pydantic import BaseModel

from slipstream import testing
from slipstream.core import authority
from slipstream.core.errors import SlipError
from slipstream.core.events import Event
from slipstream.core.identity import Identity
from slipstream.core.journal import Journal
from slipstream.core.node import Node
from slipstream.core.plan import load
from slipstream.core.roster_file import RosterFile
from slipstream.core.skill import Context, Cost, Effect, Outcome, Pack, skill
from slipstream.keeper import RosterKeeper
from slipstream.transports.discovery import Candidates, Found
from slipstream.transports.tls import TlsTransport

NAME = "kill"
OWNER = "phone"
DEVICES = (OWNER, "car", "hub")
STEPS = 10
KILLS, WARM_UP = 150, 7
BOUND = 60.0
"""Seconds after which a run, or a start, counts as stuck: three times what a run waits for a device that is away."""

# -- what the devices do to the world --------------------------------------------------------------------------------


class World:
    """What really happened: a line per effect, in one file per run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def add(self, run: str, step: str, made: Made, device: str) -> None:
        line = json.dumps({"step": step, "n": made.n, "token": made.token, "device": device})
        file = os.open(self.folder / run, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            os.write(file, line.encode() + b"\n")  # one write: whole, or not at all
            os.fsync(file)
        finally:
            os.close(file)

    def lines(self, run: str) -> list[dict[str, Any]]:
        path = self.folder / run
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


class Made(BaseModel):
    n: int
    token: str
    """Tells one execution from another."""


async def work(ctx: Context, at: str, n: list[int], ms: list[float], *, effect: bool) -> Made:
    """Add up, and leave a line in the world half-way."""
    made = Made(n=1 + sum(n), token=secrets.token_hex(6))
    await asyncio.sleep(ms[0] / 1000)
    if effect:
        ctx.backend(World).add(*at.split("/"), made, ctx.device)
    await asyncio.sleep(ms[1] / 1000)
    return made


@skill("kill.read", effect=Effect.READ, cost=Cost(latency_ms=10))
async def read(ctx: Context, at: str, n: list[int], ms: list[float]) -> Made:
    """Change nothing."""
    return await work(ctx, at, n, ms, effect=False)


@skill("kill.set", effect=Effect.IDEMPOTENT, cost=Cost(latency_ms=10))
async def put(ctx: Context, at: str, n: list[int], ms: list[float]) -> Made:
    """Change something that may be changed again."""
    return await work(ctx, at, n, ms, effect=True)


@skill("kill.send", effect=Effect.ONCE, cost=Cost(latency_ms=10))
async def send(ctx: Context, at: str, n: list[int], ms: list[float]) -> Made:
    """Do what must not happen twice, and cannot be looked up."""
    return await work(ctx, at, n, ms, effect=True)


@skill("kill.post", effect=Effect.ONCE, cost=Cost(latency_ms=10))
async def post(ctx: Context, at: str, n: list[int], ms: list[float]) -> Made:
    """Do what must not happen twice, and can be looked up."""
    return await work(ctx, at, n, ms, effect=True)


@post.reconcile
async def _(ctx: Context, args: dict[str, Any]) -> Outcome | Made:
    run, step = args["at"].split("/")
    found = [line for line in ctx.backend(World).lines(run) if line["step"] == step]
    return Made(n=found[0]["n"], token=found[0]["token"]) if found else Outcome.NOT_DONE


SKILLS = {fn.spec.name: fn for fn in (read, put, send, post)}


def make_plan(draw: random.Random, run: str) -> dict[str, Any]:
    """Ten steps of every effect on all devices, some wherever they fit, each fed by one or two before it."""
    steps = []
    for i in range(STEPS):
        needs = draw.sample(range(i), min(i, draw.randint(1, 2)))
        on = draw.choice([*DEVICES, None])
        ms = [draw.uniform(0.5, 15), draw.uniform(0.5, 15)]
        steps.append({"id": f"s{i}", "skill": draw.choice([*SKILLS]), **({"on": on} if on else {}),
                      "args": {"at": f"{run}/s{i}", "n": [{"$ref": f"s{j}.n"} for j in needs], "ms": ms}})  # fmt: skip
    return {"goal": run, "steps": steps, "output": {"n": {"$ref": f"s{STEPS - 1}.n"}}}


def expected(plan: Mapping[str, Any]) -> int:
    """What the last step of a plan comes to."""
    n: dict[str, int] = {}
    for step in plan["steps"]:
        n[step["id"]] = 1 + sum(n[ref["$ref"].split(".")[0]] for ref in step["args"]["n"])
    return n[f"s{STEPS - 1}"]


# -- a device --------------------------------------------------------------------------------------------------------


def fork_devices(folder: Path) -> None:
    """Become a device for each name on standard input: what all of them import is imported once."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for name in sys.stdin:
        if not os.fork():
            asyncio.run(be_device(folder, name.strip()))
            os._exit(0)


async def be_device(folder: Path, name: str) -> None:
    """Live until the driver is gone; tell it every event that matters, and answer it."""
    reader, writer = await asyncio.open_unix_connection(folder / "driver")

    def say(**what: Any) -> None:
        writer.write(json.dumps(what).encode() + b"\n")

    say(name=name, pid=os.getpid())
    journal_at = folder / f"{name}.db"
    begun: list[str] = []
    if journal_at.exists():  # what the last life left half-way, before this one touches it
        with closing(sqlite3.connect(journal_at)) as db:
            if db.execute("select 1 from sqlite_master where name = 'invocations'").fetchone():
                begun = [key for (key,) in db.execute("select key from invocations where state = 'begun'")]
    places = json.loads((folder / "places").read_text())
    identity = Identity.load(folder / name)
    candidates = Candidates(identity.id)
    for other, (device, port) in places.items():
        if other != name:
            candidates.add(Found(device, (f"tls://127.0.0.1:{port}",), "static"), asyncio.get_running_loop().time())
    pack = Pack("kill", tuple(SKILLS.values()), open=lambda _: the_world(folder))
    node = Node(identity.id, name, name, transports=[TlsTransport(identity, ["127.0.0.1"], places[name][1])],
                packs=[(pack, {})], journal=Journal(journal_at, time.time), candidates=candidates,
                trust=RosterKeeper(folder / name), policy=testing.Rules())  # fmt: skip

    def tell(event: Event) -> None:
        fields = event.fields
        if event.kind == "step.done":
            value = node.runs.by_id[fields["run"]].steps[fields["step"]].value
            say(done=fields["step"], run=fields["run"], state=fields["state"], value=value)
        elif event.kind == "run.done":
            say(ended=fields["run"])

    node.events.listen(tell)
    async with anyio.create_task_group() as group:
        await group.start(node.run)
        say(open={row.plan["goal"]: row.id for row in node.runs.interrupted()}, begun=begun)
        while line := await reader.readline():
            verb, what = json.loads(line)
            try:
                say(answer=await obey(node, [device for device, _ in places.values()], verb, what))
            except SlipError as error:
                say(answer=None, why=str(error))
        group.cancel_scope.cancel()


async def obey(node: Node, others: Iterable[str], verb: str, what: Any) -> Any:
    if verb == "start":
        changed = asyncio.Event()
        stop = node.events.listen(lambda _: changed.set())
        while not all(node.reachable(device) for device in others):
            await changed.wait()
            changed.clear()
        stop()
        return (await node.start(load(what))).id
    if verb == "resume":
        return (await node.resume(what)).id
    row = node.journal.run(what) if verb == "show" else next(r for r in node.journal.runs() if r.plan["goal"] == what)
    assert row is not None
    steps = node.journal.steps(row.id)
    return {"state": row.state, "output": row.result, "error": row.error,
            "steps": {s.step: [s.state, s.result[1], s.device] for s in steps.values()}}  # fmt: skip


@asynccontextmanager
async def the_world(folder: Path) -> AsyncIterator[World]:
    yield World(folder / "world")


# -- the driver ------------------------------------------------------------------------------------------------------


class Gone(Exception):
    """The device died before it answered."""


class Life:
    """One process of a device, as the driver sees it, from its fork to its death."""

    def __init__(self) -> None:
        self.gone = asyncio.Event()
        self.killed = False
        self._futures: dict[str, asyncio.Future[Any]] = {}
        self._answers: deque[str] = deque()
        self._asked = 0
        self._writer: asyncio.StreamWriter | None = None

    def future(self, name: str) -> asyncio.Future[Any]:
        """What will be known under that name; `Gone` if the device dies first."""
        if (known := self._futures.get(name)) is None:
            known = self._futures[name] = asyncio.get_running_loop().create_future()
            if self.gone.is_set():
                self._give_up(known)
        return known

    def know(self, name: str, value: Any) -> None:
        if not (known := self.future(name)).done():
            known.set_result(value)

    async def listen(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, pid: int, mesh: Mesh) -> None:
        self._writer = writer
        self.know("pid", pid)
        with suppress(ConnectionResetError):  # it was killed before it read what the driver asked
            while (line := await reader.readline()).endswith(b"\n"):
                what = json.loads(line)
                if "done" in what:
                    if what["state"] == "done":  # the first word counts
                        mesh.acknowledged.setdefault(what["run"], {}).setdefault(what["done"], what["value"])
                elif "ended" in what:
                    self.know(f"end of {what['ended']}", True)
                elif "answer" in what:
                    self.know(self._answers.popleft(), what)
                else:
                    self.know("up", what)
        self.gone.set()
        for known in self._futures.values():
            if not known.done():
                self._give_up(known)

    def _give_up(self, known: asyncio.Future[Any]) -> None:
        known.set_exception(Gone())
        known.exception()  # nobody may be waiting

    async def ask(self, verb: str, what: Any) -> Any:
        assert self._writer is not None
        self._asked += 1
        name = f"answer {self._asked}"
        answer = self.future(name)
        self._answers.append(name)
        self._writer.write(json.dumps([verb, what]).encode() + b"\n")
        found = await answer
        if found["answer"] is None:
            raise RuntimeError(f"{verb}: {found['why']}")
        return found["answer"]


@dataclass
class Outcomes:
    """What the judge found."""

    kills: int = 0
    done: int = 0
    unknown: int = 0
    doubled: int = 0
    lost: int = 0
    failed: int = 0
    """Runs that ended otherwise than done, without a step of unknown outcome that was under way at a kill."""
    stuck: int = 0
    doubles: set[tuple[str, str]] = field(default_factory=set)
    """What `doubled` counts, by run and step."""

    def note(self, kind: str, run: str, why: str) -> None:
        setattr(self, kind, getattr(self, kind) + 1)
        print(f"{kind}: {run}: {why}", file=sys.stderr, flush=True)


def look_for_doubles(found: Outcomes, plan: Mapping[str, Any], world: list[dict[str, Any]]) -> None:
    """Note the steps that happened more often than they may, each once."""
    for step in plan["steps"]:
        lines = [line for line in world if line["step"] == step["id"]]
        what = (plan["goal"], step["id"])
        if len(lines) > 1 and SKILLS[step["skill"]].spec.effect is Effect.ONCE and what not in found.doubles:
            found.doubles.add(what)
            found.note("doubled", plan["goal"], f"{step['skill']} of {step['id']} happened as {lines}")


def judge(
    found: Outcomes, plan: Mapping[str, Any], world: list[dict[str, Any]], journal: Mapping[str, Any],
    acknowledged: Mapping[str, Any], begun: Container[str],
) -> None:  # fmt: skip
    """Compare what the world, the owner's journal and the owner's events say of one run.

    `begun`: the steps that some device had begun, and not ended, when it was killed.
    """
    run = plan["goal"]
    effects = {step["id"]: SKILLS[step["skill"]].spec for step in plan["steps"]}
    look_for_doubles(found, plan, world)
    tokens = {(line["step"], line["token"]) for line in world}
    for step, value in acknowledged.items():
        if journal["steps"].get(step, [None, None])[:2] != ["done", value]:
            found.note("lost", run, f"{step} was done with {value}, and is {journal['steps'].get(step)}")
    for step, (state, value, _) in journal["steps"].items():
        if state == "done" and effects[step].effect is not Effect.READ and (step, value["token"]) not in tokens:
            found.note("lost", run, f"{step} is done with {value}, and the world knows nothing of it")
    if journal["state"] == "done":
        states = [journal["steps"].get(step, [None])[0] for step in effects]
        if set(states) != {"done"} or journal["output"] != {"n": expected(plan)}:
            found.note("lost", run, f"it is done with {journal['output']} and {states}")
        found.done += 1
        return
    culprit = (journal["error"] or {}).get("where", {}).get("step")
    if journal["state"] == "unknown" and culprit in begun and effects[culprit].reconcile_fn is None:
        found.unknown += 1
    else:
        found.note("failed", run, f"it is {journal['state']}: {journal['error']}; begun were {sorted(begun)}")


def refused(journal: Mapping[str, Any]) -> bool:
    """Whether a run ended before it began, because a device that it needs had just been killed."""
    begun = {state for state, _, _ in journal["steps"].values()} - {"cancelled"}
    return journal["state"] == "failed" and journal["error"]["code"] == "no_device" and not begun


class Mesh:
    """The three devices, and what was asked of them."""

    def __init__(self, folder: Path, zygote: subprocess.Popen[str], draw: random.Random) -> None:
        self.world = World(folder / "world")
        self.lives: dict[str, Life] = {}
        self.acknowledged: dict[str, dict[str, Any]] = {}
        """Results that an owner told the driver, by run and step."""
        self.begun: set[str] = set()
        """Keys of what was half-way when its device was killed."""
        self.found = Outcomes()
        self._zygote, self._draw = zygote, draw
        self._runs = 0
        self._plans: list[dict[str, Any]] = []
        self._usual: list[float] = []

    async def meet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """A device that was forked calls the driver."""
        hello = json.loads(await reader.readline())
        life = self.lives[hello["name"]]
        await life.listen(reader, writer, hello["pid"], self)
        writer.close()
        if not life.killed:
            self.found.note("failed", str(self._runs), f"{hello['name']} ended by itself")
            self.start(hello["name"])

    def start(self, name: str) -> None:
        self.lives[name] = Life()
        assert self._zygote.stdin is not None
        print(name, file=self._zygote.stdin, flush=True)

    async def up(self, name: str) -> Life:
        """The life of a device, once it runs."""
        while True:
            life = self.lives[name]
            try:
                report = await life.future("up")
            except Gone:
                await asyncio.sleep(0)  # the next life begins
            else:
                self.begun.update(report["begun"])
                return life

    async def kill(self, name: str, *, again: bool = True) -> None:
        """End a device in the middle of whatever it does, and start it again on the same state."""
        life = self.lives[name]
        async with asyncio.timeout(BOUND):
            pid = await life.future("pid")
        life.killed = True
        if not life.gone.is_set():
            os.kill(pid, signal.SIGKILL)
            await life.gone.wait()
            self.found.kills += 1
        if again:
            self.start(name)

    async def run(self, kills: int) -> None:
        """Run one plan to its end while devices are killed at random moments of it, and judge it."""
        self._runs += 1
        plan = make_plan(self._draw, f"run-{self._runs}")
        self._plans.append(plan)
        moments = [self._draw.uniform(0, self.usual) for _ in range(kills)]
        victims = [self._draw.choice(DEVICES) for _ in range(kills)]
        began = time.monotonic()
        try:
            async with asyncio.timeout(BOUND), asyncio.TaskGroup() as group:
                carried = group.create_task(self._carry(plan))
                for moment, victim in zip(moments, victims, strict=True):
                    await asyncio.sleep(moment)  # the moment of the fault
                    await self.kill(victim)
            run = carried.result()
            async with asyncio.timeout(BOUND):
                journal = await (await self.up(OWNER)).ask("show", run)
                for name in DEVICES:
                    await self.up(name)
        except TimeoutError:
            async with asyncio.timeout(BOUND):
                known = await (await self.up(OWNER)).ask("find", plan["goal"])
            self.found.note("stuck", plan["goal"], f"{victims} were killed after {moments}; known is {known}")
            for name in DEVICES:
                await self.kill(name)
            return
        if not kills:
            self._usual.append(time.monotonic() - began)
        begun = {key.split("/")[1] for key in self.begun if key.startswith(f"{run}/")}
        judge(self.found, plan, self.world.lines(plan["goal"]), journal, self.acknowledged.pop(run, {}), begun)

    @property
    def usual(self) -> float:
        """What a run takes when nobody is killed."""
        return median(self._usual) if self._usual else 0.0

    async def _carry(self, plan: dict[str, Any]) -> str:
        """Start a run and go on with it over every death of its owner; its id."""
        run = ""
        while True:
            life = await self.up(OWNER)
            try:
                # a start that nobody acknowledged either left a run to go on with, or did nothing at all
                run = run or (await life.future("up"))["open"].get(plan["goal"], "")
                shown = await life.ask("show", run) if run else None
                if shown is None or refused(shown):
                    run = await life.ask("start", plan)
                elif shown["state"] in ("running", "cancelling"):
                    await life.ask("resume", run)
                else:
                    return run
                await life.future(f"end of {run}")
            except Gone:
                continue

    def judge_again(self) -> None:
        """Look at the whole world once more: what came after a run's end counts too."""
        for plan in self._plans:
            look_for_doubles(self.found, plan, self.world.lines(plan["goal"]))

    async def end(self) -> None:
        """Kill all devices, for good."""
        for name in self.lives:
            await self.kill(name, again=False)


def free_ports(count: int) -> list[int]:
    """Ports below those that outgoing connections take, or a device that is down might find its own taken."""
    found: list[int] = []
    for port in random.SystemRandom().sample(range(20_000, 32_000), 200):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        found.append(port)
        if len(found) == count:
            break
    return found


async def measure(folder: Path, kills: int, seed: int) -> tuple[Outcomes, float]:
    (folder / "world").mkdir()
    authority.found(folder / DEVICES[0], DEVICES[0], DEVICES[0])
    for name in DEVICES[1:]:
        authority.admit_here(folder / DEVICES[0], folder / name, name, name)
    everything = [s.to_wire() for s in RosterFile(folder / DEVICES[0]).load().statements]
    for name in DEVICES:  # all know all: forks that wait for no child cannot have signatures checked in one
        RosterFile(folder / name).take(everything)
    ids = [Identity.load(folder / name).id for name in DEVICES]
    places = dict(zip(DEVICES, zip(ids, free_ports(len(DEVICES)), strict=True), strict=True))
    (folder / "places").write_text(json.dumps(places))
    zygote = subprocess.Popen([sys.executable, __file__, "--devices", folder], stdin=subprocess.PIPE, text=True)
    draw = random.Random(seed)
    mesh = Mesh(folder, zygote, draw)
    server = await asyncio.start_unix_server(mesh.meet, folder / "driver", limit=2**20)
    try:
        for name in DEVICES:
            mesh.start(name)
        for _ in range(WARM_UP):
            await mesh.run(0)
        mesh.found = Outcomes()
        began = time.monotonic()
        while mesh.found.kills < kills:
            await mesh.run(min(kills - mesh.found.kills, draw.choice((1, 1, 1, 2))))
        per_kill = (time.monotonic() - began) / max(1, mesh.found.kills)
        mesh.judge_again()
        found = replace(mesh.found)
    finally:
        await mesh.end()
        server.close()
        assert zygote.stdin is not None
        zygote.stdin.close()
        zygote.wait()
    return found, per_kill


def figures(args: Any = None) -> dict[str, float]:
    """All figures of one bench."""
    kills, seed = getattr(args, "kills", None) or KILLS, getattr(args, "seed", None) or 0
    with tempfile.TemporaryDirectory(prefix="slipstream-bench-") as folder:
        found, per_kill = asyncio.run(measure(Path(folder), kills, seed))
    return {"kills": found.kills, "runs_done": found.done, "runs_unknown": found.unknown, "doubled": found.doubled,
            "lost": found.lost, "failed": found.failed, "stuck": found.stuck, "per_kill_s": per_kill}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--devices", type=Path)
    args = parser.parse_args()
    if args.devices:
        fork_devices(args.devices)
        return
    found = figures(args)
    if args.json:
        print(json.dumps({"v": 1, "bench": NAME, "figures": {k: round(v, 3) for k, v in found.items()}}))
    else:
        for key, value in found.items():
            print(f"{key:22} {value:12,.2f}")


if __name__ == "__main__":
    main()
