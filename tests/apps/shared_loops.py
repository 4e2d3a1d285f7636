"""What the participants of `shared_stress.py` do, and the ledger they all write.

A module of its own, which workers import: what is in `__main__` would travel by value.
"""

import contextlib
import faulthandler
import mmap
import os
import queue
import random
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import unirun
from unirun._channel import GRACE

ITEMS = 2000  # that one participant may put
COLUMNS = 16
(PID, OPERATION, SINCE, LATEST, GETTING, PUTS, INSIDE, ARMED, DONE, COUNTS) = range(10)
HEADER = 16  # numbers before the rows: for each lock its owner and its counter; then the flag
STOP = 15
LOCKS = ("lock", "rlock", "permit", "condition")
OPERATIONS = [
    *["count_under_lock"] * 4,
    *["put_one"] * 3,
    *["get_one"] * 4,
    *("put_some", "get_some", "take_permit", "meet", "watch_event", "wait_on_condition"),
]
INTENT, PUT, REFUSED = 1, 2, 3
LATE = 0.7  # seconds past a time-out that no machine explains
STOPPED = 1  # the participant that may be stopped, and is never killed
STANDSTILL = 1.5  # seconds for which it is stopped at a time
AT_ONCE = 1.0  # seconds that what does not wait may wait for an owner that is busy


class Ledger:
    """A mapped file: a header, a row for each participant, two bytes for each item."""

    def __init__(self, path: str, participants: int) -> None:
        self.path, self.participants = path, participants
        table = 8 * (HEADER + participants * COLUMNS)
        with open(path, "r+b") as file:  # noqa: PTH123  # also in a worker
            file.truncate(table + 2 * participants * ITEMS)
            self._map = mmap.mmap(file.fileno(), 0)
        whole = memoryview(self._map)
        self.numbers = whole[:table].cast("q")
        self.put = whole[table : table + participants * ITEMS]
        self.got = whole[table + participants * ITEMS :]

    def __reduce__(self) -> Any:
        return Ledger, (self.path, self.participants)

    def row(self, number: int) -> memoryview:
        begin = HEADER + number * COLUMNS
        return self.numbers[begin : begin + COLUMNS]

    def complain(self, text: str) -> None:
        with open(self.path + ".violations", "a") as file:  # noqa: PTH123
            file.write(text + "\n")


def make_objects(executor: unirun.Executor) -> dict[str, Any]:
    lock = executor.Lock()
    return {
        "lock": lock,
        "rlock": executor.RLock(),
        "permit": executor.BoundedSemaphore(1),
        "permits": executor.Semaphore(2),
        "condition": executor.Condition(executor.Lock()),
        "event": executor.Event(),
        "barrier": executor.Barrier(2),
        "queues": [
            executor.Queue(8),
            executor.SimpleQueue(),
            executor.LifoQueue(),
            executor.PriorityQueue(8),
            executor.Queue(),
        ],
    }


