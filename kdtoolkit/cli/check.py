"""`kdtool check`."""

from __future__ import annotations

from typing import Any

import click

from .options import chosen_recipe, print_json, recipe_options


@click.command()
@click.argument("name", metavar="[RECIPE]", required=False)
@recipe_options
@click.option("--json", "as_json", is_flag=True, help="Print lines and warnings as JSON.")
def check(name: str | None, as_json: bool, **given: Any) -> None:
    """Look for everything that can be wrong, before any long work.

    Reads recipe and data, compares labels with those of the teachers, estimates time and memory, and takes one dry
    step. RECIPE is a name or a file; the options are those of distill. Exit code 2: something is wrong.

    \b
      kdtool check glue_bilstm --teacher path/to/model --data path/to/glue
      kdtool check --teacher path/to/model --train train.csv --dev dev.csv
    """
    if name is not None and given["recipe"] is not None:
        raise click.UsageError(f"two recipes are given, '{name}' and --recipe {given['recipe']}; leave one of them out")
    given["recipe"] = name or given["recipe"]
    recipe = chosen_recipe(given)

    from .. import pipeline

    report = pipeline.check(recipe)
    if as_json:
        print_json({"lines": list(report.lines), "warnings": list(report.warnings)})
        return
    for line in report.lines:
        click.echo(line)
    for warning in report.warnings:
        click.echo(f"warning: {warning}")
    count = len(report.warnings)
    click.echo("no problem found" + (f", {count} warning{'s' * (count != 1)}" if count else ""))
