"""Runs that are killed, interrupted, damaged, and that find the disk full."""

import resource
import shutil
import signal
import struct
import sys
import time
from unittest import mock

import numpy as np
import pytest
from tensorboardX.proto import event_pb2

from experiments.train import progress
from tests.programs import epochs, events, newest, resumed, saved, state

# Whatever a checkpoint has to carry: BatchNorm's statistics, momentum, the attention's
# normaliser from s_0 = 0 and its switch, dropout's key, the place in an epoch, whose
# last batch is padded.
EPOCHS, STEPS = 4, 19  # an epoch
TRAIN = (
    "train", "digits_label_noise", "--model.widths", "4", "8", "--model.dropout", "0.3",
    "--method.init-s", "0", "--method.start-at", "0.5", "--data.examples-per-class",
    "100", "--batch-size", "16", "--epochs", str(EPOCHS),
)  # fmt: skip
EVERY_STEP = ("--checkpoint-seconds", "0")


@pytest.fixture(scope="module")
def uninterrupted(server, tmp_path_factory):
    """A run that nothing happened to, with no checkpoint but at the ends of epochs."""
    out = tmp_path_factory.mktemp("uninterrupted") / "run"
    program = server.run(*TRAIN, "--out", out)
    assert program.status == 0, program.said
    *_, last, finished = program.said.splitlines()
    assert last.startswith(f"epoch {EPOCHS}/{EPOCHS}  loss ")
    assert finished.startswith("Finished: test accuracy ")
    assert finished.endswith(f"python -m experiments report {out}")
    assert saved(out) == [(EPOCHS - 1) * STEPS, EPOCHS * STEPS]
    return out


# What is in a run directory.


def assert_same(out, expected):
    """The same last checkpoint, to the bit, and the same numbers of every epoch."""
    (leaves, note), (wanted, wanted_note) = state(out), state(expected)
    assert note == wanted_note
    for part in ("params", "statistics", "optimizer.rule", "optimizer.descent"):
        assert any(name.startswith(part) for name in wanted), wanted.keys()
    assert leaves.keys() == wanted.keys()
    for name, leaf in leaves.items():
        assert leaf.tobytes() == wanted[name].tobytes(), name
    assert len(epochs(out)) == EPOCHS
    assert epochs(out) == epochs(expected)


def curves(out):
    """Steps and losses that TensorBoard shows."""
    shown = []
    for path in sorted((out / "tensorboard").iterdir()):
        content, at = path.read_bytes(), 0
        while at < len(content):  # length, its digest, the event, its digest
            (length,) = struct.unpack_from("Q", content, at)
            assert at + length + 16 <= len(content)
            event = event_pb2.Event.FromString(content[at + 12 : at + 12 + length])
            at += length + 16
            if event.session_log.status == event_pb2.SessionLog.START:
                shown = [(step, value) for step, value in shown if step < event.step]
            shown += [
                (event.step, value.simple_value)
                for value in event.summary.value
                if value.tag == "loss"
            ]
    return shown


def everything(folder):
    """Names, contents and times of change of all that is there."""
    return {
        path: (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else None)
        for path in sorted(folder.rglob("*"))
    }


# Kills.


def test_kills_at_any_moment_change_nothing(programs, uninterrupted, tmp_path):
    """Before a step is saved, while one is being saved, and between steps."""
    out, rng = tmp_path / "run", np.random.default_rng(16)
    unfinished = out / "checkpoints" / "unfinished"
    while_saving = before_any = 0
    for moment in ("begun", "saving", "resumed", "between", "saving"):
        before, resumes = newest(out), len(resumed(out))
        later = before + rng.integers(2, 6)
        program = programs.start(*TRAIN, *EVERY_STEP, "--out", out)
        reached = {
            "begun": (out / "config.json").exists,
            "resumed": lambda n=resumes: len(resumed(out)) > n,
            "saving": lambda n=before: newest(out) > n and unfinished.exists(),
            "between": lambda n=later: newest(out) >= n,
        }
        program.wait_for(reached[moment])
        if moment == "between":
            time.sleep(rng.uniform(0, 0.05))
        assert program.end(signal.SIGKILL) == -signal.SIGKILL, program.said
        while_saving += unfinished.exists()
        before_any += newest(out) == before
    program = programs.run(*TRAIN, "--out", out)
    assert program.status == 0, program.said
    assert while_saving
    assert before_any
    steps = resumed(out)
    assert len(set(steps)) >= 3, steps
    assert sum(step % STEPS > 0 for step in steps) >= 2, steps
    assert_same(out, uninterrupted)
    shown = [(event["step"], event["loss"]) for event in epochs(out)]
    assert curves(out) == [(step, np.float32(loss)) for step, loss in shown]


# Interrupts.


