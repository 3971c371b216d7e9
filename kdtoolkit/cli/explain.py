"""`kdtool explain`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from ..errors import InputError, did_you_mean
from .options import print_json

if TYPE_CHECKING:
    from ..catalogue import Entry


@click.command()
@click.argument("kind", required=False)
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def explain(kind: str | None, name: str | None, as_json: bool) -> None:
    """Formula, source and options of objectives, heads, samplers and the like.

    KIND: objective, balance, sampler, head, schedule or augment. Without NAME, all of that kind.

    \b
      kdtool explain
      kdtool explain objective
      kdtool explain objective dkd
    """
    from ..catalogue import CATALOGUE

    if kind is not None and kind not in CATALOGUE:
        commands = [f"`kdtool explain {one} {kind}`" for one in CATALOGUE if kind in CATALOGUE[one]]
        remedy = f"did you mean {' or '.join(commands)}?" if commands else did_you_mean(kind, CATALOGUE)
        raise InputError(f"kind '{kind}'", "is nothing that can be explained", remedy)
    kinds = [kind] if kind else list(CATALOGUE)
    if kind is not None and name is not None:
        entry = CATALOGUE[kind].get(name)
        if entry is None:
            method = [one.name for one in CATALOGUE[kind].values() if f"({name.lower()})" in one.summary.lower()]
            remedy = f"did you mean {' or '.join(method)}?" if method else did_you_mean(name.lower(), CATALOGUE[kind])
            raise InputError(f"{kind} '{name}'", f"there is no {kind} of this name", remedy)
        print_json(_plain(entry)) if as_json else click.echo(_text(entry))
        return
    if as_json:
        print_json({one: {entry.name: entry.summary for entry in CATALOGUE[one].values()} for one in kinds})
        return
    width = max(len(entry) for one in kinds for entry in CATALOGUE[one])
    for one in kinds:
        click.echo(f"{one}:")
        for entry in CATALOGUE[one].values():
            click.echo(f"  {entry.name:<{width}}  {entry.summary}")
    click.echo(f"\nnext: kdtool explain {kinds[0]} {next(iter(CATALOGUE[kinds[0]]))}")


def _text(entry: Entry) -> str:
    lines = [f"{entry.kind} {entry.name}: {entry.summary}", "", "in a recipe:", f"  {entry.use}", "", "formula:"]
    lines += [f"  {line}" for line in entry.formula]
    lines += ["", f"source: {entry.source}"]
    options = entry.option_lines()
    place = " (keys of the item of objective.terms)" if entry.is_term else ""
    lines += ["", f"options{place}:" if options else "no options"]
    for option in options:
        default = "required" if option.required else f"default {_yaml(option.default)}"
        lines.append(f"  {option.key}: {option.type}, {default}")
        lines.append(f"      {option.meaning}")
    if entry.rowwise is not None:
        yes = "a sum over rows: cutting a batch changes nothing"
        lines += ["", yes if entry.rowwise else "no sum over rows: it depends on which rows share a batch"]
    if entry.notes:
        lines += ["", "limits:", *(f"  - {note}" for note in entry.notes)]
    return "\n".join(lines)


def _yaml(value: Any) -> str:
    """A default as a recipe would say it."""
    return value if isinstance(value, str) else json.dumps(value)


def _plain(entry: Entry) -> dict[str, Any]:
    return {
        "kind": entry.kind,
        "name": entry.name,
        "summary": entry.summary,
        "use": entry.use,
        "formula": list(entry.formula),
        "source": entry.source,
        "options": [
            {
                "key": option.key,
                "type": option.type,
                "required": option.required,
                "default": option.default,
                "meaning": option.meaning,
            }
            for option in entry.option_lines()
        ],
        "sum_over_rows": entry.rowwise,
        "notes": list(entry.notes),
    }
