"""Write the golden files anew: `python tests/golden/make.py`. Only for codecs whose weights changed before a release.

After a release its golden files stay as they are, and every later version must decode them.
"""

from pathlib import Path

import numpy as np
from PIL import Image
from skimage import data

from kodim import registry
from kodim.learned import LearnedCodec, decode_kdm
from kodim.picture import load

HERE = Path(__file__).parent


def main() -> None:
    photo = Image.fromarray(np.ascontiguousarray(data.astronaut()[20:92, 180:300]))
    clear = photo.copy()
    clear.putalpha(photo.getchannel("R"))
    cases = (("rgb", photo, 20.0), ("rgb", photo, 87.5), ("l", photo.convert("L"), 50.0), ("rgba", clear, 50.0))
    for entry in registry.entries(kind="learned", trained=True):
        for name, image, quality in cases:
            path = HERE / f"{entry.slug}-{name}-{quality:g}.kdm"
            codec = LearnedCodec(entry)
            if path.exists() and codec.codec.fingerprint() in path.read_bytes():
                continue
            path.write_bytes(codec.encode(load(image), quality))
            decode_kdm(path.read_bytes()).image().save(path.with_suffix(".png"), optimize=True)
            print(path.name, path.stat().st_size)


if __name__ == "__main__":
    main()
