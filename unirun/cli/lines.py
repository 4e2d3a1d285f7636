"""The lines a map writes: results, or reports of what became of each input."""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable
from typing import Any, NamedTuple

from unirun.cli.inputs import Input

__all__ = ["Outcome", "error_name", "plain_line", "report_line"]


class Outcome(NamedTuple):
    """What became of an input: its result, or the exception."""

    input: Input
    value: Any = None
    error: BaseException | None = None


def plain_line(outcome: Outcome, *, or_repr: bool) -> bytes:
    """The result; raises the TypeError that says why it cannot be written."""
    return _result_line({}, outcome.value, or_repr)


def report_line(outcome: Outcome, *, or_repr: bool) -> tuple[bool, bytes]:
    """Whether all is fine, and input and result, or input and error.

    A result that cannot be written is an error, too.
    """
    head = {"index": outcome.input.index, "input": outcome.input.shown}
    error = outcome.error
    if error is None:
        try:
            return True, _result_line({**head, "ok": True}, outcome.value, or_repr)
        except TypeError as exc:
            error = exc.with_traceback(None)  # which would show nothing but us
    return False, _encoded({**head, "ok": False, "error": _described(error)}, None)


def _result_line(head: dict[str, Any], value: Any, or_repr: bool) -> bytes:
    def line(result: Any, default: Callable[[Any], Any] | None = None) -> bytes:
        return _encoded({**head, "result": result} if head else result, default)

    try:
        return line(value, repr if or_repr else None)
    except Exception as exc:  # repr() may be anybody's  # noqa: BLE001
        if not or_repr:
            raise _unwritable(value, exc) from None
    try:  # NaN, or the key of a dict: JSON asks for no replacement of these
        return line(repr(value))
    except Exception as exc:  # as above  # noqa: BLE001
        raise _unwritable(value, exc) from None


def _unwritable(value: Any, exc: Exception) -> TypeError:
    return TypeError(
        f"the result, of type {type(value).__name__}, cannot be written as JSON ({exc}); "
        "return what JSON has, or use --repr"
    )


def _encoded(value: Any, default: Callable[[Any], Any] | None) -> bytes:
    """A line of UTF-8; what cannot be encoded in it (half of a surrogate pair) is escaped."""
    # Python would write NaN, which is no JSON and breaks whoever reads the line.
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, default=default)
    try:
        return text.encode() + b"\n"
    except UnicodeEncodeError:
        text = json.dumps(value, allow_nan=False, default=default)
        return text.encode() + b"\n"


def _described(error: BaseException) -> dict[str, str]:
    trace = "".join(traceback.format_exception(error))
    return {"type": error_name(error), "message": _text(error), "traceback": trace}


def error_name(error: BaseException) -> str:
    """The type of an exception as a traceback shows it, also where a RemoteError stands for it."""
    name: str = getattr(error, "type_name", "")
    if name:
        return name.removeprefix("builtins.")
    kind = type(error)
    return f"{kind.__module__}.{kind.__qualname__}".removeprefix("builtins.")


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as exc:  # noqa: BLE001  # user code
        return f"<str() failed: {type(exc).__name__}>"
