"""The contenders: each pool behind the same few methods, each opened by its name."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

from benchmarks import _adapters
from benchmarks._adapters import Absent, Pool
from benchmarks._tasks import pid_after

__all__ = ["Absent", "Pool", "is_installed", "open_pool"]

OURS = ("unirun", "unirun-thread")
STANDARD = ("ppe-fork", "ppe-spawn", "ppe-forkserver", "mp-pool")
PACKAGES = {
    "loky": "loky",
    "joblib": "joblib",
    "pebble": "pebble",
    "mpire": "mpire",
    "dask": "distributed",
    "ray": "ray",
}
"""Peers that have to be installed, and the package that each needs."""
PROCESS_POOLS = (*STANDARD, *PACKAGES)
ENGINES = ("dask", "ray")
"""Made for clusters: a call goes by a scheduler."""
SHARERS = ("manager", "mp", "stdlib")
"""Not pools: multiprocessing.Manager(), its own objects, and those of threading and queue."""
IN_LOOPS = ("wrap_future", "wrap_future-thread", "asyncio")
"""What asyncio itself does: with our futures, and with coroutines."""
PEERS = (*PROCESS_POOLS, "ppe-chunks", "tpe", "bare-fork", "bare-process", *SHARERS, *IN_LOOPS)


def is_installed(name: str) -> bool:
    return name not in PACKAGES or find_spec(PACKAGES[name]) is not None


@contextmanager
def open_pool(name: str, workers: int) -> Iterator[Pool]:
    """The contender called `name`, with all its workers up."""
    pool = make_pool(name, workers)
    try:
        pool.gather(pid_after, [0.02] * 2 * workers)
        yield pool
    finally:
        pool.close()


def make_pool(name: str, workers: int) -> Pool:
    """The contender called `name`, as it is when it has just been made."""
    if name in OURS:
        return _adapters.Ours(_our_executor(name, workers))
    if name in MAKERS:
        return MAKERS[name](workers)
    return Pool(_executor(name, workers))


def _our_executor(name: str, workers: int) -> Any:
    import unirun

    return unirun.Executor(workers, backend="thread" if name == "unirun-thread" else "process")


def _executor(name: str, workers: int) -> Any:
    if name == "loky":
        import loky

        return loky.ProcessPoolExecutor(workers)
    import concurrent.futures

    if name == "tpe":
        return concurrent.futures.ThreadPoolExecutor(workers)
    method = multiprocessing.get_context(name.removeprefix("ppe-"))
    return concurrent.futures.ProcessPoolExecutor(workers, mp_context=method)


# -- those with methods of their own --------------------------------------------------------------


def _chunks(workers: int) -> Pool:
    return _adapters.Chunked(_executor("ppe-fork", workers), workers)


def _mp_pool(workers: int) -> Pool:
    return _adapters.MultiprocessingPool(multiprocessing.get_context("fork").Pool(workers))


def _pebble(workers: int) -> Pool:
    import pebble

    return _adapters.PebblePool(pebble.ProcessPool(max_workers=workers))


def _mpire(workers: int) -> Pool:
    import mpire

    return _adapters.MpirePool(mpire.WorkerPool(workers, keep_alive=True))


def _joblib(workers: int) -> Pool:
    import joblib

    return _adapters.JoblibPool(joblib.Parallel(workers).__enter__())  # `close` leaves it


def _dask(workers: int) -> Pool:
    import distributed

    cluster = distributed.LocalCluster(
        n_workers=workers, threads_per_worker=1, processes=True, dashboard_address=None
    )
    return _adapters.DaskPool(distributed.Client(cluster))


def _ray(workers: int) -> Pool:
    # What every machine has to be told that is no cluster: keep to yourself, tell nobody.
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    os.environ["RAY_AUTH_MODE"] = "token"
    os.environ["RAY_AUTH_TOKEN"] = os.urandom(32).hex()
    import ray

    ray.init(
        address="local",
        num_cpus=workers,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=512 << 20,
        runtime_env={"env_vars": {"PYTHONPATH": os.path.dirname(os.path.dirname(__file__))}},  # noqa: PTH120 - a worker of a spawning pool imports this
    )
    return _adapters.RayPool(ray)


MAKERS = {
    "ppe-chunks": _chunks,
    "mp-pool": _mp_pool,
    "pebble": _pebble,
    "mpire": _mpire,
    "joblib": _joblib,
    "dask": _dask,
    "ray": _ray,
}
