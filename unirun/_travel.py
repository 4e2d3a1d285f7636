"""Whether calls of a function mean the same in another process: judged by its bytecode.

Nobody said that such calls may leave the process, so what cannot be seen to be harmless stays.
A function may travel if

1. it is a plain function, no closure, method, generator or coroutine function, and neither it nor a
   function it calls by name stores globals or attributes of what it did not make;
2. all it reads from outside are functions for which 1 and 2 hold, values that cannot change, and
   the parts of the standard library (and NumPy) in `KNOWN`, which keep no state that matters;
3. its arguments are plain data.  Where one can change, such as a list, the function must not be
   seen to change it: every store, and every method that changes its object, must act on what the
   function made itself.

What a verdict was built on is kept (`watched`): who uses it looks whether that is as it was.
"""

from __future__ import annotations

import builtins
from types import BuiltinFunctionType, CodeType, FunctionType, ModuleType

from unirun._body import ANY, ATTRIBUTES, Body, Step, steps_of
from unirun._plain import FIXED, kind_of
from unirun._records import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["STAYS", "Verdict", "judge"]

_KNOWN = """
array ast base64 binascii bisect bz2 calendar cmath collections colorsys copy csv dataclasses
datetime decimal difflib enum fractions functools graphlib gzip hashlib heapq hmac html io
itertools json keyword lzma math mimetypes numbers numpy operator pathlib posixpath pprint
quopri re reprlib sqlite3 statistics string stringprep struct textwrap time timeit token
tokenize tomllib types typing unicodedata urllib.parse uuid wave xml zipfile zlib zoneinfo
_bisect _bz2 _collections _collections_abc _csv _datetime _decimal _functools _hashlib _heapq
_io _json _lzma _operator _sha1 _sha2 _sha3 _md5 _blake2 _sqlite3 _sre _statistics _strptime
_struct _weakrefset genericpath ntpath
"""
KNOWN = frozenset(_KNOWN.split())
"""Modules, with what is in them; of what is in these, the names in `REACHES_OUT` are left out."""
FILES = frozenset({"io", "_io", "gzip", "bz2", "lzma", "sqlite3", "pathlib", "zipfile", "wave"})
"""Whose results depend on the working directory."""
_REACHES_OUT = """
exec eval globals locals vars getattr setattr delattr __import__ id input breakpoint print
random seed set_state seterr seterrcall setbufsize setcontext register_dialect
unregister_dialect field_size_limit register_adapter register_converter errstate
enable_callback_tracebacks tzset thread_time process_time fetch_blocks init cache lru_cache
setprinting set_printoptions RawIOBase getcontext __dict__ __globals__ __class__ __builtins__
f_globals modules
"""
REACHES_OUT = frozenset(_REACHES_OUT.split())
_CHANGING = """
append appendleft extend extendleft insert remove pop popleft popitem clear sort reverse update
setdefault add discard rotate subtract move_to_end intersection_update difference_update
symmetric_difference_update __setitem__ __delitem__ __iadd__ __setattr__ setitem delitem iadd
iconcat heappush heappop heapify heapreplace heappushpop insort insort_left insort_right fill
put itemset partition resize setflags setfield byteswap copyto place putmask put_along_axis
fill_diagonal at frombytes fromlist fromfile fromunicode readinto readinto1 pack_into shuffle
out
"""
CHANGING = frozenset(_CHANGING.split())
"""Methods and functions that change an object they are given."""
_SHORT = """
abs bool float int len ord chr round divmod isinstance min max
"""
SHORT = frozenset(_SHORT.split())
"""Builtins that take no time, given numbers."""

_FLAGS = {0x20: "generator function", 0x80: "coroutine function", 0x200: "asynchronous generator"}
_MOST_FUNCTIONS = 60


@record
class Verdict:
    """`reason` says why it stays; "" if it may travel."""

    reason: str
    changes: frozenset[str] = frozenset()
    """Parameters it may change, or hand back; "*": any of them."""
    is_short: bool = False
    """Given numbers, it ends at once, whatever they are."""
    files: bool = False
    """What it does depends on the working directory."""
    watched: tuple[tuple[dict[str, Any], str, Any], ...] = ()
    """(globals, name, value) of all it reads."""

    def holds(self) -> bool:
        """All it was built on is as it was."""
        return all(space.get(name, _GONE) is value for space, name, value in self.watched)


_GONE = object()
STAYS = Verdict("it is not judged")


