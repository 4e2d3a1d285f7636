"""What a call is told of itself, and what is said of it, is one thing on every backend."""

import importlib.util
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from dask_clusters import Cluster

import unirun
from unirun import Executor, Retry
from unirun._call_event import CallEvent
from unirun.testing._gate import comes_true

PATIENCE = 40
FUTURES = "futures:concurrent.futures:ProcessPoolExecutor"
HERE = ("thread", "process", "coroutine", "inline", FUTURES)

On = Callable[[str], Executor]


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[str | None]:
    """The name of a backend, None where Dask is not installed; an executor that stays open keeps
    the process that talks to it."""
    if importlib.util.find_spec("distributed") is None:
        yield None
        return
    with Cluster("") as cluster, Executor(backend=cluster.name) as keeper:
        keeper.submit(divmod, 7, 2).result(60)
        yield cluster.name


@pytest.fixture
def on(cluster: str | None) -> Iterator[On]:
    """Makes executors, by the name of a backend; "default" has none."""
    with ExitStack() as stack:

        def make(backend: str) -> Executor:
            if backend == "dask" and cluster is None:
                pytest.skip("Dask is not installed")
            name = cluster if backend == "dask" else backend
            own = {"strict": False} if backend == "inline" else {}
            made = Executor(1, backend=None if backend == "default" else name, **own)
            stack.callback(made.shutdown, timeout=PATIENCE, kill=True)
            return made

        yield make


everywhere = pytest.mark.parametrize("backend", [*HERE, "dask", "default"])


# -- one number for all attempts -----------------------------------------------------------------


def note(path: str, *words: object) -> None:
    with Path(path).open("a") as file:
        print(*words, file=file)


async def third_time(path: str) -> tuple[int, int]:
    """Notes which attempt of which call it is; the third has success."""
    task = unirun.current_task()
    assert task is not None
    note(path, task.id, task.attempt)
    if task.attempt < 3:
        raise ValueError(f"attempt {task.attempt}")
    return task.id, task.attempt


def retried_inside(path: str) -> Any:
    """In a task: what it submits is retried, too."""
    again = unirun.current_executor().options(retries=Retry(2, backoff=0))
    future = again.submit(third_time, path)
    return future.result(PATIENCE), future.info.call


def attempts_in(path: Path) -> list[list[int]]:
    return [[int(word) for word in line.split()] for line in path.read_text().splitlines()]


@everywhere
def test_all_attempts_of_a_call_have_its_number(on: On, backend: str, tmp_path: Path) -> None:
    path, told = tmp_path / "attempts", list[CallEvent]()
    executor = on(backend)
    for what in ("submitted", "started", "failed", "finished", "retried"):
        executor.on(what, told.append)
    future = executor.options(retries=Retry(2, backoff=0)).submit(third_time, str(path))
    number, attempt = future.result(PATIENCE)
    assert attempt == 3
    assert attempts_in(path) == [[number, 1], [number, 2], [number, 3]]
    assert (future.info.call, future.info.attempt) == (number, 3)
    assert comes_true(lambda: any(event.what == "finished" for event in told), PATIENCE)
    assert {event.call for event in told} == {number}
    assert {event.attempt for event in told} == {1, 2, 3}


@everywhere
def test_so_they_have_where_nobody_watches_and_each_has_limits(
    on: On, backend: str, tmp_path: Path
) -> None:
    path = tmp_path / "attempts"
    view = on(backend).options(retries=Retry(2, backoff=0), timeout=PATIENCE, seed=7)
    future = view.submit(third_time, str(path))
    number = future.result(PATIENCE)[0]
    assert attempts_in(path) == [[number, 1], [number, 2], [number, 3]]
    assert future.info.call == number


@pytest.mark.parametrize("backend", ["thread", "process", "dask"])
def test_attempts_of_a_call_that_a_task_submits_have_one_number(
    on: On, backend: str, tmp_path: Path
) -> None:
    path = tmp_path / "attempts"
    with on(backend) as executor:
        told, number = executor.submit(retried_inside, str(path)).result(PATIENCE)
    assert told == (number, 3)
    assert attempts_in(path) == [[number, 1], [number, 2], [number, 3]]


async def number() -> int:
    task = unirun.current_task()
    assert task is not None
    return task.id


@everywhere
def test_a_call_says_its_number_and_its_future_the_same(on: On, backend: str) -> None:
    executor = on(backend)
    futures = [executor.submit(number) for _ in range(3)]
    numbers = [future.result(PATIENCE) for future in futures]
    assert [future.info.call for future in futures] == numbers
    assert len(set(numbers)) == 3


def test_a_call_that_waits_in_a_view_has_no_number_yet() -> None:
    with Executor(2, backend="thread") as executor:
        view = executor.options(limit=1)
        begun, go_on = executor.Event(), executor.Event()
        first = view.submit(_hold, begun, go_on)
        assert begun.wait(PATIENCE)
        second = view.submit(number)
        assert second.info.call is None
        go_on.set()
        assert second.result(PATIENCE) == second.info.call
        assert first.info.call not in (None, second.info.call)


def _hold(begun: Any, go_on: Any) -> None:
    begun.set()
    assert go_on.wait(PATIENCE)


# -- one kind ------------------------------------------------------------------------------------


async def kind() -> str:
    task = unirun.current_task()
    assert task is not None
    return task.kind


def kind_of_plain() -> str:
    task = unirun.current_task()
    assert task is not None
    return task.kind


@everywhere
@pytest.mark.parametrize(
    ("hint", "decided"),
    [("auto", "async"), ("io", "async"), ("native", "async"), ("async", "async"), ("cpu", "cpu")],
)
def test_the_kind_of_a_coroutine_is_the_one_that_was_decided(
    on: On, backend: str, hint: str, decided: str
) -> None:
    told = list[CallEvent]()
    executor = on(backend)
    executor.on("submitted", told.append)
    future = executor.options(kind=hint).submit(kind)
    assert future.result(PATIENCE) == future.info.kind == decided
    assert comes_true(lambda: bool(told), PATIENCE)
    assert told[0].kind == decided


@pytest.mark.parametrize("backend", ["thread", "process", "inline", FUTURES, "dask", "default"])
@pytest.mark.parametrize("hint", ["auto", "io", "cpu", "isolated"])
def test_the_kind_of_a_plain_function_is_its_hint(on: On, backend: str, hint: str) -> None:
    future = on(backend).options(kind=hint).submit(kind_of_plain)
    assert future.result(PATIENCE) == future.info.kind == hint
