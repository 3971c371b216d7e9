"""The road to the CUDA driver, with a stand-in that records what it is asked: no GPU is needed."""

from __future__ import annotations

import ctypes

import pytest
import torch

from kdtoolkit.errors import InputError
from kdtoolkit.ops.cuda import backend as cuda_backend
from kdtoolkit.ops.cuda import launch as cuda_launch
from kdtoolkit.ops.cuda import modules as cuda_modules
from kdtoolkit.ops.cuda.driver import DeviceFacts, Driver, DriverError
from kdtoolkit.ops.cuda.nvrtc import CompileError

FACTS = DeviceFacts((9, 0), 132, 227 * 1024, 228 * 1024)


class FakeCuda:
    """Functions of libcuda. failing: function name -> the code that it returns."""

    def __init__(self, **failing):
        self.failing, self.called, self.images = failing, [], []

    def __getattr__(self, name):
        if not name.startswith("cu"):
            raise AttributeError(name)
        return lambda *arguments: self.call(name, arguments)

    def call(self, name, arguments):
        self.called.append((name, arguments))
        if name in self.failing:
            return self.failing[name]
        if name == "cuModuleLoadData":
            self.images.append(arguments[1].value)
        if name in ("cuModuleLoadData", "cuModuleGetFunction", "cuDevicePrimaryCtxRetain"):
            arguments[0]._obj.value = 1000 + len(self.called)
        if name == "cuGetErrorName":
            arguments[1]._obj.value = b"CUDA_ERROR_OF_A_TEST"
        return 0

    def names(self):
        return [name for name, _ in self.called]


def test_a_launch_hands_over_the_call_and_the_number_of_packs():
    library = FakeCuda()
    Driver(library).launch(7, 12, 128, 4096, 99, b"the bytes of a call", 55)
    name, arguments = library.called[-1]
    assert name == "cuLaunchKernel"
    numbers = [argument.value for argument in arguments[:9]]
    assert numbers == [7, 12, 1, 1, 128, 1, 1, 4096, 99]
    assert ctypes.string_at(arguments[9][0], 19) == b"the bytes of a call"
    assert arguments[10] is None


def test_a_failing_driver_says_which_function_and_why():
    with pytest.raises(DriverError, match=r"cuInit failed with CUDA_ERROR_OF_A_TEST \(999\)"):
        Driver(FakeCuda(cuInit=999))


def test_all_parts_of_a_fatbin_are_loaded_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(cuda_modules, "FATBIN", tmp_path / "kernels.fatbin")
    cuda_modules.FATBIN.write_bytes(b"fatbin")
    library = FakeCuda()
    kernels, reason = cuda_modules.load(Driver(library), FACTS)
    assert kernels.backend == "cuda-prebuilt" and reason == "kernels built with the package"
    assert set(kernels.functions) == set(cuda_launch.KERNELS)
    assert set(library.images) == {b"fatbin"}
    assert library.names().count("cuFuncSetAttribute") == len(cuda_launch.STAGING)


def test_a_fatbin_of_other_devices_leaves_the_choice_to_the_next(tmp_path, monkeypatch):
    monkeypatch.setattr(cuda_modules, "FATBIN", tmp_path / "kernels.fatbin")
    monkeypatch.setattr(cuda_modules, "nvrtc", lambda: None)
    assert cuda_modules.load(Driver(FakeCuda()), FACTS) == (
        None, "no kernels.fatbin was built; NVRTC was not found (pip install nvidia-cuda-nvrtc)",
    )  # fmt: skip
    cuda_modules.FATBIN.write_bytes(b"fatbin")
    kernels, reason = cuda_modules.load(Driver(FakeCuda(cuModuleLoadData=209)), FACTS)
    assert kernels is None and "does not suit this device or driver" in reason


def test_a_broken_fatbin_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(cuda_modules, "FATBIN", tmp_path / "kernels.fatbin")
    cuda_modules.FATBIN.write_bytes(b"not a fatbin")
    with pytest.raises(InputError, match="cannot be loaded"):
        cuda_modules.load(Driver(FakeCuda(cuModuleLoadData=200)), FACTS)


class FakeNvrtc:
    """An NVRTC whose result is its options."""

    version = (13, 0)

    def __init__(self):
        self.compiled = []

    def architectures(self):
        return [75, 90]

    def target(self, capability):
        return "sm_90"

    def compile(self, name, source, headers, target, options):
        self.compiled.append(options[-1])
        return options[-1].encode()


def test_nvrtc_compiles_a_part_when_it_is_first_used_and_keeps_it_on_disk(tmp_path, monkeypatch):
    compiler = FakeNvrtc()
    monkeypatch.setattr(cuda_modules, "FATBIN", tmp_path / "none")
    monkeypatch.setattr(cuda_modules, "nvrtc", lambda: compiler)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    kernels, reason = cuda_modules.load(Driver(FakeCuda()), FACTS)
    assert kernels.backend == "cuda-nvrtc" and reason.startswith("kernels compiled for sm_90 by NVRTC 13.0")
    assert compiler.compiled == ["-DKD_PART=1"]
    for _ in range(2):
        assert kernels.function("kd_block_bfloat16", 1) > 0
        assert compiler.compiled == ["-DKD_PART=1", "-DKD_PART=3"]
    again, _ = cuda_modules.load(Driver(FakeCuda()), FACTS)
    again.function("kd_warp_bfloat16", 1)
    assert len(compiler.compiled) == 2, "what was compiled before was found on disk"
    assert len(list((tmp_path / "kdtoolkit").iterdir())) == 2


def test_what_the_driver_refuses_of_nvrtc_is_an_error_unless_it_is_only_too_new(tmp_path, monkeypatch):
    monkeypatch.setattr(cuda_modules, "FATBIN", tmp_path / "none")
    monkeypatch.setattr(cuda_modules, "nvrtc", FakeNvrtc)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    kernels, reason = cuda_modules.load(Driver(FakeCuda(cuModuleLoadData=222)), FACTS)
    assert kernels is None and "does not suit this driver" in reason
    with pytest.raises(CompileError, match="the driver refuses"):
        cuda_modules.load(Driver(FakeCuda(cuModuleLoadData=200)), FACTS)


def test_a_folder_that_cannot_be_written_only_costs_time(tmp_path):
    (tmp_path / "file").write_text("")
    cuda_modules.store(tmp_path / "file" / "below" / "it", b"image")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_device_the_backend_says_so():
    assert cuda_backend.choose() == (None, "torch finds no CUDA device")
