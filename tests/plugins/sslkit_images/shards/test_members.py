import io
import tarfile

import pytest

from sslkit_images.shards.members import TarError, members

from .conftest import write_tar

FILES = {"a.jpg": b"x" * 700, "deep/" * 30 + "b.jpg": b"", "ü.cls": b"3", "c.jpg": b"z" * 512}


def members_of(path):
    with path.open("rb") as file:
        return list(members(file, path.stat().st_size))


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_offsets_point_at_the_contents(tmp_path, form):
    data = write_tar(tmp_path / "1.tar", FILES, format=form).read_bytes()
    assert {item.name: data[item.offset : item.offset + item.size] for item in members_of(tmp_path / "1.tar")} == FILES


def test_links_are_marked_and_folders_are_skipped(tmp_path):
    with tarfile.open(tmp_path / "1.tar", "w") as tar:
        for name, kind in (("d", tarfile.DIRTYPE), ("s", tarfile.SYMTYPE), ("h", tarfile.LNKTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "a.jpg"
            tar.addfile(info)
    assert [(item.name, item.link) for item in members_of(tmp_path / "1.tar")] == [("s", True), ("h", True)]


def test_every_truncation_is_reported(tmp_path):
    """Even a cut between two members, which tarfile takes for the end."""
    data = write_tar(tmp_path / "1.tar", {"a.jpg": b"x" * 700, "b.jpg": b"y" * 10}).read_bytes()
    last = 512 + 1024 + 512 + 512  # where the two empty blocks begin
    for cut in (512, 600, 1536, 1600, 2048, 2050, 2559, last):
        (tmp_path / "2.tar").write_bytes(data[:cut])
        with pytest.raises(TarError, match=r"truncated"):
            members_of(tmp_path / "2.tar")
    (tmp_path / "2.tar").write_bytes(data[: last + 512])  # GNU tar reads it as well
    assert len(members_of(tmp_path / "2.tar")) == 2


def test_damage_is_reported_wherever_it_is(tmp_path):
    data = write_tar(tmp_path / "1.tar", {"a.jpg": b"x" * 700, "b.jpg": b"y" * 10}).read_bytes()
    for at, words in (
        (0, "is not a tar"),
        (100, "is not a tar"),
        (1536 + 124, "damaged: no valid header at byte 1536"),
    ):
        (tmp_path / "2.tar").write_bytes(data[:at] + b"\xee" * 8 + data[at + 8 :])
        with pytest.raises(TarError, match=words):
            members_of(tmp_path / "2.tar")


def test_tars_without_random_access_are_refused(tmp_path):
    path = tmp_path / "1.tar"
    for mode, words in (("w:gz", "compressed .gzip"), ("w:bz2", "compressed .bzip2"), ("w:xz", "compressed .xz")):
        with tarfile.open(path, mode) as tar:
            tar.addfile(tarfile.TarInfo("a"), io.BytesIO())
        with pytest.raises(TarError, match=words):
            members_of(path)
    path.write_bytes(b"")
    with pytest.raises(TarError, match="is empty"):
        members_of(path)
    path.write_bytes(2 * write_tar(path, {"a.jpg": b"x"}).read_bytes())
    with pytest.raises(TarError, match=r"ends at byte 1024 of 20480, but more data follows"):
        members_of(path)
