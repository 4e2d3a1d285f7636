"""The one function that Dask runs for us: it keeps a slot of a worker until it is not needed.

Installed, so it is imported there; asked for by a text (`PROGRAM`), so a worker that cannot import
it says so, instead of failing to unpickle the task and taking itself down.
"""

from __future__ import annotations

from typing import Any

from distributed import get_worker

from unirun._far_host import hold

__all__ = ["PROGRAM", "run"]

PROGRAM = f"__import__('importlib').import_module({__name__!r}).run(ticket, lease)"


def run(ticket: bytes, lease: int) -> str:
    """In a thread of a Dask worker; returns "" or why no call could run here."""
    worker: Any = get_worker()
    security = worker.security.get_connection_args("worker").get("ssl_context")
    return hold(ticket, lease, worker.state.nthreads, security)
