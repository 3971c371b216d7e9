"""Any callable is a teacher; what it returns is checked, and only a version makes its labels reusable."""

import textwrap

import numpy as np
import pytest

from kdtoolkit import Example, InputError, Task, WorkError, plugin
from kdtoolkit.testing import check_teacher

TASK = Task("mood", text=("text",), labels=("bad", "good"))
PAIR = Task("rte", text=("sentence1", "sentence2"), labels=("entailment", "not_entailment"))
NUMBER = Task("sim", kind="regression", text=("text",))

SOURCE = """
    import functools
    import numpy as np
    import torch

    def lengths(texts):
        return [[-len(t), len(t)] for t in texts]

    def overlap(pairs):
        return np.array([[len(a), len(b)] for a, b in pairs], dtype=np.float64)

    def shares(texts):
        return np.array([[0.25, 0.75]] * len(texts))

    def number(texts):
        return torch.tensor([len(t) for t in texts], dtype=torch.bfloat16, requires_grad=True)

    class Model:
        labels = ["Good", "Bad"]
        version = "m1"

        def __call__(self, texts):
            return torch.tensor([[1.0, -1.0]] * len(texts))

    model = Model()

    def scaled(factor, texts):
        return [[factor, 0.0] for t in texts]

    partial = functools.partial(scaled, 2.0)
    constant = 3

    def wide(texts): return np.zeros((len(texts), 5))
    def short(texts): return np.zeros((len(texts) - 1, 2))
    def nan(texts): return [[np.nan, 1.0]] * len(texts)
    def silent(texts): return [[np.nan, np.nan]] * len(texts)
    def infinite(texts): return [[np.inf, 1.0]] * len(texts)
    def words(texts): return [["yes", "no"]] * len(texts)
    def broken(texts): raise KeyError("no such model")
    def negative(texts): return [[-0.5, 1.5]] * len(texts)
    def unequal(texts): return [[0.5, 0.25]] * len(texts)
"""


@pytest.fixture
def module(tmp_path):
    path = tmp_path / "my_teacher.py"
    path.write_text(textwrap.dedent(SOURCE))
    return path


def python(path, name, task=TASK, **options):
    return plugin("teacher", "python")(f"{path}:{name}", task, **options)


def examples(texts=("a", "bcd")):
    return [Example("mood", text) for text in texts]


def test_functions_objects_classes_and_partials_are_called_with_texts(module):
    assert python(module, "lengths").logits(examples()).tolist() == [[-1, 1], [-3, 3]]
    assert python(module, "partial").logits(examples()).tolist() == [[2, 0], [2, 0]]
    assert python(module, "lengths").logits(examples()).dtype == np.float32
    assert python(module, "model").logits(examples(["a"])).tolist() == [[-1.0, 1.0]]
    assert python(module, "Model").logits(examples(["a"])).tolist() == [[-1.0, 1.0]]


def test_it_keeps_the_contract_of_a_teacher(module):
    check_teacher(python(module, "lengths"), examples(["a", "bb", "ccc", "", "e"]))
    check_teacher(python(module, "number", NUMBER), [Example("sim", "x" * n) for n in range(5)])


def test_a_module_in_the_current_folder_needs_no_path(module, monkeypatch):
    monkeypatch.chdir(module.parent)
    monkeypatch.syspath_prepend(str(module.parent))
    assert python("my_teacher", "lengths").logits(examples(["abcd"])).tolist() == [[-4, 4]]


def test_pairs_are_given_as_tuples(module):
    assert python(module, "overlap", PAIR).logits([Example("rte", "abc", "de")]).tolist() == [[3, 2]]


def test_a_tensor_of_numbers_is_a_regression(module):
    teacher = python(module, "number", NUMBER)
    assert teacher.kind == "values"
    assert teacher.logits(examples()).tolist() == [[1], [3]]


def test_probabilities_become_log_probabilities(module):
    teacher = python(module, "shares", outputs="probabilities")
    assert teacher.kind == "logprobs"
    np.testing.assert_allclose(np.exp(teacher.logits(examples())), [[0.25, 0.75]] * 2, rtol=1e-6)


def test_a_partial_callable_may_be_silent(module):
    assert np.isnan(python(module, "silent", partial=True).logits(examples())).all()


@pytest.mark.parametrize(
    "name, options, error, cause",
    [
        ("wide", {}, InputError, r"shape \(2, 5\) where \(2, 2\) belongs; .*bad, good"),
        ("short", {}, InputError, r"shape \(1, 2\) where \(2, 2\)"),
        ("nan", {}, InputError, r"NaN among the logits in 2 of 2 rows, the first for 'a'"),
        ("nan", {"partial": True}, InputError, r"NaN among the logits"),
        ("silent", {}, InputError, r"NaN among the logits.*partial: true"),
        ("infinite", {}, InputError, r"\+inf among the logits"),
        ("words", {}, InputError, r"no array of numbers"),
        ("broken", {}, WorkError, r"failed on a batch of 2 texts \(KeyError: 'no such model'\)"),
        ("negative", {"outputs": "probabilities"}, InputError, r"a negative probability"),
        ("unequal", {"outputs": "probabilities"}, InputError, r"do not sum to one \(they sum to 0.75\)"),
    ],
)
def test_wrong_results_are_refused_with_the_functions_name(module, name, options, error, cause):
    with pytest.raises(error, match=rf"teacher python:.*my_teacher\.py:{name}, task mood: .*{cause}"):
        python(module, name, **options).logits(examples())


@pytest.mark.parametrize(
    "name, options, cause",
    [
        ("length", {}, "did you mean 'lengths'"),
        ("constant", {}, "is a int, which cannot be called"),
        ("lengths", {"outputs": "odds"}, "'odds' is unknown"),
        ("model", {"task": PAIR}, r"its labels are \['Good', 'Bad'\], those of the task are \['entailment'"),
    ],
)
def test_what_cannot_be_called_is_refused_when_it_is_named(module, name, options, cause):
    with pytest.raises(InputError, match=cause):
        python(module, name, **options)
    with pytest.raises(InputError, match="module:function"):
        plugin("teacher", "python")("lengths", TASK)


def test_only_a_version_makes_labels_reusable(module):
    assert not python(module, "lengths").reusable
    assert python(module, "lengths", version=3).reusable
    assert python(module, "model").reusable


def test_the_fingerprint_follows_source_version_options_and_labels(tmp_path):
    prints = set()
    for number, source in enumerate(["def f(t): return 1", "def f(t): return 2"]):
        path = tmp_path / f"m{number}.py"
        path.write_text(source)
        prints |= {
            python(path, "f").fingerprint,
            python(path, "f", version=1).fingerprint,
            python(path, "f", version=2).fingerprint,
            python(path, "f", version=2, outputs="probabilities").fingerprint,
            python(path, "f", TASK.with_(labels=("good", "bad"))).fingerprint,
        }
    assert len(prints) == 10
    twin = tmp_path / "twin.py"
    twin.write_text("def f(t): return 1")
    assert python(twin, "f").fingerprint in prints
