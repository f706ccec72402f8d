"""The conformance kit: what every component must do, as checks that a plugin's own tests can run.

    from sslkit.testing import Case, parametrize_with_checks

    @parametrize_with_checks([MyObjective, Case(MySampler, {"views": 3})])
    def test_conformance(case, check):
        check(case)

gives one test per (component, check). Without pytest, `check_objective(MyObjective, weight=2.0)` runs all of them and
raises one AssertionError that lists what is wrong. The core's and the first-party components pass the same checks.
"""

from sslkit.testing.case import Case
from sslkit.testing.fakes import blobs, fake_dims, fake_photo, fake_rows
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
    "fake_photo",
    "fake_rows",
    "parametrize_with_checks",
]
