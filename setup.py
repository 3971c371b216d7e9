"""Builds the native op, if this machine can; everything else about the package is in setup.cfg.

    KDTOOLKIT_NATIVE=0     a pure-Python install on purpose
    KDTOOLKIT_NATIVE=1     a missing C++ compiler is an error; without the variable it makes a pure-Python install
    KDTOOLKIT_CUDA=1       nvcc also makes the CUDA kernels; a missing nvcc is an error
    KDTOOLKIT_CUDA_ARCHS   for which processors: "80,90,100,120" if not given
    CXX, CXXFLAGS          the compiler, if not c++, g++ or clang++; flags that come after ours

A compiler that fails is an error: whoever has one expects the compiled op, and would not notice that it is missing.
The library has a plain C interface and is reached through ctypes, so neither Python's nor torch's headers are needed,
and one wheel serves every Python and every torch: its tag is py3-none-PLATFORM.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build import build
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

OPS = Path("kdtoolkit", "ops")
SOURCES = OPS / "csrc"
SUFFIX = {"darwin": ".dylib", "win32": ".dll"}.get(sys.platform, ".so")
LIBRARY = Extension("kdtoolkit.ops.libkdtoolkit_ops", [])
FATBIN = Extension("kdtoolkit.ops.soft_cross_entropy", [])
FILES = {"libkdtoolkit_ops": f"libkdtoolkit_ops{SUFFIX}", "soft_cross_entropy": "soft_cross_entropy.fatbin"}

COMPILE = ["-std=c++17", "-O3", "-fPIC", "-fvisibility=hidden", "-pthread"]
# Any processor of the family, whatever the compiler was set up for; other families do not know the flag.
BASELINE = ["-march=x86-64"]
# The rows' arithmetic is compiled once for each of these. Which one runs is chosen when the library is loaded.
VARIANTS = {
    "avx512": ["-DKD_AVX512", "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx2", "-mfma", "-mf16c"],
    "avx2": ["-DKD_AVX2", "-mavx2", "-mfma", "-mf16c"],
    "portable": [],
}
# A root that cannot say that its number was negative is one instruction, and several at once.
PLAIN_ROOTS = ["-fno-math-errno", "-fno-trapping-math"]
# The library brings its own C++ runtime and shows only its own functions, so that it cannot meet torch's; a function
# that is missing is an error here, not where the library is loaded.
EXPORTS = "{ global: kd_*; local: *; };\n"
LINK = [["-static-libstdc++", "-static-libgcc"], ["-Wl,--version-script=EXPORTS"], ["-Wl,-z,defs"]]
# Sixteen floats at once: the compiler, its assembler and its linker must all know the instructions.
PROBE = "typedef float v __attribute__((vector_size(64))); void probe(v* a) { *a = *a * *a; }\n"


def wanted(variable: str) -> bool | None:
    """What a variable of 0 or 1 says; None if it says nothing."""
    value = os.environ.get(variable, "")
    if value not in ("", "0", "1"):
        raise SystemExit(f"{variable} is {value!r}; it can be 0, 1 or not set")
    return {"": None, "0": False, "1": True}[value]


def find_compiler() -> list[str] | None:
    """The command of a C++ compiler: CXX alone if it is set, or the first of the usual ones on PATH."""
    if named := shlex.split(os.environ.get("CXX", "")):
        return named if shutil.which(named[0]) else None
    usual = ["c++", "g++", "clang++"] if sys.platform != "win32" else []  # there, only one that is asked for
    return next(([name] for name in usual if shutil.which(name)), None)


def find_nvcc() -> str | None:
    folders = [Path(os.environ[name], "bin") for name in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(name)]
    found = [shutil.which("nvcc", path=str(folder)) for folder in folders] + [shutil.which("nvcc")]
    return next(filter(None, found), None)


def cuda_targets() -> list[str]:
    """nvcc's options for the processors of KDTOOLKIT_CUDA_ARCHS, and PTX of the last one for those to come."""
    text = os.environ.get("KDTOOLKIT_CUDA_ARCHS") or "80,90,100,120"
    archs = [name.removeprefix("sm_") for name in re.split(r"[\s,;]+", text.strip(" ,;"))]
    if wrong := [name for name in archs if not re.fullmatch(r"\d{2,3}[af]?", name)]:
        raise SystemExit(f"KDTOOLKIT_CUDA_ARCHS: {wrong[0]!r} is no compute capability; 80,90,100,120 are usual")
    pairs = [(name, f"sm_{name}") for name in archs] + [(archs[-1], f"compute_{archs[-1]}")]
    return [f"-gencode=arch=compute_{name},code={code}" for name, code in pairs]


def extensions() -> list[Extension]:
    """What this install builds."""
    native, cuda = wanted("KDTOOLKIT_NATIVE"), wanted("KDTOOLKIT_CUDA")
    if native is False and cuda:
        raise SystemExit("KDTOOLKIT_NATIVE=0 asks for a pure-Python install, KDTOOLKIT_CUDA=1 for CUDA kernels")
    if native and not find_compiler():
        raise SystemExit(f"KDTOOLKIT_NATIVE=1, but no C++ compiler was found: {where()}")
    if cuda and not find_nvcc():
        raise SystemExit("KDTOOLKIT_CUDA=1, but nvcc was found neither in CUDA_HOME or CUDA_PATH nor on PATH")
    if cuda:
        cuda_targets()
    library = [LIBRARY] if native is not False and find_compiler() else []
    return [*library, *([FATBIN] if cuda else [])]


