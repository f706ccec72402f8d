"""Fixtures: a plugin for tests, so that the core is tested without the first-party ones."""

from __future__ import annotations

import fcntl
import gc
import io
import os
import shutil
import types
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import Field
from torch import nn

from sslkit import hookimpl
from sslkit.api import Backbone, Head, Objective, Objects, Probe, Sample, Source, Terms, ViewSampler
from sslkit.plugins import Owner, Plugins
from sslkit.training import allocator, hardware, trial


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let slow tests run first, spread over the processes by file: one that begins last keeps a core waiting.

    pytest-xdist gives each process an equal, contiguous part of the tests.
    """
    processes = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    slow = [item for item in items if item.get_closest_marker("slow")]
    rest = [item for item in items if not item.get_closest_marker("slow")]
    files = list(dict.fromkeys(item.path for item in slow))
    ordered: list[pytest.Item] = []
    for process in range(processes):
        mine = [item for item in slow if files.index(item.path) % processes == process]
        room = len(items) * (process + 1) // processes - len(ordered) - len(mine)
        ordered += mine + rest[:room]
        del rest[:room]
    items[:] = ordered


class Dots(Source):
    """Random images with one coloured square each, labelled by its colour."""

    name = "dots"
    categories = ("red", "green")

    def __init__(
        self, *, images: Annotated[int, Field(ge=1)] = 12, broken: tuple[int, ...] = (), absent: bool = False,
        first: int = 0,
    ) -> None:  # fmt: skip
        self.images = images
        self.first = first
        self.broken = broken
        self.absent = absent

    def missing(self) -> str | None:
        return "the dots are missing; run: make dots" if self.absent else None

    def open(self) -> None:
        pass

    def __len__(self) -> int:
        return self.images

    def key(self, index: int) -> str:
        return f"{index:04d}.png"

    def read(self, index: int) -> bytes:
        if index in self.broken:
            return b"this is not an image"
        rng = np.random.default_rng(self.first + index)
        pixels = rng.integers(0, 256, (40, 48, 3), np.uint8)
        pixels[8:32, 10:34] = 0
        pixels[8:32, 10:34, index % 2] = 250
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG")
        return file.getvalue()

    def objects(self, index: int) -> Objects:
        return Objects(np.array([[10, 8, 34, 32]], np.float32), np.array([index % 2], np.int64))


class Pair(ViewSampler):
    """Two boxes of random size, and small ones if `parts` is set."""

    name = "pair"

    def __init__(self, *, parts: Annotated[int, Field(ge=0)] = 0) -> None:
        self.parts = parts

    @property
    def groups(self) -> dict[str, int]:
        return {"scene": 2} | ({"part": self.parts} if self.parts else {})

    def sample(self, height: int, width: int, proposals: Any, rng: np.random.Generator) -> Sample:
        def boxes(count: int) -> Any:
            first = rng.uniform(0, 0.5, (count, 2)) * (width, height)
            return np.concatenate([first, first + rng.uniform(0.3, 0.5, (count, 2)) * (width, height)], 1).astype("f4")

        return Sample({name: boxes(count) for name, count in self.groups.items()}, {"drawn": 1.0})


class Tiny(Backbone):
    """Two convolutions with batch norm and optional dropout."""

    name = "tiny"
    gives: ClassVar = {"features": "f", "map": "f h w"}

    def __init__(
        self, *, width: Annotated[int, Field(ge=1)] = 8, dropout: float = 0.0, multiple: int = 1, norm: bool = True
    ) -> None:
        super().__init__()
        self.dim = width
        self.multiple = multiple
        self.net = nn.Sequential(
            nn.Conv2d(3, width, 3, 2),
            nn.BatchNorm2d(width) if norm else nn.Identity(),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, 2),
            nn.Dropout(dropout),
        )

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        if x.shape[-1] % self.multiple:
            raise ValueError(f"not of {self.multiple}")
        y = self.net(x)
        return {"features": y.mean((2, 3)), "map": y}


class Linear(Head):
    """One linear layer."""

    name = "linear"

    def __init__(self, dims: Any, *, out: int | None = None) -> None:
        super().__init__()
        self.out_dim = out or dims["d"]
        self.layer = nn.Linear(dims["d"], self.out_dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)


class Dense(Head):
    """One linear layer at every position of a map; counts its steps."""

    name = "dense"
    takes = "map"
    gives = "d h w"

    def __init__(self, dims: Any, *, out: int = 5) -> None:
        super().__init__()
        self.out_dim = out
        self.layer = nn.Conv2d(dims["d"], out, 1)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)

    def after_step(self, step: int, epoch: float) -> None:
        self.steps.fill_(step)


class Alike(Objective):
    """Mean squared distance between predictions and the target's projections."""

    name = "alike"
    requires: ClassVar = {"p": "online.prediction.scene: b v d", "z": "target.projection.scene: b v d"}

    def __init__(self, dims: Any, *, factor: Annotated[float, Field(gt=0)] = 1.0) -> None:
        super().__init__()
        if dims["v"] < 2:
            raise ValueError(f"needs two views or more, got {dims['v']}")
        self.factor = factor

    def forward(self, p: torch.Tensor, z: torch.Tensor) -> Terms:
        return Terms({"distance": self.factor * (p - z.flip(1)).square().mean()}, {"norm": p.norm()})


