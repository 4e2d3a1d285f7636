"""Whatever is public says what it does, says its types, and stands in the reference."""

import inspect
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import unirun
import unirun.backend

REFERENCE = Path(__file__).parent.parent / "docs" / "api.md"
# Of the standard library: their docstrings and types are not ours.
THEIRS = {"as_completed", "wait"}
OURS = sorted(set(unirun.__all__) - THEIRS)


def members(cls: type) -> Iterator[tuple[str, Any]]:
    """The public attributes of a class that are ours, from whatever base they come."""
    for name in dir(cls):
        home = next((base for base in cls.__mro__ if name in vars(base)), object)
        if not name.startswith("_") and home.__module__.startswith("unirun"):
            yield name, vars(home)[name]


def functions_of(module: Any, names: list[str]) -> Iterator[tuple[str, Callable[..., Any]]]:
    """Every public function and method, by the name under which users find it."""
    for name in names:
        value = getattr(module, name)
        if inspect.isfunction(value):
            yield name, value
        if inspect.ismodule(value):
            yield from functions_of(value, [f for f in value.__all__ if f != name])
        for attribute, member in members(value) if inspect.isclass(value) else ():
            plain = member.fget if isinstance(member, property) else member
            plain = getattr(plain, "__func__", plain)
            if inspect.isfunction(plain):
                yield f"{name}.{attribute}", plain


def own_docstring(value: Any) -> str | None:
    return vars(value).get("__doc__") if isinstance(value, type) else inspect.getdoc(value)


def undocumented(module: Any, names: list[str]) -> list[str]:
    """A class needs one of its own; for a method, that of what it overrides does."""
    values = {name: getattr(module, name) for name in names}
    missing = [name for name, value in values.items() if not own_docstring(value)]
    methods = [(name, fn) for name, fn in functions_of(module, names) if "." in name]
    return missing + [name for name, fn in methods if not inspect.getdoc(fn)]


def untyped(module: Any, names: list[str]) -> list[str]:
    return [name for name, fn in functions_of(module, names) if not is_typed(fn)]


def is_typed(fn: Callable[..., Any]) -> bool:
    signature = inspect.signature(fn)
    parameters = [p for p in signature.parameters.values() if p.name not in ("self", "cls")]
    return signature.return_annotation is not signature.empty and all(
        p.annotation is not p.empty for p in parameters
    )


def functions_and_classes(module: Any) -> list[str]:
    return [name for name in module.__all__ if callable(getattr(module, name))]


PLACES = pytest.mark.parametrize(
    ("module", "names"),
    [(unirun, OURS), (unirun.backend, functions_and_classes(unirun.backend))],
    ids=["unirun", "unirun.backend"],
)


@PLACES
def test_every_public_name_has_a_docstring(module: Any, names: list[str]) -> None:
    assert undocumented(module, names) == []


@PLACES
def test_every_public_name_has_types(module: Any, names: list[str]) -> None:
    assert untyped(module, names) == []


def test_what_has_neither_is_found() -> None:
    class Bare:
        def method(self, x):
            return x

        @property
        def size(self):
            return 0

    Bare.__module__ = "unirun.bare"
    found = type("module", (), {"Bare": Bare})

    assert undocumented(found, ["Bare"]) == ["Bare", "Bare.method", "Bare.size"]
    assert untyped(found, ["Bare"]) == ["Bare.method", "Bare.size"]


def test_the_reference_has_each_public_name_once() -> None:
    named = re.findall(r"^\.\. (?:auto)?\w+:: unirun\.(\w+)", REFERENCE.read_text(), re.MULTILINE)

    assert sorted(set(named) - {"backend"}) == sorted(unirun.__all__)
    assert len(named) == len(set(named))
