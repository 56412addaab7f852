"""What letting a device in costs: from `slip pair invite` on an owner to the answer of the new device's first call.

Real processes on loopback; the owner's daemon runs, the person says yes at once (`--yes`). Byte code is cached, as it
is on any device after its first start. The floor is four starts of the interpreter: as many processes take part.
`python tests/bench/pair.py [--rounds N] [--json]`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

NAME = "pair"
TARGET_MS = 1000.0
SLIP = [sys.executable, "-m", "slipstream"]


def environment(folder: Path) -> dict[str, str]:
    """One that says nothing of this machine's own device, and lets byte code be kept."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("SLIPSTREAM_") and k != "PYTHONDONTWRITEBYTECODE"}
    ours = {"HOSTS": "127.0.0.1", "INTERFACES": "127.0.0.1", "PORT": "0", "LOG": "json"}
    return {**kept, "XDG_CONFIG_HOME": str(folder), "PYTHONPYCACHEPREFIX": str(folder / "bytecode"),
            **{f"SLIPSTREAM_{name}": value for name, value in ours.items()}}  # fmt: skip


@contextmanager
def up(env: dict[str, str], state: Path, pack: str, until: str) -> Iterator[float]:
    """A daemon, once it said `until`; when it was ready."""
    daemon = subprocess.Popen(
        [*SLIP, "up", "--state", state, "--pack", pack], env=env, stderr=subprocess.PIPE, text=True
    )
    try:
        assert daemon.stderr is not None
        ready, seen = 0.0, ""
        for line in daemon.stderr:
            kind = json.loads(line).get("kind")
            seen += line
            if kind == "ready":
                ready = time.perf_counter()
            if kind == until:
                break
        else:
            raise RuntimeError(f"the daemon ended:\n{seen}")
        yield ready
    finally:
        daemon.terminate()
        daemon.communicate()


def run(env: dict[str, str], *words: str | Path) -> dict[str, object]:
    """What `slip` says to that."""
    done = subprocess.run([*SLIP, *words, "--json"], env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stdout + done.stderr)
    said: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return said


def once(folder: Path, env: dict[str, str]) -> dict[str, float]:
    """One device let in; ms."""
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        phone, car = Path(temporary) / "phone", Path(temporary) / "car"
        run(env, "pair", "new", "--state", phone, "--name", "phone", "--kind", "phone")
        with up(env, phone, "phone", "ready"):
            began = time.perf_counter()
            inviting = subprocess.Popen([*SLIP, "pair", "invite", "--yes", "--json", "--state", phone], env=env,
                                        stdout=subprocess.PIPE, text=True)  # fmt: skip
            assert inviting.stdout is not None
            code = json.loads(inviting.stdout.readline())["code"]
            invited = time.perf_counter()
            run(env, "pair", "join", code, "--state", car, "--name", "car", "--kind", "car")
            joined = time.perf_counter()
            with up(env, car, "car", "link.up") as ready:
                called = run(env, "call", "phone.battery", "--on", "phone", "--state", car)
                answered = time.perf_counter()
            inviting.communicate()
        assert called["device"] == "phone"
    started = [time.perf_counter()]
    for _ in range(4):
        subprocess.run([sys.executable, "-c", ""], env=env, check=True)
    started.append(time.perf_counter())
    return {
        "invite_to_code_ms": (invited - began) * 1e3, "join_ms": (joined - invited) * 1e3,
        "up_to_ready_ms": (ready - joined) * 1e3, "ready_to_answer_ms": (answered - ready) * 1e3,
        "invite_to_first_call_ms": (answered - began) * 1e3, "floor_four_starts_ms": (started[1] - started[0]) * 1e3,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9, help="devices that are let in, one after the other")
    parser.add_argument("--json", action="store_true", help="one line of JSON")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="slipstream-bench-") as temporary:
        env = environment(Path(temporary))
        once(Path(temporary), env)  # fills the byte code cache
        rounds = [once(Path(temporary), env) for _ in range(args.rounds)]
    figures = {name: median(r[name] for r in rounds) for name in rounds[0]}
    if args.json:
        print(json.dumps({"v": 1, "bench": NAME, "figures": figures}))
        return
    for name, value in figures.items():
        print(f"{name:26}{value:10.0f}" + (f"   (at most {TARGET_MS:g})" if name == "invite_to_first_call_ms" else ""))


if __name__ == "__main__":
    main()
