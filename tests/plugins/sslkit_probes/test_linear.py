"""The linear probe against scikit-learn and torch.optim on the same features, and its errors for invalid input."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from sklearn.preprocessing import StandardScaler
from torch import nn

from sslkit.api import Labelled
from sslkit.errors import DataError
from sslkit_probes.classifiers import Candidate
from sslkit_probes.linear import Linear

FEW = (0.01, 0.3)


def blobs(n, seed, classes=4, width=10):
    """Make overlapping clusters with features of very different scale."""
    rng = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (n,), generator=rng)
    labels[:classes] = torch.arange(classes)
    fixed = torch.Generator().manual_seed(77)
    centres, scale = torch.randn(classes, width, generator=fixed), torch.rand(width, generator=fixed) * 3 + 0.2
    return Labelled((centres[labels] + torch.randn(n, width, generator=rng)) * scale + 2, labels)


def several(n, seed, classes=4, width=10, ignored=False):
    """Make sets of labels that depend linearly, with noise, on the features."""
    rng = torch.Generator().manual_seed(seed)
    x = torch.randn(n, width, generator=rng)
    truth = torch.randn(width, classes, generator=torch.Generator().manual_seed(78))
    labels = x @ truth + 2 * torch.randn(n, classes, generator=rng) > 2
    unknown = torch.rand(n, classes, generator=rng) < 0.2 if ignored else None
    return Labelled(x, labels if unknown is None else labels & ~unknown, ignored=unknown)


def everything(part):
    return torch.arange(len(part))


@pytest.mark.parametrize("batch_norm", [True, False])
@pytest.mark.parametrize("l2", [1e-3, 0.1])
def test_lbfgs_agrees_with_scikit_learns_logistic_regression(batch_norm, l2):
    train, test = blobs(300, 0), blobs(200, 1)
    x, y = train.features.double().numpy(), test.features.double().numpy()
    if batch_norm:
        scaler = StandardScaler().fit(x)
        x, y = scaler.transform(x), scaler.transform(y)
    reference = LogisticRegression(C=1 / (l2 * 300), tol=1e-9, max_iter=5000).fit(x, train.labels.numpy())
    probe = Linear(solver="lbfgs", l2=(l2,), batch_norm=batch_norm, tolerance=1e-8)
    classifiers = probe.fit(train, everything(train), probe.candidates)
    np.testing.assert_allclose(classifiers.weight[0].numpy(), reference.coef_, atol=2e-4)
    centred = classifiers.bias[0] - classifiers.bias[0].mean()  # softmax leaves a common shift free
    np.testing.assert_allclose(centred.numpy(), reference.intercept_ - reference.intercept_.mean(), atol=2e-3)
    metrics = probe.evaluate(train, test)
    assert metrics["top1"] == pytest.approx(reference.score(y, test.labels.numpy()), abs=1e-9)
    assert metrics["chosen_l2"] == l2


def test_lbfgs_with_sets_of_labels_is_one_logistic_regression_each():
    train, test = several(300, 0), several(200, 1)
    probe = Linear(solver="lbfgs", l2=(0.01,), batch_norm=False, tolerance=1e-8)
    classifiers = probe.fit(train, everything(train), probe.candidates)
    scores = []
    for category in range(4):
        reference = LogisticRegression(C=1 / 3, tol=1e-9, max_iter=5000)
        reference.fit(train.features.double().numpy(), train.labels[:, category].numpy())
        np.testing.assert_allclose(classifiers.weight[0, category].numpy(), reference.coef_[0], atol=2e-4)
        assert classifiers.bias[0, category].item() == pytest.approx(reference.intercept_[0], abs=2e-4)
        scores.append(reference.decision_function(test.features.double().numpy()))
    expected = average_precision_score(test.labels.numpy(), np.stack(scores, 1), average="macro")
    assert probe.evaluate(train, test)["map"] == pytest.approx(expected, abs=2e-3)


def test_ignored_samples_are_left_out_of_each_categorys_fit():
    train = several(300, 3, ignored=True)
    probe = Linear(solver="lbfgs", l2=(0.01,), batch_norm=False, tolerance=1e-8)
    classifiers = probe.fit(train, everything(train), probe.candidates)
    for category in range(4):
        known = ~train.ignored[:, category]
        reference = LogisticRegression(C=1 / 3, tol=1e-9, max_iter=5000)
        reference.fit(train.features[known].double().numpy(), train.labels[known, category].numpy())
        np.testing.assert_allclose(classifiers.weight[0, category].numpy(), reference.coef_[0], atol=2e-4)


@pytest.mark.parametrize("make", [blobs, several])
def test_sgd_of_all_candidates_at_once_is_torch_optims_sgd_of_each(make):
    train = make(90, 2)
    probe = Linear(lrs=(0.01, 0.5), l2=(0.0, 0.02), epochs=4, batch_size=32, batch_norm=False, seed=5)
    classifiers = probe.fit(train, everything(train), probe.candidates)
    assert len(probe.candidates) == 4
    for number, (lr, l2) in enumerate(probe.candidates):
        weight, bias = _by_autograd(train, lr, l2, seed=5)
        torch.testing.assert_close(classifiers.weight[number], weight, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(classifiers.bias[number], bias, atol=1e-5, rtol=1e-4)


def _by_autograd(train, lr, l2, seed):
    layer = nn.Linear(10, 4)
    nn.init.zeros_(layer.weight), nn.init.zeros_(layer.bias)
    groups = [{"params": layer.weight, "weight_decay": l2}, {"params": layer.bias}]
    optimizer = torch.optim.SGD(groups, lr=lr, momentum=0.9)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 4 * 3)
    rng = torch.Generator().manual_seed(seed)
    for _ in range(4):
        for batch in torch.randperm(90, generator=rng).split(32):
            logits, labels = layer(train.features[batch]), train.labels[batch]
            if train.multi_label:
                loss = nn.functional.binary_cross_entropy_with_logits(logits, labels.float()) * 4  # summed over them
            else:
                loss = nn.functional.cross_entropy(logits, labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return layer.weight.detach(), layer.bias.detach()


@pytest.mark.parametrize("steps", [1, 3, 8, 12])
def test_a_fit_of_some_steps_is_torch_optims_sgd_of_as_many_batches(steps):
    """90 rows make three batches; eight steps end within the third pass."""
    train = blobs(90, 2)
    probe = Linear(lrs=(0.5,), l2=(0.02,), steps=steps, batch_size=32, batch_norm=False, seed=5)
    classifiers = probe.fit(train, everything(train), probe.candidates)
    layer = nn.Linear(10, 4)
    nn.init.zeros_(layer.weight), nn.init.zeros_(layer.bias)
    groups = [{"params": layer.weight, "weight_decay": 0.02}, {"params": layer.bias}]
    optimizer = torch.optim.SGD(groups, lr=0.5, momentum=0.9)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    rng = torch.Generator().manual_seed(5)
    batches = [batch for _ in range(4) for batch in torch.randperm(90, generator=rng).split(32)]
    for batch in batches[:steps]:
        optimizer.zero_grad()
        nn.functional.cross_entropy(layer(train.features[batch]), train.labels[batch]).backward()
        optimizer.step()
        schedule.step()
    torch.testing.assert_close(classifiers.weight[0], layer.weight.detach(), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(classifiers.bias[0], layer.bias.detach(), atol=1e-5, rtol=1e-4)


def test_whole_passes_are_the_same_in_steps_and_in_epochs():
    train, test = blobs(200, 1), blobs(100, 2)
    one = Linear(lrs=(0.1,), epochs=3, batch_size=64).evaluate(train, test)
    assert Linear(lrs=(0.1,), steps=12, batch_size=64).evaluate(train, test) == one


def test_batch_norm_uses_the_statistics_of_the_fitted_rows():
    train = blobs(200, 3)
    probe = Linear(lrs=FEW)
    rows = torch.arange(0, 200, 2)
    statistics = probe.fit(train, rows, [Candidate(0.1, 0.0)]).statistics
    norm = nn.BatchNorm1d(10, eps=1e-6, affine=False)
    expected = norm(train.features[rows])
    torch.testing.assert_close(
        ((train.features[rows] - statistics.mean) * statistics.scale).float(), expected, atol=1e-4, rtol=1e-4
    )


def test_features_of_any_scale_are_learnt_with_batch_norm():
    train, test = blobs(400, 4), blobs(300, 5)
    tiny = [Labelled(part.features * 1e-3, part.labels) for part in (train, test)]
    probe = Linear(epochs=20)
    assert abs(probe.evaluate(*tiny)["top1"] - probe.evaluate(train, test)["top1"]) < 0.03
    assert probe.evaluate(train, test)["top1"] > 0.7


@pytest.mark.parametrize("share", [0.5, 0.1])
def test_the_learning_rate_is_chosen_on_held_out_training_images(share):
    """The best one there is over all held-out images is chosen, whatever the test part is."""
    train, test = blobs(300, 6, width=3), blobs(100, 7, width=3)
    probe = Linear(lrs=(1e-7, 0.1, 30.0), epochs=10, validation_share=share)
    alone = []
    for one in probe.candidates:
        splits = probe.splits(train)
        logits = torch.cat([probe.fit(train, fit, [one])(train.features[rows])[0] for fit, rows in splits])
        labels = torch.cat([train.labels[rows] for _, rows in splits])
        accuracy = (logits.argmax(1) == labels).double().mean().item()
        alone.append((accuracy, -nn.functional.cross_entropy(logits, labels).item()))
    chosen = probe.evaluate(train, test)["chosen_lr"]
    assert chosen == probe.candidates[alone.index(max(alone))].lr
    assert len({accuracy for accuracy, _ in alone}) > 1
    shuffled = Labelled(test.features, (test.labels + 1) % 4)
    assert probe.evaluate(train, shuffled)["chosen_lr"] == chosen


@pytest.mark.parametrize(
    ("count", "share", "splits"),
    [(6000, 0.1, 1), (4990, 0.1, 2), (2000, 0.1, 3), (300, 0.1, 5), (300, 0.5, 2), (8, 0.1, 5), (4, 0.9, 1)],
)
def test_more_images_are_held_out_where_one_split_holds_out_too_few(count, share, splits):
    made = Linear(validation_share=share).splits(blobs(count, 0))
    assert len(made) == splits
    held_out = torch.cat([rows for _, rows in made])
    assert len(held_out) == len(held_out.unique()), "each at most once"
    assert all(sorted([*fit.tolist(), *rows.tolist()]) == list(range(count)) for fit, rows in made)
    assert all(len(fit) for fit, _ in made)


def test_with_few_images_the_choice_is_as_good_as_the_best_one():
    """A single split of 20 images often chose a rate that costs five points or more."""
    test = blobs(3000, 1, width=4)
    lrs = (1e-5, 1e-3, 0.1, 10.0)
    lost = []
    for seed in range(6):
        train = blobs(200, 10 + seed, width=4)
        best = max(Linear(lrs=(lr,), epochs=10).evaluate(train, test)["top1"] for lr in lrs)
        lost.append(best - Linear(lrs=lrs, epochs=10, seed=seed).evaluate(train, test)["top1"])
    assert max(lost) < 0.03


def test_the_best_candidate_is_trained_again_on_the_whole_training_part():
    train, test = blobs(120, 8), blobs(80, 9)
    probe = Linear(lrs=(1e-6, 0.1), epochs=10)
    single = Linear(lrs=(0.1,), epochs=10)
    assert probe.evaluate(train, test) == single.evaluate(train, test)


def test_an_images_crops_are_held_out_together():
    images = torch.arange(40).repeat_interleave(3)[torch.randperm(120, generator=torch.Generator().manual_seed(0))]
    part = blobs(120, 0)
    splits = Linear(validation_share=0.25).splits(Labelled(part.features, part.labels, images=images))
    assert len(splits) == 4
    for fit, held_out in splits:
        assert not set(images[fit].tolist()) & set(images[held_out].tolist())
        assert len(set(images[held_out].tolist())) == 10
        assert sorted([*fit.tolist(), *held_out.tolist()]) == list(range(120))


def test_metrics_depend_on_the_seed_alone():
    train, test = blobs(100, 0), blobs(60, 1)
    probe = Linear(lrs=FEW, epochs=3)
    before = torch.get_rng_state()
    first = probe.evaluate(train, test)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(12345)
    assert probe.evaluate(train, test) == first
    assert not torch.equal(probe.splits(train)[0][1], Linear(seed=1).splits(train)[0][1])


def test_a_category_may_have_a_single_sample():
    train = blobs(60, 0)
    labels = train.labels.clone()
    labels[7] = 4
    for seed in range(8):  # held out or not
        metrics = Linear(lrs=FEW, epochs=2, seed=seed).evaluate(Labelled(train.features, labels), blobs(30, 1))
        assert 0 < metrics["top1"] <= 1


def test_a_candidate_that_diverges_is_not_chosen():
    train, test = blobs(100, 0), blobs(50, 1)
    probe = Linear(lrs=(1e30, 0.01), batch_norm=False, epochs=3, l2=(1.0,))
    assert probe.evaluate(train, test)["chosen_lr"] == pytest.approx(0.01)
    with pytest.raises(DataError, match=r"diverged at every learning rate \(1e\+30\)"):
        Linear(lrs=(1e30,), batch_norm=False, epochs=3, l2=(1.0,)).evaluate(train, test)


def nan(part):
    features = part.features.clone()
    features[:2, 0] = torch.nan
    return Labelled(features, part.labels)


@pytest.mark.parametrize(
    ("train", "test", "words"),
    [
        (nan(blobs(20, 0)), blobs(5, 1), "2 of 20 training features are not finite"),
        (blobs(20, 0), nan(blobs(5, 1)), "2 of 5 test features are not finite"),
        (blobs(20, 0), Labelled(torch.zeros(0, 10), torch.zeros(0, dtype=torch.int64)), "there are no test samples"),
        (
            Labelled(torch.zeros(5, 2), torch.ones(5, dtype=torch.int64)),
            blobs(4, 0, width=2),
            "at least two categories",
        ),
        (
            Labelled(torch.randn(2, 10), torch.tensor([0, 1]), images=torch.tensor([3, 3])),
            blobs(5, 1),
            r"chooses among 9 candidates on held-out training images, but there is only 1: .* one value for lrs",
        ),
        (Labelled(torch.zeros(5, 2), torch.ones(5, 3, dtype=torch.bool)), several(4, 0, width=2), "nothing to learn"),
    ],
)
def test_invalid_input_is_reported(train, test, words):
    with pytest.raises(DataError, match=words):
        Linear().evaluate(train, test)


def test_a_minimum_at_infinity_is_refused():
    with pytest.raises(ValueError, match="lies at infinity without l2"):
        Linear(solver="lbfgs", l2=(0.0, 0.1))


def test_no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Linear(solver="lbfgs").evaluate(blobs(60, 0), blobs(30, 1))
