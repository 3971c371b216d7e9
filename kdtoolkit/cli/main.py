"""`kdtool`: the list of commands, exit codes, and what is said when something goes wrong.

Exit codes: 0 done, 1 the work failed, 2 the input was wrong. Nothing heavy is imported here: `kdtool --help` must
answer at once.
"""

from __future__ import annotations

import gc
import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import click

from .. import __version__, processes
from ..errors import InputError, KdtoolkitError, PeerFailed, did_you_mean

COMMANDS = {
    "distill": "Distil teachers into one small student, and show what it gained.",
    "teach": "Fine-tune the teachers that need it, and stop there.",
    "label": "Store the teachers' outputs for every text, and stop there.",
    "evaluate": "Measure a finished student again, on dev or test.",
    "predict": "Label text with a finished student: text in, JSON lines out.",
    "check": "Look for everything that can be wrong, before any long work.",
    "explain": "Formula, source and options of objectives, heads, samplers and the like.",
    "recipes": "List, show or copy the built-in recipes.",
    "plugins": "List the installed students and teachers, or explain one.",
    "doctor": "Show versions, devices, and which native code is in use.",
    "clean": "Show what label stores and runs take on the disk, and delete it.",
}

TOGETHER = ("distill", "teach", "label")
"""Commands that several processes may work on."""

HELP = """Distil any teacher into one small, fast student for many text tasks.

\b
  kdtool distill                                   the bundled demo: no download, a few minutes on a CPU
  kdtool distill --teacher bert-large --student bilstm --tasks sst2,mrpc,rte
  kdtool distill --teacher path/to/model --train train.csv --dev dev.csv
  echo "a lovely film" | kdtool predict runs/demo --task demo_sentiment

`kdtool COMMAND --help` explains a command with examples. Exit codes: 0 done, 1 the work failed, 2 the input was
wrong."""


class Kdtool(click.Group):
    """A group that imports a command only when it is used, and turns errors into messages and exit codes."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        return getattr(importlib.import_module(f"kdtoolkit.cli.{cmd_name}"), cmd_name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[Any, Any, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            ctx.fail(f"there is no command '{args[0]}'; {did_you_mean(args[0], COMMANDS)}")
        return super().resolve_command(ctx, args)

    def main(self, args: Sequence[str] | None = None, *rest: Any, **extra: Any) -> NoReturn:
        """Runs the command and exits with its code; an error is a message, and a traceback only with --debug."""
        arguments = list(sys.argv[1:] if args is None else args)
        extra["standalone_mode"] = False
        session = extra.setdefault("obj", Session())
        session.arguments = arguments
        try:
            # Not standalone, click returns the code of --help and --version, or what the command returned.
            code = super().main(arguments, *rest, **extra)
        except click.exceptions.Exit as error:
            processes.leave(error.exit_code)
        except (click.Abort, KeyboardInterrupt) as error:
            if isinstance(error.__cause__, EOFError):
                _unexpected(error.__cause__, session)  # to click, a file that ends too early is a user who left
            stopped = " ".join(["\nStopped", *map(str, (error.__cause__ or error).args)])
            _say(f"{stopped}. To go on from here: {session.resume()}" if session.run else f"{stopped}.")
            processes.leave(1)
        except click.ClickException as error:
            if processes.is_first():
                error.show()
            processes.leave(error.exit_code)
        except KdtoolkitError as error:
            if session.debug:
                raise
            _say(f"kdtool: {error}", of_all=not isinstance(error, PeerFailed))
            if session.run:
                _say(f"What was finished is kept. To go on once that is put right: {session.resume()}")
            processes.leave(error.exit_code)
        except BrokenPipeError:
            # Whoever read the output has had enough (`| head`); Python must not complain about it at exit either.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            processes.leave(1)
        except MemoryError:
            _say("kdtool: out of memory; try a smaller train.batch_rows or data.max_tokens", of_all=True)
            processes.leave(1)
        except Exception as error:
            _unexpected(error, session)
        processes.leave(code if isinstance(code, int) else 0)


class Session:
    """What the end of a command must know: whether to show tracebacks, and which run was being worked on.

    workers: how many processes `--workers` has started, of which this is one; None: it was not used.
    """

    def __init__(self, workers: int | None = None) -> None:
        self.debug = False
        self.run: str | None = None
        self.arguments: list[str] = []
        self.workers = workers

    def resume(self) -> str:
        """The command that goes on with the run."""
        if self.workers is not None:
            return f"kdtool distill --workers {self.workers} --resume {self.run}"
        several = processes.size() > 1
        return f"{processes.launch() if several else 'kdtool'} distill --resume {self.run}"


def _unexpected(error: BaseException, session: Session) -> NoReturn:
    if session.debug:
        raise error
    if processes.lost(error):
        _say(f"kdtool: another process of the run is gone ({str(error).splitlines()[0]})")
    else:
        _say(f"kdtool: {type(error).__name__}: {error}", of_all=True)
        _say(
            "This is likely a bug of kdtoolkit or of a plug-in; `kdtool --debug ...` shows where it happened.",
            of_all=True,
        )
    if session.run:
        _say(f"What was finished is kept: {session.resume()}")
    processes.leave(1)


def _say(text: str, *, of_all: bool = False) -> None:
    """To stderr; of several processes the first speaks, and another one only of what it alone knows (of_all)."""
    if processes.is_first():
        click.echo(text, err=True)
    elif of_all:
        click.echo(f"process {processes.rank()}: {text}", err=True)


@click.group(cls=Kdtool, help=HELP, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="kdtool", message="%(prog)s %(version)s")
@click.option("--debug", is_flag=True, help="Show tracebacks and more of the log.")
@click.pass_context
def kdtool(context: click.Context, debug: bool) -> None:
    """The root of all commands."""
    import logging

    from ..progress import show

    context.obj.debug = debug
    command = context.invoked_subcommand
    if processes.size() > 1 and command not in TOGETHER:
        cause = f"it started {processes.size()} processes, and `kdtool {command}` works in one"
        raise InputError("launcher", cause, "start it without a launcher")
    show(logging.DEBUG if debug else logging.INFO if processes.is_first() else logging.ERROR)


def main() -> NoReturn:
    """The entry point of the `kdtool` script."""
    try:
        kdtool.main(prog_name="kdtool")
    finally:
        gc.freeze()  # Python would look through all that was imported for cycles, for up to a second, and then end


if __name__ == "__main__":
    main()
