"""Short calls share workers by the hundred, and each of them ends as if it had been alone."""

import contextlib
import os
import random
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import pytest
from process import short
from process.bodies import double
from process.line import PATIENCE, Line
from process.watch import is_gone, until, until_gone

import unirun
from unirun import TaskTimeout

sys.path.append(str(Path(__file__).parent.parent.parent))  # benchmarks/ is never installed

from benchmarks import _verdict, stress

Pool = Callable[..., unirun.Executor]
Lines = Callable[[], Line]

WINDOWS = (1, 4, 2048)
FIRST = 100_000  # number of the first call after those that made the pool learn


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


def started(log: Path) -> Counter[int]:
    """Number of a call -> how often it began, without those that the pool has learned from."""
    numbers = [int(line.split()[0]) for line in log.read_text().splitlines()]
    return Counter(number for number in numbers if number >= FIRST)


def workers_of(log: Path) -> dict[int, int]:
    """Number of a call -> pid of the worker where it began."""
    return {int(n): int(pid) for n, pid in map(str.split, log.read_text().splitlines())}


def learn(executor: unirun.Executor, submit: Callable[[int], Any], window: int = 16) -> None:
    """Have calls like these known to be so short that a worker holds that many."""
    state: Any = executor._backends.get("process")  # type: ignore[attr-defined]

    def try_them() -> bool:
        nonlocal state
        wait([submit(number) for number in range(200)])
        state = executor._backends["process"]._state  # type: ignore[attr-defined]
        return max(state._windows.values(), default=1) >= window

    until(try_them, f"a worker holds {window} calls")


def have_a_look(executor: unirun.Executor) -> None:
    """Calls that come while all workers are taken wake nobody; this does."""
    executor.submit(double, 1).cancel()


def outcomes(futures: list[Any]) -> dict[int, str]:
    """What became of each: "value", or the name of its exception."""
    found = {}
    for number, future in enumerate(futures, FIRST):
        try:
            found[number] = "value" if future.result(PATIENCE) == number else "wrong value"
        except TimeoutError as exc:
            found[number] = "TaskTimeout" if isinstance(exc, TaskTimeout) else "open"
        except (CancelledError, Exception) as exc:
            found[number] = type(exc).__name__
    return found


class Blocked:
    """Many short calls, one of which runs until it is told to go on."""

    def __init__(
        self, pool: Pool, line: Lines, log: Path, at: int, count: int = 60, **options: Any
    ) -> None:
        self.log = log
        self.ready, self.go = line(), line()
        self.executor = pool(**options)
        if options.get("window", 2048) > 1:
            learn(self.executor, lambda n: self.submit(n, -1), min(16, options.get("window", 16)))
        else:
            wait([self.submit(0, -1)])
        self.futures = [self.submit(n, FIRST + at) for n in range(FIRST, FIRST + count)]
        self.pid = int(self.ready.wait())
        have_a_look(self.executor)

    def submit(self, number: int, at: int) -> Any:
        return self.executor.submit(short.wait_at, str(self.log), number, at, self.ready, self.go)


# -- sharing


@pytest.mark.parametrize("window", WINDOWS)
def test_what_waits_behind_a_long_call_is_run_by_the_other_worker(
    pool: Pool, line: Lines, log: Path, window: int
) -> None:
    blocked = Blocked(pool, line, log, at=3, workers=2, window=window)
    others = [future for n, future in enumerate(blocked.futures) if n != 3]
    assert wait(others, PATIENCE).not_done == set()
    assert not blocked.futures[3].done()
    blocked.go.send()
    assert set(outcomes(blocked.futures).values()) == {"value"}
    assert set(started(log).values()) == {1}
    where = workers_of(log)
    assert where[FIRST + 3] == blocked.pid
    assert [n for n in where if n > FIRST + 10 and where[n] != blocked.pid]


def test_with_one_worker_what_is_behind_a_long_call_waits_for_it(
    pool: Pool, line: Lines, log: Path
) -> None:
    blocked = Blocked(pool, line, log, at=3, workers=1)
    assert wait(blocked.futures[:3], PATIENCE).not_done == set()  # their answers do not wait
    behind = blocked.futures[4:]
    until(lambda: behind[0].running(), "a call was sent to a worker that is in another")
    assert [future for future in behind if future.done()] == []
    assert max(started(log)) == FIRST + 3
    blocked.go.send()
    assert set(outcomes(blocked.futures).values()) == {"value"}
    assert set(started(log).values()) == {1}


def test_with_a_window_of_one_no_call_is_sent_before_its_worker_is_free(
    pool: Pool, line: Lines, log: Path
) -> None:
    blocked = Blocked(pool, line, log, at=3, workers=1, window=1)
    assert wait(blocked.futures[:3], PATIENCE).not_done == set()
    blocked.executor.running_calls() if hasattr(blocked.executor, "running_calls") else None
    assert [future for future in blocked.futures[4:] if future.running()] == []
    blocked.go.send()
    assert set(outcomes(blocked.futures).values()) == {"value"}


