"""Write results to places that cannot be written, with every command that writes: words and the documented code."""

from __future__ import annotations

import io
import os
import random
from collections import Counter
from collections.abc import Iterator
from contextlib import chdir, redirect_stderr, redirect_stdout
from pathlib import Path
from unittest.mock import patch

from PIL import Image

from faults.images import RECIPE
from faults.outcome import Part
from sslkit.__main__ import main

COMMANDS: dict[str, tuple[str, ...]] = {
    "run --runs": ("run", "small.toml", "--workers", "0", "--accelerator", "cpu", "--runs"),
    "run --arm": ("run", "small.toml", "--workers", "0", "--accelerator", "cpu", "--arm"),
    "ablate --runs": ("ablate", "small.toml", "--vary", "optimizer.base_lr=0.1,0.2", "--collect", "--runs"),
    "ablate --out": ("ablate", "small.toml", "--vary", "optimizer.base_lr=0.1,0.2", "--collect", "--out"),
    "verify resume --out": ("verify", "resume", "small.toml", "--kills", "1", "--steps", "4", "--out"),
    "views --out": ("views", "small.toml", "--out"),
    "data check --out": ("data", "check", "photos", "--out"),
    "proposals view --out": ("proposals", "view", "photos", "--out"),
    "images pack --out": ("images", "pack", "small.toml", "--out"),
    "check": ("check",), "resolve": ("resolve",), "probe": ("probe",), "data check": ("data", "check"),
}  # fmt: skip
"""What takes a path -> the command before it."""


def campaign(folder: Path, seed: int, cases: int) -> Part:
    """Give bad paths to commands.

    Args:
        folder: An empty folder.
        seed: Seed of all draws.
        cases: Number of commands.
    """
    part, rng, outcomes = Part("paths"), random.Random(seed), Counter[str]()
    with chdir(folder), patch.dict(os.environ, SSLKIT_CACHE=str(folder / "cache")):
        furnish()
        before = snapshot()
        for _ in range(cases):
            option = rng.choice(list(COMMANDS))
            path = bad_path(rng, option)
            part.cases[option] += 1
            code, wrong = judge([*COMMANDS[option], path])
            outcomes[f"exit code {code}"] += 1
            if wrong:
                part.fault(option, wrong, repr(path))
        for name in changed(before):
            part.fault("files", f"{name} changed", f"seed {seed}")
    part.figures["outcomes"] = dict(sorted(outcomes.items()))
    return part


def furnish() -> None:
    """Fill the current folder."""
    Path("small.toml").write_text(RECIPE)
    Path("file").write_text("mine")
    Path("folder").mkdir()
    Path("folder", "kept.txt").write_text("mine")
    Path("loop").symlink_to("loop")
    Path("nowhere").symlink_to("missing/too")
    Path("photos").mkdir()
    for number in range(2):
        Image.new("RGB", (40, 30), (200, 10 * number, 10)).save(f"photos/{number}.png")


def bad_path(rng: random.Random, option: str) -> str:
    """Return a path that cannot be written, or holds nothing that could be read."""
    ending = rng.choice([".png", ".json", ".toml", ""])
    odd = os.fsdecode(bytes(rng.choice(b"\xff\xe9\x80\xc3") for _ in range(3)))
    paths = [
        f"file/inside{ending}", f"file/deep/er{ending}", f"loop/x{ending}", f"nowhere/x{ending}", "nowhere",
        f"/proc/nowhere/x{ending}", f"/proc/self/x{ending}", f"/dev/null/x{ending}", f"/dev/full/x{ending}",
        "a" * rng.randint(256, 5000) + ending, "/".join(["deep" * 10] * 200) + ending, f"nul\0byte{ending}", "\0",
        f"/proc/{odd}{ending}", "/sys/kernel/x" + ending,
    ]  # fmt: skip
    if option in {"run --arm", "data check --out"}:
        paths.remove("nowhere")  # a good name of an arm; a link that is replaced by the file
    if option == "run --arm":
        paths += ["../x", "/x", "a/b", "../..", "./x", "", f"a\\b{odd}", "x" * 400]
    elif option.endswith("--out") and option.split()[0] in {"views", "data", "proposals"}:
        paths += ["folder", ".", "/", "..", "/dev", "photos/"]
    elif option in {"check", "resolve", "probe", "data check"}:
        paths += ["file", "loop", "folder", "/dev/null", "/", odd, "missing" + ending, "photos/0.png"]
    return rng.choice(paths)


def judge(words: list[str]) -> tuple[int | str, str]:
    """Run a command in this process; return its exit code, and what is wrong, if anything."""
    out, err = io.StringIO(), io.StringIO()
    try:
        with redirect_stdout(out), redirect_stderr(err):
            code = main(words)
    except BaseException as error:
        return "none", f"{type(error).__name__}: {error}"
    said = out.getvalue() + err.getvalue()
    if "Traceback" in said:
        return code, f"a traceback: {said[-300:]}"
    if code not in {1, 2, 3, 5}:
        return code, f"it ended with {code}: {said[-200:]}"
    if "error:" not in said.lower() and "cannot" not in said:
        return code, f"no reason: {said[-200:]!r}"
    return code, ""


def snapshot() -> dict[str, bytes]:
    """Return the contents of the files that must stay."""
    return {str(path): path.read_bytes() for path in kept()}


def changed(before: dict[str, bytes]) -> list[str]:
    """Return the files that are not as they were."""
    return [name for name, content in before.items() if not Path(name).is_file() or Path(name).read_bytes() != content]


def kept() -> Iterator[Path]:
    """Yield the files that are there before any command."""
    yield from (path for path in sorted(Path().rglob("*")) if path.is_file())
