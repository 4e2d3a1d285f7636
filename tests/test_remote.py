"""Exceptions as bytes: they come back as they were, or as close as can be, and never break."""

import dataclasses
import os
import pickle
import re
import subprocess
import sys
import textwrap
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import pytest

import unirun
from unirun import RemoteError
from unirun._remote import decode, encode


def there_and_back(exc: BaseException, skip: int = 0) -> BaseException:
    return decode(encode(exc, skip))


def raised_by(function: Callable[[], object]) -> BaseException:
    try:
        function()
    except BaseException as exc:
        return exc
    raise AssertionError("it should have raised")


class TwoArguments(Exception):
    def __init__(self, what: str, code: int) -> None:
        super().__init__(f"{what} failed with {code}")
        self.what = what
        self.code = code


class KeywordOnly(ValueError):
    def __init__(self, *, name: str) -> None:
        super().__init__(name)
        self.name = name


class TakesNothing(OSError):
    def __new__(cls, *args: object) -> Self:
        if len(args) != 3:
            raise LookupError("three, please")
        return super().__new__(cls)


@dataclasses.dataclass(frozen=True)
class Frozen(Exception):
    field: int


class FrozenTwice(Exception):
    """Cannot be rebuilt, and refuses every attribute."""

    def __init__(self, *, name: str) -> None:
        super().__init__(name)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{name} is frozen")


class NeedsItsAnswer(OSError):  # as those of HTTP libraries
    def __init__(self, text: str, status: int) -> None:
        super().__init__(text)
        self.status = status
        self.answer = (each for each in [text])  # stands for a socket

    def __str__(self) -> str:
        return f"{self.status} {self.answer.gi_code.co_name}"


class Wordless(Exception):
    def __str__(self) -> str:
        raise SystemExit("no words")


class Text(str):
    __slots__ = ()


class OddText(Exception):
    def __str__(self) -> str:
        return Text("odd")


class Stubborn(Exception):
    def with_traceback(self, tb: object) -> "Stubborn":
        raise RuntimeError("no traceback for me")


class ExitsWhenPickled(Exception):
    def __reduce__(self) -> Any:
        raise SystemExit("not me")


class FailsElsewhere(Exception):
    """Survives the round trip in the process that raised it, but not in another."""

    def __reduce__(self) -> Any:
        return rebuild_at_home, (os.getpid(),)


def rebuild_at_home(pid: int) -> FailsElsewhere:
    if os.environ.get("TEST_REMOTE_AWAY"):
        raise ImportError("not here")
    return FailsElsewhere("home")


# -- the exception itself -----------------------------------------------------------------------


def test_type_text_arguments_and_attributes_come_back() -> None:
    exc = ValueError("text", 3)
    exc.extra = [1, 2]  # type: ignore[attr-defined]
    exc.add_note("a note")
    back = there_and_back(exc)
    assert type(back) is ValueError
    assert back.args == ("text", 3)
    assert back.extra == [1, 2]  # type: ignore[attr-defined]
    assert back.__notes__ == ["a note"]


