"""Progressive files: any prefix decodes to the best picture it allows, and says so where it must not."""

from pathlib import Path

import numpy as np
import pytest
import torch

from kodim import container, tiles, weights
from kodim.codec import Codec, Stream
from kodim.errors import CorruptFile, DriftError
from kodim.learned import LearnedCodec, decode_kdm, from_weights, to_pixels, to_tensor
from kodim.picture import load
from kodim.rate import compress_to
from kodim.registry import create

BY_PASS = ["toderici2016", "toderici2017", "islam2021", "baig2017"]
ADAPTIVE = ["johnston2018", "covell2017"]


def tiny(slug: str) -> Codec:
    torch.manual_seed(0)
    return create(slug, preset="test", pretrained=False)


@pytest.fixture(scope="module")
def coder(tmp_path_factory: pytest.TempPathFactory) -> LearnedCodec:
    """A codec of three passes with (untrained) weights of its own, as the command line would load it."""
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    weights.save(tiny("islam2021"), path)
    return from_weights(path)


@pytest.mark.parametrize("slug", BY_PASS + ADAPTIVE)
@pytest.mark.parametrize("size", [(1, 1), (67, 93)])
def test_any_number_of_passes_decodes_to_the_picture_shown_behind_them(slug: str, size, photo) -> None:
    codec = tiny(slug)
    x = to_tensor(photo[: size[0], : size[1]])
    stream, x_hat = codec.compress(x, 100.0)
    out = codec(x, 100.0)
    assert len(stream.passes) == len(out.pictures) == codec.passes == codec.passes_of(100.0)
    assert stream.data == b"".join(part.data for part in stream.passes)
    for k, picture in enumerate(out.pictures, 1):
        part = Stream.of(stream.passes[:k])
        assert torch.equal(codec.decompress(part, size, 100.0), picture)
        bits = float(sum(out.pass_bits[:k]))
        assert abs(8 * len(part.data) - bits) <= 0.001 * bits + 64
    assert torch.equal(out.pictures[-1], x_hat)


@pytest.mark.parametrize("slug", BY_PASS)
def test_quality_chooses_the_number_of_passes(slug: str, photo) -> None:
    codec = tiny(slug)
    x = to_tensor(photo[:64, :64])
    whole, _ = codec.compress(x, 100.0)
    assert len(codec.qualities) == codec.passes
    for k, quality in enumerate(codec.qualities, 1):
        stream, _ = codec.compress(x, quality)
        assert stream.passes == whole.passes[:k]  # a smaller file is the beginning of the larger one


def test_a_batch_of_several_qualities(photo) -> None:
    codec = tiny("toderici2017")
    x = torch.cat([to_tensor(photo[:64, :64]), to_tensor(photo[64:128, :64])])
    together = codec(x, torch.tensor([0.0, 100.0]))
    for i, quality in enumerate((0.0, 100.0)):
        alone = codec(x[i : i + 1], quality)
        torch.testing.assert_close(together.x_hat[i : i + 1], alone.x_hat, atol=1e-4, rtol=0)
        assert float(together.bpp[i]) == pytest.approx(float(alone.bpp[0]), rel=1e-3)


def test_a_damaged_pass_is_found(photo) -> None:
    codec = tiny("toderici2016")
    stream, _ = codec.compress(to_tensor(photo[:64, :64]), 100.0)
    data = bytearray(stream.passes[1].data)
    data[3] ^= 16
    bad = Stream.of([stream.passes[0], Stream(bytes(data), stream.passes[1].symbols_crc), stream.passes[2]])
    with pytest.raises((DriftError, CorruptFile)):
        codec.decompress(bad, (64, 64), 100.0)


def ends_of_chunks(data: bytes) -> list[tuple[str, int]]:
    """Type of every chunk, and where it ends."""
    at, found = 8, []
    while at < len(data):
        kind = data[at : at + 4].decode()
        at += 12 + int.from_bytes(data[at + 4 : at + 8], "big")
        found.append((kind, at))
    return found


def test_every_cut_of_a_file(coder: LearnedCodec, photo) -> None:
    picture = load(photo[:67, :93])
    data = coder.encode(picture, 100.0)
    out = coder.codec(to_tensor(picture.pixels), 100.0)
    shown = [to_pixels(p) for p in out.pictures]
    cuts = [end for kind, end in ends_of_chunks(data) if kind == "DATA"]
    assert cuts[-1] == len(data)
    header = ends_of_chunks(data)[0][1]
    for length in sorted({*range(header, len(data), 7), *cuts, *(c - 1 for c in cuts)}):
        complete = sum(cut <= length for cut in cuts)
        part = data[:length]
        if length < len(data):
            with pytest.raises(CorruptFile, match="cut short"):
                decode_kdm(part, given=coder.path)
        if not complete:
            with pytest.raises(CorruptFile, match="cut short"):
                decode_kdm(part, partial=True, given=coder.path)
            continue
        if length in (*cuts, cuts[0] + 7, cuts[1] - 1):
            decoded = decode_kdm(part, partial=True, given=coder.path)
            np.testing.assert_array_equal(decoded.pixels, shown[complete - 1])


def test_tiles_come_pass_by_pass(coder: LearnedCodec, photo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, "WHOLE", 1 << 12)
    monkeypatch.setattr(tiles, "CORE", 64)
    monkeypatch.setattr(tiles, "HALO", 32)
    picture = load(photo[:100, :120])
    data = coder.encode(picture, 100.0)
    count = len(tiles.layout(100, 120))
    assert count == 4
    assert len(container.parse(data).payloads) == 3 * count
    first = decode_kdm(coder.encode(picture, 0.0), given=coder.path).pixels
    cuts = [end for kind, end in ends_of_chunks(data) if kind == "DATA"]
    np.testing.assert_array_equal(decode_kdm(data[: cuts[3]], partial=True, given=coder.path).pixels, first)
    mixed = decode_kdm(data[: cuts[4]], partial=True, given=coder.path).pixels  # one tile is a pass ahead
    assert (mixed[:64, :64] != first[:64, :64]).any()
    np.testing.assert_array_equal(mixed[64:, 64:], first[64:, 64:])
    some = decode_kdm(data[: cuts[1]], partial=True, given=coder.path).pixels
    assert (some[64:] == 128).all()


def test_targets_stop_at_a_pass(coder: LearnedCodec, photo) -> None:
    picture = load(photo[:96, :96])
    sizes = [len(coder.encode(picture, q)) for q in coder.qualities]
    assert not coder.continuous
    assert sizes == sorted(sizes)
    for size in sizes:
        result = compress_to(coder, picture, bpp=8 * size / 96**2)
        assert (len(result.data), result.status) == (size, "met")


def test_effort_changes_nothing_where_bits_answer_the_picture(coder: LearnedCodec, photo) -> None:
    picture = load(photo[:64, :64])
    assert coder.encode(picture, 50.0, effort=3) == coder.encode(picture, 50.0) == coder.encode(picture, 50.0, effort=2)


def test_too_many_or_too_few_passes_are_damage(coder: LearnedCodec, photo: np.ndarray, tmp_path: Path) -> None:
    file = container.parse(coder.encode(load(photo[:64, :64]), 50.0))
    for payloads in (file.payloads[:1], file.payloads * 2):
        with pytest.raises(CorruptFile, match="streams where 2 belong"):
            decode_kdm(container.pack(container.KdmFile(file.header, payloads)), given=coder.path)
