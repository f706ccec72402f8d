"""Contact sheets show the pixels that the network sees."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from sslkit.api import Objects
from sslkit.data import contact_sheet, opening
from sslkit.data.epochs import Item
from sslkit.data.views import ViewDataset, to_device
from sslkit.errors import DataError
from sslkit.planning import recipe_file
from sslkit.planning.planner import make_plan
from sslkit.planning.recipe import View

SEPARATE = """
[objectives.parts]
[[augment.part]]
network = "online"
size = 16
"""


@pytest.fixture
def planned(plugins, recipe_text):
    def planned(*sets, more=""):
        recipe, problems = recipe_file.check_structure(recipe_file.parse(recipe_text + more, "dots", "dots.toml", sets))
        assert recipe, problems
        plan, problems = make_plan(recipe, plugins)
        assert plan, problems
        return plan, *opening.prepare(plan)

    return planned


def contains(sheet: Image.Image, picture: Image.Image) -> bool:
    """Look for a picture in a sheet, pixel by pixel."""
    whole, part = np.asarray(sheet), np.asarray(picture)
    corner = (whole == part[0, 0]).all(-1)
    corner = corner[: whole.shape[0] - part.shape[0] + 1, : whole.shape[1] - part.shape[1] + 1]
    matches = ((whole[y : y + part.shape[0], x : x + part.shape[1]] == part).all() for y, x in np.argwhere(corner))
    return any(matches)


def test_every_view_is_on_the_sheet_as_the_network_sees_it(planned) -> None:
    plan, source, proposals = planned("sampler.parts=3", more=SEPARATE)
    drawn = contact_sheet.sheet(plan, source, proposals, count=1, epoch=2)
    dataset = ViewDataset(plan, source, proposals)
    batch = to_device(dataset[[Item(2, 0)]], plan.views, torch.device("cpu"))
    for group, size, count in (("scene", 24, 2), ("part", 16, 3)):
        view = View(size=size)
        mean, std = (torch.tensor(value).view(3, 1, 1) for value in (view.mean, view.std))
        for pixels in batch[f"pixels.{group}.online"][0]:
            array = ((pixels * std + mean).clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
            assert contains(drawn, Image.fromarray(array).resize((2 * size, 2 * size), Image.Resampling.NEAREST))
        assert len(batch[f"pixels.{group}.online"][0]) == count


def test_images_are_spread_over_the_source(planned, monkeypatch) -> None:
    plan, source, proposals = planned("source.images=100")
    drawn = []
    fill = ViewDataset.fill_item
    monkeypatch.setattr(
        ViewDataset, "fill_item", lambda self, item, *rest: drawn.append(item.image) or fill(self, item, *rest)
    )
    contact_sheet.sheet(plan, source, proposals, count=4)
    assert drawn == [0, 33, 66, 99]
    drawn.clear()
    contact_sheet.sheet(*planned("source.images=2"), count=9)
    assert drawn == [0, 1]


def test_rows_are_stacked(planned) -> None:
    plan, source, proposals = planned()
    one, three = (contact_sheet.sheet(plan, source, proposals, count) for count in (1, 3))
    assert three.height == 3 * one.height


def test_labelled_objects_are_drawn_where_they_are(planned, monkeypatch) -> None:
    plan, source, proposals = planned()
    whole = np.asarray(contact_sheet.sheet(plan, source, proposals, count=1))
    left, top, right, bottom = (6 * side for side in (10, 8, 34, 32))  # a Dots image is 48 wide, its thumbnail 288
    colour = np.array(contact_sheet._COLOURS[0])
    framed = [
        (y, x)
        for y, x in np.argwhere((whole == colour).all(-1)).tolist()
        if (whole[y, x : x + right - left] == colour).all() and (whole[y : y + bottom - top, x] == colour).all()
    ]
    assert framed
    monkeypatch.setattr(
        type(source), "objects", lambda self, index: (_ for _ in ()).throw(DataError("of another size"))
    )
    told = np.asarray(contact_sheet.sheet(plan, source, proposals, count=1))
    assert not np.array_equal(whole, told)
    monkeypatch.setattr(type(source), "objects", lambda self, index: Objects())
    assert contact_sheet.sheet(plan, source, proposals, count=1).width < whole.shape[1]
