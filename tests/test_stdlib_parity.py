"""What `concurrent.futures` documents, asked of the standard executors and of ours side by side.

Each question is put to both twins; the answers must be the same value, or exceptions such that
who catches the standard one catches ours.
"""

import asyncio
import concurrent.futures
import multiprocessing
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from twins import (
    BOTH,
    PROCESSES,
    SPAWN,
    THREADS,
    Twins,
    ask,
    assert_alike,
)
from twins import without_a_main_of_pytest as without_a_main_of_pytest

from unirun import Executor
from unirun.testing import PATIENCE, Gate
from unirun.testing import _subjects as subjects

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning:multiprocessing"  # 3.12: fork under threads
)


# -- constructors ---------------------------------------------------------------------------------

MISTAKES: list[dict[str, Any]] = [
    {"max_workers": 0},
    {"max_workers": -1},
    {"initializer": 5},
    {"initializer": "no function"},
]
PROCESS_MISTAKES: list[dict[str, Any]] = [
    {"max_tasks_per_child": "5"},
    {"max_tasks_per_child": 2.5},
    {"max_tasks_per_child": 0},
    {"max_tasks_per_child": -3},
]


@pytest.mark.parametrize("mistake", MISTAKES, ids=repr)
@BOTH
def test_a_mistake_in_the_constructor_is_the_same_error(
    twins: Twins, mistake: dict[str, Any]
) -> None:
    theirs = ask(twins.theirs, bool, **mistake)
    assert isinstance(theirs, ValueError | TypeError)
    assert_alike(ask(twins.ours, bool, **mistake), theirs)


@pytest.mark.parametrize("mistake", PROCESS_MISTAKES, ids=repr)
def test_a_mistake_for_processes_is_the_same_error(mistake: dict[str, Any]) -> None:
    theirs = ask(PROCESSES.theirs, bool, **mistake)
    assert isinstance(theirs, ValueError | TypeError)
    assert_alike(ask(PROCESSES.ours, bool, **mistake), theirs)


@BOTH
def test_the_number_of_workers_comes_first(twins: Twins) -> None:
    def question(executor: Any) -> int:
        return int(executor._max_workers)

    assert ask(twins.ours, question, 3) == ask(twins.theirs, question, 3) == 3


@BOTH
def test_entering_gives_the_executor(twins: Twins) -> None:
    for make in twins:
        executor = make(1)
        with executor as entered:
            assert entered is executor
            assert isinstance(entered, concurrent.futures.Executor)


@pytest.mark.parametrize("context", ["spawn", "fork", "forkserver"])
def test_the_contexts_of_multiprocessing_are_taken(context: str) -> None:
    executor = Executor(1, backend="process", mp_context=multiprocessing.get_context(context))
    with executor:
        assert executor.submit(subjects.square, 7).result(PATIENCE) == 49


def test_threads_have_the_prefix_of_their_executor() -> None:
    def question(executor: Any) -> str:
        name: str = executor.submit(_thread_name).result(PATIENCE)
        return name.rpartition("_")[0]

    for make in THREADS:
        assert ask(make, question, thread_name_prefix="miner") == "miner"


def _thread_name() -> str:
    return threading.current_thread().name


def test_a_worker_serves_as_many_calls_as_it_may() -> None:
    """`max_tasks_per_child`: then another takes its place."""

    def question(executor: Any) -> list[int]:
        pids = [executor.submit(subjects.pid).result(PATIENCE) for _ in range(6)]
        return [pids.count(pid) for pid in dict.fromkeys(pids)]

    theirs = ask(PROCESSES.theirs, question, 1, max_tasks_per_child=2)
    assert ask(PROCESSES.ours, question, 1, max_tasks_per_child=2) == theirs == [2, 2, 2]


# -- calls ----------------------------------------------------------------------------------------


def result_of(*args: Any, **kwargs: Any) -> Callable[[Any], Any]:
    return lambda executor: executor.submit(*args, **kwargs).result(PATIENCE)


