"""The .kdm file from outside: what is packed comes back, and nothing damaged or hostile gets through."""

import dataclasses
import json
import random
import struct
import subprocess
import sys
import tracemalloc
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kodim.container import (
    MAX_METADATA,
    SIGNATURE,
    Header,
    KdmFile,
    Payload,
    describe,
    header_bytes,
    is_kdm,
    pack,
    parse,
)
from kodim.errors import BadRequest, CorruptFile, KodimError, UnsupportedImage

HEADER = Header("minnen2018", bytes(range(8)), 768, 512, "RGB", 60.0)
BARE = KdmFile(HEADER, (Payload(b"range coder", 0xDEADBEEF),))
RICH = KdmFile(
    dataclasses.replace(HEADER, color="RGBA", preset="paper"),
    tuple(Payload(bytes([i]) * 9, i) for i in range(3)),
    alpha=b"\x89PNG grey",
    icc=b"profile " * 20,
    exif=b"Exif\0\0MM\0*",
    xmp=b"<x:xmpmeta/>",
)

names = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,20}", fullmatch=True)
headers = st.builds(
    Header,
    codec=names,
    weights=st.binary(min_size=8, max_size=8),
    width=st.integers(1, 1 << 14),
    height=st.integers(1, 1 << 14),
    color=st.sampled_from(["L", "LA", "RGB", "RGBA"]),
    quality=st.integers(0, 10_000).map(lambda hundredths: hundredths / 100),
    preset=names,
    axes=st.just(b"") | st.binary(min_size=8, max_size=8),
)
payloads = st.builds(Payload, data=st.binary(max_size=40), symbols_crc=st.integers(0, 2**32 - 1))


@st.composite
def files(draw: st.DrawFn) -> KdmFile:
    header = draw(headers)
    blob = st.binary(max_size=60)
    return KdmFile(
        header,
        tuple(draw(st.lists(payloads, min_size=1, max_size=4))),
        alpha=draw(blob) if header.color.endswith("A") else None,
        icc=draw(st.none() | blob),
        exif=draw(st.none() | blob),
        xmp=draw(st.none() | blob),
    )


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">4sI", kind, len(body)) + body + struct.pack(">I", zlib.crc32(kind + body))


def head(**changes: object) -> bytes:
    """A HEAD chunk written field by field, so that fields no writer would write can be tried."""
    fields = {"version": 1, "codec": b"\x05kodim", "preset": b"\0", "weights": bytes(8), "width": b"\x10"}
    fields |= {"height": b"\x10", "layout": b"\x82", "quality": b"\x17\x70", "count": b"\x01"} | changes
    return chunk(b"HEAD", b"".join(bytes([v]) if isinstance(v, int) else bytes(v) for v in fields.values()))


def splice(data: bytes, at: int, extra: bytes, chunks: int = 1) -> bytes:
    """Insert chunks behind HEAD and raise the count in HEAD, its last byte, to match."""
    length = int.from_bytes(data[12:16], "big")
    body = data[16 : 16 + length]
    body = body[:-1] + bytes([body[-1] + chunks])
    return SIGNATURE + chunk(b"HEAD", body) + data[20 + length : at] + extra + data[at:]


def repair(data: bytes) -> bytes:
    """Recompute every checksum that can still be found."""
    out, at = bytearray(data), 8
    while at + 12 <= len(out):
        length = int.from_bytes(out[at + 4 : at + 8], "big")
        end = at + 8 + length
        if end + 4 > len(out):
            break
        out[end : end + 4] = zlib.crc32(out[at : at + 4] + out[at + 8 : end]).to_bytes(4, "big")
        at = end + 4
    return bytes(out)


@given(files())
def test_round_trip(file: KdmFile) -> None:
    data = pack(file)
    assert is_kdm(data)
    assert parse(data) == file
    assert pack(parse(data)) == data


