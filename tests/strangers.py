"""Those who come to the manager's door by a socket of their own, with good or bad intentions."""

import contextlib
import secrets
import select
import socket
from collections.abc import Iterator
from typing import Any

from parties import PATIENCE, ProcessParty, ThreadParty
from places import AnyManager

from unirun._channel import FrameReader, frame
from unirun._connect import DIGEST_SIZE, NONCE_SIZE, SEAT, digest


@contextlib.contextmanager
def stranger(manager: AnyManager) -> Iterator[socket.socket]:
    """A connection of somebody who has not said anything yet."""
    family = socket.AF_INET if isinstance(manager.address, tuple) else socket.AF_UNIX
    with socket.socket(family) as sock:
        sock.connect(manager.address)  # waits, if there is a line
        sock.settimeout(PATIENCE)
        yield sock


@contextlib.contextmanager
def many_strangers(manager: AnyManager, number: int) -> Iterator[list[socket.socket]]:
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(stranger(manager)) for _ in range(number)]


def greeting(manager: AnyManager, nonce: bytes, key: bytes | None = None) -> bytes:
    """What somebody who knows that key says after that nonce."""
    mine = secrets.token_bytes(NONCE_SIZE)
    return mine + digest(key or manager.key, b"client", manager.address, nonce + mine)


def befriend(manager: AnyManager, sock: socket.socket) -> None:
    """Prove that we know the key; what is wrong comes later."""
    theirs = receive(sock, NONCE_SIZE)
    said = greeting(manager, theirs)
    sock.sendall(said)
    proof = digest(manager.key, b"server", manager.address, theirs + said[:NONCE_SIZE])
    assert receive(sock, DIGEST_SIZE + SEAT.size)[:DIGEST_SIZE] == proof


def receive(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = sock.recv(size - len(data))
        assert piece, "it was sent away"
        data += piece
    return data


def ask(sock: socket.socket, *message: object) -> tuple[str, object]:
    """Status and value of a request made by hand: its id, operation, object and arguments."""
    sock.sendall(frame((*message, None, None)))
    reader = FrameReader()
    while not (answers := reader.receive(sock)):
        continue
    ((_, status, value),) = answers
    return status, value


def ended(sock: socket.socket) -> bool:
    """Whether the manager has ended that connection, at the latest soon."""
    try:
        while sock.recv(1 << 16):
            continue
    except ConnectionError:
        pass  # it did not even read what we had sent
    return True


def has_ended(sock: socket.socket, patience: float) -> bool:
    return bool(select.select([sock], [], [], patience)[0]) and ended(sock)


# -- whoever has good intentions ------------------------------------------------------------------


def put(q: Any, item: Any) -> None:
    q.put(item)


def get(q: Any) -> Any:
    return q.get(timeout=PATIENCE)


def is_served(q: Any, party: ProcessParty) -> bool:
    """Whether somebody who comes now, and knows the key, gets in and through."""
    party.start(put_anew, q, "served").result()
    return bool(get(q) == "served")


def put_anew(q: Any, item: Any) -> None:
    """By a connection of its own: each thread has one."""
    ThreadParty().start(put, q, item).result()
