"""A test on one backend: UNIRUN_BACKEND, and a default executor that heeds it.

An executor reads the environment when it is made, so those that are there already, which belong to
others, stay what they are.
"""

from __future__ import annotations

import os

from unirun import Executor, _config, _entering, _executor, _registry

__all__ = ["Forced"]

VARIABLE = "UNIRUN_BACKEND"


class Forced:
    """From when it is made until `restore()`, what is made runs on that backend."""

    def __init__(self, backend: str | None) -> None:
        """None: the backend that the configuration names, if it names one."""
        self.backend: str = backend or _config.load().resolve()["backend"] or "thread"
        _registry.load(self.backend)  # one that cannot be used is an error here
        self._variable = os.environ.get(VARIABLE)
        os.environ[VARIABLE] = self.backend
        with _executor._default_lock:
            self._default, _executor._default = _executor._default, None
        self._current = _entering.current.set(None)  # that of a wider fixture may be elsewhere

    def restore(self) -> Executor | None:
        """All as it was; returns the default executor of the test, to be ended, if it had one."""
        _entering.leave(self._current)
        with _executor._default_lock:
            made, _executor._default = _executor._default, self._default
        if self._variable is None:
            os.environ.pop(VARIABLE, None)
        else:
            os.environ[VARIABLE] = self._variable
        return made
