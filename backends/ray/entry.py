"""The one function that Ray runs for us: it keeps a worker of its until it is not needed."""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import TYPE_CHECKING

from unirun._far_host import hold

if TYPE_CHECKING:
    import ssl

__all__ = ["run", "security_of"]

LOOK = 2.0
"""Seconds between two looks at the raylet: so long that a lost head is noticed before its node."""


def run(ticket: bytes, lease: int) -> str:
    """In the main thread of a Ray worker; returns "" or why no call could run here."""
    _leave_with_raylet()
    # A request that is withdrawn just when its lease begins is interrupted by Ray, while the
    # program says that it is over.
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        return hold(ticket, lease, 1, security_of(server=False))
    finally:
        signal.signal(signal.SIGINT, before)


_watched = threading.Event()


def _leave_with_raylet() -> None:
    """Ray lets a task end before the worker follows its raylet, and a lease may last.

    For the cluster, and so for the program, what runs here is lost.
    """
    if not _watched.is_set():
        _watched.set()
        threading.Thread(target=_watch, args=(os.getppid(),), daemon=True).start()


def _watch(raylet: int) -> None:
    while os.getppid() == raylet:
        time.sleep(LOOK)
    os._exit(1)


def security_of(*, server: bool) -> ssl.SSLContext | None:
    """TLS with the files that Ray itself was given on this machine, if it was given any."""
    if os.environ.get("RAY_USE_TLS", "0").lower() not in ("1", "true"):
        return None
    import ssl

    purpose = ssl.Purpose.CLIENT_AUTH if server else ssl.Purpose.SERVER_AUTH
    context = ssl.create_default_context(purpose, cafile=os.environ.get("RAY_TLS_CA_CERT"))
    context.load_cert_chain(os.environ["RAY_TLS_SERVER_CERT"], os.environ["RAY_TLS_SERVER_KEY"])
    context.check_hostname = False  # as Ray: who has a certificate of that authority belongs there
    context.verify_mode = ssl.CERT_REQUIRED
    return context
