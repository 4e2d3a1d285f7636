"""Arguments in a few words: no code of the user runs, nothing long, nothing secret."""

import dataclasses
import datetime
import enum
import functools
import itertools
import pathlib
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import unirun
from unirun._summary import arguments, short


class Loud:
    def __repr__(self) -> str:
        raise AssertionError("it was asked")

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"it was asked for {name}")

    __str__ = __len__ = __iter__ = __eq__ = __repr__  # type: ignore[assignment]


class LoudList(list[int]):
    __repr__ = Loud.__repr__


@dataclasses.dataclass
class Point:
    x: int
    api_key: str
    loud: Any = None


class Colour(enum.Enum):
    RED = 1


class Pair(NamedTuple):
    left: int
    right: str


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "None"),
        (1.5, "1.5"),
        ("text", "'text'"),
        ("x" * 100, f"'{'x' * 60}'... of 100"),
        (b"\x00" * 100, f"{bytes(60)!r}... of 100"),
        (1 << 20_000, "<int of 20001 bits>"),
        ([1, 2, 3, 4, 5], "[1, 2, 3, 4, ...]"),
        ((1,), "(1,)"),
        ((), "()"),
        (set(), "set()"),
        ({"a": 1, "password": "hunter2"}, "{'a': 1, 'password': ***}"),
        ([[[[1]]]], "[[[<list of 1>]]]"),
        ("postgres://me:hunter2@host/db", "'postgres://***@host/db'"),
        (Loud(), "<test_summary.Loud>"),
        (LoudList([1]), "<test_summary.LoudList>"),
        (Point(1, "hunter2", Loud()), "Point(x=1, api_key=***, loud=<test_summary.Loud>)"),
        (Pair(1, "r"), "Pair(left=1, right='r')"),
        (Colour.RED, "Colour.RED"),
        (datetime.date(2024, 5, 6), "datetime.date(2024, 5, 6)"),
        (pathlib.PurePosixPath("a/b"), "PurePosixPath('a/b')"),
        (len, "builtins.len"),
        (Point, "test_summary.Point"),
        (range(10**9), "range(0, 1000000000)"),
    ],
    ids=itertools.count(),
)
def test_a_value_is_told_shortly(value: Any, text: str) -> None:
    assert short(value) == text


def test_arrays_are_told_by_their_shape() -> None:
    numpy = pytest.importorskip("numpy")
    assert short(numpy.zeros((3, 4))) == "<ndarray (3, 4) float64>"


def login(user: str, token: str, tokens: list[str]) -> None:
    pass


class Client:
    @unirun.task
    def login(self, user: str, password: str) -> None:
        pass


def test_parameters_with_the_name_of_a_secret_are_not_told() -> None:
    assert arguments(("me", "hunter2", ["a"]), {}, login) == "'me', ***, ['a']"
    assert arguments(("me", "hunter2"), {}, unirun.task(login)) == "'me', ***"
    assert arguments(("me", "hunter2"), {}, Client().login) == "'me', ***"
    assert arguments((), {"github_token": "hunter2", "n": 1}) == "github_token=***, n=1"


def wrapped(fn: Any) -> Any:
    @functools.wraps(fn)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return fn(*args, **kwargs)

    return wrapper


class Session:
    def __init__(self, user: str, password: str) -> None:
        pass

    def __call__(self, user: str, password: str) -> None:
        pass

    def open(self, user: str, password: str) -> None:
        pass

    @classmethod
    def make(cls, user: str, password: str) -> None:
        pass


@pytest.mark.parametrize(
    "fn",
    [
        wrapped(login),
        functools.lru_cache(login),
        functools.partial(login),
        Session,
        Session("", ""),
        Session("", "").open,
        Session.make,
    ],
    ids=itertools.count(),
)
def test_whatever_is_called_the_names_of_its_parameters_are_found(fn: Any) -> None:
    assert arguments(("me", "hunter2"), {}, fn) == "'me', ***"


def test_what_a_partial_holds_is_not_named_again() -> None:
    assert arguments(("hunter2",), {}, functools.partial(login, "me")) == "***"


@pytest.mark.parametrize(
    "value",
    [
        {"dbPassword": "hunter2", "accessToken": "hunter2", "X-Api-Key": "hunter2"},
        {"access_key": "hunter2", "password1": "hunter2", "auth": "hunter2"},
        {b"authorization": b"hunter2"},
        [("Set-Cookie", "hunter2")],
        "https://hunter2@host/path",
        f"https://me:{'hunter2' * 90}@host/path",
        b"postgres://me:hunter2@host/db",
        "https://host/path?token=hunter2&page=1",
        "host=db password=hunter2 user=me",
        '{"password": "hunter2"}',
        "Authorization: Bearer hunter2",
    ],
    ids=itertools.count(),
)
def test_what_looks_like_a_secret_is_not_told(value: Any) -> None:
    assert "hunter2" not in short(value)
    assert "***" in short(value)


anything = st.recursive(
    st.none() | st.integers() | st.floats() | st.text() | st.binary() | st.builds(Loud),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner),
)


@settings(max_examples=40, deadline=None)
@given(st.lists(anything, max_size=20))
def test_whatever_it_is_it_is_short(values: list[Any]) -> None:
    assert len(arguments(values)) <= 240
    assert "\n" not in arguments(values)
