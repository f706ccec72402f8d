"""Import Lightning Fabric without torchmetrics, for a start that is a second shorter.

Fabric imports torchmetrics to compare its version, and torchmetrics imports most of SciPy and matplotlib. No run uses
any of them, and every process of a run would pay for it.
"""

from __future__ import annotations

import importlib
import sys
from importlib.machinery import ModuleSpec
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType

_UNUSED = "torchmetrics"


def import_fabric() -> None:
    """Import `lightning_fabric`; what it imports of torchmetrics meanwhile is its version."""
    if "lightning_fabric" in sys.modules or _UNUSED in sys.modules:
        return
    try:
        sys.modules[_UNUSED] = _version_only()
        importlib.import_module("lightning_fabric")
    except (PackageNotFoundError, ImportError, AttributeError):  # not installed, or a Fabric that needs more of it
        for name in [name for name in sys.modules if name.partition(".")[0] == "lightning_fabric"]:
            del sys.modules[name]
    finally:
        sys.modules.pop(_UNUSED, None)


def _version_only() -> ModuleType:
    module = ModuleType(_UNUSED)
    module.__version__ = version(_UNUSED)  # type: ignore[attr-defined]
    module.__spec__ = ModuleSpec(_UNUSED, None)
    return module
