"""How fast a model file loads, reads and speaks here, beside what memory allows, and beside llama.cpp.

`python tests/bench/llm.py MODEL.gguf [--peer PYTHON] [--threads 1,2] [--context 2048] [--rounds 5] [--quick] [--json]`.
For each number of threads: seconds from opening the file to the first token of a 16-token prompt (its pages are in the
cache), tokens/s of a prompt of 512, tokens/s one by one at up to 512 tokens of context and at `--context`, joules per
token, and the roofline: the bytes that a token reads, over what the same threads read of memory in the same rounds.
PYTHON has llama-cpp-python: it does the same by turns with us, in a process of its own, so neither has a better day;
figures are medians over rounds, `ratio` is ours to theirs, above 1 where we are faster.

Then, once, on all threads: memory beside the file and the KV cache, sessions out and in again, what it costs to copy
blocks while decoding, and to be held to a grammar; how soon a cancel is heard; and the import. The tokens are random.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random
from statistics import median
from tempfile import TemporaryDirectory
from threading import Thread, Timer
from time import perf_counter, sleep
from typing import Any

from slipstream.core.energy import Drain
from slipstream.machine import machine
from slipstream.runtime_ext.gguf import Gguf
from slipstream.runtime_ext.model import BLOCK_TOKENS, Model, Session, Stopped, digest, read_bandwidth

NAME = "llm"
FIRST, PROMPT, STEPS = 16, 512, 32
"""Tokens of the first prompt, of the long one, and of one measurement of decoding."""
STREAM = 400 << 20
"""Bytes that are read to measure memory."""

PEER = """
import json, sys
from time import perf_counter
import llama_cpp
path, threads, context = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
out = sys.stdout

def opened():
    return llama_cpp.Llama(path, n_ctx=context + 64, n_threads=threads, n_threads_batch=threads, flash_attn=False,
                           logits_all=False, verbose=False)

llama = None
for line in sys.stdin:
    what, tokens = json.loads(line)
    if what == "load":
        llama = None
        began = perf_counter()
        llama = opened()
        llama.eval(tokens)
    elif what == "fill":
        llama.reset()
        began = perf_counter()
        llama.eval(tokens)
    else:
        began = perf_counter()
        for token in tokens:
            llama.eval([token])
    print(json.dumps(perf_counter() - began), flush=True)
