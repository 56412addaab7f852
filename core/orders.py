"""The form of what a run's owner asks of a device: checked before anything is made of it; sans-IO."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import Any

from .plan import PRIORITIES, STEPS_LIMIT

KEY_LIMIT = 300
_STEP: dict[str, type | tuple[type, ...]] = {
    "id": str, "epoch": int, "key": str, "skill": str, "args": dict, "needs": list, "reads": list,
    "when": (dict, type(None)), "for_each": (dict, list, type(None)), "seconds": (int, float, type(None)),
    "sends": list, "from": dict,
}  # fmt: skip
_OPS = frozenset(("eq", "ne", "lt", "le", "gt", "ge", "in", "and", "or", "not"))
_HAD = frozenset(("done", "submitted", "skipped"))


def check_order(request: Mapping[str, Any]) -> None:
    """Check the form of `slip.arm`.

    Raises:
        KeyError, TypeError, ValueError: it is something else.
    """
    _text(request["run"])
    have, steps = request.get("have", {}), request["steps"]
    if not isinstance(have, dict) or not isinstance(steps, list):
        raise TypeError("have is no map, or steps no list")
    for name, came in have.items():
        _text(name)
        if not isinstance(came, (list, tuple)) or len(came) != 2:
            raise TypeError(f"a result is {type(came).__name__}")
        if came[0] not in _HAD:
            raise ValueError("a result of a step that did not end well")
    for item in steps:
        _check_step(str(request["run"]), item)
    if len({item["id"] for item in steps}) < len(steps):
        raise ValueError("a step comes twice")


def _check_step(run: str, item: Any) -> None:
    for name, kinds in _STEP.items():
        if not isinstance(item[name], kinds) or isinstance(item[name], bool):
            raise TypeError(f"{name} is {type(item[name]).__name__}")
    for name in ("needs", "reads", "sends"):
        if len(item[name]) > STEPS_LIMIT:
            raise ValueError(f"{len(item[name])} {name}; {STEPS_LIMIT} are allowed")
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
    if (when := item["when"]) is not None and (when["op"] not in _OPS or not {"left", "right"} <= when.keys()):
        raise ValueError("its condition has no operator, or not two sides")
    priority = item.get("priority", 0)
    if type(priority) is not int or priority not in range(PRIORITIES):
        raise ValueError("its priority is out of range")
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
    if not isinstance(value, str):
        raise TypeError(f"a name is {type(value).__name__}")
    if len(value) > KEY_LIMIT:
        raise ValueError(f"a name of {len(value)} characters; {KEY_LIMIT} are allowed")
