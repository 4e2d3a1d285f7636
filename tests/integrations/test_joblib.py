"""joblib's Parallel on unirun: with the real package."""

import gc
import multiprocessing
import os
import signal
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from integrations.waiting import eventually

import unirun
from unirun import Executor

joblib = pytest.importorskip("joblib", reason="joblib is not installed: make test-integrations")
np = pytest.importorskip("numpy")

from joblib import Parallel, delayed, parallel_config  # noqa: E402

from unirun.integrations.joblib import UnirunBackend  # noqa: E402

pytestmark = [pytest.mark.integrations, pytest.mark.usefixtures("registered")]
PATIENCE = 20.0
LARGE = 300_000  # numbers of 8 bytes: above joblib's megabyte


def square(x: int) -> int:
    return x * x


def pid_after_a_while(_: int) -> int:
    time.sleep(0.02)
    return os.getpid()


def fail_once_all_run(number: int, directory: Path) -> None:
    """Number 0 fails when number 1 has begun; that would go on for ever."""
    if number:
        (directory / "pid").write_text(str(os.getpid()))
        (directory / "begun").touch()
        threading.Event().wait()
    eventually((directory / "begun").exists)
    raise KeyError("number 0")


def hang(directory: Path) -> None:
    (directory / "pid").write_text(str(os.getpid()))
    threading.Event().wait()


def crash(_: int) -> None:
    os.kill(os.getpid(), 9)


def inside(depth: int) -> int:
    if depth == 0:
        return 1
    return sum(Parallel(n_jobs=2)(delayed(inside)(depth - 1) for _ in range(3)))


def backend_inside(prefer: str | None) -> str:
    loop = Parallel(n_jobs=2, prefer=prefer)
    with loop:
        return type(loop._backend).__name__


def is_dead(directory: Path) -> bool:
    return not psutil.pid_exists(int((directory / "pid").read_text()))


# -- results ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("return_as", ["list", "generator"])
def test_results_come_in_order(on_processes: Executor, return_as: str) -> None:
    loop = Parallel(return_as=return_as)

    assert list(loop(delayed(square)(i) for i in range(50))) == [i * i for i in range(50)]


def test_an_unordered_generator_yields_every_result_once(on_processes: Executor) -> None:
    loop = Parallel(return_as="generator_unordered")

    assert sorted(loop(delayed(square)(i) for i in range(50))) == [i * i for i in range(50)]


def test_calls_run_in_the_workers_of_the_executor(on_processes: Executor) -> None:
    pids = set(Parallel()(delayed(pid_after_a_while)(i) for i in range(10)))

    assert pids == set(on_processes.stats()["process"].pids)


def test_lambdas_and_closures_travel(on_processes: Executor) -> None:
    offset = 5

    assert Parallel()(delayed(lambda x: x + offset)(i) for i in range(3)) == [5, 6, 7]


def test_short_calls_are_put_together(on_processes: Executor) -> None:
    before = on_processes.stats()["process"].finished
    Parallel()(delayed(square)(i) for i in range(3000))

    assert on_processes.stats()["process"].finished - before < 300


def test_one_loop_after_the_other_finds_the_same_workers(on_processes: Executor) -> None:
    first = set(Parallel()(delayed(pid_after_a_while)(i) for i in range(8)))
    second = set(Parallel()(delayed(pid_after_a_while)(i) for i in range(8)))

    assert first == second


def test_the_generator_of_calls_may_fail(on_processes: Executor) -> None:
    def calls() -> Iterator[Any]:
        yield from (delayed(square)(i) for i in range(20))
        raise LookupError("no more")

    with pytest.raises(LookupError, match="no more"):
        Parallel()(calls())


def test_an_executor_with_room_for_one_call_is_no_dead_end() -> None:
    with (
        Executor(2, backend="process", max_pending=1) as executor,
        parallel_config("unirun", n_jobs=2, executor=executor),
    ):
        assert Parallel()(delayed(square)(i) for i in range(20)) == [i * i for i in range(20)]


