import json
import subprocess
import sys
import tomllib

import numpy as np
import pytest

from sslkit.__main__ import main


@pytest.fixture
def recipe(tmp_path, monkeypatch, small_recipe):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.toml").write_text(small_recipe)
    return "small.toml"


def test_help_needs_no_torch():
    code = "import sys; from sslkit.__main__ import main; main(['--help']); sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "proposals" in done.stdout


def test_problems_of_structure_are_reported_before_torch_is_imported(recipe, tmp_path, small_recipe):
    (tmp_path / "bad.toml").write_text(small_recipe.replace("steps = 2", "stepz = 2") + "\n[sampler2]\n")
    code = (
        "import sys, typer; from sslkit.__main__ import main; lines = []\n"
        "typer.echo = lambda text, **_: lines.append(('torch' in sys.modules, text))\n"
        "code = main(['check', 'bad.toml']); print(code, lines[0][0]); print(lines[0][1])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.startswith("3 False\n"), done.stdout + done.stderr
    assert "unknown option 'stepz': did you mean 'steps'?" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["run", "nothing"], 3, "no recipe file or recipe is named 'nothing'"),
        (["check", "univip_cocoo"], 3, "did you mean 'univip_coco'?"),
        (["check", "small.toml", "--set", "seed"], 2, "write --set key.path=value"),
        (["check", "small.toml", "--set", "sampler.use=two-view"], 3, "did you mean 'two-views'?"),
        (["check", "small.toml", "--set", "sampler.vews=3"], 3, "unknown option 'vews': did you mean 'views'?"),
        (["check", "univip_coco"], 5, "unzip -q data/coco/train2017.zip"),
        (["ablate", "univip_coco"], 2, "nothing is varied: write --drop NAME"),
        (["ablate", "univip_coco", "--drop", "instance-instance"], 5, "unzip -q data/coco/train2017.zip"),
        (["plugins", "resnet51"], 4, "no component is named 'resnet51': did you mean 'resnet50'?"),
        (["run", "small.toml", "--set", "source={use='folder', root='photos'}"], 5, "folder not found"),
        (["run", "small.toml", "--nonsense"], 2, "No such option: --nonsense"),
        (["run", "small.toml", "--on-collapse", "ignore"], 2, "'ignore' is not one of 'warn', 'stop'"),
        (["run", "small.toml", "--set", "batch_size=1"], 3, "one image per micro-batch"),
    ],
)
def test_failures_have_a_message_and_an_exit_code(recipe, capsys, arguments, code, message):
    assert main(arguments) == code
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_a_missing_plugin_subset_is_a_plugin_error(recipe, capsys, monkeypatch):
    monkeypatch.setenv("SSLKIT_PLUGINS", "univp")
    assert main(["plugins"]) == 4
    assert "did you mean 'univip'?" in capsys.readouterr().err


def test_every_problem_is_reported_at_once(recipe, tmp_path, capsys, small_recipe):
    (tmp_path / "bad.toml").write_text(
        small_recipe.replace("size = 32", "siz = 32").replace('"resnet18"', '"resnet17"')
    )
    assert main(["check", "bad.toml", "--json"]) == 3
    report = json.loads(capsys.readouterr().out)
    assert {item["key"] for item in report["problems"]} == {"augment.scene.0.siz", "backbone.use"}
    assert all(item["where"].startswith("bad.toml:") for item in report["problems"])


@pytest.mark.parametrize("broken", ["batch_size=0", "steps=none", "optimizer.base_lr=-1", "optimizer.base_lr=fast"])
def test_a_problem_of_structure_hides_no_other(recipe, capsys, broken):
    wrong = ["sampler.vews=3", "backbone.use=resnet81", "objectives.scene-scene.wieght=2", broken]
    assert main(["check", recipe, *(part for item in wrong for part in ("--set", item))]) == 3
    above, _, error = capsys.readouterr().err.partition("error: ")
    assert error.startswith("small.toml has 4 problems, 1 of them above:\n")
    assert f"--set {broken}: " in above
    assert f"--set {broken}: " not in error
    for hint in ("did you mean 'views'?", "did you mean 'resnet18'?", "did you mean 'weight'?"):
        assert hint in error


