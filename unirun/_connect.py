"""How a process and the manager of a shared object get to know each other: by the key of the run.

    client                                manager
      connect ────────────────────────────▶
      ◀──────────────────────── 32 random bytes
      32 random bytes, MAC of both ───────▶            nothing else is read before this is right
      ◀───────────────────────────── MAC of both        both with the address and who says it
      ◀─ the number of this session, the time there, and the descriptor of the cells
         (`_segments.py`), if any

What is said then is a matter of `_channel` or `_links`.  Light: a worker imports this when it
unpickles its first handle.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import sys
import time
import weakref

# The interpreter's own keyed hash (a MAC, RFC 7693) and comparison, not those of `hmac`: OpenSSL
# takes a lock in each digest, which a thread of the parent may have held when this process was
# forked from it.  Nor do they take 2 ms to import.
from _blake2 import blake2b
from _operator import _compare_digest

from unirun import _context, _leftovers
from unirun._deferral import interruptible

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

    Address: TypeAlias = str | tuple[str, int]

NONCE_SIZE = DIGEST_SIZE = 32
NO_ROOM = bytes(NONCE_SIZE)
"""Instead of random bytes: the manager's process has no descriptor for another connection."""
SEAT = struct.Struct("<Qd")
"""The number of a session, and the time at its manager, who may be on another machine."""
ATTEMPTS = 5  # connections, before being sent away is taken for an answer
_OUR_OWN = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)  # this process has no more
TUNNEL = "_UNIRUN_TUNNEL"
"""The variable that says, in processes at a place of an engine, where to go to managers that are
not on this machine; a variable, for what such a process starts has to know it as well."""
IN_LINE = 0.002  # seconds until there may be room for one more connection

ahead: dict[Address, float] = {}
"""By how many seconds the clocks of managers on other machines are ahead of ours."""

keys: dict[Address, bytes] = {}
"""The keys of managers made in this process or, before a fork, in its parent."""


def _forget(address: Address) -> None:
    """There is nothing to forget."""


memory_lost: Callable[[Address], None] = _forget
"""What is done with the cells of a manager that is gone."""


class TooLate(Exception):
    """The client gives up now."""


class Ended(Exception):
    """The connection is of no use any more."""


class _SentAway(Ended):
    """It ended before both sides knew each other."""


class _NoRoom(Ended):
    """The manager is there, and cannot have us."""

    errno = errno.EMFILE


def digest(key: bytes, role: bytes, address: Address, nonces: bytes) -> bytes:
    """The proof that `role` knows the key.

    The roles differ, so no proof can be echoed; and what proves it at one address does not at
    another, where it may have been passed on to.
    """
    said = b"unirun %b %b " % (role, repr(address).encode()) + nonces
    key = key if len(key) <= blake2b.MAX_KEY_SIZE else blake2b(key).digest()
    return blake2b(said, digest_size=DIGEST_SIZE, key=key).digest()


same = _compare_digest
"""Whether two digests are the same, in a time that does not tell how much of them is."""


def run_key() -> bytes:
    """The key of this run: what the workers were told, or what multiprocessing hands down."""
    if _context.authkey is not None:
        return _context.authkey
    from multiprocessing.process import current_process  # heavy, and no worker comes here

    return bytes(current_process().authkey)


def key_for_child(address: Address) -> tuple[bytes, ...]:
    """The key, if what is pickled now goes into a process that is being started, and nowhere else.

    It is where multiprocessing lets its own key be pickled.
    """
    context = sys.modules.get("multiprocessing.context")
    if context is None or context.get_spawning_popen() is None:
        return ()
    return (keys.get(address) or run_key(),)


def know_key(address: Address, key: bytes | None) -> None:
    """In the new process; `key` is None for all that came there by any other way."""
    if key is not None:
        keys.setdefault(address, key)
    process = sys.modules.get("multiprocessing.process")
    if process is not None and _context.authkey is not None:
        # In a worker.  What its task starts may get a handle later, and has to know the key then.
        process.current_process().authkey = _context.authkey


def is_end(exc: BaseException) -> bool:
    """Whether that came from the socket.  A signal handler may raise a TimeoutError too."""
    return isinstance(exc, Ended) or (isinstance(exc, OSError) and exc.errno is not None)


def lost(address: Address, exc: BaseException) -> Exception:
    from unirun._errors import ManagerLost  # heavy, and rarely needed

    number = getattr(exc, "errno", None)
    if number in _OUR_OWN:
        from unirun._remedies import for_number

        return ManagerLost(
            f"the manager of this shared object, at {address!r}, cannot be reached ({exc})"
            + for_number(number)
        )
    memory_lost(address)
    if isinstance(address, str):
        _leftovers.remove(address)
    return ManagerLost(
        f"the manager of this shared object, at {address!r}, is gone or refused us ({exc}); "
        "use the object while what made it is open, with the key of the same run"
    )


