"""`slip llm`: a model file, run here: without a daemon; what is served is on this machine unless said otherwise."""

from __future__ import annotations

import argparse
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ..core.errors import SlipError, UsageError
from ..runtime_ext.memory import available
from . import output
from .parsing import need, seconds

if TYPE_CHECKING:
    from ..runtime_ext.architecture import Shape
    from ..runtime_ext.gguf import Gguf

RUN: Final = 'slip llm run MODEL.gguf "PROMPT"'
_IN_PLACE: Final = ("F32", "F16", "BF16", "Q8_0")
"""Types whose weights are read where the file is mapped; all others are laid out anew, in about as many bytes."""


def add(parser: argparse.ArgumentParser) -> None:
    """Its arguments."""
    parser.add_argument(
        "action", choices=("run", "info", "serve"), help="generate text, say what a file holds, or serve other programs"
    )
    parser.add_argument("model", nargs="?", metavar="MODEL.gguf")
    parser.add_argument(
        "words", nargs="*", metavar="PROMPT", help="run: what is said to the model; - reads it from stdin. "
        "serve: more model files",
    )  # fmt: skip
    parser.add_argument("--threads", type=int, metavar="N", help="processors to use (default: all that it may)")
    parser.add_argument("--context", type=int, metavar="N", help="tokens of prompt and answer (default: as needed)")
    run = parser.add_argument_group("run")
    run.add_argument("--system", metavar="TEXT", help="what comes before the conversation")
    run.add_argument("--chat", choices=("file", "chatml", "none"), help="whose chat template (default: the file's)")
    run.add_argument("--schema", metavar="FILE", help="answer with JSON that fits this JSON schema")
    run.add_argument("--max-tokens", type=int, default=512, metavar="N", help="end after so many (default: 512)")
    run.add_argument("--kv", choices=("f16", "q8_0"), default="f16", help="keys and values: q8_0 takes half the memory")
    run.add_argument("--slide", action="store_true", help="where the context is full, forget its middle and go on")
    run.add_argument("--stop", action="append", default=[], metavar="TEXT", help="end before this text")
    run.add_argument("--deadline", type=seconds, metavar="TIME", help="end after so long: 500ms, 10s or 2m")
    run.add_argument("--temperature", type=float, default=0.0, metavar="T", help="0, the default: the likeliest token")
    run.add_argument("--top-p", type=float, default=1.0, metavar="P")
    run.add_argument("--top-k", type=int, default=0, metavar="K")
    run.add_argument("--min-p", type=float, default=0.0, metavar="P")
    run.add_argument("--seed", type=int, metavar="N", help="the same answer again (default: another one each time)")
    serve = parser.add_argument_group("serve", "OpenAI's protocol: /v1/chat/completions, /v1/completions, /v1/models")
    serve.add_argument("--host", default="127.0.0.1", metavar="ADDRESS", help="listen there (default: 127.0.0.1)")
    serve.add_argument("--port", type=int, default=8080, metavar="N", help="0 takes a free one (default: 8080)")
    key = serve.add_mutually_exclusive_group()
    key.add_argument("--key-file", metavar="FILE", help="answer only who shows the key in it")
    key.add_argument("--key-env", metavar="NAME", help="the same, with the key in an environment variable")


def main(args: argparse.Namespace) -> int:
    """Run, tell, or serve."""
    path = Path(need(args.model, "model", f"slip llm {args.action} MODEL.gguf"))
    for name, most, usual in (("threads", 256, 2), ("context", 2**31 - 1, 4096)):
        if (given := getattr(args, name)) is not None and not 1 <= given <= most:
            raise UsageError(f"--{name} {given} is not from 1 to {most}", "", f"--{name} {usual}")
    if args.action == "serve":
        from .llm_serve import serve

        return serve([path, *map(Path, args.words)], args)
    if args.action == "run":
        from .llm_run import run

        if len(args.words) > 1:
            raise UsageError(f"one prompt is answered, not {len(args.words)}", "quote it as one word", RUN)
        return run(path, args)
    if args.words:
        raise UsageError(f"slip llm {args.action} has no use for {args.words[0]}", "", RUN)
    return _info(path, args)


# -- what both need


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """What can be wrong with a model file, and with what is asked of it, as errors that say what next.

    Raises:
        SlipError: there is no room, or a library is missing.
        UsageError: the file, or what is asked of it, is wrong.
    """
    try:
        from ..runtime_ext.architecture import ModelError
        from ..runtime_ext.generate import GenerateError
        from ..runtime_ext.gguf import GgufError
        from ..runtime_ext.grammar import GrammarError
        from ..runtime_ext.sandbox import TemplateError
        from ..runtime_ext.tokens import TokenizerError
    except ImportError as error:
        what, _, hint = str(error).partition("; run: ")
        raise SlipError(what, "", hint) from None
    try:
        yield
    except (GgufError, ModelError, TokenizerError) as error:
        raise UsageError(f"{path.name} cannot be run here", str(error), "take another file of the model") from None
    except TemplateError as error:
        raise UsageError("the chat template does not take this", str(error), "--chat chatml, or --chat none") from None
    except (GenerateError, GrammarError) as error:
        raise UsageError(error.what, "", error.hint) from None
    except MemoryError as error:
        raise SlipError(f"no room for {path.name}", str(error), "a smaller model, or less --context") from None


