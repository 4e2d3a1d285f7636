"""The home of shared objects: one thread of the owner process that serves everybody.

    owner's threads ── Manager.request ──▶ ┌──────┐
                                           │ Host │──▶ Coordinator (pure; see coordinator.py)
    other processes ── Peer (a socket) ──▶ └──────┘

The owner's threads call the coordinator themselves, under the host's one lock, and wait on a lock
of their own; everybody else comes by a socket, which the host's thread alone reads, accepts and
closes.  No send ever blocks: what a peer does not take waits in its out-buffer, and a peer that
does not take what it asked for is not read from.
"""

from __future__ import annotations

import atexit
import os
import secrets
import selectors
import shutil
import socket
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

from unirun import _channel
from unirun._channel import DIGEST_SIZE, NONCE_SIZE, digest, limits, same
from unirun._errors import ManagerLost
from unirun._hosted_barriers import BARRIERS
from unirun._hosted_locks import LOCKS
from unirun._hosted_queues import QUEUES
from unirun._sessions import HomeThread, Peer, ThreadEnd, Waiter, listen
from unirun.coordinator import Coordinator, Reply

if TYPE_CHECKING:
    from unirun._channel import Address

__all__ = ["Manager"]

MAX_STRANGERS: Final = 64  # connections that have not proved who they are; the oldest go first
LOOK: Final = 20e-6  # seconds to look for the next request before sleeping
PAUSE: Final = 0.1  # seconds without accepting, when this process has no descriptor left


class Manager:
    """Hosts shared objects, from when it is made until it is closed or nobody refers to it.

    `family` is "AF_UNIX" or "AF_INET" (loopback only); by default the first where it works.
    `key` is what other processes must know; by default the key of this run.
    """

    def __init__(self, *, family: str | None = None, key: bytes | None = None) -> None:
        self._host = host = Host(family, key)
        self.address: Address = host.address
        self.key: bytes = host.key
        _channel.keys[self.address] = self.key
        _channel.homes[self.address] = self
        # Nothing of the host refers to us.  The finalizer may run anywhere, under any lock: it
        # only tells the thread to end.
        self._finalizer = weakref.finalize(self, host.stop)
        self._finalizer.atexit = False  # `_close_all` also waits

    def close(self) -> None:
        """End the thread and remove the socket; whoever waits gets ManagerLost.  Idempotent."""
        self._finalizer()
        self._host.join()

    @property
    def is_home(self) -> bool:
        """Whether this is the process that hosts the objects, and not a fork of it."""
        return self._host.is_home

    def create(self, kind: str, *params: Any) -> int:
        """Make an object of that kind and return its id."""
        return self._host.create(kind, params)

    def request(
        self, op: str, object_id: int, args: tuple[Any, ...], timeout: float | None
    ) -> tuple[str, Any]:
        """As `_channel.request`, without a connection."""
        return self._host.request(op, object_id, args, timeout)

    def __repr__(self) -> str:
        state = "at" if self._finalizer.alive else "closed, was at"
        return f"<unirun Manager {state} {self.address!r}>"


