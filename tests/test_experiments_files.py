"""Image files: decoded, cut, resized and coloured by oracles, here and in workers."""

import contextlib
import functools
import itertools
import math
import multiprocessing
import os
import pathlib
import subprocess
import sys
import textwrap

import jax
import numpy as np
import PIL.Image
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments import configs
from experiments.data import images, loader
from experiments.data.types import DamagedData, Examples, Files
from tests.batches import assert_resumed_and_shared, assert_same

PHOTOS = configs.Data(
    source="places_lt", image_size=28, resized_crop=True, flip=True, jitter=0.4
)


def _write(directory, name, image, **options):
    image.save(directory / name, **options)
    return name


def _files(directory, names):
    return Files(directory, np.array(names, np.dtypes.StringDType()))


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Ten photographs of noise that is smooth, of different sizes."""
    directory, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    names = []
    for number in range(10):
        small = PIL.Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
        size = (40 + 3 * number, 60 - 2 * number)
        names.append(_write(directory, f"{number}.jpg", small.resize(size), quality=95))
    return Examples(_files(directory, names), np.arange(10, dtype=np.int32))


@pytest.mark.parametrize(
    ("mode", "colour", "name", "expected"),
    [
        ("RGB", (10, 200, 77), "a.png", (10, 200, 77)),
        ("L", 93, "a.png", (93,) * 3),
        ("L", 93, "a.jpg", (93,) * 3),
        ("1", 1, "a.png", (255,) * 3),
        ("LA", (93, 128), "a.png", (93,) * 3),
        ("RGBA", (10, 200, 77, 128), "a.png", (10, 200, 77)),
        ("P", 0, "a.png", (0, 0, 0)),
        ("I;16", 0x5D40, "a.png", (93,) * 3),
        ("I;16", 0xFFFF, "a.tif", (255,) * 3),
        ("I", 0x5D40, "a.tif", (93,) * 3),
        ("CMYK", (0, 255, 255, 0), "a.jpg", (255, 0, 0)),
    ],
)
def test_images_of_any_kind_become_colours_of_a_byte(
    tmp_path, mode, colour, name, expected
):
    _write(tmp_path, name, PIL.Image.new(mode, (9, 12), colour))
    data = configs.Data(source="places_lt", image_size=4)
    found = images.image(_files(tmp_path, [name]), 0, data, None)
    assert found.shape == (4, 4, 3)
    assert found.dtype == np.uint8
    # JPEG is not exact.
    assert np.abs(found.astype(int) - expected).max() <= 2 * name.endswith("jpg")


def test_a_palette_with_transparency(tmp_path):
    image = PIL.Image.new("P", (9, 12), 1)
    image.putpalette([0, 0, 0, 10, 200, 77])
    _write(tmp_path, "a.png", image, transparency=bytes([0, 128]))
    data = configs.Data(source="places_lt", image_size=4)
    found = images.image(_files(tmp_path, ["a.png"]), 0, data, None)
    np.testing.assert_array_equal(found, np.tile([10, 200, 77], (4, 4, 1)))


def test_an_image_of_floats_is_refused(tmp_path):
    _write(tmp_path, "a.tif", PIL.Image.new("F", (9, 12), 0.5))
    with pytest.raises(DamagedData, match=r"a\.tif .*: its pixels are floating-point"):
        images.decode(_files(tmp_path, ["a.tif"]), 0)


def _triangles(before, after):
    """Weights of the `before` pixels in each of the `after`, `[after, before]`."""
    scale = before / after
    centres = (np.arange(after) + 0.5) * scale - 0.5
    distances = np.abs(np.arange(before) - centres[:, None]) / max(scale, 1.0)
    weights = np.maximum(1.0 - distances, 0.0)
    return weights / weights.sum(axis=1, keepdims=True)


def _resized(image, height, width):
    rows, columns = itertools.starmap(
        _triangles, zip(image.shape[:2], (height, width), strict=True)
    )
    return np.einsum("ij,kl,jlc->ikc", rows, columns, image.astype(float))


@pytest.mark.parametrize("place", [0, 9])
def test_a_test_image_is_the_middle_of_the_resized_one(photos, place):
    stored = np.asarray(PIL.Image.open(photos.inputs.path(place)))
    height, width, _ = stored.shape
    assert (height > width) == (place == 0)
    # The short side to 28 · 8 / 7 = 32.
    height, width = (int(32 * side / min(stored.shape[:2])) for side in (height, width))
    top, left = round((height - 28) / 2), round((width - 28) / 2)
    expected = _resized(stored, height, width)[top : top + 28, left : left + 28]
    found = images.image(photos.inputs, place, PHOTOS, None)
    assert np.abs(found - expected).max() <= 1.0  # Pillow rounds twice


def test_a_training_image_is_a_resized_part(photos):
    stored = np.asarray(PIL.Image.open(photos.inputs.path(4)))
    height, width, _ = stored.shape

    def errors(data, seed):
        """Of what is found, against the part and against its mirror image."""
        found = images.image(photos.inputs, 4, data, np.random.default_rng(seed))
        rng = np.random.default_rng(seed)
        left, top, right, bottom = images.part(width, height, rng)
        expected = _resized(stored[top:bottom, left:right], 28, 28)
        return [np.abs(found - e).max() for e in (expected, expected[:, ::-1])]

    data = configs.replace(PHOTOS, {"jitter": 0.0})
    found = [errors(data, seed) for seed in range(20)]
    assert max(map(min, found)) <= 1.0
    assert 3 <= sum(other < one for one, other in found) <= 17
    # A device that mirrors does so by itself.
    assert errors(configs.replace(data, {"augment_on": "device"}), 0)[0] <= 1.0


def test_a_training_image_without_resized_crop_is_cut_anywhere(photos):
    data = configs.Data(source="clothing1m", image_size=28)
    stored = np.asarray(PIL.Image.open(photos.inputs.path(9)))
    height, width = (
        int(32 * side / min(stored.shape[:2])) for side in stored.shape[:2]
    )
    resized = _resized(stored, height, width)
    corners = set()
    for seed in range(60):
        found = images.image(photos.inputs, 9, data, np.random.default_rng(seed))
        errors = {
            (top, left): np.abs(found - resized[top : top + 28, left : left + 28]).max()
            for top in range(height - 27)
            for left in range(width - 27)
        }
        best = min(errors, key=errors.get)
        assert errors[best] <= 1.0
        corners.add(best)
    assert {top for top, _ in corners} == set(range(5))
    assert min(left for _, left in corners) == 0
    assert max(left for _, left in corners) == width - 28


@given(width=st.integers(1, 600), height=st.integers(1, 600), seed=st.integers(0, 1000))
def test_a_random_part_lies_within_and_has_a_shape_in_range(width, height, seed):
    left, top, right, bottom = images.part(width, height, np.random.default_rng(seed))
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height
    w, h = right - left, bottom - top
    # Sides are rounded to whole pixels.
    assert (w + 0.5) / (h - 0.5) > 3 / 4 - 1e-9
    assert (w - 0.5) / (h + 0.5) < 4 / 3 + 1e-9


def test_the_parts_of_a_large_image():
    rng = np.random.default_rng(0)
    boxes = np.array([images.part(1000, 1000, rng) for _ in range(4000)])
    w, h = (boxes[:, 2:] - boxes[:, :2]).T
    share = w * h / 1e6
    assert 0.079 < share.min() < 0.09
    assert share.max() > 0.97
    # A part of so large an area that it may not fit is drawn again; below it, uniform.
    small = share[share < 0.7]
    assert abs(small.mean() - 0.39) < 4 * 0.62 / math.sqrt(12 * len(small))
    assert abs(np.log(w / h).mean()) < 4 * 0.58 / math.sqrt(12 * len(w))
    assert abs(np.mean(boxes[:, 0] / np.maximum(1000 - w, 1)) - 0.5) < 0.02


def test_an_image_too_narrow_for_a_part_gives_its_middle():
    rng = np.random.default_rng(0)
    assert images.part(3000, 30, rng) == (1480, 0, 1520, 30)
    assert images.part(30, 3000, rng) == (0, 1480, 30, 1520)


def test_colours_by_an_oracle():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (9, 11, 3), dtype=np.uint8)
    luma = np.array([0.299, 0.587, 0.114])
    for seed in range(12):
        found = np.asarray(
            images.jitter(PIL.Image.fromarray(image), 0.4, np.random.default_rng(seed))
        )
        draw = np.random.default_rng(seed)
        factors, expected = draw.uniform(0.6, 1.4, 3), image.astype(float)
        for kind in draw.permutation(3):
            grey = (expected @ luma)[..., None]
            towards = (np.zeros(1), grey.mean(), grey)[kind]
            expected = towards + (expected - towards) * factors[kind]
            expected = expected.clip(0, 255)
        assert np.abs(found - expected).max() < 4.0  # each step is cut to a byte


def test_colours_change_by_factors_within_the_limits():
    grey = PIL.Image.new("RGB", (4, 4), (100, 100, 100))
    for most, low, high in ((0.4, 60, 140), (3.0, 0, 255)):
        # Of grey nothing but the brightness changes.
        rngs = map(np.random.default_rng, range(200))
        values = [images.jitter(grey, most, rng).getpixel((0, 0))[0] for rng in rngs]
        assert low <= min(values) < low + 4
        assert high - 4 < max(values) <= high


def test_image_files_in_order_once(photos):
    data = configs.Data(source="places_lt", image_size=8)
    batches = list(loader.batches(photos, data, 4))
    assert [batch.present.sum() for batch in batches] == [4, 4, 2]
    assert (batches[2].inputs[2:] == 0).all()
    together = np.concatenate([batch.inputs for batch in batches])[:10]
    for place, found in enumerate(together):
        expected = images.image(photos.inputs, place, data, None)
        np.testing.assert_array_equal(found, expected)
    labels = np.concatenate([batch.labels for batch in batches])[:10]
    np.testing.assert_array_equal(labels, np.arange(10))


def _photo_training(photos, **options):
    options = {"epochs": range(2)} | options
    return loader.training(photos, PHOTOS, 4, seed=1, **options)


def test_image_files_resumed_and_by_rows(photos):
    train = functools.partial(_photo_training, photos)
    assert len(assert_resumed_and_shared(train, (4,), [slice(2), slice(2, 4)])) == 6


def test_batches_passed_over_are_not_decoded(photos, tmp_path):
    missing = Examples(_files(tmp_path, photos.inputs.paths), photos.labels)
    with pytest.raises(DamagedData, match=r"jpg.*No such file"):
        next(_photo_training(missing))
    assert list(_photo_training(missing, first=6)) == []
    last = loader.order(1, 1, 10)[8:]
    for place in last:
        name = str(photos.inputs.paths[place])
        (tmp_path / name).write_bytes((photos.inputs.root / name).read_bytes())
    (batch,) = _photo_training(missing, first=5)
    np.testing.assert_array_equal(batch.index[:2], last)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda jpeg: jpeg[: len(jpeg) // 2], "cannot be decoded: .*truncated"),
        (lambda jpeg: b"<html>not found</html>", "no image, or of no format"),
        (lambda jpeg: b"", "no image, or of no format"),
    ],
)
def test_a_damaged_image_is_named(photos, tmp_path, content, message):
    jpeg = photos.inputs.path(0).read_bytes()
    (tmp_path / "broken.jpg").write_bytes(content(jpeg))
    with pytest.raises(DamagedData, match=rf"broken\.jpg.*{message}"):
        images.image(_files(tmp_path, ["broken.jpg"]), 0, PHOTOS, None)


def test_worker_processes_give_the_same_images_and_name_a_damaged_one(photos, tmp_path):
    from grain._src.python.ipc.shared_memory_array import SharedMemoryArray

    jax.block_until_ready(jax.numpy.zeros(1))  # forking would be refused from here on
    for path in photos.inputs.paths:
        content = (photos.inputs.root / path).read_bytes()
        (tmp_path / path).write_bytes(content)
    copies = Examples(_files(tmp_path, photos.inputs.paths), photos.labels)
    broken = copies.inputs.path(int(loader.order(1, 1, 10)[8]))
    broken.write_bytes(b"")
    here = _photo_training(photos, first=1)
    there = _photo_training(copies, first=1, workers=2)
    # The broken one comes in the first epoch too, before the batch that is resumed at.
    assert int(loader.order(1, 1, 10)[8]) in loader.order(1, 0, 10)[:4]
    with contextlib.closing(there), contextlib.closing(here):
        for _ in range(4):
            batch = next(there)
            assert_same(next(here), batch)
            assert type(batch.inputs) is np.ndarray
        with pytest.raises(DamagedData, match=rf"{broken.name}: no image"):
            next(there)
    assert multiprocessing.active_children() == []
    # Python warns of what is left to that thread when a process has used all batches.
    assert SharedMemoryArray._del_thread_pool is None


def test_worker_processes_end_with_a_training_that_is_left(photos):
    batches = _photo_training(photos, epochs=range(1000), workers=1)
    with loader.Prefetched(batches, 2, lambda batch: batch) as ahead:
        next(ahead)
        assert len(multiprocessing.active_children()) == 1
    assert multiprocessing.active_children() == []


def test_a_worker_ends_with_a_parent_that_is_killed_and_leaves_interrupts_to_it(
    tmp_path,
):
    root, script = pathlib.Path(images.__file__).parents[2], tmp_path / "parent.py"
    script.write_text(
        textwrap.dedent(
            """
            import multiprocessing, os, signal, time
            from experiments.data import images

            def work():
                images._begin_worker(0, 1)
                os.kill(os.getpid(), signal.SIGINT)
                print("at work", flush=True)
                time.sleep(60)

            if __name__ == "__main__":
                spawn = multiprocessing.get_context("spawn")
                spawn.Process(target=work, daemon=True).start()
                time.sleep(60)
            """
        )
    )
    with subprocess.Popen(
        [sys.executable, script],
        env=os.environ | {"PYTHONPATH": str(root)},
        stdout=subprocess.PIPE,
        text=True,
    ) as parent:
        try:
            assert parent.stdout.readline() == "at work\n"
        finally:
            parent.kill()
        # The pipe ends when the last process that holds it does.
        parent.communicate(timeout=20)
