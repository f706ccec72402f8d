"""Monitors against closed forms, and against their formulas in float64 with numpy and scipy."""

import math
from itertools import combinations, permutations

import numpy as np
import pytest
import scipy.linalg
import scipy.stats
import torch

from sslkit.networks import monitors


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def units(z):
    z = z.double().numpy()
    return z / np.linalg.norm(z, axis=-1, keepdims=True)


# ------------------------------------------------------------------------------------------------- every step


def test_feature_std_is_one_for_noise_and_zero_for_a_constant():
    assert monitors.feature_std(noise(4096, 64)).item() == pytest.approx(1, abs=0.01)
    assert monitors.feature_std(torch.ones(16, 8)).item() == pytest.approx(0, abs=1e-6)


def test_feature_std_is_the_mean_over_dimensions():
    z = noise(20, 6) + 1
    assert monitors.feature_std(z).item() == pytest.approx(units(z).std(0).mean() * math.sqrt(6), rel=1e-5)


@pytest.mark.parametrize("views", [2, 3, 5])
def test_alignment_is_the_mean_squared_distance_of_an_images_views(views):
    z = noise(7, views, 6)
    pairs = [((x - y) ** 2).sum() for image in units(z) for x, y in permutations(image, 2)]
    assert monitors.alignment(z).item() == pytest.approx(np.mean(pairs), rel=1e-5)


def test_alignment_is_zero_for_equal_views_and_four_for_opposite_ones():
    z = noise(7, 1, 6)
    assert monitors.alignment(z.expand(7, 2, 6)).item() == 0
    assert monitors.alignment(torch.cat([z, -z], 1)).item() == pytest.approx(4)


def test_uniformity_is_the_logarithm_of_the_mean_gaussian_of_pairs():
    z = noise(15, 6)
    gaussians = [math.exp(-2 * ((x - y) ** 2).sum()) for x, y in combinations(units(z), 2)]
    assert monitors.uniformity(z).item() == pytest.approx(math.log(np.mean(gaussians)), rel=1e-5)


def test_uniformity_is_zero_for_a_constant_and_minus_eight_for_two_opposite_points():
    assert monitors.uniformity(torch.ones(5, 3)).item() == 0
    assert monitors.uniformity(torch.tensor([[1.0, 0], [-1, 0]])).item() == pytest.approx(-8, rel=1e-5)


def test_uniformity_looks_at_a_bounded_number_of_images():
    z = noise(monitors.MAX_IMAGES + 40, 4)
    assert torch.equal(monitors.uniformity(z), monitors.uniformity(z[: monitors.MAX_IMAGES]))


def test_similarity_to_the_target_compares_the_same_views():
    a, b = noise(5, 2, 6), noise(5, 2, 6, seed=1)
    assert monitors.target_similarity(a, b).item() == pytest.approx((units(a) * units(b)).sum(-1).mean(), abs=1e-6)
    assert monitors.target_similarity(a, 3 * a).item() == pytest.approx(1)


def test_one_view_has_no_alignment_and_no_target_no_similarity():
    assert monitors.every_step(noise(5, 1, 6)).keys() == {"feature_std", "uniformity"}
    values = monitors.every_step(noise(5, 2, 6), noise(5, 2, 6), noise(5, 2, 4))
    assert values.keys() == set(monitors.EVERY_STEP)
    assert torch.equal(values["prediction_std"], monitors.feature_std(noise(5, 2, 4)[:, 0]))


# ------------------------------------------------------------------------------------------------------- rank


@pytest.mark.parametrize("shape", [(40, 8), (8, 40)])
def test_rankme_is_the_exponential_of_the_entropy_of_singular_values(shape):
    z = noise(*shape) @ torch.diag(torch.logspace(0, -4, shape[1])) + 0.3
    s = scipy.linalg.svdvals(z.double().numpy())
    assert monitors.rankme(z) == pytest.approx(math.exp(scipy.stats.entropy(s / s.sum())), rel=1e-4)


def test_rankme_of_orthonormal_rows_is_their_number_and_of_a_constant_one():
    rows = torch.linalg.qr(noise(30, 12))[0]
    assert monitors.rankme(rows) == pytest.approx(12, rel=1e-4)
    assert monitors.rankme(rows.T) == pytest.approx(12, rel=1e-4)
    assert monitors.rankme(torch.ones(30, 12)) == pytest.approx(1, rel=1e-4)
    assert monitors.rankme(noise(30, 3) @ noise(3, 12)) < 3.001


def test_rankme_is_not_centred_as_in_the_paper():
    z = noise(400, 8)
    assert monitors.rankme(z + 100) < 2 < 7 < monitors.rankme(z)


def test_rankme_of_non_finite_and_of_zero_rows():
    assert math.isnan(monitors.rankme(torch.full((30, 12), torch.inf)))
    assert monitors.rankme(torch.zeros(30, 12)) == pytest.approx(1, rel=1e-3)


def test_too_few_rows_are_refused_with_their_number():
    state = monitors.Monitors(every=10)
    state.add({"features": noise(15, 8)})
    assert state.ranks() == {"rankme.features_n": 15, "rankme.features_d": 8}
    assert list(state.refusals()) == ["rankme.features is not computed: N = 15 images so far are fewer than 2 D = 16"]
    assert not list(state.refusals())
    state.add({"features": noise(1, 8)})
    assert state.ranks().keys() == {"rankme.features", "rankme.features_n", "rankme.features_d"}


def test_too_wide_rows_are_refused_and_not_stored():
    state = monitors.Monitors(every=10)
    state.add({"projection": noise(4, monitors.MAX_DIMENSIONS + 1)})
    assert state.ranks() == {"rankme.projection_n": 0, "rankme.projection_d": 2049}
    assert "D = 2049 is more than 2048" in next(iter(state.refusals()))
    assert state.state_dict()["projection"].shape == (0, 2049)


def test_the_window_holds_the_newest_rows_and_survives_a_checkpoint():
    z = noise(40, 8)
    window, resumed = monitors.Window(), monitors.Monitors(every=10)
    for chunk in z[:32].split(3):
        window.add(chunk)
    assert torch.equal(window.rows(), z[16:32])
    assert window.count < 16 + 3
    resumed.load_state_dict({"features": window.rows()})
    for each in (window, resumed.windows["features"]):
        each.add(z[32:])
        assert torch.equal(each.rows(), z[24:])
    assert torch.equal(resumed.state_dict()["features"], z[24:])


def test_the_window_keeps_no_graph_and_no_memory_of_other_views():
    views = noise(6, 4, 2).requires_grad_()
    window = monitors.Window()
    window.add(views[:, 0])
    assert not window.chunks[0].requires_grad
    assert window.chunks[0].untyped_storage().nbytes() == 6 * 2 * 4


def test_measurements_are_due_at_the_first_step_and_every_nth():
    assert [step for step in range(1, 12) if monitors.Monitors(5).due(step)] == [1, 5, 10]
    assert not any(monitors.Monitors(0).due(step) for step in range(1, 12))
