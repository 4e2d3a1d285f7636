"""Shared objects on Dask, what is lost there, and clusters whose workers come and go."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask_bodies as bodies
import pytest
from dask_clusters import Cluster

from unirun import Executor, ManagerLost, ResultLost, WorkerCrashed, wait
from unirun._manager import Manager
from unirun._place import Place
from unirun.testing import Gate
from unirun.testing._sharing import SharingTests

pytest.importorskip("distributed")
pytestmark = pytest.mark.engines
PATIENCE = 30
ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Cluster("", "") as cluster, Executor(1, backend=cluster.name) as keeper:
        keeper.submit(divmod, 7, 2).result(60)
        yield cluster


@pytest.fixture
def by_tunnel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shared objects that workers can reach by a tunnel only, as those on other machines."""

    def make(place: Place) -> Manager:
        return Manager(family="AF_INET", key=place._key)

    monkeypatch.setattr(Place, "_make", make)


@pytest.mark.usefixtures("by_tunnel")
class TestThroughTunnels(SharingTests):
    """Every promise about shared objects, from another machine."""

    backend = "dask"

    @pytest.fixture(autouse=True)
    def there(self, cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(type(self), "backend", cluster.name)


# -- who hosts them -------------------------------------------------------------------------------


def test_a_manager_of_its_own_process_serves_workers_and_is_replaced(cluster: Cluster) -> None:
    with Executor(backend=cluster.name, manager="process") as executor:
        counter, lock = executor.Value("q", 0), executor.Lock()
        wait([executor.submit(bodies.add, counter, lock, 10) for _ in range(2)], PATIENCE)
        assert counter.get() == 20
        manager: Any = next(iter(executor._backends.values()))._place.manager()
        assert manager.pid != os.getpid()
        os.kill(manager.pid, signal.SIGKILL)
        error = executor.submit(bodies.add, counter, lock, 1).exception(PATIENCE)
        assert isinstance(error, ManagerLost)
        assert executor.submit(bodies.held, executor.Lock()).result(PATIENCE) is True


# -- who dies, or stands still --------------------------------------------------------------------


@pytest.mark.parametrize("way", ["straight", "by tunnel"])
def test_a_lock_whose_holder_is_killed_with_its_machine_is_free(
    way: str, gate: Gate, request: pytest.FixtureRequest
) -> None:
    if way == "by tunnel":
        request.getfixturevalue("by_tunnel")
    with Cluster("") as cluster, Executor(backend=cluster.name) as executor:
        lock = executor.Lock()
        holder = executor.submit(bodies.hold_lock, lock, gate.address)
        gate.arrival()
        begun = time.monotonic()
        os.killpg(cluster.workers[0].pid, signal.SIGKILL)
        assert lock.acquire(timeout=PATIENCE) is True
        assert time.monotonic() - begun < 5
        assert lock.abandoned
        assert isinstance(holder.exception(PATIENCE), ResultLost)


def test_a_worker_process_that_stands_still_is_killed_and_its_lock_is_free(
    cluster: Cluster, gate: Gate
) -> None:
    with Executor(backend=cluster.name, lost_after=3) as executor:
        lock = executor.Lock()
        holder = executor.submit(bodies.hold_lock, lock, gate.address)
        arrival = gate.arrival()
        os.kill(arrival.pid, signal.SIGSTOP)
        assert isinstance(holder.exception(PATIENCE), WorkerCrashed)
        assert lock.acquire(timeout=PATIENCE) is True
        assert arrival.is_gone()


@pytest.mark.usefixtures("by_tunnel")
def test_a_dask_worker_that_stands_still_is_lost_and_fenced(gate: Gate) -> None:
    """Its call is lost and what that holds is free; once it goes on, it ends what it ran."""
    with Cluster("") as cluster, Executor(backend=cluster.name, lost_after=3) as executor:
        lock = executor.Lock()
        holder = executor.submit(bodies.hold_lock, lock, gate.address)
        arrival = gate.arrival()
        os.kill(cluster.workers[0].pid, signal.SIGSTOP)
        assert isinstance(holder.exception(PATIENCE), ResultLost)
        assert lock.acquire(timeout=PATIENCE) is True
        os.kill(cluster.workers[0].pid, signal.SIGCONT)
        assert arrival.is_gone()
        assert lock.locked()


@pytest.mark.parametrize("whose", ["our own", "another's"])
def test_a_barrier_of_more_parties_than_slots_breaks(whose: str, cluster: Cluster) -> None:
    options: Any = {"backend": "dask", "max_workers": 2}
    if whose == "another's":
        options = {"backend": cluster.name, "wait_for_workers": 2}
    with Executor(**options) as executor:
        barrier = executor.Barrier(3)
        futures = [executor.submit(barrier.wait) for _ in range(3)]
        errors = [future.exception(PATIENCE) for future in futures]
        assert all(isinstance(error, threading.BrokenBarrierError) for error in errors)
        assert "3 parties" in str(errors[0])
        assert sorted(executor.map(waited, [executor.Barrier(2)] * 2)) == [0, 1]


def waited(barrier: Any) -> int:
    return int(barrier.wait(PATIENCE))


# -- clusters that change -------------------------------------------------------------------------


def test_workers_come_and_go_and_every_call_ends_rightly_and_runs_once(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "tests" / "apps" / "elastic.py", tmp_path],
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
    )
    told = json.loads(done.stdout)
    assert told["wrong"] == []
    assert told["most"] == 1
    assert told["ends"] == {"NoneType": 120 - told["lost"], "ResultLost": told["lost"]}
    assert 0 < told["lost"] < 20


