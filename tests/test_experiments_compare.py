"""Methods on equal terms: what is trained, what is chosen, and what the table says."""

import dataclasses
import json
import math
import pathlib
import shutil

import numpy as np
import pytest

import absgd_jax
from experiments import cli as command_line
from experiments import commands, configs, presets
from experiments.report import formatting
from experiments.results import aggregate
from experiments.studies import compare, grid, method_grid
from experiments.studies.method_grid import RATE, MethodGrid
from tests.outcomes import cells, scored
from tests.trees import write_csv

LONG_TAIL = presets.get("digits_long_tail").run
NOISE = presets.get("digits_label_noise").run
SHORT = ("--epochs", "2", "--seeds", "2", "--model.widths", "4", "4", "--rates", "1")


def _compare(out, *arguments):
    given = ["compare", "digits_long_tail", "--out", str(out), *SHORT, *arguments]
    return command_line.main(given)


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """Of both stages, with and without training of their own."""
    out = tmp_path_factory.mktemp("compare")
    assert _compare(out, "--methods", "absgd,crt,ncm") == 0
    return out


def _setting(plain, out=None, seeds=1, reused=()):
    return compare._Setting(
        plain, out, commands.Compare(plain, seeds=seeds), dict(reused)
    )


def _results(out):
    return json.loads((out / "results.json").read_text())["methods"]


def test_every_preset_has_methods_with_grids_of_equal_size():
    for preset in presets.every():
        plain = method_grid.plain(preset.run)
        for method in method_grid.every(preset.run).values():
            where = (preset.name, method.name)
            assert len(method.grid) == method_grid.GRID, where
            runs = method.runs(plain)
            if method.classifier is None:
                assert len({*runs}) == method_grid.GRID, where
            for run in runs:
                assert run.epochs <= plain.epochs, where
                assert run.data.source == plain.data.source, where
                assert run.model.name == plain.model.name, where


@pytest.mark.parametrize("rates", [(1.0,), (1.0, 0.5, 2.0)])
def test_every_method_is_tried_at_as_many_settings(rates):
    plain = method_grid.plain(LONG_TAIL)
    for method in method_grid.every(LONG_TAIL).values():
        found = method_grid.at_rates(method, plain, rates)
        assert len({value for value, _ in found.grid}) == 3 * len(rates)
        tried = {run.optimizer.learning_rate for run in found.runs(plain)}
        own = method.runs(plain)[0].optimizer.learning_rate
        if method.hyperparameter == "η":
            assert len(tried) == 3 * len(rates)
            assert (min(tried), max(tried)) == pytest.approx(
                (own * min(rates) / 2, own * max(rates) * 2), 1e-2
            )
        else:
            assert sorted(tried) == pytest.approx([own * r for r in sorted(rates)])
        assert found.runs(plain)[0].optimizer.learning_rate == pytest.approx(own)


def test_the_rate_that_is_given_is_tried_to_its_last_digit():
    run = configs.replace(LONG_TAIL, {RATE: 0.12345})
    for method in method_grid.choose(run, "sgd,absgd,absgd_auto,joint"):
        found = method_grid.at_rates(method, run, (1.0, 0.5, 2.0)).runs(run)
        rates = [one.optimizer.learning_rate for one in found]
        assert rates[0] == 0.12345
        assert all(rate == float(f"{rate:.3g}") for rate in {*rates} - {0.12345})


def test_classifiers_choose_among_first_stages(tmp_path):
    plain = method_grid.plain(LONG_TAIL)
    (ncm,) = (
        method_grid.at_rates(method, plain, (1.0, 0.5))
        for method in method_grid.choose(LONG_TAIL, "ncm")
        if method.name == "ncm"
    )
    assert [value for value, _ in ncm.grid][:2] == ["centred", "centred, η = 0.05"]
    setting = _setting(plain, tmp_path)
    trials = compare._trials(setting, [ncm])
    assert all(trial.run.method.name == "sgd" for trial in trials)
    rates = [trial.run.optimizer.learning_rate for trial in trials]
    assert rates == pytest.approx([0.1, 0.05])


