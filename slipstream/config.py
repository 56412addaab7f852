"""What a device is told about itself: its settings, and which layer each comes from.

Layers, the strongest first: flags, `SLIPSTREAM_*`, ./slipstream.toml, the user's file, the system's file, defaults.
Each layer is checked by itself, so that an error names the file even where a stronger layer hides it.
"""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from .core.device import clean
from .core.errors import UsageError
from .places import config_files, default_state, read_toml

_DEVICE = re.compile(r"[a-z2-7]{32}")
_PEER = re.compile(r"tls://(\[[0-9A-Fa-f:.]+(%[\w.-]+)?\]|[A-Za-z0-9._-]+):[0-9]{1,5}")


def _host(text: str) -> str:
    from ipaddress import ip_address

    ip_address(text)
    return text


def _name(text: str) -> str:
    if text != clean(text) or text != text.strip() or not text:
        raise ValueError("a name has 1 to 64 characters that can be shown")
    return text


def _device(text: str) -> str:
    if not _DEVICE.fullmatch(plain := text.replace("-", "")):
        raise ValueError("a peer is named by its device id (slip status shows it)")
    return plain


def _address(text: str) -> str:
    if not _PEER.fullmatch(text):
        raise ValueError("an address looks like tls://192.168.1.7:7447")
    return text


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Listen(_Section):
    """Where this device can be reached, and how it is found."""

    port: int = Field(7447, ge=0, le=65535, description="TCP port; 0 takes a free one")
    hosts: tuple[Annotated[str, AfterValidator(_host)], ...] = Field(
        ("0.0.0.0", "::"), min_length=1, description="IP addresses to listen on"
    )
    interfaces: tuple[str, ...] = Field((), description="interfaces (or addresses) for mDNS; empty means all")
    mdns: bool = Field(True, description="announce this device and look for others by multicast DNS")


class Config(_Section):
    """Everything that a daemon is told."""

    name: Annotated[str, AfterValidator(_name)] = Field(
        default_factory=lambda: clean(platform.node()) or "device", description="how people call this device"
    )
    kind: str = Field("computer", pattern=r"^[a-z][a-z0-9_-]{0,31}$", description="phone, car, hub, watch, ...")
    packs: tuple[str, ...] = Field((), description="packs of skills: installed ones by name, or files ending in .py")
    settings: dict[str, dict[str, Any]] = Field({}, description="what packs are told, by pack: [settings.phone]")
    listen: Listen = Listen()
    peers: dict[Annotated[str, AfterValidator(_device)], tuple[Annotated[str, AfterValidator(_address)], ...]] = Field(
        {}, description="devices at known addresses: id = [addresses]"
    )
    state: Path = Field(default_factory=default_state, description="the folder of identity and journal")
    log: Literal["auto", "json", "plain"] = Field("auto", description="form of the log; auto: plain on a terminal")


VARIABLES: Final = {
    "SLIPSTREAM_NAME": "name", "SLIPSTREAM_KIND": "kind", "SLIPSTREAM_PACKS": "packs", "SLIPSTREAM_LOG": "log",
    "SLIPSTREAM_STATE": "state", "SLIPSTREAM_PORT": "listen.port", "SLIPSTREAM_HOSTS": "listen.hosts",
    "SLIPSTREAM_INTERFACES": "listen.interfaces", "SLIPSTREAM_MDNS": "listen.mdns",
}  # fmt: skip
"""The environment's names; lists are separated by commas."""
LISTS: Final = frozenset(("packs", "listen.hosts", "listen.interfaces"))
_OPEN = ("peers", "settings")


@dataclass(frozen=True, slots=True)
class Layer:
    """What one place says, by dotted key (`listen.port`)."""

    origin: str
    values: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Loaded:
    """The config that counts, and the origin of each dotted key that some layer names."""

    config: Config
    origins: Mapping[str, str]

    def flat(self) -> dict[str, Any]:
        """Every setting by dotted key, defaults too, as plain values."""
        return flatten(self.config.model_dump(mode="json"))

    def origin(self, key: str) -> str:
        """Where a setting comes from."""
        return self.origins.get(key, "default")