def opened(path: Path) -> Gguf:
    """The model file, mapped.

    Raises:
        UsageError: there is none, or it cannot be opened.
        GgufError: it is none.
    """
    from ..runtime_ext.gguf import Gguf

    try:
        return Gguf.open(path)
    except OSError as error:
        raise UsageError(f"{path} cannot be opened", error.strerror or str(error), "ls *.gguf") from None


def processors() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0))


class Memory(NamedTuple):
    """Bytes that a model takes in memory: `mapped`, which can be given back and read again, and what it keeps."""

    mapped: int
    packed: int
    """Weights that are laid out anew, about."""
    kv_token: int
    """Keys and values of one token."""

    @classmethod
    def of(cls, gguf: Gguf, shape: Shape) -> Memory:
        """What the model in a file needs."""
        unused = "token_embd.weight" if "output.weight" in gguf.tensors else ""
        packed = [t.nbytes for t in gguf.tensors.values() if t.type not in _IN_PLACE and t.name != unused]
        return cls(len(gguf.data), sum(packed), shape.layers * shape.kv_heads * shape.head_dim * 2 * 2)

    def kept(self, context: int) -> int:
        """What cannot be given back while so many tokens are held."""
        return self.packed + context * self.kv_token


def size(count: float) -> str:
    """Bytes as people read them."""
    for factor, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= factor:
            return f"{count / factor:.3g} {unit}"
    return f"{count:.0f} B"


# -- info


def _info(path: Path, args: argparse.Namespace) -> int:
    with explained(path):
        told = _told(path, args)
    if args.json:
        output.show_json(told)
        return 0
    memory, chat = told["memory"], told["chat_template"]
    rows = {
        "model": f"{told['name'] or path.name} ({told['architecture']}), {told['parameters'] / 1e6:.4g} M parameters",
        "layers": f"{told['layers']} of {told['embedding']}, {told['heads']} heads of {told['head_dim']} on "
        f"{told['kv_heads']}, feed-forward {told['feed_forward']}",
        "context": f"{told['context']} tokens, {size(memory['kv_per_token'])} of keys and values each",
        "tokenizer": f"{told['tokenizer']}, {told['tokens']} tokens",
        "chat": "a template in the file" if chat else "no template in the file: plain text, or --chat chatml",
        "kernels": f"{told['kernels'][0]} ({', '.join(told['kernels'])} can run here), {told['threads']} threads",
        "memory": f"{size(memory['mapped'])} mapped, {size(memory['packed'])} laid out anew, "
        f"{size(memory['kv'])} for {told['planned_context']} tokens; "
        + ("nobody tells what is free" if memory["available"] is None else f"{size(memory['available'])} are free"),
    }
    for name, said in rows.items():
        output.line(f"{name:<10} {said}")
    print()
    types = [(t["type"], t["tensors"], size(t["bytes"])) for t in told["types"]]
    output.table(("type", "tensors", "bytes"), types)
    if memory["fits"] is False:
        output.note("it does not fit: take a smaller model, or less --context")
    return 0


def _told(path: Path, args: argparse.Namespace) -> dict[str, Any]:
    """What a file holds, and what it takes to run it here."""
    from ..runtime_ext.architecture import Shape
    from ..runtime_ext.model import kernels
    from ..runtime_ext.tokens import Tokenizer

    with opened(path) as gguf:
        shape, tokenizer = Shape.of(gguf), Tokenizer(gguf.metadata)
        memory, free = Memory.of(gguf, shape), available()
        context = args.context or min(shape.context, 4096)
        count, held = Counter(t.type for t in gguf.tensors.values()), Counter[str]()
        for tensor in gguf.tensors.values():
            held[tensor.type] += tensor.nbytes
        kind, pre = (gguf.metadata.get(f"tokenizer.ggml.{key}") for key in ("model", "pre"))
        return {
            "file": str(path), "version": gguf.version, "name": shape.name, "architecture": shape.architecture,
            "parameters": sum(prod(t.shape) for t in gguf.tensors.values()), "layers": shape.layers,
            "embedding": shape.embd, "heads": shape.heads, "kv_heads": shape.kv_heads, "head_dim": shape.head_dim,
            "feed_forward": shape.ff, "vocabulary": shape.vocabulary, "context": shape.context,
            "window": shape.window or None, "tokenizer": f"{kind}/{pre}" if pre else str(kind),
            "tokens": tokenizer.size, "chat_template": "tokenizer.chat_template" in gguf.metadata,
            "types": [{"type": name, "tensors": count[name], "bytes": n} for name, n in held.most_common()],
            "kernels": kernels(), "threads": args.threads or processors(), "planned_context": context,
            "memory": {
                "mapped": memory.mapped, "packed": memory.packed, "kv_per_token": memory.kv_token,
                "kv": context * memory.kv_token, "available": free,
                "fits": None if free is None else memory.kept(context) <= free,
            },
        }  # fmt: skip
