"""Amounts as people read them: seconds, bytes and shares, with three figures at most."""

from __future__ import annotations

__all__ = ["bytes_", "count", "seconds", "share"]

_SIZES = ("bytes", "kB", "MB", "GB", "TB")


def seconds(value: float) -> str:
    """`12.3 ms` and the like; minutes from two of them on."""
    if value >= 120:
        return f"{int(value // 60)} min {value % 60:.0f} s"
    for unit, scale in (("s", 1.0), ("ms", 1e3), ("us", 1e6)):
        if value * scale >= 0.9995:
            return f"{_three(value * scale)} {unit}"
    return "0 s" if value <= 0 else f"{_three(value * 1e9)} ns"


def bytes_(value: float) -> str:
    """Powers of ten, as in the settings: `80 MB`."""
    for unit in _SIZES:
        if value < 999.5 or unit == _SIZES[-1]:
            break
        value /= 1000
    return f"{_three(value)} {unit}"


def share(value: float) -> str:
    """`62 %`; what is there but tiny is not called nothing."""
    return "< 1 %" if 0 < value < 0.005 else f"{value * 100:.0f} %"


def count(value: int, noun: str) -> str:
    """`1 call`, `12,000 calls`."""
    return f"{value:,} {noun}{'' if value == 1 else 's'}"


def _three(value: float) -> str:
    digits = 0 if value >= 99.95 else 1 if value >= 9.995 else 2
    text = f"{value:.{digits}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
