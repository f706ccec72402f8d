"""List the public names: `python docs/api.py` writes docs/api.md.

The page is made from the source code alone, so that it is the same on every machine. It imports nothing but `sslkit`.
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import sslkit

DOCS = Path(__file__).parent
SOURCE = Path(sslkit.__file__).parent
OUT = DOCS / "api.md"
MODULES = (
    "api", "testing", "boxes", "crops", "images", "orientation", "nn", "axes", "errors", "optim", "schedules", "seeds",
    "weights", "folders", "files", "json_records", "progress", "targets",
)  # fmt: skip
"""The public modules, in reading order."""
RETURNED = {
    "planning/recipe_file.py": ("RecipeFile",),
    "planning/plan.py": ("Plan",),
    "networks/cost.py": ("Cost",),
    "training/result.py": ("Result",),
    "ablation/results.py": ("Results", "ArmResult", "Trial"),
    "networks/inference.py": ("NormalisedBackbone",),
}
"""The classes of what the functions of `sslkit` return; the modules that define them are private."""
OPERATORS = ("__call__", "__len__", "__getitem__")
WIDTH = 118
INTRODUCTION = """\
# Public names

This page lists every name that you may import from sslkit. A name that is not listed is private, and may change
without notice. `python docs/api.py` makes the page from signatures and docstrings, and a test compares the two, so a
change of the public surface is visible in the diff of this page.

There are two surfaces:

- **For notebooks and scripts:** `import sslkit`, and the functions of the next section. [Python](python.md) shows them
  at work.
- **For authors of plugins:** the modules `sslkit.NAME` below. [Plugins](plugins.md) explains the contracts in
  `sslkit.api`, with an example each.

Folders inside the package, `sslkit.planning` or `sslkit.training`, are private, except for `sslkit.testing`. So are
the modules `sslkit.plugins`, `sslkit.hookspecs` and `sslkit.facade`.