# -- ends ------------------------------------------------------------------------------------------


def test_a_loop_that_fails_kills_the_rest_and_the_next_one_works(
    on_processes: Executor, tmp_path: Path
) -> None:
    with pytest.raises(KeyError, match="number 0"):
        Parallel()(delayed(fail_once_all_run)(i, tmp_path) for i in range(2))

    assert is_dead(tmp_path)
    assert Parallel()(delayed(square)(i) for i in range(5)) == [0, 1, 4, 9, 16]


def test_a_call_over_its_time_is_killed(executor: Executor, tmp_path: Path) -> None:
    with parallel_config("unirun", n_jobs=2, executor=executor):
        Parallel()(delayed(pid_after_a_while)(i) for i in range(8))  # imports joblib there
    with (
        parallel_config("unirun", n_jobs=2, executor=executor, timeout=6),
        pytest.raises(unirun.TaskTimeout, match="hang"),
    ):
        Parallel()(delayed(hang)(tmp_path) for _ in range(1))

    assert is_dead(tmp_path)


def test_the_timeout_of_parallel_kills_what_runs(on_processes: Executor, tmp_path: Path) -> None:
    Parallel()(delayed(pid_after_a_while)(i) for i in range(8))  # imports joblib there
    with pytest.raises(multiprocessing.TimeoutError):
        Parallel(timeout=6)(delayed(hang)(tmp_path) for _ in range(1))

    assert is_dead(tmp_path)


def test_a_crash_is_told_and_costs_nobody_else_anything(on_processes: Executor) -> None:
    with pytest.raises(unirun.WorkerCrashed, match="SIGKILL"):
        Parallel()(delayed(crash)(i) for i in range(1))

    assert Parallel()(delayed(square)(i) for i in range(5)) == [0, 1, 4, 9, 16]


def test_a_generator_that_is_dropped_kills_what_runs(
    on_processes: Executor, tmp_path: Path
) -> None:
    results = Parallel(return_as="generator")(
        delayed(call)(argument) for call, argument in ((square, 3), (hang, tmp_path))
    )
    assert next(results) == 9
    eventually((tmp_path / "pid").exists)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # joblib says that there were more
        del results
        gc.collect()

    assert is_dead(tmp_path)


def test_kill_from_another_thread_ends_the_loop(on_processes: Executor, tmp_path: Path) -> None:
    def kill() -> None:
        eventually((tmp_path / "pid").exists)
        on_processes.kill_workers()

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(unirun.TaskKilled):
        Parallel()(delayed(hang)(tmp_path) for _ in range(1))
    killer.join()

    assert Parallel()(delayed(square)(i) for i in range(3)) == [0, 1, 4]


def test_ctrl_c_kills_what_runs(on_processes: Executor, tmp_path: Path) -> None:
    def press() -> None:
        eventually((tmp_path / "pid").exists)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=press)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        Parallel()(delayed(hang)(tmp_path) for _ in range(1))
    thread.join()

    assert is_dead(tmp_path)


def test_calls_are_tried_again(executor: Executor, tmp_path: Path) -> None:
    def fail_at_first(file: Path) -> str:
        if not file.exists():
            file.touch()
            raise OSError("not yet")
        return "there"

    with parallel_config("unirun", n_jobs=2, executor=executor, retries=1):
        assert Parallel()(delayed(fail_at_first)(tmp_path / str(i)) for i in range(2)) == [
            "there",
            "there",
        ]


# -- loops inside of calls -------------------------------------------------------------------------


def test_loops_inside_of_calls_share_the_workers(on_processes: Executor) -> None:
    assert Parallel()(delayed(inside)(2) for _ in range(2)) == [9, 9]


def test_a_loop_inside_runs_on_unirun_unless_it_prefers_threads(on_processes: Executor) -> None:
    found = Parallel()(delayed(backend_inside)(prefer) for prefer in (None, "threads"))

    assert found == ["UnirunBackend", "ThreadingBackend"]


