import io
import itertools
import struct
import warnings

import numpy as np
import pytest
import torch
from PIL import Image as Pillow
from PIL import ImageOps
from PIL.PngImagePlugin import PngImageFile, PngInfo
from torchvision.transforms.v2 import functional as reference

from sslkit import images
from sslkit.errors import DataError

RNG = np.random.default_rng(0)


def encoded(image, format_="PNG", **options):
    file = io.BytesIO()
    image.save(file, format_, **options)
    return file.getvalue()


def decoded(image, format_="PNG", **options):
    return images.decode(encoded(image, format_, **options), "a.png")


def test_rgb_comes_back_as_it_is():
    pixels = RNG.integers(0, 256, (5, 7, 3), np.uint8)
    clippedimage = decoded(Pillow.fromarray(pixels))
    np.testing.assert_array_equal(clippedimage, pixels)
    assert clippedimage.dtype == np.uint8
    assert clippedimage.flags.c_contiguous


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (Pillow.new("L", (4, 3), 77), (77, 77, 77)),
        (Pillow.new("1", (4, 3), 1), (255, 255, 255)),
        (Pillow.new("LA", (4, 3), (77, 0)), (255, 255, 255)),
        (Pillow.new("RGBA", (4, 3), (10, 20, 30, 255)), (10, 20, 30)),
        (Pillow.new("RGBA", (4, 3), (10, 20, 30, 0)), (255, 255, 255)),
        (Pillow.fromarray(np.full((3, 4), 65535, np.uint16)), (255, 255, 255)),
        (Pillow.fromarray(np.full((3, 4), 257 * 100, np.uint16)), (100, 100, 100)),
    ],
)
def test_every_mode_becomes_rgb(image, expected):
    clippedimage = decoded(image)
    assert clippedimage.shape == (3, 4, 3)
    assert {tuple(pixel) for pixel in clippedimage.reshape(-1, 3).tolist()} == {expected}


def test_half_transparent_pixels_lie_on_white():
    clippedimage = decoded(Pillow.new("RGBA", (2, 2), (0, 100, 200, 128)))
    alpha = 128 / 255
    np.testing.assert_allclose(clippedimage[0, 0], np.array([0, 100, 200]) * alpha + 255 * (1 - alpha), atol=1)


def test_palettes_and_their_transparency():
    image = Pillow.new("P", (4, 3), 1)
    image.putpalette([0, 0, 0, 9, 99, 199] + [0] * 762)
    assert decoded(image)[0, 0].tolist() == [9, 99, 199]
    assert decoded(image, transparency=1)[0, 0].tolist() == [255, 255, 255]


def test_cmyk_jpegs_are_not_inverted():
    clippedimage = decoded(Pillow.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG", quality=95)
    assert np.abs(clippedimage.astype(int) - [255, 0, 0]).max() < 6


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(("format_", "options"), [("PNG", {}), ("WEBP", {"lossless": True}), ("TIFF", {})])
def test_exif_orientation_is_applied(orientation, format_, options):
    upright = RNG.integers(0, 256, (6, 9, 3), np.uint8)
    undo = {
        1: lambda a: a, 2: lambda a: a[:, ::-1], 3: lambda a: a[::-1, ::-1], 4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2), 6: lambda a: np.rot90(a), 7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
        8: lambda a: np.rot90(a, -1),
    }[orientation]  # fmt: skip
    exif = Pillow.Exif()
    exif[0x0112] = orientation
    stored = np.ascontiguousarray(undo(upright))
    data = encoded(Pillow.fromarray(stored), format_, exif=exif, **options)
    np.testing.assert_array_equal(images.decode(data, "a"), upright)
    header = images.read_header(io.BytesIO(data), "a")
    assert header == images.Header(*stored.shape[:2], orientation)
    assert header.upright == images.upright_size(data, "a") == (6, 9)


XMP = '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'


@pytest.mark.parametrize("format_", ["JPEG", "WEBP", "PNG"])
def test_an_orientation_in_xmp_counts_too(format_):
    image = Pillow.fromarray(RNG.integers(0, 256, (16, 32, 3), np.uint8))
    texts = PngInfo()
    texts.add_itxt("XML:com.adobe.xmp", XMP)
    data = encoded(image, format_, **({"pnginfo": texts} if format_ == "PNG" else {"xmp": XMP.encode()}))
    assert images.decode(data, "a").shape == (32, 16, 3)
    assert images.upright_size(data, "a") == (32, 16)


def test_headers_of_pngs_are_read_without_decoding_them(monkeypatch):
    def fails(self):
        raise AssertionError("decoded")

    monkeypatch.setattr(PngImageFile, "load", fails)
    assert images.upright_size(encoded(Pillow.new("RGB", (9, 7))), "a") == (7, 9)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "is empty (0 bytes)"),
        (b"GIF no", "is not an image that Pillow can read (6 bytes"),
        (
            encoded(Pillow.fromarray(RNG.integers(0, 256, (64, 64, 3), np.uint8)), "JPEG")[:900],
            "cannot be decoded (900 bytes)",
        ),
        (encoded(Pillow.fromarray(RNG.integers(0, 256, (64, 64, 3), np.uint8)))[:900], "cannot be decoded (900 bytes)"),
    ],
)
def test_what_cannot_be_read_is_reported_with_its_name(data, says):
    with pytest.raises(DataError) as caught:
        images.decode(data, "image.jpg")
    assert "image.jpg" in str(caught.value)
    assert says in str(caught.value)