# -- killing one among many


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("workers", [1, 2])
def test_to_kill_one_that_runs_harms_none_around_it(
    pool: Pool, line: Lines, log: Path, window: int, workers: int
) -> None:
    blocked = Blocked(pool, line, log, at=20, workers=workers, window=window)
    assert blocked.futures[20].kill()
    assert is_gone(blocked.pid)
    ends = outcomes(blocked.futures)
    assert ends.pop(FIRST + 20) == "TaskKilled"
    assert set(ends.values()) == {"value"}
    assert set(started(log).values()) == {1}
    assert blocked.executor.stats()["process"].crashed == 0


def test_one_that_was_sent_and_is_killed_before_it_begins_never_does(
    pool: Pool, line: Lines, log: Path
) -> None:
    blocked = Blocked(pool, line, log, at=3, workers=1)
    victims = [blocked.futures[n] for n in (4, 6, 7)]
    until(lambda: all(victim.running() for victim in victims), "they were sent")
    for victim in victims:
        assert victim.kill()
    assert not blocked.futures[3].done()
    blocked.go.send()
    ends = outcomes(blocked.futures)
    assert {n - FIRST for n, end in ends.items() if end != "value"} == {4, 6, 7}
    assert {end for end in ends.values() if end != "value"} == {"TaskKilled"}
    assert not {FIRST + 4, FIRST + 6, FIRST + 7} & set(started(log))
    assert set(started(log).values()) == {1}
    assert not is_gone(blocked.pid)


def test_a_cancel_of_one_that_was_sent_is_refused_and_it_runs(
    pool: Pool, line: Lines, log: Path
) -> None:
    """As in the standard library: what is on its way to a worker counts as running."""
    blocked = Blocked(pool, line, log, at=3, workers=1)
    until(lambda: blocked.futures[5].running(), "it was sent")
    assert not blocked.futures[5].cancel()
    blocked.go.send()
    assert set(outcomes(blocked.futures).values()) == {"value"}


