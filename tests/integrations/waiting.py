"""Waiting for what another process or thread does."""

import time
from collections.abc import Callable
from typing import Any

PATIENCE = 20.0


def eventually(holds: Callable[[], Any], seconds: float = PATIENCE) -> Any:
    """What `holds()` gives, once that is true."""
    until = time.monotonic() + seconds
    while not (found := holds()):
        assert time.monotonic() < until
        time.sleep(0.01)
    return found
