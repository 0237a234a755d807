"""Several hosts, which are processes over loopback, train as one."""

import functools

import jax
import numpy as np
import pytest

from tests import hosts_worker, problems
from tests.programs import reserved_address


@pytest.fixture(scope="module")
def trained(server, tmp_path_factory):
    """What each of two hosts of two devices holds after training in every case."""
    folder = tmp_path_factory.mktemp("hosts")
    with reserved_address() as address:
        hosts = [
            server.call(hosts_worker.main, folder, 2, address, host, 2)
            for host in range(2)
        ]
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
