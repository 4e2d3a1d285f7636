"""The program's end of the lines from all places where an engine runs its calls.

    a place ── Line ──▶ its thread here ──▶ heard(host, what, *args)
            ── Line ──▶ its thread here ──▶ a manager of shared objects (`_far_tunnel`)

Owns the listening socket, the thread that accepts, and a thread and a line for each place and for
each tunnel of one.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable

from unirun._far_lines import BEAT, Line, arrivals, welcome
from unirun._far_tunnel import TUNNEL, carry, to_manager
from unirun._prompt import Thread

TYPE_CHECKING = False
if TYPE_CHECKING:
    import ssl
    from typing import Any

__all__ = ["Hub"]

MAX_STRANGERS = 64
"""Who may stand in the door, not having said yet who he is."""


class Hub:
    """Lets in whoever knows the key; `heard` is called in the thread of each line.

    Of each line it hears "hello" first, and "hung up" last.
    """

    def __init__(
        self,
        interface: str,
        key: bytes,
        security: ssl.SSLContext | None,
        heard: Callable[..., None],
        name: str,
        lost_after: float = 30.0,
    ) -> None:
        """`lost_after`: seconds of silence after which a place is taken for gone."""
        self._lost_after = lost_after
        self._key = key
        self._security = security
        self._heard = heard
        self._name = name
        family = socket.AF_INET6 if ":" in interface else socket.AF_INET
        self._listener = socket.create_server((interface, 0), family=family, backlog=128)
        self.address: tuple[str, int] = self._listener.getsockname()[:2]
        # Guards what is below; notified when a line has ended.
        self._changed = threading.Condition()
        self._lines: dict[int, Line] = {}
        self._tunnels: dict[int, set[Line]] = {}  # by place
        self._threads: set[Thread] = set()
        self._count = 0
        self._closed = False
        self._door = threading.BoundedSemaphore(MAX_STRANGERS)
        self._thread = Thread(self._accept, f"{name}-door")
        self._thread.start()

    def send(self, host: int, *message: Any) -> None:
        """Nothing happens if it has hung up; ValueError for what cannot be marshalled."""
        line = self._lines.get(host)
        if line is not None:
            try:
                line.send(*message)
            except OSError:
                line.close()  # its thread will say so

    def send_all(self, *message: Any) -> int:
        """To every place; returns how many there are."""
        hosts = list(self._lines)
        for host in hosts:
            self.send(host, *message)
        return len(hosts)

    def _accept(self) -> None:
        for sock in arrivals(self._listener, lambda: self._closed):
            if not self._door.acquire(timeout=0.05):
                sock.close()
                continue
            with self._changed:
                self._count += 1
                thread = Thread(self._serve, f"{self._name}-line", (sock, self._count))
                self._threads.add(thread)
            thread.start()

    def _serve(self, sock: socket.socket, host: int) -> None:
        try:
            try:
                line = welcome(sock, self._key, self._security)
            except (OSError, ValueError):
                return  # a stranger
            finally:
                self._door.release()
            self._take(line, host)
        finally:
            with self._changed:
                self._threads.discard(threading.current_thread())
                self._changed.notify_all()

    def _take(self, line: Line, host: int) -> None:
        try:
            first = line.receive(self._lost_after)
        except (EOFError, OSError, ValueError):
            line.close()
            return
        if first[0] == TUNNEL:
            self._carry(line, *first[1:])
            return
        line.watch(self._lost_after)
        with self._changed:
            if self._closed:
                line.close()
                return
            self._lines[host] = line
            self._tunnels[host] = set()
        self._listen_to(line, host, first)

    def _carry(self, line: Line, host: int, name: str) -> None:
        """Rule 2 of `_far_tunnel`: as long as its place has a line."""
        with self._changed:
            if self._closed or host not in self._lines:
                line.close()
                return
            tunnels = self._tunnels[host]
            tunnels.add(line)
        try:
            carry(to_manager(name), line)
        except OSError:
            line.close()  # which says so
        finally:
            with self._changed:
                tunnels.discard(line)

    def _listen_to(self, line: Line, host: int, first: tuple[Any, ...]) -> None:
        try:
            self._heard(host, *first)
            while True:
                message = line.receive(self._lost_after)
                if message[0] != BEAT:
                    self._heard(host, *message)
        except (EOFError, OSError, ValueError):
            pass  # it has ended, or says what nobody of ours says
        finally:
            with self._changed:
                del self._lines[host]
                tunnels = list(self._tunnels.pop(host))
            for each in (line, *tunnels):
                each.close()
            self._heard(host, "hung up")

    def wait_until_empty(self, seconds: float) -> bool:
        """Whether every place has hung up by then."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._lines, seconds)

    def close(self) -> None:
        """Let nobody in any more, and hang up."""
        with self._changed:
            self._closed = True
            lines, threads = list(self._lines.values()), list(self._threads)
            lines += [line for tunnels in self._tunnels.values() for line in tunnels]
        try:
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes who accepts
        except OSError:
            pass  # not everywhere
        self._listener.close()
        for line in lines:
            line.close()
        for thread in [*threads, self._thread]:
            thread.ends_within(2.0)

    def disown(self) -> None:
        """In a forked child: close our copies."""
        self._listener.close()
        tunnels = [line for of_place in self._tunnels.values() for line in of_place]
        for line in [*self._lines.values(), *tunnels]:
            line.close_in_fork()


def new_key() -> bytes:
    return os.urandom(32)
