"""Context variables on their way to another process.

    submit: copy_context() ──> (place, value) of each ──> bytes ──> set in the context of the call

1. A variable is known elsewhere by its place: the module that has it, and the way to it in there.
   One that no importable module has travels with what refers to it, and is made anew: one for each
   process that gets it, with the same name and default.
2. Values are a snapshot, taken at submit: plain ones as they are, all others pickled one by one.
3. What cannot be pickled stays behind, which is told once for each variable.  So is what cannot
   be unpickled, or has no place there.
4. Values are never compared, nor hashed: both would run code of the user.
5. Nothing comes back: what a call sets is gone when it ends, as in a thread.
6. Ours begin with "unirun_" and do not travel.  A few of others travel in a form of their own:
   see `_own_forms`.
"""

from __future__ import annotations

import itertools
import os
import sys
import warnings
from _pickle import dumps as _plainly
from contextvars import Context, ContextVar, copy_context
from marshal import dumps as _marshal
from marshal import loads as _unmarshal

from unirun import _context, _own_forms, _payload
from unirun._deferral import imported
from unirun._errors import SerializationError
from unirun._variable_places import find

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TypeAlias

    # (module, ((whether it is a key of a dict, name or key), ...)); or ("", a name for it that is
    # unique, its name, its default pickled or b"").
    Place: TypeAlias = tuple[Any, ...]

__all__ = ["ContextWarning", "arrive", "arrived", "reduce", "travelling"]

_ATOMS = frozenset({int, float, complex, bool, type(None), str, bytes})
_PLAIN, _PICKLED, _OWN_FORM = range(3)
_MOST = 1000  # variables that are remembered

_places: dict[ContextVar[Any], Place | None] = {}  # None: does not travel
_made: dict[str, ContextVar[Any]] = {}  # rule 1, by what is unique
_refused: dict[ContextVar[Any], type] = {}  # kinds of values that could not be pickled
_told: dict[object, object] = {}  # rule 3
_numbers = itertools.count(1)
# In a worker: what came last, if all of it was plain. Calls often come with the same.
_last: tuple[bytes, list[tuple[ContextVar[Any], Any]]] = b"", []
_key = ""  # of this process; made at first use


class ContextWarning(UserWarning):
    """A context variable is not what it should be in a worker process."""


ContextWarning.__module__ = "unirun"


# -- where they come from -------------------------------------------------------------------------


def travelling(context: Context | None = None) -> tuple[bytes | None, list[Any]]:
    """All that travels from here, and the handles in it, to be kept until it has arrived.

    Raises ContextWarning where a filter turns that into an error.
    """
    found: list[tuple[Any, ...]] = []
    handles: list[Any] = []
    for variable, value in (copy_context() if context is None else context).items():
        form = _own_forms.BY_NAME.get(variable.name)
        if form is not None and form.fits(value):
            if (data := form.leave(value)) is not None:
                found.append((variable.name, _OWN_FORM, data))
            continue
        place = _places.get(variable) or _place_of(variable)
        if place is None:
            continue
        if type(value) in _ATOMS:
            found.append((place, _PLAIN, value))
            continue
        data, met = _payload.handles_in(_pickled, variable, value)
        handles += met
        if data is not None:
            found.append((place, _PICKLED, data))
    return (_marshal(tuple(found)) if found else None), handles


def _place_of(variable: ContextVar[Any]) -> Place | None:
    if variable in _places or variable.name.startswith("unirun_"):
        return _places.setdefault(variable, None)
    if len(_places) >= _MOST:
        _places.clear()  # a program may make them without end
        _made.clear()
    found = find(variable)
    return _places.setdefault(variable, _elsewhere(variable) if found is None else found)


def _elsewhere(variable: ContextVar[Any]) -> Place:
    """Rule 1, for one that no module has."""
    global _key
    if not _key:
        _key = os.urandom(8).hex()
    data = b""
    try:
        data = _payload.dumps(Context().run(variable.get), "it")
    except LookupError:
        pass  # it has none
    except SerializationError as exc:
        _tell(variable, f"{_named(variable.name)} has no default in worker processes", exc)
    place = "", f"{_key}-{next(_numbers)}", variable.name, data
    _made[place[1]] = variable
    return place


