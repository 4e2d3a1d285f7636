"""What `kind="auto"` has measured about functions: save it, load it, look at it, forget it.

    unirun.profile.save("profile.json")     # after a run that is like those to come
    unirun.profile.load("profile.json")     # before the first call: nothing has to be measured

See docs/auto.md.  `UNIRUN_AUTO=frozen` keeps to what was loaded.
"""

from __future__ import annotations

import os
from typing import Any

from unirun import _profile

__all__ = ["clear", "functions", "load", "save"]


def save(path: str | os.PathLike[str]) -> int:
    """Write what was measured in this process to a JSON file; returns how many functions.

    The file is replaced as a whole: whoever reads it finds the old one or the new one. At most 500
    functions are kept, those used last. Raises OSError.
    """
    return _profile.save(path)


def load(path: str | os.PathLike[str]) -> int:
    """Know what such a file says, in place of what was measured; returns how many functions.

    Functions whose code has changed since are measured anew. Executors that already run use it
    for functions they have not decided about. Thread-safe.

    Raises:
        ConfigError: a ValueError that names the file and what is wrong; nothing is taken over.
        OSError: the file cannot be read.
    """
    return _profile.load(path)


def clear() -> None:
    """Forget all that was measured or loaded in this process."""
    _profile.clear()


def functions() -> dict[str, dict[str, Any]]:
    """What is known, by "module:qualname#code": numbers in seconds and bytes, for one call each."""
    return {each.key: each.as_json() for each in _profile.known()}
