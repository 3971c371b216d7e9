"""`kdtool label`."""

from __future__ import annotations

from typing import Any

import click

from .main import Session
from .options import print_json, recipe_options
from .stages import run_options, work


@click.command()
@recipe_options
@run_options
@click.pass_obj
def label(session: Session, as_json: bool, **given: Any) -> None:
    """Store the teachers' outputs for every text, and stop there.

    Only texts that are not in the label store yet are given to a teacher. The options are those of distill, and
    `kdtool distill --resume RUN` goes on from there.

    \b
      kdtool label --teacher path/to/model --tasks sst2 --data path/to/glue --out runs/sst2
    """
    run, state = work(session, given, "label")
    if as_json:
        print_json(state)
        return
    click.echo(f"all texts of {run.path} are labelled\nnext: kdtool distill --resume {run.path}")
