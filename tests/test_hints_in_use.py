"""The rule in an executor; what no backend can keep is refused where it is written."""

from pathlib import Path

import pytest
from settings_files import pyproject

import unirun
from unirun import ConfigError, UnsupportedByBackend

pytestmark = pytest.mark.usefixtures("here")


def function() -> None: ...


async def coroutine() -> None: ...


@pytest.mark.parametrize(
    ("made_with", "given", "called", "backend"),
    [
        ({}, {}, function, "thread"),
        ({}, {}, coroutine, "coroutine"),
        ({"kind": "cpu"}, {}, function, "process"),
        ({"kind": "cpu"}, {"kind": "io"}, function, "thread"),
        ({}, {"killable": True}, function, "process"),
        ({}, {"require": {"isolation"}}, coroutine, "process"),
        ({"backend": "inline"}, {"kind": "cpu"}, function, "inline"),
        ({}, {"backend": "inline"}, coroutine, "inline"),
        ({"kind": "cpu"}, {}, unirun.task(kind="io")(function), "thread"),
    ],
)
def test_an_executor_chooses_by_this_rule(
    made_with: dict[str, str], given: dict[str, object], called: object, backend: str
) -> None:
    with unirun.Executor(**made_with) as executor:  # type: ignore[arg-type]
        view = executor.options(**given)
        assert view.explain(called).backend == backend  # type: ignore[arg-type]
        assert executor.stats() == {}, "explaining starts nothing"


# -- where it is written --------------------------------------------------------------------------

IMPOSSIBLE: list[dict[str, object]] = [
    {"backend": "thread", "require": {"killable"}},
    {"backend": "thread", "killable": True},
    {"backend": "thread", "memory": "1GiB"},
    {"backend": "coroutine", "require": ["isolation"]},
    {"backend": "process", "require": {"sharedmem"}},
    {"require": {"sharedmem", "isolation"}},
    {"require": {"sharedmem"}, "memory": "1GiB"},
]


@pytest.mark.parametrize("mix", IMPOSSIBLE, ids=range(len(IMPOSSIBLE)))
def test_an_impossible_mix_is_an_error_in_the_decorator_and_in_options(
    mix: dict[str, object],
) -> None:
    with pytest.raises(UnsupportedByBackend, match="; ") as caught:
        unirun.task(**mix)
    decorated = str(caught.value)
    with unirun.Executor() as executor:
        with pytest.raises(UnsupportedByBackend) as caught:
            executor.options(**mix)
        assert executor.stats() == {}
    assert str(caught.value).startswith(decorated)
    with pytest.raises(UnsupportedByBackend):
        unirun.task(function).options(**mix)


@pytest.mark.parametrize("mix", IMPOSSIBLE, ids=range(len(IMPOSSIBLE)))
def test_an_impossible_mix_is_an_error_in_configure_and_in_config(mix: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=r"configure\(\): the .* backend cannot"):
        unirun.configure(**mix)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"with config\(\): the .* backend cannot"):
        unirun.config(**mix)  # type: ignore[arg-type]
    assert unirun.explain(function).backend == "thread", "nothing was changed"


def test_what_one_configure_adds_to_another_must_be_possible_too() -> None:
    unirun.configure(backend="thread")
    with pytest.raises(ConfigError, match=r"configure\(\): the 'thread' backend cannot offer"):
        unirun.configure(require={"killable"})
    unirun.configure(backend="process", require={"killable"})
    assert unirun.explain(function).backend == "process"


def test_an_impossible_mix_in_a_file_names_its_line(
    here: Path,
) -> None:
    file = pyproject(here, "backend = 'thread'", "require = ['killable']")
    with pytest.raises(ConfigError) as caught:
        unirun.Executor()
    assert f"(line 3 of {file}): the 'thread' backend cannot offer killable" in str(caught.value)
    file = pyproject(here, "task.'a:*' = {backend = 'inline', memory = '1GiB'}")
    with pytest.raises(ConfigError, match=r"pyproject.toml.*cannot limit the memory of a call"):
        unirun.Executor()


def test_an_impossible_mix_in_the_environment_names_its_variable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("UNIRUN_BACKEND", "inline")
    monkeypatch.setenv("UNIRUN_KILLABLE", "yes")
    with pytest.raises(ConfigError, match=r"^UNIRUN_KILLABLE: the 'inline' backend cannot offer"):
        unirun.Executor()


@pytest.mark.parametrize("fixed", ["thread", "inline", "coroutine"])
def test_an_executor_for_a_backend_that_no_call_may_use_cannot_be_made(fixed: str) -> None:
    unirun.configure(require={"killable"})
    with pytest.raises(UnsupportedByBackend) as caught:
        unirun.Executor(backend=fixed)
    assert str(caught.value) == (
        f"the {fixed!r} backend cannot offer killable; drop the requirement or choose another "
        f"backend, such as 'process' (the executor was made with backend={fixed!r}); "
        "require is set by configure()"
    )


def test_an_executor_that_cannot_be_made_leaves_no_process_behind() -> None:
    unirun.configure(require={"sharedmem"})
    for _ in range(2):
        with pytest.raises(UnsupportedByBackend, match="'process' backend cannot offer sharedmem"):
            unirun.Executor(backend="process")


def test_what_the_environment_forces_does_not_excuse_an_impossible_mix(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("UNIRUN_BACKEND", "inline")
    with unirun.Executor(backend="process") as executor:
        assert executor.options(backend="thread").submit(int).result() == 0
        with pytest.raises(UnsupportedByBackend, match="UNIRUN_BACKEND=inline forces every call"):
            executor.options(killable=True)


@pytest.mark.parametrize(
    ("made_with", "given"),
    [
        ({"backend": "thread"}, {"killable": True}),
        ({"backend": "thread"}, {"backend": "process"}),
        ({"backend": "process"}, {"require": {"sharedmem"}}),
        ({"backend": "coroutine"}, {"memory": "1GiB"}),
    ],
)
def test_options_that_the_executor_cannot_keep_are_refused_by_options(
    made_with: dict[str, str], given: dict[str, object]
) -> None:
    with unirun.Executor(**made_with) as executor:  # type: ignore[arg-type]
        with pytest.raises(UnsupportedByBackend):
            executor.options(**given)
        with pytest.raises(UnsupportedByBackend):
            executor.options(timeout=1).options(**given)
        with pytest.raises(UnsupportedByBackend):
            executor.submit(unirun.task(**given)(function))
        assert executor.stats() == {}


def test_a_refusal_at_a_call_says_where_each_part_was_set(
    here: Path,
) -> None:
    name = f"{function.__module__}:function"
    file = pyproject(here, f"task.'{name}'.require = ['killable']")
    unirun.configure(backend="thread")
    with unirun.Executor() as executor, pytest.raises(UnsupportedByBackend) as caught:
        executor.submit(function)
    text = str(caught.value)
    assert "backend is set by configure()" in text
    assert f"(line 2 of {file})" in text
