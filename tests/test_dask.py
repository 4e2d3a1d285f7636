"""Dask for real: a scheduler and workers as processes on loopback, and what if one is gone."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask_bodies as bodies
import pytest
from dask_clusters import Cluster

import unirun
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
    UnsupportedByBackend,
    VersionMismatch,
    WorkerCrashed,
)
from unirun.testing import Gate
from unirun.testing._gate import comes_true

pytest.importorskip("distributed")
PATIENCE = 30


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Two workers of one slot each; an executor that stays open keeps the process that talks to
    it."""
    with Cluster("", "--resources gpu=1") as cluster, Executor(backend=cluster.name) as keeper:
        keeper.submit(divmod, 7, 2).result(60)
        yield cluster


@pytest.fixture
def dask(cluster: Cluster) -> Iterator[Executor]:
    with Executor(backend=cluster.name) as executor:
        yield executor
        executor.shutdown(timeout=PATIENCE, kill=True)


# -- calls ----------------------------------------------------------------------------------------


def test_a_call_knows_where_it_is(dask: Executor) -> None:
    future = dask.options(name="mine").submit(bodies.about)
    told = future.result(PATIENCE)
    assert (told["name"], told["attempt"]) == ("mine", 1)
    assert told["backend"] == next(iter(dask.stats()))
    assert future.info.worker


def test_a_running_call_is_killed_at_once_and_its_neighbour_goes_on(
    dask: Executor, gate: Gate
) -> None:
    victim = dask.submit(bodies.sleep, 60)
    assert comes_true(victim.running, PATIENCE)
    beside = dask.submit(bodies.attempt_at, gate.address, os.devnull)
    arrival = gate.arrival()
    begun = time.monotonic()
    assert victim.kill() is True
    assert time.monotonic() - begun < 10
    with pytest.raises(TaskKilled):
        victim.result(0)
    arrival.release()
    assert beside.result(PATIENCE)


def test_a_timeout_ends_a_body_that_sleeps(dask: Executor) -> None:
    error = dask.options(timeout=0.3).submit(bodies.sleep, 60).exception(PATIENCE)
    assert isinstance(error, TaskTimeout)
    assert error.abandoned is False


def test_depth_beyond_the_slots_is_no_deadlock() -> None:
    with Executor(1, backend="dask") as executor:
        assert executor.submit(bodies.fibonacci, 6).result(PATIENCE) == 8


def test_config_blocks_travel_with_calls(dask: Executor) -> None:
    with unirun.config(timeout=7, priority=3):
        future = dask.submit(bodies.settings)
    assert future.result(PATIENCE) == (7, 3)


