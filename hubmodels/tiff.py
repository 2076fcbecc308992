"""What the tags of a TIFF state of its samples where Pillow's mode does not: their full scale, and which end is black.

The numbers are those of TIFF 6.0: sections 4 to 8, 19 (SampleFormat) and 21 (YCbCr). Pillow inverts samples of up to
8 bits where white is zero, but no wider ones. It widens 12 bits to 16 without scaling them.
"""

from collections.abc import Mapping

SUBFILE, BITS, COMPRESSION, PHOTOMETRIC, PLANES, PALETTE, SAMPLE_FORMAT = 254, 258, 259, 262, 284, 320, 339
WHITE_IS_ZERO, YCBCR = 0, 6  # of PHOTOMETRIC
UNCOMPRESSED, OLD_JPEG = 1, 6  # of COMPRESSION; an old JPEG is YCbCr, and often without PHOTOMETRIC
SIGNED, FLOAT = 2, 3  # of SAMPLE_FORMAT, 1 = unsigned
SEPARATE = 2  # of PLANES: all red samples first, then green, then blue
GREY_MODES = ("1", "L", "LA", "F", "I", "I;16", "I;16B", "I;16L", "I;16N")

Tags = Mapping[int, object]  # as `TiffImageFile.tag_v2`


def refusal(tags: Tags, mode: str) -> str | None:
    """Why a TIFF of these tags and this Pillow mode has no certain meaning, and what to do; None where it has one."""
    bits, formats = max(_several(tags, BITS)), _several(tags, SAMPLE_FORMAT)
    compression, photometric = tags.get(COMPRESSION, UNCOMPRESSED), tags.get(PHOTOMETRIC)
    if tags.get(SUBFILE, 0) & 1:
        return "begins with a small preview, as raw photos do; export the picture as PNG"
    if SIGNED in formats or (bits == 32 and FLOAT not in formats):
        kind = f"{'signed' if SIGNED in formats else 'unsigned'} {bits}-bit"
        return f"has {kind} samples, for which no value is agreed to be white; save it with unsigned 8 or 16 bits"
    if photometric is None and mode in GREY_MODES and compression != OLD_JPEG:
        return "does not state whether 0 is black or white (TIFF tag 262 is missing); save it as PNG"
    if photometric == YCBCR and compression == UNCOMPRESSED and mode == "RGB":
        return "has uncompressed YCbCr colours, which cannot be read; save it as RGB"
    if tags.get(PLANES) == SEPARATE and bits > 8:
        return (
            f"has its colours in separate planes of {bits} bits, which cannot be read; save it with 8 bits or as PNG"
        )
    return None


def white_is_zero(tags: Tags) -> bool:
    """Whether 0 is white and the largest sample black."""
    return tags.get(PHOTOMETRIC) == WHITE_IS_ZERO


def full_scale(tags: Tags) -> int:
    """The sample that means full brightness in an unsigned grey picture: 4095 with 12 bits, 65535 with 16."""
    return 2 ** max(_several(tags, BITS)) - 1


def narrow_palette(tags: Tags) -> bytes | None:
    """The palette of a file that breaks the standard by entries of 8 bits instead of 16: all red ones come first.

    A true palette has at least one entry above 255. libtiff tells them apart in the same way.
    """
    entries = tags.get(PALETTE, ())
    return bytes(entries) if entries and max(entries) < 256 else None


def _several(tags: Tags, name: int) -> tuple[int, ...]:
    """A tag with one value for each channel; Pillow gives a single value bare where the writer broke the rules."""
    value = tags.get(name, (1,))
    return value if isinstance(value, tuple) else (value,)
