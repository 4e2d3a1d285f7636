"""Which backend a function goes to, with which settings: hints and configuration together.

Holds no backend and starts nothing, so it can also be asked for the sake of the answer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from unirun import _config, _context, _hints, _registry
from unirun._errors import UnsupportedByBackend
from unirun._machine import gil_enabled
from unirun._records import record
from unirun._settings import POOL_KEYS, worker_count
from unirun.backend import describe

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["Chooser", "Explanation"]

_CO_COROUTINE = 0x80


@record
class Explanation:
    """Where a call goes, why, and which layer gave each setting; `str()` is for reading."""

    function: str
    backend: str
    reasons: tuple[str, ...]
    settings: tuple[tuple[str, Any, str], ...]
    """(key, value, where it came from)."""

    def __str__(self) -> str:
        lines = [f"{self.function} runs on backend {self.backend!r}, because"]
        lines += [f"  - {reason}" for reason in self.reasons]
        lines += ["settings:"]
        lines += [
            f"  {key} = {value!r}  ({source})"
            for key, value, source in self.settings
            if source != "default"
        ]
        return "\n".join(lines if len(lines) > len(self.reasons) + 2 else [*lines, "  all default"])


class Chooser:
    """The choice as one executor makes it: by what it was made with, and the settings."""

    def __init__(self, made_with: Mapping[str, Any], *, at_home: bool = True) -> None:
        """`at_home`: the pools are those of this process.

        Elsewhere what was checked at home is not loaded to be checked again: a worker does not have
        the process backend, and needs none.
        """
        self._at_home = at_home
        self.layers = _config.load()
        self.made_with = made_with
        self.forced = self.layers.forced
        self.fixed: str | None = made_with.get("backend")
        if at_home and (backend := self.forced or self.fixed) is not None:
            _registry.load(backend)  # a wrong name is an error here, where it is written

    def resolve(
        self,
        given: Mapping[str, Any] | None = None,
        decorator: Mapping[str, Any] | None = None,
        task: str | None = None,
    ) -> _config.Resolution:
        return self.layers.resolve(
            call=given or {}, executor=self.made_with, decorator=decorator or {}, task=task
        )

    def decide(
        self, fn: Any, given: Mapping[str, Any]
    ) -> tuple[_config.Resolution, _hints.Decision]:
        """Settings and backend for calls of `fn` with these options."""
        name = f"{getattr(fn, '__module__', '')}:{getattr(fn, '__qualname__', '')}"
        settings = self.resolve(given, getattr(fn, "__unirun_options__", {}), name)
        require = frozenset(settings["require"])
        if settings["killable"]:
            require |= {"killable"}
        facts = _hints.Facts(
            forced=self.forced,
            fixed=self.fixed,
            is_coroutine_function=_is_coroutine_function(fn),
            free_threaded=not gil_enabled(),
            in_worker_process=_context.in_worker_process and self._at_home,
        )
        hint = _hints.Hint(str(settings["kind"]), self._wanted(fn, settings, given), require)
        decision = _hints.choose(hint, settings["routes"], facts)
        if require or self._at_home:
            _check_offer(decision.backend, require)
        return settings, decision

    def _wanted(
        self, fn: Any, settings: _config.Resolution, given: Mapping[str, Any]
    ) -> str | None:
        """The backend this call demands; None if that is only the executor's own."""
        if self.fixed is None:
            wanted: str | None = settings["backend"]
            return None if wanted == self.forced else wanted
        demanded = given.get("backend") or getattr(fn, "__unirun_options__", {}).get("backend")
        return None if demanded is None else str(demanded)

    def explain(self, fn: Callable[..., Any], given: Mapping[str, Any]) -> Explanation:
        settings, decision = self.decide(fn, given)
        rows = tuple(settings.explain())
        return Explanation(describe(fn), decision.backend, decision.reasons, rows)

    def backend_for_sharing(self, given: Mapping[str, Any]) -> str:
        """Where shared objects are made: among processes, if any call might go there."""
        fixed = self.forced or given.get("backend") or self.fixed
        routes = self.resolve(given)["routes"]
        return fixed or ("process" if "process" in routes.values() else "thread")

    def pool_settings(self, name: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """What a backend is made with: the settings all have, and its own options."""
        given = self.resolve().backend_options(name)
        own = {key: value for key, value in given.items() if key not in POOL_KEYS}
        return {key: given[key] for key in POOL_KEYS}, own

    def max_workers(self, cores: int) -> int:
        return worker_count(self.resolve()["max_workers"], cores) or cores


def _check_offer(backend: str, require: frozenset[str]) -> None:
    """Also for backends that the table of the built-in ones does not know."""
    missing = require - set(_registry.load(backend).capabilities)
    if missing:
        raise UnsupportedByBackend(
            backend,
            f"offer {', '.join(sorted(missing))}",
            "drop the requirement or choose another backend",
        )


def _is_coroutine_function(fn: Any) -> bool:
    code = getattr(getattr(fn, "fn", fn), "__code__", None)
    return code is not None and bool(code.co_flags & _CO_COROUTINE)
