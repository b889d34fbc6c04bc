"""The program: its commands, and how anything that goes wrong becomes one line and an exit code."""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from kodim.cli import (
    compare,
    compress,
    datasets,
    decompress,
    evaluate,
    import_,
    inspect,
    leaderboard,
    restore,
    signals,
    train,
)
from kodim.cli.output import (
    OK,
    OUR_FAULT,
    PIPE_CLOSED,
    THEIR_FAULT,
    complain,
    one_line,
    os_error_line,
    report_bug,
)
from kodim.errors import KodimError

app = typer.Typer(
    name="kodim",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("compress", epilog=compress.EXAMPLES)(compress.compress)
app.command("decompress", epilog=decompress.EXAMPLES)(decompress.decompress)
app.command("restore", epilog=restore.EXAMPLES)(restore.restore)
app.command("info", epilog=inspect.INFO_EXAMPLES)(inspect.info)
app.command("codecs", epilog=inspect.CODECS_EXAMPLES)(inspect.codecs)
app.command("evaluate", epilog=evaluate.EXAMPLES)(evaluate.evaluate)
app.command("leaderboard", epilog=leaderboard.EXAMPLES)(leaderboard.leaderboard)
app.command("compare", epilog=compare.EXAMPLES)(compare.compare)
app.command("train", epilog=train.EXAMPLES)(train.train)
app.command("datasets", epilog=datasets.EXAMPLES)(datasets.datasets)
app.command("import-compressai", epilog=import_.EXAMPLES)(import_.import_compressai)

EXAMPLES = """[bold]Examples[/bold]

kodim compress photo.jpg  →  photo.kdm, at quality 60

kodim decompress photo.kdm  →  photo.png

kodim compress holidays/ -o small/ --bpp 0.5

kodim evaluate photo.png --codec jpeg

kodim COMMAND --help  →  more about one command"""


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"kodim {version('kodim')}")
        raise typer.Exit


@app.callback(invoke_without_command=True, epilog=EXAMPLES)
def kodim(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Turn pictures into small files with learned codecs, and measure codecs against each other."""
    if context.invoked_subcommand is None:
        print(context.get_help())


def run(argv: Sequence[str] | None = None) -> int:
    """The body of `kodim.cli.main`."""
    if argv is None:
        argv = sys.argv[1:]
        _quiet_program()
    try:
        with signals.handled():
            code = _dispatch(list(argv))
            sys.stdout.flush()  # here, where a full disk or a closed pipe can still be reported
            return code
    except signals.Stopped as stop:
        complain(stop.reason)
        return 128 + stop.number
    except KeyboardInterrupt:  # outside the main thread, where no handler could be set
        complain("interrupted")
        return 130
    except BrokenPipeError:
        _abandon_stdout()
        return PIPE_CLOSED
    except OSError as error:
        _abandon_stdout()
        complain(os_error_line(error))
        return THEIR_FAULT


def _dispatch(argv: list[str]) -> int:
    """Parse and run; every Exception but trouble with stdout ends here."""
    command: Any = typer.main.get_command(app)
    try:
        with command.make_context("kodim", argv) as context:
            command.invoke(context)
        return OK
    except typer.Exit as done:
        return done.exit_code
    except SystemExit:  # how rich, which prints the help, takes a closed pipe
        raise BrokenPipeError from None
    except KodimError as error:
        complain(error)
        return THEIR_FAULT
    except OSError:
        raise
    except Exception as error:
        if hasattr(error, "format_message"):  # the parser's own errors, whichever package they live in
            complain(_usage_line(error))
            return THEIR_FAULT
        report_bug(error)
        return OUR_FAULT


def _usage_line(error: Any) -> str:
    """'no such option --foo (try kodim compress --help)' for what the parser prints on three lines."""
    message = one_line(error.format_message()).rstrip(".")
    message = message[:1].lower() + message[1:].replace("No such option: ", "no such option ")
    message = message.replace("no such option: ", "no such option ")
    context = getattr(error, "ctx", None)
    where = context.command_path if context is not None else "kodim"
    return f"{message} (try {where} --help)"


def _quiet_program() -> None:
    """Set up the process as a program: any file name can be printed, libraries' warnings stay silent."""
    # a stream closed by the shell (`>&-`) is None in Python
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    if not sys.warnoptions:
        warnings.simplefilter("ignore")


def _abandon_stdout() -> None:
    """Point stdout nowhere, or the interpreter reports the same failure again when it exits."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
