"""Sharded over two processes, a run trains what one process does, and its checkpoints are those of one."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from sslkit.__main__ import main
from sslkit.errors import UsageError
from sslkit.networks import sharding
from sslkit.storage import checkpoint, weights
from sslkit.training import hardware

RECIPE = """
steps = 4
batch_size = 8
precision = "32-true"
[source]
use = "sample-scenes"
images = 16
side = 96
[sampler]
use = "two-views"
[backbone]
use = "timm"
model = "test_vit"
image_size = 32
[heads.main]
projector = { use = "mlp", hidden = 16, out = 8, norm = "layer" }
predictor = { use = "mlp", hidden = 16, norm = "layer" }
[objectives.scene-scene]
[objectives.moco]
queue = 16
[[augment.scene]]
size = 32
[optimizer]
use = "adamw"
base_lr = 0.01
clip_grad_norm = 0.5
[probes.knn]
k = 1
size = 32
"""
ON_CPU = ["--accelerator", "cpu", "--workers", "0"]
on_cpu = pytest.mark.skipif(not sharding.ON_CPU, reason="this torch does not shard on the CPU")
SHARDED = ["--devices", "2", "--strategy", "fsdp"]


def sslkit(here: Path, arm: str, *more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sslkit", "run", "wide.toml", "--arm", arm, *ON_CPU]
    return subprocess.run([*command, *more], cwd=here, capture_output=True, text=True, check=False)


def newest(here: Path, arm: str) -> dict[str, Any]:
    path = checkpoint.latest(here / "runs" / "wide" / f"{arm}-s0" / "checkpoints")
    assert path
    return checkpoint.load(path)


def metrics(here: Path, arm: str) -> list[dict[str, Any]]:
    lines = (here / "runs" / "wide" / f"{arm}-s0" / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def runs(once: Callable[[str, Callable[[Path], None]], Path]) -> Path:
    """One process and two with shards, and each gone on with from its second step by the other, or by itself."""
    return once("fsdp", train)


def train(here: Path) -> None:
    (here / "wide.toml").write_text(RECIPE)

    def sharded(arm: str, *more: str) -> None:
        done = sslkit(here, arm, "--save-every", "2", *SHARDED, *more)
        assert done.returncode == 0, done.stderr
        [[own, total]] = re.findall(r"sharded: ([\d,]+) of ([\d,]+) parameters on each rank", done.stderr)
        assert int(own.replace(",", "")) < 0.51 * int(total.replace(",", ""))
        assert ("resumed from" in done.stderr) == (arm in ("one-two", "two-two"))

    def in_this_process(arm: str) -> None:
        with contextlib.chdir(here):
            assert main(["run", "wide.toml", "--arm", arm, *ON_CPU, "--save-every", "2"]) == 0

    in_this_process("one")
    sharded("two")
    sharded("probed", "--probe-every", "2")
    for arm, begun, train in (
        ("two-one", "two", in_this_process),
        ("one-two", "one", sharded),
        ("two-two", "two", sharded),
    ):
        folder = shutil.copytree(here / "runs" / "wide" / f"{begun}-s0", here / "runs" / "wide" / f"{arm}-s0")
        (folder / "status.json").unlink()
        (folder / "checkpoints" / "step-00000004.pt").unlink()
        train(arm)
        assert [row["step"] for row in metrics(here, arm)] == [1, 2, 3, 4]


@on_cpu
@pytest.mark.parametrize("arm", ["two", "two-one", "one-two"])
@pytest.mark.slow
def test_shards_train_what_one_process_does_and_go_on_over_any_number(runs: Path, arm: str) -> None:
    """Up to the order in which gradients are added, which Adam's first steps make much of where they are near 0."""
    one, other = newest(runs, "one"), newest(runs, arm)
    assert other["step"] == 4
    assert list(other["model"]) == list(one["model"])
    moved = 0.0
    for name, value in one["model"].items():
        torch.testing.assert_close(other["model"][name], value, atol=2e-5, rtol=0, msg=name)
    assert other["optimizer"]["param_groups"] == one["optimizer"]["param_groups"]
    for number, state in one["optimizer"]["state"].items():
        for name, value in state.items():
            torch.testing.assert_close(other["optimizer"]["state"][number][name], value, atol=1e-5, rtol=1e-3)
            moved = max(moved, float(value.abs().max()))
    assert moved > 1e-2
    assert not any(sharding.is_sharded_tensor(value) for value in other["model"].values())


@on_cpu
def test_stopped_and_gone_on_it_ends_with_the_same_bits(runs: Path) -> None:
    whole, resumed = newest(runs, "two"), newest(runs, "two-two")
    for name, value in whole["model"].items():
        assert torch.equal(resumed["model"][name], value), name