class Host:
    """The coordinator, its sessions and the thread that serves them."""

    def __init__(self, family: str | None, key: bytes | None) -> None:
        self.key = _channel.run_key() if key is None else key
        self.is_home = True
        # Ids differ between managers, lest a stale handle meets another one's object at a port.
        self._coordinator = Coordinator({**QUEUES, **BARRIERS, **LOCKS}, secrets.randbits(40) << 20)
        # Guards the coordinator, what sessions wait for and are sent, and `_closed`.
        self._lock = threading.Lock()
        self._closed = False
        self._stopping = False
        self._served = False  # something, since we last slept
        self._looks_in_vain = 0
        self._looks_to_skip = 0
        self._threads = threading.local()
        self._home_threads: set[HomeThread] = set()
        self._peers: set[Peer] = set()
        self._strangers: deque[Peer] = deque()  # oldest first; some are known meanwhile
        # Messages for the thread; a deque is safe without a lock, which finalizers need.
        self._ended_threads: deque[HomeThread] = deque()
        self._unsent: deque[Peer] = deque()
        self._directory: str | None
        self._listener, self._directory = listen(family)
        self.address: Address = self._listener.getsockname()
        self._accept_again: float | None = None
        self._selector = selectors.DefaultSelector()
        self._waker, self._woken = socket.socketpair()
        self._thread = threading.Thread(target=self._run, name="unirun-manager", daemon=True)
        self._open()

    def _open(self) -> None:
        self._waker.setblocking(False)
        self._woken.setblocking(False)
        self._selector.register(self._woken, selectors.EVENT_READ, self._empty_waker)
        self._selector.register(self._listener, selectors.EVENT_READ, self._accept)
        _live.add(self)
        _close_all_at_exit()
        try:
            self._thread.start()
        except BaseException:
            self._tear_down()
            raise

    # -- from any thread of the owner --------------------------------------------------------

    def create(self, kind: str, params: Iterable[Any]) -> int:
        with self._lock:
            self._check_open()
            return self._coordinator.create(kind, *params)

    def request(
        self, op: str, object_id: int, args: tuple[Any, ...], timeout: float | None
    ) -> tuple[str, Any]:
        deadline = limits(timeout)[0]
        session = self._own_session()
        request_id, waiter = session.next_id(), Waiter()
        try:
            with self._lock:
                self._check_open()
                session.waiters[request_id] = waiter
                self._deliver(
                    self._coordinator.request(session, request_id, op, object_id, args, deadline)
                )
                if waiter.status is None:
                    waiter.gate = threading.Lock()
                    waiter.gate.acquire()
                else:
                    self._coordinator.acknowledge(session, request_id)
            if waiter.gate is not None:
                self._wait(session, request_id, waiter.gate, deadline)
        except BaseException:  # KeyboardInterrupt, or what any signal handler raises
            with self._lock:
                session.waiters.pop(request_id, None)
                self._deliver(self._coordinator.cancel(session, request_id))
            raise
        if waiter.status is None or waiter.status == "closed":
            raise self._lost()
        return waiter.status, waiter.value

    def _wait(
        self, session: HomeThread, request_id: int, gate: threading.Lock, deadline: float | None
    ) -> None:
        """Wait for the answer, and see to it ourselves that the deadline is kept."""
        while not gate.acquire(timeout=_gate_timeout(deadline)):
            now = time.monotonic()
            with self._lock:
                self._deliver(self._coordinator.expire(now))
            if deadline is not None and now >= deadline:
                deadline = None  # answered, or a condition that has to wait for its lock now
        with self._lock:
            self._coordinator.acknowledge(session, request_id)

    def _own_session(self) -> HomeThread:
        end: ThreadEnd | None = self._threads.__dict__.get("end")
        if end is None:
            self._threads.end = end = ThreadEnd(HomeThread(), self._thread_ended)
            with self._lock:
                self._home_threads.add(end.session)
        return end.session

    def _check_open(self) -> None:
        if self._closed or self._stopping:
            raise self._lost()

    def _lost(self) -> ManagerLost:
        return ManagerLost(
            f"the manager of this shared object, at {self.address!r}, is closed; "
            "use the object while what made it is open"
        )

    def _deliver(self, replies: list[Reply]) -> None:
        for session, request_id, status, value in replies:
            session.deliver(request_id, status, value)

    def stop(self) -> None:
        """Tell the thread to end; safe in a finalizer, whatever is locked."""
        self._stopping = True
        self._wake()

    def _thread_ended(self, session: HomeThread) -> None:
        """Called wherever that thread ends, whatever is locked there."""
        self._ended_threads.append(session)
        self._wake()

    def _has_unsent(self, peer: Peer) -> None:
        self._unsent.append(peer)
        self._wake()

    def _wake(self) -> None:
        try:
            self._waker.send(b"\0")
        except OSError:
            pass  # full: it will wake anyway; closed: it has ended, or it is our parent's

    def join(self) -> None:
        if self.is_home and threading.current_thread() is not self._thread:
            self._thread.join()

    def disown(self) -> None:
        """In a forked child: these descriptors are the parent's, and so are the objects.

        Nothing but our copies of them is touched: not the lock, which may be held for ever here,
        and not the selector's set, which is shared with the parent.
        """
        self.is_home = False
        self._close_sockets()

    def _close_sockets(self) -> None:
        for peer in self._peers:
            peer.socket.close()
        for each in (self._listener, self._selector, self._waker, self._woken):
            each.close()

    # -- the host's thread -------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self._stopping:
                self._round()
        finally:
            self._tear_down()

    def _tear_down(self) -> None:
        with self._lock:
            self._closed = True
            for session in self._home_threads:
                for request_id in list(session.waiters):
                    session.deliver(request_id, "closed", None)
        self._close_sockets()
        _channel.keys.pop(self.address, None)
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)  # perhaps somebody was faster

    def _round(self) -> None:
        events = self._events()
        now = time.monotonic()
        # Before any message is read: a client that has given up says so after its deadline, and
        # its wait must have ended as a time-out by then.
        if self._coordinator.has_deadlines:
            with self._lock:
                self._deliver(self._coordinator.expire(now))
        for key, mask in events:
            if isinstance(key.data, Peer):
                self._attend(key.data, mask)
            else:
                key.data()
        self._tidy(now)

    def _events(self) -> Any:
        """What has happened, waiting for it as long as nothing is to be done."""
        # Who has just been answered often asks again at once: to look for that a moment answers
        # in half the time of being woken.  Where it is in vain, it is tried ever more rarely.
        if self._served and not self._looks_to_skip:
            end = time.monotonic() + LOOK
            while time.monotonic() < end:
                if events := self._selector.select(0):
                    self._looks_in_vain = 0
                    return events
            self._looks_in_vain = min(self._looks_in_vain + 1, 7)
            self._looks_to_skip = 1 << self._looks_in_vain
        elif self._looks_to_skip:
            self._looks_to_skip -= 1
        self._served = False
        return self._selector.select(self._patience())

    def _patience(self) -> float | None:
        """Seconds until something is to be done without anybody asking for it."""
        due = [] if self._accept_again is None else [self._accept_again]
        if self._strangers:
            due.append(self._strangers[0].patience)
        if self._coordinator.has_deadlines:
            with self._lock:
                deadline = self._coordinator.next_deadline()
            due += [] if deadline is None else [deadline]
        return max(0.0, min(due) - time.monotonic()) if due else None

    def _tidy(self, now: float) -> None:
        while self._strangers and self._is_settled(self._strangers[0], now):
            self._strangers.popleft()
        if self._accept_again is not None and self._accept_again <= now:
            self._accept_again = None
            self._selector.register(self._listener, selectors.EVENT_READ, self._accept)
        while self._ended_threads:
            session = self._ended_threads.popleft()
            with self._lock:
                self._home_threads.discard(session)
                self._deliver(self._coordinator.session_lost(session))
        while self._unsent:
            self._watch(self._unsent.popleft())

    def _empty_waker(self) -> None:
        try:
            self._woken.recv(4096)
        except BlockingIOError:
            pass  # a wake-up for nothing

    def _accept(self) -> None:
        try:
            sock = self._listener.accept()[0]
        except (BlockingIOError, ConnectionError):
            return  # it has gone again
        except OSError:  # out of descriptors: the waiting connection would wake us for ever
            self._selector.unregister(self._listener)
            self._accept_again = time.monotonic() + PAUSE
            return
        sock.setblocking(False)
        if sock.family == socket.AF_INET:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        peer = Peer(sock, self._has_unsent)
        self._peers.add(peer)
        self._strangers.append(peer)
        with self._lock:
            peer.push(peer.nonce)
        self._watch(peer)
        if len(self._strangers) > MAX_STRANGERS:
            self._strangers[0].patience = 0.0  # `_tidy` sees to it

    def _is_settled(self, peer: Peer, now: float) -> bool:
        """Whether that peer is no stranger any more, or has been sent away for being one."""
        if peer.is_stranger and peer in self._peers:
            if peer.patience > now:
                return False
            self._drop(peer)
        return True

    def _attend(self, peer: Peer, mask: int) -> None:
        if mask & selectors.EVENT_WRITE:
            with self._lock:
                peer.flush()
        if mask & selectors.EVENT_READ:
            self._read(peer)
            self._served = True
        self._watch(peer)

    def _read(self, peer: Peer) -> None:
        try:
            messages = self._greet(peer) if peer.is_stranger else peer.reader.receive(peer.socket)
        except BlockingIOError:
            return
        except (OSError, EOFError, ValueError, TypeError):
            self._drop(peer)  # it has ended, or what it sends are no frames
            return
        with self._lock:
            sensible = all(self._handle(peer, message) for message in messages)
        if not sensible:
            self._drop(peer)

    def _greet(self, peer: Peer) -> list[Any]:
        """Read no more than a greeting; raises ValueError if it is not that of a friend."""
        data = peer.socket.recv(GREETING - len(peer.greeting))
        if not data:
            raise EOFError
        peer.greeting += data
        if len(peer.greeting) == GREETING:
            nonce, proof = peer.greeting[:NONCE_SIZE], peer.greeting[NONCE_SIZE:]
            if not same(proof, digest(self.key, b"client", peer.nonce, nonce)):
                raise ValueError("a stranger with another key")
            peer.is_stranger = False
            with self._lock:
                peer.push(digest(self.key, b"server", peer.nonce, nonce))
        return []

    def _handle(self, peer: Peer, message: Any) -> bool:
        """Serve one message; False if it is none."""
        match message:
            case (int(), str(), int(), tuple(), None | float(), None | float()):
                request_id, op, object_id, args, deadline, last = message
                late = last is not None and time.monotonic() > last
                self._deliver(
                    self._coordinator.request(peer, request_id, op, object_id, args, deadline, late)
                )
            case int() if message > 0:
                self._coordinator.acknowledge(peer, message)
            case int():
                self._deliver(self._coordinator.cancel(peer, -message))
            case _:
                return False
        return True

    def _watch(self, peer: Peer) -> None:
        """Have the selector look for what now matters of that peer."""
        interest = peer.interest()  # without the lock: whoever leaves something unsent says so
        if interest == peer.watched or peer not in self._peers:
            return
        if peer.watched:
            self._selector.modify(peer.socket, interest, peer)
        else:
            self._selector.register(peer.socket, interest, peer)
        peer.watched = interest

    def _drop(self, peer: Peer) -> None:
        if peer.watched:
            self._selector.unregister(peer.socket)
        self._peers.discard(peer)
        with self._lock:
            self._deliver(self._coordinator.session_lost(peer))
        peer.socket.close()


GREETING: Final = NONCE_SIZE + DIGEST_SIZE


def _gate_timeout(deadline: float | None) -> float:
    if deadline is None:
        return -1.0
    return min(max(0.0, deadline - time.monotonic()), threading.TIMEOUT_MAX)


# For the end of the process and for its forks: nothing else can tell those from everyday life.
_live: weakref.WeakSet[Host] = weakref.WeakSet()


def _close_all() -> None:
    for host in list(_live):
        host.stop()
        host.join()


_exit_seen_to_in = 0  # the process for which the next function has done its work


def _close_all_at_exit() -> None:
    """`atexit` is not for the children of multiprocessing, which end in a way of their own."""
    global _exit_seen_to_in
    util = sys.modules.get("multiprocessing.util")
    if util is not None and _exit_seen_to_in != os.getpid():
        util.Finalize(None, _close_all, exitpriority=0)
        _exit_seen_to_in = os.getpid()


def _after_fork_in_child() -> None:
    for host in list(_live):
        host.disown()
    _live.clear()


atexit.register(_close_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
