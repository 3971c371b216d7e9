"""What holds for every head, and what its options change."""

from __future__ import annotations

import pytest
import torch
from head_cases import MNLI, QNLI, SST2, STSB, TAGS, WIDTH, own_columns, row_of, section, text_batch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from kdtoolkit import Encoded, Student, Task
from kdtoolkit.heads import MultiTaskHeads, refusal
from kdtoolkit.heads.dropout import row_dropout
from kdtoolkit.heads.multi_task import ranking_columns
from kdtoolkit.recipe.schema import HeadOptions

ALL = (SST2, MNLI, STSB, TAGS, QNLI)
EVERY_HEAD = section(
    hidden=5,
    width=3,
    tasks={
        "sst2": {"name": "biattention"},
        "mnli": {"name": "san", "steps": 3},
        "stsb": {"name": "biattention"},
        "qnli": {"name": "ranking", "gamma": 2.0, "positive": "not_entailment"},
    },
)
SOME_PLAIN = section(tasks={"mnli": {"name": "san"}, "stsb": {"name": "biattention", "shared": False}})


def built(heads, *, joint=False, tasks=ALL, seed=0, mixed=True):
    torch.manual_seed(seed)
    return MultiTaskHeads(tasks, WIDTH, pairs="joint" if joint else "separate", mixed=mixed, heads=heads).eval()


@settings(max_examples=30)
@given(
    st.lists(st.integers(0, 4), min_size=1, max_size=7),
    st.booleans(),
    st.sampled_from([EVERY_HEAD, SOME_PLAIN]),
    st.integers(0, 9),
)
def test_a_row_alone_without_padding_is_the_same_row_in_a_batch(positions, joint, heads, seed):
    model = built(heads, joint=joint)
    encoded, batch = text_batch(ALL, positions, joint=joint, seed=seed)
    result = model(encoded, batch)
    assert result.outputs.shape == (len(positions), sum(ALL[task].outputs for task in set(positions)))
    for row, task in enumerate(positions):
        alone = model(*row_of(encoded, batch, row)).outputs[0]
        assert len(alone) == ALL[task].outputs
        torch.testing.assert_close(own_columns(result, row), alone, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("joint", [False, True])
def test_what_stands_on_padding_is_never_read(joint):
    model = built(EVERY_HEAD, joint=joint)
    encoded, batch = text_batch(ALL, [0, 1, 2, 3, 4, 1], joint=joint)
    spoilt = encoded.states.masked_fill(~batch.tokens.mask.unsqueeze(2), torch.nan)
    received = model(Encoded(encoded.pooled, spoilt), batch).outputs
    assert torch.equal(received, model(encoded, batch).outputs) and bool(received.isfinite().all())


@pytest.mark.parametrize("heads", [EVERY_HEAD, SOME_PLAIN])
def test_idle_tasks_stay_equal_bit_for_bit(heads):
    model = built(heads).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.1)

    def step(positions):
        optimizer.zero_grad(set_to_none=True)
        model(*text_batch(ALL, positions)).outputs.square().sum().backward()
        optimizer.step()

    step([0, 1, 2, 3, 4])  # so that every head has momentum that could move it
    before = {name: value.clone() for name, value in model.state_dict().items()}
    step([1, 4, 4])
    moved = {name for name, value in model.state_dict().items() if not torch.equal(before[name], value)}
    assert moved and all(".mnli" in name or ".qnli" in name for name in moved)
    step([0])
    assert model.weight["mnli"].grad is None


def permuted(task, order):
    return task.with_(labels=tuple(task.labels[place] for place in order))


@pytest.mark.parametrize(("task", "order"), [(MNLI, [2, 0, 1]), (QNLI, [1, 0])])
@pytest.mark.parametrize("name", ["auto", "biattention", "san"])
def test_permuting_the_classes_with_their_weights_permutes_the_outputs(task, order, name):
    heads = section(name, hidden=None if name == "san" else 4)
    one, other = built(heads, tasks=[task]), built(heads, tasks=[permuted(task, order)])
    state = one.state_dict()
    for part in ("weight", "bias"):
        state[f"{part}.{task.name}"] = state[f"{part}.{task.name}"][order]
    other.load_state_dict(state)
    given_ = text_batch([task], [0, 0, 0])
    torch.testing.assert_close(other(*given_).outputs, one(*given_).outputs[:, order])


def test_permuting_the_labels_of_a_ranked_task_permutes_its_columns():
    heads = section("ranking", positive="entailment")
    one, other = built(heads, tasks=[QNLI]), built(heads, tasks=[permuted(QNLI, [1, 0])])
    given_ = text_batch([QNLI], [0, 0, 0])
    torch.testing.assert_close(other(*given_).outputs, one(*given_).outputs[:, [1, 0]])


