"""Kills processes that do nothing but one operation on a shared object, as fast as they can.

    python tests/apps/shared_tight.py 3000 1        (rounds, seed)

In each round two processes loop over the same operation until an alarm clock kills them, in the
middle of it more often than not; then this process uses every object.  It prints how often it came
upon memory as somebody left it who had died inside.  Exit status: 0, or 1 after the first round
in which an object was not as it has to be.
"""

import faulthandler
import multiprocessing
import queue
import random
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable
from typing import Any

import unirun
from unirun import _robust

PATIENCE = 5.0
LIFE = 0.004  # seconds at most
KINDS = ("Lock", "RLock", "Semaphore", "Queue", "SimpleQueue", "Event", "Barrier", "Value")


def lock(held: Any) -> None:
    held.acquire()
    held.release()


def lock_twice(held: Any) -> None:
    with held, held:
        pass


def put_and_get(q: Any) -> None:
    q.put(b"theirs" * 20)
    try:
        q.get(block=False)
    except queue.Empty:
        pass  # the other one was faster


def set_and_clear(event: Any) -> None:
    event.set()
    event.clear()


def meet(barrier: Any) -> None:
    try:
        barrier.wait(0.001)
    except threading.BrokenBarrierError:
        barrier.reset()


def count(value: Any) -> None:
    value.update(lambda number: number + 1)


ACTS: dict[str, Callable[[Any], None]] = {
    "Lock": lock,
    "RLock": lock_twice,
    "Semaphore": lock,
    "Queue": put_and_get,
    "SimpleQueue": put_and_get,
    "Event": set_and_clear,
    "Barrier": meet,
    "Value": count,
}


def loop(shared: dict[str, Any], kind: str, life: float) -> None:
    act, one = ACTS[kind], shared[kind]
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # what kills at once
    if kind != "Barrier":
        act(one)  # this process is connected by now
    signal.setitimer(signal.ITIMER_REAL, life)
    while True:
        act(one)


# -- what has to be right after each round --------------------------------------------------------


def check(shared: dict[str, Any]) -> None:
    for kind in ("Lock", "RLock", "Semaphore"):
        assert shared[kind].acquire(timeout=PATIENCE), f"{kind} is not free"
        shared[kind].release()
    assert not shared["Lock"].locked()
    for kind in ("Queue", "SimpleQueue"):
        check_queue(shared[kind])
    try:
        check_event(shared["Event"])
    except AssertionError:
        if _robust.find() is not None:
            raise
        # The last request of the dead was still on its way to the server; there is only one.
        check_event(shared["Event"])
    check_barrier(shared["Barrier"])
    number = shared["Value"].update(lambda number: number + 1)
    assert shared["Value"].get() == number


def check_queue(q: Any) -> None:
    number = q.qsize()
    q.put(b"ours")
    items = [q.get(timeout=PATIENCE) for _ in range(number + 1)]
    assert items == [*[b"theirs" * 20] * number, b"ours"]
    assert q.empty()


def check_event(event: Any) -> None:
    event.clear()
    assert not event.is_set()
    waiter = threading.Thread(target=event.wait, args=(PATIENCE,))
    waiter.start()
    event.set()
    waiter.join()
    assert event.is_set()


def check_barrier(barrier: Any) -> None:
    barrier.reset()
    passed: list[int] = []
    other = threading.Thread(target=lambda: passed.append(barrier.wait(PATIENCE)))
    other.start()
    passed.append(barrier.wait(PATIENCE))
    other.join()
    assert sorted(passed) == [0, 1]


def count_deaths_inside() -> list[int]:
    """Grows with each: the next one inside says that the memory is consistent nevertheless."""
    found: list[int] = []
    robust = _robust.find()
    if robust is not None:
        original = robust.consistent

        def consistent(address: int) -> int:
            code = original(address)
            if code == 0:
                found.append(address)
            return code

        robust.consistent = consistent
    return found


def main(rounds: int, seed: int) -> int:
    faulthandler.dump_traceback_later(60 + rounds / 4, exit=True)
    warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads
    chance, context = random.Random(seed), multiprocessing.get_context("fork")
    found, longest = count_deaths_inside(), 0.0
    with unirun.Executor(2, backend="process") as executor:
        arguments: dict[str, tuple[int, ...]] = {"Barrier": (2,), "Value": (0,)}
        shared = {kind: getattr(executor, kind)(*arguments.get(kind, ())) for kind in KINDS}
        for number in range(rounds):
            kind = chance.choice(KINDS)
            lives = [1e-5 + chance.random() * LIFE for _ in range(2)]
            pair = [context.Process(target=loop, args=(shared, kind, life)) for life in lives]
            for process in pair:
                process.start()
            for process in pair:
                process.join()
            began = time.monotonic()
            try:
                assert [process.exitcode for process in pair] == [-signal.SIGALRM] * 2
                check(shared)
            except BaseException as exc:
                traceback.print_exc()
                print(f"round {number}, after a {kind}: {exc!r}\nviolations: 1", flush=True)
                return 1
            longest = max(longest, time.monotonic() - began)
    print(f"died inside: {len(found)}, longest check: {longest:.3f} s\nviolations: 0")
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2])))
