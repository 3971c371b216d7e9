"""The one direction of imports, read from the syntax trees."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CORE = ROOT / "kdtoolkit"

# Lower numbers are lower layers; a module may import its own layer and those below. Type-checking imports count too:
# a name that a signature needs is a dependency of the reader, if not of the machine.
LAYERS = [
    {
        "errors",
        "files",
        "example",
        "schedule",
        "_version",
        "processor",
        "hub",
        "ahead",
        "dropout",
        "linear",
        "memory",
        "processes",
        "launcher",
        "progress",
        "shape",
        "encoder_layers",
        "feature_name",
        "parts",
    },
    {"tasks", "ops"},
    {"plugins", "recipe", "catalogue", "student", "teacher"},
    {"tokenizers", "data", "labels", "heads", "objectives", "balance", "augment", "evaluate", "report"},
    {"training"},
    {"student_folder"},
    {"predictor"},
    {"pipeline", "demo"},
    {"cli", "testing", "__main__"},
]
LAYER = {name: number for number, names in enumerate(LAYERS) for name in names}
PLUGIN_PACKAGES = {"kdtoolkit_students", "kdtoolkit_teachers", "kdtoolkit_recipes", "students", "teachers", "recipes"}


def unit(path: Path) -> str:
    parts = path.relative_to(CORE).parts
    return parts[0].removesuffix(".py")


def runtime_imports(path: Path):
    """(module as an absolute dotted name, line) of every import that runs, those for type checking left out."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    skipped = {
        id(node)
        for branch in ast.walk(tree)
        if isinstance(branch, ast.If) and ast.unparse(branch.test) == "TYPE_CHECKING"
        for node in ast.walk(branch)
    }
    package = ("kdtoolkit", *path.relative_to(CORE).parts[:-1])
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(part for part in (base, node.module or "") if part)
            if node.level and not node.module:
                yield from ((f"{module}.{alias.name}", node.lineno) for alias in node.names)
            else:
                yield module, node.lineno


FILES = sorted(path for path in CORE.rglob("*.py") if path != CORE / "__init__.py")


def test_there_are_modules_to_check():
    assert len(FILES) > 40


def test_every_module_has_a_layer():
    assert {unit(path) for path in FILES} - LAYER.keys() == set()


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(CORE)))
def test_imports_run_downwards(path):
    own = LAYER[unit(path)]
    for module, line in runtime_imports(path):
        parts = module.split(".")
        assert parts[0] not in PLUGIN_PACKAGES, f"{path.name}:{line}: the core reaches plug-ins through entry points"
        if parts[0] == "kdtoolkit" and len(parts) > 1 and parts[1] in LAYER:
            assert LAYER[parts[1]] <= own, f"{path.name}:{line}: {unit(path)} imports {parts[1]}, a higher layer"


@pytest.mark.parametrize("folder", ["students", "teachers"])
def test_plugins_import_no_private_name_of_the_core(folder):
    files = sorted((ROOT / folder).glob("*.py"))
    assert files
    for path in files:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("kdtoolkit"):
                assert not any(alias.name.startswith("_") for alias in node.names), f"{path.name}:{node.lineno}"
