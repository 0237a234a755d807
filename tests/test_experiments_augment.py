"""Crops, mirrors and rotations, on the host and on a device, by slow oracles."""

import itertools
import math

import jax
import numpy as np
import PIL.Image
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments import configs
from experiments.data import augment


def _moved_slowly(image, top, left, mirrored, padding):
    """Pixel by pixel."""
    height, width, _ = image.shape
    found = np.zeros_like(image)
    for y, x in itertools.product(range(height), range(width)):
        from_y = y + top - padding
        from_x = (width - 1 - x if mirrored else x) + left - padding
        if 0 <= from_y < height and 0 <= from_x < width:
            found[y, x] = image[from_y, from_x]
    return found


@given(
    shape=st.tuples(st.integers(1, 5), st.integers(1, 6), st.sampled_from([1, 3])),
    padding=st.integers(0, 7),
    flip=st.booleans(),
    dtype=st.sampled_from([np.uint8, np.float32]),
    seed=st.integers(0, 99),
)
def test_crops_and_mirrors_pixel_by_pixel(shape, padding, flip, dtype, seed):
    rng = np.random.default_rng(seed)
    images = rng.integers(1, 256, (3, *shape)).astype(dtype)
    before = images.copy()
    data = configs.Data(source="cifar10", crop_padding=padding, flip=flip)
    augmentations = augment.draw_augmentations(3, data, rng)
    moved = augment.apply(images, augmentations, data)
    np.testing.assert_array_equal(images, before)
    assert moved.dtype == dtype
    for image, found, (top, left), mirrored in zip(
        images, moved, augmentations.corner, augmentations.mirrored, strict=True
    ):
        expected = _moved_slowly(image, top, left, mirrored and flip, padding)
        np.testing.assert_array_equal(found, expected)


def _on_host(images, data, seed=0):
    rng = np.random.default_rng(seed)
    drawn = augment.draw_augmentations(len(images), data, rng)
    return augment.apply(images, drawn, data)


def _on_device(images, data, seed=0):
    keys = jax.random.split(jax.random.key(seed), len(images))
    moved = jax.jit(lambda images, keys: augment.on_device(images, keys, data))
    return np.asarray(moved(images, keys))


both = pytest.mark.parametrize("moved", [_on_host, _on_device])


@both
def test_crops_and_mirrors_are_all_possible_ones_alike(moved):
    image = np.arange(1, 13, dtype=np.uint8).reshape(2, 3, 2)
    data = configs.Data(source="cifar10", crop_padding=1, flip=True)
    possible = [
        _moved_slowly(image, top, left, mirrored, 1).tobytes()
        for top, left, mirrored in itertools.product(range(3), range(3), (False, True))
    ]
    n = 1800
    found = [one.tobytes() for one in moved(np.tile(image, (n, 1, 1, 1)), data)]
    assert set(found) == set(possible)
    counts = np.array([found.count(one) for one in possible])
    # Chi-square with 17 degrees of freedom, whose standard deviation is √34.
    chi_square = ((counts - n / 18) ** 2 / (n / 18)).sum()
    assert abs(chi_square - 17) < 4 * math.sqrt(34)


@both
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_rotations_are_pillows(moved, dtype):
    """torchvision's, which are Pillow's: by nearest pixels, black from outside."""
    height, width, n = 25, 32, 200
    y, x = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
    # Each pixel says where it comes from; a third channel is zero outside alone.
    image = np.stack([y, x, np.ones_like(x)], axis=-1).astype(dtype)
    data = configs.Data(source="cifar10", rotation=30.0)
    turned = moved(np.tile(image, (n, 1, 1, 1)), data)
    assert turned.dtype == dtype
    degrees = np.array([_angle(one) for one in turned])
    # Uniform between the limits.
    assert np.abs(degrees).max() < 30.5
    assert degrees.max() > 28.0
    assert degrees.min() < -28.0
    assert abs(degrees.mean()) < 4 * 60 / math.sqrt(12 * n)
    pixels = PIL.Image.fromarray(image.astype(np.uint8))
    for one, angle in zip(turned[:40], degrees, strict=False):
        # Read off whole pixels, the angle is known to a degree or two.
        nearby = np.linspace(-1.8, 1.8, 181) - angle  # counted the other way
        apart = [np.mean(np.asarray(pixels.rotate(other)) != one) for other in nearby]
        assert min(apart) < 0.01


def _angle(turned):
    """By which an image of its own coordinates was turned, degrees."""
    inside = turned[..., 2] > 0
    to = np.argwhere(inside) - (np.array(inside.shape) - 1) / 2
    of = turned[inside][:, :2] - (np.array(inside.shape) - 1) / 2
    cosine = np.sum(to * of)
    sine = np.sum(to[:, 0] * of[:, 1] - to[:, 1] * of[:, 0])
    return np.degrees(np.arctan2(sine, cosine))


@both
def test_moves_of_an_image_that_may_not_move(moved):
    images = np.random.default_rng(0).integers(0, 256, (4, 5, 6, 3), dtype=np.uint8)
    np.testing.assert_array_equal(moved(images, configs.Data(source="cifar10")), images)


def test_what_a_device_does_to_an_image_depends_on_its_own_key():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (24, 32, 32, 3), dtype=np.uint8)
    data = configs.Data(source="cifar100", crop_padding=4, flip=True, rotation=20.0)
    keys = jax.random.split(jax.random.key(1), 24)
    move = jax.jit(lambda images, keys: augment.on_device(images, keys, data))
    whole = np.asarray(move(images, keys))
    order = np.random.default_rng(0).permutation(24)
    np.testing.assert_array_equal(move(images[order], keys[order]), whole[order])
    other = np.asarray(move(images, keys[order]))
    assert (other != whole).any(axis=(1, 2, 3)).mean() > 0.8
