"""Run `sslkit check` on recipes that are wrong in thousands of ways."""

from __future__ import annotations

import contextlib
import io
import json
import random
import re
import shutil
import tomllib
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import hypothesis
from hypothesis import HealthCheck, Phase, Verbosity, given, settings, strategies

from faults import apart, warm
from faults.outcome import Part

SHIPPED = Path(__file__).parent.parent.parent / "recipes"
CANARY = "canary_of_the_campaign"
TIMEOUT_S = 30
"""Time limit of a check, in seconds; most take less than one."""


@dataclass(frozen=True)
class Case:
    """A recipe and the expected answer to it.

    Attributes:
        kind: The kind of change.
        text: Text of the file.
        codes: Correct exit codes.
        line: Line that a problem must name, where it is known.
        again: What reproduces the case.
    """

    kind: str
    text: str
    codes: tuple[int, ...]
    again: str
    line: int | None = None


@dataclass(frozen=True)
class Answer:
    """The answer of a check.

    Attributes:
        code: Exit code; None if it raised.
        out: Standard output and error.
        did: Side effects: see `apart.Watch`.
    """

    code: int | None
    out: str
    did: tuple[str, ...] = ()


# ------------------------------------------------------------------------------------------- hostile values

VALID = """
summary = "two views"
seed = 3
epochs = 2
batch_size = 4
accumulate = 1
last_batch = "pad"
precision = "32-true"
on_bad_image = "skip"
max_bad_images = 10
max_bad_share = 0.5
min_image_side = 8
[source]
use = "sample-scenes"
images = 8
side = 96
[sampler]
use = "two-views"
scale = [0.2, 1.0]
[backbone]
use = "resnet18"
width = 8
[heads.main]
projector = { use = "mlp", hidden = 16, out = 8 }
predictor = { use = "mlp", hidden = 16 }
[target]
momentum = 0.9
momentum_end = 1.0
[objectives.scene-scene]
weight = 1.0
head = "main"
[[augment.scene]]
size = 32
flip = 0.5
blur_sigma = [0.1, 2.0]
network = "both"
[forward]
batch_norm = "per-view"
[optimizer]
use = "sgd"
base_lr = 0.1
momentum = 0.9
warmup_epochs = 1
[probes.knn]
k = 3
size = 32
"""
"""A valid recipe that uses every table."""

HOSTILE_WORDS = (
    "", " ", "\t", "\\", "'", "\n\n[source]\nuse = 1", "a\0b", "../../../../etc/passwd", "/etc/shadow", "~root", "$HOME",
    "$(touch CANARY)", "`touch CANARY`", "; touch CANARY", "| touch CANARY", "__import__('os').system('touch CANARY')",
    "{{7*7}}", "${jndi:ldap://x}", "%s%s%s%n", "{0.__class__.__mro__}", "os/system", "builtins/exec", "torch.load", "univip/",
    "/", "//", "images/folder/x", "é", "日本語", "\u202etxt", "\u200b", "\ud7ff", "\U0001f4a9", "ﬀ", "İ", "\x1b[31mred", "\x07",
    "a" * 5000, "a/" * 3000, "x" * 300 + ".jpg", "NaN", "inf", "null", "None", "true", "1e309", "-0", "0x10", "NUL", "C:\\x",
    "file:///etc/passwd", "http://localhost:1/x", "mlp\0", "mlp ", "MLP", "mlp;mlp", "<script>", "' OR 1=1 --", "__class__",
    "__init__", "use", "self", "dims",
)  # fmt: skip
HOSTILE_NUMBERS = (
    "0", "-0", "-1", "1", "2", "3", "7", "255", "65536", "2147483647", "2147483648", "-2147483649", "9223372036854775807",
    "9223372036854775808", "-9223372036854775809", "1" + "0" * 30, "1" + "0" * 400, "1" + "0" * 5000, "0x7fff_ffff", "0b1", "0o7",
    "0.0", "-0.0", "0.5", "1.5", "-1.5", "1e-320", "1e308", "1e309", "-1e309", "nan", "-nan", "inf", "-inf", "1e-400", "1_000",
    "1e5", "5e6", "1000000", "100000000", "3.0", "1e16",
)  # fmt: skip
HOSTILE_OTHERS = (
    "true", "false", "[]", "{}", "[[]]", "[{}]", "[1, 2, 3]", "[1, 'a']", "[0.0, 0.0]", "[1.0, 0.0]", "[nan, nan]", "['a']",
    "{ use = 'mlp' }", "{ use = 1 }", "{ use = '' }", "{ '' = 1 }", "{ a.b.c = 1 }", "1979-05-27", "07:32:00",
    "1979-05-27T07:32:00Z", "1979-05-27T00:32:00.999999-07:00", "[1979-05-27]", "{ d = 1979-05-27 }", "'''\nbatch_size = 1\n'''",
    "[" * 60 + "]" * 60, "{ a = " * 30 + "1" + " }" * 30, "[" * 3000 + "]" * 3000, "[" + "1," * 3000 + "]",
)  # fmt: skip
HOSTILE_KEYS = (
    "", "a b", "é", "__class__", "__proto__", "use", "seed", "SEED", "seed ", "0", "-1", "x" * 3000, "\x1b[2J", "a.b", "a]b",
    "dims", "self", "model_config", "model_fields", "json", "copy", "\u202e", "[[x]]", "#", "=", "\\", '"', "\U0001f4a9", "options",
    "instancs", "batch-size", "batch_sise", "__pydantic_extra__",
)  # fmt: skip


