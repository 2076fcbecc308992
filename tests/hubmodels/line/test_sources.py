"""Where pictures of a line come from."""

import io
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hubmodels.line import sources
from hubmodels.line.sources import SourceError, camera_pictures, pictures_of

av = pytest.importorskip("av")


def names(*given, **settings):
    return [found.name for source in given for found in pictures_of(str(source), **settings)]


@pytest.fixture
def folder(tmp_path):
    for name in ("b.png", "a.png", "deep/c.jpg", ".hidden.png"):
        path = tmp_path / "parts" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 32)).save(path)
    (tmp_path / "parts/notes.txt").write_text("-")
    return tmp_path / "parts"


@pytest.fixture
def video(tmp_path):
    """3 s with 10 pictures each second, the n-th one of the grey level 8 n."""
    path = tmp_path / "belt.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = 64, 48, "yuv420p", 4_000_000
        stream.codec_context.time_base = Fraction(1, 10)
        for number in range(30):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 8 * number, np.uint8), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 10)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def test_files_folders_and_patterns(folder):
    inside = [str(folder / name) for name in ("a.png", "b.png", "deep/c.jpg")]
    assert names(folder) == inside and names(folder / "*.png") == inside[:2]
    assert names(folder / "**/*.jpg") == inside[2:] and names(folder / "x.png") == [str(folder / "x.png")]


def test_a_name_with_brackets_is_no_pattern(folder):
    (folder / "a.png").rename(folder / "a[1].png")
    assert names(folder / "a[1].png") == [str(folder / "a[1].png")]


def test_standard_input_lists_paths(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("a.png\r\n\nfolder b/c.png\n"))
    assert names("-") == ["a.png", "folder b/c.png"]


@pytest.mark.parametrize(("source", "said"), [("*.gif", "no file matches"), ("empty", "has no pictures")])
def test_a_source_without_pictures_is_named(folder, source, said):
    (folder / "empty").mkdir()
    with pytest.raises(SourceError, match=said):
        names(folder / source)


def test_a_video_gives_pictures_at_its_times(video):
    found = list(pictures_of(str(video), every=0.5))
    assert [each.name.partition("#")[2] for each in found] == [f"t={t:.2f}" for t in (0, 0.5, 1, 1.5, 2, 2.5)]
    assert found[0].picture.shape == (48, 64, 3) and found[0].picture.dtype == np.uint8
    levels = [float(each.picture.mean()) for each in found]
    assert np.allclose(levels, [0, 40, 80, 120, 160, 200], atol=6)
    assert len(names(video, every=0)) == 30


def test_a_damaged_video_is_named(tmp_path):
    (tmp_path / "x.mp4").write_bytes(b"no video")
    for name in ("x.mp4", "missing.mp4"):
        with pytest.raises(SourceError, match=f"{name} cannot be read as a video"):
            names(tmp_path / name)


def test_a_turned_video_is_upright():
    class Turned:
        rotation = 90

        def to_ndarray(self, format):
            return np.arange(12, dtype=np.uint8).reshape(2, 2, 3)

    assert sources._pixels(Turned())[0, 0].tolist() == [3, 4, 5]  # counter-clockwise: the right one comes to the top


def test_without_the_package_the_command_is_named(monkeypatch, video):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(SourceError, match=r"videos and cameras need a package: pip install .*\[video\]"):
        names(video)


def test_a_camera_gives_its_newest_picture(monkeypatch):
    """A generated stream in the place of the device."""
    monkeypatch.setattr(sources, "_address", lambda source: ("testsrc=size=64x48:rate=25", {"format": "lavfi"}))
    camera = camera_pictures("camera:0", every=0.05)
    first, second = next(camera), next(camera)
    camera.close()
    assert (first.name, second.name) == ("camera:0#1", "camera:0#2")
    assert first.picture.shape == (48, 64, 3) and (first.picture != second.picture).any()


def test_a_camera_that_is_gone_is_tried_again(monkeypatch, video, caplog):
    addresses = iter(["missing.mp4", str(video)])
    monkeypatch.setattr(sources, "FIRST_WAIT", 0.05)
    monkeypatch.setattr(sources, "_address", lambda source: (next(addresses, str(video)), {}))
    camera = camera_pictures("rtsp://me:p@ss@camera", every=0)
    assert next(camera).picture.shape == (48, 64, 3)
    camera.close()
    assert "rtsp://camera" in caplog.text and "trying again" in caplog.text


def test_addresses_of_cameras(monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")
    assert sources._address("camera:2") == (str(Path("/", "dev", "video2")), {"format": "v4l2"})
    monkeypatch.setattr(sys, "platform", "win32")
    assert sources._address("camera:USB Camera") == ("video=USB Camera", {"format": "dshow"})
    assert sources._address("rtsp://a/b") == ("rtsp://a/b", {"options": {"rtsp_transport": "tcp"}})
