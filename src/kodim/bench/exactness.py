"""Does a file give the same latents wherever it is decoded?

A stream carries a CRC of its symbols, and a decoder that finds others raises DriftError; so decoding one stream in
many settings shows at once whether a codec's tables hang on how sums happen to be rounded.

Settings of one process: threads, oneDNN on and off, memory format, double precision, a GPU where there is one.
Settings of the processor's instruction set (as of an older machine) need a process each: `ISA` names the
environment variables, and `benchmarks/exactness.py` starts those processes.
"""

import copy
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import torch

from kodim.codec import Codec, Stream
from kodim.errors import KodimError

ISA: Mapping[str, Mapping[str, str]] = {
    "AVX2": {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"},
    "SSE4.1": {"ONEDNN_MAX_CPU_ISA": "SSE41", "ATEN_CPU_CAPABILITY": "default"},
}


@dataclass(frozen=True)
class Finding:
    """One stream in one setting.

    Attributes:
        setting: its name.
        same_latents: the symbols are those that were encoded.
        difference: largest difference of a pixel from the plain decode, in 1/255; None without a picture.
    """

    setting: str
    same_latents: bool
    difference: float | None


def check(codec: Codec, stream: Stream, size: tuple[int, int], quality: float) -> list[Finding]:
    """Decode a stream of `codec` (on the CPU, in eval mode) in every setting there is here."""
    plain = codec.decompress(stream, size, quality).double()
    findings = []
    for name, setting in settings().items():
        try:
            with setting(codec) as changed:
                x_hat = changed.decompress(stream, size, quality).double().cpu()
            findings.append(Finding(name, True, float((x_hat - plain).abs().max()) * 255))
        except KodimError:  # DriftError, or what a reader says who has lost its place in the stream
            findings.append(Finding(name, False, None))
    return findings


@contextmanager
def _threads(codec: Codec, count: int) -> Iterator[Codec]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield codec
    finally:
        torch.set_num_threads(before)


@contextmanager
def _without_onednn(codec: Codec) -> Iterator[Codec]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch speaks of TensorFloat-32 on other people's GPUs
        with torch.backends.mkldnn.flags(enabled=False):
            yield codec


@contextmanager
def _changed(codec: Codec, how: Callable[[Codec], Codec]) -> Iterator[Codec]:
    yield how(copy.deepcopy(codec)).eval()


def settings() -> dict[str, Callable[[Codec], AbstractContextManager[Codec]]]:
    """Name -> a context manager that gives the codec to decode with."""
    found: dict[str, Callable[[Codec], AbstractContextManager[Codec]]] = {
        "1 thread": lambda codec: _threads(codec, 1),
        "2 threads": lambda codec: _threads(codec, 2),
        "oneDNN off": _without_onednn,
        "channels last": lambda codec: _changed(codec, lambda c: c.to(memory_format=torch.channels_last)),  # type: ignore[call-overload]
        "float64": lambda codec: _changed(codec, lambda c: c.double()),
    }
    if torch.cuda.is_available():
        found["CUDA"] = lambda codec: _changed(codec, lambda c: c.cuda())
    return found
