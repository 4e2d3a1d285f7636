"""Workers times the threads of numerical libraries: no more than there are cores."""

import ctypes
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

import unirun
from unirun import Executor, _library_threads
from unirun._library_threads import VARIABLES, lower_loaded, share_in_thread, told, variables

PATIENCE = 30
OMP, OPENBLAS, MKL, BLIS, NUMEXPR, VECLIB, NUMBA = VARIABLES
ALONE = (OMP, VECLIB, NUMBA)
"""Those that no other variable speaks for."""

pytestmark = pytest.mark.usefixtures("here")


# -- the environment ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("workers", "cores", "threads"),
    [(1, 1, 1), (2, 2, 1), (1, 8, 8), (2, 8, 4), (3, 8, 2), (5, 8, 1), (8, 8, 1), (64, 8, 1)],
)
def test_workers_share_the_cores(workers: int, cores: int, threads: int) -> None:
    said = variables("auto", workers, cores, {"HOME": "/"})
    assert said == dict.fromkeys(VARIABLES, str(threads))
    assert told(said) == threads
    assert workers * threads <= max(cores, workers), "one thread each, at the least"


def test_what_the_user_has_said_stays_and_holds_in_workers_too() -> None:
    said = variables("auto", 2, 8, {OPENBLAS: "3", NUMBA: "5", MKL: ""})
    assert said == {**dict.fromkeys(VARIABLES, "4"), OPENBLAS: "3", NUMBA: "5"}


def test_who_has_spoken_for_openmp_has_spoken_for_those_who_follow_it() -> None:
    assert variables("auto", 2, 8, {OMP: "7"}) == {**dict.fromkeys(ALONE, "4"), OMP: "7"}
    with_one_more = variables("auto", 2, 8, {OMP: "7,2", MKL: "1"})
    assert with_one_more == {**dict.fromkeys(ALONE, "4"), OMP: "7,2", MKL: "1"}
    assert told(with_one_more) == 7


def test_a_number_in_the_settings_says_more_than_the_environment() -> None:
    assert variables(3, 8, 8, {OMP: "7", MKL: "1"}) == dict.fromkeys(VARIABLES, "3")


def test_none_in_the_settings_leaves_everything_alone() -> None:
    assert variables(None, 8, 8, {OMP: "7"}) == {}
    assert told({}) is None


# -- what is loaded -------------------------------------------------------------------------------


class Library:
    """Stands for one that is in memory."""

    def __init__(self, variable: str, threads: int) -> None:
        self.variable, self.threads = variable, threads

    def tell(self, threads: int) -> None:
        self.threads = threads


Load = Callable[[str, int], Library]


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Load:
    """Loads libraries that are none."""
    libraries: list[Library] = []

    def loaded() -> Iterator[Any]:
        for each in libraries:
            yield each.variable, lambda each=each: each.threads, each.tell

    def load(variable: str, threads: int) -> Library:
        libraries.append(Library(variable, threads))
        return libraries[-1]

    monkeypatch.setattr(_library_threads, "_loaded", loaded)
    return load


def test_what_is_loaded_keeps_to_its_variable_or_to_that_of_openmp(load: Load) -> None:
    blas, mkl, openmp = load(OPENBLAS, 8), load(MKL, 8), load(OMP, 8)
    lower_loaded({OMP: "2", MKL: "3"})
    assert (blas.threads, mkl.threads, openmp.threads) == (2, 3, 2)


def test_what_is_loaded_is_never_told_to_use_more(load: Load) -> None:
    blas = load(OPENBLAS, 1)
    lower_loaded({OMP: "4"})
    assert blas.threads == 1


def test_a_number_that_is_none_is_no_limit(load: Load) -> None:
    blas, openmp = load(OPENBLAS, 8), load(OMP, 8)
    lower_loaded({OMP: "4,2", OPENBLAS: "many"})
    lower_loaded({})
    assert (blas.threads, openmp.threads) == (8, 8)


