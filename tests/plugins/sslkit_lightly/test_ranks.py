"""The same global batch on one rank and on two: equal losses, gradients and state, for every objective."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from direct import DIRECT

from sslkit_lightly import sslkit_objectives

SCRIPT = Path(__file__).parent / "two_ranks.py"


@pytest.fixture(scope="module")
def differences():
    """Run all objectives in one pair of processes over gloo."""
    done = subprocess.run([sys.executable, SCRIPT], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_every_objective_was_compared(differences):
    assert {name.partition("/")[0] for name in differences} == {cls.name for cls in sslkit_objectives()}
    assert len(differences) == len(DIRECT)
    assert min(item["size"] for item in differences.values()) > 1e-3


@pytest.mark.parametrize("of", ["loss", "gradient", "state"])
def test_two_ranks_equal_one_rank(of, differences):
    """In float64, over two steps; only the order in which gradients are added differs."""
    assert not {name: item[of] for name, item in differences.items() if not item[of] < 1e-9}
