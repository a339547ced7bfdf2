"""Pixels, batches and crops, each against a loop over single images."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from csgn_lib import records
from csgn_lib.batches import (
    Augmentation,
    IdentitySampler,
    Prefetcher,
    iterate,
    open_images,
    pixels,
    random_stream,
    to_float,
    to_gray,
)
from csgn_lib.batches.augmentation import TO_YIQ, _noise, jittered
from csgn_lib.config import Experiment
from csgn_lib.records import InputError

SIZE = (24, 12)


@pytest.fixture
def folder(tmp_path: Path) -> tuple[pd.DataFrame, Path]:
    """Seven images, some of the wanted size and some larger, one with a palette and one gray."""
    random, rows = np.random.default_rng(0), []
    (tmp_path / "train").mkdir()
    for i in range(7):
        height, width = SIZE if i % 2 else (60, 40)
        image = Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8))
        image = {4: image.convert("P"), 5: image.convert("L")}.get(i, image)
        image.save(tmp_path / "train" / f"{i}.png")
        rows.append({"path": f"train/{i}.png", "person": i // 2, "camera": i % 3, "clothes": -1})
    return pd.DataFrame(rows), tmp_path


def decode_loop(frame: pd.DataFrame, root: Path) -> np.ndarray:
    decoded = []
    for path in frame.path:
        image = Image.open(root / path).convert("RGB")
        if image.size != SIZE[::-1]:
            image = image.resize(SIZE[::-1], Image.Resampling.BICUBIC)
        decoded.append(np.moveaxis(np.array(image), 2, 0))
    return np.stack(decoded)


def never(*_: object) -> None:
    raise AssertionError("decoded again")


def caches(folder: Path) -> list[Path]:
    """Every file there, whole or not, but the lock."""
    return [path for path in folder.iterdir() if path.name != pixels.LOCK]


def forked(work: Callable[[], object]) -> int:
    """The id of a process that does the work and ends, with 0 if all went well."""
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        finally:
            os._exit(1)
    return child


def wait_for(file: Path) -> None:
    for _ in range(2000):
        if file.exists():
            return
        time.sleep(0.01)
    raise AssertionError(f"{file} never came")


needs_fork = pytest.mark.skipif(records.fcntl is None, reason="needs fork, and locks")


# --- ahead --------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1, 2, 7])
def test_prefetched_batches_equal_sequential_ones(folder, count):
    frame, root = folder
    images, threads, begun = open_images(frame, root, SIZE), set(), []

    def made(step: int) -> tuple:
        threads.add(threading.current_thread())
        begun.append(step)
        draw = Augmentation().draw(2, SIZE, random_stream(0, step))
        return images.batch([step % 7, 3]), draw

    ahead, used = Prefetcher(made, range(count), "cpu"), 0
    for step, (batch, draw) in enumerate(ahead):
        assert len(begun) <= step + 2  # never further than two: memory is theirs
        assert torch.equal(batch.images, torch.from_numpy(images.pixels[[step % 7, 3]]))
        assert torch.equal(draw.noise, Augmentation().draw(2, SIZE, random_stream(0, step)).noise)
        used += 1
    assert used == count and begun == list(range(count)) and threading.current_thread() not in threads
    assert (ahead.waited > 0) == (count > 0)


def test_prefetch_error_is_raised_at_its_batch():
    def made(step: int) -> tuple:
        if step == 2:
            raise InputError("image 2.jpg is gone")
        return ()

    seen = []
    with pytest.raises(InputError, match=r"2.jpg is gone"):
        for _ in Prefetcher(made, range(5), "cpu"):
            seen.append(len(seen))
    assert seen == [0, 1]


def test_early_stop_leaves_no_thread():
    before = threading.active_count()
    batches = iter(Prefetcher(lambda step: (), range(100), "cpu"))
    next(batches)
    batches.close()
    assert threading.active_count() == before


# --- pixels -------------------------------------------------------------------------------------


@pytest.mark.parametrize("cached", [True, False])
def test_pixels_equal_loop_over_files(folder, cached, monkeypatch):
    frame, root = folder
    monkeypatch.setattr(pixels, "DECODED_AT_ONCE", 3)  # blocks of 3, 3 and 1
    images = open_images(frame, root, SIZE, root / "cache" if cached else None)
    assert images.pixels.dtype == np.uint8
    np.testing.assert_array_equal(images.pixels, decode_loop(frame, root))
    batch = images.batch([5, 0, 5])
    assert batch.index.tolist() == [5, 0, 5] and batch.person.tolist() == [2, 0, 2]
    assert batch.camera.tolist() == [2, 0, 2] and batch.clothes.tolist() == [-1] * 3
    np.testing.assert_array_equal(batch.images.numpy(), decode_loop(frame, root)[[5, 0, 5]])


def test_image_of_target_size_is_not_resampled(folder):
    frame, root = folder
    original = np.array(Image.open(root / "train/1.png"))
    np.testing.assert_array_equal(open_images(frame, root, SIZE).pixels[1], original.transpose(2, 0, 1))


def test_cache_is_reused_and_numpy_readable(folder, monkeypatch):
    frame, root = folder
    first = open_images(frame, root, SIZE, root / "cache")
    (file,) = caches(root / "cache")
    np.testing.assert_array_equal(np.load(file), first.pixels)
    monkeypatch.setattr(pixels, "_decode_one", never)
    again = open_images(frame, root, SIZE, root / "cache")
    np.testing.assert_array_equal(again.pixels, first.pixels)
    with pytest.raises(AssertionError, match="again"):  # another size, another file
        open_images(frame, root, (12, 12), root / "cache")


def _flip_a_byte(data: bytearray) -> bytearray:
    data[len(data) // 2] ^= 1
    return data


def _as_format_1(data: bytearray) -> bytes:
    start = len(data) - 40 - 7 * 3 * SIZE[0] * SIZE[1]
    return data[:-40] + b"CSGN" + zlib.crc32(data[start:-40]).to_bytes(4, "little")


@pytest.mark.parametrize(
    "damage",
    [
        _flip_a_byte,
        _as_format_1,
        lambda data: data[:-5],
        lambda data: b"",
        lambda data: data[:-8] + b"\0" * 8,
        lambda data: data + b"x",
    ],
)
def test_damaged_cache_is_rebuilt_with_warning(folder, damage):
    frame, root = folder
    expected = np.array(open_images(frame, root, SIZE, root / "cache").pixels)
    (file,) = caches(root / "cache")
    sound = file.read_bytes()
    file.unlink()
    file.write_bytes(damage(bytearray(sound)))
    with pytest.warns(UserWarning, match="is damaged"):
        images = open_images(frame, root, SIZE, root / "cache")
    np.testing.assert_array_equal(images.pixels, expected)
    assert file.read_bytes() == sound


def test_changed_image_is_decoded_again(folder):
    frame, root = folder
    file = root / "train/3.png"
    Image.fromarray(np.full((*SIZE, 3), 9, np.uint8)).save(file, format="BMP")  # whose size its content cannot change
    before, stat = np.array(open_images(frame, root, SIZE, root / "cache").pixels), file.stat()
    Image.fromarray(np.zeros((*SIZE, 3), np.uint8)).save(file, format="BMP")
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns + 10**9))
    assert file.stat().st_size == stat.st_size
    after = open_images(frame, root, SIZE, root / "cache").pixels
    assert before[3].any() and not after[3].any()


def test_cache_of_other_images_is_refused(folder):
    frame, root = folder
    parts = {name: frame.iloc[rows] for name, rows in (("a", [0, 1]), ("b", [2, 3]), ("more", [0, 1, 2]))}
    files = {}
    for name, part in parts.items():
        open_images(part, root, SIZE, root / name)
        (files[name],) = caches(root / name)
    for name in ("b", "more"):
        shutil.copy(files["a"], files[name])
        keys = [files[other].stem.rpartition("-")[2] for other in ("a", name)]
        with pytest.raises(InputError, match=rf"{files[name]} holds other images.* {keys[0]}, .* {keys[1]}; remove it"):
            open_images(parts[name], root, SIZE, root / name)
        files[name].unlink()
        np.testing.assert_array_equal(
            open_images(parts[name], root, SIZE, root / name).pixels, decode_loop(parts[name], root)
        )


def test_cache_key_includes_root(tmp_path):
    frame = pd.DataFrame([{"path": "0.bmp", "person": 0, "camera": 0, "clothes": 0}])
    for value in (1, 2):
        (tmp_path / str(value)).mkdir()
        file = tmp_path / str(value) / "0.bmp"
        Image.fromarray(np.full((*SIZE, 3), value, np.uint8)).save(file)
        os.utime(file, ns=(10**18, 10**18))
    for value in (1, 2):
        assert (open_images(frame, tmp_path / str(value), SIZE, tmp_path / "cache").pixels == value).all()
    assert len(caches(tmp_path / "cache")) == 2
    (tmp_path / "link").symlink_to(tmp_path / "2")  # another name of the same folder
    open_images(frame, tmp_path / "link", SIZE, tmp_path / "cache")
    assert len(caches(tmp_path / "cache")) == 2


@pytest.mark.parametrize("locks", [True, False])
def test_concurrent_builders_leave_one_intact_cache(folder, monkeypatch, locks):
    frame, root = folder
    both, results, decode = threading.Barrier(2), [], pixels._decode
    if not locks:
        monkeypatch.setattr(records, "fcntl", None)  # as on Windows

    def together(*arguments):
        results.append("decoded")
        if not locks:
            both.wait(timeout=20)  # both have found no cache and have begun to write
        yield from decode(*arguments)

    monkeypatch.setattr(pixels, "_decode", together)
    threads = [
        threading.Thread(target=lambda: results.append(open_images(frame, root, SIZE, root / "cache")))
        for _ in range(2)
    ]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    images = [result for result in results if result != "decoded"]
    assert len(images) == 2 and len(results) == (3 if locks else 4)
    assert len(caches(root / "cache")) == 1
    for one in images:
        np.testing.assert_array_equal(one.pixels, decode_loop(frame, root))


def test_waiting_process_builds_after_failed_builder(folder, monkeypatch):
    frame, root = folder
    decode, tries, told = pixels._decode, [], []

    def slow(*arguments):
        tries.append(time.sleep(0.2))
        yield from decode(*arguments)

    def ask() -> None:
        with pytest.raises(InputError, match=r"6\.png cannot be read") as caught:
            open_images(frame, root, SIZE, root / "cache")
        told.append(caught)

    monkeypatch.setattr(pixels, "_decode", slow)
    (root / "train/6.png").write_bytes(b"not an image")
    threads = [threading.Thread(target=ask) for _ in range(2)]
    [thread.start() for thread in threads]
    [thread.join(timeout=20) for thread in threads]
    assert len(told) == len(tries) == 2 and not caches(root / "cache")


@needs_fork
def test_one_of_several_processes_decodes(folder, monkeypatch):
    frame, root = folder
    decode = pixels._decode

    def noted(*arguments):
        (root / f"decoded-{os.getpid()}").touch()
        time.sleep(0.2)  # time enough for the others to come
        yield from decode(*arguments)

    def ask() -> None:
        np.testing.assert_array_equal(open_images(frame, root, SIZE, root / "cache").pixels, expected)

    expected = decode_loop(frame, root)
    monkeypatch.setattr(pixels, "_decode", noted)
    children = [forked(ask) for _ in range(3)]
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0]
    assert len(list(root.glob("decoded-*"))) == 1 and len(caches(root / "cache")) == 1


@needs_fork
def test_temporary_files_of_killed_builder_are_removed(folder, monkeypatch):
    frame, root = folder
    decode = pixels._decode

    def killed(*arguments):
        yield from decode(*arguments)
        os.kill(os.getpid(), signal.SIGKILL)

    def slow(*arguments):
        (root / "begun").touch()
        wait_for(root / "seen")
        time.sleep(0.2)  # time enough for the other builder to come
        yield from decode(*arguments)

    with monkeypatch.context() as inner:
        inner.setattr(pixels, "_decode", killed)
        assert os.waitpid(forked(lambda: open_images(frame, root, SIZE, root / "cache")), 0)[1] == signal.SIGKILL
        (left,) = caches(root / "cache")
        assert left.name.startswith(".pixels-") and left.stat().st_size > 0
        inner.setattr(pixels, "_decode", slow)
        living = forked(lambda: open_images(frame, root, SIZE, root / "cache"))
        wait_for(root / "begun")
    (writes,) = caches(root / "cache")  # the first thing that it did was to clear
    assert writes != left and writes.name.startswith(".pixels-")
    (root / "seen").touch()
    open_images(frame, root, (12, 12), root / "cache")  # another cache in the same folder, wanted meanwhile
    assert os.waitpid(living, 0)[1] == 0
    assert sorted(path.name[:13] for path in caches(root / "cache")) == ["pixels-12x12-", "pixels-24x12-"]


@pytest.mark.parametrize("content", [b"not an image", b"", None])
def test_unreadable_image_is_named_without_cache(folder, content):
    frame, root = folder
    file = root / "train/6.png"
    file.write_bytes(file.read_bytes()[:200] if content is None else content)
    for cache in (None, root / "cache"):
        with pytest.raises(InputError, match=r"6\.png cannot be read as an image.*replace it"):
            open_images(frame, root, SIZE, cache)
    with pytest.raises(InputError, match=r"6\.png"):
        list(iterate(frame, root, SIZE, batch_size=2))
    assert not caches(root / "cache")


def test_invalid_input_names_file_and_remedy(folder):
    frame, root = folder
    with pytest.raises(InputError, match="cannot be written.*another cache folder"):
        open_images(frame, root, SIZE, root / "train/0.png")  # a file where a folder should be
    with pytest.raises(InputError, match="no images"):
        open_images(frame.iloc[:0], root, SIZE)
    (root / "train/2.png").unlink()
    for cache in (None, root / "cache"):
        with pytest.raises(InputError, match=r"2\.png does not exist"):
            open_images(frame, root, SIZE, cache)


@pytest.mark.parametrize("cached", [True, False])
def test_iterate_returns_every_image_once_in_order(folder, cached):
    frame, root = folder
    batches = list(iterate(frame, root, SIZE, batch_size=3, cache_dir=root / "cache" if cached else None))
    assert [len(batch.images) for batch in batches] == [3, 3, 1]
    assert torch.cat([batch.index for batch in batches]).tolist() == list(range(7))
    assert torch.cat([batch.person for batch in batches]).tolist() == frame.person.tolist()
    np.testing.assert_array_equal(torch.cat([b.images for b in batches]).numpy(), decode_loop(frame, root))


# --- the sampler --------------------------------------------------------------------------------


def people(counts: list[int], outfits: int = 1) -> pd.DataFrame:
    rows = [{"person": i, "clothes": 10 * i + k % outfits} for i, count in enumerate(counts) for k in range(count)]
    frame = pd.DataFrame(rows)
    return frame.sample(frac=1, random_state=0).reset_index(drop=True)  # rows of a person lie apart


def most_batches(counts: list[int], persons: int, images: int) -> int:
    """Twin: always take the P identities with most chunks left, which is known to be optimal."""
    left, batches = sorted((max(1, count // images) for count in counts), reverse=True), 0
    while len(left) >= persons and left[persons - 1] > 0:
        left = sorted((n - (i < persons) for i, n in enumerate(left)), reverse=True)
        batches += 1
    return batches


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(1, 23), min_size=3, max_size=12),
    st.integers(1, 3),
    st.integers(1, 4),
    st.integers(1, 3),
    st.booleans(),
)
def test_batches_are_full_and_epoch_is_longest_possible(counts, persons, images, outfits, two_outfits):
    frame = people(counts, outfits)
    sampler = IdentitySampler(frame, persons, images, seed=3, two_outfits=two_outfits)
    batches = sampler.epoch(1)
    assert len(sampler) == most_batches(counts, persons, images)
    assert batches.shape == (len(sampler), persons * images) and batches.dtype == np.int64
    for rows in batches:
        chunks = frame.person.to_numpy()[rows].reshape(persons, images)
        assert (chunks == chunks[:, :1]).all() and len(set(chunks[:, 0])) == persons
    if not two_outfits:  # an image comes again only where a person has too few
        for row, times in Counter(batches.ravel().tolist()).items():
            count = counts[frame.person[row]]
            assert times == 1 or (count < images and times <= -(-images // count))
    if len(sampler) * persons >= len(counts):
        assert set(frame.person[batches.ravel()]) == set(range(len(counts)))


def test_order_depends_on_seed_and_epoch_only():
    frame = people([9] * 8)
    first, second = (IdentitySampler(frame, 4, 2, seed=5) for _ in range(2))
    second.epoch(0), np.random.seed(1), torch.manual_seed(1)  # what went before does not matter
    np.testing.assert_array_equal(first.epoch(7), second.epoch(7))
    assert (first.epoch(7) != first.epoch(8)).any()
    assert (first.epoch(7) != IdentitySampler(frame, 4, 2, seed=6).epoch(7)).any()


def test_epoch_by_hand():
    # 3 people with 4, 4 and 2 images, K = 2: 2 + 2 + 1 chunks; P = 2 gives 2 full batches, one chunk waits.
    batches = IdentitySampler(people([4, 4, 2]), 2, 2, seed=0).epoch(0)
    assert batches.shape == (2, 4) and len(set(batches.ravel().tolist())) == 8


def test_identities_left_out_vary_between_epochs():
    frame = people([2, 2, 2])  # one batch of two identities an epoch
    sampler = IdentitySampler(frame, 2, 2, seed=0)
    seen = Counter(int(person) for epoch in range(60) for person in set(frame.person[sampler.epoch(epoch)[0]]))
    assert set(seen) == {0, 1, 2} and min(seen.values()) > 25


def test_identities_are_mixed_between_batches():
    frame = people([16] * 12)
    met = {tuple(sorted(set(frame.person[rows]))) for rows in IdentitySampler(frame, 4, 4, seed=0).epoch(0)}
    assert len(met) >= 10  # of 12 batches


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=3), min_size=3, max_size=6), st.integers(2, 4))
def test_clothes_sampler_shows_two_outfits(outfits, images):
    rows = [(i, 10 * i + k) for i, sizes in enumerate(outfits) for k, size in enumerate(sizes) for _ in range(size)]
    frame = pd.DataFrame(rows, columns=["person", "clothes"])
    for epoch in range(3):
        for batch in IdentitySampler(frame, 3, images, seed=0, two_outfits=True).epoch(epoch).reshape(-1, images):
            worn, person = set(frame.clothes[batch]), frame.person[batch[0]]
            assert len(worn) >= min(2, len(outfits[person]))


def test_sampler_refuses_invalid_input():
    with pytest.raises(InputError, match="the frame has 1 identities; training compares people, and needs at least 2"):
        IdentitySampler(people([4]), 2, 2, seed=0)
    with pytest.raises(InputError, match="batch_persons=5.*3 identities.*set it to 3"):
        IdentitySampler(people([4, 4, 4]), 5, 2, seed=0)
    with pytest.raises(InputError, match="no.*clothes|clothes labels.*none"):
        IdentitySampler(people([4, 4, 4]).assign(clothes=-1), 2, 2, seed=0, two_outfits=True)


# --- augmentation -------------------------------------------------------------------------------


def random_images(count: int, size: tuple[int, int] = SIZE) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, *size), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def jitter_pixels(image: np.ndarray, bright: float, contrast: float, saturation: float, turn: float) -> np.ndarray:
    """Twin of the jitter, one pixel at a time, with the chroma as a complex number."""
    if (bright, contrast, saturation, turn) == (1, 1, 1, 0):
        return image
    luminance = np.array([0.299, 0.587, 0.114])
    image = image * bright
    mean = np.tensordot(luminance, image, 1).mean()
    image, to_yiq = mean + contrast * (image - mean), np.array(TO_YIQ)
    for y, x in np.ndindex(image.shape[1:]):
        luma, i, q = to_yiq @ image[:, y, x]
        chroma = saturation * complex(i, q) * np.exp(1j * turn)
        image[:, y, x] = np.clip(np.linalg.solve(to_yiq, [luma, chroma.real, chroma.imag]), 0, 1)
    return image


def augment_loop(images: torch.Tensor, draw, padding: int, noise: torch.Tensor) -> torch.Tensor:
    """Twin: one image and one pixel block at a time, with the parameters that were drawn."""
    result = []
    for i, image in enumerate(images.numpy()):
        _, height, width = image.shape
        image = image[:, :, ::-1] if draw.flip[i] else image
        image = np.pad(image, ((0, 0), (padding, padding), (padding, padding)))
        top, left = int(draw.top[i]), int(draw.left[i])
        image = image[:, top : top + height, left : left + width].copy()
        y, x, h, w = draw.box[i].tolist()
        image[:, y : y + h, x : x + w] = noise[i, :, y : y + h, x : x + w]
        image = image.astype(np.float64) / 255
        image = jitter_pixels(image, *draw.jitter[i].tolist())
        if draw.gray[i]:
            image = np.repeat(0.299 * image[:1] + 0.587 * image[1:2] + 0.114 * image[2:], 3, axis=0)
        result.append(image)
    return torch.from_numpy(np.stack(result)).float()


@pytest.mark.parametrize("size", [SIZE, (16, 32)])
def test_augmentation_equals_loop_over_images(size):
    augmentation = Augmentation(flip=0.5, padding=3, erasing=0.6, gray=0.3, jitter=0.6)
    images = random_images(64, size)
    draw = augmentation.draw(64, size, random_stream(0, 1))
    augmented = augmentation.apply(images, draw)
    assert augmented.dtype == torch.float32 and 0 <= augmented.min() and augmented.max() <= 1
    torch.testing.assert_close(augmented, augment_loop(images, draw, 3, _noise(draw.noise, *size)), rtol=0, atol=1e-6)
    assert 0 < draw.flip.sum() < 64 and draw.top.unique().tolist() == list(range(7)) == draw.left.unique().tolist()


def test_augmentation_with_probability_0_and_1():
    images, stream = random_images(8), random_stream(0)
    torch.testing.assert_close(Augmentation(0, 0, 0, 0)(images, stream), images / 255)
    torch.testing.assert_close(Augmentation(1, 0, 0, 0)(images, stream), images.flip(3) / 255)
    torch.testing.assert_close(Augmentation(0, 0, 0, 1)(images, stream), to_gray(images))
    jittered = Augmentation(0, 0, 0, jitter=1)(images, stream)
    assert ((jittered - images / 255).abs().amax((1, 2, 3)) > 0.05).all()


def test_jitter_equals_torchvision():
    from torchvision.transforms.v2 import functional

    images = 0.3 + 0.3 * to_float(random_images(5))  # nothing is clipped
    for column, theirs in enumerate((functional.adjust_brightness, functional.adjust_contrast)):
        factors = torch.tensor([[1.0, 1.0, 1.0, 0.0]]).repeat(5, 1)
        factors[:, column] = 1.3
        torch.testing.assert_close(jittered(images, factors), theirs(images, 1.3), rtol=0, atol=2e-4)
    factors = torch.tensor([[1.0, 1.0, 0.6, 0.0]]).repeat(5, 1)
    torch.testing.assert_close(jittered(images, factors), functional.adjust_saturation(images, 0.6), rtol=0, atol=2e-4)


def test_hue_rotation_keeps_luminance_and_gray():
    images, turned = 0.3 + 0.2 * to_float(random_images(5)), torch.tensor([[1.0, 1.0, 1.0, 2.0]]).repeat(5, 1)
    other = jittered(images, turned)
    torch.testing.assert_close(to_gray(other), to_gray(images), rtol=0, atol=2e-4)
    assert (other - images).abs().max() > 0.05
    torch.testing.assert_close(jittered(to_gray(images), turned), to_gray(images), rtol=0, atol=2e-4)


def test_no_jitter_draws_no_random_numbers():
    plain, jittering = (Augmentation(jitter=share).draw(6, SIZE, random_stream(3)) for share in (0.0, 0.5))
    for name in ("flip", "top", "left", "box", "noise", "gray"):
        assert torch.equal(getattr(plain, name), getattr(jittering, name))
    assert (plain.jitter == torch.tensor([1.0, 1.0, 1.0, 0.0])).all()
    again = random_stream(3)
    Augmentation().draw(6, SIZE, again)
    assert torch.rand((), generator=again, dtype=torch.float64) == _next_after_draw(random_stream(3))


def _next_after_draw(stream: torch.Generator) -> torch.Tensor:
    torch.rand((27, 6), generator=stream, dtype=torch.float64)
    torch.randint(2**20, (6,), generator=stream)
    return torch.rand((), generator=stream, dtype=torch.float64)


def test_erased_rectangles_have_documented_area_and_shape():
    height, width = size = (256, 128)
    top, left, h, w = Augmentation(erasing=1.0).draw(2000, size, random_stream(4)).box.unbind(1)
    assert (h > 0).float().mean() > 0.999
    assert (top >= 0).all() and (left >= 0).all() and (top + h <= height).all() and (left + w <= width).all()
    area, aspect = (h * w).float() / (height * width), h.float() / w
    assert 0.018 < area.min() < 0.03 and 0.3 < area.max() < 0.34
    assert 0.28 < aspect.min() < 0.4 and 2.5 < aspect.max() < 3.5
    assert top.max() > 200 and left.max() > 100 and top.min() < 5 > left.min()


def test_probabilities_are_respected():
    draw = Augmentation(flip=0.5, padding=2, erasing=0.25, gray=0.1, jitter=0.2).draw(8000, SIZE, random_stream(9))
    shares = [draw.flip, draw.box[:, 2] > 0, draw.gray, draw.jitter[:, 0] != 1]
    for share, expected in zip(shares, [0.5, 0.25, 0.1, 0.2], strict=True):
        assert abs(share.float().mean() - expected) < 0.02  # four standard errors
    assert abs((draw.flip & draw.gray).float().mean() - 0.05) < 0.01  # independent of each other


def test_noise_is_uniform_and_differs_between_images():
    noise = _noise(torch.tensor([1, 50_000]), 64, 32).float()
    assert abs(noise.mean() - 127.5) < 3 and abs(noise.std() - 73.9) < 2
    correlation = torch.corrcoef(torch.cat([noise.flatten(2)[0], noise.flatten(2)[1]]))
    assert (correlation - torch.eye(6)).abs().max() < 0.1


def test_part_of_batch_is_augmented_as_in_whole():
    augmentation, images = Augmentation(padding=2, gray=0.5, jitter=0.5), random_images(12)
    draw = augmentation.draw(12, SIZE, random_stream(0, 2, 5))
    whole = augmentation.apply(images, draw)
    torch.testing.assert_close(augmentation.apply(images[4:8], draw.rows(slice(4, 8))), whole[4:8], rtol=0, atol=0)


def test_random_stream_depends_on_its_arguments_only():
    first = torch.rand(4, generator=random_stream(1, 2, 3))
    torch.manual_seed(99)
    torch.testing.assert_close(first, torch.rand(4, generator=random_stream(1, 2, 3)), rtol=0, atol=0)
    for other in [(1, 2, 4), (1, 3, 2), (1, 2), (2, 2, 3)]:
        assert (first != torch.rand(4, generator=random_stream(*other))).any()


def test_gray_is_luminance_in_three_channels():
    pure = torch.eye(3).view(3, 3, 1, 1).expand(3, 3, 2, 2)  # a red, a green and a blue image
    assert [round(float(value), 3) for value in to_gray(pure)[:, 1, 0, 0]] == [0.299, 0.587, 0.114]
    images = random_images(2)
    gray = to_gray(images)
    assert gray.shape == images.shape and (gray[:, 0] == gray[:, 2]).all()
    torch.testing.assert_close(gray, to_gray(to_float(images)))


def test_augmentation_uses_experiment_values():
    experiment = Experiment.from_parameters(flip=0.1, padding=7, erasing=0.2, gray_probability=0.3, colour_jitter=0.4)
    assert Augmentation.from_experiment(experiment) == Augmentation(0.1, 7, 0.2, 0.3, 0.4)
