"""`kdtool teach`."""

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
def teach(session: Session, as_json: bool, **given: Any) -> None:
    """Fine-tune the teachers that need it, and stop there.

    A teacher needs it where its checkpoint has no head for the task, or a head for other labels. The options are those
    of distill, and `kdtool distill --resume RUN` goes on from there.

    \b
      kdtool teach --teacher bert-large --tasks sst2,mrpc --data path/to/glue --out runs/glue
    """
    run, state = work(session, given, "teach")
    if as_json:
        print_json(state)
        return
    click.echo(f"the teachers are ready in {run.path}\nnext: kdtool distill --resume {run.path}")
