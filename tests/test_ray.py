"""Ray for real: nodes on loopback, each its own processes, and what if one of them is gone."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import dask_bodies as bodies
import psutil
import pytest
from ray_clusters import Cluster, shared_cluster

from unirun import (
    BackendLost,
    BackendUnavailable,
    ConfigError,
    Executor,
    NoSuitableWorker,
    ResultLost,
    Retry,
    TaskKilled,
    TaskTimeout,
    WorkerCrashed,
)
from unirun.testing import Gate
from unirun.testing._gate import comes_true

pytest.importorskip("ray")
pytestmark = pytest.mark.timeout(
    150
)  # where two processors are busy, Ray takes half a minute to start
PATIENCE = 50


@pytest.fixture(scope="session", autouse=True)
def cluster() -> Iterator[Cluster]:
    """An executor that stays open keeps the process that talks to it."""
    with shared_cluster() as cluster, Executor(backend=cluster.name) as keeper:
        keeper.submit(divmod, 7, 2).result(PATIENCE)
        yield cluster


@pytest.fixture
def ray(cluster: Cluster) -> Iterator[Executor]:
    with Executor(backend=cluster.name) as executor:
        yield executor
        executor.shutdown(timeout=PATIENCE, kill=True)


# -- calls ----------------------------------------------------------------------------------------


def test_a_call_knows_where_it_is(ray: Executor) -> None:
    told = ray.options(name="mine").submit(bodies.about).result(PATIENCE)
    assert (told["name"], told["attempt"]) == ("mine", 1)
    assert told["backend"] == next(iter(ray.stats()))


def test_a_running_call_is_killed_at_once_and_its_neighbour_goes_on(
    ray: Executor, gate: Gate
) -> None:
    victim = ray.submit(bodies.sleep, 60)
    assert comes_true(victim.running, PATIENCE)
    beside = ray.submit(bodies.attempt_at, gate.address, os.devnull)
    arrival = gate.arrival()
    begun = time.monotonic()
    assert victim.cancel() is False
    assert victim.kill() is True
    assert time.monotonic() - begun < 10
    with pytest.raises(TaskKilled):
        victim.result(0)
    arrival.release()
    assert beside.result(PATIENCE)


def test_a_timeout_ends_a_body_that_sleeps(ray: Executor) -> None:
    error = ray.options(timeout=0.3).submit(bodies.sleep, 60).exception(PATIENCE)
    assert isinstance(error, TaskTimeout)
    assert error.abandoned is False


def test_a_crash_is_told_and_ends_no_worker_of_ray(ray: Executor) -> None:
    for _ in range(5):  # more than there are workers
        error = ray.submit(os._exit, 3).exception(PATIENCE)
        assert isinstance(error, WorkerCrashed)
        assert not isinstance(error, ResultLost)
    assert ray.submit(divmod, 7, 2).result(PATIENCE) == (3, 1)


def test_a_large_argument_and_a_large_result_arrive(ray: Executor) -> None:
    data = os.urandom(1 << 20) * 8
    assert ray.submit(bodies.size_of, data).result(PATIENCE) == len(data)
    assert len(ray.submit(bytes, 8 << 20).result(PATIENCE)) == 8 << 20


def test_a_map_of_tiny_items_is_sent_in_chunks(ray: Executor) -> None:
    assert list(ray.map(bodies.double, range(20_000), timeout=PATIENCE)) == [*range(0, 40_000, 2)]
    assert next(iter(ray.stats().values())).finished < 5_000


def test_a_lock_whose_holder_is_killed_is_free(ray: Executor, gate: Gate) -> None:
    lock = ray.Lock()
    holder = ray.submit(bodies.hold_lock, lock, gate.address)
    gate.arrival()
    waiting = ray.submit(bodies.held, lock)
    holder.kill(grace=0)
    assert waiting.result(PATIENCE) is True


# -- resources ------------------------------------------------------------------------------------


def test_resources_lead_to_the_node_that_has_them(ray: Executor, gate: Gate) -> None:
    """Though it is the other one that has room."""
    blocking = ray.options(resources={"tag": 1}).submit(bodies.attempt_at, gate.address, os.devnull)
    arrival = gate.arrival()
    waiting = ray.options(resources={"tag": 0.5}).submit(divmod, 7, 2)
    assert ray.submit(divmod, 9, 2).result(PATIENCE) == (4, 1)
    assert not waiting.done()
    arrival.release()
    assert waiting.result(PATIENCE) == (3, 1)
    assert blocking.result(0)


def test_a_call_sees_the_gpu_it_was_given(ray: Executor) -> None:
    view = ray.options(resources={"gpu": 1})
    for _ in range(2):
        assert view.submit(os.getenv, "CUDA_VISIBLE_DEVICES").result(PATIENCE) == "0"


def test_what_no_node_has_is_an_error_and_not_an_endless_wait(cluster: Cluster) -> None:
    with Executor(backend=cluster.name, wait_for_workers=0.5) as executor:
        for wanted in ({"tag": 2}, {"cpu": 2}, {"gpu": 1, "tag": 1}):
            error = executor.options(resources=wanted).submit(divmod, 7, 2).exception(PATIENCE)
            assert isinstance(error, NoSuitableWorker), wanted
        assert executor.submit(divmod, 7, 2).result(PATIENCE) == (3, 1)


# -- one of our own -------------------------------------------------------------------------------


def test_depth_beyond_the_slots_is_no_deadlock_and_nothing_of_ours_is_left() -> None:
    ours = psutil.Process()
    before = set(ours.children(recursive=True))
    with Executor(1, backend="ray", worker_resources={"tag": 1}) as executor:
        assert executor.submit(bodies.fibonacci, 6).result(PATIENCE) == 8
        view = executor.options(resources={"tag": 1})
        assert view.submit(divmod, 7, 2).result(PATIENCE) == (3, 1)
        error = executor.options(resources={"tag": 2}).submit(divmod, 7, 2).exception(PATIENCE)
        assert isinstance(error, NoSuitableWorker)
        theirs = set(ours.children(recursive=True)) - before
        assert {"raylet", "gcs_server"} <= {process.name() for process in theirs}
        assert directories()
    assert comes_true(lambda: all(is_gone(process) for process in theirs), PATIENCE)
    assert not directories()


PROGRAM = """
import time, unirun
executor = unirun.Executor(1, backend="ray")
print(executor.submit(divmod, 7, 2).result(50), flush=True)
executor.submit(time.sleep, 60).result()
"""


def test_a_program_that_is_killed_leaves_no_cluster_behind() -> None:
    """And nothing that Ray says is mixed with what it prints."""
    arguments = [sys.executable, "-c", PROGRAM]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == "(3, 1)\n"
        theirs = psutil.Process(program.pid).children(recursive=True)
        assert "raylet" in {process.name() for process in theirs}
        os.kill(program.pid, signal.SIGKILL)
        assert comes_true(lambda: all(is_gone(process) for process in theirs), PATIENCE)
        assert comes_true(lambda: not directories(), PATIENCE)
        assert program.stdout.read() == ""


def directories() -> list[Path]:
    """Of clusters of our own."""
    return list(Path(tempfile.gettempdir()).glob("unirun-ray-*"))


def is_gone(process: psutil.Process) -> bool:
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


# -- what is lost ---------------------------------------------------------------------------------


def test_a_call_whose_node_dies_is_lost_and_never_run_again(
    cluster: Cluster, ray: Executor, gate: Gate, tmp_path: Path
) -> None:
    path = tmp_path / "ran"
    cluster.add("dying", resources={"there": 1})
    view = ray.options(resources={"there": 1})
    future = view.submit(bodies.attempt_at, gate.address, str(path))
    arrival = gate.arrival()
    cluster.lose("dying")
    error = future.exception(PATIENCE)
    assert isinstance(error, ResultLost)
    assert isinstance(error, WorkerCrashed)
    assert arrival.is_gone()
    assert ray.submit(divmod, 7, 2).result(PATIENCE) == (3, 1)
    assert gate.is_empty()
    assert len(path.read_text().split()) == 1
    cluster.add("dying too", resources={"there": 1})
    retried = view.options(retries=Retry(crashes=1, backoff=0))
    again = retried.submit(bodies.attempt_at, gate.address, str(path))
    gate.arrival()
    cluster.lose("dying too")
    cluster.add("staying", resources={"there": 1})
    gate.arrival().release()
    assert again.result(PATIENCE)
    cluster.lose("staying")


def test_a_worker_of_ray_that_dies_takes_its_call_along_once(
    ray: Executor, gate: Gate, tmp_path: Path
) -> None:
    """Ray would run it again, if it were Ray's."""
    path = tmp_path / "ran"
    future = ray.submit(bodies.attempt_at, gate.address, str(path))
    arrival = gate.arrival()
    process: psutil.Process | None = psutil.Process(int(path.read_text()))
    while process is not None and not process.name().startswith("ray::"):
        process = process.parent()
    assert process is not None
    process.kill()
    assert isinstance(future.exception(PATIENCE), ResultLost)
    assert arrival.is_gone()
    assert ray.submit(divmod, 7, 2).result(PATIENCE) == (3, 1)
    assert gate.is_empty()
    assert len(path.read_text().split()) == 1


