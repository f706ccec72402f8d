"""All files are written, each completely or not at all."""

import subprocess
import sys
from dataclasses import replace

import pytest

from sslkit import report
from sslkit.report import page

NAMES = ["table.md", "table.tex", "table.csv", "results.json", "figure.png", "figure.svg", "report.html"]


def test_seven_files_are_written(results, tmp_path):
    files = report.write(replace(results, metrics=("knn top1",)), tmp_path / "new" / "folder")
    assert [file.name for file in files] == NAMES
    assert sorted(file.name for file in (tmp_path / "new" / "folder").iterdir()) == sorted(NAMES)
    assert all(file.stat().st_size > 100 for file in files)


def test_a_file_that_cannot_be_made_leaves_the_old_one(results, tmp_path, monkeypatch):
    (tmp_path / "report.html").write_text("old")

    def fail(_):
        raise RuntimeError("no page today")

    monkeypatch.setattr(page, "to_html", fail)
    with pytest.raises(RuntimeError, match="no page today"):
        report.write(replace(results, metrics=()), tmp_path)
    assert (tmp_path / "report.html").read_text() == "old"
    assert (tmp_path / "table.md").exists()


def test_importing_is_light():
    code = "import sys, sslkit.report; print([n for n in ('matplotlib', 'scipy', 'torch', 'rich') if n in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
