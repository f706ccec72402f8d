"""Fabric is imported without the libraries that it imports to compare a version."""

import subprocess
import sys

AFTERWARDS = """
import sys
{before}
from sslkit.training.fabric_import import import_fabric
import_fabric()
assert "torchmetrics" not in sys.modules, "the stand-in stays"
assert "scipy.signal" not in sys.modules
import lightning_fabric
from lightning_fabric.utilities import imports
print(imports._TORCHMETRICS_GREATER_EQUAL_1_0_0)
import torchmetrics.aggregation
assert torchmetrics.aggregation.MeanMetric
"""


def output_of(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_torchmetrics_is_told_by_its_version_and_can_be_imported_afterwards():
    assert output_of(AFTERWARDS.format(before="")) == "True\n"


def test_a_fabric_that_needs_more_of_it_is_imported_as_usual():
    code = """
import sys
from importlib.metadata import PackageNotFoundError
from sslkit.training import fabric_import
def refuse(*args):
    raise error("more")
fabric_import.importlib = type("importlib", (), {"import_module": staticmethod(refuse)})
for error in (ImportError, AttributeError, PackageNotFoundError):
    fabric_import.import_fabric()
    assert "torchmetrics" not in sys.modules
from lightning_fabric import Fabric
print("torchmetrics" in sys.modules)
"""
    assert output_of(code) == "True\n"


def test_what_is_imported_already_stays():
    import torchmetrics

    from sslkit.training.fabric_import import import_fabric

    import_fabric()
    assert sys.modules["torchmetrics"] is torchmetrics
