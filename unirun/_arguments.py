"""The arguments of `Executor()` as settings; for its mistakes, the standard library's errors."""

from __future__ import annotations

from unirun import _config, _registry
from unirun._errors import ConfigError
from unirun._settings import parse_option, unknown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

__all__ = ["as_settings", "check_own_options"]

_START_METHOD_OF = {"fork": "fork", "spawn": "spawn", "forkserver": "zygote", "zygote": "zygote"}


def as_settings(
    initializer: Any, mp_context: Any, idle_timeout: Any, **others: Any
) -> Mapping[str, Any]:
    """What was given, checked; None and "default" are nothing."""
    if initializer is not None and not callable(initializer):
        raise TypeError("initializer must be a callable")
    tasks = others["max_tasks_per_child"]
    if tasks is not None and not isinstance(tasks, int):
        raise TypeError("max_tasks_per_child must be an integer")
    others["start_method"] = _start_method(mp_context)
    threads = others.pop("blas_threads", "default")
    given = {key: value for key, value in others.items() if value is not None}
    if idle_timeout != "default":
        given["idle_timeout"] = idle_timeout
    if threads != "default":
        given["blas_threads"] = threads
    return _config.check_options(given, "Executor()")


def check_own_options(
    executor: type, backend: str | None, options: Mapping[str, Any]
) -> dict[str, Any]:
    """The options of that backend, checked; what neither it nor the `executor` has is refused."""
    known = () if backend is None or not options else _registry.load(backend).option_names
    for name in options:
        if name not in known:
            from inspect import signature  # only mistakes pay for it

            words = [*list(signature(executor).parameters)[:-1], *known]
            raise _config.UnknownOption(f"Executor(): {unknown('option', name, words)}")
    return {
        name: parse_option(str(backend), name, value, "Executor()")
        for name, value in options.items()
    }


def _start_method(context: Any) -> str | None:
    if context is None:
        return None
    method = context if isinstance(context, str) else context.get_start_method()
    if method not in _START_METHOD_OF:
        known = ", ".join(sorted(_START_METHOD_OF))
        raise ConfigError(f"unknown start method {method!r} for mp_context; known: {known}")
    return _START_METHOD_OF[method]
