"""Checks the pictures before a run starts: unreadable pictures, copies, leaks, masks that do not fit.

Copies are pictures that are equal or nearly so: the same file again, saved or scaled anew, or the next frame of a
video. They say nothing new about a category, so each group of them counts as one picture for the calibration.
"""

import hashlib
import io
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.sparse import coo_array, vstack
from scipy.sparse.csgraph import connected_components

from hubmodels.pictures import PictureError
from hubmodels.samples import (
    MASK_THRESHOLD,
    Category,
    Sample,
    Source,
    decode_mask,
    read_source,
    same_aspect,
    shorten,
    size_text,
)
from training.progress import tqdm

THUMBNAIL = 48  # pixels
# Root mean square of grey levels. Measured on 6 real and 5 rendered sets: different parts differ by 1.5 and more; a
# picture saved anew (JPEG 90), scaled to 3/4, 3 % brighter, or with noise of 3 levels mostly by less than 1.25.
COPY_DISTANCE = 1.25
CHUNK = 512  # rows of the table of distances
ROUNDING = 0.05  # grey levels: distances of equal pictures, in float32
NEAR_SHARE = 0.3  # of the median distance of all pairs: where all parts are much alike, copies are still nearer
TWO_VALUED_PARTS = 0.9  # share of the pictures from which on the parts themselves have two grey values
TWO_VALUED, GREY_WIDTH = 0.99, 2  # share of the pixels; grey levels


@dataclass(frozen=True)
class SanityReport:
    """Contents and faults of a category. Samples are identified by their names.

    Attributes:
        counts: number of pictures by split and defect type.
        sizes: number of training pictures by (height, width).
        unreadable: reason by sample.
        copies: groups of training pictures that are equal or nearly equal.
        leaks: (train, test) pairs that are equal byte for byte.
        bad_masks: fault by sample: unreadable, empty, or not the picture's size.
        train_sha256: of the names and bytes of the training pictures that are kept, independent of their folder.
        unused: what lies in the folders of the category and is not used, one line each.
        contaminated: how many of the training pictures show defects because a study wanted it.
    """

    dataset: str
    category: str
    counts: dict[str, dict[str, int]]
    sizes: dict[tuple[int, int], int]
    unreadable: dict[str, str]
    copies: list[list[str]]
    leaks: list[tuple[str, str]]
    missing_masks: list[str]
    bad_masks: dict[str, str]
    train_sha256: str
    unused: list[str]
    contaminated: int = 0

    def lines(self) -> list[str]:
        """The report as text, one finding per line."""
        lines = [f"{self.dataset}/{self.category}: " + "; ".join(_count(*split) for split in self.counts.items())]
        lines.append(self._size_line())
        unreadable = [f"{name} ({cause})" for name, cause in self.unreadable.items()]
        bad_masks = [f"{name} ({cause})" for name, cause in self.bad_masks.items()]
        findings = {
            "{} unreadable pictures left out": unreadable,
            "{} groups of copies in the training pictures, each counted as one picture": _equations(self.copies),
            "LEAK: {} test pictures are also training pictures": _equations(self.leaks),
            "{} anomalous test pictures without mask": self.missing_masks,
            "{} masks to check (no pixel metrics, or with --skip-bad those over the other test pictures)": bad_masks,
        }
        lines += [f"{text.format(len(found))}: {shorten(found)}" for text, found in findings.items() if found]
        return lines + self.unused

    def _size_line(self) -> str:
        (common, times), total = max(self.sizes.items(), key=lambda item: item[1]), sum(self.sizes.values())
        line = f"training picture size (height x width): {size_text(common)} ({times} of {total})"
        if len(self.sizes) > 1:
            heights, widths = zip(*self.sizes, strict=True)
            line += f", {len(self.sizes)} sizes, {min(heights)}-{max(heights)} x {min(widths)}-{max(widths)}"
        return line

    def as_dict(self) -> dict:
        """The report as plain JSON values."""
        sizes = [{"height": h, "width": w, "count": count} for (h, w), count in self.sizes.items()]
        return asdict(self) | {"sizes": sizes, "leaks": [list(pair) for pair in self.leaks]}


