"""Contact sheets show the pixels that the network sees."""

from __future__ import annotations

from types import SimpleNamespace

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


@pytest.mark.parametrize("count", [1, 2, 5, 60, 400, 3001])
def test_cells_stand_side_by_side_in_as_many_lines_as_they_need(count) -> None:
    cells = [Image.new("RGB", (288, 302)), *(Image.new("RGB", (144, 158)) for _ in range(count))]
    drawn = contact_sheet._arrange(cells)
    assert (np.asarray(drawn) == 0).all(-1).sum() == sum(cell.width * cell.height for cell in cells)
    assert drawn.width <= contact_sheet._WIDTH + 6
    if count == 2:
        assert drawn.size == (6 + 288 + 6 + 144 + 6, 328), "small ones share a column"


@pytest.mark.parametrize(
    "counts", [{"scene": 32}, {"scene": 33, "part": 4}, {"part": 400}, dict.fromkeys("abcdefghij" * 4, 9)]
)
def test_boxes_of_any_number_of_views_are_drawn(counts) -> None:
    boxes = {f"boxes.{group}": torch.tensor([[10.0, 8, 34, 24]]).expand(1, count, 4) for group, count in counts.items()}
    pixels = np.zeros((32, 48, 3), np.uint8)
    drawn = contact_sheet._with_views(pixels, SimpleNamespace(groups=list(counts)), boxes)
    assert (np.asarray(drawn)[8 * 6, 10 * 6 : 34 * 6] != 0).any(-1).all()


@pytest.mark.parametrize(
    ("folder", "shown"),
    [
        ("/home/someone/" + "deep/" * 60, "no objects: {key} is of another size"),
        ("/with space/in it/", "no objects: {key} is of another size"),
        ("data/", "no objects: {key} is of another size"),
        ("", "no objects: {key} is of another size"),
        ("image 3: data/", "no objects: image 3: {key} is of another size"),
    ],
)
def test_the_reason_why_objects_are_not_drawn_is_shown_without_the_folder(planned, folder, shown, monkeypatch) -> None:
    plan, source, proposals = planned()

    def objects(self, index):
        raise DataError(f"{folder}{self.key(index)} is of another size: " + "write its own size, or " * 9)

    labels = []
    cell = contact_sheet._cell
    monkeypatch.setattr(contact_sheet, "_cell", lambda label, picture: labels.append(label) or cell(label, picture))
    monkeypatch.setattr(type(source.source), "objects", objects)
    contact_sheet.sheet(plan, source, proposals, count=1)
    [told] = [label for label in labels if label.startswith("no objects")]
    assert told.startswith(shown.format(key=source.key(0)))
    assert told.endswith("write its own size, or ")


def test_labels_are_wrapped_over_their_picture() -> None:
    picture = Image.new("RGB", (144, 100))
    one, many, word = (contact_sheet._cell(label, picture) for label in ("scene 1", "a few words " * 30, "x" * 300))
    assert one.size == (144, 114)
    for cell in (many, word):
        assert cell.width <= 48 * 11
        assert cell.height > 100 + 6 * 14
        assert (np.asarray(cell)[-100:, :144] == 0).all()
