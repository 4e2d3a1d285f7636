"""`with config()` reaches what its calls submit, wherever these run, and nobody else."""

import asyncio
import contextvars
import os
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, nullcontext
from typing import Any

import pytest

import unirun
from unirun import Executor, config, configure
from unirun._config import load
from unirun._plan import Plan

TIMEOUT = 30.0

pytestmark = pytest.mark.usefixtures("here")


def said() -> tuple[Any, Any, str]:
    """What the settings are where this runs."""
    settings = load().resolve()
    return settings["name"], settings["retries"], settings.source("name")


INSIDE = ("nine", 0, "with config()")
OUTSIDE = (None, 0, "default")


@unirun.task(kind="cpu")
def said_by_a_call_of_a_call() -> Any:
    return unirun.submit(said).result(TIMEOUT), unirun.submit(said_at_home).result(TIMEOUT)


@unirun.task(kind="isolated")
def said_at_home() -> Any:
    return said()


def said_on_top() -> Any:
    with config(retries=3):
        return said(), unirun.submit(said).result(TIMEOUT)


def said_by_a_pool_of_its_own() -> Any:
    with Executor(1, backend="process") as executor:
        return executor.submit(said).result(TIMEOUT)


def kind_of_a_call() -> str:
    task = unirun.current_task()
    assert task is not None
    return task.backend


def backend_of_a_call() -> Any:
    return unirun.submit(kind_of_a_call).result(TIMEOUT)


# -- into worker processes -------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["zygote", "spawn", "fork"])
def test_a_call_in_a_worker_sees_the_block_it_was_submitted_in(method: str) -> None:
    with Executor(1, backend="process", mp_context=method) as executor:
        before = executor.submit(said)
        with config(name="nine"):
            inside = executor.submit(said)
        after = executor.submit(said)
        assert [f.result(TIMEOUT) for f in (before, inside, after)] == [OUTSIDE, INSIDE, OUTSIDE]


def test_the_executor_may_have_been_made_and_started_in_the_block() -> None:
    with ExitStack() as stack:
        with config(name="nine"):
            executor = stack.enter_context(Executor(1, backend="process"))
            inside = executor.submit(said)
        assert inside.result(TIMEOUT) == INSIDE
        assert executor.submit(said).result(TIMEOUT) == OUTSIDE


def test_calls_of_calls_see_it_too_wherever_they_run() -> None:
    with Executor(2) as executor:
        with config(name="nine"):
            inside = said_by_a_call_of_a_call.submit()
            made = executor.submit(said_by_a_call_of_a_call)
        assert inside.result(TIMEOUT) == (INSIDE, INSIDE)
        assert made.result(TIMEOUT) == (INSIDE, INSIDE)


def test_a_block_in_a_task_lies_on_top_of_that_of_its_caller() -> None:
    with Executor(1, backend="process") as executor:
        with config(name="nine", retries=1):
            inside = executor.submit(said_on_top)
        on_top = ("nine", 3, "with config()")
        assert inside.result(TIMEOUT) == (on_top, on_top)
        assert executor.submit(said).result(TIMEOUT) == OUTSIDE


def test_the_calls_of_a_pool_that_a_task_makes_see_it() -> None:
    with Executor(1, backend="process") as executor:
        with config(name="nine"):
            inside = executor.submit(said_by_a_pool_of_its_own)
        assert inside.result(TIMEOUT) == INSIDE


def test_a_block_decides_where_the_calls_of_a_call_run() -> None:
    with Executor(1) as executor:
        there = executor.options(backend="process")
        with config(backend="inline"):
            inside = there.submit(backend_of_a_call)
        assert inside.result(TIMEOUT) == "inline"
        assert there.submit(backend_of_a_call).result(TIMEOUT) == "thread"


def test_calls_that_travel_together_have_each_their_own_block() -> None:
    blocks = [config(name=f"n{n}") for n in range(3)]
    with Executor(1, backend="process") as executor:
        futures = []
        for n in range(600):  # so many that the worker gets many at a time
            with blocks[n % 3] if n % 4 else nullcontext():
                futures.append(executor.submit(said))
        found = [future.result(TIMEOUT)[0] for future in futures]
    assert found == [f"n{n % 3}" if n % 4 else None for n in range(600)]


