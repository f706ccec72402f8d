"""Checks of probes, on clusters that are easy to tell apart."""

from __future__ import annotations

import math

import torch

from sslkit.api import Labelled
from sslkit.errors import SslkitError
from sslkit.testing.case import Case
from sslkit.testing.fakes import blobs

TRAIN, TEST = 120, 40


def _figures(case: Case, train: Labelled, test: Labelled) -> dict[str, float]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return dict(case.make().evaluate(train, test))


def check_figures(case: Case) -> None:
    """It returns named, finite numbers."""
    figures = _figures(case, blobs(TRAIN), blobs(TEST, seed=1))
    assert figures, "evaluate() returned nothing"
    for name, value in figures.items():
        assert isinstance(name, str), f"{name!r} is no name"
        assert isinstance(value, (int, float)), f"'{name}' is {type(value).__name__}, not a number"
        assert math.isfinite(value), f"'{name}' is {value}"


def check_tells_apart(case: Case) -> None:
    """Features that are easy to tell apart score higher than noise, in one figure at least."""
    train, test = blobs(TRAIN), blobs(TEST, seed=1)
    easy, hard = _figures(case, train, test), _figures(case, _noise(train, 2), _noise(test, 3))
    higher = [name for name, value in easy.items() if value > hard.get(name, math.inf)]
    assert higher, f"clusters far apart give {easy}, noise gives {hard}: no figure is higher for what is easy"


def _noise(part: Labelled, seed: int) -> Labelled:
    """Replace features by noise that knows nothing of the labels."""
    rng = torch.Generator().manual_seed(seed)
    return Labelled(torch.randn(part.features.shape, generator=rng), part.labels, part.categories)


def check_deterministic(case: Case) -> None:
    """The same features give the same figures."""
    train, test = blobs(TRAIN), blobs(TEST, seed=1)
    assert _figures(case, train, test) == _figures(case, train, test), "two equal calls give different figures"


def check_order_of_test(case: Case) -> None:
    """The order of the test features does not matter."""
    train, test = blobs(TRAIN), blobs(TEST, seed=1)
    order = torch.randperm(TEST, generator=torch.Generator().manual_seed(3))
    plain, shuffled = (
        _figures(case, train, part)
        for part in (test, Labelled(test.features[order], test.labels[order], test.categories))
    )
    for name, value in plain.items():
        assert math.isclose(value, shuffled[name], abs_tol=1e-6), f"'{name}' depends on the order of the test features"


def check_inputs_untouched(case: Case) -> None:
    """It does not change the features: other probes read them too."""
    train, test = blobs(TRAIN), blobs(TEST, seed=1)
    _figures(case, train, test)
    for given, fresh in ((train, blobs(TRAIN)), (test, blobs(TEST, seed=1))):
        assert torch.equal(given.features, fresh.features), "evaluate() changes features in place"
        assert torch.equal(given.labels, fresh.labels), "evaluate() changes labels in place"


def check_few_samples(case: Case) -> None:
    """With one training sample it works, or says in words that this is too few (ValueError or DataError)."""
    try:
        figures = _figures(case, blobs(1), blobs(3, seed=1))
    except (ValueError, SslkitError) as error:
        if not str(error).strip():
            raise AssertionError("it refuses one training sample without a word") from None
        return
    except Exception as error:
        raise AssertionError(
            f"one training sample ends in {type(error).__name__}: {error}; raise DataError with words"
        ) from error
    bad = [name for name, value in figures.items() if not math.isfinite(value)]
    assert not bad, f"{', '.join(bad)} are not finite with one training sample"


PROBE = (
    check_figures,
    check_tells_apart,
    check_deterministic,
    check_order_of_test,
    check_inputs_untouched,
    check_few_samples,
)
