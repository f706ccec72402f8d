"""When a pass is recorded, replayed, and recorded anew. That replays give the same bits is tested in test_on_gpu.py."""

import pytest
import torch
from torch import nn

from sslkit.errors import UsageError
from sslkit.networks import cuda_graph
from sslkit.networks.cuda_graph import PATIENCE, QUIET, StepGraph


class Part(nn.Module):
    """An objective's stand-in, with state of the kinds that there are."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))
        self.register_buffer("centre", torch.zeros(2))
        self.temperature, self.places, self.queue = 0.1, [0, 1], torch.zeros(3)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone, self.projector = Part(), Part()


class Step(nn.Module):
    def __init__(self):
        super().__init__()
        self.online, self.target, self.objective = Net(), None, Part()


@pytest.fixture
def made(monkeypatch):
    """Return a graph, its network and what was done, where recordings are made by a list."""
    network, done = Step(), []

    class Fake:
        def replay(self):
            done.append("replay")

    def record(self, batch):
        done.append("record")
        self.graph, self.plain, self.outcome = Fake(), 0, "outcome"

    monkeypatch.setattr(StepGraph, "_record", record)
    return StepGraph(lambda batch: done.append("plain") or "outcome", network), network, done


def passes(graph, count, size=4):
    for _ in range(count):
        assert graph({"pixels": torch.zeros(size, 3), "bad": []}) == "outcome"


def test_a_pass_is_recorded_behind_three_alike_and_then_replayed(made):
    graph, network, done = made
    passes(graph, 6)
    assert done == ["plain"] * QUIET + ["record", "replay", "replay", "replay"]
    network.objective.centre += 1  # numbers in tensors are free to change
    network.objective.weight.data.mul_(2)
    passes(graph, 2)
    assert done[-2:] == ["replay", "replay"]


@pytest.mark.parametrize(
    "change",
    [
        lambda part: setattr(part, "temperature", 0.2),
        lambda part: part.places.append(2),
        lambda part: setattr(part, "queue", torch.zeros(3)),
        lambda part: setattr(part, "centre", torch.zeros(2)),
        lambda part: setattr(part, "more", True),
        lambda part: delattr(part, "temperature"),
        lambda part: part.weight.requires_grad_(False),
        lambda part: part.train(False),
    ],
    ids=["number", "list", "tensor", "buffer", "new", "gone", "frozen", "mode"],
)
@pytest.mark.parametrize("where", ["objective", "online.projector"])
def test_what_python_decides_by_is_recorded_anew(made, change, where):
    graph, network, done = made
    passes(graph, 4)
    change(network.get_submodule(where))
    done.clear()
    passes(graph, 5)
    assert done == ["plain"] * QUIET + ["record", "replay", "replay"]


def test_batches_of_another_shape_are_too(made):
    graph, _, done = made
    passes(graph, 4)
    done.clear()
    passes(graph, 1, size=2)
    assert done == ["plain"]


def test_what_backbones_hold_counts_before_the_recording(made):
    graph, network, done = made
    passes(graph, 2)
    network.online.backbone.temperature = 0.3
    passes(graph, QUIET + 1)
    assert done == ["plain"] * (2 + QUIET) + ["record", "replay"]


def test_what_never_stays_is_named(made):
    graph, network, done = made

    def run():
        for number in range(100):
            network.objective.temperature = float(number)
            passes(graph, 1)

    with pytest.raises(UsageError, match="--cuda-graph: objective.temperature changes again and again"):
        run()
    assert done == ["plain"] * PATIENCE


def test_equal_is_equal():
    x = torch.zeros(2)
    assert cuda_graph._same({"a": 1}, {"a": 1}) is False  # what may not be compared is not
    assert cuda_graph._same([1, (x, "a")], [1, (x, "a")])
    assert not cuda_graph._same([1, (x, "a")], [1, (x.clone(), "a")])
    assert not cuda_graph._same(1, True)


def test_what_it_does_not_take_is_said_at_once(run):
    with pytest.raises(UsageError, match="--cuda-graph takes a GPU, and this run is on the cpu; it takes one pass a"):
        run("accumulate=2", cuda_graph=True)