def test_a_deadline_is_that_of_the_call_and_not_a_setting_of_its_worker() -> None:
    with Executor(1, backend="process") as executor, config(deadline=1e9, name="nine"):
        assert executor.submit(said_deadline).result(TIMEOUT) == (None, 1e9)


def said_deadline() -> Any:
    task = unirun.current_task()
    return load().resolve()["deadline"], task and task.deadline


def test_a_later_attempt_is_made_in_the_block_of_the_first() -> None:
    with Executor(1, backend="process") as executor:
        with config(name="nine"):
            again = executor.options(retries=1).submit(fail_once)
        assert again.result(TIMEOUT) == (2, *INSIDE)


def fail_once() -> Any:
    task = unirun.current_task()
    assert task is not None
    if task.attempt == 1:
        raise OSError("the first attempt")
    found = said()
    return task.attempt, found[0], 0, found[2]


# -- what it costs who does not use it ------------------------------------------------------------


def test_a_worker_does_not_read_settings_before_a_task_asks_for_them() -> None:
    with Executor(1, backend="process") as executor:
        with config(name="nine"):
            loaded = executor.submit(eval, "{*__import__('sys').modules}").result(TIMEOUT)
        assert not loaded & {"unirun._config", "unirun._settings", "unirun._sources"}


def test_a_call_outside_of_any_block_carries_nothing() -> None:
    def plan() -> Plan:
        return executor._plan(said, executor._given)

    with Executor(1, backend="process") as executor, Executor(1, backend="thread") as threads:
        configure(name="nine")
        assert plan().options.settings is None
        with config(deadline=1e9):  # it travels with the call anyhow
            assert plan().options.settings is None
        with config(retries=1):
            assert plan().options.settings is not None
            assert threads._plan(said, threads._given).options.settings is None


# -- other threads and tasks of this process ------------------------------------------------------


@pytest.mark.parametrize("backend", ["thread", "inline"])
def test_a_call_in_this_process_sees_the_block_it_was_submitted_in(backend: str) -> None:
    with Executor(1, backend=backend) as executor:
        with config(name="nine"):
            inside = executor.submit(said)
            nested = executor.submit(said_on_top) if backend == "thread" else None
        assert inside.result(TIMEOUT) == INSIDE
        assert executor.submit(said).result(TIMEOUT) == OUTSIDE
        if nested is not None:
            on_top = ("nine", 3, "with config()")
            assert nested.result(TIMEOUT) == (on_top, on_top)


@pytest.mark.parametrize(("backend", "chunksize"), [("thread", 1), ("process", 1), ("process", 7)])
def test_a_map_has_the_block_it_was_made_in_for_all_its_items(backend: str, chunksize: int) -> None:
    with Executor(2, backend=backend) as executor:
        with config(name="nine"):
            inside = executor.map(said_about, range(80), chunksize=chunksize, buffersize=8)
        outside = executor.map(said_about, range(80), chunksize=chunksize, buffersize=8)
        with config(name="five"):
            assert set(outside) == {OUTSIDE}
        assert set(inside) == {INSIDE}
        assert said() == OUTSIDE


def said_about(_: int) -> Any:
    return said()


def test_a_map_of_a_map_keeps_each_its_own_block() -> None:
    with Executor(2, backend="thread") as executor:
        with config(name="nine"):
            inner = executor.map(said_about, range(60), chunksize=1, buffersize=4)
        outer = executor.map(with_own, inner, chunksize=1, buffersize=4)
        assert set(outer) == {(INSIDE, OUTSIDE)}


def with_own(given: Any) -> Any:
    return given, said()


def test_a_timer_runs_in_the_block_it_was_started_in() -> None:
    found: list[Any] = []
    with Executor(1, backend="thread") as executor:
        with config(name="nine"):
            timer = executor.Timer(0.01, lambda: found.append(said()))
            timer.start()
        timer.join(TIMEOUT)
    assert found == [INSIDE]