def _pickled(variable: ContextVar[Any], value: Any) -> bytes | None:
    if _refused.get(variable) is type(value):
        try:
            _plainly(value, _payload.PROTOCOL)  # in microseconds; to find out why takes longer
        except KeyboardInterrupt:
            raise
        except BaseException:  # user code; it was told of  # noqa: BLE001
            return None
    try:
        return _payload.dumps(value, "its value")
    except SerializationError as exc:
        why = str(exc)
    if not _own_forms.stays(value):
        _tell(variable, f"{_named(variable.name)} does not reach worker processes", why)
    _refused[variable] = type(value)
    return None


def _named(name: str) -> str:
    return f"context variable {name!r}"


_REMEDY = "hand over what is needed as an argument, or set context=False to send no variables"


def _tell(about: object, what: str, why: object, place: tuple[str, int] | None = None) -> None:
    """Rule 3; by default at the line of the program that submits."""
    if about not in _told:
        text = f"{what}: {why}; {_REMEDY}"
        warnings.warn_explicit(text, ContextWarning, *(place or _line_outside()))
        _told[about] = None


def _line_outside() -> tuple[str, int]:
    frame = sys._getframe(1)
    while frame.f_back is not None and str(frame.f_globals.get("__name__")).startswith("unirun."):
        frame = frame.f_back
    return frame.f_code.co_filename, frame.f_lineno


# -- where they go --------------------------------------------------------------------------------


def arrive(data: bytes) -> None:
    """Set what has travelled, in the context of this call."""
    global _last
    before, plain = _last
    if data == before:
        for variable, value in plain:
            variable.set(value)
        return
    found, plain = _unmarshal(data), []
    for place, how, value in found:
        name = place if how == _OWN_FORM else str(place[2] if not place[0] else place[1][-1][1])
        try:
            if how == _OWN_FORM:
                _own_forms.BY_NAME[name].arrive(value)
                continue
            variable = arrived(place)
            variable.set(_payload.loads(value) if how == _PICKLED else value)
            if how == _PLAIN:
                plain.append((variable, value))
        except Exception as exc:  # modules and values are the user's  # noqa: BLE001
            _tell_up(name, f"{type(exc).__name__}: {exc}")
    if len(plain) == len(found):
        _last = data, plain


def _tell_up(name: str, why: str) -> None:
    if name not in _told:
        _told[name] = None
        if _context.tell is not None:
            _context.tell("context", 0, (name, why))


def heard(origin: Any, value: tuple[str, str]) -> None:
    """In the program: what a worker could not set."""
    name, why = value
    what = f"{_named(name)} is not set in worker processes"
    _tell(name, what, why, (f"<worker {origin.worker}>", 1))


def arrived(place: Place) -> ContextVar[Any]:
    """The variable that has this place."""
    module, way = place[0], place[1]
    if not module:
        made = _made.get(way)
        if made is None:
            if len(_made) >= _MOST:
                _places.clear()  # as where they come from
                _made.clear()
            made = _made.setdefault(way, _like(*place[2:]))
            _places[made] = place
        return made
    found: Any = imported(module)
    for is_key, name in way:
        if is_key and name not in found:  # made at first use, there
            found[name] = ContextVar(name)
        found = found[name] if is_key else getattr(found, name)
    if type(found) is not ContextVar:
        raise TypeError(f"{module} has no context variable there, but a {type(found).__name__}")
    return found


def _like(name: str, default: bytes) -> ContextVar[Any]:
    if not default:
        return ContextVar(name)
    value = _payload.loads(default)
    return ContextVar(name, default=value)


def reduce(variable: ContextVar[Any]) -> tuple[Any, ...]:
    """For pickle: a function that travels by value refers to it, or it is an argument."""
    place = _place_of(variable)
    if place is None:
        raise TypeError(f"{_named(variable.name)} is for one process; it cannot be pickled")
    return arrived, (place,)
