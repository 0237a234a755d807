"""Studies that share a small trainer: radii without tuning, and a first stage."""

import pathlib

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments import commands
from experiments.results import run_dir, run_log
from experiments.studies import (
    after_first_stage,
    equal_grids,
    figures,
    untuned,
    untuned_report,
)
from experiments.studies.untuned_report import RATES, SGD, Setting

DOCS = pathlib.Path(__file__).parents[1] / "docs"


@pytest.mark.parametrize(
    ("name", "page"),
    [
        ("untuned", untuned_report.page),
        ("untuned_head", untuned_report.page),
        ("after_first_stage", after_first_stage.page),
    ],
)
def test_the_page_is_what_the_records_make(name, page):
    records = run_log.events(DOCS / f"{name}.jsonl")[0]
    assert (DOCS / f"{name}.md").read_bytes() == page(records).encode()


def test_settings_are_compared_on_the_seeds_that_all_of_them_have():
    records = run_log.events(DOCS / "untuned.jsonl")[0]
    later = [r for r in records if r["seed"] > 0]
    of_sgd = [r for r in records if r["seed"] > 0 or r["setting"] == SGD.name]
    assert untuned_report.page(of_sgd) == untuned_report.page(later)


def test_where_no_fixed_lam_gains_no_setting_is_behind_one():
    records = run_log.events(DOCS / "untuned.jsonl")[0]
    fixed = {setting.name for setting in untuned_report.FIXED}
    lost = {"val": 0.0, "test": 0.0}
    page = untuned_report.page(
        [r | (lost if r["setting"] in fixed else {}) for r in records]
    )
    (line,) = (line for line in page.splitlines() if line.startswith("| ρ 0.4, c 2 "))
    assert [cell.strip() for cell in line.split("|")[-4:-1]] == ["–", "–", "0/0"]


def test_infinite_lam_is_sgd(tmp_path):
    data = untuned.task("digits-tail", tmp_path, [3])
    jobs = [(0.01, s, 3) for s in (SGD, Setting(lam=0.5))]
    trained, _ = untuned.train(data, "from step 0", 1, jobs, [3], steps=20)

    x, y = (part[0] for part in data.train)
    params = untuned.initial_params(x.shape[-1], 10, 3)
    optimizer = optax.sgd(0.01, 0.9)
    state = optimizer.init(params)

    @jax.jit
    def step(params, state, x, y):
        mean = lambda params: jnp.mean(untuned.cross_entropy(params, x, y))
        updates, state = optimizer.update(jax.grad(mean)(params), state)
        return optax.apply_updates(params, updates), state

    for batch in untuned.batches(len(x), 40, 3):
        params, state = step(params, state, x[batch], y[batch])
    sgd, attended = (jax.tree.map(lambda leaf, i=i: leaf[i], trained) for i in (0, 1))
    chex.assert_trees_all_close(sgd, params, rtol=1e-4, atol=1e-6)
    apart = jax.tree.map(lambda a, b: float(abs(a - b).max()), attended, params)
    assert min(jax.tree.leaves(apart)) > 1e-4


@pytest.mark.parametrize("a", [0.1, 10.0])
def test_scent_is_the_published_normaliser(a):
    numbers = untuned.Hyperparams(0.0, 1.5, 1.0, a, 1e9, 0)
    init, weigh = untuned._attention(numbers, "scent-fixed", 1)
    state, rng, s = init(), np.random.default_rng(0), None
    weigh = jax.jit(weigh)
    for _ in range(20):
        losses = rng.exponential(2.0, 32)
        z = np.exp(losses / 1.5)
        s = z.mean() if s is None else s * (1 + a * z.mean()) / (1 + a * s)
        p, state = weigh(jnp.asarray(losses, jnp.float32), state)
        np.testing.assert_allclose(p, z / s, rtol=2e-5)


