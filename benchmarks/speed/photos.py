"""Images to measure on: the user's photographs, or drawn scenes of COCO's size."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from speed.plans import planned
from sslkit.data.opening import prepare
from sslkit.images import decode

DRAWN = """
steps = 1
batch_size = 2
[source]
use = "sample-scenes"
images = {count}
side = 480
[sampler]
use = "two-views"
[backbone]
use = "resnet18"
[heads.main]
projector = {{ use = "mlp" }}
predictor = {{ use = "mlp" }}
[objectives.scene-scene]
[[augment.scene]]
[optimizer]
use = "sgd"
base_lr = 0.1
"""


def draw(folder: Path, count: int) -> Path:
    """Write scenes as JPEGs of 640 x 480 pixels, for users without photographs."""
    source, _ = prepare(*planned(DRAWN.format(count=count)))
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        image = Image.fromarray(decode(source.read(index), source.key(index)))
        image.resize((640, 480)).save(folder / f"{index:06d}.jpg", quality=92)
    return folder
