"""The process backend: calls run in worker processes that can be killed one by one.

Every worker imports this file, so it holds nothing but this docstring; the way in is
:mod:`unirun.backends.process.backend`.
"""
