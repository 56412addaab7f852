"""Where a schema says that values are somebody's: labels, compiled once per schema to a graph to walk along; sans-IO.

Laws:
- A label covers everything below it. Of alternatives the strictest counts, and a label that nobody knows is a secret.
- A schema from elsewhere may be anything: it is looked at for a bounded time, and one that is larger is secret whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

SCHEMA_LIMIT: Final = 6_000
"""Looks at parts of a schema, 5 µs each; a large one takes 200."""


class Label(StrEnum):
    """Who may see a value; ordered by strictness."""

    PUBLIC = "public"
    PERSONAL = "personal"
    """Stays in the mesh, and goes only to devices that its policy allows."""
    DEVICE = "device"
    """Never leaves its device; others see a handle."""
    SECRET = "secret"
    """As `DEVICE`, and never in traces or logs either."""

    def __lt__(self, other: str) -> bool:
        return _RANK[self] < _RANK[other]

    def __le__(self, other: str) -> bool:
        return _RANK[self] <= _RANK[other]

    def __gt__(self, other: str) -> bool:
        return _RANK[self] > _RANK[other]

    def __ge__(self, other: str) -> bool:
        return _RANK[self] >= _RANK[other]


_RANK: Final[dict[str, int]] = {label: rank for rank, label in enumerate(Label)}


@dataclass(slots=True, eq=False, repr=False)
class Labels:
    """Where a value of one schema is labelled: a node per place in it, with cycles where the schema recurs."""

    label: Label = Label.PUBLIC
    """Of the value itself, and so of all below it."""
    names: dict[str, Labels | None] = field(default_factory=dict)
    """Below the fields of an object; None where nothing is labelled."""
    rest: Labels | None = None
    """Below all its other fields."""
    items: Labels | None = None
    """Below the items of a list."""
    strictest: Label = Label.PUBLIC
    """Of the value and all below it."""

    def at(self, path: Sequence[str]) -> Labels | None:
        """The labels at a path (names and list indexes), with those of what is around it; None: it is public."""
        node, around = self, Label.PUBLIC
        for part in path:
            around = max(around, node.label)
            below = max(node.names.get(part, node.rest), node.items, key=_strictest)
            if below is None:
                return None if around is Label.PUBLIC else Labels(around, strictest=around)
            node = below
        if around <= node.label:
            return node
        return Labels(around, node.names, node.rest, node.items, max(around, node.strictest))

    def keeps(self, source: Labels, least: Label = Label.DEVICE) -> bool:
        """Whether whatever is labelled `least` or stricter in `source` is labelled at all in the same place here."""
        todo: list[tuple[Labels, Labels | None]] = [(source, self)]
        seen: set[tuple[Labels, Labels | None]] = set()
        while todo:
            value, place = todo.pop()
            if value.strictest < least or (place and place.label is not Label.PUBLIC) or (value, place) in seen:
                continue
            if place is None or value.label >= least or len(seen) > SCHEMA_LIMIT:
                return False
            seen.add((value, place))
            todo += [(below, place.names.get(name, place.rest)) for name, below in value.names.items() if below]
            if value.rest:
                todo += [(value.rest, below) for below in (*place.names.values(), place.rest)]
            if value.items:
                todo.append((value.items, place.items))
        return True


def _strictest(labels: Labels | None) -> int:
    return _RANK[labels.strictest] if labels else 0


def labels_of(schema: Any) -> Labels | None:
    """Where a value of this JSON Schema is labelled; None if nowhere."""
    try:
        return _Compiler(schema).compile()
    except _TooLarge:
        return Labels(Label.SECRET, strictest=Label.SECRET)


def label_at(schema: Any, path: Sequence[str]) -> Label:
    """The strictest label of what is at `path` (names and list indexes) in a value of `schema`, or below it."""
    labels = labels_of(schema)
    found = labels.at(path) if labels else None
    return found.strictest if found else Label.PUBLIC


class _TooLarge(Exception):
    pass


class _Compiler:
    """Makes one node of all alternatives that a place in a value may have (the subset construction)."""

    def __init__(self, schema: Any) -> None:
        self._root, self._defs = schema, _map(schema, "$defs") if isinstance(schema, dict) else {}
        self._nodes: dict[frozenset[int], Labels] = {}
        self._around: dict[Labels, list[Labels]] = {}
        self._todo: list[tuple[Labels, list[dict[str, Any]]]] = []
        self._looks = 0

    def compile(self) -> Labels | None:
        root = self._node([self._root], None)
        while self._todo:
            self._fill(*self._todo.pop())
        for label in (Label.SECRET, Label.DEVICE, Label.PERSONAL):
            todo = [node for node in self._around if node.label is label]
            while todo:
                node = todo.pop()
                if node.strictest is Label.PUBLIC:
                    node.strictest = label
                    todo += self._around[node]
        for node in self._around:
            node.rest, node.items = _labelled(node.rest), _labelled(node.items)
            node.names = {n: below for n, old in node.names.items() if (below := _labelled(old)) or node.rest}
        return _labelled(root)

    def _look(self, count: int) -> None:
        self._looks += count
        if self._looks > SCHEMA_LIMIT:
            raise _TooLarge

    def _node(self, schemas: list[Any], around: Labels | None) -> Labels | None:
        found = self._alternatives(schemas)
        if not found:
            return None
        key = frozenset(map(id, found))
        node = self._nodes.get(key)
        if node is None:
            node = self._nodes[key] = Labels()
            self._around[node] = []
            self._todo.append((node, found))
        if around:
            self._around[node].append(around)
        return node

    def _alternatives(self, schemas: list[Any]) -> list[dict[str, Any]]:
        found: dict[int, dict[str, Any]] = {}
        todo = list(schemas)
        while todo:
            self._look(1)
            schema = todo.pop()
            if not isinstance(schema, dict) or id(schema) in found:
                continue
            found[id(schema)] = schema
            if isinstance(ref := schema.get("$ref"), str):
                todo.append(self._root if ref == "#" else self._defs.get(ref.removeprefix("#/$defs/")))
            for keyword in ("anyOf", "oneOf", "allOf"):
                todo += _list(schema, keyword)
        return list(found.values())

    def _fill(self, node: Labels, schemas: list[dict[str, Any]]) -> None:
        names = {name for schema in schemas for name in _map(schema, "properties")}
        self._look(len(names) * len(schemas))
        keys = self._alternatives([schema.get("propertyNames") for schema in schemas])
        node.label = max(map(_label, (*schemas, *keys)))  # a name cannot be concealed, so its label is the object's
        patterns = [below for schema in schemas for below in _map(schema, "patternProperties").values()]
        rest = [schema.get("additionalProperties") for schema in schemas]
        node.rest = self._node([*patterns, *rest], node)
        for name in names:
            below = [_map(s, "properties").get(name, other) for s, other in zip(schemas, rest, strict=True)]
            node.names[name] = self._node([*patterns, *below], node)
        items = [schema.get("items") for schema in schemas]
        node.items = self._node([*items, *(first for s in schemas for first in _list(s, "prefixItems"))], node)


def _label(schema: dict[str, Any]) -> Label:
    said = schema.get("privacy", Label.PUBLIC)
    return Label(said) if isinstance(said, str) and said in _RANK else Label.SECRET


def _labelled(labels: Labels | None) -> Labels | None:
    return None if labels is None or labels.strictest is Label.PUBLIC else labels


def _map(schema: dict[str, Any], keyword: str) -> dict[str, Any]:
    found = schema.get(keyword)
    return found if isinstance(found, dict) else {}


def _list(schema: dict[str, Any], keyword: str) -> list[Any]:
    found = schema.get(keyword)
    return found if isinstance(found, list) else []
