"""Rows per second of planning and collating rows of 20 tokens, on one core.

python benchmarks/batches.py [--rows 1000000] [--folder FOLDER]

Prints one table row per setting: median over the rounds, spread in brackets. The bar is 200,000 rows a second.
"""

from __future__ import annotations

import argparse
import platform
import resource
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kdtoolkit.data.batch_plan import BatchPlan
from kdtoolkit.data.collate import Collator, TaskArrays
from kdtoolkit.data.tokens import TokenArrays, write_arrays
from kdtoolkit.tasks import GLUE
from kdtoolkit.tokenizers import JointTemplate

TOKENS, PIECES, CHUNK = 20, 8000, 100_000


def generate(folder: Path, rows: int, texts_per_row: int) -> TokenArrays:
    """Rows of 20 tokens on average, 15 to 25, both texts of a pair together."""
    generator = np.random.default_rng(0)

    def chunks() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for start in range(0, rows, CHUNK):
            number = min(CHUNK, rows - start) * texts_per_row
            spread = 5 // texts_per_row
            lengths = TOKENS // texts_per_row + generator.integers(-spread, spread + 1, number)
            yield generator.integers(4, PIECES, int(lengths.sum()), dtype=np.int32), lengths

    meta = {"rows": rows, "texts_per_row": texts_per_row, "max_tokens": 64, "fingerprint": "", "rows_digest": ""}
    return write_arrays(folder, chunks(), PIECES, meta, lambda: 0)


def rows_per_second(arrays: list[TokenArrays], tasks: list[str], pairs: Any, batch: Any, batch_rows: int) -> float:
    """One epoch over all rows, the plan of the epoch included."""
    generator = np.random.default_rng(1)
    of_tasks = [
        TaskArrays(
            tokens,
            generator.integers(0, 2, len(tokens)).astype(np.float32),
            generator.standard_normal((len(tokens), 1, 2), np.float32),
        )
        for tokens in arrays
    ]
    template = JointTemplate((2,), (3,), (3,))
    collator = Collator([GLUE[name] for name in tasks], of_tasks, template, pairs=pairs)
    lengths = [tokens.lengths() for tokens in arrays]
    begin, seen = time.process_time(), 0
    plan = BatchPlan([len(tokens) for tokens in arrays], lengths, batch_rows=batch_rows, epochs=1, seed=0, batch=batch)
    for step in range(plan.steps):
        for rows in plan.window(step).batches:
            seen += collator(rows).rows
    return seen / (time.process_time() - begin)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=None, help="where the arrays are written; default: temporary")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"Python {platform.python_version()}, numpy {np.__version__}, torch {torch.__version__}, 1 thread")
    print(f"{arguments.rows:,} rows of {TOKENS} tokens, with labels and one teacher; rows per CPU second\n")
    print("| texts | read | batches | batch rows | rows/s |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        half = arguments.rows // 2
        single = [generate(Path(folder) / "single", arguments.rows, 1)]
        pair = [generate(Path(folder) / "pair", arguments.rows, 2)]
        both = [generate(Path(folder) / "half", half, 1), generate(Path(folder) / "half_pair", half, 2)]
        for texts, arrays, tasks, pairs, batch in (
            ("single", single, ["sst2"], "separate", "one_task"),
            ("single", single, ["sst2"], "joint", "one_task"),
            ("pairs", pair, ["mrpc"], "separate", "one_task"),
            ("pairs", pair, ["mrpc"], "joint", "one_task"),
            ("both", both, ["sst2", "mrpc"], "separate", "mixed"),
            ("both", both, ["sst2", "mrpc"], "joint", "mixed"),
        ):
            for batch_rows in (32, 256):
                rates = [rows_per_second(arrays, tasks, pairs, batch, batch_rows) for _ in range(arguments.rounds)]
                print(
                    f"| {texts} | {pairs} | {batch} | {batch_rows} | {statistics.median(rates):,.0f} "
                    f"({min(rates):,.0f} to {max(rates):,.0f}) |",
                    flush=True,
                )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"\nPeak memory of the process: {peak:,.0f} MiB, mapped files included")


if __name__ == "__main__":
    main()
