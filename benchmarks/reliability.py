"""How soon unirun is done with what went wrong, and what many calls that wait take."""

import gc
import os
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from typing import Any

import psutil

import unirun
from benchmarks import ROOT, _census
from benchmarks._census import holdings
from benchmarks._faults import down, hang, hold_and_hang, take
from benchmarks._tasks import nap
from benchmarks._workload import Figures, Row, Sizes, Workload
from benchmarks.lifecycle import descendants, gate

PATIENCE = 30.0
LEFT_AFTER = 0.5
"""Seconds after the death of a parent at which its orphans are counted."""
KiB, MiB = 1 << 10, 1 << 20


# -- kill -----------------------------------------------------------------------------------------


def kill(contender: str, sizes: Sizes) -> Figures:
    """From the kill of a running call to the result of the next one, again and again."""
    took = []
    with unirun.Executor(1, backend="process", grace=0) as executor, gate() as (fifo, opened):
        for number in range(sizes["kills"]):
            future = executor.submit(hang, fifo)
            assert os.read(opened, 2) == b".\n"
            begun = time.perf_counter()
            assert future.kill()
            assert executor.submit(abs, -number).result(PATIENCE) == number
            took.append(time.perf_counter() - begun)
    return {"median": statistics.median(took), "worst": max(took)}


def kill_race(contender: str, sizes: Sizes) -> Figures:
    """Kills that meet the end of their call: each outcome must be that of its own call."""
    astray = killed = 0
    with unirun.Executor(2, backend="process", grace=0) as executor:
        executor.submit(abs, 1).result()
        pause = length = 0.0005
        for number in range(sizes["kills"]):
            victim = executor.submit(nap, length)
            neighbours = [executor.submit(abs, -number - n) for n in (1, 2, 3)]
            until = time.perf_counter() + pause
            while time.perf_counter() < until:
                pass  # a sleep would be too long by more than what is raced for
            was_killed = victim.kill()
            # So that either wins about as often.
            pause = pause * 1.1 if was_killed else max(1e-5, pause / 1.1)
            killed += was_killed
            outcome = _outcome(victim)
            astray += not (outcome == "ended" if was_killed else isinstance(outcome, float))
            astray += sum(_outcome(f) != number + n for n, f in enumerate(neighbours, 1))
    rarer = min(killed, sizes["kills"] - killed)
    return {"astray": astray, "rounds without a race": float(rarer < sizes["kills"] / 20)}


def _outcome(future: unirun.Future[Any]) -> Any:
    try:
        return future.result(PATIENCE)
    except CancelledError:
        return "ended"
    except Exception as exc:  # noqa: BLE001 - an outcome that none of these calls has
        return repr(exc)


# -- time -----------------------------------------------------------------------------------------


def timeouts(contender: str, sizes: Sizes) -> Figures:
    """How late calls that hang are ended, also while the wall clock of everybody jumps about."""
    limit = sizes["timeout_ms"] / 1000
    found = {}
    for key, steps in (("", False), ("clock steps, ", True)):
        with unirun.Executor(1, backend="process", grace=0) as executor, _clock_steps(steps):
            view = executor.options(timeout=limit)
            late = [_lateness(executor, view, limit, steps) for _ in range(sizes["calls"])]
        found |= {f"{key}median": statistics.median(late), f"{key}worst": max(late)}
    return found


def _lateness(executor: Any, view: Any, limit: float, steps: bool) -> float:
    executor.submit(abs, 1).result(PATIENCE)  # a worker is there
    begun = time.perf_counter()
    future = view.submit(hang if not steps else hang_in_steps, "")
    try:
        future.result(PATIENCE)
    except unirun.TaskTimeout:
        return time.perf_counter() - begun - limit
    raise AssertionError("a call that hangs has returned")


def hang_in_steps(fifo: str) -> None:
    """In a worker: hang, and have its wall clock jump meanwhile."""
    with _clock_steps(True):
        hang(fifo)


@contextmanager
def _clock_steps(wanted: bool) -> Iterator[None]:
    """Have whatever Python code asks for the wall clock see it jump by hours, either way."""
    if not wanted:
        yield
        return
    true_time, calls = time.time, iter(range(1 << 62))
    time.time = lambda: true_time() + 7200 * (-1) ** next(calls)
    try:
        yield
    finally:
        time.time = true_time


