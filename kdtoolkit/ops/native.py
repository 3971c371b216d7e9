"""The compiled CPU library: the layout of its one argument, where it is found, and how it is loaded.

csrc/call.cuh is the authority for the layout; a test compares the two. The argument is packed by `struct` into bytes,
which costs a quarter of filling a ctypes structure. Nothing is loaded before the first call that needs it.
"""

from __future__ import annotations

import ctypes
import functools
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch

from ..errors import InputError
from .kinds import KINDS

INSTRUCTIONS_VARIABLE = "KDTOOLKIT_OP_INSTRUCTIONS"
NAMES = ("libkdtoolkit_ops.so", "libkdtoolkit_ops.dylib", "libkdtoolkit_ops.dll")
REINSTALL = "install kdtoolkit again (pip install --force-reinstall --no-deps), or set KDTOOLKIT_OP_BACKEND=reference"
ABSENT = "no compiled op found: pure-Python install"
SHOWN = {"avx512": "AVX-512", "avx2": "AVX2", "portable": "no vector instructions"}

FIELDS: dict[str, str] = {
    "size": "q",
    "rows": "q", "inner": "q", "classes": "q", "width": "q", "members": "q", "listed": "q",
    "student": "P", "student_type": "q", "student_outer": "q", "student_inner": "q",
    "gradient": "P", "gradient_outer": "q", "gradient_inner": "q",
    "teacher": "P", "teacher_type": "q", "teacher_outer": "q", "teacher_inner": "q", "teacher_member": "q",
    "tail": "q", "listed_index": "P", "listed_value": "P", "listed_is_log": "q",
    "labels": "P", "label_bytes": "q", "ignore_index": "q", "ignore_row": "q",
    "start": "P", "count": "P",
    "kinds": "P", "kind": "q",
    "temperatures": "P", "temperature": "d",
    "alphas": "P", "alpha": "d",
    "betas": "P", "beta": "d",
    "weights": "P", "weight": "d",
    "shares": "P", "share_member": "q", "share_row": "q",
    "scale_T2": "q", "reduction": "q", "normalizer": "P", "grad_output": "P", "grad_output_stride": "q",
    "loss": "P", "soft": "P", "hard": "P",
    "threads": "q", "check": "q", "bad_row": "P",
    "row_results": "P", "counter": "P",
}  # fmt: skip
"""The fields of kd_call in order: q a 64-bit integer, d a double, P an address (0: null)."""

LAYOUT = struct.Struct("@" + "".join(FIELDS.values()))
SIZE = LAYOUT.size

TYPES = {torch.float32: 0, torch.float64: 1, torch.float16: 2, torch.bfloat16: 3}
TAILS = {None: 0, "bucket": 1, "uniform": 2, "renorm": 3, "none": 4}
REDUCTIONS = {"none": 0, "sum": 1, "mean": 2}
MOST_MEMBERS = 16
BAD_VALUES = {
    1: "kind", 2: "temperature", 3: "alpha", 4: "beta", 5: "weight", 6: "columns", 7: "labels", 8: "alpha",
    9: "teacher_weights", 10: "SparseTeacher",
}  # fmt: skip
"""What the library returns for a value out of range -> the argument."""
NO_MEMORY = -2
CODES = {
    "KD_FLOAT32": 0, "KD_FLOAT64": 1, "KD_FLOAT16": 2, "KD_BFLOAT16": 3,
    **{f"KD_{name.upper()}": code for name, code in KINDS.items()}, "KD_KINDS": len(KINDS),
    "KD_DENSE": 0, "KD_BUCKET": 1, "KD_UNIFORM": 2, "KD_RENORM": 3, "KD_TRUNCATED": 4,
    "KD_EACH": 0, "KD_SUM": 1, "KD_MEAN": 2,
    "KD_MOST_MEMBERS": MOST_MEMBERS,
    "KD_DONE": 0, "KD_BAD_KIND": 1, "KD_BAD_TEMPERATURE": 2, "KD_BAD_ALPHA": 3, "KD_BAD_BETA": 4, "KD_BAD_WEIGHT": 5,
    "KD_BAD_COLUMNS": 6, "KD_BAD_LABEL": 7, "KD_BAD_BINARY": 8, "KD_BAD_SHARES": 9, "KD_BAD_LISTED": 10,
    "KD_BAD_VERSION": -1, "KD_NO_MEMORY": NO_MEMORY,
}  # fmt: skip
"""The enumerations of call.cuh, by the names they have there."""


class Library(NamedTuple):
    """A loaded library. compute: takes a packed call, returns a code. limit: sets the instructions in use."""

    file: Path
    loaded: ctypes.CDLL
    compute: Callable[[bytes], int]
    instructions: Callable[[], bytes]
    limit: Callable[[bytes], int]


def found_file() -> Path | None:
    """The library beside this file, or None."""
    return next((file for name in NAMES if (file := Path(__file__).parent / name).is_file()), None)


def found_files() -> list[Path]:
    """What was compiled at install time: the library, and kernels for GPUs."""
    fatbin = Path(__file__).parent / "soft_cross_entropy.fatbin"
    return [file for file in (found_file(), fatbin) if file is not None and file.is_file()]


@functools.cache
def library() -> Library | None:
    """The library, loaded once; None if this installation has none.

    Raises InputError if there is one that cannot be used, or if KDTOOLKIT_OP_INSTRUCTIONS asks for what it has not.
    """
    file = found_file()
    if file is None:
        return None
    try:
        # CDLL, not PyDLL: it releases the GIL during a call.
        loaded = ctypes.CDLL(str(file))
        compute, size = loaded.kd_soft_cross_entropy, loaded.kd_call_size
        instructions, limit = loaded.kd_instructions, loaded.kd_limit_instructions
    except (OSError, AttributeError) as error:
        raise InputError(str(file), f"the compiled op cannot be loaded ({error})", REINSTALL) from error
    size.restype, size.argtypes = ctypes.c_longlong, []
    if size() != SIZE:
        cause = f"the compiled op is of another version (its calls have {size()} bytes, expected {SIZE})"
        raise InputError(str(file), cause, REINSTALL)
    compute.restype, compute.argtypes = ctypes.c_int, [ctypes.c_char_p]
    instructions.restype, instructions.argtypes = ctypes.c_char_p, []
    limit.restype, limit.argtypes = ctypes.c_int, [ctypes.c_char_p]
    result = Library(file, loaded, compute, instructions, limit)
    asked = os.environ.get(INSTRUCTIONS_VARIABLE, "").strip().lower()
    if asked:
        use_instructions(asked, result)
    return result


def use_instructions(name: str, of: Library | None = None) -> None:
    """Makes the library use avx512, avx2 or portable code; for tests and benchmarks.

    Raises InputError if there is no such code, or the processor cannot run it.
    """
    of = of or library()
    if name not in SHOWN or of is None or of.limit(name.encode()) != 0:
        cause = f"the instructions '{name}' are not available here"
        raise InputError(INSTRUCTIONS_VARIABLE, cause, f"known: {', '.join(SHOWN)}; leave it unset for the best")