def where() -> str:
    if os.environ.get("CXX"):
        return f"CXX is {os.environ['CXX']!r}, which is not on PATH"
    return "neither c++, g++ nor clang++ is on PATH, and CXX is not set"


def accepts(compiler: list[str], flags: list[str]) -> bool:
    """Whether a small library can be built with these flags."""
    with tempfile.TemporaryDirectory() as folder:
        source, out = Path(folder, "probe.cpp"), Path(folder, "probe.out")
        source.write_text(PROBE, encoding="utf-8")
        command = [*compiler, *COMPILE, *flags, "-shared", str(source), "-o", str(out)]
        return subprocess.run(command, capture_output=True).returncode == 0


class BuildNative(build_ext):
    """Compiles into files that are named and placed as the package looks for them.

    setuptools does the rest: into the wheel, or beside the sources in an editable install.
    """

    def get_ext_filename(self, fullname: str) -> str:
        *package, name = fullname.split(".")
        return str(Path(*package, FILES[name]))

    def run(self) -> None:
        if LIBRARY not in self.extensions:
            asked = wanted("KDTOOLKIT_NATIVE") is False
            self.warn(f"pure-Python install, without the native op: {'KDTOOLKIT_NATIVE=0' if asked else where()}")
        super().run()
        built = {self.get_ext_filename(ext.name) for ext in self.extensions}
        for file in {str(OPS / name) for name in FILES.values()} - built:
            for folder in [self.build_lib, *([os.curdir] if self.inplace else [])]:
                Path(folder, file).unlink(missing_ok=True)  # of an earlier install: not to be taken for this one's

    def build_extension(self, ext: Extension) -> None:
        out = Path(self.get_ext_fullpath(ext.name))
        out.parent.mkdir(parents=True, exist_ok=True)
        Path(self.build_temp).mkdir(parents=True, exist_ok=True)
        (self.build_library if ext is LIBRARY else self.build_fatbin)(out)

    def build_library(self, out: Path) -> None:
        compiler = find_compiler()
        assert compiler is not None, "an extension without a compiler"
        flags = [*COMPILE, *(BASELINE if accepts(compiler, BASELINE) else [])]
        flags += shlex.split(os.environ.get("CXXFLAGS", ""))
        variants = {name: more for name, more in VARIANTS.items() if not more or accepts(compiler, more)}
        parts = {"cpu_rows": [], "cpu_updates": PLAIN_ROOTS}
        objects = {(part, name): str(Path(self.build_temp, f"{part}_{name}.o")) for part in parts for name in variants}
        commands = [
            [*compiler, *flags, *parts[part], "-c", str(SOURCES / f"{part}.cpp"), "-o", out_, *variants[name]]
            for (part, name), out_ in objects.items()
        ]
        with ThreadPoolExecutor(os.cpu_count()) as pool:  # half a minute of work for a processor, each of the rows'
            list(pool.map(self.compile, commands))
        present = [f"-DKD_WITH_{name.upper()}" for name in variants]  # the choice at run time is among these
        exports = Path(self.build_temp, "exports.map")
        exports.write_text(EXPORTS, encoding="utf-8")
        wishes = [[flag.replace("EXPORTS", str(exports)) for flag in group] for group in LINK]
        link = [flag for group in wishes if accepts(compiler, group) for flag in group]
        entries = [str(SOURCES / name) for name in ("soft_cross_entropy.cpp", "updates.cpp")]
        self.compile([*compiler, *flags, *present, "-shared", *entries, *objects.values(), *link, "-o", str(out)])

    def build_fatbin(self, out: Path) -> None:
        nvcc = find_nvcc()
        assert nvcc is not None, "an extension without nvcc"
        source = str(SOURCES / "soft_cross_entropy.cu")
        options = ["-fatbin", "-Xfatbin=-compress-all", "--threads=0", "-std=c++17", "-O3"]
        self.compile([nvcc, *options, *cuda_targets(), source, "-o", str(out)])

    def compile(self, command: list[str]) -> None:
        """Runs a compiler. What it says is in the build log, or in the error if it fails."""
        line = shlex.join(command)
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
        if done.returncode:
            raise CompileError(
                f"the native op could not be compiled (exit status {done.returncode}):\n{line}\n{done.stdout}\n"
                "Ways out: another compiler (CXX=...); without KDTOOLKIT_CUDA, or fewer KDTOOLKIT_CUDA_ARCHS, if it is "
                "nvcc that failed; or KDTOOLKIT_NATIVE=0, a pure-Python install, in which everything works but slower."
            )
        print(f"{line}\n{done.stdout}", end="", flush=True)


class Build(build):
    """Also without extensions `build_ext` runs: it says why, and removes an old library."""

    sub_commands: ClassVar = [(name, None if name == "build_ext" else needed) for name, needed in build.sub_commands]


class Wheel(bdist_wheel):
    """A wheel with native code is bound to a platform, not to a Python."""

    def get_tag(self) -> tuple[str, str, str]:
        *_, platform = super().get_tag()
        if platform.endswith("universal2"):  # the library is for this machine alone
            platform = platform.replace("universal2", os.uname().machine)
        return "py3", "none", platform


setup(ext_modules=extensions(), cmdclass={"build": Build, "build_ext": BuildNative, "bdist_wheel": Wheel})
