"""The thread that serves shared objects to other processes.

    owner's threads ── Manager.request ──▶ ┌──────┐
                                           │ Host │──▶ Coordinator (pure; see coordinator.py)
    other processes ── Peer (a socket) ──▶ └──────┘

The owner's threads call the coordinator themselves, under the host's one lock, and wait on a lock
of their own (`_desk.py`); everybody else comes by a socket, which the host's thread alone reads,
accepts and closes.  No send ever blocks: what a peer does not take waits in its out-buffer, and a
peer that does not take what it asked for is not read from.
"""

from __future__ import annotations

import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Iterable
from typing import Any, Final

from unirun import _connect
from unirun._cell_host import RETRY
from unirun._closing import close_at_exit
from unirun._desk import Desk
from unirun._door import Door
from unirun._leavings import warn_of
from unirun._links import BRINGS, adopt
from unirun._references import GONE
from unirun._sessions import Peer

__all__ = ["Host"]

LOOK: Final = 20e-6  # seconds to look for the next request before sleeping
LONGEST_SELECT: Final = 86400.0  # seconds; the system can take no more than some weeks


class Host(Desk):
    """The coordinator, its sessions and the thread that serves them."""

    def __init__(
        self, family: str | None, key: bytes | None, lifelines: Iterable[int] = ()
    ) -> None:
        """`lifelines`: descriptors whose end, or anything to be read from them, ends this too."""
        self.key = _connect.run_key() if key is None else key
        self._door = Door(family, self.key)
        self._served = False  # something, since we last slept
        self._looks_in_vain = 0
        self._looks_to_skip = 0
        self._peers: set[Peer] = set()
        self._unsent: deque[Peer] = deque()  # from any thread
        # Tasks that have ended and left locks behind, and who waits for us to have said so.
        self._left: deque[tuple[Peer, int, str, list[str]]] = deque()
        self._waker, self._woken = socket.socketpair()
        super().__init__(self._door.address)
        self._selector = selectors.DefaultSelector()
        self._thread = threading.Thread(target=self._run, name="unirun-manager", daemon=True)
        for lifeline in lifelines:
            self._selector.register(lifeline, selectors.EVENT_READ, self.stop)
        self._open()

    def _open(self) -> None:
        self._waker.setblocking(False)
        self._woken.setblocking(False)
        self._selector.register(self._woken, selectors.EVENT_READ, self._empty_waker)
        self._door.open(self._selector, self._accept)
        close_at_exit(self)
        try:
            self._thread.start()
        except BaseException:
            self._tear_down()
            raise

    def stop(self) -> None:
        """Tell the thread to end; safe in a finalizer, whatever is locked."""
        self._stopping = True
        self._wake()

    def _has_unsent(self, peer: Peer) -> None:
        self._unsent.append(peer)
        self._wake()

    def _wake(self) -> None:
        try:
            self._waker.send(b"\0")
        except OSError:
            pass  # full: it will wake anyway; closed: it has ended, or it is our parent's

    def join(self, patience: float | None = None) -> None:
        if not self.is_home or self._thread.ident is None:
            return  # it is another process's, or there was no thread to be had
        if threading.current_thread() is not self._thread:
            self._thread.join(patience)

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def disown(self) -> None:
        """In a forked child: these descriptors are the parent's, and so are the objects.

        Nothing but our copies of them is touched: not the lock, which may be held for ever here,
        and not the selector's set, which is shared with the parent.
        """
        self.is_home = False
        self._coordinator.disown()
        self._close_sockets()

    def _close_sockets(self) -> None:
        for peer in self._peers:
            peer.socket.close()
        self._door.close_socket()
        for each in (self._selector, self._waker, self._woken):
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
            self._coordinator.close()
        self._barriers.close()
        self._close_sockets()
        _connect.keys.pop(self.address, None)
        self._door.close()

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
        due = [*self._door.next_look(), *self._references.next_ends()]
        if self._coordinator.has_deadlines:
            with self._lock:
                deadline = self._coordinator.next_deadline()
            due += [] if deadline is None else [deadline]
        if self._coordinator.retry is not None:
            due.append(time.monotonic() + self._coordinator.retry)
        if self._interruptions.asked:
            due.append(time.monotonic() + RETRY)
        return min(max(0.0, min(due) - time.monotonic()), LONGEST_SELECT) if due else None

    def _tidy(self, now: float) -> None:
        for stranger in self._door.look(now):
            self._drop(stranger)
        while self._interruptions.asked:
            with self._lock:
                replies = self._interruptions.serve(self._coordinator)
                if replies is None:
                    break  # somebody is inside that cell
                self._deliver(replies)
        while self._ended_threads:
            session = self._ended_threads.popleft()
            with self._lock:
                self._home_threads.discard(session)
                self._deliver(self._coordinator.session_lost(session))
        if self._coordinator.retry is not None:
            with self._lock:
                self._deliver(self._coordinator.look_after_deaths())
        while self._unsent:
            self._watch(self._unsent.popleft())
        for object_id in self._references.settle(now):
            with self._lock:
                self._deliver(self._coordinator.remove(object_id))

    def _empty_waker(self) -> None:
        try:
            self._woken.recv(4096)
        except BlockingIOError:
            pass  # a wake-up for nothing

    def _accept(self) -> None:
        now = time.monotonic()
        sock = self._door.accept(now)
        if sock is None:
            return
        peer = Peer(sock, self._has_unsent)
        self._peers.add(peer)
        self._door.receive(peer, now)
        with self._lock:
            peer.push(peer.nonce)
        self._watch(peer)

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
        except (OSError, EOFError, ValueError, TypeError, MemoryError):
            self._drop(peer)  # it has ended, or what it sends are no frames
            return
        sensible = self._serve(peer, messages)
        while self._left:
            self._say_left(*self._left.popleft())
        if not sensible:
            self._drop(peer)

    def _serve(self, peer: Peer, messages: list[Any]) -> bool:
        """Serve what a peer asks for; False if it is to be sent away for that."""
        try:
            with self._lock:
                return all(self._handle(peer, message) for message in messages)
        except Exception as exc:  # noqa: BLE001  # said below; it is not to be the end of all others
            what = (type(exc), exc, exc.__traceback__, self._thread)
            threading.excepthook(threading.ExceptHookArgs(what))
            return False

    def _say_left(self, peer: Peer, request_id: int, task: str, names: list[str]) -> None:
        warn_of(task, names)  # without the lock: this may call anything
        with self._lock:
            peer.deliver(request_id, "ok", None)

    def _greet(self, peer: Peer) -> list[Any]:
        answer = self._door.greet(peer)
        if answer is not None:
            with self._lock:
                seat = _connect.SEAT.pack(self._coordinator.enroll(peer), time.monotonic())
                peer.introduce(answer + seat, self._coordinator.fd)
        return []

    def _handle(self, peer: Peer, message: Any) -> bool:
        """Serve one message; False if it is none."""
        match message:
            case (int(), str(), 0, tuple(), None, None):
                return self._handle_own(peer, *message[:4])
            case (int(), str(), int(), tuple(), None | float(), None | float()):
                request_id, op, object_id, args, deadline, last = message
                if op[:1] == BRINGS:
                    op, args = op[1:], adopt(args, self.address, object_id)
                if 0 != request_id <= peer.last_id or deadline != deadline:
                    return False  # two requests of one id, or a time that nothing is later than
                peer.last_id = request_id or peer.last_id  # 0: it wants no answer
                late = last is not None and time.monotonic() > last
                self._deliver(
                    self._coordinator.request(peer, request_id, op, object_id, args, deadline, late)
                )
                if op == "wait" or op == "acquire":
                    self._barriers.noted(object_id)
            case int() if message > 0:
                self._coordinator.acknowledge(peer, message)
            case int():
                self._deliver(self._coordinator.cancel(peer, -message))
            case list():
                return self._references.hear(peer, message)
            case _:
                return False
        return True

    def _handle_own(
        self, peer: Peer, request_id: int, op: str, _: int, args: tuple[Any, ...]
    ) -> bool:
        """The same for what is asked of us, and not of one of the objects."""
        match op, args:
            case "create", (str() as kind, *params):
                peer.deliver(request_id, *self._made(kind, params))
            case "tell", ():
                peer.deliver(request_id, "ok", tuple(self.tell()))
            case "count", ():
                peer.deliver(request_id, "ok", self.count())
            case "end_task", (str() as task, tuple() as acquired) if all(map(_is_pair, acquired)):
                replies, names = self._coordinator.end_task(peer, acquired)
                self._deliver(replies)
                self._left.append((peer, request_id, task, names))
            case _:
                return False
        return True

    def _made(self, kind: str, params: Iterable[Any]) -> tuple[str, Any]:
        try:
            return "ok", self._create(kind, params)
        except ValueError as exc:
            return "value", str(exc)
        except (TypeError, KeyError) as exc:
            return "type", str(exc)

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
        peer.is_stranger = False  # gone, for the door
        self._references.news.append((GONE, peer, 0))
        with self._lock:
            self._deliver(self._coordinator.session_lost(peer))
        peer.socket.close()


def _is_pair(each: Any) -> bool:
    match each:
        case (int(), int()):
            return True
    return False
