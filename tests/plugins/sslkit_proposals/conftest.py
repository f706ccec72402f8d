import io
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))  # so that worker processes can import `image_sources`


@pytest.fixture(scope="session")
def scene():
    """Return a function that makes encoded images of a few flat shapes."""

    def make(seed: int, width: int = 160, height: int = 120, mode: str = "RGB") -> bytes:
        rng = np.random.default_rng(seed)
        pixels = np.full((height, width, 3), rng.integers(40, 216, 3), np.uint8)
        for _ in range(4):
            left, top = rng.integers(0, width - 8), rng.integers(0, height - 8)
            wide, high = rng.integers(8, width), rng.integers(8, height)
            pixels[top : top + high, left : left + wide] = rng.integers(0, 256, 3)
        pixels = np.clip(pixels + rng.normal(0, 6, pixels.shape), 0, 255).astype(np.uint8)
        file = io.BytesIO()
        Image.fromarray(pixels).convert(mode).save(file, format="PNG")
        return file.getvalue()

    return make


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    """Run each test in its own folder: stores outside the current folder are refused."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def make_source(tmp_path, scene):
    """Return a function that makes opened sources with a given number of images."""
    from image_sources import ImageFiles

    def make(count: int, name: str = "images", first_seed: int = 0, kind: type = ImageFiles):
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        for index in range(count):
            (folder / f"{index:03d}.png").write_bytes(scene(first_seed + index))
        source = kind(folder)
        source.open()
        return source

    return make
