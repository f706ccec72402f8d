"""What "auto" precision comes to, and that a run keeps it."""

import pytest
import torch

from sslkit.training import hardware
from sslkit.training.hardware import fast_at_bf16, precision_note, precision_of, with_precision


@pytest.fixture
def fast(monkeypatch):
    """Return a function that makes this machine fast at bfloat16, or slow."""

    def fast(yes):
        monkeypatch.setattr(hardware, "fast_at_bf16", lambda accelerator="auto": yes)

    return fast


@pytest.mark.parametrize(
    ("avx", "amx", "is_fast"), [(False, False, False), (True, False, True), (False, True, True), (True, True, True)]
)
def test_cpus_are_fast_with_bfloat16_products(monkeypatch, avx, amx, is_fast):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx, raising=False)
    assert fast_at_bf16("cpu") is is_fast


@pytest.mark.parametrize(("capability", "is_fast"), [((7, 5), False), ((8, 0), True), ((9, 0), True)])
def test_gpus_are_fast_from_ampere_on(monkeypatch, capability, is_fast):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    assert fast_at_bf16("auto") is is_fast
    assert fast_at_bf16("cuda") is is_fast
    assert not fast_at_bf16("mps")


def plan_of(plugins, recipe_text, *sets):
    from sslkit.planning import recipe_file
    from sslkit.planning.planner import make_plan

    made, problems = recipe_file.check_structure(recipe_file.parse(recipe_text, "dots", "dots.toml", sets))
    assert made, problems
    plan, problems = make_plan(made, plugins)
    assert plan, problems
    return plan


def test_auto_is_settled_once_and_what_is_written_stays(plugins, recipe_text, fast):
    auto = plan_of(plugins, recipe_text, "precision=auto")
    fast(True)
    begun = with_precision(auto, "cpu", {})
    assert precision_of(begun.recipe) == begun.resolved()["auto_precision"] == "bf16-mixed"
    fast(False)
    assert precision_of(auto.recipe) == "32-true"
    again = with_precision(auto, "cpu", begun.resolved())
    assert precision_of(again.recipe) == "bf16-mixed"
    assert precision_note(again.recipe, "cpu") == (
        'precision bf16-mixed (auto): the run began with it; "auto" would be 32-true on this machine'
    )
    written = plan_of(plugins, recipe_text, "precision=16-mixed")
    assert with_precision(written, "cpu", {}) is written
    assert precision_note(written.recipe, "cpu") == "precision 16-mixed"


def test_a_run_goes_on_elsewhere_in_the_precision_it_began_with(run, fast, capsys):
    fast(True)
    run("precision=auto", "probes={}", stop_after=2)
    fast(False)
    result = run("precision=auto", "probes={}")
    assert (result.state, result.resumed_from) == ("finished", 2)
    assert 'precision bf16-mixed (auto): the run began with it; "auto" would be 32-true' in capsys.readouterr().err
    assert 'auto_precision = "bf16-mixed"' in (result.folder / "recipe.toml").read_text()
