"""The real data: every folder is read, and counts equal those of its README's table."""

import re

import numpy as np
import pytest

from kdtoolkit.data.prepare import prepare_all, prepare_task
from kdtoolkit.recipe.schema import Recipe
from kdtoolkit.tasks import GLUE, canonical_name


def number(text):
    return int(text.replace(",", ""))


def table(glue):
    """{folder: (rows of each split, counts of each class in train, in dev)} as the README says."""
    found = {}
    for line in (glue / "README.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 7 and re.match(r"[\d,]+ / [\d,]+", cells[2]):
            train, dev = (number(n) for n in re.match(r"([\d,]+) / ([\d,]+)", cells[2]).groups())
            test = re.search(r"test ([\d,]+)", cells[2])
            sizes = {"train": train, "dev": dev} | ({"test": number(test[1])} if test else {})
            in_train = [number(n) for n in re.findall(r"\b\d: ([\d,]+\d)", cells[3])]
            in_dev = [number(n) for n in cells[4].split("/")] if "/" in cells[4] else []
            found[cells[0]] = sizes, in_train, in_dev
    return found


def test_all_tasks_have_the_rows_and_the_labels_of_the_readme(glue, tmp_path):
    expected = table(glue)
    assert len(expected) == 13
    recipe = Recipe(tasks=list(expected), data={"folder": str(glue)}, evaluate={"calibration_rows": 0})
    prepared = prepare_all(recipe, tmp_path)
    for folder, (sizes, in_train, in_dev) in expected.items():
        rows = prepared[canonical_name(folder)]
        assert {split: len(part) for split, part in rows.splits.items()} == sizes
        for split, counts in (("train", in_train), ("dev", in_dev)):
            labels = rows.splits[split].labels()
            assert not np.isnan(labels).any()
            if counts:
                assert np.bincount(labels.astype(int)).tolist() == counts, (folder, split)
    assert prepared["snips"].task.outputs == 7 and "there is no dev_mismatched split" in prepared["mnli"].notes
    assert round(float(prepared["stsb"].splits["train"].labels().mean()), 3) == 2.701
    overlap = {name: int(m[1]) for name, rows in prepared.items()
               if (m := re.search(r"the text of (\d+) of [\d,]+ rows of dev also", " ".join(rows.notes)))}  # fmt: skip
    assert overlap == {"cola": 16, "snips": 12, "stsb": 6, "sick": 3}


@pytest.mark.parametrize("name", ["sst2", "rte"])
def test_the_issue_s_gold_and_transfer_rows(glue, tmp_path, name):
    sizes = {"sst2": (10_000, 30_000), "rte": (1000, 500)}[name]
    recipe = Recipe(tasks=[name], data={"folder": str(glue), name: dict(zip(("gold_rows", "transfer_rows"), sizes))})
    rows = prepare_task(GLUE[name], recipe, tmp_path / "rows").splits
    gold = ~np.isnan(rows["train"].labels())
    assert gold.sum() + len(rows["calibration"]) <= sizes[0] and (~gold).sum() <= sizes[1]
    assert gold.sum() > 0.9 * sizes[0] - 100 and (~gold).sum() > 0.98 * sizes[1]
    assert not np.isin(rows["calibration"].ids(), rows["train"].ids()).any()
