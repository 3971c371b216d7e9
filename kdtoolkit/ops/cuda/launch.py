"""Which kernels a call needs, and how they are launched: decided from the call's sizes and the device's, nothing else.

The kernels and their names are in csrc/soft_cross_entropy.cu.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from ..kinds import KINDS
from .driver import DeviceFacts

TYPES = ("float32", "float64", "float16", "bfloat16")
"""Names of kd_call's types, by their numbers."""
HOT = (KINDS["ce"], KINDS["kl"])
FAST = ("group4", "group8", "group32", "warp", "block")
"""Kernels for the hot kinds with one dense teacher of the student's type."""
GENERAL = ("any_group4", "any_group32", "any_block")
PARTS: dict[int, tuple[str, ...]] = {
    1: (*(f"kd_total_{name}" for name in ("float32", "float64")), *(f"kd_scale_{name}" for name in TYPES)),
    2: tuple(f"kd_{team}_float32" for team in FAST),
    3: tuple(f"kd_{team}_bfloat16" for team in FAST),
    4: tuple(f"kd_{team}_float16" for team in FAST),
    5: tuple(f"kd_{team}_float32" for team in GENERAL),
    6: tuple(f"kd_{team}_float64" for team in GENERAL),
}
"""Value of KD_PART in the source -> the kernels of that part."""
KERNELS = {name: part for part, names in PARTS.items() for name in names}
"""Every kernel -> its part."""
STAGING = frozenset(name for name in KERNELS if name.startswith(("kd_warp_", "kd_block_")))
"""Kernels with dynamic shared memory."""

PACK_BYTES = 16
STATIC_SHARED = 3072
"""Of every kernel, at most, in bytes (a test looks), with what the device takes for itself."""
GROUP_THREADS = 128
BLOCK_THREADS = (128, 256, 384, 768)
"""Of kd_block; 80 registers each, so that a multiprocessor has 6, 3, 2 or 1 of such blocks."""
SCALE_THREADS = TOTAL_THREADS = 256
GENERAL_THREADS = 256
FULL_MULTIPROCESSOR = 2048
"""Threads that are enough to keep a multiprocessor busy."""
MOST_COUNTED = 4096
"""Rows whose weights each block adds up for itself; of more rows, kd_total does it once."""


class Launch(NamedTuple):
    """One launch. shared: bytes of dynamic shared memory. staged: packs of a row of one matrix that lie there."""

    kernel: str
    grid: int
    block: int
    shared: int = 0
    staged: int = 0


def most_blocks(device: DeviceFacts) -> int:
    """No launch of a kernel with a sum has more blocks: the size of the memory for it depends on that."""
    return 16 * device.multiprocessors


def needs_total(call: Mapping[str, Any]) -> bool:
    """Whether kd_total is to run first."""
    counted = call["weights"] or (call["labels"] and call["ignore_row"])
    return bool(call["reduction"] == 2 and not call["normalizer"] and counted and call["rows"] > MOST_COUNTED)


def total_launch(call: Mapping[str, Any], device: DeviceFacts) -> Launch:
    """Of kd_total."""
    grid = min(blocks_for(call["rows"], TOTAL_THREADS * 4), 2 * device.multiprocessors)
    return Launch(f"kd_total_{number_of(call)}", grid, TOTAL_THREADS)


def rows_launch(call: Mapping[str, Any], device: DeviceFacts) -> Launch:
    """Of the kernel that computes loss and gradient. call: the fields of kd_call by name."""
    longest = call["classes"]
    if call["count"] and call["members"]:
        longest = min(longest, call["width"])
    team = team_of(call, longest)
    if team in GENERAL:
        return general_launch(team, call, longest, device)
    name = TYPES[call["student_type"]]
    if team.startswith("group"):
        return grouped(f"kd_{team}_{name}", call["rows"], int(team.removeprefix("group")), device)
    pack = PACK_BYTES // (4 if name == "float32" else 2)
    packs = (call["classes"] + 2 * (pack - 1)) // pack  # a row may begin and end within one
    if team == "warp":
        teams = GROUP_THREADS // 32
        shared = teams * 2 * packs * PACK_BYTES
        resident = max(1, min(16, device.shared_per_multiprocessor // (shared + STATIC_SHARED)))
        grid = min(blocks_for(call["rows"], teams), resident * device.multiprocessors)
        return Launch(f"kd_warp_{name}", grid, GROUP_THREADS, shared, packs)
    threads = next(threads for threads in BLOCK_THREADS if packs <= 4 * threads or threads == BLOCK_THREADS[-1])
    staged = min(packs, (device.shared_per_block - STATIC_SHARED) // (2 * PACK_BYTES))
    shared = 2 * staged * PACK_BYTES
    by_memory = device.shared_per_multiprocessor // (shared + STATIC_SHARED)
    resident = max(1, min(FULL_MULTIPROCESSOR // threads, by_memory))
    return Launch(f"kd_block_{name}", min(call["rows"], resident * device.multiprocessors), threads, shared, staged)


def team_of(call: Mapping[str, Any], longest: int) -> str:
    """Which kernel, without the type."""
    alike = call["members"] == 0 or (call["members"] == 1 and call["teacher_type"] == call["student_type"])
    one_kind = not call["kinds"] and (call["kind"] in HOT or call["members"] == 0)
    hot = alike and one_kind and not call["listed"] and not call["start"] and TYPES[call["student_type"]] != "float64"
    if hot:
        longer = "warp" if longest <= 1024 else "block"
        return next((f"group{lanes}" for lanes in (4, 8, 32) if longest <= lanes), longer)
    return next((f"any_group{lanes}" for lanes in (4, 32) if longest <= lanes), "any_block")


def general_launch(team: str, call: Mapping[str, Any], longest: int, device: DeviceFacts) -> Launch:
    """Of a kernel for any row."""
    name = f"kd_{team}_{number_of(call)}"
    if team != "any_block":
        return grouped(name, call["rows"], int(team.removeprefix("any_group")), device)
    threads = min(GENERAL_THREADS, max(64, blocks_for(longest, 4 * 32) * 32))
    resident = FULL_MULTIPROCESSOR // 2 // threads
    return Launch(name, min(call["rows"], resident * device.multiprocessors), threads)


def scale_launch(call: Mapping[str, Any], device: DeviceFacts) -> Launch:
    """Of kd_scale: as many threads as there are packs, up to what fills the device."""
    name = TYPES[call["student_type"]]
    pack = PACK_BYTES // {"float64": 8, "float32": 4}.get(name, 2)
    packs = call["rows"] * ((call["classes"] + 2 * pack - 2) // pack)
    grid = min(blocks_for(packs, SCALE_THREADS), FULL_MULTIPROCESSOR // SCALE_THREADS * device.multiprocessors)
    return Launch(f"kd_scale_{name}", grid, SCALE_THREADS)


def grouped(kernel: str, rows: int, lanes: int, device: DeviceFacts) -> Launch:
    """So many threads of a block hold a row."""
    return Launch(kernel, min(blocks_for(rows, GROUP_THREADS // lanes), most_blocks(device)), GROUP_THREADS)


def number_of(call: Mapping[str, Any]) -> str:
    """The type of the arithmetic."""
    return "float64" if TYPES[call["student_type"]] == "float64" else "float32"


def blocks_for(things: int, each: int) -> int:
    """How many blocks hold them all."""
    return -(-things // each)
