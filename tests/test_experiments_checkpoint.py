"""Checkpoints, against real files, full disks, damage, kills and hosts."""

import itertools
import logging
import os
import signal
import subprocess
from concurrent.futures import Future
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from experiments.train import checkpoint
from tests import checkpoint_worker
from tests.checkpoint_worker import SIZE, add_one, assert_same, checkpoints, numbers
from tests.programs import reserved_address

# What comes back is what was there.


class Carried(NamedTuple):
    network: nnx.State
    optimizer: optax.OptState
    key: jax.Array
    rest: dict


def carried():
    network = nnx.state(nnx.Sequential(
        nnx.Linear(3, 4, rngs=nnx.Rngs(0)), nnx.BatchNorm(4, rngs=nnx.Rngs(0))
    ))  # fmt: skip
    optimizer = optax.chain(optax.clip(1.0), optax.adam(optax.constant_schedule(0.1)))
    state = Carried(
        network,
        optimizer.init(nnx.filter_state(network, nnx.Param)),
        jax.random.split(jax.random.key(3, impl="rbg"), 2),
        {
            "key data/ü": jax.random.PRNGKey(4),
            "half": jnp.arange(6, dtype=jnp.bfloat16).reshape(2, 3),
            "special": jnp.array([np.nan, -0.0, np.inf, 1e-45], jnp.float32),
            "flags": jnp.array([True, False]),
            "bytes": jnp.arange(3, dtype=jnp.int8),
            "empty": jnp.zeros((0, 3)),
            "nothing": (None, (), [], optax.EmptyState()),
        },
    )
    return jax.device_put(state, jax.devices()[0])


def test_a_state_comes_back_to_the_bit(tmp_path):
    state = carried()
    expected = jax.tree.map(lambda x: x.copy(), state)
    with checkpoints(tmp_path) as saved:
        assert saved.restore(state) is None
        saved.save(5, state, {"epoch": 1, "rate": float("inf"), "seen": (1, 2)})
        # What was saved is what was there, whatever happens to its memory now.
        add_one((state.network, state.rest["half"]))
    with checkpoints(tmp_path) as saved:
        step, restored, place = saved.restore(expected)
        assert (step, place) == (5, {"epoch": 1, "rate": "inf", "seen": [1, 2]})
        assert_same(restored, expected)
    assert not saved.failures


def test_the_newest_are_kept_and_nothing_else(tmp_path):
    folder = tmp_path / "not" / "there"
    with checkpoints(folder, keep=2) as saved:
        for step in (1, 2, 3, 3, 12):
            saved.save(step, numbers(step), {})
        saved.wait()
        assert sorted(os.listdir(folder)) == ["12", "3"]
        with pytest.raises(ValueError, match="rise, got 11 after 12"):
            saved.save(11, numbers(11), {})
    # What a user may check, by the tool that everybody has.
    subprocess.run(
        ["sha256sum", "--check", "--quiet", checkpoint.DIGESTS],
        cwd=folder / "12", check=True,
    )  # fmt: skip


def test_nothing_is_overwritten_that_was_not_looked_at(tmp_path):
    with checkpoints(tmp_path) as saved:
        saved.save(4, numbers(4), {})
    with (
        checkpoints(tmp_path) as other,
        pytest.raises(RuntimeError, match=r"steps \[4\]: restore before"),
    ):
        other.save(5, numbers(5), {})
    with checkpoints(tmp_path) as other:
        assert_same(other.restore(numbers(0))[1], numbers(4))


def test_what_cannot_be_written_is_refused_at_once(tmp_path):
    with (
        checkpoints(tmp_path) as saved,
        pytest.raises(TypeError, match="not JSON serializable"),
    ):
        saved.save(2, numbers(2), {"rule": object()})
    assert not saved.failures


# Other configurations.


def test_a_path_that_has_moved_is_no_difference(tmp_path):
    for name in ("here/first", "here/second", "other/first"):
        (tmp_path / name).mkdir(parents=True)
    here = {"start_from": str(tmp_path / "here" / "first")}
    for there in (tmp_path / "gone" / "first", "gone/first", tmp_path / "here/./first"):
        assert not checkpoint.differences({"start_from": str(there)}, here)
    for there in (tmp_path / "other" / "first", tmp_path / "here" / "second", "second"):
        assert checkpoint.differences({"start_from": str(there)}, here)
    assert checkpoint.differences({"name": "gone/a"}, {"name": "missing/a"})


