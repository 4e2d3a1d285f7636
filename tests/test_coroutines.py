"""`async def` tasks: on the event loop of a thread, and in worker processes."""

import asyncio
import contextvars
import gc
import logging
import os
import re
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from typing import Any

import pytest

import unirun
from unirun import Executor, NotKillable, TaskKilled, _hangs
from unirun._hangs import HangWarning
from unirun.testing import PATIENCE, Gate
from unirun.testing import _subjects as subjects


@pytest.fixture
def loop() -> Iterator[Executor]:
    with Executor(backend="coroutine", grace=1) as executor:
        yield executor


async def outcome_of(future: Any) -> Any:
    return await future


# -- thousands ------------------------------------------------------------------------------------


def test_thousands_run_at_once_and_can_be_cancelled_at_once(loop: Executor) -> None:
    there, all_there, cleaned = [], threading.Event(), []

    async def hold() -> None:
        there.append(1)
        if len(there) == 5000:
            all_there.set()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            cleaned.append(1)

    futures = [loop.submit(hold) for _ in range(5000)]
    assert all_there.wait(PATIENCE)
    assert loop.stats()["coroutine"].running == 5000
    loop.shutdown(kill=True)

    assert len(cleaned) == 5000
    assert all(each.cancelled() for each in futures)


def test_no_call_is_lost_when_a_shutdown_follows_at_once() -> None:
    for _ in range(20):
        with Executor(backend="coroutine") as executor:
            futures = [executor.submit(subjects.square_later, n) for n in range(50)]
        assert [each.result(0) for each in futures] == [n * n for n in range(50)]


def test_a_call_that_comes_as_the_last_one_ends_is_not_lost_either() -> None:
    executor = Executor(backend="coroutine")
    futures: list[Any] = []

    def submit_and_close() -> None:
        futures.append(executor.submit(asyncio.sleep, 0.05, 9))
        executor.shutdown(wait=False)

    async def last() -> None:
        asyncio.get_running_loop().call_soon(submit_and_close)  # before it is seen to have ended

    executor.submit(last).result(PATIENCE)
    executor.shutdown()
    assert futures[0].result(0) == 9


def test_a_dropped_executor_finishes_what_it_has() -> None:
    executor = Executor(backend="coroutine")
    futures = [executor.submit(subjects.square_later, n) for n in range(9)]
    del executor
    assert [each.result(PATIENCE) for each in futures] == [n * n for n in range(9)]
    (thread,) = [each for each in threading.enumerate() if each.name == "unirun-loop"] or [None]
    if thread is not None:
        thread.join(PATIENCE)


def test_a_kill_takes_effect_at_the_next_await_and_runs_the_cleanup(loop: Executor) -> None:
    done: list[str] = []
    running = threading.Event()

    async def stages() -> None:
        try:
            running.set()
            await asyncio.sleep(PATIENCE)
        finally:
            done.append("cleaned")
        done.append("went on")

    future = loop.submit(stages)
    assert running.wait(PATIENCE)

    assert future.kill() is True
    with pytest.raises(TaskKilled):
        future.result(0)
    assert done == ["cleaned"]


def test_each_call_has_the_context_variables_of_its_submit(loop: Executor) -> None:
    seen: contextvars.ContextVar[int] = contextvars.ContextVar("seen")

    async def look() -> int:
        before = seen.get()
        seen.set(99)  # for nobody else
        await asyncio.sleep(0)
        return before

    futures = []
    for n in range(3):
        seen.set(n)
        futures.append(loop.submit(look))
    assert [each.result(PATIENCE) for each in futures] == [0, 1, 2]
    assert seen.get() == 2


def test_a_killed_coroutine_ends_the_call_it_awaits(gate: Gate) -> None:
    with Executor(1, backend="process", grace=0) as processes, Executor() as loop:
        inner = processes.submit(subjects.hold, gate.address)
        arrival = gate.arrival()
        outer = loop.submit(outcome_of, inner)
        while not outer.running():
            time.sleep(0.001)

        assert outer.kill() is True

        assert arrival.is_gone()
        assert inner.cancelled()


