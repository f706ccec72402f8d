"""The GPU rehearsal without its parts: time, processes and paths."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
BENCHMARKS = ROOT / "benchmarks"


@pytest.fixture(autouse=True)
def gpu(monkeypatch):
    """Its modules can be imported."""
    monkeypatch.syspath_prepend(BENCHMARKS)


def python(code, *arguments, **env):
    """Return the finished process of some code that can import the benchmarks."""
    path = os.pathsep.join([str(BENCHMARKS), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    return subprocess.run(
        command, env={**os.environ, "PYTHONPATH": path, **env}, capture_output=True, text=True, check=False
    )


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def gone(pids, seconds=5.0):
    """Return whether all processes end in this time."""
    deadline = time.monotonic() + seconds
    while any(map(alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not any(map(alive, pids))


# ------------------------------------------------------------------------------------------------- time


def test_time_is_divided_by_shares_and_what_is_left_over_goes_on():
    from gpu.budget import END_S, Budget
    from gpu.parts import Part

    now = [100.0]
    budget = Budget(60 + END_S, clock=lambda: now[0])
    parts = [Part("a", "a", "", 1, 1), Part("g", "g", "", 1, 1, needs_gpu=True), Part("z", "z", "", 4, 2)]
    assert budget.bound(parts, on_gpu=True) == pytest.approx(10)
    assert budget.bound(parts, on_gpu=False) == pytest.approx(20)  # nothing is set aside for a part that is skipped
    now[0] += 2
    assert budget.bound(parts[1:], on_gpu=True) == pytest.approx(58 / 5)
    assert budget.bound(parts[2:], on_gpu=False) == pytest.approx(58)
    now[0] += 100
    assert budget.bound(parts[2:], on_gpu=True) == 0


def test_parts_exist_under_distinct_names():
    from gpu.parts import ALL, BY_NAME

    assert len(BY_NAME) == len(ALL)
    for part in ALL:
        assert (BENCHMARKS / "gpu" / "parts" / f"{part.module}.py").exists()
    assert ALL[-1].name == "learning"  # it gets the time that is left


# ------------------------------------------------------------------------------------------------- processes


FAMILY = """
import os, signal, subprocess, sys, time
sleeper = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); time.sleep(600)"
children = [subprocess.Popen([sys.executable, "-c", sleeper], stdout=subprocess.PIPE, start_new_session=own)
            for own in (False, True)]
for child in children:
    child.stdout.readline()