class Parts(Objective):
    """Pull the features of parts together; reads no target."""

    name = "parts"
    requires: ClassVar = {"f": "online.features.part: b k f"}

    def __init__(self, dims: Any) -> None:
        super().__init__()

    def forward(self, f: torch.Tensor) -> torch.Tensor:
        return f.var(dim=1).mean()


class Contrast(Objective):
    """Push images apart, count steps, and read parts where there are any."""

    name = "contrast"
    requires: ClassVar = {"z": "online.projection.scene: b v d"}
    optional: ClassVar = {"part": "online.projection.part: b k d"}
    couples_batch = True

    def __init__(self, dims: Any) -> None:
        super().__init__()
        self.parts = dims.get("k", 0)
        self.register_buffer("progress", torch.zeros(2, dtype=torch.float64))

    def forward(self, z: torch.Tensor, part: torch.Tensor | None) -> torch.Tensor:
        mean = z.mean(1)
        if part is not None:
            mean = mean + part.mean(1)
        return (mean @ mean.T).square().mean()

    def after_step(self, step: int, epoch: float) -> None:
        self.progress.copy_(torch.tensor([step, epoch]))


class Flat(Objective):
    """Pull all positions of a dense projection to zero."""

    name = "flat"
    requires: ClassVar = {"z": "online.projection.scene: b v d h w"}

    def __init__(self, dims: Any) -> None:
        super().__init__()
        self.dims = dict(dims)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return z.square().mean()


class Explode(Objective):
    """Return a loss that is not finite from the second step on."""

    name = "explode"
    requires: ClassVar = {"z": "online.projection.scene: b v d"}

    def __init__(self, dims: Any) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return z.square().mean() * torch.where(self.calls > 1, torch.nan, 1.0)


class Nearest(Probe):
    """Accuracy of the nearest mean."""

    name = "nearest"

    def __init__(self, *, unused: int = 1) -> None:
        self.unused = unused

    def evaluate(self, train: Any, test: Any) -> dict[str, float]:
        means = torch.stack([train.features[train.labels == label].mean(0) for label in train.labels.unique()])
        guess = torch.cdist(test.features, means).argmin(1)
        return {"top1": (train.labels.unique()[guess] == test.labels).float().mean().item()}