@on_cpu
def test_online_probes_change_no_bit(runs: Path) -> None:
    plain, probed = newest(runs, "two"), newest(runs, "probed")
    for name, value in plain["model"].items():
        assert torch.equal(probed["model"][name], value), name
    rows = metrics(runs, "probed")
    assert [row["step"] for row in rows if "probe.knn.top1" in row] == [2, 4]
    scores = json.loads((runs / "runs" / "wide" / "probed-s0" / "probes.json").read_text())
    assert rows[-1]["probe.knn.top1"] == scores["trained"]["knn"]["top1"]


@on_cpu
def test_metrics_and_figures_of_probes_are_those_of_one_process(runs: Path) -> None:
    folders = [runs / "runs" / "wide" / f"{arm}-s0" for arm in ("one", "two")]
    one, two = (metrics(runs, arm) for arm in ("one", "two"))
    for name in ("loss", "grad_norm", "moco.loss", "target_similarity"):
        assert [row[name] for row in two] == pytest.approx([row[name] for row in one], rel=2e-3), name
    assert not any(name.startswith("conflict") for name in two[0])
    probes = [json.loads((folder / "probes.json").read_text()) for folder in folders]
    assert probes[1].keys() == probes[0].keys() == {"raw pixels", "random weights", "trained"}
    assert probes[1]["random weights"] == probes[0]["random weights"]
    tensors = [weights.load(folder / "backbone.safetensors")[0] for folder in folders]
    for name, value in tensors[0].items():
        torch.testing.assert_close(tensors[1][name], value, atol=2e-5, rtol=0, msg=name)


@on_cpu
@pytest.mark.slow
def test_a_step_that_is_not_finite_leaves_a_record_that_one_process_can_read(runs: Path) -> None:
    done = sslkit(runs, "high", *SHARDED, "--set", "optimizer.base_lr=1e30", "--set", "optimizer.warmup_epochs=0")
    assert done.returncode == 6, done.stderr
    [record] = (runs / "runs" / "wide" / "high-s0").glob("diverged-step-*")
    told = json.loads((record / "record.json").read_text())
    assert told["without_finite_gradient"]
    assert checkpoint.load(record / "before.pt")["model"].keys() == newest(runs, "one")["model"].keys()
    again = [sys.executable, "-m", "sslkit", "verify", "replay", str(record), "--accelerator", "cpu", *SHARDED]
    replayed = subprocess.run(again, cwd=runs, capture_output=True, text=True, check=False)
    assert "bit for bit" in replayed.stdout + replayed.stderr, replayed.stdout + replayed.stderr


def test_strategies_that_would_not_keep_whole_checkpoints_are_refused() -> None:
    with pytest.raises(
        UsageError, match=r"unknown strategy 'fsdp2': did you mean 'fsdp'\? \(known: auto, ddp, .*fsdp\)"
    ):
        hardware.check_strategy("fsdp2", "32-true", "cpu")
    with pytest.raises(UsageError, match='--strategy fsdp does not support precision = "16-mixed": write "bf16-mixed"'):
        hardware.check_strategy("fsdp", "16-mixed", "cuda")
    hardware.check_strategy("fsdp", "bf16-mixed", "cuda")


def test_a_torch_that_does_not_shard_on_the_cpu_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharding, "ON_CPU", False)
    with pytest.raises(UsageError, match=f"needs GPUs, or a newer torch: {re.escape(torch.__version__)} cannot"):
        hardware.check_strategy("fsdp", "32-true", "cpu")


def test_blocks_are_what_a_backbone_repeats() -> None:
    def block() -> nn.Module:
        return nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))

    class Block(nn.Sequential):
        pass

    net = nn.ModuleDict(
        {
            "stem": nn.Sequential(nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2)),
            "layers": nn.Sequential(Block(block(), nn.GELU()), Block(block(), nn.GELU())),
            "acts": nn.ModuleList([nn.GELU(), nn.GELU()]),
            "deep": nn.ModuleDict({"stage": nn.ModuleList([block(), block(), block()])}),
        }
    )
    found = list(sharding.blocks(net))
    assert found == [*net["layers"], *net["deep"]["stage"]]


def test_what_is_not_cut_is_left_as_it_is() -> None:
    module = nn.Linear(2, 2)
    state = module.state_dict()
    assert sharding.shard_model_state(state, module) is state
    assert sharding.gather_to_cpu({"a": [state["weight"], (1, "x")]})["a"][0] is state["weight"]
    assert sharding.local(state["weight"]) is state["weight"]
    assert not sharding.is_sharded(module)