def word(text: str) -> str:
    """Write a TOML string."""
    return json.dumps(text, ensure_ascii=True).replace("\\ud83d\\udca9", "\\U0001f4a9").replace("CANARY", CANARY)


def _value(rng: random.Random) -> str:
    kind = rng.random()
    if kind < 0.35:
        return rng.choice(HOSTILE_NUMBERS)
    if kind < 0.65:
        return word(rng.choice(HOSTILE_WORDS).replace("CANARY", CANARY))
    if kind < 0.9:
        return rng.choice(HOSTILE_OTHERS)
    if kind < 0.95:
        return str(rng.randint(-(10 ** rng.randint(1, 25)), 10 ** rng.randint(1, 25)))
    return word(
        "".join(chr(rng.choice([*range(1, 0x250), 0x2028, 0x85, 0x4E2D, 0xFFFD])) for _ in range(rng.randint(1, 40)))
    )


# ------------------------------------------------------------------------------------------- generated ones


def generated(rng: random.Random) -> Case:
    """Return the valid recipe with one to four hostile changes."""
    lines = VALID.strip("\n").split("\n")
    for _ in range(rng.choice([1, 1, 1, 2, 3, 4])):
        lines = rng.choice(CHANGES)(rng, lines)
    text = "\n".join(lines) + "\n"
    codes = (3,) if not _parses(text) else (0, 3, 4)
    return Case("generated", text, codes, "the recipe below")


def _parses(text: str) -> bool:
    try:
        tomllib.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _pairs(lines: list[str]) -> list[int]:
    return [place for place, line in enumerate(lines) if re.match(r"[\w\"'-]+ = ", line)]


def _other_value(rng: random.Random, lines: list[str]) -> list[str]:
    place = rng.choice(_pairs(lines) or [0])
    return [*lines[:place], f"{lines[place].partition(' = ')[0]} = {_value(rng)}", *lines[place + 1 :]]


def _inner_value(rng: random.Random, lines: list[str]) -> list[str]:
    """Put another value inside an inline table or list."""
    places = [place for place in _pairs(lines) if "{ use" in lines[place]]
    if not places:
        return lines
    place = rng.choice(places)
    key = rng.choice(["use", "hidden", "out", "layers", "unknown"])
    inner = f'{{ use = "mlp", {key} = {_value(rng)} }}' if key != "use" else f"{{ use = {_value(rng)} }}"
    return [*lines[:place], f"{lines[place].partition(' = ')[0]} = {inner}", *lines[place + 1 :]]


def _new_key(rng: random.Random, lines: list[str]) -> list[str]:
    place = rng.randint(0, len(lines))
    return [*lines[:place], f"{word(rng.choice(HOSTILE_KEYS))} = {_value(rng)}", *lines[place:]]


def _new_table(rng: random.Random, lines: list[str]) -> list[str]:
    name = word(rng.choice(HOSTILE_KEYS))
    header = rng.choice([f"[{name}]", f"[[{name}]]", f"[heads.{name}]", f"[objectives.{name}]", f"[probes.{name}]",
                         f"[[augment.{name}]]", f"[augment.{name}]", f"[source.{name}]", f"[heads.main.{name}]"])  # fmt: skip
    return [*lines, header, f"{rng.choice(['use', 'weight', 'projector', 'size'])} = {_value(rng)}"]


