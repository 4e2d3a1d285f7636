"""What a task raises arrives as on threads, whatever it is, and says which call it came from."""

import dataclasses
import errno
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from everywhere import everywhere
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import unirun
from unirun import Executor, RemoteError
from unirun._remote import decode, encode

PATIENCE = 20


@pytest.fixture(scope="module", autouse=True)
def executors() -> Iterator[dict[str, Executor]]:
    with everywhere() as found:
        yield found


@pytest.fixture(params=["thread", "process", "inline"])
def executor(request: pytest.FixtureRequest, executors: dict[str, Executor]) -> Executor:
    return executors[request.param]


# -- the zoo ------------------------------------------------------------------------------------


class Reworded(ValueError):
    """Its args are not what it was made with, so pickle makes another text of them."""

    def __init__(self, what: str) -> None:
        super().__init__(f"{what} failed")


class Keywords(Exception):
    def __init__(self, *, code: int, why: str = "") -> None:
        super().__init__(f"{code}: {why}")
        self.code = code


class NoSuper(KeyError):
    def __init__(self, a: int, b: int) -> None:
        self.sum = a + b


class Slots(Exception):
    __slots__ = ("place",)

    def __init__(self, place: int) -> None:
        super().__init__("a text")
        self.place = place


@dataclasses.dataclass(frozen=True)
class Frozen(Exception):
    field: int


class OwnReduce(Exception):
    """Keeps what it needs, and forgets notes and what was set on it."""

    def __reduce__(self) -> Any:
        return OwnReduce, self.args


class Errno(OSError):
    def __init__(self, number: int, *, host: str) -> None:
        super().__init__(number, "no way", host)
        self.host = host


class Decoding(UnicodeDecodeError):
    def __init__(self, data: bytes) -> None:
        super().__init__("ascii", data, 0, 1, "odd")


class Validation(ValueError):
    """As those of validators: made by a class method, with a text that is worked out."""

    def __init__(self) -> None:
        raise TypeError("use Validation.of")

    @classmethod
    def of(cls, errors: list[dict[str, Any]]) -> "Validation":
        self = cls.__new__(cls)
        self.errors = errors  # type: ignore[attr-defined]
        return self

    def __str__(self) -> str:
        return f"{len(self.errors)} errors"  # type: ignore[attr-defined]


class Answer:
    """As that of an HTTP library: it cannot be sent as a whole, so it says what can be."""

    def __init__(self) -> None:
        self.status, self._connection = 404, (each for each in ())

    def __getstate__(self) -> dict[str, Any]:
        return {"status": self.status, "_connection": None}


class HTTPError(OSError):
    def __init__(self, *args: object, response: Answer) -> None:
        self.response = response
        super().__init__(*args)


class Several(ExceptionGroup[Exception]):
    def derive(self, excs: Any) -> "Several":
        return Several(self.message, excs)


LEAVES: list[Any] = [
    lambda: ValueError("text", 3),
    lambda: KeyError("k"),
    lambda: Reworded("it"),
    lambda: Keywords(code=3, why="so"),
    lambda: NoSuper(1, 2),
    lambda: Slots(7),
    lambda: Frozen(3),
    lambda: OwnReduce("a"),
    lambda: Errno(errno.EPIPE, host="there"),
    lambda: Decoding(b"\xff"),
    lambda: Validation.of([{"loc": ("a",)}]),
    lambda: HTTPError("404", response=Answer()),
    lambda: OSError(errno.ENOENT, "no such file", "name"),
    lambda: ConnectionResetError(errno.ECONNRESET, "gone"),
    lambda: UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"),
    lambda: SyntaxError("bad", ("file", 1, 2, "line")),
    lambda: ImportError("text", name="module", path="path"),
    lambda: StopIteration(4),
    lambda: unirun.TaskTimeout("late", abandoned=True),
    lambda: unirun.WorkerCrashed("task", 1, -9, attempt=2),
    lambda: unirun.TaskKilled("killed"),
]
FINAL: list[Any] = [
    lambda: SystemExit(3),
    lambda: KeyboardInterrupt("now"),
    lambda: GeneratorExit(1),
]


@dataclasses.dataclass
class Recipe:
    """How to make an exception: it travels, and is made anew wherever it is raised."""

    leaf: int
    notes: list[str]
    attributes: dict[str, Any]
    members: list["Recipe"]
    cause: "Recipe | None" = None
    context: "Recipe | None" = None
    suppress: bool = False

    def make(self) -> BaseException:
        if self.members:
            kind = Several if self.leaf % 2 else ExceptionGroup
            exc: BaseException = kind(f"group {self.leaf}", [each.make() for each in self.members])  # type: ignore[misc]
        else:
            exc = LEAVES[self.leaf]()
        exc.__cause__ = None if self.cause is None else self.cause.make()
        exc.__context__ = None if self.context is None else self.context.make()
        exc.__suppress_context__ = self.suppress
        for name, value in self.attributes.items():
            object.__setattr__(exc, name, value)
        if self.notes:
            object.__setattr__(exc, "__notes__", list(self.notes))
        return exc


