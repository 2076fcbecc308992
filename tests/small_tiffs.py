"""TIFF files with tags of any value, which Pillow cannot write."""

import struct

import numpy as np

LONGS = (273, 279)  # StripOffsets, StripByteCounts


def tiff(planes: list[bytes], width: int, height: int, tags: dict[int, int | tuple], order: str = "<") -> bytes:
    """A TIFF with one strip for each plane; `order` is "<" or ">"; a tag that is None is left out."""
    starts = np.cumsum([8] + [len(plane) for plane in planes])
    required = {256: width, 257: height, 259: 1, 277: 1, 278: height}
    strips = {273: tuple(starts[:-1].tolist()), 279: tuple(map(len, planes))}
    entries = {tag: value for tag, value in (required | strips | tags).items() if value is not None}
    directory = -(-int(starts[-1]) // 2) * 2  # on an even address
    further, rows = b"", b""
    for tag, value in sorted(entries.items()):
        values = value if isinstance(value, tuple) else (value,)
        body = struct.pack(order + ("I" if tag in LONGS else "H") * len(values), *values)
        place = directory + 2 + 12 * len(entries) + 4 + len(further)
        stored = body.ljust(4, b"\0") if len(body) <= 4 else struct.pack(order + "I", place)
        further += body if len(body) > 4 else b""
        rows += struct.pack(order + "HHI", tag, 4 if tag in LONGS else 3, len(values)) + stored
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", directory)
    body = b"".join(planes).ljust(directory - 8, b"\0")
    return head + body + struct.pack(order + "H", len(entries)) + rows + bytes(4) + further


def packed_rows(samples: np.ndarray, bits: int) -> bytes:
    """Samples (H, W) of fewer than 16 bits, packed, each row filled up to a whole byte."""
    digits = (samples[..., None] >> np.arange(bits - 1, -1, -1)) & 1
    return np.packbits(digits.reshape(len(samples), -1).astype(np.uint8), axis=1).tobytes()
