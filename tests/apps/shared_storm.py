"""Ctrl-C again and again, at any instruction, into a thread that uses shared objects.

    python tests/apps/shared_storm.py home 5000          # the thread lives where the objects do
    python tests/apps/shared_storm.py process 5000       # it lives in another process

The number is how many interrupts.  Exit status 0 if none of them left anything behind: a lock held,
a permit taken, an item delivered twice or never put, a wait for ever.  An interrupt that comes in a
release, before that has taken effect, leaves the lock held, as with every release that is written
in Python; those are counted apart.
"""

import contextlib
import faulthandler
import multiprocessing
import os
import queue
import random
import signal
import subprocess
import sys
import threading
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import unirun

PATIENCE = 30.0


class Storm:
    """Interrupts this process all the time; an interrupt raises if we are armed, until enough."""

    def __init__(self, times: int) -> None:
        self.left = times
        self.armed = False

    def __enter__(self) -> Self:
        signal.signal(signal.SIGINT, self._interrupt)
        self._blower = subprocess.Popen([sys.executable, "-S", "-c", BLOW, str(os.getpid())])
        return self

    def __exit__(self, *_: object) -> None:
        self._blower.kill()
        self._blower.wait()

    def _interrupt(self, number: int, frame: object) -> None:
        if self.armed:
            self.armed = False
            self.left -= 1
            raise KeyboardInterrupt


BLOW = """
import os, random, signal, sys, time
while os.getppid() == int(sys.argv[1]):
    time.sleep(random.random() * 0.0004)
    os.kill(int(sys.argv[1]), signal.SIGINT)
"""


class Victim:
    """The thread that is interrupted, what it does, and what it finds afterwards."""

    def __init__(self, objects: dict[str, Any], storm: Storm) -> None:
        self.storm = storm
        self.objects = objects
        self.found: list[str] = []
        self.counts: Counter[str] = Counter()
        self.tried: set[int] = set()
        self.got: list[int] = []
        self.number = 0

    def run(self) -> None:
        operations = [self.lock, self.with_lock, self.rlock, self.permit, self.put, self.get] * 2
        operations += [self.many, self.event, self.barrier, self.condition]
        chance = random.Random(1)
        while self.storm.left > 0 and len(self.found) < 10:
            chance.choice(operations)()
            self.counts["operations"] += 1

    def interrupted(self, action: Callable[[], Any], name: str) -> TracebackType | None:
        """Act; returns where an interrupt hit, None if none did."""
        storm = self.storm
        try:
            try:
                storm.armed = True
                action()
            finally:
                storm.armed = False
        except KeyboardInterrupt as exc:
            self.counts[name] += 1
            return exc.__traceback__
        except (queue.Empty, queue.Full, threading.BrokenBarrierError):
            return None
        except Exception:
            self.found.append(f"{name}:\n{traceback.format_exc()}")
        return None

    def left_held(self, name: str, where: TracebackType | None) -> None:
        """It is held though it should not be: because a release did not get that far?"""
        if is_release(where):
            self.counts["releases that did not get that far"] += 1
            return
        text = "".join(traceback.extract_tb(where).format())
        self.found.append(f"{name} is left held, by an interrupt here:\n{text}")

    # -- what it does -----------------------------------------------------------------------------

    def lock(self) -> None:
        lock = self.objects["lock"]  # nobody else uses it, so whoever holds it is this thread
        where = self.interrupted(lock.acquire, "acquire")
        if where is None:
            if not lock.locked():
                self.found.append("lock: acquire returned and it is not held")
            where = self.interrupted(lambda: lock.release(), "release")
        if lock.locked():
            self.left_held("lock", where)
            lock.release()

    def with_lock(self) -> None:
        lock = self.objects["lock"]

        def inside() -> None:
            with lock:
                pass

        where = self.interrupted(inside, "with lock")
        if lock.locked():
            self.left_held("lock", where)
            lock.release()

    def rlock(self) -> None:
        lock = self.objects["rlock"]  # the other uses it too

        def inside() -> None:
            with lock:
                lock.acquire()
                lock.release()

        where = self.interrupted(inside, "rlock")
        if lock._is_owned():
            self.left_held("rlock", where)
            while lock._is_owned():
                lock.release()

    def condition(self) -> None:
        condition = self.objects["condition"]

        def inside() -> None:
            with condition:
                condition.wait(0.001)
                condition.notify()

        where = self.interrupted(inside, "condition")
        if condition._lock._is_owned():
            self.left_held("condition", where)
            while condition._lock._is_owned():
                condition.release()

    def permit(self) -> None:
        permits = self.objects["permits"]  # nobody else uses them
        where = self.interrupted(permits.acquire, "permit")
        if where is None:
            where = self.interrupted(lambda: permits.release(), "permit")
        if not permits.acquire(timeout=1):
            self.left_held("permit", where)
        permits.release()

    def put(self) -> None:
        self.number += 1
        self.tried.add(self.number)
        self.interrupted(lambda: self.objects["queue"].put(self.number, timeout=0.01), "put")

    def get(self) -> None:
        got = self.got
        self.interrupted(lambda: got.append(self.objects["queue"].get(timeout=0.002)), "get")

    def many(self) -> None:
        q, got = self.objects["stack"], self.got
        items = [-self.number - 1, -self.number - 2]
        self.number += 2
        self.tried.update(items)
        self.interrupted(lambda: q.put_many(items), "put_many")
        self.interrupted(lambda: got.extend(q.get_many(2, block=False)), "get_many")

    def event(self) -> None:
        event = self.objects["event"]
        self.interrupted(lambda: event.wait(0.002), "event")
        self.interrupted(event.set, "event")
        self.interrupted(event.clear, "event")

    def barrier(self) -> None:
        barrier = self.objects["barrier"]
        self.interrupted(lambda: barrier.wait(0.002), "barrier")
        barrier.reset()


