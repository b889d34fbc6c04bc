"""Image-dependent local entropy models.

D. Minnen, G. Toderici, S. Singh, S. J. Hwang, M. Covell, "Image-Dependent Local Entropy Models for Learned Image
Compression", ICIP 2018, arXiv 1805.12295.

An ordinary transform without hyper-prior. For every tile of 8x8 latents and every channel the encoder names the
entry of a learned dictionary of densities that fits best; the name costs a few bits, given the one to its left::

    x --g_a--> y --gain--> tiles --argmin_d bits(d) + bits of saying d--> d
                 |                        d --> | coder, pi(d | channel, rate, left d) | --> d
                 '--round-------------------------> | coder, p_d | --> y_hat --g_s--> x_hat

Entry 0 holds nothing but zeros. Tiles depend on one another by the names only, so all latents are decoded at once.

The paper gives neither layers nor sizes. Built here: the pyramid of the same group, tiles of 8, 64 entries shared
by all channels (each a blend of a Laplacian and a Gaussian around zero), and joint training of transform,
dictionary and names, the gradient going through the entry that won; k-means, the paper's start, is replaced by
scales in geometric progression. The `compact` preset has the transform of `minnen2018`, whose weights it may
start from.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..codec import Codec
from ..coding.mixtures import CategoricalPrior
from ..coding.sites import Code
from ..coding.wavefront import to_grid
from ..contexts.local import Dictionary, tile_costs
from ..quantizers.gains import Gain
from ..transforms.pyramid import analysis, synthesis
from ..transforms.start import dct_start, gains

UNIT = 2.0**-10


class Minnen2018Local(Codec):
    """Local entropy models of 1805.12295; y (B, M, H/16, W/16) and a name for each channel of each tile."""

    info = {
        "slug": "minnen2018local",
        "title": "Image-dependent local entropy models",
        "authors": "Minnen, Toderici, Singh, Hwang, Covell",
        "year": 2018,
        "arxiv": "1805.12295",
        "aliases": ["local-entropy-models"],
        "improves": "balle2017",
        "taxonomy": {
            "network": "VAE (CNN with GDN)",
            "unit": "full image, side information per tile",
            "spatial": "transmitted choice of probability model per tile",
            "rate": "one model per lambda; compact: gain units",
            "range": "low to high",
        },
    }
    presets = {
        "paper": {"widths": (128, 128, 128, 192), "entries": 64, "tile": 8, "levels": 1, "soft": True},
        "paper-high": {"widths": (192, 192, 192, 320), "entries": 64, "tile": 8, "levels": 1, "soft": True},
        "compact": {"widths": (48, 96, 128, 192), "entries": 64, "tile": 8, "levels": 8},
    }
    stride = 16
    refinable = False  # names are no quantities

    def __init__(self, widths: tuple[int, ...], entries: int, tile: int, levels: int, soft: bool = False) -> None:
        super().__init__()
        self.levels, self.soft, self.tile = levels, soft, tile
        shape = (widths, (5,) * 4, (2,) * 4)
        self.analysis = analysis(*shape, gdn_last=False)
        self.synthesis = synthesis(*shape, gdn_first=False)
        if levels > 1:
            dct_start(self.analysis, self.synthesis)
        self.gain = Gain(widths[-1], levels, *gains(self.lambdas))
        self.dictionary = Dictionary(entries)
        self.name_prior = CategoricalPrior()
        # Logits of a name: by channel, by rate, and by the name to its left (its last row: there is none).
        self.by_channel = nn.Parameter(torch.zeros(widths[-1], entries))
        self.by_level = nn.Parameter(torch.zeros(levels, entries))
        self.by_left = nn.Parameter(torch.cat((2 * torch.eye(entries), torch.zeros(1, entries))))

    def program(self, code: Code) -> Tensor:
        y = code.encoder(lambda x: self.analysis(x) * self.gain(code.level))
        h, w = code.grid(16)
        entry = self._names(code, lambda: y, (-(-h // self.tile), -(-w // self.tile)))
        entry = entry.repeat_interleave(self.tile, 2).repeat_interleave(self.tile, 3)[:, :, :h, :w]
        y_hat = code("y", self.dictionary(entry), lambda: y)
        return code.synthesis(self.synthesis, y_hat * self.gain.inverse(code.level))

    def _names(self, code: Code, latent: Callable[[], Tensor], tiles: tuple[int, int]) -> Tensor:
        """The site of the names, a column of tiles at a time: (B, M, *tiles) int64."""
        channels, entries = self.by_channel.shape
        left = torch.full((len(code.level), channels, tiles[0]), entries, device=code.level.device)
        if entries == 1:
            return (left[..., None] - 1).expand(-1, -1, -1, tiles[1])
        costs: list[Tensor] = []
        names = []
        for column in range(tiles[1]):
            logits = self._logits(left, code.level)  # (B, M, tiles, D)

            def choice(column: int = column, logits: Tensor = logits) -> Tensor:
                if not costs:
                    costs.append(tile_costs(latent(), self.tile, self.dictionary.costs()))
                saying = F.log_softmax(logits.detach().float(), 3) * 1.4427
                return (costs[0][:, :, :, column] - saying).argmin(3, keepdim=True).to(logits.dtype)

            name = code("names", self.name_prior(logits.permute(0, 3, 1, 2).unsqueeze(4)), choice)
            left = name[..., 0].detach().long()
            names.append(left)
        return torch.stack(names, 3)

    def _logits(self, left: Tensor, level: Tensor) -> Tensor:
        """Names to the left (B, M, tiles), D where there is none -> logits (B, M, tiles, D), in eval mode exact."""
        rows = (self.by_channel[:, None], self.by_level[level.round().long()][:, None, None], self.by_left[left])
        if self.training:
            return rows[0] + rows[1] + rows[2]
        exact = to_grid(rows[0]) + to_grid(rows[1]) + to_grid(rows[2])
        return (exact * UNIT).to(self.by_left.dtype)