def test_a_thread_tells_only_what_keeps_its_number_for_each_thread(load: Load) -> None:
    blas, openmp = load(OPENBLAS, 8), load(OMP, 8)
    seen: list[object] = []
    share_in_thread({OMP: "2", OPENBLAS: "2"}, lambda *args: seen.append(args), 1, "two")
    assert (blas.threads, openmp.threads) == (8, 2)
    assert seen == [(1, "two")]
    share_in_thread({OMP: "1"}, None)
    assert openmp.threads == 1


def test_openblas_in_memory_is_found_and_told() -> None:
    pytest.importorskip("numpy")
    found = [(get, tell) for variable, get, tell in _library_threads._loaded() if variable != OMP]
    if not found:
        pytest.skip("this numpy has another BLAS, or the system does not tell what is loaded")
    get, tell = found[0]
    before = get()
    try:
        tell(2)
        if get() != 2:
            pytest.skip("a BLAS for one core")
        lower_loaded({OMP: "1"})
        assert get() == 1
    finally:
        tell(before)


def openmp() -> Any:
    try:
        return ctypes.CDLL("libgomp.so.1")
    except OSError:
        pytest.skip("no OpenMP here")


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="nobody tells what is loaded")
def test_openmp_in_a_thread_that_computes_leaves_the_others_their_cores() -> None:
    library = openmp()
    here = library.omp_get_max_threads()
    library.omp_set_num_threads(4)
    try:
        unirun.configure(blas_threads=1)
        with Executor(2, kind="native") as executor:
            assert executor.submit(library.omp_get_max_threads).result(PATIENCE) == 1
        assert library.omp_get_max_threads() == 4
    finally:
        library.omp_set_num_threads(here)


# -- worker processes -----------------------------------------------------------------------------


def in_this_process(load: bool) -> tuple[dict[str, str | None], list[int]]:
    """The variables, and how many threads each BLAS in memory would use."""
    if load:
        import numpy  # noqa: F401
    found = _library_threads._loaded()
    said = {name: os.environ.get(name) for name in VARIABLES}
    return said, [get() for variable, get, _ in found if variable == OPENBLAS]


HOW: dict[str, dict[str, Any]] = {
    "zygote": {},
    "zygote that preloads": {"preload": ["numpy"]},
    "spawn": {"mp_context": "spawn"},
    "spawn that preloads": {"mp_context": "spawn", "preload": ["numpy"]},
    "fork": {"mp_context": "fork"},
}


@pytest.mark.parametrize("how", HOW)
def test_a_worker_process_gets_its_share_however_it_starts(
    how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("numpy")  # so it is in memory here, and in whatever is forked from here
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    workers = unirun.cpu_count()
    with Executor(workers, backend="process", **HOW[how]) as executor:
        said, threads = executor.submit(in_this_process, load=True).result(PATIENCE)
    assert said == dict.fromkeys(VARIABLES, "1")
    assert set(threads) <= {1}


def test_the_workers_of_a_process_that_was_told_a_number_are_told_it_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    with Executor(1, backend="process") as executor:
        executor.submit(int).result(PATIENCE)  # its zygote is there, with the environment as it was
        monkeypatch.setenv(OMP, "7")
        executor.kill_workers()
        said, _ = executor.submit(in_this_process, load=False).result(PATIENCE)
        assert {name: value for name, value in said.items() if name not in ALONE[1:]} == {
            **dict.fromkeys(VARIABLES[:-2], None),
            OMP: "7",
        }
        assert executor.explain(in_this_process).library_threads == 7


@pytest.mark.parametrize(("setting", "value"), [(5, "5"), (None, None)])
def test_the_setting_decides_what_workers_are_told(
    setting: int | None, value: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    unirun.configure(backend={"process": {"blas_threads": setting}})
    with Executor(1, backend="process") as executor:
        said, _ = executor.submit(in_this_process, load=False).result(PATIENCE)
        assert executor.explain(in_this_process).library_threads == setting
    assert said == dict.fromkeys(VARIABLES, value)


def test_this_process_keeps_its_environment() -> None:
    before = dict(os.environ)
    with Executor(1, backend="process") as executor, executor:
        futures: list[Future[Any]] = [executor.submit(int), executor.submit(threading.get_ident)]
        assert [type(future.result(PATIENCE)) for future in futures] == [int, int]
    assert dict(os.environ) == before