@pytest.mark.parametrize("positive", [None, "entailment", "not_entailment"])
def test_a_ranked_task_gives_the_sigmoid_of_gamma_times_the_relevance(positive):
    heads = section("ranking", gamma=3.0, positive=positive)
    model = built(heads, tasks=[QNLI])
    assert model.weight["qnli"].shape == (1, 4 * WIDTH)
    encoded, batch = text_batch([QNLI], [0] * 5)
    a, b = encoded.pooled[batch.first], encoded.pooled[batch.second]
    features = torch.cat([a, b, (a - b).abs(), a * b], 1)
    relevance = (features @ model.weight["qnli"].t() + model.bias["qnli"]).squeeze(1)
    column = QNLI.labels.index(positive or "entailment")
    outputs = model(encoded, batch).outputs
    torch.testing.assert_close(outputs.softmax(1)[:, column], torch.sigmoid(3.0 * relevance))
    assert not outputs[:, 1 - column].any()
    assert ranking_columns([SST2, QNLI], section(tasks={"qnli": heads.of("qnli")})) == {1: column}


def test_a_hidden_layer_is_relu_before_the_output_layer():
    model = built(section(hidden=7), tasks=[SST2])
    encoded, batch = text_batch([SST2], [0] * 4)
    hidden = functional.linear(encoded.pooled, model.hidden["sst2"].weight, model.hidden["sst2"].bias).clamp(min=0)
    expected = functional.linear(hidden, model.weight["sst2"], model.bias["sst2"])
    torch.testing.assert_close(model(encoded, batch).outputs, expected)
    assert model.weight["sst2"].shape == (2, 7)


def test_the_section_at_its_defaults_changes_no_bit():
    def outputs(**given_):
        torch.manual_seed(3)
        model = MultiTaskHeads(ALL, WIDTH, pairs="separate", mixed=True, **given_)
        return model(*text_batch(ALL, [0, 1, 2, 3, 4])).outputs

    assert torch.equal(outputs(), outputs(heads=section()))
    assert torch.equal(outputs(), outputs(heads=section(tasks={"cola": {"dropout": 0.1}})))


def test_dropout_is_of_each_task_and_of_training_alone():
    heads = section(tasks={"mnli": {"dropout": 0.5}, "stsb": {"dropout": 0.25}})
    model = built(heads)
    encoded, batch = text_batch(ALL, [0, 1, 2] * 200, lengths=[1] * 1000)
    quiet = model(encoded, batch)
    assert torch.equal(quiet.outputs, built(section()).forward(encoded, batch).outputs)
    model.train()
    torch.manual_seed(1)
    loud = model(encoded, batch)
    for task, moves in enumerate((False, True, True)):
        rows = (batch.tasks == task).nonzero().squeeze(1)
        own = torch.stack([own_columns(loud, row) - own_columns(quiet, row) for row in rows.tolist()])
        assert bool(own.any()) == moves
    torch.manual_seed(1)
    assert torch.equal(model(encoded, batch).outputs, loud.outputs)


@given(st.lists(st.sampled_from([0.0, 0.1, 0.5, 0.9]), min_size=1, max_size=4))
@settings(max_examples=15)
def test_row_dropout_keeps_the_expectation_at_each_rows_own_rate(rates):
    torch.manual_seed(0)
    features, rates = torch.full((len(rates), 40_000), 2.0), torch.tensor(rates)
    dropped = row_dropout(features, rates)
    torch.testing.assert_close((dropped == 0).float().mean(1), rates, rtol=0, atol=0.015)
    torch.testing.assert_close(dropped.amax(1), 2 / (1 - rates))
    assert torch.equal(dropped[rates == 0], features[rates == 0])


def test_one_dropout_rate_is_torchs_own_dropout():
    model = built(section(dropout=0.3), tasks=[SST2]).train()
    encoded, batch = text_batch([SST2], [0] * 6)
    torch.manual_seed(5)
    received = model(encoded, batch).outputs
    torch.manual_seed(5)
    features = functional.dropout(encoded.pooled, 0.3)
    assert torch.equal(received, functional.linear(features, model.weight["sst2"], model.bias["sst2"]))


def test_tasks_may_have_any_names_and_keep_their_storage_names():
    tasks = [Task(name, labels=("x", "y"), text=("a", "b")) for name in ("type", "train", "add", "a-b_c")]
    kinds = ("hidden", "biattention", "san")
    for options, kind in (({"hidden": 3}, kinds[0]), ({"name": "biattention", "shared": False}, kinds[1]),
                          ({"name": "san"}, kinds[2])):  # fmt: skip
        model = built(section(**options), tasks=tasks)
        names = set(model.state_dict())
        assert {f"{part}.{task.name}" for part in ("weight", "bias") for task in tasks} <= names
        assert all(any(name.startswith(f"{kind}.{task.name}.") for name in names) for task in tasks)
        model(*text_batch(tasks, [0, 1, 2, 3]))


