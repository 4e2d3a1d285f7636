"""What a pool costs to start, to refill after a kill, and to keep."""

import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from textwrap import indent

from benchmarks._peers import PROCESS_POOLS, Absent, Pool, open_pool
from benchmarks._tasks import block, nothing, pid_after
from benchmarks._workload import Figures, Row, Sizes, Workload

# -- start-up -------------------------------------------------------------------------------------

PPE = """
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
executor = ProcessPoolExecutor(2, mp_context=get_context({method!r}))
call = lambda: executor.submit(pow, 2, 3).result()
end = executor.shutdown
"""
STARTS = {
    "unirun": """
import unirun
executor = unirun.Executor(2, backend="process")
call = lambda: executor.submit(pow, 2, 3).result()
end = executor.shutdown
""",
    "ppe-fork": PPE.format(method="fork"),
    "ppe-spawn": PPE.format(method="spawn"),
    "ppe-forkserver": PPE.format(method="forkserver"),
    "mp-pool": """
from multiprocessing import get_context
pool = get_context("fork").Pool(2)
call = lambda: pool.apply(pow, (2, 3))
end = pool.terminate
""",
    "loky": """
import loky
executor = loky.ProcessPoolExecutor(2)
call = lambda: executor.submit(pow, 2, 3).result()
end = executor.shutdown
""",
    "joblib": """
import joblib
call = lambda: joblib.Parallel(2)([joblib.delayed(pow)(2, 3)])[0]
end = lambda: None
""",
    "pebble": """
import pebble
pool = pebble.ProcessPool(max_workers=2)
call = lambda: pool.schedule(pow, args=(2, 3)).result()
end = lambda: (pool.close(), pool.join())
""",
    "mpire": """
import mpire
pool = mpire.WorkerPool(2)
call = lambda: pool.apply(pow, (2, 3))
end = pool.terminate
""",
    "dask": """
import distributed
client = distributed.Client(
    n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
)
call = lambda: client.submit(pow, 2, 3).result()
end = client.shutdown
""",
    "ray": """
import ray
ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
call = lambda: ray.get(ray.remote(lambda: 2**3).remote())
end = ray.shutdown
""",
}
# The guard is for those who run the program again in their workers.
PROGRAM = """
import os
if __name__ == "__main__":
{start}
    assert call() == 8
    os.write(1, b".")
    end()
"""


QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": "0" * 64,
}


def startup(contender: str, sizes: Sizes) -> Figures:
    program = PROGRAM.format(start=indent(STARTS[contender], "    "))
    return {"": statistics.median(_time_to_dot(program) for _ in range(sizes["starts"]))}


