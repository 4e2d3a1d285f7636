"""How the cost of a call changes with the number of calls and of workers; real work as well."""

from __future__ import annotations

import time

from benchmarks._peers import open_pool
from benchmarks._tasks import nothing
from benchmarks._workload import Figures, Row, Sizes, Workload
from benchmarks.jobs import seconds_of, sources

WORKERS = (1, 2, 4, 8, 16)
CALLS = (100, 1000, 10_000, 100_000, 1_000_000)
PEERS = ("ppe-fork", "mp-pool", "loky", "joblib", "pebble")


def by_calls(contender: str, sizes: Sizes) -> Figures:
    """Time per call of so many submitted at once; no more than end within the time allowed."""
    found: Figures = {}
    with open_pool(contender, 2) as pool:
        pool.gather(nothing, range(sizes["warm"]))
        took = 0.0
        for count in CALLS:
            foreseen = took * 10
            if count > sizes["most"] or foreseen > sizes["budget_ms"] / 1000:
                break
            start = time.perf_counter()
            assert len(pool.gather(nothing, range(count))) == count
            took = time.perf_counter() - start
            found[name(count)] = took / count
    return found


def by_workers(contender: str, sizes: Sizes) -> Figures:
    """Time per call of no-ops on so many workers."""
    found: Figures = {}
    for workers in WORKERS:
        if workers > sizes["most"]:
            break
        with open_pool(contender, workers) as pool:
            pool.gather(nothing, range(sizes["warm"]))
            start = time.perf_counter()
            pool.gather(nothing, range(sizes["calls"]))
            found[f"{workers}"] = (time.perf_counter() - start) / sizes["calls"]
    return found


def work(contender: str, sizes: Sizes) -> Figures:
    """Seconds of real work on so many workers: no more than there are cores can help."""
    files = sources()[: sizes["files"]]
    counts = [workers for workers in WORKERS if workers <= sizes["most"]]
    return {f"{workers}": seconds_of(contender, files, workers) for workers in counts}


def name(count: int) -> str:
    return f"{count:,}".replace(",", " ")


def rows(keys: list[str], peers: tuple[str, ...]) -> tuple[Row, ...]:
    return tuple(Row(key, "unirun", peer) for key in keys for peer in peers)


WORKLOADS = (
    Workload(
        "scale-calls",
        "no-ops on two workers, so many submitted at once, per call",
        "us",
        by_calls,
        rows([name(count) for count in CALLS], PEERS),
        sizes={"most": 1_000_000, "budget_ms": 20_000, "warm": 500},
        quick={"most": 1000, "budget_ms": 1000, "warm": 10},
        brief={"budget_ms": 7000},
    ),
    Workload(
        "scale-workers",
        "no-ops on 1 to 16 workers, per call",
        "us",
        by_workers,
        rows([f"{workers}" for workers in WORKERS], PEERS),
        sizes={"most": 16, "calls": 20_000, "warm": 500},
        quick={"most": 2, "calls": 100, "warm": 10},
        brief={"calls": 2000, "warm": 100},
    ),
    Workload(
        "scale-work",
        "parse and compress files of the standard library on 1 to 16 workers",
        "ms",
        work,
        rows([f"{workers}" for workers in WORKERS], ("bare-fork", "ppe-fork", "mp-pool", "loky")),
        sizes={"most": 16, "files": 400},
        quick={"most": 2, "files": 10},
        brief={"files": 60},
    ),
)