def test_what_no_worker_can_import_is_an_error_of_its_call_only(
    dask: Executor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And no Dask worker shuts down for it."""
    (tmp_path / "gone_soon.py").write_text("def f(): return 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    import gone_soon  # type: ignore[import-not-found]

    (tmp_path / "gone_soon.py").unlink()
    error = dask.submit(gone_soon.f).exception(PATIENCE)
    del sys.modules["gone_soon"]
    assert error is None or isinstance(error, unirun.DeserializationError)
    assert dask.submit(divmod, 7, 2).result(PATIENCE) == (3, 1)


def test_a_large_argument_and_a_large_result_arrive(dask: Executor) -> None:
    data = os.urandom(1 << 20) * 8
    assert dask.submit(bodies.size_of, data).result(PATIENCE) == len(data)
    assert len(dask.submit(bytes, 8 << 20).result(PATIENCE)) == 8 << 20


def test_a_map_of_tiny_items_is_sent_in_chunks(dask: Executor) -> None:
    assert list(dask.map(bodies.double, range(20_000), timeout=PATIENCE)) == [*range(0, 40_000, 2)]
    assert next(iter(dask.stats().values())).finished < 5_000


# -- shared objects -------------------------------------------------------------------------------


def test_a_lock_excludes_across_workers(dask: Executor) -> None:
    lock, counter = dask.Lock(), dask.Value("q", 0)
    futures = [dask.submit(bodies.add, counter, lock, 25) for _ in range(2)]
    for future in futures:
        future.result(PATIENCE)
    assert counter.get() == 50


def test_a_lock_whose_holder_is_killed_is_free(dask: Executor, gate: Gate) -> None:
    lock = dask.Lock()
    holder = dask.submit(bodies.hold_lock, lock, gate.address)
    gate.arrival()
    waiting = dask.submit(bodies.held, lock)
    holder.kill(grace=0)
    assert waiting.result(PATIENCE) is True


# -- resources ------------------------------------------------------------------------------------


def test_resources_lead_to_the_worker_that_has_them(dask: Executor) -> None:
    view = dask.options(resources={"gpu": 1})
    places = {view.submit(os.getppid).result(PATIENCE) for _ in range(4)}
    assert len(places) == 1


def test_what_no_worker_has_is_an_error_and_not_an_endless_wait(cluster: Cluster) -> None:
    with Executor(backend=cluster.name, wait_for_workers=0.5) as executor:
        view = executor.options(resources={"gpu": 2})
        error = view.submit(divmod, 7, 2).exception(PATIENCE)
        assert isinstance(error, NoSuitableWorker)
        assert "gpu=2" in str(error)
        assert executor.submit(divmod, 7, 2).result(PATIENCE) == (3, 1)


def test_a_cluster_of_our_own_refuses_at_once_what_it_does_not_offer() -> None:
    executor = Executor(1, backend="dask", worker_resources={"gpu": 1})
    with pytest.raises(UnsupportedByBackend, match="gpu=2"):
        executor.options(resources={"gpu": 2}).submit(divmod, 7, 2)
    executor.shutdown()


# -- what is lost ---------------------------------------------------------------------------------


def test_a_call_whose_dask_worker_dies_is_lost_and_never_run_again(
    gate: Gate, tmp_path: Path
) -> None:
    path = tmp_path / "ran"
    with Cluster("") as cluster, Executor(backend=cluster.name) as executor:
        future = executor.submit(bodies.attempt_at, gate.address, str(path))
        arrival = gate.arrival()
        cluster.add_worker_in_place_of(0)
        error = future.exception(PATIENCE)
        assert isinstance(error, ResultLost)
        assert isinstance(error, WorkerCrashed)
        assert arrival.is_gone()
        assert executor.submit(divmod, 7, 2).result(PATIENCE) == (3, 1)
        assert gate.is_empty()
        assert len(path.read_text().split()) == 1
        retried = executor.options(retries=Retry(crashes=1, backoff=0))
        again = retried.submit(bodies.attempt_at, gate.address, str(path))
        gate.arrival()
        cluster.add_worker_in_place_of(1)
        gate.arrival().release()
        assert again.result(PATIENCE)


def test_a_scheduler_that_dies_ends_every_call_within_five_seconds(gate: Gate) -> None:
    with Cluster("") as cluster:
        executor = Executor(backend=cluster.name)
        running = executor.submit(bodies.attempt_at, gate.address, os.devnull)
        arrival = gate.arrival()
        waiting = executor.submit(divmod, 7, 2)
        os.kill(cluster.scheduler.pid, signal.SIGKILL)
        begun = time.monotonic()
        for future in (running, waiting):
            assert isinstance(future.exception(PATIENCE), BackendLost)
        assert time.monotonic() - begun < 5
        assert arrival.is_gone()
        with pytest.raises(BackendLost):
            executor.submit(divmod, 7, 2)
        executor.shutdown()


def test_without_a_scheduler_there_is_one_clear_error() -> None:
    with Executor(backend="dask://127.0.0.1:9") as executor:
        error = executor.submit(divmod, 7, 2).exception(PATIENCE)
    assert isinstance(error, BackendUnavailable)
    assert "127.0.0.1:9" in str(error)


def test_other_versions_at_the_workers_are_told(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    from unirun import _far_setup

    ours = _far_setup.versions()
    monkeypatch.setattr(_far_setup, "versions", lambda: {**ours, "python": "2.7"})
    with Executor(backend=cluster.name) as executor:
        error = executor.submit(divmod, 7, 2).exception(PATIENCE)
    assert isinstance(error, VersionMismatch)
    assert "python is" in str(error)
    assert "2.7 here" in str(error)


# -- who may come ---------------------------------------------------------------------------------


def test_the_network_without_tls_is_refused_unless_allowed_in_words() -> None:
    with pytest.raises(ConfigError, match="insecure=True"):
        Executor(backend="dask://192.0.2.1:8786").submit(divmod, 7, 2)
    with pytest.raises(ConfigError, match="ca, cert and key"):
        Executor(backend="dask:tls://192.0.2.1:8786").submit(divmod, 7, 2)


def test_over_tls_calls_run_and_a_stranger_is_refused(tmp_path: Path) -> None:
    files = certificate(tmp_path)
    given = [each for name, path in files.items() for each in (f"--tls-{_TLS[name]}", path)]
    with Cluster("", security=tuple(given)) as cluster:
        with Executor(backend=f"dask:{cluster.address}", **files) as executor:
            assert executor.submit(divmod, 7, 2).result(PATIENCE) == (3, 1)
            assert len(executor.submit(bytes, 4 << 20).result(PATIENCE)) == 4 << 20
        others = certificate(tmp_path / "others")
        with Executor(backend=f"dask:{cluster.address}", **others) as stranger:
            error = stranger.submit(divmod, 7, 2).exception(PATIENCE)
            assert isinstance(error, BackendUnavailable)


_TLS = {"ca": "ca-file", "cert": "cert", "key": "key"}


def certificate(directory: Path) -> dict[str, Any]:
    """One that signs itself, as Dask makes them for a cluster on one machine."""
    security = pytest.importorskip("distributed").Security
    pytest.importorskip("cryptography")
    made = security.temporary()
    directory.mkdir(exist_ok=True)
    texts = {"ca": made.tls_ca_file, "cert": made.tls_client_cert, "key": made.tls_client_key}
    for name, text in texts.items():
        (directory / name).write_text(text)
    return {name: str(directory / name) for name in texts}


# -- attach or own --------------------------------------------------------------------------------


def test_a_cluster_that_was_there_is_there_afterwards(cluster: Cluster) -> None:
    for _ in range(2):
        with Executor(backend=cluster.name) as executor:
            assert executor.submit(divmod, 7, 2).result(PATIENCE) == (3, 1)
    assert [process.poll() for process in (cluster.scheduler, *cluster.workers)] == [None] * 3


def test_a_cluster_of_our_own_leaves_nothing_behind() -> None:
    """`conftest` looks for processes; here it is about directories."""
    before = set(Path(tempfile.gettempdir()).glob("unirun-dask-*"))
    with Executor(2, backend="dask") as executor:
        assert list(executor.map(bodies.double, range(3), timeout=PATIENCE)) == [0, 2, 4]
        assert len(set(Path(tempfile.gettempdir()).glob("unirun-dask-*")) - before) == 1
    assert set(Path(tempfile.gettempdir()).glob("unirun-dask-*")) == before


def test_a_program_that_just_ends_leaves_nothing_behind() -> None:
    """Without a guard for its `__main__`, too."""
    code = (
        "import unirun\n"
        "executor = unirun.Executor(1, backend='dask')\n"
        "print(executor.submit(lambda: 6 * 7).result(40))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=50, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "42\n", "")
