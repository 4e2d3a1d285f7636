"""What it costs to show what a program does: progress, and the monitor that `unirun top` asks.

Pairs in one process in turns, as for a trace: what changes from process to process is more.
"""

import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial

import unirun
from benchmarks._adapters import Absent
from benchmarks._tasks import nothing
from benchmarks._workload import Figures, Row, Sizes, Workload

KINDS = {"process": "cpu", "thread": "io"}
LONG = 0.001
"""Seconds that the calls take which are not empty."""

Batch = Callable[[bool], None]


def report(seconds: float) -> None:
    """As a task does that tells how far it is, ten times."""
    task = unirun.current_task()
    for part in range(10):
        task.report(part, 10)
        time.sleep(seconds / 10)


def keep_quiet(seconds: float) -> None:
    for _ in range(10):
        time.sleep(seconds / 10)


def progress(contender: str, sizes: Sizes) -> Figures:
    """Time of a map with `progress=`, and of calls that report, over that without."""
    found: Figures = {}
    with unirun.Executor(2) as executor:
        for backend, kind in KINDS.items():
            view = executor.options(kind=kind)
            for key, fn, value in (("1 ms", time.sleep, LONG), ("nothing", nothing, 0)):
                batch = partial(_map, view, fn, [value] * sizes[key])
                found[f"{backend} map {key}"] = ratio(batch, sizes)
            batch = partial(_reports, view, sizes["1 ms"] // 10)
            found[f"{backend} report"] = ratio(batch, sizes)
    return found


def _map(
    view: unirun.Executor, fn: Callable[[float], object], items: list[float], on: bool
) -> None:
    shown = (lambda done, total: None) if on else None
    for _ in view.map(fn, items, **({"progress": shown} if on else {})):  # type: ignore[arg-type]
        pass


def _reports(view: unirun.Executor, calls: int, on: bool) -> None:
    work = report if on else keep_quiet
    for future in [view.submit(work, 10 * LONG) for _ in range(calls)]:
        future.result()


def monitor(contender: str, sizes: Sizes) -> Figures:
    """Time of calls of a program that can be watched, though nobody does, over that without."""
    if sys.platform != "linux":
        raise Absent("a program can be watched on Linux only")
    found: Figures = {}
    with unirun.Executor(2) as executor:
        for backend, kind in KINDS.items():
            view = executor.options(kind=kind)
            for key, fn, value in (("1 ms", time.sleep, LONG), ("nothing", nothing, 0)):
                batch = partial(_submit, view, fn, value, sizes[key])
                found[f"{backend} {key}"] = ratio(batch, sizes)
    return found


def _submit(
    view: unirun.Executor, fn: Callable[[float], object], value: float, calls: int, on: bool
) -> None:
    with _watchable() if on else nullcontext():
        for future in [view.submit(fn, value) for _ in range(calls)]:
            future.result()


@contextmanager
def _watchable() -> Iterator[None]:
    from unirun._monitor import disable_monitor

    unirun.enable_monitor()
    try:
        yield
    finally:
        disable_monitor()


def ratio(batch: Batch, sizes: Sizes) -> float:
    """Median of time with over time without; who is first changes."""
    batch(True), batch(False)  # all workers are there, all is imported
    ratios = []
    for n in range(sizes["pairs"]):
        taken = {}
        for on in (True, False) if n % 2 else (False, True):
            start = time.perf_counter()
            batch(on)
            taken[on] = time.perf_counter() - start
        ratios.append(taken[True] / taken[False])
    return statistics.median(ratios)


SIZES: Sizes = {"1 ms": 200, "nothing": 2000, "pairs": 11}
QUICK: Sizes = {"1 ms": 20, "nothing": 50, "pairs": 1}
BRIEF: Sizes = {"1 ms": 100, "nothing": 1000, "pairs": 5}

WORKLOADS = (
    Workload(
        "progress-cost",
        "maps with a callable for their progress, and calls of 10 ms that report ten times, over "
        "the same without",
        "",
        progress,
        (
            Row("process map 1 ms", "unirun", None, at_most=1.05),
            Row("thread map 1 ms", "unirun", None, at_most=1.05),
            Row("process map nothing", "unirun", None),
            Row("thread map nothing", "unirun", None),
            Row("process report", "unirun", None, at_most=1.05),
            Row("thread report", "unirun", None, at_most=1.05),
        ),
        sizes=SIZES,
        quick=QUICK,
        brief=BRIEF,
    ),
    Workload(
        "monitor-cost",
        "calls of 1 ms, and empty ones, of a program that can be watched over one that cannot",
        "",
        monitor,
        (
            Row("process 1 ms", "unirun", None, at_most=1.03),
            Row("thread 1 ms", "unirun", None, at_most=1.03),
            Row("process nothing", "unirun", None, at_most=1.1),
            Row("thread nothing", "unirun", None, at_most=1.1),
        ),
        sizes=SIZES,
        quick=QUICK,
        brief=BRIEF,
    ),
)
