"""Ray as a backend: its cluster gives places, and our worker processes there run the calls.

    Executor(backend="ray")                   a cluster of this machine, made for the executor
    Executor(backend="ray:auto")              the one that runs on this machine, or RAY_ADDRESS
    Executor(backend="ray:head:6379")         one that this machine is a node of
    Executor(backend="ray://head:10001")      one that is reached by Ray Client

Ray decides where there is room, and for whom; it never sees a call.  What it is given is one
installed function and a ticket (`entry`), with `max_retries=0`.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, ClassVar

from unirun._errors import ConfigError
from unirun._far_agent import Agent, SharedAgent, share
from unirun._far_backend import FarBackend
from unirun._far_setup import amounts, interface_to, is_loopback, silence_of
from unirun._machine import cpu_count
from unirun.backend import WorkerSpec

from .entry import security_of

if TYPE_CHECKING:
    import ssl

__all__ = ["RayBackend"]

if find_spec("ray") is None:
    raise ModuleNotFoundError("No module named 'ray'", name="ray")

PORT, CLIENT_PORT = 6379, 10001
LONGEST = 30
"""Characters of the path of a cluster's directory, under which it has sockets with long names."""


class RayBackend(FarBackend):
    """Runs calls on a Ray cluster, each in a worker process of ours that can be killed.

    Options: `address` of a cluster ("auto", "head:6379", "ray://head:10001"), else one of this
    machine is started, and ended with the executor; `insecure=True` allows one on the network
    without TLS; `linger`: seconds for which a worker is kept that has nothing to run (0.1);
    `wait_for_workers`: seconds until a call that no node can run fails (20); `worker_resources`:
    what a cluster of our own offers beside processors; `lost_after`: seconds of silence after which
    a worker is taken for gone (30).
    """

    name = "ray"
    option_names = (
        *("address", "insecure", "linger"),
        *("wait_for_workers", "worker_resources", "lost_after"),
    )
    target: ClassVar[str] = ""
    """The address in a name such as "ray:auto"."""

    @classmethod
    def named(cls, name: str) -> type[RayBackend]:
        """The class for "ray:auto", "ray:host:port" and "ray://host:port"."""
        rest = name.partition(":")[2]

        class Named(cls):  # type: ignore[misc, valid-type]
            target = _address_of(f"ray:{rest}" if rest.startswith("//") else rest, name)

        Named.name = name
        Named.__name__ = Named.__qualname__ = cls.__name__
        return Named

    def __init__(self, spec: WorkerSpec) -> None:
        options = spec.options
        given = str(options.get("address") or "")
        self._address = self.target or (_address_of(given, f"address={given}") if given else "")
        self.owns = not self._address
        self.linger = float(options.get("linger", FarBackend.linger))
        self.patience = float(options.get("wait_for_workers", FarBackend.patience))
        self.lost_after = silence_of(options)
        self._insecure = (
            bool(options.get("insecure", False)) or security_of(server=True) is not None
        )
        self._offers = amounts(options.get("worker_resources") or {})
        self._host = _host_of(self._address)
        self._directory = ""
        self._check_security()
        super().__init__(spec)

    def _check_security(self) -> None:
        """For "auto", the agent does once it knows."""
        if self._address in ("", "auto") or is_loopback(self._host) or self._insecure:
            return
        raise ConfigError(
            f"address={self._address!r} is on the network and without TLS, where whoever reaches "
            "it could run code as you; set up Ray's TLS, or allow it in words by insecure=True"
        )

    def _engine_needs(self, needs: Any) -> dict[str, float]:
        return {"cpu": 1.0, **dict(needs)}

    def _make_agent(self, heard: Callable[..., None]) -> Agent | SharedAgent:
        package = __name__.rpartition(".")[0]
        module, name = f"{package}.agent", f"{self.spec.name}-ray"
        settings = {
            "address": self._address,
            "interface": self._known_interface(),
            "insecure": self._insecure,
            "workers": (self.spec.max_workers or cpu_count()) if self.owns else 0,
            "resources": self._offers,
            "directory": "",
        }
        if not self.owns:
            ambient = {} if self._address == "auto" else {"RAY_ADDRESS": ""}
            return share(module, settings, self._run_id, heard, name, {**_QUIET, **ambient})
        # Who may connect is who knows this; the agent and what it starts have it from there.
        token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        self._directory = settings["directory"] = _make_directory()
        return Agent(module, settings, heard, name, {**_QUIET, **_OWN, **token})

    def _known_interface(self) -> str:
        """Where workers reach this process; "" if that is wherever its node is."""
        if self.owns or is_loopback(self._host):
            return "127.0.0.1"
        return interface_to(self._host) if self._address.startswith(_CLIENT) else ""

    def _hub_security(self, told: dict[str, Any]) -> ssl.SSLContext | None:
        return None if self.owns else security_of(server=True)

    def _release(self) -> None:
        super()._release()
        if self._directory:
            shutil.rmtree(self._directory, ignore_errors=True)  # if its owner had to be killed


_CLIENT = "ray://"
_QUIET = {"RAY_USAGE_STATS_ENABLED": "0"}
_OWN = {
    "RAY_ADDRESS": "",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # nothing of it listens beyond this machine
    "RAY_memory_monitor_refresh_ms": "0",  # calls have limits of their own
}


def _address_of(given: str, name: str) -> str:
    """With a port: "auto", "host:6379", "ray://host:10001"."""
    if given in ("auto", "ray:auto"):
        return "auto"
    scheme = _CLIENT if given.startswith(_CLIENT) else ""
    host = given.removeprefix(scheme)
    if not re.fullmatch(r"(\[[^\]/]+\]|[^:/\[\]]+)(:\d+)?", host):
        raise ConfigError(
            f"{name!r} names no cluster; write 'ray:auto', 'ray:host:port' or 'ray://host:port'"
        )
    port = "" if re.search(r":\d+$", host) else f":{CLIENT_PORT if scheme else PORT}"
    return f"{scheme}{host}{port}"


def _host_of(address: str) -> str:
    return re.sub(r":\d+$", "", address.removeprefix(_CLIENT)).strip("[]")


def _make_directory() -> str:
    short = None if len(tempfile.gettempdir()) < LONGEST else "/tmp"
    return os.path.realpath(tempfile.mkdtemp(prefix="unirun-ray-", dir=short))
