"""`async for result in executor.map(...)`, under each library that runs coroutines."""

import asyncio
import contextlib
import itertools
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from libraries import LIBRARIES, Library, library_of

import unirun
from unirun import Executor, _async_map
from unirun.testing import PATIENCE, Gate
from unirun.testing import _subjects as subjects


@pytest.fixture(params=list(LIBRARIES))
def library(request: pytest.FixtureRequest) -> Library:
    return library_of(request)


@pytest.fixture(scope="module", params=["thread", "process"])
def executor(request: pytest.FixtureRequest) -> Iterator[Executor]:
    with Executor(1, backend=request.param) as executor:
        # All of it, the thread of the callbacks too, is there before a test.
        list(executor.map(subjects.square, range(9), ordered=False))
        yield executor


async def all_of(results: Any) -> list[Any]:
    return [each async for each in results]


def test_results_come_in_order(library: Library, executor: Executor) -> None:
    assert library.run(all_of, executor.map(subjects.square, range(300))) == [
        n * n for n in range(300)
    ]


def test_unordered_results_come_all(library: Library, executor: Executor) -> None:
    found = library.run(all_of, executor.map(subjects.square, range(300), ordered=False))
    assert sorted(found) == [n * n for n in range(300)]


@pytest.mark.parametrize("ordered", [True, False])
def test_exceptions_are_raised_returned_or_skipped(executor: Executor, ordered: bool) -> None:
    library = LIBRARIES["asyncio"]()
    inputs = [1, 0, 2]

    def mapped(errors: str) -> Any:
        return executor.map(subjects.inverse, inputs, errors=errors, ordered=ordered)

    async def until_it_fails(results: Any) -> list[Any]:
        found = [await anext(results)]
        with pytest.raises(ZeroDivisionError):
            await anext(results)
        return found

    assert library.run(all_of, mapped("skip")) == [1.0, 0.5]
    first, error, second = library.run(all_of, mapped("return"))
    assert (first, type(error), second) == (1.0, ZeroDivisionError, 0.5)
    assert library.run(until_it_fails, mapped("raise")) == [1.0]


def test_one_that_has_no_inputs_or_has_ended_is_empty(library: Library, executor: Executor) -> None:
    results = executor.map(subjects.square, [])
    assert library.run(all_of, results) == []
    assert library.run(all_of, results) == []


def test_endless_inputs_are_drawn_as_results_are_taken(
    library: Library, executor: Executor
) -> None:
    drawn = itertools.count()

    async def main() -> list[int]:
        found = []
        results = executor.map(subjects.same, drawn, buffersize=4, chunksize=1)
        async for each in results:
            found.append(each)
            if each == 9:
                break
        await results.aclose()
        return found

    assert library.run(main) == list(range(10))
    assert next(drawn) <= 10 + 4


def test_the_loop_goes_on_while_a_result_is_waited_for(library: Library, gate: Gate) -> None:
    with Executor(1, backend="thread") as executor:
        results = executor.map(subjects.hold, [gate.address], chunksize=1)
        arrival = gate.arrival()
        found: list[Any] = []

        async def read() -> None:
            found.extend(await all_of(results))

        async def let_it_go() -> None:
            await library.turn()
            arrival.release()

        library.run(lambda: library.at_once(read, let_it_go))

    assert found == [None]


@pytest.mark.parametrize("ordered", [True, False])
def test_a_result_is_heard_of_and_not_looked_for(
    library: Library, gate: Gate, monkeypatch: pytest.MonkeyPatch, ordered: bool
) -> None:
    monkeypatch.setattr(_async_map, "PATIENCE_SECONDS", 4 * PATIENCE)
    with Executor(1, backend="thread") as executor:
        results = executor.map(subjects.hold, [gate.address], chunksize=1, ordered=ordered)
        arrival = gate.arrival()

        async def read() -> None:
            assert await all_of(results) == [None]

        async def let_it_go() -> None:
            for _ in range(3):
                await library.turn()
            arrival.release()

        library.run(lambda: library.at_once(read, let_it_go))


def test_results_that_are_all_there_do_not_keep_the_loop() -> None:
    turns: list[int] = []

    async def read() -> int:
        found = await all_of(Executor(backend="inline").map(subjects.square, range(50)))
        assert len(found) == 50
        return len(turns)

    async def turn() -> None:
        while True:
            await asyncio.sleep(0)
            turns.append(1)

    async def main() -> int:
        other = asyncio.create_task(turn())
        try:
            return await read()
        finally:
            other.cancel()

    assert LIBRARIES["asyncio"]().run(main) > 0