def test_the_plain_run_has_nothing_of_a_method():
    weighted = configs.replace(
        presets.get("cifar10_lt100_cb_ldam").run, {"data.sampling": "effective"}
    )
    plain = method_grid.plain(weighted)
    assert plain.loss == configs.Loss()
    assert (plain.method.name, plain.model.head) == ("sgd", "linear")
    assert plain.data.sampling == "shuffled"
    assert plain.data.validation_per_class == 100
    assert method_grid.plain(LONG_TAIL).data.validation_per_class == 20


def test_weights_attend_to_the_tail_and_distrust_noise():
    for run, sign in ((LONG_TAIL, 1), (NOISE, -1)):
        methods, plain = method_grid.every(run), method_grid.plain(run)
        for name in ("absgd", "eg", "term", "recover", "absgd_cb"):
            for one in methods[name].runs(plain):
                assert np.sign(one.method.lam) == sign
                assert one.method.start_at == run.method.start_at
        for one in methods["absgd_auto"].runs(plain):
            assert one.method.lam == sign * math.inf
            assert one.method.rho == absgd_jax.kl_radius().rho
            assert one.method.start_at == 0.0
        assert ({"absgd_auto_late", "absgd_auto_half"} <= {*methods}) == (sign < 0)
        for one in methods["eg_examples"].runs(plain):
            step_size = one.method.step_size  # w falls where the loss is large
            assert np.sign(step_size) == -sign


@pytest.mark.parametrize(
    ("sign", "of_radius", "of_class_weights", "start_at"),
    [(1, 0.0, 0.0, 0.8), (-1, 0.0, 0.0, 0.2), (-1, 0.1, 0.0, 0.2), (1, 0.0, 0.5, 0.5)],
)
def test_other_weights_begin_later_than_a_radius(
    sign, of_radius, of_class_weights, start_at
):
    """As of your own data; λ has the sign of the preset's."""
    radius = dataclasses.replace(
        presets.get("own_images").run.method, lam=sign * math.inf, start_at=of_radius
    )
    later = {"method": radius, "loss.class_weights_from": of_class_weights}
    own = configs.replace(LONG_TAIL, later)
    methods, plain = method_grid.every(own), method_grid.plain(own)
    for name in ("absgd", "absgd_cb_base", "absgd_focal", "abadam"):
        for one in methods[name].runs(plain):
            assert np.sign(one.method.lam) == sign
            assert one.method.gamma == configs.Method().gamma
            assert one.method.start_at == start_at
    for name in ("drw_ce", "ldam_drw", "drw_focal", "absgd_cb"):
        for one in methods[name].runs(plain):
            assert one.loss.class_weights_from == start_at
    for name in ("cb_ce", "logit_adjusted"):
        assert methods[name].runs(plain)[0].loss.class_weights_from == 0.0
    (automatic, *_) = methods["absgd_auto"].runs(plain)
    assert (automatic.method.start_at, automatic.method.gamma) == (of_radius, 0.1)


def test_the_automatic_lambda_is_that_of_a_run_that_has_one():
    """As `train` on your own data has it; by default it is the library's."""
    text = presets.get("own_text").run
    asked = {"lam": -math.inf, "rho": 0.1, "start_at": 0.5}
    own = configs.replace(text, {f"method.{k}": v for k, v in asked.items()})
    methods, plain = method_grid.every(own), method_grid.plain(own)
    (automatic, *_) = methods["absgd_auto"].runs(plain)
    assert automatic.method == dataclasses.replace(own.method, name="absgd")
    for name, start_at in (("absgd_auto_late", 0.1), ("absgd_auto_half", 0.5)):
        (late, *_) = methods[name].runs(plain)
        at_first = dataclasses.replace(automatic.method, start_at=0.2)
        assert dataclasses.replace(late.method, start_at=0.2) == at_first
        assert late.method.start_at == start_at
    (by_adam,) = method_grid.choose(own, "absgd_auto+adam")[1:]
    assert by_adam.runs(plain)[0].method == own.method
    (default, *_) = method_grid.every(NOISE)["absgd_auto"].runs(plain)
    assert default.method == dataclasses.replace(configs.AUTOMATIC, lam=-math.inf)


