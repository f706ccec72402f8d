"""The error of a step that is not finite: one family, one message."""

from __future__ import annotations

import pytest

from sslkit.errors import DivergedError
from sslkit.training.divergence import CollapsedError, NonFiniteError


def test_one_family_with_one_exit_code() -> None:
    assert issubclass(NonFiniteError, DivergedError)
    assert issubclass(CollapsedError, DivergedError)
    assert {error.exit_code for error in (DivergedError, NonFiniteError, CollapsedError)} == {6}


def test_the_message_names_what_is_not_finite_where_the_record_is_and_what_to_do() -> None:
    error = NonFiniteError(7, ["a.loss"], {"a.loss": float("nan"), "b.loss": 1.0}, 0.25, [])
    assert str(error) == (
        "step 7 is not finite: a.loss = nan. The optimizer step was not taken. Common causes: a learning rate too high "
        "for the batch (now 0.25), too short a warm-up, 16-bit precision"
    )
    error.record, error.advice = "`sslkit verify replay X` replays it", "\n    more"
    assert "was not taken. `sslkit verify replay X` replays it. Common causes" in str(error)
    assert str(error).endswith("16-bit precision\n    more")


def test_a_step_that_is_not_finite_moves_nothing(train_step) -> None:
    made = train_step('objectives.explode={head="main"}')
    with made.setup.loader(0, 2) as loader:
        made(loader)
        before = {name: value.clone() for name, value in made.network.named_parameters()}
        with pytest.raises(NonFiniteError, match=r"step 2 is not finite: .*explode\.loss = nan") as caught:
            made(loader)
    assert made.state.step == 1
    assert len(caught.value.batches) == 1
    assert all((value == before[name]).all() for name, value in made.network.named_parameters())
