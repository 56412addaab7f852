"""How long a device takes to say what it thinks of a call, at 100 rules: the law is 5 µs.

`python tests/bench/policy.py [--json]`. `plain`: by pattern and role alone. `worst`: every rule asks for two arguments,
a time and what the vehicle does, the last one decides, and the call is on behalf of another device. `first`: a skill
and a device that were not seen before. `load`: the file that comes with Slipstream, read and checked.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from datetime import datetime
from itertools import cycle
from statistics import median
from timeit import repeat

from slipstream.core.policy import Policy, Rule
from slipstream.core.skill import Context, Driving, Effect, SkillSpec, skill
from slipstream.core.trust import Member, Role
from slipstream.policy_file import load

NAME = "policy"
RULES = 100
NOW = datetime(2026, 11, 25, 12, 30)
OWNER = Member("o" * 32, "phone", "phone", Role.OWNER)
GUEST = Member("g" * 32, "valet", "phone", Role.GUEST, 2e9, "valet")


@skill("seat.heat", effect=Effect.PHYSICAL, driving=Driving.MOVING)
async def heat(ctx: Context, seat: str, level: int = 1) -> None:
    """Set a seat's heating."""


def p50(call: Callable[[], object]) -> float:
    """The median over batches of what one call takes, in µs."""
    return median(repeat(call, number=200, repeat=60)) / 200 * 1e6


def plain_rules() -> list[Rule]:
    """A hundred rules by pattern and role; the last one fits."""
    others = [Rule(("owner", "kind:phone"), (f"pack{i}.*", f"!pack{i}.secret"), "ask") for i in range(RULES - 1)]
    return [*others, Rule(("*",), ("*",), "allow")]


def worst_rules() -> list[Rule]:
    """A hundred rules that all fit but for one argument, each with its own hours; the last one fits."""
    return [
        Rule(
            ("owner", "guest:valet"), ("seat.*",), "allow" if i == RULES - 1 else "ask",
            driving=frozenset((Driving.PARKED, Driving.IDLING, Driving.MOVING)),
            hours=tuple((day * 1440 + i, day * 1440 + 1000 + i) for day in range(7)),
            args={"seat": frozenset(("driver", "passenger")), "level": frozenset((i, 1000 + i))},
        )
        for i in range(RULES)
    ]  # fmt: skip


def speed() -> dict[str, float]:
    """All figures, in µs."""
    spec: SkillSpec = heat.spec
    plain, worst, default = Policy(plain_rules()), Policy(worst_rules()), load(None)
    args = {"seat": "passenger", "level": RULES - 1}
    assert plain.decide(spec, args, OWNER, OWNER, Driving.MOVING, NOW).answer == "allow"
    assert worst.decide(spec, args, OWNER, GUEST, Driving.MOVING, NOW).answer == "allow"
    strangers = cycle([Member(f"{i:032d}", "phone", "phone", Role.OWNER) for i in range(6000)])

    def first() -> None:
        stranger = next(strangers)
        worst.decide(spec, args, stranger, stranger, Driving.MOVING, NOW)

    return {
        "plain_us": p50(lambda: plain.decide(spec, args, OWNER, OWNER, Driving.MOVING, NOW)),
        "default_us": p50(lambda: default.decide(spec, args, OWNER, OWNER, Driving.MOVING, NOW)),
        "worst_us": p50(lambda: worst.decide(spec, args, OWNER, GUEST, Driving.MOVING, NOW)),
        "first_us": p50(first),
        "load_us": median(repeat(lambda: load(None), number=1, repeat=60)) * 1e6,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="one line of JSON")
    found = speed()
    if parser.parse_args().json:
        print(json.dumps({"v": 1, "bench": NAME, "figures": found}))
        return
    for name, value in found.items():
        print(f"{name:24}{value:12.4g}")


if __name__ == "__main__":
    main()
