"""The step module: weights, wiring, monitors, and batches."""

import functools

import numpy as np
import pytest
import torch

from sslkit.data.epochs import Epochs, Item
from sslkit.data.views import ViewDataset, to_device
from sslkit.networks import StepModule
from sslkit.planning import recipe_file
from sslkit.planning.planner import make_plan


@pytest.fixture
def plan(plugins, recipe_text):
    def plan(*sets, text=recipe_text):
        recipe, problems = recipe_file.check_structure(recipe_file.parse(text, "x", "x.toml", sets))
        assert not problems, problems
        plan, problems = make_plan(recipe, plugins)
        assert not problems, problems
        return plan

    return plan


def batch_of(plan, count=4):
    source = plan.source.make()
    source.open()
    dataset = ViewDataset(plan, source, None)
    return to_device(dataset[[Item(0, index) for index in range(count)]], plan.views, torch.device("cpu"))


def test_the_target_starts_as_the_whole_online_network(plan):
    step = StepModule(plan())
    online, target = dict(step.online.named_parameters()), dict(step.target.named_parameters())
    assert set(online) - set(target) == {name for name in online if name.startswith("predictors")}
    assert all(torch.equal(value, online[name]) for name, value in target.items())
    assert not any(value.requires_grad for value in target.values())


def test_the_target_has_only_heads_that_are_read_from_it(plan):
    extra = ('heads.own={projector = {use = "linear", out = 5}}', 'objectives.contrast={head = "own"}')
    step = StepModule(plan(*extra))
    assert [*step.online.projectors] == ["main", "own"]
    assert [*step.target.projectors] == ["main"]
    step.update_target(0.5)
    assert step(batch_of(plan(*extra))).loss.isfinite()


def test_gradients_reach_every_trained_parameter_and_no_other(plan):
    step = StepModule(plan())
    step(batch_of(plan())).loss.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in step.online.predictors.parameters())
    assert all((p.grad is not None) == p.requires_grad for p in step.parameters())


def test_the_target_follows_parameters_and_keeps_its_own_statistics(plan):
    step = StepModule(plan())
    before = {name: value.clone() for name, value in step.target.named_parameters()}
    with torch.no_grad():
        for value in step.online.parameters():
            value += 1
    statistics = {name: value.clone() for name, value in step.target.named_buffers()}
    step.update_target(0.75)
    for name, value in step.target.named_parameters():
        torch.testing.assert_close(value, before[name] + 0.25, rtol=1e-6, atol=1e-6)
    assert all(torch.equal(value, statistics[name]) for name, value in step.target.named_buffers())


def test_initial_weights_do_not_depend_on_other_components(plan):
    alone = StepModule(plan()).state_dict()
    together = StepModule(plan('objectives.parts={inputs = {part = "scene"}}')).state_dict()
    assert all(torch.equal(value, together[name]) for name, value in alone.items())
    other = StepModule(plan("seed=4")).state_dict()
    assert not torch.equal(alone["online.backbone.net.0.weight"], other["online.backbone.net.0.weight"])


def test_batch_statistics_are_computed_per_view_or_per_group(plan):
    batch = batch_of(plan())
    views, group = StepModule(plan()), StepModule(plan("forward.batch_norm=per-group"))
    views(batch), group(batch)
    norms = [step.online.backbone.net[1].num_batches_tracked.item() for step in (views, group)]
    assert norms == [2, 1]


def test_weights_multiply_the_loss_and_not_the_logged_terms(plan):
    batch = batch_of(plan())
    one, two = (StepModule(plan(f"objectives.alike.weight={weight}"))(batch) for weight in (1.0, 2.0))
    torch.testing.assert_close(two.loss, 2 * one.loss)
    torch.testing.assert_close(two.terms["alike.distance"], one.terms["alike.distance"])


# -------------------------------------------------------------------------------------------------- monitors

TWO = "objectives.more={use = 'contrast', weight = 0.5}"


