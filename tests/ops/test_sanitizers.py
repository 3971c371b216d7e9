"""The CPU kernels under address and undefined-behaviour sanitizers, over memory of exactly the size they may touch.

The program is in sanitizer/runner.cpp: thousands of calls of all kinds, dtypes, lengths around a vector and a block,
columns that end the matrix, sparse lists, ensembles, last groups of rows that fill no vector, gradients in place.
"""

import os
import platform
import shutil
import subprocess
from pathlib import Path

import pytest

import kdtoolkit.ops

CSRC = Path(kdtoolkit.ops.__file__).parent / "csrc"
RUNNER = Path(__file__).parent / "sanitizer" / "runner.cpp"
# Unoptimised: that compiles in a third of the time, and nothing is left out that would step over an edge.
FLAGS = ["-std=c++17", "-O0", "-g1", "-pthread", "-fno-omit-frame-pointer", "-fsanitize=address,undefined",
         "-fno-sanitize-recover=all"]  # fmt: skip
VARIANTS = {
    "portable": [],
    "avx2": ["-DKD_AVX2", "-mavx2", "-mfma", "-mf16c"],
    "avx512": ["-DKD_AVX512", "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx2", "-mfma", "-mf16c"],
}
ABSENT = 4
"""What the runner returns where the processor has no such instructions."""


class Sanitized:
    """A folder of objects compiled with the sanitizers."""

    def __init__(self, compiler, folder, csrc=CSRC):
        self.compiler, self.folder, self.csrc = compiler, folder, csrc

    def compile(self, source, name, *flags):
        target = self.folder / name
        command = [self.compiler, *FLAGS, *flags, "-I", str(self.csrc), "-c", str(source), "-o", str(target)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return target

    def variant(self, name):
        return self.compile(self.csrc / "cpu_rows.cpp", f"{name}.o", *VARIANTS[name])

    def entry(self, *variants):
        known = [f"-DKD_WITH_{name.upper()}" for name in variants if name != "portable"]
        return self.compile(self.csrc / "soft_cross_entropy.cpp", "entry.o", *known)

    def run(self, instructions, *objects):
        program = self.folder / "run"
        command = [self.compiler, *FLAGS, *map(str, objects), "-o", str(program)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        environment = {**os.environ, "ASAN_OPTIONS": "detect_leaks=0:exitcode=99", "UBSAN_OPTIONS": "exitcode=98"}
        return subprocess.run([str(program), instructions], capture_output=True, text=True, env=environment)


@pytest.fixture(scope="module")
def compiler(tmp_path_factory):
    found = shutil.which(os.environ.get("CXX", "g++")) or shutil.which("c++") or shutil.which("clang++")
    if found is None:
        pytest.skip("no C++ compiler: the kernels cannot be compiled with sanitizers")
    folder = tmp_path_factory.mktemp("sanitizers")
    (folder / "empty.cpp").write_text("int main() { return 0; }\n")
    command = [found, *FLAGS, str(folder / "empty.cpp"), "-o", str(folder / "empty")]
    tried = subprocess.run(command, capture_output=True, text=True)
    if tried.returncode != 0 or subprocess.run([str(folder / "empty")], capture_output=True).returncode != 0:
        pytest.skip(f"{found} has no sanitizers here: {tried.stderr[-200:]}")
    return found


@pytest.fixture(scope="module")
def portable(compiler, tmp_path_factory):
    """The compiled portable kernels and the runner, for all tests of this file."""
    build = Sanitized(compiler, tmp_path_factory.mktemp("portable"))
    return build, build.variant("portable"), build.compile(RUNNER, "runner.o", "-Wall", "-Wextra", "-Werror")


def replaced(text, with_text, file, folder):
    """A copy of the sources with a fault planted in one place, which must be there."""
    copy = folder / "csrc"
    shutil.copytree(CSRC, copy)
    source = (copy / file).read_text(encoding="utf-8")
    assert source.count(text) == 1, f"{file}: {text!r} is there {source.count(text)} times, expected once"
    (copy / file).write_text(source.replace(text, with_text), encoding="utf-8")
    return copy


def clean(done):
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]
    calls, word = done.stdout.split()
    assert word == "calls" and int(calls) > 5000


def test_portable_kernels_stay_within_their_memory(portable):
    build, kernels, runner = portable
    clean(build.run("portable", kernels, build.entry("portable"), runner))


ENTRY_FAULTS = {
    "rows after the last": ("first + step < call.rows ? first + step : call.rows;", "first + step;"),
    "no room for the last sums": ("new double[3 * pieces]", "new double[3 * pieces - 3]"),
}


@pytest.mark.parametrize("fault", ENTRY_FAULTS)
def test_a_planted_step_beyond_the_rows_is_caught(portable, tmp_path, fault):
    build, kernels, runner = portable
    planted = Sanitized(build.compiler, tmp_path, replaced(*ENTRY_FAULTS[fault], "soft_cross_entropy.cpp", tmp_path))
    done = planted.run("portable", kernels, planted.entry("portable"), runner)
    assert done.returncode == 99 and "AddressSanitizer: heap-buffer-overflow" in done.stderr, done.stderr[-2000:]


def updates(build, name, csrc=CSRC):
    """The runner of sanitizer/updates.cpp in one instruction set."""
    known = [f"-DKD_WITH_{name.upper()}"] if name != "portable" else []
    kernels = {each: build.compile(csrc / "cpu_updates.cpp", f"updates_{each}.o", *VARIANTS[each])
               for each in dict.fromkeys(("portable", name))}  # fmt: skip
    entry = build.compile(csrc / "updates.cpp", "updates_entry.o", *known)
    runner = build.compile(RUNNER.parent / "updates.cpp", "updates_runner.o", "-Wall", "-Wextra", "-Werror")
    return build.run(name, *kernels.values(), entry, runner)


@pytest.mark.parametrize("name", VARIANTS)
def test_updates_stay_within_their_memory(compiler, tmp_path, name):
    if name != "portable":
        need_x86()
    done = updates(Sanitized(compiler, tmp_path), name)
    if done.returncode == ABSENT:
        pytest.skip(f"this processor has no {name}")
    clean(done)


UPDATE_FAULTS = {
    "a row too many": (
        "for (kd_int i = 0; i < gradient.count; ++i) {",
        "for (kd_int i = 0; i <= gradient.count; ++i) {",
    ),
    "a block that is not cut": ("? BLOCK : piece->count - start;", "? BLOCK : kd_int(BLOCK);"),
}


@pytest.mark.parametrize("fault", UPDATE_FAULTS)
def test_a_planted_step_beyond_the_gradient_is_caught(compiler, tmp_path, fault):
    planted = replaced(*UPDATE_FAULTS[fault], "cpu_updates.cpp", tmp_path)
    done = updates(Sanitized(compiler, tmp_path, planted), "portable", planted)
    assert done.returncode == 99 and "AddressSanitizer: heap-buffer-overflow" in done.stderr, done.stderr[-2000:]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["avx2", "avx512"])
