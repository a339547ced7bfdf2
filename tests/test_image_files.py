"""Opening images: upright, 8 bits, RGB, wherever an image is shown or embedded."""

import io

import numpy as np
import pandas as pd
import pytest
import trees
from PIL import Image

from csgn_lib import batches, datasets, models, panels
from csgn_lib.datasets import files, image_files, portrait
from csgn_lib.datasets.duplicates import fingerprints
from csgn_lib.records import InputError

UPRIGHT = np.zeros((24, 12, 3), np.uint8)  # each corner has a colour of its own
UPRIGHT[:12, :6], UPRIGHT[:12, 6:], UPRIGHT[12:, :6] = (200, 20, 20), (20, 200, 20), (20, 20, 200)
# How the stored pixels must be turned so that each EXIF orientation brings them upright again
STORED = {
    1: UPRIGHT, 2: UPRIGHT[:, ::-1], 3: UPRIGHT[::-1, ::-1], 4: UPRIGHT[::-1], 5: UPRIGHT.transpose(1, 0, 2),
    6: np.rot90(UPRIGHT), 7: np.rot90(UPRIGHT[::-1, ::-1].transpose(1, 0, 2), 0), 8: np.rot90(UPRIGHT, 3),
}  # fmt: skip


def write(file, pixels, orientation=1):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(pixels)).save(file, exif=exif, quality=95)
    return file


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("suffix", ["png", "tiff", "webp", "jpg"])
def test_exif_orientation_is_applied(orientation, suffix, tmp_path):
    file = write(tmp_path / f"a.{suffix}", STORED[orientation], orientation)
    opened = np.asarray(image_files.open_image(file)).astype(int)
    assert opened.shape == UPRIGHT.shape
    corners = opened[::23, ::11], UPRIGHT[::23, ::11]
    assert np.abs(corners[0] - corners[1]).max() < 40  # JPEG and WebP lose some


def frame_of(*paths):
    unknown = dict.fromkeys(("person", "camera", "clothes"), -1)
    return pd.DataFrame({"path": list(paths)} | unknown)


def test_exif_orientation_is_applied_everywhere(tmp_path):
    """The pixel cache, images without a cache, check's fingerprints, figures, the explorer's thumbnails and uploads."""
    write(tmp_path / "turned.png", STORED[6], 6)
    Image.fromarray(UPRIGHT).save(tmp_path / "upright.png")
    frame = frame_of("turned.png", "upright.png")
    for cache in (None, tmp_path / "cache"):
        pixels = batches.open_images(frame, tmp_path, (24, 12), cache).pixels
        assert np.array_equal(pixels[0], pixels[1])
    prints = fingerprints(tmp_path, list(frame["path"]))
    assert prints.dhash[0] == prints.dhash[1] and prints.height.tolist() == [24, 24]
    shown = portrait.picture(tmp_path / "turned.png")
    thumbnail = panels.Thumbnails(tmp_path).image("turned.png")
    upload = panels.decode_upload((tmp_path / "turned.png").read_bytes())
    for image in (shown, thumbnail, upload):
        assert np.array_equal(np.asarray(image), UPRIGHT)
    sheet = portrait.pair_sheet(tmp_path, list(frame["path"]), False, cell=(24, 12)).image
    assert np.array_equal(sheet[4:28, :12], sheet[4:28, 14:26])


