"""Sixteen threads submit at once, cancel and kill each other's calls and shut executors down.

    python -m benchmarks.storm --calls 100000 --seed 1 --backend process

All threads use one executor until one of them, which one is drawn by lot, shuts it down in one of
four ways and puts another in its place; the others find out by themselves.  Each call appends its
number to a log on disk when it begins.  What must hold then stands in `_verdict.py`; beside it,
each future calls back exactly once, no `shutdown` hangs and no submit fails for another reason.
"""

import argparse
import faulthandler
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import unirun
from benchmarks import _faults, _verdict
from benchmarks._faults import CRASH, HANG, LINGER, QUICK, RAISE, SLOW
from benchmarks._verdict import Call
from benchmarks._workload import Figures, Row, Sizes, Workload
from benchmarks.stress import await_end, end_of

THREADS = 16
WORKERS = 4
PATIENCE = 60.0  # seconds without the end of a future, after which it is called open
TIMEOUT = 0.05  # of calls that hang
IN_FLIGHT = 60  # of one thread; more would mean that whatever is killed has not begun
SHOWN = 20
LIMIT = 100.0, 0.005  # seconds for a whole run: for itself and for each call

MODES = {
    "process": {QUICK: 0.95, SLOW: 0.03, RAISE: 0.01, CRASH: 0.005, HANG: 0.005},
    "thread": {QUICK: 0.95, SLOW: 0.03, RAISE: 0.015, LINGER: 0.005},
}
CANCEL, KILL, HURRY = 0.02, 0.01, 0.02
ENDINGS = ("wait", "leave", "cancel", "kill")


@dataclass(slots=True, eq=False)
class Season:
    """An executor, and what the calls in it have to put up with."""

    executor: unirun.Executor
    ends: set[str] = field(default_factory=set)
    """How it is being shut down, or was; two threads may do it at once, each in its own way."""


@dataclass(slots=True, eq=False)
class Entry:
    """One call; each is touched by the thread that made it, and in `disturb` by any."""

    call: Call
    season: Season
    future: unirun.Future[int] | None = None