# -- what the engine would do otherwise -----------------------------------------------------------


def test_keywords_of_the_engine_reach_the_function_and_equal_calls_run_twice(
    cluster: Cluster, tmp_path: Path
) -> None:
    given = {
        "key": "k",
        "priority": 5,
        "workers": ["w"],
        "pure": True,
        "retries": 3,
        "resources": 1,
    }
    with Executor(backend=cluster.name) as executor:
        assert executor.submit(dict, **given).result(PATIENCE) == given
        path = str(tmp_path / "ran")
        futures = [executor.submit(bodies.ends_after, path) for _ in range(2)]
        assert [future.result(PATIENCE) for future in futures] == [path] * 2
    assert Path(path).read_text() == ".."


def test_what_has_finished_is_not_run_again_when_its_worker_dies(tmp_path: Path) -> None:
    """Dask itself would, where nobody has fetched the result."""
    path = str(tmp_path / "ran")
    with Cluster("") as cluster, Executor(backend=cluster.name) as executor:
        future = executor.submit(bodies.ends_after, path)
        wait([future], PATIENCE)
        cluster.add_worker_in_place_of(0)
        assert executor.submit(divmod, 7, 2).result(PATIENCE) == (3, 1)
        assert future.result(0) == path
    assert Path(path).read_text() == "."


# -- the same program -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wide() -> Iterator[Cluster]:
    """The survey has two calls that run all the time, and wait for each other."""
    with Cluster("--nthreads 2", "--nthreads 2") as cluster:
        yield cluster


@pytest.mark.parametrize("program", [["survey.py", "--files", "20"], ["keywords.py"]])
def test_examples_print_the_same_on_a_cluster(
    program: list[str], wide: Cluster, tmp_path: Path
) -> None:
    """By configuration alone."""
    printed = {}
    for backend in ("process", wide.name):
        kept = {name: value for name, value in os.environ.items() if name[:7] != "UNIRUN_"}
        done = subprocess.run(
            [sys.executable, ROOT / "examples" / program[0], *program[1:]],
            cwd=tmp_path,
            env={**kept, "UNIRUN_BACKEND": backend},
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")
        lines = done.stdout.splitlines()
        printed[backend] = [line for line in lines if not line.startswith("time:")]
    assert printed[wide.name] == printed["process"]
