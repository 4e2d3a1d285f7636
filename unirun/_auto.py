"""`kind="auto"`: measure the first calls of a function; send the others where they end soonest.

    submit ──> Route.submit ─┬─ measuring:  to a thread, inside of `Measured` ──> figures ──> choice
                             ├─ thread:     to a thread; one of many is measured again
                             ├─ inline:     here, at once
                             └─ process:    to a process, where the arguments are plain data

1. Every function begins on threads, and stays there unless `_travel` sees that its calls mean the
   same elsewhere, and `_forecast` that they end sooner.
2. Before the first call goes to a process, a worker there has imported the function and found all
   it reads to be what it is here.  Until it has answered, calls go to threads; nobody waits.
3. A call leaves the process only if what the verdict was built on holds at that moment, and its
   arguments are plain data that it does not change.
4. Inline runs only what cannot take long: straight code without calls, given numbers.
5. A map changes its place once at most, from threads to processes, and keeps its order.
"""

from __future__ import annotations

import os
import threading
from concurrent.futures._base import FINISHED
from contextvars import copy_context

from unirun import _observe, _profile
from unirun._cuts import Chunker
from unirun._deferral import imported
from unirun._forecast import Place, best, enough_to_start
from unirun._future import Future
from unirun._gauge import Measured, Sample
from unirun._lessons import Lessons
from unirun._plain import CHANGES, FIXED, FOREIGN, kind_alone, kind_of
from unirun._plan import Plan
from unirun._records import replace
from unirun._rehearsal import agree, expected_of
from unirun._sites import note, site_of
from unirun._travel import STAYS, Verdict, judge
from unirun.backend import DEFAULT_OPTIONS, describe

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from unirun.backend import Backend, CallOptions

__all__ = ["Course", "Route"]

INLINE = 2e-5
"""Seconds a call may have taken at most to run inline."""
AGAIN = 0.5
"""Seconds of work, about, between two calls that are measured once something is chosen."""
PACE = 5e-4
"""The same, while it is known that calls would leave if there were more of them."""
FEWEST_BETWEEN, MOST_BETWEEN = 16, 20_000
FROZEN_PATIENCE = 30.0
"""Seconds that a frozen choice waits for the worker that is asked about it."""
_NUMBERS = frozenset({int, float, bool, type(None)})
_LARGEST = 1 << 63


