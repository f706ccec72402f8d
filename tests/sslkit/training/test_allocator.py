"""What is freed is kept: memory that is taken again has its pages."""

import platform
import subprocess
import sys

import pytest

SCRIPT = """
import resource, numpy
from sslkit.training.allocator import keep_freed

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        numpy.ones(100_000_000, numpy.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults()
without = faults()
assert keep_freed()
faults()
print(without, faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc alone")
def test_pages_are_not_made_anew() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    without, kept = map(int, done.stdout.split())
    assert kept < 0.01 * without


def test_other_libraries_are_left_alone(monkeypatch) -> None:
    from sslkit.training.allocator import keep_freed

    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert not keep_freed()
