"""How a process says which shared objects it refers to, and what refers to them on their way.

    a handle comes to life ─▶ attach ─┐            ┌─▶ Own    the objects live here: a deque, which
    a handle is dropped    ─▶ detach ─┼─▶ keeper ──┤          the host's thread reads
    a handle is pickled    ─▶ escape ─┘            └─▶ Link   they live elsewhere: a connection of
                                                              the process; nothing comes back by it
A link that ends drops all references that came by it.

1. Handles are dropped by finalizers, which run anywhere, under any lock: nothing here waits for a
   lock or for a peer, but `Link.open`, which no finalizer calls.
2. What one keeper is told arrives in that order, so an object has escaped, for its host, before
   whoever pickled it lets go of it.
3. A pickle with handles in it that goes into a shared object begins with MARK and their ids.
   `adopt` makes a `Content` of it, which refers to their objects as long as it lives: in the host
   until nobody may need the item any more, at the getter until it is unpickled.

Light: a worker imports this when it unpickles its first handle.
"""

from __future__ import annotations

import atexit
import marshal
import sys
import threading
import time
import weakref
from collections import deque
from itertools import chain, repeat

from unirun import _channel, _connect, _context
from unirun._references import ATTACH, DETACH, ESCAPE, ESCAPE_TO_CHILD, HOME

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable
    from typing import Any, Self, TypeAlias

    from unirun._connect import Address
    from unirun._references import News

    Keeper: TypeAlias = "Own | Link"
    Name: TypeAlias = tuple[Address, int]  # where an object lives, and which it is

PATIENCE = 1.0  # seconds for a connection, when a handle is unpickled
PAUSE = 1.0  # seconds without another attempt after one
MARK = b"\x02unirun carries\0"
"""What bytes with handles in them begin with; a pickle begins with 0x80."""
BRINGS = "+"
"""What the operation of a request begins with that has something for the host to `adopt`."""


class Own:
    """The keeper of the objects of a host in this process."""

    __slots__ = ("__weakref__", "_news", "_wake")

    def __init__(self, address: Address, news: deque[News], wake: Callable[[], None]) -> None:
        self._news = news
        self._wake = wake
        _owns[address] = self

    def attach(self, object_id: int) -> None:
        self._news.append((ATTACH, HOME, object_id))

    def detach(self, object_id: int) -> None:
        self._news.append((DETACH, HOME, object_id))
        self._wake()

    def escape(self, object_id: int, to_child: bool) -> None:
        self._news.append((ESCAPE_TO_CHILD if to_child else ESCAPE, HOME, object_id))

    is_open = True

    def open(self, seconds: float) -> None:
        """There is nothing to connect."""


class Link:
    """The keeper of the objects of one host elsewhere.  Owns its connection."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self.renew()

    def renew(self) -> None:
        """Forget everything: it is new, or this is a fork."""
        # As they travel; appended to from anywhere.
        self._news: deque[int | tuple[int, bool]] = deque()
        # Guards what follows.  Never waited for: who does not get it leaves its news to who has it.
        self._busy = threading.Lock()
        self._socket: socket.socket | None = None
        self._counts: dict[int, int] = {}  # references by object, those told and those to be told
        self._out = b""  # not sent yet
        self._not_before = 0.0

    def attach(self, object_id: int) -> None:
        self._news.append(object_id)
        self._flush()

    def detach(self, object_id: int) -> None:
        self._news.append(-object_id)
        self._flush()

    def escape(self, object_id: int, to_child: bool) -> None:
        self._news.append((object_id, to_child))
        self._flush()

    @property
    def is_open(self) -> bool:
        return self._socket is not None

    def open(self, seconds: float) -> None:
        """Connect if that is to be done, within that time; if it fails, a later call tries again.

        Not for finalizers.
        """
        if self._socket is not None or not self._busy.acquire(False):
            return
        try:
            if self._socket is None and self._not_before <= time.monotonic():
                self._connect(seconds)
        finally:
            self._busy.release()
        self._flush()

    def _connect(self, seconds: float) -> None:
        self._not_before = time.monotonic() + PAUSE
        if not _knows_key(self._address):
            return
        _drop_idle_links(self)
        try:
            sock = _connect.connect(self._address, time.monotonic() + seconds)
        except (_connect.TooLate, OSError):  # ManagerLost, too: the next operation raises it
            self._not_before = time.monotonic() + PAUSE
            return
        sock.setblocking(False)
        self._take_in()
        # Whatever is told anew may be on its way to anybody.
        told = [((each, True), *repeat(each, n)) for each, n in self._counts.items()]
        self._out = _channel.frame(list(chain.from_iterable(told)))
        self._socket = sock
        self._not_before = 0.0

    def _flush(self) -> None:
        """Tell what there is to be told, as far as the connection takes it at once."""
        while (self._news or self._out) and self._busy.acquire(False):
            try:
                everything = self._send()
            finally:
                self._busy.release()
            if not everything:
                return  # the manager is busy, or gone: the next one who comes goes on

    def _send(self) -> bool:
        told = self._take_in()
        if self._socket is None:
            return not self._news
        if told:
            self._out += _channel.frame(told)
        try:
            while self._out:
                self._out = self._out[self._socket.send(self._out) :]
        except BlockingIOError:
            return False
        except OSError:
            self.close()
        except BaseException:  # a signal handler's: nobody knows how much has been sent
            self.close()
            raise
        return True

    def _take_in(self) -> list[int | tuple[int, bool]]:
        told: list[int | tuple[int, bool]] = []
        counts = self._counts
        while self._news:
            what = self._news.popleft()
            told.append(what)
            if isinstance(what, int):
                object_id = abs(what)
                count = counts.get(object_id, 0) + (1 if what > 0 else -1)
                if count:
                    counts[object_id] = count
                else:
                    counts.pop(object_id, None)
        return told

    def close(self) -> None:
        """The connection is of no use any more."""
        sock, self._socket, self._out = self._socket, None, b""
        if sock is not None:
            sock.close()

    def close_if_over(self) -> bool:
        """Close what the manager has closed, if we refer to nothing there; False if it goes on."""
        if self._counts or self._news or not self._busy.acquire(False):
            return False
        try:
            if self._socket is not None and self._socket.recv(1):
                return False  # nothing ever comes this way
        except BlockingIOError:
            return False
        except OSError:
            pass  # it is broken
        finally:
            self._busy.release()
        self.close()
        return True


_owns: weakref.WeakValueDictionary[Address, Own] = weakref.WeakValueDictionary()
# A link lasts as long as its process, or until its manager is gone and we refer to nothing there.
_links: dict[Address, Link] = {}


def link_of(address: Address) -> Link:
    return _links.get(address) or _links.setdefault(address, Link(address))


def keeper_of(address: Address) -> Keeper:
    """Whom to tell about the objects that live there."""
    return _owns.get(address) or link_of(address)


def _knows_key(address: Address) -> bool:
    """Whether this process belongs to the run; to be sure of it would import multiprocessing."""
    known = address in _connect.keys or _context.authkey is not None
    return known or "multiprocessing.process" in sys.modules


def _drop_idle_links(but: Link) -> None:
    for address, link in list(_links.items()):
        if link is not but and link.close_if_over() and _links.get(address) is link:
            del _links[address]


def forget(address: Address) -> None:
    """That manager has been closed; safe in a finalizer."""
    link = _links.pop(address, None)
    if link is not None:
        link.close()


def _close_all() -> None:
    """At the end of the process, which has references no longer."""
    for link in list(_links.values()):
        link.close()


atexit.register(_close_all)


def renew_links() -> None:
    """In a forked child: hosts and connections are the parent's, and closed here already."""
    _owns.clear()
    for link in list(_links.values()):
        link.renew()