def gradient_of(plan, batch, *sets):
    """Run a new step module on one objective, and return the backbone's gradient."""
    step = StepModule(plan(*sets))
    step(batch).loss.backward()
    return torch.cat([p.grad.flatten() for p in step.online.backbone.parameters()])


def test_the_conflict_map_is_that_of_runs_with_one_objective_each(plan, recipe_text):
    batch = batch_of(plan())
    alone = recipe_text.replace("[objectives.alike]", "[objectives.more]\nuse = 'contrast'\nweight = 0.5")
    a, b = gradient_of(plan, batch), gradient_of(functools.partial(plan, text=alone), batch)
    measured = StepModule(plan(TWO))(batch, measure=True).measured
    assert measured["alike.gradient_norm"] == pytest.approx(a.norm().item(), rel=1e-5)
    assert measured["more.gradient_norm"] == pytest.approx(b.norm().item(), rel=1e-5)
    assert measured["conflict.alike.more"] == pytest.approx((a @ b / (a.norm() * b.norm())).item(), abs=1e-5)
    assert measured["alike.backward_ms"] > 0 < measured["more.forward_ms"]


def test_measuring_changes_no_loss_gradient_statistic_or_random_number(plan):
    batch, runs = batch_of(plan()), []
    for measure in (False, True):
        step = StepModule(plan(TWO, "backbone.dropout=0.5"))
        torch.manual_seed(0)
        output = step(batch, measure=measure)
        assert all(p.grad is None for p in step.parameters())
        output.loss.backward()
        grads = {name: p.grad for name, p in step.named_parameters() if p.grad is not None}
        runs.append({"loss": output.loss.detach(), "random": torch.rand(3), **grads, **dict(step.named_buffers())})
    assert runs[0].keys() == runs[1].keys()
    assert all(torch.equal(value, runs[1][name]) for name, value in runs[0].items())
    assert not StepModule(plan(TWO))(batch).measured


def test_projections_are_watched_though_objectives_read_only_predictions(plan):
    step = StepModule(plan())
    assert {name: str(row) for name, row in step.watched.items()} == {
        "features": "online.features.scene", "projection": "online.projection.scene", "target": "target.projection.scene",
        "prediction": "online.prediction.scene",
    }  # fmt: skip
    output = step(batch_of(plan()))
    assert {name: tuple(rows.shape) for name, rows in output.rows.items()} == {
        "features": (4, 8),
        "projection": (4, 6),
    }
    assert not any(rows.requires_grad for rows in output.rows.values())
    assert output.monitors["target_similarity"].item() == pytest.approx(1, abs=1e-6)  # batch statistics in both


def test_a_projector_runs_once_for_everything_that_is_read_after_it(plan):
    step, calls = StepModule(plan(TWO)), []
    step.online.projectors["main"].register_forward_hook(lambda *_: calls.append("online"))
    step.target.projectors["main"].register_forward_hook(lambda *_: calls.append("target"))
    step(batch_of(plan()))
    assert calls == ["online"] * 2 + ["target"] * 2  # once per view


def test_features_are_watched_where_nothing_projects_vectors(plan, recipe_text):
    text = recipe_text.replace("[objectives.alike]", "[objectives.flat]")
    dense = text.replace('projector = { use = "linear", out = 6 }', 'projector = { use = "dense" }')
    dense = dense.replace('predictor = { use = "linear" }', "")
    step = StepModule(plan(text=dense))
    assert step.watched.keys() == {"features"}
    assert step(batch_of(plan())).monitors.keys() >= {"feature_std", "alignment", "uniformity"}


def test_the_first_group_of_the_sampler_is_watched(plan, recipe_text):
    text = recipe_text.replace(
        "[objectives.alike]", "[objectives.alike]\n[objectives.parts]\n[[augment.part]]\nsize = 16"
    )
    both = plan("sampler.parts=3", text=text)
    assert StepModule(both).watched["features"].group == "scene"
    only = plan("sampler.parts=3", text=text.replace("[objectives.alike]\n", ""))
    assert {name: str(row) for name, row in StepModule(only).watched.items()} == {"features": "online.features.part"}


