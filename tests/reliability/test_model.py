"""The real backends beside a small model: whatever is asked of them, in any order.

Hypothesis submits, cancels, kills, times out, crashes, resizes, maps and shuts down.  Each call
says by a socket of its own that it has begun, and ends when it is told to; so what runs, what has
to begin next and what is over is known at any moment, without waiting for a while.
"""

import contextlib
import select
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from reliability_bodies_simulator import (
    die_at_start,
    die_if_there_is,
    double,
    take,
    take_and_die,
    wait_for_a_call_nobody_runs,
    wait_to_be_told,
)

import unirun
from unirun.testing import PATIENCE, invariants
from unirun.testing._gate import comes_true

FDS = Path("/proc/self/fd")
WINDOW = 4
TIMEOUT = 0.03  # seconds
ERRORS = {
    "answered": None,
    "cancelled": CancelledError,
    "killed": unirun.TaskKilled,
    "raised": ValueError,
    "crashed": unirun.WorkerCrashed,
    "late": unirun.TaskTimeout,
}


class Model:
    """What should happen to the calls of a backend."""

    def __init__(self, size: int) -> None:
        self.size = self.limit = size  # of slots, and of those that may be in use
        self.waiting: list[int] = []
        self.running: list[int] = []
        self.ended: dict[int, str] = {}
        self.starts: Counter[int] = Counter()
        self.retries: dict[int, int] = {}
        self.closed = False

    def submit(self, call: int, retries: int) -> None:
        self.waiting.append(call)
        self.retries[call] = retries

    def cancel(self, call: int) -> bool:
        if call in self.waiting:
            self.waiting.remove(call)
            self.ended[call] = "cancelled"
        elif call in self.running:
            self.retries[call] = self.starts[call] - 1  # asked to stop: this start is its last
        return self.ended.get(call) in ("cancelled", "killed")  # as `cancelled()`

    def begins(self, call: int) -> None:
        self.starts[call] += 1
        invariants.starts(call, self.starts[call], self.retries[call])
        self.waiting.remove(call)
        self.running.append(call)
        invariants.slots(len(self.running), self.limit)

    def ends(self, call: int, how: str) -> None:
        self.running.remove(call)
        self.limit = max(self.size, len(self.running))
        if how in ("raised", "crashed") and self.starts[call] <= self.retries[call]:
            self.waiting.append(call)
        else:
            self.ended[call] = how

    def resize(self, size: int) -> None:
        self.size, self.limit = size, max(size, len(self.running))

    @property
    def coming(self) -> int:
        """How many calls have to begin, whatever else happens."""
        return min(len(self.waiting), max(0, self.size - len(self.running)))

    def close(self, cancel: bool, kill: bool) -> None:
        self.closed = True
        for call in list(self.waiting) if cancel or kill else ():
            self.cancel(call)
        for call in list(self.running) if kill else ():
            self.running.remove(call)
            self.ended[call] = "killed"


