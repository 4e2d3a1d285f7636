"""How long a shared object lives whose handles travel in calls and their outcomes.

See lingering.py.
"""

import gc
import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from lingering import linger_for, outlasting
from parties import PATIENCE, wait_until

import unirun
from unirun import SerializationError, _handles
from unirun._manager import Manager
from unirun.sync import make_shared


@pytest.fixture(autouse=True)
def short_linger(monkeypatch: pytest.MonkeyPatch) -> None:
    linger_for(0.1, monkeypatch)


@pytest.fixture
def outlast() -> Iterator[Callable[[], None]]:
    with outlasting() as wait:
        yield wait


@pytest.fixture
def executor() -> Iterator[unirun.Executor]:
    with unirun.Executor(2, backend="process") as executor:
        yield executor


def objects_of(executor: unirun.Executor) -> int:
    return executor.stats()["process"].objects


def put_pid(queue: Any) -> None:
    queue.put(os.getpid())


def put_into(queue: Any, item: Any = None) -> Any:
    queue.put(item)
    return queue


def hold(started: Any, go_on: Any) -> None:
    started.set()
    assert go_on.wait(PATIENCE)


def pid_of(_: Any) -> int:
    return os.getpid()


def test_many_tasks_with_a_queue_each_leave_nothing_behind(executor: unirun.Executor) -> None:
    futures = [executor.submit(put_pid, executor.Queue()) for _ in range(2000)]
    for future in futures:
        future.result(PATIENCE)
    wait_until(lambda: objects_of(executor) == 0)


def test_identity_when_it_comes_home(executor: unirun.Executor) -> None:
    queue = executor.Queue()
    assert executor.submit(put_into, queue).result(PATIENCE) is queue
    assert list(executor.map(put_into, [queue] * 5)) == [queue] * 5


@pytest.mark.parametrize(
    "way", ["args", "kwargs", "closure", "container", "large", "retries", "method"]
)
def test_a_call_that_waits_for_long_keeps_its_handles(
    outlast: Callable[[], None], way: str
) -> None:
    with unirun.Executor(1, backend="process") as executor:
        started, go_on, answers = executor.Event(), executor.Event(), executor.Queue()
        executor.submit(hold, started, go_on)
        assert started.wait(PATIENCE)
        future = _submit(executor, way, executor.Event(), answers)
        outlast()
        assert objects_of(executor) == 4
        go_on.set()
        future.result(PATIENCE)
        answers.get(timeout=PATIENCE).set()
        wait_until(lambda: objects_of(executor) == 3)


def _submit(executor: unirun.Executor, way: str, event: Any, answers: Any) -> Any:
    if way == "args":
        return executor.submit(put_into, answers, event)
    if way == "kwargs":
        return executor.submit(put_into, queue=answers, item=event)
    if way == "container":
        return executor.submit(put_first, answers, {"a": ([event],)})
    if way == "large":
        return executor.submit(put_first, answers, {"a": ([event],), "b": b"x" * (1 << 20)})
    if way == "method":
        return executor.submit(answers.put, event)
    if way == "retries":
        return executor.options(retries=2).submit(put_into, answers, event)
    return executor.submit(lambda: put_into(answers, event) and None)


def put_first(queue: Any, content: Any) -> None:
    queue.put(content["a"][0][0])


def fail_once_with(queue: Any, attempts: Any) -> None:
    attempts.put(1)
    if attempts.qsize() == 1:
        raise ValueError("once")
    queue.put("done")


def test_an_attempt_after_another_has_its_handles_and_the_last_lets_go(
    executor: unirun.Executor,
) -> None:
    attempts, queue = executor.Queue(), executor.Queue()
    retried = executor.options(retries=unirun.Retry(2, backoff=0.3))
    future = retried.submit(fail_once_with, executor.Queue(), attempts)
    future.result(PATIENCE)
    assert attempts.qsize() == 2
    wait_until(lambda: objects_of(executor) == 2)
    del queue
    wait_until(lambda: objects_of(executor) == 1)
    assert future.done()


def get_from(queue: Any) -> Any:
    return queue.get()


def test_a_result_keeps_its_objects(executor: unirun.Executor, outlast: Callable[[], None]) -> None:
    queue = executor.Queue()
    queue.put({"deep": executor.Event()})
    future = executor.submit(get_from, queue)
    assert unirun.wait([future], PATIENCE).done
    outlast()
    assert objects_of(executor) == 2
    future.result()["deep"].set()
    del future
    wait_until(lambda: objects_of(executor) == 1)


