import json
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


def test_what_is_left_out_is_printed(coco, tmp_path):
    file = coco / "annotations/instances_train2017.json"
    about = json.loads(file.read_text())
    about["annotations"][0]["iscrowd"] = 1
    about["annotations"][2]["bbox"] = [-9, 3, 5, 5]
    file.write_text(json.dumps(about))
    (tmp_path / "r.toml").write_text(
        f"""summary = "x"\nsteps = 1\nbatch_size = 2\n[source]\nuse = "coco"\nroot = "{coco}"\n[sampler]
use = "two-views"\n[backbone]\nuse = "resnet18"\n[[augment.scene]]\nsize = 8
[heads.main]\nprojector = {{use = "mlp"}}\npredictor = {{use = "mlp"}}\n[target]\nmomentum = 0.9
[objectives.scene-scene]\n[optimizer]\nuse = "sgd"\nbase_lr = 0.1\n"""
    )
    result = CliRunner().invoke(make_app(), ["images", "pack", str(tmp_path / "r.toml"), "--out", str(tmp_path / "t")])
    assert result.exit_code == 0, result.output
    summary = result.stdout.splitlines()[0]
    assert summary.endswith("; left out: 1 crowds, 1 objects outside their image")


@pytest.mark.parametrize(
    "text", ["", "0", "1PB", "-1GB", "many", "0.2", "1e9", "9" * 400 + "GB", "0." + "0" * 400 + "1GB", "1001TB"]
)
def test_invalid_sizes_are_reported(text):
    with pytest.raises(UsageError, match="write 500MB or 1GB") as error:
        parse_size(text)
    assert len(str(error.value)) < 150
