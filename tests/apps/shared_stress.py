"""Kills whoever uses shared objects, at any instruction, thousands of times; then the accounts.

    python tests/apps/shared_stress.py --kills 5000 --method fork --seed 1

Participants loop over operations on the same objects.  Most of them have an alarm clock that kills
them, from inside the kernel, microseconds to milliseconds after they began; with the method
"executor" they are tasks, and the program kills their workers by SIGKILL.  One thread of this
process and one other process are never killed; with `--stops` the latter is stopped (SIGSTOP) again
and again, for longer than a time-out may be late.  What each does is in a ledger that they all map:

* a counter that only the holder of a lock touches is exact but for holders killed in the middle;
* who finds another's name there got the lock by a death, and sees it `abandoned`;
* every item put is delivered once, or is left, or was in the hands of one who was killed;
* what a put refused or a death withdrew is nowhere; permits are all there; nobody waits too long.

The seed fixes what is tried and how long each lives; the rest is the machine's.  Exit status: 0, or
1 with a line for each violation.
"""

import argparse
import faulthandler
import multiprocessing
import os
import queue
import random
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from shared_loops import (
    ARMED,
    COUNTS,
    DONE,
    GETTING,
    INSIDE,
    ITEMS,
    LATEST,
    LOCKS,
    OPERATION,
    OPERATIONS,
    PID,
    PUT,
    REFUSED,
    SINCE,
    STANDSTILL,
    STOP,
    STOPPED,
    Ledger,
    Participant,
    make_objects,
    participate,
)

import unirun

LONG = 10.0  # seconds in one operation, after which a participant is said to hang


class Run:
    """The executor, who is alive, and who was killed."""

    def __init__(self, ledger: Ledger, method: str, seed: int, manager: str) -> None:
        self.ledger, self.method, self.seed = ledger, method, seed
        self.chance = random.Random(seed)
        self.executor = unirun.Executor(
            4,
            backend="process",
            grace=0,
            preload=["shared_loops"] if method == "executor" else [],
            manager=manager,
        )
        self.objects = make_objects(self.executor)
        self.context: Any = multiprocessing.get_context(None if method == "executor" else method)
        if method == "forkserver":
            self.context.set_forkserver_preload(["shared_loops"])
        self.alive: dict[int, Any] = {}
        self.doomed: dict[int, float] = {}  # of workers: when they are to be killed
        self.lives: dict[int, float] = {}
        self.begun = 0
        self.killed = 0
        self.stops = 0  # how often one is still to be stopped
        self.standing, self.turn = False, 0.0
        self.thread = threading.Thread(target=participate_here, args=(ledger, self.objects, seed))

    def go(self, kills: int, stops: int, at_once: int) -> bool:
        """Whether all came to an end."""
        self.stops = stops
        self.begun = 1
        self.thread.start()
        self.begin(None)
        looked = time.monotonic()
        while self.killed < kills or self.stops:
            while len(self.alive) <= at_once and self.begun < self.ledger.participants:
                self.begin(self.a_life())
            self.look_after()
            self.stop_or_go_on()
            if time.monotonic() - looked > 0.5:
                looked = time.monotonic()
                if self.somebody_hangs():
                    return False
            time.sleep(0.0005)
        self.ledger.numbers[STOP] = 1
        end = time.monotonic() + LONG
        while self.alive or self.thread.is_alive():
            self.look_after()
            if time.monotonic() > end:
                self.name_the_living()
                return False
            time.sleep(0.001)
        return True

    def a_life(self) -> float:
        short = self.chance.random() < 0.5
        return 1e-5 + (self.chance.expovariate(1 / 0.002) if short else self.chance.random() / 50)

    def begin(self, life: float | None) -> None:
        number, self.begun = self.begun, self.begun + 1
        args = (self.ledger, number, self.objects, self.seed)
        if self.method == "executor" and life is not None:
            self.alive[number] = self.executor.submit(participate, *args, None)
            self.lives[number] = life
            return
        process = self.context.Process(target=participate, args=(*args, life))
        process.start()
        self.alive[number] = process

    def look_after(self) -> None:
        now = time.monotonic()
        for number, each in list(self.alive.items()):
            row = self.ledger.row(number)
            if number in self.lives and row[ARMED]:
                self.doomed[number] = now + self.lives.pop(number)
            if self.doomed.get(number, now + 1) <= now and not row[DONE]:
                del self.doomed[number]
                os.kill(row[PID], signal.SIGKILL)
            if self.has_ended(number, each):
                del self.alive[number]

    def stop_or_go_on(self) -> None:
        """Let the process that is never killed stand still for a while, again and again."""
        row, now = self.ledger.row(STOPPED), time.monotonic()
        if now < self.turn or not self.stops or not row[ARMED]:
            return
        self.standing = not self.standing
        os.kill(row[PID], signal.SIGSTOP if self.standing else signal.SIGCONT)
        self.stops -= not self.standing
        self.turn = now + (STANDSTILL if self.standing else self.chance.random() / 10)

    def has_ended(self, number: int, each: Any) -> bool:
        if isinstance(each, unirun.Future):
            if not each.done():
                return False
            error, died = each.exception(), isinstance(each.exception(), unirun.WorkerCrashed)
            text = repr(error)
        else:
            if each.exitcode is None:
                return False
            error, died = each.exitcode or None, each.exitcode == -signal.SIGALRM
            text = f"exit code {each.exitcode}"
            each.close()
        self.killed += died
        if error is not None and not died:
            self.ledger.complain(f"{number}: ended by {text}")
        return True

    def somebody_hangs(self, long: float = LONG) -> bool:
        found = False
        for number in [0, *self.alive]:
            row = self.ledger.row(number)
            seconds = (time.monotonic_ns() - row[SINCE]) / 1e9
            if row[OPERATION] and seconds > long and not row[DONE] and not self.standing:
                found = True
                name = OPERATIONS[row[OPERATION] - 1]
                self.ledger.complain(f"{number}: hangs in {name} for {seconds:.1f} s")
                os.kill(row[PID], signal.SIGUSR1)  # it says where
                time.sleep(0.2)
        return found

    def name_the_living(self) -> None:
        """Who has not ended though told to, what it was in the middle of, and its stack."""
        for number in [0, *self.alive]:
            row = self.ledger.row(number)
            if number or self.thread.is_alive():
                doing = ["nothing", *OPERATIONS][row[OPERATION]]
                state = f"armed {row[ARMED]}, done {row[DONE]}, in {doing}"
                self.ledger.complain(f"{number}: does not end; {state}")
                each = self.alive.get(number)
                os.kill(getattr(each, "pid", None) or row[PID] or os.getpid(), signal.SIGUSR1)
                time.sleep(0.2)  # it says where

    def close(self, ended: bool) -> None:
        if not ended:
            for each in self.alive.values():
                each.kill()
        self.executor.shutdown(kill=not ended)


