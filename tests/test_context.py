"""Context variables reach a call, however it is made and wherever it runs; nothing comes back."""

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from contexts import PATIENCE, apart, request, user, whose, whose_item

import unirun
from unirun import Executor

BACKENDS = ("inline", "thread", "coroutine", "process")
SEEN = ("ann", 7)


@pytest.fixture(scope="module")
def processes() -> Iterator[Executor]:
    with Executor(1, backend="process") as executor:
        called = threading.Event()
        executor.submit(abs, 1).add_done_callback(lambda _: called.set())
        assert called.wait(PATIENCE)  # all its threads are there now
        yield executor


@pytest.fixture(params=BACKENDS)
def executor(request: pytest.FixtureRequest, processes: Executor) -> Iterator[Executor]:
    if request.param == "process":
        yield processes
        return
    with Executor(2, backend=request.param) as executor:
        yield executor


def fitting(executor: Executor, fn: Any) -> Any:
    """As a coroutine function, where only these run."""
    return fn if executor._chooser.fixed != "coroutine" else LATER[fn]


async def whose_later() -> Any:
    await asyncio.sleep(0)
    return whose()


async def whose_item_later(item: int) -> Any:
    await asyncio.sleep(0)
    return whose_item(item)


async def change_later() -> Any:
    return change()


def change() -> Any:
    user.set("eve")
    request.set("hers")
    return whose()


LATER = {whose: whose_later, whose_item: whose_item_later, change: change_later}


def set_both() -> None:
    user.set("ann")
    request.set(7)


# -- there -----------------------------------------------------------------------------------------


@apart
def test_a_call_sees_what_was_set_when_it_was_submitted(executor: Executor) -> None:
    set_both()
    future = executor.submit(fitting(executor, whose))
    user.set("bob")
    later = executor.submit(fitting(executor, whose))
    assert future.result(PATIENCE) == SEEN
    assert later.result(PATIENCE) == ("bob", 7)


@apart
def test_a_call_without_any_sees_the_defaults_after_one_with_some(executor: Executor) -> None:
    token = user.set("ann")
    assert executor.submit(fitting(executor, whose)).result(PATIENCE)[0] == "ann"
    user.reset(token)
    assert executor.submit(fitting(executor, whose)).result(PATIENCE) == ("nobody", "no request")


@apart
@pytest.mark.parametrize("chunksize", [1, "auto", 7])
def test_all_items_of_a_map_see_what_was_set_when_it_was_made(
    executor: Executor, chunksize: Any
) -> None:
    if executor._chooser.fixed == "coroutine" and chunksize == 7:
        pytest.skip("a coroutine runs one item")
    set_both()
    found = executor.map(
        fitting(executor, whose_item), range(60), chunksize=chunksize, buffersize=14
    )
    first = next(found)
    user.set("bob")  # most items are not submitted yet
    request.set(8)
    assert [first, *found] == [(n, *SEEN) for n in range(60)]


@apart
def test_a_map_that_another_thread_reads_keeps_its_variables(executor: Executor) -> None:
    set_both()
    found = executor.map(fitting(executor, whose_item), range(40), buffersize=4)
    rest: list[Any] = []
    thread = threading.Thread(target=lambda: rest.extend(found))
    thread.start()
    thread.join(PATIENCE)
    assert rest == [(n, *SEEN) for n in range(40)]


@apart
def test_a_done_callback_sees_the_variables_of_who_added_it(executor: Executor) -> None:
    gone = threading.Event()
    seen: list[Any] = []
    gate = threading.Event()
    if executor._chooser.fixed == "process":
        future: Any = executor.submit(pow, 2, 3)
    elif executor._chooser.fixed == "thread":
        future = executor.submit(gate.wait, PATIENCE)
    else:
        pytest.skip("its calls have ended, or run in a loop, when a callback can be added")
    user.set("ann")
    future.add_done_callback(lambda _: seen.append((user.get(), unirun.current_task())))
    user.set("bob")
    future.add_done_callback(lambda _: seen.append(user.get()))
    future.add_done_callback(lambda _: gone.set())
    gate.set()
    assert gone.wait(PATIENCE)
    assert seen == [("ann", None), "bob"]


