"""Sessions over the one environment `.venv/` that set-up makes; nox itself lives elsewhere (`./noxw`).

A session without a name runs nothing: `nox -l` lists them.
"""

import contextlib
import os
import sys
from collections.abc import Iterator

import nox

nox.needs_version = ">=2024.4.15"
nox.options.sessions = []
nox.options.default_venv_backend = "none"

PYTHON = ".venv/bin/python"


@contextlib.contextmanager
def provisioned(session: nox.Session, purpose: str, *arguments: str) -> Iterator[None]:
    """Everything `purpose` needs, a second time only looked at; under sudo, what tools leave is given back after."""
    provision = (sys.executable, "-m", "bench.provision")
    session.run(*provision, purpose, *arguments, external=True)
    try:
        yield
    finally:
        if "SUDO_UID" in os.environ:
            session.run(*provision, "hand-back", external=True, silent=True)


@nox.session(python=False)
def setup(session: nox.Session) -> None:
    """Make this machine ready: packages, .venv, payload, guest image; says what it did."""
    with provisioned(session, "bench", *session.posargs):
        pass


@nox.session(python=False)
def bench(session: nox.Session) -> None:
    """Quick run of every available backend, and its report."""
    with provisioned(session, "bench"):
        if os.geteuid() != 0:
            session.log("not root: most backends need it; `sudo .venv/bin/tare run --quick` measures them all")
        session.run(".venv/bin/tare", "run", "--quick", *session.posargs, external=True)


@nox.session(python=False)
def tests(session: nox.Session) -> None:
    """The tests; arguments after -- go to pytest."""
    with provisioned(session, "tests"):
        session.run(PYTHON, "-m", "pytest", *(session.posargs or ["tests"]), external=True)


@nox.session(python=False)
def lint(session: nox.Session) -> None:
    """ruff, mypy --strict and the direction of imports."""
    with provisioned(session, "lint"):
        session.run(PYTHON, "-m", "ruff", "check", ".", external=True)
        session.run(PYTHON, "-m", "ruff", "format", "--check", ".", external=True)
        session.run(PYTHON, "-m", "mypy", external=True)
        session.run(".venv/bin/lint-imports", external=True)
