"""Where other devices may be: mDNS, and beside it whatever else suggests an address. Discovered is not reachable.

`Candidates` decides whom to dial and when; it does no input or output, and the clock is an argument. `Discovery` feeds
it from mDNS (RFC 6762, RFC 6763) and keeps this device announced. Whatever mDNS says is untrusted (law 5): it can make
a device dial an address in vain, at a bounded rate, and nothing more; who is there, the handshake proves.
"""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from itertools import islice, zip_longest
from math import inf
from typing import TYPE_CHECKING, Any, Final, Literal
from zlib import crc32

import anyio
from anyio.abc import TaskGroup, TaskStatus

from .addresses import is_loopback, local_addresses, watch_addresses

if TYPE_CHECKING:
    from zeroconf import ServiceInfo, ServiceStateChange, Zeroconf
    from zeroconf.asyncio import AsyncServiceBrowser, AsyncServiceInfo, AsyncZeroconf

SERVICE: Final = "_slipstream._tcp.local."
VERSION: Final = 1
"""The protocol version in the TXT record; a hint only, for the hello settles it."""
CANDIDATES: Final = 256
ADDRESSES: Final = 8
"""How many candidates are kept, and how many addresses of each."""

Source = Literal["static", "known", "gossip", "mdns"]
_RANK: Final[dict[Source, int]] = {"static": 0, "known": 1, "gossip": 2, "mdns": 3}

_DEVICE = re.compile(r"[a-z2-7]{32}")
_FIRST_RETRY, _LAST_RETRY, _FLAP = 0.5, 60.0, 1.0
_DIALS, _STRANGERS, _DIALS_EACH = 32, 16, 3
_INTERFACES, _RESOLVING = 16, 16
_ASK_FIRST, _ASK_LAST = 30.0, 3600.0


@dataclass(frozen=True, slots=True)
class Found:
    """A suggestion to dial `device` at `addresses` (`tls://192.168.1.7:7447`); no address takes the last one back."""

    device: str
    addresses: tuple[str, ...]
    source: Source


@dataclass(slots=True, eq=False)
class _Candidate:
    device: str
    suggested: dict[Source, tuple[str, ...]] = field(default_factory=dict)
    """Addresses by source, the freshest source last."""
    due: float | None = None
    dialling: int = 0
    tried: float = -inf
    handed: set[str] = field(default_factory=set)
    """What the dials that are under way are trying."""
    failures: int = 0
    linked: bool = False
    rank: int = _RANK["mdns"]
    """How readily it is pushed aside; once a person or a handshake vouched for it, that lasts."""

    @property
    def stranger(self) -> bool:
        """Whether only gossip or mDNS ever spoke for it."""
        return self.rank >= _RANK["gossip"]

    def addresses(self) -> tuple[str, ...]:
        """Every source in turn, the freshest first: a source that lies crowds out no other one's addresses."""
        turns = zip_longest(*reversed(self.suggested.values()))
        return tuple(islice(dict.fromkeys(a for turn in turns for a in turn if a is not None), ADDRESSES))


