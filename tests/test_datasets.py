"""Every data set, laid out in small as its owners lay it out, and files that mean harm."""

import gzip
import io
import json
import os
import pickle
import struct
import subprocess
import sys
import tarfile
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image
from skimage import data

from kodim import datasets
from kodim.cli import main
from kodim.datasets import CATALOGUE, members
from kodim.errors import BadRequest

PHOTO = np.ascontiguousarray(data.astronaut()[40:136, 180:300])


def picture(kind="PNG", size=(40, 48), shift=0, mode="RGB") -> bytes:
    """The bytes of a small picture file; `shift` makes different ones."""
    file = io.BytesIO()
    Image.fromarray(PHOTO[shift : shift + size[0], : size[1]]).convert(mode).save(file, kind)
    return file.getvalue()


def lay(root: Path, *names: str) -> Path:
    """Write a small picture, of the kind its ending says, under each of the names."""
    for shift, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(Image.registered_extensions()[path.suffix.lower()], shift=shift))
    return root


def tar_of(names, compress=False) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz" if compress else "w") as tar:
        for name, content in names.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return file.getvalue()


def zip_of(names) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in names.items():
            archive.writestr(name, content)
    return file.getvalue()


def opened(what, **options) -> list[str]:
    """The names of the pictures that can be read; nothing may be passed over."""
    found = datasets.open(what, **options)
    names = [item.name for item in found]
    assert found.skipped == []
    assert names == found.names()
    return names


# --- the sets, unpacked --------------------------------------------------------------------------------------------

UNPACKED = {
    "imagenet:train": ["train/n01440764/n01440764_10026.JPEG", "train/n01443537/n01443537_2.JPEG"],
    "imagenet:val": ["val/ILSVRC2012_val_00000001.JPEG"],
    "openimages:train": ["train_0/000002b66c9c498e.jpg", "train_f/f000000000000001.jpg"],
    "openimages:val": ["validation/0001eeaf4aed83f9.jpg"],
    "div2k:train": ["DIV2K_train_HR/0001.png", "DIV2K_train_HR/0800.png"],
    "div2k:val": ["DIV2K_valid_HR/0801.png"],
    "cityscapes:train": ["leftImg8bit/train/aachen/aachen_000000_000019_leftImg8bit.png"],
    "cityscapes:train_extra": ["leftImg8bit/train_extra/augsburg/augsburg_000000_000000_leftImg8bit.png"],
    "places365:train": ["data_large_standard/a/airfield/00000001.jpg", "data_large_standard/b/a/c/00000001.jpg"],
    "places365:val": ["val_256/Places365_val_00000001.jpg"],
    "coco:train": ["train2017/000000000009.jpg"],
    "coco:unlabeled": ["unlabeled2017/000000000008.jpg"],
    "cifar10:train": ["train/airplane/0001.png"],
    "flickr2k:train": ["Flickr2K_HR/000001.png"],
    "flickr30k:train": ["flickr30k-images/1000092795.jpg"],
    "bsds500:test": ["BSR/BSDS500/data/images/test/100007.jpg"],
    "kodak:test": ["kodim01.png", "kodim24.png"],
    "clic2020:train": ["mobile_train_2020/train/a.png", "professional_train_2020/train/b.png"],
    "clic2020:professional_val": ["professional_valid_2020/valid/c.png"],
    "clic2020:test": ["CLIC2020Mobile_test/d.png", "CLIC2020Professional_test/e.png"],
    "tecnick:test": ["TESTIMAGES/RGB/RGB_OR_1200x1200/RGB_OR_1200x1200_001.png"],
    "camvid:train": ["train/0001TP_006690.png"],
    "camvid:all": ["701_StillsRaw_full/0001TP_006690.png"],
    "live1:test": ["bikes.bmp"],
    "set5:test": ["baby.png"],
    "set14:test": ["baboon.png"],
}

BESIDE = [  # what lies about in downloads and is no picture of the set
    "leftImg8bit/README.png",
    "gtFine/train/aachen/aachen_000000_000019_gtFine_labelIds.png",
    "DIV2K_train_LR_bicubic/X2/0001x2.png",
    "trainannot/0001TP_006690.png",
    "__MACOSX/train_0/._a.jpg",
    "train_0/.hidden.jpg",
    "mobile_train_2020/__MACOSX/train/._a.png",
]