`help(sslkit.train)` shows a whole docstring, with arguments and errors. All errors are in `sslkit.errors`.
"""
FACADE = """\
These names are in `sslkit.__all__`. `import sslkit` does not import torch. In the signatures, `Recipe` is a recipe's
name or path, the folder of a run, or what `sslkit.load` or `sslkit.plan` returns, and `Words` is a string or several.
"""
VALUES = {"__version__": "The version of sslkit, as a string."}


def make() -> str:
    """Return the text of the page."""
    links = ", ".join(f"[{name}](#sslkit{name})" for name in MODULES)
    parts = [
        INTRODUCTION,
        *_paragraph(f"Modules: {links}."),
        "",
        "## sslkit",
        "",
        FACADE,
        *_facade(),
        "",
        "### What they return",
        "",
    ]
    for file, names in RETURNED.items():
        tree = _tree(SOURCE / file)
        for name in names:
            parts += _class(_definition(tree, name), level=4)
    for name in MODULES:
        parts += _module(name)
    return "\n".join(parts).rstrip() + "\n"


def _facade() -> Iterator[str]:
    """Yield the names of `sslkit.__all__`: functions in the order of the source, then the others."""
    for node in _definitions(_tree(SOURCE / "facade.py")):
        if node.name in sslkit.__all__:
            yield from _function(node)
    constants = {name: text for name, _, text in _constants(_tree(SOURCE / "__init__.py"))} | VALUES
    for name in sorted(constants.keys() & set(sslkit.__all__)):
        yield from _bullet(name, constants[name])


# ---------------------------------------------------------------------------------------------------- one module


def _module(name: str) -> Iterator[str]:
    """Yield the section of a module: its constants and functions, then its classes."""
    file = SOURCE / f"{name}.py" if (SOURCE / f"{name}.py").exists() else SOURCE / name / "__init__.py"
    tree = _tree(file)
    yield from (f"## sslkit.{name}", "", *_paragraph(_doc(tree, name)), "")
    definitions = list(_definitions(tree))
    rows = []
    for constant, value, text in _constants(tree):
        if not text:
            raise ValueError(f"{constant} has no docstring")
        rows += _bullet(f"{constant} = {value}", text)
    for node in definitions:
        rows += _function(node) if isinstance(node, ast.FunctionDef) else ()
    yield from (*rows, *([""] if rows else []))
    for node in definitions:
        if isinstance(node, ast.ClassDef):
            yield from _class(node, level=3)


def _tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def _definitions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.ClassDef]:
    """Yield the public functions and classes of a module; with `__all__`, also those that it imports for it."""
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            yield node
    for origin, names in _reexported(tree):
        yield from (node for node in _definitions(origin) if node.name in names)


def _definition(tree: ast.Module, name: str) -> ast.FunctionDef | ast.ClassDef:
    return next(node for node in _definitions(tree) if node.name == name)


def _reexported(tree: ast.Module) -> Iterator[tuple[ast.Module, list[str]]]:
    """Yield other modules of sslkit and the names that `__all__` of this one takes from each."""
    [exported] = [ast.literal_eval(value) for name, value in _assignments(tree) if name == "__all__"] or [()]
    for node in tree.body:
        names = (
            [alias.name for alias in node.names if alias.name in exported] if isinstance(node, ast.ImportFrom) else []
        )
        if names:
            yield _tree(SOURCE.parent / f"{node.module.replace('.', '/')}.py"), names


def _assignments(tree: ast.Module) -> Iterator[tuple[str, ast.expr]]:
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            yield node.targets[0].id, node.value
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value:
            yield node.target.id, node.value


def _constants(tree: ast.Module) -> Iterator[tuple[str, str, str]]:
    """Yield name, value and description of the public constants; `__all__` adds those of other modules."""
    documented = _described(tree.body)
    for name, value in _assignments(tree):
        if not name.startswith("_"):
            yield name, ast.unparse(value), documented.get(name, "")
    for origin, names in _reexported(tree):
        yield from (item for item in _constants(origin) if item[0] in names)


def _described(body: list[ast.stmt]) -> dict[str, str]:
    """Return name -> the string below its assignment."""
    texts: dict[str, str] = {}
    for node, following in pairwise(body):
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        text = following.value if isinstance(following, ast.Expr) else None
        if isinstance(target, ast.Name) and isinstance(text, ast.Constant):
            texts[target.id] = _first_paragraph(str(text.value))
    return texts


# ----------------------------------------------------------------------------------------------- one definition


def _function(node: ast.FunctionDef | ast.ClassDef, kind: str = "") -> Iterator[str]:
    assert isinstance(node, ast.FunctionDef)
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    if "contextmanager" in map(ast.unparse, node.decorator_list):
        kind = "context manager"
    yield from _bullet(f"{node.name}({_arguments(node.args)}){returns}", _doc(node, node.name), kind)


def _arguments(arguments: ast.arguments) -> str:
    """Write the parameters of a function, without `self`."""
    first = [None] * (len(arguments.args) - len(arguments.defaults))
    parts = [_argument(*pair) for pair in zip(arguments.args, [*first, *arguments.defaults], strict=True)]
    parts = parts[1:] if parts[:1] in (["self"], ["cls"]) else parts
    if arguments.vararg or arguments.kwonlyargs:
        parts.append("*" + (_argument(arguments.vararg, None) if arguments.vararg else ""))
    parts += [_argument(*pair) for pair in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)]
    return ", ".join(parts + ([f"**{_argument(arguments.kwarg, None)}"] if arguments.kwarg else []))


def _argument(argument: ast.arg, default: ast.expr | None) -> str:
    annotation = f": {ast.unparse(argument.annotation)}" if argument.annotation else ""
    return argument.arg + annotation + (f" = {ast.unparse(default)}" if default else "")


def _class(node: ast.FunctionDef | ast.ClassDef, level: int) -> Iterator[str]:
    """Yield a heading, the first paragraph, and a bullet for each field, property and method."""
    assert isinstance(node, ast.ClassDef)
    bases = f"({', '.join(map(ast.unparse, node.bases))})" if node.bases else ""
    yield from (f"{'#' * level} `{node.name}{bases}`", "", *_paragraph(_doc(node, node.name)), "")
    rows = [*_fields(node)]
    for item in node.body:
        if isinstance(item, ast.FunctionDef) and item.name == "__init__":
            rows += _bullet(f"{node.name}({_arguments(item.args)})", "", "constructor")
        elif isinstance(item, ast.FunctionDef) and (not item.name.startswith("_") or item.name in OPERATORS):
            rows += _method(item)
    yield from (*rows, *([""] if rows else []))


def _fields(node: ast.ClassDef) -> Iterator[str]:
    docstring = ast.get_docstring(node) or ""
    attributes = _entries(docstring, "Attributes")
    texts = _entries(docstring, "Args") | attributes | _described(node.body)
    for item in node.body:
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name) and item.target.id[0] != "_":
            attributes.pop(item.target.id, "")
            annotation = re.sub(r"^ClassVar\[(.*)\]$", r"\1", ast.unparse(item.annotation))
            default = f" = {ast.unparse(item.value)}" if item.value and not _is_field(item.value) else ""
            yield from _bullet(f"{item.target.id}: {annotation}{default}", texts.get(item.target.id, ""))
    for name, text in attributes.items():
        yield from _bullet(name, text)


def _is_field(value: ast.expr) -> bool:
    """Return whether a default is `field(...)`, which says little to readers."""
    return isinstance(value, ast.Call) and ast.unparse(value.func) == "field"


def _entries(docstring: str, section: str) -> dict[str, str]:
    """Return the entries of a section of a docstring, as name -> text."""
    body = docstring.partition(f"{section}:\n")[2].partition("\n\n")[0]
    entries = re.findall(r"^    (\w+): (.*(?:\n        .*)*)", body, re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in entries}


def _method(node: ast.FunctionDef) -> Iterator[str]:
    decorators = {ast.unparse(item) for item in node.decorator_list}
    kind = "abstract" if "abstractmethod" in decorators else ""
    if decorators & {"property", "cached_property"}:
        kind = f"{kind} property".strip()
        returns = f": {ast.unparse(node.returns)}" if node.returns else ""
        yield from _bullet(f"{node.name}{returns}", _doc(node, node.name), kind)
    else:
        yield from _function(node, kind)


# --------------------------------------------------------------------------------------------------------- text


def _doc(node: ast.Module | ast.FunctionDef | ast.ClassDef, name: str) -> str:
    docstring = ast.get_docstring(node)
    if not docstring:
        raise ValueError(f"{name} has no docstring")
    return _first_paragraph(docstring)


def _first_paragraph(docstring: str) -> str:
    return " ".join(inspect.cleandoc(docstring).partition("\n\n")[0].split())


def _bullet(code: str, text: str, kind: str = "") -> list[str]:
    """Return the lines of a list item: the code, its kind in brackets, and what it is."""
    label = f"- `{code}`" + (f" ({kind})" if kind else "")
    return textwrap.wrap(
        f"{label}: {text}" if text else label, WIDTH, subsequent_indent="  ", break_long_words=False,
        break_on_hyphens=False,
    )  # fmt: skip


def _paragraph(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, break_long_words=False, break_on_hyphens=False)


if __name__ == "__main__":
    OUT.write_text(make(), encoding="utf-8")
