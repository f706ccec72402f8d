import json
import random
import time
import types

import numpy as np
import pytest
import torch

from sslkit import hookimpl
from sslkit.api import Probe
from sslkit.errors import DataError
from sslkit.plugins import Owner
from sslkit.probes.crops import Crops
from sslkit.training import online_probes
from sslkit.training.reporter import Reporter
from tests.states import newest, same

ONLINE = "probes.nearest={size=16, test_share=0.5, every=2}"
NEVER = "probes.nearest={size=16, test_share=0.5}"
TERM = "probe.nearest.top1"
CLOCKED = ("images_per_s", "waiting", "_ms")


class Restless(Probe):
    """Draw from every global generator and seed them anew, as a careless probe may."""

    name = "restless"
    calls = 0

    def evaluate(self, train, test):
        Restless.calls += 1
        torch.manual_seed(1)
        np.random.seed(1)
        random.seed(1)
        value = torch.rand(()).item() + np.random.rand() + random.random()
        return {"top1": 0.1 * value, "chosen_lr": 5.0}


class Broken(Probe):
    """Measure twice, and then find no features fit to measure."""

    name = "broken"
    calls = 0

    def evaluate(self, train, test):
        Broken.calls += 1
        if Broken.calls > 7:
            raise DataError("3 of 6 test features are not finite")
        return {"map": 0.5}


class Uneven(Probe):
    """Give a metric for random weights that some other features have no use for."""

    name = "uneven"
    calls = 0

    def evaluate(self, train, test):
        Uneven.calls += 1
        return {"top1": 0.5} if Uneven.calls % 3 == 1 else {"other": 0.25}


@pytest.fixture(autouse=True)
def more_probes(plugins, request):
    """Offer both probes beside the suite's own, and count their calls from 0."""
    Restless.calls = Broken.calls = Uneven.calls = 0
    module = types.ModuleType("more_probes")
    module.sslkit_probes = hookimpl(lambda: [Restless, Broken, Uneven])
    plugins.add(Owner("more", "sslkit-more", "1"), module)


@pytest.fixture
def records(plugins):
    """Every record of metrics that observers get."""
    seen = []

    def sslkit_step_finished(step, terms):
        seen.append({"step": step, **terms})

    module = types.ModuleType("recorder")
    module.sslkit_step_finished = hookimpl(sslkit_step_finished)
    plugins.add(Owner("recorder", "sslkit-recorder", "1"), module)
    return seen


def curve(records):
    return {record["step"]: record[TERM] for record in records if TERM in record}


def numbers(records):
    """Return what the run itself computed: no scores of probes, and no timings."""
    return [
        {name: value for name, value in record.items() if not name.startswith("probe.") and not name.endswith(CLOCKED)}
        for record in records
    ]


@pytest.mark.parametrize("accumulate", [1, 2])
def test_online_probes_change_no_bit_of_a_run(run, records, accumulate):
    sets = ("backbone.dropout=0.5", "epochs=4", f"accumulate={accumulate}")
    kept = {}
    for name, every in (("on", 2), ("off", None)):
        probes = [f"probes.{probe}={{size=16, test_share=0.5}}" for probe in ("nearest", "restless")]
        end = newest(run(*sets, *probes, folder=name, probe_every=every, monitor_every=3))
        kept[name] = end["model"], end["optimizer"], numbers(records)
        assert bool(curve(records)) == (name == "on")
        records.clear()
    assert same(kept["on"], kept["off"])


def test_a_probe_that_seeds_the_generators_leaves_those_of_the_run_as_they_were(run, monkeypatch):
    drawn = []
    original = Reporter.step

    def step(self, terms):
        drawn.append((torch.rand(()).item(), np.random.rand(), random.random()))
        original(self, terms)

    monkeypatch.setattr(Reporter, "step", step)
    for folder, every in (("on", 1), ("off", None)):
        run("probes.restless={size=16, test_share=0.5}", folder=folder, probe_every=every)
    assert drawn[:6] == drawn[6:]
    assert Restless.calls > 8


def test_scores_are_recorded_at_multiples_and_at_the_last_step_whatever_is_logged(run, records):
    run("epochs=3", "probes.nearest={size=16, test_share=0.5, every=4}", log_every=1000, monitor_every=0)
    assert [record["step"] for record in records] == [4, 8, 9]
    assert list(curve(records)) == [4, 8, 9]
    assert all(0 <= value <= 1 for value in curve(records).values())
    assert not [name for record in records for name in record if name.startswith("probe.") and name != TERM]


def test_the_last_score_is_that_of_the_trained_backbone(run, records):
    result = run(ONLINE)
    assert curve(records)[6] == result.probes["trained"]["nearest"]["top1"]