@pytest.mark.parametrize("name", UNPACKED)
def test_unpacked_sets(name, tmp_path):
    root = lay(tmp_path / "set", *UNPACKED[name])
    if not name.startswith("live1:") and not name.startswith("set"):
        lay(root, *BESIDE)
    (root / "LICENSE.txt").write_text("words")
    assert opened(name, root=str(root)) == UNPACKED[name]


# --- the sets, as downloaded ---------------------------------------------------------------------------------------


def test_imagenets_train_tar_is_a_tar_of_tars(tmp_path):
    inner = {f"{c}.tar": tar_of({f"{c}_1.JPEG": picture("JPEG"), "x.txt": b"x"}) for c in ("n01440764", "n01443537")}
    (tmp_path / "ILSVRC2012_img_train.tar").write_bytes(tar_of(inner))
    assert opened("imagenet", root=str(tmp_path)) == [
        "ILSVRC2012_img_train.tar/n01440764.tar/n01440764_1.JPEG",
        "ILSVRC2012_img_train.tar/n01443537.tar/n01443537_1.JPEG",
    ]


@pytest.mark.parametrize(
    ("name", "archive", "inside", "count"),
    [
        ("imagenet:val", "ILSVRC2012_img_val.tar", {"ILSVRC2012_val_00000001.JPEG": "JPEG"}, 1),
        ("openimages", "train_0.tar.gz", {"train_0/0002.jpg": "JPEG", "train_0/0003.jpg": "JPEG"}, 2),
        ("places365", "train_256_places365standard.tar", {"data_256_standard/a/arch/1.jpg": "JPEG"}, 1),
        ("flickr2k", "Flickr2K.tar", {"Flickr2K/Flickr2K_HR/1.png": "PNG", "Flickr2K/Flickr2K_LR/1.png": "PNG"}, 1),
        ("flickr30k", "flickr30k-images.tar.gz", {"flickr30k-images/36979.jpg": "JPEG"}, 1),
        ("bsds500:val", "BSR_bsds500.tgz", {f"BSR/BSDS500/data/images/{s}/1.jpg": "JPEG" for s in ("val", "test")}, 1),
        ("div2k", "DIV2K_train_HR.zip", {"DIV2K_train_HR/0001.png": "PNG"}, 1),
        ("coco:val", "val2017.zip", {"val2017/000000000139.jpg": "JPEG"}, 1),
        ("clic2020:mobile_test", "CLIC2020Mobile_test.zip", {"a.png": "PNG", "__MACOSX/._a.png": "PNG"}, 1),
        (
            "cityscapes:val",
            "leftImg8bit_trainvaltest.zip",
            {f"leftImg8bit/{s}/x/x_000000_000019_leftImg8bit.png": "PNG" for s in ("train", "val")},
            1,
        ),
        ("camvid:all", "701_StillsRaw_full.zip", {"701_StillsRaw_full/0001TP_006690.png": "PNG"}, 1),
    ],
)
def test_sets_as_downloaded(name, archive, inside, count, tmp_path):
    content = {member: picture(kind) for member, kind in inside.items()}
    packed = zip_of(content) if archive.endswith(".zip") else tar_of(content, not archive.endswith(".tar"))
    (tmp_path / archive).write_bytes(packed)
    names = opened(name, root=str(tmp_path))
    assert len(names) == count
    assert all(one.startswith(f"{archive}/") for one in names)


def thumbnails(count, side, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 3 * side * side), dtype=np.uint8)


def python2_pickle(rows) -> bytes:
    """A batch as Python 2 and the numpy of its time wrote it, opcode by opcode."""

    def text(value):
        return b"U" + bytes([len(value)]) + value

    def whole(value):
        return b"J" + struct.pack("<i", value)

    array = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\0t" + text(b"b") + b"tR"
    kind = b"cnumpy\ndtype\n(" + text(b"u1") + b"K\0K\1tR(K\3" + text(b"|") + b"NNN" + 2 * whole(-1) + b"K\0tb"
    state = b"(K\1(" + whole(len(rows)) + whole(rows.shape[1]) + b"t" + kind + b"\x89"
    content = b"T" + struct.pack("<i", rows.size) + rows.tobytes() + b"tb"
    return b"\x80\2}(" + text(b"batch_label") + text(b"batch 1 of 5") + text(b"data") + array + state + content + b"u."


