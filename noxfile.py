"""The versions of Python that are promised, each tried in an environment of its own: `nox`.

What a session runs is what `make` runs on one of them; a version that is not installed is skipped.
"""

import nox

VERSIONS = ["3.11", "3.12", "3.13", "3.14"]

nox.options.default_venv_backend = "venv"
nox.options.sessions = ["tests"]


@nox.session(python=VERSIONS)
def tests(session: nox.Session) -> None:
    """The whole suite; arguments go to pytest: nox -s tests-3.12 -- -k kill."""
    session.install("--editable", ".[test]")
    session.run("python", "-P", "-m", "pytest", "-n", "3", "--dist", "loadfile", *session.posargs)


@nox.session(python=VERSIONS)
def core(session: nox.Session) -> None:
    """Imports, the contract of all backends, and the smallest programs: some minutes each."""
    session.install("--editable", ".[test]")
    files = ("tests/test_imports.py", "tests/test_first_use.py", "tests/test_conformance.py")
    session.run("python", "-P", ".ci/smoke.py")
    session.run("python", "-P", "-m", "pytest", *files, *session.posargs)


@nox.session(python=VERSIONS)
def extras(session: nox.Session) -> None:
    """All that users may install, together."""
    session.install(".[all]")
    session.run("python", "-P", ".ci/smoke.py")
