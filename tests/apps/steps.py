"""What a program does while one of its processes is stepped through; see step_through.py.

It does the same in each round, with a new executor, and looks whether every call has ended rightly:
short and long ones, a map, large arrays, a kill, a time-out, shared objects, the shutdown.  Each
call notes in a ledger that it has begun, so that none is found to have run twice.

    standard input     one round: what is done to whom                        {"victim": ..., ...}
                       it has been done (or never was)                        {"pid": ...}
    standard output    whom to follow from now on                             {"leader": ...}
                       what was wrong, and how long it took                   {"wrong": [...], ...}
"""

import contextlib
import faulthandler
import gc
import itertools
import json
import os
import select
import signal
import sys
import threading
import time
from collections import Counter
from concurrent.futures import wait
from pathlib import Path
from typing import Any

PATIENCE = 15.0  # seconds for anything at all; far more than it takes
STANDSTILL = 0.6  # seconds after which what a stopped process holds up is told to be over
LATE = 1.0  # seconds that nothing takes but for a process that was stopped
WORKERS = ("worker", "spawned", "forked")
MARK = "STEPPED_THROUGH_BY"


# -- what runs in workers ------------------------------------------------------------------------


def note(ledger: str, number: int) -> None:
    fd = os.open(ledger, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(fd, f"{number} {os.getpid()}\n".encode())
    os.close(fd)


def square(ledger: str, number: int) -> int:
    note(ledger, number)
    return number * number


def nap(ledger: str, number: int, seconds: float) -> int:
    note(ledger, number)
    time.sleep(seconds)
    return number


def turn(ledger: str, number: int, data: bytearray) -> bytearray:
    note(ledger, number)
    return data[::-1]


def share(ledger: str, number: int, lock: Any, queue: Any) -> int:
    note(ledger, number)
    if not lock.acquire(timeout=PATIENCE):
        raise TimeoutError("the lock was not free")
    with contextlib.suppress(RuntimeError):  # abandoned by one who was killed
        queue.put(number, timeout=PATIENCE)
    lock.release()
    return number


# -- one round -----------------------------------------------------------------------------------


class Round:
    """One executor from its beginning to its end."""

    def __init__(self, wish: dict[str, Any], ledger: str) -> None:
        self.wish = wish
        self.ledger = ledger
        self.wrong: list[str] = []
        self.crashed: list[str] = []
        self.lost = 0  # calls that have met a dead manager
        self.held_up: list[str] = []  # by a process that was stopped, and killed by us
        self.late: list[str] = []
        self.expected: dict[str, tuple[Any, Any]] = {}
        self.done: dict[str, Any] | None = None  # what was done to the victim

    def run(self) -> dict[str, Any]:
        import unirun

        victim = self.wish["victim"]
        where = "process" if victim == "manager" else "thread"
        how = {"spawned": "spawn", "forked": "fork"}.get(victim, "zygote")
        began = time.monotonic()
        if how == "zygote":
            self._start_zygote()
        executor = unirun.Executor(
            2, backend="process", mp_context=how, manager=where, grace=0.05, preload=["steps"]
        )
        try:
            self._shared(executor)
            self._stage("calls", self._calls, executor)
            self._stage("kills", self._kills, executor)
            self._stage("last", self._last, executor)
        finally:
            self._in_time("shutdown", executor.shutdown, timeout=PATIENCE)
        took = time.monotonic() - began
        del executor
        self.expected.clear()
        self._look_around()
        self._victim()
        return {
            "wrong": self.wrong,
            "crashed": self.crashed,
            "held_up": self.held_up,
            "late": self.late,
            "seconds": took,
        }

    def _start_zygote(self) -> None:
        from unirun.backends.process import early

        if self.wish["victim"] == "zygote":
            tell(leader=threading.get_native_id())
            hear(PATIENCE)
        early.begin()
        zygote = early._begun[-1][0]
        if self.wish["victim"] == "worker":
            tell(leader=zygote)
            hear(PATIENCE)

    def _shared(self, executor: Any) -> None:
        import unirun

        if self.wish["victim"] == "manager":
            tell(leader=threading.get_native_id())
            hear(PATIENCE)
        for _ in range(2):  # one that dies while it begins is replaced, once
            try:
                self.lock, self.queue = executor.Lock(), executor.Queue()
                return
            except unirun.ManagerLost:
                self.lost += 1
        self.wrong.append("shared objects could not be made")

    # -- the calls -------------------------------------------------------------------------------

    def _calls(self, executor: Any) -> None:
        ledger, expect = self.ledger, self.expected
        if self.wish["victim"] in ("spawned", "forked"):  # the pool's own thread makes the workers
            expect["first"] = executor.submit(square, ledger, 9), 81
            wait([expect["first"][0]], PATIENCE)
            loop = next(t for t in threading.enumerate() if t.name.endswith("-loop"))
            tell(leader=loop.native_id)
            hear(PATIENCE)
        for n in range(8):
            expect[f"short {n}"] = executor.submit(square, ledger, n), n * n
        expect["long"] = executor.submit(nap, ledger, 20, 0.03), 20
        data = bytearray(os.urandom(100_000))
        for n in (21, 22):
            expect[f"array {n}"] = executor.submit(turn, ledger, n, data), data[::-1]
        for n in (23, 24, 25):
            call = executor.submit(share, ledger, n, self.lock, self.queue)
            expect[f"share {n}"] = call, n
        items = range(30, 50)
        results = executor.map(square, [ledger] * 20, items, errors="return", chunksize=5)
        self._end_all()
        self._map(results, items)
        self._drain()

    def _map(self, results: Any, items: range) -> None:
        reader = threading.Thread(target=lambda: got.extend(results), daemon=True)
        got: list[Any] = []
        reader.start()
        end = time.monotonic() + PATIENCE
        while reader.is_alive() and time.monotonic() < end:
            reader.join(STANDSTILL)
            if reader.is_alive():
                self._free_from_victim()
        if reader.is_alive():
            self.wrong.append("the map hangs")
            return
        if len(got) != len(items):
            self.wrong.append(f"the map gave {len(got)} results")
        for item, result in zip(items, got, strict=False):
            self._judge(f"item {item}", result, item * item)

    def _drain(self) -> None:
        """What was put is there, but for what the dead had in their hands."""
        import queue

        import unirun

        got: Counter[int] = Counter()
        sure = [n for n in (23, 24, 25) if f"share {n}" not in self.crashed + self.held_up]
        try:
            while True:
                missing = not self.lost and set(sure) - set(got)
                got[self.queue.get(timeout=PATIENCE if missing else 0)] += 1
        except queue.Empty:
            pass
        except unirun.ManagerLost:
            self.lost += 1
            return
        if not self.lost and (set(sure) - set(got) or max(got.values(), default=1) > 1):
            self.wrong.append(f"in the queue was {dict(got)}")

    def _kills(self, executor: Any) -> None:
        import unirun

        calls = {"killed": executor.submit(nap, self.ledger, 60, 1000.0)}
        timed = executor.options(timeout=0.1, queue_timeout=PATIENCE)
        calls["timed"] = timed.submit(nap, self.ledger, 61, 1000.0)
        end = time.monotonic() + STANDSTILL
        while not calls["killed"].running() and time.monotonic() < end:
            time.sleep(0.001)
        self._in_time("kill", calls["killed"].kill)
        self.expected["killed"] = calls["killed"], unirun.TaskKilled
        self.expected["timed"] = calls["timed"], unirun.TaskTimeout
        self._end_all()

    def _last(self, executor: Any) -> None:
        for n in range(70, 74):
            self.expected[f"last {n}"] = executor.submit(square, self.ledger, n), n * n
        self._end_all()

    # -- their ends ------------------------------------------------------------------------------

    def _stage(self, name: str, work: Any, executor: Any) -> None:
        self._in_time(name, work, executor)

    def _in_time(self, what: str, work: Any, *args: Any, **kwargs: Any) -> None:
        began = time.monotonic()
        try:
            work(*args, **kwargs)
        except Exception as exc:
            self.wrong.append(f"{what}: {type(exc).__name__}: {exc}")
        took = time.monotonic() - began
        if took > LATE:
            self.late.append(f"{what} took {took:.2f} s")

    def _end_all(self) -> None:
        """Wait for what was submitted; what a stopped process holds up is killed."""
        futures = [future for future, _ in self.expected.values()]
        end = time.monotonic() + PATIENCE
        while wait(futures, STANDSTILL).not_done and time.monotonic() < end:
            self._free_from_victim()
        for name, (future, _) in self.expected.items():
            if not future.done():
                self.wrong.append(f"{name} hangs: {future!r}")
        for name, (future, wanted) in self.expected.items():
            if future.done():
                got = None if future.cancelled() else future.exception(0)
                outcome = future.result(0) if not (got or future.cancelled()) else got
                self._judge(name, outcome, wanted, cancelled=future.cancelled())
        self.expected.clear()

    def _free_from_victim(self) -> None:
        """The victim stands still, for ever: kill the calls in it, and only them."""
        if self.wish["how"] != "stop" or self.wish["victim"] not in WORKERS:
            return
        victim = self._victim(0.0)
        for name, (future, _) in self.expected.items():
            peer = future._peer
            if not future.done() and peer is not None and peer.pid == victim:
                self.held_up.append(name)
                self._in_time(f"kill of {name}", future.kill)
        if len(self.held_up) > 1:
            self.wrong.append(f"one process that was stopped held up {self.held_up}")
        if self._is_stopped(victim) and victim:
            self.held_up.append("a map")
            os.kill(victim, signal.SIGKILL)

    def _is_stopped(self, pid: int) -> bool:
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
        except OSError:
            return False

    def _victim(self, patience: float = PATIENCE) -> int:
        if self.done is None:
            self.done = hear(patience)
        return int(self.done["pid"]) if self.done else 0

    def _judge(self, name: str, got: Any, wanted: Any, *, cancelled: bool = False) -> None:
        import unirun

        if name in self.held_up or (wanted is unirun.TaskKilled and cancelled):
            return
        if isinstance(wanted, type) and isinstance(got, wanted):
            return
        if isinstance(got, unirun.WorkerCrashed):
            self.crashed.append(name)
        elif isinstance(got, unirun.ManagerLost) and name.startswith("share"):
            self.lost += 1
        elif cancelled or type(got) is not type(wanted) or got != wanted:
            self.wrong.append(f"{name} gave {got!r:.300}{' (cancelled)' * cancelled}")

    # -- afterwards ------------------------------------------------------------------------------

    def _look_around(self) -> None:
        self._judge_deaths()
        self.lock = self.queue = None
        gc.collect()
        end = time.monotonic() + PATIENCE / 3
        while (left := alive()) and time.monotonic() < end:
            time.sleep(0.005)
        if left:
            self.wrong.append(f"still alive: {left}")
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        ran = Counter(line.split()[0] for line in lines_of(self.ledger))
        if twice := [number for number, count in ran.items() if count > 1]:
            self.wrong.append(f"ran more than once: {twice}")

    def _judge_deaths(self) -> None:
        allowed = int(self.wish["victim"] in WORKERS)
        if len(self.crashed) > allowed:
            self.wrong.append(f"crashed: {self.crashed}")
        if self.lost and self.wish["victim"] != "manager":
            self.wrong.append("the manager was lost")


def lines_of(ledger: str) -> list[str]:
    try:
        return Path(ledger).read_text().splitlines()
    except FileNotFoundError:
        return []


def alive() -> list[int]:
    """Processes that this program has started, whoever is their parent now, and runs still."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                environment = (entry / "environ").read_bytes()
                if f"{MARK}={os.environ[MARK]}".encode() in environment.split(b"\0"):
                    found.append(int(entry.name))
    return found


# -- all rounds ----------------------------------------------------------------------------------


def tell(**what: Any) -> None:
    os.write(1, json.dumps(what).encode() + b"\n")


def hear(patience: float) -> Any:
    """A line of standard input; None if none comes."""
    if not _lines and select.select([0], [], [], patience)[0]:
        data = os.read(0, 1 << 16)
        if not data:
            sys.exit()
        _lines.extend(data.splitlines())
    return json.loads(_lines.pop(0)) if _lines else None


_lines: list[bytes] = []


def fds() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def left_behind(allowed: int) -> str:
    """What is open still, once it has had the time to go; empty if that is all right."""
    end = time.monotonic() + PATIENCE / 3
    while fds() > allowed:
        if time.monotonic() > end:
            threads = [thread.name for thread in threading.enumerate()]
            return f"left behind: {fds()} descriptors, {threads}"
        time.sleep(0.01)
    return ""


def main() -> None:
    faulthandler.register(signal.SIGUSR1)
    ledger = Path(sys.argv[1]) / f"ledger{os.getpid()}"
    allowed = 1 << 20  # descriptors; two rounds show what is usual
    for number in itertools.count(1):
        wish = hear(1e6)
        report = Round(wish, str(ledger)).run()
        gc.collect()
        if left := left_behind(allowed):
            report["wrong"].append(left)
        if number == 2:
            allowed = fds() + 1
        ledger.unlink(missing_ok=True)
        tell(**report)
