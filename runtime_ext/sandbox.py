"""Where a chat template runs: jinja2's sandbox with its steps and its text counted, and stand-ins for foreign text.

Laws: a template is a stranger's code. It ends, and what it makes is bounded. Text from outside it cannot read: each
character, but for spaces and line ends, is another one from the private planes 15 and 16. It can move such text, trim
it, cut it into lines, compare it with its like, see whether there is any, and make JSON of it. What it can read are the
keys that it looks up, and its own words (`'function'`, `'string'`) where one is a whole value from outside; the caller
leaves out words that are a part of a control token.

Source: jinja.palletsprojects.com/en/stable/sandbox.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextvars import ContextVar
from datetime import datetime
from itertools import chain
from typing import Any, Final, NoReturn

try:
    import jinja2
    from jinja2 import nodes, pass_context
    from jinja2.ext import Extension, loopcontrols
    from jinja2.parser import Parser
    from jinja2.runtime import Context
    from jinja2.sandbox import ImmutableSandboxedEnvironment
    from jinja2.visitor import NodeTransformer
except ImportError as error:  # pragma: no cover
    raise ImportError("chat templates need the package jinja2; run: pip install 'slipstream-mesh[llm]'") from error

TEXT_LIMIT: Final = 16 * 1024 * 1024
"""Characters that a template may make in one rendering, those of its intermediate values included."""
STEPS_LIMIT: Final = 500_000
"""Turns of loops, calls, sums, and values written in one rendering; 1,000 messages take some 30,000."""
_NAMED: Final = frozenset(("properties", "arguments", "$defs", "definitions"))
"""Keys of maps whose own keys are anybody's names."""
_DENIED: Final = frozenset(
    ("center", "expandtabs", "format", "format_map", "ljust", "rjust", "translate", "zfill")
)  # fmt: skip
"""Methods of text that make much of little, or read what they are given; chat templates use none of them."""
_DENIED_FILTERS: Final = ("batch", "center", "format", "indent", "pprint", "slice", "urlize", "wordwrap", "xmlattr")
FOREIGN: Final = "\U000f0000-\U000ffffd\U00100000-\U0010fffd"
"""The stand-ins, as a class of characters in an expression."""
_DEPTH_LIMIT: Final = 64
_TIME_FORMAT: Final = re.compile(r"(?:[^%]|%-?[A-Za-z%]){,80}")


class TemplateError(ValueError):
    """A prompt that cannot be made: the template is missing, wrong, goes too far, or says so itself."""


