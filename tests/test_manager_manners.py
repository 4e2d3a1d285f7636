"""What those can do to the manager who know the key and behave badly; and what it never does."""

import contextlib
import os
import pickle
import random
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import doors
import psutil
import pytest
from parties import PATIENCE, ProcessParty
from places import AnyManager, manager_in, process_of
from strangers import ask, befriend, ended, get, is_served, put, stranger

from unirun import _channel
from unirun._channel import frame
from unirun._manager import Manager
from unirun.sync import make_shared, shared_objects

manager, thread_manager, make = doors.manager, doors.thread_manager, doors.make
party, up_before = doors.party, doors.up_before

ARGUMENTS = {"Barrier": (3,), "Value": (1,)}
"""What a constructor cannot do without."""


# -- friends with bad manners ---------------------------------------------------------------------

NONSENSE = [
    b"\xff\xff\xff\xff",  # a frame of 4 GiB
    b"\x04\x00\x00\x00????",  # not marshalled
    frame("a string"),
    frame(None),
    frame(0.5),
    frame((1, 2, 3)),
    frame((1, "put", 1, [], None, None)),
    frame((1, "put", 1, (), "soon", None)),
    frame((1, "get", 1, (), float("nan"), None)),  # a time that nothing is later than
    frame((5, "state", 1, (), None, None)) * 2,  # two requests of one number
    frame((-5, "state", 1, (), None, None)),
    frame((1, "explode", 0, (), None, None)),
    frame((1, "create", 0, (b"Queue",), None, None)),
    frame((1, "end_task", 0, ("task", ((1, 2, 3), "?")), None, None)),
    frame([1, "2"]),
]


@pytest.mark.parametrize("message", NONSENSE, ids=range(len(NONSENSE)))
def test_a_friend_that_breaks_the_protocol_is_sent_away_and_what_it_held_is_free(
    thread_manager: Manager, message: bytes, party: ProcessParty
) -> None:
    lock, q = make_shared(thread_manager, "Lock"), make_shared(thread_manager, "Queue")
    with stranger(thread_manager) as sock:
        befriend(thread_manager, sock)
        assert ask(sock, 1, "acquire", lock._object_id, ())[0] == "ok"
        sock.sendall(message)
        sock.shutdown(socket.SHUT_WR)
        assert ended(sock)
    assert lock.acquire(timeout=PATIENCE)
    assert lock.abandoned
    lock.release()
    assert is_served(q, party)


def test_a_frame_that_is_announced_and_never_comes_costs_nothing(
    manager: AnyManager, make: Callable[..., Any], party: ProcessParty
) -> None:
    q, process = make("Queue"), psutil.Process(process_of(manager))
    with stranger(manager) as sock:
        befriend(manager, sock)
        before = process.memory_info().rss
        sock.sendall((_channel.MAX_FRAME - 1).to_bytes(4, "little") + b"and so on")
        assert is_served(q, party)
        assert process.memory_info().rss < before + (64 << 20)


def test_a_friend_that_speaks_one_byte_at_a_time_is_served_and_stalls_nobody(
    manager: AnyManager, make: Callable[..., Any], party: ProcessParty
) -> None:
    q = make("Queue")
    message = frame((1, "put", q._object_id, (pickle.dumps("slowly"), None), None, None))
    with stranger(manager) as sock:
        befriend(manager, sock)
        for at in range(len(message)):
            sock.sendall(message[at : at + 1])
            if at % 20 == 0:
                assert is_served(q, party)
        assert get(q) == "slowly"