def _no_line(rng: random.Random, lines: list[str]) -> list[str]:
    place = rng.randrange(len(lines))
    return lines[:place] + lines[place + 1 :]


def _no_table(rng: random.Random, lines: list[str]) -> list[str]:
    starts = [place for place, line in enumerate(lines) if line.startswith("[")]
    if not starts:
        return lines
    start = rng.choice(starts)
    end = next((place for place in starts if place > start), len(lines))
    return lines[:start] + lines[end:]


def _twice(rng: random.Random, lines: list[str]) -> list[str]:
    place = rng.randrange(len(lines))
    return [*lines[: place + 1], *lines[place:]]


def _moved(rng: random.Random, lines: list[str]) -> list[str]:
    place = rng.randrange(len(lines))
    rest = lines[:place] + lines[place + 1 :]
    rest.insert(rng.randint(0, len(rest)), lines[place])
    return rest


def _noise(rng: random.Random, lines: list[str]) -> list[str]:
    """Insert a character that does not belong there, or leave one out."""
    text = "\n".join(lines)
    place = rng.randrange(len(text))
    char = rng.choice([*"[]{}=\"'\\#.,\n\t\r", "\0", "\x7f", "\ufeff", "é", "\u2028", ""])
    return (text[:place] + char + text[place + 1 :]).split("\n")


def _cut(rng: random.Random, lines: list[str]) -> list[str]:
    text = "\n".join(lines)
    return text[: rng.randrange(len(text))].split("\n")


def _other_header(rng: random.Random, lines: list[str]) -> list[str]:
    places = [place for place, line in enumerate(lines) if line.startswith("[")]
    if not places:
        return lines
    place = rng.choice(places)
    name = lines[place].strip("[]")
    made = rng.choice(
        [f"[{name}s]", f"[[{name}]]", f"[{name}", f"[{name}.x]", "[]", "[.]", f"[{name.upper()}]", f"['{name}']"]
    )
    return [*lines[:place], made, *lines[place + 1 :]]


def _other_ids(rng: random.Random, lines: list[str]) -> list[str]:
    """Name an unknown component, or one of another kind."""
    places = [place for place in _pairs(lines) if lines[place].startswith("use = ")]
    if not places:
        return lines
    place = rng.choice(places)
    name = rng.choice(["none", "resnet18", "mlp", "two-views", "sgd", "folder", "coco", "timm", "vit-small", "lightly/dino",
                       "univip/scene-scene", "no/such", "overlapping-scenes", "multi-crop", "knn", "adamw"])  # fmt: skip
    return [*lines[:place], f'use = "{name}"', *lines[place + 1 :]]


CHANGES: tuple[Callable[[random.Random, list[str]], list[str]], ...] = (
    *(_other_value,) * 8, *(_inner_value,) * 3, *(_new_key,) * 2, *(_new_table,) * 2, _no_line, _no_table, _twice, _moved, _noise,
    _cut, _other_header, *(_other_ids,) * 2,
)  # fmt: skip


# ------------------------------------------------------------------------------------------- mutated ones


def mutated(seed: int, number: int) -> Case:
    """Return case `number`: a recipe of this repository with one mutation, and the line that must be named."""
    rng = random.Random(f"mutated {seed} {number}")
    files = sorted(SHIPPED.rglob("*.toml"))
    file = files[number % len(files)]
    lines = file.read_text(encoding="utf-8").split("\n")
    kind = sorted(MUTATIONS)[number % len(MUTATIONS)]
    made, line = MUTATIONS[kind](rng, lines)
    again = f"recipes.mutated({seed}, {number}), of {file.relative_to(SHIPPED)}"
    return Case(kind, "\n".join(made), (3,), again, line)


def _own_keys(lines: list[str]) -> list[int]:
    """Return lines of keys whose values are simple."""
    return [place for place, line in enumerate(lines) if re.match(r"\w+ = (?![\[{'\"]{3})", line)]


def _headers(lines: list[str]) -> list[int]:
    return [place for place, line in enumerate(lines) if line.startswith("[")]


def _put(lines: list[str], place: int, text: str) -> list[str]:
    return [*lines[:place], text, *lines[place + 1 :]]


