"""`kdtool evaluate`."""

from __future__ import annotations

from pathlib import Path

import click

from .options import print_json


@click.command()
@click.argument("run", metavar="RUN")
@click.option("--split", metavar="SPLIT", help="dev or test; default: the split of the run's recipe.")
@click.option("--json", "as_json", is_flag=True, help="Print what results.json would say, instead of a table.")
def evaluate(run: str, split: str | None, as_json: bool) -> None:
    """Measure a finished student again, on dev or test. The run's own results.json stays as it is.

    \b
      kdtool evaluate runs/demo
      kdtool evaluate runs/glue --split test --json
    """
    from ..pipeline import RunFolder, evaluate_run

    results = evaluate_run(RunFolder.open(Path(run)), split)
    if as_json:
        print_json(results)
        return
    from ..report import render_table

    click.echo(render_table(results))
