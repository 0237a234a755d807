"""Several hosts: real processes over loopback, with real signals and real deaths."""

import contextlib
import functools
import os
import re
import signal
import time

import jax
import numpy as np
import pytest

from tests import hosts_worker, problems
from tests.programs import reserved_address

# A host counts as lost after so many seconds without a heartbeat. JAX's default is 100;
# much less than this would take a busy machine for a dead one.
HEARTBEAT = 8
# Seconds between the loss of a host and the end of the last of the others. It has to be
# bounded; what is above the heartbeat is for a busy machine.
BOUND = HEARTBEAT + 30


def start(
    server, what, hosts, address, *, folder=None, devices=1, heartbeat=60, shutdown=60,
    raising=None,
):  # fmt: skip
    """Starts hosts; see `hosts_worker.main`."""
    rest = hosts, heartbeat, shutdown, raising
    return [
        server.call(hosts_worker.main, what, folder, devices, address, host, *rest)
        for host in range(hosts)
    ]


# The same updates as one process.


@pytest.fixture(scope="module")
def trained(server, tmp_path_factory):
    """What each of two hosts of two devices holds after training in every case."""
    folder = tmp_path_factory.mktemp("hosts")
    with reserved_address() as address:
        hosts = start(server, "train", 2, address, folder=folder, devices=2)
        assert [host.end() for host in hosts] == [0, 0], [host.said for host in hosts]
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


def wait_for_the_middle_of_training(hosts):
    for host in hosts:
        host.wait_for(lambda host=host: "step 5\n" in host.said)
        assert "step 5\n" in host.said, host.said


def said_by_stopped(host, since):
    """What a host has printed when it has stopped, as it must have done by itself."""
    assert host.end() not in (0, -signal.SIGKILL)
    assert time.monotonic() < since + BOUND
    assert "another task died" in host.said
    return host.said


# Hosts, the one that is lost, and how; the coordinator is host 0. A host that is
# stopped is there, holds its connections and does nothing.
LOSSES = [(4, 2, signal.SIGKILL), (2, 0, signal.SIGKILL), (2, 1, signal.SIGSTOP)]


def test_when_a_host_is_lost_the_others_stop_and_say_so(programs):
    """Each case begins while the hosts of the one before wait for a heartbeat."""
    with contextlib.ExitStack() as stack:
        left = []
        for hosts, lost, how in LOSSES:
            address = stack.enter_context(reserved_address())
            running = start(programs, "train_on", hosts, address, heartbeat=HEARTBEAT)
            wait_for_the_middle_of_training(running)
            os.kill(running.pop(lost).process, how)
            left.append((lost, running, time.monotonic()))
        for lost, survivors, since in left:
            for survivor in survivors:
                said = said_by_stopped(survivor, since)
                assert re.search(
                    r"leader task was preempted/died"
                    if lost == 0
                    else rf"Task {lost} heartbeat timeout|"
                    rf"tasks are unhealthy \(stopped sending heartbeats\):\n{lost}\n",
                    said,
                ), said


def test_when_a_host_raises_the_others_stop_too(programs):
    """Its process waits for the others at exit and its heart beats: it is not lost."""
    with reserved_address() as address:
        running = start(programs, "train_on", 2, address, shutdown=5, raising=1)
        wait_for_the_middle_of_training(running)
        since = time.monotonic()
        other, raised = (said_by_stopped(host, since) for host in running)
    assert "The first task at the barrier: 1." in other
    assert "RuntimeError: the data of step 10 cannot be read" in raised
