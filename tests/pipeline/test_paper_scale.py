"""The recipes of the papers at their own size: BERT-large, randomly initialised, in a cache of the hub's layout.

tests/paper_scale.py does the same by hand and tells the times.
"""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import paper_scale
import pytest

pytestmark = pytest.mark.slow


@pytest.fixture(scope="session")
def bert_large(tmp_path_factory, glue):
    """Folders: the hub's cache, all of GLUE, a few rows of it, and one to work in."""
    work: Path = tmp_path_factory.mktemp("paper_scale")
    paper_scale.write_bert_large(work / "hub", glue)
    return SimpleNamespace(hub=work / "hub", glue=glue, few=paper_scale.write_few_rows(work / "few", glue), work=work)


@pytest.mark.parametrize("recipe", paper_scale.RECIPES)
def test_the_recipe_as_it_is_passes_the_check_which_tells_time_and_memory(recipe, bert_large):
    said = paper_scale.check(recipe, bert_large.glue, work=bert_large.work, hub=bert_large.hub)
    assert "no problem found" in said and "unknown to the student's tokenizer" not in said
    assert re.search(r"teacher bert-large: [\d,]+ steps .*about [\d.]+ (h|days)", said)
    assert re.search(r"teacher bert-large: 335,\d{3},\d{3} parameters; memory of its training about [\d.]+ GB", said)
    assert len(re.findall(r"activations [\d.]+ GB \(\d+ rows of \d+ tokens\)", said)) == 2
    assert re.search(r"in all: about [\d.]+ (h|days) on this machine \(teaching .*labelling .*student ", said)


@pytest.mark.parametrize("recipe", paper_scale.RECIPES)
def test_twenty_steps_of_the_recipe_give_a_student_and_its_table(recipe, bert_large):
    results = paper_scale.run(recipe, bert_large.few, work=bert_large.work, hub=bert_large.hub)
    assert set(results["tasks"]) >= {"cola", "sst2", "mrpc", "qqp", "mnli", "qnli", "rte"}
    for result in results["tasks"].values():
        assert result["rows"] == paper_scale.ROWS["test"]
        assert -1 <= result["student"]["all"][result["metric"]] <= 1


@pytest.mark.parametrize("variant", ["single_to_single", "multi_to_multi", "single_multi_single_multi"])
def test_the_variants_of_bam_pass_the_check(variant, bert_large):
    few = {"variant": variant}
    said = paper_scale.check("bam", bert_large.few, work=bert_large.work, hub=bert_large.hub, changes=few)
    assert "no problem found" in said and "in all: about " in said
