"""What the user says about the work, and the one rule that turns it into a backend's name.

`choose` is pure: hint, routes and facts in, a `Decision` with its reasons out.  It knows
backends by name and by what they offer.  First hit wins::

    1  UNIRUN_BACKEND                  forces every call
    2  Executor(backend=...)           a call that demands another one is refused
    3  backend= of the call or task
    4  the route of its kind           a coroutine function of an unsure kind is "async"
    5  ... which gives way to threads  if it is the default one for "cpu", where processes bring
                                       nothing: without a GIL, or in a worker process
    6  ... or to who can               if it lacks what is required

A kind is soft: 1 to 3 overrule it.  `backend` and `require` are hard: what they forbid is an error,
raised where it is written as far as that can be known there (`check_hint`).  The number of cores
decides how many workers there are, never where a call runs: a program means the same everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from unirun._errors import UnsupportedByBackend
from unirun._records import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = [
    "COMPUTES",
    "DEFAULT_ROUTES",
    "OFFERS",
    "Decision",
    "Facts",
    "Hint",
    "Kind",
    "Requirement",
    "check_hint",
    "choose",
    "default_workers",
    "pool_of",
    "required",
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

# What the built-in backends offer. Of a backend from elsewhere, whoever asks has to say it.
OFFERS: Mapping[str, frozenset[str]] = {
    "inline": frozenset(),
    "thread": frozenset({"sharedmem"}),
    "coroutine": frozenset({"sharedmem"}),
    "process": frozenset({"killable", "isolation", "memory"}),
}

COMPUTES = frozenset({"cpu", "native"})
"""The kinds that keep a core busy."""
_MOST_THREADS = 32
_MEMORY = frozenset({"memory"})


@record
class Hint:
    """What is known about the wish: the soft kind, and what is hard."""

    kind: str = "auto"
    backend: str | None = None
    require: frozenset[str] = frozenset()
    """Words of `Requirement`, and "memory" for a call with a limit to that."""


@record
class Facts:
    """What is known about the place and the function."""

    forced: str | None = None
    """Backend that UNIRUN_BACKEND forces on everything."""
    fixed: str | None = None
    """Backend the executor was made for."""
    is_coroutine_function: bool = False
    gil: bool = True
    """Whether this interpreter runs with a GIL."""
    free_threaded: bool = False
    """A build that can do without; it may have its GIL all the same."""
    in_worker_process: bool = False
    own_route: bool = False
    """The route of the kind was set by somebody; else it is the default one."""
    cores: int = 1
    """Those that may be used, by affinity and quota."""
    offers: Mapping[str, frozenset[str]] = OFFERS
    """What each backend offers; one that is missing is taken at its word."""


@record
class Decision:
    """Which backend a call goes to, and why; `str()` gives the reasons one a line."""

    backend: str
    reasons: tuple[str, ...]
    kind: str = "auto"
    """The kind by which it was chosen, or would have been."""
    workers: int | None = None
    """How many of its calls run at once where nobody has said; None: the backend knows."""

    def __str__(self) -> str:
        return "\n".join([f"backend: {self.backend}", *(f"  - {why}" for why in self.reasons)])


def choose(hint: Hint, routes: Mapping[str, str], facts: Facts) -> Decision:
    """The backend for a call; raises UnsupportedByBackend where hard wishes cannot be met."""
    kind, by_kind = _kind_of(hint, facts)
    hard = _hard(hint, facts)
    backend, reasons = hard or _by_route(kind, hint.require, routes, facts)
    if hard is None:
        reasons = [*by_kind, *reasons]
    _check(backend, hint.require, facts.offers, reasons[-1])
    workers = default_workers(backend, kind, facts.cores)
    return Decision(backend, tuple(reasons), kind, workers)


def _hard(hint: Hint, facts: Facts) -> tuple[str, list[str]] | None:
    """Rules 1 to 3."""
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
    return None


def _kind_of(hint: Hint, facts: Facts) -> tuple[str, list[str]]:
    """Rule 4, first half. Coroutines of the kinds left out here have a loop of their own there."""
    reasons = [f"kind={hint.kind!r}"]
    if facts.is_coroutine_function and hint.kind in ("auto", "io", "native"):
        return "async", [*reasons, "the function is a coroutine function"]
    return hint.kind, reasons


def _by_route(
    kind: str, require: frozenset[str], routes: Mapping[str, str], facts: Facts
) -> tuple[str, list[str]]:
    """Rules 4 to 6."""
    backend = routes[kind]
    reasons = [f"kind {kind!r} is routed to {backend!r}"]
    may_yield = kind == "cpu" and backend == "process" and not facts.own_route
    if may_yield and not require & OFFERS["process"]:
        if not facts.gil:
            backend = "thread"
            reasons.append("this Python has no GIL, so threads compute in parallel")
        elif facts.in_worker_process:
            backend = "thread"
            reasons.append("already inside a worker process; more processes would only compete")
        elif facts.free_threaded:
            reasons.append(
                "this free-threaded Python runs with its GIL (PYTHON_GIL=1, -X gil=1 or an "
                "extension module), so threads would not compute in parallel"
            )
    if _missing(backend, require, facts.offers):
        backend = _backend_with(require)
        reasons.append(f"{_in_words(require)} needs {backend!r}")
    return backend, reasons


def _backend_with(require: frozenset[str]) -> str:
    """The first built-in backend that offers all of `require`."""
    for name in ("thread", "process"):
        if require <= OFFERS[name]:
            return name
    raise _no_backend_with(require)


def _no_backend_with(require: frozenset[str]) -> UnsupportedByBackend:
    feature = f"keep {_in_words(require)} together"
    return UnsupportedByBackend("process", feature, "no backend can; drop one of them")


def _missing(
    backend: str, require: frozenset[str], offers: Mapping[str, frozenset[str]]
) -> frozenset[str]:
    return require - offers.get(backend, require)


def _check(
    backend: str, require: frozenset[str], offers: Mapping[str, frozenset[str]], why: str
) -> None:
    missing = _missing(backend, require, offers)
    if missing == _MEMORY:
        remedy = f"drop memory= or choose another backend{_such_as(require)} ({why})"
        raise UnsupportedByBackend(backend, "limit the memory of a call", remedy)
    if missing:
        remedy = f"drop the requirement or choose another backend{_such_as(require)} ({why})"
        raise UnsupportedByBackend(backend, f"offer {', '.join(sorted(missing))}", remedy)


def _such_as(require: frozenset[str]) -> str:
    able = [repr(name) for name in ("thread", "process") if require <= OFFERS[name]]
    return f", such as {able[0]}" if able else ""


def _in_words(require: frozenset[str]) -> str:
    """What was required, as it was written."""
    words = ", ".join(sorted(require - _MEMORY))
    parts = [f"require={{{words}}}"] if words else []
    return " and ".join([*parts, "memory="] if require >= _MEMORY else parts)


# -- where it is written --------------------------------------------------------------------------


def check_hint(hint: Hint, facts: Facts | None = None) -> None:
    """Refuse a hint that no place could satisfy, where it is written.

    `facts` may name the backend that is forced or fixed there, and what backends offer.
    """
    facts = facts or Facts()
    hard = _hard(hint, facts)
    if hard is not None:
        _check(hard[0], hint.require, facts.offers, hard[1][-1])
    elif hint.require and not any(hint.require <= offers for offers in facts.offers.values()):
        raise _no_backend_with(hint.require)


def required(options: Mapping[str, Any]) -> frozenset[str]:
    """What these options, in their normal form, require of a backend."""
    killable = {"killable"} if options.get("killable") else frozenset[str]()
    memory = _MEMORY if options.get("memory") is not None else frozenset[str]()
    return frozenset(options.get("require", ())) | killable | memory


# -- how many workers -----------------------------------------------------------------------------


def default_workers(backend: str, kind: str, cores: int) -> int | None:
    """How many workers calls of that kind have where nobody has said; None: the backend knows.

    Who computes gets one for each core, more would take turns.  Who waits gets more, as many as
    ThreadPoolExecutor has.
    """
    if backend == "process":
        return cores
    if backend == "thread":
        return cores if kind in COMPUTES else min(_MOST_THREADS, cores + 4)
    return 1 if backend == "inline" else None


def pool_of(backend: str, kind: str) -> str:
    """Which pool of an executor such calls share.

    Threads that compute are apart from those that wait, since there are fewer.
    """
    return "thread-cores" if backend == "thread" and kind in COMPUTES else backend