@pytest.mark.parametrize("suffix", ["png", "tiff", "ppm"])
def test_sixteen_bits_are_scaled_to_eight(suffix, tmp_path):
    gray = np.arange(24 * 12, dtype=np.uint16).reshape(24, 12) * 227
    Image.fromarray(gray).save(tmp_path / f"a.{suffix}")
    opened = np.asarray(image_files.open_image(tmp_path / f"a.{suffix}"))
    assert np.array_equal(opened, np.repeat((gray // 256)[:, :, None], 3, axis=2))


def test_sixteen_bit_images_are_not_clipped(tmp_path):
    for n in range(12):
        Image.fromarray(np.random.default_rng(n).integers(0, 2**16, (24, 12), np.uint16)).save(tmp_path / f"{n}.png")
    pixels = batches.open_images(frame_of(*(f"{n}.png" for n in range(12))), tmp_path, (24, 12)).pixels
    assert len({image.tobytes() for image in pixels}) == 12


def test_pixels_of_32_bits_are_refused(tmp_path):
    Image.fromarray(np.full((4, 4), 1e5, np.float32)).save(tmp_path / "a.tiff")
    with pytest.raises(InputError, match="a.tiff cannot be read as an image .*pixels of .. bits.*; replace it"):
        image_files.open_image(tmp_path / "a.tiff")


def huge_png(width, height):
    """A PNG of one colour: little to store, much to decode."""
    file = io.BytesIO()
    Image.new("1", (width, height)).save(file, "PNG")
    return file.getvalue()


def test_huge_image_in_contact_sheet_is_named(tmp_path):
    root = trees.ltcc(tmp_path)
    path = "train/000_1_c1_000001.png"
    (root / path).write_bytes(huge_png(15_000, 13_000))
    b = datasets.load("ltcc", root)
    with pytest.raises(InputError, match=f"{path} cannot be read as an image .195 megapixels, more than 179"):
        portrait.contact_sheet(b, "train")
    (problem,) = datasets.readiness(b, workers=1)
    assert problem.paths == (path,) and "195 megapixels" in problem.text


# Folders


def test_folder_links_are_followed_without_loops(tmp_path):
    trees.images(tmp_path, ["real/1.jpg", "elsewhere/deep/2.jpg"])
    folder = tmp_path / "real"
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    (folder / "loop").symlink_to(folder)
    assert list(files.walk(folder)) == ["1.jpg", "linked/deep/2.jpg"]


def test_linked_person_folder_is_read(tmp_path):
    root = trees.prcc(tmp_path / "prcc")
    (root / "rgb/train/005").rename(tmp_path / "moved")
    (root / "rgb/train/005").symlink_to(tmp_path / "moved")
    assert datasets.load("prcc", root).train["person"].nunique() == 2


def test_unlistable_folder_is_named(tmp_path, monkeypatch):
    trees.images(tmp_path / "photos", ["1.jpg", "locked/2.jpg"])
    allowed = files.os.scandir

    def scandir(path):
        if str(path).endswith(("locked", "lost+found")):
            raise PermissionError(13, "Permission denied")
        return allowed(path)

    monkeypatch.setattr(files.os, "scandir", scandir)  # tests may run as root, whom no permission stops
    with pytest.raises(InputError, match="locked cannot be listed .Permission denied.; make it readable"):
        list(files.walk(tmp_path / "photos"))
    root = trees.ltcc(tmp_path / "data" / "LTCC_ReID")
    (tmp_path / "data" / "lost+found").mkdir()
    (tmp_path / "data" / "locked").mkdir()
    with pytest.raises(InputError, match=f"did you mean {root}"):  # the hint for a wrong root passes it over
        datasets.load("ltcc", tmp_path / "data")


def test_broken_link_is_named(tmp_path):
    (tmp_path / "gone.jpg").symlink_to(tmp_path / "nothing")
    with pytest.raises(InputError, match="gone.jpg is a link to a file that does not exist"):
        list(files.walk(tmp_path))


@pytest.mark.parametrize("folder", ["@eaDir", "#recycle", "$RECYCLE.BIN", "__MACOSX", "System Volume Information"])
def test_system_folders_are_skipped(folder, tmp_path):
    root = trees.ltcc(tmp_path)
    before = datasets.load("ltcc", root).gallery["path"].tolist()
    trees.images(root, [f"test/{folder}/003_1_c1_000099.png"])
    assert datasets.load("ltcc", root).gallery["path"].tolist() == before
    assert all(folder not in path for path in files.walk(root))


@pytest.mark.parametrize("name", datasets.NAMES)
def test_non_utf8_root_is_refused(name, tmp_path):
    root = str(tmp_path).encode() + b"/caf\xe9"
    with pytest.raises(InputError, match=r"caf\\xe9' is not UTF-8; rename it") as caught:
        datasets.load(name, files.os.fsdecode(root))
    str(caught.value).encode()


def test_non_utf8_file_name_is_refused(tmp_path):
    root = trees.ltcc(tmp_path)
    open(str(root).encode() + b"/query/caf\xe9.jpg", "wb").close()
    with pytest.raises(InputError, match=r"the name b'caf\\xe9.jpg' is not UTF-8; rename it"):
        datasets.load("ltcc", root)


def test_gallery_follows_links_and_counts_skipped_files(tmp_path):
    folder = tmp_path / "photos"
    trees.images(folder, ["1.jpg", "@eaDir/1.jpg"])
    trees.images(tmp_path, ["other/2.png"])
    (folder / "linked").symlink_to(tmp_path / "other")
    for name in ("3.heic", "4.HEIC", "notes.txt", "README", ".hidden.heic"):
        (folder / name).write_bytes(b"x")
    Image.fromarray(UPRIGHT).save(folder / "5.jfif", "JPEG")
    Image.fromarray(UPRIGHT).save(folder / "6.gif")
    with pytest.warns(UserWarning, match=r"photos: skipped files .*: .heic \(2\), .txt \(1\), no suffix \(1\)$"):
        found = models.list_images(folder)
    assert found == ["1.jpg", "5.jfif", "6.gif", "linked/2.png"]
    assert batches.open_images(frame_of(*found), folder, (24, 12)).pixels.shape == (4, 3, 24, 12)
