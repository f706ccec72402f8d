"""The images of a batch."""

from __future__ import annotations

import pytest

from sslkit.data.epochs import Epochs


def flat(batches) -> list[int]:
    return [item.image for batch in batches for item in batch]


def test_every_epoch_is_a_permutation_of_its_own() -> None:
    epochs = Epochs(images=24, batch_size=8, accumulate=1, seed=1)
    each = [flat(epochs.micro_batches(3 * epoch, 3 * epoch + 3)) for epoch in range(3)]
    assert [sorted(one) for one in each] == [list(range(24))] * 3
    assert len({tuple(one) for one in each}) == 3
    assert flat(epochs.micro_batches(0, 9)) == [*each[0], *each[1], *each[2]]


@pytest.mark.parametrize(("pad", "steps", "seen"), [(True, 4, 32), (False, 3, 24)])
def test_the_last_batch_is_filled_from_the_epochs_beginning_or_left_out(pad, steps, seen) -> None:
    epochs = Epochs(images=26, batch_size=8, accumulate=1, seed=0, pad=pad)
    assert epochs.steps == steps
    order = flat(epochs.micro_batches(0, steps))
    assert len(order) == seen
    assert order[26:] == order[: seen - 26] if pad else len(set(order)) == 24


@pytest.mark.parametrize(("accumulate", "world"), [(1, 1), (2, 1), (1, 4), (2, 2), (4, 2)])
def test_micro_batches_and_ranks_split_the_same_batch(accumulate, world) -> None:
    """However a step is divided, it has the same images in the same order."""
    whole = Epochs(images=40, batch_size=16, accumulate=1, seed=5)
    parts = [Epochs(40, 16, accumulate, 5, rank=rank, world=world) for rank in range(world)]
    for step in range(5):
        streams = [list(part.micro_batches(step, step + 1)) for part in parts]
        joined = [item for part in range(accumulate) for stream in streams for item in stream[part]]
        assert joined == next(whole.micro_batches(step, step + 1))


def test_any_step_can_be_requested_first() -> None:
    epochs = Epochs(images=10, batch_size=4, accumulate=2, seed=2)
    assert list(epochs.micro_batches(0, 9))[14:] == list(epochs.micro_batches(7, 9))


def test_skipped_batches_are_left_out() -> None:
    whole = list(Epochs(13, 4, 1, 7).micro_batches(0, 9))
    epochs = Epochs(13, 4, 1, 7, skipped=(0, 1, 5))
    assert [epochs.batch_index(step) for step in range(6)] == [2, 3, 4, 6, 7, 8]
    assert list(epochs.micro_batches(0, 6)) == [whole[place] for place in (2, 3, 4, 6, 7, 8)]
