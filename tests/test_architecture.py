"""The floors: imports only point down, the core knows no plugin, plugins know no sibling."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ORDER = [
    ("public",),
    ("foreign",),
    ("plugins",),
    ("contracts",),
    ("planning",),
    ("storage",),
    ("data", "networks"),
    ("probes",),
    ("training",),
    ("ablation", "verify"),
    ("report", "doctor"),
    ("targets",),
    ("facade",),
    ("cli",),
    ("__main__",),
]
"""From the ground up: a package imports what stands in a line above its own. `public` is the top of `sslkit/`."""
HIGHER = {
    "hookspecs": "plugins",
    "plugins": "plugins",
    "targets": "targets",
    "facade": "facade",
    "__main__": "__main__",
}
"""Modules at the top of `sslkit/` that stand on a higher floor than the public ones."""
ABOVE_PLANNING = {"testing": "planning"}
"""The conformance kit stands beside these floors: it imports this one and those below, and none imports it."""
NOT_FOR_PLUGINS = {"plugins", "hookspecs", "facade", "__main__"}
FIRST_PARTY = sorted(path.name for path in (ROOT / "plugins").iterdir() if (path / "__init__.py").exists())


def imports(file: Path) -> set[str]:
    """Return the dotted names that a file imports, wherever in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {_module(node.module, alias.name) for alias in node.names}
    return names


def _module(package: str, name: str) -> str:
    """Return `package.name` where that is a module of ours, or a name of the package `sslkit` itself."""
    inner = ROOT.joinpath(*package.split("."), name)
    is_module = inner.is_dir() or inner.with_suffix(".py").exists()
    return f"{package}.{name}" if is_module or package == "sslkit" else package


def room(module: str) -> str:
    """Return the package that a module of ours is in, and "public" for one at the top."""
    first = module.partition(".")[0]
    return first if (ROOT / "sslkit" / first).is_dir() else HIGHER.get(first, "public")


def floor(module: str) -> int:
    return next(number for number, rooms in enumerate(ORDER) if room(module) in rooms)


def core_files() -> list[Path]:
    return list((ROOT / "sslkit").rglob("*.py"))


def module_of(file: Path) -> str:
    return ".".join(file.relative_to(ROOT / "sslkit").with_suffix("").parts).removesuffix(".__init__")


def edges() -> list[tuple[str, str]]:
    """Return who imports whom in the core, `__init__` of the whole left out."""
    own = {module_of(file): imports(file) for file in core_files()}
    own.pop("__init__")
    return [
        (module, name.removeprefix("sslkit."))
        for module, names in own.items()
        for name in names
        if name.startswith("sslkit.") and name not in ("sslkit.__version__", "sslkit.hookimpl")
    ]


def test_every_package_has_its_place():
    packages = {path.parent.name for path in (ROOT / "sslkit").glob("*/__init__.py")}
    assert packages - set(ABOVE_PLANNING) == {name for rooms in ORDER for name in rooms} - {"public", *HIGHER.values()}


def test_imports_point_down():
    """Into the own package, or to one that stands in an earlier line of `ORDER`."""
    upward = []
    for module, name in edges():
        here, there = room(module), room(name)
        if here == there:
            continue
        if there in ABOVE_PLANNING:
            upward.append(f"{module} imports {name}")
        elif here in ABOVE_PLANNING:
            limit = floor(ABOVE_PLANNING[here])
            upward += [f"{module} imports {name}"] if floor(name) > limit else []
        elif floor(name) >= floor(module):
            upward.append(f"{module} imports {name}")
    assert not upward


def test_there_are_no_cycles():
    graph: dict[str, set[str]] = {}
    for module, name in edges():
        graph.setdefault(module, set()).add(name)

    def reaches(start: str, goal: str, seen: set[str]) -> bool:
        for name in graph.get(start, set()) - seen:
            seen.add(name)
            if name == goal or reaches(name, goal, seen):
                return True
        return False

    assert not [name for name in graph if reaches(name, name, set())]


def test_the_core_holds_no_plugins_name(installed):
    from sslkit.hookspecs import COLLECTING

    packages = set(FIRST_PARTY) - set(COLLECTING.values())  # some packages are called what their hook is called
    ids = [id_ for kind in installed.components.values() for id_ in kind]
    names = re.compile(rf"(?<![\w/])({'|'.join([*packages, *ids])})(?![\w/-])")
    for file in core_files():
        tree = ast.parse(file.read_text())
        docs = docstrings(tree)
        strings = [
            node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)
        ]
        assert not [text for text in strings if text not in docs and names.search(text)], file
        assert not [name for name in imports(file) if name.startswith(tuple(FIRST_PARTY))], file


