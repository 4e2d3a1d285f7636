"""The rules of the house: who may import whom, what a package lists, what a file may hold.

Each rule is a function from a source tree to its breaches, one line each. It is run twice: on this
repository, where it finds nothing, and on a small tree with a planted breach, which it must name.
What an import costs is measured in test_imports.py.
"""

import ast
import re
import sys
import tomllib
from collections.abc import Callable, Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parent.parent

# Imports point down, from a row to a row above it in this table; two modules of one row do not
# know each other. A new module gets its row here.
LAYERS = (
    ("_hangs", "_prompt"),
    (
        "_aside",
        "_async_queues",
        "_awaiting",
        "_callback_thread",
        "_clock",
        "_deadlocks",
        "_debuggers",
        "_deferral",
        "_dump_frames",
        "_dump_records",
        "_dump_signal",
        "_closing",
        "_ending",
        "_errors",
        "_far_state",
        "_figures",
        "_body",
        "_gauge",
        "_heirs",
        "_plain",
        "_leavings",
        "_leftovers",
        "_library_threads",
        "_loops",
        "_machine",
        "_open_maps",
        "_log_levels",
        "_output",
        "_pdb",
        "_record",
        "_records",
        "_robust",
        "_service",
        "_references",
        "_shared_names",
        "_steps",
        "_strict_held",
        "_strict_order",
        "_remote_frames",
        "_summary",
        "_terminal",
        "_thread_values",
        "_toml_lines",
        "_trace_file",
        "_trace_picture",
        "_trace_sample",
    ),
    ("_call_event", "_context", "_forks", "_info", "_listeners", "_replay", "_own_forms", "_stats"),
    ("_carried",),
    ("_callbacks", "_capture", "_entering", "_log_filter", "_news", "_observe", "_seeds", "_sites"),
    ("_call_notes", "_numbered", "_reports"),
    ("_broken", "_cuts", "_future", "_hints", "_keywords", "_payload", "coordinator"),
    ("_forecast", "_forms", "_monitor_door", "_lessons", "_rebuild", "_travel", "_variable_places"),
    ("_blobs", "_ship"),
    ("_variables",),
    ("_by_value",),
    ("_meant", "_remedies", "_round_trip", "_strict_writes"),
    ("_strict_differences",),
    ("_connect", "_crowding", "_lasting", "_nesting"),
    ("_dump_hangs",),
    ("_cells", "_channel", "_hosted_barriers", "_hosted_locks", "_hosted_queues"),
    ("_cell_barriers", "_cell_locks", "_cell_queues", "_hosted_values", "_segments"),
    ("_remote", "_settings", "_thread_queues", "_timer"),
    ("_opaque",),
    ("_cell_host", "_door", "_links", "_logs", "_pending", "_line", "_progress", "backend"),
    ("_again", "_dump_objects", "_events", "_scope_members"),
    ("_ownership", "_scope_async", "_watched_barriers"),
    ("_bodies", "_chunk", "_handles", "_limited", "_parts", "_registry", "_retry", "_sessions"),
    ("_far_agent", "_far_blobs", "_far_body", "_far_lines", "_opaque_calls"),
    ("_far_calls",),
    ("_far_news", "_far_pulse", "_far_relay", "_far_tunnel"),
    ("_far_client", "_far_host", "_far_hub"),
    ("_far_crew", "_far_setup", "_far_telling"),
    ("_interruptions", "_sending", "_sources", "_strict"),
    ("_async_channel", "_celled", "_config", "_desk", "_held", "_map", "_profile"),
    ("_async_inputs", "_async_map", "_put"),
    ("_activity", "_dump", "_host", "_named_backends", "_plan"),
    ("_dump_server", "_rehearsal", "_snapshot"),
    ("_monitor",),
    ("_auto",),
    ("_manager", "_manager_server"),
    ("_manager_process",),
    ("_shared_barriers", "_shared_locks", "_shared_queues"),
    ("_local", "_shared_values"),
    ("_shared_lists",),
    ("_arguments", "_choice", "sync"),
    ("_auto_plan", "_place", "_submitter", "_watching", "profile"),
    ("_far_backend",),
    ("_drain", "_scope", "_trace"),
    ("_scoping", "_shutdown"),
    ("_executor",),
    ("_api", "_current"),
    ("_task",),
    ("unirun",),  # the names users import; lazy, so it sits above all it names
    ("report",),
    ("cli", "integrations", "testing"),
    ("__main__",),
)
# Configuration is read above the backends and reaches them as data in a call.
NOT_FOR_BACKENDS = {
    *("_choice", "_config", "_map", "_plan", "_registry", "_settings", "_sources", "_submitter"),
    *(name for row in LAYERS[LAYERS.index(("_executor",)) :] for name in row),
}
# The pure machines, and what each may import of ours.
PURE: dict[str, set[str]] = {
    "backends/process/orders.py": set(),
    "backends/process/state.py": {
        "unirun.backends.process.orders",
        "unirun.backends.process.waiting",
    },
    "backends/process/waiting.py": set(),
    "unirun/_deadlocks.py": set(),
    "unirun/_far_state.py": set(),
    "unirun/_forecast.py": {"unirun._profile", "unirun._records"},
    "unirun/coordinator.py": {"unirun._deadlocks"},
    "unirun/_hints.py": {"unirun._errors", "unirun._records"},
    "unirun/_references.py": set(),
    "unirun/_hosted_barriers.py": {"unirun.coordinator"},
    "unirun/_hosted_locks.py": {"unirun.coordinator"},
    "unirun/_hosted_queues.py": {"unirun.coordinator"},
    "unirun/_hosted_values.py": {"unirun.coordinator"},
}
# What a pure machine may build on: no clock, no thread, no file, no process.
PURE_IMPORTS = {"__future__", "abc", "bisect", "collections", "collections.abc", "dataclasses"} | {
    *("enum", "functools", "heapq", "itertools", "types", "typing"),
}
DEPENDENCIES = {"cloudpickle", "psutil"}
OPTIONAL = {  # where more than the dependencies may be imported
    "backends/dask": {"dask", "distributed"},
    "backends/ray": {"ray"},
    "unirun/integrations/": {"django", "joblib", "numpy", "opentelemetry", "prometheus_client"}
    | {"rich", "tqdm"},
    "unirun/testing": {"pytest", "_pytest"},
}

