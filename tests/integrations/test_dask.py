"""Dask's local scheduler on an executor of unirun: with the real package."""

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

import unirun
from unirun import Executor

dask = pytest.importorskip("dask", reason="dask is not installed: make test-integrations")

pytestmark = pytest.mark.integrations


@pytest.fixture(params=["process", "thread"])
def executor(request: pytest.FixtureRequest) -> Iterator[Executor]:
    with Executor(2, backend=request.param) as executor:
        yield executor


@dask.delayed  # type: ignore[untyped-decorator]
def load(number: int) -> list[int]:
    return list(range(number))


@dask.delayed  # type: ignore[untyped-decorator]
def total(parts: list[list[int]]) -> int:
    return sum(map(sum, parts))


@dask.delayed  # type: ignore[untyped-decorator]
def where() -> tuple[int, str]:
    return os.getpid(), threading.current_thread().name


@dask.delayed  # type: ignore[untyped-decorator]
def fail() -> None:
    raise KeyError("a part of the graph")


@dask.delayed  # type: ignore[untyped-decorator]
def hang(file: Path) -> None:
    file.write_text(str(os.getpid()))
    threading.Event().wait()


def graph() -> Any:
    return total([load(n) for n in range(10)])


EXPECTED = sum(sum(range(n)) for n in range(10))


def test_a_graph_is_computed_with_the_executor_as_scheduler(executor: Executor) -> None:
    assert graph().compute(scheduler=executor) == EXPECTED


@pytest.mark.parametrize("how", ["scheduler", "pool"])
def test_a_graph_is_computed_where_dasks_configuration_says_so(
    executor: Executor, how: str
) -> None:
    with dask.config.set({how: executor}):
        assert dask.compute(graph(), graph()) == (EXPECTED, EXPECTED)


def test_tasks_run_in_the_workers_of_the_executor(executor: Executor) -> None:
    pid, thread = where().compute(scheduler=executor)

    assert (pid == os.getpid()) == ("thread" in executor.stats())
    assert thread != threading.current_thread().name or pid != os.getpid()


def test_a_bag_is_computed_in_worker_processes() -> None:
    bag = pytest.importorskip("dask.bag", reason="dask's bag is not installed")
    with Executor(2, backend="process") as executor, dask.config.set(scheduler=executor):
        found = bag.from_sequence(range(100), npartitions=5).map(lambda x: x * x).sum().compute()

    assert found == sum(x * x for x in range(100))


def test_an_array_is_computed(executor: Executor) -> None:
    array = pytest.importorskip("dask.array", reason="numpy is not installed")
    ones = array.ones((200, 200), chunks=(50, 50))

    assert (ones @ ones).sum().compute(scheduler=executor) == 200**3


def test_what_a_task_raises_arrives_and_the_executor_goes_on(executor: Executor) -> None:
    with pytest.raises(KeyError, match="a part of the graph"):
        total([load(3), fail()]).compute(scheduler=executor)

    assert graph().compute(scheduler=executor) == EXPECTED


def test_a_view_with_a_timeout_kills_a_task_that_hangs(tmp_path: Path) -> None:
    file = tmp_path / "pid"
    with Executor(2, backend="process") as executor:
        graph().compute(scheduler=executor)  # imports dask in the workers
        view = executor.options(timeout=6)
        with pytest.raises(unirun.TaskTimeout):
            total([load(3), hang(file)]).compute(scheduler=view)

        assert not psutil.pid_exists(int(file.read_text()))
        assert graph().compute(scheduler=view) == EXPECTED


def test_leaving_the_executor_kills_what_a_failed_graph_has_left_running(tmp_path: Path) -> None:
    """Dask raises at the first failure and leaves the rest of the graph running."""
    file = tmp_path / "pid"

    @dask.delayed  # type: ignore[untyped-decorator]
    def fail_later() -> None:
        while not (file.exists() and file.read_text()):
            pass
        raise KeyError("later")

    with pytest.raises(KeyError, match="later"), Executor(2, backend="process") as executor:
        total([fail_later(), hang(file)]).compute(scheduler=executor)

    assert not psutil.pid_exists(int(file.read_text()))
