"""What is inside a teacher: against transformers' own account of it, and whatever is asked together."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kdtoolkit.errors import InputError
from kdtoolkit.example import Example
from kdtoolkit.tasks import GLUE
from kdtoolkit_teachers.checkpoint import Checkpoint
from kdtoolkit_teachers.hugging_face import HuggingFaceTeacher

SST2, MNLI = GLUE["sst2"], GLUE["mnli"]
TEXTS = ["the film is good", "awful", "", "very very very bad plot the the the the", "a great film it is so good"]
SINGLES = [Example("sst2", text) for text in TEXTS]
PAIRS = [Example("mnli", text, second) for text in TEXTS for second in TEXTS[:2]]
NAMES = ("first/0", "first/2", "hidden/0", "hidden/1", "hidden/2", "attention/1", "attention/2", "queries/2", "keys/1",
         "values/2")  # fmt: skip


@pytest.mark.parametrize(
    ("family", "pair"), [("bert", True), ("roberta", True), ("distilbert", False), ("electra", False)]
)
def test_features_are_what_transformers_says_of_each_text_alone(checkpoint, family, pair):
    from transformers import AutoModel, AutoTokenizer

    task, examples = (MNLI, PAIRS) if pair else (SST2, SINGLES)
    folder = checkpoint(family, task.labels)
    teacher = HuggingFaceTeacher(str(folder), task, batch_tokens=24)
    features = teacher.features(examples, NAMES)
    assert teacher.shape == (2, 16, 2, None) and set(features.values) == set(NAMES)
    model = AutoModel.from_pretrained(folder, attn_implementation="eager").eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.backend_tokenizer.no_padding()
    for row, example in enumerate(examples):
        segments = family in ("bert", "electra")
        inputs = tokenizer(example.text, example.second, return_tensors="pt", return_token_type_ids=segments)
        length = inputs["input_ids"].shape[1]
        assert features.mask[row].sum() == length
        np.testing.assert_array_equal(features.ids[row, :length], inputs["input_ids"][0].numpy())
        with torch.no_grad():
            said = model(**inputs, output_hidden_states=True, output_attentions=True)
        for layer in (0, 1, 2):
            expected = said.hidden_states[layer][0].numpy()
            np.testing.assert_allclose(features.values[f"hidden/{layer}"][row, :length], expected, atol=2e-5)
        np.testing.assert_allclose(features.values["first/2"][row], said.hidden_states[2][0, 0].numpy(), atol=2e-5)
        for layer in (1, 2):
            scores = torch.from_numpy(features.values[f"attention/{layer}"][row, :, :length, :length])
            torch.testing.assert_close(scores.softmax(-1), said.attentions[layer - 1][0], atol=2e-5, rtol=0)
        for name in NAMES:
            axes = {"f": (), "h": (0,), "a": (1, 2)}.get(name[0], (1,))
            beyond = features.values[name][row]
            for axis in axes:
                assert not np.take(beyond, range(length, beyond.shape[axis]), axis).any(), name


def test_scores_are_queries_times_keys_and_order_and_cut_change_nothing(checkpoint):
    teacher = HuggingFaceTeacher(str(checkpoint("bert", SST2.labels)), SST2)
    names = ("attention/1", "queries/1", "keys/1", "first/1")
    together = teacher.features(SINGLES, names)
    scores = np.einsum("rhqd,rhkd->rhqk", together.values["queries/1"], together.values["keys/1"]) / np.sqrt(8)
    np.testing.assert_allclose(together.values["attention/1"], scores, atol=1e-5)
    backwards = teacher.features(SINGLES[::-1], names)
    for row, example in enumerate(SINGLES):
        alone = teacher.features([example], names)
        for name in names:
            one = alone.values[name][0]
            corner = (row, *map(slice, one.shape))
            np.testing.assert_allclose(together.values[name][corner], one, atol=1e-5)
            np.testing.assert_allclose(backwards.values[name][len(SINGLES) - 1 - row], together.values[name][row],
                                       atol=1e-5)  # fmt: skip
    assert teacher.features([], names).mask.shape[0] == 0


def test_without_names_only_the_tokenizer_works_also_before_the_teacher_is_trained(checkpoint, monkeypatch):
    teacher = HuggingFaceTeacher(str(checkpoint("bert", head=False)), SST2)
    assert not teacher.ready and teacher.shape is not None
    monkeypatch.setattr(Checkpoint, "load", lambda *a, **k: pytest.fail("the model was loaded"))
    features = teacher.features(SINGLES, ())
    assert features.values == {} and features.mask.sum(1).tolist() == [6, 3, 2, 11, 9]


@pytest.mark.parametrize(
    ("family", "name", "words"),
    [
        ("bert", "hidden/3", "its last layer is 2"),
        ("deberta-v2", "attention/1", "type 'deberta-v2' is computed from is not known; take a teacher of type BERT"),
        ("mpnet", "attention/1", "type 'mpnet' adds relative positions"),
    ],
)
def test_what_a_teacher_does_not_have_is_refused_with_the_way_out(checkpoint, family, name, words):
    extra = {"type_vocab_size": 0, "relative_attention": True, "pos_att_type": ["p2c"]} if "deberta" in family else {}
    teacher = HuggingFaceTeacher(str(checkpoint(family, SST2.labels, **extra)), SST2)
    teacher.features(SINGLES, ("hidden/2",))
    with pytest.raises(InputError, match=words):
        teacher.features(SINGLES, (name,))