def named_components(tree: ast.Module, ids: list[str]) -> list[str]:
    """Return the components of `ids` that code names: as `use = "..."` in a string, or in a look-up by name."""
    names = {*ids, *(id_.partition("/")[2] for id_ in ids)}
    texts = docstrings(tree)
    named = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value not in texts:
            named += re.findall(r"""\buse\s*=\s*["']([\w/-]+)["']""", node.value)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "find":
            named += [argument.value for argument in node.args[1:] if isinstance(argument, ast.Constant)]
    return [name for name in named if name in names]


def docstrings(tree: ast.Module) -> set[str | None]:
    nodes = (node for node in ast.walk(tree) if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)))
    return {ast.get_docstring(node, clean=False) for node in nodes}


def test_the_core_names_no_plugins_component(installed):
    """Names come from recipes, or from what components declare (`opens_folder`, `is_default`, `example`)."""
    ids = [id_ for kind in installed.components.values() for id_ in kind]
    leaks = {str(file): named_components(ast.parse(file.read_text()), ids) for file in core_files()}
    assert not {file: names for file, names in leaks.items() if names}


@pytest.mark.parametrize(
    "code",
    [
        """plugins.find("source", "images/folder").cls(root=target)""",
        """plugins.find("proposer", "selective-search")""",
        """HINT = 'add source = { use = "folder", root = "images" }'""",
        """hint = f'add predictor = {{ use = "mlp" }} to [heads.{name}]'""",
    ],
)
def test_a_named_component_is_a_leak(code, installed):
    ids = [id_ for kind in installed.components.values() for id_ in kind]
    assert named_components(ast.parse(code), ids)
    assert not named_components(ast.parse(f'def example():\n    """{code}"""'), ids), (
        "in documentation it is an example"
    )


@pytest.mark.parametrize("package", FIRST_PARTY)
def test_plugins_import_the_public_surface_and_no_sibling(package):
    for file in (ROOT / "plugins" / package).rglob("*.py"):
        for name in imports(file):
            if name.startswith("sslkit_"):
                assert name.partition(".")[0] == package, f"{file} imports {name}"
            elif name.partition(".")[0] == "sslkit":
                dotted = name.removeprefix("sslkit").lstrip(".")
                public = dotted in {"", "hookimpl", "__version__"} or (ROOT / "sslkit" / f"{dotted}.py").exists()
                assert public, f"{file} imports {name}"
                assert dotted not in NOT_FOR_PLUGINS, f"{file} imports {name}"


def test_every_first_party_plugin_is_packaged_and_registered():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert sorted(project["project"]["entry-points"]["sslkit"].values()) == FIRST_PARTY
    packaged = project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert sorted(packaged) == sorted(["sslkit", *(f"plugins/{name}" for name in FIRST_PARTY)])


def functions(file: Path) -> list[int]:
    nodes = [
        node
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    ]
    return [node.end_lineno - node.lineno + 1 for node in nodes]


def test_functions_stay_short():
    lengths = sorted(
        length
        for folder in ("sslkit", "plugins")
        for file in (ROOT / folder).rglob("*.py")
        for length in functions(file)
    )
    assert lengths[len(lengths) // 2] <= 10
    assert lengths[-1] <= 60


LONG_FILES = {"sslkit/api.py": "every contract of a plugin, to be read in one place"}
"""Files of more than 300 lines, each with its reason."""
LARGE_CLASSES = {
    "sslkit/storage/run_folder.py: RunFolder": "the files of a run are named, read and written in one place",
    "sslkit/contracts/sources.py: CheckedSource": "each method of the contract is checked by one of the same name",
    "sslkit/data/views.py: ViewDataset": "each stage of a batch is a method of its own, and is timed by name",
}
"""Classes of 15 methods or more, each with its reason."""
TOP_MODULES, LINES, METHODS = 22, 300, 15


def test_the_top_is_small_enough_to_read():
    assert len(list((ROOT / "sslkit").glob("*.py"))) <= TOP_MODULES


def test_files_and_classes_are_short_or_have_a_reason():
    """Aims rather than limits: name an exception with its reason, or split."""
    files = [file for folder in ("sslkit", "plugins") for file in (ROOT / folder).rglob("*.py")]
    long = {str(file.relative_to(ROOT)) for file in files if len(file.read_text().splitlines()) > LINES}
    assert long == set(LONG_FILES)
    methods = {
        f"{file.relative_to(ROOT)}: {node.name}": sum(isinstance(part, ast.FunctionDef) for part in node.body)
        for file in files
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.ClassDef)
    }
    assert {name for name, count in methods.items() if count >= METHODS} == set(LARGE_CLASSES)


def test_the_changelog_knows_this_version():
    from sslkit import __version__

    assert f"## [{__version__}]" in (ROOT / "CHANGELOG.md").read_text()