MAX_LINES = 500
SOURCES = ("unirun", "backends", "tests", "examples", "benchmarks", ".ci")
# Directories of one machine, which no file of ours may name (/home/me/ in an example is nobody's).
MACHINE_PATH = re.compile(r"(?<![\w.~-])/(?:root|work|home/(?!me/|you/)\w+|Users/\w+)/")
UNFINISHED = re.compile("TOD[O]|FIXM[E]|raise NotImplemente[d]Error")
VAGUE_NAMES = {"common", "helpers", "misc", "util", "utils"}


class Import(NamedTuple):
    """One imported module: where the statement is, and the absolute name it gives."""

    place: str
    target: str
    level: int
    typing_only: bool


class Tree:
    """The modules under unirun/ and backends/ of one checkout, and what they import."""

    def __init__(self, root: Path) -> None:
        self.root = root
        files = [*root.glob("unirun/**/*.py"), *root.glob("backends/**/*.py")]
        self.modules = {self.name(path): path for path in sorted(files)}
        self._imports: dict[str, list[Import]] = {}

    def name(self, path: Path) -> str:
        """The name `path` is imported by: backends/ is installed as unirun.backends."""
        parts = path.relative_to(self.root).with_suffix("").parts
        parts = ("unirun", *parts) if parts[0] == "backends" else parts
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    def imports(self, module: str) -> list[Import]:
        """Every import statement of `module`, at any depth."""
        if module not in self._imports:
            self._imports[module] = list(self._read_imports(module))
        return self._imports[module]

    def _read_imports(self, module: str) -> Iterator[Import]:
        path = self.modules[module]
        package = module if path.name == "__init__.py" else module.rpartition(".")[0]
        body = ast.parse(path.read_text(), str(path))
        file = path.relative_to(self.root)
        for node, typing_only in _walk(body, typing_only=False):
            for level, target in self._targets(node, package):
                place = f"{file}:{getattr(node, 'lineno', 0)}"
                yield Import(place, target, level, typing_only)

    def _targets(self, node: ast.AST, package: str) -> Iterator[tuple[int, str]]:
        if isinstance(node, ast.Import):
            yield from ((0, alias.name) for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) + 1 - node.level]
            base = ".".join([*(parents if node.level else ()), *filter(None, [node.module])])
            for alias in node.names:
                whole = f"{base}.{alias.name}"
                yield node.level, whole if self._is_module(whole) else base

    def _is_module(self, name: str) -> bool:
        return name in self.modules or name.startswith("unirun.backends.")

    def is_core(self, module: str) -> bool:
        return not f"{module}.".startswith("unirun.backends.")


