"""An exception says which call it comes from; its traceback shows the source, wherever that is."""

import os
import re
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from everywhere import everywhere

import unirun
from unirun import Executor

PATIENCE = 20


@pytest.fixture(scope="module", autouse=True)
def executors() -> Iterator[dict[str, Executor]]:
    with unirun.config(call_sites="always"), everywhere() as found:
        yield found


@pytest.fixture(params=["thread", "process", "inline"])
def executor(request: pytest.FixtureRequest, executors: dict[str, Executor]) -> Executor:
    return executors[request.param]


async def nothing() -> None:
    pass


# -- the note -----------------------------------------------------------------------------------


def divide(a: int, b: int, password: str = "") -> float:
    return a / b


FOUND: dict[str, Executor] = {}  # of this process; a worker has its own


def call_divide(backend: str, b: int) -> Any:
    return FOUND.get(backend, unirun.current_executor()).submit(divide, 1, b).result()


async def divide_later(a: int, b: int) -> float:
    return a / b


def notes_of(future: Any) -> list[str]:
    error = future.exception(PATIENCE)
    assert error is not None
    return list(getattr(error, "__notes__", []))


PLACE = {
    "thread": r"thread threads_\d+",
    "process": r"pid \d+",
    "inline": "thread MainThread",
    "coroutine": "thread loop-loop",
}


@pytest.mark.parametrize("backend", PLACE)
def test_a_note_says_which_call_it_was(executors: dict[str, Executor], backend: str) -> None:
    fn: Any = divide_later if backend == "coroutine" else divide
    future = executors[backend].submit(fn, 1, b=0)
    (note,) = notes_of(future)
    where = rf", submitted at {re.escape(__file__)}:\d+"
    call = rf"unirun: call \d+ of test_exceptions_notes.{fn.__name__}\(1, b=0\)"
    assert re.fullmatch(rf"{call}, attempt 1 in {PLACE[backend]}{where}", note)
    with pytest.raises(ZeroDivisionError):
        future.result()
    assert notes_of(future) == [note]


def test_the_note_has_the_line_of_the_submit(executors: dict[str, Executor]) -> None:
    line = sys._getframe().f_lineno
    futures = [
        executors["process"].submit(divide, 1, 0),
        executors["process"].options(name="x").submit(divide, 1, 0),
        executors["process"].options(limit=1, retries=1).submit(divide, 1, 0),
    ]
    with executors["process"].scope(on_error="collect") as scope:
        found = [scope.map(divide, [1], [0], errors="return")]
        futures.append(unirun.submit(nothing))
    assert [notes_of(each)[0].rpartition(":")[2] for each in futures[:3]] == [
        str(line + number) for number in (2, 3, 4)
    ]
    assert next(iter(found[0])).__notes__[0].endswith(f"{__file__}:{line + 7}")


@pytest.mark.parametrize("backend", ["thread", "process", "inline"])
def test_there_is_one_note_for_each_call_it_has_left(
    executors: dict[str, Executor], backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(FOUND, backend, executors[backend])
    notes = notes_of(executors[backend].submit(call_divide, backend, 0))
    names = [note.partition(" of ")[2].partition(")")[0] for note in notes]
    assert names == [
        "test_exceptions_notes.divide(1, 0",
        f"test_exceptions_notes.call_divide('{backend}', 0",
    ]


def test_the_items_of_a_map_have_theirs(executor: Executor) -> None:
    found = list(executor.map(divide, range(6), [0] * 6, chunksize=3, errors="return"))
    for at, error in enumerate(found):
        (note,) = error.__notes__
        assert f"of test_exceptions_notes.divide({at}, 0), attempt 1 in " in note


def test_secrets_are_not_told(executor: Executor) -> None:
    (note,) = notes_of(executor.submit(divide, 1, 0, "hunter2"))
    assert "divide(1, 0, ***)" in note
    (note,) = notes_of(executor.submit(divide, 1, 0, password="hunter2"))
    assert "divide(1, 0, password=***)" in note


SAME = ValueError("always the same")


def raise_same(number: int) -> None:
    raise SAME


def test_an_object_raised_again_and_again_does_not_grow(executors: dict[str, Executor]) -> None:
    for number in range(30):
        executors["thread"].submit(raise_same, number).exception(PATIENCE)
    assert len(SAME.__notes__) == 10
    assert "raise_same(29)" in SAME.__notes__[-1]


class Frozen(Exception):
    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{name} is frozen")


def raise_frozen() -> None:
    raise Frozen(1)


def test_even_what_refuses_attributes_gets_one(executor: Executor) -> None:
    assert len(notes_of(executor.submit(raise_frozen))) == 1


def die() -> None:
    os._exit(7)


def test_a_crash_says_what_it_was_called_with() -> None:
    with Executor(1, backend="process") as executor:
        future = executor.submit(die)
        (note,) = notes_of(future)
        assert re.search(
            r"of test_exceptions_notes.die\(\), attempt 1 in pid \d+, submitted at", note
        )


def test_sites_can_be_had_on_threads_and_left_out_elsewhere() -> None:
    with unirun.config(call_sites="always"), Executor(1, backend="thread") as executor:
        (note,) = notes_of(executor.submit(divide, 1, 0))
        assert __file__ in note
    with unirun.config(call_sites="never"), Executor(backend="inline", strict=False) as executor:
        (note,) = notes_of(executor.submit(divide, 1, 0))
        assert __file__ not in note


# -- tracebacks ---------------------------------------------------------------------------------


def test_asking_again_does_not_make_the_traceback_grow(executor: Executor) -> None:
    future = executor.submit(divide, 1, 0)
    lengths = set()
    for _ in range(5):
        with pytest.raises(ZeroDivisionError) as caught:
            future.result(PATIENCE)
        lengths.add(len(traceback.extract_tb(caught.value.__traceback__)))
    assert len(lengths) == 1


def run_code(directory: str) -> None:
    """Code from a file that is gone when somebody looks, and code that was never in one."""
    import importlib.util
    import linecache

    file = Path(directory) / "made_there.py"
    file.write_text("def outer(run):\n    return run(0)  # in a file\n")
    spec = importlib.util.spec_from_file_location("made_there", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    linecache.getlines(str(file))
    source = "def inner(x):\n    return 1 / x  # in a cell\n"
    linecache.cache["<cell 7 of there>"] = (len(source), None, source.splitlines(True), "")
    namespace: dict[str, Any] = {}
    exec(compile(source, "<cell 7 of there>", "exec"), namespace)
    file.unlink()
    module.outer(namespace["inner"])


def test_lines_that_exist_only_in_a_worker_are_shown(
    executors: dict[str, Executor], tmp_path: Path
) -> None:
    error = executors["process"].submit(run_code, str(tmp_path)).exception(PATIENCE)
    assert error is not None
    text = "".join(traceback.format_exception(error))
    assert "    return run(0)  # in a file\n" in text
    assert "    return 1 / x  # in a cell\n" in text


def test_a_debugger_finds_its_way(executors: dict[str, Executor]) -> None:
    import io
    import pdb  # noqa: T100  # it is what is tried

    error = executors["process"].submit(divide, 1, 0).exception(PATIENCE)
    assert error is not None
    said = io.StringIO()
    debugger = pdb.Pdb(stdin=io.StringIO("where\nlist\nq\n"), stdout=said, nosigint=True)
    debugger.reset()
    debugger.interaction(None, error.__traceback__)
    assert "return a / b" in said.getvalue()
    assert "divide()" in said.getvalue()
