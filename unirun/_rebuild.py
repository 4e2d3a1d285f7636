"""One exception as bytes, by itself: what of it travels, and how it is put together again.

What is sent is tried out first, on this side: it has to give the same class, args and text.

1. An exception that survives a pickle round trip arrives as itself; what its own `__reduce__` does
   not care for, such as notes, slots and attributes, is put in afterwards.
2. Where the pickle does not do, `type(*args)` may.
3. Where that does not, its `__init__` has turned its arguments into something else: it is made
   without being called, as pickle makes any other object, from its args and attributes.
4. An exception that says something else then, since an attribute or argument cannot be pickled,
   arrives as a RemoteError that is also an instance of the original class where that class can be
   found; it keeps the text, and of args and attributes what can be sent.
"""

from __future__ import annotations

import sys
from types import MemberDescriptorType

from unirun._payload import dumps, loads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

__all__ = ["attempt", "content_of", "dual", "make", "pickled_state", "put_state", "stand_in"]
__all__ += ["STAND_IN", "text_of", "type_name_of"]

WHOLE, PARTS, BARE, STAND_IN = range(4)

_HEAP = 1 << 9  # of a class that is made while the program runs, Py_TPFLAGS_HEAPTYPE
_NOT_SENT = frozenset({"obj"})
"""The object that lacks an attribute: whatever it is, an AttributeError does not take it along."""


# -- out ----------------------------------------------------------------------------------------


def content_of(exc: BaseException) -> tuple[int, Any]:
    """How it travels, and the bytes for that."""
    text, args = text_of(exc), attempt(exc.args)

    def fitting(back: Any) -> dict[str, bytes] | None:
        """What is to be put into `back` so that it is as `exc`; None if that will not do."""
        if type(back) is not type(exc) or (args is not None and attempt(back.args) != args):
            return None
        state = _difference(exc, back)
        put_state(back, state)
        return state if text_of(back) == text else None

    whole = attempt(exc)
    if whole is not None and (state := _tried(lambda: fitting(loads(whole)))) is not None:
        return WHOLE, (whole, state)
    cls = attempt(type(exc))
    if cls is not None and args is not None:
        for how, build in ((PARTS, _from_parts), (BARE, _bare)):
            made = _tried(lambda build=build: fitting(build(cls, args)))  # type: ignore[misc]
            if made is not None:
                return how, (cls, args, made)
    return STAND_IN, (cls, args, pickled_state(exc))


def attempt(obj: Any) -> bytes | None:
    try:
        return dumps(obj)
    except BaseException:  # not picklable: the caller takes the next best form  # noqa: BLE001
        return None


def _tried(
    try_out: Callable[[], dict[str, bytes] | None],
) -> dict[str, bytes] | None:
    try:
        return try_out()
    except BaseException:  # user code runs in there; whatever it raises, it failed  # noqa: BLE001
        return None


def _attributes(exc: BaseException) -> dict[str, Any]:
    """What is in its `__dict__`, in slots, and where the built-in classes keep theirs."""
    found: dict[str, Any] = {}
    for name, slot in _slots(type(exc)).items():
        try:
            found[name] = slot.__get__(exc)
        except AttributeError:
            continue  # never set
    found.update(vars(exc))
    return found


def _slots(cls: type) -> dict[str, MemberDescriptorType]:
    return {
        name: slot
        for each in reversed(cls.__mro__)
        for name, slot in vars(each).items()
        if type(slot) is MemberDescriptorType
        and not name.startswith("__")
        and name not in _NOT_SENT
        and each is not BaseExceptionGroup
    }


def pickled_state(exc: BaseException) -> dict[str, bytes]:
    """The attributes that pickle, each by itself; notes are among them."""
    pickled = {name: attempt(value) for name, value in _attributes(exc).items()}
    return {name: data for name, data in pickled.items() if data is not None}


def _difference(exc: BaseException, back: BaseException) -> dict[str, bytes]:
    there = _attributes(back)
    state = {}
    for name, value in _attributes(exc).items():
        if name in there and there[name] is value:
            continue
        data = attempt(value)
        if data is not None and not (name in there and attempt(there[name]) == data):
            state[name] = data
    return state


def type_name_of(exc: BaseException) -> str:
    return f"{type(exc).__module__}.{type(exc).__qualname__}"