def is_release(where: TracebackType | None) -> bool:
    """Whether the interrupt hit on the way into, in, or out of a release."""
    frames = traceback.extract_tb(where)
    return any(
        frame.name in ("release", "__exit__") or ".release" in frame.line for frame in frames
    )


def contend(objects: dict[str, Any], stop: Any, items: Any) -> None:
    """The other: uses some of the same objects until the end; reports what it got."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    got = []
    while not stop.is_set():
        with objects["rlock"]:
            pass
        with objects["condition"]:
            objects["condition"].notify()
        with contextlib.suppress(queue.Empty):
            got.append(objects["queue"].get(timeout=0.001))
    items.put(got)


def storm(objects: dict[str, Any], times: int, report: Any) -> None:
    faulthandler.dump_traceback_later(PATIENCE + times / 50, exit=True)
    with Storm(times) as blowing:
        victim = Victim(objects, blowing)
        victim.run()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    faulthandler.cancel_dump_traceback_later()
    report.put((victim.found, victim.counts, victim.tried, victim.got))


def drained(q: Any) -> list[Any]:
    items = []
    while True:
        try:
            items.append(q.get(block=False))
        except queue.Empty:
            return items


def main(where: str, times: int) -> int:
    context = multiprocessing.get_context("spawn")
    with unirun.Executor(2, backend="process") as executor:
        objects: dict[str, Any] = {
            "lock": executor.Lock(),
            "rlock": executor.RLock(),
            "condition": executor.Condition(),
            "permits": executor.Semaphore(1),
            "queue": executor.Queue(5),
            "stack": executor.LifoQueue(),
            "event": executor.Event(),
            "barrier": executor.Barrier(2),
        }
        stop, items, report = executor.Event(), executor.Queue(), executor.Queue()
        other = context.Process(target=contend, args=(objects, stop, items))
        other.start()
        if where == "home":
            storm(objects, times, report)
        else:
            process = context.Process(target=storm, args=(objects, times, report))
            process.start()
            process.join()
        found, counts, tried, got = report.get(timeout=PATIENCE)
        stop.set()
        got += items.get(timeout=PATIENCE)
        other.join()
        left = drained(objects["queue"]) + drained(objects["stack"])
    twice = [item for item, times in Counter(got + left).items() if times > 1]
    found += [f"delivered twice: {sorted(twice)}"] if twice else []
    invented = set(got + left) - tried
    found += [f"never put: {sorted(invented)}"] if invented else []
    lost = len(tried) - len(set(got + left))
    print(f"lost or not put: {lost}", *(f"{name}: {n}" for name, n in counts.items()), sep="\n")
    print(*found[-10:], f"violations: {len(found)}", sep="\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    from shared_storm import main as main_of_module

    sys.exit(main_of_module(sys.argv[1], int(sys.argv[2])))
