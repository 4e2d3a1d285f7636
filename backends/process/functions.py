"""Calls as bytes, made in the thread that submits.

A function is sent to each worker once and known by a number from then on, wherever that is right:

1. A function that can be imported travels by name.
2. One that cannot (of `__main__`, a lambda, a closure) travels by value.  Its bytes are used again
   only while everything they hold is what it was: the same code, and defaults, closure cells and
   globals that are the identical objects, of kinds that cannot change.  Functions it calls that
   travel by value too are held to the same rule.
3. Anything else callable (a partial, a bound method), and a function with something mutable in it,
   travels with the arguments each time, so that what it captured is what it was at submit.
"""

from __future__ import annotations

import sys
import threading
import types
from collections.abc import Iterator
from opcode import opmap

from unirun import _payload
from unirun._errors import SerializationError
from unirun._payload import dumps, encode, handles_in, importable
from unirun.backend import CallOptions, describe

from .future import Profile
from .state import ALONE
from .wire import PLAIN, is_plain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from unirun._payload import Store

MAX_KNOWN = 1024
"""How many functions a worker keeps before it is told to forget them all."""
MAX_PROFILES = 64
"""How many kinds of options are remembered for a function."""

_BY_NAME = (types.FunctionType, types.BuiltinFunctionType, type)
_ATOMS = frozenset({int, float, complex, str, bytes, bool, type(None), type(Ellipsis), range})
_REBINDS = ("STORE_GLOBAL", "DELETE_GLOBAL", "STORE_DEREF", "DELETE_DEREF")


class Known:
    """A function that has a number, and what calls of it have in common."""

    __slots__ = ("data", "kept", "name", "number", "profiles")

    def __init__(self, kept: Any, number: int, data: bytes, name: str) -> None:
        self.kept = kept
        self.number = number
        self.data = data
        self.name = name
        self.profiles: dict[int, Profile] = {}  # by id of the options, which they keep


class FunctionTable:
    """Numbers for functions. Any thread may use it.

    `shares`: whether calls of one function may share a worker at all.
    """

    def __init__(self, *, shares: bool = True) -> None:
        # Guards the making of numbers; reading needs none. Reentrant, for a `__del__` that submits.
        self._lock = threading.RLock()
        # By id of what is kept in the entry, so that the id cannot become another's: the function
        # of rule 1, the code object of rule 2.
        self._by_name: dict[int, Known] = {}
        self._by_value: dict[int, Known] = {}
        self._next = 1
        self._shares = shares

    def profile(self, fn: Any, options: CallOptions) -> Profile:
        """Of a call without limits; the same object each time, where that is right."""
        known = self._by_name.get(id(fn)) or self._find(fn)
        if known is None:
            return _profile(None, fn, options, ALONE)
        profile = known.profiles.get(id(options))
        if profile is None:
            profile = _profile(known, fn, options, known.number if self._shares else ALONE)
            if len(known.profiles) >= MAX_PROFILES:
                known.profiles = {}
            known.profiles[id(options)] = profile
        return profile

    def profile_once(self, fn: Any, options: CallOptions) -> Profile:
        """As `profile`, for options that no other call has."""
        known = self._by_name.get(id(fn)) or self._find(fn)
        shared = known is not None and self._shares
        return _profile(known, fn, options, known.number if shared and known else ALONE)

    def profile_alone(self, fn: Any, options: CallOptions) -> Profile:
        """Of a call that shares a worker with no other."""
        return _profile(self._by_name.get(id(fn)) or self._find(fn), fn, options, ALONE)

    def _find(self, fn: Any) -> Known | None:
        return self._find_by_value(fn) or self._learn(fn)

    def _find_by_value(self, fn: Any) -> Known | None:
        if type(fn) is not types.FunctionType:
            return None
        known = self._by_value.get(id(fn.__code__))
        return known if known is not None and known.kept.still_holds(fn) else None

    def _learn(self, fn: Any) -> Known | None:
        if _travels_by_name(fn):
            return self._enter(self._by_name, id(fn), fn, dumps(fn, describe(fn)), fn)
        if type(fn) is not types.FunctionType:
            return None
        captured = Captured.of(fn)
        if captured is None:
            return None
        try:
            data = dumps(fn, describe(fn))
        except SerializationError:
            return None  # said again, with the path to the culprit, for the whole call
        return self._enter(self._by_value, id(fn.__code__), captured, data, fn)

    def _enter(self, table: dict[int, Known], key: int, kept: Any, data: bytes, fn: Any) -> Known:
        with self._lock:
            if len(table) >= MAX_KNOWN:
                table.clear()  # numbers are never used twice, so old ones stay right
            known = table[key] = Known(kept, self._next, data, describe(fn))
            self._next += 1
        return known


def _profile(known: Known | None, fn: Any, options: CallOptions, kind: int) -> Profile:
    if known is None:
        return Profile(0, None, options.name or describe(fn), options, kind)
    return Profile(known.number, known.data, options.name or known.name, options, kind)


