"""Large arrays and memory maps in calls of joblib on unirun: with the real packages."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from unirun import Executor

joblib = pytest.importorskip("joblib", reason="joblib is not installed: make test-integrations")
np = pytest.importorskip("numpy")

from joblib import Parallel, delayed, parallel_config  # noqa: E402

pytestmark = [pytest.mark.integrations, pytest.mark.usefixtures("registered")]
LARGE = 300_000  # numbers of 8 bytes: above joblib's megabyte


def look_at(array: Any) -> tuple[Any, ...]:
    return type(array.base).__name__, array.flags.writeable, float(array.sum()), array.shape


@pytest.mark.parametrize("order", ["C", "F"])
def test_a_large_array_is_sent_once_and_mapped(on_processes: Executor, order: str) -> None:
    array = np.asarray(np.arange(LARGE, dtype=float).reshape(100, -1), order=order)
    before = on_processes.stats()["process"].bytes_in
    seen = Parallel()(delayed(look_at)(array) for _ in range(4))
    sent = on_processes.stats()["process"].bytes_in - before

    assert seen == [("mmap", False, array.sum(), array.shape)] * 4
    assert sent < array.nbytes / 10


def test_max_nbytes_none_copies_into_every_call(executor: Executor) -> None:
    array = np.ones(LARGE)
    with parallel_config("unirun", n_jobs=2, executor=executor, max_nbytes=None):
        seen = Parallel()(delayed(look_at)(array) for _ in range(1))

    assert seen[0][0] != "mmap"
    assert seen[0][2] == LARGE


def test_arrays_of_objects_and_views_arrive_as_they_are(on_processes: Executor) -> None:
    objects = np.array([("a", i) for i in range(LARGE)], dtype=object)
    steps = np.arange(4.0 * LARGE)[::2]

    first, second = Parallel()(delayed(np.array)(each) for each in (objects, steps))

    assert (first == objects).all()
    assert (second == steps).all()


def double(array: Any) -> str:
    array *= 2
    return type(array).__name__


@pytest.mark.parametrize(
    "view",
    [lambda a: a, lambda a: a[10:20], lambda a: a.T, lambda a: a[::2, ::-1]],
    ids=["whole", "slice", "transposed", "steps"],
)
def test_a_call_writes_into_the_memory_map_it_is_given(
    on_processes: Executor, tmp_path: Path, view: Callable[[Any], Any]
) -> None:
    mapped = np.memmap(tmp_path / "data", "f8", "w+", offset=8, shape=(100, 30))
    mapped[:] = np.arange(3000).reshape(100, 30)
    expected = np.array(mapped)
    view(expected)[:] *= 2

    Parallel()(delayed(double)(view(mapped)) for _ in range(1))

    assert (mapped == expected).all()


def test_a_read_only_memory_map_stays_so(on_processes: Executor, tmp_path: Path) -> None:
    np.arange(100.0).tofile(tmp_path / "data")
    mapped = np.memmap(tmp_path / "data", "f8", "r")

    with pytest.raises(ValueError, match="read-only"):
        Parallel()(delayed(double)(mapped) for _ in range(1))


def test_private_changes_of_a_memory_map_arrive(on_processes: Executor, tmp_path: Path) -> None:
    np.zeros(100).tofile(tmp_path / "data")
    mapped = np.memmap(tmp_path / "data", "f8", "c")
    mapped += 1

    assert Parallel()(delayed(np.sum)(mapped) for _ in range(1)) == [100]


def identity(array: Any) -> Any:
    return array


def test_a_memory_map_may_be_a_result(on_processes: Executor, tmp_path: Path) -> None:
    mapped = np.memmap(tmp_path / "data", "f8", "w+", shape=(100,))
    mapped[:] = 7

    [found] = Parallel()(delayed(identity)(mapped) for _ in range(1))

    assert found.tolist() == [7] * 100


def sums_inside(array: Any) -> list[float]:
    return list(Parallel(n_jobs=2)(delayed(np.sum)(array[i:]) for i in range(2)))


def test_large_arrays_reach_loops_inside_of_calls(on_processes: Executor) -> None:
    array = np.ones(LARGE)

    assert Parallel()(delayed(sums_inside)(array) for _ in range(2)) == [[LARGE, LARGE - 1]] * 2
