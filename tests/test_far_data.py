"""What is large, on its way to places of an engine; modules that are sent; resources: no engine."""

import gc
import heapq
import importlib
import pickle
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from unirun import ConfigError, _blobs
from unirun._blobs import Blob
from unirun._far_blobs import PIECE, Deliveries, Spares
from unirun._far_calls import LOOK, FarCalls, FarFuture
from unirun._ship import pack, unpacked
from unirun.backend import CallOptions
from unirun.backends.dask.resources import ask, offers


def a_blob(size: int) -> Blob:
    return Blob([pickle.dumps(bytes(size), 5)], [])


class Told:
    """What was said to which place; carried out as a place does."""

    def __init__(self) -> None:
        self.places: dict[int, Spares] = {}
        self.bytes: dict[int, int] = {}
        self.deliveries = Deliveries(self)

    def arrive(self, host: int, *, sees: bool = False) -> None:
        self.places[host], self.bytes[host] = Spares(), 0
        self.deliveries.arrived(host, sees=sees)

    def __call__(self, host: int, what: str, *args: Any) -> None:
        if what == "blob":
            self.bytes[host] += len(args[3])
            self.places[host].fill(*args)
        else:
            assert what == "forget"
            self.places[host].forget(*args)


# -- deliveries -----------------------------------------------------------------------------------


def test_a_place_is_sent_a_blob_once_and_one_that_sees_our_memory_never() -> None:
    told, blob = Told(), a_blob(3 * PIECE)
    told.arrive(1)
    told.arrive(2, sees=True)
    for _ in range(3):
        assert told.deliveries.deliver(1, [blob]) == (blob.key,)
        assert told.deliveries.deliver(2, [blob]) == ()
    assert told.bytes == {1: blob.size, 2: 0}
    assert told.deliveries.near([blob], 1) == told.deliveries.near([blob], 2) == blob.size
    told.places[1].close()


