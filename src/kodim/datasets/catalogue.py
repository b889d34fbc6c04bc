"""The picture sets of the literature: where they come from, and how they lie on disk as their owners pack them.

A split is a list of places, the first that exists is taken. A place is a glob below the set's folder; behind `::`
stands a glob for members of the archive that it names, so that most sets can be read without unpacking. Counts
are the owners', for comparison with what is found. Licences are summaries: read the owners' terms.
"""

from __future__ import annotations

from dataclasses import dataclass

from kodim.errors import BadRequest


@dataclass(frozen=True)
class Split:
    """One part of a set.

    Attributes:
        places: globs, in order of preference.
        count: how many pictures its owners give it, where that is known.
    """

    places: tuple[str, ...]
    count: int | None = None


@dataclass(frozen=True)
class Known:
    """A set by name.

    Attributes:
        name: as in `kodim datasets NAME`.
        title: its full name.
        home: its page.
        download: what to fetch from there.
        licence: a summary.
        splits: by name; the first is the default: `train` where there is one.
        note: what a measurement with it must know.
        side: pictures with a smaller side are no use for training.
    """

    name: str
    title: str
    home: str
    download: str
    licence: str
    splits: dict[str, Split]
    note: str = ""
    side: int = 64

    def split(self, name: str | None) -> tuple[str, Split]:
        """A split by its name, the default one for None; BadRequest lists the known ones."""
        chosen = next(iter(self.splits)) if name is None else name
        if chosen not in self.splits:
            raise BadRequest(f"{self.name} has no split {chosen!r}; there are {', '.join(self.splits)}")
        return chosen, self.splits[chosen]


_RESEARCH = "research only"


def _thumbnails(side: int) -> Known:
    return Known(
        f"imagenet{side}",
        f"Downsampled ImageNet {side}x{side}",
        "https://image-net.org/download-images.php",
        f"Imagenet{side}_train_npz.zip and Imagenet{side}_val_npz.zip (after registration), unpacked",
        "non-commercial research and education",
        {
            "train": Split(("train_data_batch_*.npz", "*train*/train_data_batch_*.npz"), 1_281_167),
            "val": Split(("val_data.npz", "*val*/val_data.npz"), 50_000),
        },
        side=side,
    )


def _flat(name: str, title: str, home: str, count: int, note: str = "") -> Known:
    return Known(name, title, home, "the pictures", _RESEARCH, {"test": Split(("*", "*/*"), count)}, note)


