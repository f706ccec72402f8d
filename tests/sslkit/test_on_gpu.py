"""What only a GPU can show. Where there is none, these are skipped."""

import json
from pathlib import Path

import pytest
import torch

from sslkit.data.augment import on_tensors, parameters
from sslkit.errors import UsageError
from sslkit.optim import make_optimizer
from sslkit.planning import recipe_file
from sslkit.planning.planner import make_plan
from sslkit.planning.recipe import View
from sslkit.storage.run_folder import RunFolder
from sslkit.training import trainer
from sslkit.training.options import RunOptions
from sslkit_univip import pot_solvers

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
ROOT = Path(__file__).parent.parent.parent
SMALLER = (
    "source.use=sample-scenes", "source.images=24", "proposals.use=random-boxes", "backbone.use=resnet18",
    "epochs=4", "batch_size=8", "augment.scene.0.size=96", "augment.scene.1.size=96", "sampler.min_overlap=24",
    "optimizer.warmup_epochs=1", "probes={}",
)  # fmt: skip


@pytest.fixture
def on_gpu(installed, tmp_path):
    """Return a function that trains UniVIP for twelve steps, and returns what came of it."""
    text = (ROOT / "recipes" / "univip_coco.toml").read_text()
    lines = [
        line
        for line in text.splitlines()
        if not line.startswith(("root", "split", "working", "mode", "min_s", "max_", "top"))
    ]

    def on_gpu(precision, folder, *sets, **options):
        parsed = recipe_file.parse(
            "\n".join(lines), "small", "small.toml", (*SMALLER, f'precision="{precision}"', *sets)
        )
        recipe, problems = recipe_file.check_structure(parsed)
        assert recipe, problems
        plan, problems = make_plan(recipe, installed)
        assert plan, problems
        options = RunOptions(**{"accelerator": "cuda", "workers": 0, "monitor_every": 5, **options})
        return trainer.train(plan, parsed, installed, RunFolder(tmp_path / folder), options)

    return on_gpu


def weights(result):
    newest = max((result.folder / "checkpoints").glob("step-*.pt"))
    return torch.load(newest, weights_only=False, map_location="cpu")["model"]


def same(one, other):
    return all(torch.equal(tensor, weights(other)[name]) for name, tensor in weights(one).items())


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_run_gives_the_same_bits_again_with_loaders_and_after_a_stop(on_gpu, precision):
    plain = on_gpu(precision, "plain")
    assert plain.step == 12
    assert same(plain, on_gpu(precision, "loaders", workers=2))
    assert on_gpu(precision, "stopped", stop_after=5).step == 5
    assert same(plain, on_gpu(precision, "stopped"))


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_graph_gives_the_bits_of_plain_steps(on_gpu, precision):
    plain = on_gpu(precision, "plain")
    replayed = on_gpu(precision, "replayed", cuda_graph=True, workers=2)
    assert replayed.terms["loss"] == plain.terms["loss"]
    assert same(plain, replayed)


def test_a_step_that_waits_for_the_gpu_is_not_recorded(on_gpu):
    with pytest.raises(UsageError, match="--cuda-graph: this recipe's step cannot be recorded"):
        on_gpu("32-true", "waits", "objectives.instance-instance.tolerance=0.01", cuda_graph=True)


@pytest.mark.parametrize("solver", ["exact", "unbalanced", "partial"])
def test_pots_solvers_are_not_recorded(on_gpu, solver):
    with pytest.raises(UsageError, match='cannot be recorded: solver = "sinkhorn" is the only one'):
        on_gpu("32-true", "waits", f"objectives.instance-instance.solver={solver}", cuda_graph=True)


@pytest.mark.parametrize("entropic", [True, False])
@pytest.mark.parametrize("name", ["exact", "unbalanced", "partial"])
def test_plans_by_pot_are_those_of_the_cpu(name, entropic):
    generator = torch.Generator().manual_seed(0)
    problem = [2 * torch.rand(n, generator=generator) for n in ((600, 4, 4), (600, 4), (600, 4))]
    problem[1][::3, 0] = problem[2][5] = 0.0
    epsilon = 0.1 if entropic else None
    options = {"exact": {}, "unbalanced": {"epsilon": epsilon}, "partial": {"mass": 0.6, "epsilon": epsilon}}[name]
    solve = getattr(pot_solvers, name)
    with torch.autocast("cuda", dtype=torch.bfloat16):
        plan = solve(*(x.cuda() for x in problem), **options)
    assert plan.device.type == "cuda"
    torch.testing.assert_close(plan.cpu(), solve(*problem, **options), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("graph", [False, True])
def test_online_probes_change_no_bit(on_gpu, graph):
    probes = "probes={knn={k=1, size=32, test_share=0.5}, linear={size=32, epochs=3}}"
    off, on = (
        on_gpu("bf16-mixed", f"every-{every}", probes, probe_every=every, cuda_graph=graph, workers=2)
        for every in (None, 3)
    )
    rows = [json.loads(line) for line in (on.folder / "metrics.jsonl").read_text().splitlines()]
    curve = {row["step"]: row["probe.knn.top1"] for row in rows if "probe.knn.top1" in row}
    assert list(curve) == [3, 6, 9, 12]
    assert curve[12] == on.probes["trained"]["knn"]["top1"]
    assert off.terms["loss"] == on.terms["loss"]
    assert same(off, on)


def test_both_devices_learn_the_same(on_gpu):
    there, here = on_gpu("32-true", "there", stop_after=2), on_gpu("32-true", "here", stop_after=2, accelerator="cpu")
    assert there.terms["loss"] == pytest.approx(here.terms["loss"], abs=0.05)  # augmented elsewhere


def test_views_are_those_of_the_cpu_but_for_rounding():
    view = View(size=32)
    images = torch.randint(256, (24, 3, 32, 32), dtype=torch.uint8)
    draws = torch.tensor([parameters.draw(view, 0, number, "scene", 0, "online") for number in range(24)])
    here, there = on_tensors.apply(images, draws, view), on_tensors.apply(images.cuda(), draws, view)
    assert (there.cpu() - here).abs().max() < 1e-3
    alone = on_tensors.apply(images[5:6].cuda(), draws[5:6], view)
    assert torch.equal(alone[0], there[5])


@pytest.mark.parametrize("use", ["sgd", "adamw", "lars"])
def test_optimizers_move_weights_as_on_the_cpu(use):
    moved = []
    for device in ("cpu", "cuda"):
        torch.manual_seed(0)
        module = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.BatchNorm1d(16)).to(device)
        optimizer = make_optimizer(use, module, 0.1, {})
        generator = torch.Generator().manual_seed(1)
        for _ in range(3):
            for parameter in module.parameters():
                parameter.grad = torch.randn(parameter.shape, generator=generator).to(device)
            optimizer.step()
        moved.append([parameter.detach().cpu() for parameter in module.parameters()])
    for a, b in zip(*moved, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
