"""The same file, the same latents: whatever the threads, the library, the memory format and the precision."""

import pytest
import torch

from kodim import create_codec
from kodim.bench.exactness import check, settings
from kodim.codec import Codec
from kodim.errors import KodimError
from kodim.learned import to_tensor


@pytest.mark.parametrize("quality", [12.5, 80])
def test_every_codec_decodes_alike_in_every_setting(codec: Codec, photo, quality: float) -> None:
    x = to_tensor(photo[:100, :150])
    stream, _ = codec.compress(x, quality)
    findings = check(codec, stream, (100, 150), quality)
    assert {f.setting for f in findings} == set(settings())
    for finding in findings:
        assert finding.same_latents, finding.setting
        assert finding.difference < 0.05, finding.setting  # of 1/255


def test_drift_is_noticed(photo) -> None:
    """Other numbers out of the hyper-synthesis: what a decoder with another arithmetic would have."""
    codec = create_codec("balle2018")
    stream, _ = codec.compress(to_tensor(photo[:64, :64]), 50)
    with torch.no_grad():
        codec.hyper_synthesis[4].bias.add_(0.05)
    with pytest.raises(KodimError):
        check(codec, stream, (64, 64), 50)