RECIPE = """
summary = "two views of dots"
seed = 3
epochs = 2
batch_size = 4
precision = "32-true"

[source]
use = "dots"

[sampler]
use = "pair"

[backbone]
use = "tiny"

[heads.main]
projector = { use = "linear", out = 6 }
predictor = { use = "linear" }

[objectives.alike]

[[augment.scene]]
size = 24

[optimizer]
use = "sgd"
base_lr = 0.5
"""


SMALL = """
steps = 2
batch_size = 4
precision = "32-true"
[source]
use = "sample-scenes"
images = 8
side = 96
[sampler]
use = "two-views"
[backbone]
use = "resnet18"
width = 8
[heads.main]
projector = { use = "mlp", hidden = 16, out = 8 }
predictor = { use = "mlp", hidden = 16 }
[objectives.scene-scene]
[[augment.scene]]
size = 32
[optimizer]
use = "sgd"
base_lr = 0.1
"""


def make_module(**classes: list[type]) -> types.ModuleType:
    """Return a plugin module that offers these classes: `make_module(objectives=[Alike])`."""
    module = types.ModuleType("made_here")
    for kind, offered in classes.items():
        setattr(module, f"sslkit_{kind}", hookimpl(_returning(offered)))
    return module


def _returning(offered: list[type]) -> Callable[[], list[type]]:
    return lambda: offered


@pytest.fixture
def plugins() -> Plugins:
    """The plugin of this file, and no other."""
    loaded = Plugins.load(points=[])
    loaded.add(
        Owner("fake", "sslkit-fake", "1.2"),
        make_module(
            sources=[Dots],
            samplers=[Pair],
            backbones=[Tiny],
            heads=[Linear, Dense],
            objectives=[Alike, Parts, Contrast, Flat, Explode],
            probes=[Nearest],
        ),
    )
    return loaded


@pytest.fixture
def recipe_text() -> str:
    """A whole recipe over the fake plugin's components."""
    return RECIPE


@pytest.fixture
def small_recipe() -> str:
    """A recipe of installed plugins that trains in a second."""
    return SMALL


@pytest.fixture(scope="session")
def installed() -> Plugins:
    """Every installed plugin."""
    return Plugins.load()


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[Path], None]], Path]:
    """Return a function that fills a named folder once for all of pytest's processes."""
    base = tmp_path_factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def once(name: str, make: Callable[[Path], None]) -> Path:
        folder, done = base / f"once-{name}", base / f"once-{name}.done"
        with (base / f"once-{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not done.exists():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                make(folder)
                done.touch()
        return folder

    return once


@pytest.fixture(scope="session")
def _memory_limit() -> list[float]:
    """Let runs free their memory, and return in GB what this process may have before it gives freed memory back."""
    stub: Any = types.SimpleNamespace(keep_freed=lambda: True, trim=lambda: None)
    hardware.allocator = trial.allocator = stub
    return [1.5]


@pytest.fixture(autouse=True)
def _memory_given_back(_memory_limit: list[float]) -> Any:
    """Give freed memory back after a test that took much of it; this process runs every test."""
    yield
    if _resident_gb() > _memory_limit[0]:
        gc.collect()
        allocator.trim()
        _memory_limit[0] = max(1.5, _resident_gb() + 0.3)


def _resident_gb() -> float:
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:  # pragma: no cover - not on Linux
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e9


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Ignore the user's cache and choice of plugins; the session has one cache, so that scenes are rendered once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(
            "SSLKIT_CACHE", os.environ.get("SSLKIT_TEST_CACHE") or str(tmp_path_factory.getbasetemp() / "cache")
        )
        patch.delenv("SSLKIT_PLUGINS", raising=False)
        patch.setenv("SSLKIT_AUTO_PRECISION", "rule")  # no test waits for timed steps, or depends on them
        yield


@pytest.fixture(autouse=True)
def _same_threads() -> Any:
    """Restore torch's thread count and random state."""
    threads = torch.get_num_threads()
    with torch.random.fork_rng(devices=[]):
        yield
    torch.set_num_threads(threads)
