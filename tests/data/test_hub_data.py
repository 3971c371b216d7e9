"""Hub data sets: read through the cache of `datasets` with no network, or refused with the forms that need none."""

import pytest

from kdtoolkit.data.prepare import prepare_task
from kdtoolkit.errors import InputError
from kdtoolkit.recipe.schema import Recipe

datasets = pytest.importorskip("datasets")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache of `datasets`, and no network."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    return tmp_path / "cache"


def lay_out(cache, repository, configuration, splits, labels):
    """Writes a data set into the cache as `datasets` keeps it: one Arrow file a split, and dataset_info.json."""
    name = repository.split("/")[-1]
    folder = cache / repository.replace("/", "___") / configuration / "0.0.0" / "0123456789abcdef"
    folder.mkdir(parents=True)
    columns = [column for column in next(iter(splits.values())) if column != "label"]
    features = datasets.Features({c: datasets.Value("string") for c in columns} | {"label": labels})
    info = datasets.DatasetInfo(features=features, dataset_name=name, config_name=configuration, version="0.0.0")
    info.splits = datasets.SplitDict(dataset_name=name)
    for split, content in splits.items():
        with datasets.arrow_writer.ArrowWriter(path=str(folder / f"{name}-{split}.arrow"), features=features) as writer:
            writer.write_table(datasets.Dataset.from_dict(content, features=features).data.table)
            writer.finalize()
        info.splits.add(datasets.SplitInfo(split, num_examples=len(content["label"]), dataset_name=name))
    info.write_to_directory(str(folder))


def prepare(task, out, **data):
    recipe = Recipe(tasks=[task], data=data)
    return prepare_task(recipe.task_list()[0], recipe, out)


def test_glue_on_the_hub_is_read_with_its_names_and_its_test_labels_are_none(cache, tmp_path):
    splits = {
        "train": {"sentence": ["bad", "good", "fine"], "label": [0, 1, 1]},
        "validation": {"sentence": ["so so", "great"], "label": [0, 1]},
        "test": {"sentence": ["unknown", "unknown too"], "label": [-1, -1]},
    }
    lay_out(cache, "nyu-mll/glue", "sst2", splits, datasets.ClassLabel(names=["negative", "positive"]))
    rows = prepare("SST-2", tmp_path / "rows")
    assert list(rows.splits) == ["train", "dev"]
    assert rows.splits["train"].texts(0, 3)[0] == ["bad", "good", "fine"]
    assert rows.splits["train"].labels().tolist() == [0, 1, 1] and rows.splits["dev"].labels().tolist() == [0, 1]
    # What has been prepared once needs the hub and its cache no more.
    for path in sorted(cache.rglob("*.arrow")):
        path.unlink()
    assert len(prepare("sst2", tmp_path / "rows").splits["train"]) == 3


def test_integers_of_a_hub_data_set_are_matched_by_their_names(cache, tmp_path):
    splits = {
        "train": {"sentence1": ["a", "b"], "sentence2": ["c", "d"], "label": [0, 1]},
        "validation": {"sentence1": ["e"], "sentence2": ["f"], "label": [0]},
    }
    lay_out(cache, "nyu-mll/glue", "rte", splits, datasets.ClassLabel(names=["not_entailment", "entailment"]))
    assert prepare("rte", tmp_path / "rows").splits["train"].labels().tolist() == [1, 0]


def test_any_other_hub_data_set_is_a_task_by_its_name(cache, tmp_path):
    splits = {
        "train": {"text": ["a", "b"], "label": [0, 1]},
        "test": {"text": ["e"], "label": [1]},
        "validation": {"text": ["e"], "label": [1]},
    }
    lay_out(cache, "reviews", "default", splits, datasets.ClassLabel(names=["neg", "pos"]))
    rows = prepare("reviews", tmp_path / "rows")
    assert rows.task.labels == ("neg", "pos") and list(rows.splits) == ["train", "dev", "test"]


def test_a_hub_data_set_with_an_owner_and_a_configuration_is_named_in_the_recipe(cache, tmp_path):
    splits = {"train": {"text": ["a", "b"], "label": [0, 1]}, "validation": {"text": ["e"], "label": [1]}}
    lay_out(cache, "someone/news", "short", splits, datasets.ClassLabel(names=["home", "world"]))
    (tmp_path / "folder").mkdir()
    data = {"folder": str(tmp_path / "folder"), "topic": {"hub": "someone/news:short"}}
    rows = prepare("topic", tmp_path / "rows", **data)
    assert rows.task.labels == ("home", "world") and len(rows.splits["train"]) == 2


@pytest.mark.parametrize("task", ["sst2", "no-such-data-set"])
def test_without_a_network_the_local_forms_are_named(cache, tmp_path, task):
    with pytest.raises(InputError) as caught:
        prepare(task, tmp_path / "rows")
    assert caught.value.place == f"task '{task}'"
    assert "the hub data set" in str(caught.value) and "cannot be loaded" in str(caught.value)
    assert f"give --data FOLDER with {task}/train" in str(caught.value)
    assert not (tmp_path / "rows").exists()