"""
"""What the peer runs: a request a line, `[what, tokens]`, and the seconds that it took as answer."""


def numbers(count: int, limit: int, seed: int = 1) -> list[int]:
    """Random tokens, none of the special ones at the end of a vocabulary."""
    draw = Random(seed)
    return [draw.randrange(limit * 9 // 10) for _ in range(count)]


class Ours:
    """Our engine, asked as the peer is."""

    def __init__(self, path: Path, threads: int, context: int) -> None:
        self._path, self._threads, self._context = path, threads, context

    def load(self, tokens: list[int]) -> float:
        """Seconds from the file to the logits of a prompt."""
        self.session = self.model = None  # type: ignore[assignment]
        began = perf_counter()
        with Gguf.open(self._path) as gguf:
            self.model: Model = Model(gguf, self._threads)
        self.session: Session = Session(self.model, self._context + 64)
        self.session.advance(tokens)
        return perf_counter() - began

    def fill(self, tokens: list[int]) -> float:
        """Seconds for a prompt, from nothing."""
        self.session.rewind(0)
        began = perf_counter()
        self.session.advance(tokens)
        return perf_counter() - began

    def steps(self, tokens: list[int]) -> float:
        """Seconds for tokens, one by one."""
        began = perf_counter()
        for token in tokens:
            self.session.advance([token])
        return perf_counter() - began


class Peer:
    """llama.cpp in a process of its own."""

    def __init__(self, python: str, path: Path, threads: int, context: int) -> None:
        command = [python, "-c", PEER, str(path), str(threads), str(context)]
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            env=environment,
        )  # fmt: skip

    def _ask(self, what: str, tokens: list[int]) -> float:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps([what, tokens]) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            sys.exit(f"the peer ended with {self._process.wait()}: it needs llama-cpp-python, and to read this model")
        return float(answer)

    def load(self, tokens: list[int]) -> float:
        return self._ask("load", tokens)

    def fill(self, tokens: list[int]) -> float:
        return self._ask("fill", tokens)

    def steps(self, tokens: list[int]) -> float:
        return self._ask("steps", tokens)

    def close(self) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()


# -- speed, by turns


def speed(path: Path, peer: str | None, threads: int, context: int, rounds: int) -> dict[str, float | None]:
    """Ours and theirs, and what memory gives, measured by turns."""
    ours = Ours(path, threads, context)
    engines: dict[str, Ours | Peer] = {"ours": ours}
    if peer:
        engines["theirs"] = Peer(peer, path, threads, context)
    took: dict[tuple[str, str], list[float]] = {}
    bandwidth: list[float] = []

    def turn(what: str, call: Callable[[Ours | Peer], float], count: int = 1) -> None:
        for name, engine in engines.items():
            took.setdefault((what, name), []).append(call(engine) / count)

    first = numbers(FIRST, 1000)
    for _ in range(1 + min(rounds, 3)):
        turn("load", lambda engine: engine.load(first))
    for times in took.values():
        del times[0]  # its pages came from the disk
    limit = ours.model.shape.vocabulary
    prompt, more, far = numbers(PROMPT, limit), numbers(STEPS, limit, 2), numbers(context, limit, 3)
    for _ in range(rounds):
        bandwidth.append(read_bandwidth(STREAM, threads))
        turn("prefill", lambda engine: engine.fill(prompt), PROMPT)
    for _ in range(rounds):
        turn("prompt", lambda engine: engine.fill(prompt[: PROMPT // 2]))
        bandwidth.append(read_bandwidth(STREAM, threads))
        turn("decode", lambda engine: engine.steps(more), STEPS)
    turn("far", lambda engine: engine.fill(far[: context - rounds * STEPS]))
    for _ in range(rounds):
        turn("decode_far", lambda engine: engine.steps(more), STEPS)
    figures: dict[str, float | None] = {"bandwidth_gb_s": median(bandwidth) / 1e9, "read_mb": ours.model.read / 1e6}
    for what in ("load", "prefill", "decode", "decode_far"):
        middle = {name: median(took[what, name]) for name in engines}
        for name, seconds in middle.items():
            key, figure = (f"{what}_s", seconds) if what == "load" else (f"{what}_per_s", 1 / seconds)
            figures[f"{key}_{name}"] = figure
        if peer:
            figures[f"{what}_ratio"] = middle["theirs"] / middle["ours"]
    figures["roofline_share"] = ours.model.read / median(took["decode", "ours"]) / median(bandwidth)
    figures["joules_per_token"] = _joules(ours, more)
    if peer:
        engines["theirs"].close()  # type: ignore[union-attr]
    return figures


def _joules(ours: Ours, tokens: list[int]) -> float | None:
    """Of a token while decoding; None where nobody can tell."""
    meter = machine()
    before: Drain | None = meter().get("drain")
    if before is None:
        return None
    ours.steps(tokens)
    after: Drain | None = meter().get("drain")
    if after is None or after.source != before.source or after.joules <= before.joules:
        return None
    return (after.joules - before.joules) / len(tokens)


# -- once


def memory(path: Path, threads: int) -> dict[str, float]:
    """What a process keeps in memory beside the mapped file and the KV cache, in MB; it reads 512 tokens and speaks."""
    code = f"""
from slipstream.runtime_ext.gguf import Gguf
from slipstream.runtime_ext.model import Model, Session
from slipstream.runtime_ext.tokens import Tokenizer
with Gguf.open({str(path)!r}) as gguf:
    tokenizer, model = Tokenizer(gguf.metadata), Model(gguf, {threads})
del gguf
session = Session(model, 1024)
session.advance({numbers(PROMPT, 1000)})
for i in range(8):
    session.advance([i])
