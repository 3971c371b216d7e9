"""docs/papers.md says what the recipes say: options, defaults, variants, commands; and where each statement is from."""

from __future__ import annotations

import ast
import copy
import functools
import re
import shlex
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from kdtoolkit.errors import InputError
from kdtoolkit.recipe import Recipe
from kdtoolkit.recipe.load import recipe_from_dict, recipe_text
from kdtoolkit.recipe.names import resolve_student, resolve_teacher
from kdtoolkit.recipe.signature import constructor_options
from kdtoolkit.recipe.terms import KNOWN_TERMS

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "papers.md").read_text(encoding="utf-8")
RECIPES = ("mkd_bilstm", "mkd_transformer", "mtdnn_kd", "bam", "bilstm_soft")
BASE = {"mkd_transformer": "mkd_bilstm"}
"""Recipes whose table has only what is other than in another one's."""
UNREAD = {"mkd_transformer": {"tokenizer.vocabulary"}}
"""What a recipe's plug-ins do not read: the tokenizer `teacher` has its own vocabulary."""
MARKS = ("paper", "code", "memory", "reconstructed", "ours")
MINIMAL = {"tasks": ["sst2"], "teachers": [{"name": "path/to/model"}], "data": {"folder": "path/to/data"}}


@dataclass(frozen=True)
class Row:
    """One ingredient. options: (key, default as the page has it)."""

    ingredient: str
    paper: str
    code: str
    here: str
    options: tuple[tuple[str, str], ...]
    source: str


def read(yaml: str) -> Any:
    return YAML(typ="safe", pure=True).load(yaml)


def tables(text: str, first: str) -> list[list[list[str]]]:
    """The tables whose first column is called `first`, as cells, without header and rule."""
    found = []
    for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        rows = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in table.splitlines()]
        if rows[0][0] == first:
            assert {len(row) for row in rows} == {len(rows[0])}, rows[0]
            found.append(rows[2:])
    return found


def ingredients(text: str) -> list[Row]:
    rows = []
    for ingredient, paper, code, here, options, defaults, source in (r for t in tables(text, "ingredient") for r in t):
        keys, values = (re.findall(r"`([^`]+)`", cell) for cell in (options, defaults))
        assert len(keys) == len(values) and bool(keys) == (options != "-"), ingredient
        rows.append(Row(ingredient, paper, code, here, tuple(zip(keys, values)), source))
    return rows


def section(number: int) -> str:
    return re.split(r"^## \d\. .*\n", PAGE, flags=re.MULTILINE)[number]


def part_of(recipe: str) -> str:
    """What stands under the heading of a recipe."""
    [found] = re.findall(rf"^### Recipe `{recipe}`\n(.*?)(?=^##)", PAGE, re.MULTILINE | re.DOTALL)
    return found


def options_of(recipe: str) -> list[tuple[str, str]]:
    return [option for row in ingredients(part_of(recipe)) for option in row.options]


def defaults(kind: str, name: str) -> dict[str, Any]:
    known = constructor_options(kind, name) or {}
    return {key: ast.literal_eval(option.default) for key, option in known.items() if option.default is not None}


def filled(recipe: Recipe) -> dict[str, Any]:
    """The recipe with the plug-ins' defaults, and for single tasks what their sections say for all."""
    values = recipe.model_dump(by_alias=True)
    name, options = resolve_student(recipe.student)
    values["student"] = defaults("student", name) | options | values["student"]
    values["teachers"] = [
        defaults("teacher", resolve_teacher(teacher["name"])[0]) | teacher for teacher in values["teachers"]
    ]
    for part in ("heads", "objective"):
        for own in values[part]["tasks"].values():
            own |= {key: values[part][key] for key, value in own.items() if value is None}
    return values


@functools.cache
def shipped(name: str) -> dict[str, Any]:
    return filled(Recipe.load(name))


def at(values: Any, key: str) -> Any:
    """The value at a dotted key; KeyError if there is none."""
    for part in key.split("."):
        values = values[int(part)] if isinstance(values, list) else values[part]
    return values


def has(values: Any, key: str) -> bool:
    try:
        at(values, key)
    except (KeyError, TypeError, IndexError):
        return False
    return True


def shown(recipe: str) -> list[tuple[str, str]]:
    """Options and defaults of a recipe's table, and of the one it goes on from where that is not overruled."""
    own = options_of(recipe)
    keys = {key for key, _ in own} | UNREAD.get(recipe, set())
    inherited = options_of(BASE[recipe]) if recipe in BASE else []
    return own + [(k, default) for k, default in inherited if k not in keys and has(shipped(recipe), k)]


@pytest.mark.parametrize("recipe", RECIPES)
def test_no_option_is_listed_twice(recipe):
    keys = [key for key, _ in options_of(recipe)]
    assert len(keys) == len(set(keys)) > 10


