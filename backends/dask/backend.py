"""Dask as a backend: its cluster gives places, and our worker processes there run the calls.

    Executor(backend="dask")                    a cluster of this machine, made for the executor
    Executor(backend="dask://scheduler:8786")   one that is there; also "dask:tls://scheduler:8786"

Dask decides where there is room, and for whom; it never sees a call.  What it is given is one
installed function and a ticket (`entry`), with `retries=0`, `pure=False` and a key of its own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from unirun._errors import ConfigError
from unirun._far_agent import Agent, SharedAgent, share
from unirun._far_backend import FarBackend
from unirun._far_setup import amounts, interface_to, is_loopback, silence_of
from unirun._machine import cpu_count
from unirun.backend import CallOptions, WorkerSpec

if TYPE_CHECKING:
    import ssl

__all__ = ["DaskBackend"]

if find_spec("distributed") is None:
    raise ModuleNotFoundError("No module named 'distributed'", name="distributed")

PORT = 8786


class DaskBackend(FarBackend):
    """Runs calls on a Dask cluster, each in a worker process of ours that can be killed.

    Options: `address` of a scheduler ("host:port", "tcp://…", "tls://…"), else a cluster of this
    machine is started, and ended with the executor; `scheduler_file` instead of it; `ca`, `cert`
    and `key`: files for TLS; `insecure=True` allows a cluster on the network without TLS;
    `linger`: seconds for which a slot is kept that has nothing to run (0.1); `wait_for_workers`:
    seconds until a call that no worker can run fails (20); `worker_resources`: what each worker of
    a cluster of our own offers; `lost_after`: seconds of silence after which a worker is taken for
    gone (30).
    """

    name = "dask"
    option_names = (
        *("address", "scheduler_file", "ca", "cert", "key", "insecure"),
        *("linger", "wait_for_workers", "worker_resources", "lost_after"),
    )
    target: ClassVar[str] = ""
    """The address in a name such as "dask://host:8786"."""

    @classmethod
    def named(cls, name: str) -> type[DaskBackend]:
        """The class for "dask://host:port"."""

        class Named(cls):  # type: ignore[misc, valid-type]
            target = _target(name)

        Named.name = name
        Named.__name__ = Named.__qualname__ = cls.__name__
        return Named

    def __init__(self, spec: WorkerSpec) -> None:
        options = spec.options
        self._address = _address_of(self.target, options)
        self.owns = not self._address
        self.linger = float(options.get("linger", FarBackend.linger))
        self.patience = float(options.get("wait_for_workers", FarBackend.patience))
        self.lost_after = silence_of(options)
        self._files = {name: str(options[name]) for name in _FILES if options.get(name)}
        self._insecure = bool(options.get("insecure", False))
        self._offers = amounts(options.get("worker_resources") or {})
        self._host = _host_of(self._address)
        self._check_security()
        super().__init__(spec)

    def _check_security(self) -> None:
        self._is_local = self.owns or is_loopback(self._host)
        if self._address.startswith("tls://") and len(self._files) < len(_FILES):
            raise ConfigError(
                f"address={self._address!r} needs the files of a certificate; give ca, cert and key"
            )
        if self._is_local or self._insecure or self._address.startswith("tls://"):
            return
        raise ConfigError(
            f"address={self._address!r} is on the network and without TLS, where whoever reaches "
            "it could run code as you; use tls://, or allow it in words by insecure=True"
        )

    def check(self, options: CallOptions) -> None:
        super().check(options)
        wanted = dict(options.resources or {})
        if wanted.get("cpu") == 1:
            del wanted["cpu"]  # which is what every slot has
        if "memory" not in self._offers:
            wanted.pop("memory", None)  # its share of the machine, which is not known yet
        if self.owns and any(self._offers.get(name, 0) < n for name, n in wanted.items()):
            shown = ", ".join(f"{name}={amount:g}" for name, amount in wanted.items())
            self._refuse(
                f"give a call {shown}: its own workers offer {self._offers or 'nothing'}",
                "say worker_resources=, or use a cluster that has them",
            )

    def _engine_needs(self, needs: Any) -> dict[str, float]:
        """One processor is what every slot has; all else workers must have been told they have."""
        return {name: amount for name, amount in needs if (name, amount) != ("cpu", 1)}

    def _make_agent(self, heard: Callable[..., None]) -> Agent | SharedAgent:
        settings = {
            "address": self._address,
            "interface": self._sharing_interface(),
            "workers": (self.spec.max_workers or cpu_count()) if self.owns else 0,
            "resources": self._offers,
            **self._files,
        }
        package = __name__.rpartition(".")[0]
        module, name = f"{package}.agent", f"{self.spec.name}-dask"
        if self.owns:
            return Agent(module, settings, heard, name, _QUIET)
        return share(module, settings, self._run_id, heard, name, _QUIET)

    def _sharing_interface(self) -> str:
        return "127.0.0.1" if self._is_local else interface_to(self._host)

    def _hub_security(self, told: dict[str, Any]) -> ssl.SSLContext | None:
        if not self._address.startswith("tls://"):
            return None
        import ssl

        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=self._files["ca"])
        context.load_cert_chain(self._files["cert"], self._files["key"])
        context.verify_mode = ssl.CERT_REQUIRED
        return context


_FILES = ("ca", "cert", "key")
_QUIET = {
    "DASK_DISTRIBUTED__LOGGING__DISTRIBUTED": "critical",
    "DASK_DISTRIBUTED__ADMIN__LOG_FORMAT": "%(name)s - %(message)s",
}
"""What a lost worker or cluster means is said by our errors."""


def _target(name: str) -> str:
    """The address in a name: "dask://host:port", "dask:tls://host:port"."""
    rest = name.partition(":")[2]
    address = f"tcp:{rest}" if rest.startswith("//") else rest
    if not _host_of(address) or address.partition("://")[0] not in ("tcp", "tls"):
        raise ConfigError(
            f"{name!r} names no cluster; write 'dask://host:port' or 'dask:tls://host:port'"
        )
    return address


def _address_of(target: str, options: Mapping[str, Any]) -> str:
    address = target or str(options.get("address") or "")
    if not address and (path := options.get("scheduler_file")):
        with Path(str(path)).open(encoding="utf-8") as file:
            address = str(json.load(file)["address"])
    if not address:
        return ""
    address = address if "://" in address else f"tcp://{address}"
    return address if re.search(r":\d+$", address) else f"{address}:{PORT}"


def _host_of(address: str) -> str:
    host = address.partition("://")[2]
    return re.sub(r":\d+$", "", host).strip("[]")
