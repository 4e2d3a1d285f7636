"""What was decided for calls that look alike, kept until a setting changes.

Nearly every call finds its plan in `Given.known`, by the code of its function, and two
comparisons tell that it still holds (`Submitter.submit`).  What that cannot answer for sure asks
`Plans.find`, which also fills `known`.
"""

from __future__ import annotations

import sys
from types import FunctionType

from unirun import _config, _context, _payload
from unirun._deferral import imported
from unirun._records import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from unirun._auto import Route
    from unirun._future import Future
    from unirun._limited import Limit
    from unirun._retry import Retry
    from unirun._scope_members import Places
    from unirun.backend import Backend, CallOptions

__all__ = ["Given", "Plan", "Plans", "inherit", "retry_of"]

MOST = 500
"""So many plans, and sets of options, are kept."""


class Given(dict["str", "Any"]):
    """The options given for some calls, and the plans that these calls found."""

    __slots__ = ("known", "limit")

    def __init__(
        self, options: Mapping[str, Any] = {}, limit: Limit | Places | None = None
    ) -> None:
        super().__init__(options)
        self.limit: Limit | Places | None = limit
        # By the function, where that stays as long as its module; and by the id of what the plan
        # keeps: the code of functions that come and go.
        self.known: dict[object, Plan] = {}


class Plan:
    """Where calls that look alike go, and with what."""

    __slots__ = (
        *("active", "backend", "configured", "keep", "options", "pieces", "retry"),
        *("route", "seed", "single", "submit"),
    )

    def __init__(
        self,
        backend: Backend,
        options: CallOptions,
        *,
        retry: Retry | None,
        single: bool,
        keep: tuple[Any, ...],
    ) -> None:
        self.backend = backend
        self.options = options
        self.retry = retry
        # An option acts on single calls, so a map must not bundle items.
        self.single = single
        # What the key of this plan was made of: kept, so that its id stays taken.
        self.keep = keep
        # How to hand such a call over, where nothing but a deadline is to be seen to before.
        self.submit: Callable[[Any, Any, Any, CallOptions], Future[Any]] = backend.submit
        if options.capture and not backend.carries_settings:
            self.submit = imported("unirun._capture").submitter(backend)
        # What measures such calls and may send them elsewhere (`_auto`).
        self.route: Route | None = None
        # The seed of the run that such calls belong to, and who has said so (`_seeds`).
        self.seed: tuple[int, str] | None = None
        # The options of calls with several items, once there was one.
        self.pieces: CallOptions | None = None
        # The settings it was made for, as `_config.stamp` tells them.
        self.configured: object = None
        self.active: object = None


class Plans:
    """All plans of one executor, and what they were made from."""

    def __init__(self, *, quick: bool) -> None:
        self._quick = quick  # calls may be handed over without further ado
        # Both are replaced or added to, never mutated within.
        self._plans: dict[tuple[Any, ...], Plan] = {}
        self._given: dict[frozenset[tuple[str, Any]], Given] = {}

    def given(self, options: Mapping[str, Any], limit: Limit | Places | None) -> Given:
        """The same object for the same options, where that can be known: it has their plans."""
        if limit is not None:
            return Given(options, limit)
        try:
            key = frozenset(options.items())
        except TypeError:  # something cannot be hashed: `resources`
            return Given(options)
        given = self._given.get(key)
        if given is None:
            given = Given(options)
            if len(self._given) > MOST:
                self._given = {}
            self._given[key] = given
        return given

    def find(self, fn: Any, given: Given, make: Callable[[Any, Given, Any], Plan]) -> Plan:
        """The plan for calls of `fn`, made by `make(fn, given, what is alike)` where needed."""
        alike = _alike(fn)
        stamp = _config.stamp()
        key = (stamp, id(given), id(alike))
        plan = self._plans.get(key)
        if plan is None:
            plan = make(fn, given, alike)
            if len(self._plans) > MOST:
                self._plans = {}
            self._plans[key] = plan
        plain = self._quick and plan.retry is None and given.limit is None and plan.seed is None
        plain = plain and (plan.backend.takes_references or not _payload.references_exist)
        if plain and getattr(fn, "__code__", fn) is alike:
            plan.configured, plan.active = stamp  # equal to what they were, perhaps not the same
            if len(given.known) > MOST:
                given.known = {}  # a program may make a new lambda for each call
            given.known[fn if _belongs_to_a_module(fn) else id(alike)] = plan
        return plan


def _belongs_to_a_module(fn: Any) -> bool:
    if type(fn) is not FunctionType:
        return False
    return getattr(sys.modules.get(fn.__module__), fn.__name__, None) is fn


def _alike(fn: Any) -> Any:
    """What all functions that get the same plan have in common.

    The code of a lambda or closure that is made anew for each call, the task of a bound one, the
    type of a nameless callable such as a partial.
    """
    code = getattr(fn, "__code__", None)
    if code is not None:
        return code
    if hasattr(fn, "__unirun_options__"):
        return getattr(fn, "__func__", fn)
    return fn if hasattr(fn, "__qualname__") else type(fn)


def inherit(options: CallOptions, seed: int | None) -> CallOptions:
    """With its seed, and that a call made inside a call must not outlive it."""
    call = _context.running.get()
    deadline = options.deadline
    if call is not None and call.deadline is not None:
        deadline = call.deadline if deadline is None else min(deadline, call.deadline)
    if deadline is options.deadline and seed is options.seed:
        return options
    return replace(options, deadline=deadline, seed=seed)


def retry_of(setting: Any) -> Retry | None:
    """None if a call is never run again."""
    if isinstance(setting, int):
        if not setting:
            return None
        from unirun._retry import Retry  # few calls need it

        setting = Retry(setting)
    retry: Retry = setting
    return retry if retry.times or retry.crashes else None
