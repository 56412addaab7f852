"""Who is here: one device's view of the mesh, kept as a link-state database; sans-IO, the clock is an argument.

Every device announces itself together with the devices that it has links with; announcements are flooded, and the
newest version wins (in the spirit of OSPF, RFC 2328 sections 12 and 13). Laws:

- A device is present if a path leads to it over links that both of their ends announce; of my own links my end's
  state counts at once. So nobody is here because somebody once said so, and a partition needs no timer of its own.
- Versions only grow. Late, repeated and reordered news changes nothing; news of me from a former life makes me
  outlive it.
- Of a linked device only what it says itself counts. What others say of it is told to itself, which outlives it if it
  is of a former life, and waits for the end of the link: nobody sends it twice.
- A linked device is never sent what it is known to have: by its digest, by what it sent, by what it was sent.
- What is new is passed on once, wherever it came from. Of absent devices nothing else is, except to correct a peer
  that has older news.
- One timer serves suspicion, loss and heartbeats, and an idle device wakes once per heartbeat for all its links.

One file because what is flooded, who is reached and who is silent are one state with one set of laws.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from math import inf, isfinite
from typing import Any, Final, Literal

from .device import Device, LinkQuality, short
from .errors import ProtocolError, UsageError
from .wire import CHUNK, FRAME_LIMIT, pack

Version = tuple[int, int]
State = Literal["self", "linked", "suspect", "via", "absent"]

VERSION_LIMIT: Final = 2**53
"""Both parts of a version stay below it, so that every language's numbers hold them."""
BATCH: Final = 2 * CHUNK
"""Bytes of announcements sent together: a message that need not be cut into chunks."""
QUALITY_EVERY: Final = 10.0
"""Seconds between two announcements that only tell how good the same link is."""
LIVES: Final = 2**20
"""How many lives ahead of this one a former life of this device may have been: nobody starts a device more often."""
STRANGERS: Final = 32
"""Devices that are announced and of which the roster does not know yet."""
LIFE_EVERY: Final = 1.0
"""Seconds between two attempts to outlive former news of oneself: two devices with one key must not flood the mesh."""

_NEVER: Final[Version] = (-1, -1)
_OWN: Final = frozenset({"name", "kind", "addresses", "offers", "resources", "simulated", "leaving"})


class _Record:
    """What is known of a device: its newest announcement, and the same as the map that others are sent."""

    __slots__ = ("device", "hidden", "links", "seen", "size", "version", "wire")

    def __init__(self, device: Device, wire: dict[str, Any], size: int, seen: float) -> None:
        self.device, self.version = device, device.version
        self.links = {} if device.leaving else device.neighbours  # no path leads to or through one that leaves
        self.wire, self.size, self.seen = wire, size, seen
        self.hidden = False


class _Link:
    """One of my links: what its peer has (by id), and how good it is."""

    __slots__ = ("echoed", "has", "quality", "suspected", "synced", "told", "told_at", "whole")

    def __init__(self) -> None:
        self.has: dict[str, Version] = {}
        self.synced = self.whole = False  # its digest came; all that it lacks is due, not only what is new
        self.quality = self.told = LinkQuality()
        self.told_at = -inf
        self.echoed = _NEVER  # the newest that it was told of what others say of it
        self.suspected: float | None = None  # when it was last heard, at the time that it was suspected


