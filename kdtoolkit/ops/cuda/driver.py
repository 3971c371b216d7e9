"""The CUDA driver, called through ctypes: modules, kernels, launches. The driver comes with the machine, not with us.

Nothing here allocates device memory or waits for the device.
"""

from __future__ import annotations

import ctypes
import functools
import sys
from ctypes import byref, c_char_p, c_int, c_uint, c_void_p
from typing import Any, NamedTuple

LIBRARIES = {"win32": ("nvcuda.dll",)}.get(sys.platform, ("libcuda.so.1", "libcuda.so"))
MAX_DYNAMIC_SHARED = 8
"""CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES."""
ATTRIBUTES = {
    "multiprocessors": 16, "shared_per_multiprocessor": 81, "shared_per_block": 97, "major": 75, "minor": 76,
}  # fmt: skip
"""Numbers of CUdevice_attribute."""
NO_DEVICE = frozenset({100, 101})
"""CUDA_ERROR_NO_DEVICE, CUDA_ERROR_INVALID_DEVICE."""
UNSUITABLE = frozenset({209, 218, 222})
"""Errors of a module built for other devices or by a newer compiler than the driver knows: NO_BINARY_FOR_GPU,
INVALID_PTX, UNSUPPORTED_PTX_VERSION."""


class DriverError(RuntimeError):
    """A function of the driver failed. code: a CUresult."""

    def __init__(self, function: str, code: int, name: str) -> None:
        self.function, self.code = function, code
        super().__init__(f"CUDA driver: {function} failed with {name} ({code})")


class DeviceFacts(NamedTuple):
    """What the choice of a launch depends on; shared memory in bytes."""

    capability: tuple[int, int]
    multiprocessors: int
    shared_per_block: int
    shared_per_multiprocessor: int


class Driver:
    """The functions of libcuda that the op needs. Contexts, modules, functions and streams are handles: integers."""

    def __init__(self, library: Any) -> None:
        self.library = library
        self.call("cuInit", 0)

    def call(self, function: str, *arguments: Any) -> None:
        """Calls a function of the driver; raises DriverError unless it returns 0."""
        code = getattr(self.library, function)(*arguments)
        if code:
            raise DriverError(function, code, self.name_of(code))

    def name_of(self, code: int) -> str:
        """A CUresult in words."""
        text = c_char_p()
        self.library.cuGetErrorName(c_int(code), byref(text))
        return text.value.decode() if text.value else "an unknown error"

    def facts(self, ordinal: int) -> DeviceFacts:
        """Of a device, by torch's number for it."""
        device, value, found = c_int(), c_int(), {}
        self.call("cuDeviceGet", byref(device), c_int(ordinal))
        for name, number in ATTRIBUTES.items():
            self.call("cuDeviceGetAttribute", byref(value), c_int(number), device)
            found[name] = value.value
        capability = found.pop("major"), found.pop("minor")
        return DeviceFacts(capability=capability, **found)

    def primary_context(self, ordinal: int) -> int:
        """The context that torch uses on a device; it is kept for the life of the process."""
        device, context = c_int(), c_void_p()
        self.call("cuDeviceGet", byref(device), c_int(ordinal))
        self.call("cuDevicePrimaryCtxRetain", byref(context), device)
        return context.value or 0

    def enter(self, context: int) -> bool:
        """Makes a context this thread's current one. Returns whether it was another, so that `leave` is called."""
        current = c_void_p()
        self.call("cuCtxGetCurrent", byref(current))
        if current.value == context:
            return False
        self.call("cuCtxPushCurrent_v2", c_void_p(context))
        return True

    def leave(self) -> None:
        """Back to the context before `enter`."""
        self.call("cuCtxPopCurrent_v2", byref(c_void_p()))

    def load(self, image: bytes) -> int:
        """A module from a cubin, a fatbin or PTX, in the current context."""
        module = c_void_p()
        self.call("cuModuleLoadData", byref(module), c_char_p(image))
        return module.value or 0

    def unload(self, module: int) -> None:
        """Gives back what `load` made."""
        self.call("cuModuleUnload", c_void_p(module))

    def function(self, module: int, name: str) -> int:
        """A kernel of a module, loaded now rather than at its first launch, which may lie in a graph's capture."""
        function = c_void_p()
        self.call("cuModuleGetFunction", byref(function), c_void_p(module), c_char_p(name.encode()))
        if hasattr(self.library, "cuFuncLoad"):  # since CUDA 12.4
            self.call("cuFuncLoad", function)
        return function.value or 0

    def allow_shared(self, function: int, size: int) -> None:
        """Lets a kernel be launched with so many bytes of dynamic shared memory."""
        self.call("cuFuncSetAttribute", c_void_p(function), c_int(MAX_DYNAMIC_SHARED), c_int(size))

    def launch(self, function: int, grid: int, block: int, shared: int, stream: int, call: bytes, staged: int) -> None:
        """Queues a kernel with the parameters of soft_cross_entropy.cu on a stream of the current context."""
        number = c_int(staged)
        parameters = (c_void_p * 2)(ctypes.cast(c_char_p(call), c_void_p), ctypes.addressof(number))
        self.call(
            "cuLaunchKernel", c_void_p(function), c_uint(grid), c_uint(1), c_uint(1), c_uint(block), c_uint(1),
            c_uint(1), c_uint(shared), c_void_p(stream), parameters, None,
        )  # fmt: skip


@functools.cache
def driver() -> Driver | None:
    """The machine's driver, or None if it has none or no device."""
    for name in LIBRARIES:
        try:
            library = ctypes.CDLL(name)
        except OSError:
            continue
        try:
            return Driver(library)
        except DriverError as error:
            if error.code in NO_DEVICE:
                return None
            raise
    return None
