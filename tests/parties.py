"""Who takes part in a test of shared objects: threads and real processes, told what to call.

A party is told by a pipe and answers by it, so a test waits for what happens and never sleeps.
"""

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple, Self

import psutil
import pytest

from unirun import _cells, _channel, _segments
from unirun._manager import Manager
from unirun._robust import find
from unirun.sync import make_shared, make_thread

PATIENCE = 20.0  # seconds after which a test has failed

SERVED_BY = ["cells", pytest.param("server", marks=pytest.mark.again)] if find() else ["server"]

NEVER_IN_CELLS = ("BoundedSemaphore", "LifoQueue", "PriorityQueue", "Semaphore")


def be_served_by(server: str, environment: pytest.MonkeyPatch) -> None:
    """From now on, in this process and those started from it, that one serves requests.

    With "cells", the server does only what no cell can.
    """
    if server == "server":
        environment.setenv("UNIRUN_WITHOUT", "cells")


class ThreadParty:
    """A thread for one call."""

    def __init__(self) -> None:
        self._done = threading.Event()
        self._outcome: tuple[bool, Any] = (False, None)

    def start(self, function: Callable[..., Any], *args: Any) -> "ThreadParty":
        threading.Thread(target=self._run, args=(function, args), daemon=True).start()
        return self

    def _run(self, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
        try:
            self._outcome = True, function(*args)
        except BaseException as exc:
            self._outcome = False, exc
        self._done.set()

    def result(self) -> Any:
        assert self._done.wait(PATIENCE), "the thread does not come to an end"
        succeeded, value = self._outcome
        if not succeeded:
            raise value
        return value


class DistantParty:
    """A thread of another process, that makes one call after the other."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe

    def start(self, function: Callable[..., Any], *args: Any) -> Self:
        self._pipe.send((function, args))
        return self

    def result(self) -> Any:
        """What the call returned, or what it `tell`s meanwhile."""
        assert self._pipe.poll(PATIENCE), "the process does not answer"
        succeeded, value = self._pipe.recv()
        if not succeeded:
            raise value
        return value

    def say_goodbye(self) -> None:
        try:
            self._pipe.send(None)
        except OSError:
            pass  # it was killed


class ProcessParty(DistantParty):
    """The main thread of a process of its own; `kill` it as you like."""

    def __init__(self, method: str = "spawn") -> None:
        context = multiprocessing.get_context(method)
        pipe, theirs = context.Pipe()
        super().__init__(pipe)
        self._process: Any = context.Process(target=_serve, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()

    @property
    def pid(self) -> int:
        return int(self._process.pid)

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def stop(self) -> None:
        """Stop it, and wait until every thread of it stands still."""
        self.signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WNOWAIT)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)

    def close(self) -> None:
        self.say_goodbye()
        _end(self._process)
        self._pipe.close()


def _end(process: Any) -> None:
    process.join(5)  # if a test has failed, it may wait for ever
    process.kill()
    process.join(PATIENCE)
    process.close()


@contextlib.contextmanager
def process_parties(number: int, method: str = "spawn") -> Iterator[list[ProcessParty]]:
    parties: list[ProcessParty] = []
    try:
        parties += [ProcessParty(method) for _ in range(number)]
        yield parties
    finally:
        for party in parties:
            party.close()


@contextlib.contextmanager
def distant_threads(number: int) -> Iterator[list[DistantParty]]:
    """So many threads of one other process."""
    context = multiprocessing.get_context("spawn")
    pipes = [context.Pipe() for _ in range(number)]
    theirs = [pipe for _, pipe in pipes]
    process = context.Process(target=_serve_many, args=(theirs,), daemon=True)
    process.start()
    for pipe in theirs:
        pipe.close()
    parties = [DistantParty(pipe) for pipe, _ in pipes]
    try:
        yield parties
    finally:
        for party in parties:
            party.say_goodbye()
        _end(process)
        for pipe, _ in pipes:
            pipe.close()


_here = threading.local()  # in a party: the `pipe` by which this thread is told


def _serve_many(pipes: list[Connection]) -> None:
    threads = [threading.Thread(target=_serve, args=(pipe,)) for pipe in pipes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _serve(pipe: Connection) -> None:
    _here.pipe = pipe
    while True:
        try:
            call = pipe.recv()
        except EOFError:
            return
        if call is None:
            return
        function, args = call
        try:
            answer = True, function(*args)
        except BaseException as exc:
            answer = False, exc
        pipe.send(answer)


def tell(value: Any) -> None:
    """In a party of another process: let the test go on while the call goes on."""
    _here.pipe.send((True, value))


MAPPINGS = ("thread", "home", "processes", "distant")
"""Threads with the standard library's objects; shared objects among threads of their owner, among
processes, and among threads of one process that is not their owner."""


class Mapping:
    """Makes objects of one mapping, and calls functions where they are used."""

    def __init__(
        self, make: Callable[..., Any], parties: Sequence[DistantParty] | None = None
    ) -> None:
        self.make = make
        self.shared = make is not make_thread
        self.size = 3  # calls that can go on at a time, beside the test itself
        self._parties = None if parties is None else list(parties)

    def start(self, function: Callable[..., Any], *args: Any) -> "Call":
        """Call it in another party; `result()` of what this returns is what it returned."""
        if self._parties is None:
            return Call(ThreadParty().start(function, *args), lambda: None)
        party = self._parties.pop()
        return Call(party.start(function, *args), partial(self._parties.append, party))

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        """The same, for one that comes to an end by itself."""
        return self.start(function, *args).result()


class Call(NamedTuple):
    """A call under way in a party, which is free for another after its `result()`."""

    party: ThreadParty | DistantParty
    free: Callable[[], None]

    def result(self) -> Any:
        try:
            return self.party.result()
        finally:
            self.free()


def wait_until(true: Callable[[], Any]) -> None:
    end = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < end, "it does not become true"
        time.sleep(0.001)


def soon(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """The first answer that is not False, of a call that waits for no time or hardly any.

    What a manager says too late, because the machine is busy, is "not in time", and rightly so.
    """
    end = time.monotonic() + PATIENCE
    while (answer := function(*args, **kwargs)) is False:
        assert time.monotonic() < end, "it is never in time"
    return answer


def number_waiting(subject: Any) -> int:
    """How many wait for that object now; the test is in its owner.

    Between two looks at its cell, a thread that sleeps there is not counted for a moment.
    """
    home = getattr(subject, "_home", None)
    if home is None:
        return sum(len(condition._waiters) for condition in _conditions(subject))
    host = home._host
    with host._lock:
        coordinator = host._coordinator
        hosted = coordinator.subject(subject._object_id)
        waiting = [each for line in coordinator._registered.values() for each in line.values()]
        number = sum(each.subject is hosted and each.state == "open" for each in waiting)
    index, segment = _segments.index_of(subject._object_id), home.segment
    if index is None or segment is None:
        return number
    start, inode = _cells.HEADER + index * _cells.CELL, os.fstat(segment.fd).st_ino
    family = (os.getpid(), *(child.pid for child in psutil.Process().children(recursive=True)))
    return number + sum(_asleep(pid, inode, range(start, start + _cells.CELL)) for pid in family)


def _asleep(pid: int, inode: int, places: range) -> int:
    """How many threads of that process sleep at those places in that memory."""
    number, process = 0, Path(f"/proc/{pid}")
    try:
        for line in (process / "maps").read_text().splitlines():
            addresses, _, offset, _, its_inode, *_ = line.split()
            if int(its_inode) == inode and int(offset, 16) == 0:
                begin = int(addresses.partition("-")[0], 16)
                for task in (process / "task").iterdir():
                    _, place, *_ = [*(task / "syscall").read_text().split(), "0", "0"]
                    number += int(place, 16) - begin in places
    except (OSError, ValueError):
        pass  # it ends just now, or runs
    return number


def _conditions(subject: Any) -> list[Any]:
    """Where threads wait for an object of the standard library."""
    if isinstance(subject, threading.Condition):
        return [subject]
    return [value for value in vars(subject).values() if isinstance(value, threading.Condition)]


# -- an owner that is not the test itself ---------------------------------------------------------

_kept: Manager


def serve_queue(family: str) -> Any:
    """A queue, an event and a barrier for two, hosted by the process this is called in."""
    global _kept
    _kept = Manager(family=family)
    return (
        make_shared(_kept, "Queue"),
        make_shared(_kept, "Event"),
        make_shared(_kept, "Barrier", 2),
    )


# -- half a conversation with the manager ---------------------------------------------------------


def channel_of(handle: Any) -> _channel.Channel:
    """This thread's connection to where that object lives."""
    return _channel._own_channel(handle._address, None)


def send_request(handle: Any, op: str, *args: Any) -> int:
    """Ask, but do not wait for the answer; returns the request's id."""
    channel = channel_of(handle)
    channel._last_id += 1
    message = (channel._last_id, op, handle._object_id, args, None, None)
    channel._send(_channel.frame(message), None)
    return channel._last_id


def ask_and_stay(handle: Any, op: str, *args: Any) -> None:
    """Have a request that waits, for certain, when this tells so; then wait to be killed.

    Requests of one connection are served in their order: the answer to the second proves that the
    first was looked at.
    """
    send_request(handle, op, *args)
    second = send_request(handle, "no such operation")
    tell(channel_of(handle)._reply(second, None))
    signal.pause()


def take_and_stay(handle: Any, op: str, *args: Any) -> None:
    """Get the answer to a request, never acknowledge it, and wait to be killed."""
    tell(channel_of(handle)._reply(send_request(handle, op, *args), None))
    signal.pause()
