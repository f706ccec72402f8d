"""Test a foreign plugin in a real environment: list, check and train it, and show that it changes nothing else.

Run by `nox -s thirdparty`, where the wheels of sslkit and sslkit-toy are installed side by side. The script uninstalls
the toy on the way, and restores its files at the end. Exit code 0 means that everything holds; a failure is printed.
"""

# ruff: noqa: T201 - a script that prints

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import torch

TOY = "sslkit-toy"
OFFERED = {("objective", "toy/cosine-spread"), ("sampler", "toy/corners"), ("backbone", "toy/tiny-conv")}
STEPS = 2
REDUCED = ("batch_size=8", "source.images=32", "optimizer.warmup_epochs=0", "heads.main.projector.hidden=64")
"""Overrides that make the quickstart small enough for two quick steps, with all of its components."""

Tensors = Mapping[str, torch.Tensor]
T = TypeVar("T")


def main() -> int:
    """Run the campaign; return the exit code."""
    with tempfile.TemporaryDirectory(prefix="sslkit-campaign-") as folder:
        try:
            campaign(Sandbox(Path(folder)))
        except Exception as error:  # any error is printed, and fails the session
            if not isinstance(error, AssertionError):
                traceback.print_exc()
            print(f"\nFAILED: {error}", file=sys.stderr, flush=True)
            return 1
    print("\nthe campaign passed")
    return 0


class Sandbox:
    """A folder to run the `sslkit` command in."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        command = shutil.which("sslkit", path=str(Path(sys.executable).parent)) or shutil.which("sslkit")
        demand(command is not None, f"command 'sslkit' not found beside {sys.executable}: install the wheel first")
        self.command = str(command)
        self.env = {name: value for name, value in os.environ.items() if name not in ("SSLKIT_PLUGINS", "PYTHONPATH")}
        self.env["SSLKIT_CACHE"] = str(folder / "cache")
        self.env["SSLKIT_AUTO_PRECISION"] = "rule"  # runs are compared by their bits

    def sslkit(self, *arguments: str, plugins: str | None = None, code: int = 0) -> str:
        """Run a command, demand its exit code and return its output on stdout."""
        env = self.env | ({} if plugins is None else {"SSLKIT_PLUGINS": plugins})
        shown = f"SSLKIT_PLUGINS={plugins} " if plugins else ""
        print(f"    $ {shown}sslkit {' '.join(arguments)}", flush=True)
        done = subprocess.run(
            [self.command, *arguments], cwd=self.folder, env=env, capture_output=True, text=True, check=False
        )
        outcome = f"exit code {done.returncode} instead of {code}:\n{done.stdout}{done.stderr}"
        demand(done.returncode == code, f"sslkit {' '.join(arguments)} ended with {outcome}")
        return done.stdout

    def train(self, recipe: str, arm: str, *sets: str, plugins: str | None = None) -> Path:
        """Train a recipe on the CPU and return the run's folder."""
        options = [part for value in sets for part in ("--set", value)]
        hardware = ("--accelerator", "cpu", "--workers", "0", "--save-every", "1")
        result = json.loads(
            self.sslkit("run", recipe, "--runs", "runs", "--arm", arm, *hardware, "--json", *options, plugins=plugins)
        )
        where = f"{result['state']} at step {result['step']}"
        demand(
            (result["state"], result["step"]) == ("finished", STEPS), f"{recipe} is {where}, not finished at {STEPS}"
        )
        print(f"      {where}: {', '.join(f'{name} {value:.4g}' for name, value in result['terms'].items())}")
        return self.folder / str(result["folder"])


def campaign(sandbox: Sandbox) -> None:
    """Take every step, in order."""
    names = step("the toy is listed with all its components, and nothing is broken", lambda: listed(sandbox))
    step("its recipe is valid", lambda: sandbox.sslkit("check", "toy/toy"))
    step("its recipe trains", lambda: trained(sandbox))
    recipe = reduced_quickstart(sandbox)
    visible = step(
        "a first-party recipe trains with the toy visible", lambda: sandbox.train(recipe, "visible", *REDUCED)
    )
    step("its weights change between steps, so that comparisons mean something", lambda: moving(visible))
    others = ",".join(name for name in names if name != "toy")
    hidden = step(
        "the same recipe trains with the toy hidden by SSLKIT_PLUGINS",
        lambda: sandbox.train(recipe, "hidden", *REDUCED, plugins=others),
    )
    step("the weights are the same, bit for bit", lambda: demand_same(visible, hidden))
    step("a hidden toy cannot be used", lambda: refused(sandbox, plugins=others))
    with uninstalled(sandbox.folder / "aside"):
        step("the toy is not listed any more", lambda: absent(sandbox))
        step("its recipe is not found any more", lambda: refused(sandbox))
        gone = step(
            "the same recipe trains with the toy uninstalled", lambda: sandbox.train(recipe, "uninstalled", *REDUCED)
        )
    step("the weights are the same, bit for bit", lambda: demand_same(visible, gone))
    step("restored, the toy is listed again", lambda: listed(sandbox))


def step(title: str, work: Callable[[], T]) -> T:
    """Print a step's title, run it, and print how long it took."""
    print(f"\n* {title}", flush=True)
    started = time.monotonic()
    result = work()
    print(f"    holds ({time.monotonic() - started:.1f} s)", flush=True)
    return result


def demand(condition: bool, message: str) -> None:
    """Fail with this message unless a condition holds."""
    if not condition:
        raise AssertionError(message)