def load(flags: Mapping[str, Any], env: Mapping[str, str] = os.environ) -> Loaded:
    """The config as all layers give it; `flags` are dotted keys, None where a flag was not given.

    Raises:
        UsageError: it names file, field and what to do.
    """
    merged: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for layer in layers(flags, env):
        check(layer)
        for key, value in layer.values.items():
            if key not in merged:
                merged[key], origins[key] = value, layer.origin
    return Loaded(check(Layer("the config as a whole", merged)), origins)


def layers(flags: Mapping[str, Any], env: Mapping[str, str] = os.environ) -> Iterator[Layer]:
    """Every layer that says something, the strongest first.

    Raises:
        UsageError: a file cannot be read.
    """
    for key, value in flags.items():
        if value is not None:
            yield Layer(f"--{key.rpartition('.')[2]}", {key: value})
    for variable, key in VARIABLES.items():
        if said := env.get(variable):
            yield Layer(variable, {key: split(said) if key in LISTS else said})
    for _, path in config_files(env):
        if (layer := file_layer(path)) is not None:
            yield layer


def file_layer(path: Path) -> Layer | None:
    """What a config file says, None if there is none; paths in it are relative to its folder.

    Raises:
        UsageError: it cannot be read.
    """
    if (data := read_toml(path)) is None:
        return None
    values = flatten(data)
    if isinstance(state := values.get("state"), str):
        values["state"] = str(path.parent / Path(state).expanduser())
    if isinstance(packs := values.get("packs"), list):
        values["packs"] = [
            str(path.parent / p) if isinstance(p, str) and p.endswith(".py") and not p.startswith("~") else p
            for p in packs
        ]
    return Layer(str(path), values)


def check(layer: Layer) -> Config:
    """What a layer says, checked; what it leaves out has its default.

    Raises:
        UsageError: it names the layer, the field and what to do.
    """
    try:
        return Config.model_validate(nest(layer.values))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        parts = [str(part) for part in first["loc"] if part != "[key]"]
        key = ".".join(parts)
        why = first["msg"].removeprefix("Value error, ")
        hint = f"slip config show says what {parts[0]} may hold"
        if first["type"] == "extra_forbidden":
            from difflib import get_close_matches

            close = get_close_matches(key, fields(), n=1)
            why, hint = "there is no such setting", f"did you mean {close[0]}?" if close else "slip config show"
        raise UsageError(f"{layer.origin}: {key}: {why}", _said(first["input"]), hint, field=key) from None


def _said(value: Any) -> str:
    text = clean(value, 100)
    return "" if isinstance(value, dict) else f"it says {text!r}"


@cache
def fields() -> dict[str, str]:
    """Every setting by dotted key, with what it is."""
    found = {}
    for name, field in Config.model_fields.items():
        if name == "listen":
            found.update({f"listen.{n}": f.description or "" for n, f in Listen.model_fields.items()})
        else:
            found[name] = field.description or ""
    return found


def split(text: str) -> list[str]:
    """A list as the environment and the command line write it."""
    return [part.strip() for part in text.split(",") if part.strip()]


def flatten(data: Mapping[str, Any]) -> dict[str, Any]:
    """Nested tables as dotted keys: one per peer, and per setting of a pack."""
    flat: dict[str, Any] = {}
    for name, value in data.items():
        if not isinstance(value, Mapping) or (not value and name not in _OPEN):
            flat[name] = value
            continue
        for inner, deep in value.items():
            if name == "settings" and isinstance(deep, Mapping):
                flat.update({f"{name}.{inner}.{leaf}": v for leaf, v in deep.items()})
            else:
                flat[f"{name}.{inner}"] = deep
    return flat


def nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted keys as nested tables: what `flatten` was given."""
    data: dict[str, Any] = {}
    for key, value in flat.items():
        parts = key.split(".", 2 if key.startswith("settings.") else 1)
        table = data
        for part in parts[:-1]:
            inner = table.setdefault(part, {})
            table = inner if isinstance(inner, dict) else {}
        table[parts[-1]] = value
    return data