def test_an_objective_that_reads_no_gradient_through_the_backbone_is_no_error(plan):
    step = StepModule(plan(TWO))
    step.online.backbone.requires_grad_(False)
    measured = step(batch_of(plan()), measure=True).measured
    assert measured["alike.gradient_norm"] == measured["more.gradient_norm"] == 0
    assert "conflict.alike.more" not in measured


# ------------------------------------------------------------------------------------------------------ data


def test_an_item_depends_on_seed_epoch_and_index_alone(plan):
    source = plan().source.make()
    first, second = ViewDataset(plan(), source, None), ViewDataset(plan(), source, None)
    second[[Item(5, 1)]]
    a, b = first[[Item(0, 3)]], second[[Item(0, 3)]]
    assert all(torch.equal(a[name], b[name]) for name in a if name not in ("counts", "bad"))
    assert not torch.equal(a["boxes.scene"], first[[Item(1, 3)]]["boxes.scene"])


def test_dropping_a_group_leaves_the_others_unchanged(plan, recipe_text):
    text = recipe_text.replace(
        "[objectives.alike]", "[objectives.alike]\n[objectives.parts]\n[[augment.part]]\nsize = 16"
    )
    text = text.replace('use = "pair"', 'use = "pair"\nparts = 3')
    both, alone = plan(text=text), plan(text=text.replace("[objectives.parts]", ""))
    source = both.source.make()
    a, b = ViewDataset(both, source, None)[[Item(0, 0)]], ViewDataset(alone, source, None)[[Item(0, 0)]]
    assert "pixels.part.online" in a
    assert "pixels.part.online" not in b
    assert all(torch.equal(a[name], b[name]) for name in b if name not in ("counts", "bad"))


@pytest.mark.parametrize(("images", "batch", "pad"), [(10, 4, True), (10, 4, False), (3, 8, True), (8, 8, True)])
@pytest.mark.parametrize("world", [1, 2])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_ranks_and_micro_batches_share_an_epoch_without_overlap_or_loss(images, batch, pad, world, accumulate):
    ranks = [Epochs(images, batch, accumulate, 7, pad, rank, world) for rank in range(world)]
    steps = ranks[0].steps
    assert steps == (-(-images // batch) if pad else images // batch)
    for step in range(steps):
        parts = [item for rank in ranks for part in rank.micro_batches(step, step + 1) for item in part]
        whole = next(Epochs(images, batch, 1, 7, pad).micro_batches(step, step + 1))
        assert sorted(parts) == sorted(whole)
    seen = np.unique(ranks[0].order(0))
    assert len(seen) == (images if pad else min(images, steps * batch))


def test_a_step_takes_dense_heads_and_optional_rows(plan):
    built = plan(
        'heads.dense={projector = {use = "dense"}}', 'objectives.flat={head = "dense"}', "objectives.contrast={}"
    )
    output = StepModule(built)(batch_of(built))
    assert {"alike.distance", "flat.loss", "contrast.loss"} <= output.terms.keys()
    assert output.loss.isfinite()


def test_only_objectives_that_couple_the_batch_get_the_rows_of_all_ranks(plan):
    built = plan("objectives.contrast={}")
    step, batch = StepModule(built).eval(), batch_of(built)
    alone = step(batch).terms
    step.gather = lambda rows: torch.cat([rows, 3 * rows])
    together = step(batch).terms
    assert together["alike.distance"] == alone["alike.distance"]
    # Means of a Gram matrix's squares: of rows and three times these rows.
    torch.testing.assert_close(together["contrast.loss"], alone["contrast.loss"] * (1 + 9) ** 2 / 4)


def test_objectives_and_heads_are_notified_of_each_step(plan):
    built = plan(
        'heads.dense={projector = {use = "dense"}}', 'objectives.flat={head = "dense"}', "objectives.contrast={}"
    )
    step = StepModule(built)
    step.after_step(7, 1.75)
    assert step.objectives["contrast"].progress.tolist() == [7, 1.75]
    assert step.online.projectors["dense"].steps == 7
