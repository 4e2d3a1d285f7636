"""What `executor.on` costs: calls with a callback for each end, and without, in turns.

Pairs in one process, as for a trace: what changes from process to process is more than that.
"""

import statistics
import time
from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import unirun
from benchmarks._tasks import nothing
from benchmarks._workload import Figures, Row, Sizes, Workload

KINDS = {"process": "cpu", "thread": "io"}
LONG = 0.001
"""Seconds that the calls take which are not empty."""


def cost(contender: str, sizes: Sizes) -> Figures:
    """Time of a batch of calls with a callback for each end over that without one."""
    found: Figures = {}
    with unirun.Executor(2) as executor:
        for backend, kind in KINDS.items():
            view = executor.options(kind=kind)
            for key, work, value in (("1 ms", time.sleep, LONG), ("nothing", nothing, 0)):
                batch = partial(_seconds, view, work, value, sizes[key])
                batch()  # all workers are there
                ratios = [_ratio(executor, batch, turn % 2 == 0) for turn in range(sizes["pairs"])]
                found[f"{backend} {key}"] = statistics.median(ratios)
    return found


def _seconds(view: Executor, work: Callable[[float], object], value: float, count: int) -> float:
    start = time.perf_counter()
    for future in [view.submit(work, value) for _ in range(count)]:
        future.result()
    return time.perf_counter() - start


def _ratio(executor: unirun.Executor, batch: Callable[[], float], first: bool) -> float:
    """Of the time of a batch that is watched to one that is not, which comes first or second."""
    taken = {}
    for watched in (first, not first):
        with _watched(executor) if watched else nullcontext():
            taken[watched] = batch()
    return taken[True] / taken[False]


def _watched(executor: unirun.Executor) -> AbstractContextManager[object]:
    return executor.on("ended", lambda event: None)


WORKLOADS = (
    Workload(
        "events-cost",
        "batches of calls of 1 ms, and of empty ones, with a callback for each end over the same "
        "without",
        "",
        cost,
        (
            Row("process 1 ms", "unirun", None, at_most=1.05),
            Row("thread 1 ms", "unirun", None, at_most=1.05),
            Row("process nothing", "unirun", None),
            Row("thread nothing", "unirun", None),
        ),
        sizes={"1 ms": 200, "nothing": 2000, "pairs": 11},
        quick={"1 ms": 20, "nothing": 200, "pairs": 2},
        brief={"1 ms": 100, "nothing": 1000, "pairs": 5},
    ),
)