def test_cifar10_binary_and_python_batches_hold_the_same_pictures(tmp_path):
    rows = thumbnails(5, 32)
    for kind, stem in (("bin", "data_batch_1.bin"), ("py", "data_batch_1")):
        (tmp_path / kind / f"cifar-10-batches-{kind}").mkdir(parents=True)
        labelled = b"".join(b"\6" + row.tobytes() for row in rows)
        content = labelled if kind == "bin" else python2_pickle(rows)
        (tmp_path / kind / f"cifar-10-batches-{kind}" / stem).write_bytes(content)
    binary, pickled = (list(datasets.open("CIFAR-10", root=str(tmp_path / kind))) for kind in ("bin", "py"))
    assert len(binary) == len(pickled) == 5
    for a, b, row in zip(binary, pickled, rows, strict=True):
        assert np.array_equal(a.pixels, b.pixels)
        assert np.array_equal(a.pixels[..., 0].ravel(), row[:1024])  # the red plane comes first
    assert binary[4].name == "cifar-10-batches-bin/data_batch_1.bin/00004"


class Evil:
    def __reduce__(self):
        return os.system, ("touch stolen",)


@pytest.mark.parametrize(
    "content",
    [
        pickle.dumps(Evil()),
        pickle.dumps({b"data": np.array([Evil()], dtype=object)}),
        pickle.dumps({b"data": "text"}),
        pickle.dumps([1, 2]),
        python2_pickle(thumbnails(2, 32))[:-3000],
        b"\x80\x02r\xff\xff\xff\xff.",
        b"",
    ],
)
def test_a_pickle_runs_nothing(content, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data_batch_1").write_bytes(content)
    found = datasets.open("cifar10", root=str(tmp_path))
    assert list(found) == []
    assert "CIFAR-10" in found.skipped[0][1]
    assert not Path("stolen").exists()


@pytest.mark.parametrize("side", [32, 64])
def test_downsampled_imagenet(side, tmp_path):
    rows = thumbnails(3, side)
    np.savez(tmp_path / "train_data_batch_1.npz", data=rows, labels=np.arange(3))
    found = list(datasets.open(f"imagenet{side}", root=str(tmp_path)))
    assert [item.width for item in found] == [side] * 3
    assert np.array_equal(found[1].pixels[..., 2].ravel(), rows[1, -side * side :])


def test_npz_of_objects_or_other_shapes_is_refused(tmp_path):
    np.savez(tmp_path / "train_data_batch_1.npz", data=np.array([Evil()], dtype=object))
    np.savez(tmp_path / "train_data_batch_2.npz", data=np.zeros((2, 7), np.uint8))
    found = datasets.open("imagenet32", root=str(tmp_path))
    assert list(found) == []
    assert len(found.skipped) == 2


def test_lsun_databases(tmp_path):
    lmdb = pytest.importorskip("lmdb")
    folder = tmp_path / "bedroom_train_lmdb"
    with lmdb.open(str(folder), map_size=2**20) as database, database.begin(write=True) as write:
        write.put(b"00001", picture("JPEG"))
        write.put(b"00002", b"no picture")
    found = datasets.open("lsun", root=str(tmp_path))
    assert [item.name for item in found] == ["bedroom_train_lmdb/00001"]
    assert [name for name, _ in found.skipped] == ["bedroom_train_lmdb/00002"]
    assert len(datasets.open(folder).names()) == 2


def test_a_file_that_is_no_lsun_database(tmp_path):
    pytest.importorskip("lmdb")
    (tmp_path / "church_train_lmdb").mkdir()
    (tmp_path / "church_train_lmdb" / "data.mdb").write_bytes(b"\0" * 8192)
    found = datasets.open("lsun", root=str(tmp_path))
    assert list(found) == []
    assert "LMDB" in found.skipped[0][1]


def test_lsun_without_lmdb_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "lmdb", None)
    (tmp_path / "church_train_lmdb").mkdir()
    (tmp_path / "church_train_lmdb" / "data.mdb").write_bytes(b"")
    with pytest.raises(BadRequest, match=r"kodim\[lsun\]"):
        list(datasets.open("lsun", root=str(tmp_path)))


