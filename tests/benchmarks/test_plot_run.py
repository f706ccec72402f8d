"""The picture of a run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SCRIPT = Path(__file__).parent.parent.parent / "benchmarks" / "plot_run.py"


def plot(*arguments: Path | str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("names", [["loss", "grad_norm"], ["scene-scene.loss", "feature_std", "lr", "target_momentum"]])
def test_what_a_run_has_is_drawn(tmp_path: Path, names: list[str]) -> None:
    """A run without instances has no plan; its panels stay empty."""
    rows = [{"step": step, **dict.fromkeys(names, 1 / step)} for step in range(1, 30)]
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)))
    done = plot(tmp_path, tmp_path / "out.png", "a run")
    assert done.returncode == 0, done.stderr
    with Image.open(tmp_path / "out.png") as drawn:
        colours = np.asarray(drawn.convert("RGB")).reshape(-1, 3)
    blue = (colours == (31, 119, 180)).all(1).sum()  # the first line of each panel
    assert blue > 100


def test_it_says_how_it_is_used() -> None:
    done = plot()
    assert done.returncode == 1
    assert "RUN_FOLDER OUT.png" in done.stderr
