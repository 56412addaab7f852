"""An answer that moves in mid-sentence from one process to another, over a link that is slow on purpose.

`python tests/bench/llm_handoff.py MODEL.gguf [--tokens 512,2048] [--mbit 100] [--rtt-ms 10] [--json]`. Both processes
run the model on one thread each; a third stands for the link: it lets through so many bits a second, and delays each
byte by half a round trip. Blocks of keys and values that are full go over while the answer goes on (pre-copy), then
each token's row as it comes; at the switch one row and the generation's state are left. The gap is from the last piece
here to the first piece there. Beside it, from the same run: an ordinary piece on each side, stopping
first and copying then (by the link's rate), and reading the prompt again.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import sys
import threading
from collections import deque
from multiprocessing import Pipe, Process
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random
from statistics import median
from time import monotonic, sleep
from typing import Any

import msgpack

from slipstream.runtime_ext.generate import Generation, Options
from slipstream.runtime_ext.gguf import Gguf
from slipstream.runtime_ext.identity import manifest, refuse
from slipstream.runtime_ext.model import BLOCK_TOKENS, Model, Session, digest
from slipstream.runtime_ext.tokens import Tokenizer

NAME = "llm-handoff"
AFTER = 24
"""Pieces after the switch, compared with those of staying."""
SETTLED = 12
"""Pieces here after everything was copied, before the switch."""


class Wire:
    """Messages of msgpack with their length before them, on a socket."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def send(self, message: dict[str, Any]) -> int:
        data = msgpack.packb(message)
        self._sock.sendall(len(data).to_bytes(4, "big") + data)
        return len(data)

    def receive(self) -> dict[str, Any]:
        size = int.from_bytes(self._read(4), "big")
        message: dict[str, Any] = msgpack.unpackb(self._read(size))
        return message

    def _read(self, size: int) -> bytes:
        data = bytearray(size)
        view = memoryview(data)
        while view:
            got = self._sock.recv_into(view)
            if not got:
                raise EOFError("the other process is gone")
            view = view[got:]
        return bytes(data)


def relay(source: socket.socket, target: socket.socket, rate: float, delay: float) -> None:
    """Bytes from `source` to `target` at `rate` bytes a second, each `delay` seconds late."""
    due: deque[tuple[float, bytes]] = deque()
    more, over = threading.Condition(), False

    def deliver() -> None:
        while True:
            with more:
                while not due and not over:
                    more.wait()
                if not due:
                    return
                at, data = due.popleft()
            if (left := at - monotonic()) > 0:
                sleep(left)
            target.sendall(data)

    thread = threading.Thread(target=deliver)
    thread.start()
    free = 0.0
    while data := source.recv(8192):
        free = max(free, monotonic()) + len(data) / rate
        with more:
            due.append((free + delay, data))
            more.notify()
        if (ahead := free - monotonic()) > 0.002:  # what waits in the link is what a small queue holds
            sleep(ahead)
    with more:
        over = True
        more.notify()
    thread.join()


