"""`slip up`: config → identity → journal → transport and packs → node → control socket → READY, until told to leave.

Law 10: up to READY no textual, cryptography or zeroconf is imported. mDNS begins after READY and nothing waits for it.
"""

from __future__ import annotations

import errno
import fcntl
import gc
import json
import os
import signal
import time
import traceback
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import anyio

from . import config as settings
from . import places
from .config import Config, Loaded
from .control_server import ControlServer
from .core.audit import Audit, audit_key
from .core.errors import SlipError, UsageError, from_wire
from .core.identity import CERTIFICATE, Identity
from .core.journal import Journal
from .core.node import Node
from .core.skill import Pack
from .feed import Feed
from .guard import StallGuard
from .keeper import RosterKeeper
from .log import Log
from .machine import machine
from .notify import notify, watchdog_seconds
from .policy_source import PolicyFile
from .skills import load as load_packs
from .trace import Recorder
from .transports.addresses import local_addresses, watch_addresses
from .transports.discovery import Candidates, Discovery, Found
from .transports.tls import TlsTransport
from .trust_verbs import TrustVerbs
from .verbs import READING, Verbs

RELOADED: Final = ("name", "packs", "peers")
"""Settings that SIGHUP changes at once, of packs only files; the others wait for a restart."""
_DAY: Final = 86_400.0


def up(flags: Mapping[str, Any], *, new_mesh: bool = False, mesh: Path | None = None) -> int:
    """Be this device's daemon until SIGTERM, SIGINT or `slip down`; the exit code.

    Raises:
        UsageError: it cannot start, and what to do about it.
    """
    loaded = settings.load(flags)
    with held(loaded.config.state, make=new_mesh or mesh is not None):
        identity = identity_in(loaded.config, new_mesh=new_mesh, mesh=mesh)
        journal = Journal(loaded.config.state / places.JOURNAL, time.time)
        journal.forget_old()
        try:
            anyio.run(Daemon(loaded, partial(settings.load, flags), identity, journal).run)
        except (OSError, BaseExceptionGroup) as error:
            raise _why(error, loaded.config) from error
        finally:
            journal.close()
    return 0


