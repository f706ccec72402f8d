"""Prefetching gives the same batches in the same order, and raises errors at the same step."""

import pytest
import torch

from sslkit.data.prefetch import Prefetcher, Reading
from sslkit.errors import DataError
from sslkit.training.reporter import Reporter
from sslkit.training.step import TrainStep


def prefetcher(batches):
    return Prefetcher(iter(batches), lambda batches: {**next(batches), "moved": True})


def test_a_started_batch_is_the_next_one_and_none_is_lost():
    batches = prefetcher({"index": number} for number in range(4))
    seen = [batches.take()]
    batches.start()
    seen += [batches.take(), batches.take()]
    batches.start()
    seen.append(batches.take())
    batches.start()  # there are no more
    with pytest.raises(StopIteration):
        batches.take()
    assert seen == [{"index": number, "moved": True} for number in range(4)]


def test_an_early_error_is_raised_in_its_turn():
    def failing():
        yield {"index": 0}
        raise DataError("0001.png is broken")

    batches = prefetcher(failing())
    batches.start()
    assert batches.take()["index"] == 0
    batches.start()
    with pytest.raises(DataError, match=r"0001\.png"):
        batches.take()


def test_numbers_on_the_cpu_are_ready_at_once():
    reading = Reading(torch.tensor([1.0, 2.5]))
    assert reading.ready
    assert reading.numbers() == [1.0, 2.5]


@pytest.fixture
def early(monkeypatch):
    """Let steps prefetch their next batch on the CPU too."""
    original = TrainStep.__init__

    def init(self, *args):
        original(self, *args)
        self.reads_ahead = True

    monkeypatch.setattr(TrainStep, "__init__", init)


def weights(result):
    return torch.load(result.folder / "checkpoints" / "step-00000006.pt", weights_only=False)["model"]


def test_prefetching_changes_no_bit(run, request):
    plain = run("source.broken=[5]", "max_bad_share=1.0", folder="plain")
    request.getfixturevalue("early")
    prefetched = run("source.broken=[5]", "max_bad_share=1.0", folder="prefetched")
    assert prefetched.terms["loss"] == plain.terms["loss"]
    assert prefetched.bad == plain.bad == 1
    assert all(torch.equal(value, weights(prefetched)[name]) for name, value in weights(plain).items())


def test_an_image_that_ends_a_run_ends_it_after_the_same_step(run, request, monkeypatch):
    steps = []
    report = Reporter.step
    monkeypatch.setattr(Reporter, "step", lambda self, terms: (steps.append(self.state.step), report(self, terms)))

    def steps_until_the_end(folder):
        steps.clear()
        with pytest.raises(DataError, match=r"0007\.png"):
            run("source.broken=[7]", 'on_bad_image="stop"', folder=folder)
        return list(steps)

    plain = steps_until_the_end("plain")
    request.getfixturevalue("early")
    assert steps_until_the_end("prefetched") == plain != []
