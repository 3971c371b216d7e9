"""`kdtool explain`: formula, source and options of everything that has a formula."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import typing
from pathlib import Path

import pytest

from kdtoolkit.catalogue import CATALOGUE
from kdtoolkit.ops import KINDS
from kdtoolkit.recipe.checks.heads import OPTIONS as HEAD_OPTIONS
from kdtoolkit.recipe.model_sections import HeadName
from kdtoolkit.recipe.schema import Augment, Balance, Sampler, Schedule
from kdtoolkit.recipe.terms import KNOWN_TERMS

GUIDE = Path(__file__).resolve().parents[2] / "docs/guide.md"
ENTRIES = [entry for kind in CATALOGUE.values() for entry in kind.values()]
TERM_ENTRIES = [entry for entry in ENTRIES if entry.is_term]


def choices(model, field):
    return set(typing.get_args(model.model_fields[field].annotation))


def test_everything_that_a_recipe_may_ask_for_is_explained():
    assert set(CATALOGUE["objective"]) == set(KINDS) | set(KNOWN_TERMS)
    assert set(CATALOGUE["balance"]) == choices(Balance, "weights") | choices(Balance, "gradients") - {"sum"}
    assert set(CATALOGUE["head"]) == set(typing.get_args(HeadName)) - {"auto"}
    assert set(CATALOGUE["schedule"]) == choices(Schedule, "shape") | {"constant"}
    for kind, model in (("augment", Augment), ("sampler", Sampler)):
        told = {key for entry in CATALOGUE[kind].values() for key in entry.options}
        own = {f"{kind}.{name}" for name in model.model_fields} - {"augment.tasks"}
        assert told == own


@pytest.mark.parametrize("entry", CATALOGUE["head"].values(), ids=lambda entry: entry.name)
def test_a_head_has_the_options_that_it_reads(entry):
    assert {key.removeprefix("heads.") for key in entry.options} == HEAD_OPTIONS[entry.name]


@pytest.mark.parametrize("entry", TERM_ENTRIES, ids=lambda entry: entry.name)
def test_a_term_has_the_options_of_its_constructor_and_their_defaults(entry):
    from kdtoolkit.objectives.terms import TERMS
    from kdtoolkit.plugins import options

    signature = options(TERMS[entry.name])
    lines = {line.key: line for line in entry.option_lines()}
    assert lines.keys() == signature.keys()
    assert all(type(lines[key].default) is type(p.default) and lines[key].default == p.default
               for key, p in signature.items())  # fmt: skip
    assert entry.rowwise is (TERMS[entry.name].rowwise)


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: f"{entry.kind} {entry.name}")
def test_every_entry_says_what_it_is_and_where_it_comes_from(entry):
    assert entry.summary and entry.formula and entry.source and entry.use
    assert (entry.rowwise is not None) is (entry.kind == "objective")
    lines = entry.option_lines()
    assert lines
    for line in lines:
        assert line.meaning and line.type not in ("", "value"), line


@pytest.mark.parametrize("entry", [e for e in ENTRIES if e.name != "bce"], ids=lambda e: f"{e.kind} {e.name}")
def test_the_use_that_is_shown_is_a_recipe(entry):
    from ruamel.yaml import YAML

    from kdtoolkit.recipe.load import recipe_from_dict

    shown = {}
    for part in entry.use.split("; "):
        shown |= YAML(typ="safe").load(part)
    tasks = ["qnli"] if entry.name == "ranking" else ["mnli", "qnli"]
    base = {"tasks": tasks, "teachers": ["bert-large"]}
    recipe = recipe_from_dict({**base, **shown})
    if entry.is_term:
        assert recipe.objective.terms[0].name == entry.name


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: f"{entry.kind} {entry.name}")
def test_the_command_prints_formula_source_and_options(run, entry):
    done = run("explain", entry.kind, entry.name)
    assert done.exit_code == 0
    for text in (*entry.formula, entry.source, *entry.notes, *entry.options, *entry.options.values()):
        assert text in done.output
    as_json = run("explain", entry.kind, entry.name, "--json")
    value = json.loads(as_json.stdout)
    assert value["formula"] == list(entry.formula)
    assert [option["key"] for option in value["options"]] == list(entry.options)


def test_defaults_and_types_are_those_of_the_recipe(run):
    printed = run("explain", "objective", "ce").output
    assert "objective.temperature: number or schedule, default 2.0" in printed
    assert "objective.scale_T2: true or false, default true" in printed
    assert "SCHEDULE.from: number, required" in run("explain", "schedule", "linear").output
    assert "layers: skip, last or list of whole numbers, default skip" in run("explain", "objective", "pkd").output
    assert "sampler.cap: whole number or null, default null" in run("explain", "sampler", "capped").output


def test_whether_cutting_a_batch_changes_the_loss_is_said(run):
    assert "a sum over rows: cutting a batch changes nothing" in run("explain", "objective", "pkd").output
    for name in ("rkd", "dist"):
        assert "no sum over rows: it depends on which rows share a batch" in run("explain", "objective", name).output


def test_without_a_name_all_are_listed(run):
    everything = run("explain")
    assert everything.exit_code == 0
    for entry in ENTRIES:
        assert f"  {entry.name} " in everything.output and entry.summary in everything.output
    objectives = run("explain", "objective").output
    assert "  dkd " in objectives and "pcgrad" not in objectives
    assert json.loads(run("explain", "head", "--json").stdout)["head"].keys() == CATALOGUE["head"].keys()
    assert json.loads(run("explain", "--json").stdout).keys() == CATALOGUE.keys()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("objective", "dkdd"), "there is no objective of this name; did you mean 'dkd'?"),
        (("objektive",), "did you mean 'objective'?"),
        (("dkd",), "did you mean `kdtool explain objective dkd`?"),
        (("linear",), "did you mean `kdtool explain head linear` or `kdtool explain schedule linear`?"),
        (("objective", "DKD"), "did you mean dkd?"),
        (("objective", "tinybert"), "did you mean attention or hidden or embedding?"),
        (("objective", "KL"), "did you mean 'kl'?"),
        (("sampler", "dkd"), "known: annealed, capped, power, size, uniform"),
    ],
)
def test_unknown_names_are_wrong_input(run, arguments, says):
    done = run("explain", *arguments)
    assert done.exit_code == 2 and says in done.output


def test_the_guide_has_every_term_and_says_whether_it_is_a_sum_over_rows():
    rows = re.findall(r"^\| `(\w+)` \|.*\| (yes|no) \|$", GUIDE.read_text(encoding="utf-8"), re.M)
    assert dict(rows) == {entry.name: "yes" if entry.rowwise else "no" for entry in TERM_ENTRIES}


def test_explaining_imports_no_torch():
    code = (
        "import sys, atexit\n"
        "atexit.register(lambda: print('HEAVY', sorted({'torch', 'transformers', 'numpy'} & set(sys.modules))))\n"
        "from kdtoolkit.cli.main import kdtool\n"
        "kdtool.main(['explain', 'objective', 'minilmv2'], prog_name='kdtool')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and "HEAVY []" in done.stdout, done.stderr