def inspect_category(category: Category, skip_bad: bool = False) -> tuple[Category, SanityReport]:
    """Checks a category before training; returns it without unreadable pictures, and the report.

    Training pictures are decoded. No test picture is decoded before training has ended: only their bytes are hashed,
    and the size for comparison with a mask is read from the file header.

    Raises:
        ValueError: unreadable training pictures or test pictures without bytes, unless `skip_bad`; or fewer than two
            training pictures remain.
    """
    sizes, thumbnails, unreadable = _decode_all(category.train)
    if unreadable and not skip_bad:
        causes = "\n".join(f"  {name}: {cause}" for name, cause in unreadable.items())
        raise ValueError(
            f"{category.name}: {len(unreadable)} training pictures cannot be read:\n{causes}\n"
            "Repair or remove them, or leave them out with --skip-bad."
        )
    category = replace(category, train=tuple(sample for sample in category.train if sample.name not in unreadable))
    if len(category.train) < 2:
        raise ValueError(
            f"{category.name} has {len(category.train)} readable training pictures; at least 2 are needed, one to "
            "train on and one to hold out."
        )
    digests, _ = _digests(category.train)
    test_digests, without_bytes = _digests(category.test, skip_bad)
    category = replace(category, test=tuple(sample for sample in category.test if sample.name in test_digests))
    names_by_digest = {digest: name for name, digest in reversed(digests.items())}
    copies = find_copies(thumbnails)
    if sum(len(group) - 1 for group in copies) == len(category.train) - 1:
        raise ValueError(
            f"{category.name}: all training pictures are copies of one. At least 2 different ones are needed, one to "
            "train on and one to hold out."
        )
    splits = {"train": category.train, "test": category.test}
    report = SanityReport(
        dataset=category.dataset,
        category=category.name,
        counts={split: dict(Counter(sample.defect_type for sample in samples)) for split, samples in splits.items()},
        sizes=sizes,
        unreadable=unreadable | without_bytes,
        copies=copies,
        leaks=[(names_by_digest[d], name) for name, d in test_digests.items() if d in names_by_digest],
        missing_masks=category.missing_masks,
        bad_masks={s.name: fault for s in category.test if s.mask is not None and (fault := _mask_fault(s))},
        train_sha256=_digest_of_all(digests),
        unused=list(map(str, category.unused)),
    )
    return category, report


def _decode_all(
    samples: Sequence[Sample],
) -> tuple[dict[tuple[int, int], int], dict[str, NDArray[np.float32]], dict[str, str]]:
    """Number of pictures by (height, width), the thumbnail of each by name, and why others cannot be used."""
    sizes, thumbnails, unreadable, flat = Counter(), {}, {}, []
    for sample in tqdm(samples, desc="checking pictures"):
        try:
            picture = read_source(sample.source)
            if sample.mask is not None and decode_mask(sample.mask).any():
                raise ValueError("its label marks a defect")
        except (OSError, ValueError) as error:
            unreadable[sample.name] = str(error)
            continue
        sizes[picture.height, picture.width] += 1
        thumbnails[sample.name] = _thumbnail(picture)
        flat += [sample.name] if _is_two_valued(picture) else []
    if len(flat) < TWO_VALUED_PARTS * len(samples):  # otherwise the parts look like that
        unreadable |= dict.fromkeys(flat, "it has only two grey values, so it looks like a mask or an empty picture")
    kept = {name: thumbnail for name, thumbnail in thumbnails.items() if name not in unreadable}
    return dict(sizes), kept, unreadable


def _is_two_valued(picture: Image.Image) -> bool:
    """Whether two grey values, give or take GREY_WIDTH, make up nearly all of a picture."""
    near = np.ones(2 * GREY_WIDTH + 1)
    counts = np.convolve(picture.convert("L").histogram(), near, "same")
    first = counts.argmax()
    others = np.abs(np.arange(len(counts)) - first) > 2 * GREY_WIDTH
    return counts[first] + counts[others].max() >= TWO_VALUED * picture.width * picture.height


