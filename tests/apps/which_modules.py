"""Bodies that import nothing: what they find imported came with unirun."""

import sys
from typing import Any


def openssl_after_using(lock: Any) -> list[str]:
    with lock:
        return [name for name in ("_hashlib", "_ssl") if name in sys.modules]
