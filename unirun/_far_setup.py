"""What places of an engine are told of a program, and what it makes of what they say."""

from __future__ import annotations

import json
import os
import pickle
import socket
import sys
from collections.abc import Mapping

from unirun._connect import run_key
from unirun._errors import BackendUnavailable, ConfigError, VersionMismatch
from unirun._far_host import machine, versions
from unirun._forms import SILENCE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TypeVar

    from unirun.backend import WorkerSpec

    E = TypeVar("E", bound=BaseException)

__all__ = [
    "again",
    "amounts",
    "interface_to",
    "is_loopback",
    "setup_of",
    "silence_of",
    "ticket_for",
    "unmet",
    "why_not",
]

FAILURES = 3
"""Leases that may fail one after the other, before what waits does."""


def ticket_for(address: tuple[str, int], run: str, *, tls: bool) -> bytes:
    """What the engine is given to run: where the program is, and what a place must be like.

    JSON, since another version of Python may read it, which has to say so.
    """
    ticket = {"address": address, "run": run, "tls": tls, "pid": os.getpid()}
    return json.dumps({**ticket, "versions": versions(), "machine": machine()}).encode()


def setup_of(
    spec: WorkerSpec,
    engine: str,
    initializer: bytes | None,
    host: int,
    lost_after: float,
    levels: bytes,
    shipped: bytes,
) -> bytes:
    """What a place makes its pool of, once both sides know each other."""
    told = {
        "engine": engine,
        "key": run_key(),
        "host": host,  # what we call it
        "lost_after": lost_after,
        "levels": levels,  # what workers are to let through of what they log and warn of
        "path": [str(entry) for entry in sys.path],
        "directory": _current_directory(),
        "initializer": initializer,
        "ship": shipped,
        "spec": {
            "max_tasks_per_child": spec.max_tasks_per_child,
            "max_worker_rss": spec.max_worker_rss,
            "blas_threads": spec.blas_threads,
            "preload": spec.preload,
            "idle_timeout": spec.idle_timeout,
            "grace": spec.grace,
            "output": spec.output,
            "logs": spec.logs,
            "name": spec.name,
            "settings": spec.settings,
            "home": spec.home,  # so what tasks submit to their executor runs at their place
        },
    }
    return pickle.dumps(told)


def _current_directory() -> str | None:
    try:
        return os.getcwd()
    except OSError:
        return None


# -- what is made of reports ----------------------------------------------------------------------


def why_not(report: str, engine: str, ticket: bytes, failures: int) -> BaseException | None:
    """Why no call can run, by what a lease that failed has said; None: try another one."""
    try:
        told = json.loads(report)
    except ValueError:
        told = {"failed": report}
    where = told.get("where", "a worker")
    if "mismatch" in told:
        rows = [
            f"{name} is {there} there and {here} here"
            for name, (there, here) in told["mismatch"].items()
        ]
        return VersionMismatch(
            f"{where} cannot run calls of this program: {'; '.join(rows)}; install the same "
            "versions on both sides"
        )
    if "unreachable" in told:
        address = ":".join(map(str, json.loads(ticket)["address"]))
        return BackendUnavailable(
            f"{where} cannot reach this process at {address} ({told['unreachable']}); open the "
            "port, or run the program where the workers can reach it"
        )
    if failures < FAILURES and "No module named" not in report:
        return None
    return BackendUnavailable(
        f"the workers of the {engine!r} backend run no calls ({told['failed']}); is unirun "
        "installed there?"
    )


def unmet(
    wanted: Mapping[str, float], workers: list[dict[str, Any]], engine: str, patience: float
) -> str | None:
    """Why no worker of the cluster can run calls that want this; None if one can."""
    if not workers:
        return f"the {engine!r} backend has had no worker for {patience:g} s"
    offers: list[dict[str, float]] = [worker["resources"] for worker in workers]
    if any(all(offer.get(k, 0) >= n for k, n in wanted.items()) for offer in offers):
        return None
    shown = ", ".join(f"{name}={amount:g}" for name, amount in wanted.items())
    best = {name: max(offer.get(name, 0) for offer in offers) for name in wanted}
    most = ", ".join(f"{name}={amount:g}" for name, amount in best.items())
    return (
        f"no worker of the {engine!r} backend has {shown}; the most that any of "
        f"{len(offers)} offers is {most}"
    )


def again(error: E) -> E:
    """One exception object for each who gets it."""
    copy = type(error)(*error.args)
    copy.__cause__ = error.__cause__
    return copy


def is_loopback(host: str) -> bool:
    return host in ("localhost", "::1") or host.startswith("127.")


def interface_to(host: str) -> str:
    """Our address on the way there."""
    family, _, _, _, address = socket.getaddrinfo(host, 9, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect(address)  # sends nothing
        return str(probe.getsockname()[0])


def amounts(given: Any) -> dict[str, float]:
    pairs = given.items() if isinstance(given, Mapping) else None
    if pairs is None or not all(isinstance(n, int | float) and n >= 0 for _, n in pairs):
        raise ConfigError(f"worker_resources={given!r} must be names and amounts, as {{'gpu': 1}}")
    return {str(name): float(amount) for name, amount in given.items()}


def silence_of(options: Mapping[str, Any]) -> float:
    """The option `lost_after`: seconds of silence after which a place is taken for gone."""
    given = options.get("lost_after", 30.0)
    try:
        return float(SILENCE.parse(given))
    except (ValueError, TypeError, KeyError):  # as for every value that a form refuses
        raise ConfigError(f"lost_after={given!r} must be {SILENCE.allowed}") from None