def text_of(exc: BaseException) -> str:
    try:
        return str.__str__(str(exc))  # a subclass of str cannot be marshalled
    except BaseException as error:  # user code  # noqa: BLE001
        return f"<str() failed: {type(error).__name__}>"


# -- back -----------------------------------------------------------------------------------------


def make(how: int, content: Any) -> Any:
    """The exception; raises whatever user code does."""
    if how == WHOLE:
        exc, state = loads(content[0]), content[1]
    else:
        cls, args, state = content
        exc = (_from_parts if how == PARTS else _bare)(cls, args)
    put_state(exc, state)
    return exc


def _from_parts(cls: bytes, args: bytes) -> Any:
    return loads(cls)(*loads(args))


def _bare(cls: bytes, args: bytes) -> Any:
    """Rule 3: made by the built-in class that decides how such objects lie in memory."""
    original = loads(cls)
    built_in = original
    while built_in.__flags__ & _HEAP:
        built_in = built_in.__base__
    exc = built_in.__new__(original)
    vars(BaseException)["args"].__set__(exc, loads(args))
    return exc


def put_state(exc: BaseException, state: dict[str, bytes]) -> None:
    """Past the `__setattr__` of its class: a frozen dataclass refuses every attribute."""
    if not state:
        return
    slots = _slots(type(exc))
    for name, data in state.items():
        try:
            value = loads(data)
            if name in slots:
                slots[name].__set__(exc, value)
            else:
                exc.__dict__[name] = value
        except BaseException:  # one attribute that cannot be rebuilt is left out  # noqa: BLE001
            continue


def stand_in(content: Any, type_name: str, text: str, traceback_text: str) -> BaseException:
    """Rule 4."""
    from unirun._errors import RemoteError

    cls, args, state = content
    try:
        exc = _instance(_dual_class(cls, type_name), text)
    except BaseException:  # its __new__ is the user's  # noqa: BLE001
        exc = _instance(RemoteError, text)
    object.__setattr__(exc, "args", _load_args(args, text))
    if isinstance(exc, RemoteError):
        put_state(exc, state)
        # As itself where it is also of the original class: handlers compare the text.
        shown = text if type(exc) is not RemoteError else f"{type_name}: {text}"
        about = {"type_name": type_name, "traceback_text": traceback_text, "_text": shown}
        exc.__dict__.update(about)
    return exc


def _load_args(data: bytes | None, text: str) -> tuple[Any, ...]:
    try:
        loaded = loads(data) if data is not None else (text,)
    except BaseException:  # the text still tells  # noqa: BLE001
        return (text,)
    return loaded if isinstance(loaded, tuple) else (text,)


def _dual_class(data: bytes | None, type_name: str) -> type[BaseException]:
    """A class that is a RemoteError and, where it can be, the original class too."""
    from unirun._errors import RemoteError

    try:
        original = loads(data) if data is not None else _named(type_name)
        if isinstance(original, type) and issubclass(original, BaseException):
            return dual(original)
    except BaseException:  # not importable here, or refuses to be a base  # noqa: BLE001
        return RemoteError
    return RemoteError


def _named(type_name: str) -> Any:
    """The class of that name, in a module that this process has imported."""
    module, _, rest = type_name.rpartition(".")
    names = [rest]
    while module and module not in sys.modules:
        module, _, name = module.rpartition(".")
        names.insert(0, name)
    found: Any = sys.modules.get(module)
    for name in names:
        found = getattr(found, name, None)
    return found


def dual(original: type[BaseException]) -> type[BaseException]:
    from unirun._errors import RemoteError

    if issubclass(original, RemoteError):
        return original
    body = {
        "__reduce__": _reduce_dual,
        "__str__": RemoteError.__str__,  # the original's may need what could not be sent
        "__module__": "unirun",
    }
    return type(f"RemoteError_{original.__name__}", (RemoteError, original), body)


def _reduce_dual(self: Any) -> Any:
    return _rebuild_dual, (type(self).__bases__[1], self.args, dict(self.__dict__))


def _rebuild_dual(original: type[BaseException], args: Any, state: Any) -> BaseException:
    exc = _instance(dual(original), "")
    object.__setattr__(exc, "args", args)
    exc.__dict__.update(state)
    return exc


def _instance(cls: type[BaseException], text: str) -> BaseException:
    try:
        return cls.__new__(cls)
    except TypeError:
        return cls.__new__(cls, text)