def test_differences_name_the_fields():
    there = {
        "method": {"lam": 0.5, "gamma": 0.9, "name": "absgd"},
        "epochs": 2,
        "to": (),
    }
    here = {"method": {"lam": 1.0, "name": "absgd", "k": None}, "epochs": 2.0, "to": []}
    assert checkpoint.differences(there, here) == [
        "method.lam: 0.5 there, 1.0 here",
        "method.gamma: 0.9 there, absent here",
        "method.k: absent there, None here",
    ]
    whole = os.path.abspath("runs/a")
    assert checkpoint.differences({"a": "runs/a"}, {"a": whole}) == []
    for value in (float("inf"), float("nan"), (1, (2,)), None):
        assert checkpoint.differences({"a": value}, {"a": value}) == []
    assert checkpoint.differences({"a": {"b": 1}}, {"a": 1}) == [
        "a.b: 1 there, absent here",
        "a: absent there, 1 here",
    ]


def test_a_checkpoint_of_another_network_is_refused(tmp_path):
    with checkpoints(tmp_path) as saved:
        saved.save(1, numbers(1), {})
    with checkpoints(tmp_path) as saved:
        wider = numbers(0) | {"params": {"w": jnp.zeros((125, 9))}}
        with pytest.raises(
            checkpoint.OtherConfiguration,
            match=r"params.w: 'float32\[125, 8\]' there, 'float32\[125, 9\]' here$",
        ):
            saved.restore(wider)
        assert_same(saved.restore(numbers(0))[1], numbers(1))


# Damage.