def test_layout_is_fixed() -> None:
    """These bytes may never change: files in the world have them."""
    file = KdmFile(Header("kodim", b"weights!", 300, 2, "L", 12.34), (Payload(b"xyz", 258),))
    assert pack(file) == (
        b"\x89KDM\r\n\x1a\n"
        b"HEAD\0\0\0\x17\x01\x05kodim\x00weights!\xac\x02\x02\x80\x04\xd2\x01\x50\x35\xb6\xa9"
        b"DATA\0\0\0\x07\0\0\x01\x02xyz\x35\x41\xe7\x58"
    )
    own = pack(dataclasses.replace(file, header=dataclasses.replace(file.header, axes=b"12345678")))
    assert own[16:47] == b"\x01\x05kodim\x00weights!\xac\x02\x02\x84\x04\xd212345678\x01"


@pytest.mark.parametrize(("codec", "budget"), [("minnen2018", 65), ("kodim", 60)])
def test_overhead_of_a_small_picture(codec: str, budget: int) -> None:
    file = KdmFile(dataclasses.replace(HEADER, codec=codec), (Payload(b"", 0),))
    assert len(pack(file)) <= budget
    assert header_bytes(pack(file)) == len(pack(file))


def test_describe_adds_up() -> None:
    data = pack(RICH)
    told = json.loads(json.dumps(describe(data)))
    assert [c["type"] for c in told["chunks"]] == ["HEAD", "icCP", *["DATA"] * 3, "ALPH", "exIF", "xmPP"]
    assert 8 + sum(c["bytes"] for c in told["chunks"]) == told["file_bytes"] == len(data)
    assert told["header_bytes"] == header_bytes(data) == len(data) - 27
    assert told["bpp"] == 8 * len(data) / (768 * 512)
    assert (told["codec"], told["preset"], told["weights"]) == ("minnen2018", "paper", "0001020304050607")
    assert (told["width"], told["height"], told["mode"], told["bit_depth"]) == (768, 512, "RGBA", 8)
    assert (told["quality"], told["version"]) == (60.0, 1)


def test_describe_welcomes_any_size() -> None:
    big = dataclasses.replace(HEADER, width=10**6, height=10**6)
    assert describe(pack(dataclasses.replace(BARE, header=big)))["width"] == 10**6


@pytest.mark.parametrize("file", [BARE, RICH])
def test_every_cut_is_refused(file: KdmFile) -> None:
    data = pack(file)
    for size in range(len(data)):
        with pytest.raises(CorruptFile):
            parse(data[:size])
        with pytest.raises(CorruptFile):
            describe(data[:size])


@pytest.mark.parametrize("file", [BARE, RICH])
def test_partial_returns_what_arrived(file: KdmFile) -> None:
    data = pack(file)
    first = 8 + describe(data)["chunks"][0]["bytes"]
    shown = 0
    for size in range(len(data)):
        if size < first:
            with pytest.raises(CorruptFile, match=r"header|empty"):
                parse(data[:size], partial=True)
            continue
        part = parse(data[:size], partial=True)
        assert part.header == file.header
        assert part.missing > 0
        assert part.payloads == file.payloads[: len(part.payloads)]
        for name in ("alpha", "icc", "exif", "xmp"):
            assert getattr(part, name) in (None, getattr(file, name))
        if part.tail:
            whole = file.payloads[len(part.payloads)]
            assert whole.data.startswith(part.tail.data)
            assert part.tail.symbols_crc == whole.symbols_crc
        now = sum(len(p.data) for p in part.payloads) + (len(part.tail.data) if part.tail else 0)
        assert now >= shown, "a longer file shows at least as much"
        shown = now
    assert shown == sum(len(p.data) for p in file.payloads)
    assert parse(data, partial=True) == file


def test_cut_is_told_in_chunks() -> None:
    with pytest.raises(CorruptFile, match="cut short: 6 of 7 chunks arrived"):
        parse(pack(RICH)[:-1])


@pytest.mark.parametrize("file", [BARE, RICH])
@pytest.mark.parametrize("partial", [False, True])
def test_every_flipped_bit_is_found(file: KdmFile, partial: bool) -> None:
    data = pack(file)
    for bit in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        try:
            found = parse(bytes(flipped), partial=partial)
        except CorruptFile:
            continue
        assert found.missing, "only a length that points beyond the end may pass, as a cut"
        assert partial