print(*[child.pid for child in children], os.getpid(), flush=True)
"""


@pytest.mark.skipif(not Path("/proc").exists(), reason="processes are found in /proc")
@pytest.mark.parametrize("how", ["it waits", "it ends and leaves children"])
def test_a_part_is_ended_with_all_its_descendants(tmp_path, how):
    from gpu import process

    code = FAMILY + ("time.sleep(600)" if how == "it waits" else "")
    began = time.monotonic()
    outcome = process.run([sys.executable, "-c", code], os.environ, tmp_path, tmp_path / "log", 3.0)
    pids = [int(word) for word in outcome.tail.split()]
    assert len(pids) == 3, outcome.tail
    assert gone(pids)
    assert outcome.code == (None if how == "it waits" else 0)
    assert time.monotonic() - began < 3.0 + process.GRACE_S + 3.0


def test_how_a_process_ends_is_reported(tmp_path):
    from gpu import process

    def run(code):
        return process.run([sys.executable, "-c", code], os.environ, tmp_path, tmp_path / "log", 60)

    assert run("print('last words'); raise SystemExit(3)").code == 3
    killed = run("import os; print('last words', flush=True); os.kill(os.getpid(), 11)")
    assert (killed.code, killed.tail) == (-signal.SIGSEGV, "last words")


def test_the_tail_of_an_output_leaves_out_what_a_bar_has_overwritten():
    from gpu.process import tail

    assert tail("first\n\n10 %\r50 %\r100 %\r\nlast\n", lines=2) == "100 %\nlast"
    assert len(tail("x" * 1000)) == 160


def test_the_status_of_a_part_comes_from_its_record_and_its_process():
    from gpu.process import Outcome
    from gpu.rehearsal import judge

    passed = {"status": "passed", "error": None}
    assert judge(passed, Outcome(0, 1.0, "")) == ("passed", None)
    assert judge({"status": "failed", "error": "why"}, Outcome(0, 1.0, "")) == ("failed", "why")
    assert judge(passed, Outcome(None, 7.0, "words"))[0] == "out of time"
    status, error = judge({}, Outcome(-11, 1.0, "words"))
    assert status == "failed"
    assert error == "ended by SIGSEGV; the last lines that it printed:\nwords"
    assert judge({}, Outcome(1, 1.0, ""))[1].startswith("exit code 1;")


# ------------------------------------------------------------------------------------------------- paths


LISTED = """
from importlib.metadata import entry_points, version
import json, sslkit, sslkit_univip
points = {point.name: point.value for point in entry_points(group="sslkit")}
print(json.dumps([points, version("sslkit"), sslkit.__file__, sslkit_univip.__file__]))
"""


def test_entry_points_and_packages_are_those_of_the_checkout(tmp_path, monkeypatch):
    """A stale wheel in `site` and an installed sslkit change nothing; other plugins of `site` are found."""
    from gpu import checkout

    monkeypatch.delenv("PYTHONPATH", raising=False)
    site = tmp_path / "site"
    for name, points in (("sslkit-0.0.1", "old = sslkit_old"), ("third-1.0", "third = json")):
        info = site / f"{name}.dist-info"
        info.mkdir(parents=True)
        project, _, version = name.partition("-")
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project}\nVersion: {version}\n")
        (info / "entry_points.txt").write_text(f"[sslkit]\n{points}\n")
    env = checkout.environment(checkout.write_metadata(tmp_path / "metadata"), site)
    done = subprocess.run([sys.executable, "-c", LISTED], env=env, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    points, version, core, plugin = json.loads(done.stdout)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert points == {**project["entry-points"]["sslkit"], "third": "json"}
    assert f'__version__ = "{version}"' in (ROOT / "sslkit" / "__init__.py").read_text()
    assert Path(core) == ROOT / "sslkit" / "__init__.py"
    assert Path(plugin) == ROOT / "plugins" / "sslkit_univip" / "__init__.py"


def test_wheels_are_taken_from_a_site_folder_only_where_sslkit_is_not_installed(tmp_path, monkeypatch):
    from gpu import checkout

    root = tmp_path / "checkout"
    (tmp_path / "site").mkdir()
    root.mkdir()
    monkeypatch.setattr(checkout, "distributions", lambda **_: iter([object()]))
    assert checkout.site_folder(root=root) is None
    assert checkout.site_folder(tmp_path / "site", root) == (tmp_path / "site").resolve()
    monkeypatch.setattr(checkout, "distributions", lambda **_: iter([]))
    assert checkout.site_folder(root=root) == (tmp_path / "site").resolve()
    (root / "site").mkdir()
    assert checkout.site_folder(root=root) == (root / "site").resolve()
    with pytest.raises(FileNotFoundError, match="--site nowhere: no such folder: write the folder"):
        checkout.site_folder(Path("nowhere"), root)


def test_the_command_itself_needs_neither_torch_nor_sslkit():
    """Where those fail to import, the parts say so, and the page is still written."""
    done = python(
        """
        import sys
        from gpu import __main__, page, rehearsal
        assert __main__.main(["--list"]) == 0
        print(sorted({name.partition(".")[0] for name in sys.modules} & {"torch", "sslkit", "numpy", "pydantic"}))
        """
    )
    assert done.stdout.splitlines()[-1] == "[]", done.stderr
    assert "cuda-graph  steps with --cuda-graph beside plain ones, only with a GPU" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--parts", "tests,lerning"], "unknown part 'lerning': did you mean learning?"),
        (["--parts", "x"], "unknown part 'x': write some of tests, float32"),
        (["--parts", ""], "--parts '' names none: write some of tests, float32"),
        (["--parts", " , "], "names none"),
        (["--minutes", "0.1"], "--minutes 0.1: write how many minutes it may take, 0.25 or more, such as 8"),
        (["--minutes", "nan"], "--minutes nan: write how many minutes"),
        (["--minutes", "inf"], "--minutes inf: write how many minutes"),
        (["--parts", "float32", "--out", "/proc/nowhere"], "/proc/nowhere"),
        (["--site", "nowhere"], "--site nowhere: no such folder"),
    ],
)
def test_what_is_written_wrong_is_refused(arguments, message, capsys):
    from gpu.__main__ import main

    with pytest.raises(SystemExit) as error:
        main(arguments)
    assert error.value.code == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_parts_run_in_their_order():
    from gpu.__main__ import chosen

    assert [part.name for part in chosen("learning, step,tests")] == ["tests", "step", "learning"]
