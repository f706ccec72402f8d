import pytest

from sslkit.errors import UsageError
from sslkit_proposals.shares import parse_share
from sslkit_proposals.store import Share


def array(task, first, step, count):
    names = ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_MIN", "SLURM_ARRAY_TASK_STEP", "SLURM_ARRAY_TASK_COUNT")
    return dict(zip(names, map(str, (task, first, step, count)), strict=True))


@pytest.mark.parametrize(("parts", "count"), [(0, 3), (1, 3), (7, 3), (925, 16), (5, 1)])
def test_shares_take_every_shard_once(parts, count):
    parts_of_shares = [part for index in range(count) for part in Share(index, count).of(range(parts))]
    assert sorted(parts_of_shares) == list(range(parts))
    sizes = [len(Share(index, count).of(range(parts))) for index in range(count)]
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize(
    ("shard", "environment", "share"),
    [
        ("0/1", {}, Share(0, 1)),
        ("2/16", array(9, 0, 1, 10), Share(2, 16)),
        ("slurm", array(0, 0, 1, 16), Share(0, 16)),
        ("slurm", array(16, 1, 1, 16), Share(15, 16)),
        ("slurm", array(14, 2, 4, 5), Share(3, 5)),
    ],
)
def test_a_share_is_parsed_or_read_from_the_array(shard, environment, share):
    assert parse_share(shard, environment) == share


@pytest.mark.parametrize(
    ("shard", "environment", "words"),
    [
        ("3", {}, "write I/N, for example 0/16"),
        ("-1/3", {}, "write I/N"),
        ("1/0", {}, "shares count from 0"),
        ("5/3", {}, "the last of 3 is 2/3$"),
        ("16/16", {}, "the last of 16 is 15/16; for a SLURM array that begins at 1, write --shard slurm"),
        ("slurm", {}, r"not a task of a SLURM array \(SLURM_ARRAY_TASK_ID=unset"),
        ("slurm", array(7, 1, 1, 3), "task 7 is not one of 3 evenly spaced tasks from 1 on"),  # --array=1,2,7
        ("slurm", array(3, 0, 2, 4), "task 3 is not one of 4"),
    ],
)
def test_invalid_shares_are_reported(shard, environment, words):
    with pytest.raises(UsageError, match=words):
        parse_share(shard, environment)
