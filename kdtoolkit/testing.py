"""For authors of plug-ins: what every student and every teacher must hold, and small things to test with.

`check_student(MyStudent, width=32)` and `check_teacher(my_teacher, examples)` raise AssertionError, naming the promise
that is broken. `tiny_task`, `tiny_tokens` and `EchoTeacher` make a run that needs no download.
"""

from __future__ import annotations

import inspect
import json
import random
from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import Any, Literal

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from .example import Example, Label
from .student import Encoded, Student, Tokens
from .tasks import Task
from .tasks.task import Kind
from .teacher import Teacher

VOCABULARY = 64
"""Number of word pieces of the texts that `check_student` and `tiny_tokens` make."""

TOLERANCE = 1e-5
"""How far two float32 results of one text may lie apart, absolutely and relative to their size, on a CPU."""

PARTS = {"states": ("states",), "hidden": ("hidden",), "attentions": ("attentions",),
         "relations": ("queries", "keys", "values")}  # fmt: skip
"""What a student may provide, and where `Encoded` has it."""


# ------------------------------------------------------------------------------------------------------------- students
def check_student(cls: type[Student], **options: Any) -> None:
    """Raises AssertionError unless `cls(64, **options)` keeps the contract of `kdtoolkit.Student`.

    What is checked: the constructor's signature; shapes for any number of rows and tokens; that padding, the order of
    the rows and the cut into batches change nothing beyond 1e-5 (float32, CPU); that evaluation is deterministic to the
    bit; that what `provides` names is given when `output` asks, in the sizes of `shape`, and that asking and padding
    change nothing; that gradient reaches every parameter; that safetensors hold the weights and `resolved_options` the
    rest, so that the student can be built again without `initialise`; that `depths`, if it says anything, knows every
    parameter.

    options: the constructor's keyword arguments, for which the promises are tried.
    """
    _check_constructor(cls, options)
    student = _build(cls, options, seed=0)
    _same_weights(_build(cls, options, seed=0), student, "two students built after torch.manual_seed(0) differ")
    student.initialise()
    assert isinstance(student.width, int) and student.width > 0, f"width: expected a positive int, got {student.width}"
    assert student.pairs in ("joint", "separate"), f"pairs: expected 'joint' or 'separate', got {student.pairs!r}"
    unknown = set(student.provides) - set(PARTS)
    assert not unknown, f"provides: expected names of {', '.join(PARTS)}, got {', '.join(sorted(unknown))}"
    table = student.word_embedding()
    assert table is None or table.num_embeddings == VOCABULARY, (
        f"word_embedding: expected {VOCABULARY} rows, got {table.num_embeddings}"
    )
    depths = student.depths()
    wrong = depths.keys() ^ {name for name, _ in student.named_parameters()} if depths else set()
    assert not wrong, f"depths: expected every parameter and nothing else, got it wrong for {', '.join(sorted(wrong))}"
    assert all(depth >= 0 for depth in depths.values()), "depths: expected numbers of layers, got one below 0"
    student.eval()
    with torch.no_grad():
        _check_shapes(student)
        _check_padding(student)
        _check_rows(student)
        _check_inside(student)
    _check_gradient(student)
    _check_rebuilding(cls, options, student.eval())


def _check_constructor(cls: type[Student], options: dict[str, Any]) -> None:
    assert inspect.isclass(cls) and issubclass(cls, Student), f"{cls!r} is no subclass of kdtoolkit.Student"
    parameters = list(inspect.signature(cls).parameters.values())
    first = parameters[0] if parameters else None
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    assert first is not None and first.name == "vocab_size" and first.kind in positional, (
        f"{cls.__name__}: the constructor's first argument must be vocab_size"
    )
    others = [p.name for p in parameters[1:] if p.kind is not inspect.Parameter.KEYWORD_ONLY]
    assert not others, (
        f"{cls.__name__}: arguments after vocab_size are recipe keys and must be keyword-only; "
        f"not so: {', '.join(others)}"
    )
    known = {p.name for p in parameters[1:]}
    assert set(options) <= known, f"{cls.__name__} takes no {', '.join(sorted(set(options) - known))}"