class CarriesError(Exception):
    pass


def raise_with(queue: Any) -> None:
    raise CarriesError(queue.get())


def test_an_exception_keeps_its_objects(
    executor: unirun.Executor, outlast: Callable[[], None]
) -> None:
    queue = executor.Queue()
    queue.put(executor.Event())
    future = executor.submit(raise_with, queue)
    assert unirun.wait([future], PATIENCE).done
    outlast()
    assert objects_of(executor) == 2
    with pytest.raises(CarriesError) as info:
        future.result()
    info.value.args[0].set()
    del info, future
    gc.collect()
    wait_until(lambda: objects_of(executor) == 1)


def get_one(queue: Any, _: int) -> Any:
    return queue.get()


@pytest.mark.parametrize("chunksize", [1, 5])
def test_results_of_a_map_that_nobody_reads_keep_their_objects(
    executor: unirun.Executor, outlast: Callable[[], None], chunksize: int
) -> None:
    queue = executor.Queue()
    for _ in range(10):
        queue.put(executor.Dict())  # which has no hash
    results = executor.map(get_one, [queue] * 10, range(10), chunksize=chunksize)
    wait_until(lambda: queue.qsize() == 0)
    outlast()
    assert objects_of(executor) == 21  # with their locks
    for shared in results:
        shared.clear()
    del shared, results
    wait_until(lambda: objects_of(executor) == 1)


_event: Any = None


def remember(event: Any) -> None:
    global _event
    _event = event


def set_remembered(_: int) -> None:
    _event.set()


def test_what_an_initializer_gets_lives_as_long_as_the_workers(outlast: Callable[[], None]) -> None:
    manager = Manager()
    event = make_shared(manager, "Event")
    with unirun.Executor(1, backend="process", initializer=remember, initargs=(event,)) as executor:
        name = event._name
        del event
        executor.submit(set_remembered, 1).result(PATIENCE)
        outlast()
        executor.kill_workers()
        executor.submit(set_remembered, 2).result(PATIENCE)
        assert _handles._handles[name].is_set()  # type: ignore[attr-defined]
    del executor
    wait_until(lambda: gc.collect() >= 0 and manager.objects == 0)  # the loop ends meanwhile
    manager.close()


def stop_here(started: Any, *_: Any) -> None:
    started.set()
    signal.pause()


def test_a_killed_call_lets_go(executor: unirun.Executor) -> None:
    started = executor.Event()
    future = executor.submit(stop_here, started, executor.Queue(), [executor.Dict()])
    assert started.wait(PATIENCE)
    assert objects_of(executor) == 4
    future.kill(grace=0)
    wait_until(lambda: objects_of(executor) == 1)


def stay(started: Any, *_: Any) -> None:
    started.put(os.getpid())
    signal.pause()


def test_a_worker_that_is_killed_from_outside_keeps_nothing(executor: unirun.Executor) -> None:
    started = executor.Queue()
    future = executor.submit(stay, started, executor.Queue(), [executor.Dict()])
    pid = started.get(timeout=PATIENCE)
    assert objects_of(executor) == 4
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(unirun.WorkerCrashed):
        future.result(PATIENCE)
    wait_until(lambda: objects_of(executor) == 1)


def test_a_call_that_never_began_lets_go() -> None:
    with unirun.Executor(1, backend="process") as executor:
        started, go_on = executor.Event(), executor.Event()
        executor.submit(hold, started, go_on)
        assert started.wait(PATIENCE)
        cancelled = executor.submit(put_pid, executor.Queue())
        late = executor.options(queue_timeout=0.01).submit(put_pid, executor.Queue())
        assert objects_of(executor) == 4
        assert cancelled.cancel()
        wait_until(late.done)
        wait_until(lambda: objects_of(executor) == 2)
        go_on.set()


def test_what_cannot_be_pickled_keeps_nothing(executor: unirun.Executor) -> None:
    future = executor.submit(put_into, executor.Queue(), threading.Lock())
    with pytest.raises(SerializationError):
        future.result(PATIENCE)
    del future  # its traceback shows what was submitted
    queue = executor.Queue()
    with pytest.raises(SerializationError):
        queue.put((executor.Event(), threading.Lock()))
    gc.collect()
    wait_until(lambda: objects_of(executor) == 1)
