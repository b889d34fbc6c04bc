"""What the commands share on the way out: lines, tables, JSON, progress, and files that appear whole."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import stat
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kodim.cli import signals
from kodim.errors import BadRequest
from kodim.progress import listening

if TYPE_CHECKING:
    from rich.table import Table

OK, OUR_FAULT, THEIR_FAULT, PIPE_CLOSED = 0, 1, 2, 141  # exit codes; the last is 128 + SIGPIPE, as of `cat`
PIPE_WIDTH = 1000  # columns for a table in a file or a pipe: one row one line, for grep


def one_line(text: object) -> str:
    """The text on one line, control characters escaped: file names may hold any."""
    line = " ".join(str(text).strip().splitlines())
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)


def say(text: str) -> None:
    """One line of result for the person, on stdout."""
    print(one_line(text), flush=True)


def complain(text: object) -> None:
    """One line on stderr, with the program's name."""
    print(f"kodim: {one_line(text)}", file=sys.stderr, flush=True)


def report_bug(error: BaseException, where: object = None) -> None:
    """One line for an error that is kodim's fault; the traceback when KODIM_TRACEBACK is set."""
    if os.environ.get("KODIM_TRACEBACK", "0") not in ("", "0"):
        traceback.print_exception(error)
    place = f"{where}: " if where is not None else ""
    what = "not enough memory" if isinstance(error, MemoryError) else f"{type(error).__name__}: {error}"
    complain(f"{place}{what} (a fault of kodim; KODIM_TRACEBACK=1 shows where)")


def note(text: object) -> None:
    """Something worth knowing that is not an error, on stderr."""
    complain(f"note: {text}")


def print_json(value: dict[str, Any]) -> None:
    """The one JSON object of a `--json` run, on stdout; callers map infinity, which is not JSON, to None."""
    print(json.dumps(value, allow_nan=False), flush=True)


def table_width() -> int:
    """Columns there are for a table."""
    from rich.console import Console

    return Console().width if sys.stdout.isatty() else PIPE_WIDTH


def print_table(table: Table) -> None:
    """A rich table on stdout, never folded to 80 columns when piped."""
    from rich.console import Console

    console = Console(width=table_width())
    with console.capture() as captured:  # printed by hand: rich would end the program on a closed pipe
        console.print(table)
    print(captured.get(), end="", flush=True)


def kilobytes(count: int) -> str:
    """1234 -> '1.2 kB', in powers of 1000 as file managers count."""
    if count < 1000:
        return f"{count} B"
    size = float(count)
    for unit in ("kB", "MB", "GB"):
        size /= 1000
        if size < 999.95 or unit == "GB":
            break
    return f"{size:.1f} {unit}"


@contextlib.contextmanager
def progress(total: int, label: str) -> Iterator[Callable[[str], None]]:
    """A bar on stderr while the block runs, if stderr is a terminal; yields `advance(what_comes_next)`."""
    if not sys.stderr.isatty():
        yield lambda what: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
    )
    # lines of results go above the bar when they go to the same terminal, and straight to a file when not
    shared = sys.stdout.isatty()
    with Progress(*columns, console=Console(stderr=True), transient=True, redirect_stdout=shared) as bar:
        task = bar.add_task(label, total=total)
        done, name = -1, ""

        def advance(what: str) -> None:
            nonlocal done, name
            done, name = done + 1, what
            bar.update(task, completed=done, description=f"{label} {one_line(what)}")

        def say_more(words: str) -> None:
            bar.update(task, description=f"{label} {one_line(name)}  {words}")

        with listening(lambda share: bar.update(task, completed=done + share), say_more):
            yield advance


def os_error_line(error: OSError, path: str | os.PathLike[str] | None = None) -> str:
    """'out.kdm: no space left on device' for an OSError, naming `path` rather than a temporary file."""
    where = path if path is not None else error.filename
    reason = (error.strerror or str(error) or type(error).__name__).lower()
    return f"{os.fspath(where)}: {reason}" if where else reason


def check_writable(path: Path) -> None:
    """Refuse an output that can never be written before minutes are spent on computing it."""
    if path.is_dir():
        raise BadRequest(f"{path}: is a folder, cannot be written as a file")
    folder = path.parent
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir():
        raise BadRequest(f"{path}: {folder} is not a folder")
    if path.exists() and not os.access(path, os.W_OK):  # renaming over it would work, but it was protected
        raise BadRequest(f"{path}: is write-protected")
    if not os.access(folder, os.W_OK | os.X_OK) and not path.exists():
        raise BadRequest(f"{path}: no permission to write in {folder}")


def write_file(path: Path, data: bytes) -> None:
    """Write `data` under `path` so that nobody ever sees half of it.

    The bytes go to a hidden file in the same folder, reach the disk, and are renamed in one step. Whatever
    goes wrong before that step, the hidden file is removed and what `path` held before is untouched. A device
    or a pipe (`-o /dev/stdout`) cannot be renamed over and is written directly.

    Raises:
        BadRequest: one line naming `path`: the disk is full, no permission, a folder is in the way.
    """
    try:
        if path.exists() and not stat.S_ISREG(path.stat().st_mode):
            check_writable(path)
            with open(path, "wb") as stream:
                stream.write(data)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            _replace(Path(os.path.realpath(path)), data)  # through a link, as `cp` does
    except BrokenPipeError:
        raise
    except OSError as error:
        raise BadRequest(os_error_line(error, path)) from error


def _replace(target: Path, data: bytes) -> None:
    hidden = target.parent / f".kodim-{os.getpid()}-{secrets.token_hex(8)}.part"
    try:
        # O_EXCL with mode 0666 leaves the permissions to the person's umask, which mkstemp would not
        handle = os.open(hidden, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        if target.exists():
            shutil.copymode(target, hidden)  # as `cp` over an existing file
        signals.check()
        os.replace(hidden, target)
    except BaseException:
        with contextlib.suppress(OSError):
            hidden.unlink()
        raise
    _sync_folder(target.parent)


def _sync_folder(folder: Path) -> None:
    """Make the rename itself survive a power cut, where the system lets a folder be synced."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
