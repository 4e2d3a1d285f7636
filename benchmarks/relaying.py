"""What the relay of logs, warnings and output costs: calls that use none of it, and those that do.

Two executors in one process in turns, one with and one without, since what changes from process to
process is more than what is looked for.
"""

import contextlib
import logging
import math
import os
import time
from collections.abc import Callable
from pathlib import Path

import unirun
from benchmarks._tasks import nothing
from benchmarks._workload import Figures, Row, Sizes, Workload


def write_lines(count: int) -> None:
    for number in range(count):
        print("line", number)


def write_records(count: int) -> None:
    logger = logging.getLogger("benchmark")
    for number in range(count):
        logger.warning("record %d", number)


def idle(contender: str, sizes: Sizes) -> Figures:
    """Time with over time without, of calls that print and log nothing."""
    with unirun.Executor(2, backend="process") as on, _without() as off:
        batches = {"submit": _submit, "one by one": _one_by_one, "map": _map}
        return {name: _ratio(batch, on, off, sizes) for name, batch in batches.items()}


def _without() -> unirun.Executor:
    return unirun.Executor(2, backend="process", output="direct", logs=False)


def _submit(executor: unirun.Executor, calls: int) -> None:
    for future in [executor.submit(nothing, n) for n in range(calls)]:
        future.result()


def _one_by_one(executor: unirun.Executor, calls: int) -> None:
    for n in range(calls // 10):
        executor.submit(nothing, n).result()


def _map(executor: unirun.Executor, calls: int) -> None:
    assert len(list(executor.map(nothing, range(5 * calls)))) == 5 * calls


def _ratio(
    batch: Callable[[unirun.Executor, int], None],
    on: unirun.Executor,
    off: unirun.Executor,
    sizes: Sizes,
) -> float:
    for executor in (on, off):
        batch(executor, sizes["calls"])
    fastest = {on: math.inf, off: math.inf}  # the rest is what else the machine does
    for n in range(sizes["pairs"]):
        for executor in (on, off) if n % 2 else (off, on):
            start = time.perf_counter()
            batch(executor, sizes["calls"])
            fastest[executor] = min(fastest[executor], time.perf_counter() - start)
    return fastest[on] / fastest[off]


def busy(contender: str, sizes: Sizes) -> Figures:
    """Seconds for each line and each record, until all of them are where they belong."""
    logger = logging.getLogger("benchmark")
    logger.addHandler(handler := logging.NullHandler())
    logger.propagate = False
    with (
        Path(os.devnull).open("w") as nowhere,
        contextlib.redirect_stdout(nowhere),
        unirun.Executor(2, backend="process") as executor,
    ):
        found = {}
        for name, work in (("line", write_lines), ("record", write_records)):
            executor.submit(work, 10).result()
            start = time.perf_counter()
            for future in [executor.submit(work, sizes["calls"]) for _ in range(2)]:
                future.result()
            found[name] = (time.perf_counter() - start) / (2 * sizes["calls"])
    logger.removeHandler(handler)
    logger.propagate = True
    return found


WORKLOADS = (
    Workload(
        "relay-idle",
        "calls that print and log nothing: fastest batch with the relay over the same without",
        "",
        idle,
        (
            Row("submit", "unirun", None, at_most=1.1),
            Row("one by one", "unirun", None, at_most=1.1),
            Row("map", "unirun", None, at_most=1.1),
        ),
        sizes={"calls": 2000, "pairs": 31},
        quick={"calls": 20, "pairs": 1},
        brief={"calls": 1000, "pairs": 11},
    ),
    Workload(
        "relay-busy",
        "two workers print, then log: time for each line or record until it is here",
        "us",
        busy,
        (Row("line", "unirun", None), Row("record", "unirun", None)),
        sizes={"calls": 20000},
        quick={"calls": 100},
        brief={"calls": 4000},
    ),
)
