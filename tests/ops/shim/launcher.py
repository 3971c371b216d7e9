"""The CUDA kernels on a CPU: builds the shim, and a driver that "launches" through it, for `cuda_backend`."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from pathlib import Path

import torch

import kdtoolkit.ops
from kdtoolkit.ops.cuda import backend as cuda_backend
from kdtoolkit.ops.cuda import modules as cuda_modules
from kdtoolkit.ops.cuda.driver import DeviceFacts
from kdtoolkit.ops.cuda.launch import Launch
from kdtoolkit.ops.native import SIZE

HERE = Path(__file__).parent
CSRC = Path(kdtoolkit.ops.__file__).parent / "csrc"
FLAGS = (
    "-std=c++17", "-O1", "-fPIC", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas", "-Wno-maybe-uninitialized",
    "-fno-strict-aliasing", "-ffp-contract=off",
)  # fmt: skip
ORDERS = [(0, 0), (1, 0), (2, 1), (2, 2), (2, 3)]
"""Forward, reverse, and shuffled by three seeds."""

SMALL = DeviceFacts((9, 0), multiprocessors=2, shared_per_block=227 * 1024, shared_per_multiprocessor=228 * 1024)
"""A device so small that its blocks take several rows."""


def build(compiler: str, out: Path, *flags: str, csrc: Path = CSRC) -> Path:
    """A shared library (or, with other flags, a program) of the kernels and the shim."""
    command = [compiler, *FLAGS, *flags, "-I", str(csrc), str(HERE / "shim.cpp"), "-o", str(out)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return out


class ShimDriver:
    """Stands in for the CUDA driver: "device memory" is the CPU's, a kernel's handle is its name."""

    def __init__(self, library: Path) -> None:
        self.library = ctypes.CDLL(str(library))
        self.library.kd_shim_run.restype = ctypes.c_char_p
        self.library.kd_shim_call_size.restype = ctypes.c_longlong
        assert self.library.kd_shim_call_size() == SIZE
        self.order = (0, 0)
        self.launches: list[Launch] = []

    def launch(self, function, grid, block, shared, stream, call, staged):
        self.launches.append(Launch(function, grid, block, shared, staged))
        kernel = ctypes.cast(getattr(self.library, function), ctypes.c_void_p)
        wrong = self.library.kd_shim_run(kernel, ctypes.c_char_p(call), staged, grid, block, shared, *self.order)
        if wrong:
            raise AssertionError(f"{function}: {wrong.decode()}")

    def load(self, image):
        return 0

    def function(self, module, name):
        return name

    def allow_shared(self, function, size):
        self.shared_limit = size

    def enter(self, context):
        return False

    def leave(self):
        raise AssertionError("leave without enter")


def install(monkeypatch, driver, facts: DeviceFacts = SMALL):
    """Makes `cuda_backend` take CPU tensors and run them on a stand-in device."""
    kernels = cuda_modules.Kernels("cuda-nvrtc", "the shim", driver, lambda part: b"")
    machine = cuda_backend.Machine(driver, 0, facts, kernels)
    monkeypatch.setattr(cuda_backend, "machine_of", lambda device: (machine, "the shim"))
    monkeypatch.setattr(cuda_backend, "current_stream", lambda device: 0)
    monkeypatch.setattr(cuda_backend, "capturing", lambda: False)
    monkeypatch.setattr(cuda_backend, "_scratch", {})
    return machine


def counter_is_zero() -> bool:
    """Whether every launch has left the counters as it found them."""
    counters = [scratch.view(torch.int32)[0].item() for scratch in cuda_backend._scratch.values()]
    return counters == [0] * len(counters) and sys.byteorder == "little"
