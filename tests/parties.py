"""Who takes part in a test of shared objects: threads and real processes, told what to call.

A party is told by a pipe and answers by it, so a test waits for what happens and never sleeps.
"""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import Any

from unirun import _channel
from unirun._manager import Manager
from unirun.sync import make_shared

PATIENCE = 20.0  # seconds after which a test has failed


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


class ProcessParty:
    """A process that makes one call after the other; `kill` it as you like."""

    def __init__(self, method: str = "spawn") -> None:
        context = multiprocessing.get_context(method)
        self._pipe, theirs = context.Pipe()
        self._process: Any = context.Process(target=_serve, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()

    @property
    def pid(self) -> int:
        return int(self._process.pid)

    def start(self, function: Callable[..., Any], *args: Any) -> "ProcessParty":
        self._pipe.send((function, args))
        return self

    def result(self) -> Any:
        """What the call returned, or what it `tell`s meanwhile."""
        assert self._pipe.poll(PATIENCE), "the process does not answer"
        succeeded, value = self._pipe.recv()
        if not succeeded:
            raise value
        return value

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
        try:
            self._pipe.send(None)
        except OSError:
            pass  # it was killed
        self._process.join(5)  # if a test has failed, it may wait for ever
        self._process.kill()
        self._process.join(PATIENCE)
        self._process.close()
        self._pipe.close()


@contextlib.contextmanager
def process_parties(number: int, method: str = "spawn") -> Iterator[list[ProcessParty]]:
    parties: list[ProcessParty] = []
    try:
        parties += [ProcessParty(method) for _ in range(number)]
        yield parties
    finally:
        for party in parties:
            party.close()


_teller: Connection


def _serve(pipe: Connection) -> None:
    global _teller
    _teller = pipe
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
    """In a process party: let the test go on while the call goes on."""
    _teller.send((True, value))


class Mapping:
    """Makes objects of one mapping, and calls functions where they are used."""

    def __init__(self, make: Callable[..., Any], parties: list[ProcessParty] | None = None) -> None:
        self.make = make
        self._processes = parties
        self._free = list(parties or ())

    def start(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call it in another party; `result()` of what this returns is what it returned."""
        party = ThreadParty() if self._processes is None else self._free.pop()
        return party.start(function, *args)

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        """The same, for one that comes to an end by itself."""
        if self._processes is None:
            return ThreadParty().start(function, *args).result()
        return self._processes[0].start(function, *args).result()


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
