"""The environment of a session."""

import subprocess
from pathlib import Path

from sslkit.storage import environment


def test_the_commit_is_marked_when_there_are_changes(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert environment._git() is None
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@example.org"]
    for command in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "first"]):
        subprocess.run([*git, *command], check=True)
    clean = environment._git()
    assert clean
    assert not clean.endswith("+")
    Path("file").write_text("x")
    subprocess.run([*git, "add", "file"], check=True)
    assert environment._git() == clean + "+"
