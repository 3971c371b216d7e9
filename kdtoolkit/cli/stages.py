"""What distill, teach and label share: start or resume a run, and work up to a stage."""

from __future__ import annotations

import shlex
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from .. import processes
from ..errors import InputError
from . import workers
from .options import chosen_recipe, run_name, says_something

if TYPE_CHECKING:
    from ..labels import Engine
    from ..pipeline import RunFolder
    from .main import Session


def run_options(command: Any) -> Any:
    """--out, --resume, --processes and --json."""
    for option in (
        click.option(
            "--processes",
            type=click.IntRange(min=1),
            metavar="N",
            help="Refuse to start unless a launcher (torchrun, accelerate launch, mpirun) has started N processes.",
        ),
        click.option("--json", "as_json", is_flag=True, help="Print results as JSON instead of a table."),
        click.option("--resume", metavar="RUN", help="Go on with an unfinished run; a finished one stays as it is."),
        click.option("--out", metavar="FOLDER", help="Folder of the run; default: runs/NAME."),
    ):
        command = option(command)
    return command


workers_option = click.option(
    "--workers",
    type=click.IntRange(min=1),
    metavar="N",
    help="Processes on this machine that share the work, with a core or a GPU each; default: this one. On several "
    "machines a launcher starts them.",
)


def work(
    session: Session, given: dict[str, Any], until: str, engine: Engine | None = None
) -> tuple[RunFolder, dict[str, Any]]:
    """The run that the options ask for, worked on up to `until`, and what it has to show. engine: what labels."""
    count = given.pop("workers", None)
    if workers.are_to_start(count):
        processes.leave(workers.run(session.arguments, count))
    # Only what needs no torch is imported before the run's folder exists, so that it can be resumed from then on.
    from ..pipeline import run_stages

    processes.start(given.pop("processes"))
    if processes.size() > 1:  # a launcher ends the others so when one has failed
        signal.signal(signal.SIGTERM, _ended_by_the_launcher)
    run = _run_of_all(given)
    session.run = shlex.quote(str(run.path))
    try:
        results = run_stages(run, until, engine)
    except InputError:
        if not run.path.exists():
            session.run = None
        raise
    if not processes.is_first():
        processes.leave(0)  # the first has the results
    return run, results


def _ended_by_the_launcher(number: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt("by the launcher, as when another process of the run has failed")


def _run_of_all(given: dict[str, Any]) -> RunFolder:
    """The run, made or found by the first process and opened by the others."""
    from ..pipeline import RunFolder

    found: list[RunFolder] = []

    def chosen() -> str:
        found.append(_run(given))
        return str(found[0].path.resolve())

    path = processes.from_first(chosen)
    return found[0] if found else RunFolder.open(Path(path))


def _run(given: dict[str, Any]) -> RunFolder:
    from ..pipeline import resume_run, start_run

    if given["resume"] is None:
        recipe = chosen_recipe(given)
        return start_run(recipe, Path(given["out"]) if given["out"] else None, run_name(given))
    if given["out"]:
        raise click.UsageError("--out starts a new run and --resume goes on with an old one; leave one of them out")
    path = Path(given["resume"])
    written = path / "recipe.yaml"
    changed = says_something(given) and written.is_file()
    return resume_run(path, chosen_recipe(given, base=written) if changed else None)
