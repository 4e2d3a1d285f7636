"""What every process that is a client of an engine on our behalf does; see `unirun._far_agent`.

    ask  ─▶ submit(...) ─▶ the engine runs its task: a lease begins on some worker
    gone ◀─ its future is done, in whatever way

It also has the cluster that was started for an executor, and closes it.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from abc import ABC, abstractmethod

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from unirun._far_agent import Pipe

__all__ = ["Client"]

CONNECT = 5.0
"""Seconds in which a cluster answers."""
LOOK = 0.25
"""Seconds between two looks at the head of the cluster."""
LOST = 1.0
"""Seconds without it until the cluster is taken for lost."""
REFRESH = 1.0
"""Seconds between two looks at its workers."""


class Client(ABC):
    """Owns the client of the engine and, if it is ours, the cluster."""

    engine: str

    def __init__(self, pipe: Pipe, settings: dict[str, Any]) -> None:
        self._pipe = pipe
        self.settings = settings
        self._leases: dict[tuple[str, int], Any] = {}
        self._over = threading.Event()

    # -- of one engine ----------------------------------------------------------------------------

    @abstractmethod
    def connect(self) -> dict[str, Any]:
        """Attach, or start a cluster; tells what is known of it besides its workers."""

    @abstractmethod
    def trouble(self) -> str | None:
        """What is wrong with the head of the cluster, found without waiting for it."""

    @abstractmethod
    def info(self) -> dict[str, Any]:
        """Its workers; may raise whatever it likes while the cluster is being lost."""

    @abstractmethod
    def submit(self, ticket: bytes, lease: int, needs: dict[str, float]) -> Any:
        """Have the engine begin a lease; returns its future."""

    @abstractmethod
    def withdraw(self, future: Any) -> None:
        """Nobody needs that lease any more."""

    @abstractmethod
    def report(self, future: Any) -> str:
        """What has become of a lease: "", what it says itself, or why there was none."""

    @abstractmethod
    def disconnect(self) -> None:
        """Let go of the cluster, or end it if it is ours."""

    # -- what they have in common -----------------------------------------------------------------

    @classmethod
    def main(cls, pipe: Pipe, settings: dict[str, Any]) -> None:
        """Serve the pipe until it ends; never returns."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the business of the program
        client = cls(pipe, settings)
        status = 0
        try:
            told = client.connect()
            client.say("ready", {**told, **client.info()})
            for task in (client._watch, client._refresh):
                threading.Thread(target=task, daemon=True).start()
            client._serve()
        except BaseException as exc:  # whatever an engine raises is told  # noqa: BLE001
            why = f"{type(exc).__name__}: {exc}"
            client.say("failed", f"{client.engine} cannot be used: {why}")
            status = 1
        finally:
            client._over.set()
            client.disconnect()
            os._exit(status)  # its threads and loops are nobody's any more

    def say(self, *message: Any) -> None:
        try:
            self._pipe.send(*message)
        except OSError:
            pass  # the program has gone; `_serve` sees it

    def _serve(self) -> None:
        while True:
            try:
                message = self._pipe.receive()
            except EOFError:
                return
            if message[0] == "ask":
                self._ask(*message[1:])
            elif message[0] == "drop":
                self._drop(*message[1:])

    def _ask(self, run: str, ticket: bytes, asked: list[tuple[int, dict[str, float]]]) -> None:
        for lease, needs in asked:
            future = self.submit(ticket, lease, needs)
            self._leases[run, lease] = future
            future.add_done_callback(lambda future, lease=lease: self._gone(run, lease, future))

    def _gone(self, run: str, lease: int, future: Any) -> None:
        """In a thread of the engine."""
        report = ""
        if self._leases.pop((run, lease), None) is not None:
            try:
                report = self.report(future)
            except Exception as exc:  # of a lease that was lost meanwhile  # noqa: BLE001
                report = f"{type(exc).__name__}: {exc}"
        self.say("gone", run, lease, report)

    def _drop(self, run: str, lease: int) -> None:
        # Whoever takes a lease out has its future: none is withdrawn while its report is fetched,
        # for the engine would complain, in the program's stderr, of a result that is not there.
        future = self._leases.pop((run, lease), None)
        if future is not None:
            self.withdraw(future)

    def _watch(self) -> None:
        """Tell of a cluster that is gone."""
        seen = time.monotonic()
        while not self._over.wait(LOOK):
            why = self.trouble()
            if why is None:
                seen = time.monotonic()
            elif time.monotonic() - seen > LOST:
                self.say("lost", why)
                return

    def _refresh(self) -> None:
        """Tell of a cluster that changes; a thread of its own, for it may wait for a lost one."""
        before: Any = None
        while not self._over.wait(REFRESH):
            try:
                info = self.info()
            except Exception:  # it is being lost, which `_watch` tells  # noqa: BLE001
                continue
            if info != before:
                before = info
                self.say("info", info)
