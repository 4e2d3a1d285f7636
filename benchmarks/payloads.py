"""Large arguments and results: arrays and bytes, one way and there and back."""

import statistics
import time
from collections.abc import Callable
from typing import Any

from benchmarks._peers import Pool, open_pool
from benchmarks._tasks import echo, ends
from benchmarks._workload import Figures, Row, Sizes, Workload

MIB = 1 << 20
WORKERS = 2
PEERS = ("ppe-fork", "mp-pool", "loky", "joblib", "pebble", "mpire", "dask", "ray")


def ndarray(contender: str, sizes: Sizes) -> Figures:
    import numpy as np

    return _transfers(contender, sizes, lambda size: np.full(size, 7, np.uint8))


def plain_bytes(contender: str, sizes: Sizes) -> Figures:
    return _transfers(contender, sizes, lambda size: b"\7" * size)


def _transfers(contender: str, sizes: Sizes, make: Callable[[int], Any]) -> Figures:
    figures = {}
    with open_pool(contender, WORKERS) as pool:
        pool.gather(ends, [make(MIB)] * 4 * WORKERS)  # each worker imports what it needs
        for label, repeats in sizes.items():
            if not repeats:
                continue
            data = make(int(label.split()[0]) * MIB)
            figures[f"{label} one way"] = median(pool, ends, data, repeats)
            figures[f"{label} there and back"] = median(pool, echo, data, repeats)
    return figures


def median(pool: Pool, fn: Callable[..., Any], data: Any, repeats: int) -> float:
    taken = []
    for _ in range(repeats + 2):
        start = time.perf_counter()
        result = pool.call(fn, data)
        taken.append(time.perf_counter() - start)
        found = ends(result) if fn is echo else result
        assert found == (len(data), 7, 7)
        del result  # what holds the memory of one result makes the next one slower
    return statistics.median(taken[2:])  # the first ones pay for memory not touched before


def _rows(labels: list[str], one_way: float, both_ways: float) -> tuple[Row, ...]:
    goals = (("one way", one_way), ("there and back", both_ways))
    return tuple(
        Row(f"{label} {how}", "unirun", peer, goal if peer == "ppe-fork" else None)
        for label in labels
        for how, goal in goals
        for peer in PEERS
    )


ARRAYS = {"1 MiB": 30, "16 MiB": 10, "64 MiB": 5}
BYTES = {"1 MiB": 30, "16 MiB": 10}

WORKLOADS = (
    Workload(
        "ndarray",
        "an array as argument, and as argument and result",
        "ms",
        ndarray,
        _rows(list(ARRAYS), 12, 10),
        sizes=ARRAYS,
        quick={"1 MiB": 2},
        needs=("numpy",),
        brief={"1 MiB": 10, "16 MiB": 5, "64 MiB": 0},
    ),
    Workload(
        "bytes",
        "bytes as argument, and as argument and result",
        "ms",
        plain_bytes,
        _rows(list(BYTES), 4, 5),
        sizes=BYTES,
        quick={"1 MiB": 2},
        brief={"1 MiB": 5, "16 MiB": 3},
    ),
)