@pytest.mark.parametrize(("recipe", "key", "default"), [(name, *option) for name in RECIPES for option in shown(name)])
def test_every_option_exists_and_has_this_default_in_the_recipe(recipe, key, default):
    changed = filled(Recipe.load(recipe, overrides=[f"{key}={default}"]))
    assert at(shipped(recipe), key) == at(changed, key)


def leaves(value: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    if isinstance(value, dict):
        return [leaf for key, item in value.items() for leaf in leaves(item, (*path, key))]
    if isinstance(value, list) and all(isinstance(item, dict) for item in value):
        return [leaf for number, item in enumerate(value) for leaf in leaves(item, (*path, number))]
    return [path]


def written(recipe: str) -> dict[str, Any]:
    values: dict[str, Any] = read(recipe_text(recipe)[1])
    for short in ("student", "tokenizer"):
        if isinstance(values.get(short), str):
            values[short] = {"name": values[short]}
    return values


def is_a_default(recipe: dict[str, Any], path: tuple[str | int, ...]) -> bool:
    """Whether the recipe would say the same without this key."""
    rest = copy.deepcopy(recipe)
    parent: Any = rest
    for part in path[:-1]:
        parent = parent[part]
    del parent[path[-1]]
    try:
        loaded = filled(recipe_from_dict(rest))
    except InputError:
        return False
    key = ".".join(map(str, path))
    return has(loaded, key) and at(loaded, key) == at(filled(recipe_from_dict(recipe)), key)


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_key_that_the_recipe_sets_to_other_than_its_default_is_in_the_table(recipe):
    values = {key: value for key, value in written(recipe).items() if key != "variants"}
    keys = {key for key, _ in shown(recipe)}
    told = [path for path in leaves(values) if not is_a_default(values, path)]
    assert len(told) > 10
    names = [".".join(map(str, path)) for path in told]
    starts = {name: {".".join(name.split(".")[:n]) for n in range(1, name.count(".") + 2)} for name in names}
    # A head's options for one task may be told once for all where they are the same.
    for name in names:
        general = re.sub(r"\.tasks\.\w+\.", ".", name)
        if has(shipped(recipe), general) and at(shipped(recipe), general) == at(shipped(recipe), name):
            starts[name].add(general)
    assert [name for name in names if not starts[name] & keys] == []


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_variants_are_those_of_the_recipe(recipe):
    [rows] = tables(part_of(recipe), "variant")
    assert [name.strip("`") for name, _ in rows] == list(written(recipe)["variants"])


@pytest.mark.parametrize(("recipe", "variant"), [(name, v) for name in RECIPES for v in written(name)["variants"]])
def test_every_variant_is_a_valid_recipe(recipe, variant):
    assert Recipe.load(recipe, overrides=[f"variant={variant}"]).variant == variant


def test_variants_named_in_a_row_are_those_of_its_recipe():
    for recipe in RECIPES:
        named = {
            name
            for row in ingredients(part_of(recipe))
            for cell in (row.code, row.here)
            for words in re.findall(r"variants? ((?:`\w+`(?:, )?)+)", cell)
            for name in re.findall(r"`(\w+)`", words)
        }
        assert named <= set(written(recipe)["variants"]), recipe


ALL_ROWS = ingredients(PAGE)


def test_the_marks_are_those_that_are_explained():
    [rows] = tables(section(1), "mark")
    assert tuple(mark for mark, _ in rows) == MARKS


@pytest.mark.parametrize("row", ALL_ROWS, ids=lambda row: row.ingredient)
def test_every_row_says_where_it_is_from(row):
    mark = re.match(r"\w+", row.here)
    assert mark and mark[0] in MARKS
    unknown = ("unknown", "none", "not looked up", "not found", "")
    if mark[0] == "paper":
        assert not row.paper.startswith(("from memory", "unknown", "not looked up")) and row.paper
    if mark[0] == "code":
        assert row.code not in unknown
    if mark[0] == "memory":
        assert "from memory" in row.paper
    if mark[0] in ("paper", "code") and row.here[len(mark[0]) :]:
        assert row.here.startswith(f"{mark[0]}: ")
    if mark[0] == "code":
        assert row.source, "the code has a name"


def test_nothing_that_is_reconstructed_is_called_the_papers():
    rows = ingredients(section(2))
    assert len(rows) > 30 and {row.code for row in rows} <= {"none", ""}
    assert all(not row.here.startswith(("paper", "code")) for row in rows if row.paper.startswith(("unknown", "from")))
    assert "**This is a reconstruction.**" in section(2)


def test_every_source_has_an_address_and_no_address_is_unused():
    addresses = dict(re.findall(r"^\[([^\]]+)\]: (\S+)$", PAGE, re.MULTILINE))
    body = re.sub(r"^\[[^\]]+\]: .*$", "", PAGE, flags=re.MULTILINE)
    used = {label for row in ALL_ROWS for label in re.findall(r"\[([^\]]+)\]", row.source)}
    assert len(used) > 20 and used <= addresses.keys()
    assert {label for label in addresses if f"[{label}]" not in body} == set()
    assert all(address.startswith("https://") for address in addresses.values())


@functools.cache
def plain() -> dict[str, Any]:
    return filled(recipe_from_dict(MINIMAL))


GENERAL = [option for number in (6, 7) for row in ingredients(section(number)) for option in row.options]


@pytest.mark.parametrize(("key", "default"), sorted({o for o in GENERAL if o[0].split(".")[0] not in KNOWN_TERMS}))
def test_every_recipe_key_of_the_general_sections_has_this_default(key, default):
    changed = copy.deepcopy(MINIMAL)
    here = changed
    *path, last = key.split(".")
    for part in path:
        here = here.setdefault(part, {})
    here[last] = read(default)
    assert at(plain(), key) == at(filled(recipe_from_dict(changed)), key)


def test_every_option_of_every_term_is_there_with_its_default():
    page = [(key, read(default)) for key, default in GENERAL if key.split(".")[0] in KNOWN_TERMS]
    code = {
        f"{name}.{option}": ast.literal_eval(str(known.default))
        for name, term in KNOWN_TERMS.items()
        for option, known in term.options().items()
    }
    assert len(page) == len(code) and dict(page) == code


def test_every_term_has_its_heading():
    headings = re.findall(r"^### .*: (.*)$", section(6), re.MULTILINE)
    named = [name for heading in headings for name in re.findall(r"`(\w+)`", heading)]
    assert set(KNOWN_TERMS) <= set(named)


@pytest.mark.parametrize("text", re.findall(r"^```yaml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))
def test_every_yaml_block_is_part_of_a_valid_recipe(text):
    own = {"student": {"name": "transformer"}, "tokenizer": {"name": "teacher"}}
    assert isinstance(recipe_from_dict(MINIMAL | own | read(text)), Recipe)


def commands() -> list[list[str]]:
    blocks = re.findall(r"^```console\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    lines = [line.removeprefix("$ ") for block in blocks for line in block.splitlines()]
    return [shlex.split(line) for line in (*lines, *re.findall(r"`(kdtool [^`]*)`", PAGE))]


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_every_command_exists_with_its_options(words):
    from click.testing import CliRunner

    from kdtoolkit.cli.main import kdtool

    program, command, *rest = words
    answer = CliRunner().invoke(kdtool, [command, "--help"])
    assert program == "kdtool" and answer.exit_code == 0
    for option in (word for word in rest if word.startswith("--")):
        assert re.search(rf"{option}(?![\w-])", answer.output), option
    if command == "explain":
        assert CliRunner().invoke(kdtool, words[1:]).exit_code == 0


@pytest.mark.parametrize("words", [words for words in commands() if "--recipe" in words], ids=" ".join)
def test_every_recipe_that_a_command_asks_for_is_valid(words):
    given = dict(pairwise(words))
    overrides = [value for option, value in pairwise(words) if option == "--set"]
    assert given["--recipe"] in RECIPES
    assert isinstance(Recipe.load(given["--recipe"], overrides=overrides), Recipe)


def test_every_recipe_has_its_command():
    assert {dict(pairwise(words)).get("--recipe") for words in commands()} - {None} == set(RECIPES)


def test_keys_named_in_the_text_exist():
    known = [shipped(name) for name in RECIPES]
    first = "|".join(known[0])
    prose = re.sub(r"^\|.*$", "", PAGE, flags=re.MULTILINE)
    named = re.findall(rf"`((?:{first})(?:\.\w+)+)(?:: [^`]*)?`", prose)
    assert len(named) > 5
    assert [key for key in named if not any(has(values, key) for values in known)] == []


def test_there_is_a_place_for_what_was_measured():
    marks = re.findall(r"^### Measured here\n\n<!-- measured: (\w+) -->\n", PAGE, re.MULTILINE)
    assert marks == ["mkd", "mtdnn_kd", "bam", "bilstm_soft"]


def test_the_numbers_of_weights_are_those_of_the_students():
    from kdtoolkit.heads import MultiTaskHeads
    from kdtoolkit.plugins import plugin

    def weights(name: str, tasks: list[str], **options: Any) -> int:
        recipe = Recipe.load(name, overrides=[f"tasks={tasks}"])
        student = plugin("student", recipe.student.name)(vocab_size=16, **{**recipe.student.options, **options})
        heads = MultiTaskHeads(recipe.task_list(), student.width, pairs=student.pairs, mixed=False, heads=recipe.heads)
        embedding = student.embed.weight.numel()
        return sum(p.numel() for part in (student, heads) for p in part.parameters()) - embedding

    mkd = weights("mkd_bilstm", shipped("mkd_bilstm")["tasks"])
    assert f"{mkd / 1e6:.2f} million, heads included" in section(2)
    assert f"{weights('bilstm_soft', ['sst2']):,}." in section(5)
    assert f"have {weights('bilstm_soft', ['sst2'], embedding=600):,}, embeddings left out" in section(5)