def participate_here(ledger: Ledger, objects: dict[str, Any], seed: int) -> None:
    try:
        Participant(ledger, 0, objects, seed).run()
    except BaseException as exc:
        ledger.complain(f"0: ended by {exc!r}")
        raise


# -- the accounts ---------------------------------------------------------------------------------


def balance(run: Run) -> None:
    """Complain of all that is not as it has to be after everybody's end."""
    ledger = run.ledger
    rows = [ledger.row(number) for number in range(run.begun)]
    dead = [row for row in rows if not row[DONE]]
    for index, name in enumerate(LOCKS):
        counted = ledger.numbers[2 * index + 1]
        claimed = sum(row[COUNTS + index] for row in rows)
        in_the_middle = sum(bool(row[INSIDE] & 1 << index) for row in dead)
        if not claimed <= counted <= claimed + in_the_middle:
            ledger.complain(f"{name}: {counted} counted, {claimed} claimed, {in_the_middle} killed")
    check_objects(run)
    left = {item for q in run.objects["queues"] for item, _, _ in drained(q)}
    lost = 0
    for item in range(run.begun * ITEMS):
        put, got = ledger.put[item], ledger.got[item]
        if got + (item in left) > 1:
            ledger.complain(f"item {item} was delivered and is left")
        if (got or item in left) and put in (0, REFUSED):
            ledger.complain(f"item {item} was refused and is there")
        lost += put == PUT and not got and item not in left
    in_hands = sum(row[GETTING] for row in dead)
    if lost > in_hands:
        ledger.complain(f"{lost} items lost, at most {in_hands} with those who were killed")
    print(f"items: {sum(map(bool, ledger.put))}, left: {len(left)}, lost with the killed: {lost}")
    latest = max(row[LATEST] for number, row in enumerate(rows) if number != STOPPED)
    print(f"latest: {latest / 1e3:.1f} ms past a time-out")


def check_objects(run: Run) -> None:
    complain = run.ledger.complain
    for name in ("lock", "rlock", "permit", "condition"):
        if not run.objects[name].acquire(timeout=LONG):
            complain(f"{name} is not free at the end")
        else:
            run.objects[name].release()
    permits = run.objects["permits"]
    if [permits.acquire(timeout=0.5) for _ in range(3)] != [True, True, False]:
        complain("the permits are not 2 at the end")
    run.objects["barrier"].reset()
    met = run.executor.submit(run.objects["barrier"].wait, LONG)
    if {run.objects["barrier"].wait(LONG), met.result()} != {0, 1}:
        complain("the barrier does not let two pass at the end")


def drained(q: Any) -> list[Any]:
    items = []
    while True:
        try:
            items.append(q.get(block=False))
        except queue.Empty:
            return items


METHODS: tuple[str, ...] = ("executor", *multiprocessing.get_all_start_methods())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--method", choices=METHODS, default="fork")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--stops", type=int, default=0, help="how often one is stopped")
    parser.add_argument("--manager", choices=["thread", "process"], default="thread")
    parser.add_argument("--at-once", type=int, default=3, help="how many mortals live at a time")
    wanted = parser.parse_args()
    faulthandler.register(signal.SIGUSR1)  # before any fork: whoever hangs says where
    faulthandler.dump_traceback_later(120 + wanted.kills + 3 * wanted.stops, exit=True)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "ledger")
        path.touch()
        violations = Path(directory, "ledger.violations")
        violations.touch()
        ledger = Ledger(str(path), wanted.kills + 100 + 300 * wanted.stops)
        run = Run(ledger, wanted.method, wanted.seed, wanted.manager)
        ended = run.go(wanted.kills, wanted.stops, wanted.at_once)
        if ended:
            balance(run)
        found = violations.read_text().splitlines()
        print(*found[:20], sep="\n", end="\n" if found else "")
        print(f"kills: {run.killed}, seconds: {time.monotonic() - began:.1f}")
        print(f"violations: {len(found)}", flush=True)
        run.close(ended)
    return 1 if found or not ended else 0


if __name__ == "__main__":
    status = main()
    if status:
        os._exit(status)  # whoever hangs shall not be waited for
    sys.exit(status)