def test_threads_that_start_in_turn_have_each_their_own_block() -> None:
    with Executor(4, backend="thread") as executor:
        entered = threading.Barrier(4)

        def own(n: int) -> Any:
            with config(name=f"n{n}"):
                entered.wait(TIMEOUT)
                return executor.submit(said).result(TIMEOUT)[0], said()[0]

        found = [future.result(TIMEOUT) for future in [executor.submit(own, n) for n in range(4)]]
        assert found == [(f"n{n}", f"n{n}") for n in range(4)]


# -- generators, and asyncio ----------------------------------------------------------------------


def test_the_block_of_a_generator_holds_for_its_reader_until_it_is_left() -> None:
    def reading() -> Iterator[Any]:
        with config(name="nine"):
            yield said()

    items = reading()
    assert next(items) == INSIDE
    assert said() == INSIDE  # a generator runs in the context of whoever reads it
    assert next(items, None) is None
    assert said() == OUTSIDE


def test_a_generator_that_is_closed_elsewhere_is_closed_in_silence() -> None:
    def reading() -> Iterator[Any]:
        with config(name="nine"):
            yield

    items: Any = reading()
    contextvars.copy_context().run(next, items)
    items.close()  # as the garbage collector does, in any thread
    assert said() == OUTSIDE


def test_an_exception_that_leaves_a_block_elsewhere_is_not_replaced() -> None:
    block = config(name="nine")
    contextvars.copy_context().run(block.__enter__)
    assert block.__exit__(ZeroDivisionError, ZeroDivisionError(), None) is None  # type: ignore[func-returns-value]


def test_asyncio_tasks_and_what_they_start_see_the_blocks_around_them() -> None:
    async def reading() -> AsyncIterator[Any]:
        with config(name="nine"):
            yield said()
            yield await asyncio.create_task(later())

    async def later() -> Any:
        await asyncio.sleep(0)
        return said()

    async def on_top(n: int) -> Any:
        with config(name=f"n{n}"):
            submitted = await executor.submit(said)
            return submitted[0], (await asyncio.gather(later(), later()))[1][0]

    async def main() -> None:
        with config(retries=1):
            items = reading()
            first = [item async for item in items]
            assert first == [("nine", 1, "with config()")] * 2
            assert said()[:2] == (None, 1)
            assert await asyncio.gather(*map(on_top, range(5))) == [
                (f"n{n}", f"n{n}") for n in range(5)
            ]
            half = reading()
            assert (await anext(half))[0] == "nine"
            await asyncio.create_task(aclosed(half))  # in a context that has a copy of the block
        assert said()[:2] in (OUTSIDE[:2], INSIDE[:2])

    async def aclosed(items: Any) -> None:
        await items.aclose()

    with Executor(2, backend="thread") as executor:
        asyncio.run(main())
    assert said() == OUTSIDE


def test_the_coroutines_of_a_block_see_it_on_their_loop() -> None:
    async def both() -> Any:
        return said(), await asyncio.create_task(again())

    async def again() -> Any:
        return said()

    with Executor() as executor:
        with config(name="nine"):
            inside = executor.submit(both)
        assert inside.result(TIMEOUT) == (INSIDE, INSIDE)
        assert executor.submit(both).result(TIMEOUT) == (OUTSIDE, OUTSIDE)


# -- what else workers inherit --------------------------------------------------------------------


def test_a_worker_has_the_file_the_configuration_and_the_variables_of_its_parent(
    here: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "unirun.toml").write_text('retries = 2\n[profile.p]\nname = "four"\n')
    monkeypatch.setenv("UNIRUN_PROFILE", "p")
    configure(memory="2GiB")
    with Executor(1, backend="process", initializer=os.chdir, initargs=("/",)) as executor:
        name, retries, source = executor.submit(said).result(TIMEOUT)
        assert (name, retries) == ("four", 2)
        assert source == f"unirun.toml [profile.p] (line 3 of {here}/unirun.toml)"
        assert executor.submit(said_memory).result(TIMEOUT) == 2 * 2**30


def said_memory() -> Any:
    return load().resolve()["memory"]