class Candidates:
    """Whom to dial and when, sans-IO; every `now` is in seconds on one monotonic clock.

    What `due` returns counts as being dialled until `failed` or `linked` says how it went. Bounded in memory
    (CANDIDATES), in dials under way (32, of which 16 to devices that only gossip or mDNS knows) and in rate
    (exponential back-off), whatever is suggested.
    """

    def __init__(self, own: str, seed: int = 0) -> None:
        self._own, self._seed = own, seed
        self._all: dict[str, _Candidate] = {}

    def __len__(self) -> int:
        return len(self._all)

    def addresses(self, device: str) -> tuple[str, ...]:
        """Where that device may be, the likeliest first."""
        one = self._all.get(device)
        return one.addresses() if one else ()

    def add(self, found: Found, now: float) -> bool:
        """Take a suggestion in; whether it changed where its device may be. New addresses are due early."""
        one = self._all.get(found.device)
        if one is None:
            if not found.addresses or found.device == self._own or not self._make_room(_RANK[found.source]):
                return False
            one = self._all[found.device] = _Candidate(found.device, due=now)
        before = set(one.addresses())
        one.suggested.pop(found.source, None)
        if found.addresses:
            one.suggested[found.source] = found.addresses[:ADDRESSES]
            one.rank = min(one.rank, _RANK[found.source])
        after = set(one.addresses())
        if after - before - one.handed and not one.linked and one.dialling < _DIALS_EACH:
            # news shortens the wait to an eighth, and no further, so that a liar's flapping answers pace themselves
            early = max(now, one.tried + self._wait(one) / 8)
            one.due = early if one.due is None else min(one.due, early)
        self._drop_if_empty(one)
        return before != after

    def due(self, now: float) -> list[Found]:
        """Whom to dial now, and at which addresses more: the vouched-for first, then who has waited longest."""
        ready = [one for one in self._all.values() if one.due is not None and one.due <= now]
        ready.sort(key=lambda one: (one.rank, one.due))
        dials = []
        free, free_for_strangers = self._free()
        for one in ready:
            if free > 0 and (free_for_strangers > 0 or not one.stranger):
                fresh = tuple(a for a in one.addresses() if a not in one.handed)
                one.due = None
                if fresh:
                    one.handed.update(fresh)
                    one.dialling, one.tried = one.dialling + 1, now
                    free, free_for_strangers = free - 1, free_for_strangers - one.stranger
                    dials.append(Found(one.device, fresh, min(one.suggested, key=_RANK.__getitem__)))
        return dials

    def next_due(self) -> float | None:
        """When `due` will next return something, if nothing else happens before; None: it will not."""
        free, free_for_strangers = self._free()
        times = (
            one.due
            for one in self._all.values()
            if one.due is not None and free > 0 and (free_for_strangers > 0 or not one.stranger)
        )
        return min(times, default=None)

    def failed(self, device: str, now: float) -> None:
        """A dial came to nothing; the next one waits twice as long, at most a minute."""
        one = self._all.get(device)
        if one is None or one.linked or not one.dialling:
            return
        one.dialling -= 1
        if not one.dialling:
            one.handed.clear()
            again = now + self._wait(one)
            one.failures += 1
            one.due = again if one.due is None else min(one.due, again)
            self._drop_if_empty(one)

    def linked(self, device: str) -> None:
        """There is an authenticated link with it, whoever dialled: it is no longer due, and vouched for from now on."""
        one = self._all.get(device)
        if one is None:
            if device == self._own or not self._make_room(_RANK["known"]):
                return
            one = self._all[device] = _Candidate(device)
        one.linked, one.rank = True, 0
        one.due, one.dialling, one.failures = None, 0, 0
        one.handed.clear()

    def lost(self, device: str, now: float) -> None:
        """The link is gone: dial again at once, or a second after the last dial if the link lived shorter than that."""
        one = self._all.get(device)
        if one is not None and one.linked:
            one.linked = False
            one.due = max(now, one.tried + _FLAP)
            self._drop_if_empty(one)

    def _wait(self, one: _Candidate) -> float:
        """Seconds until the next dial: 0.5, doubled with each failure to at most 60; the jitter takes up to half."""
        longest = min(_LAST_RETRY, _FIRST_RETRY * 2.0 ** min(one.failures, 16))
        jitter = crc32(f"{self._seed} {one.device} {one.failures}".encode()) / 2**32
        return longest * (1 - jitter / 2)

    def _free(self) -> tuple[int, int]:
        """How many more dials may begin, and how many of those to strangers, whom others must not wait for."""
        dialling = [one for one in self._all.values() if one.dialling]
        strangers = sum(one.dialling for one in dialling if one.stranger)
        return _DIALS - sum(one.dialling for one in dialling), _STRANGERS - strangers

    def _make_room(self, rank: int) -> bool:
        """Make room for one more of that rank: the least vouched-for goes, among equals who failed most often.

        An equal that was not dialled yet stays, or a flood of inventions would wash the real ones out unseen.
        """
        if len(self._all) < CANDIDATES:
            return True
        idle = [one for one in self._all.values() if not one.linked and not one.dialling]
        worst = max(idle, key=lambda one: (one.rank, one.failures), default=None)
        if worst is None or worst.rank < rank or (worst.rank == rank and not worst.failures):
            return False
        del self._all[worst.device]
        return True

    def _drop_if_empty(self, one: _Candidate) -> None:
        if not one.suggested and not one.linked and not one.dialling:
            del self._all[one.device]


