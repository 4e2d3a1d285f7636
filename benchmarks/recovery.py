"""A worker dies by itself: how long until the next result, and who else has to suffer."""

import os
import statistics
import time
from collections.abc import Callable
from typing import Any

from benchmarks._adapters import Absent, Pool, abandoned
from benchmarks._peers import ENGINES, make_pool
from benchmarks._tasks import die, nap, nothing, pid_after
from benchmarks._workload import Figures, Row, Sizes, Workload
from benchmarks.lifecycle import gate

BROKEN = (Exception,)
"""Whatever a broken pool raises: each has a type of its own, one none but a TimeoutError."""


class Renewed:
    """A pool and, when it is broken, another in its place: what its user would have to do."""

    def __init__(self, contender: str, workers: int) -> None:
        self.make: Callable[[], Pool] = lambda: make_pool(contender, workers)
        self.pool = self.make()
        if not self.pool.has_futures:
            self.pool.close()
            raise Absent(f"{contender} returns when all calls have ended")
        # A worker of an engine is started again by a nanny, which takes its time.
        self.patience = 30.0 if contender in ENGINES else 2.0
        self.pool.gather(pid_after, [0.02] * 2 * workers)

    def result(self) -> int:
        """Of a call that is submitted now, and again after what broke was left."""
        try:
            return self._call()
        except BROKEN:
            abandoned.append(self.pool)
            self.pool.leave()
            self.pool = self.make()
        return self._call()

    def _call(self) -> int:
        found: int = self.pool.outcome(self.pool.begin(nothing, 1), self.patience)
        return found

    def close(self) -> None:
        if abandoned or not self.pool.ends_after_a_crash:
            abandoned.append(self.pool)  # nobody waits for anything any more
        else:
            self.pool.close()


def recovery(contender: str, sizes: Sizes) -> Figures:
    """Seconds from the end of a worker to the result of a call submitted at that moment."""
    taken = []
    renewed = Renewed(contender, 1)
    with gate() as (fifo, opened):
        for _ in range(sizes["crashes"]):
            renewed.pool.begin(die, fifo)
            assert os.read(opened, 1) == b"."
            start = time.perf_counter()
            assert renewed.result() == 1
            taken.append(time.perf_counter() - start)
    renewed.close()
    return {"": statistics.median(taken)}


def losses(contender: str, sizes: Sizes) -> Figures:
    """Of calls on two workers, one of which dies: who fails though it did nothing."""
    renewed = Renewed(contender, 2)
    pool, count = renewed.pool, sizes["neighbours"]
    with gate() as (fifo, opened):
        begun = [pool.begin(nap, sizes["nap_ms"] / 1000)]
        victim = pool.begin(die, fifo)
        assert os.read(opened, 1) == b"."
        begun += _begun(pool, count - 1, sizes)
        lost = sum(not _has_value(pool, each, renewed.patience) for each in begun)
        lost += count - len(begun)  # not even taken
        endless = _is_endless(pool, victim, renewed.patience)
    if lost or endless:
        abandoned.append(pool)
    renewed.close()
    return {"neighbours": float(lost), "calls without an end": float(endless)}


def _begun(pool: Pool, count: int, sizes: Sizes) -> list[Any]:
    begun: list[Any] = []
    try:
        for _ in range(count):
            begun.append(pool.begin(nap, sizes["nap_ms"] / 1000))  # noqa: PERF401 - those before count
    except BROKEN:
        pass  # it takes no more: those not begun are counted as lost
    return begun


def _has_value(pool: Pool, begun: Any, patience: float) -> bool:
    try:
        pool.outcome(begun, patience)
    except BROKEN:
        return False
    return True


def _is_endless(pool: Pool, begun: Any, patience: float) -> bool:
    try:
        pool.outcome(begun, patience)
    except TimeoutError:
        return True
    except BROKEN:
        return False
    return False


PEERS = ("ppe-fork", "ppe-spawn", "mp-pool", "loky", "joblib", "pebble", "mpire", "dask", "ray")

WORKLOADS = (
    Workload(
        "recovery",
        "from the end of a worker to the result of a call that is submitted then; on a new pool "
        "where the old one is broken",
        "ms",
        recovery,
        tuple(Row("", "unirun", peer) for peer in PEERS),
        sizes={"crashes": 5},
        quick={"crashes": 1},
        brief={"crashes": 3},
    ),
    Workload(
        "losses",
        "a worker dies among 20 calls: how many of the others fail, and does its own call end?",
        "",
        losses,
        tuple(
            Row(key, "unirun", peer, at_most=0)
            for key in ("neighbours", "calls without an end")
            for peer in PEERS
        ),
        sizes={"neighbours": 20, "nap_ms": 20},
        quick={"neighbours": 4, "nap_ms": 5},
    ),
)
