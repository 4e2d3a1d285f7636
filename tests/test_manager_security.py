"""The manager's door: who gets in, and what those who do not, and those who should not, can do.

Real sockets and real processes, by unix socket and by loopback, wherever the manager lives.
"""

import contextlib
import os
import pickle
import secrets
import socket
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import doors
import psutil
import pytest
from parties import PATIENCE, ProcessParty, ThreadParty, process_parties, wait_until
from places import AnyManager, manager_in, process_of
from strangers import (
    ask,
    befriend,
    ended,
    get,
    greeting,
    has_ended,
    is_served,
    many_strangers,
    receive,
    stranger,
)

from unirun import _channel, _connect, _door
from unirun._channel import frame
from unirun._errors import ManagerLost
from unirun._manager import Manager
from unirun.sync import make_shared

manager, thread_manager, make = doors.manager, doors.thread_manager, doors.make
party, up_before = doors.party, doors.up_before


# -- strangers ------------------------------------------------------------------------------------


def test_garbage_is_sent_away_and_others_do_not_notice(
    manager: AnyManager, make: Callable[..., Any], party: ProcessParty
) -> None:
    q = make("Queue")
    for _ in range(3):
        with stranger(manager) as sock:
            with contextlib.suppress(ConnectionError):
                sock.sendall(secrets.token_bytes(1 << 20))
            assert ended(sock)
    assert is_served(q, party)


def test_a_half_open_stranger_stalls_nobody(
    manager: AnyManager, make: Callable[..., Any], party: ProcessParty
) -> None:
    q = make("Queue")
    with stranger(manager), stranger(manager) as slow:
        slow.sendall(b"half a greeting")
        assert is_served(q, party)


def test_a_half_open_stranger_is_sent_away_in_time(
    thread_manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_door, "HANDSHAKE_TIMEOUT", 0.05)
    with stranger(thread_manager) as silent, stranger(thread_manager) as half:
        half.sendall(b"half a greeting")
        assert ended(silent)
        assert ended(half)


def test_one_byte_after_the_other_does_not_prolong_the_patience(
    thread_manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_door, "HANDSHAKE_TIMEOUT", 0.1)
    with stranger(thread_manager) as slow:
        receive(slow, _connect.NONCE_SIZE)
        sent = 0
        with contextlib.suppress(ConnectionError):
            while not has_ended(slow, 0.02):  # each comes long before the patience is over
                slow.sendall(b"x")
                sent += 1
        assert 0 < sent < _door.GREETING, "it was the time, not what was said"


def test_what_a_stranger_sends_is_never_unmarshalled(
    thread_manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bytes] = []

    class Marshal:
        dumps = staticmethod(_channel.marshal.dumps)

        @staticmethod
        def loads(data: Any) -> Any:
            seen.append(bytes(data))
            raise ValueError

    q = make_shared(thread_manager, "Queue")
    message = frame((1, "put", q._object_id, (b"from a stranger", None), None, None))
    monkeypatch.setattr(_channel, "marshal", Marshal)
    with stranger(thread_manager) as sock:
        sock.sendall(message * 5)
        assert ended(sock)
    assert seen == []
    with stranger(thread_manager) as sock:
        befriend(thread_manager, sock)
        sock.sendall(message)
        assert ended(sock)
    assert len(seen) == 1, "and this is how it would have been seen"
    monkeypatch.undo()
    assert q.empty()


def test_a_greeting_is_good_for_one_time_only(manager: AnyManager) -> None:
    """Neither repeated nor reflected: whatever was said before does not let anybody in."""
    with stranger(manager) as first, stranger(manager) as second, stranger(manager) as third:
        nonce = receive(first, _connect.NONCE_SIZE)
        said = greeting(manager, nonce)
        first.sendall(said)
        answer = receive(first, _connect.DIGEST_SIZE + _connect.SEAT.size)
        second.sendall(said)  # replayed
        assert ended(second)
        mirrored = receive(third, _connect.NONCE_SIZE)
        third.sendall(mirrored + answer[: _connect.DIGEST_SIZE])  # its own words
        assert ended(third)


def test_the_proof_for_one_manager_is_of_no_use_at_another(manager: AnyManager) -> None:
    """Somebody whom a client takes for its manager may pass on what that says."""
    with socket.socket() as impostor:
        impostor.bind(("127.0.0.1", 0))
        impostor.listen()
        address = impostor.getsockname()
        caller = ThreadParty().start(_channel.request, address, "get", 1, (), None)
        for _ in range(_connect.ATTEMPTS):
            with impostor.accept()[0] as theirs, stranger(manager) as ours:
                theirs.settimeout(PATIENCE)
                theirs.sendall(receive(ours, _connect.NONCE_SIZE))
                ours.sendall(receive(theirs, _door.GREETING))
                assert ended(ours)
        with pytest.raises(ManagerLost):
            caller.result()


