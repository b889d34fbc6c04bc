"""What the conventional codecs share: one 0..100 quality scale, refusals in one line, and no silent loss."""

from __future__ import annotations

import importlib.util
import math
from abc import ABC, abstractmethod
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, ClassVar

from kodim.errors import BadRequest, UnsupportedImage

if TYPE_CHECKING:
    from kodim.picture import Picture

TUNINGS = ("psnr", "perceptual")


class ClassicalCodec(ABC):
    """A published, hand-designed codec behind the interface of the learned ones.

    `quality` is 0..100, higher is better and larger; each class says which knob of its encoder it turns.
    A codec whose `continuous` is false rounds it to a whole number, and where the encoder's own knob is
    coarser than that, neighbouring qualities give the same file: size never falls on the way up by design
    (encoders that decide adaptively may break this by a few bytes). `effort` is 1..9, higher is slower and
    smaller; None is the encoder's own default. Encoders run on one thread, so that times compare and files
    repeat.

    Parameters
    ----------
    tune:
        "psnr" (default) switches off what an encoder does against PSNR for the eye's sake, for
        tables of PSNR. "perceptual" leaves the encoder's defaults. Codecs without such a choice ignore it.
    """

    slug: str
    title: str
    authors: ClassVar[str]
    year: ClassVar[int]
    arxiv: ClassVar[str | None] = None
    aliases: tuple[str, ...] = ()
    kind: ClassVar[str] = "classical"
    extension: ClassVar[str]
    qualities: ClassVar[tuple[float, ...]]
    continuous: ClassVar[bool] = False
    module: ClassVar[str | None] = None  # the Python module that brings the codec, when Pillow alone does not
    package: ClassVar[str] = "pillow"  # the distribution that brings it
    extra: ClassVar[str] = "bench"  # the pip extra of kodim that installs it

    def __init__(self, *, tune: str = "psnr") -> None:
        if tune not in TUNINGS:
            raise BadRequest(f"{self.slug}: tune is one of {', '.join(TUNINGS)}, not {tune!r}")
        self.tune = tune

    @abstractmethod
    def arguments(self, quality: float, *, effort: int | None = None) -> dict[str, Any]:
        """The exact arguments given to the encoder, for result tables; values are JSON-friendly.

        Raises BadRequest when quality is outside 0..100 or effort outside 1..9.
        """

    @abstractmethod
    def encode(self, picture: Picture, quality: float, *, effort: int | None = None) -> bytes:
        """The complete file. Raises BadRequest or UnsupportedImage for what the format cannot carry."""

    @abstractmethod
    def decode(self, data: bytes) -> Picture:
        """The picture in a file of this format. Raises CorruptFile or UnsupportedImage."""

    @abstractmethod
    def versions(self) -> dict[str, str]:
        """Name -> version of the software that does the work; figures without these cannot be repeated."""

    def available(self) -> bool:
        """Whether the encoder is installed. Imports nothing."""
        return self.module is None or importlib.util.find_spec(self.module) is not None

    def require(self) -> None:
        """Raise BadRequest naming the pip extra when the encoder is not installed."""
        if not self.available():
            raise BadRequest(f'{self.slug}: the package {self.package} is missing: pip install "kodim[{self.extra}]"')

    def knob(self, quality: float) -> float:
        """`quality` checked against 0..100, and rounded to a whole number unless the codec is continuous."""
        if isinstance(quality, bool) or not isinstance(quality, int | float) or not 0 <= quality <= 100:
            raise BadRequest(f"{self.slug}: quality is a number from 0 to 100, not {quality!r}")
        # Halves go up: round() would send 1 of 2 of them down, and two steps could meet.
        return float(quality) if self.continuous else math.floor(quality + 0.5)

    def scaled_effort(self, effort: int | None, scale: tuple[Any, ...], default: Any) -> Any:
        """The encoder's own setting for an effort of 1..9: `scale` has nine entries, None gives `default`."""
        if effort is None:
            return default
        if isinstance(effort, bool) or not isinstance(effort, int) or not 1 <= effort <= 9:
            raise BadRequest(f"{self.slug}: effort is a whole number from 1 to 9, not {effort!r}")
        return scale[effort - 1]

    def refuse_alpha(self, picture: Picture) -> None:
        """Raise UnsupportedImage for an alpha channel: dropping it would change the picture."""
        if picture.alpha is not None:
            raise UnsupportedImage(
                f"{self.slug}: cannot carry transparency; flatten the picture, or use webp, avif, heic or jxl"
            )

    def refuse_profile(self, picture: Picture) -> None:
        """Raise BadRequest when the picture needs a colour profile that the writer cannot store.

        Without its profile such a picture would show wrong colours; sRGB is what readers assume anyway.
        """
        if picture.icc is None:
            return
        name = profile_name(picture.icc)
        if not is_srgb(name):
            raise BadRequest(
                f"{self.slug}: cannot carry the picture's colour profile ({name}); convert it to sRGB first"
            )

    def __repr__(self) -> str:
        return f"<classical codec {self.slug} tune={self.tune}>"


def profile_name(icc: bytes) -> str:
    """The description inside an ICC profile, or "unreadable profile"."""
    import io

    from PIL import ImageCms

    try:
        profile = ImageCms.getOpenProfile(io.BytesIO(icc))
        return " ".join(ImageCms.getProfileDescription(profile).split()) or "unnamed profile"
    except (ImageCms.PyCMSError, OSError, TypeError, ValueError):
        return "unreadable profile"


def is_srgb(name: str) -> bool:
    """Whether an ICC description says sRGB, in the words of the common makers of profiles or of libjxl."""
    return name.lower().startswith("srgb") or name in ("RGB_D65_SRG_Rel_SRG", "Gra_D65_Rel_SRG", "c2", "c2ci")


def package_version(package: str) -> str:
    """The installed version of a distribution, or "missing"."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "missing"


def first_line(error: BaseException) -> str:
    """An exception's text as one line, for messages."""
    text = " ".join(str(error).split())
    return text[:200] or type(error).__name__
