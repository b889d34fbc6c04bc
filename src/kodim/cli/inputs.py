"""Which files a command works on, and where each result goes."""

from __future__ import annotations

import glob
import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kodim.cli.output import note
from kodim.errors import BadRequest, KodimError

MAGIC = 16  # bytes that tell a .kdm file from others, with room to spare
PICTURE_SUFFIXES = frozenset(
    (
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".avif", ".heic", ".heif", ".jxl"),
        *(".jp2", ".j2k", ".tif", ".tiff", ".bmp", ".gif", ".ppm", ".pgm", ".tga"),
    )
)
NOTES = 3  # so many skipped files are named one by one; more are counted


@dataclass
class Inputs:
    """What the words on the command line stand for.

    Attributes:
        kind: what is wanted, for messages: "picture".
        files: the files to work on, in the order given; those of a folder or a glob sorted by name.
        many: whether `-o` names a folder: several words, or one that is a folder or a glob.
        failed: words that stand for nothing, with the reason.
        skipped: files of a folder or a glob that are not of the kind the command takes.
    """

    kind: str
    files: list[Path] = field(default_factory=list)
    many: bool = False
    failed: list[tuple[str, str]] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    def note_skipped(self) -> None:
        """Say on stderr which files of folders were passed over."""
        if len(self.skipped) <= NOTES:
            for name in self.skipped:
                note(f"skipped {name}: not a {self.kind}")
        else:
            count, first = len(self.skipped), self.skipped[0]
            note(f"skipped {count} files that are not a {self.kind}, the first is {first}")


def expand(words: Sequence[str], wanted: Callable[[Path], bool], kind: str) -> Inputs:
    """Turn files, folders and globs into a list of files.

    A file named in full is taken as it is, whatever it holds. From a folder (not the folders inside it) or a
    glob (`**` goes deeper), only files for which `wanted` is true are taken.

    Args:
        words: the arguments.
        wanted: tells whether a file found in a folder is of the right kind.
        kind: what is wanted, for messages: "picture".
    """
    found = Inputs(kind, many=len(words) > 1)
    for word in words:
        try:
            files, several = _one_word(word)
            found.many |= several
            if several:
                right = [file for file in files if wanted(file)]
                if not right:
                    raise BadRequest(f"{word}: no {kind} in there")
                taken = set(right)
                found.skipped += [str(file) for file in files if file not in taken]
                files = right
            found.files = list(dict.fromkeys([*found.files, *files]))
        except KodimError as error:
            found.failed.append((word, str(error)))
    return found


def _one_word(word: str) -> tuple[list[Path], bool]:
    """The files a word stands for, and whether it is a folder or a glob."""
    path = Path(word)
    try:
        if path.is_dir():
            # hidden files are nobody's photographs: thumbnails, this program's own unfinished files
            return sorted(p for p in path.iterdir() if p.is_file() and not p.name.startswith(".")), True
        if path.exists():
            if not path.is_file():
                raise BadRequest(f"{word}: is not a regular file")
            return [path], False
        if glob.has_magic(word):
            matches = sorted(Path(match) for match in glob.glob(word, recursive=True))
            if not matches:
                raise BadRequest(f"{word}: nothing matches")
            return [match for match in matches if match.is_file()], True
    except (OSError, ValueError) as error:  # no permission; a name too long; a null character
        raise BadRequest(f"{word}: {getattr(error, 'strerror', None) or error}") from error
    raise BadRequest(f"{word}: no such file or folder")


def is_picture(path: Path) -> bool:
    """Whether a file found in a folder is meant as a picture: named like one, or readable as one.

    A damaged `photo.jpg` counts, so that it is reported instead of passed over.
    """
    if path.suffix.lower() in PICTURE_SUFFIXES:
        return True
    from PIL import Image, UnidentifiedImageError

    from kodim.picture import register_plugins

    register_plugins()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a picture too large: loading it will say so in one line
            with Image.open(path):
                return True
    except UnidentifiedImageError:
        return False
    except Exception:  # recognised, then found wrong: loading it will say how
        return True


def is_kdm_file(path: Path) -> bool:
    """Whether a file found in a folder is meant as a .kdm file: named like one, or with its signature."""
    if path.suffix.lower() == ".kdm":
        return True
    from kodim.container import is_kdm

    try:
        with open(path, "rb") as stream:
            return is_kdm(stream.read(MAGIC))
    except OSError:
        return False


def read_bytes(path: Path) -> bytes:
    """The file's bytes, or BadRequest in one line."""
    try:
        if path.exists() and not path.is_file():  # a device or a pipe may never end
            raise BadRequest(f"{path}: is {'a folder' if path.is_dir() else 'not a regular file'}")
        return path.read_bytes()
    except OSError as error:
        raise BadRequest(f"{path}: {(error.strerror or str(error)).lower()}") from error


class Outputs:
    """Where results go: next to their inputs, into a folder, or under the one name that `-o` gives.

    Args:
        option: the value of `-o`, if any.
        extension: of the results, with its dot.
        inputs: what the run works on; `inputs.many` makes `-o` the name of a folder.

    Raises:
        BadRequest: `-o` names a file but there are several inputs.
    """

    def __init__(self, option: str | None, extension: str, inputs: Inputs) -> None:
        self.extension = extension
        self.folder: Path | None = None
        self.file: Path | None = None
        self._taken = {os.path.realpath(file): file for file in inputs.files}
        if option is None:
            return
        if option == "":
            raise BadRequest("-o names nothing")
        path = Path(option)
        if inputs.many or path.is_dir() or option.endswith(("/", os.sep)):
            if path.exists() and not path.is_dir():
                why = "; with several inputs -o names a folder" if inputs.many else ", not a folder"
                raise BadRequest(f"{option}: is a file{why}")
            self.folder = path
        else:
            if not path.parent.is_dir():
                raise BadRequest(f"{option}: there is no folder {path.parent}")
            self.file = path

    def path_for(self, source: Path) -> Path:
        """The output of one input.

        Raises:
            BadRequest: it would overwrite an input of this run, or what another input became.
        """
        target = self.file or (self.folder or source.parent) / (source.stem + self.extension)
        if target.exists() and source.exists() and os.path.samefile(source, target):
            raise BadRequest(f"{source}: the output would overwrite the input; name another place with -o")
        other = self._taken.setdefault(os.path.realpath(target), source)
        if other != source:
            what = "is another input" if os.path.realpath(other) == os.path.realpath(target) else f"is that of {other}"
            raise BadRequest(f"{source}: its output {target} {what}; give it its own run with -o")
        return target
