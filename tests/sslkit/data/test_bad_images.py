"""Which images a run skipped, and when they are too many."""

from __future__ import annotations

import pytest

from sslkit.data.bad_images import BadImages


def test_each_image_counts_once_and_the_first_few_are_told_by_name() -> None:
    bad = BadImages(100, 50, 0.5)
    assert bad.new([(3, "c"), (3, "c"), (4, "d")]) == [(3, "c"), (4, "d")]
    assert [line.rpartition(": ")[2] for line in bad.add([(3, "c"), (3, "c"), (4, "d")])] == ["c", "d"]
    assert bad.add([(4, "again")]) == []
    assert [line.rpartition(": ")[2] for line in bad.add([(n, str(n)) for n in range(10, 20)])][:3] == [
        "10",
        "11",
        "12",
    ]
    assert bad.add([(99, "z")]) == []
    assert len(bad.reasons) == 13
    assert bad.rows(str)[0] == {"image": 3, "key": "3", "reason": "c"}


def test_the_rest_is_told_of_once() -> None:
    bad = BadImages(100, 50, 0.5)
    said = bad.add([(n, str(n)) for n in range(7)]) + bad.add([(9, "9")])
    assert len(said) == 6
    assert said[-1].strip() == "further ones are in bad_images.json"


@pytest.mark.parametrize(
    ("images", "most", "share", "count", "refused"),
    [(100, 5, 1.0, 5, False), (100, 5, 1.0, 6, True), (100, 99, 0.05, 5, False), (100, 99, 0.05, 6, True),
     (1000, 5, 0.01, 6, True), (12, 0, 1.0, 1, True), (12, 9, 0.0, 1, True), (12, 0, 0.0, 0, False)],
)  # fmt: skip
def test_a_count_and_a_share_are_the_limits(images: int, most: int, share: float, count: int, refused: bool) -> None:
    bad = BadImages(images, most, share)
    bad.add([(number, "x") for number in range(count)])
    told = bad.too_many()
    assert (told is not None) is refused
    if told:
        assert told.startswith(f"{count} of {images} images cannot be used")
        assert f"max_bad_images = {most}, max_bad_share = {share:g}" in told


def test_a_checkpoint_keeps_them() -> None:
    bad, other = BadImages(9, 9, 1.0), BadImages(9, 9, 1.0)
    bad.add([(3, "c")])
    other.load(bad.state())
    assert other == bad
    assert other.add([(3, "c")]) == []
