"""Where the compiled kernels come from: a fatbin that was built with the package, or NVRTC and the shipped source.

A module that is absent, or built for other devices, is a state with a reason. One that is there and broken is an error.
"""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

from ...errors import InputError
from .driver import UNSUITABLE, DeviceFacts, Driver, DriverError
from .launch import KERNELS, PARTS, STAGING, STATIC_SHARED
from .nvrtc import CompileError, Nvrtc, nvrtc

FOLDER = Path(__file__).parent.parent
FATBIN = FOLDER / "soft_cross_entropy.fatbin"
SOURCE = FOLDER / "csrc" / "soft_cross_entropy.cu"
HEADERS = ("call.cuh", "number.cuh", "row.cuh")
OPTIONS = ("--std=c++17", "--device-as-default-execution-space")
"""The second, because a generic lambda has no other way to be device code."""
PREBUILT, COMPILED = "cuda-prebuilt", "cuda-nvrtc"
REBUILD = "install kdtoolkit again, or set KDTOOLKIT_OP_BACKEND=reference"


class Kernels:
    """Kernels of one device, in its context, all at once or part by part. backend: its name; reason: in words."""

    def __init__(self, backend: str, reason: str, driver: Driver, image_of: Callable[[int], bytes]) -> None:
        """image_of: the module with the kernels of a part, all of which may be in one module."""
        self.backend, self.reason, self.driver, self.image_of = backend, reason, driver, image_of
        self.functions: dict[str, int] = {}
        self.lock = threading.Lock()

    def function(self, name: str, shared_limit: int) -> int:
        """The handle of a kernel. The device's context is current; shared_limit: dynamic shared memory it may have."""
        found = self.functions.get(name)
        if found is None:
            with self.lock:
                self.load(KERNELS[name], shared_limit)
            found = self.functions[name]
        return found

    def load(self, part: int, shared_limit: int) -> None:
        """Loads the kernels of a part. Raises DriverError if the driver refuses them."""
        if PARTS[part][0] in self.functions:
            return
        module = self.driver.load(self.image_of(part))
        loaded = {name: self.driver.function(module, name) for name in PARTS[part]}
        for name in STAGING & loaded.keys():
            self.driver.allow_shared(loaded[name], shared_limit)
        self.functions.update(loaded)


def load(driver: Driver, facts: DeviceFacts, asked: str = "auto") -> tuple[Kernels | None, str]:
    """The kernels for a device whose context is current, None if there are none, and why.

    asked: the backend that is wanted, or auto. Raises InputError for a fatbin, and CompileError for a source, that is
    broken.
    """
    reasons = []
    if asked in ("auto", PREBUILT):
        kernels, reason = prebuilt(driver, facts)
        if kernels:
            return kernels, reason
        reasons.append(reason)
    if asked in ("auto", COMPILED):
        kernels, reason = compiled(driver, facts)
        if kernels:
            return kernels, "; ".join([reason, *reasons])
        reasons.append(reason)
    return None, "; ".join(reasons)


def prebuilt(driver: Driver, facts: DeviceFacts) -> tuple[Kernels | None, str]:
    """From the fatbin, if there is one for this device and driver; all parts are loaded."""
    if not FATBIN.is_file():
        return None, f"no {FATBIN.name} was built"
    image = FATBIN.read_bytes()
    kernels = Kernels(PREBUILT, "kernels built with the package", driver, lambda part: image)
    try:
        for part in PARTS:
            kernels.load(part, shared_limit(facts))
    except DriverError as error:
        if error.code in UNSUITABLE:
            return None, f"{FATBIN.name} does not suit this device or driver ({error})"
        raise InputError(str(FATBIN), f"the compiled kernels cannot be loaded ({error})", REBUILD) from error
    return kernels, kernels.reason


def compiled(driver: Driver, facts: DeviceFacts) -> tuple[Kernels | None, str]:
    """From NVRTC, or from its earlier results on disk. A part is compiled when it is first used, in some seconds."""
    compiler = nvrtc()
    if compiler is None:
        return None, "NVRTC was not found (pip install nvidia-cuda-nvrtc)"
    if not SOURCE.is_file():
        return None, f"{SOURCE.name} is not part of this installation"
    words, number = f"NVRTC {compiler.version[0]}.{compiler.version[1]}", facts.capability[0] * 10 + facts.capability[1]
    if number < compiler.architectures()[0]:
        return None, f"{words} knows no device as old as sm_{number}"
    target = compiler.target(facts.capability)
    kernels = Kernels(COMPILED, f"kernels compiled for {target} by {words}", driver, Images(driver, compiler, target))
    try:
        kernels.load(1, shared_limit(facts))  # the smallest part: does the driver take what this compiler makes?
    except DriverError as error:
        if error.code in UNSUITABLE:
            return None, f"what {words} compiles does not suit this driver ({error})"
        raise CompileError(f"{SOURCE.name}: the driver refuses what {words} compiled for {target}: {error}") from error
    return kernels, kernels.reason


class Images:
    """What NVRTC makes of each part, kept on disk."""

    def __init__(self, driver: Driver, compiler: Nvrtc, target: str) -> None:
        self.driver, self.compiler, self.target = driver, compiler, target

    def __call__(self, part: int) -> bytes:
        file = cache_file(self.compiler, self.target, part)
        try:
            kept = file.read_bytes()
        except OSError:
            kept = b""
        if kept and self.whole(kept):
            return kept
        image = compile_source(self.compiler, self.target, part)
        store(file, image)
        return image

    def whole(self, image: bytes) -> bool:
        """Whether the driver takes it; if not, it is made again, and what is still wrong then is an error."""
        try:
            self.driver.unload(self.driver.load(image))
        except DriverError:
            return False
        return True


def shared_limit(facts: DeviceFacts) -> int:
    """Dynamic shared memory that a kernel may have, in bytes."""
    return facts.shared_per_block - STATIC_SHARED


def sources() -> tuple[str, dict[str, str]]:
    """The source and what it includes."""
    return SOURCE.read_text(), {name: (SOURCE.parent / name).read_text() for name in HEADERS}


def compile_source(compiler: Nvrtc, target: str, part: int) -> bytes:
    """A part of the kernels for a target of `Nvrtc.target`. Raises CompileError with the log."""
    source, headers = sources()
    return compiler.compile(SOURCE.name, source, headers, target, (*OPTIONS, f"-DKD_PART={part}"))


def cache_file(compiler: Nvrtc, target: str, part: int) -> Path:
    """Where a result is kept: named by everything that it depends on."""
    source, headers = sources()
    parts = [source, *headers.values(), *OPTIONS, target, str(compiler.version)]
    digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]
    return cache_folder() / f"soft_cross_entropy-{target}-{part}-{digest}.bin"


def cache_folder() -> Path:
    """The user's folder for what can be made again."""
    if sys.platform == "win32" and os.environ.get("LOCALAPPDATA"):
        return Path(os.environ["LOCALAPPDATA"]) / "kdtoolkit"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kdtoolkit"


def store(file: Path, image: bytes) -> None:
    """Writes a result, whole or not at all. Where nothing can be written it is compiled anew next time."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=file.parent, prefix=file.name)
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(image)
            Path(name).replace(file)
        except OSError:
            Path(name).unlink(missing_ok=True)
    except OSError:
        return