QUESTIONS: dict[str, Callable[[Any], Any]] = {
    "a result": result_of(subjects.square, 7),
    "keywords": result_of(subjects.keywords, self=1, fn=2, timeout=3),
    "a builtin": result_of(divmod, 7, 2),
    "None": result_of(subjects.same, None),
    "an exception": result_of(subjects.inverse, 0),
    "an exception with arguments": result_of(subjects.fail, OSError(2, "no such file")),
    "a system exit": result_of(subjects.fail_with, SystemExit, 3),
    "wrong arguments": result_of(subjects.square),
    "no function": result_of(None),
    "no arguments": lambda executor: executor.submit(),
    "the function as a keyword": lambda executor: executor.submit(fn=subjects.square),
    "the exception": lambda executor: type(
        executor.submit(subjects.inverse, 0).exception(PATIENCE)
    ),
    "no exception": lambda executor: executor.submit(subjects.square, 7).exception(PATIENCE),
    "a second result": lambda executor: [
        future.result(PATIENCE) for future in [executor.submit(subjects.square, 7)] * 2
    ],
    "cancel of a finished call": lambda executor: _cancel_finished(executor),
    "map": lambda executor: list(executor.map(subjects.square, range(10))),
    "map of several": lambda executor: list(executor.map(divmod, [7, 9], [2, 5, 1])),
    "map of nothing": lambda executor: list(executor.map(subjects.square, [])),
    "map of an exception": lambda executor: list(executor.map(subjects.inverse, [1, 0])),
    "map of something else": lambda executor: executor.map(subjects.square, 5),
    "map as its own iterator": lambda executor: _is_its_own_iterator(executor),
    "map with chunks": lambda executor: list(executor.map(subjects.square, range(10), chunksize=3)),
    "map up to an exception": lambda executor: _until_it_fails(executor),
    "the end of a map": lambda executor: next(executor.map(subjects.square, []), "the end"),
    "wait": lambda executor: _waited(executor),
    "as_completed": lambda executor: _completed(executor),
    "callbacks": lambda executor: _called_back(executor),
    "wrap_future": lambda executor: asyncio.run(_wrapped(executor)),
    "run_in_executor": lambda executor: asyncio.run(_run_in(executor)),
    "submit after shutdown": lambda executor: _after_shutdown(executor, "submit"),
    "map after shutdown": lambda executor: _after_shutdown(executor, "map"),
    "shutdown again": lambda executor: [executor.shutdown(wait) for wait in (False, True, True)],
    "shutdown with two positions": lambda executor: executor.shutdown(True, True),
}
ONLY_PROCESSES = {
    "a chunk of nothing": lambda executor: executor.map(subjects.square, [1], chunksize=0),
    "an argument that cannot be pickled": result_of(subjects.same, subjects.unpicklable()),
    "a result that cannot be pickled": result_of(subjects.unpicklable),
}
# Each of these breaks the standard pool for good.
BREAKING = {
    "a worker that exits": result_of(subjects.exit_now, 3),
    "a worker that is killed": result_of(subjects.die, 9),
    "a result that cannot be unpickled": result_of(subjects.make_raises, ValueError),
}


@pytest.mark.parametrize("question", QUESTIONS)
def test_threads_answer_as_threads_do(question: str) -> None:
    theirs = ask(THREADS.theirs, QUESTIONS[question], 2)
    assert_alike(ask(THREADS.ours, QUESTIONS[question], 2), theirs)


@pytest.fixture(scope="module")
def answers_of_processes() -> dict[str, Any]:
    """Of the standard pool: all of them from one, since it takes long to start."""
    answers = {}
    pool = ProcessPoolExecutor(2, SPAWN)
    keeps_open = {q for q in QUESTIONS if "shutdown" not in q}
    questions = {**QUESTIONS, **ONLY_PROCESSES}
    with pool:
        for name, question in questions.items():
            if name in keeps_open or name in ONLY_PROCESSES:
                answers[name] = _answer(pool, question)
    for name in questions.keys() - answers.keys():
        with ProcessPoolExecutor(1, SPAWN) as unused:
            answers[name] = _answer(unused, questions[name])
    return answers


def _answer(executor: Any, question: Callable[[Any], Any]) -> Any:
    try:
        return question(executor)
    except BaseException as exc:
        return exc


@pytest.mark.parametrize("question", [*QUESTIONS, *ONLY_PROCESSES])
def test_processes_answer_as_processes_do(
    answers_of_processes: dict[str, Any], question: str
) -> None:
    ours = ask(PROCESSES.ours, {**QUESTIONS, **ONLY_PROCESSES}[question], 2)
    assert_alike(ours, answers_of_processes[question])


@pytest.mark.parametrize("question", BREAKING)
def test_what_breaks_their_pool_is_the_same_error_and_breaks_nothing(question: str) -> None:
    theirs = ask(PROCESSES.theirs, BREAKING[question], 1)
    assert isinstance(theirs, concurrent.futures.process.BrokenProcessPool)
    with PROCESSES.ours(1) as executor:
        assert_alike(_answer(executor, BREAKING[question]), theirs)
        assert executor.submit(subjects.square, 7).result(PATIENCE) == 49


def _is_its_own_iterator(executor: Any) -> bool:
    results = executor.map(subjects.square, [1])
    return iter(results) is results


def _cancel_finished(executor: Any) -> list[bool]:
    future = executor.submit(subjects.square, 7)
    future.result(PATIENCE)
    return [future.cancel(), future.cancelled(), future.done(), future.running()]


def _until_it_fails(executor: Any) -> list[Any]:
    results = executor.map(subjects.inverse, [1, 2, 0, 4])
    found: list[Any] = [next(results), next(results)]
    with pytest.raises(ZeroDivisionError):
        next(results)
    return [*found, *results]  # and nothing behind it


def _waited(executor: Any) -> list[int]:
    futures = [executor.submit(subjects.square, n) for n in range(5)]
    done, open_ = concurrent.futures.wait(futures, PATIENCE)
    return [len(done), len(open_)]


def _completed(executor: Any) -> list[int]:
    futures = [executor.submit(subjects.square, n) for n in range(5)]
    return sorted(f.result() for f in concurrent.futures.as_completed(futures, PATIENCE))


