"""Run the checks of a component, one by one with pytest or all at once."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from sslkit.errors import closest
from sslkit.foreign.isolation import describe, is_failure
from sslkit.plugins import Plugins
from sslkit.testing.case import KINDS, Case
from sslkit.testing.common import COMMON
from sslkit.testing.networks import BACKBONE, HEAD
from sslkit.testing.objectives import OBJECTIVE
from sslkit.testing.probes import PROBE
from sslkit.testing.samplers import SAMPLER
from sslkit.testing.sources import SOURCE

Check = Callable[[Case], None]
"""Takes a case, and raises AssertionError if the component breaks its contract."""

_OF_KIND: Mapping[str, Sequence[Check]] = {
    "objective": OBJECTIVE,
    "sampler": SAMPLER,
    "backbone": BACKBONE,
    "head": HEAD,
    "source": SOURCE,
    "probe": PROBE,
}


def checks_of(kind: str) -> Iterator[tuple[str, Check]]:
    """Yield the name and the function of every check for a kind of component.

    Args:
        kind: "objective", "sampler", "backbone", "head", "source" or "probe".

    Raises:
        ValueError: The kind is unknown.
    """
    if kind not in _OF_KIND:
        raise ValueError(f"unknown kind '{kind}'{closest(kind, _OF_KIND) or '; known: ' + ', '.join(_OF_KIND)}")
    for check in (*COMMON, *_OF_KIND[kind]):
        yield check.__name__.removeprefix("check_"), check


def check_component(case: Case | type[Any]) -> None:
    """Run every check of a component.

    Raises:
        AssertionError: Some checks failed; the message lists every failure.
    """
    case = case if isinstance(case, Case) else Case(case)
    failures = [text for name, check in checks_of(case.kind) if (text := _failure(case, name, check))]
    assert not failures, f"{case.kind} '{case.name}' fails {len(failures)} checks:\n" + "\n".join(failures)


def _failure(case: Case, name: str, check: Check) -> str | None:
    expected = case.expected_failed_checks.get(name)
    try:
        check(case)
    except BaseException as error:  # a component under test may fail in any way
        if not is_failure(error):
            raise
        text = str(error) if isinstance(error, AssertionError) else describe(error)
        return None if expected else f"  {name}: {text}"
    return f"  {name}: passes, although it is expected to fail ({expected})" if expected else None


def _check(kind: str, cls: type[Any], dims: Mapping[str, int] | None, options: Mapping[str, Any]) -> None:
    case = Case(cls, options, dims or {})
    assert case.kind == kind, f"{cls.__name__} is a {KINDS[case.kind].__name__}: use check_{case.kind}"
    check_component(case)


def check_objective(cls: type[Any], dims: Mapping[str, int] | None = None, **options: Any) -> None:
    """Run every check of an objective; see `check_component`.

    Args:
        cls: The class.
        dims: Sizes of named axes, if the defaults do not suit it.
        options: Options as in a recipe.
    """
    _check("objective", cls, dims, options)


def check_sampler(cls: type[Any], **options: Any) -> None:
    """Run every check of a view sampler; see `check_component`."""
    _check("sampler", cls, None, options)


def check_backbone(cls: type[Any], **options: Any) -> None:
    """Run every check of a backbone, with images of 64 and 96 pixels; use `Case(..., sizes=...)` for other sizes."""
    _check("backbone", cls, None, options)


def check_head(cls: type[Any], dims: Mapping[str, int] | None = None, **options: Any) -> None:
    """Run every check of a projector or predictor; see `check_component`."""
    _check("head", cls, dims, options)


def check_source(cls: type[Any], **options: Any) -> None:
    """Run every check of a source, whose data must exist; see `check_component`."""
    _check("source", cls, None, options)


def check_probe(cls: type[Any], **options: Any) -> None:
    """Run every check of a probe; see `check_component`."""
    _check("probe", cls, None, options)


def check_plugin(name: str) -> None:
    """Load an installed plugin by the name of its entry point, and assert that none of it is broken."""
    plugins = Plugins.load(only=[name])
    offered = sum(len(components) for components in plugins.components.values()) + len(plugins.recipes())
    assert not plugins.broken, "; ".join(item.reason for item in plugins.broken)
    assert offered or len(plugins.manager.get_hookcallers(plugins.manager.get_plugin(name)) or ()), (
        f"plugin '{name}' offers nothing: decorate its functions with @sslkit.hookimpl"
    )


def parametrize_with_checks(
    components: Sequence[Case | type[Any]], *, expected_failed_checks: Mapping[str, str] | None = None
) -> Any:
    """Turn a test `def test_conformance(case, check): check(case)` into one test per (component, check).

    Args:
        components: Classes, or `Case`s for classes that need options or sizes.
        expected_failed_checks: Name of a check -> reason, for all components; they become strict expected failures.

    Raises:
        ValueError: An expected failure is not the name of a check.
    """
    import pytest

    cases = [_with_expected(item, expected_failed_checks or {}) for item in components]
    parameters = [
        pytest.param(case, check, id=f"{case.name}-{name}", marks=_marks(case, name))
        for case in cases
        for name, check in checks_of(case.kind)
    ]
    return pytest.mark.parametrize(("case", "check"), parameters)


def _with_expected(component: Case | type[Any], expected: Mapping[str, str]) -> Case:
    case = component if isinstance(component, Case) else Case(component)
    case = dataclasses.replace(case, expected_failed_checks={**expected, **case.expected_failed_checks})
    known = [name for name, _ in checks_of(case.kind)]
    unknown = [name for name in case.expected_failed_checks if name not in known]
    if unknown:
        raise ValueError(f"unknown check '{unknown[0]}' for {case.kind}s{closest(unknown[0], known)}")
    return case


def _marks(case: Case, name: str) -> list[Any]:
    import pytest

    reason = case.expected_failed_checks.get(name)
    return [pytest.mark.xfail(reason=reason, strict=True)] if reason else []