def _typo(rng: random.Random, lines: list[str]) -> tuple[list[str], int]:
    """Insert a letter into a key.

    Without its `use`, a table itself is named, because its other keys are not known, unless its name is a component's.
    """
    place = rng.choice(_own_keys(lines))
    key, equals, rest = lines[place].partition(" = ")
    at = rng.randrange(len(key))
    header = max((other for other in _headers(lines) if other < place), default=0)
    own_name = lines[header].strip("[] ").rpartition(".")[2] == rest.split("#")[0].strip(' "').rpartition("/")[2]
    named = header if key == "use" and not own_name else place
    return _put(lines, place, key[: at + 1] + "z" + key[at + 1 :] + equals + rest), named + 1


def _doubled(rng: random.Random, lines: list[str]) -> tuple[list[str], int]:
    place = rng.choice(_own_keys(lines))
    return [*lines[: place + 1], *lines[place:]], place + 2


def _of_other_type(rng: random.Random, lines: list[str]) -> tuple[list[str], int]:
    """Set a key to a value of a type that no option has: a date, or a table in a list."""
    place = rng.choice(_own_keys(lines))
    return _put(
        lines, place, lines[place].partition(" = ")[0] + " = " + rng.choice(["1979-05-27", "[[{ a = 1 }]]"])
    ), place + 1


def _swapped_type(rng: random.Random, lines: list[str]) -> tuple[list[str], int]:
    """Write a number as a string, and a string as a number."""
    places = [place for place in _own_keys(lines) if re.match(r"\w+ = [\d\"]", lines[place])]
    place = rng.choice(places)
    key, _, rest = lines[place].partition(" = ")
    written = rest.split("#")[0].strip()
    return _put(
        lines, place, f"{key} = {'17' if written.startswith(chr(34)) else chr(34) + written + chr(34)}"
    ), place + 1


def _no_value(rng: random.Random, lines: list[str]) -> tuple[list[str], int]:
    place = rng.choice(_own_keys(lines))
    return _put(lines, place, lines[place].partition(" = ")[0] + " ="), place + 1


def _open_string(rng: random.Random, lines: list[str]) -> tuple[list[str], int]:
    place = rng.choice([place for place in _own_keys(lines) if re.match(r'\w+ = "[^"]*"', lines[place])])
    return _put(lines, place, lines[place].replace('"', "", 2).replace(" = ", ' = "', 1)), place + 1


def _open_header(rng: random.Random, lines: list[str]) -> tuple[list[str], int]:
    place = rng.choice(_headers(lines))
    return _put(lines, place, lines[place].split("]")[0]), place + 1


def _unknown_table(rng: random.Random, lines: list[str]) -> tuple[list[str], int]:
    place = rng.choice(
        [place for place in _headers(lines) if not lines[place].startswith(("[objectives", "[probes", "[["))]
    )
    first, _, rest = lines[place].strip("[]").split("#")[0].strip(" ]").partition(".")
    return _put(lines, place, f"[{first}y{'.' * bool(rest)}{rest}]"), place + 1


def _unknown_component(rng: random.Random, lines: list[str]) -> tuple[list[str], int]:
    place = rng.choice([place for place in _own_keys(lines) if lines[place].startswith("use = ")])
    return _put(lines, place, 'use = "nothing-of-this-name"'), place + 1


def _required(rng: random.Random, lines: list[str]) -> tuple[list[str], int | None]:
    """Leave out a key that has no default; its table must be named, or nothing at the top."""
    at = {
        key: place
        for place, line in enumerate(lines)
        for key in ("batch_size", "base_lr")
        if line.startswith(f"{key} = ")
    }
    place = at[rng.choice(sorted(at))]
    header = max((other for other in _headers(lines) if other < place), default=None)
    return lines[:place] + lines[place + 1 :], None if header is None else header + 1


def _out_of_range(rng: random.Random, lines: list[str]) -> tuple[list[str], int]:
    wrong = {"seed": "-1", "batch_size": "0", "base_lr": "-0.1", "flip": "1.5", "momentum": "-3.0", "size": "0", "hue": "0.7",
             "epochs": "-1", "steps": "0", "warmup_epochs": "-1", "weight": "nan", "grayscale": "-0.1"}  # fmt: skip
    places = [place for place in _own_keys(lines) if lines[place].partition(" = ")[0] in wrong]
    place = rng.choice(places)
    key = lines[place].partition(" = ")[0]
    return _put(lines, place, f"{key} = {wrong[key]}"), place + 1