# -- crashes


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("how", ["sigkill", "exit", "segfault"])
def test_a_crash_among_thousands_of_calls_has_one_victim(
    pool: Pool, log: Path, window: int, how: str
) -> None:
    executor, count = pool(2, window=window), 3000 if window > 1 else 500
    act = short.act
    if window > 1:
        learn(executor, lambda n: executor.submit(act, str(log), n, ""), min(window, 16))
    crashing = {count // 3, count // 2, count // 2 + 1}
    futures = [
        executor.submit(act, str(log), FIRST + n, how if n in crashing else "")
        for n in range(count)
    ]
    ends = outcomes(futures)
    assert {n - FIRST for n, end in ends.items() if end == "WorkerCrashed"} == crashing
    assert Counter(ends.values()) == {"value": count - 3, "WorkerCrashed": 3}
    assert set(started(log).values()) == {1}
    assert len(started(log)) == count
    assert executor.stats()["process"].crashed == 3


@pytest.mark.parametrize("how", ["terminate_workers", "kill_workers"])
def test_to_end_all_workers_ends_the_calls_that_had_begun_and_no_others(
    pool: Pool, log: Path, how: str
) -> None:
    executor = pool(2)
    learn(executor, lambda n: executor.submit(short.quick, str(log), n))
    futures = []
    for n in range(4000):
        futures.append(executor.submit(short.quick, str(log), FIRST + n))
        if n % 1000 == 500:
            getattr(executor, how)()
    ends = outcomes(futures)
    killed = {number for number, end in ends.items() if end == "TaskKilled"}
    assert len(killed) <= 8  # of two workers at most one each, four times
    assert {end for n, end in ends.items() if n not in killed} == {"value"}
    assert set(started(log).values()) == {1}
    assert set(ends) - killed <= set(started(log))


def test_workers_that_are_killed_while_they_are_idle_are_replaced(pool: Pool, log: Path) -> None:
    executor = pool(2)
    for round_ in range(3):
        futures = [executor.submit(short.quick, str(log), FIRST + n) for n in range(200)]
        assert set(outcomes(futures).values()) == {"value"}
        pids = executor.stats()["process"].pids
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        until_gone(*pids)
        assert set(started(log).values()) == {round_ + 1}
    assert executor.submit(double, 4).result(PATIENCE) == 8
    assert executor.stats()["process"].crashed == 0


def test_a_worker_that_is_killed_from_outside_takes_one_call_along_at_most(
    pool: Pool, log: Path
) -> None:
    executor, chance = pool(2), random.Random(1)
    learn(executor, lambda n: executor.submit(short.quick, str(log), n))
    futures: list[Any] = []
    shots = 0
    for n in range(6000):
        futures.append(executor.submit(short.quick, str(log), FIRST + n))
        pids = executor.stats()["process"].pids if n % 500 == 250 else ()
        if pids and futures[-200].result(PATIENCE):
            with contextlib.suppress(ProcessLookupError):
                os.kill(chance.choice(pids), signal.SIGKILL)
                shots += 1
    ends = Counter(outcomes(futures).values())
    assert ends["value"] + ends["WorkerCrashed"] == 6000
    assert ends["WorkerCrashed"] <= shots
    assert set(started(log).values()) == {1}
    assert shots > 3
    assert len(started(log)) >= 6000 - shots


def test_a_worker_that_is_killed_while_it_is_parked_has_begun_nothing(
    pool: Pool, line: Lines, log: Path
) -> None:
    """It dies between the two halves of a kill that was meant for another call."""
    blocked = Blocked(pool, line, log, at=3, workers=1)
    until(lambda: blocked.futures[9].running(), "it was sent")
    executor: Any = blocked.executor
    loop = executor._backends["process"]._pool
    (peer,) = loop._crew.peers.values()
    held, go_on = threading.Event(), threading.Event()

    def stay() -> None:
        peer.control.words[1] = 1  # HOLD
        held.set()
        go_on.wait(PATIENCE)

    loop.post(stay)
    assert held.wait(PATIENCE)
    blocked.go.send()
    until(lambda: peer.control.words[2], "the worker is parked")
    os.kill(blocked.pid, signal.SIGKILL)
    until_gone(blocked.pid)
    go_on.set()
    assert set(outcomes(blocked.futures).values()) == {"value"}
    assert set(started(log).values()) == {1}
    assert executor.stats()["process"].crashed == 0


def test_what_waits_behind_a_call_in_a_stopped_worker_is_run_by_another(
    pool: Pool, line: Lines, log: Path
) -> None:
    blocked = Blocked(pool, line, log, at=3, workers=2)
    os.kill(blocked.pid, signal.SIGSTOP)
    try:
        others = [future for n, future in enumerate(blocked.futures) if n != 3]
        assert wait(others, PATIENCE).not_done == set()
    finally:
        os.kill(blocked.pid, signal.SIGCONT)
    blocked.go.send()
    assert set(outcomes(blocked.futures).values()) == {"value"}
    assert set(started(log).values()) == {1}


# -- the end


@pytest.mark.parametrize("kill", [False, True])
@pytest.mark.parametrize("window", WINDOWS)
def test_shutdown_amid_thousands_of_calls_leaves_none_open(
    pool: Pool, log: Path, window: int, kill: bool
) -> None:
    executor = pool(2, window=window)
    if window > 1:
        learn(executor, lambda n: executor.submit(short.quick, str(log), n), min(window, 16))
    futures = [executor.submit(short.quick, str(log), FIRST + n) for n in range(3000)]
    futures[100].result(PATIENCE)
    executor.shutdown(wait=False, cancel_futures=not kill, kill=kill)
    ends = outcomes(futures)
    assert set(ends.values()) <= {"value", "CancelledError"} | ({"TaskKilled"} if kill else set())
    begun = started(log)
    assert set(begun.values()) <= {1}
    values = {number for number, end in ends.items() if end == "value"}
    assert values <= set(begun)
    if not kill:
        assert values == set(begun)
    assert len(set(begun) - values) <= 2
    assert not [n for n, end in ends.items() if end == "CancelledError" and n in begun]


# -- all kinds of calls


@pytest.mark.parametrize("window", WINDOWS)
def test_priorities_are_kept_among_short_calls(
    pool: Pool, line: Lines, log: Path, window: int
) -> None:
    blocked = Blocked(pool, line, log, at=0, count=1, workers=1, window=window)
    chance = random.Random(window)
    order = [chance.randrange(5) for _ in range(300)]
    futures = [
        blocked.executor.options(priority=priority).submit(
            short.quick, str(log), FIRST + 1 + 1000 * priority + n
        )
        for n, priority in enumerate(order)
    ]
    blocked.go.send()
    wait(futures, PATIENCE)
    begun = [n for n in map(_number, log.read_text().splitlines()) if n > FIRST]
    assert sorted(begun) == sorted(f.result(PATIENCE) for f in futures)
    assert begun == sorted(begun, key=lambda n: (-((n - FIRST - 1) // 1000), n))


def _number(line: str) -> int:
    return int(line.split()[0])


def test_time_outs_among_short_calls_end_only_their_own(pool: Pool, log: Path) -> None:
    executor = pool(2)
    hasty = executor.options(timeout=0.05)
    futures, late = [], set()
    for n in range(1500):
        mode = "hang" if n % 300 == 150 else ""
        late |= {FIRST + n} if mode else set()
        submit = hasty.submit if mode or n % 7 == 0 else executor.submit
        futures.append(submit(short.act, str(log), FIRST + n, mode))
    ends = outcomes(futures)
    assert {n for n, end in ends.items() if end == "TaskTimeout"} == late
    assert Counter(ends.values()) == {"value": 1495, "TaskTimeout": 5}
    assert set(started(log).values()) == {1}


def test_threads_submit_and_wait_at_the_same_time(pool: Pool, log: Path) -> None:
    executor = pool(2)

    def work(start: int) -> list[Any]:
        futures = []
        for n in range(start, start + 500):
            futures.append(executor.submit(short.quick, str(log), FIRST + n))
            if n % 50 == 0:
                assert futures[-1].result(PATIENCE) == FIRST + n
        return futures

    with ThreadPoolExecutor(8) as threads:
        futures = [f for found in threads.map(work, range(0, 4000, 500)) for f in found]
    assert set(outcomes(futures).values()) == {"value"}
    assert set(started(log).values()) == {1}
    assert len(started(log)) == 4000


@pytest.mark.parametrize("window", WINDOWS)
def test_large_results_and_exceptions_among_short_calls(pool: Pool, log: Path, window: int) -> None:
    """Together they are much more than the memory that keeps answers until they are sent."""
    executor, modes = pool(2, window=window), ["", "raise", "", "large"]
    futures = [executor.submit(short.act, str(log), FIRST + n, modes[n % 4]) for n in range(800)]
    for number, future in enumerate(futures, FIRST):
        mode = modes[number % 4]
        if mode == "raise":
            assert future.exception(PATIENCE).args == (number,)
        elif mode == "large":
            assert future.result(PATIENCE) == b"x" * 20_000 + b"%d" % number
        else:
            assert future.result(PATIENCE) == number
    assert set(started(log).values()) == {1}


def test_what_a_call_has_printed_is_there_when_its_result_is(pool: Pool, tmp_path: Path) -> None:
    output = tmp_path / "output"
    with standard_output(output):
        executor = pool(2, "spawn", output="direct")  # to the standard output of this moment
        for start in range(0, 1000, 250):
            futures = [executor.submit(short.say, n) for n in range(start, start + 250)]
            for number, future in enumerate(futures, start):
                assert future.result(PATIENCE) == number
                assert f"<{number}>\n" in output.read_text()
    assert len(output.read_text().splitlines()) == 1000


@contextlib.contextmanager
def standard_output(path: Path) -> Iterator[None]:
    """A file in its place."""
    kept = os.dup(1)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(fd, 1)
    os.close(fd)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


@pytest.mark.parametrize("window", WINDOWS)
def test_each_call_of_many_knows_which_one_it_is(pool: Pool, window: int) -> None:
    executor = pool(2, window=window)
    futures = [executor.submit(short.who, n) for n in range(600)]
    found = [future.result(PATIENCE) for future in futures]
    assert [number for number, *_ in found] == list(range(600))
    assert {name for _, name, *_ in found} == {"process.short.who"}
    assert len({call_id for _, _, call_id, _, _ in found}) == 600
    assert [each[2] for each in found] == sorted(each[2] for each in found)
    assert {attempt for _, _, _, attempt, _ in found} == {1}
    assert len({worker for *_, worker in found}) <= 2


# -- everything at once


@pytest.mark.parametrize("window", [1, 2048])
def test_ten_thousand_calls_with_all_that_can_happen_to_them(
    pool: Pool, log: Path, window: int
) -> None:
    """Kills, crashes, time-outs and cancels; what is checked stands in benchmarks/_verdict.py."""
    log.touch()
    run = stress.Run(pool(2, window=window, grace=0), random.Random(window), str(log))
    run.go(10_000)
    ends = run.ends()
    with log.open() as lines:
        began = _verdict.read_log(lines)
    assert list(_verdict.violations(run.calls, ends, began)) == []
    assert {_verdict.VALUE, _verdict.CRASHED, _verdict.KILLED, _verdict.TIMED_OUT} <= set(ends)


# -- what is left ---------------------------------------------------------------------------------


def test_fifty_executors_leave_no_descriptor_and_no_thread(tmp_path: Path) -> None:
    def use_one() -> None:
        with unirun.Executor(2, backend="process") as executor:
            assert executor.submit(double, 4).result(PATIENCE) == 8

    def count() -> tuple[int, int]:
        return len(list(Path("/proc/self/fd").iterdir())), threading.active_count()

    use_one()  # what is made once stays
    before = count()
    for _ in range(50):
        use_one()
    until(lambda: count() <= before, "they are as many as before")
