"""The table of `sslkit ablate --plan`."""

from __future__ import annotations

import pytest

from sslkit.cli.show.ablations import print_ablation

ROW = {
    "arm": "full", "views": {"scene": 2}, "networks": ["online", "target"], "gflops_per_image": 1.5,
    "share_of_full": 1.0, "memory": 2**31, "disk": 2**30,
}  # fmt: skip


@pytest.mark.parametrize(
    ("hours", "total"),
    [
        (2.0, "to train: 1 runs, about 2 hours one after another, 1 GiB on disk"),
        (None, "to train: 1 runs, 1 GiB on disk"),
    ],
)
def test_the_total_counts_the_runs_that_are_not_finished(capsys, hours, total):
    print_ablation([ROW | {"hours": hours, "runs": {"0": "finished", "1": "waiting"}}])
    lines = capsys.readouterr().out.splitlines()
    assert total in lines
    assert any("1 finished, 1 waiting" in line for line in lines)
