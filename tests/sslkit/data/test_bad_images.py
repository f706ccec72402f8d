"""The images that a run skipped, and the limits on their number."""

from __future__ import annotations

import pytest

from sslkit.data.bad_images import BadImages


def test_each_image_counts_once_and_the_first_few_are_named() -> None:
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


def test_the_rest_is_mentioned_once() -> None:
    bad = BadImages(100, 50, 0.5)
    warnings = bad.add([(n, str(n)) for n in range(7)]) + bad.add([(9, "9")])
    assert len(warnings) == 6
    assert warnings[-1].strip() == "bad_images.json lists any others"


@pytest.mark.parametrize(
    ("images", "max_count", "max_share", "count", "refused"),
    [(100, 5, 1.0, 5, False), (100, 5, 1.0, 6, True), (100, 99, 0.05, 5, False), (100, 99, 0.05, 6, True),
     (1000, 5, 0.01, 6, True), (12, 0, 1.0, 1, True), (12, 9, 0.0, 1, True), (12, 0, 0.0, 0, False)],
)  # fmt: skip
def test_a_count_and_a_share_are_the_limits(
    images: int, max_count: int, max_share: float, count: int, refused: bool
) -> None:
    bad = BadImages(images, max_count, max_share)
    bad.add([(number, "x") for number in range(count)])
    message = bad.too_many()
    assert (message is not None) is refused
    if message:
        assert message.startswith(f"{count} of {images} images cannot be used")
        assert f"max_bad_images = {max_count}, max_bad_share = {max_share:g}" in message


def test_they_survive_a_checkpoint() -> None:
    bad, other = BadImages(9, 9, 1.0), BadImages(9, 9, 1.0)
    bad.add([(3, "c")])
    other.load_state_dict(bad.state_dict())
    assert other == bad
    assert other.add([(3, "c")]) == []
