"""What the test files about strict inline share: an executor, what it reported, and where."""

import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from unirun import Executor, StrictWarning

Found = list[warnings.WarningMessage]


@pytest.fixture
def executor() -> Iterator[Executor]:
    """One that runs inline what is meant for processes."""
    with Executor(backend="inline", kind="cpu") as executor:
        yield executor


@pytest.fixture
def found() -> Iterator[Found]:
    """The StrictWarnings there were, each of them."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", StrictWarning)
        yield caught


def codes(found: Found) -> list[str]:
    assert all(each.category is StrictWarning for each in found)
    return [str(each.message).partition("]")[0].lstrip("[") for each in found]


def line_of(file: str, comment: str) -> int:
    """The number of the one line of that file that ends with this comment."""
    lines = Path(file).read_text().splitlines()
    (number,) = (at for at, line in enumerate(lines, 1) if line.endswith(f"# {comment}"))
    return number


def one(found: Found, code: str, file: str, comment: str) -> str:
    """The text of the only warning, which has this code and names the line with that comment."""
    assert codes(found) == [code]
    assert Path(found[0].filename).samefile(file)
    assert found[0].lineno == line_of(file, comment)
    return str(found[0].message)