def _time_to_dot(program: str) -> float:
    """Seconds from starting an interpreter to its first byte on stdout."""
    # In an empty directory, so that no sources lie where the interpreter looks first.
    with tempfile.TemporaryDirectory() as directory:
        command = [sys.executable, "-P", "-c", program]
        settings = {**os.environ, **QUIET}
        start = time.perf_counter()
        with subprocess.Popen(
            command, cwd=directory, env=settings, stdout=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            first = os.read(process.stdout.fileno(), 1)
            took = time.perf_counter() - start
        if first != b"." or process.returncode:
            raise RuntimeError(f"the program ended with {process.returncode}, said {first!r}")
    return took


# -- kill -----------------------------------------------------------------------------------------


def kill(contender: str, sizes: Sizes) -> Figures:
    """Seconds from the kill of a running call to the result of the next one in its place.

    `bare-process` is what it takes at least: to end a process and to start another.

    A pool of ours keeps a worker in reserve once a call was killed, so the first kill in a pool
    and the later ones are two things.
    """
    if contender == "bare-process":
        return {"first (re-fork)": _time_of_another_process(sizes)}
    first, later = [], []
    for _ in range(sizes["pools"]):
        with open_pool(contender, 1) as pool, gate() as (fifo, opened):
            first.append(_time_to_refill(pool, fifo, opened, sizes))
            later += [_time_to_refill(pool, fifo, opened, sizes) for _ in range(sizes["later"])]
    return {"first (re-fork)": statistics.median(first), "later (spare)": statistics.median(later)}


def _time_of_another_process(sizes: Sizes) -> float:
    context = multiprocessing.get_context("fork")
    taken = []
    with gate() as (fifo, opened):
        for _ in range(sizes["pools"] * sizes["later"]):
            running = context.Process(target=block, args=(fifo,))
            running.start()
            assert os.read(opened, 1) == b"."
            start = time.perf_counter()
            running.kill()
            running.join()
            reader, writer = context.Pipe(duplex=False)
            another = context.Process(target=writer.send, args=(1,))
            another.start()
            assert reader.recv() == 1
            taken.append(time.perf_counter() - start)
            another.join()
            reader.close()
            writer.close()
    return statistics.median(taken)


def _time_to_refill(pool: Pool, fifo: str, opened: int, sizes: Sizes) -> float:
    call = pool.begin(block, fifo)
    assert os.read(opened, 1) == b"."  # it runs
    time.sleep(sizes["pause_ms"] / 1000)  # the spare is up
    start = time.perf_counter()
    pool.kill(call)
    assert pool.call(nothing, 1) == 1
    return time.perf_counter() - start


@contextmanager
def gate() -> Iterator[tuple[str, int]]:
    """A named pipe that a worker can open, and our end of it."""
    with tempfile.TemporaryDirectory() as directory:
        fifo = f"{directory}/gate"
        os.mkfifo(fifo)
        opened = os.open(fifo, os.O_RDWR)  # for writing too: no end of file between two calls
        try:
            yield fifo, opened
        finally:
            os.close(opened)


# -- memory ---------------------------------------------------------------------------------------


def memory(contender: str, sizes: Sizes) -> Figures:
    """Private bytes of one idle worker, and of all processes that the pool has started."""
    if not Path("/proc/self/smaps_rollup").exists():
        raise Absent("this system does not tell the private memory of a process")
    with open_pool(contender, 2) as pool:
        pids = set(pool.gather(pid_after, [0.05] * 8))
        pool.gather(nothing, range(sizes["calls"]))
        # What the pool still had to send or to end is sent and ended.
        time.sleep(sizes["pause_ms"] / 1000)
        return {
            "per worker": statistics.mean(private_memory(pid) for pid in pids),
            "all processes": sum(private_memory(pid) for pid in descendants(os.getpid())),
        }


def private_memory(pid: int) -> int:
    """Bytes of `pid` that no other process shares."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))


def descendants(pid: int) -> set[int]:
    """The children of `pid` and theirs."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it has just ended
        parents[int(stat.parent.name)] = int(fields[1])
    found: set[int] = set()
    new = {pid}
    while new:
        new = {child for child, parent in parents.items() if parent in new} - found
        found |= new
    return found


WORKLOADS = (
    Workload(
        "startup",
        "fresh interpreter to the first result, imports included",
        "ms",
        startup,
        (
            Row("", "unirun", "ppe-fork", 1.25),
            Row("", "unirun", "ppe-spawn", 3),
            Row("", "unirun", "ppe-forkserver", 3),
            Row("", "unirun", "mp-pool"),
            Row("", "unirun", "loky"),
            Row("", "unirun", "joblib"),
            Row("", "unirun", "pebble"),
            Row("", "unirun", "mpire"),
            Row("", "unirun", "dask"),
            Row("", "unirun", "ray"),
        ),
        sizes={"starts": 5},
        quick={"starts": 1},
        brief={"starts": 2},
    ),
    Workload(
        "kill",
        "kill of a running call to the next result in its place",
        "ms",
        kill,
        (
            Row("first (re-fork)", "unirun", "pebble", 10),
            Row("later (spare)", "unirun", "pebble", 25),
            Row("first (re-fork)", "unirun", "ray"),
            Row("later (spare)", "unirun", "ray"),
            Row("first (re-fork)", "unirun", "bare-process"),
        ),
        sizes={"pools": 5, "later": 3, "pause_ms": 200},
        quick={"pools": 1, "later": 1, "pause_ms": 50},
        brief={"pools": 2, "later": 2},
    ),
    Workload(
        "memory",
        "private memory of an idle worker; of all processes started",
        "MiB",
        memory,
        (
            Row("per worker", "unirun", "ppe-spawn", 1),
            *(Row("per worker", "unirun", peer) for peer in PROCESS_POOLS if peer != "ppe-spawn"),
            *(Row("all processes", "unirun", peer) for peer in PROCESS_POOLS),
        ),
        sizes={"calls": 1000, "pause_ms": 300},
        quick={"calls": 10, "pause_ms": 10},
    ),
)
