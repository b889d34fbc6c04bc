"""One loop for the commands that work through files: a bad file is reported, the others are done."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import typer

from kodim.cli import signals
from kodim.cli.inputs import Inputs
from kodim.cli.output import (
    OUR_FAULT,
    THEIR_FAULT,
    complain,
    one_line,
    os_error_line,
    print_json,
    progress,
    report_bug,
    say,
)
from kodim.errors import KodimError

Row = dict[str, Any]


def work_through(
    inputs: Inputs, label: str, job: Callable[[Path], Row], describe: Callable[[Row], str], *, as_json: bool
) -> None:
    """Run `job` on every file, print what came of it, and end the command with the right exit code.

    With `as_json` one object is printed at the end: `{"files": [rows]}`, plus `"failed"` (input and reason)
    and `"skipped"` (files of a folder that the command does not take) when there are any. Else a line a file.

    Raises:
        typer.Exit: some inputs failed: 2, or 1 when one of them failed through a fault of kodim.
    """
    rows: list[Row] = []
    failed = [{"input": word, "reason": reason} for word, reason in inputs.failed]
    code = THEIR_FAULT if failed else 0
    inputs.note_skipped()
    for one in failed:
        complain(one["reason"])
    with progress(len(inputs.files), label) as advance:
        for path in inputs.files:
            signals.check()
            advance(path.name)
            try:
                row = job(path)
            except BrokenPipeError:
                raise
            except (KodimError, OSError) as error:
                reason = os_error_line(error, path) if isinstance(error, OSError) else about(path, error)
                complain(reason)
                failed.append({"input": str(path), "reason": reason})
                code = code or THEIR_FAULT
            except Exception as error:
                report_bug(error, path)
                failed.append({"input": str(path), "reason": one_line(f"{type(error).__name__}: {error}")})
                code = OUR_FAULT
            else:
                rows.append(row)
                if not as_json:
                    say(describe(row))
    if as_json:
        result: Row = {"files": rows}
        if failed:
            result["failed"] = failed
        if inputs.skipped:
            result["skipped"] = inputs.skipped
        print_json(result)
    if code:
        raise typer.Exit(code)


def about(path: Path, error: KodimError) -> str:
    """The error's line, with the file's name in front unless it is named already."""
    message = one_line(error)
    return message if path.name in message else f"{path}: {message}"