MUTATIONS: dict[str, Callable[[random.Random, list[str]], tuple[list[str], int | None]]] = {
    "a typo in a key": _typo, "a key twice": _doubled, "a value of a type that no option has": _of_other_type,
    "a number as a string, or a string as a number": _swapped_type, "a key without a value": _no_value,
    "a string that does not end": _open_string, "a header that does not end": _open_header, "an unknown table": _unknown_table,
    "an unknown component": _unknown_component, "a required key is missing": _required, "a value out of range": _out_of_range,
}  # fmt: skip


# ------------------------------------------------------------------------------------------- the check


def check(file: Path, watch: apart.Watch) -> Answer:
    """Run `sslkit check FILE` in this process."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out), watch.over(file.parent, CANARY) as did:
        try:
            with apart.bounded(TIMEOUT_S):
                code: int | None = apart.in_words(["check", str(file)])
        except BaseException:
            code = None
            traceback.print_exc(file=out)
    return Answer(code, out.getvalue(), tuple(did))


def judge(case: Case, answer: Answer, file: Path) -> str | None:
    """Say what is wrong with an answer; None if nothing is."""
    if answer.code is None or "Traceback (most" in answer.out:
        return f"it raised: {answer.out.strip().splitlines()[-1][:300]}"
    if answer.did:
        return f"more was done than reading: {'; '.join(answer.did[:3])}"
    if others := sorted(path.name for path in file.parent.iterdir() if path != file):
        return f"files were made: {', '.join(others[:3])}"
    if answer.code not in case.codes:
        return (
            f"exit code {answer.code}, and it must be {' or '.join(map(str, case.codes))}: {answer.out.strip()[-300:]}"
        )
    if answer.code and not answer.out.strip():
        return "no message"
    if case.line is not None and not re.search(rf"(:{case.line}: |line {case.line},|line {case.line}\b)", answer.out):
        return f"line {case.line} is not named: {answer.out.strip()[-400:]}"
    return None


class Checks:
    """A checker of recipes in one folder, which counts their exit codes.

    Args:
        folder: An empty folder, the current one.
    """

    def __init__(self, folder: Path) -> None:
        warm.up()
        self.file, self.watch = folder / "recipe.toml", apart.Watch()
        self.ends: Counter[str] = Counter()
        self.texts: set[str] = set()

    def wrong(self, case: Case) -> str | None:
        """Check a recipe and say what is wrong with the answer; None if nothing is."""
        self.texts.add(case.text)
        self.file.write_bytes(case.text.encode("utf-8", "surrogatepass"))
        answer = check(self.file, self.watch)
        self.ends[str(answer.code)] += 1
        wrong = judge(case, answer, self.file)
        _empty(self.file.parent)
        return wrong


def search(checks: Checks, part: Part, seed: int, count: int) -> None:
    """Let hypothesis generate recipes, and shrink each that sslkit does not survive."""
    smallest: dict[str, Case] = {}

    @hypothesis.seed(seed)
    @settings(
        max_examples=count, database=None, deadline=None, print_blob=False, verbosity=Verbosity.quiet,
        suppress_health_check=list(HealthCheck), phases=[Phase.generate, Phase.shrink],
    )  # fmt: skip
    @given(strategies.randoms(use_true_random=False))
    def survived(rng: random.Random) -> None:
        case = generated(rng)
        part.cases[case.kind] += 1
        if wrong := checks.wrong(case):
            smallest[wrong] = case
            raise AssertionError(wrong)

    try:
        survived()
    except AssertionError as error:
        case = smallest[str(error)]
        part.fault(case.kind, str(error), _shown(case))


def campaign(folder: Path, seed: int, generate: int, mutate: int) -> Part:
    """Check recipes that are wrong.

    Args:
        folder: An empty folder.
        seed: Seed of the cases.
        generate: Number of recipes with hostile changes.
        mutate: Number of mutated recipes of this repository; the mutated line must be named.
    """
    part = Part("recipes")
    with contextlib.chdir(folder):
        checks = Checks(folder)
        for case in (Case("valid", VALID, (0,), "recipes.VALID"), *(mutated(seed, number) for number in range(mutate))):
            part.cases[case.kind] += 1
            if wrong := checks.wrong(case):
                part.fault(case.kind, wrong, _shown(case))
        search(checks, part, seed, generate)
    part.figures = {"exit_codes": dict(checks.ends), "different_texts": len(checks.texts)}
    return part


def _shown(case: Case) -> str:
    return f"{case.again}\n{case.text if len(case.text) < 8000 else case.text[:8000] + ' ...'}"


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
