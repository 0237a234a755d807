"""The command line on several devices and hosts: the curve of one device."""

import os
import re
import shutil
import signal

import numpy as np
import pytest
from PIL import Image

from experiments.train import distributed
from tests import compiling, hosts_worker
from tests.programs import epochs, newest, reserved_address, resumed, saved, state

# Layouts differ in the order of sums: BatchNorm's over the batch, the attention's, and
# the last batch of an epoch, of which the last devices hold padding alone.
EPOCHS, STEPS = 5, 5  # an epoch
TRAIN = (
    "train", "digits_label_noise", "--model.widths", "8", "--model.dropout", "0.3",
    "--method.init-s", "0", "--method.start-at", "0.4", "--data.examples-per-class",
    "100", "--batch-size", "64", "--epochs", str(EPOCHS), "--no-tensorboard",
    # Lower, for rounding grows with the steps.
    "--optimizer.learning-rate", "0.03",
)  # fmt: skip
EIGHT = {"XLA_FLAGS": f"--xla_force_host_platform_device_count=8 {compiling.FLAGS}"}


@pytest.fixture(scope="module")
def on_one(server, tmp_path_factory):
    """A run on one device; the checkpoints of all epochs are kept."""
    out = tmp_path_factory.mktemp("one") / "run"
    arguments = ("--devices", "1", "--checkpoints", str(EPOCHS), "--out", out)
    program = server.run(*TRAIN, *arguments, **EIGHT)
    assert program.status == 0, program.said
    assert saved(out) == [STEPS * epoch for epoch in range(1, EPOCHS + 1)]
    return out


def assert_close(out, expected):
    """The same curve and parameters, but for float32 rounding."""
    assert newest(out) == newest(expected) == EPOCHS * STEPS
    (leaves, note), (wanted, wanted_note) = state(out), state(expected)
    assert note == wanted_note
    for name, leaf in wanted.items():
        np.testing.assert_allclose(leaves[name], leaf, 1e-4, 1e-5, err_msg=name)
    curve, wanted_curve = epochs(out), epochs(expected)
    assert len(curve) == EPOCHS
    for event, want in zip(curve, wanted_curve, strict=True):
        for name in (
            "learning_rate", "loss", "tilted_loss", "effective_sample_size",
            "largest_weight", "total_weight", "weight_by_class", "weight_clean",
            "weight_mislabelled",
        ):  # fmt: skip
            np.testing.assert_allclose(event[name], want[name], 1e-4, err_msg=name)
        for split in ("validation", "test"):
            np.testing.assert_allclose(event[split]["loss"], want[split]["loss"], 1e-4)


# Devices.


def test_four_devices_go_on_as_one(programs, on_one, tmp_path):
    """From the checkpoint at half of the training of one device; by `pmap`, for hosts
    train by `jit`.
    """
    out = shutil.copytree(on_one, tmp_path / "run")
    half = EPOCHS // 2 * STEPS
    for step in saved(out):
        if step > half:
            shutil.rmtree(out / "checkpoints" / str(step))
    arguments = ("--devices", "4", "--parallel", "pmap", "--out", out)
    program = programs.run(*TRAIN, *arguments, **EIGHT)
    assert program.status == 0, program.said
    assert resumed(out) == [half]
    assert_close(out, on_one)


# Hosts.


@pytest.fixture
def hosts(programs):
    """A function that starts two processes on a run directory, by default `TRAIN`."""
    with reserved_address() as address:

        def start(out, train=TRAIN, heartbeat=distributed.HEARTBEAT):
            return [
                programs.call(
                    hosts_worker.experiments, heartbeat, *map(str, train),
                    "--distributed", "--coordinator", address, "--processes", "2",
                    "--process", str(process), "--out", str(out),
                )
                for process in range(2)
            ]  # fmt: skip

        yield start


def test_two_hosts_that_are_killed_and_interrupted_train_as_one(
    hosts, on_one, tmp_path
):
    out = tmp_path / "out"

    # One is killed: the other stops, and says why.
    first, second = hosts(out, heartbeat=3)
    second.wait_for(lambda: newest(out) > 0)
    assert second.end(signal.SIGKILL) == -signal.SIGKILL
    assert first.end() not in (0, 130)
    assert re.search(
        r"Task 1 heartbeat timeout|"
        r"tasks are unhealthy \(stopped sending heartbeats\):\n1\n",
        first.said,
    ), first.said
    assert newest(out) % STEPS == 0

    # One is told to stop: both do, after the same step.
    began = newest(out)
    first, second = both = hosts(out)
    first.wait_for(lambda: resumed(out))
    statuses = [second.end(signal.SIGTERM), first.end()]
    assert statuses == [130, 130], [host.said for host in both]
    stopped = newest(out)
    assert began < stopped

    both = hosts(out)
    assert [host.end() for host in both] == [0, 0], [host.said for host in both]
    for own, host in enumerate(both):
        waits = f"Process {own} of 2 waits for process {1 - own} at 127.0.0.1:"
        assert waits in host.said
        assert "start the same commands again on all hosts" in host.said
    assert resumed(out) == [began, stopped]
    assert saved(out)[-2:] == [(EPOCHS - 1) * STEPS, EPOCHS * STEPS]
    assert_close(out, on_one)


def test_a_host_that_hangs_ends_both_after_a_while(hosts, tmp_path):
    """One waits for an image that does not come, and sends its heartbeats."""
    rng = np.random.default_rng(0)
    for label in ("dark", "light"):
        for index in range(16):
            path = tmp_path / "images" / label / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            low = 0 if label == "dark" else 128
            pixels = rng.integers(low, low + 128, (8, 8, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(path)
    os.mkfifo(tmp_path / "pipe")
    train = (
        "train", "own_images", "--data.path", tmp_path / "images", "--data.image-size",
        "8", "--model.name", "convnet", "--model.widths", "4", "--batch-size", "8",
        "--data.validation-share", "0", "--workers", "0", "--no-tensorboard",
        "--epochs", "10000", "--stall-timeout-seconds",
    )  # fmt: skip
    for seconds in (8, 64):  # as long as a busy machine compiles there is no update
        out = tmp_path / f"run-{seconds}"
        both = hosts(out, (*train, seconds))
        both[0].wait_for(lambda out=out: epochs(out))
        if trained := epochs(out):
            break
        for host in both:
            host.end()
    assert trained, [host.said for host in both]
    os.replace(tmp_path / "pipe", path)
    statuses = [host.end() for host in both]
    assert all(status not in (0, 130) for status in statuses)
    stops = re.compile(rf"Process \d of 2 stops: no update for {seconds} s")
    assert any(stops.search(host.said) for host in both), [host.said for host in both]