def test_raise_reads_its_list_and_tells_what_is_missing(tmp_path):
    lay(tmp_path, "TIFF/r000da54ft.TIF", "TIFF/r001d260dt.TIF", "TIFF/not_in_list.TIF")
    (tmp_path / "NEF").mkdir()
    (tmp_path / "NEF" / "r002fc3e2t.NEF").write_bytes(b"raw")
    rows = [f"{name},http://x/{name}.NEF,http://x/{name}.TIF" for name in ("r000da54ft", "r001d260dt", "r002fc3e2t")]
    (tmp_path / "RAISE_1k.csv").write_text("\n".join(["File,NEF,TIFF", *rows]))
    found = datasets.open("raise:1k", root=str(tmp_path))
    assert [item.name for item in found] == ["r000da54ft", "r001d260dt"]
    assert found.skipped == [("r002fc3e2t", "named in RAISE_1k.csv, but its TIFF is not here")]


# --- finding sets --------------------------------------------------------------------------------------------------


def test_sets_are_found_in_their_home_and_here(tmp_path, monkeypatch):
    lay(tmp_path / "home" / "Kodak", "kodim01.png")
    lay(tmp_path / "here" / "DIV2K" / "DIV2K", "DIV2K_train_HR/0001.png")
    (tmp_path / "here").mkdir(exist_ok=True)
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("KODIM_DATA", str(tmp_path / "home"))
    assert opened("kodak") == ["kodim01.png"]
    assert opened("div2k:train") == ["DIV2K_train_HR/0001.png"]


def test_what_is_missing_is_said_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("KODIM_DATA", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadRequest) as caught:
        datasets.open("div2k:val")
    text = str(caught.value)
    assert "\n" not in text
    for part in (str(tmp_path / "div2k"), "DIV2K_valid_HR.zip", "https://"):
        assert part in text
    with pytest.raises(BadRequest, match="train, val"):
        datasets.open("div2k:everything")
    with pytest.raises(BadRequest, match="no such folder"):
        datasets.open("holidays")
    with pytest.raises(BadRequest, match="only known sets"):
        datasets.open(tmp_path, split="train")
    with pytest.raises(BadRequest, match="no pictures"):
        datasets.open(tmp_path)
    (tmp_path / "notes.md").write_text("words")
    with pytest.raises(BadRequest, match="neither"):
        datasets.open(tmp_path / "notes.md")


def test_the_page_on_data_sets_names_them_all():
    page = (Path(__file__).parent.parent / "docs" / "datasets.md").read_text()
    assert [name for name in CATALOGUE if f"`{name}`" not in page] == []


def test_every_entry_of_the_catalogue_can_be_asked_for(tmp_path):
    for name, known in CATALOGUE.items():
        assert name == datasets.catalogue.plain(name)
        assert known.home.startswith("http")
        for split in known.splits:
            with pytest.raises(BadRequest, match=known.home.replace("?", ".")):
                datasets.open(name, split, str(tmp_path))


# --- folders, archives, lists, addresses ---------------------------------------------------------------------------


def test_a_folder_holds_all_pictures_below_it(tmp_path):
    lay(tmp_path, "b/2.PNG", "a.jpg", "b/1.webp", ".hidden.png")
    (tmp_path / "words.txt").write_text("x")
    (tmp_path / "shard.tar").write_bytes(tar_of({"z.png": picture()}))
    assert opened(tmp_path) == ["a.jpg", "b/1.webp", "b/2.PNG"]


def test_webdataset_shards(tmp_path):
    sample = {"0001.jpg": picture("JPEG"), "0001.cls": b"3", "0001.json": b"{}", "0002.png": picture(shift=3)}
    for number in range(2):
        (tmp_path / f"train-{number:04d}.tar").write_bytes(tar_of(sample))
    assert opened(tmp_path / "train-0000.tar") == ["train-0000.tar/0001.jpg", "train-0000.tar/0002.png"]
    assert len(opened(tmp_path)) == 4
    last = list(datasets.open(tmp_path))[-1]
    assert np.array_equal(last.pixels, PHOTO[3:43, :48])


