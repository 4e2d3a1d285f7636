"""The key of a run: who has it, how it gets there, and where it must not be."""

import multiprocessing
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from parties import PATIENCE, process_parties
from places import PLACES, AnyManager, manager_in
from strangers import get, put

from unirun import Executor, _connect, _context
from unirun._errors import ManagerLost
from unirun._manager import Manager
from unirun.sync import make_shared, shared_objects


@pytest.fixture(params=PLACES, ids="-".join)
def manager(request: pytest.FixtureRequest) -> Iterator[AnyManager]:
    manager = manager_in(*request.param)
    yield manager
    manager.close()


@pytest.fixture
def make(manager: AnyManager) -> Callable[..., Any]:
    return lambda kind, *args, **kwargs: make_shared(manager, kind, *args, **kwargs)


ARGUMENTS = {"Barrier": (3,), "Value": (1,)}
"""What a constructor cannot do without."""


# -- the key --------------------------------------------------------------------------------------


def test_a_process_with_another_key_is_refused(make: Callable[..., Any]) -> None:
    q = make("Queue")
    with process_parties(1) as [party]:
        party.start(forget_key).result()
        with pytest.raises(ManagerLost, match="refused"):
            party.start(put, q, 1).result()
    assert q.empty()


def forget_key() -> None:
    _context.authkey = b"another key"


def test_a_key_of_ones_own_is_enough_for_those_who_are_told() -> None:
    manager = Manager(key=b"k" * 32)
    q = make_shared(manager, "Queue")
    with process_parties(1) as [party]:
        with pytest.raises(ManagerLost):
            party.start(put, q, 1).result()
        party.start(learn_key, manager.key).result()
        party.start(put, q, 2).result()
    assert get(q) == 2
    manager.close()


def learn_key(key: bytes) -> None:
    _context.authkey = key


def test_the_key_of_a_run_is_32_bytes_and_another_each_time() -> None:
    keys = set()
    for _ in range(2):
        with process_parties(1) as [party]:
            keys.add(party.start(own_key).result())
    assert {len(key) for key in keys} == {32}
    assert len(keys) == 1, "what the application starts itself has the key of its run"
    assert own_key() in keys


def own_key() -> bytes:
    return _connect.run_key()


@pytest.mark.parametrize("kind", sorted(shared_objects))
def test_a_pickled_handle_does_not_contain_the_key(kind: str) -> None:
    """It may lie in a file, or in a queue: only who has the key by other means can use it."""
    manager = Manager()
    handle = make_shared(manager, kind, *ARGUMENTS.get(kind, ()))
    assert manager.key not in pickle.dumps(handle)
    manager.close()


METHODS = ["fork", "spawn", "forkserver"]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("key", [None, b"k" * 32], ids=["key of the run", "key of its own"])
def test_a_process_that_the_application_starts_can_use_a_handle(
    method: str, key: bytes | None
) -> None:
    """It is handed the key as it is handed multiprocessing's own: by its parent, at its start."""
    for place in ("thread", "process"):
        manager = manager_in(place, key=key)
        q = make_shared(manager, "Queue")
        process = multiprocessing.get_context(method).Process(target=put, args=(q, method))  # type: ignore[attr-defined]
        process.start()
        assert get(q) == method
        process.join()
        process.close()
        manager.close()


@pytest.mark.parametrize("place", ["thread", "process"])
def test_a_process_that_a_task_starts_can_use_a_handle(place: str) -> None:
    with Executor(1, backend="process", manager=place) as executor:
        q = executor.Queue()
        for method in METHODS:
            executor.submit(start_and_put, method, q).result(PATIENCE)
            assert get(q) == method
        del q


def start_and_put(method: str, q: Any) -> None:
    process = multiprocessing.get_context(method).Process(target=put, args=(q, method))  # type: ignore[attr-defined]
    process.start()
    process.join()
