"""When a graph is recorded, replayed, and recorded again. test_on_gpu.py tests that replays give the same bits."""

import pytest
import torch
from torch import nn

from sslkit.errors import UsageError
from sslkit.networks import cuda_graph
from sslkit.networks.cuda_graph import PATIENCE, WARM_UP, StepGraph


class Part(nn.Module):
    """A stand-in for an objective, with state of every kind."""

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
def recorded(monkeypatch):
    """Return a step graph with a fake recorder, its network, and a list of what was run."""
    network, events = Step(), []

    class Fake:
        def replay(self):
            events.append("replay")

    def record(self, batch):
        events.append("record")
        self.graph, self.unrecorded, self.output = Fake(), 0, "output"

    monkeypatch.setattr(StepGraph, "_record", record)
    return StepGraph(lambda batch: events.append("plain") or "output", network), network, events


def run_batches(graph, count, size=4):
    for _ in range(count):
        assert graph({"pixels": torch.zeros(size, 3), "bad": []}) == "output"


def test_a_graph_is_recorded_after_three_equal_batches_and_then_replayed(recorded):
    graph, network, events = recorded
    run_batches(graph, 6)
    assert events == ["plain"] * WARM_UP + ["record", "replay", "replay", "replay"]
    network.objective.centre += 1  # numbers in tensors may change
    network.objective.weight.data.mul_(2)
    run_batches(graph, 2)
    assert events[-2:] == ["replay", "replay"]


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
def test_a_change_that_python_may_depend_on_is_recorded_again(recorded, change, where):
    graph, network, events = recorded
    run_batches(graph, 4)
    change(network.get_submodule(where))
    events.clear()
    run_batches(graph, 5)
    assert events == ["plain"] * WARM_UP + ["record", "replay", "replay"]


def test_batches_of_another_shape_are_recorded_again(recorded):
    graph, _, events = recorded
    run_batches(graph, 4)
    events.clear()
    run_batches(graph, 1, size=2)
    assert events == ["plain"]


def test_the_state_of_backbones_counts_before_the_recording(recorded):
    graph, network, events = recorded
    run_batches(graph, 2)
    network.online.backbone.temperature = 0.3
    run_batches(graph, WARM_UP + 1)
    assert events == ["plain"] * (2 + WARM_UP) + ["record", "replay"]


def test_state_that_keeps_changing_is_named(recorded):
    graph, network, events = recorded

    def run():
        for number in range(100):
            network.objective.temperature = float(number)
            run_batches(graph, 1)

    with pytest.raises(UsageError, match="--cuda-graph: objective.temperature keeps changing"):
        run()
    assert events == ["plain"] * PATIENCE


def test_values_are_compared_safely():
    x = torch.zeros(2)
    assert cuda_graph._same({"a": 1}, {"a": 1}) is False  # dicts are not compared
    assert cuda_graph._same([1, (x, "a")], [1, (x, "a")])
    assert not cuda_graph._same([1, (x, "a")], [1, (x.clone(), "a")])
    assert not cuda_graph._same(1, True)


def test_unsupported_runs_are_refused_at_once(run):
    with pytest.raises(
        UsageError, match="--cuda-graph needs a GPU, and this run is on the cpu; it needs one micro-batch"
    ):
        run("accumulate=2", cuda_graph=True)