@dataclass(slots=True)
class Storm:
    backend: str
    count: int
    seed: int
    log: str
    seasons: int
    entries: dict[int, Entry] = field(default_factory=dict)
    told: Counter[int] = field(default_factory=Counter)
    """Number of a call -> how often it called back; only its own thread of callbacks adds to it."""
    wrong: list[str] = field(default_factory=list)
    season: Season = field(init=False)
    _shut: list[Season] = field(default_factory=list)
    _all_ready: threading.Barrier = field(default_factory=lambda: threading.Barrier(THREADS))

    def go(self) -> None:
        self.season = self._begin_season()
        threads = [threading.Thread(target=self._work, args=(n,)) for n in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _begin_season(self) -> Season:
        return Season(unirun.Executor(WORKERS, backend=self.backend, grace=0))

    # -- one of the threads -----------------------------------------------------------------------

    def _work(self, index: int) -> None:
        chance = random.Random(f"{self.seed}, {index}")
        every = max(1, self.count // self.seasons)
        mine: list[int] = []
        self._all_ready.wait()
        for number in range(index, self.count, THREADS):
            self._submit(number, chance)
            mine.append(number)
            self._disturb(number, mine, chance)
            if len(mine) > IN_FLIGHT and not self._see_to(mine.pop(0)):
                return  # it will be named
            if number and number % every == 0:
                self._end_season(chance, mine)
        for each in mine:
            self._see_to(each)

    def _submit(self, number: int, chance: random.Random) -> None:
        modes = MODES[self.backend]
        mode = chance.choices(list(modes), list(modes.values()))[0]
        limited = mode in (HANG, LINGER) and chance.random() < 0.7
        hurried = chance.random() < HURRY
        call = Call(mode, limited=limited, hurried=hurried)
        options: dict[str, Any] = {"timeout": TIMEOUT} if limited else {}
        options |= {"queue_timeout": 0.001} if hurried else {}
        entry = self.entries[number] = Entry(call, self.season)
        season = entry.season
        try:
            view = season.executor.options(**options) if options else season.executor
            entry.future = view.submit(_faults.act, number, mode, self.log)
        except unirun.ExecutorShutdown:
            call.refused = True
            if not season.ends:
                self.wrong.append(f"call {number} was refused by an executor that is open")
            return
        entry.future.add_done_callback(lambda _: self.told.update((number,)))

    def _disturb(self, number: int, mine: list[int], chance: random.Random) -> None:
        lot = chance.random()
        if lot >= CANCEL + KILL:
            return
        # Its own, or one of the thread beside it, which may be doing the same to it.
        victim = chance.choice(mine) + chance.choice((0, 0, 1))
        entry = self.entries.get(victim)
        if entry is None or entry.future is None:
            return
        if lot < CANCEL:
            entry.call.cancel_asked = True
            entry.call.promised |= entry.future.cancel()
        else:
            self._kill(entry)

    def _kill(self, entry: Entry) -> None:
        assert entry.future is not None
        entry.call.kill_asked = True
        try:
            entry.call.promised |= entry.future.kill()
        except unirun.NotKillable:
            if self.backend != "thread":
                self.wrong.append("a call on a process could not be killed")

    def _see_to(self, number: int) -> bool:
        """Wait for its end; False if there is none."""
        entry = self.entries[number]
        if entry.future is None:
            return True
        if entry.call.mode == HANG and not entry.call.limited:
            self._kill(entry)
        await_end(entry.future, time.monotonic() + PATIENCE)
        return entry.future.done()

    def _end_season(self, chance: random.Random, mine: list[int]) -> None:
        """In one of the ways there are; who submits to it meanwhile is refused, or not."""
        season, how = self.season, chance.choice(ENDINGS)
        if how == "wait":
            for number in mine:
                self._see_to(number)  # or it would wait for what only this thread will kill
        self.season = self._begin_season()
        self._shut.append(season)
        season.ends.add(how)
        try:
            season.executor.shutdown(
                wait=how in ("wait", "kill"),
                timeout=PATIENCE if how == "wait" else None,
                cancel_futures=how == "cancel",
                kill=how == "kill",
            )
        except TimeoutError as exc:
            self.wrong.append(f"a shutdown did not end: {exc}")

    # -- afterwards -------------------------------------------------------------------------------

    def verdict(self) -> tuple[dict[str, Any], list[str]]:
        numbers = range(self.count)
        calls = [self.entries[number].call for number in numbers if number in self.entries]
        ends = [self._end_of(number) for number in numbers if number in self.entries]
        for entry in self.entries.values():
            entry.call.cancel_asked |= not entry.season.ends.isdisjoint({"cancel", "kill"})
            entry.call.kill_asked |= "kill" in entry.season.ends
        with Path(self.log).open() as lines:
            started = _verdict.read_log(lines)
        found = [*self.wrong, *_verdict.violations(calls, ends, started)]
        for number, entry in self.entries.items():
            if entry.future is not None and self.told[number] != 1:
                found.append(f"call {number} called back {self.told[number]} times")
        if len(calls) < self.count:
            found.append(f"{self.count - len(calls)} calls were not submitted")
        return {"ends": dict(Counter(ends)), "seasons": len(self._shut) + 1}, found

    def _end_of(self, number: int) -> str:
        entry = self.entries[number]
        if entry.future is None or (entry.season.ends and _is_refused(entry.future)):
            entry.call.refused = True
            return _verdict.REFUSED
        return end_of(number, entry.future)

    def close(self) -> None:
        for season in [*self._shut, self.season]:
            season.executor.shutdown(kill=True)


def _is_refused(future: Any) -> bool:
    """It was handed over in the very moment in which the executor was shut down."""
    done = future.done() and not future.cancelled()
    return done and isinstance(future.exception(), unirun.ExecutorShutdown)


def storm(
    backend: str, calls: int, seed: int, log: Path, seasons: int = 20
) -> tuple[dict[str, Any], list[str]]:
    """Counts, and the violations found."""
    log.touch()
    began = time.monotonic()
    run = Storm(backend, calls, seed, str(log), seasons)
    try:
        run.go()
    finally:
        run.close()
    counts, found = run.verdict()
    return {**counts, "seconds": round(time.monotonic() - began, 1)}, found


def measure(contender: str, sizes: Sizes) -> Figures:
    backend = "thread" if contender == "unirun-thread" else "process"
    with tempfile.TemporaryDirectory() as directory:
        log = Path(directory, "started")
        _, found = storm(backend, sizes["calls"], 1, log, sizes["seasons"])
    print(*found[:SHOWN], sep="\n", file=sys.stderr)
    return {"violations": float(len(found))}


WORKLOADS = (
    Workload(
        "storm",
        "100k submits by 16 threads with cancels, kills, timeouts and shutdowns",
        "",
        measure,
        (
            Row("violations", "unirun", None, at_most=0),
            Row("violations", "unirun-thread", None, at_most=0),
        ),
        sizes={"calls": 100_000, "seasons": 20},
        quick={"calls": 2000, "seasons": 4},
    ),
)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m benchmarks.storm", description=__doc__)
    parser.add_argument("--calls", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--backend", choices=sorted(MODES), default="process")
    parser.add_argument("--seasons", type=int, default=20, help="executors used up")
    parser.add_argument("--log", type=Path, help="keep the start log in this file")
    wanted = parser.parse_args(arguments)
    # What hangs must end with the stacks of all threads, not stay.
    faulthandler.dump_traceback_later(LIMIT[0] + LIMIT[1] * wanted.calls, exit=True)
    with tempfile.TemporaryDirectory() as directory:
        log = wanted.log or Path(directory, "started")
        counts, found = storm(wanted.backend, wanted.calls, wanted.seed, log, wanted.seasons)
    faulthandler.cancel_dump_traceback_later()
    print(f"calls: {wanted.calls}, seed: {wanted.seed}, backend: {wanted.backend}")
    print(*(f"{name}: {value}" for name, value in counts.items()), sep="\n")
    print(*found[:SHOWN], sep="\n", end="\n" if found else "")
    print(f"violations: {len(found)}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