status = dict(line.split(":") for line in open("/proc/self/status").read().splitlines())
kept = sum(int(status[name].split()[0]) for name in ("RssAnon", "RssShmem")) * 1024
print(kept, model.packed, -(-len(session) // 32) * model.block_bytes)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    kept, packed, kv = map(int, done.stdout.split())
    return {"packed_mb": packed / 1e6, "kv_mb": kv / 1e6, "rss_beside_file_and_kv_mb": (kept - kv) / 1e6,
            "rss_beside_file_kv_and_packed_mb": (kept - kv - packed) / 1e6}  # fmt: skip


def moving(model: Model, context: int, rounds: int) -> dict[str, float]:
    """GB/s out of a session into memory with digests, and into another one with digests checked."""
    session = Session(model, context + 64)
    session.advance(numbers(context + 7, model.shape.vocabulary), 0)
    size = context // BLOCK_TOKENS * model.block_bytes
    out, back = [], []
    kept = bytearray(size)  # its pages are there
    for _ in range(rounds + 1):
        began = perf_counter()
        at, names = 0, []
        for block in session.blocks():
            kept[at : at + len(block)] = block
            names.append(digest(block))
            at += len(block)
        tail = session.tail()
        out.append(perf_counter() - began)
        began = perf_counter()
        view, here = memoryview(kept).toreadonly(), model.block_bytes
        blocks = [view[at : at + here] for at in range(0, size, here)]
        assert [digest(block) for block in blocks] == names
        again = Session.restore(model, session.tokens, blocks, tail, context + 64)
        back.append(perf_counter() - began)
        del again, blocks, view
    return {"session_mb": size / 1e6, "export_gb_s": size / median(out[1:]) / 1e9,
            "restore_gb_s": size / median(back[1:]) / 1e9}  # fmt: skip


def copying(model: Model, context: int, rounds: int) -> dict[str, float]:
    """How much slower decoding is while another thread copies every block of the session, as pre-copy does, in %."""
    session, limit = Session(model, context + 64), model.shape.vocabulary
    session.advance(numbers(PROMPT, limit), 0)
    tokens = numbers(STEPS, limit, 2)
    free, busy = [], []
    for _ in range(2 * rounds):
        for times, copies in ((free, False), (busy, True)):
            session.rewind(PROMPT)
            blocks = session.blocks()
            sender = Thread(target=lambda blocks=blocks: [(bytes(block), digest(block)) for block in blocks])
            began = perf_counter()
            if copies:
                sender.start()
            for token in tokens:
                session.advance([token])
            times.append(perf_counter() - began)
            if copies:
                sender.join()
    return {"copying_slows_percent": 100 * (median(busy) / median(free) - 1)}


def constrained(path: Path, model: Model, rounds: int) -> dict[str, float]:
    """How much slower it is to be held to a grammar, for the same tokens, in %; without llguidance nothing."""
    try:
        import llguidance  # noqa: F401
    except ImportError:
        return {}
    from slipstream.runtime_ext.generate import Generation, Options
    from slipstream.runtime_ext.grammar import Grammar, prepare
    from slipstream.runtime_ext.tokens import Tokenizer

    with Gguf.open(path) as gguf:
        tokenizer = Tokenizer(gguf.metadata)
    prepare(tokenizer)
    prompt, seconds = numbers(FIRST, 1000), {"free": [], "held": []}
    session, texts = Session(model, 1024), set()
    for _ in range(rounds + 1):
        for name in seconds:
            grammar = Grammar.of_regex(tokenizer, r"(.|\n){1,2000}") if name == "held" else None
            options = Options(max_tokens=2 * STEPS, speculate=False)
            session.rewind(0)
            generation = Generation(session, tokenizer, prompt, options, grammar)
            next(generation)
            began, count = perf_counter(), len(generation.generated)
            for _ in generation:
                pass
            seconds[name].append((perf_counter() - began) / max(1, len(generation.generated) - count))
            texts.add((name, tuple(generation.generated)))
    same = len({tokens for _, tokens in texts}) == 1
    return {"constrained_slows_percent": 100 * (median(seconds["held"][1:]) / median(seconds["free"][1:]) - 1),
            "constrained_same_tokens": float(same)}  # fmt: skip


def silence(model: Model, rounds: int) -> dict[str, float]:
    """Milliseconds from a cancel, in the middle of reading a prompt and of a token, to its end; median and longest."""
    session, tokens = Session(model, 2048), numbers(1500, model.shape.vocabulary)
    figures = {}
    session.advance(tokens[:128])
    began = perf_counter()
    session.advance(tokens[128:256])
    chunk = perf_counter() - began
    began = perf_counter()
    session.advance(tokens[256:257])
    token = perf_counter() - began
    for name, some, within in (("prefill", tokens[300:], 3 * chunk), ("decode", tokens[:1], token)):
        heard, draw = [], Random(1)
        for _ in range(4 * rounds):
            told: list[float] = []

            def stop(told: list[float] = told) -> None:
                told.append(perf_counter())
                session.stop()

            timer = Timer(within * draw.uniform(0.1, 0.9), stop)
            timer.start()
            try:
                session.advance(some, 0)
                timer.cancel()
            except Stopped:
                heard.append(perf_counter() - told[0])
            timer.join()
            session.rewind(min(256, len(session)))
            sleep(0.01)
        if heard:
            figures[f"cancel_{name}_ms"] = median(heard) * 1e3
            figures[f"cancel_{name}_longest_ms"] = max(heard) * 1e3
    return figures


def importing(rounds: int) -> dict[str, float]:
    """Milliseconds that `slipstream.runtime_ext.model` adds to a Python that starts, its bytecode once written."""
    code = "from time import perf_counter as t\nb = t()\nimport slipstream.runtime_ext.model\nprint((t() - b) * 1e3)"
    with TemporaryDirectory() as folder:
        env = os.environ | {"PYTHONPYCACHEPREFIX": folder, "PYTHONDONTWRITEBYTECODE": ""}
        runs = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env)
                for _ in range(1 + 2 * rounds)]  # fmt: skip
    return {"import_ms": median(float(run.stdout) for run in runs[1:])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, metavar="MODEL.gguf")
    parser.add_argument("--peer", metavar="PYTHON", help="a Python that has llama-cpp-python")
    parser.add_argument("--threads", default="1,2", metavar="LIST")
    parser.add_argument("--context", type=int, default=2048, metavar="N")
    parser.add_argument("--rounds", type=int, default=5, metavar="N")
    parser.add_argument("--quick", action="store_true", help="only the speed, not what is measured once")
    parser.add_argument("--json", action="store_true", help="one line of JSON")
    args = parser.parse_args()
    if not args.model.is_file():
        parser.error(f"no file {args.model}")
    if args.rounds < 1 or args.context < PROMPT + args.rounds * STEPS:
        parser.error(f"--rounds from 1 on, --context from {PROMPT + max(args.rounds, 1) * STEPS} on")
    threads = [int(text) for text in args.threads.split(",")]
    figures: dict[str, float | None] = {}
    for count in threads:
        found = speed(args.model, args.peer, count, args.context, args.rounds)
        figures |= {f"t{count}_{name}": value for name, value in found.items()}
    if not args.quick:
        figures |= memory(args.model, max(threads))
        with Gguf.open(args.model) as gguf:
            model = Model(gguf, max(threads))
        figures |= moving(model, 2048, args.rounds)
        figures |= copying(model, 2048, args.rounds)
        figures |= constrained(args.model, model, args.rounds)
        figures |= silence(model, args.rounds)
        figures |= importing(args.rounds)
    if args.json:
        told: dict[str, Any] = {"v": 1, "bench": NAME, "model": args.model.name, "figures": figures}
        print(json.dumps(told))
        return
    for name, value in figures.items():
        print(f"{name:36}{'not measurable here' if value is None else f'{value:12.4g}'}")


if __name__ == "__main__":
    main()
