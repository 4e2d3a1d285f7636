"""Backends that settings name: a wrong name, or a wrong option, is answered with its place."""

from __future__ import annotations

import sys

from unirun import _registry
from unirun._config import Layers, Resolution
from unirun._errors import BackendUnavailable, ConfigError, UnirunError, UnknownBackend
from unirun._settings import OWN_OPTIONS, POOL_KEYS, unknown
from unirun.backend import Backend, WorkerSpec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

__all__ = ["check_names", "load", "make", "options_of"]


def check_names(layers: Layers) -> None:
    """Refuse a name that was meant to be that of a built-in backend, before anything runs.

    Others may be missing here: one file serves many machines. They are refused where they are used.
    """
    for name, where in layers.backend_names().items():
        if meant := _registry.misspelt(name):
            raise UnknownBackend(f"{where}: unknown backend {name!r}; did you mean {meant!r}?")


def load(name: str, settings: Resolution) -> type[Backend]:
    """The class behind a name that these settings have led to."""
    try:
        return _registry.load(name)
    except (UnknownBackend, BackendUnavailable) as exc:
        where = _source(name, settings)
        if where in ("default", "Executor()", "options()", "@task"):  # a traceback shows that one
            raise
        raise type(exc)(f"{where}: {exc}") from exc.__cause__


def options_of(name: str, settings: Resolution) -> dict[str, Any]:
    """What settings say for this backend alone; ConfigError for what it does not have."""
    given = settings.backend_options(name)
    own = {option: value for option, value in given.items() if option not in POOL_KEYS}
    if name not in OWN_OPTIONS and own:
        known = (*POOL_KEYS, *_registry.load(name).option_names)
        for option in own:
            if option not in known:
                what = unknown(f"option of the {name!r} backend", option, known, "its options")
                raise ConfigError(f"{settings.source(f'backend.{name}.{option}')}: {what}")
    return own


def make(
    made: Callable[[WorkerSpec], Backend], name: str, spec: WorkerSpec, settings: Resolution
) -> Backend:
    """`made(spec)`; what a backend of others says of its own options, with their places."""
    if spec.preload and getattr(made, "carries_settings", False):
        _check_preload(spec.preload, settings.source(f"backend.{name}.preload"))
    try:
        return made(spec)
    except (ValueError, TypeError) as exc:
        ours = isinstance(exc, UnirunError) and not isinstance(exc, ConfigError)
        own = {} if ours or name in OWN_OPTIONS else options_of(name, settings)
        if not own:
            raise
        guilty = [option for option in own if option in str(exc)] or list(own)
        places = dict.fromkeys(settings.source(f"backend.{name}.{option}") for option in guilty)
        raise ConfigError(f"{', '.join(places)}: {exc}") from exc


def _check_preload(modules: Iterable[str], where: str) -> None:
    """What is nowhere here is nowhere in a worker, who could not say where it is named."""
    if where == "Executor()":
        return  # its worker says it well enough
    from importlib.util import find_spec

    for module in modules:
        top = module.partition(".")[0]
        if top not in sys.modules and find_spec(top) is None:
            text = f"cannot use {module!r} in preload; there is no module {top!r} here"
            raise ConfigError(f"{where}: {text}; install it, or leave it out")


def _source(name: str, settings: Resolution) -> str:
    if settings["backend"] == name:
        return settings.source("backend")
    kinds = [kind for kind, backend in settings["routes"].items() if backend == name]
    return settings.source(f"routes.{kinds[0]}") if kinds else "Executor()"
