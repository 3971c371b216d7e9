"""Any Hugging Face encoder as a teacher: as it is if it has the task's head, else fine-tuned first."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from kdtoolkit.encoder_layers import shape_of
from kdtoolkit.errors import InputError, did_you_mean
from kdtoolkit.example import Example
from kdtoolkit.hub import checkpoint_folder
from kdtoolkit.memory import give_back
from kdtoolkit.progress import log
from kdtoolkit.shape import Shape
from kdtoolkit.tasks import Task
from kdtoolkit.teacher import Features, Teacher

from .batches import by_length, call_rows, within_memory
from .checkpoint import Checkpoint, set_dropout
from .label_map import LabelMap, explicit, generic, identity, reconcile
from .loaded_model import LoadedModel
from .precision import answering_precision
from .sequences import Reader, Text, TokenSequence, padded, texts_of
from .task_heads import asked, records, refuse

if TYPE_CHECKING:
    from kdtoolkit.data.rows import Rows

    from .settings import Settings

MAX_TOKENS = 128
ENCODE_ROWS = 2048
HOLES = 4
"""Batches of ever other sizes leave holes in a CPU's memory; after so many it is given back (1 to 4 % of the time)."""
REFINE = {"epochs": 3.0, "learning_rate": 5e-5}
"""What `refine` asks for where it leaves something out: fine-tuning's own defaults."""


