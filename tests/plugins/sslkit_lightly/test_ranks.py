"""The same global batch on one process and on two: the same losses, gradients and state, for every objective."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from sslkit_lightly import sslkit_objectives

SCRIPT = Path(__file__).parent / "two_ranks.py"


@pytest.fixture(scope="module")
def differences():
    """Run all objectives in one pair of processes over gloo."""
    done = subprocess.run([sys.executable, SCRIPT], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_every_objective_was_compared(differences):
    assert {name.partition("/")[0] for name in differences} == {cls.name for cls in sslkit_objectives()}
    assert len(differences) == 39


def test_two_ranks_are_one_rank(differences):
    """In float64, over three steps; what differs is the order in which gradients are added."""
    far = {name: found for name, found in differences.items() if not max(found.values()) < 1e-9}
    assert not far


def test_it_would_be_seen(differences):
    """Not vacuous: losses and gradients are of ordinary size."""
    assert all(set(found) == {"loss", "gradient", "state"} for found in differences.values())