def judge(fn: Any) -> Verdict:
    """What can be said of `fn`; costs up to some milliseconds, once for each function."""
    look = _Look()
    try:
        look.at(fn, fn)
    except _Stays as why:
        return Verdict(str(why))
    except Exception as exc:  # of a module or a function that is not what it seems  # noqa: BLE001
        return Verdict(f"it cannot be judged ({type(exc).__name__})")
    code = getattr(fn, "__code__", None)
    short = code is not None and look.is_short and not look.changes and look.judged
    return Verdict("", frozenset(look.changes), short, look.files, tuple(look.watched))


class _Stays(Exception):
    """Why it does."""


class _Look:
    """One look at a function and at all it calls."""

    def __init__(self) -> None:
        self.changes: set[str] = set()
        self.watched: list[tuple[dict[str, Any], str, Any]] = []
        self.files = False
        self.is_short = True
        self.judged = False  # of its own code, not by where it comes from
        self._seen: set[Any] = set()

    # -- what there is to call --------------------------------------------------------------------

    def at(self, fn: Any, top: Any) -> None:
        if type(fn) is BuiltinFunctionType:
            self._builtin(fn, top)
        elif type(fn) is not FunctionType:
            raise _Stays(f"it is a {type(fn).__name__}, not a plain function")
        elif not _in_known(fn.__module__):
            self._function(fn, top)
        elif fn.__name__ in CHANGING:
            self.changes.add(ANY)
        else:
            self.files |= _top(fn.__module__) in FILES

    def _builtin(self, fn: Any, top: Any) -> None:
        owner = fn.__self__
        if owner is not None and type(owner) is not ModuleType:
            what = f"a method of a {type(owner).__name__}"
            raise _Stays(f"it is {what}" if fn is top else f"it calls {fn.__name__}(), {what}")
        module = fn.__module__ or ""
        if module != "builtins" and not _in_known(module):
            raise _Stays(f"it calls {module}.{fn.__name__}, of which nothing is known")
        if fn.__name__ in REACHES_OUT:
            raise _Stays(f"it calls {fn.__name__}()")
        if fn.__name__ in CHANGING:
            self.changes.add(ANY)
        self.files |= module in FILES or fn.__name__ == "open"

    def _function(self, fn: FunctionType, top: Any) -> None:
        if fn.__code__ in self._seen:
            return
        self.judged |= fn is top
        self._seen.add(fn.__code__)
        if len(self._seen) > _MOST_FUNCTIONS:
            raise _Stays(f"it calls more than {_MOST_FUNCTIONS} functions")
        if fn.__closure__:
            raise _Stays(
                _of(fn, top, f"uses {fn.__code__.co_freevars[0]!r} of the function around it")
            )
        for value in (*(fn.__defaults__ or ()), *(fn.__kwdefaults__ or {}).values()):
            if kind_of(value) != FIXED:
                raise _Stays(_of(fn, top, "has a default value that can change"))
        if fn.__dict__ and any(not name.startswith("__") for name in fn.__dict__):
            raise _Stays(_of(fn, top, "has attributes"))
        self._code(fn.__code__, fn, top, is_top=fn is top)

    # -- what a body does -------------------------------------------------------------------------

    def _code(self, code: CodeType, fn: FunctionType, top: Any, *, is_top: bool) -> None:
        for flag, what in _FLAGS.items():
            if code.co_flags & flag and code is fn.__code__:
                raise _Stays(_of(fn, top, f"is a {what}"))
        steps = steps_of(code)
        count = code.co_argcount + code.co_kwonlyargcount + bool(code.co_flags & 4)
        params = set(code.co_varnames[: count + bool(code.co_flags & 8)])
        body = Body(steps, params)
        self.is_short &= is_top and body.is_straight()
        for at, step in enumerate(steps):
            try:
                self._step(body, at, step, fn, top)
            except _Stays as why:
                where = f" (line {step.line})" if step.line and "line" not in str(why) else ""
                raise _Stays(f"{why}{where}") from None
        self._note(body.changed, is_top)
        for const in code.co_consts:
            if type(const) is CodeType:  # a comprehension, a lambda, a function within
                self.is_short = False
                self._code(const, fn, top, is_top=False)

    def _note(self, changed: set[str], is_top: bool) -> None:
        if changed:
            self.changes |= changed if is_top else {ANY}

    def _step(self, body: Body, at: int, step: Step, fn: FunctionType, top: Any) -> None:
        name = step.name
        if name in ("STORE_GLOBAL", "DELETE_GLOBAL"):
            raise _Stays(_of(fn, top, f"writes the global {step.arg!r}"))
        if name == "LOAD_BUILD_CLASS":
            raise _Stays(_of(fn, top, "makes a class"))
        if name in ("LOAD_GLOBAL", "LOAD_NAME"):
            self._global(step.arg, body.attributes(at), fn, top)
        elif name == "IMPORT_NAME":
            self._import(step.arg, fn, top)
        elif name in ATTRIBUTES or name == "IMPORT_FROM":
            self._attribute(body, at, step, fn, top)
        else:
            self._store(body, at, step, fn, top)

    def _attribute(self, body: Body, at: int, step: Step, fn: FunctionType, top: Any) -> None:
        if step.arg in REACHES_OUT:
            raise _Stays(_of(fn, top, f"uses {step.arg!r}"))
        if step.arg in CHANGING:
            body.change(at, 0)

    def _store(self, body: Body, at: int, step: Step, fn: FunctionType, top: Any) -> None:
        name = step.name
        if name in ("STORE_ATTR", "DELETE_ATTR"):
            if body.owner(at) is None:
                raise _Stays(_of(fn, top, f"sets the attribute {step.arg!r}"))
            body.change(at, 0)
        elif name in ("STORE_SUBSCR", "DELETE_SUBSCR", "STORE_SLICE"):
            body.change(at, 2 if name == "STORE_SLICE" else 1)
        elif name == "BINARY_OP" and str(step.arg).endswith("="):
            body.change(at, 1)
        elif name in ("KW_NAMES", "LOAD_CONST") and type(step.arg) is tuple and "out" in step.arg:
            body.changed.add(ANY)  # as in numpy.add(a, b, out=a)

    def _import(self, module: str, fn: FunctionType, top: Any) -> None:
        if not _in_known(module):
            raise _Stays(_of(fn, top, f"imports {module}, of which nothing is known"))
        self.files |= _top(module) in FILES
        self.is_short = False

    def _global(self, name: str, attributes: list[str], fn: FunctionType, top: Any) -> None:
        space = fn.__globals__
        if name not in space:
            self._builtin_name(name, fn, top)
            return
        value = space[name]
        self.watched.append((space, name, value))
        while type(value) is ModuleType and attributes and not _in_known(value.__name__):
            space, name = vars(value), attributes.pop(0)
            if name not in space:
                raise _Stays(_of(fn, top, f"uses {value.__name__}.{name}, which is not there"))
            value = space[name]
            self.watched.append((space, name, value))
        self._value(name, value, fn, top)

    def _builtin_name(self, name: str, fn: FunctionType, top: Any) -> None:
        if not hasattr(builtins, name):
            raise _Stays(_of(fn, top, f"uses {name!r}, which is not there"))
        if name in REACHES_OUT:
            raise _Stays(_of(fn, top, f"calls {name}()"))
        self.watched.append((fn.__globals__, name, _GONE))  # nobody hides the builtin
        self.is_short &= name in SHORT
        self.files |= name == "open"

    def _value(self, name: str, value: Any, fn: FunctionType, top: Any) -> None:
        self.is_short &= kind_of(value) == FIXED
        if type(value) is ModuleType:
            if not _in_known(value.__name__):
                raise _Stays(_of(fn, top, f"uses the module {value.__name__!r}"))
            self.files |= _top(value.__name__) in FILES
        elif type(value) in (FunctionType, BuiltinFunctionType):
            self.is_short = False
            self.at(value, top)
        elif isinstance(value, type):
            self._class(name, value, fn, top)
        elif type(value).__module__ == "numpy" and type(value).__name__ == "ufunc":
            return
        elif kind_of(value) != FIXED:
            kind = type(value).__name__
            raise _Stays(_of(fn, top, f"reads the global {name!r}, a {kind}, which can change"))

    def _class(self, name: str, value: type, fn: FunctionType, top: Any) -> None:
        plain_error = issubclass(value, Exception) and not any(
            type(each) is FunctionType for each in vars(value).values()
        )
        if value.__module__ != "builtins" and not _in_known(value.__module__) and not plain_error:
            raise _Stays(_of(fn, top, f"uses the class {name!r}"))
        self.files |= _top(value.__module__) in FILES


def _of(fn: FunctionType, top: Any, what: str) -> str:
    return f"it {what}" if fn is top else f"it calls {fn.__name__}(), which {what}"


def _top(module: str | None) -> str:
    return (module or "").partition(".")[0]


def _in_known(module: str | None) -> bool:
    name = module or ""
    if name.startswith(("numpy.random", "numpy.testing", "numpy.ctypeslib")):
        return False
    return _top(name) in KNOWN or name in KNOWN or name == "os.path"