def test_a_queue_joins_coroutines_and_threads(loop: Executor) -> None:
    with Executor(1, backend="thread") as threads:
        queue = threads.Queue(1)

        async def put_all() -> None:
            for n in range(20):
                await queue.aput(n)

        async def ticks() -> int:
            await asyncio.sleep(0)
            return 1

        filler = loop.submit(put_all)
        assert loop.submit(ticks).result(PATIENCE) == 1  # which waits for room, not the loop
        assert [queue.get(timeout=PATIENCE) for _ in range(20)] == list(range(20))
        filler.result(PATIENCE)


# -- what one call does to the others -------------------------------------------------------------


def leave_a_task_that_exits() -> None:
    async def leaf() -> None:
        raise SystemExit(3)

    asyncio.get_running_loop().left = asyncio.create_task(leaf())  # type: ignore[attr-defined]


def leave_a_callback_that_interrupts() -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    asyncio.get_running_loop().call_soon(interrupt)


def stop_the_loop() -> None:
    asyncio.get_running_loop().stop()


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (leave_a_task_that_exits, "raised SystemExit"),
        (leave_a_callback_that_interrupts, "raised KeyboardInterrupt"),
        (stop_the_loop, None),
    ],
    ids=lambda each: getattr(each, "__name__", ""),
)
def test_what_would_end_a_loop_ends_no_other_call(
    harm: Any, said: str | None, loop: Executor, caplog: pytest.LogCaptureFixture
) -> None:
    async def harmful() -> str:
        harm()
        for _ in range(3):
            await asyncio.sleep(0)
        return "went on"

    assert loop.submit(harmful).result(PATIENCE) == "went on"
    assert loop.submit(subjects.square_later, 3).result(PATIENCE) == 9
    loop.shutdown()
    assert said is None or said in caplog.text


def test_tasks_and_generators_that_calls_leave_are_ended_with_the_loop() -> None:
    done: list[str] = []
    kept: list[Any] = []

    async def numbers() -> Any:
        try:
            yield 1
            yield 2
        finally:
            await asyncio.sleep(0)
            done.append("generator")

    async def background() -> None:
        try:
            await asyncio.sleep(PATIENCE)
        finally:
            await asyncio.sleep(0)
            done.append("task")

    async def leave_both() -> Any:
        kept.append(asyncio.create_task(background()))
        kept.append(numbers())
        await asyncio.sleep(0)
        return await anext(kept[1])

    with Executor(backend="coroutine") as executor:
        assert executor.submit(leave_both).result(PATIENCE) == 1

    assert done == ["task", "generator"]


def test_a_left_task_that_heeds_nothing_does_not_hold_up_the_end(
    caplog: pytest.LogCaptureFixture,
) -> None:
    kept = []

    async def stubborn() -> None:
        while True:
            try:
                await asyncio.sleep(PATIENCE)
            except asyncio.CancelledError:
                continue

    async def leave_it() -> None:
        kept.append(asyncio.create_task(stubborn()))
        await asyncio.sleep(0)

    with Executor(backend="coroutine", grace=0.05) as executor:
        executor.submit(leave_it).result(PATIENCE)
    assert not kept[0].done()
    kept.clear()
    gc.collect()
    assert "Task was destroyed but it is pending" in caplog.text  # as asyncio says


# -- a loop that stands still ---------------------------------------------------------------------


async def block(gate: tuple[str, int]) -> None:
    subjects.wait_at(gate)  # a socket without asyncio


