"""What a pool costs to start, to refill after a kill, and to keep."""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks._peers import Absent, Pool, open_pool
from benchmarks._tasks import block, nothing, pid_after
from benchmarks._workload import Figures, Row, Sizes, Workload

# -- start-up -------------------------------------------------------------------------------------

OUR_START = """
import os, unirun
executor = unirun.Executor(2, backend="process")
assert executor.submit(pow, 2, 3).result() == 8
os.write(1, b".")
executor.shutdown()
"""
PEER_START = """
import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
executor = ProcessPoolExecutor(2, mp_context=get_context({method!r}))
assert executor.submit(pow, 2, 3).result() == 8
os.write(1, b".")
executor.shutdown()
"""


def startup(contender: str, sizes: Sizes) -> Figures:
    program = PEER_START.format(method=contender.removeprefix("ppe-"))
    program = OUR_START if contender == "unirun" else program
    return {"": statistics.median(_time_to_dot(program) for _ in range(sizes["starts"]))}


def _time_to_dot(program: str) -> float:
    """Seconds from starting an interpreter to its first byte on stdout."""
    # In an empty directory, so that no sources lie where the interpreter looks first.
    with tempfile.TemporaryDirectory() as directory:
        command = [sys.executable, "-P", "-c", program]
        start = time.perf_counter()
        with subprocess.Popen(command, cwd=directory, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            first = os.read(process.stdout.fileno(), 1)
            took = time.perf_counter() - start
        if first != b"." or process.returncode:
            raise RuntimeError(f"the program ended with {process.returncode}, said {first!r}")
    return took


# -- kill -----------------------------------------------------------------------------------------


def kill(contender: str, sizes: Sizes) -> Figures:
    """Seconds from the kill of a running call to the result of the next one in its place.

    A pool of ours keeps a worker in reserve once a call was killed, so the first kill in a pool
    and the later ones are two things.
    """
    first, later = [], []
    for _ in range(sizes["pools"]):
        with open_pool(contender, 1) as pool, _gate() as (fifo, opened):
            first.append(_time_to_refill(pool, fifo, opened, sizes))
            later += [_time_to_refill(pool, fifo, opened, sizes) for _ in range(sizes["later"])]
    return {"first (re-fork)": statistics.median(first), "later (spare)": statistics.median(later)}


def _time_to_refill(pool: Pool, fifo: str, opened: int, sizes: Sizes) -> float:
    call = pool.begin(block, fifo)
    assert os.read(opened, 1) == b"."  # it runs
    time.sleep(sizes["pause_ms"] / 1000)  # the spare is up
    start = time.perf_counter()
    pool.kill(call)
    assert pool.call(nothing, 1) == 1
    return time.perf_counter() - start


@contextmanager
def _gate() -> Iterator[tuple[str, int]]:
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
        ),
        sizes={"starts": 5},
        quick={"starts": 1},
    ),
    Workload(
        "kill",
        "kill of a running call to the next result in its place",
        "ms",
        kill,
        (
            Row("first (re-fork)", "unirun", "pebble", 10),
            Row("later (spare)", "unirun", "pebble", 25),
        ),
        sizes={"pools": 5, "later": 3, "pause_ms": 200},
        quick={"pools": 1, "later": 1, "pause_ms": 50},
    ),
    Workload(
        "memory",
        "private memory of an idle worker; of all processes started",
        "MiB",
        memory,
        (
            Row("per worker", "unirun", "ppe-spawn", 1),
            Row("all processes", "unirun", "ppe-spawn"),
        ),
        sizes={"calls": 1000, "pause_ms": 300},
        quick={"calls": 10, "pause_ms": 10},
    ),
)