@pytest.mark.parametrize("wrong", ["batch_size=0", "epoch=2", "steps=none"])
def test_a_problem_of_structure_is_shown_once(recipe, capsys, wrong):
    assert main(["check", recipe, "--set", wrong]) == 3
    err = capsys.readouterr().err
    assert err.count(f"--set {wrong}: ") == 1
    assert err.endswith("error: small.toml has 1 problem, shown above\n")
    assert main(["check", recipe, "--set", wrong, "--json"]) == 3
    assert len(json.loads(capsys.readouterr().out)["problems"]) == 1


def test_options_of_another_sampler_hide_no_missing_group(recipe, capsys):
    more = ["--set", "objectives.instance-instance={}", "--set", "sampler.instances=4"]
    assert main(["check", recipe, *more]) == 3
    error = capsys.readouterr().err
    assert "unknown option 'instances'" in error
    assert error.count("gives no view group 'instance'") == 1


def test_an_error_about_missing_proposals_names_the_command_that_makes_them(recipe, capsys):
    change = 'sampler={use="overlapping-scenes", min_side=8}'
    command = ["run", recipe, "--set", change, "--set", "proposals.use=selective-search", "--accelerator", "cpu"]
    assert main(command) == 5
    line = capsys.readouterr().err.strip().rpartition("\n")[2]
    assert line.partition("run: ")[2] == (
        f"sslkit proposals build small.toml --set '{change}' --set proposals.use=selective-search"
    )


def test_check_resolve_diff_and_schema(recipe, tmp_path, capsys):
    assert main(["check", recipe]) == 0
    assert "2 x 32 px" in capsys.readouterr().out
    assert main(["resolve", recipe]) == 0
    resolved = capsys.readouterr().out
    assert tomllib.loads(resolved)["sampler"]["use"] == "images/two-views"
    (tmp_path / "resolved.toml").write_text(resolved)
    assert main(["diff", recipe, "resolved.toml"]) == 0
    assert "the same recipe" in capsys.readouterr().out
    assert main(["diff", "univip_coco", "univip_coco_plus", "--json"]) == 0
    assert {row["key"] for row in json.loads(capsys.readouterr().out)} == {"source.split", "summary"}
    assert main(["schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    assert "instance-instance" in schema["properties"]["objectives"]["properties"]


def test_run_resumes_and_says_when_it_is_finished(recipe, capsys):
    command = ["run", recipe, "--workers", "0", "--accelerator", "cpu"]
    assert main([*command, "--stop-after", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["state"] == "stopped"
    assert main([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["resumed_from"] == 1
    assert main(command) == 0
    assert "already finished" in capsys.readouterr().out
    assert main([*command, "--set", "optimizer.base_lr=0.2"]) == 3
    assert "optimizer.base_lr: 0.1 -> 0.2" in capsys.readouterr().err
    assert main([*command, "--set", "optimizer.base_lr=0.2", "--arm", "other"]) == 0


def test_metrics_are_neither_doubled_nor_missing_after_a_resume(recipe, tmp_path):
    command = ["run", recipe, "--workers", "0", "--accelerator", "cpu", "--set", "steps=4"]
    assert main([*command, "--stop-after", "2"]) == 0
    metrics = tmp_path / "runs" / "small" / "full-s0" / "metrics.jsonl"
    metrics.write_text(metrics.read_text() + '{"step": 3, "loss": 1.0}\n{"step": 4, "lo')
    assert main(command) == 0
    assert [json.loads(line)["step"] for line in metrics.read_text().splitlines()] == [1, 2, 3, 4]


def test_views_draws_a_contact_sheet(recipe, tmp_path):
    from PIL import Image

    assert main(["views", recipe, "--out", "sheet.png", "--count", "2"]) == 0
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width > 300
        assert len(np.unique(np.asarray(sheet))) > 50


def test_listings(capsys):
    assert main(["plugins", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert not listed["broken"]
    assert "univip/scene-scene" in {item["id"] for item in listed["plugins"]["univip"]["components"]}
    assert main(["recipes", "--json"]) == 0
    assert {"quickstart", "univip_coco"} <= {item["name"] for item in json.loads(capsys.readouterr().out)}
    assert main(["recipes", "byol_coco"]) == 0
    assert tomllib.loads(capsys.readouterr().out)["batch_size"] == 512
    assert main(["plugins", "instance-instance"]) == 0
    assert "epsilon" in capsys.readouterr().out