def test_a_blocked_loop_is_warned_of_and_who_blocks_it_is_named(
    gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    heard = threading.Event()

    def hear(text: Any, category: Any, *_: Any, **__: Any) -> None:
        assert category is HangWarning
        told.append(str(text))
        heard.set()

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        monkeypatch.setattr(warnings, "showwarning", hear)
        with Executor(backend="coroutine") as executor:
            monkeypatch.setattr(_hangs, "warn_after", 0.1)  # as the setting hang_warning does
            executor.submit(block, gate.address)
            arrival = gate.arrival()
            assert heard.wait(PATIENCE)
            arrival.release()

    (text,) = told
    assert re.match(r"the event loop of 'unirun' has stood still for 0\.\d s, and with it", text)
    assert ".block blocks it at " in text
    assert "in wait_at; await what takes long, or give it kind='io'" in text


def test_a_loop_that_waits_is_not_taken_for_blocked(monkeypatch: pytest.MonkeyPatch) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", HangWarning)
        monkeypatch.setattr(sys, "unraisablehook", lambda _: told.append(1))
        told: list[int] = []
        with Executor(backend="coroutine") as executor:
            monkeypatch.setattr(_hangs, "warn_after", 0.1)
            executor.submit(asyncio.sleep, 0.4).result(PATIENCE)
    assert told == []


def test_asyncio_in_debug_mode_names_the_call_that_took_long(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PYTHONASYNCIODEBUG", "1")

    async def slow() -> None:
        asyncio.get_running_loop().slow_callback_duration = 0.0
        time.sleep(0.001)  # noqa: ASYNC251  # which is what it is about

    with caplog.at_level(logging.WARNING, "asyncio"), Executor(backend="coroutine") as executor:
        executor.submit(slow).result(PATIENCE)
    assert "slow'" in caplog.text
    assert "took 0." in caplog.text


def test_a_loop_that_is_blocked_for_good_is_left_behind(gate: Gate) -> None:
    with Executor(backend="coroutine", grace=0) as executor:
        future = executor.submit(block, gate.address)
        arrival = gate.arrival()
        executor.shutdown(kill=True)
        with pytest.raises(NotKillable, match="left behind and runs on"):
            future.result(0)
        arrival.release()
        assert arrival.is_gone()


# -- in a worker process --------------------------------------------------------------------------


async def whereabouts() -> tuple[int, bool]:
    loop = asyncio.get_running_loop()
    loop.call_soon(loop.set_debug, True)  # for nobody else
    await asyncio.sleep(0.001)
    return os.getpid(), loop.is_closed()


async def families(number: int) -> list[int]:
    """Several calls of both sorts, awaited at once where there is one worker."""
    executor = unirun.current_executor()
    turns = 0

    async def turn() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    meanwhile = asyncio.create_task(turn())
    plain = [executor.submit(subjects.square, n) for n in range(number)]
    later = [executor.options(kind="cpu").submit(subjects.square_later, n) for n in range(number)]
    found = await asyncio.gather(*plain, *later)
    meanwhile.cancel()
    assert turns > 0, "the loop stood still"
    return found


async def hold_later(gate: tuple[str, int]) -> None:
    reader, writer = await asyncio.open_connection(*gate)
    writer.write(os.getpid().to_bytes(8, "little"))
    await reader.read(1)


async def left_behind() -> None:
    whereabouts.left = asyncio.create_task(asyncio.sleep(PATIENCE))  # type: ignore[attr-defined]


async def was_left_behind() -> bool:
    return whereabouts.left.cancelled()  # type: ignore[attr-defined, no-any-return]


def test_coroutines_of_kind_cpu_run_in_worker_processes(gate: Gate) -> None:
    """Each with a loop of its own, which ends with the call; a kill ends it wherever it awaits."""
    with Executor(1, kind="cpu", grace=0) as executor:
        pid, closed = executor.submit(whereabouts).result(PATIENCE)
        assert pid != os.getpid()
        assert closed is False
        assert executor.submit(families, 4).result(PATIENCE) == [0, 1, 4, 9] * 2
        executor.submit(left_behind).result(PATIENCE)
        assert executor.submit(was_left_behind).result(PATIENCE) is True
        held = executor.submit(hold_later, gate.address)
        arrival = gate.arrival()
        with pytest.raises(asyncio.TimeoutError):
            asyncio.run(asyncio.wait_for(outcome_of(held), 0.01))
        assert held.cancelled()
        assert arrival.is_gone()
        assert executor.submit(subjects.square_later, 3).result(PATIENCE) == 9


def test_without_grace_nothing_is_said_of_a_loop_that_was_left_clean(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with Executor(backend="coroutine", grace=0) as executor:
        assert executor.submit(asyncio.sleep, 0, "done").result(PATIENCE) == "done"
    assert caplog.text == ""
