"""What the machine itself allows: no pool can be faster than these."""

import itertools
import multiprocessing
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable

MIB = 1 << 20


def measure(quick: bool = False) -> dict[str, float]:
    """Name -> seconds."""
    n = 1 if quick else 10
    return {
        "pipe round trip between two processes": pipe_round_trip(200 * n),
        "hand-over between two threads and back": thread_round_trip(200 * n),
        "copy of 1 MiB": copy_time(MIB, 3 * n),
        "copy of 64 MiB": copy_time(64 * MIB, 1 + n // 2),
        "copy of 64 MiB into memory not touched before": fresh_copy_time(64 * MIB, 1 + n // 2),
        "fork, exit and wait": median(fork_and_wait, 5 * n),
        "multiprocessing.Process: start (fork) and join": median(_process("fork"), 2 * n),
        "multiprocessing.Process: start (spawn) and join": median(_process("spawn"), 1 + n // 4),
        **interpreters(max(6, 3 * n)),  # six orders of three
    }


def median(action: Callable[[], object], repeats: int) -> float:
    return statistics.median(time_of(action) for _ in range(repeats))


def time_of(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def interpreters(repeats: int) -> dict[str, float]:
    """In turns, and each as often the first, for what ran before is felt: they differ by little."""
    actions = {
        "interpreter that does nothing": _interpreter("pass"),
        "interpreter that imports unirun": _interpreter("import unirun"),
        "interpreter that imports concurrent.futures.process": _interpreter(
            "import concurrent.futures.process"
        ),
    }
    taken: dict[str, list[float]] = {name: [] for name in actions}
    for order in itertools.islice(itertools.cycle(itertools.permutations(actions)), repeats):
        for name in order:
            taken[name].append(time_of(actions[name]))
    return {name: statistics.median(times) for name, times in taken.items()}


def pipe_round_trip(count: int) -> float:
    there, back = os.pipe(), os.pipe()
    child = os.fork()
    if not child:
        os.close(there[1])  # else it would wait for itself
        while data := os.read(there[0], 64):
            os.write(back[1], data)
        os._exit(0)
    try:
        return median(lambda: os.write(there[1], b"x" * 32) and os.read(back[0], 64), count)
    finally:
        for fd in (*there, *back):
            os.close(fd)
        os.waitpid(child, 0)


def thread_round_trip(count: int) -> float:
    there, back = threading.Semaphore(0), threading.Semaphore(0)

    def answer() -> None:
        for _ in range(count):
            there.acquire()
            back.release()

    thread = threading.Thread(target=answer)
    thread.start()

    def ask() -> None:
        there.release()
        back.acquire()

    taken = median(ask, count)
    thread.join()
    return taken


def copy_time(size: int, repeats: int) -> float:
    source, target = memoryview(bytes(size)), memoryview(bytearray(size))

    def copy() -> None:
        target[:] = source

    copy()
    return median(copy, repeats)


def fresh_copy_time(size: int, repeats: int) -> float:
    source = bytes(size)
    return median(lambda: bytearray(source), repeats)


def fork_and_wait() -> None:
    child = os.fork()
    if not child:
        os._exit(0)
    os.waitpid(child, 0)


def _process(method: str) -> Callable[[], object]:
    context = multiprocessing.get_context(method)

    def start_and_join() -> None:
        process = context.Process(target=len, args=((),))
        process.start()
        process.join()

    return start_and_join


def _interpreter(program: str) -> Callable[[], object]:
    return lambda: subprocess.run([sys.executable, "-P", "-c", program], check=True)