def test_probes_without_every_take_the_option_and_others_their_own(run, records):
    sets = (ONLINE, "probes.restless={size=16, test_share=0.5}")
    run(*sets, probe_every=3)
    steps = {
        name: [record["step"] for record in records if f"probe.{name}.top1" in record]
        for name in ("nearest", "restless")
    }
    assert steps == {"nearest": [2, 4, 6], "restless": [3, 6]}


def test_without_every_there_is_nothing_new(run, records):
    result = run(NEVER)
    assert not curve(records)
    assert not (result.folder / "online_probes.json").exists()


@pytest.mark.parametrize("stop", [1, 2, 3, 5])
def test_a_resumed_run_has_the_curve_of_an_uninterrupted_one(run, records, stop):
    run(ONLINE, "backbone.dropout=0.5", folder="whole")
    whole = curve(records)
    records.clear()
    run(ONLINE, "backbone.dropout=0.5", folder="half", stop_after=stop)
    run(ONLINE, "backbone.dropout=0.5", folder="half")
    assert [record["step"] for record in records] == [1, 2, 3, 4, 5, 6]
    assert curve(records) == whole


def test_after_a_kill_between_two_measurements_the_log_has_the_same_curve(run, small_recipe, installed, monkeypatch):
    sets = ("steps=6", "probes.knn={size=32, k=1, test_share=0.5, every=2}")
    given = {"text": small_recipe, "using": installed, "save_every": 3}

    def lines(result):
        rows = [json.loads(line) for line in (result.folder / "metrics.jsonl").read_text().splitlines()]
        return [{name: row[name] for name in row if not name.endswith(CLOCKED)} for row in rows]

    whole = run(*sets, folder="whole", **given)
    original = Reporter.step

    def step(self, terms):
        original(self, terms)
        if self.state.step == 5:
            raise KeyboardInterrupt  # dies after step 5, and its newest checkpoint is of step 3

    monkeypatch.setattr(Reporter, "step", step)
    with pytest.raises(KeyboardInterrupt):
        run(*sets, folder="killed", **given)
    monkeypatch.undo()
    rest = run(*sets, folder="killed", **given)
    assert rest.resumed_from == 3
    assert lines(rest) == lines(whole)
    assert [row["step"] for row in lines(rest) if "probe.knn.top1" in row] == [2, 4, 6]
    assert same(newest(whole)["model"], newest(rest)["model"])


def test_baselines_lie_in_the_folder_and_are_measured_once(run):
    result = run(ONLINE, stop_after=3)
    file = result.folder / "online_probes.json"
    before = json.loads(file.read_text())["probes"]["nearest"]
    assert before["metric"] == "top1"
    assert before["every"] == 2
    assert before["train_crops"] + before["test_crops"] == 12
    assert before["samples"] == before["test_crops"]
    scores = json.loads((result.folder / "probes.json").read_text())
    for kind in ("raw pixels", "random weights"):
        assert before["baselines"][kind] == scores[kind]["nearest"]["top1"], "all crops are within the limit"
    changed = json.loads(file.read_text())
    changed["probes"]["nearest"]["baselines"]["random weights"] = 0.123
    file.write_text(json.dumps(changed))
    run(ONLINE)
    assert json.loads(file.read_text()) == changed, "read, and not measured again"


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "{}", '{"probes": [1]}', '{"probes": {"nearest": 3}}', '{"probes": {"nearest": {}}}', "\0"],
)
def test_damaged_baselines_are_measured_again(run, records, capsys, content):
    result = run(ONLINE, stop_after=3)
    file = result.folder / "online_probes.json"
    before = json.loads(file.read_text())
    file.write_text(content)
    rest = run(ONLINE)
    assert json.loads(file.read_text()) == before
    assert "online_probes.json is damaged: the baselines of online probes are measured again" in "".join(
        capsys.readouterr()
    )
    assert sorted(curve(records)) == [2, 4, 6]
    assert rest.resumed_from == 3


def test_probes_switched_on_later_have_the_same_baselines_and_every_may_change(run, records):
    first = run(ONLINE, folder="first")
    run(NEVER, folder="later", stop_after=3)
    records.clear()
    later = run(NEVER, folder="later", probe_every=1)
    entries = [json.loads((one.folder / "online_probes.json").read_text())["probes"] for one in (first, later)]
    assert [one["nearest"].pop("every") for one in entries] == [2, 1]
    assert entries[0] == entries[1]
    assert list(curve(records)) == [4, 5, 6]


