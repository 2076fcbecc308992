"""Whether a picture shows the category at all, and is fit to be inspected; learned from held-out normal pictures.

A head trained on washers also scores a photo of a cat, and the score means nothing. The front end can separate
them: features averaged over a picture change little with a defect, which is local, and much with the category.
The constants were chosen on part of the data of `benchmarks/appearance.py`, which reports the rest separately.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hubmodels.front_end import FrontEnd
from hubmodels.scoring import SinglePrecision, size_by_data

# codes, for the app to word
DARK, BRIGHT, BLURRED, TINY, SWAPPED, UNLIKE = "dark", "bright", "blurred", "tiny", "swapped", "unlike"

LIMIT = 2.5  # middle of the range without an error in 30 or 100 held-out pictures of the four categories chosen on
FEWEST = 3  # held-out pictures: two others to measure each by
LEAST_SPREAD = 0.06  # of the mean feature's length, per feature: broken parts of a very uniform kind stay parts
PRIOR_WEIGHT = 20  # pictures: weight of the features' mean variance, added to each feature's own
SMALLEST_SPREAD = 1e-4  # of the mean feature: rounding, should all held-out pictures be the same
LIGHT_SHARE = 0.5  # of the darkest held-out picture's way from black, or the brightest one's from white: at the most
LIGHT_MARGIN = 0.15  # of the same way, at the least; between both, the held-out pictures' own range is the margin
SHARP_SHARE = 0.7  # of the least sharp held-out picture's sharpness: half misses noisy blur, 0.8 flags soft parts
SUSPICIOUS = 1.5  # ratio from which colours are checked: most good pictures need no second backbone pass
SWAPPED_SHARE = 0.7  # of the ratio, for the picture with red and blue exchanged: it fits much better
MOST_ENLARGED = 4  # times the usual: a patch of the finer layer, 8 pixels of the input, is then 2 of the picture's
FLAT = 1 / 255  # one level: below it contrast is rounding


@dataclass(frozen=True)
class PictureStatistics:
    """What is kept of one picture.

    Attributes:
        features: (D,) aggregated feature maps, averaged over all positions.
        brightness: mean of the model input, in [0, 1].
        sharpness: root mean square step between neighbouring pixels over the standard deviation of all, of the model
            input's grey; so neither size nor contrast matter. 0 = flat.
        enlargement: pixels of the resized picture for one of its own, along the axis where there are more; above 1
            the model sees pixels that were never taken.
    """

    features: Tensor
    brightness: float
    sharpness: float
    enlargement: float


@dataclass(frozen=True)
class AppearanceCheck:
    """Whether a picture shows a category, and the reasons against inspecting it.

    Attributes:
        ratio: distance from the category's held-out normal pictures, in units of their mean distance from each other;
            higher = more unusual. None where unknown: fewer than 3 held-out pictures.
        warnings: of "tiny", "dark", "bright", "blurred", "swapped" (red and blue are exchanged, as in OpenCV's arrays)
            and "unlike", in this order: what may be the cause of "unlike" comes first.
    """

    ratio: float | None
    warnings: tuple[str, ...]

    @property
    def matches(self) -> bool | None:
        """Whether it may be of this category, good or defective; None where unknown."""
        return None if self.ratio is None else self.ratio <= LIMIT


MESSAGES = {  # for programmers; the app has its own words
    TINY: "the picture has too few pixels to show a small defect; take it at a higher resolution",
    DARK: "the picture is darker than the good parts that the model learned; check light, exposure and the scale of "
    "the samples (12-bit values in uint16: multiply by 16)",
    BRIGHT: "the picture is brighter than the good parts that the model learned; check light and exposure",
    BLURRED: "the picture is more blurred than the good parts that the model learned; check the focus",
    SWAPPED: "the picture looks as if red and blue were exchanged; arrays must be RGB, but OpenCV gives BGR: use "
    "cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)",
    UNLIKE: "the picture does not look like the good parts that the model learned; check that it shows such a part",
}


def picture_statistics(
    images: Tensor, aggregated: list[Tensor], enlargements: Sequence[float]
) -> list[PictureStatistics]:
    """Images (B, 3, H, W) in [0, 1], their aggregated maps (B, D/L, h_l, w_l), enlargements -> statistics of each."""
    features = torch.cat([layer.mean((2, 3)) for layer in aggregated], dim=1).cpu()
    grey = images.mean(1)  # (B, H, W)
    steps = (grey[:, 1:, :-1] - grey[:, :-1, :-1]).square_()
    for some, rows in zip(steps.split(256, dim=1), grey[:, :-1].split(256, dim=1), strict=True):  # saves memory
        some.add_(rows.diff(dim=2).square_())
    sharpness = steps.mean((1, 2)).sqrt() / grey.std((1, 2)).clamp_min(FLAT)
    rows = zip(features, grey.mean((1, 2)).tolist(), sharpness.tolist(), enlargements, strict=True)
    return [PictureStatistics(*row) for row in rows]


def exchanged_statistics(
    front_end: FrontEnd, images: Tensor, enlargement: float, own: PictureStatistics
) -> PictureStatistics:
    """Statistics of an image (1, 3, H, W) with red and blue exchanged: one backbone pass; its own where it is grey."""
    exchanged = images.flip(1)
    if torch.equal(images, exchanged):
        return own
    return picture_statistics(exchanged, front_end(exchanged), [enlargement])[0]


class Appearance(SinglePrecision):
    """What a category looks like, learned from held-out normal pictures; buffers that are saved with the weights.

    The distance is Mahalanobis (1936) with a diagonal covariance, shrunk to its mean so that 5 pictures will do, as
    Ledoit and Wolf (2004) shrink a full one. Its unit is the mean distance of the held-out pictures, each from all
    others, so that none is measured by itself (as in conformal prediction, Vovk et al. 2005). A limit at their maximum
    would flag about 1 in n + 1 good pictures; LIMIT is mostly larger, so that parts with defects pass.

    Where good parts are very uniform, their spread is small compared with the way to other categories, and broken
    parts would not pass. So it counts as at least LEAST_SPREAD of the mean feature, except for exchanged colours.

    As long as nothing is learned, the spread is infinite, so that nothing is unlike. Light and size then have
    absolute limits.

    Args:
        embed_dim: width D of a patch feature.

    Attributes:
        center: (D,) mean feature of the held-out normal pictures.
        spread: (D,) what counts as 1 along each feature.
        brightness: (n,) of the held-out pictures.
        looks: (n,) distance of each held-out picture from all others; none as long as nothing is learned.
        sharpness: () of the least sharp one.
        enlargement: () of the most enlarged one, at least 1.
    """

    def __init__(self, embed_dim: int) -> None:
        super().__init__()
        self.register_buffer("center", torch.zeros(embed_dim))
        self.register_buffer("spread", torch.full((embed_dim,), math.inf))
        self.register_buffer("brightness", torch.tensor([0.1, 0.9], dtype=torch.float32))  # of ordinary pictures
        self.register_buffer("looks", torch.empty(0))
        # no sharpness is too low: a smooth part is not blurred
        self.register_buffer("sharpness", torch.tensor(0, dtype=torch.float32))
        self.register_buffer("enlargement", torch.tensor(1, dtype=torch.float32))
        size_by_data(self, ["brightness"], least=1)
        size_by_data(self, ["looks"])

    def fit(self, seen: Sequence[PictureStatistics]) -> None:
        """Learns from the statistics of held-out normal pictures; with fewer than FEWEST nothing is learned."""
        self.load_state_dict(Appearance(len(self.center)).state_dict())
        if len(seen) < FEWEST:
            return
        features = torch.stack([picture.features for picture in seen]).double()
        n, light = len(seen), [picture.brightness for picture in seen]
        self.center.copy_(features.mean(0))
        self.spread.copy_(_spread(features))
        self.brightness = torch.tensor(light, dtype=torch.float32, device=self.center.device)
        self.looks = self._ratios((features - features.mean(0)) * n / (n - 1)).to(self.center)
        self.sharpness.fill_(min(picture.sharpness for picture in seen))
        self.enlargement.fill_(max(1.0, *(picture.enlargement for picture in seen)))

    @property
    def is_fitted(self) -> bool:
        """Whether a category's appearance was learned."""
        return bool(self.spread.isfinite().all())

    def check(
        self, picture: PictureStatistics, exchanged: Callable[[], PictureStatistics] | None = None
    ) -> AppearanceCheck:
        """How the picture compares with the held-out ones.

        Args:
            exchanged: returns the statistics with red and blue exchanged. It is only called for a picture that is
                unusual, because it needs a backbone pass. Without it the colours are not checked.
        """
        ratio, colours = self._ratio(picture), self._ratio(picture, 0)
        darkest, brightest = self._light_limits()
        found = {
            TINY: picture.enlargement > MOST_ENLARGED * self.enlargement.item(),
            DARK: picture.brightness < darkest,
            BRIGHT: picture.brightness > brightest,
            BLURRED: picture.sharpness < SHARP_SHARE * self.sharpness.item(),
            SWAPPED: exchanged is not None
            and colours > SUSPICIOUS
            and self._ratio(exchanged(), 0) <= min(LIMIT, SWAPPED_SHARE * colours),
            UNLIKE: ratio > LIMIT,
        }
        return AppearanceCheck(ratio if self.is_fitted else None, tuple(code for code in found if found[code]))

    def _ratio(self, picture: PictureStatistics, least: float = LEAST_SPREAD) -> float:
        """The distance; small ones of a very uniform kind, too, if `least` is 0."""
        return self._ratios((picture.features - self.center.cpu())[None], least).item()

    def _ratios(self, deviations: Tensor, least: float = LEAST_SPREAD) -> Tensor:
        """Deviations (m, D) from a center -> distances (m,)."""
        spread = self.spread.cpu().clamp_min(least * self.center.cpu().square().mean().sqrt())
        return (deviations / spread).square().mean(1).sqrt()

    def _light_limits(self) -> tuple[float, float]:
        """The least and the most brightness that cause no warning."""
        darkest, brightest = self.brightness.min().item(), self.brightness.max().item()
        lowest, highest = LIGHT_SHARE * darkest, 1 - LIGHT_SHARE * (1 - brightest)
        if not self.is_fitted:
            return lowest, highest
        own_range = brightest - darkest
        below = max(own_range, LIGHT_MARGIN * darkest)
        above = max(own_range, LIGHT_MARGIN * min(brightest, 1 - brightest))
        return max(lowest, darkest - below), min(highest, brightest + above)


def _spread(features: Tensor) -> Tensor:
    """Features (n, D) -> spread (D,): on average, the n lie 1 from the others' center by the others' spread.

    The center and squares without picture i need no second pass: x_i lies n/(n-1) of its deviation from the center of
    the others, whose squares are the total less n/(n-1) of its own.
    """
    n, deviations = len(features), features - features.mean(0)
    squares, own = deviations.square().sum(0), deviations.square() * n / (n - 1)
    variances = _shrunk((squares - own).clamp_min(0), n - 1).clamp_min(torch.finfo(own.dtype).tiny)
    distances = (own * n / (n - 1) / variances).mean(1).sqrt()
    return distances.mean() * _shrunk(squares, n).sqrt() + SMALLEST_SPREAD * features.abs().mean()


def _shrunk(squares: Tensor, n: int) -> Tensor:
    """Squared deviations (..., D) added up over n pictures -> variances, drawn to their mean."""
    prior = squares.mean(-1, keepdim=True) / (n - 1)
    return (squares + PRIOR_WEIGHT * prior) / (n - 1 + PRIOR_WEIGHT)
