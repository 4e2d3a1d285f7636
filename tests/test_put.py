"""`executor.put`: calls are given the object, wherever they run, and it travels once."""

import copy
import gc
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import put_bodies as bodies
import pytest

from unirun import DeserializationError, Executor, Reference, SerializationError, _blobs

PATIENCE = 30
LARGE = 300_000
"""Bytes: more than what travels in each call."""


@pytest.fixture(scope="module")
def processes() -> Iterator[Executor]:
    with Executor(1, backend="process", idle_timeout=None) as executor:
        executor.submit(int).result(PATIENCE)  # what starts stays, for all tests
        yield executor


@pytest.fixture(scope="module")
def threads() -> Iterator[Executor]:
    with Executor(1, backend="thread") as executor:
        executor.submit(int).result(PATIENCE)
        yield executor


def descriptors() -> int:
    return len([each for each in Path("/proc/self/fd").iterdir() if "unirun-blob" in _link(each)])


def _link(path: Path) -> str:
    try:
        return str(path.readlink())
    except OSError:
        return ""


@pytest.mark.parametrize("size", [3, LARGE])
def test_a_reference_is_its_object_anywhere_in_an_argument(processes: Executor, size: int) -> None:
    ref = processes.put(bytearray(size))
    given = ref, [ref, {"in": (ref,)}]
    told = processes.submit(bodies.kinds, *given, key=ref).result(PATIENCE)
    name = "bytearray"
    assert told == ([name, [name, {"in": [name]}]], {"key": name})


def test_a_thread_gets_the_very_object_anywhere_in_lists_tuples_and_dicts(
    threads: Executor,
) -> None:
    obj = bodies.Tracked()
    ref = threads.put(obj)
    assert threads.submit(bodies.identity, ref).result(PATIENCE) == (os.getpid(), id(obj))
    given = [ref, {"in": (1, ref)}]
    found: Any = threads.submit(bodies.give_back, given).result(PATIENCE)
    assert found[0] is obj
    assert found[1]["in"][1] is obj
    assert given[0] is ref, "the caller's own list was changed"
    assert list(threads.map(bodies.identity, [ref] * 3)) == [(os.getpid(), id(obj))] * 3


def test_plans_made_before_the_first_put_know_references_too(threads: Executor) -> None:
    """In a process of its own: here something may have been put before."""
    code = (
        "import unirun\n"
        "e = unirun.Executor(1, backend='thread')\n"
        "print([e.submit(type, 1).result() for _ in range(3)][-1].__name__)\n"
        "print(e.submit(type, e.put('text')).result().__name__)\n"
        "e.shutdown()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=50, check=True
    )
    assert done.stdout.split() == ["int", "str"]


def test_an_inline_call_gets_the_object() -> None:
    with Executor(backend="inline") as executor:
        assert executor.submit(bodies.kinds, executor.put([1])).result() == ([["int"]], {})


def test_a_worker_process_unpickles_a_large_object_once(processes: Executor) -> None:
    ref = processes.put(bytearray(LARGE))
    seen = {processes.submit(bodies.identity, ref).result(PATIENCE) for _ in range(4)}
    seen |= set(processes.map(bodies.identity, [ref] * 4))
    assert len(seen) == 1


def test_a_map_and_an_executor_of_any_kind_take_references(processes: Executor) -> None:
    data = bytes(LARGE)
    ref = processes.put(data)
    assert list(processes.map(bodies.total, [ref] * 5, range(5))) == [LARGE + i for i in range(5)]
    with Executor(1) as routed:
        for kind in ("io", "cpu", "auto"):
            assert routed.options(kind=kind).submit(bodies.total, ref).result(PATIENCE) == LARGE


def test_a_call_on_its_way_keeps_what_it_needs(processes: Executor) -> None:
    futures = [processes.submit(bodies.total, processes.put(bytes(LARGE)), n) for n in range(20)]
    gc.collect()
    assert [future.result(PATIENCE) for future in futures] == [LARGE + n for n in range(20)]


@pytest.mark.skipif(not _blobs._HERE, reason="memory without a name is there only")
def test_memory_goes_with_the_reference_here_and_in_workers(processes: Executor) -> None:
    before = descriptors()
    refs = [processes.put(bytes(LARGE)) for _ in range(3)]
    for ref in refs:
        processes.submit(bodies.total, ref).result(PATIENCE)
    assert descriptors() == before + 3
    del refs, ref
    gc.collect()
    assert descriptors() == before
    last = processes.put(bytes(LARGE))
    assert processes.submit(bodies.forget, last).result(PATIENCE) == 1


def test_what_cannot_be_pickled_is_an_error_of_the_call_that_names_it(
    processes: Executor, threads: Executor
) -> None:
    ref = processes.put({"door": threading.Lock()})
    error = processes.submit(bodies.kinds, ref).exception(PATIENCE)
    assert isinstance(error, SerializationError)
    assert "door" in str(error)
    assert threads.submit(len, ref).result(PATIENCE) == 1


def test_a_result_that_is_what_was_put_comes_back_as_that_object(processes: Executor) -> None:
    assert processes.submit(bodies.give_back, processes.put("small")).result(PATIENCE) == "small"
    ref = processes.put(bytes(LARGE))
    assert processes.submit(bodies.give_back, ref).result(PATIENCE) == bytes(LARGE)


def test_a_reference_goes_nowhere_but_into_calls(threads: Executor) -> None:
    ref: Reference[str] = threads.put("text")
    with pytest.raises(TypeError, match=r"get\(\) its object"):
        pickle.dumps(ref)
    assert copy.copy(ref) is copy.deepcopy(ref) is ref
    assert ref.get() == "text"
    assert repr(ref) == "<unirun.Reference to a str>"


def test_a_reference_inside_what_is_put_is_its_object(processes: Executor) -> None:
    inner = processes.put(bytes(LARGE))
    outer = processes.put([inner, bytes(LARGE)])
    del inner
    assert processes.submit(bodies.kinds, outer).result(PATIENCE) == ([["bytes", "bytes"]], {})


def test_a_view_puts_as_its_executor_does(processes: Executor) -> None:
    view = processes.options(name="mine")
    assert view.submit(bodies.total, view.put(bytes(LARGE))).result(PATIENCE) == LARGE


def test_memory_that_is_gone_is_a_clear_error() -> None:
    blob = _blobs.Blob([pickle.dumps(1)], [])
    place = blob.place
    blob.close()
    with pytest.raises(DeserializationError, match="keep the Reference"):
        _blobs.load(place)