def test_a_process_does_not_talk_to_who_only_listens_at_the_address() -> None:
    with socket.socket() as impostor:
        impostor.bind(("127.0.0.1", 0))
        impostor.listen()
        caller = ThreadParty().start(_channel.request, impostor.getsockname(), "get", 1, (), None)
        with impostor.accept()[0] as connection:
            connection.settimeout(PATIENCE)
            connection.sendall(secrets.token_bytes(_connect.NONCE_SIZE))
            said = receive(connection, _door.GREETING)
            connection.sendall(said[_connect.NONCE_SIZE :] + bytes(_connect.SEAT.size))  # echoed
            with pytest.raises(ManagerLost, match="does not know the key"):
                caller.result()
            assert ended(connection)


# -- a crowd --------------------------------------------------------------------------------------


def test_five_hundred_who_say_nothing_do_not_keep_a_friend_out(
    manager: AnyManager, make: Callable[..., Any], party: ProcessParty
) -> None:
    q = make("Queue")
    with many_strangers(manager, 500):
        assert is_served(q, party)


def test_of_a_crowd_of_strangers_the_oldest_are_sent_away(manager: AnyManager) -> None:
    with many_strangers(manager, 2 * _door.MAX_STRANGERS) as crowd:
        for sock in crowd[: _door.MAX_STRANGERS]:
            assert ended(sock)
        befriend(manager, crowd[-1])


def test_whoever_is_in_is_not_sent_away_in_a_crowd(
    manager: AnyManager, make: Callable[..., Any]
) -> None:
    q = make("Queue")
    with stranger(manager) as sock:
        befriend(manager, sock)
        with many_strangers(manager, 3 * _door.MAX_STRANGERS) as crowd:
            assert ended(crowd[0])
            assert ask(sock, 1, "put", q._object_id, (pickle.dumps("in"), None)) == ("ok", None)
    assert get(q) == "in"


def test_a_stranger_who_is_in_a_hurry_has_a_second_chance(party: ProcessParty) -> None:
    """A friend who was sent away with the crowd comes again, by himself."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        address = listener.getsockname()
        caller = ThreadParty().start(_channel.request, address, "get", 1, (), None)
        for _ in range(_connect.ATTEMPTS - 1):
            listener.accept()[0].close()
        with listener.accept()[0] as connection:
            connection.settimeout(PATIENCE)
            nonce = secrets.token_bytes(_connect.NONCE_SIZE)
            connection.sendall(nonce)
            said = receive(connection, _door.GREETING)
            nonces = nonce + said[: _connect.NONCE_SIZE]
            proof = _connect.digest(_connect.run_key(), b"server", address, nonces)
            connection.sendall(proof + bytes(_connect.SEAT.size))
            receive(connection, 4)
            connection.sendall(frame((1, "ok", "answered")))
            assert caller.result() == ("ok", "answered")


def test_a_timeout_holds_though_there_is_no_room_in_the_line(tmp_path: Path) -> None:
    """A unix socket refuses whoever comes when too many wait in line: they wait elsewhere."""
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX) as listener, contextlib.ExitStack() as stack:
        listener.bind(path)
        listener.listen(0)
        with contextlib.suppress(BlockingIOError):
            while True:
                sock = stack.enter_context(socket.socket(socket.AF_UNIX))
                sock.setblocking(False)
                sock.connect(path)
        assert _channel.request(path, "get", 1, (), 0.05) == ("timeout", None)
        caller = ThreadParty().start(_channel.request, path, "get", 1, (), PATIENCE)
        listener.close()
        with pytest.raises(ManagerLost):
            caller.result()


def test_neither_descriptors_nor_memory_grow_with_strangers(manager: AnyManager) -> None:
    process = psutil.Process(process_of(manager))

    def annoy() -> None:
        for _ in range(20):
            with many_strangers(manager, 10) as [garbage, half, *_]:
                with contextlib.suppress(ConnectionError):
                    garbage.sendall(bytes(1 << 16))
                half.sendall(b"half")
        with stranger(manager) as last:  # those before it have been seen to
            befriend(manager, last)

    annoy()
    fds, memory = process.num_fds(), process.memory_info().rss
    for _ in range(5):
        annoy()
    wait_until(lambda: process.num_fds() <= fds)
    assert process.memory_info().rss < memory + (16 << 20)


# -- the directory --------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["thread", "process"])
def test_the_socket_is_for_this_user_only(place: str) -> None:
    mask = os.umask(0)  # the most careless there is
    try:
        manager = manager_in(place, "AF_UNIX")
    finally:
        os.umask(mask)
    assert isinstance(manager.address, str)
    found = Path(manager.address).parent.stat()
    assert stat.S_IMODE(found.st_mode) == 0o700
    assert found.st_uid == os.getuid()
    manager.close()


@pytest.mark.parametrize("place", ["thread", "process"])
@pytest.mark.skipif(os.getuid() != 0, reason="only root can be somebody else")
def test_another_user_does_not_reach_the_socket(place: str) -> None:
    manager = manager_in(place, "AF_UNIX")
    with process_parties(1) as [party]:
        party.start(become_nobody).result()
        with pytest.raises(PermissionError):
            party.start(knock, manager.address).result()
    manager.close()


def become_nobody() -> None:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)


def knock(address: str) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(address)
