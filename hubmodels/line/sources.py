"""Where pictures of a line come from: files, folders, lists, videos and cameras, one picture at a time.

    FILE            a picture, or a video
    FOLDER          all pictures in it, however deep
    "parts/*.png"   a pattern
    -               paths on standard input, one a line
    camera:0        a camera of this computer, by its number or name
    rtsp://...      a camera in the network, or another address of a video

Videos and cameras need the extra `video`. Of a camera the newest picture is taken; those that came while the last one
was judged are left out. A camera that is gone is tried again until it is back.
"""

import glob
import logging
import re
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from hubmodels import install_command
from hubmodels.folders import pictures_in

logger = logging.getLogger(__name__)

CAMERA = "camera:"
ADDRESSES = ("rtsp://", "rtsps://", "rtmp://", "http://", "https://", "udp://", "srt://")
VIDEOS = {".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".ts", ".wmv"}
DEVICES = {  # by sys.platform: format and file of a numbered camera
    "linux": ("v4l2", "video{}"),  # in the folder of devices
    "darwin": ("avfoundation", "{}"),
    "win32": ("dshow", "video={}"),
}
FIRST_WAIT, LONGEST_WAIT = 1.0, 30.0  # seconds before a camera is tried again
SECRET = re.compile(r"(?<=:)//[^/\s]*@")  # user and password in an address
OPEN_IN = 10.0  # seconds
WAIT = 0.5  # seconds for a picture; a wait without end cannot be interrupted on Windows


class SourceError(ValueError):
    """A source has no pictures, or cannot be opened; the message says why."""


@dataclass(frozen=True)
class Found:
    """One picture.

    Attributes:
        name: path; of a video with the time, `video.mp4#t=1.50`; of a camera `camera:0#12`, its 12th picture.
        picture: what `predict` takes: a path, or RGB (H, W, 3) uint8.
        seconds: when it was taken, since the beginning of a video or on the clock `time.monotonic`; None of a file.
    """

    name: str
    picture: Path | np.ndarray
    seconds: float | None = None


def pictures_of(source: str, every: float = 1.0) -> Iterator[Found]:
    """The pictures of a source, see above; those of a camera never end.

    Args:
        every: least number of seconds between two pictures of a video or camera; 0 = all.

    Raises:
        SourceError: it has no pictures, or is a video that cannot be read.
    """
    if source == "-":
        yield from (_of_file(line.rstrip("\r\n")) for line in sys.stdin if line.strip())
    elif is_camera(source):
        yield from camera_pictures(source, every)
    elif Path(source).is_dir():
        yield from _required(map(_of_file, map(str, pictures_in(Path(source)))), f"{source} has no pictures")
    elif Path(source).suffix.lower() in VIDEOS:
        yield from video_pictures(source, every)
    elif glob.has_magic(source) and not Path(source).exists():
        files = (path for path in sorted(glob.glob(source, recursive=True)) if Path(path).is_file())
        yield from _required(map(_of_file, files), f"no file matches {source}")
    else:
        yield _of_file(source)


def video_pictures(path: str, every: float = 1.0) -> Iterator[Found]:
    """The pictures of a video file, upright.

    Raises:
        SourceError: it cannot be opened or read.
    """
    av, following = _import_av(), 0.0
    try:
        with av.open(path) as container:
            for number, frame in enumerate(container.decode(video=0)):
                seconds = number / float(container.streams.video[0].average_rate or 25)
                seconds = seconds if frame.time is None else frame.time
                if seconds >= following - 1e-6:
                    following = seconds + every
                    yield Found(f"{path}#t={seconds:.2f}", _pixels(frame), seconds)
    except (OSError, IndexError, av.error.FFmpegError) as error:
        raise SourceError(f"{path} cannot be read as a video ({error})") from error


def camera_pictures(source: str, every: float = 1.0) -> Iterator[Found]:
    """The newest picture of a camera, at most one in `every` seconds, without end."""
    with Camera(source) as camera:
        while True:
            begun = time.monotonic()
            if found := camera.newest(WAIT):
                yield found
                time.sleep(max(0.0, every - (time.monotonic() - begun)))


def without_password(text: str) -> str:
    """Addresses without their user and password."""
    return SECRET.sub("//", text)


def is_camera(source: str) -> bool:
    """Whether it is a camera, of this computer or in the network, and no file."""
    return source.startswith((CAMERA, *ADDRESSES))


class Camera:
    """Reads a camera in a thread of its own, so that no old pictures wait in a buffer. Use it in a `with` statement.

    Attributes:
        problem: why there are no pictures at present; None while they come.

    Raises:
        SourceError: PyAV is not installed.
    """

    def __init__(self, source: str) -> None:
        self.source, self.av = source, _import_av()
        self._name = without_password(source)
        self.problem: str | None = None
        self._number = 0
        self._newest: np.ndarray | None = None
        self._changed, self._closed = threading.Condition(), threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True, name=self._name)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._closed.set()
        self._thread.join(OPEN_IN)

    def newest(self, timeout: float) -> Found | None:
        """The newest picture that was not returned before; None if none comes in so many seconds."""
        with self._changed:
            if self._newest is None:
                self._changed.wait(timeout)
            pixels, self._newest = self._newest, None
        if pixels is None:
            return None
        self._number += 1
        return Found(f"{self._name}#{self._number}", pixels, time.monotonic())

    def _read(self) -> None:
        wait = FIRST_WAIT
        while not self._closed.is_set():
            try:
                for frame in self._frames():
                    wait, self.problem = FIRST_WAIT, None
                    with self._changed:
                        self._newest = _pixels(frame)
                        self._changed.notify_all()
                    if self._closed.is_set():
                        return
                reason = "it sends no more pictures"
            except (OSError, IndexError, self.av.error.FFmpegError) as error:
                reason = without_password(str(error))
            self.problem = reason
            logger.warning("%s: %s; trying again in %.0f s", self._name, reason, wait)
            self._closed.wait(wait)
            wait = min(LONGEST_WAIT, 2 * wait)

    def _frames(self) -> Iterator:
        address, options = _address(self.source)
        with self.av.open(address, timeout=OPEN_IN, **options) as container:
            yield from container.decode(video=0)


def _address(source: str) -> tuple[str, dict]:
    """What PyAV opens, and its arguments."""
    if not source.startswith(CAMERA):
        return source, {"options": {"rtsp_transport": "tcp"} if source.startswith("rtsp") else {}}
    name = source.removeprefix(CAMERA)
    kind, device = DEVICES.get(sys.platform, DEVICES["linux"])
    if kind != "v4l2":
        return device.format(name), {"format": kind}
    return str(Path("/", "dev", device.format(name))) if name.isdigit() else name, {"format": kind}


def _of_file(path: str) -> Found:
    return Found(path, Path(path))


def _required(found: Iterator[Found], missing: str) -> Iterator[Found]:
    first = next(found, None)
    if first is None:
        raise SourceError(missing)
    yield first
    yield from found


def _pixels(frame) -> np.ndarray:
    """RGB (H, W, 3), turned as the camera says."""
    turns = round((getattr(frame, "rotation", 0) or 0) / 90)
    return np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), turns))


def _import_av():
    try:
        import av
    except ImportError as error:
        raise SourceError(f"videos and cameras need a package: {install_command('video')}") from error
    return av
