"""What is built: four packages and nothing else, listed whole, installable without a compiler."""

from __future__ import annotations

import configparser
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOP = {"kdtoolkit", "kdtoolkit_students", "kdtoolkit_teachers", "kdtoolkit_recipes"}
FOLDERS = {
    "kdtoolkit": ROOT / "kdtoolkit",
    "kdtoolkit_students": ROOT / "students",
    "kdtoolkit_teachers": ROOT / "teachers",
    "kdtoolkit_recipes": ROOT / "recipes",
}


def run(*command, **options):
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, **options)
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def without_compiler(tmp_path: Path) -> dict[str, str]:
    """An environment whose PATH has Python's own folder and nothing that compiles."""
    return {**os.environ, "PATH": str(Path(sys.executable).parent), "CC": "false", "CXX": "false"}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The wheel and the sdist of a copy of the checkout, so that no build folder of the checkout slips in."""
    source = tmp_path_factory.mktemp("source") / "kdtoolkit"
    ignored = shutil.ignore_patterns(".venv", ".git", "runs", "build", "dist", "*.egg-info", "__pycache__", ".*_cache")
    shutil.copytree(ROOT, source, ignore=ignored)
    out = tmp_path_factory.mktemp("dist")
    run(
        sys.executable, "-m", "build", "--no-isolation", "--outdir", out, source,
        env=without_compiler(out), cwd=source,
    )  # fmt: skip
    return next(out.glob("*.whl")), next(out.glob("*.tar.gz"))


def modules(folder: Path, package: str) -> set[str]:
    kept = {".py", ".yaml", ".typed"}
    return {
        f"{package}/{path.relative_to(folder)}"
        for path in folder.rglob("*")
        if path.suffix in kept and "__pycache__" not in path.parts
    }


def test_the_wheel_holds_every_module_of_the_four_packages_and_nothing_else(built):
    with zipfile.ZipFile(built[0]) as wheel:
        names = {name for name in wheel.namelist() if not name.endswith("/")}
    installed = {name for name in names if ".dist-info/" not in name}
    expected = set().union(*(modules(folder, package) for package, folder in FOLDERS.items()))
    assert {name.split("/")[0] for name in installed} == TOP
    assert installed == {name for name in expected if not name.endswith(".typed") or name == "kdtoolkit/py.typed"}


def test_the_sdist_holds_the_sources_of_the_same_modules(built):
    with tarfile.open(built[1]) as sdist:
        names = {name.split("/", 1)[1] for name in sdist.getnames() if "/" in name}
    for package, folder in FOLDERS.items():
        here = {f"{folder.name}/{name.split('/', 1)[1]}" for name in modules(folder, package)}
        assert here <= names, sorted(here - names)
    for folder in ("tests", "benchmarks", "runs", ".venv"):
        assert not any(name.startswith(f"{folder}/") for name in names), folder


def test_setup_cfg_lists_every_package():
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    listed = set(parser["options"]["packages"].split())
    found = {
        ".".join([package, *path.parent.relative_to(folder).parts])
        for package, folder in FOLDERS.items()
        for path in folder.rglob("__init__.py")
    }
    assert listed == found


@pytest.fixture(scope="module")
def venv(built, tmp_path_factory):
    """An empty virtual environment with the wheel alone; its dependencies are lent by a path file."""
    folder = tmp_path_factory.mktemp("venv")
    run(sys.executable, "-m", "venv", folder)
    python = folder / "bin" / "python"
    run(python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", built[0], env=without_compiler(folder))
    purelib = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
    ours = run(sys.executable, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
    # The path file comes after the venv's own packages, and editable installs of the lender are not followed by it.
    Path(purelib, "zz_lent.pth").write_text(ours + "\n", encoding="utf-8")
    return folder


def test_the_installed_wheel_lists_its_plugins_and_recipes_from_elsewhere(venv, tmp_path):
    environment = {**without_compiler(venv), "PYTHONPATH": "", "KDTOOLKIT_STORE": str(tmp_path / "store")}
    out = run(venv / "bin" / "kdtool", "plugins", cwd=tmp_path, env=environment)
    for name in ("bilstm", "transformer", "hf", "hugging_face", "stored", "python"):
        assert name in out
    out = run(venv / "bin" / "kdtool", "recipes", cwd=tmp_path, env=environment)
    for name in ("demo", "glue_bilstm", "glue_transformer"):
        assert name in out
    place = run(
        venv / "bin" / "python", "-c", "import kdtoolkit, kdtoolkit_students.bilstm as b; print(kdtoolkit.__file__)",
        cwd=tmp_path, env=environment,
    )  # fmt: skip
    assert str(venv) in place


def test_nothing_called_students_or_recipes_reaches_site_packages(venv):
    names = {path.name for path in (venv / "lib").rglob("site-packages/*")}
    assert not names & {"students", "teachers", "recipes", "tests", "benchmarks"}
