"""The next batch begun early: the same batches in the same order, and errors where they belong."""

import pytest
import torch

from sslkit.data.prefetch import Prefetcher, Reading
from sslkit.errors import DataError
from sslkit.training import trainer
from sslkit.training.step import Stepper


def ahead(feed):
    return Prefetcher(iter(feed), lambda batches: {**next(batches), "moved": True})


def test_a_batch_that_was_begun_is_the_next_one_and_none_is_lost():
    batches = ahead({"index": number} for number in range(4))
    taken = [batches.take()]
    batches.begin()
    taken += [batches.take(), batches.take()]
    batches.begin()
    taken.append(batches.take())
    batches.begin()  # there is none
    with pytest.raises(StopIteration):
        batches.take()
    assert taken == [{"index": number, "moved": True} for number in range(4)]


def test_what_goes_wrong_early_is_raised_in_its_turn():
    def feed():
        yield {"index": 0}
        raise DataError("0001.png is broken")

    batches = ahead(feed())
    batches.begin()
    assert batches.take()["index"] == 0
    batches.begin()
    with pytest.raises(DataError, match=r"0001\.png"):
        batches.take()


def test_numbers_of_the_cpu_are_there_at_once():
    reading = Reading(torch.tensor([1.0, 2.5]))
    assert reading.ready
    assert reading.numbers() == [1.0, 2.5]


@pytest.fixture
def early(monkeypatch):
    """Let steps begin their next batch on the CPU too."""
    made = Stepper.__init__

    def init(self, *args):
        made(self, *args)
        self.looks_ahead = True

    monkeypatch.setattr(Stepper, "__init__", init)


def weights(result):
    return torch.load(result.folder / "checkpoints" / "step-00000006.pt", weights_only=False)["model"]


def test_batches_that_are_begun_early_change_no_bit(run, request):
    plain = run("source.broken=[5]", "max_bad_share=1.0", folder="plain")
    request.getfixturevalue("early")
    looked = run("source.broken=[5]", "max_bad_share=1.0", folder="looked")
    assert looked.terms["loss"] == plain.terms["loss"]
    assert looked.bad == plain.bad == 1
    assert all(torch.equal(held, weights(looked)[name]) for name, held in weights(plain).items())


def test_an_image_that_ends_a_run_ends_it_behind_the_same_step(run, request, monkeypatch):
    steps = []
    report = trainer.Trainer.report
    monkeypatch.setattr(trainer.Trainer, "report", lambda self, terms: (steps.append(self.step), report(self, terms)))

    def last(folder):
        steps.clear()
        with pytest.raises(DataError, match=r"0007\.png"):
            run("source.broken=[7]", 'on_bad_image="stop"', folder=folder)
        return list(steps)

    plain = last("plain")
    request.getfixturevalue("early")
    assert last("looked") == plain != []
