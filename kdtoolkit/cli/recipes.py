"""`kdtool recipes`."""

from __future__ import annotations

from pathlib import Path

import click

from ..errors import InputError, did_you_mean


@click.group(invoke_without_command=True)
@click.pass_context
def recipes(context: click.Context) -> None:
    """List, show or copy the built-in recipes.

    \b
      kdtool recipes
      kdtool recipes show glue_bilstm
      kdtool recipes copy glue_bilstm mine.yaml
    """
    if context.invoked_subcommand is None:
        context.invoke(list_)


@recipes.command(name="list")
def list_() -> None:
    """Names of the built-in recipes, each with the command that runs it."""
    from ..recipe.load import recipe_names

    width = max(map(len, recipe_names()))
    for name in recipe_names():
        header = _text(name).splitlines()[0].removeprefix("#").strip()
        click.echo(f"{name:<{width}}  {header}")


@recipes.command()
@click.argument("name")
def show(name: str) -> None:
    """Print a recipe: kdtool recipes show glue_bilstm"""
    click.echo(_text(name), nl=False)


@recipes.command()
@click.argument("name")
@click.argument("file", required=False)
def copy(name: str, file: str | None) -> None:
    """Write a recipe to a file of your own, to change it there.

    \b
      kdtool recipes copy glue_bilstm mine.yaml
    """
    from ..files import write_text

    path = Path(file or f"{name}.yaml")
    if path.is_dir():
        path = path / f"{name}.yaml"
    text = _text(name)
    if path.exists():
        raise InputError(str(path), "exists", "choose another file name, or delete it first")
    write_text(path, text)
    click.echo(f"{path}\nnext: kdtool check {path}")


def _text(name: str) -> str:
    from ..recipe.load import recipe_names, recipe_text

    if name not in recipe_names():
        raise InputError(
            f"recipe '{name}'", "there is no built-in recipe of this name", did_you_mean(name, recipe_names())
        )
    return recipe_text(name)[1]