@contextmanager
def held(state: Path, *, make: bool) -> Iterator[None]:
    """Hold the state folder: one daemon at a time, whatever became of the one before.

    Raises:
        UsageError: there is no such folder, it cannot be written, or another daemon holds it.
    """
    try:
        if make:
            state.mkdir(mode=0o700, parents=True, exist_ok=True)
        elif not (state / CERTIFICATE).exists():
            raise UsageError(
                f"no identity in {state}", "this device belongs to no mesh yet",
                "slip pair join CODE (another device lets this one in), slip pair new (the first one), or slip demo",
            )  # fmt: skip
        descriptor = os.open(state / places.LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise UsageError(f"the state folder {state} cannot be written", error.strerror or str(error),
                         "choose another one: slip up --state DIR") from None  # fmt: skip
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    except BlockingIOError:
        owner = os.pread(descriptor, 20, 0).decode().strip() or "unknown"
        raise UsageError(f"another daemon has {state}", f"its process is {owner}",
                         "slip down stops it; slip up --state DIR starts a second device") from None  # fmt: skip
    finally:
        os.close(descriptor)


def identity_in(config: Config, *, new_mesh: bool, mesh: Path | None) -> Identity:
    """The identity in a state folder, made first if that is asked for: as the first device of a mesh, or let in by an
    owner whose state lies in the folder `mesh`.

    Raises:
        UsageError: there is none, or there is one already and it belongs to another mesh.
    """
    state = config.state
    there = (state / CERTIFICATE).exists()
    if new_mesh and there:
        raise UsageError(f"{state} belongs to a mesh already", "a device is in one mesh", "leave out --new-mesh")

    def make() -> None:
        from .core import authority

        if mesh is None:
            authority.found(state, config.name, config.kind)
        else:
            authority.admit_here(mesh, state, config.name, config.kind)

    if new_mesh or (mesh is not None and not there):
        _apart(make)
    identity = Identity.load(state)
    if mesh is not None and identity.root.read_bytes() != Identity.load(mesh).root.read_bytes():
        raise UsageError(f"{state} belongs to another mesh", f"not to the one of {mesh}", "choose another --state")
    return identity


def _apart(make: Callable[[], object]) -> None:
    """Do it in a child process: making keys loads 10 MB of `cryptography`, which a daemon needs for nothing else.

    Raises:
        SlipError: what it raised there.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            make()
            status = 0
        except SlipError as error:
            os.write(writing, json.dumps(error.to_wire()).encode())
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        said = pipe.read()
    _, ended = os.waitpid(child, 0)
    if said:
        raise from_wire(json.loads(said))
    if ended:
        raise SlipError("the identity could not be made", f"the process that makes it ended with {ended}")


class Daemon:
    """A running device: its node, what finds others for it, and what people say to it."""

    def __init__(self, loaded: Loaded, reload: Callable[[], Loaded], identity: Identity, journal: Journal) -> None:
        self._loaded, self._reload, self._identity, self._journal = loaded, reload, identity, journal
        self._config = loaded.config
        self._up = False
        self._log = Log(self._config.log)
        self._packs = {name: pack for name in self._config.packs for pack in load_packs([name])}

    async def run(self) -> None:
        """Come up, serve, leave.

        Raises:
            UsageError, OSError: it cannot come up.
        """
        config = self._config
        guard = StallGuard()
        candidates = Candidates(self._identity.id)
        self._keeper = RosterKeeper(config.state)
        self._policy = PolicyFile(config.state, time.monotonic, self._policy_wrong)
        audit = self._audit = Audit(config.state / places.AUDIT, audit_key(config.state), time.time)
        transport = TlsTransport(self._identity, config.listen.hosts, config.listen.port, self._refused)
        node = self._node = Node(
            self._identity.id, *self._called(), transports=[transport],
            packs=[(pack, self._settings_of(pack)) for pack in self._packs.values()], journal=self._journal,
            candidates=candidates, guard=guard, trust=self._keeper,
            policy=self._policy, audit=audit, meters=[machine()],
        )  # fmt: skip
        node.events.listen(self._log.event)
        about = {"state": str(config.state)}
        async with anyio.create_task_group() as group:
            # signals first: one that comes while we start must be obeyed as well
            with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals, guard:
                group.start_soon(self._obey, signals, group.cancel_scope)
                async with self._living(node):
                    self._discovery = self._discover(candidates)
                    feed = Feed(node)
                    recorder = Recorder(node, feed, config.state)
                    own = Verbs(node, about, feed)
                    verbs = {**own.table(), **TrustVerbs(node, self._roster_changed).table()}
                    control = ControlServer(verbs, self._fault)
                    looking = ControlServer({verb: verbs[verb] for verb in READING}, self._fault)
                    async with (
                        control.serve(places.socket_of(config.state)),
                        looking.serve(places.socket_of(config.state, read_only=True)),
                    ):
                        self._ready()
                        group.start_soon(recorder.run)
                        group.start_soon(self._keep_found)
                        group.start_soon(self._watchdog)
                        group.start_soon(self._forget_old)
                        await self._left.wait()
            group.cancel_scope.cancel()

    def _called(self) -> tuple[str, str]:
        """Name and kind: as configured, or as this device was let in."""
        me = self._keeper.roster.member(self._identity.id)
        name, kind = self._config.name, self._config.kind
        if me is not None and self._loaded.origin("name") == "default":
            name = me.name
        if me is not None and self._loaded.origin("kind") == "default":
            kind = me.kind
        return name, kind

    @asynccontextmanager
    async def _living(self, node: Node) -> AsyncIterator[None]:
        """The node, up; `_left` is set when it has left."""
        self._left = anyio.Event()

        async def live(*, task_status: anyio.abc.TaskStatus[None]) -> None:
            try:
                await node.run(task_status=task_status)
            finally:
                self._audit.close()
                self._left.set()

        async with anyio.create_task_group() as group:
            await group.start(live)
            yield
            node.stop()

    def _ready(self) -> None:
        self._up = True
        for run in self._node.runs.interrupted():
            self._node.events.tell("warning", what=f"run {run.id} was interrupted", why="the daemon stopped under it",
                                   hint=f"slip runs resume {run.id}")  # fmt: skip
        notify("READY=1", f"MAINPID={os.getpid()}")
        self._log.line("ready", pid=os.getpid(), state=str(self._config.state))
        # what the start left is thrown out once; what is here now stays, and no later collection walks it again
        gc.collect()
        gc.freeze()
        gc.enable()

    def _settings_of(self, pack: Pack) -> dict[str, Any]:
        folder = self._config.state / "packs" / pack.name
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return {"state": str(folder), **self._config.settings.get(pack.name, {})}

    # -- finding others ------------------------------------------------------------------------------------------------

    def _discover(self, candidates: Candidates) -> Discovery:
        listen = self._config.listen
        own = self._node.members.me.addresses
        port = int(own[0].rpartition(":")[2]) if own else listen.port
        wildcard = any(host in ("0.0.0.0", "::") for host in listen.hosts)
        discovery = Discovery(
            self._node.id, port, self._found, addresses_changed=partial(self._moved, port), warn=self._warn,
            interfaces=listen.interfaces or (() if wildcard else listen.hosts),
        )  # fmt: skip
        discovery.candidates = candidates  # the node dials by them already
        for device, addresses in self._config.peers.items():
            discovery.suggest(Found(device, addresses, "static"))
        for device, address in (self._journal.fact("known") or {}).items():
            discovery.suggest(Found(device, (address,), "known"))
        return discovery

    async def _keep_found(self) -> None:
        if self._config.listen.mdns:
            await self._discovery.run()
        else:
            own = self._node.members.me.addresses
            await watch_addresses(partial(self._moved, int(own[0].rpartition(":")[2]) if own else 0))

    def _found(self, found: Found) -> None:
        if found.source == "mdns" and found.addresses:
            self._node.events.tell("discovery.found", device=found.device, address=found.addresses[0])
        self._node.links.suggested()

    def _moved(self, port: int) -> None:
        """This machine's addresses changed; where it listens on all of them, the new ones are announced."""
        mine = set(self._config.listen.hosts)
        hosts = [h for _, h in local_addresses(loopback=True) if h in mine]
        hosts += [h for _, h in local_addresses() if ("::" if ":" in h else "0.0.0.0") in mine]
        self._node.addresses_are(f"tls://[{h}]:{port}" if ":" in h else f"tls://{h}:{port}" for h in hosts)

    def _policy_wrong(self, error: SlipError) -> None:
        self._warn(f"the policy stays as it was: {error.what}", error.why, error.hint)

    def _roster_changed(self) -> None:
        """Another process of this device let somebody in, or threw somebody out."""
        self._keeper.read_again()
        self._node.admission.changed()

    def _refused(self, address: str, why: str) -> None:
        self._warn(f"a stranger at {address} was refused", why, "")

    def _warn(self, what: str, why: str, hint: str) -> None:
        self._node.events.tell("warning", what=what, why=why, hint=hint)

    def _fault(self, error: Exception) -> None:
        where = "".join(traceback.format_exception(error)[-3:])
        self._warn(f"a verb failed: {type(error).__name__}", where, "report it, with this line")

    # -- what the system says ------------------------------------------------------------------------------------------

    async def _obey(self, signals: AsyncIterator[int], everything: anyio.CancelScope) -> None:
        leaving = False
        async for number in signals:
            if number == signal.SIGHUP:
                if self._up:  # otherwise the config is being read anyway
                    self._reread()
            elif leaving:  # asked twice: at once, then
                everything.cancel()
            else:
                leaving = True
                notify("STOPPING=1")
                self._node.stop()

    def _reread(self) -> None:
        """Take over what changed in the config; say what needs a restart."""
        self._policy.read_again()
        notify("RELOADING=1", f"MONOTONIC_USEC={int(time.monotonic() * 1e6)}")
        try:
            fresh = self._reload()
            changed = _changed(self._loaded, fresh)
            if {"packs"} & changed or any(name.endswith(".py") for name in fresh.config.packs):
                self._reload_files(fresh.config)
        except SlipError as error:
            self._warn(f"the config was not reloaded: {error.what}", error.why, error.hint)
        else:
            if "name" in changed:
                self._node.rename(fresh.config.name)
            if "peers" in changed:
                for device in {**self._config.peers, **fresh.config.peers}:
                    self._discovery.suggest(Found(device, fresh.config.peers.get(device, ()), "static"))
            later = sorted(changed - set(RELOADED))
            if set(fresh.config.packs) != set(self._packs) and "packs" in changed:
                later.append("packs")
            self._node.events.tell("config.reloaded", changed=sorted(changed - set(later)), later=later)
            if later:
                self._warn("some settings wait for a restart", ", ".join(later), "slip down, then slip up")
            self._loaded, self._config = fresh, fresh.config
        notify("READY=1")

    def _reload_files(self, fresh: Config) -> None:
        """Read the skill files again that were loaded before; a pack that comes or goes needs a restart."""
        for name in fresh.packs:
            if name.endswith(".py") and name in self._packs:
                before = self._packs[name]
                (self._packs[name],) = load_packs([name])
                self._node.offer(self._packs[name], before)

    async def _watchdog(self) -> None:
        if (seconds := watchdog_seconds()) is not None:
            while True:
                notify("WATCHDOG=1")
                await anyio.sleep(seconds)

    async def _forget_old(self) -> None:
        while True:
            await anyio.sleep(_DAY)
            self._journal.forget_old()


def _changed(before: Loaded, after: Loaded) -> set[str]:
    """The settings that differ: `name`, `packs`, `peers`, `listen.port`, `settings`, ..."""
    one, other = before.flat(), after.flat()
    keys = {key for key in {**one, **other} if one.get(key) != other.get(key)}
    return {key.partition(".")[0] if key.startswith(("peers", "settings")) else key for key in keys}


def _why(error: BaseException, config: Config) -> SlipError:
    """What ended the daemon, in words; what is a fault of the program itself is raised as it is."""
    cause = error
    while isinstance(cause, BaseExceptionGroup):
        unforeseen = cause.split((SlipError, OSError))[1]
        if unforeseen is not None:
            raise error
        cause = cause.exceptions[0]
    if isinstance(cause, SlipError):
        return cause
    assert isinstance(cause, OSError)
    listen = config.listen
    if cause.errno == errno.EADDRINUSE:
        return UsageError(f"port {listen.port} is taken", "another program listens there, perhaps another daemon",
                          "slip up --port 0 takes a free one", field="listen.port")  # fmt: skip
    if cause.errno == errno.EADDRNOTAVAIL:
        return UsageError(f"cannot listen on {', '.join(listen.hosts)}", "this machine has no such address",
                          "slip up --host 0.0.0.0", field="listen.hosts")  # fmt: skip
    if cause.errno in (errno.EACCES, errno.EPERM) and listen.port < 1024:
        return UsageError(f"port {listen.port} may not be used", "ports below 1024 are root's", "slip up --port 7447",
                          field="listen.port")  # fmt: skip
    return SlipError("the daemon stopped", cause.strerror or str(cause), "slip doctor")
