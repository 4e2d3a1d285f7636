"""Records are what frozen dataclasses are, as far as anything here can tell."""

import copy
import pickle
from collections.abc import Callable

import pytest

from unirun._records import record, replace


@record
class Point:
    """A place."""

    x: int
    y: int = 0

    @property
    def sum(self) -> int:
        return self.x + self.y


@record
class Positive:
    x: int

    def __post_init__(self) -> None:
        if self.x < 0:
            raise ValueError(f"{self.x} is negative")


def test_values_come_by_place_by_name_and_by_default() -> None:
    assert [Point(1), Point(1, 0), Point(x=1), Point(1, y=0)] == 4 * [Point(x=1, y=0)]
    assert (Point(1, 2).x, Point(1, 2).y, Point(1, 2).sum) == (1, 2, 3)
    assert Point.__doc__ == "A place."


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Point(), "lacks x"),
        (lambda: Point(1, 2, 3), "takes 2 values, not 3"),
        (lambda: Point(1, x=2), "got x twice or for nothing"),
        (lambda: Point(1, z=2), "got z twice or for nothing"),
    ],
)
def test_values_that_do_not_fit_are_refused(make: Callable[[], Point], says: str) -> None:
    with pytest.raises(TypeError, match=says):
        make()


def test_a_record_may_refuse_values() -> None:
    assert Positive(1) == Positive(x=1)
    for make in (lambda: Positive(-1), lambda: Positive(x=-1), lambda: replace(Positive(1), x=-1)):
        with pytest.raises(ValueError, match="-1 is negative"):
            make()


def test_records_are_frozen() -> None:
    point = Point(1)
    for name in ("x", "z"):
        with pytest.raises(AttributeError, match=f"cannot assign to '{name}' of a Point"):
            setattr(point, name, 2)
        with pytest.raises(AttributeError, match=f"cannot delete '{name}' of a Point"):
            delattr(point, name)


def test_records_are_compared_and_hashed_by_value_and_class() -> None:
    assert hash(Point(1)) == hash(Point(1, 0))
    assert Point(1) != Point(2)
    assert Positive(1) != Point(1)
    assert Point(1) != (1, 0)
    assert repr(Point(1)) == "Point(x=1, y=0)"


def test_records_are_replaced_copied_pickled_and_matched() -> None:
    assert replace(Point(1, 2), y=3) == Point(1, 3)
    for same in (copy.copy(Point(1, 2)), pickle.loads(pickle.dumps(Point(1, 2)))):
        assert same == Point(1, 2)
    match Point(1, 2):
        case Point(x, y):
            assert (x, y) == (1, 2)
