"""What is built: four packages and nothing else, listed whole, with a compiler and without one."""

from __future__ import annotations

import configparser
import ctypes
import re
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest
from installs import LIBRARY, ROOT, copy_of_checkout, environment, needs_compiler, run, without_compiler

TOP = {"kdtoolkit", "kdtoolkit_students", "kdtoolkit_teachers", "kdtoolkit_recipes"}
FOLDERS = {
    "kdtoolkit": ROOT / "kdtoolkit",
    "kdtoolkit_students": ROOT / "students",
    "kdtoolkit_teachers": ROOT / "teachers",
    "kdtoolkit_recipes": ROOT / "recipes",
}


def build(tmp_path_factory, variables) -> tuple[Path, Path]:
    """The wheel, made from the sdist, and the sdist, of a copy of the checkout."""
    source = copy_of_checkout(tmp_path_factory.mktemp("source"))
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, source, env=variables, cwd=source)
    return next(out.glob("*.whl")), next(out.glob("*.tar.gz"))


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Without a compiler."""
    return build(tmp_path_factory, without_compiler())


@pytest.fixture(scope="module")
def built_native(tmp_path_factory):
    """With the compiler, and none of its warnings. -O0: what is built matters here, not how fast it is."""
    return build(tmp_path_factory, environment(KDTOOLKIT_NATIVE=1, CXXFLAGS="-O0 -Wall -Wextra -Werror"))


def modules(folder: Path, package: str) -> set[str]:
    kept = {".py", ".yaml", ".typed", ".cpp", ".h", ".cu", ".cuh"}
    return {
        f"{package}/{path.relative_to(folder)}"
        for path in folder.rglob("*")
        if path.suffix in kept and "__pycache__" not in path.parts
    }


def contents(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if not name.endswith("/")}
    return {name for name in names if ".dist-info/" not in name}


def every_module() -> set[str]:
    names = set().union(*(modules(folder, package) for package, folder in FOLDERS.items()))
    return {name for name in names if not name.endswith(".typed") or name == "kdtoolkit/py.typed"}


def test_the_wheel_holds_every_module_of_the_four_packages_and_nothing_else(built):
    names = contents(built[0])
    assert {name.split("/")[0] for name in names} == TOP
    assert names == every_module()
    assert built[0].name.endswith("-py3-none-any.whl")


@needs_compiler
def test_the_native_wheel_holds_the_library_besides(built_native):
    assert contents(built_native[0]) == {*every_module(), f"kdtoolkit/ops/{LIBRARY}"}
    assert re.search(r"-py3-none-(?!any)\w+\.whl$", built_native[0].name)


def test_every_source_of_the_native_op_is_of_a_kind_that_is_shipped():
    sources = [path for path in (ROOT / "kdtoolkit" / "ops" / "csrc").rglob("*") if path.is_file()]
    assert sources
    assert {f"kdtoolkit/ops/csrc/{path.name}" for path in sources} <= every_module()


@needs_compiler
def test_the_sdist_is_the_same_with_a_compiler_and_without_one(built, built_native):
    assert sdist_names(built[1]) == sdist_names(built_native[1])


@needs_compiler
def test_the_library_shows_its_own_functions_only_and_knows_this_processor(built_native, tmp_path):
    with zipfile.ZipFile(built_native[0]) as archive:
        path = archive.extract(f"kdtoolkit/ops/{LIBRARY}", tmp_path)
    library = ctypes.CDLL(path)
    text = (ROOT / "kdtoolkit" / "ops" / "csrc" / "call.cuh").read_text(encoding="utf-8")
    assert "struct kd_call" in text and library.kd_call_size() % 8 == 0
    assert library.kd_limit_instructions(b"portable") == 0
    if sys.platform == "linux":
        shown = run("nm", "--dynamic", "--defined-only", path).splitlines()
        assert shown and all(line.split()[-1].startswith("kd_") for line in shown), shown
        processor = Path("/proc/cpuinfo").read_text(encoding="utf-8").split()
        assert (library.kd_limit_instructions(b"avx2") == 0) == ({"avx2", "fma", "f16c"} <= set(processor))


def backend_of(wheel: Path, folder: Path) -> str:
    """The backend that an unpacked wheel chooses for CPU tensors."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    code = "import kdtoolkit.ops; print(kdtoolkit.ops.__file__); print(kdtoolkit.ops.backend('cpu').name)"
    place, name = run(sys.executable, "-c", code, cwd=folder, env=environment(PYTHONPATH=folder)).splitlines()
    assert place.startswith(str(folder))
    return name


def test_a_wheel_without_the_library_uses_the_reference(built, tmp_path):
    assert backend_of(built[0], tmp_path) == "reference"


@needs_compiler
def test_a_wheel_with_the_library_uses_it(built_native, tmp_path):
    assert backend_of(built_native[0], tmp_path) == "cpu"


def sdist_names(path: Path) -> set[str]:
    with tarfile.open(path) as sdist:
        return {name.split("/", 1)[1] for name in sdist.getnames() if "/" in name}


def test_the_sdist_holds_the_sources_of_the_same_modules(built):
    names = sdist_names(built[1])
    for package, folder in FOLDERS.items():
        here = {f"{folder.name}/{name.split('/', 1)[1]}" for name in modules(folder, package)}
        assert here <= names, sorted(here - names)
    assert {"setup.py", "setup.cfg", "pyproject.toml", "kdtoolkit/ops/csrc/call.cuh"} <= names
    assert not any(name.endswith((".so", ".dylib", ".dll", ".fatbin")) for name in names)
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
    run(python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", built[0], env=without_compiler())
    purelib = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
    # The path file comes after the venv's own packages, and editable installs of the lender are not followed by it.
    Path(purelib, "zz_lent.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    return folder


def test_the_installed_wheel_lists_its_plugins_and_recipes_from_elsewhere(venv, tmp_path):
    variables = without_compiler(KDTOOLKIT_STORE=tmp_path / "store")
    out = run(venv / "bin" / "kdtool", "plugins", cwd=tmp_path, env=variables)
    for name in ("bilstm", "transformer", "hf", "hugging_face", "stored", "python"):
        assert name in out
    out = run(venv / "bin" / "kdtool", "recipes", cwd=tmp_path, env=variables)
    for name in ("demo", "glue_bilstm", "glue_transformer"):
        assert name in out
    place = run(
        venv / "bin" / "python", "-c", "import kdtoolkit, kdtoolkit_students.bilstm as b; print(kdtoolkit.__file__)",
        cwd=tmp_path, env=variables,
    )  # fmt: skip
    assert str(venv) in place


def test_nothing_called_students_or_recipes_reaches_site_packages(venv):
    names = {path.name for path in (venv / "lib").rglob("site-packages/*")}
    assert not names & {"students", "teachers", "recipes", "tests", "benchmarks"}
