"""Data, modules and resources on a Dask cluster: what is large travels once, and by reference."""

import gc
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import put_bodies as bodies
import pytest
from dask_clusters import Cluster

from unirun import (
    ConfigError,
    Executor,
    NoSuitableWorker,
    TaskKilled,
    VersionMismatch,
    _far_setup,
)
from unirun.testing._gate import comes_true

pytest.importorskip("distributed")
pytestmark = pytest.mark.engines
PATIENCE = 60
LARGE = 64 << 20


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """The second worker has resources; an executor keeps the process that talks to the cluster."""
    more = "--memory-limit 3GB --resources GPU=1,tag=2"
    with Cluster("--memory-limit 1GB", more) as cluster, Executor(backend=cluster.name) as keeper:
        keeper.submit(divmod, 7, 2).result(PATIENCE)
        yield cluster


def elsewhere(cluster: Cluster, patch: pytest.MonkeyPatch, **options: Any) -> Executor:
    """An executor whose places take themselves for other machines than the program's."""
    patch.setattr(_far_setup, "machine", lambda: "another machine")
    return Executor(backend=cluster.name, **options)


@pytest.fixture(scope="module", params=["here", "elsewhere"])
def dask(request: pytest.FixtureRequest, cluster: Cluster) -> Iterator[Executor]:
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "here":
            made = Executor(backend=cluster.name, idle_timeout=None)
        else:
            made = elsewhere(cluster, patch, idle_timeout=None)
        with made as executor:
            assert comes_true(lambda: len(places(executor)) == 2, PATIENCE)  # whose workers stay
            yield executor


def sent(executor: Executor) -> dict[int, set[str]]:
    """What each place has been sent and keeps."""
    return next(iter(executor._backends.values()))._deliveries._at  # type: ignore[attr-defined]


def test_an_argument_of_64_mib_arrives(dask: Executor) -> None:
    data = os.urandom(1 << 20) * 64
    assert dask.submit(bodies.total, data).result(PATIENCE) == sum(data[:10]) + LARGE


