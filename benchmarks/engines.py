"""Beside engines of clusters on this machine: all in one process, for they are slow to start."""

import time

from benchmarks import calls, payloads
from benchmarks._peers import open_pool
from benchmarks._tasks import nothing
from benchmarks._workload import Figures, Row, Sizes, Workload

KEYS = ("start", "submit", "latency", "map", "16 MiB one way")


def measure(contender: str, sizes: Sizes) -> Figures:
    import numpy as np

    start = time.perf_counter()
    with open_pool(contender, 2) as pool:
        found = {"start": time.perf_counter() - start}
        found["submit"] = calls.gather_time(pool, sizes, sizes["calls"])
        found["latency"] = calls.round_trip_time(pool, sizes, sizes["alone"])
        begun = time.perf_counter()
        assert len(pool.map(nothing, range(sizes["calls"]))) == sizes["calls"]
        found["map"] = (time.perf_counter() - begun) / sizes["calls"]
        data = np.full(16 << 20, 7, np.uint8)
        found["16 MiB one way"] = payloads.median(pool, payloads.ends, data, sizes["repeats"])
    return found


WORKLOADS = (
    Workload(
        "engines",
        "two workers on this machine: until they are there, and then per call",
        "ms",
        measure,
        tuple(Row(key, "unirun", peer) for key in KEYS for peer in ("dask", "ray")),
        sizes={"calls": 1000, "alone": 50, "repeats": 5, "warm": 20},
        quick={"calls": 20, "alone": 2, "repeats": 1, "warm": 2},
        brief={"calls": 500, "alone": 30, "repeats": 3},
        needs=("numpy",),
    ),
)
