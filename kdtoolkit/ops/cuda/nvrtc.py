"""NVRTC, the compiler of CUDA source at run time: found where torch or a wheel brought it, never required."""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from ctypes import POINTER, byref, c_char_p, c_int, c_size_t, c_void_p
from pathlib import Path
from typing import Any

import torch


class CompileError(RuntimeError):
    """NVRTC refused the source; the message has its log."""


class Nvrtc:
    """A loaded NVRTC. version: (major, minor)."""

    def __init__(self, library: Any, file: str) -> None:
        self.library, self.file = library, file
        library.nvrtcGetErrorString.restype = c_char_p
        major, minor = c_int(), c_int()
        self.call("nvrtcVersion", byref(major), byref(minor))
        self.version = major.value, minor.value

    def call(self, function: str, *arguments: Any) -> None:
        """Calls a function of NVRTC; raises CompileError unless it returns 0."""
        code = getattr(self.library, function)(*arguments)
        if code:
            text = self.library.nvrtcGetErrorString(c_int(code)).decode()
            raise CompileError(f"NVRTC: {function} failed: {text} ({self.file})")

    def architectures(self) -> list[int]:
        """The compute capabilities it compiles for, as numbers like 90."""
        count = c_int()
        self.call("nvrtcGetNumSupportedArchs", byref(count))
        numbers = (c_int * count.value)()
        self.call("nvrtcGetSupportedArchs", numbers)
        return sorted(numbers)

    def target(self, capability: tuple[int, int]) -> str:
        """What to compile for: the device's own code, or, for a device newer than NVRTC, PTX that its driver compiles.

        Raises CompileError for a device that is too old.
        """
        device = capability[0] * 10 + capability[1]
        known = [number for number in self.architectures() if number <= device]
        if not known:
            raise CompileError(f"NVRTC {self.version[0]}.{self.version[1]} knows no device as old as sm_{device}")
        return f"sm_{device}" if known[-1] == device else f"compute_{known[-1]}"

    def compile(self, name: str, source: str, headers: Mapping[str, str], target: str, options: Sequence[str]) -> bytes:
        """A cubin (target sm_...) or PTX (compute_...). headers: what the source includes, by name.

        Raises CompileError with the log.
        """
        program = c_void_p()
        texts = (c_char_p * len(headers))(*[text.encode() for text in headers.values()])
        names = (c_char_p * len(headers))(*[name.encode() for name in headers])
        self.call(
            "nvrtcCreateProgram", byref(program), c_char_p(source.encode()), c_char_p(name.encode()),
            c_int(len(headers)), texts, names,
        )  # fmt: skip
        try:
            words = [word.encode() for word in (f"--gpu-architecture={target}", *options)]
            try:
                self.call("nvrtcCompileProgram", program, c_int(len(words)), (c_char_p * len(words))(*words))
            except CompileError as error:
                log = self.text(program, "nvrtcGetProgramLogSize", "nvrtcGetProgramLog").rstrip(b"\0").decode()
                raise CompileError(f"{error}\n{name} for {target}:\n{log}") from None
            if target.startswith("sm_"):
                return self.text(program, "nvrtcGetCUBINSize", "nvrtcGetCUBIN")
            return self.text(program, "nvrtcGetPTXSize", "nvrtcGetPTX")
        finally:
            self.call("nvrtcDestroyProgram", byref(program))

    def text(self, program: c_void_p, size_function: str, function: str) -> bytes:
        """A result of a program, of the size that another function tells."""
        size = c_size_t()
        self.call(size_function, program, byref(size))
        memory = ctypes.create_string_buffer(size.value)
        self.call(function, program, memory)
        return memory.raw


def candidates() -> Iterator[str]:
    """Files and names that may be NVRTC: of torch's own major version first, wheels before the loader's path."""
    wanted = (torch.version.cuda or "").split(".")[0]
    found = []
    spec = importlib.util.find_spec("nvidia")
    for folder in spec.submodule_search_locations or () if spec else ():
        for pattern in ("*/lib/libnvrtc.so.*", "*/bin/nvrtc64_*.dll", "*/bin/*/nvrtc64_*.dll"):
            found += [file for file in Path(folder).glob(pattern) if "alt" not in file.name]
    numbers = {file: re.sub(r"\D*(\d\d).*", r"\1", file.name.replace("nvrtc64", "nvrtc")) for file in found}
    yield from map(str, sorted(found, key=lambda file: (numbers[file] != wanted, file.name)))
    if sys.platform == "win32":
        return
    for version in dict.fromkeys(number for number in (wanted, "13", "12") if number):
        yield f"libnvrtc.so.{version}"
    yield "libnvrtc.so"


@functools.cache
def nvrtc() -> Nvrtc | None:
    """The first NVRTC that loads, or None."""
    for name in candidates():
        try:
            library = loaded(Path(name))
        except OSError:
            continue
        for function in ("nvrtcGetCUBINSize", "nvrtcGetPTXSize", "nvrtcGetProgramLogSize"):
            getattr(library, function).argtypes = [c_void_p, POINTER(c_size_t)]
        return Nvrtc(library, name)
    return None


def loaded(file: Path) -> ctypes.CDLL:
    """The library, after the one that it looks for by its name alone: the wheel has both in one folder."""
    if file.is_absolute():
        for companion in file.parent.glob("libnvrtc-builtins.so.*"):
            ctypes.CDLL(str(companion))
    return ctypes.CDLL(str(file))
