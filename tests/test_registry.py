"""Backends by name: those of the table, of entry points, of "module:Class"; and wrong names."""

import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import unirun
from unirun import BackendUnavailable, UnirunError, UnknownBackend, _registry
from unirun.backend import Backend, Capability

OF_THEIRS = """
from unirun.backends.thread import ThreadBackend

class Elsewhere(ThreadBackend):
    name = "elsewhere"
    capabilities = ThreadBackend.capabilities | {"killable"}

class NoBackend: ...
"""
ENGINES = {"dask": "distributed", "ray": "ray"}
ENTRY_POINTS = """
[unirun.backends]
elsewhere = of_theirs:Elsewhere
needy = needy:Needy
gone = no_such_module:Backend
"""


@pytest.fixture
def theirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory with an installed distribution that brings backends."""
    metadata = tmp_path / "theirs-1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1\n")
    (metadata / "entry_points.txt").write_text(ENTRY_POINTS)
    (tmp_path / "of_theirs.py").write_text(OF_THEIRS)
    (tmp_path / "needy.py").write_text("import an_engine\n")
    (tmp_path / "broken.py").write_text("1 / 0\n")
    (tmp_path / "moved.py").write_text("from json import no_such_name\n")
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if getattr(sys.modules[name], "__file__", None) and str(tmp_path) in str(
            sys.modules[name].__file__
        ):
            del sys.modules[name]


# -- names that are right -------------------------------------------------------------------------


@pytest.mark.parametrize("name", _registry.BUILTIN)
def test_a_backend_of_the_table_is_a_backend_that_knows_its_name(name: str) -> None:
    if name in ENGINES and importlib.util.find_spec(ENGINES[name]) is None:
        pytest.skip(f"{ENGINES[name]} is not installed")  # not imported: Ray sets variables
    backend = _registry.load(name)
    assert issubclass(backend, Backend)
    assert backend.name == name
    assert backend.capabilities <= set(Capability)
    assert _registry.available(name) is None


def test_loading_imports_the_one_backend_only() -> None:
    code = (
        "import sys\nfrom unirun import _registry\n_registry.load('inline')\n"
        "print([m for m in sys.modules if m.startswith('unirun.backends.')], end='')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=20, check=True
    )
    assert done.stdout == "['unirun.backends.inline']"


def test_the_table_answers_without_asking_the_metadata() -> None:
    code = (
        "import sys\nfrom unirun import _registry\n"
        "for name in _registry.BUILTIN: name in ('dask', 'ray') or _registry.load(name)\n"
        "print('importlib.metadata' in sys.modules, end='')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=20, check=True
    )
    assert done.stdout == "False"


@pytest.mark.usefixtures("theirs")
def test_an_entry_point_is_a_backend_by_its_name() -> None:
    assert _registry.load("elsewhere").__name__ == "Elsewhere"
    assert {"elsewhere", "needy", *_registry.BUILTIN} <= set(_registry.names())
    assert _registry.names() == sorted(_registry.names())


@pytest.mark.usefixtures("theirs")
def test_a_class_can_be_named_by_its_module() -> None:
    assert _registry.load("of_theirs:Elsewhere") is _registry.load("elsewhere")


@pytest.mark.parametrize("name", ["elsewhere", "of_theirs:Elsewhere"])
@pytest.mark.usefixtures("theirs")
def test_an_executor_runs_calls_on_a_backend_from_elsewhere(name: str) -> None:
    with unirun.Executor(backend=name) as executor:
        assert executor.submit(pow, 2, 3).result(20) == 8
        assert executor.options(killable=True).submit(pow, 2, 3).result(20) == 8
    with unirun.Executor() as executor, unirun.config(routes={"io": name}):
        assert executor.options(kind="io").submit(pow, 2, 4).result(20) == 16
        assert list(executor.stats()) == [name]


# -- names that are wrong -------------------------------------------------------------------------

WRONG = [
    ("proces", UnknownBackend, "unknown backend 'proces'; did you mean 'process'"),
    ("treads", UnknownBackend, "did you mean 'thread'"),
    ("elsewher", UnknownBackend, "did you mean 'elsewhere'"),
    ("xyzzy", UnknownBackend, "unknown backend 'xyzzy'; backends: coroutine, dask, elsewhere"),
    ("no_such_module:B", UnknownBackend, "there is no module 'no_such_module'"),
    ("json.no_such:B", UnknownBackend, "there is no module 'json.no_such'"),
    ("of_theirs:Elsewher", UnknownBackend, "'of_theirs' has no class 'Elsewher'"),
    ("of_theirs:NoBackend", UnknownBackend, "is not a subclass of unirun.backend.Backend"),
    ("json:dumps", UnknownBackend, "is not a subclass of unirun.backend.Backend"),
    ("gone", UnknownBackend, "there is no module 'no_such_module'; named as backend 'gone'"),
    ("needy", BackendUnavailable, "the 'needy' backend needs 'an_engine'; install it"),
    ("needy:Needy", BackendUnavailable, "needs 'an_engine'; install it"),
    ("broken:B", BackendUnavailable, "cannot be imported (ZeroDivisionError: division by zero);"),
    ("moved:B", BackendUnavailable, "cannot be imported (ImportError: cannot import name"),
    (":B", BackendUnavailable, "cannot be imported (ValueError: Empty module name)"),
]


@pytest.mark.parametrize(("name", "kind", "text"), WRONG, ids=[name for name, *_ in WRONG])
@pytest.mark.usefixtures("theirs")
def test_a_wrong_name_is_one_clear_error(name: str, kind: type[UnirunError], text: str) -> None:
    with pytest.raises(kind) as caught:
        _registry.load(name)
    assert text in str(caught.value)
    assert _registry.available(name) == str(caught.value)


@pytest.mark.usefixtures("theirs")
def test_the_cause_of_a_failed_import_is_kept() -> None:
    for name, cause in (("needy", ModuleNotFoundError), ("broken:B", ZeroDivisionError)):
        with pytest.raises(BackendUnavailable) as caught:
            _registry.load(name)
        assert isinstance(caught.value.__cause__, cause)


@pytest.mark.parametrize("place", ["Executor", "options", "config", "task", "environment"])
def test_a_wrong_name_is_refused_wherever_it_is_written(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    match = "unknown backend 'proces'; did you mean 'process'"
    if place == "environment":
        monkeypatch.setenv("UNIRUN_BACKEND", "proces")
    with pytest.raises(UnknownBackend, match=match):  # noqa: PT012  # five places, one promise
        if place == "Executor":
            unirun.Executor(backend="proces")
        with unirun.Executor() as executor:
            if place == "options":
                executor.options(backend="proces").submit(pow, 2, 2)
            elif place == "config":
                with unirun.config(backend="proces"):
                    executor.submit(pow, 2, 2)
            elif place == "task":
                executor.submit(unirun.task(backend="proces")(pow), 2, 2)


def test_an_engine_that_is_missing_names_the_command_that_installs_it(
    theirs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(_registry.BUILTIN, "dask", "needy:Needy")
    with pytest.raises(BackendUnavailable) as caught:
        unirun.Executor(backend="dask")
    text = "the 'dask' backend needs 'an_engine'; run: pip install 'unirun-executor[dask]'"
    assert str(caught.value) == text
    assert isinstance(caught.value, ImportError)


def test_a_checkout_that_is_not_installed_says_how_to_install_it(tmp_path: Path) -> None:
    """The core alone, as an interpreter finds it that was started in a checkout."""
    core = Path(unirun.__file__).parent
    ignored = shutil.ignore_patterns("backends", "__pycache__")
    shutil.copytree(core, tmp_path / "unirun", ignore=ignored)
    code = (
        "import sys; sys.path[:0] = [sys.argv[1]]\n"
        "import unirun\n"
        "try:\n    unirun.Executor(backend='thread')\n"
        "except unirun.BackendUnavailable as exc:\n    print(exc, end='')"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert done.stdout.startswith("unirun is imported from a checkout that is not installed (")
    assert done.stdout.endswith("; run: pip install -e .")


def test_a_bug_of_ours_is_not_taken_for_a_missing_engine(
    theirs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (theirs / "ours.py").write_text("import unirun._no_such_module\n")
    monkeypatch.setitem(_registry.BUILTIN, "ours", "ours:Backend")
    with pytest.raises(ModuleNotFoundError, match="_no_such_module") as caught:
        _registry.load("ours")
    assert not isinstance(caught.value, UnirunError)
    assert caught.value.__cause__ is None
