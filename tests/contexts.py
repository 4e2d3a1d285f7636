"""For tests of what travels with a call: each in a context of its own, and variables to look at."""

import functools
from collections.abc import Callable
from contextvars import Context, ContextVar
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

PATIENCE = 30.0


def apart(test: Callable[P, R]) -> Callable[P, R]:
    """What the test sets, no other test sees; nor this one what others have left."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        return Context().run(test, *args, **kwargs)

    return run


user: ContextVar[Any] = ContextVar("user", default="nobody")
request: ContextVar[Any] = ContextVar("request")


class Holder:
    """A class that has one."""

    variable: ContextVar[Any] = ContextVar("of a class", default=0)


class Tracer:
    """Objects that have one each."""

    def __init__(self) -> None:
        self.current: ContextVar[Any] = ContextVar("of an object", default=0)


tracer = Tracer()
bound: dict[str, ContextVar[Any]] = {}


def bind(key: str, value: object) -> None:
    """As structlog does: variables that are made when they are set."""
    bound.setdefault(key, ContextVar(key)).set(value)


def whose() -> Any:
    """The user and the request that a call sees."""
    return user.get(), request.get("no request")


def whose_item(item: int) -> Any:
    return item, *whose()


def of_places() -> Any:
    """What there is in classes, objects and dicts."""
    found = {key: variable.get(None) for key, variable in bound.items()}
    return Holder.variable.get(), tracer.current.get(), found