# -- what refers to objects on its way ------------------------------------------------------------


_any_made = False  # whether this process has ever made what follows


class Carrying(bytes):
    """A pickle, and the handles in it, which live as long."""

    handles: list[Any]

    @classmethod
    def of(cls, data: bytes, handles: list[Any]) -> Self:
        global _any_made
        _any_made = True
        objects = [each for each in handles if hasattr(each, "_name")]  # the others: References
        names = marshal.dumps(list(dict.fromkeys(each._name for each in objects)))
        self = cls(b"".join((MARK, len(names).to_bytes(4, "little"), names, data)))
        self.handles = handles
        return self


class Content(bytes):
    """The same where it is not unpickled yet: refers to the objects, not to handles."""

    _kept: tuple[tuple[Keeper, int, object], ...] = ()

    @classmethod
    def of(
        cls, data: bytes, names: list[Name], address: Address | None = None, object_id: int = 0
    ) -> Self:
        """For the object of that id at that address, which does not keep itself alive."""
        self = cls(data)
        kept = []
        for where, each in names:
            if (where, each) != (address, object_id):
                keeper = _to_keep(where)
                keeper.attach(each)
                # Another manager goes on for us; not ours, which would never end then.
                kept.append((keeper, each, where != address and _channel.homes.get(where)))
        self._kept = tuple(kept)
        return self

    def __del__(self) -> None:
        for keeper, object_id, _ in self._kept:
            keeper.detach(object_id)


def adopt(value: Any, address: Address | None = None, object_id: int = 0) -> Any:
    """`value` with a Content for each pickle in it that begins with MARK.

    It is bytes, or a tuple or list of these and of others; what is no such pickle stays as it is.
    """
    if isinstance(value, bytes):
        names = _names(value) if value.startswith(MARK) else None
        return Content.of(value, names, address, object_id) if names else value
    kind = type(value)
    if (kind is tuple or kind is list) and any(map(_may_hold, value)):
        return kind([adopt(each, address, object_id) for each in value])
    return value


def _may_hold(value: Any) -> bool:
    return value.startswith(MARK) if isinstance(value, bytes) else type(value) is tuple


def brings_handles(args: tuple[Any, ...]) -> bool:
    """Whether a request of this process has anything to `adopt`."""
    if not _any_made:
        return False
    kinds = list(map(type, args))
    return Carrying in kinds or any(
        Carrying in map(type, arg) for kind, arg in zip(kinds, args, strict=True) if kind is tuple
    )


def pickle_in(data: bytes) -> bytes | memoryview:
    """What is to be unpickled of it."""
    return memoryview(data)[_begin(data) :] if data.startswith(MARK) else data


def _begin(data: bytes) -> int:
    """Where the pickle begins."""
    at = len(MARK)
    return at + 4 + int.from_bytes(data[at : at + 4], "little")


def _names(data: bytes) -> list[Name]:
    """None in what only looks like it: a peer, or a user, may come with anything."""
    try:
        return [
            (where, int(each)) for where, each in marshal.loads(data[len(MARK) + 4 : _begin(data)])
        ]
    except (EOFError, TypeError, ValueError):
        return []


def _to_keep(address: Address) -> Keeper:
    keeper = keeper_of(address)
    if not keeper.is_open:
        from _thread import start_new_thread

        start_new_thread(keeper.open, (PATIENCE,))  # a host's thread may not wait for another host
    return keeper


_channel.arrived = adopt
