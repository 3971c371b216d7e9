"""What the tests of this folder share: copies of the checkout, environments, a small op that compiles in a second."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LIBRARY = "libkdtoolkit_ops" + {"darwin": ".dylib", "win32": ".dll"}.get(sys.platform, ".so")
FATBIN = "soft_cross_entropy.fatbin"
COMPILER = next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), None)
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="no C++ compiler on PATH")
# What pip and setup.py read; the tests set each where they mean it.
READ = ("CXX", "CXXFLAGS", "CUDA_HOME", "CUDA_PATH", "PYTHONPATH")

ROWS = "// packaging does not depend on what it compiles\n"
ENTRY = """
#include "call.cuh"
#define KD_EXPORT extern "C" __attribute__((visibility("default")))
KD_EXPORT kd_int kd_call_size() { return sizeof(kd_call); }
KD_EXPORT int kd_marker() { return MARKER; }
"""


def run(*command, **options) -> str:
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, **options)
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def log_of(*command, **options) -> str:
    """What a command says on both streams."""
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    done = subprocess.run(list(map(str, command)), **streams, **options)
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout}"
    return done.stdout


def refused(*command, **options) -> str:
    """What a command that must fail says."""
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, **options)
    assert done.returncode != 0, f"{' '.join(map(str, command))} did not fail\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


def environment(**variables) -> dict[str, str]:
    """This process's environment without what steers the build, then these variables."""
    kept = {name: value for name, value in os.environ.items() if name not in READ and not name.startswith("KDTOOLKIT_")}
    return {**kept, **{name: str(value) for name, value in variables.items()}}


def without_compiler(**variables) -> dict[str, str]:
    """An environment whose PATH has Python's own folder and nothing that compiles."""
    return environment(PATH=Path(sys.executable).parent, **variables)


def copy_of_checkout(folder: Path) -> Path:
    """The files of the checkout, without what was built or installed there."""
    out = folder / "kdtoolkit"
    built = ("build", "dist", "*.egg-info", "__pycache__", "*.so", "*.dylib", "*.dll", "*.fatbin")
    shutil.copytree(
        ROOT, out, ignore=shutil.ignore_patterns(".venv", ".git", "runs", ".hypothesis", ".*_cache", *built)
    )
    return out


def small_op(checkout: Path, marker: int) -> None:
    """Another op in a copy of the checkout: it has a number, and compiles at once."""
    sources = checkout / "kdtoolkit" / "ops" / "csrc"
    for name in ("cpu_rows.cpp", "cpu_updates.cpp", "updates.cpp"):
        (sources / name).write_text(ROWS, encoding="utf-8")
    (sources / "soft_cross_entropy.cpp").write_text(ENTRY.replace("MARKER", str(marker)), encoding="utf-8")
    (sources / "soft_cross_entropy.cu").write_text(ROWS, encoding="utf-8")


def script(path: Path, text: str) -> Path:
    """A program of a few lines of shell."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
    path.chmod(0o755)
    return path


def new_venv(folder: Path) -> Path:
    """The Python of an empty virtual environment; of ours it can use setuptools, and nothing else."""
    run(sys.executable, "-m", "venv", folder)
    python = folder / "bin" / "python"
    theirs = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    shutil.rmtree(theirs / "setuptools", ignore_errors=True)
    for name in ("setuptools", "_distutils_hack"):
        if not (theirs / name).exists():
            (theirs / name).symlink_to(Path(sysconfig.get_path("purelib"), name))
    return python


def pip_install(python: Path, *what) -> list:
    return [
        python,
        "-m",
        "pip",
        "install",
        "--no-deps",
        "--no-index",
        "--no-build-isolation",
        "--force-reinstall",
        *what,
    ]