def listed(sandbox: Sandbox) -> list[str]:
    """Demand that the toy is listed with its version and components; return the names of all plugins."""
    listing = json.loads(sandbox.sslkit("plugins", "--json"))
    demand(not listing["broken"], f"broken plugins: {listing['broken']}")
    demand("toy" in listing["plugins"], f"the toy is not among the plugins {sorted(listing['plugins'])}")
    toy = listing["plugins"]["toy"]
    offered = {(item["kind"], item["id"]) for item in toy["components"]}
    demand(offered == OFFERED, f"the toy offers {sorted(offered)}, not {sorted(OFFERED)}")
    owner, installed = (toy["distribution"], toy["version"]), (TOY, importlib.metadata.version(TOY))
    demand(owner == installed, f"the toy is listed as {owner}, installed is {installed}")
    print(f"      {TOY} {toy['version']}: {', '.join(id_ for _, id_ in sorted(offered))}")
    return list(listing["plugins"])


def absent(sandbox: Sandbox) -> None:
    """Demand that the toy is not listed, and that nothing is broken without it."""
    listing = json.loads(sandbox.sslkit("plugins", "--json"))
    demand("toy" not in listing["plugins"], "the toy is still listed")
    demand(not listing["broken"], f"broken plugins: {listing['broken']}")


def trained(sandbox: Sandbox) -> None:
    """Train the toy's recipe; demand finite weights, and components and version in the run's folder."""
    run = sandbox.train("toy/toy", "full")
    bad = [name for name, value in weights(run).items() if not value.isfinite().all()]
    demand(not bad, f"weights are not finite: {bad}")
    resolved = (run / "recipe.toml").read_text(encoding="utf-8")
    for text in (
        "toy/cosine-spread",
        "toy/corners",
        "toy/tiny-conv",
        "univip/scene-scene",
        importlib.metadata.version(TOY),
    ):
        demand(text in resolved, f"{run / 'recipe.toml'} does not mention {text}:\n{resolved}")


def refused(sandbox: Sandbox, plugins: str | None = None) -> None:
    """Demand that the toy's recipe is not found without the toy: exit code 3, a problem of a recipe."""
    sandbox.sslkit("check", "toy/toy", plugins=plugins, code=3)


def reduced_quickstart(sandbox: Sandbox) -> str:
    """Write a copy of the quickstart with few steps; return its name."""
    text = sandbox.sslkit("recipes", "quickstart")
    demand("\nsteps = " in text, "the quickstart has no line 'steps = ...' to replace")
    lines = [f"steps = {STEPS}" if line.startswith("steps = ") else line for line in text.splitlines()]
    (sandbox.folder / "reduced.toml").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return "reduced.toml"


def weights(run: Path, step: int = STEPS) -> Tensors:
    """Load the tensors of the model in a run's checkpoint, without executing code."""
    path = run / "checkpoints" / f"step-{step:08d}.pt"
    model: Tensors = torch.load(path, map_location="cpu", weights_only=True)["model"]
    demand(bool(model), f"{path} holds no tensors")
    return model


def different(a: Tensors, b: Tensors) -> list[str]:
    """Return the names of tensors that one side lacks, or that differ in type, shape or any bit."""
    return sorted(a.keys() ^ b.keys()) + [name for name in a.keys() & b.keys() if bits(a[name]) != bits(b[name])]


def bits(value: torch.Tensor) -> tuple[torch.dtype, torch.Size, bytes]:
    """Return type, shape and bytes of a tensor."""
    return value.dtype, value.shape, value.contiguous().flatten().view(torch.uint8).numpy().tobytes()


def moving(run: Path) -> None:
    """Demand that most of the tensors change from one step to the next."""
    before, after = weights(run, STEPS - 1), weights(run)
    count = len(different(before, after))
    demand(2 * count > len(after), f"only {count} of {len(after)} tensors change in a step")
    print(f"      {count} of {len(after)} tensors differ")


def demand_same(a: Path, b: Path) -> None:
    """Demand that two runs ended with the same model, bit for bit."""
    first, second = weights(a), weights(b)
    names = different(first, second)
    demand(not names, f"{len(names)} of {len(first)} tensors differ between {a.name} and {b.name}: {names[:5]}")
    total = sum(value.numel() for value in first.values())
    print(f"      {len(first)} tensors with {total:,} numbers, all equal")


@contextmanager
def uninstalled(aside: Path) -> Iterator[None]:
    """Uninstall the toy with a package manager; restore its files afterwards, also on failure."""
    toy = importlib.metadata.distribution(TOY)
    copies = [(Path(str(toy.locate_file(name))).resolve(), aside / str(i)) for i, name in enumerate(toy.files or ())]
    copies = [(file, copy) for file, copy in copies if file.is_file()]
    demand(bool(copies), f"{TOY} lists no installed files: install it from a wheel")
    aside.mkdir()
    for file, copy in copies:
        shutil.copy2(file, copy)
    uninstall()
    try:
        left = [str(file) for file, _ in copies if file.exists() and file.suffix != ".pyc"]
        demand(not left, f"files that are left after uninstalling: {left}")
        yield
    finally:
        for file, copy in copies:
            file.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(copy, file)


def uninstall() -> None:
    """Uninstall the toy with pip if it is installed, else with uv."""
    if importlib.util.find_spec("pip"):
        command = [sys.executable, "-m", "pip", "uninstall", "--yes", "--quiet", TOY]
    else:
        uv = shutil.which("uv")
        demand(uv is not None, f"neither pip (in {sys.executable}) nor uv found to uninstall {TOY}")
        command = [str(uv), "pip", "uninstall", "--quiet", "--python", sys.executable, TOY]
    print(f"\n* uninstall\n    $ {' '.join(command)}", flush=True)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    demand(done.returncode == 0, f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")


if __name__ == "__main__":
    sys.exit(main())
