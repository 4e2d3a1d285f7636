"""Kills, crashes, timeouts and cancels mixed into many calls on processes; then the accounts.

    python -m benchmarks.stress --calls 100000 --seed 1

Each call appends its number to a log on disk when it begins. Afterwards `_verdict` compares what
was asked for, what each future says and what the log says. The seed fixes what is submitted and
what is done to it; the moments at which it happens are the machine's. Exit status: 0, or 1 with one
line for each violation.
"""

import argparse
import faulthandler
import queue
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import CancelledError
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import unirun
from benchmarks import _faults, _verdict
from benchmarks._faults import CRASH, HANG, QUICK, RAISE, SLOW
from benchmarks._verdict import Call

PATIENCE = 60.0  # seconds without the end of a future, after which it is called open
TIMEOUT = 0.05  # of calls that hang
IN_FLIGHT = 1000  # more would mean that whatever is killed has not begun
SHOWN = 20

LIMIT = 60.0, 0.005  # seconds for a whole run: for itself and for each call

MODES = {QUICK: 0.965, SLOW: 0.02, RAISE: 0.01, CRASH: 0.003, HANG: 0.002}
CANCEL, KILL, KILL_BY_OTHER = 0.01, 0.005, 0.005


@dataclass(slots=True)
class Run:
    """The calls of one run, their futures, and the thread that kills what hangs."""

    executor: unirun.Executor
    chance: random.Random
    log: str
    calls: list[Call] = field(default_factory=list)
    futures: list[unirun.Future[int]] = field(default_factory=list)
    doomed: queue.SimpleQueue[int | None] = field(default_factory=queue.SimpleQueue)
    """Numbers for the other thread to kill; None ends it."""
    oldest: int = 0
    """No call below this number is in flight."""

    def go(self, count: int) -> None:
        # It kills while others are submitted, and its kills meet those of this thread.
        killer = threading.Thread(target=self._kill_the_doomed)
        killer.start()
        try:
            for number in range(count):
                self._submit(number)
                self._disturb(number)
                if not self._wait_for_room(number):
                    break  # a future is open that should have ended: it will be named
        finally:
            self.doomed.put(None)
            killer.join()

    def _submit(self, number: int) -> None:
        mode = self.chance.choices(list(MODES), list(MODES.values()))[0]
        call = Call(mode, limited=mode == HANG and self.chance.random() < 0.5)
        view = self.executor.options(timeout=TIMEOUT) if call.limited else self.executor
        self.calls.append(call)
        self.futures.append(view.submit(_faults.act, number, mode, self.log))
        if mode == HANG and not call.limited:
            self._doom(number)

    def _disturb(self, number: int) -> None:
        lot = self.chance.random()
        if lot < CANCEL:
            self._cancel(max(0, number - int(self.chance.expovariate(1 / 20))))
        elif lot < CANCEL + KILL:
            self._kill(self._probably_running(number))
        elif lot < CANCEL + KILL + KILL_BY_OTHER:
            self._doom(self._probably_running(number))

    def _probably_running(self, number: int) -> int:
        self._skip_ended(number)
        return min(number, self.oldest + int(self.chance.expovariate(1 / 2)))

    def _cancel(self, number: int) -> None:
        self.calls[number].cancel_asked = True
        if self.futures[number].cancel():
            self.calls[number].promised = True

    def _kill(self, number: int) -> None:
        self.calls[number].kill_asked = True
        if self.futures[number].kill():
            self.calls[number].promised = True

    def _doom(self, number: int) -> None:
        self.calls[number].kill_asked = True
        self.doomed.put(number)

    def _kill_the_doomed(self) -> None:
        while (number := self.doomed.get()) is not None:
            future, until = self.futures[number], time.monotonic() + PATIENCE
            while self.calls[number].mode == HANG and not (future.running() or future.done()):
                time.sleep(0.0005)  # a kill before it begins would be a mere cancel
                if time.monotonic() > until:
                    break
            self._kill(number)

    def _wait_for_room(self, number: int) -> bool:
        self._skip_ended(number)
        if number - self.oldest >= IN_FLIGHT:
            await_end(self.futures[self.oldest], time.monotonic() + PATIENCE)
            return self.futures[self.oldest].done()
        return True

    def _skip_ended(self, number: int) -> None:
        while self.oldest < number and self.futures[self.oldest].done():
            self.oldest += 1

    def ends(self) -> list[str]:
        until = time.monotonic() + PATIENCE
        found = []
        for number, future in enumerate(self.futures):
            if not future.done():
                await_end(future, until)
                if future.done():
                    until = time.monotonic() + PATIENCE  # it goes on: be patient again
            found.append(end_of(number, future))
        return found


def await_end(future: unirun.Future[int], until: float) -> None:
    try:
        future.exception(max(0.0, until - time.monotonic()))
    except (CancelledError, TimeoutError):
        return  # who calls asks whether it is done


def end_of(number: int, future: unirun.Future[int]) -> str:
    """What the future says, in the words of `_verdict`."""
    if not future.done():
        return _verdict.OPEN
    if future.cancelled():
        return _verdict.KILLED if _was_killed(future) else _verdict.CANCELLED
    error = future.exception()
    if error is None:
        return _verdict.VALUE if future.result() == number else f"value {future.result()!r}"
    if isinstance(error, unirun.WorkerCrashed):
        return _verdict.CRASHED
    if isinstance(error, unirun.NotKillable):
        return _verdict.LEFT
    if isinstance(error, unirun.QueueTimeout):
        return _verdict.EXPIRED
    if isinstance(error, unirun.TaskTimeout):
        return _verdict.TIMED_OUT
    expected = type(error) is ValueError and error.args == (number,)
    return _verdict.RAISED if expected else repr(error)


def _was_killed(future: unirun.Future[int]) -> bool:
    try:
        future.result()
    except unirun.TaskKilled:
        return True
    except CancelledError:
        return False
    return False


def stress(calls: int, seed: int, workers: int, log: Path) -> tuple[dict[str, Any], list[str]]:
    """Counts, and the violations found."""
    log.touch()
    began = time.monotonic()
    executor = unirun.Executor(workers, backend="process", grace=0)
    run = Run(executor, random.Random(seed), str(log))
    try:
        run.go(calls)
        ends = run.ends()
    finally:
        executor.shutdown(kill=True)  # what hangs by mistake is in `ends` already
    with log.open() as lines:
        started = _verdict.read_log(lines)
    counts = {
        "ends": dict(Counter(ends)),
        "began": started.total(),
        "stats": executor.stats()["process"],
        "seconds": round(time.monotonic() - began, 1),
    }
    return counts, list(_verdict.violations(run.calls, ends, started))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m benchmarks.stress", description=__doc__)
    parser.add_argument("--calls", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--log", type=Path, help="keep the start log in this file")
    wanted = parser.parse_args(arguments)
    # A pool that hangs, perhaps in kill(), must end with the stacks of its threads, not stay.
    faulthandler.dump_traceback_later(LIMIT[0] + LIMIT[1] * wanted.calls, exit=True)
    with tempfile.TemporaryDirectory() as directory:
        log = wanted.log or Path(directory, "started")
        counts, found = stress(wanted.calls, wanted.seed, wanted.workers, log)
    faulthandler.cancel_dump_traceback_later()
    print(f"calls: {wanted.calls}, seed: {wanted.seed}, workers: {wanted.workers}")
    print(*(f"{name}: {value}" for name, value in counts.items()), sep="\n")
    print(*found[:SHOWN], sep="\n", end="\n" if found else "")
    print(f"violations: {len(found)}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
