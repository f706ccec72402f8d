"""Checks of probes, on clusters that are easy to tell apart."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from sslkit.api import Labelled
from sslkit.errors import SslkitError
from sslkit.testing.case import Case, random_state_left_alone
from sslkit.testing.fakes import blobs

TRAIN, TEST = 120, 40


def _figures(case: Case, train: Labelled, test: Labelled) -> dict[str, float]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return dict(case.make().evaluate(train, test))


def _kinds(case: Case) -> list[bool]:
    """Return False for "single-label" and True for "multi-label", those that the probe takes."""
    return [kind == "multi-label" for kind in case.cls.takes]


def _parts(several: bool) -> tuple[Labelled, Labelled]:
    return blobs(TRAIN, multi_label=several), blobs(TEST, seed=1, multi_label=several)


def check_takes(case: Case) -> None:
    """It says what labels it takes: "single-label", "multi-label" or both."""
    takes = case.cls.takes
    good = not isinstance(takes, str) and len(takes) > 0 and set(takes) <= {"single-label", "multi-label"}
    assert good, f'takes = {takes!r}: write a tuple of "single-label", "multi-label" or both'


def check_figures(case: Case) -> None:
    """It returns named, finite numbers; rates lie in [0, 1]."""
    for several in _kinds(case):
        figures = _figures(case, *_parts(several))
        assert figures, "evaluate() returned nothing"
        for name, value in figures.items():
            assert isinstance(name, str), f"{name!r} is no name"
            assert isinstance(value, (int, float)), f"'{name}' is {type(value).__name__}, not a number"
            assert math.isfinite(value), f"'{name}' is {value}"
            rate = not name.startswith(("chosen_", "count_"))
            assert not rate or 0 <= value <= 1, (
                f"'{name}' is {value}: rates lie in [0, 1]; call a setting 'chosen_{name}' and a number 'count_{name}'"
            )


def check_tells_apart(case: Case) -> None:
    """Features that are easy to tell apart score higher than noise, in one figure at least."""
    for several in _kinds(case):
        train, test = _parts(several)
        easy, hard = _figures(case, train, test), _figures(case, _noise(train, 2), _noise(test, 3))
        higher = [name for name, value in easy.items() if value > hard.get(name, math.inf)]
        assert higher, f"clusters far apart give {easy}, noise gives {hard}: no figure is higher for what is easy"


def _noise(part: Labelled, seed: int) -> Labelled:
    """Replace features by noise that knows nothing of the labels."""
    rng = torch.Generator().manual_seed(seed)
    return replace(part, features=torch.randn(part.features.shape, generator=rng))


def check_deterministic(case: Case) -> None:
    """The same features give the same figures, whatever random numbers were drawn before."""
    for several in _kinds(case):
        train, test = _parts(several)
        first, second = _figures(case, train, test), _figures(case, train, test)
        assert first == second, "two equal calls give different figures"
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            other = dict(case.make().evaluate(train, test))
        assert first == other, "the figures depend on torch's global random state: use a generator of your own"


def check_random_state(case: Case) -> None:
    """It leaves the global random generators alone: training goes on behind it."""
    for several in _kinds(case):
        probe, (train, test) = case.make(), _parts(several)
        with random_state_left_alone("evaluate()"):
            probe.evaluate(train, test)


def check_order_of_test(case: Case) -> None:
    """The order of the test features does not matter."""
    order = torch.randperm(TEST, generator=torch.Generator().manual_seed(3))
    for several in _kinds(case):
        train, test = _parts(several)
        plain, shuffled = (_figures(case, train, part) for part in (test, _ordered(test, order)))
        for name, value in plain.items():
            assert math.isclose(value, shuffled[name], abs_tol=1e-6), (
                f"'{name}' depends on the order of the test features"
            )


def _ordered(part: Labelled, order: Tensor) -> Labelled:
    ignored = None if part.ignored is None else part.ignored[order]
    return replace(part, features=part.features[order], labels=part.labels[order], ignored=ignored)


def check_inputs_untouched(case: Case) -> None:
    """It does not change the features: other probes read them too."""
    for several in _kinds(case):
        given, fresh = _parts(several), _parts(several)
        _figures(case, *given)
        for one, other in zip(given, fresh, strict=True):
            assert torch.equal(one.features, other.features), "evaluate() changes features in place"
            assert torch.equal(one.labels, other.labels), "evaluate() changes labels in place"


def check_few_samples(case: Case) -> None:
    """With one training sample it works, or says in words that this is too few (ValueError or DataError)."""
    for several in _kinds(case):
        _few_samples(case, blobs(1, multi_label=several), blobs(3, seed=1, multi_label=several))


def _few_samples(case: Case, train: Labelled, test: Labelled) -> None:
    try:
        figures = _figures(case, train, test)
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
    check_takes,
    check_figures,
    check_tells_apart,
    check_deterministic,
    check_random_state,
    check_order_of_test,
    check_inputs_untouched,
    check_few_samples,
)