def damages(folder):
    """Pairs of what is done to a checkpoint and a function that does and undoes it."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    biggest = max(files, key=lambda path: path.stat().st_size)
    for path in files:
        content = path.read_bytes()
        name = path.relative_to(folder).as_posix()
        places = {len(content) // 2} if content else set()
        if content and path in (biggest, folder / checkpoint.METADATA):
            places |= {0, len(content) - 1}
        for place in places:
            flipped = bytearray(content)
            flipped[place] ^= 1 << place % 8
            yield f"bit of byte {place} of {name}", path, bytes(flipped)
        yield f"a byte more in {name}", path, content + b"\0"
        yield f"no {name}", path, None
        if path == biggest:
            yield f"end of {name}", path, content[: len(content) // 2]
            yield f"all of {name}", path, b""
    yield "a file more", folder / "state" / "another", b""


def test_whatever_is_damaged_the_one_before_is_taken(tmp_path):
    with checkpoints(tmp_path) as saved:
        for step in (1, 2):
            saved.save(step, numbers(step), {"of": step})
    tried = 0
    for what, path, content in list(damages(tmp_path / "2")):
        before = path.read_bytes() if path.exists() else None
        path.unlink() if content is None else path.write_bytes(content)
        log = []
        with checkpoints(tmp_path, log.append) as saved:
            step, state, place = saved.restore(numbers(0))
        assert (step, place) == (1, {"of": 1}), what
        assert_same(state, numbers(1))
        assert len(log) == 2, what
        assert log[0].startswith("Checkpoint 2 is damaged: "), log
        assert log[1] == "Going on from checkpoint 1."
        path.unlink(missing_ok=True)
        if before is not None:
            path.write_bytes(before)
        tried += 1
    assert tried > 20
    log = []
    with checkpoints(tmp_path, log.append) as saved:
        assert saved.restore(numbers(0))[0] == 2
    assert log == []


def damage(folder, step):
    (folder / str(step) / checkpoint.METADATA).write_text("{}")


def test_a_damaged_checkpoint_is_set_aside_and_its_step_made_again(tmp_path):
    with checkpoints(tmp_path, keep=2) as saved:
        for step in (1, 2):
            saved.save(step, numbers(step), {})
    for good in range(1, 5):  # also a disk that fails all the time does not fill up
        damage(tmp_path, good + 1)
        with checkpoints(tmp_path, keep=2) as saved:
            assert saved.restore(numbers(0))[0] == good
            for step in (good + 1, good + 2):
                saved.save(step, numbers(step), {})
        names = sorted(os.listdir(tmp_path))
        assert names[:2] == [str(good + 1), str(good + 2)]
        aside = [f"damaged-{step}" for step in (good, good + 1) if step > 1]
        assert names[2:] == aside


# Disks.


def test_a_folder_that_cannot_be_made_does_not_stop_the_run(tmp_path):
    (tmp_path / "file").touch()
    log = []
    with checkpoints(tmp_path / "file", log.append) as saved:
        assert saved.restore(numbers(0)) is None
        saved.save(1, numbers(1), {})
        saved.save(2, numbers(2), {})
        assert [failure.step for failure in saved.failures] == [1, 2]
        assert "NotADirectoryError" in saved.failures[0].reason
        assert log[0] == f"Step 1 could not be saved: {saved.failures[0].reason}"
        (tmp_path / "file").unlink()
        saved.save(3, numbers(3), {})
    assert len(saved.failures) == len(log) == 2
    with checkpoints(tmp_path / "file") as saved:
        assert_same(saved.restore(numbers(0))[1], numbers(3))


def test_more_than_there_is_room_for_is_not_begun(tmp_path):
    with pytest.raises(OSError, match=f"{10**18} bytes are to be written, [0-9]+ are"):
        checkpoints(tmp_path)._prepare(10**18)


def test_what_other_threads_still_write_after_an_error_is_removed_too(
    tmp_path, monkeypatch
):
    late = iter(range(3))

    def write_one(_):
        for file in itertools.islice(late, 1):
            (tmp_path / "unfinished" / "1").mkdir(parents=True, exist_ok=True)
            (tmp_path / "unfinished" / "1" / str(file)).touch()

    with checkpoints(tmp_path) as saved:
        monkeypatch.setattr(saved, "_begin", lambda *_: Future().result(timeout=0))
        monkeypatch.setattr(checkpoint.time, "sleep", write_one)
        saved.save(1, numbers(1), {})
        saved.wait()
        assert [failure.step for failure in saved.failures] == [1]
    assert list(late) == []
    assert os.listdir(tmp_path) == []


# Kills.


def test_a_kill_loses_no_more_than_what_is_being_written(programs, tmp_path):
    folder = tmp_path / "saved"
    for _ in range(2):  # the second goes on with what the first has left
        program = programs.call(checkpoint_worker.endless, folder)
        # One is written, another half.
        program.wait_for(lambda program=program: program.said.count("begun") >= 3)
        program.wait_for((folder / "unfinished").exists)
        assert program.end(signal.SIGKILL) == -signal.SIGKILL, program.said
        whole, _, _ = program.said.rpartition("\n")  # the last line may be torn
        said = [line.split() for line in whole.splitlines()]
        assert {words[0] for words in said} == {"begun", "written"}, said
        begun, written = (
            max(int(step) for word, step in said if word == what)
            for what in ("begun", "written")
        )
        complaints = []
        with checkpoints(folder, complaints.append) as saved:
            step, state, place = saved.restore(numbers(0, SIZE))
        assert 1 <= written <= step <= begun
        assert place == {"step": step}
        assert_same(state, numbers(step, SIZE))
        assert complaints == []
    with checkpoints(folder) as saved:
        step, _, _ = saved.restore(numbers(0, SIZE))
        saved.save(step + 1, numbers(step + 1), {})
    assert all(name.isdigit() for name in os.listdir(folder))


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_waits_for_what_is_being_written(tmp_path):
    def interrupted():
        with checkpoints(tmp_path) as saved:
            saved.save(1, numbers(1, SIZE), {})
            signal.raise_signal(signal.SIGINT)

    filters = list(logging.getLogger("absl").filters)
    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert checkpoints(tmp_path).steps() == [1]
    assert logging.getLogger("absl").filters == filters


# Devices and hosts.


def host_leaves(state):
    """What `spread` is made of, and is like on one device."""
    rest = {"cut": jnp.arange(64, dtype=jnp.float32), "key": jax.random.key(7)}
    return {"same": state, **jax.device_put(rest, jax.devices()[0])}


def test_a_state_moves_between_one_device_and_eight(programs, tmp_path):
    with checkpoints(tmp_path) as saved:
        saved.save(1, host_leaves(numbers(1)), {})
    program = programs.call(checkpoint_worker.eight_devices, tmp_path)
    assert program.end() == 0, program.said
    with checkpoints(tmp_path) as saved:
        step, state, _ = saved.restore(host_leaves(numbers(0)))
    assert step == 2
    expected = host_leaves(numbers(1))
    expected["same"] = jax.tree.map(lambda x: x + 1, expected["same"])
    assert_same(state, expected)


def test_hosts_save_together_and_go_on_from_the_same_step(programs, tmp_path):
    with reserved_address() as address:
        both = [
            programs.call(checkpoint_worker.hosts, tmp_path / "run", host, address)
            for host in range(2)
        ]
        assert [host.end() for host in both] == [0, 0], [host.said for host in both]
    with checkpoints(tmp_path / "run") as saved:
        step, state, _ = saved.restore(host_leaves(numbers(0)))
    assert step == 3
    assert_same(state, host_leaves(numbers(3)))