def test_what_arrives_is_what_was_sent() -> None:
    told = Told()
    told.arrive(1)
    data = bytes(range(256)) * (PIECE // 100)
    blob = Blob([pickle.dumps(0), b""], [memoryview(data)])
    needed = told.deliveries.deliver(1, [blob])
    ran: list[bytes] = []
    told.places[1].run_with(lambda *call: ran.append(call[3]), 1, 2, (), blob.named(), needed)
    path = told.places[1]._spares[blob.key].path
    assert Path(path).read_bytes()[1:] == Path(blob.path).read_bytes()[1:]
    assert _blobs.decode(ran[0]) == 0
    del _blobs.elsewhere[blob.key]
    told.places[1].close()


def test_a_place_forgets_what_has_ended_here_and_nothing_else() -> None:
    told, blob, other = Told(), a_blob(PIECE), a_blob(PIECE)
    told.arrive(1)
    told.deliveries.deliver(1, [blob, other])
    key = other.key
    del blob
    gc.collect()
    told.deliveries.forget()
    assert list(told.places[1]._spares) == [key]
    told.places[1].close()


def test_a_place_that_has_gone_is_sent_nothing() -> None:
    told, blob = Told(), a_blob(10)
    told.arrive(1)
    told.deliveries.gone(1)
    assert told.deliveries.deliver(1, [blob]) == ()
    assert told.bytes[1] == 0


def test_a_call_that_overtakes_what_it_needs_waits_for_it_and_can_be_withdrawn() -> None:
    spares, ran = Spares(), []

    def run(*call: Any) -> None:
        ran.append(call[1])

    for number in (1, 2):
        spares.run_with(run, 10 * number, number, (), b"", ("key",))
    assert spares.withdraw(1) == 10
    assert spares.withdraw(1) is None
    spares.fill("key", 4, 0, b"ab")
    assert ran == []
    spares.fill("key", 4, 2, b"cd")
    assert ran == [2]
    spares.close()


# -- who goes where -------------------------------------------------------------------------------


class Calls(FarCalls):
    """Only the line, and what the places have."""

    def __init__(self, told: Told) -> None:
        self._lines: Any = {(): []}
        self._running = {}
        self._deliveries = told.deliveries
        self._count = 0

    def add(self, *blobs: Blob, priority: int = 0) -> FarFuture:
        future = FarFuture()
        future.options, future.handles = CallOptions(priority=priority), list(blobs)
        future.number = self._count = self._count + 1
        heapq.heappush(self._lines.setdefault((), []), (-priority, self._count, future))
        return future

    def take(self, host: int) -> Any:
        return self._take_for((), host)


Calls.__abstractmethods__ = frozenset()


def test_a_place_gets_the_call_whose_data_it_has_within_its_priority() -> None:
    told, here, there = Told(), a_blob(PIECE), a_blob(PIECE)
    for host, blob in ((1, here), (2, there)):
        told.arrive(host)
        told.deliveries.deliver(host, [blob])
    calls = Calls(told)
    first, second, plain, urgent = (
        calls.add(here),
        calls.add(there),
        calls.add(),
        calls.add(here, priority=1),
    )
    assert calls.take(2) is urgent
    assert calls.take(2) is second
    assert calls._near((), 1) == here.size
    assert calls._near((), 2) == 0
    assert calls.take(2) is first
    assert calls.take(2) is plain
    for place in told.places.values():
        place.close()


def test_a_call_whose_data_is_nowhere_is_not_passed_over_for_ever() -> None:
    told, new, known = Told(), a_blob(PIECE), a_blob(PIECE)
    told.arrive(1)
    told.deliveries.deliver(1, [known])
    calls = Calls(told)
    first = calls.add(new)
    taken = []
    for _ in range(LOOK + 1):
        calls.add(known)
        taken.append(calls.take(1))
    assert taken.index(first) == LOOK
    told.places[1].close()


# -- modules that are sent ------------------------------------------------------------------------


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    inside = tmp_path / "shipped_pkg" / "deep"
    inside.mkdir(parents=True)
    (inside.parent / "__init__.py").write_text("from .deep import value\n")
    (inside / "__init__.py").write_text("value = 42\n")
    (inside / "data.txt").write_text("text")
    (inside / "__pycache__").mkdir()
    (inside / "__pycache__" / "x.pyc").write_bytes(b"")
    (tmp_path / "shipped_one.py").write_text("value = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_a_package_is_sent_whole_with_its_data_and_no_caches(package: Path) -> None:
    data = pack(["shipped_pkg.deep", "shipped_one"])
    assert pack(["shipped_one", "shipped_pkg"]) == data, "the same files are other bytes"
    with unpacked(data) as directory:
        found = {p.relative_to(directory).as_posix() for p in Path(directory).rglob("*.*")}
        assert found == {
            "shipped_one.py",
            "shipped_pkg/__init__.py",
            "shipped_pkg/deep/__init__.py",
            "shipped_pkg/deep/data.txt",
        }


def test_a_namespace_package_is_sent_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shipped_space").mkdir()
    (tmp_path / "shipped_space" / "part.py").write_text("value = 2\n")
    monkeypatch.syspath_prepend(tmp_path)
    with unpacked(pack(["shipped_space"])) as directory:
        assert Path(directory, "shipped_space", "part.py").read_text() == "value = 2\n"


def test_what_cannot_be_sent_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(
        ConfigError, match=r"ship='nowhere_at_all' cannot be found here; ship takes"
    ):
        pack(["json", "nowhere_at_all.sub"])
    with pytest.raises(ConfigError, match=r"ship='sys' has no files .*built-in"):
        pack(["sys"])
    with pytest.raises(ConfigError, match="travel by value"):
        pack(["__main__"])
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("shipped_zipped.py", "")
    monkeypatch.setattr(sys, "path", [str(tmp_path / "a.zip"), *sys.path])
    importlib.invalidate_caches()
    with pytest.raises(ConfigError, match="'shipped_zipped' has no files"):
        pack(["shipped_zipped"])


# -- resources ------------------------------------------------------------------------------------


def worker(nthreads: int = 1, limit: int = 0, **resources: float) -> dict[str, Any]:
    return {"nthreads": nthreads, "memory_limit": limit, "resources": resources}


def cluster(*workers: dict[str, Any]) -> list[dict[str, Any]]:
    return offers({"workers": {f"w{n}": each for n, each in enumerate(workers)}})


def test_cpu_gpu_and_memory_are_found_in_any_case_and_tags_as_they_are() -> None:
    workers = cluster(worker(GPU=2, Memory=8e9, CPU=4, Tag=1))
    assert workers[0]["resources"] == {"gpu": 2, "memory": 8e9, "cpu": 4, "Tag": 1}
    asked = ask({"gpu": 1, "memory": 2e9, "cpu": 2, "Tag": 1}, workers)
    assert asked == {"resources": {"GPU": 1, "Memory": 2e9, "CPU": 2, "Tag": 1}}
    assert ask({}, workers) == {}


def test_where_nobody_counts_memory_a_slot_has_its_share_of_its_workers_limit() -> None:
    workers = cluster(worker(2, limit=8 << 30), worker(1, limit=8 << 30), worker(1))
    found = [each["resources"].get("memory") for each in workers]
    assert found == [4 << 30, 8 << 30, None]
    assert ask({"memory": 5 << 30}, workers) == {"workers": ["w1"]}
    assert ask({"memory": 1 << 30, "gpu": 1}, workers) == {
        "workers": ["w0", "w1"],
        "resources": {"gpu": 1},
    }


def test_memory_that_no_worker_has_is_never_taken_for_any_worker() -> None:
    """An empty list of workers would mean all of them to Dask."""
    workers = cluster(worker(1, limit=1 << 30))
    assert ask({"memory": 2 << 30}, workers) == {"resources": {"memory": 2 << 30}}