class Backend(RuleBasedStateMachine):
    """An executor and the model of it; every call that runs waits at a socket."""

    kind = ""

    @initialize(size=st.integers(1, 2))
    def start(self, size: int) -> None:
        self.before = {path.name for path in FDS.iterdir()}
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=100)
        self.executor = unirun.Executor(size, backend=self.kind, grace=0)
        self.model = Model(size)
        self.futures: dict[int, unirun.Future[int]] = {}
        self.late: set[int] = set()  # calls with a time-out
        self.bodies: dict[int, tuple[socket.socket, int]] = {}
        self.failed: dict[int, type[BaseException]] = {}  # what the last attempt ended with
        self.abandoned: list[socket.socket] = []  # of bodies of threads, past their time
        self.lock = threading.Lock()  # guards told and wrong
        self.told: list[int] = []
        self.wrong: list[Exception] = []

    # -- what is asked -----------------------------------------------------------------------------

    @precondition(lambda self: len(self.model.waiting) < 5)
    @rule(retries=st.sampled_from([0, 0, 1]), late=st.sampled_from([False, False, False, True]))
    def submit(self, retries: int, late: bool) -> None:
        number = len(self.futures)
        again = unirun.Retry(retries, crashes=retries, backoff=0.001, jitter=0)
        self.model.submit(number, retries)
        if late:
            self.late.add(number)
        options = self.executor.options(retries=again, timeout=TIMEOUT if late else None)
        future = options.submit(wait_to_be_told, self.listener.getsockname(), number)
        self.futures[number] = future
        future.add_done_callback(lambda _: self.note_end(number))
        self.settle()

    def note_end(self, number: int) -> None:
        with self.lock:
            try:
                invariants.ends_once(number, self.told)
            except invariants.Broken as exc:
                self.wrong.append(exc)
            self.told.append(number)

    @precondition(lambda self: self.futures)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(sorted(self.futures)))
        assert self.futures[number].cancel() == self.model.cancel(number)
        self.settle()

    @precondition(lambda self: self.model.running)
    @rule(data=st.data(), how=st.sampled_from(["answered", "raised"]))
    def end(self, data: st.DataObject, how: str) -> None:
        self.tell(data.draw(st.sampled_from(self.model.running)), how)

    @precondition(lambda self: self.model.running and self.kind == "process")
    @rule(data=st.data())
    def crash(self, data: st.DataObject) -> None:
        self.tell(data.draw(st.sampled_from(self.model.running)), "crashed")

    def tell(self, number: int, how: str) -> None:
        connection, pid = self.bodies.pop(number)
        connection.sendall({"answered": b"a", "raised": b"r", "crashed": b"c"}[how])
        connection.close()
        self.model.ends(number, how)
        if (error := ERRORS[how]) is not None:
            self.failed[number] = error
        if number in self.model.ended:
            self.wait_for_end(number)
        with self.lock:
            victims = set(self.told) - self.model.ended.keys() | ({number} & {*self.told})
        invariants.one_victim(pid, number, victims)
        self.settle()

    @precondition(lambda self: self.model.running)
    @rule(data=st.data())
    def kill(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(self.model.running))
        if self.kind == "thread":
            with pytest.raises(unirun.NotKillable):
                self.futures[number].kill()
            self.model.cancel(number)  # it was asked to stop, all the same
            return
        self.model.running.remove(number)
        self.model.ended[number] = "killed"
        assert self.futures[number].kill()
        self.check_dead(number)
        self.model.limit = max(self.model.size, len(self.model.running))
        self.settle()

    @rule(size=st.integers(1, 3))
    def resize(self, size: int) -> None:
        self.model.resize(size)
        self.executor.resize(size)
        self.settle()

    @precondition(lambda self: len(self.model.running) < self.model.size)
    @rule(many=st.integers(0, 12))
    def map(self, many: int) -> None:
        drawn = 0

        def items() -> Iterator[int]:
            nonlocal drawn
            while drawn < many:
                drawn += 1
                yield drawn

        results = self.executor.map(double, items(), chunksize=1, buffersize=WINDOW)
        for read, result in enumerate(results, 1):
            assert result == 2 * read
            invariants.window(drawn, read, WINDOW)

    @precondition(lambda self: self.kind == "process" and len(self.model.running) < self.model.size)
    @rule()
    def lose_a_holder(self) -> None:
        lock = self.executor.Lock()
        dead = self.executor.submit(take_and_die, lock)
        with pytest.raises(unirun.WorkerCrashed):
            dead.result(PATIENCE)
        abandoned = self.executor.submit(take, lock).result(PATIENCE)
        invariants.inheritance("the lock", ["the next"], "the next", abandoned)

    # -- what has to come of it --------------------------------------------------------------------

    def settle(self) -> None:
        """Whoever has to begin begins; whoever has too little time is late."""
        end = time.monotonic() + PATIENCE
        while self.model.coming:
            if time.monotonic() > end:
                size, running = self.model.size, len(self.model.running)
                invariants.progress(len(self.model.waiting), size - running, size - running, 0)
            if select.select([self.listener], [], [], 0.01)[0]:
                self.welcome(self.listener.accept()[0])
            for number in self.late.intersection(self.model.waiting):
                if self.futures[number].done():  # so late that it never said that it began
                    self.model.begins(number)
                    self.model.ends(number, "late")

    def welcome(self, connection: socket.socket) -> None:
        connection.settimeout(PATIENCE)
        said = b""
        with contextlib.suppress(ConnectionError):  # it was killed meanwhile
            said = connection.recv(16, socket.MSG_WAITALL)
        number, pid = struct.unpack("qq", said) if len(said) == 16 else (-1, -1)
        if number not in self.model.waiting:
            self.abandoned.append(connection)  # it was late before it was seen
            return
        self.model.begins(number)
        self.bodies[number] = connection, pid
        if number in self.late:
            self.model.ends(number, "late")
            self.wait_for_end(number)
            if self.kind == "process":
                self.check_dead(number)
            else:
                self.abandoned.append(self.bodies.pop(number)[0])

    def wait_for_end(self, number: int) -> None:
        error = ERRORS[self.model.ended[number]]
        if error is None:
            assert self.futures[number].result(PATIENCE) == number
            return
        # Cancelled before its failure was quite over, it has had its last attempt.
        was_last = self.model.ended[number] == "cancelled"
        with pytest.raises((error, self.failed.get(number, error)) if was_last else error):
            self.futures[number].result(PATIENCE)

    def check_dead(self, number: int) -> None:
        """Its future is done: then so is its process."""
        connection, pid = self.bodies.pop(number)
        alive = False
        with contextlib.suppress(psutil.NoSuchProcess):
            alive = psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
        assert self.futures[number].done()
        invariants.dead_then_resolved(number, alive)
        connection.close()

    @invariant()
    def only_what_should_have_ended_has(self) -> None:
        with self.lock:
            assert self.wrong == []
            assert {*self.told} <= self.model.ended.keys()
        for number, future in self.futures.items():
            assert future.done() == (number in self.model.ended)

    # -- the end -----------------------------------------------------------------------------------

    how_to_end = st.sampled_from(["politely", "cancel", "kill"])

    @precondition(lambda self: self.futures)
    @rule(how=how_to_end)
    def shut_down(self, how: str) -> None:
        """And begin anew."""
        self.end_all(how)
        self.start(2)

    def teardown(self) -> None:
        if hasattr(self, "executor") and self.listener.fileno() >= 0:  # else it failed at the end
            self.end_all("kill")

    def end_all(self, how: str) -> None:
        pids = [pid for _, pid in self.bodies.values()] if self.kind == "process" else []
        kill = how == "kill" and self.kind == "process"
        self.executor.shutdown(wait=False, cancel_futures=how != "politely", kill=kill)
        self.model.close(how != "politely", kill)
        with pytest.raises(RuntimeError):
            self.executor.submit(double, 1)
        for connection in self.abandoned:
            connection.close()  # its body ends
        self.abandoned = []
        while self.model.running or self.model.waiting:
            self.settle()
            for number in list(self.model.running):
                self.tell(number, "answered")
        self.executor.shutdown()
        for number in self.futures:
            self.wait_for_end(number)
        while select.select([self.listener], [], [], 0)[0]:  # who was late before it was seen
            self.abandoned.append(self.listener.accept()[0])
        for connection in [*self.abandoned, *(each for each, _ in self.bodies.values())]:
            connection.close()
        self.listener.close()
        self.check_nothing_left(pids)

    def check_nothing_left(self, pids: list[int]) -> None:
        living = [pid for pid in pids if psutil.pid_exists(pid)]
        left = [number for number, future in self.futures.items() if not future.done()]
        # Bodies of threads that were given up, and the manager's links, end a moment later.
        comes_true(lambda: not self.new_descriptors())
        invariants.nothing_left(left, living, self.new_descriptors())
        assert sorted(self.told) == sorted(self.futures)

    def new_descriptors(self) -> list[str]:
        new = [path for path in FDS.iterdir() if path.name not in self.before]
        return [target for path in new if (target := _target(path))]


