"""Make a checkout importable without installing it: its packages, its entry points, and a folder of unpacked wheels.

Plugins are found by entry points, which Python reads from the metadata of installed distributions. A checkout has
none. The metadata is therefore written from pyproject.toml into a folder of its own, which comes first on the path: it
always fits the checkout, whatever lies in `site`.
"""

from __future__ import annotations

import os
import re
import subprocess
import tomllib
from collections.abc import Mapping
from importlib.metadata import distributions
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
"""The checkout."""


def site_folder(chosen: Path | None = None, root: Path = ROOT) -> Path | None:
    """Return the folder of unpacked wheels: the chosen one, else `site` in or beside the checkout, else None.

    Where sslkit is installed, so are the packages that it needs, and only a chosen folder is used.

    Raises:
        FileNotFoundError: The chosen folder does not exist.
    """
    if chosen is not None:
        if not chosen.is_dir():
            raise FileNotFoundError(f"--site {chosen}: no such folder: write the folder that wheels were unpacked to")
        return chosen.resolve()
    if any(True for _ in distributions(name="sslkit")):
        return None
    return next((folder.resolve() for folder in (root / "site", root.parent / "site") if folder.is_dir()), None)


def write_metadata(folder: Path, root: Path = ROOT) -> Path:
    """Write the metadata of the checkout, as an installed wheel has it: name, version and entry points."""
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    found = re.search(r'^__version__ = "([^"]+)"', (root / "sslkit" / "__init__.py").read_text(), re.MULTILINE)
    assert found
    version = found[1]
    info = folder / f"{project['name']}-{version}.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {version}\n")
    groups = {"console_scripts": project["scripts"], **project["entry-points"]}
    lines = [line for name, points in groups.items() for line in (f"[{name}]", *_points(points), "")]
    (info / "entry_points.txt").write_text("\n".join(lines))
    return folder


def _points(points: Mapping[str, str]) -> list[str]:
    return [f"{name} = {target}" for name, target in points.items()]


def environment(metadata: Path, site: Path | None, root: Path = ROOT) -> dict[str, str]:
    """Return the environment of every part: the checkout comes first, then wheels, then the path as it was."""
    folders = [metadata, root, root / "plugins", root / "benchmarks", *([site] if site else [])]
    before = os.environ.get("PYTHONPATH")
    path = os.pathsep.join([*(str(folder) for folder in folders), *([before] if before else [])])
    return {**os.environ, "PYTHONPATH": path, "NO_COLOR": "1"}


def commit(root: Path = ROOT) -> str:
    """Return the checkout's commit, and whether files differ from it; "unknown" where git does not tell."""
    git = ["git", "-c", f"safe.directory={root}", "-C", str(root)]
    try:
        done = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=True)
        changed = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return done.stdout.strip() + (", with changes" if changed.stdout.strip() else "")
