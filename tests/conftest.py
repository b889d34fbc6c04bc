"""Pictures and codecs that several test files share."""

import os
import signal
from collections.abc import Iterator

import numpy as np
import pytest
import torch

import kodim
from kodim.codec import Codec
from kodim.registry import entries, find

# A suite started in the background of a shell inherits an ignored SIGINT, and so would the programs it interrupts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Two threads in all: one for each of the suite's workers, where there are any.
WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", max(1, 2 // WORKERS))))

LEARNED = [e.slug for e in entries(kind="learned")]
SHIPPED = [e.slug for e in entries(kind="learned") if "compact" in e.weights]


@pytest.fixture(scope="session")
def photo() -> np.ndarray:
    """A photograph, uint8 (256, 320, 3)."""
    from skimage import data

    return np.ascontiguousarray(data.coffee()[60:316, 120:440])


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """For files of many small computations, which threads only slow down."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session", params=LEARNED)
def codec(request: pytest.FixtureRequest) -> Codec:
    """Every learned codec: its shipped weights, or random ones in its `test` preset (compact where there is none)."""
    if request.param in SHIPPED:
        return kodim.create_codec(request.param)
    torch.manual_seed(1)
    preset = "test" if "test" in find(request.param).presets else "compact"
    return kodim.create_codec(request.param, preset=preset, pretrained=False)
