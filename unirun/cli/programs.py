"""Running programs that may be watched: which there are, and how one is asked."""

from __future__ import annotations

import json
import os
import socket
import time
from pathlib import Path
from typing import Any

import psutil

from unirun import _monitor_door
from unirun._errors import ConfigError
from unirun._service import peer_of
from unirun.cli.status import WrongUse

__all__ = ["Ended", "Processes", "Silent", "ask", "described", "is_stopped", "the_one"]

PATIENCE = 2.0
"""Seconds for a program to answer."""
KILL_PATIENCE = 15.0
MAX_ANSWER = 1 << 26
"""Bytes; who sends more is not what we take it for."""


class Ended(Exception):
    """The program is not there any more, or does not let itself be watched."""


class Silent(Exception):
    """The program is there and says nothing."""


def ask(pid: int, what: str, **more: Any) -> dict[str, Any]:
    """What that process answers. Raises Ended, Silent, or WrongUse if it will not answer us."""
    patience = KILL_PATIENCE if what == "kill" else PATIENCE
    request = json.dumps({"ask": what, **more}).encode() + b"\n"
    try:
        sock = _connected(pid)
    except TimeoutError:
        raise Silent from None
    except OSError as exc:
        raise Ended from exc
    with sock:
        try:
            if peer_of(sock) != (pid, os.geteuid()):
                raise WrongUse(f"somebody else answers in the name of process {pid}")
            sock.sendall(request)
            data = _received(sock, time.monotonic() + patience)
        except TimeoutError:
            raise Silent from None
        except OSError:  # it has closed the door, or ended this moment
            if not psutil.pid_exists(pid):
                raise Ended from None
            data = b""
    if not data:
        raise WrongUse(f"process {pid} serves others already, or does not serve this user")
    try:
        answer: dict[str, Any] = json.loads(data)
    except ValueError as exc:
        raise WrongUse(f"process {pid} cannot be understood; is it another version?") from exc
    if "error" in answer:
        raise WrongUse(f"process {pid} says: {answer['error']}")
    return answer


def _connected(pid: int) -> socket.socket:
    try:
        place = _monitor_door.directory()
    except ConfigError as exc:
        raise WrongUse(str(exc)) from exc
    if place is None:
        raise FileNotFoundError(place)
    try:
        return _monitor_door.connect(f"{place}/{_monitor_door.name_of(pid)}", PATIENCE)
    except BlockingIOError:  # so many wait there
        raise TimeoutError from None


def _received(sock: socket.socket, until: float) -> bytes:
    parts: list[bytes] = []
    size = 0
    while True:
        sock.settimeout(max(0.001, until - time.monotonic()))
        data = sock.recv(1 << 16)
        if not data:
            return b"".join(parts)
        parts.append(data)
        size += len(data)
        if size > MAX_ANSWER:
            raise WrongUse("the program answers without end; is it another version?")


def the_one(pid: int | None) -> int:
    """That process if it can be watched; without a number the only one that can.

    Raises WrongUse that says why there is none, or which there are.
    """
    if pid is not None:
        if not psutil.pid_exists(pid):
            raise WrongUse(f"there is no process {pid}")
        if not _has_door(pid):
            raise WrongUse(
                f"process {pid} cannot be watched; start it with UNIRUN_MONITOR=1, or have it call "
                "unirun.enable_monitor()"
            )
        return pid
    pids = _programs()
    if not pids:
        raise WrongUse(
            "no program of this user can be watched; start one with UNIRUN_MONITOR=1, or have it "
            "call unirun.enable_monitor()"
        )
    if len(pids) > 1:
        which = "\n".join(f"  {each:7}  {described(each)}" for each in pids)
        raise WrongUse(f"there are several programs; say which, as in 'unirun top PID':\n{which}")
    return pids[0]


def _has_door(pid: int) -> bool:
    _programs()  # which sees to sockets of the dead
    try:
        return Path(f"{_monitor_door.directory()}/{_monitor_door.name_of(pid)}").exists()
    except OSError:  # somebody else's
        return False


def _programs() -> list[int]:
    try:
        return _monitor_door.found()
    except ConfigError as exc:
        raise WrongUse(str(exc)) from exc


def described(pid: int) -> str:
    try:
        return " ".join(psutil.Process(pid).cmdline())
    except psutil.Error:
        return "it has ended"


class Processes:
    """CPU and memory of processes, as the system tells them; nobody else is asked."""

    def __init__(self) -> None:
        self._known: dict[int, psutil.Process] = {}

    def look(self, pids: set[int]) -> dict[int, tuple[float, int]]:
        """By process: percent of one core since the last look, and bytes of memory."""
        for pid in self._known.keys() - pids:
            del self._known[pid]
        found = {}
        for pid in pids:
            try:
                process = self._known.get(pid) or psutil.Process(pid)
                self._known[pid] = process
                with process.oneshot():
                    found[pid] = (process.cpu_percent(None), process.memory_info().rss)
            except psutil.Error:
                self._known.pop(pid, None)
        return found


def is_stopped(pid: int) -> bool:
    """Whether a signal has stopped that process."""
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_STOPPED)
    except psutil.Error:
        return False
