"""Tensors of a file are matched with those of a backbone, key by key."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from sslkit.errors import DataError
from sslkit.weights import KeyMatch, describe_fit, load_into, prefix_hint


def _tensors(prefix: str = "") -> dict[str, torch.Tensor]:
    return {f"{prefix}weight": torch.full((2, 3), 7.0), f"{prefix}bias": torch.full((2,), 7.0)}


def test_every_key_is_matched_missing_unexpected_or_misshapen() -> None:
    tensors = {"a": torch.zeros(2), "b": torch.zeros(3), "c": torch.zeros(1)}
    match = KeyMatch.of(tensors, {"a": torch.zeros(2), "b": torch.zeros(4), "d": torch.zeros(1)})
    assert (match.matched, match.missing, match.unexpected) == (["a"], ["d"], ["c"])
    assert match.misshapen == {"b": ((3,), (4,))}
    assert not match.complete
    assert "1 of another shape: b ([3] in the file, [4] in the backbone)" in match.lines()[2]


def test_tensors_under_a_prefix_are_copied() -> None:
    backbone = nn.Linear(3, 2)
    assert load_into(backbone, _tensors("net.") | {"queue": torch.zeros(4)}, "w.pt", prefix="net.") is None
    assert all(bool((parameter == 7).all()) for parameter in backbone.parameters())


def test_a_file_that_fits_in_part_needs_permission() -> None:
    backbone = nn.Linear(3, 2)
    tensors = {"weight": torch.full((2, 3), 7.0)}
    with pytest.raises(DataError, match=r"1 of the backbone's 2 tensors are in w\.pt\n.*\n.*write --allow-partial"):
        load_into(backbone, tensors, "w.pt")
    summary = load_into(backbone, tensors, "w.pt", partial=True)
    assert summary is not None
    assert "1 missing in the file: bias" in summary


def test_nothing_in_common_is_refused_even_in_part() -> None:
    with pytest.raises(DataError, match="is this the right backbone"):
        load_into(nn.Linear(3, 2), {"other": torch.zeros(1)}, "w.pt", partial=True)


def test_the_right_prefix_is_suggested() -> None:
    expected = nn.Linear(3, 2).state_dict()
    assert "all keys begin with 'net.': write --prefix net." in prefix_hint(_tensors("net."), expected)
    assert "2 of them are found under 'net.'" in prefix_hint(_tensors("net.") | {"x": torch.zeros(1)}, expected)
    assert "without a prefix" in prefix_hint(_tensors(), expected, "net.")
    assert prefix_hint(_tensors(), expected) == ""


def _old_counts(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """From before PyTorch 0.4.1: batch norm did not count batches."""
    return {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}


def _old_scalars(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """From PyTorch 0.3: a scalar was a vector of one."""
    return {key: value.reshape(1) if value.ndim == 0 else value for key, value in state.items()}


def _old_weight_norm(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """From before parametrisations: `weight_g` and `weight_v`."""
    names = {"original0": "weight_g", "original1": "weight_v"}
    return {
        key.replace(f"parametrizations.weight.{new}", old): value
        for key, value in state.items()
        for new, old in names.items()
        if new in key or "parametrizations" not in key
    }


def _network(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    normed = nn.utils.parametrizations.weight_norm(nn.Linear(4, 2))
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), normed)


@pytest.mark.parametrize(
    "olds", [(_old_counts,), (_old_scalars,), (_old_weight_norm,), (_old_counts, _old_weight_norm)]
)
def test_weights_of_older_versions_of_torch_fit_as_torch_has_it(olds) -> None:
    written, network = _network(0), _network(1)
    tensors = dict(written.state_dict())
    for old in olds:
        tensors = old(tensors)
    assert tensors.keys() != written.state_dict().keys() or olds == (_old_scalars,)
    assert load_into(network, {f"net.{key}": value for key, value in tensors.items()}, "old.pt", prefix="net.") is None
    for mine, theirs in zip(network.parameters(), written.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_weights_of_an_older_version_that_lack_more_are_refused_and_change_nothing() -> None:
    network = _network(1)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    tensors = _old_counts(dict(_network(0).state_dict()))
    del tensors["0.bias"]
    with pytest.raises(DataError, match=r"missing in the file: 0\.bias"):
        load_into(network, tensors, "old.pt")
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: torch.ones(2, 3).to_sparse(), r"weight is not dense \(sparse_coo\)"),
        (lambda: torch.ones(2, 3).to_sparse_csr(), r"weight is not dense \(sparse_csr\)"),
        (lambda: torch.ones(2, 3, device="meta"), "weight is on the meta device: it has a shape and no values"),
        (lambda: torch.quantize_per_tensor(torch.ones(2, 3), 0.1, 0, torch.qint8), r"weight is quantised \(qint8\)"),
        (
            lambda: torch.empty(2, 3, dtype=torch.bits8),
            "weight is of type bits8, which torch cannot convert to float32",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor|Sparse CSR tensor:UserWarning")
def test_values_that_cannot_be_copied_are_told_by_key(make: Callable[[], torch.Tensor], message: str) -> None:
    odd = make()
    for tensors, partial in ((_tensors() | {"weight": odd}, False), ({"weight": odd}, True)):
        with pytest.raises(
            DataError, match=rf"1 of the backbone's 2 tensors cannot be copied from w\.pt:\n    {message}"
        ):
            load_into(nn.Linear(3, 2), tensors, "w.pt", partial=partial)
    assert load_into(nn.Linear(3, 2), _tensors() | {"odd": odd}, "w.pt", partial=True) is not None


def test_of_many_values_that_cannot_be_copied_the_first_ten_are_named() -> None:
    network = nn.Sequential(*(nn.Linear(2, 2) for _ in range(7)))
    tensors = {key: value.to("meta") for key, value in network.state_dict().items()}
    with pytest.raises(DataError, match=r"14 of the backbone's 14 tensors .*(\n    \d.*){10}\n    \.\.\. \(4 more\)"):
        load_into(network, tensors, "w.pt")


@pytest.mark.parametrize(
    ("tensors", "prefix", "words"),
    [
        (_tensors(), "", "of which 2 fit the backbone's 2"),
        (_tensors("net."), "", "of which 2 fit the backbone's 2 under 'net.'"),
        (_tensors("net."), "module.", "of which 0 fit the backbone's 2 under 'module.'"),
        ({"weight": torch.ones(5), "x": torch.ones(1)}, "", "of which 0 fit the backbone's 2"),
    ],
)
def test_the_fit_of_a_state_dict_is_described(tensors: dict[str, torch.Tensor], prefix: str, words: str) -> None:
    assert describe_fit(tensors, nn.Linear(3, 2).state_dict(), prefix) == words
