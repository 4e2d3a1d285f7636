"""`python -m unirun.testing.simulate`: many simulations, or one seed again.

Each seed that fails is printed with what does not hold and what happened last; the exit status is
1 then.  `make simulate` runs 100,000 of them.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from unirun.testing._simulator import Simulator
from unirun.testing.invariants import Broken

SEEDS = 100_000
PAUSE = 5.0  # seconds between two lines of progress
MOST_SHOWN = 10  # failing seeds that are told at length


def main(arguments: Sequence[str] | None = None, **machines: Callable[..., Any]) -> int:
    """Run what the command line says; `machines` are those of `Simulator`."""
    options = _parser().parse_args(arguments)
    if options.seed is not None:
        return _one(options.seed, machines)
    return _many(options, machines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m unirun.testing.simulate",
        description="Drive the pool's and the coordinator's machines in virtual time, with faults.",
    )
    parser.add_argument("--seed", type=int, help="run this one only, and print all that happened")
    parser.add_argument("--first", type=int, default=0, help="the first seed of many (default: 0)")
    parser.add_argument(
        "--seeds", type=int, default=None, help=f"how many (default: {SEEDS}, or no end)"
    )
    parser.add_argument("--seconds", type=float, help="stop after so long (real seconds)")
    return parser


def _one(seed: int, machines: dict[str, Callable[..., Any]]) -> int:
    simulator = Simulator(seed, **machines)
    try:
        simulator.run()
    except Broken as exc:
        _say(f"{simulator.trace}{str(exc).splitlines()[0]}")
        return 1
    _say(f"{simulator.trace}seed {seed}: every invariant holds; {simulator.crew.deaths} deaths")
    return 0


def _many(options: argparse.Namespace, machines: dict[str, Callable[..., Any]]) -> int:
    begun = told = time.monotonic()
    end = None if options.seconds is None else begun + options.seconds
    seeds = options.seeds if options.seeds is not None or end is not None else SEEDS
    failed: list[int] = []
    done = events = deaths = 0
    while (seeds is None or done < seeds) and (end is None or time.monotonic() < end):
        simulator = Simulator(options.first + done, **machines)
        try:
            simulator.run()
        except Broken as exc:
            failed.append(simulator.seed)
            if len(failed) <= MOST_SHOWN:
                _say(str(exc))
        done += 1
        events += simulator.clock.events
        deaths += simulator.crew.deaths
        if time.monotonic() > told + PAUSE:
            told = time.monotonic()
            _say(f"{done} simulations in {told - begun:.0f} s, {len(failed)} failed")
    _say(f"{done} simulations, {events} events, {deaths} deaths: {len(failed)} failed")
    if failed:
        _say(f"failing seeds: {' '.join(map(str, failed[:100]))}")
        _say("to see one again: python -m unirun.testing.simulate --seed N")
    return bool(failed)


def _say(what: str) -> None:
    sys.stdout.write(f"{what}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
