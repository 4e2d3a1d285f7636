"""Seeds for calls: from the seed of a run and the number of the call, whoever runs it and when.

    run's seed ─┬─ 0 ─▶ a call ─┬─ 0 ─▶ a call that it submits
                │               └─ 1 ─▶ ...
                ├─ 1 ─▶ a map ──┬─ 0 ─▶ its first item
                │               └─ 1 ─▶ ...
                └─ 2 ─▶ ...

1. Calls are numbered where they are submitted, in that order; the items of a map by their place in
   its inputs.  So a seed depends neither on workers nor on backends, pieces or attempts.
2. A call that a call submits takes its seed from that one's: what else is submitted at the same
   time makes no difference.  Unless the run was begun inside that very call.
3. A run is begun by `Executor(seed=)`, and by each entering of a `with config(seed=)`.  Where the
   seed is said for the whole program, each executor is a run of its own, in the order in which
   they are made.

Light by rule: worker processes import it.
"""

from __future__ import annotations

import itertools
from types import CoroutineType

from unirun import _context
from unirun._deferral import imported
from unirun._errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from typing import Any

    from unirun._plan import Plan
    from unirun.backend import CallOptions

__all__ = ["Run", "Seeding", "Seeds", "begin", "derive", "end", "seed_libraries"]

_BITS = (1 << 64) - 1


def derive(seed: int, number: int) -> int:
    """The seed of the child with that number, in 63 bits; the step and the mixing of SplitMix64."""
    mixed = (seed + 0x9E3779B97F4A7C15 * (number + 1)) & _BITS
    mixed = ((mixed ^ mixed >> 30) * 0xBF58476D1CE4E5B9) & _BITS
    mixed = ((mixed ^ mixed >> 27) * 0x94D049BB133111EB) & _BITS
    return (mixed ^ mixed >> 31) >> 1


def _root(seed: int) -> int:
    """Of a number of any size; those that lie side by side have nothing in common."""
    root = derive(seed & _BITS, 0)
    while seed := seed >> 64:
        root = derive(root ^ seed & _BITS, 0)
    return root


class Run:
    """Some calls that are numbered together."""

    __slots__ = ("_numbers", "_seed", "begun_in")

    def __init__(self, seed: int) -> None:
        self._seed = _root(seed)
        self._numbers = itertools.count()
        self.begun_in: Any = _context.running.get()

    def next(self) -> int:
        return derive(self._seed, next(self._numbers))


def begin(said_by: object, seed: int) -> None:
    """A `with config(seed=)` was entered."""
    _context.runs.set((*_context.runs.get(), (said_by, Run(seed))))


def end(said_by: object) -> None:
    """It was left."""
    runs = _context.runs.get()
    for at in reversed(range(len(runs))):
        if runs[at][0] is said_by:
            _context.runs.set(runs[:at] + runs[at + 1 :])
            return


_executors = itertools.count()


class Seeds:
    """Of the calls of one executor; `own` is the seed that it was made with."""

    def __init__(self, own: int | None) -> None:
        self._own = None if own is None else Run(own)
        self._number = next(_executors)
        self._of_program: dict[int, Run] = {}

    def next(self, plan: Plan) -> int | None:
        """For a call of that plan, or a map, that is submitted now; None: it has none."""
        if plan.options.seed is not None:
            return plan.options.seed
        call, run = _context.running.get(), self._run(plan.seed)
        if call is not None and call.seeded and (run is None or run.begun_in is not call):
            task = _context.current_task()
            assert task is not None
            return task.seed_of_next()
        return None if run is None else run.next()

    def _run(self, said: tuple[int, str] | None) -> Run | None:
        """`said`: the seed, and where."""
        if said is None:
            return None
        seed, source = said
        if source == "Executor()":
            return self._own
        if source == "with config()" and (runs := _context.runs.get()):
            run: Run = runs[-1][1]
            return run
        run = self._of_program.get(seed) or Run(derive(_root(seed), self._number))
        run = self._of_program.setdefault(seed, run)
        run.begun_in = None  # by whatever call the executor was first used: rule 2 holds
        return run


# -- generators that belong to a whole process ----------------------------------------------------


class Seeding:
    """Calls a function with `random` and numpy seeded; they are what they were afterwards."""

    def __init__(self, fn: Callable[..., Any]) -> None:
        self.__wrapped__ = fn

    @classmethod
    def of(cls, fn: Any, options: CallOptions) -> Seeding:
        """What is called instead of `fn`."""
        if options.seed is None:
            raise ConfigError(
                "seed_libraries needs a seed; give one by Executor(seed=), config(seed=) or "
                "UNIRUN_SEED"
            )
        return cls(fn)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        before = _states()
        _seed_for_this_call()
        try:
            value = self.__wrapped__(*args, **kwargs)
        finally:
            _restore(before)
        return self._later(value) if type(value) is CoroutineType else value

    async def _later(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        before = _states()
        _seed_for_this_call()
        try:
            return await coroutine
        finally:
            _restore(before)


def _seed_for_this_call() -> None:
    task = _context.current_task()
    if task is not None and task.seed is not None:
        seed_libraries(task.seed)


def seed_libraries(seed: int) -> None:
    """Those that have one generator for all."""
    imported("random").seed(seed)
    if (generators := _of_numpy()) is not None:
        generators.seed([seed & 0xFFFFFFFF, seed >> 32])  # it takes 32 bits a piece


def _states() -> tuple[Any, Any]:
    generators = _of_numpy()
    return imported("random").getstate(), None if generators is None else generators.get_state()


def _restore(states: tuple[Any, Any]) -> None:
    imported("random").setstate(states[0])
    if states[1] is not None:
        imported("numpy.random").set_state(states[1])


def _of_numpy() -> Any:
    """`numpy.random`; imported, since the call may do so and then is to find it seeded."""
    try:
        return imported("numpy.random")
    except ImportError:
        return None
