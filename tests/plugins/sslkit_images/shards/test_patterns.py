import pytest

from sslkit_images.shards.patterns import MOST, TarList, expand

braceexpand = pytest.importorskip("braceexpand", reason="what webdataset expands names with").braceexpand


@pytest.mark.parametrize(
    "pattern",
    ["a.tar", "{a,b}.tar", "x-{0..3}.tar", "x-{08..11}.tar", "{000..010..5}.tar", "{a,b}/{1..2}{x,}.tar", "{}.tar"],
)
def test_braces_mean_what_they_mean_to_webdataset(pattern):
    assert list(expand(pattern)) == list(braceexpand(pattern))


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("{3..1}.tar", "runs backwards, {3..1}"),
        ("{a,{b,c}}.tar", "braces in braces"),
        ("{a.tar", "do not close"),
        (f"{{0..{MOST}}}.tar", "stands for 100001 names"),
        ("pipe:cat ../x.tar", "is no file: tars are read at random, and have to lie on a disk; copy them"),
        ("https://host/x.tar", "is no file"),
        ("/data/x.tar", "leads out of root: write the folder as root"),
        ("../x.tar", "leads out of root"),
    ],
)
def test_what_is_no_pattern_is_told(tmp_path, pattern, words):
    told = TarList(tmp_path, pattern).missing()
    assert told is not None
    assert told.startswith(f"pattern = {pattern!r} ")
    assert words in told


def test_stars_match_what_is_there_and_nothing_twice(tmp_path):
    for name in ("b-1.tar", "b-0.tar", "a.tar", "a.txt"):
        (tmp_path / name).touch()
    assert [path.name for path in TarList(tmp_path, "{b-*,*}.tar").paths()] == ["b-0.tar", "b-1.tar", "a.tar"]


def test_what_is_missing_is_told(tmp_path):
    root = tmp_path / "data"
    assert TarList(root, "*.tar").missing() == f"there is no folder {root} with tars"
    told = TarList(root / "x-{0..2}.tar", "*.tar").missing() or ""
    assert told.endswith(f"write root = {str(root)!r} and pattern = 'x-{{0..2}}.tar'")
    root.mkdir()
    assert TarList(root, "*.tar").missing() == f"no tar in {root} matches '*.tar': {root} is empty"
    (root / "x-1.tar").touch()
    told = TarList(root, "x-{0..2}.tar").missing() or ""
    assert told.startswith(f"2 of 3 tars are not there: {root}/x-0.tar, {root}/x-2.tar; ")
    assert "did you mean 'x-1.tar'?" in (TarList(root, "y-1.tar").missing() or "")
    (root / "z.tar.gz").touch()
    assert (TarList(root, "z.tar.gz").missing() or "").endswith(f"gunzip {root}/z.tar.gz")
