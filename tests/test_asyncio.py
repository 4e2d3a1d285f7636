"""Futures and executors in programs of asyncio: all that takes an awaitable, and event loops."""

import asyncio
import concurrent.futures
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from unirun import Executor
from unirun.testing import PATIENCE, Gate
from unirun.testing import _subjects as subjects


@pytest.fixture(scope="module")
def threads() -> Iterator[Executor]:
    with Executor(1, backend="thread") as executor:
        list(executor.map(subjects.square, range(9), ordered=False))
        yield executor


async def outcome_of(future: Any) -> Any:
    return await future


def run(main: Any) -> Any:
    async def within_patience() -> Any:
        async with asyncio.timeout(PATIENCE):
            return await main()

    return asyncio.run(within_patience())


def test_all_that_takes_awaitables_takes_futures(threads: Executor) -> None:
    async def main() -> list[Any]:
        square = threads.submit
        found = await asyncio.gather(square(subjects.square, 1), square(subjects.square, 2))
        found.append(await asyncio.wait_for(square(subjects.square, 3), PATIENCE))
        found.append(await asyncio.shield(square(subjects.square, 4)))
        found.append(await asyncio.ensure_future(square(subjects.square, 5)))
        async with asyncio.TaskGroup() as group:
            task = group.create_task(outcome_of(square(subjects.square, 6)))
        found.append(task.result())
        for each in asyncio.as_completed([square(subjects.square, 7)]):
            found.append(await each)
        found.append(await asyncio.wrap_future(square(subjects.square, 8)))
        loop = asyncio.get_running_loop()
        found.append(await loop.run_in_executor(threads, subjects.square, 9))
        return found

    assert run(main) == [1, 4, 9, 16, 25, 36, 49, 64, 81]


def test_a_shielded_call_goes_on_when_who_waits_is_cancelled(gate: Gate) -> None:
    with Executor(1, backend="process") as executor:
        future = executor.submit(subjects.hold, gate.address, "held")
        arrival = gate.arrival()

        async def main() -> Any:
            shielded = asyncio.shield(future)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(shielded, 0.01)
            arrival.release()
            return await future

        assert run(main) == "held"


def test_a_task_that_fails_ends_the_calls_of_its_group(gate: Gate) -> None:
    with Executor(2, backend="process", grace=0) as executor:
        first = executor.submit(subjects.hold, gate.address)
        arrival = gate.arrival()

        async def main() -> None:
            async with asyncio.TaskGroup() as group:
                group.create_task(outcome_of(first))
                group.create_task(outcome_of(executor.submit(subjects.fail, ValueError("one"))))

        with pytest.raises(ExceptionGroup) as raised:
            run(main)
        assert [type(each) for each in raised.value.exceptions] == [ValueError]
        assert first.cancelled()
        assert arrival.is_gone()


def test_gathered_calls_are_ended_together(gate: Gate) -> None:
    with Executor(2, backend="process", grace=0) as executor:
        futures = [executor.submit(subjects.hold, gate.address) for _ in range(3)]
        arrivals = gate.arrivals(2)

        async def main() -> None:
            async with asyncio.timeout(0.01):
                await asyncio.gather(*futures)

        with pytest.raises(TimeoutError):
            run(main)
        for each in futures:  # asyncio.gather() is over with the first of them
            with pytest.raises(concurrent.futures.CancelledError):
                each.result(PATIENCE)
        assert [each.is_gone() for each in arrivals] == [True] * 2


def test_what_asyncio_cannot_wait_for_is_refused_with_the_remedy(
    threads: Executor, gate: Gate
) -> None:
    """Its callback would run in a thread that is not the loop's, and the loop would sleep on."""
    future = threads.submit(subjects.hold, gate.address)
    arrival = gate.arrival()

    async def main() -> None:
        with pytest.raises(TypeError, match=r"give it asyncio\.ensure_future\(future\)"):
            await asyncio.wait([future])  # type: ignore[type-var]
        arrival.release()
        done, _ = await asyncio.wait([asyncio.ensure_future(future)], timeout=PATIENCE)
        assert [each.result() for each in done] == [None]

    run(main)


def test_asyncio_takes_nothing_but_a_thread_pool_for_its_default_executor(
    threads: Executor,
) -> None:
    """As the document says; when it does, the document has to say something else."""

    async def main() -> None:
        with pytest.raises(TypeError, match="ThreadPoolExecutor"):
            asyncio.get_running_loop().set_default_executor(threads)  # type: ignore[arg-type]

    run(main)


def test_cancelling_a_wrapped_future_keeps_the_meaning_of_the_standard_library(
    threads: Executor, gate: Gate
) -> None:
    """It asks a call that runs to stop, and kills nothing."""
    future = threads.submit(subjects.meet_until_cancelled, gate.address)
    gate.arrival()

    async def main() -> None:
        wrapped = asyncio.wrap_future(future)
        wrapped.cancel()
        with pytest.raises(asyncio.CancelledError):
            await wrapped

    run(main)
    assert future.result(PATIENCE) == "cancelled"


def test_a_stop_iteration_of_a_call_is_no_end_of_the_coroutine(threads: Executor) -> None:
    with pytest.raises(RuntimeError, match="raised StopIteration"):
        run(lambda: outcome_of(threads.submit(next, iter(()))))


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with Python 3.12")
def test_eager_tasks_await_futures(threads: Executor) -> None:
    async def main() -> list[int]:
        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined, unused-ignore]
        tasks = [asyncio.create_task(outcome_of(threads.submit(abs, -n))) for n in range(3)]
        return await asyncio.gather(*tasks)

    assert run(main) == [0, 1, 2]
