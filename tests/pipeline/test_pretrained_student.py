"""Students that start from a checkpoint: its own tokenizer and word embeddings come along by themselves."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoTokenizer

import kdtoolkit
from kdtoolkit import InputError, Recipe
from kdtoolkit.pipeline import check
from kdtoolkit.recipe.load import load_recipe, recipe_from_dict, resolved_yaml

STILL = {"learning_rate": 1e-30, "weight_decay": 0.0}


def hf(folder, **options):
    return {"student": {"name": f"hf:{folder}", **options}, "tokenizer": None}


def transformer(**options):
    sizes = {"name": "transformer", "width": 16, "heads": 2, "feedforward": 32, "layers": 2, "positions": 64}
    return {"student": {**sizes, **options}, "tokenizer": None}


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert"])
def test_an_hf_student_that_learns_nothing_says_what_the_checkpoint_says(mood, run_of, bert, family):
    folder = bert(family, head=False)
    _, run = run_of(mood(**hf(folder), optimizer=STILL, evaluate={"baseline": False}))
    predictor = kdtoolkit.load(run)
    text = "a good film , never bad great"
    expected = AutoModel.from_pretrained(folder).eval()(
        **AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt", padding=False)
    )
    batch = predictor._collator.batch_of(0, predictor.tokenizer.encode_batch([text]), None)
    with torch.no_grad():
        states = predictor.model.student(batch.tokens).states
    torch.testing.assert_close(states, expected.last_hidden_state, atol=1e-5, rtol=1e-5)
    shutil.rmtree(folder)
    assert [p.label for p in predictor.predict([text])] == [p.label for p in kdtoolkit.load(run).predict([text])]


def test_the_resolved_recipe_says_which_tokenizer_it_took(mood, bert, tmp_path):
    folder = str(bert(head=False))
    recipe = recipe_from_dict(mood(**hf(folder)))
    said = (recipe.tokenizer.name, recipe.tokenizer.source, recipe.tokenizer.vectors)
    assert said == ("teacher", folder, "copy")
    (tmp_path / "again.yaml").write_text(resolved_yaml(recipe))
    assert load_recipe(tmp_path / "again.yaml") == recipe
    for tokenizer in ({"name": "teacher"}, {"name": "teacher", "source": folder}):
        assert recipe_from_dict(mood(**{**hf(folder), "tokenizer": tokenizer})) == recipe


def test_a_tokenizer_that_is_not_the_checkpoints_is_refused_unless_nothing_is_pretrained(mood, bert):
    folder, other = bert(head=False), bert(head=False)
    for tokenizer in ({"name": "words"}, {"name": "teacher", "source": str(other)}):
        changes = {**hf(folder), "tokenizer": tokenizer}
        with pytest.raises(InputError, match=r"is not the tokenizer of .*leave `tokenizer` out"):
            recipe_from_dict(mood(**changes))
        changes["student"]["pretrained"] = False
        assert recipe_from_dict(mood(**changes)).tokenizer.name == tokenizer["name"]


def test_an_hf_student_replaces_the_tokenizer_of_a_built_in_recipe_too(bert, tiny):
    recipe = load_recipe("glue_bilstm", shorthands={"student": f"hf:{bert(head=False)}", "data": tiny / "data"})
    assert recipe.tokenizer.name == "teacher"
    assert load_recipe("glue_bilstm", shorthands={"student": "transformer"}).tokenizer.name == "sentencepiece"


def test_a_checkpoint_in_the_cache_goes_by_its_hub_id(mood, run_of, bert, tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    cached = tmp_path / "hub/models--distilbert--distilbert-base-uncased"
    shutil.copytree(bert("distilbert", head=False), cached / "snapshots" / ("0" * 40))
    (cached / "refs").mkdir()
    (cached / "refs/main").write_text("0" * 40)
    student = {"student": {"name": "hf:distilbert"}, "tokenizer": None}
    results, run = run_of(mood(**student, evaluate={"baseline": False}))
    assert results["tasks"]["mood"]["student"]["value"] > 0
    assert Recipe.load(run / "recipe.yaml").tokenizer.source == "distilbert"
    named = {**student, "tokenizer": {"name": "teacher", "source": "distilbert/distilbert-base-uncased"}}
    assert recipe_from_dict(mood(**named)).tokenizer.vectors == "copy"


def test_a_transformer_starts_from_chosen_layers_and_the_words_of_a_checkpoint(mood, run_of, bert):
    folder = bert(head=False)
    changes = transformer(layers=1, init_from=str(folder), init_layers=[1])
    _, run = run_of(mood(**changes, optimizer=STILL, evaluate={"baseline": False}))
    ours, theirs = load_file(run / "student/model.safetensors"), load_file(folder / "model.safetensors")
    outer = "encoder.layer.1.output.dense.weight"
    torch.testing.assert_close(ours["student.layers.0.outer.weight"], theirs[outer], atol=0, rtol=0)
    words = theirs["embeddings.word_embeddings.weight"]
    torch.testing.assert_close(ours["student.embed.weight"][1:], words[1:], atol=0, rtol=0)
    assert str(folder) not in (run / "student/config.json").read_text()
    shutil.rmtree(folder)
    kdtoolkit.load(run).predict(["good"])


@pytest.mark.parametrize("student", ["transformer", "hf"])
def test_a_student_can_start_from_the_teacher_that_the_run_has_fine_tuned(recipe, run_of, bert, student):
    base = bert(head=False)
    teacher = {"name": str(base), "epochs": 1, "batch_rows": 16, "learning_rate": 1e-3}
    changes = transformer(init_from="teacher") if student == "transformer" else hf("teacher")
    _, run = run_of(recipe(**changes, teachers=[teacher], optimizer=STILL, evaluate={"baseline": False}))
    ours = load_file(run / "student/model.safetensors")
    tuned, untuned = load_file(run / "teacher/mood/model.safetensors"), load_file(base / "model.safetensors")
    keys = ("embeddings.word_embeddings.weight", "encoder.layer.1.output.dense.weight")
    names = [f"student.encoder.{key}" for key in keys]
    if student == "transformer":
        names = ["student.embed.weight", "student.layers.1.outer.weight"]
    for name, key in zip(names, keys):
        torch.testing.assert_close(ours[name][1:], tuned[f"bert.{key}"][1:], atol=0, rtol=0)
        assert not torch.equal(ours[name][1:], untuned[key][1:])
    assert check(recipe_from_dict(recipe(**changes, teachers=[teacher]))).lines


def test_starting_from_the_teacher_needs_one_that_is_a_model(mood):
    with pytest.raises(InputError, match=r"student.init_from: 'teacher' is the first teacher that is a Hugging Face"):
        recipe_from_dict(mood(**transformer(init_from="teacher")))


def test_the_teachers_tokenizer_and_word_embeddings_go_into_a_bilstm(mood, run_of, bert):
    teacher = bert(labels=["high", "low"])
    for vectors, embedding in (("copy", 16), ("project", 6)):
        changes = {"tokenizer": {"name": "teacher", "vectors": vectors}, "evaluate": {"baseline": False}}
        student = {"name": "bilstm", "width": 4, "embedding": embedding}
        results, run = run_of(mood(teachers=[str(teacher)], student=student, optimizer=STILL, **changes), vectors)
        models = results["models"]  # sizes are said even where no time is measured
        assert models["teacher"]["parameters"] > models["student"]["parameters"] > 0
        assert models["teacher"]["latency_ms"] is None
        table = load_file(run / "student/model.safetensors")["student.embed.weight"].numpy()
        words = load_file(teacher / "model.safetensors")["bert.embeddings.word_embeddings.weight"].numpy()
        if vectors == "copy":
            np.testing.assert_array_equal(table[1:], words[1:])
        else:  # the projection keeps what it can of the distances: its components have falling variance
            spread = table[1:].var(0)
            assert (np.diff(spread) <= 1e-6).all() and len(table) == len(words)


def test_pieces_that_never_occur_are_left_out_when_nothing_is_pretrained(mood, run_of, bert):
    teacher = bert(labels=["high", "low"])
    _, run = run_of(mood(teachers=[str(teacher)], tokenizer={"name": "teacher"}, evaluate={"baseline": False}))
    table = load_file(run / "student/model.safetensors")["student.embed.weight"]
    assert len(table) == len(AutoTokenizer.from_pretrained(teacher))  # here every word occurs
    assert kdtoolkit.load(run).tokenizer.kind == "compact"


@pytest.mark.parametrize("kind", ["hf", "transformer"])
def test_texts_longer_than_the_positions_are_refused_before_the_teacher_is_run(mood, run_of, bert, kind, tmp_path):
    base = bert(head=False)
    student = hf(base) if kind == "hf" else transformer(init_from=str(base))
    changes = mood(**student, data={"max_tokens": 67}, evaluate={"baseline": False})
    with pytest.raises(InputError, match=r"67 tokens, and the (encoder|student) can read 6[46]"):
        run_of(changes)
    assert not (tmp_path / "run").exists()
    with pytest.raises(InputError, match="67 tokens"):
        check(recipe_from_dict(changes))


def test_a_large_learning_rate_for_a_pretrained_student_is_warned_of(mood, bert, caplog):
    base = bert(head=False)
    for rate, warned in ((1e-3, True), (5e-5, False)):
        caplog.clear()
        check(recipe_from_dict(mood(**hf(base), optimizer={"learning_rate": rate})))
        assert ("is much for a student that starts from a checkpoint" in caplog.text) == warned