def test_an_interrupt_saves_and_the_same_command_goes_on(
    programs, uninterrupted, tmp_path
):
    out = tmp_path / "run"
    program = programs.start(*TRAIN, "--out", out)
    program.wait_for(lambda: events(out, "epoch"))
    stops = []
    for number in (signal.SIGTERM, signal.SIGINT):
        assert program.end(number) == 130, program.said
        assert program.said.endswith(
            f"Interrupted; the same command goes on from {out}, or: "
            f"python -m experiments resume {out}\n"
        )
        assert resumed(out) == stops
        stops.append(newest(out))
        program = programs.start(*TRAIN, "--out", out)
        program.wait_for(lambda: len(resumed(out)) == len(stops))
    assert program.end() == 0, program.said
    resuming = f"Resuming {out} at step {stops[-1]} of {EPOCHS * STEPS} (epoch "
    assert resuming in program.said
    # Within an epoch nothing else saves.
    assert any(step % STEPS for step in stops), stops
    assert len(set(stops)) == len(stops)  # each of them went on
    assert_same(out, uninterrupted)


# What is there already.


@pytest.fixture
def out(uninterrupted, tmp_path):
    return shutil.copytree(uninterrupted, tmp_path / "run")


def damage(out, step):
    """One bit of the parameters."""
    files = (out / "checkpoints" / str(step) / "state").rglob("d/*")
    largest = max(files, key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)


def test_a_finished_run_is_left_as_it_is(shell, out):
    before = everything(out)
    reached = f"{out} is finished: {EPOCHS} epochs, {EPOCHS * STEPS} steps: test acc"
    shell.refused(0, reached, *TRAIN, "--out", out)
    assert everything(out) == before


def test_a_run_that_was_stopped_after_its_last_checkpoint_is_finished(
    shell, uninterrupted, out
):
    lines = (out / "records.jsonl").read_text().splitlines(keepends=True)
    (out / "records.jsonl").write_text("".join(lines[:-1]) + lines[-1][:10])
    shell.printed(*TRAIN, "--out", out)
    assert [event["step"] for event in events(out, "finished")] == [EPOCHS * STEPS]
    assert_same(out, uninterrupted)


def test_a_damaged_checkpoint_gives_way_to_the_one_before(shell, uninterrupted, out):
    first, last = saved(out)
    damage(out, last)
    status, _, said = shell(*TRAIN, "--out", out)
    assert status == 0, said
    began = f"Checkpoint {last} is damaged: "
    said = (began + said.partition(began)[2]).splitlines()
    assert said[0].endswith("is not as it was written.")
    assert said[1:3] == [
        f"Going on from checkpoint {first}.",
        f"Resuming {out} at step {first} of {last} (epoch {EPOCHS} of {EPOCHS}).",
    ]
    assert len(events(out, "finished")) == 1
    assert_same(out, uninterrupted)


def test_where_all_checkpoints_are_damaged_nothing_is_overwritten(shell, out):
    for step in saved(out):
        damage(out, step)
    before = everything(out)
    steps = ", ".join(map(str, saved(out)))
    damaged = (
        f"All checkpoints in {out / 'checkpoints'} are damaged (steps {steps}). Remove"
    )
    shell.refused(3, damaged, *TRAIN, "--out", out)
    assert everything(out) == before


@pytest.mark.parametrize("with_config", [True, False])
def test_another_configuration_is_refused(shell, out, with_config):
    if not with_config:
        (out / "config.json").unlink()
    before = everything(out)
    status, _, said = shell(*TRAIN, "--method.lam", "-0.5", "--seed", "1", "--out", out)
    assert status == 2
    assert "\n  method.lam: -1.0 there, -0.5 here\n" in said
    assert "\n  seed: 0 there, 1 here\n" in said
    assert said.count(" there, ") == 2
    assert everything(out) == before


# Messages.


def test_no_line_of_another_thread_ends_up_within_a_message(monkeypatch):
    """What is written in two pieces, and is buffered, can be parted by another line."""
    pieces = []
    stream = mock.Mock(write=pieces.append)
    monkeypatch.setattr(sys, "stderr", stream)
    progress.say("Step 3 could not be saved.")
    assert [piece for piece in pieces if piece] == ["Step 3 could not be saved.\n"]


# Disks.


def test_a_full_disk_does_not_stop_a_run(programs, uninterrupted, tmp_path):
    out = tmp_path / "run"
    program = programs.start(*TRAIN, "--checkpoint-seconds", "0.03", "--out", out)
    program.wait_for(lambda: newest(out) >= 1)
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.prlimit(program.process, resource.RLIMIT_FSIZE, (0, most))
    # No file can be written to: neither checkpoints nor what is told of them.
    program.wait_for(lambda: program.said.count("could not be saved: ") >= 2)
    program.wait_for(lambda: "An event could not be written in" in program.said)
    resource.prlimit(program.process, resource.RLIMIT_FSIZE, (most, most))
    assert program.end() == 0, program.said
    assert "absl" not in program.said  # the stacks that Orbax writes there
    failures = events(out, "save_failed")
    assert len(failures) >= 2
    for failure in failures:
        said = f"Step {failure['step']} could not be saved: {failure['error']}\n"
        assert said in program.said
        assert "File too large" in failure["error"]
    assert len(failures) == program.said.count("could not be saved: ")
    assert_same(out, uninterrupted)
