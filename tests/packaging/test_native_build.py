"""What setup.py builds, and when it refuses: with and without compilers, and with compilers made for the test."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import zipfile
from pathlib import Path

import pytest
from installs import (
    COMPILER,
    FATBIN,
    LIBRARY,
    ROOT,
    copy_of_checkout,
    environment,
    log_of,
    needs_compiler,
    refused,
    run,
    script,
    small_op,
    without_compiler,
)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    folder = copy_of_checkout(tmp_path_factory.mktemp("source"))
    small_op(folder, marker=1)
    return folder


@pytest.fixture
def setup(checkout, tmp_path):
    """A wheel of the checkout in this environment: what was said, the wheel's last tag, its built files."""

    def wheel(variables):
        said = log_of(sys.executable, "setup.py", "bdist_wheel", "--dist-dir", tmp_path, cwd=checkout, env=variables)
        [path] = tmp_path.glob("*.whl")
        with zipfile.ZipFile(path) as archive:
            names = {name.rpartition("/")[2] for name in archive.namelist()} & {LIBRARY, FATBIN}
        tag = path.stem.split("-", 2)[2]
        path.unlink()
        return said, tag, names

    return wheel


@pytest.fixture
def setup_refused(checkout):
    return lambda variables: refused(sys.executable, "setup.py", "build", cwd=checkout, env=variables)


def fake_nvcc(path: Path) -> Path:
    """Writes its arguments where the kernels would be."""
    return script(path, 'for one; do [ "$last" = -o ] && echo "$@" > "$one"; last=$one; done')


@needs_compiler
def test_a_compiler_on_path_makes_a_wheel_for_the_platform_and_for_every_python(setup):
    _, tag, names = setup(environment())
    assert names == {LIBRARY}
    assert tag.startswith("py3-none-") and tag != "py3-none-any"


def test_without_a_compiler_the_install_is_pure_python_and_says_so(setup):
    said, tag, names = setup(without_compiler())
    assert (tag, names) == ("py3-none-any", set())
    assert "pure-Python install, without the native op: neither c++, g++ nor clang++ is on PATH" in said


def test_a_compiler_that_is_named_but_absent_is_no_compiler(setup):
    said, tag, names = setup(environment(CXX="no-such-compiler -m64"))
    assert (tag, names) == ("py3-none-any", set())
    assert "CXX is 'no-such-compiler -m64', which is not on PATH" in said


def test_native_0_is_pure_python_whatever_is_there(setup):
    said, tag, names = setup(environment(KDTOOLKIT_NATIVE=0))
    assert (tag, names) == ("py3-none-any", set())
    assert "without the native op: KDTOOLKIT_NATIVE=0" in said


def test_native_1_without_a_compiler_is_refused(setup_refused):
    said = setup_refused(without_compiler(KDTOOLKIT_NATIVE=1))
    assert "KDTOOLKIT_NATIVE=1, but no C++ compiler was found: neither" in said


@needs_compiler
def test_native_1_with_a_compiler_is_the_native_op(setup):
    assert setup(environment(KDTOOLKIT_NATIVE=1))[2] == {LIBRARY}


@pytest.mark.parametrize("variable", ["KDTOOLKIT_NATIVE", "KDTOOLKIT_CUDA"])
def test_another_value_than_0_and_1_is_refused(variable, setup_refused):
    assert f"{variable} is 'yes'; it can be 0, 1 or not set" in setup_refused(environment(**{variable: "yes"}))


def test_a_compiler_that_fails_is_an_error_with_its_log_and_the_way_out(setup_refused, tmp_path):
    broken = script(tmp_path / "broken-c++", 'echo "broken-c++: no space left in the universe" >&2; exit 3')
    said = setup_refused(environment(CXX=broken))
    for words in ("could not be compiled (exit status 3)", "no space left in the universe", "cpu_rows.cpp"):
        assert words in said
    assert "KDTOOLKIT_NATIVE=0, a pure-Python install" in said


@needs_compiler
def test_an_error_in_the_source_is_an_error_of_the_install(setup_refused, checkout):
    source = checkout / "kdtoolkit" / "ops" / "csrc" / "soft_cross_entropy.cpp"
    before = source.read_text(encoding="utf-8")
    try:
        source.write_text(before + 'extern "C" int kd_lost(); int kd_found() { return kd_lost(); }', encoding="utf-8")
        said = setup_refused(environment(KDTOOLKIT_NATIVE=1))
    finally:
        source.write_text(before, encoding="utf-8")
    assert "kd_lost" in said and "KDTOOLKIT_NATIVE=0" in said


@needs_compiler
def test_a_variant_that_the_compiler_does_not_know_is_left_out(setup, tmp_path):
    old = script(
        tmp_path / "old-c++",
        f'case " $* " in *" -mavx512f "*) echo "unknown option" >&2; exit 1;; esac\nexec {shlex.quote(COMPILER)} "$@"',
    )
    said, _, names = setup(environment(CXX=old))
    assert names == {LIBRARY}
    assert "AVX512" not in said.upper()
    assert "cpu_rows_portable.o" in said
    if "cpu_rows_avx2.o" in said:  # x86-64
        assert "-DKD_WITH_AVX2" in said