def test_methods_are_set_as_their_papers_have_them():
    methods, plain = method_grid.every(LONG_TAIL), method_grid.plain(LONG_TAIL)
    of = lambda name: methods[name].runs(plain)[0]
    rate = plain.optimizer.learning_rate / (1.0 - plain.optimizer.momentum)
    for name, gamma in (("term", 1.0), ("term_stochastic", 0.2), ("recover", 0.5)):
        run = of(name)
        assert (run.method.gamma, run.optimizer.momentum) == (gamma, 0.0)
        assert run.optimizer.learning_rate == pytest.approx(rate)
    samplers = {"group_dro": "balanced", "joint": "class_aware"}
    samplers |= {"resampling": "effective", "crt": "class_aware", "sgd": "shuffled"}
    for name, sampling in samplers.items():
        assert of(name).data.sampling == sampling
    for name in ("cb_ce", "drw_ce", "ldam_drw"):  # PyTorch's weighted mean
        assert of(name).loss.class_weights_norm == "weights"
    for name in ("cb_focal", "drw_focal"):
        assert of(name).loss.class_weights_norm == "examples"
    assert (of("crt").trainable, of("crt").new_head) == ("head", True)
    assert (of("lws").trainable, of("lws").new_head) == ("scale", False)
    assert (of("sce").loss.alpha, of("sce").loss.beta) == (0.1, 1.0)
    assert of("tce").loss.prune_from == LONG_TAIL.method.start_at > 0.0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--seed", "7"], "seed is of a single training, got 7"),
        (
            ["--method.max-weight", "2"],
            "--method.max-weight would change nothing: `compare` gives",
        ),
        (["--loss.name", "focal"], "--loss.name would change nothing"),
        (["--data.sampling=balanced"], "--data.sampling would change nothing: `train`"),
        (["--data.meta_per_class", "4"], "--data.meta-per-class would change nothing"),
        (["--eval-every", "2", "--model.head=cosine"], "--eval-every, --model.head wo"),
        (["--tensorboard"], "--tensorboard would change nothing: `train`"),
        (["--rates", "1", "0.5", "1"], "rates must differ, got (1.0, 0.5, 1.0)"),
    ],
)
def test_what_a_comparison_does_not_read_is_refused(words, said, tmp_path, shell):
    given = ["compare", "digits_long_tail", "--methods", "absgd", "--out", tmp_path]
    shell.refused(2, said, *given, *words)


def test_methods_that_begin_after_the_last_epoch_are_refused(tmp_path, shell):
    rows = [["a", "y"], *([n, n % 2] for n in range(40))]
    path = write_csv(tmp_path / "data.csv", rows)
    words = ["compare", "own_table", "--data.path", path, "--epochs", "2"]
    said = "In 2 epochs drw_ce, cvar would be plain training"
    methods = ("--methods", "absgd_auto,drw_ce,cvar,focal", "--out", tmp_path / "out")
    shell.refused(2, said, *words, *methods)
    assert not (tmp_path / "out").exists()


def test_data_of_every_method_are_checked_before_the_first_is_trained(tmp_path, shell):
    rows = [["a", "y"], *([n, "u" if n < 40 else "v"] for n in range(44))]
    path = write_csv(tmp_path / "small.csv", rows)
    words = ["compare", "own_table", "--data.path", path, "--methods", "sgd,mw_net"]
    shell.refused(2, "too few", *words, "--out", tmp_path / "out", "--seeds", "1")
    assert not (tmp_path / "out" / "runs").exists()


@pytest.mark.parametrize(
    ("row", "name"),
    [
        ("", "absgd"),
        ("_focal", "absgd_focal"),
        ("_cb_ce", "absgd_cb"),
        ("_cb_focal", "absgd_cb_focal"),
    ],
)
def test_compared_rows_of_absgd_are_those_of_the_presets(row, name):
    for data in ("cifar10_lt100", "cifar100_st10", "imdb", "covid_lt100"):
        preset = presets.get(data + row).run
        base = presets.get(data).run
        for run in method_grid.every(base)[name].runs(method_grid.plain(base)):
            of_row = dataclasses.replace(preset.method, lam=run.method.lam)
            assert (run.loss, run.method) == (preset.loss, of_row)


def test_normalised_logits_are_an_ending_of_any_method():
    sgd, found = method_grid.choose(LONG_TAIL, "absgd+norm")
    assert sgd.name == "sgd"
    run = found.runs(method_grid.plain(LONG_TAIL))[0]
    assert (run.loss.logit_norm, run.method.name) == (1.0, "absgd")


