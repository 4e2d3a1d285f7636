"""`await future` and `async with Executor()`, under each library that runs coroutines."""

import asyncio
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from libraries import LIBRARIES, Library, library_of

from unirun import DeadlockError, Executor, Future, TaskKilled, current_executor
from unirun.testing import PATIENCE, Gate
from unirun.testing import _subjects as subjects
from unirun.testing._gate import Arrival


@pytest.fixture(params=list(LIBRARIES))
def library(request: pytest.FixtureRequest) -> Library:
    return library_of(request)


@pytest.fixture(scope="module")
def processes() -> Iterator[Executor]:
    with Executor(1, backend="process") as executor:
        executor.submit(subjects.square, 1).result(PATIENCE)  # all of it is there before a test
        yield executor


@pytest.fixture(scope="module")
def threads() -> Iterator[Executor]:
    with Executor(2, backend="thread") as executor:
        list(executor.map(subjects.square, range(9), chunksize=1))
        yield executor


async def outcome_of(future: Future[Any]) -> Any:
    return await future


# -- await ----------------------------------------------------------------------------------------


def test_results_and_exceptions_arrive(library: Library, processes: Executor) -> None:
    async def main() -> list[Any]:
        squares = [processes.submit(subjects.square, n) for n in range(3)]
        bad = processes.submit(subjects.fail, subjects.Refused("awaited"))
        found: list[Any] = [await each for each in squares]
        try:
            await bad
        except subjects.Refused as exc:
            found.append(str(exc))
        return found

    assert library.run(main) == [0, 1, 4, "awaited"]


def test_one_that_has_ended_can_be_awaited_again_and_again(
    library: Library, threads: Executor
) -> None:
    future = threads.submit(subjects.square, 3)
    future.result(PATIENCE)

    async def main() -> list[int]:
        return [await future, await future]

    assert library.run(main) == library.run(main) == [9, 9]


def test_several_tasks_can_await_one_future(
    library: Library, threads: Executor, gate: Gate
) -> None:
    future = threads.submit(subjects.hold, gate.address, "held")
    arrival = gate.arrival()
    found: list[Any] = []

    async def wait_for_it() -> None:
        found.append(await future)

    async def let_it_go() -> None:
        arrival.release()

    library.run(lambda: library.at_once(wait_for_it, wait_for_it, let_it_go))

    assert found == ["held", "held"]


def test_event_loops_of_several_threads_can_await_one_future(
    library: Library, threads: Executor, gate: Gate
) -> None:
    future = threads.submit(subjects.hold, gate.address, "held")
    arrival, found = gate.arrival(), []

    def other_loop() -> None:
        found.append(library.run(outcome_of, future))

    loops = [threading.Thread(target=other_loop) for _ in range(2)]
    for each in loops:
        each.start()
    arrival.release()
    found.append(library.run(outcome_of, future))
    for each in loops:
        each.join(PATIENCE)

    assert found == ["held"] * 3


def test_being_cancelled_or_out_of_time_kills_a_call_in_a_process(
    library: Library, gate: Gate
) -> None:
    """And the kill is over when the cancellation is: also under anyio, which cancels again and
    again meanwhile."""
    ended: list[bool] = []

    async def note_the_end(future: Future[Any]) -> None:
        try:
            await future
        finally:
            ended.append(future.done())

    with Executor(1, backend="process", grace=0) as executor:
        first = executor.submit(subjects.hold, gate.address)
        one = gate.arrival()
        assert library.run(library.cancel_amid, note_the_end, first) is True
        second = executor.submit(subjects.hold, gate.address)
        two = gate.arrival()
        assert library.run(library.within, 0.02, note_the_end, second) is False

        assert ended == [True, True]
        for future in first, second:
            with pytest.raises(TaskKilled):
                future.result(0)
        assert one.is_gone()
        assert two.is_gone()


def test_cancelling_who_awaits_a_waiting_call_cancels_it(library: Library, gate: Gate) -> None:
    with Executor(1, backend="thread") as executor:
        executor.submit(subjects.hold, gate.address)
        future = executor.submit(subjects.square, 2)
        arrival = gate.arrival()

        assert library.run(library.cancel_amid, outcome_of, future) is True

        assert future.cancelled()
        arrival.release()


def test_cancelling_who_awaits_a_thread_sets_its_token(
    library: Library, threads: Executor, gate: Gate
) -> None:
    """The cancellation does not wait for the thread, which nobody can end."""
    future = threads.submit(subjects.meet_until_cancelled, gate.address)
    gate.arrival()

    assert library.run(library.cancel_amid, outcome_of, future) is True

    assert future.result(PATIENCE) == "cancelled"


def test_a_call_killed_by_somebody_else_does_not_cancel_who_awaits(
    library: Library,
) -> None:
    future: Future[Any] = Future()
    future._begin()

    async def main() -> str:
        threading.Thread(target=future._killed, args=[TaskKilled("killed")]).start()
        try:
            await future
        except TaskKilled:
            return "killed"
        return "lived"

    assert library.run(main) == "killed"


