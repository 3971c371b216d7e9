"""A checkpoint in a folder: its config, its files, its model, its hash."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from kdtoolkit.errors import InputError, WorkError
from kdtoolkit.hub import TOKENIZER_FILES, quiet, weight_files
from kdtoolkit.linear import with_quick_products

# Names that model types give to their dropout rates.
DROPOUTS = (
    "hidden_dropout_prob", "attention_probs_dropout_prob", "dropout", "attention_dropout", "classifier_dropout",
    "classifier_dropout_prob", "seq_classif_dropout", "pooler_dropout", "summary_last_dropout", "mlp_dropout",
    "embedding_dropout", "activation_dropout", "cls_dropout",
)  # fmt: skip
HEADS = "heads.safetensors"
"""Beside the encoder's own files: the heads of all tasks that it was trained on together."""
_hashes: dict[tuple[str, int, int], bytes] = {}


class Checkpoint:
    """A Hugging Face folder; nothing but config.json is read before it is needed.

    place: what errors name. Raises InputError if transformers does not know the model type.
    """

    def __init__(self, folder: Path, place: str, *, trust_remote_code: bool = False) -> None:
        from transformers import AutoConfig

        self.folder, self.place, self.trust_remote_code = folder, place, trust_remote_code
        try:
            self.config: Any = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(place, f"{folder / 'config.json'} cannot be read ({_first_line(error)})") from error

    @property
    def has_head(self) -> bool:
        """Whether it was saved with a sequence-classification head."""
        return any(name.endswith("ForSequenceClassification") for name in self.config.architectures or ())

    @property
    def label_names(self) -> list[str]:
        """The head's label names, by column."""
        return [str(self.config.id2label[column]) for column in range(self.config.num_labels)]

    @property
    def record(self) -> dict[str, Any]:
        """What this package wrote into the config when it fine-tuned the checkpoint; empty if it did not."""
        found = getattr(self.config, "kdtoolkit", None)
        return dict(found) if isinstance(found, dict) else {}

    @property
    def longest(self) -> int | None:
        """Most tokens its position embeddings can hold; None if its positions are relative."""
        positions = getattr(self.config, "max_position_embeddings", None)
        if not isinstance(positions, int) or positions < 1:
            return None
        # RoBERTa and its kin number positions from their padding token's number + 1 on.
        kin = self.config.model_type in ("roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "mpnet", "longformer")
        return positions - 2 if kin else positions

    @property
    def weights(self) -> list[Path]:
        """Its safetensors files, the heads of a joint training included."""
        files = weight_files(self.folder, self.place)
        if not self.joint_tasks:
            return files
        if not (self.folder / HEADS).is_file():
            raise InputError(self.place, f"{self.folder} lacks {HEADS}, the heads of its tasks", "copy it there too")
        return [*files, self.folder / HEADS]

    @cached_property
    def parameters(self) -> int:
        """Number of parameters in its weights, read from the files' headers."""
        total = 0
        for path in self.weights:
            try:
                with safe_open(path, framework="pt") as file:
                    total += sum(math.prod(file.get_slice(key).get_shape()) for key in file.keys())  # noqa: SIM118
            except (SafetensorError, OSError) as error:
                raise WorkError(f"{path}: is damaged ({error}); fetch it again, or delete it and resume") from error
        return total

    @property
    def bytes(self) -> int:
        """Size of its weights files."""
        return sum(path.stat().st_size for path in self.weights)

    def digest(self) -> str:
        """Hex digits of the contents of its weights, tokenizer files, config and code; no path or time enters."""
        digest = blake2b(digest_size=16)
        code = sorted(path.name for path in self.folder.glob("*.py")) if self.trust_remote_code else []
        others = [n for n in ("config.json", *TOKENIZER_FILES, *code) if (self.folder / n).is_file()]
        for path in [*self.weights, *(self.folder / name for name in sorted(others))]:
            digest.update(path.name.encode() + b"\0" + _file_hash(path))
        return digest.hexdigest()

    @property
    def joint_tasks(self) -> dict[str, dict[str, Any]]:
        """Kind and labels of the tasks whose heads lie in `HEADS` beside the encoder; empty for other checkpoints."""
        return dict(self.record.get("tasks", {}))

    def load(self, config: Any = None, *, fresh_head: bool = False) -> nn.Module:
        """AutoModelForSequenceClassification in float32, in evaluation mode.

        config: the changed config to build with; None: its own. fresh_head: the head is initialised anew, from torch's
        global generator, even if the checkpoint has one of that shape; otherwise every weight must be in the files.
        """
        from transformers import AutoModelForSequenceClassification

        config = config or self.config
        model, missing = self._read(AutoModelForSequenceClassification, config, ignore_shapes=fresh_head)
        if fresh_head and self.has_head:
            with self._refusing(), quiet():
                _replace_head(model, AutoModelForSequenceClassification.from_config(config))
        if fresh_head:
            # Head and pooler may be new; anything else would stay random without a word.
            base = f"{model.base_model_prefix}."
            missing = [name for name in missing if name.startswith(base) and "pooler" not in name]
        if missing:
            what = "encoder" if fresh_head else "classification head"
            remedy = "fetch it again" if fresh_head else "fetch it again, or set `head: new` to train a fresh head"
            raise InputError(
                self.place, f"{self.folder} should have a {what}, but its weights lack {missing[0]}", remedy
            )
        return model.eval()

    def load_encoder(self, config: Any = None) -> nn.Module:
        """AutoModel in float32, in evaluation mode; a pooler that the checkpoint lacks is initialised anew."""
        from transformers import AutoModel

        model, missing = self._read(AutoModel, config or self.config, ignore_shapes=False)
        missing = [name for name in missing if "pooler" not in name]
        if missing:
            cause = f"{self.folder} should have an encoder, but its weights lack {missing[0]}"
            raise InputError(self.place, cause, "fetch it again")
        return model.eval()

    @property
    def heads(self) -> dict[str, dict[str, Any]]:
        """Name and options of the heads in `HEADS`, by task; empty where nothing was said of them: all are linear."""
        return dict(self.record.get("heads", {}))

    def head(self, task: str) -> tuple[Tensor, Tensor]:
        """weight (outputs, features) and bias (outputs,) of one of `joint_tasks`."""
        tensors = self.head_tensors(task)
        try:
            return tensors[f"weight.{task}"], tensors[f"bias.{task}"]
        except KeyError as error:
            raise WorkError(f"{self.folder / HEADS}: has no head of '{task}'; make it again") from error

    def head_tensors(self, task: str) -> dict[str, Tensor]:
        """Tensors of the head of one of `joint_tasks`, by name: weight.TASK, bias.TASK, san.TASK.cell.bias_hh ..."""
        path = self.folder / HEADS
        try:
            with safe_open(path, framework="pt") as file:
                names = [name for name in file.keys() if name.split(".")[1:2] == [task]]  # noqa: SIM118
                return {name: file.get_tensor(name) for name in names}
        except (SafetensorError, OSError) as error:
            raise WorkError(f"{path}: is damaged ({error}); delete {self.folder} and resume the run") from error

    def _read(self, kind: Any, config: Any, *, ignore_shapes: bool) -> tuple[Any, list[str]]:
        """A model of the class `kind`, and the names of the weights that the files lack."""
        with self._refusing(), quiet():
            model, report = kind.from_pretrained(
                self.folder,
                config=config,
                dtype=torch.float32,
                use_safetensors=True,
                ignore_mismatched_sizes=ignore_shapes,
                trust_remote_code=self.trust_remote_code,
                output_loading_info=True,
            )
        return with_quick_products(model), sorted(report["missing_keys"])

    @contextlib.contextmanager
    def _refusing(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError, KeyError, SafetensorError, RuntimeError) as error:
            raise InputError(self.place, f"{self.folder} cannot be loaded ({_first_line(error)})") from error


def head_dropout(config: Any) -> float:
    """The rate on what a classification head reads, as the config has it; 0.1 if it says nothing."""
    names = ("classifier_dropout", "classifier_dropout_prob", "seq_classif_dropout", "hidden_dropout_prob", "dropout")
    rates = (getattr(config, name, None) for name in names)
    return next((float(rate) for rate in rates if rate is not None), 0.1)


def set_dropout(config: Any, rate: float) -> None:
    """Sets every dropout rate that the config has."""
    for name in DROPOUTS:
        if getattr(config, name, None) is not None:
            setattr(config, name, rate)


def output_layer(model: Any, outputs: int) -> nn.Linear | None:
    """The linear layer that gives the model's outputs: the last one outside the encoder with that many columns."""
    base = f"{model.base_model_prefix}."
    layers = [
        module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and not name.startswith(base) and module.out_features == outputs
    ]
    return layers[-1] if layers else None


@torch.no_grad()
def _replace_head(model: Any, fresh: Any) -> None:
    base = f"{model.base_model_prefix}."
    new = fresh.state_dict()
    for name, tensor in model.state_dict().items():
        if not name.startswith(base):
            tensor.copy_(new[name])


def _file_hash(path: Path) -> bytes:
    # Weights are gigabytes: hashed once a process, unless the file changed.
    stat = path.stat()
    key = (str(path.resolve()), stat.st_size, stat.st_mtime_ns)
    if key not in _hashes:
        digest = blake2b(digest_size=16)
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
        _hashes[key] = digest.digest()
    return _hashes[key]


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
