"""The process that is a client of Dask on our behalf; see `unirun._far_client`.

It also has the directory of the cluster that was started for an executor, and removes it.
"""

from __future__ import annotations

import itertools
import logging
import os
import shutil
import tempfile
from typing import Any

import distributed
from distributed.system import MEMORY_LIMIT

from unirun._far_client import CONNECT, Client

from .entry import PROGRAM
from .resources import ask, offers

__all__ = ["main"]

dask: Any = distributed  # most of it has no types
_LOGGERS = "distributed.client", "distributed.gc"
"""Those to which the level of "distributed" does not apply, and that no variable reaches."""


class DaskClient(Client):
    engine = "Dask"

    def __init__(self, pipe: Any, settings: dict[str, Any]) -> None:
        super().__init__(pipe, settings)
        self._cluster: Any = None
        self._client: Any = None
        self._directory: str | None = None
        self._keys = itertools.count(1)
        self._workers: list[dict[str, Any]] = []  # as last seen

    def connect(self) -> dict[str, Any]:
        settings = self.settings
        for name in _LOGGERS:
            logging.getLogger(name).setLevel(logging.CRITICAL)
        security = dask.Security()
        if settings.get("ca"):
            security = dask.Security(
                tls_ca_file=settings["ca"],
                tls_client_cert=settings["cert"],
                tls_client_key=settings["key"],
                require_encryption=True,
            )
        address: Any = settings["address"] or self._own_cluster()
        self._client = dask.Client(
            address, security=security, timeout=CONNECT, set_as_default=False, name="unirun"
        )
        return {"interface": settings["interface"]}

    def _own_cluster(self) -> Any:
        self._directory = tempfile.mkdtemp(prefix="unirun-dask-")
        settings = self.settings
        self._cluster = dask.LocalCluster(
            n_workers=settings["workers"],
            threads_per_worker=1,
            processes=True,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
            local_directory=self._directory,
            memory_limit=0,  # calls run in processes of ours, which have limits of their own
            silence_logs=50,
            resources={"memory": MEMORY_LIMIT // settings["workers"], **settings["resources"]},
        )
        return self._cluster

    def trouble(self) -> str | None:
        status = self._client.status
        return None if status == "running" else f"its scheduler is {status}"

    def info(self) -> dict[str, Any]:
        identity = self._client.sync(self._client.scheduler.identity, n_workers=-1)
        self._workers = offers(identity)
        return {"workers": self._workers, "may_grow": self._cluster is None}

    def submit(self, ticket: bytes, lease: int, needs: dict[str, float]) -> Any:
        run = os.urandom(4).hex()
        return self._client.submit(
            eval,
            PROGRAM,
            {"ticket": ticket, "lease": lease},
            key=f"unirun-{run}-{os.getpid()}-{next(self._keys)}",
            pure=False,
            retries=0,
            **ask(needs, self._workers),
        )

    def withdraw(self, future: Any) -> None:
        future.cancel()

    def report(self, future: Any) -> str:
        if future.status == "error":
            error = future.exception()
            return f"{type(error).__name__}: {error}"
        if future.status == "finished":
            return str(future.result())
        return "" if future.status == "cancelled" else f"the task is {future.status}"

    def disconnect(self) -> None:
        for item in (self._client, self._cluster):
            try:
                if item is not None:
                    item.close(timeout=2)
            except Exception:  # it is gone already, or does not end in time  # noqa: BLE001
                continue
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)


main = DaskClient.main
