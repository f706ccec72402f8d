"""Seeds: the same on every machine, and different for different names."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import torch

from sslkit.seeds import generator, seed_of, torch_seeded


def test_seeds_are_those_that_runs_were_made_with() -> None:
    """Golden numbers: a change here changes every run that anybody has done."""
    assert seed_of(0, "epoch", 1) == 2031624461621881088
    assert generator(3, 1, 7, "boxes").integers(2**32, size=2).tolist() == [4241164088, 1697811614]


def test_a_process_of_its_own_agrees() -> None:
    """Python's own hash of a string differs from process to process; ours must not."""
    code = "from sslkit.seeds import seed_of; print(seed_of(1, 'scene', 0, 'online'))"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert int(output) == seed_of(1, "scene", 0, "online")


def test_numbers_and_words_are_distinguished() -> None:
    seeds = {seed_of(1, 23), seed_of(12, 3), seed_of(123), seed_of("123"), seed_of("1", "23"), seed_of(1, "23")}
    assert len(seeds) == 6
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_torch_is_put_back_as_it_was() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    with torch_seeded(1, "x"):
        inside = torch.rand(2)
    assert torch.equal(torch.rand(3), expected)
    with torch_seeded(1, "x"):
        assert torch.equal(torch.rand(2), inside)


def test_neighbouring_streams_are_unrelated() -> None:
    drawn = np.stack([generator(0, 0, index, "boxes").random(500) for index in range(40)])
    worst = np.abs(np.corrcoef(drawn) - np.eye(40)).max()
    assert worst < 0.2  # 5 standard errors of 1 / sqrt(500) over 780 pairs
