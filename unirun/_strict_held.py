"""What the caller of a task still has, and what it will do with it.

A task that changes its argument harms nobody if the argument was made for the call; and a result
that is the argument itself matters to those who look at the argument again.
"""

from __future__ import annotations

import dis
import gc
import itertools
import sys
from types import FrameType, GeneratorType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, Literal

__all__ = ["caller", "is_held", "later_use"]

MOST_QUESTIONS = 12
"""So often the garbage collector is asked who refers to something; each takes milliseconds."""
MOST_REFERRERS = 100

_BETWEEN = {"asyncio", "concurrent", "contextvars", "threading", "unirun"}


def _is_between(namespace: dict[str, Any]) -> bool:
    """Whether code with these globals stands between a caller and its task."""
    return str(namespace.get("__name__", "")).partition(".")[0] in _BETWEEN


def caller() -> FrameType | None:
    """Whoever submits the call that is being submitted: the innermost frame that is not ours."""
    for frame in _frames(sys._getframe(1)):
        if not _is_between(frame.f_globals):
            return frame
    return None


def _frames(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


# -- does anybody have it? -----------------------------------------------------------------------


def is_held(obj: Any, caller: FrameType | None) -> bool:
    """Whether code that is not ours can get at `obj`, now that the task has ended.

    True as well where that would take too long to find out.
    """
    ours: set[int] = set()
    theirs: set[int] = set()
    # The caller's thread need not be this one.
    for frame in itertools.chain(_frames(sys._getframe(1)), _frames(caller)):
        values = frame.f_locals
        between = _is_between(frame.f_globals)
        (ours if between else theirs).update(map(id, values.values()))
        if type(values) is dict and values is not frame.f_globals:  # kept by the frame
            ours.add(id(values))
    waiting, questions = [obj], itertools.count()
    while waiting:
        one = waiting.pop()
        if id(one) in theirs:
            return True
        if next(questions) >= MOST_QUESTIONS:
            return True
        referrers = gc.get_referrers(one)
        ours.update((id(one), id(referrers), id(waiting)))
        for each in itertools.islice(referrers, MOST_REFERRERS):
            if id(each) in ours or _is_ours(each):  # the user's own, too: a map gives nothing twice
                continue
            if _is_root(each):
                return True
            waiting.append(each)
        del referrers
    return False


def _is_root(obj: Any) -> bool:
    """The globals of a module, or a generator of the user's."""
    if isinstance(obj, dict):
        return "__name__" in obj and "__builtins__" in obj
    frame = obj.gi_frame if isinstance(obj, GeneratorType) else None
    return frame is not None and not _is_between(frame.f_globals)


def _is_ours(obj: Any) -> bool:
    if isinstance(obj, FrameType):  # what a frame has was looked at
        return True
    return type(obj).__module__.partition(".")[0] in _BETWEEN


# -- will it be looked at? -----------------------------------------------------------------------


def later_use(frame: FrameType, obj: Any) -> tuple[str, int, Literal["is", "used"]] | None:
    """How `frame`, going on, next looks at a variable of its own that is `obj`.

    (its name, the line, "is" where it is compared by identity, else "used"); None if it does not.
    Follows the code downwards only: what a loop does once more is not seen.
    """
    names = {name for name, value in frame.f_locals.items() if value is obj}
    if not names:
        return None
    found: tuple[str, int, Literal["is", "used"]] | None = None
    line = frame.f_lineno
    following = [each for each in dis.get_instructions(frame.f_code) if each.offset > frame.f_lasti]
    for at, instruction in enumerate(following):
        positions = instruction.positions
        line = (positions.lineno if positions else None) or line
        for stores, name in _accesses(instruction):
            if name not in names:
                continue
            if stores:
                names.discard(name)
            elif any(each.opname == "IS_OP" for each in following[at + 1 : at + 3]):
                return name, line, "is"
            else:
                found = found or (name, line, "used")
    return found


def _accesses(instruction: dis.Instruction) -> list[tuple[bool, str]]:
    """(whether it stores, the name) for each variable that an instruction is about, in order."""
    operation, names = instruction.opname, instruction.argval
    if operation.startswith(("LOAD_FAST_LOAD_FAST", "STORE_FAST_", "LOAD_FAST_BORROW_LOAD")):
        first = operation.startswith("STORE")
        second = operation.endswith("STORE_FAST")
        if isinstance(names, tuple):  # two in one, from 3.13 on
            return [(first, names[0]), (second, names[1])]
    if not isinstance(names, str):
        return []
    if operation.startswith(("LOAD_FAST", "LOAD_NAME", "LOAD_GLOBAL", "LOAD_DEREF")):
        return [(False, names)]
    if operation.startswith(("STORE_FAST", "STORE_NAME", "STORE_GLOBAL", "STORE_DEREF")):
        return [(True, names)]
    return [(True, names)] if operation.startswith("DELETE_") else []