# -- choosing --------------------------------------------------------------------------------------


def test_a_wrong_option_is_told_where_it_is_written() -> None:
    with pytest.raises(unirun.UnknownOption, match="timeout"):
        parallel_config("unirun", timout=3)
    with pytest.raises(TypeError, match="executor="):
        parallel_config("unirun", executor=3)


@pytest.mark.parametrize(("asked", "got"), [(1, 1), (2, 2), (9, 2), (-1, 2), (-2, 1), (None, 1)])
def test_n_jobs_means_what_it_means_in_joblib(executor: Executor, asked: Any, got: int) -> None:
    assert UnirunBackend(executor=executor).effective_n_jobs(asked) == got


def test_n_jobs_of_zero_is_refused(executor: Executor) -> None:
    with pytest.raises(ValueError, match="no meaning"):
        UnirunBackend(executor=executor).effective_n_jobs(0)


def test_never_more_calls_run_than_n_jobs() -> None:
    lock, running, most = threading.Lock(), [0], [0]

    def count() -> None:
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        time.sleep(0.005)
        with lock:
            running[0] -= 1

    with (
        Executor(4, backend="thread") as executor,
        parallel_config("unirun", n_jobs=2, executor=executor),
    ):
        Parallel()(delayed(count)() for _ in range(30))

    assert most == [2]


def where_am_i(array: Any) -> tuple[str, float]:
    task = unirun.current_task()
    assert task is not None
    return task.backend, float(array.sum())


@pytest.mark.parametrize(
    ("how", "options", "place"),
    [
        ({}, {}, "process"),
        ({"kind": "auto"}, {}, "process"),
        ({"kind": "io"}, {}, "thread"),
        ({"kind": "io"}, {"kind": "cpu"}, "process"),
        ({}, {"kind": "native"}, "thread"),
        ({"backend": "thread"}, {}, "thread"),
    ],
)
def test_calls_run_where_the_executor_or_the_options_say(
    how: dict[str, str], options: dict[str, str], place: str
) -> None:
    array = np.ones(LARGE)
    with (
        Executor(2, **how) as executor,  # type: ignore[arg-type]
        parallel_config("unirun", n_jobs=2, executor=executor, **options),
    ):
        found = Parallel()(delayed(where_am_i)(array) for _ in range(4))

    assert found == [(place, LARGE)] * 4


def test_threads_share_memory_and_processes_do_not(executor: Executor) -> None:
    seen: list[int] = []
    with (
        Executor(2, backend="thread") as threads,
        parallel_config("unirun", n_jobs=2, executor=threads),
    ):
        Parallel(require="sharedmem")(delayed(seen.append)(i) for i in range(5))

    assert sorted(seen) == [0, 1, 2, 3, 4]
    assert not UnirunBackend(executor=executor).supports_sharedmem


def test_without_an_executor_there_are_as_many_workers_as_asked_for() -> None:
    with parallel_config("unirun", n_jobs=unirun.cpu_count() + 1):
        barrier = Parallel()(delayed(pid_after_a_while)(i) for i in range(30))
        gc.collect()

    assert len(set(barrier)) == unirun.cpu_count() + 1


def blas_threads(_: int) -> str | None:
    return os.environ.get("OMP_NUM_THREADS")


def test_inner_max_num_threads_reaches_the_workers() -> None:
    with parallel_config("unirun", n_jobs=2, inner_max_num_threads=3):
        found = Parallel()(delayed(blas_threads)(i) for i in range(4))

    assert found == ["3"] * 4


def test_the_executor_it_was_given_goes_on(executor: Executor) -> None:
    with parallel_config("unirun", n_jobs=2, executor=executor):
        Parallel()(delayed(square)(i) for i in range(3))
    gc.collect()

    assert executor.submit(square, 3).result() == 9
