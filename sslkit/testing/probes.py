"""Checks of probes, on clusters that are easy to separate."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from sslkit.api import Labelled
from sslkit.errors import SslkitError
from sslkit.testing.case import Case, unchanged_random_state
from sslkit.testing.fakes import blobs

TRAIN, TEST = 120, 40


def _scores(case: Case, train: Labelled, test: Labelled) -> dict[str, float]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return dict(case.make().evaluate(train, test))


def _label_kinds(case: Case) -> list[bool]:
    """Return False for "single-label" and True for "multi-label", for each kind of labels that the probe takes."""
    return [kind == "multi-label" for kind in case.cls.takes]


def _train_and_test(multi_label: bool) -> tuple[Labelled, Labelled]:
    return blobs(TRAIN, multi_label=multi_label), blobs(TEST, seed=1, multi_label=multi_label)


def check_takes(case: Case) -> None:
    """`takes` names the kinds of labels: "single-label", "multi-label" or both."""
    takes = case.cls.takes
    valid = not isinstance(takes, str) and len(takes) > 0 and set(takes) <= {"single-label", "multi-label"}
    assert valid, f'takes = {takes!r}: write a tuple of "single-label", "multi-label" or both'


def check_figures(case: Case) -> None:
    """`evaluate` returns named, finite numbers; rates lie in [0, 1]."""
    for multi_label in _label_kinds(case):
        scores = _scores(case, *_train_and_test(multi_label))
        assert scores, "evaluate() returned nothing: return at least one score"
        for name, value in scores.items():
            assert isinstance(name, str), f"the name {name!r} is not a string"
            assert isinstance(value, (int, float)), f"'{name}' is a {type(value).__name__}, not a number"
            assert math.isfinite(value), f"'{name}' is {value}, not a finite number"
            rate = not name.startswith(("chosen_", "count_"))
            assert not rate or 0 <= value <= 1, (
                f"'{name}' is {value}, but rates lie in [0, 1]: name a setting 'chosen_{name}', a count 'count_{name}'"
            )


def check_tells_apart(case: Case) -> None:
    """Features that are easy to separate score higher than noise, in at least one score."""
    for multi_label in _label_kinds(case):
        train, test = _train_and_test(multi_label)
        easy, hard = _scores(case, train, test), _scores(case, _noise(train, 2), _noise(test, 3))
        higher = [name for name, value in easy.items() if value > hard.get(name, math.inf)]
        assert higher, f"clusters far apart give {easy}, noise gives {hard}: no score is higher for the clusters"


def _noise(part: Labelled, seed: int) -> Labelled:
    """Replace features with noise that is independent of the labels."""
    rng = torch.Generator().manual_seed(seed)
    return replace(part, features=torch.randn(part.features.shape, generator=rng))


def check_deterministic(case: Case) -> None:
    """The same features give the same scores, whatever random numbers were drawn before."""
    for multi_label in _label_kinds(case):
        train, test = _train_and_test(multi_label)
        first, second = _scores(case, train, test), _scores(case, train, test)
        assert first == second, "two equal calls give different scores: use a generator with a fixed seed"
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            other = dict(case.make().evaluate(train, test))
        assert first == other, "the scores depend on torch's global random state: use a generator of your own"


def check_random_state(case: Case) -> None:
    """`evaluate` does not use the global random generators, because training continues afterwards."""
    for multi_label in _label_kinds(case):
        probe, (train, test) = case.make(), _train_and_test(multi_label)
        with unchanged_random_state("evaluate()"):
            probe.evaluate(train, test)


def check_order_of_test(case: Case) -> None:
    """The scores do not depend on the order of the test features."""
    order = torch.randperm(TEST, generator=torch.Generator().manual_seed(3))
    for multi_label in _label_kinds(case):
        train, test = _train_and_test(multi_label)
        plain, shuffled = (_scores(case, train, part) for part in (test, _ordered(test, order)))
        for name, value in plain.items():
            assert math.isclose(value, shuffled[name], abs_tol=1e-6), (
                f"'{name}' depends on the order of the test features"
            )


def _ordered(part: Labelled, order: Tensor) -> Labelled:
    ignored = None if part.ignored is None else part.ignored[order]
    return replace(part, features=part.features[order], labels=part.labels[order], ignored=ignored)


def check_inputs_untouched(case: Case) -> None:
    """`evaluate` does not change features and labels, which other probes read too."""
    for multi_label in _label_kinds(case):
        parts, copies = _train_and_test(multi_label), _train_and_test(multi_label)
        _scores(case, *parts)
        for one, other in zip(parts, copies, strict=True):
            assert torch.equal(one.features, other.features), "evaluate() changes features in place: work on a copy"
            assert torch.equal(one.labels, other.labels), "evaluate() changes labels in place: work on a copy"


def check_few_samples(case: Case) -> None:
    """With one training sample, the scores are finite, or a ValueError or DataError says that this is too few."""
    for multi_label in _label_kinds(case):
        _check_few_samples(case, blobs(1, multi_label=multi_label), blobs(3, seed=1, multi_label=multi_label))


def _check_few_samples(case: Case, train: Labelled, test: Labelled) -> None:
    try:
        scores = _scores(case, train, test)
    except (ValueError, SslkitError) as error:
        if not str(error).strip():
            raise AssertionError("it refuses one training sample without a message: say what is missing") from None
        return
    except Exception as error:
        raise AssertionError(
            f"one training sample raises {type(error).__name__}: {error}; raise DataError with a message instead"
        ) from error
    bad = [name for name, value in scores.items() if not math.isfinite(value)]
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
