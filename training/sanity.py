"""Looks for what spoils a run before it starts: unreadable pictures, duplicates, leaks, masks that do not fit."""

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
    """What a category holds and what is wrong with it. Sizes are (height, width); samples go by their names.

    ``duplicates`` are groups of training pictures, ``leaks`` (train, test) pairs, both equal byte for byte.
    ``bad_masks`` maps a sample to what is wrong with its mask: unreadable, empty, or not the picture's size.
    ``train_sha256`` is over the names and bytes of the training pictures kept, wherever they lie.
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
        if self.unreadable:
            causes = [f"{name} ({cause})" for name, cause in self.unreadable.items()]
            lines.append(f"{len(causes)} unreadable pictures left out: {shorten(causes)}")
        if self.duplicates:
            groups = [" = ".join(group) for group in self.duplicates]
            lines.append(f"{len(groups)} groups of identical files in the training pictures: {shorten(groups)}")
        if self.leaks:
            pairs = [f"{train} = {test}" for train, test in self.leaks]
            lines.append(f"LEAK: {len(pairs)} test pictures are also training pictures: {shorten(pairs)}")
        if self.missing_masks:
            names = self.missing_masks
            lines.append(f"{len(names)} anomalous test pictures without mask: {shorten(names)}")
        if self.bad_masks:
            causes = [f"{name} ({cause})" for name, cause in self.bad_masks.items()]
            fate = "no pixel metrics, or with --skip-bad those over the other test pictures"
            lines.append(f"{len(causes)} masks to check ({fate}): {shorten(causes)}")
        return lines

    def _size_line(self) -> str:
        (common, times), total = max(self.sizes.items(), key=lambda item: item[1]), sum(self.sizes.values())
        line = f"training picture size (height x width): {size_text(common)} ({times} of {total})"
        if len(self.sizes) > 1:
            heights, widths = zip(*self.sizes, strict=True)
            line += f", {len(self.sizes)} sizes, {_range(heights)} x {_range(widths)}"
        return line

    def as_dict(self) -> dict:
        """The report as plain JSON values."""
        sizes = [{"height": h, "width": w, "count": count} for (h, w), count in self.sizes.items()]
        return asdict(self) | {"sizes": sizes, "leaks": [list(pair) for pair in self.leaks]}


def inspect_category(category: Category, skip_bad: bool = False) -> tuple[Category, SanityReport]:
    """Check a category before training; returns it without unreadable pictures, and the report.

    Training pictures are decoded. Of test pictures only the bytes are hashed and, where a mask must be compared with
    one, the size is taken from the file header: no test picture is decoded before training has ended. Raises
    ValueError for unreadable training pictures and for test pictures without bytes unless ``skip_bad``, and where
    fewer than two training pictures remain.
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
        bad_masks=_bad_masks(category.test),
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
    """By sample name: the SHA-256 of its bytes, and with ``skip_bad`` why there are none."""
    digests, without_bytes = {}, {}
    for sample in samples:
        try:
            digests[sample.name] = hashlib.sha256(sample.source.read_bytes()).digest()
        except (OSError, PictureError) as error:
            if not skip_bad:
                raise ValueError(f"{sample.name} cannot be read: {error}. Repair it, or add --skip-bad.") from error
            without_bytes[sample.name] = str(error)
    return digests, without_bytes


def _bad_masks(samples: Iterable[Sample]) -> dict[str, str]:
    findings = {sample.name: _mask_fault(sample) for sample in samples if sample.mask is not None}
    return {name: fault for name, fault in findings.items() if fault}


def _mask_fault(sample: Sample) -> str | None:
    try:
        mask = decode_mask(sample.mask)
    except (OSError, ValueError) as error:
        return f"unreadable: {error}"
    if not mask.any():
        return f"empty: no grey value above {MASK_THRESHOLD}"
    size = _header_size(sample.source)
    # A header does not say which way is up, so a turned picture passes here; read_mask is the judge.
    if size and not (same_aspect(mask.shape, size) or same_aspect(mask.shape, size[::-1])):
        return f"mask is {size_text(mask.shape)}, picture {size_text(size)}"
    return None


def _header_size(source: Source) -> tuple[int, int] | None:
    """(height, width) from the file header, without decoding; None where even that cannot be read."""
    try:
        with Image.open(io.BytesIO(source.read_bytes())) as picture:
            return picture.height, picture.width
    except (OSError, ValueError, Image.DecompressionBombError):
        return None


def _count(split: str, defect_types: dict[str, int]) -> str:
    if not defect_types:
        return f"no {split} pictures"
    return f"{split} " + ", ".join(f"{count} {defect_type}" for defect_type, count in defect_types.items())


def _range(values: Iterable[int]) -> str:
    return f"{min(values)}-{max(values)}"