def test_a_head_that_dies_ends_every_call_within_five_seconds(gate: Gate) -> None:
    """And not the program, as it would end a driver of Ray."""
    with Cluster() as cluster:
        executor = Executor(backend=cluster.name)
        running = executor.submit(bodies.attempt_at, gate.address, os.devnull)
        arrival = gate.arrival()
        waiting = executor.submit(divmod, 7, 2)
        cluster.behead()
        begun = time.monotonic()
        for future in (running, waiting):
            assert isinstance(future.exception(PATIENCE), BackendLost)
        assert time.monotonic() - begun < 5
        assert arrival.is_gone()
        with pytest.raises(BackendLost):
            executor.submit(divmod, 7, 2)
        executor.shutdown()


# -- who is found, and who may come ---------------------------------------------------------------


def test_auto_finds_the_cluster_that_ray_would_and_leaves_it_running(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    with Executor(backend="ray:auto") as executor:
        assert executor.submit(divmod, 7, 2).result(PATIENCE) == (3, 1)
    with Executor(backend=cluster.name) as executor:
        assert executor.submit(divmod, 7, 2).result(PATIENCE) == (3, 1)


def test_without_a_head_there_is_one_clear_error() -> None:
    with Executor(backend="ray:127.0.0.1:9") as executor:
        error = executor.submit(divmod, 7, 2).exception(PATIENCE)
    assert isinstance(error, BackendUnavailable)
    assert "127.0.0.1:9" in str(error)


@pytest.mark.parametrize("name", ["ray:192.0.2.1", "ray:192.0.2.1:6379", "ray://192.0.2.1:10001"])
def test_the_network_without_tls_is_refused_unless_allowed_in_words(name: str) -> None:
    with pytest.raises(ConfigError, match="insecure=True"):
        Executor(backend=name).submit(divmod, 7, 2)


@pytest.mark.parametrize("name", ["ray:", "ray://", "ray:a:b:c", "ray:host:port", "ray://a/b"])
def test_a_name_without_a_cluster_says_how_it_is_written(name: str) -> None:
    with pytest.raises(ConfigError, match="write 'ray:auto', 'ray:host:port' or 'ray://host:port'"):
        Executor(backend=name)
