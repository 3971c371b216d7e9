"""A run whose student is sharded over two processes."""

from __future__ import annotations

import pytest
import yaml
from launched import launched
from safetensors.torch import load_file

STILL = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
SIZES = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 12}
STUDENTS = {
    "transformer": {"name": "transformer", "layers": 2, "width": 8, "heads": 2, "positions": 24, "dropout": 0.0},
    "hf": {"name": "hf", "config": {"model_type": "bert", **SIZES, **STILL}},
}


@pytest.mark.parametrize("student", ["transformer", pytest.param("hf", marks=pytest.mark.slow)])
def test_a_sharded_student_learns_from_a_live_teacher_what_a_whole_one_does(mood, bert, tiny, run_of, student):
    terms = [{"name": "hidden"}, {"name": "attention"}, {"name": "minilmv2", "heads": 2}]
    values = mood(
        teachers=[{"name": str(bert(labels=["high", "low"])), "max_tokens": 16}],
        student=STUDENTS[student],
        tokenizer={"name": "teacher"},
        objective={"terms": terms, "hidden_states": "live"},
        train={"sharding": "fsdp"},
        evaluate={"baseline": False},
    )
    (tiny / "sharded.yaml").write_text(yaml.safe_dump(values))
    done = launched(2, "-m", "kdtoolkit", "distill", "--recipe", "sharded.yaml", "--out", "sharded", cwd=tiny)
    assert [each.code for each in done] == [0, 0], done
    assert "Warning" not in done[0].err + done[1].err
    _, alone = run_of(values, "alone")
    found, expected = (load_file(run / "student" / "model.safetensors") for run in (tiny / "sharded", alone))
    assert max(float((found[name] - tensor).abs().max()) for name, tensor in expected.items()) < 2e-3
