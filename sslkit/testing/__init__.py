"""The conformance kit: checks of every component's contract, for the tests of a plugin.

    from sslkit.testing import Case, parametrize_with_checks

    @parametrize_with_checks([MyObjective, Case(MySampler, {"views": 3})])
    def test_conformance(case, check):
        check(case)

makes one test per (component, check). Without pytest, `check_objective(MyObjective, weight=2.0)` runs all checks and
raises one AssertionError that lists every failure. First-party components pass the same checks.
"""

from sslkit.testing.case import Case
from sslkit.testing.fakes import blobs, fake_dims, fake_image, fake_rows
from sslkit.testing.kit import (
    Check,
    check_backbone,
    check_component,
    check_head,
    check_objective,
    check_plugin,
    check_probe,
    check_sampler,
    check_source,
    checks_of,
    parametrize_with_checks,
)

__all__ = [
    "Case",
    "Check",
    "blobs",
    "check_backbone",
    "check_component",
    "check_head",
    "check_objective",
    "check_plugin",
    "check_probe",
    "check_sampler",
    "check_source",
    "checks_of",
    "fake_dims",
    "fake_image",
    "fake_rows",
    "parametrize_with_checks",
]