def _walk(node: ast.AST, typing_only: bool) -> Iterator[tuple[ast.AST, bool]]:
    """Each node, and whether it stands under `if TYPE_CHECKING`."""
    yield node, typing_only
    guard = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
    for field, value in ast.iter_fields(node):
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield from _walk(child, typing_only or (guard and field == "body"))


def _layer(module: str) -> int | None:
    """The row of `module` in LAYERS; a package stands there as a whole."""
    unit = module.split(".")[1] if "." in module else "unirun"
    return next((n for n, row in enumerate(LAYERS) if unit in row), None)


# -- rules ----------------------------------------------------------------------------------------


def core_names_no_backend(tree: Tree) -> Iterator[str]:
    """Rule 1. Nobody imports a backend; _registry names them in strings, nobody else does."""
    for module in filter(tree.is_core, tree.modules):
        for found in tree.imports(module):
            if re.match(r"(unirun\.)?backends\b", found.target):
                yield f"{found.place} imports {found.target}"
        if module != "unirun._registry":
            yield from _backends_in_strings(tree, module)


def _backends_in_strings(tree: Tree, module: str) -> Iterator[str]:
    path = tree.modules[module]
    for node in ast.walk(ast.parse(path.read_text())):
        if (
            isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and re.fullmatch(r"(unirun)?\.?backends(\.\w+)+(:\w+)?", node.value)
        ):
            yield f"{path.relative_to(tree.root)}:{node.lineno} names {node.value!r}"


def backends_keep_to_themselves(tree: Tree) -> Iterator[str]:
    """Rule 2. A backend imports the core absolutely, its own files relatively, and no other."""
    for module in tree.modules:
        if tree.is_core(module) or module == "unirun.backends":
            continue
        own = ".".join(module.split(".")[:3])
        for place, target, level, _ in tree.imports(module):
            if level and not f"{target}.".startswith(f"{own}."):
                yield f"{place} reaches out of its backend to {target}"
            if not level and re.match(r"(unirun\.)?backends\b", target):
                yield f"{place} imports {target} absolutely"


def backends_read_no_configuration(tree: Tree) -> Iterator[str]:
    """Rule 5. What a backend needs to know travels in the call."""
    for module in tree.modules:
        if tree.is_core(module):
            continue
        for place, target, _, typing_only in tree.imports(module):
            unit = [*target.split("."), "unirun"][1]
            if target.split(".")[0] == "unirun" and unit in NOT_FOR_BACKENDS and not typing_only:
                yield f"{place} imports {target}"


def core_imports_point_down(tree: Tree) -> Iterator[str]:
    """Rule 4. A module imports what stands above it in LAYERS; for the type checker, anything."""
    for module in filter(tree.is_core, tree.modules):
        layer = _layer(module)
        if layer is None:
            yield f"{module} has no row in LAYERS"
            continue
        for place, target, _, typing_only in tree.imports(module):
            own = target.split(".")[:2] == module.split(".")[:2]
            if target.split(".")[0] != "unirun" or typing_only or (own and target != "unirun"):
                continue
            below = _layer(target)
            if below is None or below >= layer:
                yield f"{place} imports {target}, which is not below {module}"


