"""How near `kind="auto"` comes to the best backend that could have been chosen by hand.

    python -m benchmarks.auto [NAME ...]      # a table of all four, in microseconds for each call

Within one process all four take turns, batch by batch, after auto had time to learn.  Of each the
fastest batch counts: what else the machine does only ever makes one slower.
"""

import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from benchmarks._auto_tasks import TASKS
from benchmarks._peers import Absent
from benchmarks._workload import Figures, Row, Sizes, Workload

WORKERS = 2
FIXED = ("inline", "thread", "process")
CLOSE = 1 / 0.9  # of the best: that many times its time, at most


def gather(executor: Any, fn: Any, items: list[Any]) -> None:
    for future in [executor.submit(fn, item) for item in items]:
        future.result()


def mapped(executor: Any, fn: Any, items: list[Any]) -> None:
    for _ in executor.map(fn, items):
        pass


WAYS: dict[str, Callable[[Any, Any, list[Any]], None]] = {"submit": gather, "map": mapped}


def auto_submit(contender: str, sizes: Sizes) -> Figures:
    """For each function, the time with auto over that with the best fixed backend."""
    return _all_of("submit", contender, sizes)


def auto_map(contender: str, sizes: Sizes) -> Figures:
    return _all_of("map", contender, sizes)


def _all_of(way: str, contender: str, sizes: Sizes) -> Figures:
    if contender != "unirun":
        raise Absent("only unirun has kinds")
    names = list(TASKS)[: sizes["tasks"] or None]
    return {name: over_best(measured(name, way, sizes)) for name in names}


def over_best(times: dict[str, float]) -> float:
    return times["auto"] / min(times[name] for name in FIXED)


def measured(name: str, way: str, sizes: Sizes) -> dict[str, float]:
    """Backend, or "auto" -> seconds for each call."""
    import unirun

    fn, argument, count = TASKS[name]
    run = WAYS[way]
    items = [argument] * max(4, count // sizes["part"])
    with ExitStack() as stack:
        executors: dict[str, Any] = {"auto": stack.enter_context(unirun.Executor(WORKERS))}
        for backend in FIXED:
            executors[backend] = stack.enter_context(unirun.Executor(WORKERS, backend=backend))
        _warm(executors, run, fn, items, sizes["warm"])
        found: dict[str, float] = {}
        for _ in range(sizes["turns"]):
            for each, executor in executors.items():
                start = time.perf_counter()
                run(executor, fn, items)
                took = (time.perf_counter() - start) / len(items)
                found[each] = min(took, found.get(each, took))
        return found


def _warm(executors: dict[str, Any], run: Any, fn: Any, items: list[Any], seconds: float) -> None:
    for name, executor in executors.items():
        end = time.monotonic() + seconds * (1 if name == "auto" else 0.2) / 1000
        while time.monotonic() < end:
            run(executor, fn, items)


SIZES = {"part": 1, "warm": 1500, "turns": 9, "tasks": 0}
QUICK = {"part": 20, "warm": 1, "turns": 1, "tasks": 3}

WORKLOADS = tuple(
    Workload(
        f"auto-{way}",
        "time of kind='auto' over that of the best of inline, thread and process",
        "",
        measure,
        tuple(Row(name, "unirun", None, at_most=CLOSE) for name in TASKS),
        sizes=SIZES,
        quick=QUICK,
        brief={"part": 3, "warm": 500, "turns": 3},
        needs=("numpy",),
    )
    for way, measure in (("submit", auto_submit), ("map", auto_map))
)


def main(names: list[str]) -> None:
    import unirun

    columns = ("auto", *FIXED)
    print(f"{'':<20}" + "".join(f"{each:>12}" for each in (*columns, "best/auto")))
    for name in names or TASKS:
        unirun.profile.clear()
        for way in WAYS:
            times = measured(name, way, SIZES)
            shown = "".join(f"{times[each] * 1e6:>12,.1f}" for each in columns)
            [known] = unirun.profile.functions().values()
            where = known["calls_on" if way == "submit" else "maps_on"]
            more = f"gil {known['gil_share']}, {known['reason']}"
            ratio = 1 / over_best(times)
            print(f"{name + ' ' + way:<20}{shown}{ratio:>12.2f}  {where}; {more}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