def test_crops_are_the_first_of_the_probe_and_their_pixels_are_bounded(run, monkeypatch, capsys):
    monkeypatch.setattr(online_probes, "ONLINE_LIMIT", 8)
    result = run(ONLINE, folder="few")
    entry = json.loads((result.folder / "online_probes.json").read_text())["probes"]["nearest"]
    assert entry["train_crops"] + entry["test_crops"] == 8
    assert "MiB" not in capsys.readouterr().err
    monkeypatch.setattr(online_probes, "MEMORY", 7 * 3 * 16**2)
    result = run(ONLINE, folder="fewer")
    entry = json.loads((result.folder / "online_probes.json").read_text())["probes"]["nearest"]
    assert entry["train_crops"] + entry["test_crops"] == 7
    assert "online probes take 7 crops of each source, as 8 would take more than 0 MiB" in capsys.readouterr().err


def test_pixels_are_read_once(run, monkeypatch):
    reads = []
    original = Crops._read
    monkeypatch.setattr(Crops, "_read", lambda self: reads.append(len(self)) or original(self))
    run(ONLINE, probe_every=1)
    assert reads == [12], "by the probes before the run; the online ones have the same crops"


def test_a_metric_that_a_baseline_lacks_stops_no_probe(run, records, capsys):
    probes = ("probes.uneven={size=16, test_share=0.5}", "probes.restless={size=16, test_share=0.5}")
    assert run(*probes, probe_every=2).state == "finished"
    assert "KeyError" not in capsys.readouterr().err
    assert [record["step"] for record in records if "probe.restless.top1" in record] == [2, 4, 6]


def test_a_failing_probe_is_reported_once_and_does_not_end_the_run(run, records, capsys):
    """Calls: the run's three baselines, three online ones, and the first measurement."""
    assert run("probes.broken={size=16, test_share=0.5}", probe_every=1).state == "finished"
    assert [record["step"] for record in records] == [1, 2, 3, 4, 5, 6]
    assert [record["step"] for record in records if "probe.broken.map" in record] == [1]
    err = capsys.readouterr().err.splitlines()
    warnings = [line for line in err if "online probe " in line]
    assert "warning: probe 'broken' failed, and the run goes on: 3 of 6 test features are not finite" in err
    why = "failed, and the run goes on: 3 of 6 test features are not finite"
    assert warnings == [f"warning: online probe 'broken' {why}"]


def test_the_option_without_probes_is_pointed_out(run, capsys):
    assert run(probe_every=2).state == "finished"
    assert "note: --probe-every: the recipe has no probes" in capsys.readouterr().err


def test_time_of_probes_is_not_that_of_training(run, records, monkeypatch):
    original = online_probes.OnlineProbes._measure
    monkeypatch.setattr(
        online_probes.OnlineProbes, "_measure", lambda self, *rest: time.sleep(0.5) or original(self, *rest)
    )
    result = run(ONLINE, probe_every=1)
    status = json.loads((result.folder / "status.json").read_text())
    assert status["seconds"] > 1.5 > status["step_seconds"]
    assert all(record["images_per_s"] > 4 / 0.5 for record in records)


class Fails(Probe):
    """Fail as a plugin may."""

    name = "fails"
    error: BaseException = ValueError("boom")
    works_until = 0
    calls = 0

    def evaluate(self, train, test):
        Fails.calls += 1
        if Fails.calls > self.works_until:
            raise self.error
        return {"top1": 0.5}


@pytest.mark.parametrize("error", [ValueError("boom"), SystemExit(0), MemoryError("all")])
@pytest.mark.parametrize("works_until", [0, 7])
def test_a_probe_that_fails_is_reported_and_the_run_and_other_probes_go_on(
    run, plugins, records, capsys, monkeypatch, error, works_until
):
    """At once, or after the run's baselines (3), the online ones (3) and one measurement."""
    module = types.ModuleType("failing")
    module.sslkit_probes = hookimpl(lambda: [Fails])
    plugins.add(Owner("failing", "sslkit-failing", "1"), module)
    for name, value in {"error": error, "works_until": works_until, "calls": 0}.items():
        monkeypatch.setattr(Fails, name, value)
    result = run(ONLINE, "probes.fails={size=16, test_share=0.5, every=2}")
    assert result.state == "finished"
    assert sorted(curve(records)) == [2, 4, 6]
    assert "nearest" in result.probes["trained"]
    assert "fails" not in result.probes["trained"]
    err = capsys.readouterr().err
    assert err.count("online probe 'fails' failed, and the run goes on: ") == 1
    assert err.count("warning: probe 'fails' failed, and the run goes on") == (1 if works_until else 2)


def test_labels_that_cannot_be_measured_end_a_run_before_its_first_step(run, monkeypatch):
    monkeypatch.setattr(Broken, "calls", 7)
    with pytest.raises(DataError, match="not finite"):
        run("probes.broken={size=16, test_share=0.5}")
