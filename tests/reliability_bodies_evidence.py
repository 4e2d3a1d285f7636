"""What workers run in the tests of time and evidence. Light: every new worker imports it."""

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

from process.line import Line


def sleep(started: Line) -> None:
    started.send(os.getpid())
    time.sleep(1000)


def sleep_quietly(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def loop_in_c(started: Line) -> None:
    """Holds the interpreter's lock and never looks at anything."""
    started.send(os.getpid())
    sum(range(10**15))


def deep(depth: int) -> int:
    return 0 if depth == 0 else 1 + deep(depth - 1)


def run_python(threads: int, seconds: float) -> int:
    """Threads that make and drop frames all the time."""
    end, rounds = time.monotonic() + seconds, []

    def work() -> None:
        done = 0
        while time.monotonic() < end:
            deep(80)
            done += 1
        rounds.append(done)

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return len(rounds)


def take(queue: Any, started: Line) -> Any:
    started.send(os.getpid())
    return queue.get()


def put(queue: Any, item: Any) -> None:
    queue.put(item)


def hold(lock: Any, started: Line, release: Line) -> None:
    with lock:
        started.send(os.getpid())
        release.wait()


def acquire(lock: Any, started: Line) -> None:
    started.send(os.getpid())
    with lock:
        pass


def hold_and_ask(executor: Any, lock: Any, started: Line) -> None:
    """Holds what the call needs that it waits for."""
    with lock:
        executor.options(timeout=500).submit(acquire, lock, started).result()


def acquire_twice(lock: Any, started: Line) -> None:
    lock.acquire()
    started.send(os.getpid())
    lock.acquire()
    lock.release()


def take_the_signal(number: int, how: str, path: str, started: Line) -> None:
    """What a task may do with a signal that unirun uses, too."""
    if how == "default":
        signal.signal(number, signal.SIG_DFL)
    elif how == "ignored":
        signal.signal(number, signal.SIG_IGN)
    elif how == "blocked":
        signal.pthread_sigmask(signal.SIG_BLOCK, [number])
    else:
        signal.signal(number, lambda *_: Path(path).touch())
    started.send(os.getpid())
    time.sleep(1000)


def never_ready(path: str) -> None:
    Path(path).touch()
    time.sleep(1000)


def odd_ones_sleep(number: int) -> int:
    if number % 2:
        time.sleep(1000)
    return number


def odd_ones_fail(number: int) -> int:
    if number % 2:
        raise ValueError(number)
    return number


def size(data: bytes) -> int:
    return len(data)