@needs_compiler
def test_flags_of_the_user_come_after_ours_and_none_is_for_this_machine_alone(setup):
    said, *_ = setup(environment(CXXFLAGS="-O1 -DKD_MINE='a b'"))
    commands = [shlex.split(line) for line in said.splitlines() if "-std=c++17" in line]
    assert len(commands) >= 2
    for command in commands:
        assert command.index("-O3") < command.index("-O1") < command.index("-DKD_MINE=a b")
        assert not any("native" in flag for flag in command if flag.startswith("-m"))


def test_cuda_1_without_nvcc_is_refused(setup_refused):
    assert "KDTOOLKIT_CUDA=1, but nvcc was found neither in CUDA_HOME" in setup_refused(
        without_compiler(KDTOOLKIT_CUDA=1)
    )


def test_nvcc_is_not_used_unless_asked_for(setup, tmp_path):
    fake_nvcc(tmp_path / "cuda" / "bin" / "nvcc")
    assert FATBIN not in setup(without_compiler(CUDA_HOME=tmp_path / "cuda"))[2]


@pytest.mark.parametrize("variable", ["CUDA_HOME", "CUDA_PATH", "PATH"])
def test_nvcc_makes_the_kernels_of_four_processors_and_ptx_for_later_ones(variable, setup, tmp_path):
    nvcc = fake_nvcc(tmp_path / "cuda" / "bin" / "nvcc")
    place = {variable: tmp_path / "cuda"}
    if variable == "PATH":
        place = {"PATH": f"{nvcc.parent}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}/bin"}
    said, tag, names = setup(
        {**without_compiler(KDTOOLKIT_CUDA=1, CXX="absent"), **{k: str(v) for k, v in place.items()}}
    )
    assert names == {FATBIN} and tag != "py3-none-any"
    [command] = [shlex.split(line) for line in said.splitlines() if "-fatbin" in line]
    assert command[0] == str(nvcc)
    assert [flag.partition(",code=")[2] for flag in command if flag.startswith("-gencode")] == [
        "sm_80", "sm_90", "sm_100", "sm_120", "compute_120",
    ]  # fmt: skip


def test_fewer_processors_can_be_named(setup, tmp_path):
    fake_nvcc(tmp_path / "bin" / "nvcc")
    said, *_ = setup(
        without_compiler(KDTOOLKIT_CUDA=1, CUDA_HOME=tmp_path, KDTOOLKIT_CUDA_ARCHS="sm_80; 90", CXX="absent")
    )
    [command] = [shlex.split(line) for line in said.splitlines() if "-fatbin" in line]
    assert [flag for flag in command if flag.startswith("-gencode")] == [
        "-gencode=arch=compute_80,code=sm_80",
        "-gencode=arch=compute_90,code=sm_90",
        "-gencode=arch=compute_90,code=compute_90",
    ]


def test_kernels_of_an_earlier_build_are_not_in_the_next_wheel(setup, tmp_path):
    fake_nvcc(tmp_path / "bin" / "nvcc")
    assert FATBIN in setup(without_compiler(KDTOOLKIT_CUDA=1, CUDA_HOME=tmp_path))[2]
    assert FATBIN not in setup(environment())[2]


@pytest.mark.parametrize("archs", ["hopper", "9", "80,,90x"])
def test_a_processor_that_is_none_is_refused(archs, setup_refused, tmp_path):
    fake_nvcc(tmp_path / "bin" / "nvcc")
    said = setup_refused(without_compiler(KDTOOLKIT_CUDA=1, CUDA_HOME=tmp_path, KDTOOLKIT_CUDA_ARCHS=archs))
    assert "is no compute capability" in said


def test_nvcc_that_fails_is_an_error_with_its_log_and_the_way_out(setup_refused, tmp_path):
    script(tmp_path / "bin" / "nvcc", 'echo "nvcc fatal: unsupported gpu architecture" >&2; exit 1')
    said = setup_refused(without_compiler(KDTOOLKIT_CUDA=1, CUDA_HOME=tmp_path))
    assert "unsupported gpu architecture" in said and "fewer KDTOOLKIT_CUDA_ARCHS" in said


def test_cuda_1_and_native_0_contradict_each_other(setup_refused):
    assert "KDTOOLKIT_NATIVE=0 asks for a pure-Python install" in setup_refused(
        environment(KDTOOLKIT_CUDA=1, KDTOOLKIT_NATIVE=0)
    )


@pytest.mark.skipif(shutil.which("make") is None, reason="no make on PATH")
@pytest.mark.parametrize("source", ["setup.py", "kdtoolkit/ops/csrc/call.cuh"])
def test_make_installs_again_after_a_change_of_the_native_op_and_not_otherwise(source, tmp_path):
    checkout = copy_of_checkout(tmp_path)
    stamp = checkout / ".venv" / "installed"
    stamp.parent.mkdir()
    stamp.touch()
    os.utime(stamp, (2e9, 2e9))
    plain = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    run("make", "--question", ".venv/installed", cwd=checkout, env=plain)
    os.utime(checkout / source, (2.1e9, 2.1e9))
    refused("make", "--question", ".venv/installed", cwd=checkout, env=plain)


def test_git_ignores_what_the_build_leaves_in_the_checkout():
    rules = (ROOT / ".gitignore").read_text(encoding="utf-8").split()
    assert {"/kdtoolkit/ops/*.so", "/kdtoolkit/ops/*.dylib", "/kdtoolkit/ops/*.dll", "/kdtoolkit/ops/*.fatbin"} <= set(
        rules
    )