def mutate(data: bytes, rng: random.Random) -> bytes:
    out = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(out)) if out else 0
        match rng.randrange(6):
            case 0 if out:
                out[at] ^= 1 << rng.randrange(8)
            case 1 if out:
                out[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF))
            case 2:
                del out[at:]
            case 3:
                del out[at : at + rng.randint(1, 20)]
            case 4:
                out[at:at] = rng.randbytes(rng.randint(1, 20))
            case _:
                out[at:at] = out[at : at + rng.randint(1, 60)]
    return bytes(out)


@pytest.mark.parametrize("mend", [False, True], ids=["raw", "checksums repaired"])
def test_mutations_raise_only_kodim_errors(mend: bool) -> None:
    rng = random.Random(1)
    seeds = [pack(BARE), pack(RICH)]
    passed, messages = 0, set()
    tracemalloc.start()
    for trial in range(3000):
        data = mutate(seeds[trial % 2], rng)
        data = repair(SIGNATURE + data[8:]) if mend else data
        for call in (parse, lambda d: parse(d, partial=True), describe, header_bytes):
            try:
                call(data)
                passed += 1
            except KodimError as error:
                messages.add(str(error))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 << 20
    assert all(message.isprintable() and message for message in messages)
    assert not mend or passed > 300, "repaired checksums let many mutations reach the fields"


@given(st.binary(max_size=200), st.booleans())
def test_noise_behind_a_signature(noise: bytes, partial: bool) -> None:
    with pytest.raises(KodimError):
        parse(SIGNATURE + noise, partial=partial)


def test_claimed_sizes_are_refused_before_memory() -> None:
    billion = pack(KdmFile(dataclasses.replace(HEADER, width=10**6, height=10**3), BARE.payloads))
    endless = SIGNATURE + head(count=b"\xff\xff\xff\xff\x7f") + b"DATA\xff\xff\xff\xff12345"
    tracemalloc.start()
    with pytest.raises(UnsupportedImage, match="1000000 x 1000 pixels"):
        parse(billion)
    with pytest.raises(CorruptFile, match="cut short"):
        parse(endless)
    assert parse(endless, partial=True).tail == Payload(b"5", int.from_bytes(b"1234", "big"))
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()
    assert parse(billion, max_pixels=10**9).header.width == 10**6


def test_pixel_limit_is_exact() -> None:
    data = pack(BARE)
    assert parse(data, max_pixels=768 * 512) == BARE
    with pytest.raises(UnsupportedImage):
        parse(data, max_pixels=768 * 512 - 1)


@pytest.mark.parametrize("kind", [b"icCP", b"exIF", b"xmPP"])
def test_zlib_bombs_are_refused(kind: bytes) -> None:
    bomb = zlib.compress(bytes(MAX_METADATA + 1), 9)
    data = pack(BARE)
    tracemalloc.start()
    with pytest.raises(CorruptFile, match="inflates beyond"):
        parse(splice(data, len(data), chunk(kind, bomb)))
    assert tracemalloc.get_traced_memory()[1] < 3 * MAX_METADATA
    tracemalloc.stop()


@pytest.mark.parametrize("body", [b"", b"not zlib", zlib.compress(b"x" * 99)[:-1], zlib.compress(b"x") + b"y"])
def test_metadata_must_inflate_exactly(body: bytes) -> None:
    data = pack(BARE)
    with pytest.raises(CorruptFile, match="does not inflate"):
        parse(splice(data, len(data), chunk(b"icCP", body)))


def test_unknown_chunks() -> None:
    data = pack(BARE)
    assert parse(splice(data, len(data), chunk(b"noTE", b"skip me"))) == BARE
    with pytest.raises(CorruptFile, match="later version"):
        parse(splice(data, len(data), chunk(b"NEED", b"understand me")))
    with pytest.raises(CorruptFile, match="no chunk starts there"):
        parse(splice(data, len(data), chunk(b"1234", b"")))
    with pytest.raises(CorruptFile):
        parse(splice(data, len(data), head()))


