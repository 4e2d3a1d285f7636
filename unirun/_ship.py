"""Modules of the program on their way to machines that do not have them: `Executor(ship=[...])`.

    pack(names) ──bytes──▶ unpacked ──▶ a directory, the first of `sys.path` of each worker there

1. A package goes as a whole, with its data and what was compiled: as files, for not everything can
   be imported from an archive.
2. It comes before anything is unpickled, and hides what that machine may have of the same name.
"""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Iterable, Iterator
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

from unirun._errors import ConfigError

__all__ = ["pack", "unpacked"]

_LEFT_OUT = {"__pycache__", ".git", ".hg", ".svn", ".mypy_cache", ".pytest_cache", ".ruff_cache"}
_THEN = (1980, 1, 1, 0, 0, 0)  # the same bytes for the same files


def pack(names: Iterable[str]) -> bytes:
    """These modules, each with the package it is in.

    Raises ConfigError for what cannot be found here, or has no files.
    """
    wanted = sorted({name.partition(".")[0] for name in names})
    if not wanted:
        return b""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name in wanted:
            for inside, path in _files(name, _find(name)):
                info = zipfile.ZipInfo(inside, _THEN)
                info.compress_type = zipfile.ZIP_DEFLATED
                archive.writestr(info, path.read_bytes())
    return target.getvalue()


def _find(name: str) -> ModuleSpec:
    if name == "__main__":
        raise ConfigError("ship='__main__' is not needed: its functions travel by value")
    try:
        spec = find_spec(name)
    except (ImportError, ValueError) as exc:
        raise ConfigError(f"ship={name!r} cannot be found: {exc}") from exc
    if spec is None:
        raise ConfigError(
            f"ship={name!r} cannot be found here; ship takes names of modules that this program "
            "can import"
        )
    return spec


def _files(name: str, spec: ModuleSpec) -> Iterator[tuple[str, Path]]:
    """Each file of a module: how it is called in there, and where it is."""
    found = False
    for location in spec.submodule_search_locations or ():
        for path in _below(Path(location)):
            found = True
            yield f"{name}/{path.relative_to(location).as_posix()}", path
    if not found and spec.has_location and spec.origin and Path(spec.origin).is_file():
        found = True
        yield Path(spec.origin).name, Path(spec.origin)
    if not found:
        raise ConfigError(
            f"ship={name!r} has no files that could be sent (it comes from {spec.origin}); install "
            "it where the workers are"
        )


def _below(top: Path) -> Iterator[Path]:
    for folder, folders, files in os.walk(top):
        folders[:] = sorted(set(folders) - _LEFT_OUT)
        for name in sorted(files):
            if not name.endswith((".pyc", ".pyo")) and (path := Path(folder, name)).is_file():
                yield path


def unpacked(data: bytes) -> TemporaryDirectory[str]:
    """A directory with all of it; the caller removes that."""
    directory = TemporaryDirectory(prefix="unirun-ship-", ignore_cleanup_errors=True)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        archive.extractall(directory.name)
    return directory
