"""Checks the pictures before a run starts: unreadable pictures, duplicates, leaks, masks that do not fit."""

import hashlib
import io
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace

from PIL import Image

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


@dataclass(frozen=True)
class SanityReport:
    """Contents and faults of a category. Samples are identified by their names.

    Attributes:
        counts: number of pictures by split and defect type.
        sizes: number of training pictures by (height, width).
        unreadable: reason by sample.
        duplicates: groups of training pictures that are equal byte for byte.
        leaks: (train, test) pairs that are equal byte for byte.
        bad_masks: fault by sample: unreadable, empty, or not the picture's size.
        train_sha256: of the names and bytes of the training pictures that are kept, independent of their folder.
    """

    dataset: str
    category: str
    counts: dict[str, dict[str, int]]
    sizes: dict[tuple[int, int], int]
    unreadable: dict[str, str]
    duplicates: list[list[str]]
    leaks: list[tuple[str, str]]
    missing_masks: list[str]
    bad_masks: dict[str, str]
    train_sha256: str

    def lines(self) -> list[str]:
        """The report as text, one finding per line."""
        lines = [f"{self.dataset}/{self.category}: " + "; ".join(_count(*split) for split in self.counts.items())]
        lines.append(self._size_line())
        unreadable = [f"{name} ({cause})" for name, cause in self.unreadable.items()]
        bad_masks = [f"{name} ({cause})" for name, cause in self.bad_masks.items()]
        findings = {
            "{} unreadable pictures left out": unreadable,
            "{} groups of identical files in the training pictures": [" = ".join(same) for same in self.duplicates],
            "LEAK: {} test pictures are also training pictures": [" = ".join(pair) for pair in self.leaks],
            "{} anomalous test pictures without mask": self.missing_masks,
            "{} masks to check (no pixel metrics, or with --skip-bad those over the other test pictures)": bad_masks,
        }
        return lines + [f"{text.format(len(found))}: {shorten(found)}" for text, found in findings.items() if found]

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
    sizes, unreadable = _decode_all(category.train)
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
    duplicates, leaks = _same_bytes(digests, test_digests)
    splits = {"train": category.train, "test": category.test}
    report = SanityReport(
        dataset=category.dataset,
        category=category.name,
        counts={split: dict(Counter(sample.defect_type for sample in samples)) for split, samples in splits.items()},
        sizes=sizes,
        unreadable=unreadable | without_bytes,
        duplicates=duplicates,
        leaks=leaks,
        missing_masks=category.missing_masks,
        bad_masks={s.name: fault for s in category.test if s.mask is not None and (fault := _mask_fault(s))},
        train_sha256=_digest_of_all(digests),
    )
    return category, report


def _decode_all(samples: Iterable[Sample]) -> tuple[dict[tuple[int, int], int], dict[str, str]]:
    sizes, unreadable = Counter(), {}
    for sample in samples:
        try:
            width, height = read_source(sample.source).size
        except (OSError, ValueError) as error:
            unreadable[sample.name] = str(error)
        else:
            sizes[height, width] += 1
    return dict(sizes), unreadable


def _same_bytes(
    digests: dict[str, bytes], test_digests: dict[str, bytes]
) -> tuple[list[list[str]], list[tuple[str, str]]]:
    groups = defaultdict(list)
    for name, digest in digests.items():
        groups[digest].append(name)
    leaks = [(groups[digest][0], name) for name, digest in test_digests.items() if digest in groups]
    return [names for names in groups.values() if len(names) > 1], leaks


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
