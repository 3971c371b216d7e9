"""Cuts a BERT-type checkpoint to its first layers: a smaller base model for experiments on a CPU.

python benchmarks/papers/cut_teacher.py SOURCE LAYERS TARGET
"""

from __future__ import annotations

import sys
from pathlib import Path

from transformers import AutoModel, AutoTokenizer


def cut(source: str, layers: int, target: Path) -> None:
    """Writes `target`: embeddings, the first `layers` encoder layers and the pooler of `source`, and its tokenizer."""
    model = AutoModel.from_pretrained(source)
    if not 1 <= layers <= model.config.num_hidden_layers:
        raise SystemExit(f"layers: expected 1 to {model.config.num_hidden_layers}, received {layers}")
    model.encoder.layer = model.encoder.layer[:layers]
    model.config.num_hidden_layers = layers
    model.save_pretrained(target)
    AutoTokenizer.from_pretrained(source).save_pretrained(target)


if __name__ == "__main__":
    if len(sys.argv) != 4 or not sys.argv[2].isdecimal():
        raise SystemExit(__doc__)
    cut(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
