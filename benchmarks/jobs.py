"""Whole jobs: how evenly two workers are loaded, and real work against the machine's own limit."""

import os
import sysconfig
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks._peers import PROCESS_POOLS, open_pool
from benchmarks._tasks import digest, nap
from benchmarks._workload import Figures, Row, Sizes, Workload

WORKERS = 2

# -- balance --------------------------------------------------------------------------------------


def balance(contender: str, sizes: Sizes) -> Figures:
    """Makespan over the ideal one: the sum of all durations, shared evenly."""
    return {
        "equal": _makespan_over_ideal(contender, [0.001] * sizes["equal"]),
        "mixed": _makespan_over_ideal(contender, mixed(sizes["long"], sizes["short"])),
    }


def mixed(long: int, short: int) -> list[float]:
    """Calls of 100 ms, each followed by as many of 1 ms."""
    return ([0.1] + [0.001] * (short // long)) * long


def _makespan_over_ideal(contender: str, durations: list[float]) -> float:
    # A fresh pool: it has to find out by itself how long the calls take.
    with open_pool(contender, WORKERS) as pool:
        start = time.perf_counter()
        pool.gather(nap, durations)
        return (time.perf_counter() - start) / (sum(durations) / WORKERS)


# -- real work ------------------------------------------------------------------------------------

SKIPPED = {"site-packages", "test", "tests", "idle_test", "__pycache__"}


def real(contender: str, sizes: Sizes) -> Figures:
    files = sources()[: sizes["files"] or None]
    return {"": seconds_of(contender, files, WORKERS)}


def seconds_of(contender: str, files: list[str], workers: int) -> float:
    work = bare_fork if contender == "bare-fork" else _on_pool
    return work(contender, files, workers)


def sources() -> list[str]:
    """The standard library's modules, without its tests."""
    found = []
    for folder, folders, names in os.walk(sysconfig.get_path("stdlib")):
        folders[:] = set(folders) - SKIPPED
        found += [f"{folder}/{name}" for name in names if name.endswith(".py")]
    return sorted(found)


def _on_pool(contender: str, files: list[str], workers: int) -> float:
    with open_pool(contender, workers) as pool:
        pool.gather(digest, files[:1] * 2 * workers)  # each worker imports what it needs
        start = time.perf_counter()
        results = pool.map(digest, files)
        took = time.perf_counter() - start
    assert len(results) == len(files)
    return took


def bare_fork(_: str, files: list[str], workers: int) -> float:
    """Some forked processes and nothing else: each takes the next largest file from a pipe.

    Reads of four bytes from a full pipe are not torn, so no file is done twice and nobody waits
    for the other: no split made beforehand is more even, whatever else the machine does.
    """
    by_size = sorted(range(len(files)), key=lambda n: -Path(files[n]).stat().st_size)
    digest(files[0])  # the imports
    queue, fill = os.pipe()
    held, start = os.pipe()

    def work() -> None:
        os.close(fill)
        os.close(start)
        os.read(held, 1)
        while number := os.read(queue, 4):
            digest(files[int.from_bytes(number, "big")])

    children = [_fork(work) for _ in range(workers)]
    os.close(held)
    for number in by_size:
        os.write(fill, number.to_bytes(4, "big"))
    os.close(fill)
    began = time.perf_counter()
    os.close(start)  # end of file: both go
    for child in children:
        assert os.waitpid(child, 0)[1] == 0
    os.close(queue)
    return time.perf_counter() - began


def _fork(work: Callable[[], None]) -> int:
    if pid := os.fork():
        return pid
    status = 1
    try:
        work()
        status = 0
    finally:
        os._exit(status)


WORKLOADS = (
    Workload(
        "balance",
        "makespan over ideal: 800 calls of 1 ms; 100 ms mixed with 1 ms",
        "",
        balance,
        (
            Row("equal", "unirun", "ppe-fork", at_most=1.4),
            Row("mixed", "unirun", "ppe-fork", at_most=1.25),
        ),
        sizes={"equal": 800, "long": 8, "short": 400},
        quick={"equal": 20, "long": 2, "short": 20},
        brief={"equal": 400, "long": 4, "short": 200},
    ),
    Workload(
        "real",
        "parse and compress the standard library's files",
        "ms",
        real,
        (
            Row("", "unirun", "bare-fork", 0.95),
            *(Row("", "unirun", peer) for peer in PROCESS_POOLS),
        ),
        sizes={"files": 0},
        quick={"files": 10},
        brief={"files": 120},
    ),
)
