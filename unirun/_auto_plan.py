"""Which plans learn: those of functions of which nobody has said where they are to run."""

from __future__ import annotations

import weakref
from types import BuiltinFunctionType, CodeType

from unirun import _config
from unirun._auto import Route
from unirun._choice import Chosen
from unirun._errors import ExecutorShutdown, SerializationError, UnsupportedByBackend
from unirun._forecast import Place
from unirun._machine import cpu_count, gil_enabled
from unirun._records import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from unirun._executor import Executor
    from unirun._hints import Decision
    from unirun._plan import Plan
    from unirun.backend import Backend, CallOptions

__all__ = ["learn"]


def learn(executor: Executor, fn: Any, plan: Plan, settings: Any, decision: Decision) -> None:
    """Have the calls of that plan measured, and sent where they end soonest.

    Only where nobody has said where they run, and nothing makes one place unlike another.
    """
    if plan.options.capture or not _is_one_function(fn, plan):
        return  # what is printed is kept by the backend that was chosen, not on the way to it
    try:
        carried = _config.carried()
    except SerializationError:
        return  # a worker could not be told the settings of these calls
    owner, here, cores = weakref.ref(executor), plan.options, cpu_count()
    processes = executor._chooser._workers("process", "cpu") or cores

    def place() -> Place:
        return Place(cores, plan.backend.max_workers, processes, gil_enabled())

    def process() -> Backend | None:
        try:
            return executor_of(owner)._backend("process")
        except (ExecutorShutdown, UnsupportedByBackend, OSError):
            return None  # there will be no workers: calls stay where they are

    def there(reason: str) -> CallOptions:
        reasons = (*decision.reasons, f"measured: {reason}")
        moved = replace(decision, backend="process", reasons=reasons)
        name = here.chosen.function if here.chosen is not None else ""
        return replace(here, settings=carried, chosen=Chosen(name, moved, settings))

    frozen = settings["auto"] == "frozen"
    plan.route = Route(fn, plan, place=place, process=process, there=there, frozen=frozen)


def executor_of(owner: weakref.ref[Executor]) -> Executor:
    executor = owner()
    if executor is None:
        raise ExecutorShutdown("the executor is gone; make another one")
    return executor


def _is_one_function(fn: Any, plan: Plan) -> bool:
    """Its plan is for calls of the same code; not, for example, for any partial."""
    alike = plan.keep[1]
    return type(alike) in (CodeType, BuiltinFunctionType) or (
        alike is fn and hasattr(fn, "__unirun_options__")
    )
