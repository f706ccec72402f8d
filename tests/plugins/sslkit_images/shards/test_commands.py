import tomllib

import pytest
from typer.testing import CliRunner

from sslkit.cli import make_app
from sslkit.errors import UsageError
from sslkit_images.shards.commands import parse_size

from .conftest import opened


def test_a_folder_is_packed_and_the_lines_of_a_recipe_are_printed(image_folder, tmp_path):
    result = CliRunner().invoke(
        make_app(), ["images", "pack", str(image_folder), "--out", str(tmp_path / "t"), "--size", "5kB"]
    )
    assert result.exit_code == 0, result.output
    summary, _, toml = result.stdout.partition("\n\n")
    assert summary.startswith("7 images, ")
    options = tomllib.loads(toml)["source"]
    assert options.pop("use") == "shards"
    assert len(opened(**options)) == 7


@pytest.mark.parametrize(("text", "size"), [("500MB", 5e8), ("1.5 GB", 1.5e9), ("2000000", 2e6), ("3k", 3000)])
def test_sizes_are_parsed(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "0", "1PB", "-1GB", "many"])
def test_invalid_sizes_are_reported(text):
    with pytest.raises(UsageError, match="write 500MB or 1GB"):
        parse_size(text)