class HuggingFaceTeacher(Teacher):
    """A sequence-classification checkpoint: an alias (bert-large), a hub id or a folder.

    It is `ready` if the checkpoint has a classification head whose label names are the task's, up to case, punctuation
    and known synonyms, in any order. Otherwise `fine_tune` trains a fresh head. Names such as LABEL_0 say nothing: with
    as many of them as the task has labels, `label_map` or `head` must decide.

    label_map: checkpoint label -> task label ({LABEL_0: negative, LABEL_1: positive}); labels left out are dropped,
    several that stand for one are merged (probabilities add).
    head: "auto", or "new": train a fresh head whatever the checkpoint has.
    max_tokens: longest text in the checkpoint's own tokens; None: 128, or what its positions hold if that is less.
    batch_tokens: tokens of a forward pass when labelling, padding included; None: 1,024 on a CPU, 16,384 on a GPU.
    precision: fp32 | bf16 (autocast) | auto: answers in bf16 where the hardware multiplies it; hidden states and
    fine-tuning in fp32.
    epochs, max_steps (of each training; None: what the epochs make), learning_rate, layer_decay (a layer's rate is that
    times this to the power of its distance from the heads), optimizer (adamw | adamax), epsilon, bias_correction
    (BERT's and MT-DNN's own have none), batch_rows, accumulate, warmup_fraction, weight_decay, dropout (None: the
    checkpoint's), checkpoint_every_steps, threads: of fine-tuning.
    revision: of a hub id.
    multitask: one encoder is fine-tuned on the gold labels of all tasks of the recipe that have some, whichever it
    teaches, with a head a task (MT-DNN: arXiv:1901.11504; MKD's teacher: arXiv:1911.03588). sampler_exponent (a task's
    share of an epoch is its size to that power), batch (one_task | mixed): of that. heads: as the recipe's section of
    that name, two texts being one sequence; None: a linear head a task. Its dropout, if unsaid, is the encoder's.
    refine: {epochs, learning_rate}; each task that it teaches then gets a fine-tuned copy with a fresh head of its own,
    as MT-DNN-KD makes its teachers (arXiv:1904.09482, section 3.1); with `heads` it goes on with its trained head,
    unless `head` is "new".
    trust_remote_code: run Python code that comes with the checkpoint.
    Raises InputError if the checkpoint is not there, cannot be read, or its labels are ambiguous.
    """

    distributed = True

    def __init__(
        self,
        source: str,
        task: Task,
        *,
        label_map: Mapping[str | int, str] | None = None,
        head: Literal["auto", "new"] = "auto",
        max_tokens: int | None = None,
        batch_tokens: int | None = None,
        precision: Literal["auto", "fp32", "bf16"] = "auto",
        epochs: float = 3.0,
        learning_rate: float = 5e-5,
        batch_rows: int = 32,
        accumulate: int = 1,
        warmup_fraction: float = 0.1,
        weight_decay: float = 0.01,
        dropout: float | None = None,
        checkpoint_every_steps: int | None = 500,
        threads: int | None = None,
        max_steps: int | None = None,
        layer_decay: float = 1.0,
        optimizer: Literal["adamw", "adamax"] = "adamw",
        epsilon: float = 1e-8,
        bias_correction: bool = True,
        multitask: bool = False,
        sampler_exponent: float = 1.0,
        batch: Literal["one_task", "mixed"] = "one_task",
        heads: Mapping[str, Any] | None = None,
        refine: Mapping[str, float] | None = None,
        revision: str | None = None,
        trust_remote_code: bool = False,
    ) -> None:
        super().__init__(source, task)
        self.place = f"teacher '{source}'"
        self._check("head", head in ("auto", "new"), head, "auto or new")
        self._check("precision", precision in ("auto", "fp32", "bf16"), precision, "auto, fp32 or bf16")
        self._check("batch_tokens", batch_tokens is None or batch_tokens >= 1, batch_tokens, "a positive number")
        self._check("max_tokens", max_tokens is None or max_tokens >= 8, max_tokens, "at least 8")
        self._check("epochs", epochs > 0, epochs, "a positive number")
        self._check("learning_rate", learning_rate > 0, learning_rate, "a positive number")
        self._check("batch_rows", batch_rows >= 1, batch_rows, "a positive number")
        self._check("accumulate", accumulate >= 1, accumulate, "a positive number")
        self._check("warmup_fraction", 0 <= warmup_fraction < 1, warmup_fraction, "0 to below 1")
        self._check("weight_decay", weight_decay >= 0, weight_decay, "0 or more")
        self._check("dropout", dropout is None or 0 <= dropout < 1, dropout, "0 to below 1")
        self._check("max_steps", max_steps is None or max_steps >= 1, max_steps, "a positive number")
        self._check("layer_decay", 0 < layer_decay <= 1, layer_decay, "above 0 and at most 1")
        self._check("optimizer", optimizer in ("adamw", "adamax"), optimizer, "adamw or adamax")
        self._check("epsilon", epsilon > 0, epsilon, "a positive number")
        self._check("sampler_exponent", sampler_exponent >= 0, sampler_exponent, "0 or more")
        self._check("batch", batch in ("one_task", "mixed"), batch, "one_task or mixed")
        self._check_joint(multitask, label_map, refine, sampler_exponent=sampler_exponent, batch=batch, heads=heads)
        self._heads = asked(heads, self.place)
        if self._heads is not None:
            refuse(self._heads, task, self.place)
        self.joint = self.learns_all = multitask
        self._refine = None if refine is None else {**REFINE, **refine}
        self.head, self.label_map = head, label_map
        self.precision, self._asked_precision = answering_precision(precision), precision
        self.batch_tokens, self.trust_remote_code = batch_tokens, trust_remote_code
        self._asked_tokens = max_tokens
        self._fine_tuning: dict[str, Any] = {
            "epochs": epochs, "learning_rate": learning_rate, "batch_rows": batch_rows, "accumulate": accumulate,
            "warmup_fraction": warmup_fraction, "weight_decay": weight_decay, "dropout": dropout,
            "precision": "bf16" if precision == "bf16" else "fp32",
            "checkpoint_every_steps": checkpoint_every_steps, "threads": threads,
            "max_steps": max_steps, "layer_decay": layer_decay, "optimizer": optimizer,
            "epsilon": epsilon, "bias_correction": bias_correction,
            "sampler_exponent": sampler_exponent, "batch": batch,
        }  # fmt: skip
        self._use(checkpoint_folder(source, self.place, revision=revision))

    @classmethod
    def import_libraries(cls) -> None:
        # The last is what every architecture imports.
        from transformers import AutoModelForSequenceClassification, AutoTokenizer, modeling_layers  # noqa: F401

    def _check(self, option: str, holds: bool, value: object, expected: str) -> None:
        if not holds:
            raise InputError(f"{self.place}: {option}", f"{value!r} is not {expected}")

    def _check_joint(
        self, multitask: bool, label_map: object, refine: Mapping[str, float] | None, **joint_only: object
    ) -> None:
        """Refuses options that mean nothing beside each other."""
        if not multitask:
            defaults = {"sampler_exponent": 1.0, "batch": "one_task", "heads": None}
            given = [name for name, value in joint_only.items() if value != defaults[name]]
            given += ["refine"] if refine is not None else []
            if given:
                cause = "says something about a training on several tasks, and this is none"
                raise InputError(f"{self.place}: {given[0]}", cause, "set `multitask: true`, or leave it out")
            return
        if label_map is not None:
            cause = "the heads of a joint training are new, and have the tasks' own labels"
            raise InputError(f"{self.place}: label_map", cause, "leave it out")
        for name, value in (refine or {}).items():
            if name not in REFINE:
                raise InputError(f"{self.place}: refine", f"there is no '{name}'", did_you_mean(name, REFINE))
            self._check(f"refine.{name}", isinstance(value, int | float) and value > 0, value, "a positive number")

    def _use(self, folder: Path) -> None:
        """Answers from the checkpoint in `folder` from now on."""
        self.checkpoint = Checkpoint(folder, self.place, trust_remote_code=self.trust_remote_code)
        self.max_tokens = self._longest_text()
        self._map = self._find_map()
        self._loaded = LoadedModel(self.checkpoint, self.task.name)
        self._reader: Reader | None = None

    def _longest_text(self) -> int:
        limit = self.checkpoint.longest
        if limit is not None and self._asked_tokens is not None and self._asked_tokens > limit:
            raise InputError(
                f"{self.place}: max_tokens",
                f"{self._asked_tokens} tokens are asked for and the checkpoint has positions for {limit}",
                f"set it to {limit} or less",
            )
        if self._asked_tokens is not None:
            return self._asked_tokens
        return MAX_TOKENS if limit is None else min(MAX_TOKENS, limit)

    def _find_map(self) -> LabelMap | None:
        """How the checkpoint's columns are the task's, or None: a fresh head is needed."""
        checkpoint, task, record = self.checkpoint, self.task, self.checkpoint.record
        place = f"{self.place}: label_map"
        if checkpoint.joint_tasks:
            return self._find_joint_head()
        if self.joint and not record.get("refined"):
            return None
        if self.label_map is not None and not (checkpoint.has_head or record):
            raise InputError(place, "the checkpoint has no classification head", "leave label_map out")
        if not checkpoint.has_head or (self.head == "new" and record.get("head") != "new"):
            return None
        problem, count = checkpoint.config.problem_type, checkpoint.config.num_labels
        if task.kind == "regression":
            return identity(1) if count == 1 and problem in (None, "regression") else None
        if (count < 2 and task.kind != "multilabel") or problem == "regression" or not task.labels:
            return None
        if (problem == "multi_label_classification") != (task.kind == "multilabel"):
            return None
        names = checkpoint.label_names
        found = reconcile(names, task.labels)
        if self.label_map is not None and not record:
            return explicit(names, task.labels, self.label_map, place, merge=task.kind == "classification")
        if found is None and generic(names) and count == len(task.labels):
            raise InputError(
                place,
                f"the checkpoint calls its labels {names[0]} to {names[-1]}, which does not say which of "
                f"{', '.join(task.labels)} is which",
                f"say it (label_map: {{{names[0]}: {task.labels[0]}, ...}}), or set `head: new` to fine-tune it afresh",
            )
        return found

    def _find_joint_head(self) -> LabelMap | None:
        """The columns of the task's own head beside a jointly trained encoder, or None: it has none."""
        task, known = self.task, self.checkpoint.joint_tasks
        if task.name not in known or (self.head == "new" and self.checkpoint.record.get("head") != "new"):
            return None
        self._check_trained_heads()
        kind, labels = known[task.name]["kind"], known[task.name]["labels"]
        found = reconcile(labels, task.labels) if kind == task.kind != "regression" else None
        if kind == task.kind == "regression":
            return identity(1)
        if found is None:
            theirs, ours = (", ".join(names) or "a number" for names in (labels, task.labels))
            raise InputError(
                self.place,
                f"its head for '{task.name}' answers {theirs} ({kind}), and the task is {ours} ({task.kind})",
                "name the labels alike, or set `head: new` to train it afresh",
            )
        return found

    def _check_trained_heads(self) -> None:
        """Raises InputError where the task has a trained head, and another one is asked for."""
        checkpoint, name = self.checkpoint, self.task.name
        if self._heads is None:
            return
        wanted = records(self._heads, [self.task], checkpoint.config)[name]
        found = checkpoint.heads.get(name, {"name": "linear"})
        if found != wanted:
            theirs, ours = (", ".join(f"{key}: {value}" for key, value in head.items()) for head in (found, wanted))
            cause = f"{{{ours}}} is asked for '{name}', and the checkpoint has {{{theirs}}}"
            raise InputError(f"{self.place}: heads", cause, "leave it out, or set `head: new` to train it afresh")

    @property
    def ready(self) -> bool:
        return self._map is not None

    @property
    def foreign_labels(self) -> tuple[str, ...] | None:
        names = self.checkpoint.label_names if self.checkpoint.has_head else []
        if self.ready or self.head == "new" or self.joint or len(names) < 2 or generic(names):
            return None
        return None if self.task.kind == "regression" else tuple(names)

    @property
    def refines(self) -> bool:
        checkpoint = self.checkpoint
        return self._refine is not None and bool(checkpoint.joint_tasks) and not checkpoint.record.get("refined")

    @property
    def folder(self) -> Path:
        """Where the checkpoint's files are."""
        return self.checkpoint.folder

    @property
    def fingerprint(self) -> str:
        facts = {
            "version": 1,
            "files": self.checkpoint.digest(),
            "labels": list(self.task.labels),
            "columns": self._map.columns if self._map else None,
            "max_tokens": self.max_tokens,
            "precision": self.precision,
        }
        return blake2b(json.dumps(facts, sort_keys=True).encode(), digest_size=16).hexdigest()

    def parameters(self) -> int | None:
        return self.checkpoint.parameters

    def bytes(self) -> int | None:
        return self.checkpoint.bytes

    @property
    def call_rows(self) -> int:  # type: ignore[override]
        """So many that batches of one length are worth it, and that a call of a large model does not take minutes."""
        return call_rows(self.checkpoint.parameters)

    @property
    def truncated(self) -> int:
        """How many texts were cut to `max_tokens` so far."""
        return self._reader.truncated if self._reader else 0

    def logits(self, examples: Sequence[Example]) -> np.ndarray:
        """(rows, task.outputs) float32 in the order of `task.labels`; regression in the unit the head was trained on.

        Batches are a function of the texts' token lengths in this list, so the same list gives the same bits, and
        another list the same values within 1e-5, or in bf16 within some 0.01.
        """
        return self.answer(self.read(examples))

    def read(self, examples: Sequence[Example]) -> list[TokenSequence]:
        reader, sequences = self._reading(), list[TokenSequence]()
        for start in range(0, len(examples), ENCODE_ROWS):
            sequences += reader.encode(self._texts(examples[start : start + ENCODE_ROWS]))
        return sequences

    @torch.no_grad()  # in inference mode, autocast would convert all weights for each batch
    def answer(self, read: list[TokenSequence]) -> np.ndarray:
        if self._map is None:
            raise InputError(self.place, f"has no head for '{self.task.name}' yet", "fine-tune it first (kdtool teach)")
        model, label_map, pad = self._loaded.whole, self._map, self._reading().pad_id
        device = next(model.parameters()).device
        values = np.empty((len(read), self.task.outputs), np.float32)
        lengths = np.array([len(s.ids) for s in read], np.int64)

        def answer(rows: np.ndarray) -> np.ndarray:
            outputs = model.outputs(padded([read[row] for row in rows], pad).to(device))
            return label_map.apply(outputs.float()).cpu().numpy()

        short = self._loaded.last_layer.first_token()
        converting = torch.autocast(device.type, torch.bfloat16, enabled=self.precision == "bf16")
        with short, converting:  # around all batches: it keeps converted weights until it is left
            for number, rows in enumerate(by_length(lengths, self.batch_tokens, device), start=1):
                values[rows] = within_memory(answer, rows, int(lengths[rows[0]]), self.place)
                if device.type == "cpu" and number % HOLES == 0:
                    give_back()
        return values

    def _texts(self, examples: Sequence[Example]) -> list[Text]:
        """As the tokenizer takes them. A pair of which one text was given has an empty second one."""
        none = "" if self.task.pair else None
        return texts_of([e.text for e in examples], [none if e.second is None else e.second for e in examples])

    @property
    def shape(self) -> Shape | None:
        return shape_of(self.checkpoint.config)

    def features(self, examples: Sequence[Example], names: Sequence[str]) -> Features:
        """Hidden states and what attention is computed from, read in the same batches as `logits`.

        Raises InputError for what the checkpoint's type does not show; without names only its tokenizer works.
        """
        from .hidden_states import check_names, encoder_of, inside, joined

        check_names(self.checkpoint.config, names, self.place)
        reader = self._reading()
        sequences = reader.encode(self._texts(examples))
        pieces = [s.ids for s in sequences]
        if not names:
            return joined(pieces, names, ())
        parts = self._loaded.parts if self._loaded.sharded else None
        encoder = encoder_of(self._loaded.whole) if parts is None else parts.model
        device = next(encoder.parameters()).device
        batches = list(by_length(np.array([len(some) for some in pieces], np.int64), self.batch_tokens, device))
        with torch.no_grad() if parts is not None else torch.inference_mode():  # FSDP needs tensors that count versions
            found = inside(encoder, parts, reader, sequences, batches, names, half=self._asked_precision == "bf16")
            return joined(pieces, names, found)

    def shard(self) -> None:
        """Its encoder is loaded and cut when `features` asks for it."""
        self._loaded.shard()

    def fine_tune(self, rows: Rows, folder: Path, *, seed: int, **options: Any) -> None:
        """Trains a head and the encoder on the labelled rows and answers from `folder` afterwards.

        The head is a fresh one, but where a joint training is refined that has `heads`. options: replace the
        constructor's fine-tuning options. Restarted, it resumes, bit for bit; the result is a plain Hugging Face
        folder.
        """
        from .fine_tuning import fine_tune
        from .multi_task import fine_tune_jointly

        task, checkpoint = self.task, self.checkpoint
        if self.refines:
            # What the recipe says of several tasks means nothing for one.
            options = {"sampler_exponent": 1.0, "batch": "one_task", **(self._refine or {}), **options}
        settings = self._settings(options)
        with self._counting_cuts(len(rows)) as reader:
            if self.refines and task.name in checkpoint.heads and self._map is not None:
                fine_tune_jointly(
                    checkpoint, reader, {task.name: task}, {task.name: rows}, folder, settings, seed=seed,
                    head=self.head, heads={task.name: checkpoint.heads[task.name]}, refined=self._map,
                )  # fmt: skip
            else:
                fine_tune(checkpoint, reader, task, rows, folder, settings, seed=seed, head=self.head)
        self.close()
        self._use(folder)

    def fine_tune_jointly(
        self, tasks: Mapping[str, Task], rows: Mapping[str, Rows], folder: Path, *, seed: int
    ) -> None:
        """Trains the encoder and a fresh head a task on the labelled rows of all tasks, and answers from `folder`.

        Restarted, it resumes, bit for bit; the result is a plain Hugging Face folder, with heads.safetensors beside it.
        Raises InputError for a head that one of the tasks cannot have.
        """
        from .multi_task import fine_tune_jointly

        settings, heads = self._settings({}), None
        if self._heads is not None:
            for task in tasks.values():
                refuse(self._heads, task, self.place)
            config = deepcopy(self.checkpoint.config)
            if settings.dropout is not None:
                set_dropout(config, settings.dropout)
            heads = records(self._heads, list(tasks.values()), config)
        with self._counting_cuts(sum(map(len, rows.values()))) as reader:
            fine_tune_jointly(
                self.checkpoint, reader, tasks, rows, folder, settings, seed=seed, head=self.head, heads=heads
            )
        self.close()
        self._use(folder)

    def _settings(self, options: Mapping[str, Any]) -> Settings:
        from .settings import Settings

        return replace(Settings(**self._fine_tuning), **options)

    @contextlib.contextmanager
    def _counting_cuts(self, rows: int) -> Iterator[Reader]:
        """The tokenizer; afterwards it is said how many texts it had to cut."""
        reader = self._reading()
        before = reader.truncated
        yield reader
        if reader.truncated > before:
            log.info("%s: %d of %d texts cut to %d tokens", self.place, reader.truncated - before, rows,
                     self.max_tokens)  # fmt: skip

    def close(self) -> None:
        self._loaded.close()

    def _reading(self) -> Reader:
        if self._reader is None:
            self._reader = Reader(
                self.folder,
                self.place,
                max_tokens=self.max_tokens,
                trust_remote_code=self.trust_remote_code,
                apart=self._heads is not None or bool(self.checkpoint.heads),
            )
        return self._reader
