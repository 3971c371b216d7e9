"""`kdtool plugins`."""

from __future__ import annotations

import inspect
from dataclasses import asdict, dataclass

import click

from ..errors import InputError, did_you_mean
from .options import print_json


@dataclass(frozen=True)
class _Row:
    kind: str
    name: str
    target: str
    distribution: str
    version: str


@click.group(invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="Print the list as JSON.")
@click.pass_context
def plugins(context: click.Context, as_json: bool) -> None:
    """List the installed students and teachers, or explain one.

    The list is read from metadata; no plug-in is imported, so a broken one does no harm here.

    \b
      kdtool plugins
      kdtool plugins explain bilstm
      kdtool plugins explain my_file.py:TinyLSTM
    """
    if context.invoked_subcommand is not None:
        return
    from ..plugins import GROUPS, installed

    rows = [
        _Row(kind, plugin.name, plugin.target, plugin.distribution, plugin.version)
        for kind in GROUPS
        for plugin in installed(kind).values()
    ]
    if as_json:
        print_json([asdict(row) for row in rows])
        return
    cells = [
        ("kind", "name", "class", "from"),
        *((r.kind, r.name, r.target, f"{r.distribution} {r.version}") for r in rows),
    ]
    widths = [max(len(row[column]) for row in cells) for column in range(3)]
    for first, second, third, last in cells:
        click.echo(f"{first:<{widths[0]}}  {second:<{widths[1]}}  {third:<{widths[2]}}  {last}")


@plugins.command()
@click.argument("name")
@click.option(
    "--kind",
    type=click.Choice(["student", "teacher"]),
    help="Which of the two, where a student and a teacher share a name.",
)
def explain(name: str, kind: str | None) -> None:
    """What a plug-in is, and its options: kdtool plugins explain bilstm"""
    from ..plugins import GROUPS, installed, options, plugin

    kinds = [kind] if kind else [k for k in GROUPS if name in installed(k)]
    if not kinds and ":" in name:
        kinds = [_kind_of(name)]
    if not kinds:
        known = [n for k in GROUPS for n in installed(k)]
        raise InputError(f"plug-in '{name}'", "is not installed", did_you_mean(name, known))
    for one in kinds:
        cls = plugin(one, name)
        registered = installed(one).get(name)
        origin = f" ({registered.target}, {registered.distribution} {registered.version})" if registered else ""
        click.echo(f"{one} {name}{origin}\n")
        click.echo(inspect.getdoc(cls) or "It has no description.")
        known_options = options(cls)
        click.echo("\noptions:" if known_options else "\nno options")
        width = max((len(option) for option in known_options), default=0)
        for option, parameter in known_options.items():
            default = "(needed)" if parameter.default is inspect.Parameter.empty else f"= {parameter.default!r}"
            annotation = "" if parameter.annotation is inspect.Parameter.empty else f"  {_shown(parameter.annotation)}"
            click.echo(f"  {option:<{width}} {default}{annotation}")


def _kind_of(name: str) -> str:
    from ..plugins import import_object
    from ..student import Student

    found = import_object(name, f"plug-in '{name}'")
    return "student" if inspect.isclass(found) and issubclass(found, Student) else "teacher"


def _shown(annotation: object) -> str:
    return annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
