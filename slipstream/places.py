"""Where things lie on this machine: state, sockets and config files, as the XDG base directory specification has them.

Imported by every verb, so it imports next to nothing.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from .core.errors import UsageError

SYSTEM: Final = Path("/etc/slipstream/config.toml")
PROJECT: Final = "slipstream.toml"
SOCKET: Final = "rw.sock"
READ_SOCKET: Final = "ro.sock"
"""Where nothing can be changed."""
JOURNAL: Final = "journal.db"
LOCK: Final = "lock"
AUDIT: Final = "audit.log"
POLICY: Final = "policy.toml"

_PATH_LIMIT = 100  # sun_path holds 107 bytes and a NUL (unix(7)); some are kept for the way around it


def config_files(env: Mapping[str, str] = os.environ) -> list[tuple[str, Path]]:
    """The config files that count here as (layer, path), the strongest first, whether they exist or not."""
    home = _home(env, "XDG_CONFIG_HOME", ".config")
    return [("project", Path.cwd() / PROJECT), ("user", home / "slipstream" / "config.toml"), ("system", SYSTEM)]


def read_toml(path: Path) -> dict[str, Any] | None:
    """What a config file says, None if there is none.

    Raises:
        UsageError: it cannot be read or is no TOML; it names file, line and column.
    """
    try:
        text = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise UsageError(f"{path} cannot be read", error.strerror or str(error), f"slip config check {path}") from None
    import tomllib

    try:
        return tomllib.loads(text.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is no TOML", str(error), "mend it there: slip config check") from None


def state_folder(flag: str | None, env: Mapping[str, str] = os.environ) -> Path:
    """The state folder: `--state`, SLIPSTREAM_STATE, a config file, or the user's default.

    Raises:
        UsageError: a config file cannot be read.
    """
    chosen: Any = flag or env.get("SLIPSTREAM_STATE")
    if not chosen:
        for _, path in config_files(env):
            said = (read_toml(path) or {}).get("state")
            if isinstance(said, str):
                chosen = said
                break
    return Path(chosen).expanduser().absolute() if chosen else default_state(env)


def default_state(env: Mapping[str, str] = os.environ) -> Path:
    """The state folder of a daemon that is told nothing."""
    return _home(env, "XDG_STATE_HOME", ".local/state") / "slipstream"


def socket_of(state: Path, env: Mapping[str, str] = os.environ, *, read_only: bool = False) -> Path:
    """The control socket of the daemon with that state folder, or the one on which nothing can be changed.

    It lies in a folder of its own below XDG_RUNTIME_DIR, named after the state folder, or else in the state folder.
    """
    runtime = env.get("XDG_RUNTIME_DIR")
    name = READ_SOCKET if read_only else SOCKET
    if not runtime:
        return state / name
    from zlib import crc32

    base = Path(runtime) / "slipstream"
    if state == default_state(env):
        return base / name
    return base / f"{state.name[:20]}-{crc32(os.fsencode(state)):08x}" / name


def short_path(path: Path) -> tuple[str, int | None]:
    """A name of a socket's path that the kernel takes, and the descriptor that must stay open while it is used."""
    if len(os.fsencode(path)) < _PATH_LIMIT:
        return str(path), None
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    return f"/proc/self/fd/{folder}/{path.name}", folder


def _home(env: Mapping[str, str], variable: str, default: str) -> Path:
    # the specification has relative paths ignored
    said = env.get(variable, "")
    return Path(said) if said.startswith("/") else Path.home() / default
