"""The door by which other processes come to the host of shared objects.

Nothing a stranger says is interpreted: he gets a random number, and has to answer with one of his
own and the proof that he knows the key (see `_connect`).  He has a few seconds for that, and less
if there is a crowd at the door; whoever is in is not disturbed by it.
"""

from __future__ import annotations

import os
import selectors
import shutil
import socket
import tempfile
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from unirun import _leftovers
from unirun._connect import DIGEST_SIZE, NO_ROOM, NONCE_SIZE, digest, same
from unirun._errors import ConfigError

if TYPE_CHECKING:
    from unirun._connect import Address
    from unirun._sessions import Peer

__all__ = ["Door", "listening_socket"]

HANDSHAKE_TIMEOUT: Final = 5.0  # seconds
MAX_STRANGERS: Final = 64  # who may stand in the door at the same time
HURRY: Final = 0.05  # seconds that each of them has at least, when there are that many
PAUSE: Final = 0.1  # seconds without accepting, when this process has no descriptor left
SCARCITY_PATIENCE: Final = 5.0  # seconds of that until whoever waits is told so and sent away
GREETING: Final = NONCE_SIZE + DIGEST_SIZE
LONGEST_UNIX_PATH: Final = 100  # 104 on macOS, 108 on Linux


class Door:
    """A listening socket, and those who have not proved who they are.

    It belongs to the host's thread, which asks `next_look` when to call `look` by itself.
    """

    def __init__(self, family: str | None, key: bytes) -> None:
        """`family` is "AF_UNIX" or "AF_INET" (loopback only); None: the first where it works."""
        self._key = key
        self._listener, self._directory = listening_socket(family)
        self.address: Address = self._listener.getsockname()
        self._strangers: deque[Peer] = deque()  # oldest first; some are known, or gone, meanwhile
        self._closed_until: float | None = None  # while nobody is let in
        self._scarce_since: float | None = None  # when there began to be no descriptor for anybody
        self._spare = os.dup(self._listener.fileno())  # given up for a moment to send somebody away
        self._selector: selectors.BaseSelector
        self._come: Callable[[], None]

    def open(self, selector: selectors.BaseSelector, come: Callable[[], None]) -> None:
        """From now on `selector` has `come` as the data of whoever comes."""
        self._selector, self._come = selector, come
        selector.register(self._listener, selectors.EVENT_READ, come)

    def accept(self, now: float) -> socket.socket | None:
        """A connection, if there is one; `receive` is to be called with its session."""
        try:
            sock = self._listener.accept()[0]
        except (BlockingIOError, ConnectionError):
            return None  # it has gone again
        except OSError:  # out of descriptors: the waiting connection would wake us for ever
            self._turn_away(now)
            return None
        self._scarce_since = None
        sock.setblocking(False)
        if sock.family == socket.AF_INET:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock

    def _turn_away(self, now: float) -> None:
        """Nobody can be let in. It may be over in a moment; who waits for ever would never know."""
        if self._scarce_since is None:
            self._scarce_since = now
        elif now - self._scarce_since > SCARCITY_PATIENCE and self._spare >= 0:
            spare, self._spare = self._spare, -1
            os.close(spare)
            try:
                while True:
                    with self._listener.accept()[0] as sock:
                        sock.setblocking(False)
                        sock.send(NO_ROOM)
            except OSError:
                pass  # that was the last, or another thread has taken the descriptor
            try:
                self._spare = os.dup(self._listener.fileno())
            except OSError:
                self._scarce_since = None  # it has: the next who comes has to wait as long
        self._close_until(now + PAUSE)

    def receive(self, peer: Peer, now: float) -> None:
        """A stranger has come: he gets his time, and in a crowd the others less."""
        peer.since, peer.patience = now, now + HANDSHAKE_TIMEOUT
        self._strangers.append(peer)
        if len(self._strangers) < MAX_STRANGERS:
            return
        self._strangers = deque(each for each in self._strangers if each.is_stranger)
        if len(self._strangers) >= MAX_STRANGERS:
            oldest = self._strangers[0]
            oldest.patience = oldest.since + HURRY
            # The others wait in line meanwhile, where they lose nothing.
            self._close_until(oldest.patience)

    def look(self, now: float) -> list[Peer]:
        """Whoever has to be sent away."""
        expired = []
        while self._strangers:
            peer = self._strangers[0]
            if peer.is_stranger and peer.patience > now:
                break
            self._strangers.popleft()
            if peer.is_stranger:
                expired.append(peer)
        if self._closed_until is not None and self._closed_until <= now:
            self._closed_until = None
            self._selector.register(self._listener, selectors.EVENT_READ, self._come)
        return expired

    def next_look(self) -> list[float]:
        """When there will be something to do; nothing, if that depends on others."""
        due = [] if self._closed_until is None else [self._closed_until]
        return [*due, self._strangers[0].patience] if self._strangers else due

    def greet(self, peer: Peer) -> bytes | None:
        """Read no more than a greeting; once that is whole, what to answer.

        Raises ValueError if it is not that of a friend, EOFError or OSError if none will come.
        """
        data = peer.socket.recv(GREETING - len(peer.greeting))
        if not data:
            raise EOFError
        peer.greeting += data
        if len(peer.greeting) < GREETING:
            return None
        nonces, proof = peer.nonce + peer.greeting[:NONCE_SIZE], peer.greeting[NONCE_SIZE:]
        if not same(proof, digest(self._key, b"client", self.address, nonces)):
            raise ValueError("a stranger with another key")
        peer.is_stranger = False
        return digest(self._key, b"server", self.address, nonces)

    def close(self) -> None:
        """Close it, and have nobody find it."""
        self.close_socket()
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)  # perhaps somebody was faster
            _leftovers.remove_all(os.path.dirname(self._directory))

    def close_socket(self) -> None:
        """Close it in this process: another goes on."""
        self._listener.close()
        spare, self._spare = self._spare, -1
        if spare >= 0:
            os.close(spare)

    def _close_until(self, moment: float) -> None:
        if self._closed_until is None:
            self._selector.unregister(self._listener)
        self._closed_until = moment