def test_a_list_names_files_below_its_folder_only(tmp_path):
    lay(tmp_path, "set/a.png", "set/b.png", "secret.png")
    (tmp_path / "set" / "list.txt").write_text(f"b.png\n../secret.png\n{tmp_path}/secret.png\nnone.png\n")
    found = datasets.open(tmp_path / "set" / "list.txt")
    assert [item.name for item in found] == ["b.png"]
    assert len(found.skipped) == 3


def test_addresses_go_through_fsspec(tmp_path):
    fsspec = pytest.importorskip("fsspec")
    memory = fsspec.filesystem("memory")
    memory.pipe("/bucket/a/1.png", picture())
    memory.pipe("/bucket/shards/0.tar", tar_of({"x.png": picture(), "y.jpg": picture("JPEG")}))
    memory.pipe("/bucket/shards/1.tar", tar_of({"z.png": picture()}))
    try:
        assert opened("memory://bucket/a") == ["memory:///bucket/a/1.png"]
        assert len(opened("memory://bucket/shards/0.tar")) == 2
        assert len(opened("memory://bucket/shards/*.tar")) == 3
        with pytest.raises(BadRequest, match="no pictures"):
            datasets.open("memory://bucket/none")
        with pytest.raises(BadRequest, match="nosuch"):
            datasets.open("nosuch://bucket/a")
    finally:
        memory.rm("/bucket", recursive=True)


def test_addresses_without_fsspec_say_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(BadRequest, match=r"kodim\[remote\]"):
        datasets.open("s3://bucket/a.tar")


def test_importing_needs_neither_torch_nor_extras():
    code = "import sys, kodim.datasets; sys.exit(bool({'torch', 'fsspec', 'lmdb'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --- files that mean harm ------------------------------------------------------------------------------------------


def test_archives_never_touch_the_disk(tmp_path):
    (tmp_path / "in").mkdir()
    names = {"../../escaped.png": picture(), "/etc/escaped.png": picture(), "ok.png": picture()}
    (tmp_path / "in" / "a.tar").write_bytes(tar_of(names))
    (tmp_path / "in" / "b.zip").write_bytes(zip_of(names))
    before = sorted(tmp_path.rglob("*"))
    assert len(list(datasets.open(tmp_path / "in"))) == 6
    assert sorted(tmp_path.rglob("*")) == before


def test_links_and_devices_in_a_tar_are_passed_over(tmp_path):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE):
            info = tarfile.TarInfo("link.png")
            info.type, info.linkname = kind, "/etc/passwd"
            tar.addfile(info)
    (tmp_path / "a.tar").write_bytes(file.getvalue())
    assert datasets.open(tmp_path / "a.tar").names() == []


def test_members_that_claim_too_much_are_reported(tmp_path, monkeypatch):
    monkeypatch.setattr(members, "MAX_BYTES", 20_000)
    content = {"big.png": picture() + b"\0" * 20_000, "ok.png": picture()}
    (tmp_path / "a.tar").write_bytes(tar_of(content))
    (tmp_path / "b.tar.gz").write_bytes(tar_of(content, compress=True))
    (tmp_path / "c.zip").write_bytes(zip_of(content))
    for name in ("a.tar", "b.tar.gz", "c.zip"):
        found = datasets.open(tmp_path / name)
        assert [item.name for item in found] == [f"{name}/ok.png"]
        assert "limit" in found.skipped[0][1]
    (tmp_path / "big.png").write_bytes(content["big.png"])
    assert "limit" in _reasons(datasets.open(tmp_path / "big.png"))


def _reasons(found) -> str:
    assert list(found) == []
    return " ".join(reason for _, reason in found.skipped)


