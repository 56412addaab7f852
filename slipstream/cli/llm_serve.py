"""`slip llm serve`: model files for programs that speak OpenAI's protocol, on this machine unless said otherwise."""

from __future__ import annotations

import argparse
import gc
import json
import os
import shlex
import signal
import sys
import traceback
from collections.abc import AsyncIterator, Sequence
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from socket import gethostname
from typing import TYPE_CHECKING

from ..core.errors import SlipError, UsageError
from . import output

if TYPE_CHECKING:
    import anyio

    from ..llm_server import Server
    from ..skills.packs.llm.backend import Llm


def serve(paths: Sequence[Path], args: argparse.Namespace) -> int:
    """Load the first model, then answer until SIGTERM or Ctrl-C; the exit code.

    Raises:
        UsageError: it cannot be done so.
        SlipError: the model cannot be loaded.
    """
    if not 0 <= args.port <= 65535:
        raise UsageError(f"--port {args.port} is not from 0 to 65535", "", "--port 8080")
    key, host = _key(args), args.host
    if key is None and not _loopback(host):
        raise UsageError(f"whoever reaches {host} could use the model", "no key is asked for",
                         "--key-file FILE, or --host 127.0.0.1")  # fmt: skip
    try:
        import anyio
        import h11  # noqa: F401  so that what is missing is said here
    except ImportError as error:
        raise SlipError("a library that the server needs is missing", str(error),
                        "run: pip install 'slipstream-mesh[llm]'") from None  # fmt: skip
    from pydantic import ValidationError

    from ..llm_api import Gate
    from ..llm_server import Server
    from ..skills.packs.llm.backend import Llm, LlmSettings

    try:
        settings = LlmSettings(
            models=tuple(path.absolute() for path in paths), threads=args.threads, context=args.context
        )
    except ValidationError as error:
        raise UsageError(
            "these models cannot be served", error.errors()[0]["msg"], "slip llm info MODEL.gguf"
        ) from None
    llm = Llm(settings)
    names = {"localhost", host} if _loopback(host) else {"localhost", host, gethostname(), f"{gethostname()}.local"}
    gate = Gate(frozenset(name.lower() for name in names), key)
    gc.enable()  # this process is not short-lived
    anyio.run(_run, Server(llm, gate, _fault), llm, args)
    return 0


async def _run(server: Server, llm: Llm, args: argparse.Namespace) -> None:
    import anyio

    failed: SlipError | None = None
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with anyio.create_task_group() as group:
            loading = anyio.CancelScope()
            group.start_soon(_obey, signals, server, loading, group.cancel_scope)
            try:
                with loading:
                    await _load(llm)
                if not loading.cancelled_caught:
                    await server.serve(args.host, args.port, partial(_ready, llm, args))
            except SlipError as error:
                failed = error
            group.cancel_scope.cancel()
    if failed is not None:
        raise failed


async def _obey(
    signals: AsyncIterator[int], server: Server, loading: anyio.CancelScope, everything: anyio.CancelScope
) -> None:
    asked = False
    async for _ in signals:
        if asked:  # twice: at once, then
            everything.cancel()
        asked = True
        loading.cancel()
        server.stop()


async def _load(llm: Llm) -> None:
    name = next(iter(llm.paths))

    async def tell(part: float) -> None:
        output.progress(f"loading {name} {part:4.0%}")

    try:
        await llm.engine(name, tell)
    finally:
        output.progress("")


def _ready(llm: Llm, args: argparse.Namespace, port: int) -> None:
    """Say where it listens, and what to try."""
    host = f"[{args.host}]" if ":" in args.host else args.host
    url, first = f"http://{host}:{port}/v1", next(iter(llm.paths))
    if args.json:
        output.show_json({"host": args.host, "port": port, "url": url, "models": list(llm.paths)})
        return
    shown = f"$(cat {shlex.quote(args.key_file)})" if args.key_file else f"${args.key_env}"
    key = f' -H "Authorization: Bearer {shown}"' if args.key_file or args.key_env else ""
    asked = json.dumps({"model": first, "messages": [{"role": "user", "content": "Hello"}]})
    output.line(f"listening on {url} for {', '.join(llm.paths)}; Ctrl-C ends it")
    output.line(f"try: curl {url}/chat/completions{key} -d {shlex.quote(asked)}")
    if not _loopback(args.host):
        output.note("this is plain HTTP: whoever is on the network can read it, and the key")


def _key(args: argparse.Namespace) -> str | None:
    """The key that clients must show, None if none."""
    if args.key_file is not None:
        try:
            key = Path(args.key_file).read_text().strip()
        except (OSError, ValueError) as error:
            raise UsageError(f"{args.key_file} cannot be read", str(error), "--key-file FILE") from None
        source = args.key_file
    elif args.key_env is not None:
        key, source = os.environ.get(args.key_env, "").strip(), f"${args.key_env}"
    else:
        return None
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        raise UsageError(f"{source} holds no key", "a key is one word of ASCII", "openssl rand -hex 32 > FILE")
    return key


def _loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def _fault(error: Exception) -> None:
    traceback.print_exception(error, file=sys.stderr)
