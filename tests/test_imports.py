"""What an import costs: `import unirun` next to nothing, a worker process a small known budget.

Modules are counted, not milliseconds: the number is the same on every machine. The interpreters
run with -S, so that neither site nor the hook of an editable installation hides what we import.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import cast

import pytest

import unirun

ROOT = Path(__file__).parent.parent

# Modules beyond those of an interpreter that has just started. A breach means that every worker
# starts later: look at what the failure lists before raising the number.
WORKER_BUDGET = 43
FACADE_BUDGET = 2
NOT_IN_A_WORKER = {
    *("asyncio", "cloudpickle", "concurrent.futures", "dataclasses", "importlib.metadata"),
    *("inspect", "logging", "multiprocessing", "psutil", "socket"),
}

# Imports argv[1] and prints what that added: modules, and events that are more than reading code.
# In a checkout unirun.backends lies beside unirun; without the hook, __path__ has to say so.
PROBE = """
import _thread, sys
before, events = set(sys.modules), []
for name in {"start_new_thread", "start_joinable_thread"} & set(dir(_thread)):
    setattr(_thread, name, lambda *args, **kwargs: events.append("thread"))
def audit(event, args):
    code = event == "open" and str(args[0]).endswith((".py", ".pyc"))
    if event in WATCHED and not code:
        events.append(f"{event} {args}")
WATCHED = {"open", "os.fork", "os.posix_spawn", "subprocess.Popen"}
sys.addaudithook(audit)
sys.path.append(sys.argv[2])
import unirun
unirun.__path__.append(sys.argv[2])
__import__(sys.argv[1])
found = {"modules": sorted(set(sys.modules) - before), "events": list(events)}
import json
print(json.dumps(found))
"""


def probe(module: str, home: Path = Path(unirun.__file__).parent.parent) -> dict[str, list[str]]:
    """What the import of `module` from `home` does in an interpreter of its own."""
    command = [sys.executable, "-I", "-S", "-B", "-c", PROBE, module, str(home)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, cwd=sys.prefix)
    assert done.returncode == 0, done.stderr
    return cast("dict[str, list[str]]", json.loads(done.stdout))


def test_importing_unirun_imports_next_to_nothing() -> None:
    modules = probe("unirun")["modules"]
    assert "unirun" in modules
    assert len(modules) <= FACADE_BUDGET, modules


def test_importing_unirun_starts_nothing_and_reads_no_file() -> None:
    assert probe("unirun")["events"] == []


def test_the_probe_sees_a_file_and_a_thread(tmp_path: Path) -> None:
    (tmp_path / "unirun.py").write_text(
        "import _thread, sys\n"
        "__path__ = []\n"
        "open(sys.executable)\n"
        "_thread.start_new_thread(print, ())\n"
    )
    first, second = probe("unirun", tmp_path)["events"]
    assert first.startswith("open ")
    assert second == "thread"


def test_a_worker_imports_nothing_heavy() -> None:
    modules = set(probe("unirun.backends.process.worker")["modules"])
    assert modules & NOT_IN_A_WORKER == set()


def test_a_worker_keeps_its_import_budget() -> None:
    modules = probe("unirun.backends.process.worker")["modules"]
    assert len(modules) <= WORKER_BUDGET, f"{len(modules)}: {' '.join(modules)}"


def test_the_public_names_are_sorted_and_complete() -> None:
    assert unirun.__all__ == sorted(set(unirun.__all__))
    assert set(unirun.__all__) <= set(dir(unirun))


@pytest.mark.parametrize("name", unirun.__all__)
def test_a_public_name_is_there_and_a_class_says_where_it_is_public(name: str) -> None:
    value = getattr(unirun, name)
    if isinstance(value, type):  # tracebacks and reprs show it, and users copy what they see
        assert not value.__module__.startswith("unirun._"), "set its __module__ to 'unirun'"


def test_a_name_that_is_not_public_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = unirun.no_such_name  # type: ignore[attr-defined]


def test_the_directory_refuses_to_be_imported_as_backends() -> None:
    code = "import sys; sys.path.insert(0, sys.argv[1]); import backends"
    command = [sys.executable, "-I", "-c", code, str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.returncode == 1
    assert "ImportError: this directory is the package 'unirun.backends'" in done.stderr
