import tomllib

import pytest
from typer.testing import CliRunner

from sslkit.cli import make_app
from sslkit.errors import UsageError
from sslkit_images.shards.commands import size_of

from .conftest import opened


def test_a_folder_is_packed_and_the_lines_of_a_recipe_are_printed(photos, tmp_path):
    done = CliRunner().invoke(
        make_app(), ["images", "pack", str(photos), "--out", str(tmp_path / "t"), "--size", "5kB"]
    )
    assert done.exit_code == 0, done.output
    told, _, toml = done.stdout.partition("\n\n")
    assert told.startswith("7 images, ")
    options = tomllib.loads(toml)["source"]
    assert options.pop("use") == "shards"
    assert len(opened(**options)) == 7


@pytest.mark.parametrize(("text", "size"), [("500MB", 5e8), ("1.5 GB", 1.5e9), ("2000000", 2e6), ("3k", 3000)])
def test_sizes_are_understood(text, size):
    assert size_of(text) == size


@pytest.mark.parametrize("text", ["", "0", "1PB", "-1GB", "many"])
def test_what_is_no_size_is_told(text):
    with pytest.raises(UsageError, match="write 500MB or 1GB"):
        size_of(text)