def test_every_form_of_weights_keeps_the_types_of_its_state():
    numbers = untuned.Hyperparams(0.1, 1.5, 0.4, 0.1, 2.0, 0)
    forms = {untuned._kind(setting) for setting in untuned_report.SETTINGS}
    assert len(forms) == 6
    for form in forms:
        init, weigh = untuned._attention(numbers, form, 1)
        p, state = jax.eval_shape(weigh, jnp.ones(9), init())
        assert p.shape == (9,)
        chex.assert_trees_all_equal_shapes_and_dtypes(state, init())


def test_the_records_are_resumed(tmp_path, capsys):
    out = tmp_path / "untuned.jsonl"
    more = lambda settings: untuned.run(
        out, tmp_path, ["digits-noise"], [0], settings, steps=20
    )
    both = [SGD, Setting(lam=0.5)]  # of one kind, and so of one program
    more([SGD])
    before = out.read_text(encoding="utf-8")
    more(both)
    lines = out.read_text(encoding="utf-8")
    assert lines.startswith(before)
    runs = {tuple(r[k] for k in untuned_report.RUNS) for r in run_log.events(out)[0]}
    assert len(runs) == len(lines.splitlines()) == 2 * 2 * len(RATES)
    capsys.readouterr()
    more(both)
    assert out.read_text(encoding="utf-8") == lines
    assert capsys.readouterr().out == ""


def test_data_that_are_named_twice_are_trained_once(tmp_path, monkeypatch):
    trained = []
    monkeypatch.setattr(untuned, "run", lambda *given: trained.extend(given[2]))
    monkeypatch.setattr(untuned_report, "page", lambda _: "")
    out, twice = tmp_path / "untuned.jsonl", 2 * ("digits-noise",)
    assert untuned.main(commands.Untuned(out=out, data=twice)) == 0
    assert trained == ["digits-noise"]


@pytest.mark.parametrize("command", ["untuned", "after-first-stage"])
@pytest.mark.parametrize("name", ["records.md", "RECORDS.MD"])
def test_records_are_not_overwritten_by_their_page(command, name, tmp_path, shell):
    said = "out must be a file of JSON lines, such as runs/a.jsonl"
    shell.refused(2, said, command, "--out", tmp_path / name)


def test_only_the_seeds_that_a_data_set_lacks_are_trained(tmp_path, monkeypatch):
    records, measured = run_log.events(DOCS / "after_first_stage.jsonl")[0], []

    def measure(name, _, seeds, steps):
        measured.append((name, [*seeds]))
        return [r for r in records if r["data"] == name and r["seed"] in seeds]

    out = tmp_path / "study.jsonl"
    monkeypatch.setattr(after_first_stage, "measure", measure)
    for seeds in (2, 3):
        after_first_stage.main(commands.AfterFirstStage(out=out, seeds=seeds))
    names = after_first_stage.names()
    assert measured == [(n, seeds) for seeds in ([0, 1], [2]) for n in names]
    assert f"{len(names)} data sets, 3 seeds," in out.with_suffix(".md").read_text()
    (*fewer, _), _ = run_log.events(out)
    assert "data sets, 2 to 3 seeds," in after_first_stage.page(fewer)


@pytest.mark.parametrize(
    ("study", "config"),
    [
        (untuned, commands.Untuned),
        (after_first_stage, commands.AfterFirstStage),
        (equal_grids, commands.EqualGrids),
        (figures, commands.Figures),
    ],
)
def test_another_process_does_not_append_the_same_records(
    study, config, tmp_path, monkeypatch
):
    out = tmp_path / "study.jsonl"
    monkeypatch.setattr(run_log, "events", lambda *_: pytest.fail("It went on."))
    paths = {"records": out, "out": tmp_path} if study is figures else {"out": out}
    with run_dir.lock(tmp_path, out.name), pytest.raises(run_dir.Locked):
        study.main(config(**paths))


