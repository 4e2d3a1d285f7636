"""The process that is a driver of Ray on our behalf; see `unirun._far_client`.

Ray ends a driver whose head is gone, without a word: so it is never the program, and here we look
at the head ourselves.
"""

from __future__ import annotations

import os
import shutil
import socket
from typing import Any

import ray

from unirun._far_client import CONNECT, Client

from .entry import run

__all__ = ["main"]

engine: Any = ray  # some of it has no types

STORE = 80 << 20
"""Bytes of Ray's object store, about the least it takes: what calls get and give passes it by."""
_NAMES = {"CPU": "cpu", "GPU": "gpu", "memory": "memory"}
_CLIENT = "ray://"


class RayClient(Client):
    engine = "Ray"

    def connect(self) -> dict[str, Any]:
        _be_quiet()
        address = self.settings["address"]
        quiet = {"log_to_driver": False, "logging_level": "critical", "namespace": "unirun"}
        if not address:
            self._start(quiet)
        else:
            if address != "auto":
                _reach(address.removeprefix(_CLIENT), CONNECT)
            engine.init(address, **quiet)
        self._head = address.removeprefix(_CLIENT)
        if not address.startswith(_CLIENT):
            self._head = engine.get_runtime_context().gcs_address
        self._task = engine.remote(max_retries=0)(run)
        # What a worker may see of the GPUs is settled when it starts, so each lease has its own.
        self._task_with_gpu = engine.remote(max_retries=0, max_calls=1)(run)
        return {"interface": self._interface()}

    def _start(self, quiet: dict[str, Any]) -> None:
        offers = dict(self.settings["resources"])
        engine.init(
            "local",
            num_cpus=self.settings["workers"],
            num_gpus=offers.pop("gpu", 0),
            resources=offers,
            object_store_memory=STORE,
            include_dashboard=False,
            _node_ip_address="127.0.0.1",
            _temp_dir=self.settings["directory"],
            **quiet,
        )

    def _interface(self) -> str:
        """Where workers reach this machine; the program, if it is told of none, is beside us."""
        return self.settings["interface"] or str(engine.util.get_node_ip_address())

    def trouble(self) -> str | None:
        try:
            _reach(self._head, 1.0)
        except ConnectionError as exc:
            return str(exc)
        return None

    def info(self) -> dict[str, Any]:
        nodes = [node for node in engine.nodes() if node["Alive"]]
        self._check_security({node["NodeManagerAddress"] for node in nodes})
        workers = [
            {
                "name": node["NodeID"],
                "slots": int(node["Resources"].get("CPU", 0)),
                "resources": {
                    _NAMES.get(name, name): float(amount)
                    for name, amount in node["Resources"].items()
                },
            }
            for node in nodes
        ]
        return {"workers": workers, "may_grow": bool(self.settings["address"])}

    def _check_security(self, hosts: set[str]) -> None:
        """Of a cluster whose address says nothing of where it is."""
        others = hosts - {self._interface()}
        if others and self.settings["address"] == "auto" and not self.settings["insecure"]:
            raise PermissionError(
                f"the cluster is on the network ({min(others)}) and without TLS, where whoever "
                "reaches it could run code as you; use TLS, or allow it in words by insecure=True"
            )

    def submit(self, ticket: bytes, lease: int, needs: dict[str, float]) -> Any:
        tags = dict(needs)
        cpu, gpu, memory = (tags.pop(name, None) for name in ("cpu", "gpu", "memory"))
        task = self._task_with_gpu if gpu else self._task
        options = {"num_cpus": cpu, "num_gpus": gpu, "memory": memory, "name": "unirun"}
        ref = task.options(**options, resources=tags).remote(ticket, lease)
        future = ref.future()
        future.ref = ref
        return future

    def withdraw(self, future: Any) -> None:
        engine.cancel(future.ref)

    def report(self, future: Any) -> str:
        error = future.exception()
        if error is None:
            return str(future.result())
        if isinstance(error, engine.exceptions.TaskCancelledError):
            return ""
        cause = getattr(error, "cause", None) or error
        return f"{type(cause).__name__}: {str(cause).strip().splitlines()[-1]}"

    def disconnect(self) -> None:
        """A head that is gone would be waited for; what is ours is killed after us."""
        if hasattr(self, "_head") and self.trouble() is None:
            engine.shutdown()
        if directory := self.settings["directory"]:
            shutil.rmtree(directory, ignore_errors=True)


def _be_quiet() -> None:
    """Ray prints what it hears of its nodes, here to where the program writes its results."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    os.close(nowhere)


def _reach(address: str, seconds: float) -> None:
    """Raises ConnectionError if nobody listens there."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), seconds).close()
    except OSError as exc:
        raise ConnectionError(f"its head at {address} does not answer: {exc}") from exc


main = RayClient.main
