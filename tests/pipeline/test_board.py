"""What a run shows in TensorBoard, read back from its event files."""

from __future__ import annotations

import json

import pytest

SCHEDULE = {"from": 0.0, "to": 1.0, "shape": "linear"}


@pytest.fixture
def shown(recipe, run_of, events):
    def run(name="run", **changes):
        results, folder = run_of(recipe(train={"epochs": 2}, **changes), name)
        return results, folder, *events(folder / "tensorboard/student")

    return run


def test_training_is_shown_by_task_and_part(shown):
    _, folder, scalars, _ = shown()
    steps = json.loads((folder / "run.json").read_text())["stages"]["distill"]["steps"]
    tags = {f"{kind}/{task}" for kind in ("loss_soft", "loss_gold", "alpha", "temperature", "weight")
            for task in ("mood", "likeness")}  # fmt: skip
    tags |= {"loss/all", "learning_rate", "gradient_norm", "rows_per_second"}
    assert tags <= scalars.keys()
    for tag in ("learning_rate", "loss/all", "gradient_norm"):
        assert set(scalars[tag]) == {*range(5, steps + 1, 5), steps}
        assert all(value >= 0 for value in scalars[tag].values())
    warmup = int(0.1 * steps)
    rates = scalars["learning_rate"]
    assert rates[steps] == pytest.approx(0.01 / (steps - warmup), rel=1e-4) and max(rates.values()) <= 0.01


def test_a_schedule_is_shown_as_it_runs(shown):
    objective = {"alpha": SCHEDULE, "tasks": {"likeness": {"alpha": 0.25, "temperature": {"from": 4.0, "to": 1.0}}}}
    _, _, scalars, _ = shown(objective=objective)
    alphas = [value for _, value in sorted(scalars["alpha/mood"].items())]
    assert alphas == sorted(alphas) and alphas[0] < 0.2 and alphas[-1] > 0.95
    assert set(scalars["alpha/likeness"].values()) == {0.25}
    hot = [value for _, value in sorted(scalars["temperature/likeness"].items())]
    assert hot == sorted(hot, reverse=True) and hot[0] > 3 and set(scalars["temperature/mood"].values()) == {2.0}


def test_results_examples_and_hyperparameters_are_shown_at_the_end(shown, events):
    results, folder, scalars, texts = shown()
    for task, metric in (("mood", "accuracy"), ("likeness", "pearson")):
        assert [*scalars[f"dev/{task}/{metric}"].values()] == [
            pytest.approx(results["tasks"][task]["student"]["value"])
        ]
        assert [*scalars[f"agreement/{task}"].values()] == [pytest.approx(results["tasks"][task]["agreement"])]
    table = texts["predictions/mood/text_summary"].splitlines()
    assert table[0] == "| text | gold | teacher | student | probability |" and len(table) == 2 + 8
    first = json.loads((folder.parent / "data/mood/dev.jsonl").read_text().splitlines()[0])
    cells = [cell.strip() for cell in table[2].strip("|").split("|")]
    assert cells[:2] == [first["text"], first["label"]] and {*cells[2:4]} <= {"low", "high"}
    assert texts["predictions/likeness/text_summary"].count("\n") == 9
    every, _ = events(folder / "tensorboard")
    assert every["hparam/dev/mood/accuracy"][0] == pytest.approx(results["tasks"]["mood"]["student"]["value"])
    assert _hparams(folder)["train.batch_rows"] == 16 and _hparams(folder)["student.name"] == "bilstm"


def test_the_baseline_has_its_own_curves_and_as_many_steps(shown, events):
    _, folder, scalars, _ = shown()
    baseline, _ = events(folder / "tensorboard/gold_only")
    assert set(baseline["loss/all"]) == set(scalars["loss/all"])  # the same steps
    assert set(baseline["alpha/mood"].values()) == {1.0}
    assert not any(tag.startswith("loss_soft") for tag in baseline)
    stages = json.loads((folder / "run.json").read_text())["stages"]
    assert stages["baseline"]["steps"] == stages["distill"]["steps"] > 0


def _hparams(folder):
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
    from tensorboard.plugins.hparams import plugin_data_pb2

    found = {}
    for path in sorted((folder / "tensorboard").glob("events.*")):
        for event in EventFileLoader(str(path)).Load():
            for value in event.summary.value:
                if value.metadata.plugin_data.plugin_name == "hparams":
                    data = plugin_data_pb2.HParamsPluginData.FromString(value.metadata.plugin_data.content)
                    for name, item in data.session_start_info.hparams.items():
                        found[name] = getattr(item, item.WhichOneof("kind"))
    return found
