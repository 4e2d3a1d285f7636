"""Many small calls, one call, and maps of tiny items: what a call costs beside its work."""

import resource
import statistics
import time
from collections.abc import Sequence

from benchmarks._peers import ENGINES, Pool, open_pool
from benchmarks._tasks import nothing
from benchmarks._workload import Figures, Row, Sizes, Workload

WORKERS = 2


def submit(contender: str, sizes: Sizes) -> Figures:
    with open_pool(contender, WORKERS) as pool:
        return {"": gather_time(pool, sizes, calls_of(contender, sizes))}


def calls_of(contender: str, sizes: Sizes) -> int:
    """Fewer where a call goes by the scheduler of a cluster: a few are enough for a mean."""
    return sizes["engine calls" if contender in ENGINES else "calls"]


def gather_time(pool: Pool, sizes: Sizes, calls: int) -> float:
    """Seconds per call, from the first submit to the last result."""
    items = range(calls)
    pool.gather(nothing, range(min(sizes["warm"], calls)))
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
        return {"": round_trip_time(pool, sizes, sizes["slow" if is_slow(contender) else "calls"])}


def is_slow(contender: str) -> bool:
    """Whether one call takes milliseconds."""
    return contender == "joblib" or contender in ENGINES


def round_trip_time(pool: Pool, sizes: Sizes, calls: int) -> float:
    """Median seconds from submit to result, one call at a time."""
    for n in range(min(sizes["warm"], calls)):
        pool.call(nothing, n)
    taken = []
    for n in range(calls):
        start = time.perf_counter()
        pool.call(nothing, n)
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def map_tiny(contender: str, sizes: Sizes) -> Figures:
    count = sizes["items" if contender in IN_CHUNKS else "items one by one"]
    with open_pool(contender, WORKERS) as pool:
        pool.map(nothing, range(min(sizes["warm"], count)))
        return {
            "range": _map_time(pool, range(count)),
            "list": _map_time(pool, list(range(count))),
        }


IN_CHUNKS = ("unirun", "ppe-chunks", "mp-pool")
"""Whose maps bundle tiny items; of the others fewer are enough to know the time per item."""


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
            Row("", "unirun", "ppe-spawn"),
            Row("", "unirun", "ppe-forkserver"),
            Row("", "unirun", "mp-pool", 6),
            Row("", "unirun", "loky", 20),
            Row("", "unirun", "joblib"),
            Row("", "unirun", "pebble", 12),
            Row("", "unirun", "mpire"),
            Row("", "unirun", "dask"),
            Row("", "unirun", "ray"),
        ),
        sizes={"calls": 20_000, "engine calls": 1000, "warm": 1000},
        quick={"calls": 200, "engine calls": 20, "warm": 10},
        brief={"calls": 5000, "warm": 500},
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
        (
            Row("", "unirun", "ppe-fork", 4),
            Row("", "unirun", "ppe-spawn"),
            Row("", "unirun", "ppe-forkserver"),
            Row("", "unirun", "mp-pool", 2),
            Row("", "unirun", "loky"),
            Row("", "unirun", "joblib"),
            Row("", "unirun", "pebble"),
            Row("", "unirun", "mpire"),
            Row("", "unirun", "dask"),
            Row("", "unirun", "ray"),
        ),
        sizes={"calls": 2000, "slow": 200, "warm": 200},
        quick={"calls": 50, "slow": 5, "warm": 5},
        brief={"calls": 1000, "slow": 30},
    ),
    Workload(
        "map",
        "map of 400k tiny items, per item",
        "us",
        map_tiny,
        (
            Row("range", "unirun", "mp-pool", 1.5),
            Row("list", "unirun", "mp-pool", 1.1),
            Row("range", "unirun", "ppe-chunks"),
            Row("range", "unirun", "ppe-fork"),
            Row("range", "unirun", "loky"),
            Row("range", "unirun", "joblib"),
            Row("range", "unirun", "pebble"),
            Row("range", "unirun", "mpire"),
            Row("range", "unirun", "dask"),
            Row("range", "unirun", "ray"),
        ),
        sizes={"items": 400_000, "items one by one": 5000, "warm": 20_000},
        quick={"items": 2000, "items one by one": 50, "warm": 100},
        brief={"items": 100_000, "items one by one": 2000},
    ),
)