# -- the end of the parent ------------------------------------------------------------------------


PARENT = """
import os, sys, time
sys.path.append({root!r})
import unirun
from benchmarks._faults import hang, hang_with_child
executor = unirun.Executor(3, backend="process", manager="process")
queue = executor.Queue()
executor.submit(os.getpid).result()
futures = [executor.submit(hang_with_child, queue) for _ in range(2)]
print(*[pid for _ in futures for pid in queue.get()], flush=True)
{then}
"""
WAIT = "futures[0].result()"


@contextmanager
def _parent(then: str) -> Iterator[tuple["subprocess.Popen[bytes]", set[int]]]:
    """A program with two calls that run, each with a process of its own; and all its family."""
    command = [sys.executable, "-P", "-c", PARENT.format(root=str(ROOT), then=then)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    ) as process:
        assert process.stdout is not None
        try:
            told = {int(pid) for pid in process.stdout.readline().split()}
            yield process, told | descendants(process.pid)
        finally:
            process.kill()


def _alive(pids: set[int]) -> set[int]:
    found = set()
    for pid in pids:
        try:
            if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                found.add(pid)
        except psutil.NoSuchProcess:
            continue
    return found


def orphans(contender: str, sizes: Sizes) -> Figures:
    """Who of the family of a parent that is killed is left half a second later."""
    left = 0
    for _ in range(sizes["parents"]):
        with _parent(WAIT) as (process, family):
            assert len(family) >= 6, "two calls, their children, a zygote and a manager"
            process.kill()
            time.sleep(LEFT_AFTER)
            survivors = _alive(family)
            left += len(survivors)
            for pid in survivors:
                os.kill(pid, signal.SIGKILL)
    return {"left": left}


def ctrl_c(contender: str, sizes: Sizes) -> Figures:
    """From Ctrl-C, with calls that hang, to the end of the program."""
    took, left = [], 0
    for _ in range(sizes["parents"]):
        with _parent(WAIT) as (process, family):
            # The line was written right before the parent began to wait for a result.
            time.sleep(sizes["pause_ms"] / 1000)
            begun = time.perf_counter()
            process.send_signal(signal.SIGINT)
            process.wait(PATIENCE)
            took.append(time.perf_counter() - begun)
            time.sleep(LEFT_AFTER)
            left += len(_alive(family))
    return {"seconds to exit": statistics.median(took), "left": left}


# -- many calls that wait -------------------------------------------------------------------------


def queued(contender: str, sizes: Sizes) -> Figures:
    """What 100k calls that wait take, and how long it takes to cancel them all."""
    _census.require_proc()
    count = sizes["calls"]
    with unirun.Executor(1, backend="process", grace=0) as executor, gate() as (fifo, opened):
        running = executor.submit(hang, fifo)
        assert os.read(opened, 2) == b".\n"
        gc.collect()
        before = holdings(os.getpid()).memory
        futures = [executor.submit(divmod, number, 7) for number in range(count)]
        after = holdings(os.getpid()).memory
        begun = time.perf_counter()
        cancelled = sum(future.cancel() for future in futures)
        took = time.perf_counter() - begun
        running.kill()
        assert executor.submit(abs, -1).result(PATIENCE) == 1
    return {
        "KiB per call": max(0.0, (after - before) / count / KiB),
        "seconds to cancel": took,
        "not cancelled": float(count - cancelled),
    }


def long_map(contender: str, sizes: Sizes) -> Figures:
    """By how much a map of a million items makes its process grow, over one of a thousand."""
    _census.require_proc()
    with unirun.Executor(2, backend="process") as executor:
        peak = 0
        assert sum(executor.map(abs, range(sizes["warm"]))) >= 0
        gc.collect()
        before = holdings(os.getpid()).memory
        for number, _ in enumerate(executor.map(abs, iter(range(sizes["items"])))):
            if number % sizes["look"] == 0:
                peak = max(peak, holdings(os.getpid()).memory)
    return {"MiB": max(0.0, (peak - before) / MiB)}


