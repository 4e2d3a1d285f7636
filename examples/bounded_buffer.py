"""Producers and consumers with a buffer between them, which is never fuller than it may be.

Twice: with a buffer made of a Condition and a List, as textbooks have it, and with a Queue that has
a size, which is the same thing ready-made.  Run it with UNIRUN_BACKEND=inline, thread or process:
not a line changes.
"""

from __future__ import annotations

import sys
from typing import Any

import unirun

PRODUCERS, CONSUMERS, EACH, ROOM = 2, 2, 50, 4
END = -1  # tells one consumer that there is no more


class Buffer:
    """A queue of so many places, by hand."""

    def __init__(self, executor: unirun.Executor, room: int) -> None:
        self.room = room
        self.items = executor.List()  # guarded by the lock of `changed`
        self.changed = executor.Condition()

    def put(self, item: int) -> None:
        with self.changed:
            self.changed.wait_for(lambda: len(self.items) < self.room)
            self.items.append(item)
            self.changed.notify_all()

    def get(self) -> int:
        with self.changed:
            self.changed.wait_for(lambda: len(self.items))
            item: int = self.items.pop(0)
            self.changed.notify_all()
            return item


@unirun.task(kind="io")
def produce(start: Any, buffer: Any, first: int) -> None:
    start.wait()
    for number in range(first, first + EACH):
        buffer.put(number)


@unirun.task(kind="cpu")
def consume(start: Any, buffer: Any) -> list[int]:
    start.wait()
    taken = []
    while (number := buffer.get()) != END:
        taken.append(number)
    return taken


def run(executor: unirun.Executor, buffer: Any) -> list[list[int]]:
    """What each consumer got."""
    start = executor.Barrier(PRODUCERS + CONSUMERS, timeout=30)
    consumers = [executor.submit(consume, start, buffer) for _ in range(CONSUMERS)]
    producers = [executor.submit(produce, start, buffer, n * EACH) for n in range(PRODUCERS)]
    for producer in producers:
        producer.result()
    for _ in consumers:
        buffer.put(END)
    return [consumer.result() for consumer in consumers]


def main() -> int:
    with unirun.Executor(max_workers=PRODUCERS + CONSUMERS) as executor:
        for name, buffer in (
            ("by hand", Buffer(executor, ROOM)),
            ("ready-made", executor.Queue(ROOM)),
        ):
            taken = run(executor, buffer)
            everything = sorted(number for numbers in taken for number in numbers)
            complete = everything == list(range(PRODUCERS * EACH))
            print(f"{name}: {len(everything)} items, {'each once' if complete else 'WRONG'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
