"""Round trips through a shared queue, in one run, against `multiprocessing.Manager().Queue()`.

    python benchmarks/shared_queues.py [ROUNDS]

Prints, for small items and for items of 64 KiB, thousands of put-and-get pairs per second by one
other process, items per second from one process to another, and pairs by the owner itself.
"""

import multiprocessing
import sys
import time
from collections.abc import Callable
from typing import Any

from unirun._manager import Manager
from unirun.sync import make_shared

CONTEXT = multiprocessing.get_context("spawn")


def pairs(q: Any, item: bytes, rounds: int) -> float:
    best = 0.0
    for _ in range(3):
        start = time.perf_counter()
        for _ in range(rounds):
            q.put(item)
            q.get()
        best = max(best, rounds / (time.perf_counter() - start))
    return best


def tell_pairs(out: Any, q: Any, item: bytes, rounds: int) -> None:
    pairs(q, item, 50)
    out.put(pairs(q, item, rounds))


def produce(ready: Any, q: Any, item: bytes, rounds: int) -> None:
    ready.wait()
    for _ in range(rounds):
        q.put(item)


def consume(ready: Any, out: Any, q: Any, rounds: int) -> None:
    ready.wait()
    start = time.perf_counter()
    for _ in range(rounds):
        q.get()
    out.put(rounds / (time.perf_counter() - start))


def measure(make: Callable[[], Any], item: bytes, rounds: int) -> tuple[float, float, float]:
    out, ready = CONTEXT.SimpleQueue(), CONTEXT.Barrier(2)
    q = make()  # in a name: a stock proxy that loses its last one here is gone for all
    alone = CONTEXT.Process(target=tell_pairs, args=(out, q, item, rounds))
    alone.start()
    by_one: float = out.get()
    alone.join()
    q = make()
    both = [
        CONTEXT.Process(target=produce, args=(ready, q, item, rounds)),
        CONTEXT.Process(target=consume, args=(ready, out, q, rounds)),
    ]
    for each in both:
        each.start()
    through: float = out.get()
    for each in both:
        each.join()
    return by_one, through, pairs(make(), item, rounds)


def main(rounds: int) -> None:
    ours, theirs = Manager(), CONTEXT.Manager()
    names = ("pairs by one process", "one process to another", "pairs by the owner")
    for size in (10, 65536):
        mine = measure(lambda: make_shared(ours, "Queue"), b"x" * size, rounds)
        stock = measure(theirs.Queue, b"x" * size, rounds)
        for name, a, b in zip(names, mine, stock, strict=True):
            print(
                f"{size:6} bytes  {name:24} {a / 1e3:7.1f} k/s  {b / 1e3:7.1f} k/s  {a / b:5.2f}x"
            )
    theirs.shutdown()
    ours.close()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3000)
