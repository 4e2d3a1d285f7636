"""What `multiprocessing` makes, handed to our workers as it may be handed to the standard ones."""

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from twins import PROCESSES, SPAWN, ask
from twins import without_a_main_of_pytest as without_a_main_of_pytest

from unirun import Executor
from unirun.testing import PATIENCE

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning:multiprocessing"  # 3.12: fork under threads
)


_inherited: list[Any] = []


def _keep(*objects: Any) -> None:
    _inherited[:] = objects


def _count(path: str, times: int) -> None:
    """Not safe without the lock."""
    for _ in range(times):
        with _inherited[0]:
            Path(path).write_text(str(int(Path(path).read_text()) + 1))


def _counted(path: Path) -> Callable[[Any], int]:
    def question(executor: Any) -> int:
        path.write_text("0")
        for future in [executor.submit(_count, str(path), 50) for _ in range(4)]:
            future.result(PATIENCE)
        return int(path.read_text())

    return question


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_locks_of_multiprocessing_are_taken_as_initargs(method: str, tmp_path: Path) -> None:
    context = multiprocessing.get_context(method)
    for make in (partial(Executor, backend="process"), ProcessPoolExecutor):
        kwargs = {"mp_context": context, "initializer": _keep, "initargs": (context.Lock(),)}
        assert ask(make, _counted(tmp_path / "count"), 2, **kwargs) == 200


def test_locks_of_multiprocessing_are_taken_without_a_context(tmp_path: Path) -> None:
    """The first thing that people write."""
    kwargs = {"initializer": _keep, "initargs": (multiprocessing.Lock(),)}
    assert ask(PROCESSES.ours, _counted(tmp_path / "count"), 2, **kwargs) == 200


def test_values_of_multiprocessing_are_taken_as_initargs() -> None:
    def question(executor: Any) -> int:
        executor.submit(_set_value, 7).result(PATIENCE)
        return int(value.value)

    value = multiprocessing.Value("i", 0)
    ours = partial(Executor, backend="process")
    assert ask(ours, question, 1, initializer=_keep, initargs=(value,)) == 7


def _set_value(number: int) -> None:
    _inherited[0].value = number


@pytest.mark.parametrize("method", ["zygote", "spawn", "fork"])
def test_proxies_of_a_manager_are_taken_as_arguments(method: str) -> None:
    with SPAWN.Manager() as manager:
        shared, queue, lock = manager.dict(), manager.Queue(), manager.Lock()
        with Executor(2, backend="process", mp_context=method) as executor:
            futures = [executor.submit(_use, shared, queue, lock, n) for n in range(4)]
            for future in futures:
                future.result(PATIENCE)
        assert dict(shared) == {n: n * n for n in range(4)}
        assert sorted(queue.get(timeout=PATIENCE) for _ in range(4)) == [0, 1, 2, 3]


def _use(shared: Any, queue: Any, lock: Any, n: int) -> None:
    with lock:
        shared[n] = n * n
    queue.put(n)