_SETS = (
    Known(
        "imagenet",
        "ImageNet ILSVRC 2012",
        "https://image-net.org/challenges/LSVRC/2012/",
        "ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar (after registration; packed or unpacked)",
        "non-commercial research and education",
        {
            "train": Split(
                ("train/n*/*", "ILSVRC/Data/CLS-LOC/train/n*/*", "ILSVRC2012_img_train.tar"),
                1_281_167,
            ),
            "val": Split(
                ("val/*", "val/n*/*", "ILSVRC/Data/CLS-LOC/val/*", "ILSVRC2012_img_val.tar"),
                50_000,
            ),
            "test": Split(
                ("test/*", "ILSVRC/Data/CLS-LOC/test/*", "ILSVRC2012_img_test*.tar"),
                100_000,
            ),
        },
        "JPEG sources: shrink before lossless training",
    ),
    _thumbnails(32),
    _thumbnails(64),
    Known(
        "openimages",
        "Open Images V4, the pictures with boxes",
        "https://storage.googleapis.com/openimages/web/index.html",
        "train_0.tar.gz ... train_f.tar.gz, validation.tar.gz, test.tar.gz (packed or unpacked)",
        "pictures listed as CC BY 2.0, each to be verified",
        {
            "train": Split(
                ("train_[0-9a-f]/*", "train/*", "train/train_[0-9a-f]/*", "train_[0-9a-f].tar*"),
                1_743_042,
            ),
            "val": Split(("validation/*", "validation.tar*"), 41_620),
            "test": Split(("test/*", "test.tar*"), 125_436),
        },
        "JPEG sources: shrink before lossless training",
    ),
    Known(
        "div2k",
        "DIV2K (NTIRE 2017), high resolution",
        "https://data.vision.ee.ethz.ch/cvl/DIV2K/",
        "DIV2K_train_HR.zip and DIV2K_valid_HR.zip (packed or unpacked)",
        "academic research only",
        {
            "train": Split(("DIV2K_train_HR/*", "DIV2K_train_HR.zip"), 800),
            "val": Split(("DIV2K_valid_HR/*", "DIV2K_valid_HR.zip"), 100),
        },
    ),
    Known(
        "cityscapes",
        "Cityscapes",
        "https://www.cityscapes-dataset.com/downloads/",
        "leftImg8bit_trainvaltest.zip, and leftImg8bit_trainextra.zip for train_extra (after registration)",
        "registration, non-commercial",
        {
            split: Split(
                (f"leftImg8bit/{split}/*/*_leftImg8bit.png", f"leftImg8bit_{part}.zip::leftImg8bit/{split}/*"),
                count,
            )
            for split, part, count in (
                ("train", "trainvaltest", 2975),
                ("val", "trainvaltest", 500),
                ("test", "trainvaltest", 1525),
                ("train_extra", "trainextra", 20_000),
            )
        },
    ),
    Known(
        "places365",
        "Places365-Standard",
        "http://places2.csail.mit.edu/download.html",
        "train_large_places365standard.tar (or train_256_...), val_large.tar (packed or unpacked)",
        _RESEARCH,
        {
            "train": Split(
                ("data_large_standard/**/*", "data_256_standard/**/*", "train_*_places365standard.tar"),
                1_803_460,
            ),
            "val": Split(("val_large/*", "val_256/*", "val_large.tar", "val_256.tar"), 36_500),
            "test": Split(("test_large/*", "test_256/*", "test_large.tar", "test_256.tar"), 328_500),
        },
    ),
    Known(
        "coco",
        "COCO 2017",
        "https://cocodataset.org/#download",
        "train2017.zip, val2017.zip, ... (packed or unpacked)",
        "each picture's own Flickr licence, most of them non-commercial",
        {
            split: Split((f"{folder}/*", f"images/{folder}/*", f"{folder}.zip"), count)
            for split, folder, count in (
                ("train", "train2017", 118_287),
                ("val", "val2017", 5000),
                ("test", "test2017", 40_670),
                ("unlabeled", "unlabeled2017", 123_403),
            )
        },
    ),
    Known(
        "cifar10",
        "CIFAR-10",
        "https://www.cs.toronto.edu/~kriz/cifar.html",
        "cifar-10-binary.tar.gz or cifar-10-python.tar.gz, unpacked",
        "none stated; free use is customary",
        {
            split: Split(
                (
                    f"cifar-10-batches-bin/{stem}.bin",
                    f"{stem}.bin",
                    f"cifar-10-batches-py/{stem}",
                    stem,
                    f"{split}/*/*",
                ),
                count,
            )
            for split, stem, count in (("train", "data_batch_[1-5]", 50_000), ("test", "test_batch", 10_000))
        },
        "32 x 32 pixels",
        side=32,
    ),
    Known(
        "lsun",
        "LSUN scenes and objects",
        "https://github.com/fyu/lsun",
        "one or more CATEGORY_train_lmdb.zip, unpacked",
        _RESEARCH,
        {
            "train": Split(("*_train_lmdb/data.mdb", "*/data.mdb")),
            "val": Split(("*_val_lmdb/data.mdb",), 3000),
            "test": Split(("test_lmdb/data.mdb",), 10_000),
        },
        "shrunk and compressed by its owners: unfit for lossless work",
    ),
    Known(
        "flickr2k",
        "Flickr2K",
        "https://github.com/limbee/NTIRE2017",
        "Flickr2K.tar (packed or unpacked)",
        _RESEARCH,
        {
            "train": Split(
                ("Flickr2K_HR/*", "Flickr2K/Flickr2K_HR/*", "Flickr2K.tar::*Flickr2K_HR/*", "*.zip::*Flickr2K_HR/*"),
                2650,
            )
        },
    ),
    Known(
        "flickr30k",
        "Flickr30k",
        "https://shannon.cs.illinois.edu/DenotationGraph/",
        "flickr30k-images.tar.gz (after asking for it; packed or unpacked)",
        _RESEARCH,
        {"train": Split(("flickr30k?images/*", "Images/*", "flickr30k?images.tar*"), 31_783)},
    ),
    Known(
        "bsds500",
        "Berkeley segmentation data set",
        "https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/resources.html",
        "BSR_bsds500.tgz (packed or unpacked)",
        _RESEARCH,
        {
            split: Split(
                (
                    f"images/{split}/*",
                    f"data/images/{split}/*",
                    f"BSR/BSDS500/data/images/{split}/*",
                    f"BSR_bsds500.tgz::*data/images/{split}/*",
                ),
                count,
            )
            for split, count in (("train", 200), ("val", 100), ("test", 200))
        },
    ),
    Known(
        "kodak",
        "Kodak Photo CD",
        "https://r0k.us/graphics/kodak/",
        "kodim01.png ... kodim24.png",
        "unrestricted use",
        {"test": Split(("kodim[0-9][0-9].*", "[0-9][0-9].*"), 24)},
        "18 pictures of 768 x 512, 6 of 512 x 768",
    ),
    Known(
        "clic2020",
        "CLIC 2020, professional and mobile",
        "https://www.tensorflow.org/datasets/catalog/clic",
        "professional_train_2020.zip, mobile_train_2020.zip, the two _valid_2020.zip, and the test zips"
        " CLIC2020Professional_test.zip, CLIC2020Mobile_test.zip (packed or unpacked)",
        "Unsplash licence and the photographers' own",
        {
            "train": Split(("*_train_2020/**/*", "train/**/*", "*_train_2020.zip"), 1633),
            "professional_train": Split(("professional_train_2020/**/*", "professional_train_2020.zip"), 585),
            "mobile_train": Split(("mobile_train_2020/**/*", "mobile_train_2020.zip"), 1048),
            "val": Split(("*_valid_2020/**/*", "valid/**/*", "*_valid_2020.zip"), 102),
            "professional_val": Split(("professional_valid_2020/**/*", "professional_valid_2020.zip"), 41),
            "mobile_val": Split(("mobile_valid_2020/**/*", "mobile_valid_2020.zip"), 61),
            "test": Split(("CLIC2020*_test/**/*", "test/**/*", "CLIC2020*_test*.zip"), 428),
            "professional_test": Split(("CLIC2020Professional_test/**/*", "CLIC2020Professional_test*.zip"), 250),
            "mobile_test": Split(("CLIC2020Mobile_test/**/*", "CLIC2020Mobile_test*.zip"), 178),
        },
        "say which year, track and split",
    ),
    Known(
        "raise",
        "RAISE raw photographs, developed by their owners to TIFF",
        "http://loki.disi.unitn.it/RAISE/",
        "RAISE_1k.csv (or _2k, _4k, _6k, _all) and the TIFF files that it names; NEF files must be developed first",
        "research, non-commercial",
        {
            split: Split((f"RAISE_{split}.csv",), count)
            for split, count in (("1k", 1000), ("2k", 2000), ("4k", 4000), ("6k", 6000), ("all", 8156))
        },
        "say how the raw files were developed, and any change of size",
    ),
    Known(
        "tecnick",
        "Tecnick TESTIMAGES 2011, RGB originals of 1200 x 1200",
        "https://testimages.org/",
        "the RGB archive of the 2011 set (TESTIMAGES/RGB/RGB_OR_1200x1200), unpacked",
        "CC BY-NC-SA",
        {"test": Split(("TESTIMAGES/RGB/RGB_OR_1200x1200/*", "RGB/RGB_OR_1200x1200/*", "RGB_OR_1200x1200/*"), 100)},
        "copies with 40 pictures go about, papers use 100: say how many",
    ),
    Known(
        "camvid",
        "CamVid",
        "http://mi.eng.cam.ac.uk/research/projects/VideoRec/CamVid/",
        "701_StillsRaw_full.zip, or the train, val and test folders of the SegNet tutorial for those splits",
        _RESEARCH,
        {
            "train": Split(("train/*", "train/images/*"), 367),
            "val": Split(("val/*", "val/images/*"), 101),
            "test": Split(("test/*", "test/images/*"), 233),
            "all": Split(("701_StillsRaw_full/*", "701_StillsRaw_full.zip"), 701),
        },
        "frames of one film are near-duplicates: split by sequence",
    ),
    _flat("live1", "LIVE release 1, originals", "https://live.ece.utexas.edu/research/quality/", 29),
    _flat("set5", "Set5", "https://people.rennes.inria.fr/Aline.Roumy/results/SR_BMVC12.html", 5),
    _flat("set14", "Set14", "https://sites.google.com/site/romanzeyde/research-interests", 14),
)

CATALOGUE: dict[str, Known] = {known.name: known for known in _SETS}
"""Every known set by its name."""


def plain(name: str) -> str:
    """'CIFAR-10' -> 'cifar10': a set's name as people write it, on folders too."""
    return "".join(c for c in name.lower() if c.isalnum())


def find(name: str) -> Known | None:
    """The set of that name, in any of its spellings, or None."""
    return CATALOGUE.get(plain(name))
