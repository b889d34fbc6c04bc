"""Everything kodim refuses, it refuses with one of these: one line, written for the person at the keyboard."""


class KodimError(Exception):
    """The input or the request is at fault. The command line prints the message and exits with code 2."""


class BadRequest(KodimError):
    """The request cannot be met: a quality outside 0..100, a missing file, an unwritable output."""


class UnsupportedImage(KodimError):
    """The picture cannot be read, or is of a kind that kodim would have to mangle."""


class CorruptFile(KodimError):
    """A .kdm file that is damaged, cut short, or not a .kdm file at all."""


class DriftError(KodimError):
    """The decoded symbols are not those that were encoded: the two machines computed different probabilities."""


class UnknownCodec(KodimError):
    """No codec of that name is registered."""


class MissingWeights(KodimError):
    """The codec exists, but the trained weights that the request or the file needs are not here."""
