"""Which backend a function goes to, with which settings: hints and configuration together.

Holds no backend and starts nothing, so it can also be asked for the sake of the answer.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping

from unirun import _config, _context, _hints, _meant
from unirun._errors import UnsupportedByBackend
from unirun._info import shown_settings
from unirun._library_threads import share_in_thread, told, variables
from unirun._machine import cpu_count, free_threaded_build, gil_enabled
from unirun._named_backends import check_names, load, options_of
from unirun._records import record, replace
from unirun._settings import POOL_KEYS, worker_count
from unirun.backend import describe

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from unirun.backend import WorkerSpec

__all__ = ["Chooser", "Chosen", "Explanation"]

_CO_COROUTINE = 0x80


@record
class Explanation:
    """Where a call goes, why, and which layer gave each setting; `str()` is for reading."""

    function: str
    backend: str
    reasons: tuple[str, ...]
    settings: tuple[tuple[str, Any, str], ...]
    """(key, value, where it came from)."""
    kind: str = "auto"
    """The kind by which it was chosen: "async" for a coroutine function without a better one."""
    workers: int | None = None
    """How many such calls run at once, at most; None: the backend sets no limit, or its own."""
    library_threads: int | None = None
    """Threads that BLAS and OpenMP may use in each worker process; None: nobody says."""
    profile: tuple[tuple[str, Any], ...] = ()
    """(name, figure) of what was measured of the function; nothing if it was not."""

    def __str__(self) -> str:
        lines = [f"{self.function} runs on backend {self.backend!r}, because"]
        lines += [f"  - {reason}" for reason in self.reasons]
        return "\n".join([*lines, *shown_settings(self.settings), *self._shown_profile()])

    def _shown_profile(self) -> list[str]:
        rows = [f"  {name} = {_figure(value)}" for name, value in self.profile]
        return ["measured:", *rows] if rows else []


Explanation.__module__ = "unirun"


@record
class Chosen:
    """What was decided for calls that look alike; they carry it for whoever asks (`_info`)."""

    function: str
    decision: _hints.Decision
    settings: _config.Resolution


class Chooser:
    """The choice as one executor makes it: by what it was made with, and the settings."""

    def __init__(
        self,
        made_with: Mapping[str, Any],
        own_options: Mapping[str, Any] = {},
        *,
        at_home: bool = True,
    ) -> None:
        """`own_options`: of its one backend; `at_home`: the pools are those of this process.

        Elsewhere what was checked at home is not loaded to be checked again: a worker does not have
        the process backend, and needs none.
        """
        self._at_home = at_home
        self._own = own_options
        self._known_cores: int | None = None
        self._one_thread_pool: bool | None = None  # told when the first is asked for
        self.layers = _config.load()
        self.made_with = made_with
        self.forced = self.layers.forced
        self.fixed: str | None = made_with.get("backend")
        if not at_home:
            return
        check_names(self.layers)
        if (backend := self.forced or self.fixed) is not None:
            load(backend, self.resolve())  # a wrong name is an error here, where it is written

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
        require = _hints.required(settings)
        demanded = self._wanted(fn, settings, given)
        facts = self._facts(settings, demanded, require, _is_coroutine_function(fn))
        hint = _hints.Hint(str(settings["kind"]), demanded, require)
        try:
            decision = _hints.choose(hint, settings["routes"], facts)
        except UnsupportedByBackend as exc:
            raise _with_places(exc, settings) from None
        if self._at_home:
            load(decision.backend, settings)  # one that is not there is an error here
        return settings, decision

    def is_copied(
        self,
        fn: Any,
        given: Mapping[str, Any],
        settings: _config.Resolution,
        decision: _hints.Decision,
    ) -> bool | None:
        """Of a call that is inline: whether it would get copies where it would be otherwise."""
        if decision.backend != _meant.HERE:
            return None
        facts = self._facts(settings, None, frozenset(), _is_coroutine_function(fn))
        return _meant.is_copied(fn, given, settings, facts)

    def _facts(
        self,
        settings: _config.Resolution,
        demanded: str | None,
        require: frozenset[str],
        is_coroutine_function: bool,
    ) -> _hints.Facts:
        route = f"routes.{settings['kind']}"
        named = (self.forced, self.fixed, demanded, settings["routes"][settings["kind"]])
        return _hints.Facts(
            forced=self.forced,
            fixed=self.fixed,
            is_coroutine_function=is_coroutine_function,
            gil=gil_enabled(),
            free_threaded=free_threaded_build(),
            in_worker_process=_context.in_worker_process and self._at_home,
            own_route=settings.source(route) != "default",
            cores=self._cores,
            offers=_offers(named, settings) if require else _hints.OFFERS,
        )

    def check(self, given: Mapping[str, Any] = {}) -> None:
        """Refuse options that no call could have here, whatever its function."""
        settings = self.resolve(given)
        require = _hints.required(settings)
        demanded = given.get("backend")
        facts = self._facts(settings, demanded, require, is_coroutine_function=False)
        try:
            _hints.check_hint(_hints.Hint(str(settings["kind"]), demanded, require), facts)
        except UnsupportedByBackend as exc:
            raise _with_places(exc, settings) from None

    def settled(self) -> _config.Resolution:
        """What holds for the executor itself; refuses what forbids every call of it."""
        settings = self.resolve()
        if _hints.required(settings):
            self.check()
        return settings

    def _wanted(
        self, fn: Any, settings: _config.Resolution, given: Mapping[str, Any]
    ) -> str | None:
        """The backend this call demands; None if that is only the executor's own."""
        if self.fixed is None:
            wanted: str | None = settings["backend"]
            return None if wanted == self.forced else wanted
        demanded = given.get("backend") or getattr(fn, "__unirun_options__", {}).get("backend")
        return None if demanded is None else str(demanded)

    def follows_measures(self, settings: _config.Resolution, decision: _hints.Decision) -> bool:
        """Whether nobody has said where such calls run, so that what is measured decides."""
        return (
            settings["auto"] != "off"
            and decision.kind == "auto"
            and decision.backend == "thread"
            and self.forced is None
            and self.fixed is None
            and not any(settings[key] for key in _SAY_WHERE)
            and settings.source("routes.auto") == "default"
            and not _context.in_worker_process
        )

    def explain(
        self, fn: Callable[..., Any], given: Mapping[str, Any], *, prepared: bool = False
    ) -> Explanation:
        """`prepared`: an initializer makes each place what it is, so none can stand for another."""
        settings, decision = self.decide(fn, given)
        profile = _figures(fn)
        if not prepared and self.follows_measures(settings, decision):
            decision = _as_measured(decision, dict(profile))
        workers = self._workers(decision.backend, decision.kind)
        threads = None
        if decision.backend == "process" and workers is not None:
            setting = self.pool_settings("process")[0]["blas_threads"]
            threads = told(variables(setting, workers, self._cores, os.environ))
        return Explanation(
            describe(fn),
            decision.backend,
            decision.reasons,
            (*settings.explain(), *self._own_options()),
            kind=decision.kind,
            workers=workers,
            library_threads=threads,
            profile=profile,
        )

    def _own_options(self) -> list[tuple[str, Any, str]]:
        """What the executor was given that only its backend understands."""
        rows = self._own.items()
        return [(f"backend.{self.fixed}.{name}", value, "Executor()") for name, value in rows]

    def backend_for_sharing(self, given: Mapping[str, Any]) -> str:
        """Where shared objects are made: among processes, if any call might go there."""
        fixed = self.forced or given.get("backend") or self.fixed
        routes = self.resolve(given)["routes"]
        return fixed or ("process" if "process" in routes.values() else "thread")

    def pool_settings(self, name: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """What a backend is made with: the settings all have, and its own options."""
        settings = self.resolve()
        given = settings.backend_options(name)
        return {key: given[key] for key in POOL_KEYS}, options_of(name, settings)

    def max_workers(self, cores: int) -> int:
        return worker_count(self.resolve()["max_workers"], cores) or cores

    def usual_workers(self) -> int:
        """Of the calls this executor is made for: by its backend and kind, where it has them."""
        settings, kind = self.resolve(), str(self.made_with.get("kind", "auto"))
        backend = self.forced or self.fixed
        if backend is None and kind == "auto":
            return self.max_workers(self._cores)  # there will be several pools
        return self._workers(backend or settings["routes"][kind], kind) or self._cores

    @property
    def _cores(self) -> int:
        """As they were when somebody first asked: to count them takes reading many files."""
        if self._known_cores is None:
            self._known_cores = cpu_count()
        return self._known_cores

    def _workers(self, backend: str, kind: str) -> int | None:
        cores = self._cores
        given = worker_count(self.pool_settings(backend)[0]["max_workers"], cores)
        return given or _hints.default_workers(backend, kind, cores)

    def for_pool(self, pool: str, name: str, spec: WorkerSpec) -> WorkerSpec:
        """`spec` with what its calls computing, and nothing else, means for threads."""
        apart, cores = pool != name, self._cores
        if apart:
            prefix = spec.thread_name_prefix and f"{spec.thread_name_prefix}-cores"
            names = {"name": f"{spec.name}-cores", "thread_name_prefix": prefix}
            spec = replace(spec, max_workers=cores, **names)
        computes = apart or self.made_with.get("kind") in _hints.COMPUTES
        if name != "thread" or not computes or spec.max_workers is None:
            return spec
        said = variables(spec.blas_threads, spec.max_workers, cores, os.environ)
        if not said:
            return spec
        ours = (said, spec.initializer, *spec.initargs)
        return replace(spec, initializer=share_in_thread, initargs=ours)

    def pool_of(self, decision: _hints.Decision) -> str:
        """The pool of such calls. Where somebody has said how many threads there are, all of them
        are in one, whatever they do."""
        pool = _hints.pool_of(decision.backend, decision.kind)
        if pool == decision.backend:
            return pool
        if self._one_thread_pool is None:
            said = self.pool_settings(decision.backend)[0]["max_workers"]
            self._one_thread_pool = said is not None
        return decision.backend if self._one_thread_pool else pool


_AT_HAND = frozenset({"default", "options()", "@task", "Executor()", "UNIRUN_BACKEND"})
"""Places that the text of an error names anyway, or a traceback shows."""


def _with_places(exc: UnsupportedByBackend, settings: _config.Resolution) -> UnsupportedByBackend:
    """That error with the places where somebody has set what it is about."""
    places = {key: settings.source(key) for key in ("backend", "require", "killable", "memory")}
    named = [f"{key} is set by {at}" for key, at in places.items() if at not in _AT_HAND]
    remedy = "; ".join([exc.remedy, *named])
    return UnsupportedByBackend(exc.backend, exc.feature, remedy)


_SAY_WHERE = ("backend", "require", "killable", "memory", "resources")
"""Settings that say where a call runs, or what only some places can do."""


def _as_measured(decision: _hints.Decision, figures: Mapping[str, Any]) -> _hints.Decision:
    """Where such a call goes by now."""
    if not figures.get("calls on"):
        return decision
    reasons = (*decision.reasons, f"measured: {figures.get('because', 'it ends sooner there')}")
    return replace(decision, backend=str(figures["calls on"]), reasons=reasons)


def _figure(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _figures(fn: Any) -> tuple[tuple[str, Any], ...]:
    """What was measured of that function."""
    from unirun._profile import figures  # who asks for it waits for a moment

    return figures(fn)


def _offers(
    names: Iterable[str | None], settings: _config.Resolution
) -> Mapping[str, frozenset[str]]:
    """What the built-in backends offer, and these."""
    others = {name for name in names if name is not None} - set(_hints.OFFERS)
    found = {name: frozenset(map(str, load(name, settings).capabilities)) for name in others}
    return {**_hints.OFFERS, **found}


def _is_coroutine_function(fn: Any) -> bool:
    code = getattr(getattr(fn, "fn", fn), "__code__", None)
    return code is not None and bool(code.co_flags & _CO_COROUTINE)