def test_a_tar_header_cannot_ask_for_gigabytes(tmp_path):
    header = tarfile.TarInfo("pax")
    header.type, header.size = tarfile.XHDTYPE, 2**33 - 1
    with gzip.open(tmp_path / "a.tar.gz", "wb") as file:
        file.write(header.tobuf(tarfile.USTAR_FORMAT) + b"\0" * 4096)
    assert "asks for" in _reasons(datasets.open(tmp_path / "a.tar.gz"))


def test_damaged_archives_give_what_they_can(tmp_path):
    whole = tar_of({"1.png": picture(), "2.png": picture(shift=1)})
    (tmp_path / "cut.tar").write_bytes(whole[: len(picture()) + 2000])
    found = datasets.open(tmp_path / "cut.tar")
    assert [item.name for item in found] == ["cut.tar/1.png"]
    assert found.skipped
    for name, content in (("junk.tar", b"junk" * 500), ("junk.zip", b"junk"), ("junk.tgz", b"junk")):
        (tmp_path / name).write_bytes(content)
        assert "damaged" in _reasons(datasets.open(tmp_path / name))
    packed = bytearray(zip_of({"1.png": picture()}))
    packed[60] ^= 255
    (tmp_path / "crc.zip").write_bytes(packed)
    assert _reasons(datasets.open(tmp_path / "crc.zip"))


def test_damaged_pictures_are_reported_by_name(tmp_path):
    lay(tmp_path, "ok.png")
    (tmp_path / "cut.png").write_bytes(picture()[:200])
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "raw.NEF").write_bytes(b"raw")
    found = datasets.open(tmp_path)
    assert [item.name for item in found] == ["ok.png"]
    assert [name for name, _ in found.skipped] == ["cut.png", "empty.png", "raw.NEF"]
    assert not any(reason.startswith(name) for name, reason in found.skipped)
    assert "develop" in found.skipped[2][1]


def test_bombs_are_refused_before_they_are_decoded(tmp_path):
    file = bytearray(picture())
    struct.pack_into(">II", file, 16, 60_000, 60_000)
    struct.pack_into(">I", file, 29, zlib.crc32(file[12:29]))
    (tmp_path / "bomb.png").write_bytes(file)
    assert "limit" in _reasons(datasets.open(tmp_path))


# --- pixels --------------------------------------------------------------------------------------------------------