class Route:
    """Where the calls of one function of one executor go; belongs to their plan."""

    def __init__(
        self,
        fn: Any,
        plan: Plan,
        *,
        place: Callable[[], Place],
        process: Callable[[], Backend | None],
        there: Callable[[str], CallOptions],
        frozen: bool,
    ) -> None:
        """`process()` starts those of the executor; None: there are none any more. `there(reason)`
        makes the options of calls that go to them."""
        self._here = plan
        self._there: Plan | None = None  # once a worker has agreed
        self._place, self._process, self._options_there = place, process, there
        self._frozen = frozen
        self.known = _profile.find(_profile.key_of(fn))
        self._lessons = Lessons(self.known)
        # Held by the one who asks a worker: it is asked once. Others do not wait for it.
        self._asking = threading.Lock()
        self._asked = False
        self._wants_process = False
        self._cwd = ""
        self._why: object = self.known.reason
        # Written by whoever comes first; each is one store, and whichever is seen is true.
        self._fn: Any = None  # that the verdict is about
        self._verdict: Verdict = STAYS
        self._refused = ""  # why it stays, whatever the verdict
        self._left = 0  # calls until one is measured again; may miscount, it is no promise
        self.calls_on = self.maps_on = ""  # "": not chosen
        plan.submit = self.submit
        if frozen:
            self._keep_to_what_is_known(fn)
        elif self.known.loaded:
            self._judge(fn)
            self._choose()

    # -- single calls -----------------------------------------------------------------------------

    def submit(self, fn: Any, args: Any, kwargs: Any, options: CallOptions) -> Future[Any]:
        """What `Plan.submit` is while it measures, and where calls may leave."""
        plan, fn = self.at(fn, args, kwargs)
        if plan is self._there:
            options = plan.options  # with no deadline to inherit, calls come here as they are
        return plan.backend.submit(fn, args, kwargs, options)

    def _submit_here(self, fn: Any, args: Any, kwargs: Any, options: CallOptions) -> Future[Any]:
        # On the way of every short call: nothing more fits in.
        self._left -= 1
        if self._left > 0:
            return self._here.backend.submit(fn, args, kwargs, options)
        return self.submit(fn, args, kwargs, options)

    def _submit_inline(self, fn: Any, args: Any, kwargs: Any, options: CallOptions) -> Future[Any]:
        """Rule 4."""
        self._left -= 1
        if self._left <= 0 or kwargs or fn is not self._fn or not self._verdict.holds():
            return self._submit_here(fn, args, kwargs, options)
        if _observe.watchers:  # who are told of what backends do
            return self._here.backend.submit(fn, args, kwargs, options)
        for arg in args:
            if type(arg) not in _NUMBERS or (type(arg) is int and not -_LARGEST < arg < _LARGEST):
                return self._submit_here(fn, args, kwargs, options)
        # Nobody else has this future yet: what ends others under a lock is stored here.
        future: _Done = _Done()
        future._exception = future._listeners = future._result = None
        future._backend, future._options = self._here.backend, options
        try:
            future._result = fn(*args)
        except Exception as exc:  # whatever a task raises is its outcome  # noqa: BLE001
            note(future)  # only now: its caller is still there
            future._fail_with(exc, fn, args)
        future._state = FINISHED
        return future

    def at(self, fn: Any, args: Any, kwargs: Any) -> tuple[Plan, Any]:
        """The plan for a call, and the function it is to call."""
        if self._wants_process and not self._asked:
            self._ask(fn)
        if not self.is_due():
            if self.calls_on == "process" and self.may_leave(fn, args, kwargs):
                assert self._there is not None
                return self._there, fn
            return self._here, fn
        return self._here, fn if self._lessons.is_busy() else self.measured(fn)

    # -- maps -------------------------------------------------------------------------------------

    def course(self, fn: Any, *, pieces: bool) -> Course:
        """How a map of `fn` goes; `pieces`: its items may be sent several at a time."""
        if fn is not self._fn:
            self._judge(fn)
        return Course(self, fn, pieces=pieces and not self.reason_to_stay())

    # -- measuring --------------------------------------------------------------------------------

    def measured(self, fn: Any, items: int = 0) -> Any:
        """`fn` to be called once, in a thread; `items`: it is a piece of a map, with so many."""
        if self._frozen:
            return fn
        self._left = self._between() if self.calls_on else 0
        self._lessons.begin()
        probes = self._lessons.wants_probe(items) and not self.reason_to_stay()
        return Measured(fn, self, items=items, probes=probes)

    def heard(self, call: Measured, sample: Sample, args: Any, value: Any) -> None:
        """A measured call has ended; called in its thread, before its future ends."""
        fn, given, results = call.__wrapped__, args, (value,)
        if call.items:
            fn, given = args
            fn = getattr(fn, "__wrapped__", fn)  # `_numbered`
            results = () if value is None else tuple([each for _, each in value[1]])
        if fn is not self._fn:
            self._judge(fn)
        self._lessons.end(sample, given, results)
        if not self.reason_to_stay():
            self._refused = _objection(given, results)
        if self._lessons.are_enough(gil_matters=not self.reason_to_stay()):
            self._choose()

    def probing(self, said: tuple[float, float] | None) -> None:
        """A measured call begins, and the probe looks on; called in its thread."""
        self._lessons.probing(said)

    def is_due(self) -> bool:
        """A call is to be measured again."""
        self._left -= 1
        return self._left <= 0 and not self._frozen

    def not_run(self) -> None:
        """A call that should have been measured never ran."""
        self._lessons.drop()

    def heard_from_afar(self, seconds: float) -> None:
        """So long took an item of a piece that ran elsewhere."""
        if not self._frozen and self._lessons.seems_new(seconds):
            self._lessons.begin_again()
            self.calls_on = self.maps_on = ""
            self._here.submit = self.submit

    def _between(self) -> int:
        count = int(AGAIN / max(self.known.seconds, 1e-6))
        return max(FEWEST_BETWEEN, min(MOST_BETWEEN, count))

    # -- choosing ---------------------------------------------------------------------------------

    def reason_to_stay(self) -> str:
        """Why no call of it may leave; "" if some may."""
        return self._refused or self._verdict.reason

    def may_leave(self, fn: Any, args: Any, kwargs: Any) -> bool:
        """Rule 3, for one call."""
        if fn is not self._fn:
            self._judge(fn)
        if self.reason_to_stay() or not self._verdict.holds():
            return False
        kinds = [kind_of(each) for each in args]
        kinds += [kind_of(each) for each in kwargs.values()] if kwargs else []
        worst = max(kinds, default=0)
        if worst == FOREIGN or (worst == CHANGES and self._may_change(fn, kinds, kwargs)):
            return False
        return not self._verdict.files or self._cwd == os.getcwd()

    def _may_change(self, fn: Any, kinds: list[int], kwargs: Any) -> bool:
        changes = self._verdict.changes
        if not changes:
            return False
        code = getattr(getattr(fn, "fn", fn), "__code__", None)
        names = [] if code is None else list(code.co_varnames[: code.co_argcount])
        given = len(kinds) - len(kwargs)
        names = [*names[:given], *("*" for _ in range(given - len(names))), *kwargs]
        hit = {name for name, kind in zip(names, kinds, strict=True) if kind == CHANGES}
        return "*" in changes or "*" in hit or bool(hit & changes)

    def _judge(self, fn: Any) -> None:
        self._verdict = judge(getattr(fn, "fn", fn) if hasattr(fn, "__unirun_options__") else fn)
        self._fn = fn

    def _choose(self) -> None:
        reason: Any = self.reason_to_stay()
        calls, maps = "thread", "thread"
        if not reason:
            place = self._place()
            now = self.calls_on, self.maps_on
            in_maps = best(self.known, place, in_map=True, now=now[1])
            reason = best(self.known, place, in_map=False, now=now[0])
            calls, maps = reason.place, in_maps.place
        if "process" in (calls, maps) and self._there is None:
            calls, maps = self._until_it_may_leave(calls, maps, reason)
        short = self._verdict.is_short and self.known.seconds <= INLINE
        self._go("inline" if calls == "thread" and short else calls, maps, reason)

    def _until_it_may_leave(self, calls: str, maps: str, why: object) -> tuple[str, str]:
        """Rule 2. What is not to go to a process goes on being measured, for its time to count."""
        if not self._asked:
            self._wants_process = self.known.loaded or enough_to_start(self._lessons.spent)
            self._why = why
            if not self._wants_process and calls == "process":
                self._left = int(PACE / max(self.known.seconds, 1e-6))
                self._lessons.assume(self._left)
        return "" if calls == "process" else calls, "" if maps == "process" else maps

    def _go(self, calls: str, maps: str, reason: object) -> None:
        if calls:
            self._left = self._between()
        if (calls, maps) == (self.calls_on, self.maps_on):
            return
        self.calls_on, self.maps_on = calls, maps
        if calls:
            self.known.calls_on, self.known.maps_on, self.known.reason = calls, maps, str(reason)
        ways = {"thread": self._submit_here, "inline": self._submit_inline}
        self._here.submit = ways.get(calls, self.submit)

    def _keep_to_what_is_known(self, fn: Any) -> None:
        """Frozen: nothing is measured, and nothing changes."""
        self.calls_on, self.maps_on = (
            self.known.calls_on or "thread",
            self.known.maps_on or "thread",
        )
        if (self.calls_on, self.maps_on) != ("thread", "thread"):
            self._judge(fn)
        if "process" in (self.calls_on, self.maps_on):
            self._ask(fn, wait=True)
            if self._there is None:
                self.calls_on, self.maps_on = self.calls_on.replace("process", "thread"), "thread"
        if self.calls_on == "inline" and not self._verdict.is_short:
            self.calls_on = "thread"
        if self.calls_on == "inline":
            self._here.submit = self._submit_inline
        elif self.calls_on == "thread":
            self._here.submit = self._here.backend.submit

    # -- rule 2 -----------------------------------------------------------------------------------

    def _ask(self, fn: Any, *, wait: bool = False) -> None:
        """Have a worker import the function, and compare what it reads."""
        if not self._asking.acquire(blocking=False):
            return
        try:
            if self._asked or self.reason_to_stay():
                return
            self._asked = True
            backend = self._process()
            if backend is None:
                return
            expected = expected_of(self._verdict.watched)
            options = replace(DEFAULT_OPTIONS, name=f"unirun: asks if {describe(fn)} may go there")
            future = backend.submit(agree, (fn, expected), {}, options)
        finally:
            self._asking.release()
        if not wait:
            future.add_done_callback(lambda done: self._answered(done, backend))
        elif future._wait(FROZEN_PATIENCE):
            self._answered(future, backend)

    def _answered(self, done: Future[Any], backend: Backend) -> None:
        if done.cancelled():
            return  # the executor ends
        error = done.exception()
        different, cwd = done.result() if error is None else ("", "")
        if error is not None:
            self._refused = f"a worker cannot run it ({type(error).__name__})"
        elif different:
            self._refused = f"{different} is not the same in a worker"
        else:
            options, here = self._options_there(str(self._why)), self._here
            self._cwd = cwd
            self._there = Plan(
                backend, options, retry=here.retry, single=here.single, keep=here.keep
            )
        if not self._frozen:
            self._choose()


