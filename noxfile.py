"""Sessions of the development loop: `nox -l` lists them, `nox` runs the default ones."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import nox

nox.needs_version = ">=2024.10.9"
nox.options.sessions = ["lint", "types", "tests"]
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.reuse_existing_virtualenvs = True

PROJECT = nox.project.load_toml("pyproject.toml")
TOY = Path("tests/thirdparty/sslkit-toy")


def _group(name: str) -> list[str]:
    return list(nox.project.dependency_groups(PROJECT, name))


def _pytest(session: nox.Session) -> None:
    """Run pytest in four processes of one thread each: tests often wait for processes that they start."""
    spread = [] if os.environ.get("SSLKIT_TESTS_SERIAL") else ["-n", "4", "--dist", "worksteal"]
    env = {"PYTHONDONTWRITEBYTECODE": ""}  # dozens of processes start, and each would compile torch's Python again
    session.run("pytest", *spread, *session.posargs, env=env | ({"OMP_NUM_THREADS": "1"} if spread else {}))


@nox.session
def tests(session: nox.Session) -> None:
    """Run the test suite against an installed sslkit."""
    session.install(".", *_group("test"))
    _pytest(session)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and formatting with ruff."""
    session.install(*_group("lint"))
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """Check types with mypy, strictly."""
    session.install(".", *_group("types"))
    session.run("mypy")


@nox.session(default=False)
def thirdparty(session: nox.Session) -> None:
    """Install our wheel and a third-party one side by side; list, check and train; compare weights bit for bit."""
    wheels = _build(session, Path.cwd(), "ours") + _build(session, TOY, "toy")
    session.install(*(str(wheel) for wheel in wheels), "pytest>=8.3")
    session.run("python", "tests/thirdparty/campaign.py", *session.posargs)
    session.run("pytest", "--import-mode=importlib", "-c", str(TOY / "pyproject.toml"), str(TOY / "tests"))


@nox.session(default=False)
def minimums(session: nox.Session) -> None:
    """Run the tests with the lowest supported versions (needs uv, and Python 3.11 for torch 2.6)."""
    session.install("uv")
    lowest = ["pyproject.toml", "--group", "test", "--resolution", "lowest-direct", "--python-version", "3.11"]
    pins = Path(session.create_tmp()) / "minimums.txt"
    session.run("uv", "pip", "compile", "--quiet", "--no-header", "--no-annotate", *lowest, "-o", str(pins))
    session.run("uv", "pip", "install", "--quiet", "--python", str(Path(session.bin) / "python"), "-r", str(pins))
    session.install(".", "--no-deps")
    _pytest(session)


@nox.session(default=False)
def bench(session: nox.Session) -> None:
    """Measure speed beside lightly, torchvision and POT: --size small, medium (minutes) or full, --photos FOLDER."""
    session.install(".", *_group("test"))
    session.run("python", "-m", "speed", *session.posargs, env={"PYTHONPATH": "benchmarks"})


@nox.session(default=False)
def faults(session: nox.Session) -> None:
    """Inject faults by the thousand: hostile recipes, checkpoints and images, kills, a long run (15 minutes)."""
    session.install(".", *_group("test"))
    session.run("python", "-m", "faults", *session.posargs, env={"PYTHONPATH": "benchmarks", "OMP_NUM_THREADS": "1"})


@nox.session(default=False)
def build(session: nox.Session) -> None:
    """Build an sdist and a wheel from it, install the wheel in a clean environment, list the plugins."""
    [wheel] = _build(session, Path.cwd(), "ours")
    session.install(str(wheel))
    with session.chdir(session.create_tmp()):
        session.run("sslkit", "plugins")
        session.run("sslkit", "recipes")


@nox.session(default=False)
def docs(session: nox.Session) -> None:
    """Execute every code block of the documentation; check its commands, links and line lengths."""
    session.install(".", *_group("test"))
    session.run("pytest", "tests/docs", *session.posargs)


def _build(session: nox.Session, project: Path, name: str) -> list[Path]:
    """Build an sdist, and a wheel from it."""
    session.install("build")
    out = Path(session.create_tmp()).resolve() / f"dist-{name}"
    shutil.rmtree(out, ignore_errors=True)
    session.run("python", "-m", "build", "--outdir", str(out), str(project), silent=True)
    return sorted(out.glob("*.whl"))
