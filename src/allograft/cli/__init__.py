"""The command line. It imports nothing heavy until a command runs."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from allograft import __version__
from allograft.cli.channel import resumption
from allograft.cli.cohorts import cohorts
from allograft.cli.compare import comparison
from allograft.cli.ensemble import ensembles
from allograft.cli.freeze import freezing
from allograft.cli.imports import imports
from allograft.cli.index import index
from allograft.cli.init import first
from allograft.cli.merge import merging
from allograft.cli.models import models
from allograft.cli.monitor import monitoring
from allograft.cli.schema import schemas
from allograft.cli.studies import studies
from allograft.cli.warned import say_warnings_plainly
from allograft.errors import AllograftError

app = typer.Typer(
    help="Adapt a medical-imaging model to another hospital, and compare the methods for it under one "
    "protocol. "
    "Research use only, not a medical device.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

app.add_typer(studies)
app.add_typer(models)
app.add_typer(imports, name="import")
app.add_typer(cohorts)
app.add_typer(comparison)
app.add_typer(ensembles)
app.add_typer(monitoring)
app.add_typer(first)
app.add_typer(schemas)
app.add_typer(freezing)
app.add_typer(merging)
app.add_typer(index, name="index")


def main() -> None:
    """Run a command. Exit code 2 for a user's mistake, 3 when some units failed; never a traceback
    for either."""
    say_warnings_plainly()
    try:
        app(prog_name="allograft")  # also as python -m allograft
    except AllograftError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print(resumption("interrupted", "everything that is finished"), file=sys.stderr)
        sys.exit(130)
    except SystemExit as stop:
        if stop.code == 130:  # what typer makes of Ctrl-C
            print(resumption("interrupted", "everything that is finished"), file=sys.stderr)
        raise
    except BrokenPipeError:
        sys.exit(1)
    except BaseException as reason:
        if type(reason).__name__ != "Stopped":  # named, not imported: its module is heavy
            raise
        print(resumption("stopped", "progress"), file=sys.stderr)
        sys.exit(143)


def _version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


if __name__ == "__main__":
    main()