class _Done(Future["Any"]):
    """Of a call that ran inline: it has ended before anybody sees it."""

    __slots__ = ("_backend", "_exception", "_listeners", "_options", "_result", "_state")

    _options: CallOptions
    _called_with: tuple[Any, Any, Any] | None = None  # of one that has failed

    __init__ = object.__init__  # as of a ThreadFuture

    def _fail_with(self, error: Exception, fn: Any, args: Any) -> None:
        tb = error.__traceback__
        self._exception = error.with_traceback(None if tb is None else tb.tb_next)
        self._called_with = fn, args, {}
        name, number = self._about(fn)
        said = imported("unirun._call_notes")
        note = said.call_note(name, args, fn=fn, call=number, worker="this process")
        said.add_call_note(error, note, site_of(self))

    def _again(self) -> Callable[[], tuple[Any, BaseException | None]] | None:
        call = self._called_with
        if call is None:
            return None
        name, number = self._about(call[0])
        again = imported("unirun._again").run_again
        # In whatever context: by rule 4 it calls nothing that could see one.
        return lambda: again(copy_context(), "inline", name, self._options, number, call)

    def _about(self, fn: Any) -> tuple[str, int]:
        return self._options.name or describe(fn), _observe.number_of(self)

    def _tell_info(self) -> dict[str, Any]:
        return {"options": self._options, "backend": "inline", "pid": os.getpid()}


