"""Objects as bytes: pickle where it serves, cloudpickle where it does not.

Light by rule: worker processes import it.

1. What is pickled is a snapshot, taken in the caller's thread.
2. Nothing that lives in `__main__`, or in a module another process could not import, travels by
   reference: bytes that name such a module are made again by cloudpickle, by value.
3. What cannot be pickled raises SerializationError, which names the path to the culprit.
"""

from __future__ import annotations

import sys
from pickle import dumps as _pickle_dumps
from pickle import loads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType
    from typing import Any

__all__ = ["PROTOCOL", "blame", "dumps", "importable", "loads"]

PROTOCOL = 5

# Names of modules whose contents travel by value (rule 2). Grows only; a copy of it that another
# thread adds to is good enough, since the adder uses the new name only afterwards.
_by_value: set[bytes] = {b"__main__"}
_importable: dict[str, bool] = {}


def dumps(obj: Any, what: str = "object", parts: tuple[str, ...] = ()) -> bytes:
    """`obj` pickled; `what` names it in the error, `parts` the members of it if it is a tuple.

    Raises SerializationError, whatever a `__reduce__` raised; only KeyboardInterrupt passes.
    """
    try:
        data = _pickle_dumps(obj, PROTOCOL)
    except KeyboardInterrupt:
        raise
    except BaseException as exc:  # user code: `sys.exit()` in a __reduce__ too  # noqa: BLE001
        return _by_cloudpickle(obj, what, parts, exc)
    for name in tuple(_by_value):
        if name in data:
            return _by_cloudpickle(obj, what, parts, None)
    return data


def _by_cloudpickle(
    obj: Any, what: str, parts: tuple[str, ...], first: BaseException | None
) -> bytes:
    import cloudpickle  # 30 ms to import, and most programs never need it

    try:
        data: bytes = cloudpickle.dumps(obj, PROTOCOL)
    except KeyboardInterrupt:
        raise
    except BaseException as exc:  # as above  # noqa: BLE001
        from unirun._errors import SerializationError

        reason = _reason(obj, exc, parts)
        raise SerializationError(f"{what} cannot be pickled: {reason}") from (first or exc)
    return data


def importable(module_name: str) -> bool:
    """Whether another process with our `sys.path` could import that module.

    If not, everything in it travels by value from now on.
    """
    known = _importable.get(module_name)
    if known is None:
        known = _importable[module_name] = _find(module_name)
        if not known:
            _send_by_value(module_name)
    return known


def _find(module_name: str) -> bool:
    if module_name == "__main__":
        return False
    path: Any = None
    parts = module_name.split(".")
    for depth in range(1, len(parts) + 1):
        name = ".".join(parts[:depth])
        if not _has_spec(name, path):
            return False
        path = getattr(sys.modules.get(name), "__path__", None)
        if path is None:
            break  # a plain module; what is deeper (os.path) exists once it is imported
    return True


def _has_spec(name: str, path: Any) -> bool:
    for finder in sys.meta_path:
        find_spec = getattr(finder, "find_spec", None)
        try:
            if find_spec is not None and find_spec(name, path) is not None:
                return True
        except (ImportError, AttributeError, ValueError):
            continue  # a finder that cannot answer is a finder that does not know
    return False


def _send_by_value(module_name: str) -> None:
    module: ModuleType | None = sys.modules.get(module_name)
    if module is None or module_name == "__main__":
        return  # cloudpickle treats __main__ that way by itself
    import cloudpickle

    cloudpickle.register_pickle_by_value(module)
    _by_value.add(module_name.encode())


# -- whom to blame ----------------------------------------------------------------------------


def _reason(obj: Any, exc: BaseException, parts: tuple[str, ...]) -> str:
    try:
        return blame(obj, exc, parts)
    except Exception:  # it looks into objects of the user, which may object  # noqa: BLE001
        return type(exc).__name__


def blame(obj: Any, exc: BaseException, parts: tuple[str, ...] = ()) -> str:
    """Which part of `obj` cannot be pickled, and why."""
    path, culprit = _culprit(obj, exc)
    for index, name in enumerate(parts):
        if path.startswith(f"[{index}]"):
            path = name + path.removeprefix(f"[{index}]")
            break
    reason = f"{type(culprit).__name__}: {culprit}" if str(culprit) else type(culprit).__name__
    return f"at {path}: {reason}" if path else reason


def _culprit(obj: Any, exc: BaseException) -> tuple[str, BaseException]:
    """Follow containers and attributes down to the deepest part that fails by itself."""
    path = ""
    seen: set[int] = set()
    for _ in range(20):
        seen.add(id(obj))
        for step, part in _parts(obj):
            error = None if id(part) in seen else _refusal(part)
            if error is not None:
                path, obj, exc = path + step, part, error
                break
        else:
            break
    return path, exc


def _parts(obj: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(obj, dict):
        yield from ((f"[{key!r}]", value) for key, value in list(obj.items())[:1000])
    elif isinstance(obj, (list, tuple, set, frozenset)):
        yield from ((f"[{index}]", value) for index, value in enumerate(list(obj)[:1000]))
    cells = getattr(obj, "__closure__", None)
    if cells:
        names = obj.__code__.co_freevars
        yield from ((f".<closure {n}>", _cell(c)) for n, c in zip(names, cells, strict=False))
    receiver = getattr(obj, "__self__", None)
    if callable(obj) and receiver is not None:  # a bound method
        yield ".__self__", receiver
    state = getattr(obj, "__dict__", None)
    if isinstance(state, dict) and not isinstance(obj, type) and _pickles_its_dict(type(obj)):
        yield from ((f".{name}", value) for name, value in list(state.items())[:1000])


def _pickles_its_dict(cls: Any) -> bool:
    """Whether what pickle takes of such an object is its attributes."""
    return (
        cls.__reduce__ in (object.__reduce__, BaseException.__reduce__)
        and cls.__reduce_ex__ is object.__reduce_ex__
        and cls.__getstate__ is object.__getstate__
    )


def _cell(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return None  # a variable that is not bound yet


def _refusal(part: Any) -> BaseException | None:
    import cloudpickle

    try:
        cloudpickle.dumps(part, PROTOCOL)
    except KeyboardInterrupt:
        raise
    except BaseException as exc:  # user code again  # noqa: BLE001
        return exc
    return None
