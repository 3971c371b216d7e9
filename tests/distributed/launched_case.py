"""Trains one case of `train_cases` in as many processes as a launcher starts, two: launched_case.py FOLDER."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import train_cases
from safetensors.torch import save_file

from kdtoolkit import processes
from kdtoolkit.training.checkpoint import weights


def main() -> None:
    torch.set_num_threads(1)
    processes.start(asked=2)
    save_file(weights(train_cases.trained("mixed")), Path(sys.argv[1]) / f"{processes.rank()}.safetensors")
    processes.wait()
    processes.leave(0)


if __name__ == "__main__":
    main()