def test_vector_kernels_stay_within_their_memory(portable, name):
    build, kernels, runner = portable
    need_x86()
    done = build.run(name, kernels, build.variant(name), build.entry(name), runner)
    if done.returncode == ABSENT:
        pytest.skip(f"this processor has no {name}")
    clean(done)


KERNEL_FAULTS = {
    "a whole vector over the last columns": (
        "for (; j + width <= stop; j += width) f(whole{j});",
        "for (; j < stop; j += width) f(whole{j});",
    ),
    "all lanes of the last rows": ("int here = last - from < width ? (int)(last - from) : width,", "int here = width,"),
}


@pytest.mark.slow
@pytest.mark.parametrize("fault", KERNEL_FAULTS)
def test_a_planted_step_beyond_the_columns_is_caught(portable, tmp_path, fault):
    build, kernels, runner = portable
    need_x86()
    planted = Sanitized(build.compiler, tmp_path, replaced(*KERNEL_FAULTS[fault], "cpu_rows.cpp", tmp_path))
    done = planted.run("avx2", kernels, planted.variant("avx2"), planted.entry("avx2"), runner)
    if done.returncode == ABSENT:
        pytest.skip("this processor has no AVX2")
    assert done.returncode == 99 and "AddressSanitizer" in done.stderr, done.stderr[-2000:]


def need_x86():
    if platform.machine().lower() not in ("x86_64", "amd64"):
        pytest.skip(f"vector kernels are for x86-64, this is {platform.machine()}")