def _target(path: Path) -> str:
    with contextlib.suppress(OSError):
        return str(path.readlink())
    return ""  # that by which the directory was read


class Threads(Backend):
    kind = "thread"


class Processes(Backend):
    kind = "process"


@pytest.fixture(autouse=True, scope="module")
def _manager() -> None:
    """It lives as long as this process, whichever executor needed it first."""
    with unirun.Executor(1, backend="process") as executor:
        assert executor.submit(take, executor.Lock()).result(PATIENCE) is False


COMMON: dict[str, Any] = {
    "deadline": None,
    "suppress_health_check": list(HealthCheck),
    "database": None,
    "phases": (Phase.generate,),  # a program that fails takes too long to be made smaller
}


@pytest.mark.scenario("model", "the thread backend does what a model of 60 lines does")
class TestThreads(Threads.TestCase):
    settings = settings(max_examples=25, stateful_step_count=25, **COMMON)


@pytest.mark.scenario("model", "the process backend does what a model of 60 lines does")
class TestProcesses(Processes.TestCase):
    settings = settings(max_examples=8, stateful_step_count=15, **COMMON)


@pytest.mark.scenario(19, "an initializer that dies is tried four times at most, then told")
def test_an_initializer_that_dies_is_told_after_four_attempts(tmp_path: Path) -> None:
    path = tmp_path / "attempts"
    with unirun.Executor(
        1, backend="process", initializer=die_at_start, initargs=(str(path),)
    ) as executor:
        future = executor.submit(double, 1)
        with pytest.raises(unirun.UnirunError, match="5"):
            future.result(PATIENCE)
    for attempt in range(len(path.read_text())):
        invariants.restarts(attempt)


@pytest.mark.scenario("nesting", "a call that waits for one nobody can run any more is told")
def test_a_call_whose_own_call_gets_no_worker_is_told_so(tmp_path: Path) -> None:
    path = str(tmp_path / "no more")
    with unirun.Executor(
        1, backend="process", initializer=die_if_there_is, initargs=(path,)
    ) as executor:
        told = executor.submit(wait_for_a_call_nobody_runs, executor, path).result(PATIENCE)
        assert "6" in told, told
        Path(path).unlink()
        assert executor.submit(double, 2).result(PATIENCE) == 4, "the worker that is left goes on"


def test_the_model_is_small() -> None:
    source = Path(__file__).read_text()
    model = source[source.index("class Model:") : source.index("class Backend(")]
    assert model.strip().count("\n") < 60
    check: Callable[..., None] = invariants.window
    assert check in invariants.ALL.values()
