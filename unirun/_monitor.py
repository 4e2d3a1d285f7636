"""A program that can be watched from outside while it runs: `python -m unirun top PID`.

    unirun top ──one line of JSON──> Unix socket (`_monitor_door`) ──> a thread for each client
               <──one line of JSON──

1. Nobody is served but processes of the same user, and nothing is unpickled: a request is one line
   of JSON of MAX_REQUEST bytes at most, an answer another one.
2. A client that is slow, or says nothing, holds up nobody else, and is sent away after PATIENCE.
   There are MOST_CLIENTS at a time.
3. While nobody asks, nothing happens: no figures are gathered, and one thread sleeps.
"""

from __future__ import annotations

import atexit
import json
import os
import socket
import sys
import threading
import time
import warnings
from collections.abc import Callable
from typing import Any

from unirun import _context, _monitor_door, _snapshot
from unirun._deferral import imported
from unirun._errors import ConfigError, NotKillable
from unirun._service import Service, peer_of

__all__ = ["disable_monitor", "enable_by_setting", "enable_monitor"]

MAX_REQUEST = 4096
PATIENCE = 2.0
"""Seconds a client may take to say what it wants, and to read the answer."""
KILL_PATIENCE = 10.0
"""Seconds until it is said that a call that was killed has not ended."""
MOST_CLIENTS = 8


def enable_monitor() -> None:
    """Let `python -m unirun top` show what this process is doing, and kill calls of it.

    The same as the setting `monitor`, or UNIRUN_MONITOR=1. Only processes of the user it runs as
    are served. May be called again.

    Raises:
        ConfigError: not on this system; it needs Linux. Or the directory for such sockets is open
            to others.
        OSError: out of descriptors or threads, or no place for a socket.
    """
    if sys.platform != "linux":
        raise ConfigError(
            "a program can be watched on Linux only; call unirun.dump() in it instead"
        )
    if _service.start(_listen):
        atexit.register(disable_monitor)


def enable_by_setting() -> None:
    """As `enable_monitor`, but in worker processes; what prevents it is no reason not to work."""
    if _context.in_worker_process:
        return
    try:
        enable_monitor()
    except (OSError, RuntimeError, ConfigError) as exc:
        text = f"the setting monitor has no effect: {exc}"
        warnings.warn(text, RuntimeWarning, stacklevel=4)


def disable_monitor() -> None:
    """Serve nobody any more."""
    global _path
    if _owner != os.getpid():
        return  # forked: the socket is the parent's
    path, _path = _path, None
    if path is not None:
        _monitor_door.remove(path)
    if _service.stop():
        atexit.unregister(disable_monitor)
    _clients.send_away()


# The socket's file, which is ours in the process that made it.
_path: str | None = None
_owner = 0


def _listen() -> socket.socket:
    global _path, _owner
    listener, _path = _monitor_door.listen()
    _owner = os.getpid()
    return listener


class _Clients:
    """Those that are being served, each by a thread of its own."""

    def __init__(self) -> None:
        # Guards the dictionary; a socket in it is closed by its thread.
        self._lock = threading.Lock()
        self._threads: dict[socket.socket, threading.Thread] = {}

    def let_in(self, client: socket.socket) -> None:
        """Rule 2."""
        try:
            client.settimeout(PATIENCE)
            if peer_of(client)[1] != os.geteuid():
                client.close()
                return
            thread = threading.Thread(
                target=self._serve, args=(client,), name="unirun-monitor-client", daemon=True
            )
            with self._lock:
                if len(self._threads) >= MOST_CLIENTS:
                    client.close()
                    return
                self._threads[client] = thread
            thread.start()
        except (OSError, RuntimeError):  # it has gone; or there is no thread to be had
            self._forget(client)

    def _serve(self, client: socket.socket) -> None:
        try:
            answer = _answer_to(_request(client))
            client.sendall(json.dumps(answer).encode() + b"\n")
        except OSError:
            return  # it has gone, or does not read
        finally:
            self._forget(client)

    def _forget(self, client: socket.socket) -> None:
        with self._lock:
            self._threads.pop(client, None)
        client.close()

    def send_away(self) -> None:
        with self._lock:
            served = list(self._threads.items())
        for client, thread in served:
            try:
                client.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue  # it is going
            if thread is not threading.current_thread():
                thread.join(PATIENCE)

    def forget_all(self) -> None:
        """In a forked child: threads and clients are the parent's."""
        for client in self._threads:
            client.close()
        self._lock, self._threads = threading.Lock(), {}


def _request(client: socket.socket) -> Any:
    """What it wants; None for what is no request. Raises OSError where none comes in time."""
    data, until = b"", time.monotonic() + PATIENCE
    while b"\n" not in data:
        client.settimeout(max(0.001, until - time.monotonic()))
        part = client.recv(MAX_REQUEST + 1 - len(data))
        data += part
        if not part or len(data) > MAX_REQUEST:
            break
    client.settimeout(PATIENCE)
    try:
        return json.loads(data.partition(b"\n")[0]) if len(data) <= MAX_REQUEST else None
    except (ValueError, RecursionError):
        return None


def _answer_to(request: Any) -> dict[str, Any]:
    """Rule 1: what may be asked, and nothing else."""
    what = request.get("ask") if isinstance(request, dict) else None
    do = _ANSWERS.get(what) if isinstance(what, str) else None
    if do is None:
        return {"error": "that is no request; ask for a snapshot, a dump or a kill"}
    try:
        return do(request)
    except Exception as exc:  # noqa: BLE001  # whoever looks is to see it; the program goes on
        return {"error": f"{type(exc).__name__}: {exc}"}


def _dump(request: dict[str, Any]) -> dict[str, Any]:
    return {"text": imported("unirun._dump").dump()}


def _kill(request: dict[str, Any]) -> dict[str, Any]:
    number = request.get("call")
    future = _snapshot.find(number) if type(number) is int else None
    if future is None:
        return {"killed": False, "text": "it has ended already"}
    if future.cancel():
        return {"killed": True, "text": "it was cancelled before it began"}
    try:
        future._request_kill(None)
    except NotKillable as exc:
        return {"killed": False, "text": str(exc)}
    if not future._wait_ended(KILL_PATIENCE):
        return {"killed": False, "text": f"it has not ended after {KILL_PATIENCE:.0f} s"}
    if future.cancelled():
        return {"killed": True, "text": "it was killed"}
    return {"killed": False, "text": "it has ended by itself"}


_ANSWERS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "snapshot": lambda request: _snapshot.snapshot(),
    "dump": _dump,
    "kill": _kill,
}
_clients = _Clients()
_service = Service("unirun-monitor", _clients.let_in)

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=lambda: _clients.forget_all())