@apart
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_later_attempt_and_a_call_that_waits_in_a_view_see_them_too(backend: str) -> None:
    set_both()
    fn = fail_once_later if backend == "coroutine" else fail_once
    with Executor(1, backend=backend) as executor:
        view = executor.options(retries=unirun.Retry(1, backoff=0), limit=1)
        futures = [view.submit(fn) for _ in range(2)]
        user.set("bob")
        assert [future.result(PATIENCE) for future in futures] == [(2, *SEEN)] * 2


def fail_once() -> Any:
    task = unirun.current_task()
    assert task is not None
    if task.attempt == 1:
        raise OSError("the first attempt")
    return task.attempt, *whose()


async def fail_once_later() -> Any:
    return fail_once()


@apart
def test_they_go_on_from_call_to_call_and_to_calls_with_limits() -> None:
    set_both()
    with Executor(1, backend="process") as processes, Executor(1, backend="thread") as threads:
        assert threads.submit(whose_below, processes).result(PATIENCE) == SEEN
        view = processes.options(timeout=PATIENCE, priority=1)
        assert view.submit(whose_on_top).result(PATIENCE) == (("eve", 7), ("eve", 7), SEEN)


def whose_below(executor: Executor) -> Any:
    return executor.submit(whose).result(PATIENCE)


def whose_on_top() -> Any:
    before = unirun.submit(whose)
    user.set("eve")
    after = unirun.submit(whose)
    with Executor(1, backend="process") as own:
        elsewhere = own.submit(whose).result(PATIENCE)
    return after.result(PATIENCE), elsewhere, before.result(PATIENCE)


@unirun.task(kind="cpu")
def whose_task() -> Any:
    return whose()


@apart
def test_tasks_and_timers_bring_them() -> None:
    set_both()
    with Executor(1) as executor:
        assert whose_task.submit().result(PATIENCE) == SEEN
        seen = executor.Queue()
        timer = executor.Timer(0, put_whose, [seen])
        timer.start()
        user.set("bob")
        assert seen.get(timeout=PATIENCE) == SEEN
        timer.join(PATIENCE)


def put_whose(queue: Any) -> None:
    queue.put(whose())


@apart
@pytest.mark.parametrize("kind", ["io", "isolated"])
def test_an_activity_sees_them(kind: str) -> None:
    set_both()
    with Executor(1) as executor:
        seen = executor.Queue()
        activity = executor.Activity(put_whose_and_task, [seen], kind=kind)
        activity.start()
        user.set("bob")
        assert seen.get(timeout=PATIENCE) == (SEEN, None)
        activity.join(PATIENCE)


def put_whose_and_task(queue: Any) -> None:
    queue.put((whose(), unirun.current_task()))


def begin_others(go: Any, seen: Any) -> None:
    """A callback and an activity, each of which says in what call it is."""
    future = unirun.submit(go.wait, PATIENCE)
    future.add_done_callback(lambda _: seen.put(unirun.current_task()))
    activity = unirun.Activity(lambda: seen.put(unirun.current_task()))
    activity.start()
    activity.join(PATIENCE)


@apart
def test_what_a_call_begins_beside_itself_is_no_part_of_it() -> None:
    with Executor(2, backend="thread") as executor:
        go, seen = executor.Event(), executor.Queue()
        executor.submit(begin_others, go, seen).result(PATIENCE)
        assert seen.get(timeout=PATIENCE) is None
        go.set()
        assert seen.get(timeout=PATIENCE) is None


@apart
def test_a_block_of_settings_comes_with_them(processes: Executor) -> None:
    user.set("ann")
    with unirun.config(name="nine"):
        future = processes.submit(whose_and_settings)
    assert future.result(PATIENCE) == ("ann", "nine")


def whose_and_settings() -> Any:
    from unirun._config import load

    return user.get(), load().resolve()["name"]


# -- not back --------------------------------------------------------------------------------------


@apart
def test_what_a_call_sets_is_gone_with_it(executor: Executor) -> None:
    set_both()
    assert executor.submit(fitting(executor, change)).result(PATIENCE) == ("eve", "hers")
    assert whose() == SEEN
    assert executor.submit(fitting(executor, whose)).result(PATIENCE) == SEEN