def test_a_friend_that_does_not_read_stalls_nobody(
    manager: AnyManager, make: Callable[..., Any], party: ProcessParty
) -> None:
    q = make("Queue")
    q.put(b"x" * (1 << 22))
    with stranger(manager) as sock:
        befriend(manager, sock)
        for request_id in range(1, 30):  # each answer is given back before the next question
            sock.sendall(frame((request_id, "get", q._object_id, (), None, None)))
            sock.sendall(frame(-request_id))
        party.start(put, q, "served").result()
        sock.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            for request_id in range(30, 1 << 20):  # far more than the sockets hold
                sock.send(frame((request_id, "state", q._object_id, (), None, None)))
        party.start(put, q, "served again").result()
    items = [get(q) for _ in range(3)]
    assert sorted(item for item in items if isinstance(item, str)) == ["served", "served again"]


def test_requests_without_sense_are_answered_or_refused_and_harm_nobody(
    thread_manager: Manager, party: ProcessParty
) -> None:
    """Each operation of each kind with arguments nobody would think of."""
    dice = random.Random(7)
    arguments = [None, -1, 0, 1, 2**40, 0.5, "text", b"bytes", (), (1,), (b"", None), [], {}, True]
    operations = ["acquire", "release", "wait", "notify", "put", "put_many", "get", "get_many"]
    operations += ["task_done", "join", "shutdown", "state", "set", "clear", "is_set", "reset"]
    operations += ["abort", "acted", "reacquire", "count", "create", "end_task", "need", "unneed"]
    q = make_shared(thread_manager, "Queue")
    for kind in sorted(set(shared_objects) - {"local"}):  # which is an Event there
        subject = make_shared(thread_manager, kind, *ARGUMENTS.get(kind, ()))
        operations += subject_operations(thread_manager, subject)
        with stranger(thread_manager) as sock:
            befriend(thread_manager, sock)
            for request_id in range(1, 400):
                args = tuple(dice.choices(arguments, k=dice.randrange(4)))
                op = dice.choice(operations)
                with contextlib.suppress(ConnectionError):
                    deadline = dice.choice([None, 0.0, time.monotonic() + 0.01])
                    sock.sendall(frame((request_id, op, subject._object_id, args, deadline, None)))
    assert is_served(q, party)


def subject_operations(manager: Manager, subject: Any) -> list[str]:
    hosted = manager._host._coordinator.subject(subject._object_id)
    assert hosted is not None
    return list(hosted.operations)


# -- what is in a manager stays opaque ------------------------------------------------------------


class Tracer:
    """Leaves the number of every process that unpickles it."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return leave_trace, (self.path,)


def leave_trace(path: str) -> int:
    with Path(path).open("a") as file:
        file.write(f"{os.getpid()}\n")
    return 1


def test_the_manager_unpickles_nothing_that_it_keeps(tmp_path: Path, party: ProcessParty) -> None:
    path = tmp_path / "traces"
    manager = manager_in("process")
    simple = [make_shared(manager, kind) for kind in ("Queue", "LifoQueue", "SimpleQueue")]
    heap, barrier = make_shared(manager, "PriorityQueue"), make_shared(manager, "Barrier", 1, trace)
    global _path
    _path = str(path)
    for q in simple:
        q.put(Tracer(str(path)))
        assert party.start(get, q).result() == 1
    heap.put((1, Tracer(str(path))))
    assert party.start(get, heap).result() == (1, 1)
    party.start(go_through, barrier, str(path)).result()
    traces = [int(line) for line in path.read_text().split()]
    assert traces == [party.pid] * 5
    assert manager.pid not in traces
    manager.close()


_path = ""


def trace() -> None:
    leave_trace(_path)


def go_through(barrier: Any, path: str) -> None:
    global _path
    _path = path
    barrier.wait(PATIENCE)


def test_the_manager_has_not_even_imported_what_unpickles() -> None:
    import subprocess
    import sys

    program = "import sys; sys.path.append(sys.argv[1]); import unirun._manager_server; "
    program += "print(sorted({'pickle', 'cloudpickle', 'copyreg', 'shelve'} & set(sys.modules)))"
    home = str(Path(_channel.__file__).parent.parent)
    command = [sys.executable, "-I", "-S", "-c", program, home]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=True)
    assert done.stdout.strip() == "['copyreg']"
