"""Weights of a BERT-type checkpoint, read by key name without building its model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from kdtoolkit import InputError
from kdtoolkit.hub import checkpoint_folder, weight_files

MARK = "embeddings.word_embeddings.weight"
"""The key that every BERT encoder has; what stands before it ("bert." or nothing) is the prefix of all of them."""


class BertCheckpoint:
    """config.json and the safetensors of a BERT encoder, with or without a task's head on top.

    source: a folder, an alias (bert-base) or a hub id.
    place: the recipe key that errors name.
    Raises InputError if the source cannot be found, is no BERT encoder, or has no safetensors.
    """

    def __init__(self, source: str, place: str) -> None:
        self.source, self.place = source, place
        folder = checkpoint_folder(source, place)
        self.config = self._config(folder)
        self._files = self._keys(folder)
        prefixes = [key.removesuffix(MARK) for key in self._files if key.endswith(MARK)]
        if len(prefixes) != 1 or prefixes[0] not in ("", "bert."):
            raise InputError(place, f"'{source}' holds no BERT encoder (no key '{MARK}' or 'bert.{MARK}')")
        self._prefix = prefixes[0]

    @property
    def layers(self) -> int:
        """Number of encoder layers that are really in the file."""
        start = f"{self._prefix}encoder.layer."
        return len({key[len(start) :].split(".")[0] for key in self._files if key.startswith(start)})

    def tensor(self, key: str) -> Tensor:
        """The tensor called `key` (without prefix), in float32."""
        full = self._prefix + key
        if full not in self._files:
            raise InputError(self.place, f"'{self.source}' has no tensor '{full}'", "the checkpoint is incomplete")
        with safe_open(self._files[full], framework="pt") as file:
            return file.get_tensor(full).float()

    def _config(self, folder: Path) -> dict[str, Any]:
        try:
            config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(self.place, f"'{self.source}' has no readable config.json ({error})") from error
        expected = {"model_type": "bert", "position_embedding_type": "absolute", "hidden_act": "gelu"}
        for key, value in expected.items():
            # Older checkpoints leave out what is BERT's default.
            if (received := config.get(key, value)) != value:
                raise InputError(
                    self.place,
                    f"'{self.source}' is no BERT-type checkpoint: expected {key} '{value}', received '{received}'",
                    "give a BERT checkpoint, or use the student 'hf', which takes any encoder",
                )
        return config

    def _keys(self, folder: Path) -> dict[str, Path]:
        """The file of each tensor."""
        keys: dict[str, Path] = {}
        for path in weight_files(folder, self.place):
            try:
                with safe_open(path, framework="pt") as file:
                    keys.update(dict.fromkeys(file.keys(), path))
            except (SafetensorError, OSError) as error:
                raise InputError(self.place, f"{path} cannot be read ({error})", "fetch it again") from error
        return keys
