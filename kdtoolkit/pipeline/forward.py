"""A model's outputs over token arrays, in the order of the rows."""

from __future__ import annotations

import numpy as np
import torch

from ..data.collate import Collator, TaskArrays
from ..training import StudentModel

BATCH_ROWS = 128


def outputs_over(model: StudentModel, collator: Collator, array: TaskArrays, position: int) -> np.ndarray:
    """(rows, outputs) float32 for every row of the task at `position` of the model's; like lengths share a batch.

    collator: of this one task.
    """
    lengths = np.asarray(array.tokens.lengths())
    order = np.argsort(lengths, kind="stable")
    parts = []
    device = next(model.parameters()).device
    with torch.inference_mode():
        for start in range(0, len(order), BATCH_ROWS):
            batch = collator(order[start : start + BATCH_ROWS])
            batch.tasks += position
            parts.append(model(batch.to(device)).outputs.float().cpu().numpy())
    outputs = np.empty((len(order), parts[0].shape[1]), dtype=np.float32)
    outputs[order] = np.concatenate(parts)
    return outputs