def no_import_cycles(tree: Tree) -> Iterator[str]:
    """Rule 4. Imports inside functions count: they hide a cycle, they do not end it."""
    graph = {
        module: {
            found.target
            for found in tree.imports(module)
            if found.target in tree.modules and found.target != module and not found.typing_only
        }
        for module in tree.modules
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as exc:
        yield " -> ".join(reversed(exc.args[1]))


def state_machines_are_pure(tree: Tree) -> Iterator[str]:
    """Rule 4. The state machines import nothing that could act, and nothing above themselves."""
    for module, path in tree.modules.items():
        own = PURE.get(path.relative_to(tree.root).as_posix())
        if own is None:
            continue
        for place, target, _, _ in tree.imports(module):
            if not {target, target.rpartition(".")[0]} & (PURE_IMPORTS | own):
                yield f"{place} imports {target}"


def only_dependencies_are_imported(tree: Tree) -> Iterator[str]:
    """What is not in the standard library is a dependency, or in an extra and in its corner."""
    for module, path in tree.modules.items():
        where = path.relative_to(tree.root).as_posix()
        optional = {
            n for corner, names in OPTIONAL.items() if where.startswith(corner) for n in names
        }
        for place, target, level, _ in tree.imports(module):
            top = target.split(".")[0]
            known = {"unirun", *DEPENDENCIES, *optional, *sys.stdlib_module_names}
            if not level and top not in known:
                yield f"{place} imports {top}, which is no dependency"


def every_package_is_listed(tree: Tree) -> Iterator[str]:
    """A package that is missing in pyproject.toml is missing in the wheel, and only there."""
    settings = tomllib.loads((tree.root / "pyproject.toml").read_text())
    listed = settings["tool"]["setuptools"]["packages"]
    packages = {
        m if p.name == "__init__.py" else m.rpartition(".")[0] for m, p in tree.modules.items()
    }
    yield from (f"not in pyproject.toml: {name}" for name in sorted(packages - set(listed)))
    yield from (f"no such package: {name}" for name in sorted(set(listed) - packages))
    for name in sorted(packages - set(tree.modules)):
        yield f"no __init__.py: {name}"


def files_are_finished_and_short(tree: Tree) -> Iterator[str]:
    """A file says what it is, fits a head, has a telling name and nothing left to do."""
    for path in _sources(tree.root):
        where, text = path.relative_to(tree.root), path.read_text()
        if (lines := text.count("\n")) > MAX_LINES:
            yield f"{where} has {lines} lines"
        if ast.get_docstring(ast.parse(text)) is None:
            yield f"{where} has no docstring"
        if VAGUE_NAMES & {part.strip("_") for part in where.with_suffix("").parts}:
            yield f"{where} has a name that says nothing"
        for found in UNFINISHED.finditer(text):
            yield f"{where}:{text.count(chr(10), 0, found.start()) + 1} {found[0]}"


def _sources(root: Path) -> Iterator[Path]:
    for name in SOURCES:
        yield from sorted(root.glob(f"{name}/**/*.py"))


def no_file_names_a_machine(tree: Tree) -> Iterator[str]:
    """A path that exists on one machine only has no place in the repository."""
    texts = [p for p in tree.root.glob("*") if p.is_file() and not p.name.startswith(".coverage")]
    for name in (*SOURCES, "docs"):
        texts += [p for p in tree.root.glob(f"{name}/**/*") if p.is_file()]
    for path in sorted(texts):
        for number, line in enumerate(_lines(path), 1):
            if found := MACHINE_PATH.search(line):
                yield f"{path.relative_to(tree.root)}:{number} names {found[0]}"


def _lines(path: Path) -> list[str]:
    try:
        return [] if "__pycache__" in path.parts else path.read_text().splitlines()
    except UnicodeDecodeError:
        return []  # not a text


Rule = Callable[[Tree], Iterator[str]]
PYPROJECT = "[tool.setuptools]\npackages = ['unirun', 'unirun.backends', %s]"
# A small tree that keeps every rule.
SOUND = {
    "unirun/__init__.py": "'''unirun'''",
    "unirun/_errors.py": "'''Errors.'''\nif TYPE_CHECKING:\n    from unirun import Executor",
    "unirun/_context.py": "'''Context.'''\nfrom unirun._errors import UnirunError",
    "backends/__init__.py": "'''Backends.'''",
    "backends/thread.py": "'''Threads.'''\nfrom unirun import _context",
    "pyproject.toml": PYPROJECT % "",
}


class Planted(NamedTuple):
    """A file that breaks a rule, and a part of what the rule has to say about it."""

    rule: Rule
    file: str
    text: str
    named: str


PLANTED = [
    Planted(
        core_names_no_backend, "unirun/sync.py", "def f():\n  import unirun.backends.ray", ":2"
    ),
    Planted(core_names_no_backend, "unirun/_map.py", "from .backends import ray", "backends.ray"),
    Planted(core_names_no_backend, "unirun/_map.py", "x = 'unirun.backends.ray:Ray'", ":1 names"),
    Planted(backends_keep_to_themselves, "backends/ray.py", "from .inline import x", "inline"),
    Planted(backends_keep_to_themselves, "backends/ray.py", "import backends.thread", "absolutely"),
    Planted(backends_keep_to_themselves, "backends/dask/a.py", "from .. import ray", "reaches out"),
    Planted(backends_keep_to_themselves, "backends/dask/a.py", "from ...sync import x", "sync"),
    Planted(backends_keep_to_themselves, "backends/ray.py", "import unirun.backends.ray", "absol"),
    Planted(backends_read_no_configuration, "backends/ray.py", "import unirun", "ray.py:1"),
    Planted(backends_read_no_configuration, "backends/ray.py", "import unirun._config", "_config"),
    Planted(core_imports_point_down, "unirun/_hints.py", "import unirun._task", "_hints.py:1"),
    Planted(core_imports_point_down, "unirun/_info.py", "if x:\n  from . import _context", ":2"),
    Planted(core_imports_point_down, "unirun/sync.py", "from . import Executor", "unirun, which"),
    Planted(core_imports_point_down, "unirun/_new.py", "", "no row"),
    Planted(no_import_cycles, "unirun/_errors.py", "def f():\n  import unirun._context", "->"),
    Planted(state_machines_are_pure, "unirun/coordinator.py", "from time import sleep", "time"),
    Planted(state_machines_are_pure, "backends/process/state.py", "from .wire import x", "wire"),
    Planted(only_dependencies_are_imported, "unirun/_map.py", "if x:\n  import numpy", ":2"),
    Planted(only_dependencies_are_imported, "backends/thread.py", "import ray", "ray"),
    Planted(every_package_is_listed, "unirun/cli/__init__.py", "", "in pyproject.toml: unirun.cli"),
    Planted(every_package_is_listed, "backends/process/x.py", "", "no __init__.py"),
    Planted(every_package_is_listed, "pyproject.toml", PYPROJECT % "'unirun.gone'", "no such"),
    Planted(files_are_finished_and_short, "unirun/_map.py", "'''x'''\n" * 501, "501 lines"),
    Planted(files_are_finished_and_short, "unirun/_map.py", "x = 1", "no docstring"),
    Planted(files_are_finished_and_short, "unirun/_utils.py", "'''x'''", "says nothing"),
    Planted(files_are_finished_and_short, "unirun/_map.py", "'''x'''\n# TOD\x4f", "_map.py:2"),
    Planted(no_file_names_a_machine, "docs/x.md", "see\n/hom\x65/jo/x", "docs/x.md:2"),
]
RULES = list(dict.fromkeys(planted.rule for planted in PLANTED))


@pytest.fixture(scope="module")
def house() -> Tree:
    """The checkout itself, of which each module is read once for all rules."""
    return Tree(ROOT)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_house_keeps_the_rule(rule: Rule, house: Tree) -> None:
    breaches = list(dict.fromkeys(rule(house)))
    assert not breaches, f"{rule.__doc__}\n  " + "\n  ".join(breaches)


@pytest.mark.parametrize("planted", PLANTED, ids=lambda p: f"{p.rule.__name__}-{p.named}")
def test_a_planted_breach_is_caught(planted: Planted, tmp_path: Path) -> None:
    for name, text in SOUND.items():
        _write(tmp_path / name, text)
    assert list(planted.rule(Tree(tmp_path))) == []
    _write(tmp_path / planted.file, planted.text)
    assert any(planted.named in breach for breach in planted.rule(Tree(tmp_path)))


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