def _called_back(executor: Any) -> list[Any]:
    heard: list[Any] = []
    ended = threading.Event()
    future = executor.submit(subjects.square, 7)
    future.add_done_callback(lambda f: heard.append(f.result()))
    future.add_done_callback(lambda _: 1 / 0)  # logged
    future.add_done_callback(lambda _: heard.append("after an error"))
    future.add_done_callback(lambda _: ended.set())
    assert ended.wait(PATIENCE)
    return heard


async def _wrapped(executor: Any) -> Any:
    future = executor.submit(subjects.square, 7)
    return await asyncio.wait_for(asyncio.wrap_future(future), PATIENCE)


async def _run_in(executor: Any) -> Any:
    loop = asyncio.get_running_loop()
    return await asyncio.wait_for(loop.run_in_executor(executor, subjects.square, 7), PATIENCE)


def _after_shutdown(executor: Any, what: str) -> Any:
    executor.shutdown()
    try:
        return executor.submit(abs, 1) if what == "submit" else executor.map(abs, [1])
    except RuntimeError as exc:
        return str(exc)


# -- calls that wait ------------------------------------------------------------------------------


@BOTH
def test_a_result_that_is_late_is_the_same_error(twins: Twins, gate: Gate) -> None:
    def question(executor: Any) -> Any:
        future = executor.submit(subjects.hold, gate.address)
        arrival = gate.arrival()
        try:
            return future.result(timeout=0.01)
        finally:
            arrival.release()

    assert [type(ask(make, question, 1)) for make in twins] == [TimeoutError] * 2


@BOTH
def test_a_map_that_is_late_is_the_same_error(twins: Twins, gate: Gate) -> None:
    def question(executor: Any) -> Any:
        results = executor.map(subjects.hold, [gate.address], timeout=0.3)
        arrival = gate.arrival()
        try:
            return list(results)
        finally:
            arrival.release()

    assert [type(ask(make, question, 1)) for make in twins] == [TimeoutError] * 2


@BOTH
def test_what_waits_is_cancelled_the_same_way(twins: Twins, gate: Gate) -> None:
    """One runs; `cancel` and `shutdown(cancel_futures=True)` take what waits far enough behind."""

    def question(executor: Any) -> list[Any]:
        running = executor.submit(subjects.hold, gate.address, "ran")
        waiting = [executor.submit(subjects.square, n) for n in range(10)]
        arrival = gate.arrival()
        found = [waiting[8].cancel(), waiting[8].cancelled()]
        executor.shutdown(wait=False, cancel_futures=True)
        arrival.release()
        found += [running.result(PATIENCE), waiting[9].cancelled()]
        with pytest.raises(concurrent.futures.CancelledError):
            waiting[8].result(PATIENCE)
        return found

    answers = [ask(make, question, 1) for make in twins]
    assert answers == [[True, True, "ran", True]] * 2


# -- initializers ---------------------------------------------------------------------------------


@BOTH
def test_an_initializer_runs_in_each_worker(twins: Twins) -> None:
    def question(executor: Any) -> int:
        return int(executor.submit(subjects.initialized).result(PATIENCE).count("set up"))

    before = subjects.initialized().count("set up")
    kwargs = {"initializer": subjects.initialize, "initargs": ("set up",)}
    for number, make in enumerate(twins, 1):
        expected = before + number if twins is THREADS else 1
        assert ask(make, question, 1, **kwargs) == expected


@BOTH
def test_a_failing_initializer_is_the_same_error(twins: Twins) -> None:
    def question(executor: Any) -> list[bool]:
        broken = []
        for _ in range(2):
            try:
                executor.submit(subjects.square, 7).result(PATIENCE)
            except concurrent.futures.BrokenExecutor as exc:
                broken.append(exc)
        return [isinstance(exc, type(broken[0])) for exc in broken]

    kwargs = {"initializer": subjects.fail_with, "initargs": (subjects.Refused, "no")}
    answers = [ask(make, question, 1, **kwargs) for make in twins]
    assert answers == [[True, True]] * 2


# -- the end of a program -------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["thread", "process"])
def test_a_program_that_ends_without_a_shutdown_ends_the_same_way(
    backend: str, tmp_path: Path
) -> None:
    """Everything that was submitted has run."""
    standard = {"thread": "ThreadPoolExecutor(1)", "process": "ProcessPoolExecutor(1)"}[backend]
    script = """
        import sys
        from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
        from unirun import Executor

        def note(path):
            with open(path, "a") as file:
                file.write(".")

        if __name__ == "__main__":
            executor = {make}
            for _ in range(20):
                executor.submit(note, sys.argv[1])
            executor.map(note, [sys.argv[1]] * 30)
        """
    for number, make in enumerate([f"Executor(1, backend={backend!r})", standard]):
        path = tmp_path / str(number)
        program = tmp_path / "program.py"
        program.write_text(textwrap.dedent(script).format(make=make))
        done = subprocess.run(
            [sys.executable, program, path], capture_output=True, text=True, timeout=40
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        assert len(path.read_text()) == 50