def test_its_time_ends_it(library: Library, gate: Gate) -> None:
    with Executor(1, backend="thread") as executor:
        results = executor.map(subjects.hold, [gate.address, gate.address], timeout=0.02)
        arrival = gate.arrival()
        with pytest.raises(TimeoutError):
            library.run(all_of, results)
        arrival.release()
    assert gate.is_empty()  # the second was cancelled


def test_being_cancelled_kills_what_runs_and_cancels_what_waits(
    library: Library, gate: Gate
) -> None:
    with Executor(1, backend="process", grace=0) as executor:
        results = executor.map(subjects.hold, [gate.address] * 3, chunksize=1)
        arrival = gate.arrival()

        assert library.run(library.cancel_amid, all_of, results) is True

        assert arrival.is_gone()
        assert gate.is_empty()
        assert executor.stats()["process"].killed == 1
        assert library.run(all_of, results) == []


def test_being_cancelled_sets_the_token_of_what_runs_in_a_thread(
    library: Library, gate: Gate
) -> None:
    with Executor(1, backend="thread") as executor:
        results = executor.map(subjects.meet_until_cancelled, [gate.address], chunksize=1)
        arrival = gate.arrival()

        assert library.run(library.cancel_amid, all_of, results) is True

        assert arrival.is_gone()


@pytest.mark.parametrize("close", [True, False], ids=["aclose", "drop"])
@pytest.mark.parametrize("name", ["asyncio", "trio"])
def test_leaving_it_early_cancels_what_waits(
    name: str, close: bool, gate: Gate, tmp_path: Path
) -> None:
    library, notes = LIBRARIES[name](), tmp_path / "notes"
    inputs = [gate.address] * 9, [1] * 9, [str(notes)] * 9, range(9)

    async def first() -> Any:
        results = executor.map(subjects.step, *inputs)
        arrivals.append(gate.arrival())
        if close:
            async with contextlib.aclosing(results):
                async for each in results:
                    return each
        async for each in results:
            return each  # which drops it
        return None

    arrivals: list[Any] = []
    with Executor(1, backend="thread") as executor:
        assert library.run(first) == 0
        arrivals[0].release()

    assert notes.read_text() == "0,1,"


def test_a_second_task_is_refused_while_one_waits(library: Library, gate: Gate) -> None:
    with Executor(1, backend="thread") as executor:
        results = executor.map(subjects.hold, [gate.address], chunksize=1)
        arrival = gate.arrival()
        refused: list[str] = []

        async def second() -> None:
            await library.turn()
            try:
                await anext(results)
            except RuntimeError as exc:
                refused.append(str(exc))
            finally:
                arrival.release()

        async def first() -> None:
            try:
                assert await all_of(results) == [None]
            except RuntimeError as exc:  # who comes second is refused, in whichever order
                refused.append(str(exc))

        library.run(lambda: library.at_once(first, second))

    (said,) = refused
    assert said.startswith("another task waits for the next result of this map; let one task")


def test_what_a_thread_has_begun_to_read_a_coroutine_goes_on_with(executor: Executor) -> None:
    results = executor.map(subjects.square, range(100))
    begun = [next(results), next(results)]

    rest = LIBRARIES["asyncio"]().run(all_of, results)

    assert begun + rest == [n * n for n in range(100)]
    assert list(results) == []


def test_a_shutdown_meanwhile_does_not_stop_the_loop(gate: Gate) -> None:
    """It waits for the call that the coroutine waits for, and lets the coroutine read on."""
    library = LIBRARIES["asyncio"]()

    async def main() -> list[int]:
        async with Executor(1, backend="thread") as executor:
            results = executor.map(subjects.step, [gate.address] * 5, [0] * 5, [None] * 5, range(5))
            arrival = gate.arrival()
            reader = asyncio.create_task(all_of(results))
            asyncio.get_running_loop().call_later(0.05, arrival.release)
        return await reader

    assert library.run(main) == list(range(5))


def test_a_full_executor_does_not_stop_the_loop(gate: Gate) -> None:
    """A submit would wait for room; the map looks whether there is any, and comes back."""
    library = LIBRARIES["asyncio"]()

    async def main() -> list[int]:
        found = [await anext(results), await anext(results)]
        asyncio.get_running_loop().call_later(0.02, gate.open)
        return [*found, await anext(results), await anext(results)]

    with Executor(1, backend="thread", max_pending=2) as executor:
        results = executor.map(subjects.square, itertools.count())
        for _ in range(2):
            executor.submit(subjects.hold, gate.address)
        assert library.run(main) == [0, 1, 4, 9]
        results.close()