def _thumbnail(picture: Image.Image) -> NDArray[np.float32]:
    """The picture's grey at THUMBNAIL x THUMBNAIL, less its mean: (THUMBNAIL ** 2,), grey levels of 255."""
    small = picture.convert("L").resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)
    grey = np.asarray(small, np.float32).ravel()
    return grey - grey.mean()


def find_copies(thumbnails: dict[str, NDArray[np.float32]]) -> list[list[str]]:
    """Groups of names whose thumbnails are near each other, also by way of others.

    Near is a distance (root mean square) of at most COPY_DISTANCE, and of at most NEAR_SHARE of the median distance.
    """
    names = sorted(thumbnails)
    values = np.stack([thumbnails[name] for name in names]) / THUMBNAIL
    limit, near = min(COPY_DISTANCE, NEAR_SHARE * _typical_distance(values)), []
    for start in range(0, len(names), CHUNK):
        near.append(coo_array(_distances(values[start : start + CHUNK], values) <= max(limit, ROUNDING)))
    groups = defaultdict(list)
    for name, group in zip(names, connected_components(vstack(near), directed=False)[1], strict=True):
        groups[group].append(name)
    return [group for group in groups.values() if len(group) > 1]


def _typical_distance(values: NDArray[np.float32]) -> float:
    """The median distance of pairs, of the first CHUNK pictures."""
    some = values[:CHUNK]
    pairs = _distances(some, some)[np.triu_indices(len(some), 1)]
    return float(np.median(pairs)) if len(pairs) else 0.0


def _distances(some: NDArray[np.float32], all_: NDArray[np.float32]) -> NDArray[np.float32]:
    squares = (some**2).sum(1)[:, None] + (all_**2).sum(1) - 2 * some @ all_.T
    return np.sqrt(squares.clip(0))


def _equations(groups: Iterable[Sequence[str]]) -> list[str]:
    return [" = ".join(group) for group in groups]


def _digest_of_all(digests: dict[str, bytes]) -> str:
    total = hashlib.sha256()
    for name, digest in sorted(digests.items()):
        total.update(f"{len(name)} {name}".encode() + digest)
    return total.hexdigest()


def _digests(samples: Iterable[Sample], skip_bad: bool = False) -> tuple[dict[str, bytes], dict[str, str]]:
    """By sample name: the SHA-256 of its bytes, and with `skip_bad` the reason why there are none."""
    digests, without_bytes = {}, {}
    for sample in samples:
        try:
            digests[sample.name] = hashlib.sha256(sample.source.read_bytes()).digest()
        except (OSError, PictureError) as error:
            if not skip_bad:
                raise ValueError(f"{sample.name} cannot be read: {error}. Repair it, or add --skip-bad.") from error
            without_bytes[sample.name] = str(error)
    return digests, without_bytes


def _mask_fault(sample: Sample) -> str | None:
    try:
        mask = decode_mask(sample.mask)
    except (OSError, ValueError) as error:
        return f"unreadable: {error}"
    if not mask.any():
        return f"empty: no grey value above {MASK_THRESHOLD}"
    size = _header_size(sample.source)
    # A header does not contain the orientation, so a turned picture passes here; read_mask checks it again.
    if size and not (same_aspect(mask.shape, size) or same_aspect(mask.shape, size[::-1])):
        return f"mask is {size_text(mask.shape)}, picture {size_text(size)}"
    return None


def _header_size(source: Source) -> tuple[int, int] | None:
    """(height, width) from the file header, without decoding; None if it cannot be read."""
    try:
        with Image.open(io.BytesIO(source.read_bytes())) as picture:
            return picture.height, picture.width
    except (OSError, ValueError, Image.DecompressionBombError):
        return None


def _count(split: str, defect_types: dict[str, int]) -> str:
    if not defect_types:
        return f"no {split} pictures"
    return f"{split} " + ", ".join(f"{count} {defect_type}" for defect_type, count in defect_types.items())