@pytest.mark.parametrize("kind", [b"ALPH", b"icCP", b"exIF", b"xmPP"])
def test_single_chunks_are_single(kind: bytes) -> None:
    data = pack(RICH)
    twice = chunk(kind, zlib.compress(b"again"))
    with pytest.raises(CorruptFile, match="two"):
        parse(splice(data, len(data), twice))


def test_bytes_behind_the_last_chunk_are_refused() -> None:
    with pytest.raises(CorruptFile, match="too many"):
        parse(pack(BARE) + b"\0", partial=True)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "empty"),
        (b"\x89KD", "cut short"),
        (b"\xff\xd8\xff\xe0 a JPEG", "not a .kdm file"),
        (pack(BARE).replace(b"\r\n", b"\n"), "text mode"),
        (pack(BARE).replace(b"\n", b"\r\n"), "text mode"),
        (bytes(b & 0x7F for b in pack(BARE)), "text mode"),
        (pack(BARE).decode("latin-1").encode("utf-8"), "text mode"),
        (SIGNATURE + chunk(b"DATA", b"1234"), "not with its header"),
        (SIGNATURE + head(version=2), "later version"),
        (SIGNATURE + head(layout=b"\x88"), "header malformed"),
        (SIGNATURE + head(layout=b"\x86"), "header malformed"),
        (SIGNATURE + head(layout=b"\xa2"), "bit depth"),
        (SIGNATURE + head(quality=b"\x27\x11"), "quality"),
        (SIGNATURE + head(width=b"\0"), "width"),
        (SIGNATURE + head(height=b"\x90\0"), "header malformed"),
        (SIGNATURE + head(width=b"\xff\xff\xff\xff\xff\xff\x01"), "header malformed"),
        (SIGNATURE + head(codec=b"\x05\x1b[31m"), "codec"),
        (SIGNATURE + head(codec=b"\x02\xc3\xa9"), "header malformed"),
        (SIGNATURE + head(codec=b"\xffkodim"), "header malformed"),
        (SIGNATURE + head(count=b"\x01more"), "header malformed"),
        (SIGNATURE + head(count=b"\0"), "nothing to decode"),
        (SIGNATURE + head() + chunk(b"DATA", b"123"), "checksum of symbols"),
        (SIGNATURE + head(layout=b"\x83") + chunk(b"DATA", b"1234"), "without an alpha plane"),
        (
            SIGNATURE + head(count=b"\2") + chunk(b"DATA", b"1234") + chunk(b"ALPH", b""),
            "with an alpha plane",
        ),
    ],
)
def test_each_fault_is_named(data: bytes, says: str) -> None:
    with pytest.raises(CorruptFile, match=says):
        parse(data)


@pytest.mark.parametrize(
    "changes",
    [
        {"codec": ""},
        {"codec": "Ünknown"},
        {"codec": "x" * 64},
        {"preset": "two words"},
        {"weights": b"short"},
        {"width": 0},
        {"height": 1 << 32},
        {"color": "CMYK"},
        {"quality": 100.01},
        {"quality": -1.0},
        {"quality": float("nan")},
        {"bit_depth": 16},
        {"axes": b"seven .."[:7]},
        {"version": 2},
    ],
)
def test_impossible_headers_are_not_written(changes: dict[str, object]) -> None:
    with pytest.raises(BadRequest, match="out of range"):
        pack(KdmFile(dataclasses.replace(HEADER, **changes), BARE.payloads))


@pytest.mark.parametrize(
    "file",
    [
        KdmFile(HEADER, ()),
        dataclasses.replace(BARE, alpha=b"png"),
        dataclasses.replace(RICH, alpha=None),
        dataclasses.replace(BARE, exif=bytes(MAX_METADATA + 1)),
    ],
)
def test_impossible_files_are_not_written(file: KdmFile) -> None:
    with pytest.raises(BadRequest):
        pack(file)


def test_import_is_light() -> None:
    code = "import sys, kodim.container, kodim.picture; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
