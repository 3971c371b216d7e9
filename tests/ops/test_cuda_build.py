"""The CUDA source as compilers see it: warnings, registers, headers; nvcc ahead of time and NVRTC at run time."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

import kdtoolkit.ops
from kdtoolkit.ops.cuda import launch as cuda_launch
from kdtoolkit.ops.cuda import modules as cuda_modules
from kdtoolkit.ops.cuda import nvrtc as cuda_nvrtc

CSRC = Path(kdtoolkit.ops.__file__).parent / "csrc"
SOURCE = CSRC / "soft_cross_entropy.cu"
ARCHITECTURES = ("sm_80", "sm_90", "sm_100", "sm_120")
REGISTERS = {"group": 64, "warp": 80, "block": 80, "any": 255, "total": 64, "scale": 64}
"""The most a thread may take: 65536 registers hold the threads that kdtoolkit/ops/cuda/launch.py counts on."""


@pytest.fixture(scope="module")
def nvcc():
    found = shutil.which("nvcc")
    if found is None:
        pytest.skip("no nvcc: the CUDA source is not compiled ahead of time here")
    return found


def resources(nvcc, architecture, out):
    """{kernel: (registers, bytes spilled, bytes of static shared memory)}; compiler warnings are errors."""
    command = [nvcc, "-std=c++17", "-O3", "-cubin", f"-arch={architecture}", "-Werror", "all-warnings", "-Xptxas", "-v",
               "-o", str(out), str(SOURCE)]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found, name, spilled = {}, "", 0
    for line in done.stderr.splitlines():
        if entry := re.search(r"entry function '(\w+)'", line):
            name = entry[1]
        if spill := re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", line):
            spilled = int(spill[1]) + int(spill[2])
        if used := re.search(r"Used (\d+) registers(?:.*?(\d+) bytes smem)?", line):
            found[name] = int(used[1]), spilled, int(used[2] or 0)
    return found


def check(found):
    """Every kernel is there, spills nothing, and leaves room for the threads that are to run beside each other."""
    assert set(found) == set(cuda_launch.KERNELS)
    for name, (registers, spilled, shared) in found.items():
        print(f"{name:26} {registers:3} registers, {shared:4} bytes shared")
        team = re.sub(r"kd_([a-z]+).*", r"\1", name)
        assert spilled == 0, f"{name} spills {spilled} bytes"
        assert registers <= REGISTERS[team], name
        assert shared + 512 <= cuda_launch.STATIC_SHARED, name


def test_nvcc_compiles_without_warnings_and_nothing_spills(nvcc, tmp_path):
    check(resources(nvcc, "sm_90", tmp_path / "kernels.cubin"))


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_nothing_spills_on_any_architecture(nvcc, architecture, tmp_path):
    check(resources(nvcc, architecture, tmp_path / "kernels.cubin"))


@pytest.mark.slow
def test_nvcc_makes_a_fatbin_of_all_architectures(nvcc, tmp_path):
    targets = [f"-gencode=arch=compute_{a[3:]},code={a}" for a in ARCHITECTURES]
    targets.append("-gencode=arch=compute_120,code=compute_120")
    out = tmp_path / "kernels.fatbin"
    done = subprocess.run(
        [nvcc, "-std=c++17", "-O3", "-fatbin", *targets, "-o", str(out), str(SOURCE)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert out.stat().st_size > 100_000


def test_the_kernels_include_nothing_but_their_own_files():
    files = [SOURCE, *(CSRC / name for name in cuda_modules.HEADERS)]
    for file in files:
        for included in re.findall(r"^\s*#\s*include\s*(.*)$", file.read_text(), re.MULTILINE):
            assert included.strip('"') in cuda_modules.HEADERS, f"{file.name} includes {included}"
    assert {f'"{name}"' for name in cuda_modules.HEADERS} == set(re.findall(r"#include (.*)", SOURCE.read_text()))


@pytest.fixture(scope="module")
def compiler():
    found = cuda_nvrtc.nvrtc()
    if found is None:
        pytest.skip("no NVRTC (pip install nvidia-cuda-nvrtc): the CUDA source is not compiled at run time here")
    return found


@pytest.mark.parametrize("part", [1, 3, *(pytest.param(part, marks=pytest.mark.slow) for part in (2, 4, 5, 6))])
def test_nvrtc_compiles_every_part_to_the_device_code(compiler, part):
    image = cuda_modules.compile_source(compiler, compiler.target((9, 0)), part)
    assert image.startswith(b"\x7fELF")
    for name, own in cuda_launch.KERNELS.items():
        assert (name.encode() in image) == (own == part), name


def test_a_device_newer_than_nvrtc_gets_ptx(compiler):
    newest = compiler.architectures()[-1]
    assert compiler.target((99, 0)) == f"compute_{newest}"
    assert b".version" in cuda_modules.compile_source(compiler, compiler.target((99, 0)), 1)
    with pytest.raises(cuda_nvrtc.CompileError, match="no device as old as sm_10"):
        compiler.target((1, 0))


def test_a_source_that_does_not_compile_is_an_error_with_its_log(compiler, monkeypatch):
    monkeypatch.setattr(cuda_modules, "sources", lambda: ("this is no CUDA", {}))
    with pytest.raises(cuda_nvrtc.CompileError, match=r"(?s)soft_cross_entropy.cu for sm_90.*error"):
        cuda_modules.compile_source(compiler, "sm_90", 1)
