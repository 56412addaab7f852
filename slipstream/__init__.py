"""Slipstream: one agent across phones and electric cars.

The public names are imported when they are first used, so that `slip status` does not pay for the mesh.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .core.errors import SlipError
    from .core.node import Node
    from .core.plan import Plan, Step
    from .core.skill import Consent, Context, Cost, Effect, Outcome, Pack, Submitted, skill

__all__ = [
    "Consent", "Context", "Cost", "Effect", "Node", "Outcome", "Pack", "Plan", "SlipError", "Step", "Submitted",
    "skill",
]  # fmt: skip
__version__ = "0.1.0"

_HOMES = {"Node": "node", "Plan": "plan", "SlipError": "errors", "Step": "plan"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".core.{_HOMES.get(name, 'skill')}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
