"""Packs of skills, and how they are found: built in, installed by a third party, or a file in development."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from importlib import import_module
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from itertools import count
from pathlib import Path
from pkgutil import iter_modules
from types import ModuleType
from typing import TYPE_CHECKING, Any

from ..core.errors import UsageError
from ..core.skill import Pack, SkillSpec, nearest
from . import packs

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

GROUP = "slipstream.skills"
"""The entry-point group in which third parties register their packs."""

_loads = count()
_files: dict[Path, str] = {}
"""The module that each file was last loaded as."""


def load(names: Iterable[str]) -> list[Pack]:
    """The packs of these names, in order, each once: built-in, by entry point, or a path ending in `.py`.

    Raises:
        UsageError: there is no such pack, it cannot be imported, or what it exports is no Pack.
    """
    return [_load(name) for name in dict.fromkeys(names)]


def available() -> list[str]:
    """The names of every pack that is installed here, sorted."""
    return sorted({*_built_in(), *(point.name for point in _entry_points())})


def load_file(path: Path) -> Pack:
    """The `pack` that a skill file defines, else a Pack of the skills in it; every call reads the file anew.

    Raises:
        UsageError: there is no such file, it cannot be imported, or no skill is in it.
    """
    path = path.expanduser().resolve()
    try:
        source = path.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read the skill file {path}", error.strerror or str(error),
                         "slip new skill NAME writes one") from error  # fmt: skip
    # a name of its own per load, so that what still runs keeps its old module; it must be in sys.modules,
    # where pydantic and typing look up the annotations
    name = f"slipstream_skill_{next(_loads)}_{path.stem}"
    spec = spec_from_file_location(name, path)
    assert spec is not None  # it ends in .py
    module = module_from_spec(spec)
    sys.modules[name] = module
    try:
        # compiled here: the import system's cache takes a file saved twice within a second for the same
        exec(compile(source, str(path), "exec"), module.__dict__)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise _broken(str(path), error, path) from error
    sys.modules.pop(_files.get(path, ""), None)
    _files[path] = name
    if hasattr(module, "pack"):
        return _pack_in(module, str(path))
    skills = tuple(f for f in vars(module).values() if _is_skill(f) and f.__module__ == name)
    if not skills:
        raise UsageError(f"no skill in {path}", "nothing in it is decorated with @skill", "slip new skill NAME")
    return Pack(path.stem, skills)


def _load(name: str) -> Pack:
    if name.endswith(".py"):
        return load_file(Path(name))
    if name in _built_in():  # asked first: the scan of everything installed is only for what did not come with us
        module = f"{__name__}.packs.{name}"
        return _pack_in(_import(name, module), f"the pack {name}")
    points = [point for point in _entry_points() if point.name == name]
    if not points:
        known = available()
        hint = nearest(name, known) or "install it, or name a file ending in .py"
        raise UsageError(f"unknown pack {name!r}", f"there are {', '.join(known)}", hint)
    if len(points) > 1:
        owners = ", ".join(sorted(point.dist.name if point.dist else point.value for point in points))
        raise UsageError(f"two packs are called {name!r}", f"they come from {owners}", "uninstall one")
    found: Any = _import(name, points[0].module)
    for attribute in points[0].attr.split(".") if points[0].attr else ():
        found = getattr(found, attribute, None)
    return _pack_in(found, f"the entry point {name} = {points[0].value}")


def _pack_in(found: object, where: str) -> Pack:
    """The Pack that was found, or the `pack` of the module that was found."""
    pack = getattr(found, "pack", None) if isinstance(found, ModuleType) else found
    if not isinstance(pack, Pack):
        what = "there is nothing" if pack is None else f"it is a {type(pack).__name__}"
        raise UsageError(f"{where} has no Pack", what, "define pack = Pack(name, skills)")
    return pack


def _import(name: str, module: str) -> ModuleType:
    try:
        return import_module(module)
    except (Exception, SystemExit) as error:
        try:
            spec = find_spec(module)
        except (ImportError, ValueError):
            spec = None  # not even the package around it can be found
        root = Path(spec.origin) if spec and spec.origin else None
        raise _broken(f"the pack {name}", error, root.parent if root and root.stem == "__init__" else root) from error


def _broken(what: str, error: BaseException, root: Path | None) -> UsageError:
    """The error of an import that failed: which exception, and the line of the pack's own code that it came from."""
    places: list[tuple[str, int | None]] = []
    trace = error.__traceback__
    while trace is not None:
        places.append((trace.tb_frame.f_code.co_filename, trace.tb_lineno))
        trace = trace.tb_next
    if isinstance(error, SyntaxError) and error.filename:
        places.append((error.filename, error.lineno))
    own = [place for place in places if root and Path(place[0]).is_relative_to(root)]
    where = " ({}:{})".format(*own[-1]) if own else ""
    return UsageError(f"{what} cannot be imported", f"{type(error).__name__}: {error}{where}",
                      "mend it at that line" if own else "install what it needs")  # fmt: skip


def _is_skill(found: object) -> bool:
    return isinstance(getattr(found, "spec", None), SkillSpec)


def _built_in() -> list[str]:
    return [module.name for module in iter_modules(packs.__path__) if module.ispkg]


def _entry_points() -> list[EntryPoint]:
    from importlib.metadata import entry_points  # 15 ms to import, 2 ms a scan: only when a third party is asked for

    return list(entry_points(group=GROUP))
