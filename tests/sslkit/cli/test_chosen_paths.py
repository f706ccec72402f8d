"""Paths that the user chose, which cannot be used, end in words and the documented code, before any work."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from sslkit.__main__ import main

LONG = "a" * 300
NOT_UTF8 = os.fsdecode(b"caf\xe9")
FOLDERS = [
    ("file", 2, "file is not a folder"), ("file/inside", 2, "file is not a folder"),
    ("/dev/null", 2, "/dev/null is not a folder"), (LONG, 2, "File name too long"), (f"new/{LONG}", 2, "name too long"),
    ("loop/x", 2, "loop is not a folder"), ("nowhere", 2, "nowhere is not a folder"), ("/proc/nowhere", 1, "/proc/nowhere"),
]  # fmt: skip
"""Folders that cannot be written, the exit code, and what is told. Tests may run as root, who may write everywhere else."""
FILES = [
    ("folder", 2, "folder"), ("file/inside.png", 2, "file is not a folder"), (f"{LONG}.png", 2, "File name too long"),
    ("/proc/nowhere.png", 1, "/proc cannot be written"), ("/dev/full", 2, "/dev/full"), ("loop/x.png", 2, "loop is not a folder"),
]  # fmt: skip


@pytest.fixture
def here(tmp_path, monkeypatch, small_recipe):
    """Be in a folder with a recipe, an image, a file, a folder and a link to itself."""
    monkeypatch.chdir(tmp_path)
    Path("small.toml").write_text(small_recipe)
    Path("file").write_text("mine")
    Path("folder").mkdir()
    Path("loop").symlink_to("loop")
    Path("nowhere").symlink_to("missing")
    Path("images").mkdir()
    Image.new("RGB", (40, 30), (200, 10, 10)).save("images/0.png")
    return tmp_path


def refused(capsys, words, code, message):
    assert main(words) == code
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert Path("file").read_text() == "mine"
    assert not list(Path().rglob("*.part"))


@pytest.fixture
def no_training(monkeypatch):
    """Fail if anything trains or prepares data."""
    from sslkit.ablation import execute
    from sslkit.data import opening, scan

    def work(*args, **options):
        raise AssertionError("work was done before the path was checked")

    for module, name in ((execute, "train_runs"), (opening, "prepare"), (scan, "scan")):
        monkeypatch.setattr(module, name, work)


ABLATE = ["ablate", "small.toml", "--vary", "optimizer.base_lr=0.1,0.2"]


@pytest.mark.parametrize(("folder", "code", "message"), FOLDERS)
@pytest.mark.parametrize(
    "words",
    [["run", "small.toml", "--workers", "0", "--runs"], ["verify", "resume", "small.toml", "--out"]],
    ids=lambda words: words[0],
)
def test_a_folder_that_cannot_be_written(here, capsys, no_training, words, folder, code, message):
    refused(capsys, [*words, folder], code, message)


@pytest.mark.parametrize(
    ("words", "folder", "code", "message"),
    [
        (["--runs"], *FOLDERS[1]), (["--runs"], *FOLDERS[3]),
        (["--out"], *FOLDERS[2]), (["--collect", "--out"], *FOLDERS[4]), (["--emit", "sh", "--runs"], *FOLDERS[3]),
    ],
)  # fmt: skip
def test_a_folder_of_an_ablation_is_checked_before_anything_trains(
    here, capsys, no_training, words, folder, code, message
):
    refused(capsys, [*ABLATE, *words, folder], code, message)


@pytest.mark.parametrize(("file", "code", "message"), FILES)
@pytest.mark.parametrize(
    "words", [["views", "small.toml"], ["proposals", "view", "images"], ["data", "check", "images"]], ids="-".join
)
def test_a_file_that_cannot_be_written(here, capsys, no_training, words, file, code, message):
    refused(capsys, [*words, "--out", file], code, message)


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("v.xyz", "the ending '.xyz' is unknown"), ("v", "it has no ending"), ("v.png.txt", "'.txt'"),
        ("v.svg", "write one of .png, .jpg, .jpeg, .webp, .pdf"), (".png", "it has no ending"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("words", [["views", "small.toml"], ["proposals", "view", "images"]], ids="-".join)
def test_a_picture_of_an_unknown_kind(here, capsys, no_training, words, file, message):
    refused(capsys, [*words, "--out", file], 2, message)
    assert not Path(file).exists()


@pytest.mark.parametrize("name", ["v.png", "V.PNG", "new/folder/v.jpg", "v.webp", "v.pdf", f"{NOT_UTF8}.png"])
def test_a_picture_is_of_the_kind_that_its_ending_names(here, name):
    assert main(["views", "small.toml", "--out", name, "--count", "2"]) == 0
    start = Path(name).read_bytes()[:12]
    kinds = {".png": b"\x89PNG", ".jpg": b"\xff\xd8", ".webp": b"RIFF", ".pdf": b"%PDF"}
    assert start.startswith(kinds[Path(name).suffix.lower()])


def test_a_picture_that_its_format_cannot_hold_is_told(tmp_path):
    from sslkit.errors import StorageError
    from sslkit.files import save_picture

    with pytest.raises(StorageError, match=r"cannot write .*sheet\.webp"):
        save_picture(Image.new("RGB", (1, 20_000)), tmp_path / "sheet.webp")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arm", "message"),
    [
        ("../x", "such as --arm x"), ("/tmp/x", "such as --arm tmp-x"), ("a/b", "such as --arm a-b"),
        ("..\\x", "such as --arm x"), ("", "such as --arm full"), ("../..", "such as --arm full"),
        (LONG, "too long"), ("ü" * 130, "too long"), ("a\0b", "such as --arm a-b"),
    ],
)  # fmt: skip
def test_an_arm_names_one_folder_inside_runs(here, capsys, arm, message):
    refused(capsys, ["run", "small.toml", "--workers", "0", "--arm", arm], 2, message)
    assert not Path("runs").exists()
    assert not (here.parent / "x-s0").exists()


@pytest.mark.parametrize("arm", ["../../x", "x" * 300, "a/b\\c", NOT_UTF8])
def test_arms_of_an_ablation_get_folders_inside_runs(here, capsys, arm):
    words = ["ablate", "small.toml", "--arm", f"{arm}: --set optimizer.base_lr=0.3", "--emit", "sh"]
    assert main(words) == 0
    assert {path.relative_to(here).parts[0] for path in here.rglob("recipe.toml")} == {"runs"}
    assert len(list(Path("runs/small").iterdir())) == 2


@pytest.mark.parametrize("name", ["...toml", "..toml"])
def test_a_recipe_names_a_folder_inside_runs(here, capsys, name):
    Path(name).write_text(Path("small.toml").read_text())
    main(["ablate", name, "--vary", "optimizer.base_lr=0.1,0.2", "--emit", "sh"])
    assert not list(here.glob("*-s0"))


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["check", LONG], 3), (["run", LONG], 3), (["ablate", LONG, "--plan"], 3), (["data", "check", LONG], 3),
        (["proposals", "stats", LONG], 3), (["recipes", LONG], 3), (["probe", LONG], 5), (["verify", "replay", LONG], 5),
    ],
    ids=lambda value: " ".join(value[:2])[:20] if isinstance(value, list) else None,
)  # fmt: skip
def test_an_impossible_name_is_that_of_nothing(here, capsys, words, code):
    refused(capsys, words, code, LONG)


@pytest.mark.parametrize("value", [f"source.root='{NOT_UTF8}'", f"summary='{NOT_UTF8}'", f"{NOT_UTF8}=1"])
def test_a_value_that_is_not_utf8_is_told(here, capsys, value):
    refused(capsys, ["check", "small.toml", "--set", value], 2, "bytes that are not UTF-8")


def test_a_current_folder_that_is_gone_is_told(here, capsys, monkeypatch):
    def gone():
        raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr(os, "getcwd", gone)
    for words in (["views", "quickstart"], ["recipes"], ["run", "quickstart"]):
        assert main(words) == 2
        assert "the current folder no longer exists" in capsys.readouterr().err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize("words", [["recipes"], ["schema"]])
def test_a_full_disk_behind_a_pipe_is_told(words):
    code = f"import sys; from sslkit.__main__ import main; sys.exit(main({words!r}))"
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([sys.executable, "-c", code], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert "No space left on device" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.returncode == 1