def raise_from(recipe: Recipe) -> None:
    raise recipe.make()


def raise_leaf(number: int) -> None:
    raise [*LEAVES, *FINAL][number]


def shape(exc: BaseException | None, depth: int = 0) -> Any:
    """All that there is to compare."""
    if exc is None or depth > 20:
        return None
    names = {name: value for name, value in vars(exc).items() if name != "__notes__"}
    for name in (
        "errno",
        "filename",
        "start",
        "object",
        "name",
        "path",
        "place",
        "value",
        "lineno",
    ):
        names.setdefault(name, getattr(exc, name, None))
    names = {n: v.status if isinstance(v, Answer) else v for n, v in names.items()}
    notes = [each for each in getattr(exc, "__notes__", []) if "unirun: call" not in each]
    members = getattr(exc, "exceptions", ()) if isinstance(exc, BaseExceptionGroup) else ()
    return (
        type(exc),
        str(exc),
        exc.args if not members else None,
        names,
        notes,
        exc.__suppress_context__,
        [shape(each, depth + 1) for each in members],
        shape(exc.__cause__, depth + 1),
        shape(exc.__context__, depth + 1),
    )


plain = st.one_of(st.integers(-5, 5), st.text(max_size=3), st.lists(st.booleans(), max_size=2))
flat = st.builds(
    Recipe,
    st.integers(0, len(LEAVES) - 1),
    st.lists(st.text(max_size=4), max_size=2),
    st.dictionaries(st.sampled_from(["told", "extra"]), plain, max_size=2),
    st.just([]),
)
trees = st.recursive(
    flat,
    lambda inner: st.builds(
        Recipe,
        st.integers(0, len(LEAVES) - 1),
        st.lists(st.text(max_size=4), max_size=2),
        st.dictionaries(st.sampled_from(["told", "extra"]), plain, max_size=2),
        st.lists(inner, max_size=2),
        st.none() | inner,
        st.none() | inner,
        st.booleans(),
    ),
    max_leaves=6,
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(recipe=trees)
def test_any_tree_of_exceptions_arrives_from_a_process_as_from_a_thread(recipe: Recipe) -> None:
    try:
        raise_from(recipe)
    except BaseException as exc:
        here = exc
    assert shape(decode(encode(here))) == shape(here)


@pytest.mark.parametrize("number", range(len(LEAVES) + len(FINAL)))
def test_each_arrives_the_same_on_every_backend(
    executors: dict[str, Executor], number: int
) -> None:
    names = ["thread", "process", "inline"]
    found = [executors[name].submit(raise_leaf, number).exception(PATIENCE) for name in names]
    assert shape(found[0]) == shape(found[1]) == shape(found[2])
    assert not isinstance(found[1], RemoteError)


# -- clauses that are there already -------------------------------------------------------------


def raise_missing() -> None:
    Path("/no/such/file").read_text()


def raise_group() -> None:
    raise ExceptionGroup("both", [Reworded("it"), Keywords(code=3)])


def raise_local() -> None:
    class Local(LookupError):
        pass

    raise Local("of here")


def test_clauses_for_the_original_type_work(executor: Executor) -> None:
    with pytest.raises(FileNotFoundError) as missing:
        executor.submit(raise_missing).result(PATIENCE)
    assert missing.value.filename == "/no/such/file"
    seen = []
    try:
        executor.submit(raise_group).result(PATIENCE)
    except* ValueError as group:
        seen.append(str(group.exceptions[0]))
    except* Keywords as group:
        seen.append(group.exceptions[0].args[0])  # type: ignore[arg-type]
    assert seen == ["it failed", "3: "]
    with pytest.raises(LookupError, match="of here"):
        executor.submit(raise_local).result(PATIENCE)


def test_a_class_of_the_function_that_submits_is_that_very_class(executor: Executor) -> None:
    class Mine(Exception):
        def __init__(self, *, name: str) -> None:
            super().__init__(name)

    def task() -> None:
        raise Mine(name="x")

    with pytest.raises(Mine, match="x"):
        executor.submit(task).result(PATIENCE)


class Unsendable(Exception):
    def __init__(self) -> None:
        super().__init__("a text")
        self.held, self.kept = (each for each in ()), 3


def raise_unsendable() -> None:
    raise Unsendable


def test_an_attribute_that_cannot_be_sent_costs_no_more_than_itself(executor: Executor) -> None:
    with pytest.raises(Unsendable, match="a text") as caught:
        executor.submit(raise_unsendable).result(PATIENCE)
    assert caught.value.kept == 3