def test_an_end_after_the_loop_has_ended_harms_nobody(
    library: Library, threads: Executor, gate: Gate
) -> None:
    future = threads.submit(subjects.hold, gate.address, 7)
    arrival = gate.arrival()
    library.run(library.cancel_amid, outcome_of, future)

    arrival.release()

    assert future.result(PATIENCE) == 7


def test_without_an_event_loop_it_says_what_to_do(threads: Executor) -> None:
    future = threads.submit(subjects.square, 2)

    with pytest.raises(RuntimeError, match="no event loop is running here"):
        outcome_of(future).send(None)


# -- async with -----------------------------------------------------------------------------------


def test_the_end_of_the_block_waits_for_all_calls_while_the_loop_goes_on(
    library: Library, gate: Gate
) -> None:
    arrived: list[Arrival] = []
    futures: list[Future[Any]] = []

    async def block() -> None:
        async with Executor(1, backend="thread") as executor:
            assert current_executor() is executor
            futures.append(executor.submit(subjects.hold, gate.address, "held"))
            arrived.append(gate.arrival())
        assert current_executor() is not executor

    async def let_it_go() -> None:
        while not arrived:
            await library.turn()
        await library.turn()
        arrived[0].release()

    library.run(lambda: library.at_once(block, let_it_go))

    assert futures[0].result(0) == "held"


def test_an_exception_in_the_block_ends_its_calls(library: Library, gate: Gate) -> None:
    futures: list[Future[Any]] = []

    async def main() -> None:
        async with Executor(1, backend="process", grace=0) as executor:
            futures.append(executor.submit(subjects.hold, gate.address))
            futures.append(executor.submit(subjects.square, 2))
            gate.arrival()
            raise subjects.Refused("out")

    with pytest.raises(subjects.Refused, match="out"):
        library.run(main)

    assert [each.cancelled() for each in futures] == [True, True]


def test_being_cancelled_at_the_end_of_the_block_ends_its_calls(
    library: Library, gate: Gate
) -> None:
    futures: list[Future[Any]] = []

    async def block() -> None:
        async with Executor(1, backend="process", grace=0) as executor:
            futures.append(executor.submit(subjects.hold, gate.address))
            futures.append(executor.submit(subjects.square, 2))
            gate.arrival()

    assert library.run(library.cancel_amid, block) is True

    assert [each.cancelled() for each in futures] == [True, True]


def test_being_cancelled_inside_the_block_ends_its_calls(library: Library, gate: Gate) -> None:
    futures: list[Future[Any]] = []

    async def block() -> None:
        async with Executor(1, backend="process", grace=0) as executor:
            futures.append(executor.submit(subjects.hold, gate.address))
            futures.append(executor.submit(subjects.hold, gate.address))
            gate.arrival()
            await futures[0]

    assert library.run(library.cancel_amid, block) is True

    assert [each.cancelled() for each in futures] == [True, True]


CTRL_C = """
import os, signal, sys, time
sys.path.insert(0, {tests!r})
from libraries import LIBRARIES
from unirun import Executor

async def main():
    async with Executor(1, backend="process", grace=0) as executor:
        future = executor.submit(time.sleep, 60)
        while not future.running():
            time.sleep(0.001)
        print("up", flush=True)
        {rest}

try:
    LIBRARIES[{library!r}]().run(main)
except KeyboardInterrupt:
    print("interrupted")
"""


@pytest.mark.parametrize("rest", ["await future", "pass"], ids=["await", "exit"])
@pytest.mark.parametrize("name", ["asyncio", "trio"])
def test_ctrl_c_ends_the_calls_and_the_program(name: str, rest: str) -> None:
    LIBRARIES[name]()
    tests = str(Path(__file__).parent)
    program = CTRL_C.format(tests=tests, library=name, rest=rest)
    with subprocess.Popen(
        [sys.executable, "-P", "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "up\n"
            process.send_signal(signal.SIGINT)
            said, complained = process.communicate(timeout=PATIENCE)
        finally:
            process.kill()

    assert (said, complained) == ("interrupted\n", "")


# -- one library as the guest of the other --------------------------------------------------------


@pytest.mark.leaks("trio keeps the thread by which it is a guest for ten seconds")
def test_trio_as_a_guest_of_asyncio_and_its_host_await_side_by_side(threads: Executor) -> None:
    trio = pytest.importorskip("trio", reason="trio is not installed")

    async def guest() -> list[int]:
        awaited = [await threads.submit(subjects.square, 3)]
        return awaited + [each async for each in threads.map(subjects.square, range(3))]

    async def host() -> tuple[int, list[int]]:
        loop = asyncio.get_running_loop()
        ended = loop.create_future()
        trio.lowlevel.start_guest_run(
            guest,
            run_sync_soon_threadsafe=loop.call_soon_threadsafe,
            done_callback=ended.set_result,
        )
        return await threads.submit(subjects.square, 4), (await ended).unwrap()

    assert LIBRARIES["asyncio"]().run(host) == (16, [9, 0, 1, 4])


def test_a_call_of_the_parent_is_not_waited_for_in_a_forked_child(library: Library) -> None:
    class Parent:
        stays_in_parent = True

    future: Future[int] = Future()
    future._backend = Parent()  # type: ignore[assignment]

    with pytest.raises(DeadlockError, match="before this process was forked"):
        library.run(outcome_of, future)