def payload(
    profile: Profile, fn: Any, args: tuple[Any, ...], kwargs: dict[str, Any], store: Store
) -> Any:
    """The rest of a call: its arguments as they are if all are plain, else a pickle.

    `store` may take that, and then it is a reference.
    """
    inside = (*args, *kwargs.values()) if kwargs else args
    if not profile.function_id:
        return _pickled((fn, args, kwargs), (describe(fn), "args", "kwargs"), store, inside)
    if not kwargs:
        for arg in args:
            if type(arg) not in PLAIN and not is_plain(arg):  # mostly the first says it
                break
        else:
            return args
    return _pickled((args, kwargs), ("args", "kwargs"), store, inside)


class Pickle(bytes):
    """One with handles in it."""

    handles: list[Any]


def _pickled(call: Any, parts: tuple[str, ...], store: Store, inside: tuple[Any, ...]) -> bytes:
    """The handles in it are kept alive by what is returned, and by that their objects."""
    if not _payload.handles_exist:
        try:
            return encode(call, "the call", parts, store=store, inside=inside)
        except SerializationError:
            if not _payload.handles_exist:
                raise  # else there is an executor in it, the first to travel
    data, handles = handles_in(encode, call, "the call", parts, store=store, inside=inside)
    if handles:
        kept: Any = Pickle(data) if type(data) is bytes else data  # a Parcel has room for them
        kept.handles = handles
        return kept  # type: ignore[no-any-return]
    return data


def _travels_by_name(fn: Any) -> bool:
    """Rule 1."""
    if not isinstance(fn, _BY_NAME) and not getattr(type(fn), "__unirun_task__", False):
        return False
    return _is_importable(fn)


def _is_importable(obj: Any) -> bool:
    module = getattr(obj, "__module__", None)
    name = getattr(obj, "__qualname__", None)
    if not isinstance(module, str) or not isinstance(name, str) or not importable(module):
        return False
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    return found is obj


# -- rule 2 ---------------------------------------------------------------------------------------


class Captured:
    """What the bytes of a function were made of."""

    __slots__ = (
        "_absent",
        "_cells",
        "_code",
        "_defaults",
        "_functions",
        "_globals",
        "_names",
        "_values",
    )

    def __init__(self, fn: types.FunctionType, functions: tuple[Captured | None, ...]) -> None:
        self._code = fn.__code__
        self._globals = fn.__globals__
        self._defaults = fn.__defaults__
        self._cells = tuple(_contents(fn))
        self._names = tuple(name for name in _names(fn.__code__) if name in fn.__globals__)
        self._values = tuple(fn.__globals__[name] for name in self._names)
        self._absent = tuple(name for name in _names(fn.__code__) if name not in fn.__globals__)
        self._functions = functions  # of those values that are functions by value

    @classmethod
    def of(cls, fn: types.FunctionType, depth: int = 5) -> Captured | None:
        """None if something in it may change unnoticed."""
        if fn.__dict__ or fn.__kwdefaults__ or depth == 0 or _rebinds(fn.__code__):
            return None
        values = [*(fn.__defaults__ or ()), *_contents(fn)]
        if not all(map(_is_constant, values)):
            return None
        functions: list[Captured | None] = []
        for name in _names(fn.__code__):
            if name in fn.__globals__:
                value = fn.__globals__[name]
                inner = None
                if value is not fn and not _is_constant(value):
                    if type(value) is not types.FunctionType:
                        return None
                    inner = cls.of(value, depth - 1)
                    if inner is None:
                        return None
                functions.append(inner)
        return cls(fn, tuple(functions))

    def still_holds(self, fn: types.FunctionType) -> bool:
        """Whether the bytes are right for this function, now."""
        if (
            fn.__code__ is not self._code
            or fn.__globals__ is not self._globals
            or fn.__defaults__ is not self._defaults
            or fn.__dict__
            or fn.__kwdefaults__
        ):
            return False
        if fn.__closure__ and any(
            now is not then for now, then in zip(_contents(fn), self._cells, strict=False)
        ):
            return False
        get = self._globals.get
        for name, then, inner in zip(self._names, self._values, self._functions, strict=True):
            now = get(name, self)
            if now is not then or (inner is not None and not inner.still_holds(now)):
                return False
        return not any(name in self._globals for name in self._absent)


def _contents(fn: types.FunctionType) -> Iterator[Any]:
    for cell in fn.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:
            yield cell  # not bound yet: never the same, never constant


def _names(code: types.CodeType) -> tuple[str, ...]:
    """Every name that may be a global of this code, attributes among them, which do no harm."""
    return tuple(dict.fromkeys(name for each in _codes(code) for name in each.co_names))


def _rebinds(code: types.CodeType) -> bool:
    """Whether it may change a global, or a variable it shares with its surroundings."""
    opcodes = {opmap[name] for name in _REBINDS if name in opmap}
    return any(opcodes.intersection(each.co_code[::2]) for each in _codes(code))


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _codes(constant)


def _is_constant(value: Any) -> bool:
    """Whether what it means cannot change while it is the same object."""
    kind = type(value)
    if kind in _ATOMS or kind is types.ModuleType:
        return True
    if kind is tuple:
        return all(map(_is_constant, value))
    if kind is types.BuiltinFunctionType:
        return isinstance(value.__self__, types.ModuleType | None)
    if kind is types.FunctionType or isinstance(value, type):
        return _is_importable(value)
    return False
