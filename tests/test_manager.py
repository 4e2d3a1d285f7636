"""The manager and its process: forks, what is left after it, and what it has to do with."""

import contextlib
import gc
import os
import signal
import socket
import subprocess
import sys
import threading
import warnings
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from parties import (
    PATIENCE,
    ProcessParty,
    process_parties,
    serve_queue,
    tell,
)
from places import FAMILIES
from strangers import befriend, stranger

from unirun import _channel, _connect
from unirun._errors import ConfigError, ManagerLost
from unirun._manager import Manager
from unirun.sync import make_shared


@pytest.fixture(params=FAMILIES)
def manager(request: pytest.FixtureRequest) -> Iterator[Manager]:
    manager = Manager(family=request.param)
    yield manager
    manager.close()


@pytest.fixture
def make(manager: Manager) -> Callable[..., Any]:
    return lambda kind, *args, **kwargs: make_shared(manager, kind, *args, **kwargs)


@pytest.fixture
def party() -> Iterator[ProcessParty]:
    with process_parties(1) as [party]:
        yield party


def put(q: Any, item: Any) -> None:
    q.put(item)


def get(q: Any) -> Any:
    return q.get(timeout=PATIENCE)


# -- forks ----------------------------------------------------------------------------------------


@contextlib.contextmanager
def fork() -> Iterator[int]:
    """A plain fork of this process, threads or not; the child ends with the block."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # 3.12 warns of the threads
        pid = os.fork()
    if pid == 0:
        status = 1
        try:
            yield pid
            status = 0
        finally:
            os._exit(status)
    yield pid
    assert os.waitpid(pid, 0)[1] == 0, "the child failed"


def test_a_fork_of_the_owner_is_no_owner(manager: Manager, make: Callable[..., Any]) -> None:
    q, event = make("Queue"), make("Event")
    with fork() as pid:
        if pid == 0:
            assert not manager.is_home
            q.put("from the fork")
            assert event.wait(PATIENCE)
            manager.close()  # not its to close
            manager._host.stop()
        else:
            assert get(q) == "from the fork"
            event.set()
    assert manager.is_home
    with process_parties(1) as [party]:
        party.start(put, q, "from another").result()
    assert get(q) == "from another"


def test_a_fork_of_a_worker_opens_its_own_connection(
    make: Callable[..., Any], party: ProcessParty
) -> None:
    q = make("Queue")
    party.start(fork_and_put, q).result()
    assert sorted([get(q), get(q), get(q)]) == ["after", "before", "in the fork"]


def fork_and_put(q: Any) -> None:
    q.put("before")
    with fork() as pid:
        if pid == 0:
            q.put("in the fork")
    q.put("after")


def test_a_fork_does_not_keep_the_parents_connections_open(party: ProcessParty) -> None:
    q, event, _ = party.start(serve_queue, "AF_INET").result()
    party.start(fork_and_linger, event)
    child = party.result()
    party.kill()
    with pytest.raises(ManagerLost):  # though the fork lives
        q.get(timeout=PATIENCE)
    psutil.Process(child).kill()


def fork_and_linger(event: Any) -> None:
    pid = os.fork()
    if pid == 0:
        signal.pause()
    tell(pid)


def test_a_process_of_the_application_itself_can_use_a_handle(make: Callable[..., Any]) -> None:
    q = make("Queue")
    for method in ("fork", "forkserver"):
        with process_parties(1, method) as [party]:
            party.start(put, q, method).result()
        assert get(q) == method


# -- what is left ---------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["close", "drop"])
@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_is_left_of_a_manager(
    how: str, family: str, party: ProcessParty, request: pytest.FixtureRequest
) -> None:
    me = psutil.Process()
    before = me.num_fds()
    manager = Manager(family=family)
    q = make_shared(manager, "Queue")
    party.start(put, q, "item").result()
    thread, address = manager._host._thread, manager.address
    gone = weakref.ref(manager)
    if how == "close":
        manager.close()
        manager.close()
        assert "closed" in repr(manager)
    del manager
    assert gone() is not None, "a handle keeps it"
    assert get(q) == "item" if how == "drop" else thread.is_alive() is False
    del q
    gc.collect()
    thread.join(PATIENCE)
    assert not thread.is_alive()
    assert me.num_fds() == before
    assert isinstance(address, tuple) or not Path(address).parent.exists()
    assert address not in _connect.keys
    assert address not in _channel.homes


def test_a_process_that_just_ends_leaves_nothing(short_path: Path) -> None:
    program = """
from unirun._manager import Manager
from unirun.sync import make_shared
manager = Manager()
q = make_shared(manager, "Queue")
q.put(1)
print(manager.address)
"""
    ended = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "TMPDIR": str(short_path)},
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=True,
    )
    assert ended.stderr == ""
    assert ended.stdout.strip()
    assert list(short_path.iterdir()) == []


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_manager_of_a_child_of_multiprocessing_ends_with_it(method: str) -> None:
    with process_parties(1, method) as [party]:
        q, *_ = party.start(serve_queue, "AF_UNIX").result()
        q.put(1)
        assert Path(q._address).exists()
    assert not Path(q._address).parent.exists()
    with pytest.raises(ManagerLost):
        q.put(2)


def test_a_path_too_long_for_a_socket_leads_to_loopback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = tmp_path / ("x" * 90)
    deep.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(deep))
    with pytest.raises(ConfigError, match="too long"):
        Manager(family="AF_UNIX")
    manager = Manager()
    assert isinstance(manager.address, tuple)
    assert manager.address[0] == "127.0.0.1"
    manager.close()
    assert list(deep.iterdir()) == []


def test_an_unknown_family_is_an_error_that_names_it() -> None:
    with pytest.raises(ConfigError, match="'AF_APPLETALK'"):
        Manager(family="AF_APPLETALK")


def test_a_manager_out_of_descriptors_serves_whom_it_has(
    manager: Manager, make: Callable[..., Any], party: ProcessParty, monkeypatch: pytest.MonkeyPatch
) -> None:
    q = make("Queue")
    party.start(put, q, 1).result()

    class Exhausted:
        """A listener in a process that has no descriptor left, once."""

        def __init__(self, listener: socket.socket) -> None:
            self.listener = listener
            self.failed = threading.Event()

        def accept(self) -> Any:
            if not self.failed.is_set():
                self.failed.set()
                raise OSError(24, "Too many open files")
            return self.listener.accept()

        def __getattr__(self, name: str) -> Any:
            return getattr(self.listener, name)

    exhausted = Exhausted(manager._host._door._listener)
    monkeypatch.setattr(manager._host._door, "_listener", exhausted)
    with stranger(manager) as sock:
        assert exhausted.failed.wait(PATIENCE)
        party.start(put, q, 2).result()
        befriend(manager, sock)  # accepted after all
    assert q.get_many(2) == [1, 2]


def test_a_worker_imports_little_to_unpickle_a_handle(make: Callable[..., Any]) -> None:
    import pickle

    program = f"""
import sys, pickle
pickle.loads({pickle.dumps([make("Queue"), make("Event")])!r})
heavy = {{"asyncio", "logging", "concurrent.futures", "multiprocessing", "unirun._manager"}}
print(sorted(heavy & set(sys.modules)))
"""
    ended = subprocess.run(
        [sys.executable, "-c", program],
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=True,
    )
    assert ended.stdout.strip() == "[]"