def test_postscript_is_no_image():
    """Pillow would start another program to draw it."""
    with pytest.raises(DataError, match="is not an image that Pillow can read"):
        images.decode(encoded(Pillow.new("RGB", (9, 9)), "EPS"), "image.jpg")


@pytest.mark.parametrize("error", [struct.error("unpack"), IndexError(), MemoryError(), RuntimeError("codec")])
def test_whatever_a_decoder_raises_is_reported_with_the_name(monkeypatch, error):
    def fails(self):
        raise error

    monkeypatch.setattr(PngImageFile, "load", fails)
    with pytest.raises(DataError, match=rf"image\.png cannot be decoded .*: ({error}|{type(error).__name__})"):
        images.decode(encoded(Pillow.new("RGB", (9, 9))), "image.png")


def test_large_images_are_read_and_bombs_are_not(monkeypatch):
    assert images.decode(encoded(Pillow.new("L", (10_000, 9_000))), "panorama").shape == (9_000, 10_000, 3)
    monkeypatch.setattr(images, "LIMIT", 100)
    with pytest.raises(DataError, match="claims 20 x 10 pixels"):
        images.decode(encoded(Pillow.new("L", (20, 10))), "bomb")


def test_the_limit_is_ours_and_not_pillows(monkeypatch):
    """Pillow alone refuses twice its own limit, and long texts in PNGs."""
    huge = Pillow.new("1", (15_000, 12_000))
    assert images.upright_size(encoded(huge), "map.png") == (12_000, 15_000)
    assert images.upright_size(encoded(huge, "TIFF", compression="group4"), "map.tif") == (12_000, 15_000)
    monkeypatch.setattr(images, "LIMIT", 100)
    monkeypatch.setattr(Pillow, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(DataError, match=r"^bomb claims more than 200 pixels; more than 100 are not decoded$"):
        images.decode(encoded(Pillow.new("L", (20, 11))), "bomb")


@pytest.mark.parametrize("packed", [False, True])
def test_long_texts_in_a_png_do_not_matter(packed):
    texts = PngInfo()
    texts.add_text("workflow", "ab" * 1_600_000, zip=packed)
    texts.add_itxt("XML:com.adobe.xmp", "c" * 2_000_000, zip=packed)
    assert images.decode(encoded(Pillow.new("RGB", (4, 3), "red"), pnginfo=texts), "a.png")[0, 0].tolist() == [
        255,
        0,
        0,
    ]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e30, -1e30, 2.0])
@pytest.mark.parametrize("top", [1.0, 255.0])
def test_one_bad_value_changes_no_other_pixel(bad, top):
    ramp = np.linspace(0, top, 64 * 48, dtype=np.float32).reshape(48, 64)
    holed = ramp.copy()
    holed[10, 10] = bad
    whole, other = (decoded(Pillow.fromarray(values), "TIFF") for values in (ramp, holed))
    assert whole[..., 0] == pytest.approx(np.rint(ramp * 255 / top), abs=1)
    same = np.ones((48, 64), bool)
    same[10, 10] = False
    np.testing.assert_array_equal(whole[same], other[same])
    expected = 0 if np.isnan(bad) else np.clip(bad * 255 / top, 0, 255)
    assert other[10, 10] == pytest.approx([expected] * 3, abs=1)


def _ramp(top):
    return np.linspace(0, top, 100 * 100, dtype=np.float32).reshape(100, 100)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 3.4e38, -3.4e38, 1e6, 9999, 32767, -9999])
@pytest.mark.parametrize("share", [0.01, 0.05, 0.4])
@pytest.mark.parametrize("top", [1.0, 255.0, 4095.0, 65535.0])
def test_marks_of_missing_values_change_no_other_pixel(bad, share, top):
    ramp = _ramp(top)
    holes = np.random.default_rng(0).random(ramp.shape) < share
    whole, other = (decoded(Pillow.fromarray(values), "TIFF") for values in (ramp, np.where(holes, bad, ramp)))
    assert whole[..., 0] == pytest.approx(np.rint(ramp * 255 / top), abs=1)
    np.testing.assert_array_equal(whole[~holes], other[~holes])


