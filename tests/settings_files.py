"""Settings from outside, and what a wrong one gets to hear, for the tests of settings."""

from pathlib import Path
from typing import Any

import pytest


def write(path: Path, *lines: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def pyproject(directory: Path, *lines: str) -> Path:
    return write(directory / "pyproject.toml", "[tool.unirun]", *lines)


def why(error: type[Exception], do: Any, *args: Any, **kwargs: Any) -> str:
    with pytest.raises(error) as caught:
        do(*args, **kwargs)
    return str(caught.value)
