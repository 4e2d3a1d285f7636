"""What the user says about the work, and the one rule that turns it into a backend's name.

`choose` is pure: hint, routes and facts in, a `Decision` with its reasons out.  It knows
backends by name only.  A kind is soft: it may be overruled by whoever fixes the backend.
`backend` and `require` are hard: what they forbid is an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from unirun._errors import UnsupportedByBackend
from unirun._records import record

__all__ = [
    "DEFAULT_ROUTES",
    "Decision",
    "Facts",
    "Hint",
    "Kind",
    "Requirement",
    "check_hint",
    "choose",
]


class Kind(StrEnum):
    """What a task spends its time on; any of these words may be given as a plain str."""

    AUTO = "auto"
    """Not known: measured while it runs."""
    CPU = "cpu"
    """Pure-Python compute."""
    IO = "io"
    """Waits for files, sockets, databases."""
    NATIVE = "native"
    """Compute inside libraries that release the GIL."""
    ASYNC = "async"
    """A coroutine function."""
    ISOLATED = "isolated"
    """May crash or leak, or must be killable."""


class Requirement(StrEnum):
    """What the place where a call runs must offer; unlike a kind, never overruled."""

    KILLABLE = "killable"
    """A running call can be ended by force."""
    ISOLATION = "isolation"
    """A crash takes nothing else along."""
    SHAREDMEM = "sharedmem"
    """Arguments and results are the very objects, not copies."""


Kind.__module__ = Requirement.__module__ = "unirun"  # where users find them

DEFAULT_ROUTES: Mapping[str, str] = {
    "auto": "thread",
    "cpu": "process",
    "io": "thread",
    "native": "thread",
    "async": "coroutine",
    "isolated": "process",
}


@record
class Hint:
    """What is known about the wish: the soft kind, and what is hard."""

    kind: str = "auto"
    backend: str | None = None
    require: frozenset[str] = frozenset()


@record
class Facts:
    """What is known about the place and the function."""

    forced: str | None = None
    """Backend that UNIRUN_BACKEND forces on everything."""
    fixed: str | None = None
    """Backend the executor was made for."""
    is_coroutine_function: bool = False
    free_threaded: bool = False
    in_worker_process: bool = False


@record
class Decision:
    """Which backend a call goes to, and why; `str()` gives the reasons one a line."""

    backend: str
    reasons: tuple[str, ...]

    def __str__(self) -> str:
        return "\n".join([f"backend: {self.backend}", *(f"  - {why}" for why in self.reasons)])


# What the built-in backends offer. A backend from elsewhere is checked when it is loaded.
OFFERS: Mapping[str, frozenset[str]] = {
    "inline": frozenset(),
    "thread": frozenset({"sharedmem"}),
    "coroutine": frozenset({"sharedmem"}),
    "process": frozenset({"killable", "isolation"}),
}


def choose(hint: Hint, routes: Mapping[str, str], facts: Facts) -> Decision:
    """The backend for a call; raises UnsupportedByBackend where hard wishes cannot be met."""
    backend, reasons = _pick(hint, routes, facts)
    _check(backend, hint, reasons)
    return Decision(backend, tuple(reasons))


def _pick(hint: Hint, routes: Mapping[str, str], facts: Facts) -> tuple[str, list[str]]:
    if facts.forced is not None:
        return facts.forced, [f"UNIRUN_BACKEND={facts.forced} forces every call"]
    if facts.fixed is not None:
        if hint.backend not in (None, facts.fixed):
            raise UnsupportedByBackend(
                facts.fixed,
                f"run a call that demands backend={hint.backend!r}",
                "submit it to an executor without backend=, or drop one of the two",
            )
        return facts.fixed, [f"the executor was made with backend={facts.fixed!r}"]
    if hint.backend is not None:
        return hint.backend, [f"backend={hint.backend!r} was asked for"]
    return _by_kind(hint, routes, facts)


def _by_kind(hint: Hint, routes: Mapping[str, str], facts: Facts) -> tuple[str, list[str]]:
    kind, reasons = hint.kind, [f"kind={hint.kind!r}"]
    if facts.is_coroutine_function and kind in ("auto", "io", "native"):
        kind = "async"
        reasons.append("the function is a coroutine function")
    backend = routes[kind]
    reasons.append(f"kind {kind!r} is routed to {backend!r}")
    if kind == "cpu" and backend == "process" and not hint.require & OFFERS["process"]:
        if facts.free_threaded:
            backend = "thread"
            reasons.append("this Python has no GIL, so threads compute in parallel")
        elif facts.in_worker_process:
            backend = "thread"
            reasons.append("already inside a worker process; more processes would only compete")
    missing = hint.require - OFFERS.get(backend, hint.require)
    if missing:
        backend = _backend_with(hint.require, backend)
        reasons.append(f"require={{{', '.join(sorted(hint.require))}}} needs {backend!r}")
    return backend, reasons


def _backend_with(require: frozenset[str], preferred: str) -> str:
    """The first built-in backend that offers all of `require`."""
    for name in ("thread", "process"):
        if require <= OFFERS[name]:
            return name
    return preferred


def check_hint(hint: Hint) -> None:
    """Refuse a hint that no place could satisfy, where it is written."""
    if hint.backend is not None:
        _check(hint.backend, hint, [f"backend={hint.backend!r}"])
    elif hint.require and not any(hint.require <= offers for offers in OFFERS.values()):
        wish = ", ".join(sorted(hint.require))
        raise UnsupportedByBackend("process", f"offer {wish} together", "no backend can; drop one")


def _check(backend: str, hint: Hint, reasons: list[str]) -> None:
    missing = hint.require - OFFERS.get(backend, hint.require)
    if missing:
        raise UnsupportedByBackend(
            backend,
            f"offer {', '.join(sorted(missing))}",
            f"drop the requirement or choose another backend ({reasons[-1]})",
        )
