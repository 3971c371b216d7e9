"""docs/guide.md says what the code says: keys, defaults, ranges, options, names, files, commands."""

from __future__ import annotations

import ast
import copy
import importlib
import inspect
import re
import types
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import annotated_types
import numpy as np
import pytest
from pydantic import BaseModel
from pydantic_core import PydanticUndefined
from ruamel.yaml import YAML

from kdtoolkit.errors import InputError
from kdtoolkit.recipe import Recipe
from kdtoolkit.recipe.load import recipe_from_dict
from kdtoolkit.recipe.schema import Data, Schedule
from kdtoolkit.tasks import GLUE, Task

ROOT = Path(__file__).resolve().parent.parent
GUIDE = (ROOT / "docs" / "guide.md").read_text(encoding="utf-8")
MINIMAL = {"tasks": ["sst2"], "teachers": [{"name": "path/to/model"}], "data": {"folder": "path/to/data"}}
PLUGINS = {
    "student": ("bilstm", "transformer", "hf"),
    "teacher": ("hugging_face", "stored", "python", "run", "joint", "distilled"),
    "tokenizer": ("sentencepiece", "words"),
}


def read(yaml: str) -> Any:
    return YAML(typ="safe", pure=True).load(yaml)


def blocks(info: str) -> list[str]:
    """The contents of the fenced blocks with just this info string."""
    return re.findall(rf"^```{info}\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL)


def rows_of(text: str) -> list[list[str]]:
    """The cells of all table rows of a text, headers and rules left out."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    rules = [number for number, row in enumerate(cells) if set("".join(row)) == {"-"}]
    return [row for number, row in enumerate(cells) if number not in rules and number + 1 not in rules]


def table_after(words: str) -> list[list[str]]:
    """The rows of the first table that follows these words."""
    assert GUIDE.count(words) == 1, words
    return rows_of(re.search(r"(?:^\|.*\n)+", GUIDE.split(words)[1], re.MULTILINE)[0])  # type: ignore[index]


def section(number: int) -> str:
    return re.split(r"^## \d\. .*$", GUIDE, flags=re.MULTILINE)[number]


def default_of(cell: str) -> Any:
    return "required" if cell == "required" else read(cell.strip("`"))


def branches(annotation: Any) -> list[Any]:
    return list(get_args(annotation)) if get_origin(annotation) in (Union, types.UnionType) else [annotation]


def models_in(annotation: Any) -> list[type[BaseModel]]:
    return [part for part in branches(annotation) if inspect.isclass(part) and issubclass(part, BaseModel)]


def walk(model: type[BaseModel], prefix: str) -> dict[str, tuple[Any, Any, list[Any]]]:
    """key -> (default, annotation, bounds) of every key that a user can write."""
    found: dict[str, tuple[Any, Any, list[Any]]] = {}
    for name, field in model.model_fields.items():
        key = prefix + (field.alias or name)
        default = "required" if field.default is PydanticUndefined else field.default
        inner = [part for part in models_in(field.annotation) if part is not Schedule]
        entry = (default, field.annotation, field.metadata)
        parts = [part for branch in branches(field.annotation) for part in (branch, *get_args(branch))]
        items = [m for part in parts if get_origin(part) in (list, dict) for a in get_args(part) for m in models_in(a)]
        if items:
            mapping = dict in map(get_origin, parts)
            # Tasks stand beside the fixed keys of `data`.
            key = f"{prefix if model is Data else key + '.'}TASK" if mapping else key
            found[key] = entry
            found |= walk(items[0], f"{key}." if mapping else f"{key}[].")
        elif inner:
            if default is None:
                found[key] = entry
            found |= walk(inner[0], f"{key}.")
        else:
            found[key] = entry
    return found


KEYS = walk(Recipe, "") | walk(Schedule, "SCHEDULE.")
KEY_ROWS = {row[0].strip("`"): row for row in rows_of(section(1))}


def test_the_walk_finds_keys_of_every_shape():
    assert {"seed", "tasks[].kind", "data.TASK.rows", "objective.tasks.TASK.alpha", "train.select"} <= KEYS.keys()


def test_every_recipe_key_is_in_the_guide_and_no_other():
    assert list(KEY_ROWS) == list(dict.fromkeys(KEY_ROWS))
    assert len(rows_of(section(1))) == len(KEY_ROWS), "a key is listed twice"
    assert KEY_ROWS.keys() == KEYS.keys()


@pytest.mark.parametrize("key", KEYS)
def test_a_keys_default_values_and_bounds_are_those_of_the_schema(key):
    default, annotation, bounds = KEYS[key]
    _, kind, shown, _ = KEY_ROWS[key]
    assert default_of(shown) == (list(default) if isinstance(default, tuple) else default)
    parts = [part for branch in branches(annotation) for part in branches(branch)]
    for part in parts:
        if get_origin(part) is Literal:
            assert re.findall(r"`([\w-]+)`", kind) == list(get_args(part))
    assert ("null" in kind) == (type(None) in parts or annotation is None)
    assert ("schedule" in kind) == (Schedule in parts)
    signs = {annotated_types.Ge: (">=", "ge"), annotated_types.Gt: (">", "gt"), annotated_types.Le: ("<=", "le"),
             annotated_types.Lt: ("<", "lt")}  # fmt: skip
    for bound in bounds:
        if type(bound) in signs:
            sign, name = signs[type(bound)]
            assert f"{sign} {getattr(bound, name):g}" in kind


def with_value(key: str, value: Any) -> dict[str, Any]:
    """A recipe with a value at a key as the guide writes it."""
    recipe: dict[str, Any] = copy.deepcopy(MINIMAL)
    if key.startswith("SCHEDULE."):
        recipe["objective"] = {"weight": {"from": 1.0, "to": 2.0, key.removeprefix("SCHEDULE."): value}}
        return recipe
    if key == "tasks[].name" or key == "tasks":
        return recipe | {"tasks": value}
    name = "rte" if key == "augment.both" else "sst2"  # of a pair
    recipe["tasks"] = [{"name": name}] if key.startswith("tasks[]") else [name]
    here: Any = recipe
    *path, last = key.replace("TASK", "sst2").replace("[]", ".0").split(".")
    for part in path:
        here = here[int(part)] if isinstance(here, list) else here.setdefault(part, {})
    here[last] = value
    return recipe


BOUNDED = [(key, sign, float(bound)) for key, row in KEY_ROWS.items()
           for sign, bound in re.findall(r"([<>]=?) (\d+)", row[1])]  # fmt: skip


@pytest.mark.parametrize(("key", "sign", "bound"), BOUNDED)
def test_a_value_outside_the_range_shown_is_refused(key, sign, bound):
    value = {">=": bound - 1, ">": bound, "<=": bound + 0.5, "<": bound}[sign]
    value = int(value) if "whole" in KEY_ROWS[key][1] else value
    with pytest.raises(InputError, match=re.escape(key.rpartition(".")[2])):
        recipe_from_dict(with_value(key, [value, 0.5] if key == "optimizer.betas" else value))


@pytest.mark.parametrize(("key", "sign", "bound"), BOUNDED)
def test_a_value_at_the_edge_of_the_range_shown_is_accepted(key, sign, bound):
    value = {">=": bound, ">": bound + 1e-3, "<=": bound, "<": bound - 1e-3}[sign]
    value = int(value) if "whole" in KEY_ROWS[key][1] else value
    try:
        recipe_from_dict(with_value(key, [value, 0.5] if key == "optimizer.betas" else value))
    except InputError as error:  # where another key makes the edge senseless, that is what is said
        assert re.search(
            r"nothing would be learned|nothing without gold_rows|must lie after|leave it out|is an option of dwa|"
            r"lower one of them",
            str(error),
        )


def test_the_minimal_recipe_of_these_tests_is_valid():
    assert recipe_from_dict(MINIMAL) and recipe_from_dict(with_value("train.epochs", 1))


def options_shown(kind: str, name: str) -> dict[str, list[str]]:
    table = table_after(f"### {kind.capitalize()} `{name}`\n")
    found = {row[0].strip("`"): row for row in table}
    assert len(found) == len(table)
    return found


def test_every_built_in_plug_in_has_its_table():
    from kdtoolkit.plugins import installed

    own = {kind: {n for n, p in installed(kind).items() if p.distribution == "kdtoolkit"}
           for kind in ("student", "teacher")}  # fmt: skip
    assert own == {kind: set(PLUGINS[kind]) for kind in own}
    headings = set(re.findall(r"^### (\w+) `(\w+)`$", GUIDE, re.MULTILINE))
    assert headings == {(k.capitalize(), n) for k, names in PLUGINS.items() for n in names} | {("Tokenizer", "teacher")}


@pytest.mark.parametrize(("kind", "name"), [(k, n) for k in ("student", "teacher") for n in PLUGINS[k]])
def test_options_and_defaults_are_those_of_the_constructor(kind, name):
    from kdtoolkit.plugins import options, plugin
    from kdtoolkit.recipe.signature import constructor_options

    shown = options_shown(kind, name)
    known = options(plugin(kind, name))
    assert list(shown) == list(known)
    for option, parameter in known.items():
        default = "required" if parameter.default is parameter.empty else parameter.default
        assert default_of(shown[option][2]) == default, option
        allowed = constructor_options(kind, name)[option].type
        if get_origin(allowed) is Literal:
            assert re.findall(r"`(\w+)`", shown[option][1]) == list(get_args(allowed)), option
        assert ("null" in shown[option][1]) == ("None" in str(parameter.annotation)), option


def known_to_tokenizer(cls: type, **arguments: Any) -> str:
    with pytest.raises(InputError) as error:
        cls.train(["a"], vocabulary=16, seed=0, options={"?": 0}, **arguments)
    return str(error.value.remedy)


def test_options_and_defaults_of_sentencepiece_are_those_of_its_code(monkeypatch):
    from kdtoolkit.tokenizers import sentencepiece as module

    shown = options_shown("tokenizer", "sentencepiece")
    assert known_to_tokenizer(module.SentencePieceTokenizer) == "known: " + ", ".join(sorted(shown))
    calls: list[Any] = []

    def train(**arguments: Any) -> None:
        calls.append({k: v for k, v in arguments.items() if k not in ("sentence_iterator", "model_writer")})

    monkeypatch.setattr(module, "sample_texts", lambda texts, rows, seed: calls.append(rows) or ["a text"])
    monkeypatch.setattr(module.sentencepiece.SentencePieceTrainer, "train", train)
    monkeypatch.setattr(module.SentencePieceTokenizer, "__init__", lambda self, model: None)
    for options in ({}, {option: default_of(row[2]) for option, row in shown.items()}):
        module.SentencePieceTokenizer.train(["a text"], vocabulary=16, seed=0, options=options)
    assert calls[:2] == calls[2:]


def test_options_and_defaults_of_words_are_those_of_its_code():
    from kdtoolkit.tokenizers.words import WordTokenizer

    shown = options_shown("tokenizer", "words")
    assert known_to_tokenizer(WordTokenizer, vectors=None) == "known: " + ", ".join(sorted(shown))
    defaults = {option: default_of(row[2]) for option, row in shown.items()}
    plain, same = (
        WordTokenizer.train(["one two two three three three"], vocabulary=16, seed=0, vectors=None, options=options)
        for options in ({}, defaults)
    )
    assert plain.fingerprint == same.fingerprint


def test_keys_named_in_the_text_exist():
    known = {key for key in KEYS if not key.startswith("SCHEDULE")}
    known |= {".".join(key.split(".")[:n]) for key in known for n in range(1, key.count(".") + 1)}
    heads = {"student": "student", "teachers[]": "teacher", "tokenizer": "tokenizer"}
    known |= {
        f"{head}.{option}" for head, kind in heads.items() for n in PLUGINS[kind] for option in options_shown(kind, n)
    }
    first = "|".join(sorted({re.split(r"[.\[]", key)[0] for key in KEYS} - {"SCHEDULE"}))
    prose = re.sub(r"^```.*?^```$", "", GUIDE, flags=re.MULTILINE | re.DOTALL)
    named = re.findall(rf"`((?:{first})(?:\[\])?(?:\.\w+(?:\[\])?)+)[`:]", prose)
    named = [name for name in named if not name.endswith((".json", ".yaml"))]
    named += [re.sub(r"\.\d+", "[]", key) for key in re.findall(r"--set '?([\w.]+)=", GUIDE)]
    assert len(named) > 20
    assert {name for name in named if name not in known} == set()


def merged(base: Any, more: Any) -> Any:
    if isinstance(base, dict) and isinstance(more, dict):
        return base | {key: merged(base.get(key), value) for key, value in more.items()}
    return more


@pytest.mark.parametrize("text", blocks("yaml"))
def test_every_yaml_block_is_part_of_a_valid_recipe(text):
    assert isinstance(recipe_from_dict(merged(MINIMAL, read(text))), Recipe)


def test_every_command_and_option_shown_exists():
    from click.testing import CliRunner

    from kdtoolkit.cli.main import kdtool

    def help_of(*words: str) -> str:
        return CliRunner().invoke(kdtool, [*words, "--help"]).output

    spans = [line.split("    #")[0] for block in blocks("console") for line in block.replace("\\\n", " ").splitlines()]
    spans += re.findall(r"`(kdtool [^`]*)`", GUIDE)
    commands = [
        found
        for span in spans
        if (found := re.search(r"kdtool ((?:--\w+ )*)(\w+)(?: (show|copy|explain)\b)?(.*)", span))
    ]
    assert len(commands) > 15
    for before, command, inner, rest in (found.groups() for found in commands):
        text = help_of(command, inner) if inner else help_of(command)
        assert "Usage" in text and "no command" not in text, command
        for option in re.findall(r"(?<!\S)--[a-z-]+", rest):
            assert re.search(rf"{option}(?![\w-])", text), f"kdtool {command} has no {option}"
        for option in before.split():
            assert option in help_of()
    for option in re.findall(r"`(--[a-z-]+)`", GUIDE):
        assert any(option in help_of(name) for name in ("distill", "clean", "evaluate")), option


def test_splits_tasks_metrics_kinds_and_aliases_are_those_of_the_code():
    from kdtoolkit.data.layout import SPLITS
    from kdtoolkit.hub import ALIASES
    from kdtoolkit.recipe.schema import ObjectiveKind
    from kdtoolkit.tasks.task import METRICS

    splits = {row[0]: tuple(re.findall(r"`(\w+)`", row[1])) for row in table_after("The files of a split are called")}
    assert splits == SPLITS
    tasks = [(row[0].strip("`"), row[1], tuple(filter(None, row[2].split(", "))), tuple(row[3].split(", ")))
             for row in table_after("**GLUE tasks**")]  # fmt: skip
    assert tasks == [(task.name, task.kind, task.labels, task.metrics) for task in GLUE.values()]
    metrics = {row[0]: tuple(row[1].split(", ")) for row in table_after("## 6. Evaluation")}
    assert metrics == METRICS
    kinds = [row[0].strip("`") for row in table_after("q = softmax(z / T), p = softmax(t / T).")]
    assert kinds == list(get_args(ObjectiveKind))
    aliases = GUIDE.split("or an alias:\n\n")[1].split("\n\n")[0]
    assert re.findall(r"`([\w-]+)`", aliases) == list(ALIASES)


def test_every_formula_of_a_kind_is_what_the_op_computes():
    import torch

    from kdtoolkit.ops import soft_cross_entropy

    draw = torch.Generator().manual_seed(0)
    z, t = (torch.randn(1, 3, generator=draw, dtype=torch.float64) for _ in range(2))
    beta, degrees = 0.3, 2.0
    q, p = (x.div(degrees).softmax(1) for x in (z, t))
    m = beta * p + (1 - beta) * q

    def divergence(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return (a * (a / b).log()).sum()

    formulas = {
        "- sum p log q": -(p * q.log()).sum(),
        "sum p log(p / q); the gradient of `ce`": divergence(p, q),
        "sum q log(q / p)": divergence(q, p),
        "beta KL(p, m) + (1 - beta) KL(q, m), m = beta p + (1 - beta) q":
            beta * divergence(p, m) + (1 - beta) * divergence(q, m),
        r"sum \|p - q\| / 2": (p - q).abs().sum() / 2,
        "mean (z - t)^2; no temperature": (z - t).square().mean(),
        "the same after the row's mean is taken off z and off t": (z - z.mean() - t + t.mean()).square().mean(),
    }  # fmt: skip
    for name, formula in table_after("q = softmax(z / T), p = softmax(t / T)."):
        kind = name.strip("`")
        factor = 1 if kind.startswith("mse") else degrees**2
        got = soft_cross_entropy(z, t, kind=kind, temperature=degrees, beta=beta, alpha=0.0)
        assert float(got) == pytest.approx(factor * float(formulas[formula]), rel=1e-9), kind


STORED = [(ending, kind, text) for ending in ("csv", "jsonl") for kind in ("", " regression")
          for text in blocks(f"{ending} stored{kind}")]  # fmt: skip


@pytest.mark.parametrize(("ending", "kind", "text"), STORED)
def test_every_file_of_stored_outputs_shown_is_read(ending, kind, text, tmp_path):
    from kdtoolkit.data.readers import open_source
    from kdtoolkit.example import Example
    from kdtoolkit.plugins import plugin

    path = tmp_path / f"labels.{ending}"
    path.write_text(text)
    task = GLUE["stsb" if kind else "sst2"]
    teacher = plugin("teacher", "stored")(str(path), task)
    rows = [values for _, values in open_source(path).records(task.text)]
    values = teacher.logits([Example(task.name, *texts) for texts in rows])
    if kind:
        assert values[:, 0].tolist() == pytest.approx([4.8, 0.2])
    else:
        assert len(STORED) == 5
        assert values.argmax(1).tolist() == [1, 0]


def test_the_callable_shown_is_a_teacher(tmp_path):
    from kdtoolkit.example import Example
    from kdtoolkit.plugins import plugin

    [text] = blocks("python callable")
    (tmp_path / "score.py").write_text(text)
    teacher = plugin("teacher", "python")(f"{tmp_path / 'score.py'}:score", GLUE["sst2"], outputs="probabilities")
    assert teacher.reusable
    values = teacher.logits([Example("sst2", "a good film"), Example("sst2", "a film")])
    assert np.exp(values)[:, 1] == pytest.approx([0.9, 0.2])


def test_what_the_python_blocks_import_and_call_exists():
    import kdtoolkit

    calls = 0
    for block in blocks("python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom):
                for name in node.names:
                    assert hasattr(importlib.import_module(str(node.module)), name.name)
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                owner: Any = {"kdtoolkit": kdtoolkit, "student": kdtoolkit.Predictor}.get(ast.unparse(node.func.value))
                owner = kdtoolkit.Recipe if ast.unparse(node.func.value) == "kdtoolkit.Recipe" else owner
                keywords = {str(keyword.arg): None for keyword in node.keywords}
                inspect.signature(getattr(owner, node.func.attr)).bind_partial(*node.args, **keywords)
                calls += 1
    assert calls >= 5
    [load] = re.findall(r"overrides=(\[.*?\])", GUIDE)
    assert kdtoolkit.Recipe.load("glue_bilstm", overrides=ast.literal_eval(load)).student.options["width"] == 200


def test_exit_codes_and_environment_variables_are_those_of_the_code():
    from kdtoolkit.errors import WorkError

    codes = {row[0]: row[1] for row in table_after("**Exit codes**")}
    assert list(codes) == ["0", "1", "2"]
    assert codes[str(InputError.exit_code)].startswith("the input was wrong")
    assert codes[str(WorkError.exit_code)].startswith("the work failed")
    sources = "".join(
        path.read_text() for folder in ("kdtoolkit", "students", "teachers") for path in (ROOT / folder).rglob("*.py")
    )
    used = set(re.findall(r"\"(KDTOOLKIT_[A-Z_]+)\"", sources))
    shown = {name for row in table_after("**Environment**") for name in re.findall(r"`([A-Z_]+)`", row[0])}
    assert {name for name in shown if name.startswith("KDTOOLKIT_")} == used


def test_files_named_in_the_guide_exist():
    named = re.findall(r"`((?:kdtoolkit|tests|docs)/[\w/.]+\.\w+)`", GUIDE)
    assert named
    for name in named:
        assert (ROOT / name).is_file(), name


def test_the_holding_out_of_rows_has_the_numbers_shown():
    from kdtoolkit.data import prepare, split

    assert f"({prepare.LEAST_ROWS_TO_SPLIT} labelled rows are needed)" in GUIDE
    assert f"fewer than {split.LEAST_CALIBRATION_ROWS} are none" in GUIDE
    assert f"cut to {prepare.LONGEST_TEXT:,} characters" in GUIDE


def test_the_metrics_of_a_task_that_names_none_are_the_first_two_of_its_kind():
    assert Task("own").metrics == ("accuracy", "f1")
