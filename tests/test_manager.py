"""The manager itself: strangers, bad manners, forks, and what is left after it.

Real processes, real signals, real sockets.
"""

import contextlib
import gc
import os
import secrets
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
    ThreadParty,
    process_parties,
    serve_queue,
    tell,
)

from unirun import _channel, _context, _manager
from unirun._channel import digest, frame
from unirun._errors import ConfigError, ManagerLost
from unirun._manager import Manager
from unirun.sync import make_shared

FAMILIES = ["AF_UNIX", "AF_INET"]


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


@pytest.fixture
def other() -> Iterator[ProcessParty]:
    with process_parties(1) as [party]:
        yield party


def put(q: Any, item: Any) -> None:
    q.put(item)


def get(q: Any) -> Any:
    return q.get(timeout=PATIENCE)


# -- strangers and bad manners --------------------------------------------------------------------


@contextlib.contextmanager
def stranger(manager: Manager) -> Iterator[socket.socket]:
    address = manager.address
    family = socket.AF_INET if isinstance(address, tuple) else socket.AF_UNIX
    with socket.socket(family) as sock:
        sock.settimeout(PATIENCE)
        sock.connect(address)
        yield sock


def friend(manager: Manager, sock: socket.socket) -> None:
    """Prove that we know the key; what is wrong comes later."""
    theirs, mine = sock.recv(32), secrets.token_bytes(32)
    sock.sendall(mine + digest(manager.key, b"client", theirs, mine))
    assert sock.recv(32) == digest(manager.key, b"server", theirs, mine)


def ended(sock: socket.socket) -> bool:
    try:
        while sock.recv(1 << 16):
            continue
    except ConnectionError:
        pass  # it did not even read what we had sent
    return True


def test_garbage_is_sent_away_and_others_do_not_notice(
    manager: Manager, make: Callable[..., Any], party: ProcessParty
) -> None:
    q = make("Queue")
    for _ in range(3):
        with stranger(manager) as sock:
            with contextlib.suppress(ConnectionError):
                sock.sendall(secrets.token_bytes(1 << 20))
            assert ended(sock)
    party.start(put, q, "served").result()
    assert get(q) == "served"


def test_a_half_open_stranger_stalls_nobody(
    manager: Manager, make: Callable[..., Any], party: ProcessParty
) -> None:
    q = make("Queue")
    with stranger(manager), stranger(manager) as slow:
        slow.sendall(b"half a greeting")
        party.start(put, q, "served").result()
        assert get(q) == "served"


def test_a_half_open_stranger_is_sent_away_in_time(
    manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unirun._sessions.HANDSHAKE_TIMEOUT", 0.05)
    with stranger(manager) as silent, stranger(manager) as slow:
        slow.sendall(b"half a greeting")
        assert ended(silent)
        assert ended(slow)


def test_of_too_many_strangers_the_oldest_is_sent_away(
    manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_manager, "MAX_STRANGERS", 2)
    with stranger(manager) as oldest, stranger(manager), stranger(manager) as youngest:
        assert ended(oldest)
        friend(manager, youngest)


@pytest.mark.parametrize(
    "message",
    [
        b"\xff\xff\xff\xff",  # a frame of 4 GiB
        b"\x04\x00\x00\x00????",  # not marshalled
        frame("a string"),
        frame((1, 2, 3)),
        frame((1, "put", 1, [], None, None)),
        frame((1, "put", 1, (), "soon", None)),
    ],
)
def test_a_friend_that_breaks_the_protocol_is_sent_away(
    manager: Manager, make: Callable[..., Any], message: bytes, party: ProcessParty
) -> None:
    q = make("Queue")
    with stranger(manager) as sock:
        friend(manager, sock)
        sock.sendall(message)
        assert ended(sock)
    party.start(put, q, "served").result()
    assert get(q) == "served"


def test_a_friend_that_does_not_read_stalls_nobody(
    manager: Manager, make: Callable[..., Any], party: ProcessParty
) -> None:
    q = make("Queue")
    q.put(b"x" * (1 << 22))
    with stranger(manager) as sock:
        friend(manager, sock)
        for request_id in range(1, 30):  # each answer is given back before the next question
            sock.sendall(frame((request_id, "get", q._object_id, (), None, None)))
            sock.sendall(frame(-request_id))
        party.start(put, q, "served").result()
        with contextlib.suppress(BlockingIOError):
            while True:  # far more than the sockets hold: at some point it does not read us
                sock.setblocking(False)
                sock.send(frame((99, "state", q._object_id, (), None, None)) * 1000)
        party.start(put, q, "served again").result()
    items = [get(q) for _ in range(3)]
    assert sorted(item for item in items if isinstance(item, str)) == ["served", "served again"]


def test_a_process_with_another_key_is_refused(
    make: Callable[..., Any], party: ProcessParty
) -> None:
    q = make("Queue")
    party.start(forget_key).result()
    with pytest.raises(ManagerLost, match="refused"):
        party.start(put, q, 1).result()
    assert q.empty()


def forget_key() -> None:
    _context.authkey = b"another key"


def test_a_process_does_not_talk_to_who_only_listens_at_the_address(tmp_path: Path) -> None:
    with socket.socket() as impostor:
        impostor.bind(("127.0.0.1", 0))
        impostor.listen()
        caller = ThreadParty().start(_channel.request, impostor.getsockname(), "get", 1, (), None)
        connection = impostor.accept()[0]
        with connection:
            connection.settimeout(PATIENCE)
            nonce = secrets.token_bytes(32)
            connection.sendall(nonce)
            greeting = b""
            while len(greeting) < 64:
                greeting += connection.recv(64)
            connection.sendall(greeting[32:])  # its own proof, echoed
            with pytest.raises(ManagerLost, match="does not know the key"):
                caller.result()
            assert ended(connection)


def test_a_key_of_ones_own_is_enough_for_those_who_are_told(party: ProcessParty) -> None:
    manager = Manager(key=b"k" * 32)
    q = make_shared(manager, "Queue")
    with pytest.raises(ManagerLost):
        party.start(put, q, 1).result()
    party.start(learn_key, manager.key).result()
    party.start(put, q, 2).result()
    assert get(q) == 2
    manager.close()


def learn_key(key: bytes) -> None:
    _context.authkey = key


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


def directory_of(manager: Manager) -> Path:
    assert isinstance(manager.address, str)
    return Path(manager.address).parent


def test_the_socket_is_for_this_user_only() -> None:
    manager = Manager(family="AF_UNIX")
    assert directory_of(manager).stat().st_mode & 0o777 == 0o700
    manager.close()


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
    assert address not in _channel.keys
    assert address not in _channel.homes


def test_a_process_that_just_ends_leaves_nothing(tmp_path: Path) -> None:
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
        env={**os.environ, "TMPDIR": str(tmp_path)},
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=True,
    )
    assert ended.stderr == ""
    assert ended.stdout.strip()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_manager_of_a_child_of_multiprocessing_ends_with_it(method: str) -> None:
    with process_parties(1, method) as [party]:
        q, *_ = party.start(serve_queue, "AF_UNIX").result()
        q.put(1)
        assert Path(q._address).exists()
    assert not Path(q._address).parent.exists()


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

    exhausted = Exhausted(manager._host._listener)
    monkeypatch.setattr(manager._host, "_listener", exhausted)
    with stranger(manager) as sock:
        assert exhausted.failed.wait(PATIENCE)
        party.start(put, q, 2).result()
        friend(manager, sock)  # accepted after all
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