def test_adam_is_an_ending_of_what_has_only_a_loss_or_attention():
    by_sgd, by_adam = (
        method_grid.choose(LONG_TAIL, names)[1:]
        for names in (
            "joint,ldam_drw,absgd_cb",
            "joint+adam,ldam_drw+adam,absgd_cb+adam",
        )
    )
    plain = method_grid.plain(LONG_TAIL)
    for sgd, adam in zip(by_sgd, by_adam, strict=True):
        assert adam.name == f"{sgd.name}{method_grid.ADAM}"
        for own, run in zip(sgd.runs(plain), adam.runs(plain), strict=True):
            assert run.method.name == own.method.name.replace("sgd", "adam")
            alike = {"method.name": own.method.name, RATE: own.optimizer.learning_rate}
            assert configs.replace(run, alike) == own
    rates = [run.optimizer.learning_rate for run in by_adam[0].runs(plain)]
    assert rates == [1e-3, 5e-4, 2e-3]
    for name in ("group_dro", "crt", "tau"):
        with pytest.raises(configs.BadConfiguration, match=f"one stage, got '{name}'"):
            method_grid.choose(LONG_TAIL, f"{name}+adam")


def _compared(name, *values):
    """A method with outcomes of the values 0, 1, ...; see `scored`."""
    outcomes = {str(value): scored(*each) for value, each in enumerate(values)}
    grid = tuple((value, {}) for value in outcomes)
    return compare.Compared(MethodGrid(name, name, {}, "k", grid), outcomes)


def _summary(accuracy):
    few = 0.3 if accuracy > 0.6 else None  # known of one seed of two
    other = {"many": accuracy / 2, "medium": accuracy / 2, "few": few}
    return dict.fromkeys(compare.MEASURES, accuracy) | other


def test_what_diverged_is_not_chosen_and_is_shown():
    sgd = _compared("sgd", ([0.5, 0.5], map(_summary, [0.5, 0.7])))
    once = _compared(
        "once", ([0.9], [_summary(0.9)], [1]), ([0.1, 0.1], map(_summary, [0.6, 0.9]))
    )
    always = _compared("always", ([], [], [0, 1]))
    assert grid.choose(once.outcomes) == "1"
    assert grid.choose(always.outcomes) is None
    setting = _setting(LONG_TAIL, seeds=2)
    results = compare._results("digits_long_tail", setting, [sgd, once, always])
    text = compare.table(results, {"once": {"time": 1.5}})
    assert "time" not in compare.table(results, {}).splitlines()[0]
    head, _, of_sgd, of_once, of_always = map(cells, text.splitlines()[:5])
    shown = dict(zip(head, of_once, strict=True))
    assert shown["chosen"] == "k = 1"
    assert shown["accuracy"] == "75.0 ± 21.2"  # of 60 and 90
    assert shown["against SGD"] == "+15.0 ± 5.0"  # of 10 and 20
    assert (shown["many"], shown["time"], shown["memory"]) == (
        "37.5 ± 10.6",
        "1.50×",
        "–",
    )
    # Not known of all seeds; what the accuracy and the frequent classes say already.
    assert not {"few", "balanced", "medium"} & {*head}
    assert dict(zip(head, of_sgd, strict=True))["against SGD"] == "–"
    assert of_always[1] == "diverged"


def test_a_metric_that_is_not_known_is_no_divergence():
    sgd = _compared("sgd", ([math.nan, 0.5], map(_summary, [0.5, 0.7])))
    setting = _setting(LONG_TAIL, seeds=2)
    results = compare._results("digits_long_tail", setting, [sgd])
    assert "diverged" not in compare.table(results, {})


def test_what_a_reused_training_lacks_is_left_out():
    two_classes = method_grid.plain(presets.get("imdb").run)
    setting = _setting(two_classes)
    sgd = _compared("sgd", ([0.5], [_summary(0.5)]))
    results = compare._results("imdb", setting, [sgd])
    assert results["methods"]["sgd"]["grid"][0]["auroc"] == {0: None}
    assert "AUROC" not in compare.table(results, {})