# -- locks and nesting ----------------------------------------------------------------------------


def dead_holder(contender: str, sizes: Sizes) -> Figures:
    """From the kill of who holds a lock to the moment at which the next one has it."""
    took = []
    with unirun.Executor(2, backend="process", grace=0) as executor, gate() as (fifo, opened):
        lock = executor.Lock()
        for _ in range(sizes["deaths"]):
            holder = executor.submit(hold_and_hang, lock, fifo)
            assert os.read(opened, 2) == b".\n"
            next_one = executor.submit(take, lock, fifo)
            assert os.read(opened, 2) == b".\n"
            time.sleep(sizes["pause_ms"] / 1000)  # it waits for the lock by now
            begun = time.monotonic()
            holder.kill()
            took.append(next_one.result(PATIENCE) - begun)
    return {"median": statistics.median(took), "worst": max(took)}


def nested(contender: str, sizes: Sizes) -> Figures:
    """A call that waits for a call that waits ..., a hundred deep, on two workers."""
    backend = "thread" if contender == "unirun-thread" else "process"
    done: list[float] = []

    def run() -> None:
        with unirun.Executor(2, backend=backend) as executor:
            begun = time.perf_counter()
            assert executor.submit(down, sizes["depth"]).result() == sizes["depth"]
            done.append(time.perf_counter() - begun)

    thread = threading.Thread(target=run, daemon=True)  # one that hangs must not keep us
    thread.start()
    thread.join(PATIENCE)
    return {"": done[0] if done else float("inf")}


def _sized(
    name: str, what: str, unit: str, measure: Any, rows: dict[str, float], **sizes: Any
) -> Workload:
    """`sizes`: of the real run and of the quick one."""
    return Workload(
        name,
        what,
        unit,
        measure,
        tuple(Row(key, "unirun", None, at_most=target) for key, target in rows.items()),
        sizes={key: full for key, (full, _) in sizes.items()},
        quick={key: quick for key, (_, quick) in sizes.items()},
    )


WORKLOADS = (
    _sized(
        "kill-next",
        "kill of a running call to the next result in its place, 100 in a row",
        "ms",
        kill,
        {"median": 0.010, "worst": 0.100},
        kills=(100, 5),
    ),
    _sized(
        "kill-race",
        "1,000 kills that meet the end of their call: wrong outcomes",
        "",
        kill_race,
        {"astray": 0, "rounds without a race": 0},
        kills=(1000, 40),
    ),
    _sized(
        "timeout",
        "how late a call that hangs is ended",
        "ms",
        timeouts,
        {"median": 0.020, "worst": 0.2, "clock steps, median": 0.020, "clock steps, worst": 0.2},
        calls=(50, 2),
        timeout_ms=(50, 50),
    ),
    _sized(
        "orphans",
        "of workers, their children, zygote and manager, 0.5 s after SIGKILL to the parent",
        "",
        orphans,
        {"left": 0},
        parents=(10, 1),
    ),
    _sized(
        "ctrl-c",
        "Ctrl-C while calls hang, to the end of the program",
        "",
        ctrl_c,
        {"seconds to exit": 0.3, "left": 0},
        parents=(10, 1),
        pause_ms=(200, 100),
    ),
    _sized(
        "queued",
        "100k calls that wait for one that hangs",
        "",
        queued,
        {"KiB per call": 2, "seconds to cancel": 1, "not cancelled": 0},
        calls=(100_000, 2000),
    ),
    _sized(
        "long-map",
        "growth over a lazy map of a million items",
        "",
        long_map,
        {"MiB": 2},
        items=(1_000_000, 20_000),
        warm=(1000, 1000),
        look=(10_000, 5000),
    ),
    _sized(
        "dead-holder",
        "kill of who holds a lock to its next holder",
        "ms",
        dead_holder,
        {"median": 0.3, "worst": 0.3},
        deaths=(20, 2),
        pause_ms=(50, 50),
    ),
    _sized(
        "nested",
        "calls that wait for calls, 100 deep, on two workers",
        "ms",
        nested,
        {"": 10},
        depth=(100, 10),
    ),
)
