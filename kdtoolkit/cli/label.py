"""`kdtool label`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from .. import processes
from ..errors import InputError
from .main import Session
from .options import print_json, recipe_options
from .stages import run_options, work

if TYPE_CHECKING:
    from ..labels import Engine


@click.command()
@recipe_options
@click.option(
    "--engine",
    type=click.Choice(["local", "ray"]),
    default="local",
    help="What runs the teachers: this machine, or Ray Data, on a cluster that sees the same files.",
)
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    metavar="N",
    help="Processes that label, each with a teacher of its own; default: this one, of Ray one for each CPU or GPU.",
)
@run_options
@click.pass_obj
def label(session: Session, as_json: bool, engine: str, workers: int | None, **given: Any) -> None:
    """Store the teachers' outputs for every text, and stop there.

    Only texts that are not in the label store yet are given to a teacher. The options are those of distill, and
    `kdtool distill --resume RUN` goes on from there.

    \b
      kdtool label --teacher path/to/model --tasks sst2 --data path/to/glue --out runs/sst2
      kdtool label --recipe mkd_bilstm --data path/to/glue --workers 8
      kdtool label --recipe mkd_bilstm --data /shared/glue --out /shared/runs/mkd --engine ray
    """
    run, state = work(session, given, "label", _engine(engine, workers))
    if as_json:
        print_json(state)
        return
    click.echo(f"all texts of {run.path} are labelled\nnext: kdtool distill --resume {run.path}")


def _engine(name: str, workers: int | None) -> Engine | None:
    if processes.size() > 1 and (name != "local" or workers is not None):
        cause = f"the launcher started {processes.size()} processes, which label together"
        raise InputError("--engine" if name != "local" else "--workers", cause, "leave one of the two out")
    if name == "ray":
        from ..labels.ray_engine import RayData

        return RayData(workers)
    if workers is None:
        return None
    from ..labels.workers import Workers

    return Workers(workers)