@pytest.mark.parametrize(
    ("words", "field"),
    [
        (("untuned", "--data", "digits-tail", "--out"), "protocol"),
        (("after-first-stage", "--out"), "wrong"),
        (("equal-grids", "--data", "digits-tail-groups", "--out"), "method"),
        (("figures", "--records"), "figure"),
        (("reproduce", "--list", "--records"), "setting"),
        (("results", "--records"), "setting"),
    ],
)
def test_other_json_lines_are_refused_with_their_line(
    words, field, tmp_path, monkeypatch, shell
):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "records"
    folder.mkdir()
    path = folder / "reproduce.jsonl"
    path.write_text('torn\n{"data": "a", "seed": 0}\n')
    given = folder if words[0] == "results" else path
    said = f"{path}, line 2, is no record of this command: it has no '{field}'."
    shell.refused(2, said, *words, given)


@pytest.mark.parametrize(
    ("study", "config", "records"),
    [
        (untuned, commands.Untuned, DOCS / "untuned.jsonl"),
        (after_first_stage, commands.AfterFirstStage, DOCS / "after_first_stage.jsonl"),
        (figures, commands.Figures, DOCS.parent / "results" / "figures.jsonl"),
    ],
)
def test_a_torn_line_does_not_end_a_study(
    study, config, records, tmp_path, monkeypatch, capsys
):
    out, drawn = tmp_path / "study.jsonl", []
    out.write_bytes(records.read_bytes() + b'{"data": "to')
    monkeypatch.setattr(untuned, "task", lambda *_: None)  # all is trained already
    monkeypatch.setattr(untuned, "run", lambda *_: None)
    monkeypatch.setattr(figures.toy, "figure", lambda *_: None)
    monkeypatch.setattr(figures.report, "draw", lambda found, _: [drawn.append(found)])
    paths = {"records": out, "out": tmp_path} if study is figures else {"out": out}
    assert study.main(config(**paths)) == 0
    if study is figures:
        assert drawn == [run_log.events(records)[0]]
    else:
        page = records.with_suffix(".md").read_bytes()
        assert out.with_suffix(".md").read_bytes() == page


def test_the_training_part_alone_is_thinned_and_relabelled(tmp_path):
    clean, noisy, tailed = (
        after_first_stage.task(f"digits {changes}", tmp_path, [0])
        for changes in ("1 0", "1 0.2", "20 0")
    )
    wrong = np.mean(noisy.train[1] != clean.train[1])
    np.testing.assert_allclose(wrong, 0.2, atol=0.01)
    counts = np.bincount(tailed.train[1][0])
    np.testing.assert_allclose(counts[0] / counts[-1], 20.0, rtol=0.2)
    for other in (noisy, tailed):
        for part, (_, labels) in clean.held_out.items():
            np.testing.assert_array_equal(other.held_out[part][1], labels)


def test_records_have_the_share_that_the_network_gets_wrong(tmp_path):
    (line,) = after_first_stage.measure("digits 1 0.4", tmp_path, [0], steps=10)
    assert 0.4 < line["wrong"] <= 1.0  # ten steps learn no wrong label by heart
    gains = [value for key, value in line.items() if key.startswith("λ")]
    assert len(gains) == len(after_first_stage.LAMS) * len(after_first_stage.RATES)
    data = after_first_stage.task("digits 1 0.4", tmp_path, [0])
    # As many jobs, in another order, so that the program is the same.
    lams = (5.0, *after_first_stage.LAMS[:-1])
    settings = [Setting(lam=lam, gamma=0.5) for lam in lams]
    jobs = [(0.05, setting, 0) for setting in (*settings, SGD)]
    _, found = untuned.train(data, "second stage", 1, jobs, [0], 10)
    attended, *_, sgd = (found["val"] + found["test"]) / 2
    assert line["λ 5, 0.05"] == round(float(attended - sgd), 5)


def test_every_data_set_of_the_first_stage_is_recorded():
    records = run_log.events(DOCS / "after_first_stage.jsonl")[0]
    assert {line["data"] for line in records} == set(after_first_stage.names())