@pytest.mark.parametrize(
    "exc",
    [
        OSError(2, "no such file", "name"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"),
        KeyError("k"),
        SystemExit(3),
        KeyboardInterrupt(),
        StopIteration(4),
        ImportError("text", name="module", path="path"),
        SyntaxError("bad", ("file", 1, 2, "line")),
        unirun.WorkerCrashed("task", 1, -9, attempt=2),
        unirun.TaskTimeout("late", abandoned=True),
        subprocess.CalledProcessError(3, ["false"], b"out"),
    ],
)
def test_exceptions_of_the_library_come_back_whole(exc: BaseException) -> None:
    back = there_and_back(exc)
    assert type(back) is type(exc)
    assert str(back) == str(exc)
    assert back.args == exc.args
    assert vars(back) == vars(exc)


def test_an_attribute_that_cannot_be_pickled_is_left_out() -> None:
    exc = ValueError("text")
    exc.good, exc.bad = 1, lambda: (yield)  # type: ignore[attr-defined]
    exc.worse = (each for each in ())  # type: ignore[attr-defined]
    back = there_and_back(exc)
    assert type(back) is ValueError
    assert back.args == ("text",)
    assert back.good == 1  # type: ignore[attr-defined]
    assert not hasattr(back, "worse")


@pytest.mark.parametrize(
    "exc", [TwoArguments("copy", 3), KeywordOnly(name="x"), FrozenTwice(name="x")]
)
def test_one_whose_init_cannot_be_called_again_arrives_as_itself(exc: Exception) -> None:
    back = there_and_back(exc)
    assert type(back) is type(exc)
    assert (str(back), back.args, vars(back)) == (str(exc), exc.args, vars(exc))


@pytest.mark.parametrize("exc", [NeedsItsAnswer("lost", 404), LookupError(sys._getframe())])
def test_one_that_cannot_be_rebuilt_keeps_its_family_and_its_text(exc: Any) -> None:
    back = there_and_back(exc)
    assert isinstance(back, RemoteError)
    assert isinstance(back, type(exc))
    assert str(back) == str(exc)
    assert back.type_name == f"{type(exc).__module__}.{type(exc).__name__}"
    assert getattr(back, "status", None) == getattr(exc, "status", None)
    again = pickle.loads(pickle.dumps(back))
    assert isinstance(again, type(exc))
    assert str(again) == str(exc)


@pytest.mark.parametrize(
    "exc",
    [
        Frozen(3),
        Wordless("x"),
        OddText("x"),
        Stubborn("x"),
        ExitsWhenPickled("x"),
        TakesNothing(1, 2, 3),
        ExceptionGroup(Text("odd"), [ValueError()]),
        type("Local", (Exception,), {})("of a class that is nowhere"),
    ],
)
def test_odd_ones_do_no_harm(exc: Exception) -> None:
    def fail() -> None:
        raise exc

    back = there_and_back(raised_by(fail))
    assert isinstance(back, (type(exc), RemoteError))
    assert type(exc).__name__ in type(back).__name__ or type(exc).__name__ in str(back)
    assert raised_by(lambda: _raise(back)) is back


def _raise(exc: BaseException) -> None:
    raise exc


def test_one_that_fails_to_arrive_is_still_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode(raised_by(lambda: _raise(FailsElsewhere("home"))))
    assert type(decode(data)) is FailsElsewhere
    monkeypatch.setenv("TEST_REMOTE_AWAY", "1")
    back = decode(data)
    assert isinstance(back, RemoteError)
    assert isinstance(back, FailsElsewhere)
    assert str(back) == "home"
    assert "in _raise" in back.traceback_text


def test_one_of_a_class_that_is_nowhere_is_still_told_of() -> None:
    exc = raised_by(lambda: _raise(FailsElsewhere("home")))
    data = encode(exc).replace(b"FailsElsewhere", b"FailsNowhere..")
    data = data.replace(b"rebuild_at_home", b"rebuild_nowhere")
    back = decode(data)
    assert type(back) is RemoteError
    assert str(back) == f"{__name__}.FailsNowhere..: home"


# -- cause, context, groups ---------------------------------------------------------------------


def test_cause_and_context_come_back() -> None:
    def fail() -> None:
        try:
            try:
                raise KeyError("first")
            except KeyError:
                raise ValueError("second")  # noqa: B904
        except ValueError as exc:
            raise RuntimeError("third") from exc

    back = there_and_back(raised_by(fail))
    assert isinstance(back.__cause__, ValueError)
    assert back.__context__ is back.__cause__
    assert isinstance(back.__cause__.__context__, KeyError)
    assert (back.__suppress_context__, back.__cause__.__suppress_context__) == (True, False)


def test_from_none_stays_from_none() -> None:
    exc = raised_by(lambda: _raise_from_none())
    back = there_and_back(exc)
    assert back.__cause__ is None
    assert back.__suppress_context__
    assert isinstance(back.__context__, KeyError)


def _raise_from_none() -> None:
    try:
        raise KeyError
    except KeyError:
        raise ValueError from None


def test_cycles_of_cause_and_context_end() -> None:
    one, two = ValueError("one"), KeyError("two")
    one.__cause__, two.__context__ = two, one
    two.__cause__ = two
    back = there_and_back(one)
    assert type(back) is ValueError
    assert type(back.__cause__) is KeyError
    assert back.__cause__.__context__ is back
    assert back.__cause__.__cause__ is back.__cause__


def test_a_chain_of_thousands_is_cut_and_no_accident() -> None:
    exc: BaseException = ValueError("0")
    for number in range(1, 5000):
        new = ValueError(str(number))
        new.__context__ = exc
        exc = new
    back: BaseException | None = there_and_back(exc)
    texts = []
    while back is not None:
        texts.append(str(back))
        back = back.__context__
    assert texts[:10] == [str(number) for number in range(4999, 4989, -1)]
    assert 50 <= len(texts) <= 5000


def test_one_spoiled_link_spoils_no_other() -> None:
    exc = ValueError("good")
    exc.__cause__ = ExitsWhenPickled("bad")
    exc.__cause__.__cause__ = TwoArguments("copy", 3)
    back = there_and_back(exc)
    assert type(back) is ValueError
    assert type(back.__cause__) is ExitsWhenPickled
    assert type(back.__cause__.__cause__) is TwoArguments


def test_groups_come_back_with_all_their_members() -> None:
    group = ExceptionGroup(
        "several", [ValueError("a"), ExceptionGroup("more", [TwoArguments("copy", 3)])]
    )
    group.add_note("a note")
    group.exceptions[0].__cause__ = KeyError("k")
    back = there_and_back(group)
    assert type(back) is ExceptionGroup
    assert back.message == "several"
    assert back.__notes__ == ["a note"]
    first, second = back.exceptions
    assert type(first) is ValueError
    assert type(first.__cause__) is KeyError
    assert isinstance(second, ExceptionGroup)
    assert isinstance(second.exceptions[0], TwoArguments)
    match, rest = back.split(ValueError)
    assert match is not None
    assert rest is not None


def test_groups_of_what_is_no_exception_come_back() -> None:
    back = there_and_back(BaseExceptionGroup("stop", [KeyboardInterrupt(), SystemExit(3)]))
    assert type(back) is BaseExceptionGroup
    assert [type(each) for each in back.exceptions] == [KeyboardInterrupt, SystemExit]


def test_groups_nested_too_deep_are_told_of() -> None:
    group = ExceptionGroup("innermost", [ValueError()])
    for _ in range(3000):
        group = ExceptionGroup("outer", [group])
    back = there_and_back(group)
    assert "outer" in str(back)


# -- tracebacks ---------------------------------------------------------------------------------


def outer() -> None:
    inner(0)


def inner(divisor: int) -> float:
    numbers = [1]
    return numbers[0] / divisor + numbers[0]


def printed(exc: BaseException) -> str:
    return "".join(traceback.format_exception(exc))


def test_a_traceback_shows_the_remote_frames_with_their_source() -> None:
    back = there_and_back(raised_by(outer), skip=1)
    lines = printed(back).splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert [line.strip() for line in lines if not line.startswith("  File")][1:] == [
        "inner(0)",
        "return numbers[0] / divisor + numbers[0]",
        "ZeroDivisionError: division by zero",
    ]
    files = [line for line in lines if line.startswith("  File")]
    first = outer.__code__.co_firstlineno + 1
    second = inner.__code__.co_firstlineno + 2
    assert files == [
        f'  File "{__file__}", line {first}, in outer',
        f'  File "{__file__}", line {second}, in inner',
    ]


def test_frames_can_be_walked_like_any_others() -> None:
    back = there_and_back(raised_by(outer), skip=1)
    summary = traceback.extract_tb(back.__traceback__)
    assert [frame.name for frame in summary] == ["outer", "inner"]
    assert summary[0].line == "inner(0)"
    assert _lines(back) == [frame.lineno for frame in summary]


def _lines(exc: BaseException) -> list[int]:
    lines, tb = [], exc.__traceback__
    while tb is not None:
        lines.append(tb.tb_lineno)
        tb = tb.tb_next
    return lines


def test_raising_it_here_adds_our_frames_in_front() -> None:
    back = there_and_back(raised_by(outer), skip=1)
    names = [f.name for f in traceback.extract_tb(raised_by(lambda: _raise(back)).__traceback__)]
    assert names[-3:] == ["_raise", "outer", "inner"]


def test_the_cause_has_its_own_traceback() -> None:
    def fail() -> None:
        try:
            outer()
        except ZeroDivisionError as exc:
            raise ValueError("second") from exc

    text = printed(there_and_back(raised_by(fail)))
    assert "return numbers[0] / divisor + numbers[0]" in text
    assert "The above exception was the direct cause" in text
    assert "^" not in text


def test_a_recursion_error_keeps_both_ends() -> None:
    def down(depth: int) -> None:
        down(depth + 1)

    back = there_and_back(raised_by(lambda: down(0)))
    assert type(back) is RecursionError
    frames = traceback.extract_tb(back.__traceback__)
    assert 100 < len(frames) <= 400
    assert frames[0].name == "raised_by"
    assert frames[-1].name == "test_a_recursion_error_keeps_both_ends.<locals>.down"


def test_frames_without_a_file_do_no_harm() -> None:
    namespace: dict[str, Any] = {}
    exec(compile("def f():\n\n    return 1 / 0\n", "<string>", "exec"), namespace)
    text = printed(there_and_back(raised_by(namespace["f"])))
    assert 'File "<string>", line 3, in f' in text


def test_skipping_more_frames_than_there_are_leaves_none() -> None:
    back = there_and_back(raised_by(outer), skip=99)
    assert back.__traceback__ is None


PROGRAM = """
import sys
from unirun._remote import decode, encode

def outer():
    value = [1, 2]
    return inner(value, 0)

def inner(value, divisor):
    return value[0] + value[1] / divisor + value[0]

try:
    outer()
except ZeroDivisionError as exc:
    back = decode(encode(exc, 1))
raise back
"""


@pytest.mark.parametrize(
    "hook", ["", "import traceback\nsys.excepthook = traceback.print_exception\n"]
)
def test_a_program_that_ends_by_it_prints_it_right(tmp_path: Path, hook: str) -> None:
    """The interpreter prints tracebacks with code of its own, which is not the module's."""
    file = tmp_path / "program.py"
    file.write_text(PROGRAM.replace("\ntry:", f"\n{hook}\ntry:"))
    done = subprocess.run(
        [sys.executable, file], capture_output=True, text=True, timeout=20, check=False
    )
    assert done.returncode == 1
    source = file.read_text().splitlines()
    for name, text in [("outer", "return inner(value, 0)"), ("inner", "return value[0] + v")]:
        line = next(n for n, each in enumerate(source, 1) if each.strip().startswith(text))
        where = re.escape(
            f'  File "{file}", line {line}, in {name}\n    {source[line - 1].strip()}\n'
        )
        assert re.search(where + r"(  File|ZeroDiv)", done.stderr), done.stderr
    assert done.stderr.endswith("\nZeroDivisionError: division by zero\n")


def test_a_failed_task_prints_like_a_failed_function(tmp_path: Path) -> None:
    """Through a real worker."""
    file = tmp_path / "program.py"
    file.write_text(
        textwrap.dedent(
            """
            import unirun
            def task(x):
                return helper(x)
            def helper(x):
                return 1 / x
            with unirun.Executor(1, backend="process") as executor:
                future = executor.submit(task, 0)
            future.result()
            """
        )
    )
    done = subprocess.run(
        [sys.executable, file], capture_output=True, text=True, timeout=20, check=False
    )
    assert f'  File "{file}", line 4, in task\n    return helper(x)\n' in done.stderr
    assert f'  File "{file}", line 6, in helper\n    return 1 / x\n' in done.stderr
    last = done.stderr.splitlines()[-2:]
    assert last[0] == "ZeroDivisionError: division by zero"
    assert re.fullmatch(
        r"unirun: call \d+ of __main__.task\(0\), attempt 1 in pid \d+",
        last[1],
    )
    assert "worker.py" not in done.stderr