def device_of(name: str) -> str | None:
    """The device id in an mDNS instance name, or None if it names no Slipstream device."""
    device, dot, service = name.partition(".")
    return device if dot and service == SERVICE and _DEVICE.fullmatch(device) else None


def read_answer(info: ServiceInfo, *, loopback: bool = False) -> Found | None:
    """What a resolved mDNS answer suggests, or None if it contradicts itself or leads nowhere (law 5).

    Addresses come plain first, then by IPv6, then link-local ones with the name of the interface that heard them.
    """
    device, txt, port = device_of(info.name), info.properties, info.port
    if device is None or not port or not 0 < port < 65536:
        return None
    if txt.get(b"id") != device.encode() or txt.get(b"port") != b"%d" % port:
        return None
    if not re.fullmatch(rb"[0-9]{1,5}", txt.get(b"v") or b""):
        return None
    from zeroconf import IPVersion

    sane = {ip for ip in info.ip_addresses_by_version(IPVersion.All) if _leads_somewhere(ip, loopback)}
    addresses = []
    for ip in sorted(sane, key=lambda ip: (ip.is_link_local, ip.version, ip.packed, str(ip)))[:ADDRESSES]:
        host, _, scope = str(ip).partition("%")
        if scope:
            try:
                host += "%" + socket.if_indextoname(int(scope))
            except (OSError, ValueError):
                continue
        addresses.append(f"tls://[{host}]:{port}" if ip.version == 6 else f"tls://{host}:{port}")
    return Found(device, tuple(addresses), "mdns") if addresses else None


def _leads_somewhere(ip: Any, loopback: bool) -> bool:
    if ip.is_loopback:
        return loopback
    if ip.is_multicast or ip.is_unspecified or ip.is_reserved:
        return False
    return not (ip.version == 6 and ip.is_link_local and not ip.scope_id)


