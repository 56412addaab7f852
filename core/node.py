"""The one service: a task group that drives members, links, skills and runs on one device.

Everything it waits for is pushed: bytes from links, deadlines from one heap, suggestions of addresses. It knows
transports only as `link.Transport`, and addresses to try only as `Candidates` (see transports/discovery.py).
One file because it is one wiring: whatever one part tells another goes through here, and nothing else does.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

import anyio
from anyio.abc import TaskGroup, TaskStatus

from .admission import Admission, Keeper
from .audit import Audit
from .calls import Calls
from .consent import Consents
from .costs import Costs
from .device import Device, LinkQuality, Offer, Resources, clean, short
from .dispatch import Dispatch
from .energy import J_PER_MWH, Meter
from .errors import LinkLost, SlipError, UsageError
from .events import Event, Events
from .execute import Executor
from .gate import Gate, PolicySource
from .gauge import Gauge
from .invoke import Guard, Invoker
from .journal import Journal
from .labels import Handles, Label, Labels
from .link import Transport
from .links import Candidates, Links
from .loop import clock_of_loop
from .members import Members
from .peer import Peer
from .plan import Plan
from .routes import Routes
from .run import Desk
from .runs import Runs
from .serve import Server
from .skill import Catalogue, Driving, Pack, nearest, spec_of
from .specs import Specs
from .targets import Targets
from .timers import Timer, Timers
from .workers import Workers

LOOKS = 10.0
"""How many times a second news of members is acted on in a storm of it; before, as many times at once."""


class Node(Calls):
    """One device of a mesh. `run` brings it up; everything else works while it runs.

    `trust` keeps the roster, `policy` says who may do what here, and `audit` remembers who did.
    """

    def __init__(
        self, device_id: str, name: str, kind: str, *, transports: Sequence[Transport], trust: Keeper,
        policy: PolicySource, audit: Audit | None = None,
        packs: Sequence[tuple[Pack, Mapping[str, Any]]] = (), journal: Journal | None = None,
        candidates: Candidates | None = None, resources: Resources = Resources(), guard: Guard | None = None,
        meters: Sequence[Callable[[], Mapping[str, Any]]] = (), wall: Callable[[], float] = time.time,
        new_id: Callable[[], str] = lambda: secrets.token_hex(5),
    ) -> None:  # fmt: skip
        self.id, self.name, self.kind = device_id, clean(name), kind
        self.journal = journal or Journal(":memory:", wall)
        self.events = Events(wall)
        kept = self.journal.fact("costs")
        self.costs = Costs.from_wire(kept) if kept else Costs()
        self.catalogue = Catalogue()
        self.timers = Timers()
        self.candidates = candidates
        self._transports = {t.scheme: t for t in transports}
        self._packs, self._resources, self._guard, self._meters = packs, resources, guard, meters
        self.wall, self.new_id = wall, new_id
        self._trust, self._policy, self.audit = trust, policy, audit or Audit(None, b"", wall)
        self._guesses: dict[str, float] = {}
        self._vehicles: list[Callable[[], Driving | None]] = []
        self.clock: Callable[[], float] = anyio.current_time
        self.admission: Admission
        self.gate: Gate
        self._guest_timer: Timer | None = None
        self.members: Members
        self.invoker: Invoker
        self.executor: Executor
        self.runs: Runs
        self.links: Links
        self._group: TaskGroup
        self._workers: Workers
        self._server: Server
        self._targets: Targets
        self._specs = Specs(self.request, self.events, lambda: self.clock())
        self._routes: Routes
        self._look = anyio.Event()
        self._stop = anyio.Event()

    # -- life --------------------------------------------------------------------------------------------------------

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Be a device of the mesh until `stop`; started once it accepts links and calls, whoever is there.

        Raises:
            OSError: an address cannot be bound.
            UsageError: two packs offer the same skill.
        """
        self.clock = clock_of_loop()
        self.journal.forget_old()
        async with AsyncExitStack() as stack:
            backends, meters = [], []
            simulated = False
            for pack, settings in self._packs:
                backend = await stack.enter_async_context(pack.open(settings))
                self.catalogue.add(pack, pack.capabilities(backend))
                self._guesses |= pack.seconds(backend)
                simulated = simulated or pack.simulated
                if backend is not None:
                    backends.append(backend)
                    meters.append(partial(pack.resources, backend))
                    self._vehicles.append(partial(pack.driving, backend))
            self._group = await stack.enter_async_context(anyio.create_task_group())
            self._workers = Workers(self._group)
            self._begin_trust()
            self.invoker = Invoker(self, self.catalogue, self.journal, self.events, self.gate)
            self.invoker.backends, self.invoker.guard = tuple(backends), self._guard
            self.executor = Executor(
                self, self.invoker, self.gate, self.journal, self.timers, self._workers, self.clock
            )
            self.executor.slots = self._resources.slots
            self.executor.on_saw = lambda skill, took, size: self.costs.saw(skill, self.id, took, size, self.wall())
            self._server = Server(self.invoker, self.gate, self._workers, self.timers, self.clock)
            hello = {"name": self.name, "kind": self.kind, "vouch": self.admission.vouch()}
            self.links = Links(
                self.id, hello, self._transports, self.candidates, self.timers, self.clock, self, self._group,
                self.admission, self._workers,
            )  # fmt: skip
            kept = (self.journal.fact("costs") or {}).get("energy")
            energy = Meter.from_wire(kept, self.clock()) if kept else Meter()
            self._gauge = Gauge(self._resources, [*meters, *self._meters], energy)
            self.invoker.joules = self._gauge.joules
            me = Device(
                self.id, self.name, self.kind, version=(self.journal.next_boot(), 0), offers=self._offers(),
                resources=self._gauge.look(self.clock()), simulated=simulated,
            )  # fmt: skip
            self.members = Members(me)
            self.members.admits = self.admission.admits
            self._routes = Routes(self.members, self.costs, self.link_between)
            desk = Desk(self, self.journal, self.events, self.costs, self.clock, self.wall)
            self.runs = Runs(desk, self.new_id)
            self._targets = Targets(
                self.id, self.executor, self.invoker, self.runs, self.members, self._specs, self.admission,
                self.gate.consents, self.clock,
            )  # fmt: skip
            addresses = []
            for transport in self._transports.values():
                addresses += await stack.enter_async_context(transport.serve(self.links.accept))
            self.addresses_are(addresses)
            self._group.start_soon(self.timers.run)
            self._group.start_soon(self._workers.run)
            self._group.start_soon(self._watch_members)
            self._group.start_soon(self.links.dial_candidates)
            self._group.start_soon(self.admission.run)
            self._watch_guests()
            self.events.tell("node.started", device=self.id, name=self.name, addresses=addresses)
            task_status.started()
            try:
                await self._stop.wait()
                self.gate.tell_more()
                self.gate.consents.close()  # what is open stays open for the next start, whatever leaving cancels
                await self._leave()
            finally:
                self._group.cancel_scope.cancel()
                self._keep_costs()

    def stop(self) -> None:
        """Leave gracefully: tell the others, finish nothing new, close."""
        self._stop.set()

    async def _leave(self) -> None:
        self.executor.leaving = True
        self.events.tell("node.stopping")
        self.members.change(self.clock(), leaving=True)
        self._spread()
        await self.links.leave()

    def offer(self, pack: Pack, instead: Pack | None = None) -> None:
        """Offer a pack's skills from now on, and no longer those of the pack that it replaces (an edited file)."""
        for fn in (*pack.skills, *(instead.skills if instead else ())):
            self.catalogue.specs.pop(spec_of(fn).name, None)
        self.catalogue.add(pack)
        self._change(offers=self._offers())

    def rename(self, name: str) -> None:
        """Be called otherwise from now on."""
        self.name = clean(name)
        self.links.hello["name"] = self.name
        self._change(name=self.name)

    def addresses_are(self, addresses: Iterable[str]) -> None:
        """The addresses to announce changed."""
        self._change(addresses=tuple(addresses))

    def _change(self, **fields: Any) -> None:
        self._routes.forget()
        self.members.change(self.clock(), **fields)
        self._look.set()

    def _offers(self) -> tuple[Offer, ...]:
        offers = []
        for spec in self.catalogue.specs.values():
            self._specs.keep(spec.digest, spec.to_wire())
            joules = self._gauge.energy.told.get(spec.name, spec.cost.energy_mwh * J_PER_MWH or None)
            seconds = self._guesses.get(spec.name, spec.cost.latency_ms / 1000)
            offers.append(Offer(spec.name, spec.digest, spec.effect.value, spec.lock, seconds, joules))
        return tuple(offers)

    def _keep_costs(self) -> None:
        self.journal.remember("costs", self.costs.to_wire() | {"energy": self._gauge.energy.to_wire()})

    # -- members -----------------------------------------------------------------------------------------------------

    async def _watch_members(self) -> None:
        free, last = LOOKS, self.clock()
        while True:
            now = self.clock()
            free, last = min(LOOKS, free + (now - last) * LOOKS) - 1, now
            for peer_id in self.members.tick(now):
                if (peer := self.links.up.get(peer_id)) is not None:
                    peer.abort(LinkLost(f"nothing was heard of {short(peer_id)} any more"))
            for peer_id in self.members.beats_due(now):
                if (peer := self.links.up.get(peer_id)) is not None:
                    peer.beat()
                    self.members.sent(peer_id, now)
            self.members.change(now, resources=self._gauge.look(now))
            if self._gauge.energy.source:
                self.invoker.energy = self._gauge.energy
            if self._gauge.learned:
                self.members.change(now, offers=self._offers())
            self._spread()
            self._look = anyio.Event()
            at = self.members.next_timer()
            with anyio.move_on_at(float("inf") if at is None else at):
                await self._look.wait()
            if free < 0:
                await anyio.sleep(1 / LOOKS)  # what comes meanwhile is passed on together

    def _spread(self) -> None:
        """Send the news that others lack, and tell what changed here."""
        now = self.clock()
        for peer_id, news in self.members.gossip():
            if (peer := self.links.up.get(peer_id)) is not None:
                peer.news(news)
                self.members.sent(peer_id, now)
        changed = ""
        for kind, fields in self.members.events():
            self._routes.forget()
            self.events.tell(kind, **fields)
            if kind == "device.changed":  # what it announces of its links, among others
                self.runs.link_changed(fields["device"])
            if kind in ("device.joined", "device.left", "device.suspect"):
                changed = f"{fields.get('name', short(fields['device']))} {kind.removeprefix('device.')}"
        if changed:
            self.runs.mesh_changed(changed)

    # -- trust ---------------------------------------------------------------------------------------------------------

    def _begin_trust(self) -> None:
        self.admission = Admission(
            self.id, self._trust, self.events, self.clock, self.wall, partial(self._tell, "slip.roster"),
            lambda: self.links.up,
            self._roster_changed,
        )  # fmt: skip
        self.events.listen(self._audit_answer)
        consents = Consents(
            self.id, self.journal.database, self.events, self.clock, self.wall, self.timers, self.new_id,
            partial(self._tell, "slip.consent"), self._people, self._may_answer, self.name_of,
        )  # fmt: skip
        self.gate = Gate(
            self.id, self.admission, self._policy, self._driving, consents, Handles(self.id, secrets.token_bytes),
            self.audit, self.events, self.wall, self.timers, self.clock,
        )  # fmt: skip

    def _audit_answer(self, event: Event) -> None:
        if event.kind == "consent.answered" and event.fields["device"] == self.id:  # others' are in others' logs
            self.gate.tell_if_it_can("answered", **event.fields)

    def _tell(self, target: str, device: str, content: dict[str, Any]) -> None:
        if (peer := self.links.up.get(device)) is not None:
            peer.note(target, content)

    def _driving(self) -> Driving | None:
        """What the vehicle that this device is does now; None if it is none."""
        if not self._vehicles:
            return None
        said = [state for state in (vehicle() for vehicle in self._vehicles) if state is not None]
        return max(said, key=list(Driving).index, default=None)

    def _people(self) -> list[str]:
        """The other devices that are here whose people may answer for this one."""
        return [device for device in self.links.up if self._may_answer(device)]

    def _may_answer(self, device: str) -> bool:
        member = self.admission.roster.member(device)
        return member is not None and self._policy.current().may_answer(member)

    def _roster_changed(self) -> None:
        """Somebody joined or was thrown out: at once, whoever is out is cut off, and nobody sees it any more."""
        if not self.admission.admits(self.id):
            self.events.tell("warning", what="this device is not of its mesh any more", why="an owner revoked its key",
                             hint="after slip pair rotate: slip down, then slip up; else: slip pair join")  # fmt: skip
        self.links.hello["vouch"] = self.admission.vouch()
        self.links.recheck()
        self.members.roster_changed()
        self._routes.forget()
        self._look.set()
        self._watch_guests()
        roster = self.admission.roster
        self.gate.tell_if_it_can("trust", roster=roster.digest.hex(), members=len(roster.members()))

    def _watch_guests(self) -> None:
        """Cut off the next guest when their time is over."""
        if self._guest_timer is not None:
            self._guest_timer.cancel()
        if (left := self.admission.seconds_left()) != float("inf"):
            self._guest_timer = self.timers.at(self.clock() + left, self._roster_changed)

    # -- links (links.LinksOwner, peer.PeerOwner) --------------------------------------------------------------------

    async def connect(self, device: str, addresses: Iterable[str] = ()) -> None:
        """Have a link to a device.

        Raises:
            LinkLost: it cannot be reached.
        """
        await self.links.to(device, tuple(addresses))

    def addresses_of(self, device: str) -> tuple[str, ...]:
        """Where the members say that a device is."""
        known = self.members.find(device)
        return known.addresses if known is not None else ()

    def link_up(self, peer: Peer, hello: dict[str, Any]) -> None:
        """There is a new link: tell it what we know, and send again what the last one may have lost."""
        self.members.link_up(peer.id, self.clock())
        self.events.tell("link.up", device=peer.id, name=clean(hello.get("name", "")), address=peer.link.address)
        self.admission.greet(peer.id)
        peer.note("slip.digest", {"digest": {k: list(v) for k, v in self.members.digest().items()}})
        self._look.set()
        self.executor.link_up(peer.id)
        self.gate.consents.link_up(peer.id)
        self.runs.link_up(peer.id)
        if peer.link.dialled:
            self._remember_address(peer)

    def _remember_address(self, peer: Peer) -> None:
        known = self.journal.fact("known") or {}
        if known.get(peer.id) != peer.link.address:
            known.pop(peer.id, None)
            while len(known) >= 64:
                known.pop(next(iter(known)))
            self.journal.remember("known", {**known, peer.id: peer.link.address})

    def link_down(self, peer: Peer, why: SlipError | None) -> None:
        """The link with a device is gone."""
        self._server.peer_gone(peer)
        self.members.link_down(peer.id, self.clock(), str(why or "it closed the link"))
        self.events.tell("link.down", device=peer.id, why=str(why or "closed"))
        self._spread()
        self._look.set()

    def peer_heard(self, peer: Peer, now: float) -> None:
        """Bytes of a peer came."""
        self.members.heard(peer.id, now)

    def peer_measured(self, peer: Peer, rtt: float | None, transfer: tuple[int, float] | None) -> None:
        """A link was measured in passing."""
        if rtt is not None:
            self.costs.saw_rtt(peer.id, rtt)
        if transfer is not None:
            self.costs.saw_transfer(peer.id, *transfer)
        self.members.measured(peer.id, self.costs.link(peer.id), self.clock())
        self.runs.link_changed(peer.id)

    def peer_news(self, peer: Peer, announcements: list[Any]) -> None:
        """A peer passes on announcements."""
        if self.members.receive(peer.id, announcements, self.clock()):
            self._look.set()

    # -- calls that come in ------------------------------------------------------------------------------------------

    def peer_call(
        self, peer: Peer, stream: int, target: str, args: dict[str, Any], key: str, left: float, origin: str
    ) -> None:
        """A peer calls a skill of ours, or asks something about a run."""
        if target.startswith("slip."):
            if target in ("slip.undo", "slip.rotate"):  # they take time
                self._workers.do(partial(self._ask_slowly, peer, stream, target, args))
                return
            try:
                peer.answer(stream, "done", self._targets.ask(peer.id, target, args))
            except SlipError as error:
                peer.fail(stream, error)
            return
        spec = self.catalogue.specs.get(target)
        if spec is None:
            target = clean(target, 100)
            peer.fail(stream, UsageError(f"unknown skill {target}", f"{self.name} does not offer it",
                                         nearest(target, self.catalogue.specs), skill=target))  # fmt: skip
            return
        self._server.call(peer, stream, spec, args, key, left, origin)

    async def _ask_slowly(self, peer: Peer, stream: int, target: str, content: dict[str, Any]) -> None:
        try:
            if target == "slip.rotate":
                peer.answer(stream, "done", await self.admission.rotate(peer.id, content))
                self.admission.changed()  # what cuts the old key off goes out after the answer
            else:
                peer.answer(stream, "done", await self._targets.undo(peer.id, content))
        except SlipError as error:
            peer.fail(stream, error)

    def peer_cancel(self, peer: Peer, stream: int, why: str) -> None:
        """A caller gave up."""
        self._server.cancel(peer, stream)

    def peer_credit(self, peer: Peer, stream: int) -> None:
        """A reader took items."""
        self._server.credit(peer, stream)

    def peer_note(self, peer: Peer, target: str, content: dict[str, Any]) -> None:
        """A message without an answer."""
        self._targets.note(peer.id, target, content)
        if target == "slip.digest":
            self._look.set()

    # -- what the executor and the dispatcher need (execute.Mesh, dispatch.Mesh) -------------------------------------

    def note(self, device: str, target: str, content: dict[str, Any]) -> bool:
        """Send a message that has no answer; without a link, ask for one and answer false."""
        if device == self.id:
            self._targets.note(self.id, target, content)
            return True
        if (peer := self.links.up.get(device)) is not None:
            # somebody may wait for a result: it does not wait for the end of this turn
            peer.note(target, content, now=target == "slip.deliver" or content.get("inline") is True)
            return True
        if not self.links.dialling(device) and not self.links.stopping:
            self._workers.do(partial(self._try_link, device))
        return False

    async def _try_link(self, device: str) -> None:
        try:
            await self.links.to(device)
        except SlipError as error:
            self.events.tell("warning", what=str(error.what), why=error.why, hint="it is sent once there is a link")

    async def request(self, device: str, target: str, content: dict[str, Any], deadline: float) -> Any:
        """Ask a device (this one too) something about a run.

        Raises:
            SlipError: it refused, was not reached, or did not answer in time.
        """
        if device == self.id:
            if target == "slip.undo":
                return await self._targets.undo(self.id, content)
            return self._targets.ask(self.id, target, content)
        peer = await self.links.to(device)
        return (await peer.call(target, content, deadline=deadline))[1]

    def devices(self) -> Sequence[Device]:
        """The devices that are here, this one first."""
        return self.members.present()

    def reachable(self, device: str) -> bool:
        """Whether a device is here and not suspected."""
        return self.members.state(device) in ("self", "linked", "via")

    def link_between(self, a: str, b: str) -> LinkQuality | None:
        """How good the link of two devices is; of two that have none yet, nothing is known."""
        return self.members.link(a, b) or LinkQuality()

    def name_of(self, device: str) -> str:
        """How people call a device."""
        found = self.members.find(device)
        return found.name if found is not None else short(device)

    def labels_of(self, device: str, skill: str) -> Labels | None:
        """Where the results of a skill are labelled, as the device that offers it says."""
        found = self.members.find(device)
        offer = found.offer(skill) if found is not None else None
        return self._specs.result_labels(offer.digest) if offer is not None else None

    def shown(self, value: Any, labels: Labels | None, to: str, *, key: str, listed: bool) -> Any:
        """A step's result as another device may have it."""
        return self.gate.shown(value, labels, to, key=key, listed=listed)

    def may_see(self, device: str, label: Label) -> bool:
        """Whether a device may have values with that label."""
        return self.gate.may_see(device, label)

    async def specs(self) -> Mapping[str, Mapping[str, Any]]:
        """The specs of all skills in the mesh, by name; those of this device win."""
        return await self._specs.of_mesh(self.members.present())

    # -- what people and programs do ---------------------------------------------------------------------------------

    async def start(self, plan: Plan) -> Dispatch:
        """Begin a run of a plan; `run.ended` is set at its end.

        Raises:
            UsageError: the plan does not fit the mesh; nothing was started.
        """
        run = await self.runs.start(plan)
        self._group.start_soon(self._drive, run)
        return run

    async def resume(self, run_id: str) -> Dispatch:
        """Go on with a run that was interrupted.

        Raises:
            UsageError: there is none, or it is over.
        """
        run = await self.runs.resume(run_id)
        self._group.start_soon(self._drive, run)
        return run

    async def _drive(self, run: Dispatch) -> None:
        await run.drive()
        self._keep_costs()