class Members:
    """One device's view of the mesh. `me` is its first announcement; `me.version` holds its incarnation.

    Incarnations count a device's starts and never repeat. Times are seconds of any one monotonic clock. At most
    `max_devices` others are remembered: for more of them, the absent one that was seen least recently is forgotten.

    Raises:
        ValueError: the times are not in the order heartbeat_every < suspect_after < lost_after.
    """

    def __init__(
        self, me: Device, suspect_after: float = 2.0, lost_after: float = 3.0, heartbeat_every: float = 1.25,
        max_devices: int = 1000,
    ) -> None:  # fmt: skip
        if not 0 < heartbeat_every < suspect_after < lost_after:
            raise ValueError("heartbeat_every < suspect_after < lost_after is needed")
        self.suspect_after, self.lost_after, self.heartbeat_every = suspect_after, lost_after, heartbeat_every
        self.max_devices = max_devices
        self._mine = _Record(replace(me, neighbours={}), {}, 0, 0.0)
        self._records = {me.id: self._mine}
        self._links: dict[str, _Link] = {}
        self._hearsay: dict[str, _Record] = {}  # the newest that others say of a linked device
        self._heard: dict[str, float] = {}
        self._sent: dict[str, float] = {}
        self._pending: dict[str, None] = {me.id: None}  # whose news is new here, in order
        self._former: Version = _NEVER  # news of me that I did not write
        self._next_life = -inf
        self._now = self._ticked = -inf
        self._awaited = inf
        self._paths: dict[str, str] = {}  # present device -> my neighbour on the shortest path, nearest first
        self._graph_changed = self._changed = self._full = False
        self._present: list[Device] | None = None
        self._shown: dict[str, tuple[Version, str, str]] = {}  # version, via and name as last told in an event
        self._compared: dict[str, str] = {}  # the paths at that time
        self._touched: dict[str, None] = {}  # whose announcement is newer than that
        self._why: dict[str, str] = {}
        self._events: list[tuple[str, dict[str, Any]]] = []
        self.admits: Callable[[str], bool] = lambda device: True
        """Whether a device is of this mesh: no path leads to or through any other, whatever is announced."""

    # -- what this device tells ----------------------------------------------------------------------------------------

    @property
    def me(self) -> Device:
        """This device's own announcement, as others get it next."""
        return self._mine.device

    def change(self, now: float, **fields: Any) -> None:
        """Announce other `fields` (name, addresses, offers, resources, leaving, ...); many changes make one version.

        Raises:
            TypeError: a field that is not the caller's to change.
        """
        self._now = now
        if not fields.keys() <= _OWN:
            raise TypeError(f"not announced this way: {', '.join(sorted(fields.keys() - _OWN))}")
        if any(getattr(self.me, name) != value for name, value in fields.items()):
            self._announce(**fields)

    def _announce(self, **fields: Any) -> None:
        incarnation, sequence = self._mine.version  # as long as nobody was sent it, it can still be written anew
        self._rewrite((incarnation, sequence + bool(self._mine.wire)), **fields)

    def _rewrite(self, version: Version, **fields: Any) -> None:
        mine = self._mine
        mine.device, mine.version, mine.wire = replace(mine.device, version=version, **fields), version, {}
        self._pending[mine.device.id] = None
        self._present = None

    def _outlive(self) -> None:
        """Announce above what a former life of mine left in the mesh."""
        if self._former < self._mine.version or self._now < self._next_life:
            return
        (incarnation, sequence), mine = self._former, self._mine.version
        # the same version may be mine, back by a faster way; a higher one is another life's, and so is its incarnation
        self._rewrite((incarnation, sequence + 1) if self._former == mine else (incarnation + 1, 0))
        self._next_life = self._now + LIFE_EVERY

    # -- links -----------------------------------------------------------------------------------------------------

    def link_up(self, peer: str, now: float) -> None:
        """There is a link with `peer`, or a new one in place of another; its digest is awaited."""
        self._now = self._heard[peer] = self._sent[peer] = now
        known = peer in self._links
        self._links[peer] = _Link()
        if not known:
            self._graph_changed = self._changed = True
        self._tell_links()

    def link_down(self, peer: str, now: float, why: str) -> None:
        """The link with `peer` is gone; harmless when it already was."""
        self._now = now
        if self._links.pop(peer, None) is None:
            return
        self._heard.pop(peer, None)
        self._sent.pop(peer, None)
        self._why[peer] = why
        self._graph_changed = self._changed = True
        hearsay, record = self._hearsay.pop(peer, None), self._records.get(peer)
        if hearsay is not None and (record is None or hearsay.version > record.version):
            self._keep(hearsay)
        self._tell_links()

    def heard(self, peer: str, now: float) -> None:
        """Some bytes came from `peer`."""
        self._heard[peer] = now

    def sent(self, peer: str, now: float) -> None:
        """Something was sent to `peer`."""
        self._sent[peer] = now

    def measured(self, peer: str, quality: LinkQuality, now: float) -> None:
        """How good the link with `peer` is; announced when that is half more or less than was told."""
        if (link := self._links.get(peer)) is None:
            return
        self._now, link.quality, told = now, quality, link.told
        differs = _differs(told.rtt, quality.rtt) or _differs(told.bandwidth, quality.bandwidth)
        if differs and now >= link.told_at + QUALITY_EVERY:
            link.told, link.told_at = quality, now
            self._tell_links()

    def _tell_links(self) -> None:
        self._announce(neighbours={peer: link.told for peer, link in self._links.items()})

    # -- news ------------------------------------------------------------------------------------------------------

    def receive(self, peer: str, news: list[Any], now: float) -> bool:
        """Announcements, as `peer` sent them; whether any was news, which is to be passed on (`gossip`) or told.

        Raises:
            ProtocolError: one of them cannot be read; those before it count.
        """
        self._now = now
        link = self._links.get(peer)
        has: dict[str, Version] = {} if link is None else link.has
        records, mine = self._records, self._mine
        try:
            for wire in news:
                device, (incarnation, sequence) = wire["id"], wire["version"]
                version = (incarnation, sequence)
                record = records.get(device)
                if record is None or record is mine or version > record.version:
                    self._learn(peer, device, version, wire)
                if device in records and version > has.get(device, _NEVER):
                    has[device] = version
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError, UsageError) as error:
            raise ProtocolError("an announcement cannot be read", f"{type(error).__name__}: {error}"[:200]) from error
        return bool(self._pending) or self._changed or self._graph_changed

    def _learn(self, peer: str, device_id: str, version: Version, wire: dict[str, Any]) -> None:
        _check_version(version)
        if (size := len(pack([wire]))) > FRAME_LIMIT:
            raise ValueError(f"{size} bytes; {FRAME_LIMIT} are allowed")
        device = _read(wire)
        if device.id != device_id or not device_id:
            raise ValueError("its id is no id")
        mine = self._mine
        if device_id == mine.device.id:
            if version[0] > mine.version[0] + LIVES:
                return  # no former life of mine said that
            if version > mine.version or (version == mine.version and device != _read(mine.device.to_wire())):
                self._former = max(self._former, version)
                self._outlive()
            return
        record = _Record(device, wire, size, self._now)
        if device_id == peer or device_id not in self._links:
            self._keep(record)
        elif (before := self._hearsay.get(device_id)) is None or version > before.version:
            self._hearsay[device_id] = record
            self._changed = True

    def _keep(self, record: _Record) -> None:
        device_id = record.device.id
        before = self._records.get(device_id)
        stranger = not self.admits(device_id)
        if before is None and stranger and sum(not self.admits(i) for i in self._records) >= STRANGERS:
            return
        if before is None and not self._room(stranger):
            return
        if stranger:
            record.wire = record.device.to_wire()  # what a newer version adds is for members: anything, and large
        self._records[device_id] = record
        if before is None or device_id in self._links or self._joined(device_id, before.links.keys() ^ record.links):
            self._graph_changed = True  # a linked device may just now be known as it is
        self._pending[device_id] = None
        self._touched[device_id] = None
        self._present, self._changed = None, True

    def _joined(self, device: str, others: Iterable[str]) -> bool:
        """Whether one of `others` announces a link with `device`: only then does it matter what `device` announces."""
        return any((record := self._records.get(other)) is not None and device in record.links for other in others)

    def _room(self, stranger: bool) -> bool:
        """Whether one more device can be remembered, once an absent one was forgotten for it if need be; of the members
        none is for a stranger."""
        if len(self._records) <= self.max_devices:
            return True
        paths = self._reach()
        absent = [i for i in self._records if i not in paths and i != self.me.id and not (stranger and self.admits(i))]
        if absent:
            oldest = min(absent, key=lambda i: (self.admits(i), not self._records[i].hidden, self._records[i].seen))
            del self._records[oldest]
            self._pending.pop(oldest, None)
            for link in self._links.values():
                link.has.pop(oldest, None)
        elif not self._full and not stranger:
            self._full = True
            self._events.append(("warning", {
                "what": f"the mesh has more than {self.max_devices} devices", "why": "the others are not seen here",
                "hint": "split the mesh",
            }))  # fmt: skip
        return bool(absent)

    def digest(self) -> dict[str, Version]:
        """The versions that are known here, by device id: what the two ends of a new link tell each other first."""
        return {device: record.version for device, record in self._records.items()}

    def digest_from(self, peer: str, digest: dict[str, Any], now: float) -> None:
        """The digest of `peer`; what it lacks is sent next.

        Raises:
            ProtocolError: it cannot be read.
        """
        self._now = now
        has = {}
        try:
            for device, (incarnation, sequence) in digest.items():
                if device in self._records:
                    has[device] = _check_version((incarnation, sequence))
        except (TypeError, ValueError, AttributeError) as error:
            raise ProtocolError("a digest cannot be read", f"{type(error).__name__}: {error}"[:200]) from error
        if (link := self._links.get(peer)) is not None:
            link.has, link.synced, link.whole = has, True, True
            self._graph_changed = self._changed = True
            former = has.get(self.me.id, _NEVER)
            if former[0] <= self._mine.version[0] + LIVES:  # no life of this device was that long ago: a lie
                self._former = max(self._former, former)
            self._outlive()

    def gossip(self) -> list[tuple[str, list[dict[str, Any]]]]:
        """What to send now: announcements for each linked device that lacks them, in messages of bounded size."""
        paths = self._reach()
        out: list[tuple[str, list[dict[str, Any]]]] = []
        for peer, link in self._links.items():
            if not link.synced:
                continue
            due: Iterable[str] = self._pending
            if link.whole:
                due = [i for i, r in self._records.items() if r is self._mine or i in paths or i in link.has]
                link.whole = False
            batch: list[dict[str, Any]] = []
            room = BATCH
            hearsay = self._hearsay.get(peer)
            if hearsay is not None and hearsay.version > max(link.echoed, link.has.get(peer, _NEVER)):
                link.echoed = hearsay.version  # it has said nothing of that itself: the link is as it was
                batch.append(hearsay.wire)
                room -= hearsay.size
            for device in due:
                record = self._records[device]
                if record.version <= link.has.get(device, _NEVER):
                    continue
                if not record.wire:
                    record.wire = record.device.to_wire()
                    record.size = len(pack([record.wire]))
                if batch and record.size > room:
                    out.append((peer, batch))
                    batch, room = [], BATCH
                batch.append(record.wire)
                room -= record.size
                link.has[device] = record.version
            if batch:
                out.append((peer, batch))
        self._pending.clear()
        return out

    # -- time ------------------------------------------------------------------------------------------------------

    def tick(self, now: float) -> list[str]:
        """Look at the clock: who is suspect, and who is lost (returned: their links are to be aborted)."""
        overslept = now > self._awaited + self.lost_after - self.suspect_after
        self._now = self._ticked = now
        self._awaited = inf
        self._outlive()
        for times in (self._heard, self._sent):
            if len(times) > len(self._links):  # of links that never came up
                for peer in times.keys() - self._links.keys():
                    del times[peer]
        expired = []
        for peer, link in self._links.items():
            heard = self._heard[peer]
            if overslept and heard < now - self.heartbeat_every:
                # a device that slept or stalled doubts itself first: what the others sent may not be read yet
                heard = self._heard[peer] = now - self.heartbeat_every
            if now >= heard + self.lost_after:
                expired.append(peer)
            elif now >= heard + self.suspect_after:
                if link.suspected != heard:
                    link.suspected = heard
                    self._tell(peer, "device.suspect")
            elif link.suspected is not None:
                link.suspected = None
                self._tell(peer, "device.changed")
        for peer in expired:
            self.link_down(peer, now, f"nothing was heard of it for {now - self._heard[peer]:.1f} s")
        return expired

    def _tell(self, peer: str, kind: str) -> None:
        if peer in self._reach():
            self._events.append((kind, {"device": peer, "name": self._records[peer].device.name}))

    def beats_due(self, now: float) -> list[str]:
        """The linked devices to send a heartbeat to now: once one needs it, all that will soon."""
        if not any(now >= self._sent[peer] + self.heartbeat_every for peer in self._links):
            return []
        return [peer for peer in self._links if now >= self._sent[peer] + self.heartbeat_every / 2]

    def next_timer(self) -> float | None:
        """When to call `tick` and `beats_due` next; `None` while there is no link."""
        due = inf
        for peer, link in self._links.items():
            heard = self._heard[peer]
            # who missed no heartbeat yet needs no look of its own: the next heartbeat of mine is early enough
            doubted = link.suspected != heard and self._ticked > heard + self.heartbeat_every
            patience = self.suspect_after if doubted else self.lost_after
            due = min(due, self._sent[peer] + self.heartbeat_every, heard + patience)
        self._awaited = due
        return None if due == inf else due

    # -- who is here -----------------------------------------------------------------------------------------------

    def _reach(self) -> dict[str, str]:
        """The devices that are here, nearest first, each with my neighbour on a shortest path (the smallest id)."""
        if not self._graph_changed:
            return self._paths
        records, me = self._records, self.me.id
        paths = {}
        for peer in sorted(self._links):
            record, told = records.get(peer), self._links[peer].has.get(peer)
            if record is None or told is None or record.version < told:
                continue  # on this link it did not say yet what it is: what is known may be of a former life
            if me in record.links and self.admits(peer):
                paths[peer] = peer
        queue = list(paths)
        for at in queue:
            for peer in records[at].links:
                if (
                    peer not in paths
                    and peer != me
                    and (record := records.get(peer)) is not None
                    and at in record.links
                    and self.admits(peer)
                ):
                    paths[peer] = paths[at]
                    queue.append(peer)
        for device in self._paths.keys() - paths.keys():
            records[device].seen = self._now
        for device in paths:
            if device not in self._paths:  # those that joined while it was absent may lack it
                self._pending[device] = None
                records[device].hidden = False
        self._paths, self._present = paths, None
        self._graph_changed = False
        return paths

    def present(self) -> list[Device]:
        """The devices that are here: this one first, then by name."""
        paths = self._reach()
        if self._present is None:
            here = [self._records[device].device for device in paths]
            self._present = [self.me, *sorted(here, key=lambda d: (d.name, d.id))]
        return list(self._present)

    def known(self) -> list[tuple[Device, float | None]]:
        """Every other device that is remembered, with when it was last here; `None`: it is here now.

        Those that are here come first, by name; then the absent ones, the last seen first.
        """
        here = self.present()[1:]
        absent = [
            r for i, r in self._records.items()
            if i not in self._paths and r is not self._mine and not r.hidden and self.admits(i)
        ]  # fmt: skip
        absent.sort(key=lambda r: (-r.seen, r.device.name, r.device.id))
        return [*((device, None) for device in here), *((r.device, r.seen) for r in absent)]

    def seen(self, device: str) -> float | None:
        """When the device of that id was last here; `None`: it is here now, or not known."""
        record = self._records.get(device)
        return None if record is None or record is self._mine or device in self._reach() else record.seen

    def find(self, id_or_name: str) -> Device | None:
        """The device with that id, or else with that name (one that is here before one that is not), if it is known.

        Raises:
            UsageError: the name fits more than one.
        """
        record = self._records.get(id_or_name)
        if record is not None and not record.hidden and (record is self._mine or self.admits(id_or_name)):
            return record.device
        named = [d for d in self.present() if d.name == id_or_name]
        named = named or [d for d, _ in self.known() if d.name == id_or_name]
        if len(named) > 1:
            ids = sorted(d.id for d in named)
            raise UsageError(f"{len(ids)} devices are called {id_or_name}", f"they are {', '.join(ids)}",
                             "say which one by its id", device=id_or_name)  # fmt: skip
        return named[0] if named else None

    def get(self, id_or_name: str) -> Device:
        """As `find`, for a device that must be known.

        Raises:
            UsageError: it is not, or the name fits more than one.
        """
        if (device := self.find(id_or_name)) is None:
            names = sorted({self.me.name, *(d.name for d, _ in self.known())})
            raise UsageError(f"no device is called {id_or_name}", f"known are {', '.join(names)[:300]}",
                             "slip devices list", device=id_or_name)  # fmt: skip
        return device

    def state(self, device: str) -> State:
        """How the device of that id is here: linked, linked but silent, by way of others, or not at all."""
        if device == self.me.id:
            return "self"
        via = self._reach().get(device)
        if via is None:
            return "absent"
        if via != device:
            return "via"
        return "suspect" if self._links[device].suspected == self._heard[device] else "linked"

    def via(self, device: str) -> str | None:
        """My neighbour on the shortest path to a device (itself when linked); `None` if it is me or not here."""
        return self._reach().get(device)

    def link(self, a: str, b: str) -> LinkQuality | None:
        """How good the link of two devices is, as its better-known end tells; `None` if neither has announced one."""
        me = self.me.id
        if b == me or (a != me and b < a):  # my own end is the freshest; else any fixed order
            a, b = b, a
        one, other = self._end(a, b), self._end(b, a)
        if one is None or other is None:
            return one or other
        return LinkQuality(
            other.rtt if one.rtt is None else one.rtt, other.bandwidth if one.bandwidth is None else one.bandwidth
        )

    def _end(self, a: str, b: str) -> LinkQuality | None:
        if a == self.me.id:
            return self._links[b].quality if b in self._links else None
        return self._records[a].device.neighbours.get(b) if a in self._records else None

    def roster_changed(self) -> None:
        """What `admits` says may be otherwise now."""
        self._graph_changed = self._changed = True

    def forget(self, device: str) -> None:
        """Do not list an absent device any more, until it is back.

        Raises:
            UsageError: it is here, or not known.
        """
        record = self._records.get(device)
        if record is None or record.hidden:
            raise UsageError(f"{short(device)} is not known", hint="slip devices list", device=device)
        if record is self._mine or device in self._reach():
            raise UsageError(f"{record.device.name} is here", "only an absent device can be forgotten",
                             "revoke it, or have it leave first", device=device)  # fmt: skip
        # its version stays: peers count on it that what they sent once is not needed again
        record.hidden = True

    def events(self) -> list[tuple[str, dict[str, Any]]]:
        """What happened since the last call, as kinds and fields of events.py; what undid itself is left out."""
        if self._changed:
            self._changed = False
            self._compare(self._reach())
        self._why.clear()
        out, self._events = self._events, []
        return out

    def _compare(self, paths: dict[str, str]) -> None:
        tell, shown = self._events.append, self._shown
        differ: Iterable[str] = [device for device in self._touched if device in paths]
        if paths is not self._compared:  # somebody came, went, or is reached another way
            self._compared, differ = paths, paths
            lost = [device for device in shown if device not in paths]
            for device in lost:
                _, via, name = shown[device]
                record = self._records.get(device)
                if record is not None and record.device.leaving:
                    why = "left"
                else:
                    way = shown.get(via)
                    unreached = "out of reach" if way is None else f"out of reach: it was reached through {way[2]}"
                    why = self._why.get(device, unreached)
                tell(("device.left", {"device": device, "name": name, "why": why}))
            for device in lost:
                del shown[device]
        for device in differ:
            via, record, was = paths[device], self._records[device], shown.get(device)
            if was is not None and was[0] == record.version and was[1] == via:
                continue
            name = record.device.name
            shown[device] = (record.version, via, name)
            if was is not None and was[0][0] != record.version[0]:
                tell(("device.left", {"device": device, "name": was[2], "why": "restarted"}))
                was = None
            if was is None:
                tell(("device.joined", {"device": device, "name": name, "via": None if via == device else via}))
            else:
                tell(("device.changed", {"device": device, "name": name}))
        self._touched.clear()


def _differs(told: float | None, now: float | None) -> bool:
    if told is None or now is None:
        return now is not None
    return abs(now - told) > told / 2


def _check_version(version: Any) -> Version:
    incarnation, sequence = version
    if type(incarnation) is int and type(sequence) is int and 0 <= incarnation < VERSION_LIMIT > sequence >= 0:
        return incarnation, sequence
    raise ValueError(f"a version of {version!r:.80}")


def _read(wire: dict[str, Any]) -> Device:
    """The announcement in a map from elsewhere, its numbers checked too."""
    device = Device.from_wire(wire)
    resources = device.resources
    amounts = [resources.load, resources.battery, resources.capacity]
    for offer in device.offers:
        amounts += (offer.seconds, offer.joules)
    for quality in device.neighbours.values():
        amounts += (quality.rtt, quality.bandwidth)
    for amount in amounts:
        if amount is not None and not (isfinite(amount) and amount >= 0):
            raise ValueError(f"an amount of {amount}")
    return device
