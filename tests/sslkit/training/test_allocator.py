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


TRIM = """
import numpy
from sslkit.training.allocator import keep_freed, trim

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096

keep_freed()
before = resident()
numpy.ones(200_000_000, numpy.uint8)
kept = resident() - before
trim()
print(kept, resident() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc alone")
def test_freed_memory_is_returned_when_asked() -> None:
    done = subprocess.run([sys.executable, "-c", TRIM], capture_output=True, text=True, check=True)
    kept, after = map(int, done.stdout.split())
    assert kept > 150_000_000
    assert after < 20_000_000


def test_other_libraries_are_left_alone(monkeypatch) -> None:
    from sslkit.training.allocator import keep_freed, trim

    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert not keep_freed()
    trim()