def _check_shapes(student: Student) -> None:
    for lengths in ((1,), (1, 1, 1), (2,), (5, 5), (7, 1, 3), (17, 4)):
        tokens = tiny_tokens(lengths=lengths, joint=student.pairs == "joint")
        before = [tensor.clone() for tensor in tokens]
        encoded = student(tokens)
        said = f"for texts of {', '.join(map(str, lengths))} tokens"
        assert all(torch.equal(a, b) for a, b in zip(before, tokens)), f"encode changes its input {said}"
        assert encoded.pooled.dtype == torch.float32, f"pooled: expected float32, got {encoded.pooled.dtype} {said}"
        assert bool(encoded.pooled.isfinite().all()), f"pooled has NaN or infinity {said}"
        if "states" in student.provides:
            assert encoded.states is not None, f"provides names states, and encode gave none {said}"
            _same_shape(encoded.states, (*tokens.ids.shape, encoded.states.shape[-1]), f"states {said}")
            assert bool(encoded.states[tokens.mask].isfinite().all()), f"states have NaN or infinity {said}"
    a, b = (student(tiny_tokens(lengths=(6, 6), seed=seed)).pooled for seed in (1, 2))
    assert not torch.equal(a, b), "pooled is the same whatever the text"


def _check_padding(student: Student) -> None:
    tokens = tiny_tokens(lengths=(4, 9, 1, 6), joint=student.pairs == "joint")
    expected = student(tokens)
    for more in (1, 5):
        padded = Tokens(*(torch.nn.functional.pad(tensor, (0, more)) for tensor in tokens))
        received = student(padded)
        _close(received.pooled, expected.pooled, f"padding by {more} more columns changes pooled")
        if received.states is not None and expected.states is not None:
            states = received.states[:, : tokens.ids.shape[1]]
            _close(states[tokens.mask], expected.states[tokens.mask], f"padding by {more} more columns changes states")


def _check_rows(student: Student) -> None:
    tokens = tiny_tokens(lengths=(4, 9, 1, 6, 9, 2, 2, 5), joint=student.pairs == "joint")
    expected = student(tokens).pooled
    assert torch.equal(student(tokens).pooled, expected), "in evaluation, the same batch twice gives two results"
    order = torch.randperm(8, generator=torch.Generator().manual_seed(0))
    shuffled = student(Tokens(*(tensor[order] for tensor in tokens))).pooled
    _close(shuffled, expected[order], "the order of the rows changes pooled")
    for cuts in ((5, 3), (1,) * 8):
        pieces = [_cut(Tokens(*part)) for part in zip(*(tensor.split(cuts) for tensor in tokens))]
        received = torch.cat([student(piece).pooled for piece in pieces])
        _close(received, expected, f"cutting 8 rows into batches of {', '.join(map(str, cuts))} changes pooled")