def test_pictures_are_bare_8_bit_rgb(tmp_path):
    Image.fromarray(PHOTO).convert("CMYK").save(tmp_path / "cmyk.jpg", quality=95)
    Image.fromarray(PHOTO[..., 0]).save(tmp_path / "grey.png")
    deep = np.array([[0, 128, 129, 257], [25_700, 65_406, 65_407, 65_535]], np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    Image.fromarray(np.dstack([PHOTO, PHOTO[..., 0]])).save(tmp_path / "rgba.png")
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.fromarray(PHOTO).save(tmp_path / "turned.jpg", exif=exif)
    items = {item.name: item for item in datasets.open(tmp_path)}
    assert set(items) == {"cmyk.jpg", "grey.png", "deep.png", "rgba.png", "turned.jpg"}
    assert all(item.pixels.dtype == np.uint8 and item.pixels.shape[2] == 3 for item in items.values())
    assert np.abs(items["cmyk.jpg"].pixels.astype(int) - PHOTO).mean() < 6
    assert items["grey.png"].mode == "L"
    assert items["deep.png"].pixels[..., 0].tolist() == [[0, 0, 1, 1], [100, 254, 255, 255]]
    assert np.array_equal(items["rgba.png"].pixels, PHOTO)
    assert items["rgba.png"].alpha is None
    assert (items["turned.jpg"].height, items["turned.jpg"].width) == (PHOTO.shape[1], PHOTO.shape[0])


def test_crops_are_pieces_of_the_pictures(tmp_path):
    lay(tmp_path, "a.png", "b.png")
    found = datasets.open(tmp_path)
    crops = list(found.crops(16, np.random.default_rng(0), per_picture=3))
    assert len(crops) == 6
    again = list(found.crops(16, np.random.default_rng(0), per_picture=3))
    assert all(np.array_equal(a, b) for a, b in zip(crops, again, strict=True))
    windows = np.lib.stride_tricks.sliding_window_view(PHOTO, (16, 16, 3)).reshape(-1, 16, 16, 3)
    known = {w.tobytes() for w in windows} | {w[:, ::-1].tobytes() for w in windows}
    assert all(crop.tobytes() in known for crop in crops)
    assert len({crop.tobytes() for crop in crops}) > 3


def test_small_pictures_are_reflected_or_left_out(tmp_path):
    lay(tmp_path, "a.png")
    found = datasets.open(tmp_path)
    (crop,) = found.crops(64, np.random.default_rng(0))
    assert crop.shape == (64, 64, 3)
    assert np.array_equal(crop[40:], crop[16:40][::-1])
    assert list(found.crops(64, np.random.default_rng(0), small="skip")) == []
    with pytest.raises(BadRequest):
        next(found.crops(0, np.random.default_rng(0)))


# --- training and the command line ---------------------------------------------------------------------------------


def test_training_takes_folders_shards_and_names(tmp_path, monkeypatch, capsys):
    from kodim.training.data import Pictures

    big = {"1.png": picture(size=(90, 96)), "2.jpg": picture("JPEG", size=(80, 96)), "3.png": b"broken"}
    (tmp_path / "shard.tar").write_bytes(tar_of(big))
    monkeypatch.setenv("KODIM_DATA", str(tmp_path))
    (tmp_path / "kodak").mkdir()
    (tmp_path / "kodak" / "kodim01.png").write_bytes(big["1.png"])
    pictures = Pictures([tmp_path / "shard.tar", "kodak"], tmp_path / "cache")
    assert sorted(shape[1:] for shape in pictures.shapes) == [(80, 96), (90, 96), (90, 96)]
    assert "1 pictures cannot be read; the first is shard.tar/3.png: " in capsys.readouterr().err
    assert np.array_equal(pictures.data[: 90 * 96 * 3].reshape(90, 96, 3), PHOTO[:90, :96])
    assert pictures.crops(np.random.default_rng(0), 2, 64).shape == (2, 3, 64, 64)


def test_training_takes_thumbnails_and_refuses_what_is_too_small(tmp_path):
    from kodim.training.data import Pictures

    (tmp_path / "cifar10").mkdir()
    (tmp_path / "cifar10" / "data_batch_1.bin").write_bytes(thumbnails(4, 32).tobytes() + bytes(4))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KODIM_DATA", str(tmp_path))
        assert len(Pictures(["cifar10"], tmp_path / "cache").shapes) == 4
    lay(tmp_path / "small", "a.png")
    with pytest.raises(BadRequest, match="at least 64"):
        Pictures([tmp_path / "small"], tmp_path / "cache")


def test_training_never_fills_the_disk(tmp_path, monkeypatch, capsys):
    from kodim.training import data as training

    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(picture(size=(80, 80), shift=number))
    usage = training.shutil.disk_usage(tmp_path)._replace(free=2 * (2 * 80 * 80 * 3 + 5))
    monkeypatch.setattr(training.shutil, "disk_usage", lambda path: usage)
    assert len(training.Pictures([tmp_path], tmp_path / "cache").shapes) == 2
    assert "room for 2 pictures" in capsys.readouterr().err


def test_the_command_lists_and_checks(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("KODIM_DATA", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    lay(tmp_path / "kodak", "kodim01.png", "kodim02.png")
    assert main(["datasets"]) == 0
    table = capsys.readouterr().out
    assert all(name in table for name in CATALOGUE)
    assert main(["datasets", "kodak"]) == 0
    assert "2 pictures; its owners count 24" in capsys.readouterr().out
    assert main(["datasets", "DIV2K"]) == 2
    out, err = capsys.readouterr()
    assert "DIV2K_train_HR.zip" in out
    assert str(tmp_path / "div2k") in out
    assert err == f"kodim: div2k: nothing of it in {tmp_path / 'div2k'}\n"
    assert main(["datasets", "kodak", "--path", str(tmp_path / "kodak"), "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["datasets"]
    assert row["splits"] == [{"split": "test", "found": 2, "expected": 24}]
    for words in (["nothing"], ["kodak", "--path", "nowhere"], ["--path", "."]):
        assert main(["datasets", *words]) == 2
        assert capsys.readouterr().err.count("\n") == 1
