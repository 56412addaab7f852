"""The form of what a run's owner asks of a device: checked before anything is made of it; sans-IO."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import Any

KEY_LIMIT = 300
_STEP: dict[str, type | tuple[type, ...]] = {
    "id": str, "epoch": int, "key": str, "skill": str, "args": dict, "needs": list, "reads": list,
    "when": (dict, type(None)), "for_each": (dict, list, type(None)), "seconds": (int, float, type(None)),
    "sends": list, "from": dict,
}  # fmt: skip
_OPS = frozenset(("eq", "ne", "lt", "le", "gt", "ge", "in", "and", "or", "not"))


def check_order(request: Mapping[str, Any]) -> None:
    """Check the form of `slip.arm`.

    Raises:
        KeyError, TypeError, ValueError: it is something else.
    """
    _text(request["run"])
    for name, came in request.get("have", {}).items():
        _text(name)
        state, _ = came
        _text(state)
    if not isinstance(request["steps"], list):
        raise TypeError("steps is no list")
    for item in request["steps"]:
        _check_step(str(request["run"]), item)


def _check_step(run: str, item: Any) -> None:
    for name, kinds in _STEP.items():
        if not isinstance(item[name], kinds) or isinstance(item[name], bool):
            raise TypeError(f"{name} is {type(item[name]).__name__}")
    for name in ("needs", "reads", "sends"):
        for text in item[name]:
            _text(text)
    for text in (*item["from"].keys(), *item["from"].values(), item["id"], item["skill"], item["key"]):
        _text(text)
    if not set(item["reads"]) | set(item["from"]) <= set(item["needs"]):
        raise ValueError("it reads what it does not wait for")
    if not item["key"].startswith(f"{run}/{item['id']}/"):
        raise ValueError("its key is of another step")
    if not 0 <= item["epoch"] < 2**53:
        raise ValueError("its epoch is out of range")
    seconds = item["seconds"]
    if seconds is not None and not (isfinite(seconds) and seconds >= 0):
        raise ValueError("its seconds are out of range")
    if item["when"] is not None and item["when"].get("op") not in _OPS:
        raise ValueError("its condition has no operator")
    for_each = item["for_each"]
    if isinstance(for_each, dict) and not (set(for_each) == {"$ref"} and isinstance(for_each["$ref"], str)):
        raise ValueError("what it goes through is no reference")
    if isinstance(for_each, list) and _holds_reference(for_each):
        raise ValueError("what it goes through holds a reference")


def _holds_reference(value: Any) -> bool:
    if isinstance(value, dict):
        return "$ref" in value or any(map(_holds_reference, value.values()))
    return isinstance(value, (list, tuple)) and any(map(_holds_reference, value))


def _text(value: Any) -> None:
    if not isinstance(value, str) or len(value) > KEY_LIMIT:
        raise TypeError(f"a name is {type(value).__name__}")
