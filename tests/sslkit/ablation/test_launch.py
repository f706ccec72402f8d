"""Runs in processes on this machine: what each of them is started with."""

from __future__ import annotations

import pytest

from sslkit.ablation import launch


@pytest.fixture
def started(monkeypatch, tmp_path):
    """Return a function that starts a run, and returns the arguments and the environment of its process."""

    def started(jobs, *options, device=None):
        calls = []
        monkeypatch.setattr(launch, "_devices", lambda jobs: [])
        pool = launch.Pool(jobs, options, print)
        monkeypatch.setattr(pool, "start_and_wait", lambda args, log, env: calls.append((args, env)) or 0)
        pool.run_process(tmp_path, device)
        return calls[0]

    return started


def workers(arguments):
    return int(arguments[arguments.index("--workers") + 1]) if "--workers" in arguments else None


@pytest.mark.parametrize(("cores", "jobs", "expected"), [(2, 2, 0), (16, 4, 3), (8, 3, 0), (4, 8, 0)])
def test_several_runs_share_the_cores_among_threads_and_loader_processes(started, monkeypatch, cores, jobs, expected):
    monkeypatch.setattr(launch, "cores", lambda: cores)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    arguments, environment = started(jobs)
    assert workers(arguments) == expected
    assert environment["OMP_NUM_THREADS"] == str(max(1, cores // jobs))


def test_what_the_user_writes_stays(started, monkeypatch):
    monkeypatch.setattr(launch, "cores", lambda: 16)
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    arguments, environment = started(4, "--workers", "5")
    assert (workers(arguments), environment["OMP_NUM_THREADS"]) == (5, "7")


def test_a_single_run_and_runs_on_gpus_choose_for_themselves(started, monkeypatch):
    monkeypatch.setattr(launch, "cores", lambda: 16)
    assert workers(started(1)[0]) is None
    arguments, environment = started(4, device="2")
    assert workers(arguments) is None
    assert environment["CUDA_VISIBLE_DEVICES"] == "2"