def test_a_comparison_says_all_of_it(compared, capsys):
    results = _results(compared)
    assert json.loads((compared / "results.json").read_text())["rates"] == [1.0]
    assert set(results) == {"sgd", "absgd", "crt", "ncm"}
    for found in results.values():
        assert len(found["grid"]) == method_grid.GRID
        for trial in found["grid"]:
            assert len(trial["validation"]) == len(trial["accuracy"]) == 2
        means = [np.mean([*trial["validation"].values()]) for trial in found["grid"]]
        best = found["grid"][int(np.argmax(means))]["value"]
        assert found["chosen"] == best
    table = (compared / "table.md").read_text()
    for found in results.values():
        assert f"| {found['title']} " in table
    costs = json.loads((compared / "costs.json").read_text())
    assert set(costs) == {"sgd", "absgd", "crt"}
    assert costs["sgd"]["flops"] == costs["sgd"]["memory"] == 1.0
    assert costs["absgd"]["flops"] < 1.01
    assert costs["crt"]["flops"] < 0.9  # no gradient of the body


def test_a_second_run_trains_nothing_and_more_can_be_added(compared, monkeypatch):
    written = lambda: {
        path: path.stat().st_mtime_ns for path in compared.glob("runs/*/records.jsonl")
    }
    # Three plain ones, three with attention, three second stages; two seeds.
    records, before = written(), _results(compared)
    assert len(records) == 2 * 9
    # The same directory by another name: second stages hold the path of their first.
    monkeypatch.chdir(compared.parent)
    relative = pathlib.Path(compared.name)
    assert _compare(relative, "--methods", "absgd,crt,ncm,tau", "--no-measure") == 0
    after = _results(compared)
    assert written() == records
    assert {name: after[name] for name in before} == before
    assert set(after) - set(before) == {"tau"}


def test_early_stopping_measures_the_epoch_that_validation_chooses(tmp_path, shell):
    arguments = ("--methods", "absgd", "--early-stopping", "--no-measure")
    assert _compare(tmp_path, *arguments, "--epochs", "4") == 0
    for name, method in _results(tmp_path).items():
        for setting in method["grid"]:
            value = setting["value"]
            for seed in range(2):
                out = tmp_path / "runs" / f"{name}-{value}-seed{seed}"
                epochs = aggregate.read(out).epochs
                accuracies = [epoch["validation"]["accuracy"] for epoch in epochs]
                assert len(accuracies) == 4
                test = epochs[int(np.argmax(accuracies))]["test"]
                assert setting["validation"][str(seed)] == max(accuracies)
                assert setting["accuracy"][str(seed)] == test["accuracy"]
    assert "at the epoch of each training" in (tmp_path / "table.md").read_text()
    command = ("compare", "digits_long_tail", "--out", tmp_path / "two", *SHORT)
    said = "first: leave out crt, ncm."
    shell.refused(2, said, *command, "--methods", "crt,ncm", "--early-stopping")


@pytest.mark.parametrize(
    ("by", "early"), [("average_precision", False), ("balanced", True)]
)
def test_another_metric_chooses_settings_and_epochs_and_orders_the_table(
    by, early, tmp_path
):
    """On a validation set of which most examples are of one class."""
    rng = np.random.default_rng(0)
    labels = rng.random(400) < 0.15
    inputs = rng.normal(size=(400, 3)) + labels[:, None]
    rows = [
        ["a", "b", "c", "y"],
        *([*x, int(y)] for x, y in zip(inputs, labels, strict=True)),
    ]
    path = write_csv(tmp_path / "rare.csv", rows)
    command = ["compare", "own_table", "--data.path", path, "--no-measure", "--epochs"]
    command += ["4", "--seeds", "2", "--rates", "1", "--methods", "cb_ce"]
    out = tmp_path / "out"
    given = [*command, "--out", out, "--choose-by", by]
    given += ["--early-stopping"] if early else []
    assert command_line.main([*map(str, given)]) == 0
    results = json.loads((out / "results.json").read_text())
    assert results["choose_by"] == by
    for name, method in results["methods"].items():
        scores = {}
        for setting in method["grid"]:
            runs = [
                aggregate.read(out / "runs" / f"{name}-{setting['value']}-seed{n}")
                for n in range(2)
            ]
            kept = [
                max(run.epochs, key=lambda event: event["validation"][by])
                if early else run.epochs[-1]
                for run in runs
            ]  # fmt: skip
            expected = [event["validation"][by] for event in kept]
            assert [*setting["validation"].values()] == expected
            tests = [event["test"][by] for event in kept]
            assert [*setting[by].values()] == tests
            scores[setting["value"]] = np.mean(expected).round(9)
        assert method["chosen"] == max(scores, key=scores.get)
    chosen = compare.chosen(results)
    gain = formatting.paired(chosen["cb_ce"][by], chosen["sgd"][by])
    assert f"| {gain} " in (out / "table.md").read_text()


