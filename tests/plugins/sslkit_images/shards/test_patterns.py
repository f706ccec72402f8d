import pytest

from sslkit_images.shards.patterns import MAX_NAMES, TarList, expand

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
        ("{a,{b,c}}.tar", "nested braces"),
        ("{a.tar", "unbalanced"),
        (f"{{0..{MAX_NAMES}}}.tar", "expands to 100001 names"),
        ("pipe:cat ../x.tar", "is not a file: tars need random access, so they must be on a disk; copy them"),
        ("https://host/x.tar", "is not a file"),
        ("/data/x.tar", "points outside root: write the folder as root"),
        ("../x.tar", "points outside root"),
    ],
)
def test_invalid_patterns_are_reported(tmp_path, pattern, words):
    message = TarList(tmp_path, pattern).missing()
    assert message is not None
    assert message.startswith(f"pattern = {pattern!r} ")
    assert words in message


def test_wildcards_match_existing_tars_once(tmp_path):
    for name in ("b-1.tar", "b-0.tar", "a.tar", "a.txt"):
        (tmp_path / name).touch()
    assert [path.name for path in TarList(tmp_path, "{b-*,*}.tar").paths()] == ["b-0.tar", "b-1.tar", "a.tar"]


def test_missing_tars_are_reported(tmp_path):
    root = tmp_path / "data"
    assert TarList(root, "*.tar").missing() == f"the folder of the tars was not found: {root}"
    message = TarList(root / "x-{0..2}.tar", "*.tar").missing() or ""
    assert message.endswith(f"write root = {str(root)!r} and pattern = 'x-{{0..2}}.tar'")
    root.mkdir()
    assert TarList(root, "*.tar").missing() == f"no tar in {root} matches '*.tar': {root} is empty"
    (root / "x-1.tar").touch()
    message = TarList(root, "x-{0..2}.tar").missing() or ""
    assert message.startswith(f"2 of 3 tars are missing: x-0.tar, x-2.tar; {root} holds")
    assert "did you mean 'x-1.tar'?" in (TarList(root, "y-1.tar").missing() or "")
    (root / "z.tar.gz").touch()
    assert (TarList(root, "z.tar.gz").missing() or "").endswith(f"gunzip {root}/z.tar.gz")
