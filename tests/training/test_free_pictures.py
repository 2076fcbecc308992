"""Pictures are taken out of packages with their hashes; what shows nothing, or the same again, is left out."""

import csv
import hashlib
import io
import tarfile
import zipfile
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from training import free_pictures

rng = np.random.default_rng(0)


def png(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def noise(height=160, width=200, channels=3):
    return rng.integers(0, 256, (height // 8, width // 8, channels), np.uint8).repeat(8, 0).repeat(8, 1)


GOOD, OTHER = noise(), noise()
SEEN_THROUGH = np.concatenate(
    [noise(), np.where(np.arange(200) < 20, 255, 0)[None, :, None].repeat(160, 0)], 2
).astype(np.uint8)
NORMAL_MAP = (np.array([128, 128, 250]) + rng.integers(-40, 5, (160, 200, 3))).astype(np.uint8)
FILES = {
    "usr/share/photos/good.png": png(GOOD),
    "usr/share/photos/deep/again.png": png(GOOD),
    "usr/share/photos/good_normal.png": png(OTHER),
    "usr/share/photos/slopes.png": png(NORMAL_MAP),
    "usr/share/photos/small.png": png(noise(80, 80)),
    "usr/share/photos/plain.png": png(np.full((160, 200, 3), 90, np.uint8)),
    "usr/share/photos/transparent.png": png(SEEN_THROUGH),
    "usr/share/photos/broken.png": png(OTHER)[:200],
    "usr/share/photos/readme.txt": b"no picture",
    "usr/share/elsewhere/other.png": png(OTHER),
}


def archive(files):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:xz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(f"./{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def package(files):
    """A Debian package: an `ar` file of three members."""
    parts = {
        "debian-binary": b"2.0\n",
        "control.tar.xz": archive({"control": b"Package: x\n"}),
        "data.tar.xz": archive(files),
    }
    blob = b"!<arch>\n"
    for name, content in parts.items():
        blob += f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n".encode() + content
        blob += b"\n" * (len(content) % 2)
    return blob


@pytest.fixture
def offered(tmp_path, monkeypatch):
    """Puts a package into an archive and returns its source."""
    monkeypatch.setattr(free_pictures, "ARCHIVE", tmp_path.as_uri() + "/")

    def offer(files, **wanted):
        blob = package(files)
        (tmp_path / "photos_1_all.deb").write_bytes(blob)
        entry = {"kind": "photographs", "package": "photos", "path": "photos_1_all.deb", "licence": "CC0-1.0"}
        entry |= {"sha256": hashlib.sha256(blob).hexdigest(), "files": ["usr/share/photos/*"]}
        return free_pictures.Source(**entry | wanted)

    return offer


def fetched(monkeypatch, folder, *sources):
    monkeypatch.setattr(free_pictures, "sources", lambda: list(sources))
    free_pictures.main([str(folder)])
    with (folder / "manifest.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_only_what_shows_something_is_kept_once(offered, monkeypatch, tmp_path, caplog):
    caplog.set_level("INFO", "training.free_pictures")
    (row,) = fetched(monkeypatch, tmp_path / "out", offered(FILES))
    assert row["file"] == "usr/share/photos/good.png"
    assert row["sha256"] == hashlib.sha256(FILES[row["file"]]).hexdigest()
    (picture,) = (tmp_path / "out" / "photographs" / "photos").iterdir()
    with Image.open(picture) as image:
        assert image.size == (int(row["width"]), int(row["height"])) == (200, 160)
        assert np.abs(np.asarray(image, int) - GOOD).mean() < 3
    assert "not used: usr/share/photos/broken.png" in caplog.text


def test_the_same_picture_in_two_packages_counts_once(offered, monkeypatch, tmp_path):
    first = offered({"usr/share/photos/a.png": png(GOOD)})
    second = offered({"usr/share/photos/a.png": png(GOOD)}, kind="surfaces")
    rows = fetched(monkeypatch, tmp_path / "out", first, second)
    assert [row["kind"] for row in rows] == ["photographs"]
    assert not list((tmp_path / "out" / "surfaces").rglob("*.jpg"))


def test_a_package_with_pictures_of_two_kinds_is_downloaded_once(offered, monkeypatch, tmp_path):
    files = {"usr/share/photos/a.png": png(GOOD), "usr/share/walls/b.png": png(OTHER)}
    photographs = offered(files)
    surfaces = replace(photographs, kind="surfaces", files=["usr/share/walls/*"])
    asked, retrieve = [], free_pictures.urllib.request.urlretrieve
    monkeypatch.setattr(free_pictures.urllib.request, "urlretrieve", lambda *a: asked.append(a) or retrieve(*a))
    rows = fetched(monkeypatch, tmp_path / "out", photographs, surfaces)
    assert [row["kind"] for row in rows] == ["photographs", "surfaces"]
    assert len(asked) == 1


def test_files_inside_a_zip_are_found(offered, monkeypatch, tmp_path):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("textures/wall.png", png(GOOD))
        file.writestr("sounds/wall.png", png(OTHER))
    source = offered({"usr/share/photos/all.pk3": buffer.getvalue()}, inside=["textures/*"])
    assert [row["file"] for row in fetched(monkeypatch, tmp_path / "out", source)] == [
        "usr/share/photos/all.pk3:textures/wall.png"
    ]


def test_large_pictures_become_smaller_and_transparent_ones_lie_on_grey(monkeypatch):
    monkeypatch.setattr(free_pictures, "MAX_SIDE", 128)
    assert free_pictures.prepare(png(noise(256, 320))).size == (160, 128)
    half = np.concatenate([GOOD, np.where(np.arange(200) < 100, 255, 0)[None, :, None].repeat(160, 0)], 2).astype(
        np.uint8
    )
    right = np.asarray(free_pictures.prepare(png(half)))[:, 130:]
    assert np.ptp(right) <= 2 and abs(int(right.mean()) - free_pictures.BACKGROUND) <= 1


def test_a_package_with_another_hash_is_refused(offered, tmp_path):
    source = offered(FILES, sha256="0" * 64)
    with pytest.raises(SystemExit, match="instead of 0000"):
        free_pictures.download(source, tmp_path / "out")


def test_a_package_that_cannot_be_reached_is_named(offered, tmp_path):
    source = offered(FILES, path="gone.deb")
    with pytest.raises(SystemExit, match=r"gone\.deb cannot be downloaded"):
        free_pictures.download(source, tmp_path / "out")


def test_every_source_names_its_licence_and_hash():
    found = free_pictures.sources()
    assert len(found) >= 10
    assert all(source.licence and len(source.sha256) == 64 and source.path.endswith(".deb") for source in found)
    assert {source.kind for source in found} == {"photographs", "objects", "surfaces"}
