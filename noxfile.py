"""Sessions: `nox -s tests`, `nox -s lint`, `nox -s types`, `nox -s bench`. Each makes its own environment."""

import nox

nox.options.sessions = ["tests", "lint", "types"]
nox.options.reuse_existing_virtualenvs = True


@nox.session
def tests(session: nox.Session) -> None:
    """All tests, slow ones included, on an installed copy: `nox -s tests -- -k name` picks some.

    Two processes, of one thread each: the same bits on every machine.
    """
    session.install(".[test]")
    one = {"OMP_NUM_THREADS": "1"}
    session.run("pytest", "-n", "2", "--dist", "loadfile", *session.posargs, env=one)


@nox.session
def lint(session: nox.Session) -> None:
    """Formatting and lint."""
    session.install("ruff>=0.14")
    session.run("ruff", "format", "--check", ".")
    session.run("ruff", "check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """Types, strictly, on an installed copy."""
    session.install(".", "mypy>=1.18")
    with session.chdir(session.create_tmp()):
        session.run("mypy", "--strict", "--config-file", f"{session.invoked_from}/pyproject.toml", "-p", "alphaflow")


@nox.session
def bench(session: nox.Session) -> None:
    """Benchmarks: tables here and in docs/speed.md, JSON in benchmarks/results/; `-- gpu` for those of a GPU."""
    session.install(".[diffusers]")
    names = (
        ["gpu"]
        if session.posargs == ["gpu"]
        else ["step", "attention", "sample", "overhead", "loader", "failures", "evaluate", "video"]
    )
    for name in names:
        session.run("python", f"benchmarks/{name}.py")
    session.run("python", "benchmarks/tables.py")