class Discovery:
    """Keeps `candidates` fed and this device announced, on whatever interfaces there are at the time.

    `found` hears of every suggestion that changed where a device may be (no addresses: it took its leave), and
    `addresses_changed` of every change of this machine's own; both are called on the event loop and must not block.
    `warn(what, why, hint)` says once that mDNS does not work; everything else goes on, and mDNS is tried again.
    `interfaces` limits mDNS to some interfaces or addresses (`["127.0.0.1"]`, `["eth0"]`); empty means all.
    """

    def __init__(
        self,
        device: str,
        port: int,
        found: Callable[[Found], None],
        *,
        peers: Iterable[Found] = (),
        addresses_changed: Callable[[], None] = lambda: None,
        warn: Callable[[str, str, str], None] = lambda what, why, hint: None,
        interfaces: Sequence[str] = (),
        seed: int = 0,
    ) -> None:
        self.candidates = Candidates(device, seed)
        self._device, self._port, self._interfaces = device, port, frozenset(interfaces)
        self._found, self._addresses_changed, self._warn = found, addresses_changed, warn
        self._peers = tuple(peers)
        self._change = anyio.Event()
        self._warned = False

    def suggest(self, found: Found) -> None:
        """Take in what config, state, an invitation or another member knows."""
        if self.candidates.add(found, anyio.current_time()):
            self._found(found)

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Discover until cancelled, then say goodbye; needs asyncio. It counts as started before mDNS is."""
        for peer in self._peers:
            self.suggest(peer)
        task_status.started()
        # 80 ms of import, in a thread so that what just became ready stays responsive
        await anyio.to_thread.run_sync(import_module, "zeroconf.asyncio")
        async with anyio.create_task_group() as group:
            await group.start(watch_addresses, self._own_addresses_changed)
            await self._follow(group)

    def _own_addresses_changed(self) -> None:
        self._change.set()
        self._addresses_changed()

    async def _follow(self, group: TaskGroup) -> None:
        """Make mDNS fit the interfaces, ask, and wait for a change or the next time to ask: ever more seldom."""
        from zeroconf import Error

        mdns: _Mdns | None = None
        pause = _ASK_FIRST
        try:
            while True:
                self._change = anyio.Event()
                usable = self._usable()
                try:
                    if mdns is None and usable:
                        mdns = _Mdns(self._device, self._port, self.suggest, group, usable)
                    if mdns is not None:
                        await mdns.refresh(usable)
                except (OSError, RuntimeError, Error) as error:
                    self._complain(str(error) or type(error).__name__)
                    if mdns is not None:
                        await mdns.close()
                        mdns = None
                if not usable:
                    self._complain("no interface is up")
                elif mdns is not None and not await self._changed_within(2.0):
                    if mdns.heard.is_set():
                        self._warned = False
                    else:
                        self._complain("this device does not even hear its own announcement")
                pause = _ASK_FIRST if await self._changed_within(pause) else min(2 * pause, _ASK_LAST)
        finally:
            if mdns is not None:
                with anyio.CancelScope(shield=True):
                    await mdns.close()

    async def _changed_within(self, seconds: float) -> bool:
        with anyio.move_on_after(seconds):
            await self._change.wait()
        return self._change.is_set()

    def _usable(self) -> list[tuple[str, str]]:
        """The addresses to announce; loopback only if `interfaces` names it, for nobody else can reach it."""
        if self._interfaces:
            return [pair for pair in local_addresses(loopback=True) if not self._interfaces.isdisjoint(pair)]
        return [pair for pair in local_addresses() if not is_loopback(pair[1])]

    def _complain(self, why: str) -> None:
        if not self._warned:
            self._warned = True
            self._warn(
                "devices nearby are not found by themselves",
                f"mDNS does not work here: {why}",
                "add a peer's address to the config, or open UDP port 5353",
            )


class _Mdns:
    """This device's announcement and its ear on zeroconf, for one set of sockets."""

    def __init__(
        self,
        device: str,
        port: int,
        suggest: Callable[[Found], None],
        group: TaskGroup,
        usable: list[tuple[str, str]],
    ) -> None:
        from zeroconf.asyncio import AsyncZeroconf

        self._device, self._port, self._suggest, self._group = device, port, suggest, group
        self._resolving: set[str] = set()
        self._usable: list[tuple[str, str]] = []
        self._browser: AsyncServiceBrowser | None = None
        self._announcing: asyncio.Future[Any] | None = None
        self.heard = anyio.Event()
        """Set once this device's own announcement came back."""
        self._zeroconf: AsyncZeroconf = AsyncZeroconf(_sockets(usable))

    async def refresh(self, usable: list[tuple[str, str]]) -> None:
        """Announce where the addresses are new, and ask again who is there.

        Raises:
            OSError, RuntimeError: the sockets cannot be had.
        """
        from zeroconf import DNSQuestionType
        from zeroconf.asyncio import AsyncServiceBrowser

        if usable != self._usable:
            await self._announce(usable)
        if self._browser is not None:
            await self._browser.async_cancel()
        # A new browser repeats what is cached and asks four times in 14 s. It asks for multicast answers, since
        # Linux hands a unicast one to the process that bound port 5353 last, avahi or another daemon as it may be.
        self._browser = AsyncServiceBrowser(
            self._zeroconf.zeroconf, SERVICE, handlers=[self._on_service], question_type=DNSQuestionType.QM
        )

    async def _announce(self, usable: list[tuple[str, str]]) -> None:
        self._usable = usable
        info = self._info(usable)
        zeroconf = self._zeroconf
        if self._announcing is None:
            # the name is our key's hash, so nobody else has it, and probing for it (1.2 s) would ask in vain
            announcing = await zeroconf.async_register_service(info, cooperating_responders=True)
        else:
            self._announcing.cancel()  # it would go on to announce the old addresses
            zeroconf.zeroconf.registry.async_update(info)  # so that new interfaces announce no old addresses
            await zeroconf.async_update_interfaces(_sockets(usable))
            announcing = await zeroconf.async_update_service(info)
        # One question at once, for unicast answers (RFC 6762, 5.4): the browser's first waits 20 to 120 ms. It names no
        # known answers, so that link-local addresses come again through a new interface, which gives them their scope.
        zeroconf.zeroconf.async_send(zeroconf.zeroconf.generate_service_query(info))
        self._announcing = asyncio.ensure_future(announcing)

    def _info(self, usable: list[tuple[str, str]]) -> AsyncServiceInfo:
        from zeroconf.asyncio import AsyncServiceInfo

        hosts = dict.fromkeys(address.partition("%")[0] for _, address in usable)
        return AsyncServiceInfo(
            SERVICE,
            f"{self._device}.{SERVICE}",
            port=self._port,
            server=f"{self._device}.local.",
            parsed_addresses=list(hosts)[:ADDRESSES],
            properties={"v": str(VERSION), "id": self._device, "port": str(self._port)},
        )

    def _on_service(self, zeroconf: Zeroconf, service_type: str, name: str, state_change: ServiceStateChange) -> None:
        from zeroconf import ServiceStateChange
        from zeroconf.asyncio import AsyncServiceInfo

        device = device_of(name)
        if device == self._device:
            self.heard.set()
        elif device is not None:
            if state_change is ServiceStateChange.Removed:
                self._suggest(Found(device, (), "mdns"))
                return
            info = AsyncServiceInfo(SERVICE, name)
            if info.load_from_cache(zeroconf):
                self._take(info)
            elif name not in self._resolving and len(self._resolving) < _RESOLVING:
                self._resolving.add(name)
                self._group.start_soon(self._resolve, info)

    async def _resolve(self, info: AsyncServiceInfo) -> None:
        from zeroconf import NotRunningException

        name = info.name
        try:
            if await info.async_request(self._zeroconf.zeroconf, 3000):
                self._take(info)
        except NotRunningException:
            return  # closed meanwhile; the next one asks again
        finally:
            self._resolving.discard(name)

    def _take(self, info: AsyncServiceInfo) -> None:
        found = read_answer(info, loopback=any(is_loopback(address) for _, address in self._usable))
        if found is not None:
            self._suggest(found)

    async def close(self) -> None:
        """Say goodbye, once, and close the sockets; what was still to be announced is dropped first."""
        if self._announcing is not None:
            self._announcing.cancel()
        if self._browser is not None:
            await self._browser.async_cancel()
        goodbye = self._zeroconf.zeroconf.generate_unregister_all_services()
        if goodbye is not None:
            self._zeroconf.zeroconf.async_send(goodbye)
        await self._zeroconf.async_close()


def _sockets(usable: list[tuple[str, str]]) -> list[str | int]:
    """One socket per interface and family, as zeroconf wants them: IPv4 by address, IPv6 by interface index.

    Linux sends no IPv6 multicast over loopback, so `::1` is announced but not spoken from.
    """
    plain: dict[str, str] = {}
    six: dict[str, int] = {}
    for interface, address in usable:
        if ":" not in address:
            plain.setdefault(interface, address)
        elif not is_loopback(address):
            six[interface] = socket.if_nametoindex(interface)
    return [*list(plain.values())[:_INTERFACES], *list(six.values())[:_INTERFACES]]