def prompt(session: Session, tokens: int) -> list[int]:
    draw = Random(7)
    return [draw.randrange(256, session.model.shape.vocabulary * 2 // 3) for _ in range(tokens)]


def here(path: str, tokens: int, sock: socket.socket, report: Connection) -> None:
    """The device that speaks first."""
    with Gguf.open(path) as gguf:
        model, tokenizer = Model(gguf), Tokenizer(gguf.metadata)
        papers = manifest(gguf, model, "")
    wire, session = Wire(sock), Session(model, tokens + 4096, seed=1)
    began = monotonic()
    speaks = Generation(session, tokenizer, prompt(session, tokens), Options(max_tokens=4000, speculate=False))
    times, sent, copying, bulk = [], 0, True, 0
    next(speaks)
    first = monotonic() - began

    def copy() -> None:
        nonlocal sent, copying, bulk
        while True:
            blocks = session.blocks(sent // BLOCK_TOKENS)
            if not blocks:
                break
            for block in blocks:
                ids = session.tokens[sent : sent + BLOCK_TOKENS]
                bulk += wire.send({"block": bytes(block), "digest": digest(block), "tokens": ids})
                sent += BLOCK_TOKENS
        copying = False

    wire.send({"manifest": papers})
    copier = threading.Thread(target=copy)
    copier.start()
    began, settled = monotonic(), 0
    while settled < SETTLED:
        at = monotonic()
        next(speaks)
        times.append(monotonic() - at)
        if copying:
            continue
        if not settled:
            copied = monotonic() - began
        settled += 1
        while sent < len(session):  # what came since, block by block, token by token
            end = min(len(session), (sent // BLOCK_TOKENS + 1) * BLOCK_TOKENS)
            if end < len(session):
                wire.send({"block": bytes(session.blocks(sent // BLOCK_TOKENS)[0]), "tokens": session.tokens[sent:end]})
            else:
                wire.send({"rows": session.tail(sent), "tokens": session.tokens[sent:]})
            sent = end
    last = monotonic()  # the last piece was said
    wire.send({"state": speaks.state()})
    copier.join()
    stayed = []
    report.recv()  # the other is done, so that two do not share the memory's bandwidth
    for _ in range(AFTER):
        stayed.append(next(speaks).tokens)
    report.send({
        "last": last, "stayed": stayed, "token": median(times[-SETTLED:]), "copied": copied, "read": first,
        "token_copying": median(times[:-SETTLED] or times), "bulk": bulk, "length": len(session),
    })  # fmt: skip


def there(path: str, context: int, sock: socket.socket, report: Connection) -> None:
    """The device that takes over."""
    with Gguf.open(path) as gguf:
        model, tokenizer = Model(gguf), Tokenizer(gguf.metadata)
        papers = manifest(gguf, model, "")
    warm = Session(model, 64)
    warm.advance([1, 2, 3])
    warm.advance([4])
    wire, blocks, ids, session = Wire(sock), [], [], None
    refuse(wire.receive()["manifest"], papers)
    while "state" not in (message := wire.receive()):
        if "block" in message and session is None:
            if digest(message["block"]) != message["digest"]:
                raise ValueError("a block was damaged on the way")
            blocks.append(message["block"])
            ids += message["tokens"]
            continue
        if session is None:
            session = Session.restore(model, ids, blocks, b"", context)
            session.advance(ids[-1:])  # a rehearsal: memory is touched and laid out before it counts
            session.rewind(len(ids))
        if "block" in message:
            session.rewind(len(session) // BLOCK_TOKENS * BLOCK_TOKENS)
            whole = Session.restore(model, message["tokens"], [message["block"]], b"", BLOCK_TOKENS)
            session.extend(message["tokens"], whole.tail(0))
        else:
            session.extend(message["tokens"], message["rows"])
    arrived = monotonic()
    if session is None:
        raise ValueError("nothing was copied before the switch")
    speaks = Generation.resume(session, tokenizer, message["state"])
    said = [next(speaks).tokens]
    first, times = monotonic(), []
    for _ in range(AFTER - 1):
        at = monotonic()
        said.append(next(speaks).tokens)
        times.append(monotonic() - at)
    report.send({"first": first, "said": said, "token": median(times), "arrived": arrived})


def once(path: str, tokens: int, mbit: float, rtt: float) -> dict[str, float]:
    """One move; times in ms."""
    a, a_link = socket.socketpair()
    b_link, b = socket.socketpair()
    for sock in (a, a_link, b, b_link):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 32 * 1024)
    from_here, to_me = Pipe()
    from_there, to_me_too = Pipe(False)
    processes = [
        Process(target=there, args=(path, tokens + 4096, b, to_me_too)),
        Process(target=relay, args=(a_link, b_link, mbit * 1e6 / 8, rtt / 2)),
        Process(target=here, args=(path, tokens, a, to_me)),
    ]
    for process in processes:
        process.start()
    for end in (a, a_link, b, b_link, to_me, to_me_too):
        end.close()
    came = from_there.recv()
    from_here.send(None)
    left = from_here.recv()
    for process in processes:
        process.join(10)
        process.kill()
    gap = came["first"] - left["last"]
    return {
        "gap_ms": gap * 1e3,
        "limit_ms": (came["token"] + rtt / 2) * 1e3 + 5,
        "token_here_ms": left["token"] * 1e3,
        "token_here_while_copying_ms": left["token_copying"] * 1e3,
        "token_there_ms": came["token"] * 1e3,
        "on_the_way_ms": (came["arrived"] - left["last"]) * 1e3,
        "pre_copy_s": left["copied"],
        "stop_and_copy_ms": left["bulk"] / (mbit * 1e6 / 8) * 1e3,
        "read_again_ms": left["read"] * 1e3,
        "same_tokens": float(left["stayed"] == came["said"]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="what it takes to move an answer in mid-sentence")
    parser.add_argument("model", type=Path)
    parser.add_argument("--tokens", default="512,2048", help="of the prompt")
    parser.add_argument("--mbit", type=float, default=100.0)
    parser.add_argument("--rtt-ms", type=float, default=10.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    figures: dict[str, float] = {}
    for tokens in map(int, args.tokens.split(",")):
        rounds = [once(str(args.model), tokens, args.mbit, args.rtt_ms / 1e3) for _ in range(args.rounds)]
        for name in rounds[0]:
            values = [r[name] for r in rounds]
            figures[f"{name}_{tokens}"] = min(values) if name == "same_tokens" else median(values)
    if args.json:
        print(json.dumps({"v": 1, "bench": NAME, "figures": figures}))
    else:
        for name, value in figures.items():
            print(f"{name:40} {value:10.4g}")
    if not all(v for n, v in figures.items() if n.startswith("same_tokens")):
        print("the answer is another one than without the move", file=sys.stderr)
        os._exit(1)


if __name__ == "__main__":
    main()
