"""Threads of this process: for calls that wait, or that compute outside the GIL."""

from .backend import ThreadBackend

__all__ = ["ThreadBackend"]