def test_a_metric_of_two_classes_is_refused_for_more(tmp_path, shell):
    command = ("compare", "digits_long_tail", "--out", tmp_path / "out", *SHORT)
    said = "--choose-by auroc is of two classes, and digits has 10."
    shell.refused(2, said, *command, "--choose-by", "auroc")
    assert not (tmp_path / "out").exists()


def test_a_metric_of_two_classes_needs_validation_examples_of_both(tmp_path, shell):
    rows = [[i, "uv"[i % 2]] for i in range(40)]
    for name, part in {"train": rows, "test": rows, "val": rows[::2]}.items():
        write_csv(tmp_path / "data" / f"{name}.csv", [["a", "y"], *part])
    command = ("compare", "own_table", "--data.path", tmp_path / "data")
    out = tmp_path / "out"
    for metric in ("auroc", "average_precision"):
        said = f"--choose-by {metric} needs validation examples of both classes, got"
        shell.refused(2, said, *command, "--choose-by", metric, "--out", out)
    assert not out.exists()


def test_an_interrupt_reports_the_methods_that_are_whole(
    compared, tmp_path, monkeypatch, capsys
):
    out = shutil.copytree(compared, tmp_path / "compare")
    monkeypatch.setattr(grid.runs, "main", lambda *_, **__: 130)
    before = (out / "results.json").read_text()
    assert _compare(out, "--methods", "absgd,joint", "--no-measure") == 130
    assert "Interrupted; the same command goes on" in capsys.readouterr().err
    assert (out / "results.json").read_text() == before

    # Nothing is lost of what is not comparable with what is not whole either.
    table = (out / "table.md").read_text()
    three = ("--seeds", "3", "--no-measure")
    assert _compare(out, "--methods", "absgd", *three) == 130
    assert "not all is trained with other seeds" in capsys.readouterr().err
    assert (out / "results.json").read_text() == before
    assert (out / "table.md").read_text() == table
    assert _compare(out, "--methods", "sgd", "--seeds", "1", "--no-measure") == 0
    said = "is of other seeds than before, without absgd"
    assert said in capsys.readouterr().err
    assert set(_results(out)) == {"sgd"}


def test_what_an_earlier_comparison_trained_is_not_trained_again(compared, tmp_path):
    arguments = ("--methods", "absgd,crt", "--seeds", "3", "--no-measure")
    # Of a build that did not have one field yet.
    recorded = json.loads((compared / "results.json").read_text())
    assert recorded["run"]["data"].pop("positive", "") is None
    older = tmp_path / "older.json"
    older.write_text(json.dumps(recorded))
    assert _compare(tmp_path / "out", *arguments, "--reuse", str(older)) == 0
    tmp_path /= "out"
    whole = _results(compared)
    for name, found in _results(tmp_path).items():
        for own, there in zip(found["grid"], whole[name]["grid"], strict=True):
            for measure in ("validation", *compare.MEASURES):
                seeds = own[measure]
                assert {s: v for s, v in seeds.items() if s != "2"} == there[measure]
                assert len(seeds) == 3
    # Of those seeds only second stages, and the one training that they start from.
    trained = {path.name for path in tmp_path.glob("runs/*-seed[01]")}
    assert {name.partition("-")[0] for name in trained} == {"sgd", "crt"}
    assert {name for name in trained if "sgd" in name} == {
        "sgd-0.1-seed0",
        "sgd-0.1-seed1",
    }
    assert len([*tmp_path.glob("runs/*-seed2")]) == 9