def _check_inside(student: Student) -> None:
    """Layers, attention scores and relations, where the student says that it has them."""
    parts = set(student.provides) - {"states"}
    if not parts:
        return
    shape = student.shape
    assert shape is not None, f"provides names {', '.join(sorted(parts))}, and shape is None"
    tokens = tiny_tokens(lengths=(4, 9, 1, 6), joint=student.pairs == "joint")
    rows, time = tokens.ids.shape
    plain = student(tokens)
    padded = Tokens(*(torch.nn.functional.pad(tensor, (0, 3)) for tensor in tokens))
    student.output = frozenset(parts)
    asked, more = student(tokens), student(padded)
    student.output = frozenset()
    _close(asked.pooled, plain.pooled, f"asking for {', '.join(sorted(parts))} changes pooled")
    widths = [shape.width_of(layer) for layer in range(shape.layers + 1)]
    head = (shape.heads or 0, time, shape.width // (shape.heads or 1))
    expected: dict[str, list[tuple[int, ...]]] = {
        "hidden": [(rows, time, width) for width in widths],
        "attentions": [(rows, *head[:2], time)] * shape.layers,
        **dict.fromkeys(PARTS["relations"], [(rows, *head)] * shape.layers),
    }
    for field in (field for part in sorted(parts) for field in PARTS[part]):
        given, again = getattr(asked, field), getattr(more, field)
        assert given is not None, f"provides promises {field}, and encode gave none"
        assert len(given) == len(expected[field]), f"{field}: expected {len(expected[field])}, got {len(given)}"
        for layer, (one, other) in enumerate(zip(given, again)):
            what = f"{field}[{layer}]"
            _same_shape(one, expected[field][layer], what)
            _close(_real(other, field, padded.mask), _real(one, field, tokens.mask), f"padding changes {what}")


def _real(values: Tensor, field: str, mask: Tensor) -> Tensor:
    """What stands on real tokens, flat."""
    if field == "hidden":
        return values[mask]
    pairs = mask[:, :, None] & mask[:, None, :]
    return values.permute(0, 2, 3, 1)[pairs] if field == "attentions" else values.transpose(1, 2)[mask]


def _check_gradient(student: Student) -> None:
    student.train().zero_grad(set_to_none=True)
    torch.manual_seed(0)
    encoded: Encoded = student(tiny_tokens(lengths=(4, 9, 1, 6), joint=student.pairs == "joint"))
    assert encoded.pooled.requires_grad, "pooled has no gradient"
    loss = (encoded.pooled * torch.randn_like(encoded.pooled)).sum()
    if encoded.states is not None:
        loss = loss + (encoded.states * torch.randn_like(encoded.states)).sum()
    loss.backward()
    idle = [name for name, p in student.named_parameters() if p.requires_grad and p.grad is None]
    assert not idle, f"no gradient reaches {', '.join(idle)}: use them, drop them, or set requires_grad to False"
    wrong = [name for name, p in student.named_parameters() if p.grad is not None and not bool(p.grad.isfinite().all())]
    assert not wrong, f"the gradient of {', '.join(wrong)} has NaN or infinity"
    assert any(bool(p.grad.any()) for p in student.parameters() if p.grad is not None), "every gradient is zero"


def _check_rebuilding(cls: type[Student], options: dict[str, Any], student: Student) -> None:
    resolved = student.resolved_options(dict(options))
    try:
        stored = json.loads(json.dumps(resolved, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise AssertionError(f"resolved_options cannot be written as JSON: {error}") from error
    try:
        weights = safetensors.torch.save({name: tensor.contiguous() for name, tensor in student.state_dict().items()})
    except (RuntimeError, ValueError) as error:
        raise AssertionError(f"safetensors cannot hold the state dict: {error}") from error
    again = _build(cls, stored, seed=1)
    try:
        again.load_state_dict(safetensors.torch.load(weights))
    except RuntimeError as error:
        raise AssertionError(f"a student built from resolved_options refuses the saved weights: {error}") from error
    _same_weights(again, student, "saving and loading changes the weights")
    tokens = tiny_tokens(lengths=(4, 9, 1, 6), joint=student.pairs == "joint")
    with torch.no_grad():
        same = torch.equal(again.eval()(tokens).pooled, student(tokens).pooled)
    assert same, "a student saved and built again gives other results: something it needs is not in its state dict"


def _build(cls: Callable[..., Student], options: dict[str, Any], *, seed: int) -> Student:
    torch.manual_seed(seed)
    return cls(VOCABULARY, **options)


def _cut(tokens: Tokens) -> Tokens:
    """The batch without the columns that are padding in every row."""
    longest = int(tokens.lengths.max())
    return Tokens(*(tensor[:, :longest] for tensor in tokens))


def _same_weights(one: Student, other: Student, complaint: str) -> None:
    a, b = one.state_dict(), other.state_dict()
    same = a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
    assert same, complaint


def _same_shape(tensor: Tensor | np.ndarray, expected: tuple[int, ...], what: str) -> None:
    assert tuple(tensor.shape) == expected, f"{what}: expected shape {expected}, got {tuple(tensor.shape)}"


def _close(received: Tensor, expected: Tensor, complaint: str) -> None:
    difference = (received - expected).abs().max().item()
    assert torch.allclose(received, expected, rtol=TOLERANCE, atol=TOLERANCE), f"{complaint} (by {difference:.1e})"


# ------------------------------------------------------------------------------------------------------------- teachers
def check_teacher(teacher: Teacher, examples: Sequence[Example]) -> None:
    """Raises AssertionError unless `teacher` keeps the contract of `kdtoolkit.Teacher` on `examples`.

    What is checked: shape and float32, also for no example at all; finite values (a row of NaN only if `partial`, -inf
    only as a log-probability); that neither the order of the examples nor the cut into calls changes a value beyond
    1e-5; that the fingerprint is hex and stays as it is; `kind`; and, where examples carry gold labels that the teacher
    clearly knows, that its columns are in the order of `task.labels`.

    examples: at least 4, of the teacher's task, which it has values for.
    """
    assert len(examples) >= 4, f"examples: expected at least 4, got {len(examples)}"
    assert all(example.task == teacher.task.name for example in examples), "examples: of another task than the teacher"
    assert teacher.ready, "the teacher is not ready: fine-tune it before it is checked"
    answered = teacher.answers(np.array([example.id for example in examples], dtype="S16"))
    assert answered.dtype == bool and answered.shape == (len(examples),), "answers: expected one bool for each id"
    assert answered.all(), f"examples: the teacher says that it has no values for {(~answered).sum()} of them"
    fingerprint = teacher.fingerprint
    assert isinstance(fingerprint, str) and fingerprint and set(fingerprint) <= set("0123456789abcdef"), (
        f"fingerprint: expected lower-case hex digits, got {fingerprint!r}"
    )
    kinds = ("values",) if teacher.task.kind == "regression" else ("logits", "logprobs")
    assert teacher.kind in kinds, f"kind: expected {' or '.join(kinds)} for {teacher.task.kind}, got {teacher.kind!r}"
    outputs = teacher.task.outputs
    values = _values(teacher, examples)
    _same_shape(_values(teacher, []), (0, outputs), "logits of no example")
    _check_finite(values, teacher.kind, teacher.partial)
    _equal_values(_values(teacher, examples[::-1])[::-1], values, "the order of the examples changes the values")
    for cut in (1, 3):
        pieces = [_values(teacher, examples[at : at + cut]) for at in range(0, len(examples), cut)]
        _equal_values(np.concatenate(pieces), values, f"calls of {cut} examples at a time change the values")
    if teacher.task.kind == "classification":
        _check_columns(values, examples, teacher.task)
    assert teacher.fingerprint == fingerprint, "the fingerprint changed by asking for logits"
    for name in ("parameters", "bytes"):
        size = getattr(teacher, name)()
        assert size is None or (isinstance(size, int) and size >= 0), f"{name}: expected a count or None, got {size!r}"


def _values(teacher: Teacher, examples: Sequence[Example]) -> np.ndarray:
    values = teacher.logits(examples)
    assert isinstance(values, np.ndarray), f"logits: expected a numpy array, got {type(values).__name__}"
    assert values.dtype == np.float32, f"logits: expected float32, got {values.dtype}"
    _same_shape(values, (len(examples), teacher.task.outputs), "logits")
    return values


def _check_finite(values: np.ndarray, kind: str, partial: bool) -> None:
    missing = np.isnan(values)
    assert partial or not missing.any(), "logits hold NaN; only a teacher whose `partial` is True may say nothing"
    partly = np.flatnonzero(missing.any(1) & ~missing.all(1))
    assert not len(partly), f"row {partly[:1]} is NaN in part: a teacher that says nothing gives NaN throughout"
    assert not missing.all(), "the teacher says nothing about any of the examples"
    assert not np.isposinf(values).any(), "logits hold +inf"
    assert kind == "logprobs" or not np.isneginf(values).any(), "logits hold -inf; only log-probabilities may"


def _check_columns(values: np.ndarray, examples: Sequence[Example], task: Task) -> None:
    """Fails if another order of the columns agrees with the gold labels far better than the order given."""
    from scipy.optimize import linear_sum_assignment

    known = [i for i, example in enumerate(examples) if example.label is not None and not np.isnan(values[i]).any()]
    if not known:
        return
    gold = np.array([examples[i].label for i in known])
    assert np.isin(gold, np.arange(task.outputs)).all(), f"examples: gold labels must be 0 to {task.outputs - 1}"
    said = values[known].argmax(1)
    counts = np.zeros((task.outputs, task.outputs))
    np.add.at(counts, (said, gold), 1)
    columns, meanings = linear_sum_assignment(counts, maximize=True)
    best = np.empty(task.outputs, dtype=int)
    best[columns] = meanings
    better = int(((best[said] == gold) & (said != gold)).sum())
    worse = int(((best[said] != gold) & (said == gold)).sum())
    # Four standard errors of McNemar's test: a weak teacher on few rows is no reason to complain.
    permuted = better - worse > 4 * (better + worse) ** 0.5
    meant = ", ".join(task.labels[i] for i in best)
    assert not permuted, f"columns: expected the order {', '.join(task.labels)}, and they look like {meant}"


def _equal_values(received: np.ndarray, expected: np.ndarray, complaint: str) -> None:
    same = np.allclose(received, expected, rtol=TOLERANCE, atol=TOLERANCE, equal_nan=True)
    assert same, complaint


# --------------------------------------------------------------------------------------------------------- small things
def tiny_tokens(
    rows: int = 5, *, longest: int = 9, lengths: Sequence[int] | None = None, joint: bool = False, seed: int = 0
) -> Tokens:
    """A batch of random texts over `VOCABULARY` pieces.

    rows, longest: number of texts, and of tokens of the longest; `lengths` says it row by row instead.
    joint: the second half of each text is a second segment.
    """
    draw = random.Random(seed)
    if lengths is None:
        lengths = [longest, *(draw.randint(1, longest) for _ in range(rows - 1))]
    shape = (len(lengths), max(lengths))
    ids, mask, segments = (torch.zeros(shape, dtype=d) for d in (torch.int64, torch.bool, torch.int64))
    for row, length in enumerate(lengths):
        ids[row, :length] = torch.tensor([draw.randrange(1, VOCABULARY) for _ in range(length)])
        mask[row, :length] = True
        if joint:
            segments[row, (length + 1) // 2 : length] = 1
    return Tokens(ids, mask, segments)


CUES = (
    ["river", "mountain", "forest", "meadow"],
    ["engine", "wheel", "piston", "gearbox"],
    ["violin", "piano", "trumpet", "chorus"],
    ["butter", "flour", "pepper", "onion"],
)
FILLERS = ("the", "a", "one", "this", "that", "of", "with", "near", "and", "some", "very", "quite", "there", "again")


def tiny_task(
    *, kind: Kind = "classification", pair: bool = False, rows: int = 64, classes: int = 2, seed: int = 0
) -> tuple[Task, list[Example]]:
    """A task that a small student learns quickly, and `rows` different examples of it with gold labels.

    Texts are filler words and cue words of `classes` subjects, shuffled. Classification: the subject of a text; of a
    pair, how many subjects its second text is past its first, in a circle. Regression: the number of cue words in a
    text, or that both texts of a pair share, as a fraction of 4. Multilabel: which subjects occur in any of the texts.

    classes: number of labels and subjects, 2 to 4. Equal arguments give equal examples.
    """
    if not 2 <= classes <= len(CUES):
        raise ValueError(f"classes: expected 2 to {len(CUES)}, received {classes}")
    task = Task(
        f"tiny-{kind}{'-pair' if pair else ''}",
        kind=kind,
        text=("first", "second") if pair else ("text",),
        label="label",
        labels=() if kind == "regression" else tuple(f"label{i}" for i in range(classes)),
    )
    draw = random.Random(f"{kind} {pair} {classes} {seed}")
    examples: dict[bytes, Example] = {}
    while len(examples) < rows:
        example = _tiny_example(task, CUES[:classes], len(examples) % classes, draw)
        examples.setdefault(example.id, example)
    return task, list(examples.values())


def _tiny_example(task: Task, subjects: Sequence[list[str]], wanted: int, draw: random.Random) -> Example:
    """One row; `wanted` goes through the classes in turn, so that none is rare."""
    classes = len(subjects)
    label: Label
    if task.kind == "multilabel":
        present = [i == wanted or draw.random() < 0.4 for i in range(classes)]
        cues = [draw.choice(subjects[i]) for i in range(classes) if present[i]]
        half = draw.randint(0, len(cues)) if task.pair else len(cues)
        texts, label = [cues[:half], cues[half:]], tuple(map(int, present))
    elif task.kind == "regression":
        words = [word for subject in subjects for word in subject]
        first = draw.sample(words, 4)
        common = draw.randint(0, 4)
        others = draw.sample([word for word in words if word not in first], 4 - common)
        texts = [first, draw.sample(first, common) + others]
        if not task.pair:
            texts = [draw.sample(words, common), []]
        label = common / 4
    else:
        start = draw.randrange(classes)
        cues_of = [start, (start + wanted) % classes] if task.pair else [wanted, wanted]
        texts, label = [draw.choices(subjects[i], k=2) for i in cues_of], wanted
    first_text, second_text = (_sentence(cues, draw) for cues in texts)
    return Example(task.name, first_text, second_text if task.pair else None, label)


def _sentence(cues: list[str], draw: random.Random) -> str:
    words = [*cues, *draw.choices(FILLERS, k=6 - len(cues) if len(cues) < 6 else 0)]
    draw.shuffle(words)
    return " ".join(words)


class EchoTeacher(Teacher):
    """A teacher without a model: its values are a function of the text, or of the gold label.

    echo: "text" (pseudo-random values in -confidence .. confidence, from a hash of the texts) or "gold" (a logit of
    `confidence` for the gold label and 0 for the others, for multilabel +confidence or -confidence, for regression the
    gold number itself; an example without gold label gets a row of NaN).
    seed: other seeds are other teachers. confidence: size of the logits, no unit.

    `rows_asked` counts the examples that it was asked about, so that a test can say "never twice".
    """

    def __init__(
        self,
        source: str,
        task: Task,
        *,
        echo: Literal["text", "gold"] = "text",
        seed: int = 0,
        confidence: float = 3.0,
    ) -> None:
        super().__init__(source, task)
        if echo not in ("text", "gold"):
            raise ValueError(f"echo: expected 'text' or 'gold', received {echo!r}")
        self.echo, self.seed, self.confidence = echo, seed, confidence
        self.rows_asked = 0

    @property
    def fingerprint(self) -> str:
        task = self.task
        said = ["echo", task.name, task.kind, list(task.labels), self.echo, self.seed, self.confidence]
        return blake2b(json.dumps(said).encode(), digest_size=16).hexdigest()

    @property
    def partial(self) -> bool:
        return self.echo == "gold"

    def logits(self, examples: Sequence[Example]) -> np.ndarray:
        self.rows_asked += len(examples)
        row = self._from_text if self.echo == "text" else self._from_gold
        values = np.empty((len(examples), self.task.outputs), dtype=np.float32)
        for i, example in enumerate(examples):
            values[i] = row(example)
        return values

    def _from_text(self, example: Example) -> np.ndarray:
        key = str(self.seed).encode()
        hashes = [
            blake2b(example.id + column.to_bytes(4, "little"), key=key, digest_size=8).digest()
            for column in range(self.task.outputs)
        ]
        uniform = np.array([int.from_bytes(h, "little") / 2**64 for h in hashes])
        return self.confidence * (2 * uniform - 1)

    def _from_gold(self, example: Example) -> np.ndarray:
        outputs, label = self.task.outputs, example.label
        if label is None:
            return np.full(outputs, np.nan)
        if self.task.kind == "regression":
            return np.array([label])
        if isinstance(label, tuple):
            return self.confidence * (2 * np.array(label) - 1)
        return self.confidence * (np.arange(outputs) == label)