def test_every_parameter_of_every_head_gets_gradient():
    model = built(EVERY_HEAD).double()
    encoded, batch = text_batch(ALL, [0, 1, 2, 3, 4] * 4, dtype=torch.float64)
    outputs = model(encoded, batch).outputs
    (outputs * torch.randn(outputs.shape, dtype=torch.float64)).sum().backward()
    idle = [name for name, parameter in model.named_parameters() if parameter.grad is None or not parameter.grad.any()]
    assert idle == []


@pytest.mark.parametrize("name", ["linear", "biattention", "san", "ranking"])
def test_bfloat16_autocast_is_the_same_within_its_rounding(name):
    tasks = [QNLI, SST2] if name == "linear" else [QNLI]
    heads = section(tasks={"qnli": {"name": "auto" if name == "linear" else name}})
    model = built(heads, tasks=tasks)
    encoded, batch = text_batch(tasks, [0] * 4)
    exact = model(encoded, batch).outputs
    with torch.autocast("cpu", torch.bfloat16):
        rough = model(Encoded(encoded.pooled.bfloat16(), encoded.states.bfloat16()), batch).outputs
        from_float = model(encoded, batch).outputs
    for received in (rough, from_float):
        torch.testing.assert_close(received.float(), exact, rtol=0.05, atol=0.05)


class Bare(Student):
    def encode(self, batch):
        raise NotImplementedError


class Seeing(Bare):
    provides = frozenset({"states"})


class Joint(Seeing):
    pairs = "joint"


OWN = Task("mine", labels=("x", "y", "z"), text=("a", "b"))


@pytest.mark.parametrize(
    ("task", "options", "student", "words"),
    [
        (SST2, {"name": "biattention"}, Bare, "gives no states of tokens; set heads.tasks.sst2.name: auto"),
        (MNLI, {"name": "san"}, Bare, "gives no states of tokens; set heads.tasks.mnli.name: auto"),
        (SST2, {"name": "san"}, Seeing, "the task has one; set heads.tasks.sst2.name: auto"),
        (STSB, {"name": "san"}, Seeing, "the task is regression; set heads.tasks.stsb.name: auto"),
        (SST2, {"name": "ranking"}, Seeing, "the task has one text; set heads.tasks.sst2.name: auto"),
        (MNLI, {"name": "ranking"}, Seeing, "the task has 3; set heads.tasks.mnli.name: auto"),
        (STSB, {"name": "ranking"}, Seeing, "the task is regression; set"),
        (QNLI, {"name": "ranking", "positive": "entailmnt"}, Seeing, "did you mean 'entailment'?"),
        (MNLI, {"name": "linear"}, Seeing, "reads the two texts of a pair apart"),
        (MNLI, {"name": "pair"}, Joint, "reads them as one sequence"),
        (OWN, {"name": "ranking"}, Seeing, "the task has 3"),
    ],
)  # fmt: skip
def test_a_head_that_cannot_be_is_refused_with_the_way_out(task, options, student, words):
    heads = section(tasks={task.name: options})
    for given_ in (student, student(width=WIDTH)):
        assert words in refusal(task, given_, heads)
    if "states" in student.provides:
        with pytest.raises(ValueError, match=words.split(";")[0].replace("?", r"\?")):
            MultiTaskHeads([task], WIDTH, pairs=student.pairs, mixed=False, heads=heads)


@pytest.mark.parametrize("student", [Seeing, Joint])
@pytest.mark.parametrize("task", ALL)
def test_biattention_fits_every_task_of_a_student_with_states(student, task):
    assert refusal(task, student, section("biattention")) is None


def test_states_that_are_missing_or_of_another_width_are_named():
    model = built(section("biattention"), tasks=[SST2])
    encoded, batch = text_batch([SST2], [0])
    for states, words in ((None, "gave none"), (encoded.states[:, :, :4], "gave some of 4")):
        with pytest.raises(ValueError, match=words):
            model(Encoded(encoded.pooled, states), batch)


def test_a_shared_biattention_has_one_width():
    heads = section("biattention", tasks={"sst2": {"width": 5}})
    with pytest.raises(ValueError, match="another width; set shared: false"):
        built(heads, tasks=[SST2, MNLI])
    heads.tasks["sst2"] = HeadOptions(width=5, shared=False)
    built(heads, tasks=[SST2, MNLI])
