"""Item 9: a hang that would have been silent says who waits for whom, with stacks."""

import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import process.conftest as fixtures
import pytest
import reliability_bodies_evidence as bodies
from process.line import PATIENCE, Line
from process.watch import until

import unirun
from unirun import DeadlockError, HangWarning, _hangs

pool, line = fixtures.pool, fixtures.line
Pool = Callable[..., unirun.Executor]
Lines = Callable[[], Line]
Seen = Callable[[], list[str]]
SOON = 0.4  # seconds, instead of the 5 that people wait for a warning


@pytest.fixture(autouse=True)
def people_are_warned_soon(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("UNIRUN_HANG_WARNING", str(SOON))
    yield
    _hangs.warn_after = 5.0


@pytest.fixture
def seen() -> Iterator[Seen]:
    """The texts of the warnings of hangs so far."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("error")
        warnings.simplefilter("always", HangWarning)
        yield lambda: [str(each.message) for each in caught if each.category is HangWarning]


def first(seen: Seen) -> str:
    until(seen, "there is a warning")
    return seen()[0]


# -- waits for oneself ----------------------------------------------------------------------------


def result_of(box: list[Any], ready: threading.Barrier) -> Any:
    ready.wait(PATIENCE)
    return box[0].result()


@pytest.mark.scenario("evidence: a call that waits on itself", "DeadlockError that names it")
@pytest.mark.parametrize("length", [1, 2, 4])
def test_calls_that_wait_in_a_circle_are_told(length: int) -> None:
    """One of them gets the error, and so the others get an end."""
    with unirun.Executor(length, backend="thread") as executor:
        boxes: list[list[Any]] = [[] for _ in range(length)]
        ready = threading.Barrier(length + 1)  # so that no thread runs two of them
        futures = [executor.submit(result_of, boxes[number], ready) for number in range(length)]
        for number in range(length):
            boxes[number].append(futures[(number + 1) % length])
        ready.wait(PATIENCE)
        for future in futures:
            error = future.exception(PATIENCE)
            assert isinstance(error, DeadlockError)
        assert isinstance(error, RuntimeError)
        assert str(error).count("waits for the result of call") == length
        assert "result_of" in str(error)
        stacks = [note for note in error.__notes__ if note.startswith("thread ")]
        assert len(stacks) == length
        assert all("in result_of" in stack for stack in stacks)


@pytest.mark.scenario("evidence: a call that waits on itself", "through a lock that it holds")
def test_a_circle_may_go_through_a_shared_lock(pool: Pool) -> None:
    """A holder that waits for a call that needs what it holds."""
    lock = pool(1).Lock()
    begun = threading.Event()

    def needs_lock() -> None:
        begun.set()
        with lock:
            pass

    def holds_lock(executor: unirun.Executor) -> None:
        with lock:
            inner = executor.submit(needs_lock)
            assert begun.wait(PATIENCE)
            inner.result()

    with unirun.Executor(2, backend="thread") as executor:
        error = executor.submit(holds_lock, executor).exception(PATIENCE)
        assert isinstance(error, DeadlockError)
        assert "waits for <Lock #" in str(error)
        assert "waits for the result of call" in str(error)


@pytest.mark.scenario("evidence: a call that waits on itself", "across processes: a warning")
def test_a_circle_across_processes_is_warned_of(pool: Pool, line: Lines, seen: Seen) -> None:
    """An error could not reach a thread that waits in another process; kill() does."""
    executor, started = pool(2), line()
    future = executor.submit(bodies.hold_and_ask, executor, executor.Lock(), started)
    inner = started.wait()
    text = first(seen)
    assert text.startswith("tasks wait for one another, and none of them can go on: ")
    assert ".hold_and_ask in pid " in text
    assert "waits for call reliability_bodies_evidence.acquire; " in text
    assert f".acquire in pid {inner} waits for Lock #" in text
    assert "in hold_and_ask" in text
    assert "in acquire" in text
    dump = executor.dump()
    assert dump.index("hold_and_ask #") < dump.index(
        "\n      call reliability_bodies_evidence.acquire"
    )
    assert future.kill(grace=0)
    assert len(seen()) == 1


def test_a_circle_in_which_somebody_has_a_time_out_is_left_to_that() -> None:
    ready = threading.Barrier(2)
    box: list[Any] = []
    with unirun.Executor(1, backend="thread") as executor:
        box.append(executor.options(timeout=4 * SOON).submit(result_of, box, ready))
        ready.wait(PATIENCE)
        with pytest.raises(unirun.TaskTimeout):
            box[0].result(PATIENCE)


def test_who_waits_long_for_a_call_that_works_is_left_alone(seen: Seen) -> None:
    go_on = threading.Event()
    with unirun.Executor(1, backend="thread") as executor:
        future = executor.submit(go_on.wait, PATIENCE)
        results: list[Any] = []
        waiters = [
            threading.Thread(target=lambda: results.append(future.result())) for _ in range(2)
        ]
        for waiter in waiters:
            waiter.start()
        until(lambda: len(_hangs.waits) == 2, "both waits are noted")
        time.sleep(4 * SOON)  # nothing may happen, for longer than until people are warned
        go_on.set()
        for waiter in waiters:
            waiter.join(PATIENCE)
        assert results == [True, True]
    assert not _hangs.waits
    assert seen() == []


# -- workers that wait for what nobody will do ----------------------------------------------------


@pytest.mark.scenario(
    "evidence: a queue nobody will fill", "a warning names it and says what to do"
)
def test_threads_that_all_wait_for_items_of_calls_behind_them(seen: Seen) -> None:
    with unirun.Executor(2, backend="thread") as executor:
        queue = executor.Queue()
        takers = [executor.submit(queue.get) for _ in range(2)]
        putters = [executor.submit(bodies.put, queue, number) for number in range(2)]
        text = first(seen)
        assert "all 2 workers of the 'thread' backend have waited for 0.4 s" in text
        assert "2 calls wait (reliability_bodies_evidence.put) for one of them" in text
        assert text.count("waits for an item of a Queue with 0 items") == 2
        assert "use max_workers=3 or more" in text
        assert [future.running() for future in takers] == [True, True]  # no error: help may come
        for _ in range(2):
            queue.put("from outside")
        for future in (*takers, *putters):
            future.result(PATIENCE)
    assert len(seen()) == 1


@pytest.mark.scenario(
    "evidence: a queue nobody will fill", "on processes, with the workers' stacks"
)
def test_processes_that_all_wait_for_items_of_calls_behind_them(
    pool: Pool, line: Lines, seen: Seen
) -> None:
    executor, started = pool(2), line()
    queue = executor.Queue()
    takers = [executor.submit(bodies.take, queue, started) for _ in range(2)]
    pids = {started.wait(), started.wait()}
    putters = [executor.submit(bodies.put, queue, number) for number in range(2)]
    text = first(seen)
    assert "all 2 workers of the 'process' backend have waited for 0.4 s" in text
    assert "(reliability_bodies_evidence.put)" in text
    for pid in pids:
        assert f"reliability_bodies_evidence.take in pid {pid} waits for Queue #" in text
        assert f"worker {pid}:\n" in text
    assert text.count("in take") == 2
    for _ in range(2):
        queue.put("from outside")
    for future in (*takers, *putters):
        future.result(PATIENCE)
    assert len(seen()) == 1


def test_consumers_with_no_call_behind_them_are_left_alone(
    pool: Pool, line: Lines, seen: Seen
) -> None:
    executor, started = pool(2), line()
    threads = unirun.Executor(1, backend="thread")
    queue, near = executor.Queue(), threads.Queue()
    takers = [executor.submit(bodies.take, queue, started) for _ in range(2)]
    takers.append(threads.submit(near.get))
    started.wait()
    started.wait()
    time.sleep(4 * SOON)  # as above
    for target in (queue, queue, near):
        target.put(1)
    assert [future.result(PATIENCE) for future in takers] == [1, 1, 1]
    threads.shutdown()
    assert seen() == []


def test_a_warning_made_an_error_ends_nothing(
    monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    """As an error of a finalizer, it goes to `sys.unraisablehook`."""
    raised: list[Any] = []
    monkeypatch.setattr("sys.unraisablehook", lambda each: raised.append(each.exc_type))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with unirun.Executor(1, backend="thread") as executor:
            queue = executor.Queue()
            taker = executor.submit(queue.get)
            putter = executor.submit(bodies.put, queue, 2)
            until(lambda: raised, "the warning was raised somewhere")
            queue.put(1)
            assert taker.result(PATIENCE) == 1
            putter.result(PATIENCE)
    assert raised == [HangWarning]


# -- a lock that its owner waits for --------------------------------------------------------------


@pytest.mark.scenario("evidence: a Lock acquired twice", "a warning names the task and the lock")
@pytest.mark.parametrize("place", ["thread", "process"])
def test_who_waits_for_a_lock_of_its_own_is_named(
    pool: Pool, line: Lines, seen: Seen, place: str
) -> None:
    executor, started = pool(1, manager=place), line()
    lock = executor.Lock()
    future = executor.submit(bodies.acquire_twice, lock, started)
    pid = started.wait()
    text = first(seen)
    assert "task 'reliability_bodies_evidence.acquire_twice'" in text
    assert f"process {pid}) waits for Lock #" in text
    assert "which it holds itself; make it an RLock, or release it first" in text
    lock.release()  # as anybody may, which is why this is no error
    future.result(PATIENCE)


# -- workers that do not start --------------------------------------------------------------------


@pytest.mark.scenario("evidence: workers that cannot start", "a warning says what they are at")
@pytest.mark.parametrize("method", ["zygote", "spawn"])
def test_a_worker_that_never_gets_ready_is_named(
    pool: Pool, seen: Seen, tmp_path: Path, method: str
) -> None:
    begun = tmp_path / "begun"
    executor = pool(1, method, initializer=bodies.never_ready, initargs=(str(begun),))
    executor.submit(abs, -1)
    until(begun.exists, "the initializer runs")
    text = first(seen)
    assert "of executor 'unirun' has not started within 2.4 s, while 1 call waits" in text
    assert "its initializer or its preload hangs, or is slow" in text
    assert "in never_ready" in text


def test_hangs_are_nobodys_business_where_that_is_switched_off(
    monkeypatch: pytest.MonkeyPatch, seen: Seen
) -> None:
    monkeypatch.setenv("UNIRUN_HANG_WARNING", "none")
    monkeypatch.setattr(_hangs, "PATIENCE", 0.1)
    with unirun.Executor(1, backend="thread") as executor:
        queue = executor.Queue()
        taker = executor.submit(queue.get)
        putter = executor.submit(bodies.put, queue, 2)
        until(lambda: any(wait.lasted > 0.5 for wait in _hangs.waits.values()), "it has lasted")
        queue.put(1)
        assert taker.result(PATIENCE) == 1
        putter.result(PATIENCE)
    assert seen() == []