def test_an_array_of_64_mib_arrives_and_can_be_written_to(dask: Executor) -> None:
    numpy = pytest.importorskip("numpy")
    array = numpy.arange(LARGE // 8, dtype="int64")
    assert dask.submit(bodies.add_one, array).result(PATIENCE) == int(array.sum()) + len(array)
    assert array[0] == 0


def test_what_was_put_is_loaded_once_in_each_worker_and_sent_to_each_place_once(
    dask: Executor,
) -> None:
    ref = dask.put(bytearray(8 << 20))
    found = [f.result(PATIENCE) for f in [dask.submit(bodies.identity, ref) for _ in range(30)]]
    assert len(set(found)) == len({pid for pid, _ in found})
    assert all(len(keys) <= 1 for keys in sent(dask).values())
    assert dask.submit(bodies.kinds, [{"in": ref}]).result(PATIENCE)[0] == [[{"in": "bytearray"}]]
    del ref
    gc.collect()
    assert comes_true(lambda: not any(sent(dask).values()), PATIENCE)


def test_calls_go_where_their_data_is(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    with elsewhere(cluster, monkeypatch, linger=5) as executor:
        assert comes_true(lambda: len(places(executor)) == 2, PATIENCE)
        refs = [executor.put(bytes(4 << 20)) for _ in range(2)]
        homes = [executor.submit(bodies.where, ref).result(PATIENCE) for ref in refs]
        for ref, home in zip(refs * 5, homes * 5, strict=True):
            assert executor.submit(bodies.where, ref).result(PATIENCE) == home


def places(executor: Executor) -> set[int]:
    futures = [executor.submit(bodies.where, None, n) for n in range(8)]
    return {future.result(PATIENCE) for future in futures}


def test_a_call_killed_as_its_data_is_on_the_way_is_killed(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    with elsewhere(cluster, monkeypatch) as executor:
        executor.submit(divmod, 7, 2).result(PATIENCE)
        data = bytes(LARGE)
        future = executor.submit(bodies.sleep_with, data, 60)
        assert comes_true(future.running, PATIENCE)
        assert future.kill(grace=0) is True
        with pytest.raises(TaskKilled):
            future.result(0)
        assert executor.submit(bodies.total, data).result(PATIENCE) == LARGE


# -- modules --------------------------------------------------------------------------------------

PACKAGE = {
    "__init__.py": "from .inner import Thing, value\n",
    "inner.py": (
        "from importlib.resources import files\n"
        "class Thing:\n"
        "    def __init__(self, n): self.n = n\n"
        "    def add(self, m):\n"
        "        import sent_pkg.late\n"
        "        return sent_pkg.late.add(self.n, m)\n"
        "def value(): return files(__package__).joinpath('data.txt').read_text()\n"
        "def begin():\n"
        "    import os; os.environ['SENT'] = value()\n"
    ),
    "late.py": "def add(a, b): return a + b\n",
    "data.txt": "text",
}


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A package that only this process can import."""
    folder = tmp_path / "sent_pkg"
    folder.mkdir()
    for name, text in PACKAGE.items():
        (folder / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    import sent_pkg  # type: ignore[import-not-found]
    import sent_pkg.inner  # type: ignore[import-not-found]

    # The places run on this very machine: told of our whole path, they would find it by that.
    told = [each for each in sys.path if each != str(tmp_path)]
    monkeypatch.setattr(_far_setup, "sys", SimpleNamespace(path=told))
    yield sent_pkg
    for name in [each for each in sys.modules if each.startswith("sent_pkg")]:
        del sys.modules[name]


def test_a_package_that_is_sent_can_be_used_like_one_that_is_installed(
    cluster: Cluster, package: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its functions, its classes, its data, what bodies import, and in the initializer."""
    with elsewhere(cluster, monkeypatch, ship=["sent_pkg"], initializer=package.inner.begin) as ex:
        submit = ex.submit
        assert submit(package.value).result(PATIENCE) == "text"
        assert submit(package.Thing(1).add, 2).result(PATIENCE) == 3
        assert type(submit(package.Thing, 3).result(PATIENCE)) is package.Thing
        assert submit(os.getenv, "SENT").result(PATIENCE) == "text"


def test_without_sending_it_a_package_is_missing_there(
    cluster: Cluster, package: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So the test above can fail."""
    with elsewhere(cluster, monkeypatch) as executor:
        told = executor.submit(bodies.imports, "sent_pkg").result(PATIENCE)
        assert "No module named 'sent_pkg'" in told


def test_a_module_that_is_nowhere_is_refused_before_anything_is_sent(cluster: Cluster) -> None:
    with (
        Executor(backend=cluster.name, ship=["nowhere_at_all"]) as executor,
        pytest.raises(ConfigError, match="ship='nowhere_at_all' cannot be found here"),
    ):
        executor.submit(divmod, 7, 2)


# -- versions -------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["unirun", "cloudpickle", "python"])
def test_another_version_there_is_told_with_both(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    ours = _far_setup.versions()
    monkeypatch.setattr(_far_setup, "versions", lambda: {**ours, what: "0.0"})
    with Executor(backend=cluster.name) as executor:
        error = executor.submit(divmod, 7, 2).exception(PATIENCE)
    assert isinstance(error, VersionMismatch)
    assert f"{what} is {ours[what]} there and 0.0 here; install the same" in str(error)


# -- resources ------------------------------------------------------------------------------------


def test_memory_and_gpu_lead_to_the_worker_that_has_them(dask: Executor) -> None:
    wanted: list[dict[str, Any]] = [{"memory": "2GB"}, {"gpu": 1}, {"tag": 2, "memory": "1GB"}]
    found = {
        dask.options(resources=each).submit(bodies.where, None).result(PATIENCE) for each in wanted
    }
    assert len(found) == 1


@pytest.mark.parametrize("wanted", [{"memory": "5GB"}, {"cpu": 2}, {"gpu": 1, "tag": 3}])
def test_what_no_worker_has_is_an_error_within_thirty_seconds(
    cluster: Cluster, wanted: dict[str, Any]
) -> None:
    with Executor(backend=cluster.name, wait_for_workers=1) as executor:
        begun = time.monotonic()
        future = executor.options(resources=wanted).submit(divmod, 7, 2)
        assert isinstance(future.exception(PATIENCE), NoSuitableWorker)
        assert time.monotonic() - begun < 30
        assert executor.submit(divmod, 7, 2).result(PATIENCE) == (3, 1)


def test_a_cluster_of_our_own_shares_the_memory_of_the_machine_among_its_workers() -> None:
    with Executor(1, backend="dask") as executor:
        small = executor.options(resources={"memory": "64MiB", "cpu": 1})
        assert small.submit(divmod, 7, 2).result(PATIENCE) == (3, 1)
        error = executor.options(resources={"memory": "1000TB"}).submit(divmod, 7, 2)
        assert isinstance(error.exception(PATIENCE), NoSuitableWorker)
