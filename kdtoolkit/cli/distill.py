"""`kdtool distill`."""

from __future__ import annotations

from typing import Any

import click

from .main import Session
from .options import print_json, recipe_options
from .stages import run_options, work, workers_option


@click.command()
@recipe_options
@workers_option
@run_options
@click.pass_obj
def distill(session: Session, as_json: bool, **given: Any) -> None:
    """Distil teachers into one small student, and show what it gained.

    Fine-tunes the teachers where they need it, stores their outputs, trains the student on them, trains the same
    student on gold labels alone, and prints a table that compares the three. Everything is kept in the run's folder,
    and a run that was stopped goes on with --resume.

    \b
      kdtool distill
      kdtool distill --teacher bert-large --student bilstm --tasks sst2,mrpc,rte
      kdtool distill --teacher path/to/model --train train.csv --dev dev.csv
      kdtool distill --teacher labels.parquet --student transformer --train train.jsonl
      kdtool distill --recipe glue_bilstm --data path/to/glue --set student.width=200 --out runs/glue
      kdtool distill --recipe glue_bilstm --data path/to/glue --workers 2
      kdtool distill --resume runs/glue
    """
    run, results = work(session, given, "report")
    if as_json:
        print_json(results)
        return
    from ..report import render_table

    click.echo(render_table(results))
    click.echo(f"\nrun: {run.path}")
    task = next(iter(results["tasks"]), None)
    if task is not None:
        click.echo(f'next: echo "some text" | kdtool predict {run.path} --task {task}')