def test_first_stages_are_trained_whatever_is_known_of_them(tmp_path):
    methods = method_grid.choose(LONG_TAIL, "crt+norm,sgd+norm")
    plain = method_grid.plain(LONG_TAIL)
    recorded = {"validation": {"0": 0.5}}
    result = compare._result(plain, recorded, seed=0, choose_by="accuracy")
    reused = {
        compare._key(method.name, method.changes, changes): [result]
        for method in methods
        for _, changes in method.grid
    }
    setting = _setting(plain, tmp_path, reused=reused)
    trials = compare._trials(setting, methods)
    needed = {trial.run.start_from for trial in trials} - {None}
    assert needed
    assert needed <= {trial.out for trial in trials if trial.known is None}
    assert len([trial for trial in trials if trial.known is not None]) == 5


def test_another_comparison_is_not_reused(compared, tmp_path, shell):
    results = compared / "results.json"
    command = ("compare", "digits_long_tail", "--out", tmp_path / "out", *SHORT)
    reuse = ("--methods", "absgd", "--reuse", results)
    shell.refused(2, f"{results} holds a comparison", *command, *reuse, "--epochs", "3")
    other = json.loads(results.read_text())
    other["versions"]["jax"] = "0.1.0"
    older = tmp_path / "older.json"
    older.write_text(json.dumps(other))
    shell.refused(2, "versions.jax", *command, "--reuse", older)
    by = ("--choose-by", "balanced")
    shell.refused(2, "choose_by", *command, *reuse, *by)
    shell.refused(2, "--reuse needs files results.json", *command, "--reuse", tmp_path)
    del other["methods"]["absgd"]["grid"][0]["changes"]
    older.write_text(json.dumps(other))
    shell.refused(2, "KeyError('changes')", *command, "--reuse", older)
    table = compared / "table.md"
    shell.refused(2, f"got {table}", *command, "--reuse", table)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["grid.json", "results.json", "costs.json"])
@pytest.mark.parametrize("damaged", ["", '{"run": ', "[1]"])
def test_a_damaged_file_of_a_comparison_is_named(name, damaged, tmp_path, shell):
    (tmp_path / name).write_text(damaged)
    command = ("compare", "digits_long_tail", *SHORT, "--methods", "absgd")
    said = f"{tmp_path / name} is damaged ("
    shell.refused(2, said, *command, "--out", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("command", [("compare", "--methods", "sgd"), ("sweep",)])
def test_a_directory_is_of_one_run_or_of_many(command, tmp_path, shell):
    name, *more = command
    (tmp_path / "config.json").write_text("{}")
    grid = (name, "digits_long_tail", *more, "--out", tmp_path)
    shell.refused(2, f"{tmp_path} is the directory of a run", *grid)
    (tmp_path / "config.json").rename(tmp_path / "grid.json")
    train = ("train", "digits_long_tail", "--out", tmp_path)
    shell.refused(2, f"{tmp_path} is the directory of many runs", *train)
    assert [path.name for path in tmp_path.iterdir()] == ["grid.json"]


def test_second_stages_share_the_first(compared):
    seconds = map(aggregate.read, compared.glob("runs/crt-*-seed1"))
    (first,) = {result.run.start_from for result in seconds}
    assert first in compared.glob("runs/sgd-*-seed1")


def test_another_budget_is_another_comparison(compared, shell):
    command = ("compare", "digits_long_tail", "--out", compared, *SHORT)
    shell.refused(2, "batch_size", *command, "--methods", "absgd", "--batch-size", "16")


def test_a_training_that_diverges_does_not_stop_the_others(tmp_path):
    arguments = ("--methods", "absgd", "--seeds", "1", "--no-measure")
    for _ in range(2):
        assert _compare(tmp_path, *arguments, "--optimizer.learning-rate", "1e30") == 0
        assert _results(tmp_path)["absgd"]["chosen"] is None
    assert "diverged" in (tmp_path / "table.md").read_text()
    results = [aggregate.read(path) for path in tmp_path.glob("runs/*")]
    assert ["not finite at step" in r.diverged for r in results] == 6 * [True]
    # They were not tried again.
    assert not any(result.resumed for result in results)
    lines = [(r.directory / "records.jsonl").read_text().count("\n") for r in results]
    assert lines == 6 * [1]
    reuse = ("--reuse", str(tmp_path / "results.json"))
    rate = ("--optimizer.learning-rate", "1e30")
    assert _compare(tmp_path / "again", *arguments, *rate, *reuse) == 0
    assert _results(tmp_path / "again") == _results(tmp_path)
    assert not (tmp_path / "again" / "runs").exists()
