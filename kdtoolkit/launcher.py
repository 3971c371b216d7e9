"""What started this process, and how many beside it: torchrun, `accelerate launch` or mpirun, by what each says.

torchrun and `accelerate launch --multi_gpu` say it in torch's variables (WORLD_SIZE, RANK ...), mpirun and
`accelerate launch --mpirun_hostfile` in those of the MPI that they belong to. Torch's go before.
"""

from __future__ import annotations

import os
from typing import NamedTuple

from .errors import InputError


class Names(NamedTuple):
    """The variables in which a launcher says what it did. local: of this machine alone."""

    size: str
    rank: str
    local_size: str
    local_rank: str


TORCH = Names("WORLD_SIZE", "RANK", "LOCAL_WORLD_SIZE", "LOCAL_RANK")
MPI = (
    Names("PMI_SIZE", "PMI_RANK", "MPI_LOCALNRANKS", "MPI_LOCALRANKID"),  # MPICH, Intel MPI
    Names("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"),
    Names("MV2_COMM_WORLD_SIZE", "MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_LOCAL_SIZE", "MV2_COMM_WORLD_LOCAL_RANK"),
)
PORT = "29500"
"""Where the processes of mpirun meet unless MASTER_PORT says otherwise; torchrun's own."""

ENGINES = {
    "ACCELERATE_USE_FSDP": ("FSDP", "set train.sharding: fsdp, and launch without --use_fsdp"),
    "ACCELERATE_USE_DEEPSPEED": ("DeepSpeed", "launch without it; train.sharding: fsdp shares out a large student"),
    "ACCELERATE_USE_MEGATRON_LM": ("Megatron-LM", "launch without it; train.sharding: fsdp shares out a large student"),
}
"""What accelerate's configuration may have the model trained by, and what is done here in its place."""
UNHEEDED = {
    "ACCELERATE_MIXED_PRECISION": ("no", "train.precision"),
    "ACCELERATE_DYNAMO_BACKEND": ("no", "train.compile"),
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": ("1", "train.accumulate"),
}
"""What else it may set, which the recipe decides: the value that says nothing, and the recipe's key."""


def command(count: int | str) -> str:
    """How `count` processes are started."""
    return f"torchrun --nproc-per-node {count} -m kdtoolkit"


def rank() -> int:
    """This process's number among those of the run; the first, 0, writes and speaks for all."""
    return int(_said().get(TORCH.rank, "0")) if size() > 1 else 0


def size() -> int:
    """How many processes the run has; what no number is, `checked_size` refuses."""
    given = _said().get(TORCH.size, "1")
    return int(given) if given.isdecimal() else 1


def checked_size() -> int:
    """`size`. Raises InputError where what the launcher says cannot be, or does not reach every process."""
    said, master = _said(), os.environ.get("MASTER_ADDR")
    for name, (engine, remedy) in ENGINES.items():
        if os.environ.get(name, "").lower() in ("true", "1"):
            raise InputError(
                "launcher", f"accelerate is to train by {engine} ({name}), which the recipe decides", remedy
            )
    if TORCH.size not in said:
        if master is not None and TORCH.rank not in said:
            raise InputError(
                "launcher",
                "it set MASTER_ADDR, as for several processes, and started this one alone (there is no WORLD_SIZE); "
                "`accelerate launch --cpu` does so without an --mpirun_hostfile",
                f"use {command('N')} ..., `accelerate launch --multi_gpu` (which needs no GPU), or unset MASTER_ADDR",
            )
        return 1
    try:
        found = int(said[TORCH.size])
        number = int(said.get(TORCH.rank) or ("0" if found == 1 else ""))
    except ValueError as error:
        cause = f"WORLD_SIZE is {said[TORCH.size]!r} and RANK is {said.get(TORCH.rank)!r}"
        raise InputError("launcher", cause, f"use {command('N')} ..., or unset both") from error
    if not 0 <= number < found:
        raise InputError("launcher", f"RANK is {number} of WORLD_SIZE {found}", f"use {command('N')} ...")
    if master is None and TORCH.size not in os.environ and said.get(TORCH.local_size) != str(found):
        cause = f"mpirun started {found} processes, as it seems on several machines, and they cannot know where to meet"
        remedy = "set MASTER_ADDR to the first machine's address for all of them, such as by mpirun's -genv or -x"
        raise InputError("launcher", cause, remedy)
    return found


def tell_torch() -> None:
    """Writes into this process's environment, by torch's names, what mpirun has said by its own."""
    if TORCH.size in os.environ:
        return
    os.environ.update(_said())
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    os.environ.setdefault("MASTER_PORT", PORT)


def unheeded() -> list[str]:
    """What accelerate's configuration sets and nothing here reads, a line each."""
    return [
        f"{name} is {os.environ[name]!r}, which changes nothing: the recipe's {key} decides"
        for name, (idle, key) in UNHEEDED.items()
        if os.environ.get(name, idle).lower() != idle
    ]


def _said() -> dict[str, str]:
    """What the launcher says, by torch's names."""
    if TORCH.size not in os.environ:
        for names in MPI:
            # One process alone may well stand in a job of a cluster, which sets the same variables.
            if os.environ.get(names.size, "1") != "1":
                return {ours: os.environ[theirs] for ours, theirs in zip(TORCH, names) if theirs in os.environ}
    return {name: os.environ[name] for name in TORCH if name in os.environ}
