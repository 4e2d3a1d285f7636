"""Shared objects: what they cost two worker processes, their owner, and the threads of one process.

The workers measure, once while their parent is idle and once while its main thread computes. Each
run of two proves that it was right: a number that the lock protects, the sums of what queues hand
over.
"""

import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from benchmarks import _sharing
from benchmarks._crew import Build, Crew, Part, new, open_crew, open_source, our_executor
from benchmarks._sharing import Counter
from benchmarks._workload import Figures, Row, Sizes, Workload


class WrongOutcomeError(Exception):
    """An object did not do what it is for; how fast it was does not matter then."""


# -- a time per operation -------------------------------------------------------------------------


def time_per_round(run: Callable[[int], float], sizes: Sizes) -> float:
    """Seconds per round of `run(rounds)`, with as many rounds as take about the time allowed."""
    budget, count = sizes["budget_ms"] / 1000, sizes["first"]
    run(count)  # connections are made, code is imported
    while True:
        took = run(count)
        if took >= budget / 2 or count >= sizes["most"]:
            return took / count
        count = min(sizes["most"], 1 + int(count * min(20.0, budget / took)))


def loop_time(action: Callable[[int], object]) -> Callable[[int], float]:
    """What runs `action` in this thread and times it."""

    def run(count: int) -> float:
        start = time.perf_counter()
        action(count)
        return time.perf_counter() - start

    return run


# -- between two workers --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Game:
    """What is played in rounds, a part by each worker."""

    build: Build
    parts: Sequence[Part]
    check: Callable[[Crew, int, list[int]], None]
    """Of the crew, the rounds played and what the parts returned; raises WrongOutcomeError."""
    operations: int = 1
    """How many there are in a round."""

    def measure(self, contender: str, sizes: Sizes) -> Figures:
        with open_crew(contender, self.build) as crew:
            return {
                "idle": time_per_round(lambda n: self._play(crew, n, False), sizes)
                / self.operations,
                "busy": time_per_round(lambda n: self._play(crew, n, True), sizes)
                / self.operations,
            }

    def _play(self, crew: Crew, count: int, busy: bool) -> float:
        took, told = crew.run(self.parts, count, busy)
        self.check(crew, count, told)
        return took


def objects(*kinds: Any) -> Build:
    """One of each: a name, or a name with arguments."""
    wanted = [kind if isinstance(kind, tuple) else (kind,) for kind in kinds]
    return lambda source, directory: tuple(new(source, *each) for each in wanted)


def lock_and_counter(source: Any, directory: str) -> tuple[Any, ...]:
    return new(source, "Lock"), f"{directory}/counter"


def count_is_exact(crew: Crew, count: int, told: list[int]) -> None:
    counter = Counter(crew.objects[1])
    found, counter.cell[0] = counter.cell[0], 0
    counter.close()
    if found != sum(told):
        raise WrongOutcomeError(f"{sum(told)} additions under the lock came to {found}")


def all_rounds_seen(crew: Crew, count: int, told: list[int]) -> None:
    if told != [count] * len(told):
        raise WrongOutcomeError(f"of {count} rounds the workers saw {told}")


def sums_agree(crew: Crew, count: int, told: list[int]) -> None:
    if told[0] != told[1]:
        raise WrongOutcomeError(f"what came out adds up to {told[1]}, what went in to {told[0]}")


def each_number_given_once(crew: Crew, count: int, told: list[int]) -> None:
    if sum(told) != count:
        raise WrongOutcomeError(f"{count} rounds of a barrier gave numbers that add to {sum(told)}")


LOCK = Game(objects("Lock"), [_sharing.lock], all_rounds_seen)
CONTENDED = Game(lock_and_counter, [_sharing.lock_and_count] * 2, count_is_exact, operations=2)
EVENT = Game(
    objects("Event", "Event"),
    [_sharing.serve, _sharing.strike_back],
    all_rounds_seen,
    operations=2,
)
SMALL = Game(objects("Queue"), [_sharing.put_small, _sharing.get_small], sums_agree)
LARGE = Game(objects("Queue"), [_sharing.put_large, _sharing.get_large], sums_agree)
ROUND_TRIP = Game(objects("Queue", "Queue"), [_sharing.ask, _sharing.answer], sums_agree)
BARRIER = Game(objects(("Barrier", 2)), [_sharing.pass_barrier] * 2, each_number_given_once)

