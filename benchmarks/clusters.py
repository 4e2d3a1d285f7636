"""An engine's own API beside unirun on the same engine: the same workers, taking turns.

In one process, since it is about ratios: a turn of the one, a turn of the other, and the median of
what each pair gives.  Between turns our leases end, so that the engine has its slots for itself.
"""

import os
import signal
import statistics
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from benchmarks._tasks import nap, nothing
from benchmarks._workload import Figures, Row, Sizes, Workload
from unirun import Executor

WORKERS = 2
PATIENCE = 60.0
PAUSE = 0.3
"""Seconds until leases without calls have ended."""

Function = Callable[..., Any]


class Engine(ABC):
    """What its own API does; `attach` names it to unirun."""

    attach: str

    @abstractmethod
    def begin(self, fn: Function, *args: Any) -> Any: ...

    @abstractmethod
    def results(self, begun: Sequence[Any]) -> list[Any]: ...

    @abstractmethod
    def map(self, fn: Function, items: Sequence[Any]) -> list[Any]: ...

    @abstractmethod
    def kill(self, begun: Any) -> None:
        """The nearest to it that there is."""

    def lock_after_death(self) -> float | None:
        """Seconds until a lock is to be had whose holder was killed; None: it has no locks."""
        return None

    def gather(self, fn: Function, items: Sequence[Any]) -> list[Any]:
        return self.results([self.begin(fn, item) for item in items])


class Dask(Engine):
    def __init__(self, client: Any) -> None:
        self._client = client
        self.attach = "dask:" + client.scheduler.address.removeprefix("tcp:")

    def begin(self, fn: Function, *args: Any) -> Any:
        return self._client.submit(fn, *args, pure=False)

    def results(self, begun: Sequence[Any]) -> list[Any]:
        return [future.result() for future in begun]

    def map(self, fn: Function, items: Sequence[Any]) -> list[Any]:
        found: list[Any] = self._client.gather(self._client.map(fn, items, pure=False))
        return found

    def kill(self, begun: Any) -> None:
        begun.cancel(force=True)

    def lock_after_death(self) -> float | None:
        from distributed import Lock

        holder = self.begin(_lock_and_die, "benchmark")
        holder.exception(timeout=PATIENCE)
        start = time.perf_counter()
        lock = Lock("benchmark")
        lock.acquire(timeout=PATIENCE)
        taken = time.perf_counter() - start
        lock.release()
        return taken


def _lock_and_die(name: str) -> None:
    from distributed import Lock

    Lock(name).acquire()
    os.kill(os.getpid(), signal.SIGKILL)


class Ray(Engine):
    def __init__(self, ray: Any) -> None:
        self._ray = ray
        self.attach = f"ray:{ray.get_runtime_context().gcs_address}"
        self._remote: dict[Function, Any] = {}

    def begin(self, fn: Function, *args: Any) -> Any:
        if fn not in self._remote:
            self._remote[fn] = self._ray.remote(max_retries=0)(fn)
        return self._remote[fn].remote(*args)

    def results(self, begun: Sequence[Any]) -> list[Any]:
        found: list[Any] = self._ray.get(list(begun))
        return found

    def map(self, fn: Function, items: Sequence[Any]) -> list[Any]:
        return self.gather(fn, items)

    def kill(self, begun: Any) -> None:
        self._ray.cancel(begun, force=True)


@contextmanager
def _dask() -> Iterator[Engine]:
    import dask
    from distributed import Client, LocalCluster

    quiet = {"distributed.scheduler.allowed-failures": 0, "logging.distributed": "critical"}
    with (
        dask.config.set(quiet),
        LocalCluster(
            n_workers=WORKERS,
            threads_per_worker=1,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
            silence_logs=50,
        ) as cluster,
        Client(cluster) as client,
    ):
        client.wait_for_workers(WORKERS, timeout=PATIENCE)
        yield Dask(client)


@contextmanager
def _ray() -> Iterator[Engine]:
    os.environ |= {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "disabled",
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    }
    import ray

    ray.init(
        num_cpus=WORKERS,
        include_dashboard=False,
        object_store_memory=80 << 20,
        log_to_driver=False,
        logging_level="critical",
        _node_ip_address="127.0.0.1",
    )
    try:
        yield Ray(ray)
    finally:
        ray.shutdown()


# -- what is measured -----------------------------------------------------------------------------


def on_dask(contender: str, sizes: Sizes) -> Figures:
    with _dask() as engine:
        return _measure(engine, sizes)


def on_ray(contender: str, sizes: Sizes) -> Figures:
    with _ray() as engine:
        return _measure(engine, sizes)