def listening_socket(family: str | None) -> tuple[socket.socket, str | None]:
    """A listening socket, and the directory to remove after it."""
    if family not in (None, "AF_UNIX", "AF_INET"):
        raise ConfigError(f"unknown family {family!r}; it is 'AF_UNIX', 'AF_INET' or None")
    unix = getattr(socket, "AF_UNIX", None) if family != "AF_INET" else None
    if unix is not None:
        try:
            directory = _make_directory()
        except OSError as exc:  # nothing here can be written to: it works without a file, too
            why = f"{exc}"
        else:
            path = os.path.join(directory, _leftovers.SOCKET)
            if len(os.fsencode(path)) <= LONGEST_UNIX_PATH:
                return _bound(unix, path, directory), directory
            shutil.rmtree(directory)
            why = f"{path!r} is too long"
    if family == "AF_UNIX":
        why = "this system has none" if unix is None else f"{why}; set TMPDIR"
        raise ConfigError(f"no unix socket for shared objects: {why}")
    return _bound(socket.AF_INET, ("127.0.0.1", 0), None), None


def _make_directory() -> str:
    """For this user only, who can use it whatever his umask takes away."""
    directory = tempfile.mkdtemp(prefix=_leftovers.directory_prefix())
    os.chmod(directory, 0o700)
    return directory


def _bound(family: int, address: Any, directory: str | None) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.bind(address)
        if directory is not None:
            os.chmod(address, 0o600)  # likewise
        listener.listen(128)
        listener.setblocking(False)
    except BaseException:
        listener.close()
        if directory is not None:
            shutil.rmtree(directory, ignore_errors=True)
        raise
    return listener
