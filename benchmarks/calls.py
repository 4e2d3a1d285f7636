"""Many small calls, one call, and maps of tiny items: what a call costs beside its work."""

import resource
import statistics
import time
from collections.abc import Sequence

from benchmarks._peers import Pool, open_pool
from benchmarks._tasks import nothing
from benchmarks._workload import Figures, Row, Sizes, Workload

WORKERS = 2


def submit(contender: str, sizes: Sizes) -> Figures:
    with open_pool(contender, WORKERS) as pool:
        return {"": gather_time(pool, sizes)}


def gather_time(pool: Pool, sizes: Sizes) -> float:
    """Seconds per call, from the first submit to the last result."""
    items = range(sizes["calls"])
    pool.gather(nothing, range(sizes["warm"]))
    start = time.perf_counter()
    results = pool.gather(nothing, items)
    took = time.perf_counter() - start
    assert results == list(items)
    return took / len(items)


def submit_lambda(contender: str, sizes: Sizes) -> Figures:
    items = range(sizes["calls"])
    with open_pool(contender, WORKERS) as pool:
        pool.gather(lambda n: n, range(sizes["warm"]))
        start = time.perf_counter()
        results = pool.gather(lambda n: n, items)
        took = time.perf_counter() - start
    assert results == list(items)
    return {"": took / len(items)}


def cpu(contender: str, sizes: Sizes) -> Figures:
    """Processor time per call of this process and its workers, without their start and end."""
    _cpu_of_a_pool(contender, 0)  # the imports
    idle = statistics.median(_cpu_of_a_pool(contender, 0) for _ in range(sizes["idle"]))
    busy = _cpu_of_a_pool(contender, sizes["calls"])
    return {"": (busy - idle) / sizes["calls"]}


def _cpu_of_a_pool(contender: str, calls: int) -> float:
    before = cpu_time()
    with open_pool(contender, WORKERS) as pool:
        pool.gather(nothing, range(calls))
    return cpu_time() - before


def cpu_time() -> float:
    """Of this process and all that have ended under it; a process counts once it is waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def latency(contender: str, sizes: Sizes) -> Figures:
    with open_pool(contender, WORKERS) as pool:
        return {"": round_trip_time(pool, sizes)}


def round_trip_time(pool: Pool, sizes: Sizes) -> float:
    """Median seconds from submit to result, one call at a time."""
    for n in range(sizes["warm"]):
        pool.call(nothing, n)
    taken = []
    for n in range(sizes["calls"]):
        start = time.perf_counter()
        pool.call(nothing, n)
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def map_tiny(contender: str, sizes: Sizes) -> Figures:
    count = sizes["items"]
    with open_pool(contender, WORKERS) as pool:
        pool.map(nothing, range(sizes["warm"]))
        return {
            "range": _map_time(pool, range(count)),
            "list": _map_time(pool, list(range(count))),
        }


def _map_time(pool: Pool, items: Sequence[int]) -> float:
    start = time.perf_counter()
    results = pool.map(nothing, items)
    took = time.perf_counter() - start
    assert results == list(items)
    return took / len(items)


WORKLOADS = (
    Workload(
        "submit",
        "20k no-ops submitted one by one and gathered, per call",
        "us",
        submit,
        (
            Row("", "unirun", "ppe-fork", 15),
            Row("", "unirun", "mp-pool", 6),
            Row("", "unirun", "loky", 20),
            Row("", "unirun", "pebble", 12),
        ),
        sizes={"calls": 20_000, "warm": 1000},
        quick={"calls": 200, "warm": 10},
    ),
    Workload(
        "submit-lambda",
        "the same with a lambda",
        "us",
        submit_lambda,
        (Row("", "unirun", "loky", 20),),
        sizes={"calls": 20_000, "warm": 1000},
        quick={"calls": 200, "warm": 10},
    ),
    Workload(
        "cpu",
        "processor time per call, parent and workers",
        "us",
        cpu,
        (Row("", "unirun", "ppe-fork", 12),),
        sizes={"calls": 20_000, "idle": 3},
        quick={"calls": 2000, "idle": 1},
    ),
    Workload(
        "latency",
        "one call at a time, submit to result",
        "us",
        latency,
        (Row("", "unirun", "ppe-fork", 4), Row("", "unirun", "mp-pool", 2)),
        sizes={"calls": 2000, "warm": 200},
        quick={"calls": 50, "warm": 5},
    ),
    Workload(
        "map",
        "map of 400k tiny items, per item",
        "us",
        map_tiny,
        (Row("range", "unirun", "mp-pool", 1.5), Row("list", "unirun", "mp-pool", 1.1)),
        sizes={"items": 400_000, "warm": 20_000},
        quick={"items": 2000, "warm": 100},
    ),
)
