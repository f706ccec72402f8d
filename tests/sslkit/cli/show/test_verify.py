"""What `sslkit verify` prints for people."""

from __future__ import annotations

import pytest

from sslkit.cli.show.verify import print_replay, print_resume, print_world_sizes
from sslkit.verify.attempts import Kill
from sslkit.verify.replay import ReplayResult
from sslkit.verify.resume import ResumeComparison
from sslkit.verify.world_size import FirstDifference, WorldSizeComparison


@pytest.mark.parametrize(
    ("killed", "verdict"),
    [
        ({"online": "aa", "target": "bb"}, "bit for bit the same"),
        ({"online": "aa", "target": "cc"}, "differs in target"),
        ({"online": "aa"}, "differs in target"),
    ],
)
def test_a_resumed_run_beside_a_whole_one(capsys, killed, verdict):
    kills = [Kill(3, saving=False, checkpoint=2), Kill(5, saving=True, checkpoint=4)]
    print_resume(ResumeComparison(8, {"online": "aa", "target": "bb"}, killed, kills))
    last = capsys.readouterr().out.rstrip().rpartition("\n")[2]
    assert last == f"2 kills, 1 of them during a save, in 8 steps; 2 led to a resume from a checkpoint: {verdict}"


def test_numbers_of_ranks_with_and_without_whole_batch_norm(capsys):
    first = FirstDifference(1, "forward", "online.backbone.bn1", 0.25, "batch norm statistics")
    whole = WorldSizeComparison((1, 3), 2, {"images": 0.0, "forward": 1e-12}, None)
    print_world_sizes([WorldSizeComparison((1, 3), 2, {"images": 0.0, "forward": 0.25}, first, whole)])
    output = capsys.readouterr().out
    assert "2.5e-01 differs" in output
    assert "batch norm over all ranks" in output
    assert output.splitlines()[-2:] == [
        "1 rank and 3 ranks differ, first in step 1 at online.backbone.bn1 by 2.5e-01: batch norm statistics",
        "1 rank and 3 ranks, with batch norm over all ranks: the same up to rounding, 2 steps",
    ]


def test_a_replayed_step_of_other_images(capsys):
    print_replay(ReplayResult(7, {"loss": 1.0, "grad_norm": 2.0}, {"loss": 1.0, "grad_norm": 3.0}, False, None))
    output = capsys.readouterr().out
    assert "3 differs" in output
    assert output.splitlines()[-3:] == [
        "the output of every module was finite",
        "the images differ from the record: the source has changed",
        "1 of 2 values differ from the record",
    ]
