"""Functions that get what was put; workers import them."""

import importlib
import os
import time
from typing import Any


class Tracked:
    """Its pickles can be counted: each says which process has made it."""

    def __init__(self, value: Any = None) -> None:
        self.value = value

    def __getstate__(self) -> Any:
        return self.value, os.getpid()

    def __setstate__(self, state: Any) -> None:
        self.value = state[0]


def identity(obj: Any) -> tuple[int, int]:
    return os.getpid(), id(obj)


def kinds(*args: Any, **kwargs: Any) -> Any:
    """The names of the types, as deep as lists, tuples and dicts go."""
    return _kinds(args), _kinds(kwargs)


def _kinds(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _kinds(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_kinds(each) for each in value]
    return type(value).__name__


def total(data: Any, more: int = 0) -> int:
    return sum(data[:10]) + len(data) + more


def forget(obj: Any) -> int:
    """How many objects that were put this process keeps."""
    from unirun import _blobs

    return len(_blobs._arrived)


def give_back(obj: Any) -> Any:
    return obj


def where(obj: Any, more: int = 0) -> int:
    """The process of the engine that this one belongs to."""
    return os.getppid()


def add_one(array: Any) -> int:
    array += 1
    return int(array.sum())


def sleep_with(data: bytes, seconds: float) -> None:
    time.sleep(seconds)


def imports(name: str) -> str:
    """What comes of it."""
    try:
        importlib.import_module(name)
    except ImportError as exc:
        return str(exc)
    return "found"
