"""What a manager process runs: the host of shared objects, and nothing else.

It is started by `_manager_process`, which tells what the two say to each other.  It hears nothing
of the terminal, keeps nothing of its owner's open, and ends when its owner does.
"""

from __future__ import annotations

import os
import signal
import socket
import tempfile
from collections import deque
from collections.abc import Sequence
from typing import Any

from unirun import _hangs
from unirun._channel import FrameReader, frame
from unirun._host import Host
from unirun._sessions import Peer


def main() -> None:
    """Serve until the owner ends us, or is gone; never returns."""
    # Our session is our own, so nothing of the terminal should come; what somebody sends to all
    # processes of a program is for the owner to decide.
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    owner = socket.socket(fileno=0)
    try:
        pid, key, family, tempfile.tempdir, _hangs.warn_after = _what_to_do(owner)
        lifelines = _pidfds(pid)
        os.chdir(os.sep)  # lest the owner's directory cannot be removed
        host = DistantHost(family, key, owner, lifelines)
    except Exception as exc:  # noqa: BLE001  # whatever it is, the owner has to be told
        owner.sendall(frame((False, f"{type(exc).__name__}: {exc}")))
        os._exit(1)
    host.say_address()
    host.join()
    os._exit(0)  # nobody is left to see a longer farewell


def _what_to_do(owner: socket.socket) -> Any:
    reader = FrameReader()
    said: list[Any] = []
    while not said:
        said = reader.receive(owner)
    return said[0]


def _pidfds(owner: int) -> list[int]:
    """The owner's end as an event, beside that of its socket, which a fork of it may keep open."""
    if not hasattr(os, "pidfd_open"):
        return []
    try:
        pidfd = os.pidfd_open(owner)
    except OSError:
        return []  # an old kernel; or the owner is dead, and its socket will say so
    if os.getppid() != owner:
        os._exit(1)  # it died before that, and this may be another of its number
    return [pidfd]


class DistantHost(Host):
    """A host whose owner is another process."""

    def __init__(
        self, family: str | None, key: bytes, owner: socket.socket, lifelines: Sequence[int]
    ) -> None:
        owner.setblocking(False)
        self._owner = Peer(owner, self._has_unsent)
        self._owner.is_stranger = False
        self._unsaid: deque[tuple[Peer, int]] = deque()  # who waits for the owner to have said it
        super().__init__(family, key, lifelines)
        self._barriers.find_out_by(self._ask_owner)
        self._barriers.say = self._have_said

    def say_address(self) -> None:
        """The first thing that the owner is told."""
        with self._lock:
            self._owner.push(frame((True, self.address)))

    def _run(self) -> None:
        self._peers.add(self._owner)
        self._watch(self._owner)
        super()._run()

    def _say_left(self, peer: Peer, request_id: int, task: str, names: list[str]) -> None:
        if not names:
            super()._say_left(peer, request_id, task, names)
            return
        self._unsaid.append((peer, request_id))
        with self._lock:
            self._owner.push(frame((task, names)))

    def _ask_owner(self, object_id: int, parties: int, standing: list[Any]) -> None:
        """Whether all of a pool stand in that barrier: the pools are there."""
        with self._lock:
            self._owner.push(frame((object_id, parties, standing)))

    def _have_said(self, text: str) -> None:
        """A warning; people are where the owner is."""
        with self._lock:
            self._owner.push(frame((text,)))

    def _handle(self, peer: Peer, message: Any) -> bool:
        if peer is not self._owner:
            return super()._handle(peer, message)
        if isinstance(message, tuple):
            self._barriers.give_up(*message)
            return True
        waiting, request_id = self._unsaid.popleft()
        if waiting in self._peers:
            waiting.deliver(request_id, "ok", None)
        return True

    def _drop(self, peer: Peer) -> None:
        if peer is self._owner:
            self.stop()
        super()._drop(peer)
