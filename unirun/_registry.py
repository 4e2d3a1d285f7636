"""Backends by name; each imported on first use.

The static table answers the common case without asking the installed metadata, so it works from
a zip or a frozen application too.  Names that are not in it are looked up among the entry points
of the group `unirun.backends`, or taken as "module:Class".
"""

from __future__ import annotations

import os
import sys
from importlib import import_module

from unirun._deferral import imported
from unirun._errors import BackendUnavailable, UnirunError, UnknownBackend
from unirun.backend import Backend

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

__all__ = ["BUILTIN", "available", "begin", "load", "misspelt", "names", "scheme_of"]

BUILTIN = {
    "coroutine": "unirun.backends.coroutine:CoroutineBackend",
    "dask": "unirun.backends.dask.backend:DaskBackend",
    "inline": "unirun.backends.inline:InlineBackend",
    "process": "unirun.backends.process.backend:ProcessBackend",
    "ray": "unirun.backends.ray.backend:RayBackend",
    "thread": "unirun.backends.thread:ThreadBackend",
}
GROUP = "unirun.backends"
# What a name may begin with that says more: "scheme:rest". The class makes one of itself for it.
SCHEMES = {
    "dask": "unirun.backends.dask.backend:DaskBackend",
    "futures": "unirun.backends.futures:FuturesBackend",
    "ray": "unirun.backends.ray.backend:RayBackend",
}
# What a backend can start before it is needed, to come up while the rest is being imported.
AHEAD = {"process": "unirun.backends.process.early:begin"}
# The pure machine of a backend, for those who play it without the engine (`unirun.testing`).
MACHINES = {"process": "unirun.backends.process.state:PoolState"}


def names() -> list[str]:
    """Every backend that can be asked for by name."""
    from importlib.metadata import entry_points  # slow to import, rarely needed

    return sorted({*BUILTIN, *entry_points(group=GROUP).names})


def load(name: str) -> type[Backend]:
    """The class behind a name; raises UnknownBackend or BackendUnavailable."""
    if name in BUILTIN:
        return _import(name, BUILTIN[name])
    if (scheme := scheme_of(name)) is not None:
        return _named(scheme, name)
    if ":" in name:
        return _import(name, name)

    from importlib.metadata import entry_points

    for entry_point in entry_points(group=GROUP, name=name):
        return _import(name, entry_point.value)
    known = f"backends: {', '.join(names())}, or 'module:Class'"
    raise UnknownBackend(f"unknown backend {name!r};{_suggest(name)} {known}")


def scheme_of(name: str) -> str | None:
    """The backend of ours that such a name says more about; None for any other name."""
    scheme, colon, _ = name.partition(":")
    return scheme if colon and scheme in SCHEMES else None


_named_classes: dict[str, type[Backend]] = {}  # one for each name, as a class has an identity


def _named(scheme: str, name: str) -> type[Backend]:
    if name not in _named_classes:
        base: Any = _import(scheme, SCHEMES[scheme])
        _named_classes.setdefault(name, base.named(name))
    return _named_classes[name]


def begin(name: str | None) -> Callable[[], None] | None:
    """Start ahead what a backend of that name will need; returns what ends it again, if unused."""
    if name not in AHEAD or os.name != "posix":
        return None
    module, _, attribute = AHEAD[name].partition(":")
    try:
        drop: Callable[[], None] = getattr(import_module(module), attribute)()
    except (ImportError, OSError):
        return None  # who needs it will ask for it again, and say what is wrong
    return drop


def machine(name: str) -> Any:
    """The class of the pure state machine of a built-in backend."""
    module, _, attribute = MACHINES[name].partition(":")
    return getattr(import_module(module), attribute)


def available(name: str) -> str | None:
    """None if the backend can be used here, else why not."""
    try:
        load(name)
    except UnirunError as exc:
        return str(exc)
    return None


def _import(name: str, target: str) -> type[Backend]:
    if name in AHEAD and os.name != "posix":  # what it imports is not there
        text = f"the {name!r} backend needs POSIX, this is {sys.platform}; use backend='thread'"
        raise BackendUnavailable(text)
    module, _, attribute = target.partition(":")
    try:
        # Of others: their code runs under no lock of ours.
        home = imported(module) if name in BUILTIN else import_module(module)
    except ModuleNotFoundError as exc:
        if (error := _explain(name, module, exc)) is None:
            raise
        raise error from exc
    except Exception as exc:  # whatever a module may do while it is imported
        raise BackendUnavailable(
            f"the {name!r} backend cannot be imported ({type(exc).__name__}: {exc}); "
            "mend or install again what it comes from"
        ) from exc
    found: Any = getattr(home, attribute, None)
    if found is None:
        raise UnknownBackend(f"{module!r} has no class {attribute!r}; named as backend {name!r}")
    if not (isinstance(found, type) and issubclass(found, Backend)):
        raise UnknownBackend(f"{target!r} is not a subclass of unirun.backend.Backend")
    return found


def _explain(name: str, module: str, exc: ModuleNotFoundError) -> UnirunError | None:
    missing = exc.name or ""
    if missing == "unirun.backends":
        return BackendUnavailable(
            f"unirun is imported from a checkout that is not installed ({__file__}); "
            "run: pip install -e ."
        )
    if missing.split(".")[0] == "unirun":
        return None  # a bug of ours, not a missing extra
    if module == missing or module.startswith(f"{missing}."):
        return UnknownBackend(f"there is no module {missing!r}; named as backend {name!r}")
    ours = f"run: pip install 'unirun-executor[{name}]'"
    remedy = ours if name in BUILTIN else "install it"
    return BackendUnavailable(f"the {name!r} backend needs {missing!r}; {remedy}")


def misspelt(name: str) -> str | None:
    """The built-in backend that is meant by a name nobody has; None if it may be right."""
    if name in BUILTIN or ":" in name:
        return None
    from difflib import get_close_matches  # only who names others pays for it

    close = get_close_matches(name.lower(), BUILTIN, n=1, cutoff=0.75)
    return close[0] if close and name not in names() else None


def _suggest(name: str) -> str:
    from difflib import get_close_matches

    close = get_close_matches(name, names(), n=1)
    return f" did you mean {close[0]!r}?" if close else ""