@pytest.mark.parametrize("top", [1.0, 255.0, 1023.0])
@pytest.mark.parametrize(("over", "share"), [(1.01, 0.01), (1.01, 0.3), (1.4, 0.05), (40.0, 0.009)])
def test_values_above_the_range_are_clipped(top, over, share):
    ramp = _ramp(top)
    bright = ramp.copy()
    count = int(bright.size * share)
    bright.ravel()[:count] = top * np.linspace(1, over, count + 1)[1:]
    clipped, whole = (decoded(Pillow.fromarray(values), "TIFF").reshape(-1, 3) for values in (bright, ramp))
    np.testing.assert_array_equal(clipped[count:], whole[count:])
    assert (clipped[:count] == 255).all()


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0, 200], [0, 200]),
        ([200, 200], [200, 200]),
        ([0, 1], [0, 255]),
        ([0.5, 0.5], [128, 128]),
        ([-1, 0.5], [0, 128]),
        ([0, 1023], [0, 255]),
        ([-2.6, 2.6], [0, 255]),
        ([0, 0], [0, 0]),
    ],
)
def test_float_images_of_few_values_keep_them(values, expected):
    picture = Pillow.fromarray(np.tile(np.array(values, np.float32), (6, 3)))
    assert decoded(picture, "TIFF")[0, :2, 0].tolist() == expected


@pytest.mark.parametrize("mode", ["I;16", "I"])
def test_whole_numbers_of_16_bits_have_one_range(mode):
    values = np.array([[0, 257, 4095, 65535]], np.uint16 if mode == "I;16" else np.int32)
    assert decoded(Pillow.fromarray(values), "TIFF")[0, :, 0].tolist() == [0, 1, 16, 255]


def test_an_image_of_nothing_but_bad_values_is_black():
    assert decoded(Pillow.fromarray(np.full((4, 5), np.nan, np.float32)), "TIFF").max() == 0


def test_the_first_frame_of_an_animation_is_taken():
    frames = [Pillow.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    file = io.BytesIO()
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
    assert images.decode(file.getvalue(), "a.gif")[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_cuts_agree_with_torchvisions_antialiased_resize(interpolation):
    image = RNG.integers(0, 256, (90, 120, 3), np.uint8)
    box = np.array([[10, 20, 110, 80]], np.float32)
    ours = images.cuts(image, box, 32, interpolation)[0]
    tensor = torch.from_numpy(image).permute(2, 0, 1)
    theirs = reference.resized_crop(
        tensor, 20, 10, 60, 100, [32, 32], interpolation=Pillow.Resampling[interpolation.upper()], antialias=True
    )
    assert np.abs(ours.astype(int) - theirs.permute(1, 2, 0).numpy().astype(int)).max() <= 2


def test_cuts_of_boxes_that_stick_out_or_are_tiny():
    image = RNG.integers(0, 256, (20, 30, 3), np.uint8)
    boxes = np.array([[-5, -5, 40, 40], [29.9, 19.9, 30, 20], [3, 4, 3, 4]], np.float32)
    crops = images.cuts(image, boxes, 8, "bicubic")
    assert crops.shape == (3, 8, 8, 3)
    np.testing.assert_array_equal(crops[0], images.cuts(image, np.array([[0, 0, 30, 20]], np.float32), 8, "bicubic")[0])
    assert {tuple(pixel) for pixel in crops[1].reshape(-1, 3)} == {tuple(image[19, 29])}
    assert images.cuts(image, np.zeros((0, 4), np.float32), 8, "bicubic").shape == (0, 8, 8, 3)


RNG_JPEG = np.random.default_rng(1)
PHOTO = Pillow.fromarray(RNG_JPEG.integers(0, 256, (37, 53, 3), np.uint8)).resize((211, 157))


def by_pillow(data):
    with Pillow.open(io.BytesIO(data)) as image:
        image.load()
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))


@pytest.mark.parametrize("size", [(211, 157), (1, 1), (7, 9), (33, 64)])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_plain_jpegs_have_pillows_pixels(size, mode):
    """Of every chroma subsampling, baseline and progressive; and they take the fast decoder."""
    for subsampling, progressive, quality in itertools.product([0, 1, 2], [False, True], [40, 95]):
        image = PHOTO.resize(size).convert(mode)
        data = encoded(image, "JPEG", quality=quality, progressive=progressive, subsampling=subsampling)
        clippedimage = images._plain_jpeg(data)
        assert clippedimage is not None
        np.testing.assert_array_equal(clippedimage, by_pillow(data))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_plain_jpegs_are_turned_as_pillow_turns_them(orientation):
    exif = Pillow.Exif()
    exif[0x112] = orientation
    data = encoded(PHOTO, "JPEG", exif=exif)
    clippedimage = images._plain_jpeg(data)
    np.testing.assert_array_equal(clippedimage, by_pillow(data))
    assert clippedimage.flags.c_contiguous


def test_damaged_jpegs_are_left_to_pillow_or_have_its_pixels():
    """Change bytes and truncate files at random: what the fast decoder accepts, Pillow accepts, with the same pixels."""
    data, accepted = encoded(PHOTO.resize((64, 48)), "JPEG"), 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for number in range(400):
            damaged = bytearray(data)
            for place in RNG_JPEG.integers(2, len(data), 1 + number % 3):
                damaged[place] = RNG_JPEG.integers(256)
            part = bytes(damaged[: RNG_JPEG.integers(10, len(data))] if number % 5 == 0 else damaged)
            clippedimage = images._plain_jpeg(part)
            if clippedimage is not None:
                accepted += 1
                np.testing.assert_array_equal(clippedimage, by_pillow(part))
    assert 50 < accepted < 350