def test_a_shutdown_sends_what_is_left_though_there_is_no_room() -> None:
    async def main() -> list[int]:
        async with Executor(1, backend="thread", max_pending=2) as executor:
            results = executor.map(subjects.square, list(range(20)))
            found = [await anext(results)]
        return found + await all_of(results)

    assert LIBRARIES["asyncio"]().run(main) == [n * n for n in range(20)]


def squares_of(count: int) -> list[int]:
    """In a worker that is the only one."""

    async def main() -> list[int]:
        return await all_of(unirun.current_executor().map(subjects.square, range(count)))

    return asyncio.run(main())


def test_a_call_can_read_a_map_where_there_is_one_worker(executor: Executor) -> None:
    assert executor.submit(squares_of, 40).result(PATIENCE) == [n * n for n in range(40)]


def test_a_program_that_reads_by_threads_does_not_load_it() -> None:
    code = "import sys, unirun; e = unirun.Executor(1, backend='thread'); "
    code += "print(list(e.map(abs, [-1]))); assert 'unirun._async_map' not in sys.modules"
    ended = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "[1]\n", "")


# -- inputs that are async iterables --------------------------------------------------------------


class Source:
    """An async generator function, and what has become of it."""

    def __init__(self, library: Library) -> None:
        self.library = library
        self.drawn = 0
        self.closed = False

    async def numbers(self, stop: float) -> AsyncIterator[int]:
        try:
            while self.drawn < stop:
                await self.library.turn()
                self.drawn += 1
                yield self.drawn - 1
        finally:
            self.closed = True


def test_async_iterables_are_drawn_beside_others(library: Library, executor: Executor) -> None:
    async def main() -> list[Any]:
        source = Source(library)
        found = await all_of(executor.map(subjects.same, source.numbers(40)))
        sums = executor.map(pow, Source(library).numbers(9), [2] * 5, ordered=False)
        return [found, sorted(await all_of(sums)), source.closed]

    assert library.run(main) == [list(range(40)), [0, 1, 4, 9, 16], True]


def test_a_result_does_not_wait_for_the_next_input(library: Library, executor: Executor) -> None:
    async def main() -> list[int]:
        async def slow() -> AsyncIterator[int]:
            yield 1
            while not found:
                await library.turn()  # the second comes only once the first result is there
            yield 2

        found: list[int] = []
        async for each in executor.map(subjects.square, slow()):
            found.append(each)  # noqa: PERF401  # which the source looks at
        return found

    assert library.run(main) == [1, 4]


def test_no_more_is_drawn_than_the_window_has_room_for(
    library: Library, executor: Executor
) -> None:
    async def main() -> tuple[int, bool]:
        source = Source(library)
        results = executor.map(subjects.same, source.numbers(float("inf")), buffersize=3)
        assert [await anext(results) for _ in range(4)] == [0, 1, 2, 3]
        while source.drawn < 7:  # four were taken, three are under way
            await library.turn()
        for _ in range(50):
            await library.turn()
        drawn = source.drawn
        await results.aclose()
        while not source.closed:
            await library.turn()
        return drawn, source.closed

    assert library.run(main) == (7, True)


def test_what_a_source_raises_comes_behind_the_results(
    library: Library, executor: Executor
) -> None:
    async def broken() -> AsyncIterator[int]:
        yield 3
        raise subjects.Refused("of the source")

    async def main() -> list[Any]:
        results = executor.map(subjects.square, broken())
        found: list[Any] = [await anext(results)]
        try:
            await anext(results)
        except subjects.Refused as exc:
            found.append(str(exc))
        return found

    assert library.run(main) == [9, "of the source"]


def test_a_cancelled_reader_closes_the_source(library: Library, gate: Gate) -> None:
    source = Source(library)

    async def read() -> None:
        inputs = itertools.repeat(gate.address), source.numbers(float("inf"))
        async with Executor(1, backend="thread") as executor:
            await all_of(executor.map(subjects.hold, *inputs))

    async def main() -> bool:
        cancelled = await library.cancel_amid(read)
        while not source.closed:
            await library.turn()
        gate.open()
        return cancelled

    assert library.run(main) is True


def test_only_async_for_draws_from_an_async_iterable(executor: Executor) -> None:
    source = Source(LIBRARIES["asyncio"]()).numbers(3)
    with pytest.raises(TypeError, match="can only be read by `async for`"):
        list(executor.map(subjects.square, source))
    with pytest.raises(TypeError, match="not iterable"):
        executor.map(subjects.square, 7)  # type: ignore[arg-type]