def connect(address: Address, give_up: float | None) -> socket.socket:
    """A connection on which both sides know each other.

    Raises ManagerLost, or TooLate at `give_up`.
    """
    return introduced(address, give_up)[0]


def introduced(
    address: Address, give_up: float | None, fds: list[int] | None = None
) -> tuple[socket.socket, int]:
    """The same, and the number of its session.

    The descriptor of the manager's cells, if it has some, is put into `fds`, and is the caller's.
    """
    try:
        for _ in range(ATTEMPTS - 1):
            try:
                return _attempt(address, give_up, fds)
            except _SentAway:
                continue  # in a crowd, perhaps; if the key is another, it will be so again
        return _attempt(address, give_up, fds)
    except Exception as exc:
        if isinstance(exc, TimeoutError):
            seconds_left(give_up)  # raises TooLate, if it is ours
        if is_end(exc):
            raise lost(address, exc) from exc
        raise


def _attempt(
    address: Address, give_up: float | None, fds: list[int] | None
) -> tuple[socket.socket, int]:
    way = _way_to(address)
    family = socket.AF_INET if isinstance(way, tuple) else socket.AF_UNIX
    sock = socket.socket(family, socket.SOCK_STREAM)
    _sockets.add(sock)
    try:
        _reach(sock, way, give_up)
        if way is not address:
            name = repr(address).encode()
            sock.sendall(len(name).to_bytes(2, "little") + name)
        if family == socket.AF_INET:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            begun = time.monotonic()
            seat, now = _shake_hands(sock, address, give_up, fds)
            if way is not address:
                ahead[address] = now - begun  # rather too late than too early
        except ConnectionError as exc:
            raise _SentAway(str(exc)) from exc
        sock.settimeout(None)
        return sock, seat
    except BaseException:
        sock.close()
        raise


def _way_to(address: Address) -> Address:
    """Where to connect to: at a place of an engine that may be a tunnel (`_far_tunnel`)."""
    tunnel = os.environ.get(TUNNEL)
    if not tunnel or address in keys:
        return address
    if isinstance(address, str) and os.access(address, os.R_OK | os.W_OK):
        return address  # of this machine, and ours
    host, _, port = tunnel.rpartition("|")
    return (host, int(port)) if host else port


def way_as_text(address: Address) -> str:
    """As the variable has it."""
    return address if isinstance(address, str) else f"{address[0]}|{address[1]}"


def _reach(sock: socket.socket, address: Address, give_up: float | None) -> None:
    while True:
        sock.settimeout(seconds_left(give_up))
        try:
            interruptible(sock.connect, address)
        except BlockingIOError:  # a unix socket with too many in line; it does not wait by itself
            interruptible(time.sleep, IN_LINE)
            continue
        return


def _shake_hands(
    sock: socket.socket, address: Address, give_up: float | None, fds: list[int] | None
) -> tuple[int, float]:
    key = keys.get(address) or run_key()
    theirs, ours = _receive(sock, NONCE_SIZE, give_up), os.urandom(NONCE_SIZE)
    if theirs == NO_ROOM:
        raise _NoRoom("its process has too many open files")
    sock.sendall(ours + digest(key, b"client", address, theirs + ours))
    proof = _receive(sock, DIGEST_SIZE + SEAT.size, give_up, fds)
    if not same(proof[:DIGEST_SIZE], digest(key, b"server", address, theirs + ours)):
        while fds:
            os.close(fds.pop())
        raise Ended("it does not know the key of this run")
    number, now = SEAT.unpack(proof[DIGEST_SIZE:])
    return int(number), float(now)


def _receive(
    sock: socket.socket, size: int, give_up: float | None, fds: list[int] | None = None
) -> bytes:
    """So many bytes, and the descriptors that come with them, if there is a list for these."""
    data = b""
    while len(data) < size:
        sock.settimeout(seconds_left(give_up))
        if fds is None or sock.family == socket.AF_INET:
            piece = interruptible(sock.recv, size - len(data))
        else:
            flags = getattr(socket, "MSG_CMSG_CLOEXEC", 0)
            piece, more, _, _ = interruptible(socket.recv_fds, sock, size - len(data), 1, flags)
            fds += more
        if not piece:
            raise _SentAway("it closed the connection before we knew each other")
        data += piece
    return data


def seconds_left(give_up: float | None) -> float | None:
    """Seconds to wait now, at most a day: the system cannot wait much longer."""
    if give_up is None:
        return None
    left = give_up - time.monotonic()
    if left <= 0:
        raise TooLate
    return min(left, 86400.0)


# Every one of this process, for the fork.
_sockets: weakref.WeakSet[socket.socket] = weakref.WeakSet()


def close_in_fork() -> None:
    """Leave the connections, and what they hold, to the parent.

    Closing our copies lets the manager see the parent's end, and makes this process open its own.
    """
    for sock in list(_sockets):
        sock.close()
