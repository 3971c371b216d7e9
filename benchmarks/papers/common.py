"""Runs of `kdtool distill` by name, their figures over seeds, and claims that hold or do not.

A claim is a difference of two figures, paired by seed. The rule was fixed before any run: it holds if the difference is
positive for every seed, it is unclear if only the mean is, and it does not hold otherwise.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kdtoolkit.recipe.load import load_recipe, resolved_yaml

Results = Mapping[str, Any]
Figure = Callable[[Mapping[str, Results]], float]
"""From the results of one seed's runs, by name, to a number."""


@dataclass(frozen=True)
class Run:
    """One run: its name and the arguments of `kdtool distill`.

    once: the same for all seeds. after: a finished run of the same seed that it goes on from: its folder is copied, the
    arguments (--set alone) are put into the copy's recipe, and what they add is run.
    """

    name: str
    arguments: Sequence[str]
    command: str = "distill"
    once: bool = False
    after: str | None = None


@dataclass(frozen=True)
class Claim:
    """What the paper says, as `better` - `worse` > 0."""

    words: str
    better: Figure
    worse: Figure


@dataclass
class Experiment:
    """All runs of a system and its claims. runs(seed) in the order in which they must be made."""

    name: str
    runs: Callable[[argparse.Namespace, int], list[Run]]
    claims: list[Claim]
    rows: dict[str, Figure] = field(default_factory=dict)
    """Further lines of the table, by title."""

    def main(self) -> None:
        """Makes the runs that are not finished, then prints the tables."""
        parser = argparse.ArgumentParser(description=f"The experiment of {self.name}; see BENCHMARKS.md.")
        parser.add_argument("--teacher", help="folder of the base model")
        parser.add_argument("--data", required=True, help="folder with the GLUE tasks")
        parser.add_argument("--out", type=Path, default=Path("runs/papers"))
        parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
        parser.add_argument("--report", action="store_true", help="print the tables of what is finished, run nothing")
        given = parser.parse_args()
        given.out = given.out / self.name
        if not given.report:
            for seed in given.seeds:
                for run in self.runs(given, seed):
                    make(run, folder(given.out, run, seed), seed)
        found = {}
        for seed in given.seeds:
            places = {run.name: folder(given.out, run, seed) / "results.json" for run in self.runs(given, seed)}
            found[seed] = {name: json.loads(p.read_text()) for name, p in places.items() if p.is_file()}
        self.report(found)

    def report(self, found: Mapping[int, Mapping[str, Results]]) -> None:
        """Prints the figures and the claims as Markdown."""
        seeds = list(found)
        print(f"| | {' | '.join(f'seed {s}' for s in seeds)} | mean | s. d. |\n|---|{'---|' * (len(seeds) + 2)}")
        for title, figure in self.rows.items():
            line(title, [of(figure, found[seed]) for seed in seeds], "{:.4f}")
        for claim in self.claims:
            pairs = [(of(claim.better, found[s]), of(claim.worse, found[s])) for s in seeds]
            gaps = [None if a is None or b is None else a - b for a, b in pairs]
            line(f"{claim.words}: **{verdict(gaps)}**", gaps, "{:+.4f}")


def folder(out: Path, run: Run, seed: int) -> Path:
    """Where a run lies."""
    return out / (run.name if run.once else f"{run.name}-{seed}")


def make(run: Run, place: Path, seed: int) -> None:
    """Makes a run, or goes on with it; a finished one costs nothing."""
    if run.command == "distill" and (place / "results.json").is_file():
        return
    if run.once and run.command == "teach" and any(place.glob("teacher/*/config.json")):
        return
    if run.after is not None and not place.is_dir():
        go_on(place.with_name(f"{run.after}-{seed}"), place, [word for word in run.arguments if word != "--set"])
    words = ["kdtool", run.command]
    words += ["--resume", str(place)] if place.is_dir() else [*run.arguments, "--seed", str(seed), "--out", str(place)]
    print(" ".join(words), file=sys.stderr, flush=True)
    subprocess.run(words, check=True)


def go_on(before: Path, place: Path, overrides: Sequence[str]) -> None:
    """A copy of a finished run whose recipe asks for more."""
    with tempfile.TemporaryDirectory(dir=place.parent) as name:
        copy = Path(name) / "run"
        shutil.copytree(before, copy)
        (copy / "results.json").unlink()
        recipe = load_recipe(copy / "recipe.yaml", overrides=overrides)
        (copy / "recipe.yaml").write_text(resolved_yaml(recipe), encoding="utf-8")
        copy.rename(place)


def of(figure: Figure, results: Mapping[str, Results]) -> float | None:
    """The figure, or None where a run that it needs is not finished."""
    try:
        return figure(results)
    except KeyError:
        return None


def line(title: str, values: Sequence[float | None], form: str) -> None:
    """One line of the table."""
    known = [value for value in values if value is not None]
    cells = ["" if value is None else form.format(value) for value in values]
    mean = form.format(statistics.mean(known)) if known else ""
    spread = f"{statistics.stdev(known):.4f}" if len(known) > 1 else ""
    print(f"| {title} | {' | '.join(cells)} | {mean} | {spread} |")


def verdict(gaps: Sequence[float | None]) -> str:
    """holds | unclear | does not hold, by the rule above; "not run" where a seed is missing."""
    known = [gap for gap in gaps if gap is not None]
    if len(known) < len(gaps) or not known:
        return "not run"
    if min(known) > 0:
        return "holds"
    return "unclear" if statistics.mean(known) > 0 else "does not hold"


def average(run: str, model: str = "student", tasks: Sequence[str] | None = None) -> Figure:
    """The mean over tasks of a model's metric (student | gold_only | teacher) in a run; None: all of its tasks."""

    def figure(results: Mapping[str, Results]) -> float:
        of_run = results[run]["tasks"]
        values = [of_run[task][model]["value"] for task in (tasks or of_run)]
        return statistics.mean(values)

    return figure


def options(**values: Any) -> list[str]:
    """--set arguments; "__" in a name stands for a dot."""
    found = []
    for name, value in values.items():
        text = "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
        found += ["--set", f"{name.replace('__', '.')}={text}"]
    return found