class Run:
    """One rendering: who stands in for which character, and what may still be done."""

    def __init__(self, words: Collection[str], keys: Collection[str], now: datetime) -> None:
        self._words, self._keys, self.now = words, keys, now
        self._steps, self._text = STEPS_LIMIT, TEXT_LIMIT
        self._free = chain(range(0xF0000, 0xFFFFE), range(0x100000, 0x10FFFE))
        self._table: dict[int, int] = _Table(self._stand_in)
        self._back: dict[int, int] = {}

    def _stand_in(self, code: int) -> int:
        if chr(code).isspace():
            return code
        taken = next(self._free, None)
        if taken is None:
            raise TemplateError("messages and tools have more different characters than can be told apart (131,068)")
        self._back[taken] = code
        return taken

    def step(self) -> None:
        self._steps -= 1
        if self._steps < 0:
            raise TemplateError(f"the chat template takes more than {STEPS_LIMIT} steps")

    def grow(self, characters: int) -> None:
        self._text -= characters
        if self._text < 0:
            raise TemplateError(f"the chat template makes more than {TEXT_LIMIT} characters")

    def foreign(self, text: str) -> str:
        return text.translate(self._table)

    def real(self, text: str) -> str:
        return text.translate(self._back)

    def seed(self, values: Any) -> None:
        """Give stand-ins in the order of their characters, so that foreign texts sort as they would."""
        for character in sorted(set().union(*_texts(values, 0))):
            self._table[ord(character)]

    def hand_in(self, value: Any, names: bool = False) -> Any:
        """A value from outside, as the template gets it. `names`: the keys of a map are anybody's."""
        if isinstance(value, str):
            return value if value in self._words else self.foreign(value)
        if isinstance(value, Mapping):
            return {
                key if key in self._keys and not names else self.hand_in(key): self.hand_in(
                    inner, key in _NAMED and not names
                )
                for key, inner in value.items()
            }
        return [self.hand_in(inner) for inner in value] if isinstance(value, list | tuple) else value

    def hand_out(self, value: Any, depth: int = 0) -> Any:
        """The same value as it was outside; every part of it counts, however often it is in there."""
        if depth > _DEPTH_LIMIT:
            raise TemplateError(f"the chat template writes a value nested deeper than {_DEPTH_LIMIT}")
        self.step()
        if isinstance(value, str):
            self.grow(len(value))
            return self.real(value)
        if isinstance(value, Mapping):
            return {self.hand_out(key, depth + 1): self.hand_out(inner, depth + 1) for key, inner in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(self.hand_out(inner, depth + 1) for inner in value)
        if isinstance(value, jinja2.Undefined):
            raise TemplateError(f"the chat template writes what is not there: {value._undefined_message}")
        return value


class _Table(dict[int, int]):
    def __init__(self, make: Callable[[int], int]) -> None:
        super().__init__()
        self._make = make

    def __missing__(self, code: int) -> int:
        made = self[code] = self._make(code)
        return made


def _texts(value: Any, depth: int) -> Iterator[str]:
    """Every text in a value from outside, keys too; whatever is no plain value is refused."""
    if depth > _DEPTH_LIMIT:
        raise TemplateError(f"messages or tools are nested deeper than {_DEPTH_LIMIT}")
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            if not isinstance(key, str):
                raise TemplateError(f"a key in messages or tools is a {type(key).__name__}, no text")
            yield key
            yield from _texts(inner, depth + 1)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _texts(inner, depth + 1)
    elif value is not None and not isinstance(value, bool | int | float):
        raise TemplateError(f"a {type(value).__name__} is in messages or tools; plain values are needed")


_run: ContextVar[Run] = ContextVar("run")


@pass_context
def _written(context: Context, value: Any) -> Any:
    """What `{{ value }}` writes."""
    text = _string(value)
    _run.get().grow(len(text))
    return text


def _string(value: Any) -> str:
    if isinstance(value, list | tuple | Mapping):
        run = _run.get()
        return run.foreign(str(run.hand_out(value)))
    return value if isinstance(value, str) else str(value)


def _tojson(value: Any, ensure_ascii: bool = False, indent: int | None = None, separators: Any = None,
            sort_keys: bool = False) -> str:  # fmt: skip
    run = _run.get()
    if indent is not None and not (type(indent) is int and 0 <= indent <= 8):
        raise TemplateError("tojson indents by 0 to 8")
    if separators is not None and len("".join(separators)) > 8:
        raise TemplateError("tojson takes short separators")
    made = json.dumps(run.hand_out(value), ensure_ascii=ensure_ascii, indent=indent, separators=separators,
                      sort_keys=sort_keys)  # fmt: skip
    run.grow(len(made))
    return run.foreign(made)


def _join(values: Iterable[Any], by: str = "", attribute: str | int | None = None) -> str:
    if attribute is not None:
        raise TemplateError("join by an attribute is not supported in chat templates; map it first")
    run, texts = _run.get(), []
    for value in values:
        texts.append(_string(value))
        run.grow(len(texts[-1]) + len(by) + 1)
    return by.join(texts)


def _replace(value: Any, old: str, new: str, count: int | None = None) -> str:
    text = _string(value)
    _run.get().grow(len(text) + text.count(old) * len(new))
    return text.replace(old, new, -1 if count is None else count)


def _turns(values: Iterable[Any]) -> Iterator[Any]:
    step = _run.get().step
    for value in values:
        step()
        yield value


def _refuse(message: Any = "") -> NoReturn:
    raise TemplateError(f"the chat template refuses: {_run.get().real(str(message)):.500}")


def _now(form: str) -> str:
    if not _TIME_FORMAT.fullmatch(form):
        raise TemplateError("the chat template asks for the time in a form that is not supported")
    return _run.get().now.strftime(form)


def _dict(*pairs: Any, **named: Any) -> dict[Any, Any]:
    return dict(*pairs, **named)  # the type itself would have attributes


class _Namespace(jinja2.utils.Namespace):
    """Without names that reach into Python."""

    def __init__(*args: Any, **named: Any) -> None:
        jinja2.utils.Namespace.__init__(*args)
        for name, value in named.items():
            args[0][name] = value

    def __setitem__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            raise TemplateError(f"the chat template keeps a value as {name!r:.80}")
        super().__setitem__(name, value)


class _Generation(Extension):
    """`{% generation %}` marks what an assistant said, for training; here it is what is in it."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Bounds(NodeTransformer):
    """Every loop counts its turns, and `~` is a `+` of texts, which is counted."""

    def visit_For(self, node: nodes.For) -> nodes.Node:
        if node.recursive:
            raise jinja2.TemplateSyntaxError("recursive loops are not supported in chat templates", node.lineno)
        self.generic_visit(node)
        node.iter = nodes.Filter(node.iter, "turns ", [], [], None, None, lineno=node.lineno)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        texts = [nodes.Filter(part, "string", [], [], None, None, lineno=node.lineno) for part in node.nodes]
        made: nodes.Expr = texts[0]
        for text in texts[1:]:
            made = nodes.Add(made, text, lineno=node.lineno)
        return made


class _Sandbox(ImmutableSandboxedEnvironment):
    """The sandbox as chat templates expect it, with every way to much text or many steps counted."""

    intercepted_binops = frozenset(("+", "*", "**", "%"))

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[loopcontrols, _Generation],
            finalize=_written,
            optimized=False,
        )
        for name in _DENIED_FILTERS:
            del self.filters[name]
        self.filters.update(
            {"tojson": _tojson, "string": _string, "join": _join, "replace": _replace, "turns ": _turns}
        )
        del self.globals["lipsum"]
        self.globals.update(raise_exception=_refuse, strftime_now=_now, namespace=_Namespace, dict=_dict)

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree: nodes.Template = _Bounds().visit(super()._parse(source, name, filename))
        tree.set_environment(self)
        return tree

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        return not (isinstance(obj, str) and attr in _DENIED) and super().is_safe_attribute(obj, attr, value)

    def wrap_str_format(self, value: Any) -> None:
        return None  # is_safe_attribute denies it

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        run = _run.get()
        run.step()
        if operator == "+" and hasattr(left, "__len__") and hasattr(right, "__len__"):
            run.grow(len(left) + len(right))
        elif operator == "*":
            for many, times in ((left, right), (right, left)):
                if hasattr(many, "__len__"):
                    run.grow(len(many) * max(0, times))
                elif isinstance(many, int) and many.bit_length() > 256:
                    raise TemplateError("the chat template multiplies large numbers")
        elif operator == "**" or isinstance(left, str):
            raise TemplateError(f"{operator} is not supported in chat templates here")
        return super().call_binop(context, operator, left, right)

    def call(self, context: Context, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        run = _run.get()
        run.step()
        owner, name = getattr(obj, "__self__", None), getattr(obj, "__name__", "")
        if isinstance(owner, str) and name == "join":
            return _join(args[0], owner)
        if isinstance(owner, str) and name == "replace":
            return _replace(owner, *args)
        return super().call(context, obj, *args, **kwargs)


class Program:
    """A template, compiled. `write` runs it.

    Raises:
        TemplateError: it cannot be read.
    """

    def __init__(self, source: str) -> None:
        try:
            self._template = _Sandbox().from_string(source)
        except jinja2.TemplateSyntaxError as error:
            raise TemplateError(f"the chat template cannot be read: line {error.lineno}: {error.message}") from None
        except RecursionError:
            raise TemplateError("the chat template is nested too deep") from None

    def write(self, run: Run, **variables: Any) -> str:
        """The text that it makes of variables, foreign characters still in their stead.

        Raises:
            TemplateError: it refuses, fails, or goes too far.
        """
        token = _run.set(run)
        try:
            return "".join(self._template.generate(**variables))
        except TemplateError:
            raise
        except Exception as error:  # whatever a stranger's code may raise
            why = run.real(str(error)) or type(error).__name__
            raise TemplateError(f"the chat template fails: {why:.500}") from error
        finally:
            _run.reset(token)
