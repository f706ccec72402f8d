import io
import sys

import numpy as np
import pytest
from PIL import Image

from sslkit.errors import UsageError
from sslkit_proposals.search import DlibSearch, OpenCVSearch, find_regions


@pytest.fixture
def image(scene):
    return np.asarray(Image.open(io.BytesIO(scene(3))))


def test_regions_are_the_same_whatever_the_process_did_before(image):
    first = find_regions(image, OpenCVSearch())
    for _ in range(3):  # advances C's rand(), from which OpenCV draws its order
        find_regions(image[:50], OpenCVSearch())
    assert np.array_equal(first, find_regions(image, OpenCVSearch()))
    assert len(first) > 20


def test_regions_are_distinct_sorted_and_inside(image):
    boxes = find_regions(image, OpenCVSearch())
    assert np.array_equal(boxes, np.unique(boxes, axis=0))
    assert boxes.min() >= 0
    assert (boxes[:, 2:] <= [160, 120]).all()
    assert (boxes[:, 2:] > boxes[:, :2]).all()
    assert [0, 0, 160, 120] in boxes.tolist()


def test_the_channels_are_swapped_for_opencv(image):
    cv2 = pytest.importorskip("cv2")
    engine = cv2.ximgproc.segmentation.createSelectiveSearchSegmentation()
    engine.setBaseImage(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    engine.switchToSelectiveSearchFast()
    left, top, width, height = engine.process().T
    reference = set(zip(left, top, left + width, top + height, strict=True))
    assert set(map(tuple, find_regions(image, OpenCVSearch()))) == reference


def test_a_working_side_searches_a_smaller_image_and_scales_back(image):
    boxes = find_regions(image, OpenCVSearch(working_side=60))
    assert [0, 0, 160, 120] in boxes.tolist()
    assert (boxes % 2 == 0).all()  # the scale is two
    assert len(boxes) < len(find_regions(image, OpenCVSearch()))


@pytest.mark.parametrize(
    ("search", "height", "width", "scale"),
    [
        (OpenCVSearch(), 480, 640, 1.0),
        (OpenCVSearch(working_side=240), 480, 640, 0.5),
        (OpenCVSearch(working_side=960), 480, 640, 1.0),
        (OpenCVSearch(max_pixels=480 * 640 // 4), 480, 640, 0.5),
        (OpenCVSearch(max_pixels=None), 9000, 12000, 1.0),
        (OpenCVSearch(), 2000, 8000, 0.5),
    ],
)
def test_the_scale_never_enlarges(search, height, width, scale):
    assert search.scale(height, width) == scale


@pytest.mark.parametrize("shape", [(20, 20), (1, 1), (1, 300), (300, 2)])
def test_tiny_images_have_regions(shape):
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3)).astype(np.uint8)
    boxes = find_regions(pixels, OpenCVSearch(working_side=16))
    assert len(boxes)
    assert (boxes[:, 2:] <= [shape[1], shape[0]]).all()


def test_a_panorama_is_reduced():
    pixels = np.zeros((300, 12_000, 3), np.uint8)
    pixels[50:200, 3000:4000] = 255
    boxes = find_regions(pixels, OpenCVSearch(max_pixels=40_000))
    assert [0, 0, 12_000, 300] in boxes.tolist()
    assert np.abs(boxes - [3000, 50, 4000, 200]).max(axis=1).min() <= 40


def test_dlibs_regions_are_dlibs(image):
    dlib = pytest.importorskip("dlib")
    rects = []
    dlib.find_candidate_object_locations(image, rects, (40, 150, 2), 30, 20)
    reference = {(rect.left(), rect.top(), rect.left() + rect.width(), rect.top() + rect.height()) for rect in rects}
    regions = find_regions(image, DlibSearch(kvals=(40.0, 150.0, 2), min_size=30, max_merging_iterations=20))
    assert set(map(tuple, regions)) == reference
    assert np.array_equal(regions, np.unique(regions, axis=0))


def test_dlib_finds_a_square_to_the_pixel_and_scales_back():
    pytest.importorskip("dlib")
    pixels = np.zeros((300, 360, 3), np.uint8)
    pixels[60:210, 30:120] = 255
    for search in (DlibSearch(), DlibSearch(working_side=100)):
        assert [30, 60, 120, 210] in find_regions(pixels, search).tolist()


def test_without_dlib_the_error_says_how_to_install_it(image, monkeypatch):
    monkeypatch.setitem(sys.modules, "dlib", None)
    with pytest.raises(UsageError, match=r"needs dlib, which is not installed: pip install 'sslkit\[dlib\]'"):
        find_regions(image, DlibSearch())


def test_descriptions_differ_and_match_existing_stores():
    assert OpenCVSearch().describe() == {
        "algorithm": "selective-search", "rules": 1, "mode": "fast", "working_side": None, "max_pixels": 4_000_000,
    }  # fmt: skip
    assert DlibSearch().describe()["algorithm"] == "selective-search-dlib"
    assert DlibSearch(min_size=30).describe() != DlibSearch().describe()