class Course:
    """How one map goes. Rule 5."""

    def __init__(self, route: Route, fn: Any, *, pieces: bool) -> None:
        self._route = route
        self._fn = fn
        self.pieces = pieces
        self._goes = self._chosen()

    def chunker(self, size: int | None, workers: int) -> Chunker:
        """What cuts it: by what is known already."""
        chunker = _Chunker(size, workers, self)
        known = self._route.known
        if known.calls and self._goes:
            chunker.expect(known.seconds)
        return chunker

    def at(self, fn: Any, args: Any, kwargs: Any) -> tuple[Plan, Any]:
        """As `Route.at`, for a piece of it or an item."""
        route = self._route
        if fn is not self._fn and not self.pieces:
            return route._here, fn  # it was told how many items to send at a time
        if route._wants_process and not route._asked:
            route._ask(self._fn)
        if self._goes != "process":
            self._goes = self._chosen()
        if self._goes == "process" and self._may_leave(args, kwargs):
            assert route._there is not None
            return route._there, fn
        if self._goes and not route.is_due():
            return route._here, fn
        return route._here, route.measured(fn, len(args[1][0]) if self.pieces else 0)

    def _chosen(self) -> str:
        goes = self._route.maps_on if self.pieces else self._route.calls_on
        return "thread" if goes == "inline" else goes

    def _may_leave(self, args: Any, kwargs: Any) -> bool:
        if not self.pieces:
            return self._route.may_leave(self._fn, args, kwargs)
        # A list that holds the items is ours, and cannot be changed by them.
        columns = [tuple(each) if type(each) is list else each for each in args[1]]
        return self._route.may_leave(self._fn, columns, {})


class _Chunker(Chunker):
    """Tells the route how long items take where nothing measures them."""

    def __init__(self, size: int | None, workers: int, course: Course) -> None:
        super().__init__(size, workers)
        self._course = course

    def expect(self, seconds: float) -> None:
        """An item is known to take so long."""
        super().learn(self._bound, seconds * self._bound)

    def learn(self, items: int, seconds: float) -> None:
        super().learn(items, seconds)
        if items and self._course._goes == "process":
            self._course._route.heard_from_afar(seconds / items)


def _objection(given: Any, results: Any) -> str:
    """What speaks against a copy of these arguments and results; "" if nothing is seen to."""
    ids = {id(each) for each in _parts(given) if kind_alone(each) != FIXED}
    for each in _parts(results):
        if id(each) in ids:
            return "it handed back one of its arguments"
        if kind_alone(each) == FOREIGN:
            return f"it returned a {type(each).__name__}, which is not plain data"
    return ""


_FEW = 16


def _parts(values: Any) -> list[Any]:
    """Those values that are no numbers or texts, the first of what is in them, and in these."""
    found: list[Any] = []
    level = list(values)[:_FEW]
    for _ in range(3):
        level = [each for each in level if type(each) not in _NUMBERS and type(each) is not str]
        found += level
        level = [part for each in level for part in _members(each)]
    return found


def _members(value: Any) -> list[Any]:
    if type(value) is dict:
        value = list(value.values())
    return list(value[:_FEW]) if type(value) in (list, tuple) else []