def _measure(engine: Engine, sizes: Sizes) -> Figures:
    items, calls, naps = range(sizes["items"]), range(sizes["calls"]), [0.01] * sizes["naps"]
    few = range(sizes["items of the engine"])
    with Executor(backend=engine.attach) as ours:
        _warm(engine, ours)
        found = _pair(
            "map",
            lambda: list(ours.map(nothing, items)),
            lambda: engine.map(nothing, few),
            (len(items), len(few)),
            sizes,
        )
        found |= _pair(
            "call",
            lambda: _gather(ours, nothing, calls),
            lambda: engine.gather(nothing, calls),
            (len(calls), len(calls)),
            sizes,
        )
        found |= _pair(
            "call of 10 ms",
            lambda: _gather(ours, nap, naps),
            lambda: engine.gather(nap, naps),
            (len(naps), len(naps)),
            sizes,
        )
        found |= _pair(
            "alone",
            lambda: [_gather(ours, nothing, [n]) for n in naps],
            lambda: [engine.gather(nothing, [n]) for n in naps],
            (len(naps), len(naps)),
            sizes,
        )
        found |= _kills(engine, ours, sizes["held"] / 1000)
        return found | _locks(engine, ours, sizes)


def _warm(engine: Engine, ours: Executor) -> None:
    for _ in range(2):
        _gather(ours, nap, [0.05] * 2 * WORKERS)
        list(ours.map(nothing, range(1000)))
        time.sleep(PAUSE)
        engine.gather(nap, [0.05] * 2 * WORKERS)


def _gather(ours: Executor, fn: Function, items: Sequence[Any]) -> list[Any]:
    return [future.result() for future in [ours.submit(fn, item) for item in items]]


def _pair(
    key: str,
    ours: Callable[[], Any],
    theirs: Callable[[], Any],
    counts: tuple[int, int],
    sizes: Sizes,
) -> Figures:
    """Seconds for one by either, and the median of the ratios of turns that were side by side."""
    taken: dict[int, list[float]] = {0: [], 1: []}
    for turn in range(sizes["turns"]):
        for side in (0, 1) if turn % 2 else (1, 0):
            start = time.perf_counter()
            (ours, theirs)[side]()
            taken[side].append((time.perf_counter() - start) / counts[side])
            if side == 0:
                time.sleep(PAUSE)
    ratios = [mine / other for mine, other in zip(taken[0], taken[1], strict=True)]
    return {
        key: statistics.median(ratios),
        f"{key}: ms": 1000 * statistics.median(taken[0]),
        f"{key}: ms by itself": 1000 * statistics.median(taken[1]),
    }


def _kills(engine: Engine, ours: Executor, held: float) -> Figures:
    """From the kill of one of the calls that take all slots, until the next call has run."""
    busy: list[Any] = [ours.submit(nap, PATIENCE) for _ in range(WORKERS)]
    while not all(future.running() for future in busy):
        time.sleep(0.005)
    start = time.perf_counter()
    busy[0].kill(grace=0)
    ours.submit(nothing, 1).result(PATIENCE)
    mine = time.perf_counter() - start
    busy[1].kill(grace=0)
    time.sleep(PAUSE)

    busy = [engine.begin(nap, held) for _ in range(WORKERS)]
    time.sleep(min(1.0, held / 2))  # it does not say when they run
    start = time.perf_counter()
    engine.kill(busy[0])
    engine.gather(nothing, [1])
    theirs = time.perf_counter() - start
    engine.kill(busy[1])
    return {"kill: s": mine, "kill: s by itself": theirs}


def _locks(engine: Engine, ours: Executor, sizes: Sizes) -> Figures:
    """From the death of who holds a lock until another one has it."""
    lock = ours.Lock()
    ours.submit(_hold_and_die, lock).exception(PATIENCE)
    start = time.perf_counter()
    lock.acquire(timeout=PATIENCE)
    found = {"lock: s": time.perf_counter() - start}
    lock.release()
    theirs = engine.lock_after_death() if sizes["locks of the engine"] else None
    return found if theirs is None else {**found, "lock: s by itself": theirs}


def _hold_and_die(lock: Any) -> None:
    lock.acquire()
    os.kill(os.getpid(), signal.SIGKILL)


_PAIRS = {"map": 0.05, "call": 1.15, "call of 10 ms": 1.15, "alone": 1.15}
_ROWS = (
    *(Row(key, "unirun", None, at_most=most) for key, most in _PAIRS.items()),
    *(Row(f"{key}: ms{by}", "unirun", None) for key in _PAIRS for by in ("", " by itself")),
    Row("kill: s", "unirun", None, at_most=1.0),
    Row("kill: s by itself", "unirun", None),
    Row("lock: s", "unirun", None, at_most=1.0),
    Row("lock: s by itself", "unirun", None),
)
SIZES: Sizes = {
    "items": 20_000,
    "items of the engine": 200,
    "calls": 100,
    "naps": 20,
    "turns": 5,
    "held": 3000,
    "locks of the engine": 1,
}
QUICK: Sizes = {
    "items": 500,
    "items of the engine": 20,
    "calls": 20,
    "naps": 4,
    "turns": 1,
    "held": 200,
    "locks of the engine": 0,
}
WORKLOADS = tuple(
    Workload(
        f"on-{package}",
        f"unirun on {name}: time over that of {name}'s own API, and seconds of either",
        "",
        measure,
        _ROWS,
        sizes=SIZES,
        quick=QUICK,
        needs=(module,),
    )
    for package, name, module, measure in (
        ("dask", "Dask", "distributed", on_dask),
        ("ray", "Ray", "ray", on_ray),
    )
)
