"""Several hosts: real processes over loopback, with real signals and real deaths."""

import contextlib
import functools
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time
from typing import NamedTuple

import jax
import numpy as np
import pytest

from tests import compiling, hosts_worker, problems

ROOT = pathlib.Path(__file__).parent.parent
START = 120  # seconds that hosts may take to start and compile on a busy machine

# A host counts as lost after so many seconds without a heartbeat. JAX's default is 100;
# much less than this would take a busy machine for a dead one.
HEARTBEAT = 8
# Seconds between the loss of a host and the end of the last of the others. It has to be
# bounded; what is above the heartbeat is for a busy machine.
BOUND = HEARTBEAT + 30


class Host(NamedTuple):
    """A worker process and the files that it writes to."""

    process: subprocess.Popen
    stdout: pathlib.Path
    stderr: pathlib.Path

    def failed(self):
        return self.process.poll() not in (None, 0)


@contextlib.contextmanager
def started(folder, what, hosts, devices=1, *, heartbeat=60, shutdown=60, **options):
    """Runs the hosts; none of them outlives the block, however it is left."""
    environment = compiling.environment(
        JAX_NUM_CPU_DEVICES=str(devices),
        JAX_CPU_COLLECTIVES_IMPLEMENTATION="gloo",
        PYTHONPATH=str(ROOT),
    )
    with socket.socket() as reserved, contextlib.ExitStack() as cleanup:
        # Bound without listening, and shared as gRPC shares its ports: the coordinator
        # can have this port and nobody else gets it before it does.
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        reserved.bind(("127.0.0.1", 0))
        options |= {
            "folder": folder, "port": reserved.getsockname()[1], "hosts": hosts,
            "heartbeat": heartbeat, "shutdown": shutdown,
        }  # fmt: skip
        flags = [f"--{k.replace('_', '-')}={v}" for k, v in options.items()]
        running = []
        for host in range(hosts):
            stdout, stderr = folder / f"{host}.out", folder / f"{host}.err"
            # Files, not pipes: nobody has to read them for a worker to go on.
            with stdout.open("wb") as out, stderr.open("wb") as err:
                process = subprocess.Popen(
                    [sys.executable, "-W", "error", "-m", "tests.hosts_worker", what,
                     f"--host={host}", *flags],
                    cwd=folder, env=environment, stdout=out, stderr=err,
                    stdin=subprocess.DEVNULL, start_new_session=True,
                )  # fmt: skip
            # SIGKILL: JAX catches SIGTERM, and SIGKILL ends a stopped process as well.
            cleanup.callback(process.wait)
            cleanup.callback(process.kill)
            running.append(Host(process, stdout, stderr))
        yield running


def wait_until(condition, hosts):
    """Waits until it holds of every host, or until one of them fails."""
    deadline = time.monotonic() + START
    while not all(map(condition, hosts)):
        for i, host in enumerate(hosts):
            assert not host.failed(), f"host {i} failed:\n{host.stderr.read_text()}"
        assert time.monotonic() < deadline, [h.stdout.read_text() for h in hosts]
        time.sleep(0.05)


# The same updates as one process.


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """What each of two hosts of two devices holds after training in every case."""
    folder = tmp_path_factory.mktemp("hosts")
    with started(folder, "train", 2, 2) as hosts:
        wait_until(lambda host: host.process.poll() == 0, hosts)
    results = []
    for host in range(len(hosts)):
        with np.load(folder / f"{host}.npz") as arrays:
            results.append(dict(arrays))
    return results


def in_one_process(route, hosts, padded):
    """The same training here, on the whole batch, or on the rows that are real."""
    rows = np.arange(problems.BATCH)
    if padded:
        rows = np.delete(rows, np.split(rows, hosts)[hosts_worker.PADDED_HOST])
    return train_here("value" if route == "microbatches" else route, tuple(rows))


@functools.cache
def train_here(route, rows):
    x, labels, weights, _ = hosts_worker.rows_of_host(0, 1, padded=False)
    optimizer = hosts_worker.optimizer_for(route)
    step = jax.jit(functools.partial(problems.route_step, route, optimizer))
    params = {"w": problems.initial_params()["w"].astype(np.float32)}
    state = optimizer.init(params)
    updates = []
    for t in range(hosts_worker.STEPS):
        params, state, update = step(
            params, state, x[t, rows], labels[t, rows], sample_weights=weights[t, rows]
        )
        updates.append(update["w"])
    attention = hosts_worker.attention_of(state)
    return {"updates": np.stack(updates), "params": params["w"], **attention}


@pytest.mark.parametrize("filling", hosts_worker.FILLINGS)
@pytest.mark.parametrize(("route", "spread"), hosts_worker.PROGRAMS)
def test_hosts_train_as_one_process_does(trained, route, spread, filling):
    expected = in_one_process(route, len(trained), filling == "padded")
    assert np.abs(expected["updates"]).max(axis=(1, 2)).min() > 1e-2  # it does train
    for name, value in expected.items():
        # The copy of the first device of the first host, then of all the others.
        first, *others = (
            copy
            for arrays in trained
            for copy in arrays[f"{route}/{spread}/{filling}/{name}"]
        )
        np.testing.assert_allclose(first, value, rtol=1e-6, atol=1e-6)
        assert first.dtype == value.dtype
        for other in others:
            assert other.tobytes() == first.tobytes()


# A host that is lost: the others stop, in bounded time, and say why.


def in_the_middle_of_training(hosts):
    wait_until(lambda host: "step 5\n" in host.stdout.read_text(), hosts)


def stderr_of_stopped(host, since):
    """What a host wrote before it stopped, which it must have done by itself."""
    code = host.process.wait(timeout=max(0.0, since + BOUND - time.monotonic()))
    assert code not in (0, -signal.SIGKILL)
    text = host.stderr.read_text()
    assert "another task died" in text
    return text


# Hosts, the one that is lost, and how; the coordinator is host 0. A host that is
# stopped is there, holds its connections and does nothing.
LOSSES = [(4, 2, signal.SIGKILL), (2, 0, signal.SIGKILL), (2, 1, signal.SIGSTOP)]


def test_when_a_host_is_lost_the_others_stop_and_say_so(tmp_path):
    """Each case begins while the hosts of the one before wait for a heartbeat."""
    with contextlib.ExitStack() as stack:
        left = []
        for number, (hosts, lost, how) in enumerate(LOSSES):
            folder = tmp_path / str(number)
            folder.mkdir()
            running = stack.enter_context(
                started(folder, "train_on", hosts, heartbeat=HEARTBEAT)
            )
            in_the_middle_of_training(running)
            running.pop(lost).process.send_signal(how)
            left.append((lost, running, time.monotonic()))
        for lost, survivors, since in left:
            for survivor in survivors:
                text = stderr_of_stopped(survivor, since)
                assert re.search(
                    r"leader task was preempted/died"
                    if lost == 0
                    else rf"Task {lost} heartbeat timeout|"
                    rf"tasks are unhealthy \(stopped sending heartbeats\):\n{lost}\n",
                    text,
                ), text


def test_when_a_host_raises_the_others_stop_too(tmp_path):
    """Its process waits for the others at exit and its heart beats: it is not lost."""
    with started(tmp_path, "train_on", 2, shutdown=5, raising=1) as running:
        in_the_middle_of_training(running)
        since = time.monotonic()
        other, raised = (stderr_of_stopped(host, since) for host in running)
    assert "The first task at the barrier: 1." in other
    assert "RuntimeError: the data of step 10 cannot be read" in raised