# -- by the owner ---------------------------------------------------------------------------------


def owner(contender: str, sizes: Sizes) -> Figures:
    """One put and one get, both by the process that made the queue."""
    with open_source(contender) as source:
        q = new(source, "Queue")

        def pairs(item: Any) -> Callable[[int], None]:
            def run(count: int) -> None:
                for _ in range(count):
                    q.put(item)
                    if q.get() != item:
                        raise WrongOutcomeError("another item came out than went in")

            return run

        return {
            "small": time_per_round(loop_time(pairs(1)), sizes),
            "64 KiB": time_per_round(loop_time(pairs(_sharing.ITEMS[0])), sizes),
        }


# -- among threads --------------------------------------------------------------------------------

STANDARD = SimpleNamespace(
    Lock=threading.Lock,
    Event=threading.Event,
    Semaphore=threading.Semaphore,
    Queue=queue.Queue,
)


def threads(contender: str, sizes: Sizes) -> Figures:
    """One thread uses them; the best of several batches of each."""
    with our_executor("thread") as executor:
        executor.submit(sum, ()).result()  # for the peer too: two processes that are alike
        source = executor if contender == "unirun-thread" else STANDARD
        lock, event = new(source, "Lock"), new(source, "Event")
        semaphore, q = new(source, "Semaphore"), new(source, "Queue")
        actions = {
            "Lock": lambda n: _sharing.lock((lock,), n),
            "Event": lambda n: set_and_wait(event, n),
            "Semaphore": lambda n: _sharing.lock((semaphore,), n),
            "Queue": lambda n: put_and_get(q, n),
        }
        return {
            key: min(time_per_round(loop_time(action), sizes) for _ in range(sizes["batches"]))
            for key, action in actions.items()
        }


def set_and_wait(event: Any, count: int) -> None:
    for _ in range(count):
        event.set()
        event.wait()


def put_and_get(q: Any, count: int) -> None:
    for n in range(count):
        q.put(n)
        q.get()


# -- the rows -------------------------------------------------------------------------------------

SIZES = {"budget_ms": 250, "first": 20, "most": 1_000_000}
QUICK = {"budget_ms": 5, "first": 4, "most": 100}
STATES = ("idle", "busy")


def rows(
    keys: Sequence[str], against_manager: float, against_own: float | None = None
) -> tuple[Row, ...]:
    return tuple(
        Row(key, "unirun", peer, target)
        for key in keys
        for peer, target in (("manager", against_manager), ("mp", against_own))
    )


def game(
    name: str,
    what: str,
    played: Game,
    against_manager: float,
    against_own: float | None = None,
    most: int = SIZES["most"],
) -> Workload:
    return Workload(
        f"shared-{name}",
        what,
        "us",
        played.measure,
        rows(STATES, against_manager, against_own),
        sizes=SIZES | {"most": most},
        quick=QUICK,
        brief={"budget_ms": 60},
    )


WORKLOADS = (
    game("lock", "acquire and release, nobody else wants it", LOCK, 10),
    game("lock-contended", "the same by two processes at once, per pair", CONTENDED, 10),
    game("event", "set by one to awake in the other, clear included", EVENT, 4, 0.7),
    game("queue", "one process puts ints, the other gets them", SMALL, 6, 0.8),
    # What runs ahead of the reader lies in memory: 2000 items are 128 MiB.
    game("queue-64k", "the same with items of 64 KiB", LARGE, 4, 0.8, most=2000),
    game("queue-round-trip", "there by one queue, back by another", ROUND_TRIP, 5),
    game("barrier", "a barrier of two, per round", BARRIER, 4),
    Workload(
        "shared-queue-owner",
        "put and get by the process that made the queue",
        "us",
        owner,
        rows(("small", "64 KiB"), 10),
        sizes=SIZES,
        quick=QUICK,
        brief={"budget_ms": 60},
    ),
    Workload(
        "shared-thread",
        "the objects of a thread executor in one thread",
        "us",
        threads,
        tuple(
            Row(key, "unirun-thread", "stdlib", 0.95)
            for key in ("Lock", "Event", "Semaphore", "Queue")
        ),
        sizes={"budget_ms": 5, "first": 1000, "most": 1_000_000, "batches": 25},
        quick={"budget_ms": 1, "first": 10, "most": 100, "batches": 1},
        brief={"batches": 9},
    ),
)