class Participant:
    """Whoever loops over operations, and how."""

    def __init__(self, ledger: Ledger, number: int, objects: dict[str, Any], seed: int) -> None:
        self.ledger, self.number, self.objects = ledger, number, objects
        self.chance = random.Random(seed * 1_000_003 + number)
        self.row = ledger.row(number)
        self.row[PID] = os.getpid()
        self.operations = [getattr(self, name) for name in OPERATIONS]

    def run(self) -> None:
        while not self.ledger.numbers[STOP]:
            number = self.chance.randrange(len(self.operations))
            self.row[SINCE] = time.monotonic_ns()
            self.row[OPERATION] = number + 1
            self.operations[number]()
            self.row[OPERATION] = 0
        self.row[DONE] = 1

    @contextlib.contextmanager
    def within(self, timeout: float) -> Iterator[None]:
        """Around a wait of so many seconds at most."""
        began = time.monotonic()
        yield
        late = time.monotonic() - began - timeout
        self.row[LATEST] = max(self.row[LATEST], int(late * 1e6))
        if late > (LATE + STANDSTILL if self.number == STOPPED else LATE):
            self.ledger.complain(f"{self.number}: a time-out of {timeout} s was {late:.3f} s late")

    # -- locks ----------------------------------------------------------------------------------

    def acquired(self, lock: Any) -> bool:
        way = self.chance.random()
        if way < 0.5:
            return bool(lock.acquire())
        if way < 0.7:
            with self.within(AT_ONCE):
                return bool(lock.acquire(blocking=False))
        timeout = self.chance.random() * 0.01
        with self.within(timeout):
            return bool(lock.acquire(timeout=timeout))

    def count_under_lock(self) -> None:
        index = self.chance.randrange(len(LOCKS) - 1)
        lock = self.objects[LOCKS[index]]
        if not self.acquired(lock):
            return
        self.enter(index, lock)
        if LOCKS[index] == "rlock" and self.chance.random() < 0.5:
            with lock:
                self.stay_inside(index)
        else:
            self.stay_inside(index)
        self.leave(index)
        lock.release()

    def enter(self, index: int, lock: Any) -> None:
        numbers = self.ledger.numbers
        before = numbers[2 * index]
        self.row[INSIDE] |= 1 << index
        if before:
            if not self.is_dead(before - 1):
                self.ledger.complain(f"{self.number}: {before - 1} is in {LOCKS[index]} as well")
            elif not getattr(lock, "abandoned", True):
                self.ledger.complain(f"{self.number}: {LOCKS[index]} does not look abandoned")
        numbers[2 * index] = self.number + 1

    def stay_inside(self, index: int) -> None:
        numbers = self.ledger.numbers
        count = numbers[2 * index + 1]
        for _ in range(self.chance.randrange(20)):
            pass
        numbers[2 * index + 1] = count + 1
        self.row[COUNTS + index] += 1
        if numbers[2 * index] != self.number + 1:
            other = numbers[2 * index] - 1
            self.ledger.complain(f"{self.number}: {other} came into {LOCKS[index]} after us")

    def leave(self, index: int) -> None:
        self.ledger.numbers[2 * index] = 0
        self.row[INSIDE] &= ~(1 << index)

    def is_dead(self, number: int) -> bool:
        """Whether it is, or soon will be: its connections end before it does."""
        end = time.monotonic() + 5
        while time.monotonic() < end:
            if is_gone(self.ledger.row(number)[PID]):
                return True
            time.sleep(0.001)
        return False

    def take_permit(self) -> None:
        permits = self.objects["permits"]
        timeout = self.chance.random() * 0.01
        with self.within(timeout):
            taken = permits.acquire(timeout=timeout)
        if taken:
            permits.release()

    # -- the others -----------------------------------------------------------------------------

    def wait_on_condition(self) -> None:
        condition, index = self.objects["condition"], LOCKS.index("condition")
        with condition:
            self.enter(index, condition._lock)
            self.stay_inside(index)
            if self.chance.random() < 0.5:
                condition.notify_all()
            else:
                self.leave(index)
                condition.wait(self.chance.random() * 0.005)
                self.enter(index, condition._lock)
                self.stay_inside(index)
            self.leave(index)

    def watch_event(self) -> None:
        event, way = self.objects["event"], self.chance.random()
        if way < 0.3:
            event.set()
        elif way < 0.6:
            event.clear()
        else:
            with self.within(0.005):
                event.wait(0.005)

    def meet(self) -> None:
        barrier = self.objects["barrier"]
        try:
            with self.within(0.01):
                index = barrier.wait(0.01)
        except threading.BrokenBarrierError:
            barrier.reset()
        else:
            if index not in (0, 1):
                self.ledger.complain(f"{self.number}: index {index} at a barrier for two")

    # -- queues ---------------------------------------------------------------------------------

    def next_item(self, kind: int) -> tuple[int, int, str]:
        """An item that has never been, and its place in the ledger; the priority comes first."""
        item = self.number * ITEMS + self.row[PUTS]
        self.row[PUTS] += 1
        self.ledger.put[item] = INTENT
        size = self.chance.choices([10, 3_000, 100_000], [90, 9, 1])[0]
        return item, kind, chr(65 + item % 26) * size

    def put_one(self) -> None:
        if self.row[PUTS] + 3 > ITEMS:
            return
        kind = self.chance.randrange(5)
        item = self.next_item(kind)
        timeout, began = self.chance.random() * 0.01, time.monotonic()
        try:
            with self.within(timeout):
                self.objects["queues"][kind].put(item, timeout=timeout)
            self.ledger.put[item[0]] = PUT
        except queue.Full:
            self.refused([item], began + timeout)

    def put_some(self) -> None:
        if self.row[PUTS] + 3 > ITEMS:
            return
        kind = self.chance.choice([0, 2, 3, 4])
        items = [self.next_item(kind) for _ in range(3)]
        accepted, began = 3, time.monotonic()
        try:
            self.objects["queues"][kind].put_many(items, timeout=0.005)
        except queue.Full as exc:
            accepted = exc.accepted  # type: ignore[attr-defined]
        for item, _, _ in items[:accepted]:
            self.ledger.put[item] = PUT
        self.refused(items[accepted:], began + 0.005)

    def refused(self, items: list[tuple[int, int, str]], deadline: float) -> None:
        """They are not in the queue; who gave up without an answer cannot know that."""
        if time.monotonic() < deadline + GRACE / 2:
            for item, _, _ in items:
                self.ledger.put[item] = REFUSED

    def get_one(self) -> None:
        kind = self.chance.randrange(5)
        timeout = self.chance.choice([0.0, 0.002])
        self.row[GETTING] = 1
        try:
            with self.within(timeout or AT_ONCE):
                item = self.objects["queues"][kind].get(timeout > 0, timeout or None)
        except queue.Empty:
            self.row[GETTING] = 0
            return
        self.book(kind, [item])

    def get_some(self) -> None:
        kind = self.chance.choice([0, 2, 3, 4])
        self.row[GETTING] = 3
        try:
            items = self.objects["queues"][kind].get_many(3, block=False)
        except queue.Empty:
            self.row[GETTING] = 0
            return
        self.book(kind, items)

    def book(self, kind: int, items: list[tuple[int, int, str]]) -> None:
        for item, its_kind, text in items:
            if its_kind != kind or set(text) != {chr(65 + item % 26)}:
                self.ledger.complain(f"{self.number}: item {item} came damaged")
            if self.ledger.got[item]:
                self.ledger.complain(f"{self.number}: item {item} was delivered before")
            self.ledger.got[item] = 1
        self.row[GETTING] = 0


def is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


def participate(
    ledger: Ledger, number: int, objects: dict[str, Any], seed: int, life: float | None
) -> None:
    """Loop until the end, which comes after `life` seconds; None: when all are told to stop."""
    faulthandler.register(signal.SIGUSR1)
    participant = Participant(ledger, number, objects, seed)
    if life is not None:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)  # what kills at once
        signal.setitimer(signal.ITIMER_REAL, life)
    participant.row[ARMED] = 1
    participant.run()
