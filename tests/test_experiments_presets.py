"""Presets: every table and figure of the paper has one, and says what is true of it."""

import itertools
import json
import math
import re
import subprocess
import sys

import pytest
import tyro

from experiments import commands, configs, presets
from experiments.data import imbalance
from experiments.data.task import load_task
from experiments.results import paper, run_log

EVERY = presets.every()
FAMILIES = list(dict.fromkeys(preset.family for preset in EVERY))
RUNS = [*EVERY, *(presets.get(f"{preset.name}_smoke") for preset in EVERY)]

# Rows of methods that are others' and not run here. Their numbers are quoted by the
# paper, most of them from those others' own.
OTHERS = re.compile(r"META|Joint|NCM|cRT|tau-norm|LWS|OLTR|Range|^LDAM$|^CB-Focal$")


def test_presets_need_no_jax_nor_numpy_until_a_cost_is_asked_for():
    code = (
        "import sys; from experiments import presets; presets.get('imdb_smoke'); "
        "light = not {'jax', 'flax', 'numpy'} & set(sys.modules); "
        "presets.listing(); presets.get('imdb').doc; "
        "sys.exit(not light or 'jax' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# The paper's numbers.


def test_the_tables_are_whole():
    rows = paper.rows()
    assert len(rows) == 407
    numbers = [n for row in rows for n in (row.mean, row.std) if n is not None]
    assert len(numbers) == 496
    open_ones = [row for row in rows if row.mean is None]
    assert len(open_ones) == 32
    assert all(row.std is None and row.printed == "" for row in open_ones)
    assert all("not reported" in row.note for row in open_ones)
    assert {(row.version, row.table) for row in rows} == {
        *(("000", table) for table in range(1, 8)),
        *(("002", table) for table in (1, 2, 3, 4, 5, 6, 8, 9)),
    }


def printed(key, *methods):
    return [row for row in paper.lookup(key) if row.method in methods]


def test_a_row_is_typed_and_keeps_the_papers_digits():
    (row,) = printed(paper.Key("002", 1, "CIFAR10", "LT", "100"), "ABSGD (CE)")
    assert (row.mean, row.std, row.runs) == (73.10, 0.08, 3)
    assert row.printed == "73.10 ± 0.08"
    (noisy,) = printed(paper.Key("000", 6, "CIFAR10", "symmetric", "0.2"), "EG (SCE)")
    assert (noisy.runs, noisy.backbone) == (5, "SCE CNN")
    top1, top5 = printed(paper.Key("002", 3, "Places-LT"), "CE")
    assert (top1.metric, top5.metric) == ("top1", "top5")
    assert top1.std is top1.runs is None
    large = paper.Key("000", 5, "iNaturalist2018", backbone="ResNet152")
    assert [row.mean for row in printed(large, "CE", "ABSGD (CB-CE)")] == [69, 73.1]


# The presets against them.


def test_every_row_of_the_tables_has_a_preset_that_runs_it():
    run = {
        row
        for preset in EVERY
        for row in preset.results
        if row.method
        in {variant.method for variant in preset.variants if not variant.of}
    }
    left = [row for row in paper.rows() if row not in run]
    assert [row for row in left if not OTHERS.search(row.method)] == []
    assert not [
        row for row in run if OTHERS.search(row.method) and "LDAM" not in row[5]
    ]


def test_every_figure_has_at_least_two_presets():
    figures = (
        "later version, Fig. 3",
        "later version, Fig. 4 left",
        "later version, Fig. 4 right",
        "earlier version, Fig. 3",
        "earlier version, Fig. 4",
    )
    for figure in figures:
        drawn = [any(f.startswith(figure) for f in preset.figures) for preset in EVERY]
        assert sum(drawn) >= 2, figure


def test_every_variant_is_printed_and_every_key_is_used():
    for preset in EVERY:
        printed = {row.method for row in preset.results}
        assert {variant.method for variant in preset.variants} == printed
        for key in preset.paper:
            assert printed & {row.method for row in paper.lookup(key)}, preset.name
        for variant in preset.variants:
            if variant.of:
                there = presets.get(variant.of).variants
                assert variant.method in [own.method for own in there if not own.of]
            else:
                run = configs.replace(preset.run, variant.changes)
                assert run.method.attends == (
                    variant.method.startswith(("ABSGD", "EG"))
                )


def test_flags_on_the_command_line_are_the_changes():
    by_flags = {
        variant.flags: (preset, variant)
        for preset in EVERY
        for variant in preset.variants
        if variant.flags
    }
    assert len(by_flags) >= 10
    for flags, (preset, variant) in by_flags.items():
        command = tyro.cli(
            commands.Train, default=commands.Train(preset.run), args=flags.split()
        )
        assert command.run == configs.replace(preset.run, variant.changes)


# Names and documentation.


def test_names_are_unique_and_plain():
    names = [preset.name for preset in EVERY]
    assert len(set(names)) == len(names)
    for name in names:
        assert re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", name)
        assert not name.endswith("_smoke")
    assert len({preset.title for preset in EVERY}) == len(names)
    # Two names for one training would be two rows of a report.
    assert len({preset.run for preset in EVERY}) == len(names)


def test_an_unknown_name_is_refused_with_a_suggestion():
    with pytest.raises(presets.UnknownPreset, match=r"'cifar10_lt_100'.*cifar10_lt100"):
        presets.get("cifar10_lt_100")
    with pytest.raises(presets.UnknownPreset, match=r"mnist.*experiments list"):
        presets.get("mnist_smoke")
    with pytest.raises(presets.UnknownPreset, match="'mnist' in its name"):
        presets.listing("mnist")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_preset_describes_itself_and_can_be_written_down(family):
    for preset in (preset for preset in RUNS if preset.family == family):
        doc = preset.doc
        assert preset.command in doc
        assert " ".join(preset.cost.split()) in " ".join(doc.split())
        for row in preset.results:
            assert (row.printed or "not reported") in doc
        assert ("--data-dir" in doc) == (preset.run.data.source != "digits")
        # `--help` joins a line that begins with a letter to the one before it.
        title, *lines = doc.splitlines()
        assert title == f"{preset.title}."
        for before, line in itertools.pairwise(lines):
            assert line == "" or line.startswith("  ") or before == ""
        assert presets.get(preset.name) == preset
        json.dumps(run_log.to_jsonable(preset.run), allow_nan=False)


def test_the_listing_has_all_of_them_and_fits_a_terminal():
    lines = presets.listing().splitlines()
    assert max(map(len, lines)) <= 110
    first_words = [line.split()[0] for line in lines if line]
    listed = [name for name in first_words if name in {p.name for p in EVERY}]
    begin = listed[: -len(EVERY)]
    assert listed[len(begin) :] == [preset.name for preset in EVERY]
    # Those that a newcomer wants, and what needs no download before the others.
    sources = [presets.get(name).run.data.source for name in begin]
    assert sources == ["digits", "digits", "cifar10", "cifar10"]
    cost = re.compile(r" in ~?[\d.]+ (s|min|h|days|years)$")
    assert sum(bool(cost.search(line)) for line in lines) == len(listed)
    assert "_smoke" in presets.listing("imdb")
    assert "places_lt" not in presets.listing("imdb")
    # Every family is in one piece.
    families = [family for family, _ in itertools.groupby(p.family for p in EVERY)]
    assert families == FAMILIES


# Steps and costs.

TOTALS = {  # from the papers, LDAM's code and the published lists
    "cifar10_lt100": 12_406,
    "cifar10_lt10": 20_431,
    "cifar10_st100": 25_250,
    "cifar10_st10": 27_500,
    "cifar100_lt100": 10_847,
    "cifar100_lt10": 19_573,
    "cifar100_st100": 25_250,
    "cifar100_st10": 27_500,
    "cifar100_asym40_tce": 50_000,
    "imagenet_lt": 115_846,
    "places_lt": 62_500,
    "inaturalist18": 437_513,
    "imdb": 13_750,
    "covid_lt100": 48_075,
    "covid_lt10": 6_726,
    "clothing1m": 1_000_000,
}


@pytest.mark.parametrize(("name", "total"), TOTALS.items())
def test_costs_are_those_of_the_published_counts(name, total):
    preset = presets.get(name)
    steps = math.ceil(total / preset.run.batch_size)
    assert presets.steps_per_epoch(preset.run) == steps
    assert preset.cost.startswith(
        f"{preset.run.epochs} epochs of {steps:,} steps: {total:,} examples in batches "
        f"of {preset.run.batch_size}."
    )


def test_time_is_given_where_a_step_was_measured_and_nowhere_else():
    # 200 epochs of 97 steps of 0.9 s are 4.85 hours.
    assert "0.9 s a step" in presets.get("cifar10_lt100").cost
    assert "4.8 h" in presets.get("cifar10_lt100").cost
    for preset in EVERY:
        measured = preset.run.model.name == "convnet" or (
            preset.run.model.name == "resnet32" and not preset.run.data.info.files
        )
        assert ("a step on two CPU cores" in preset.cost) == measured
        assert ("not measured" in preset.cost) == (not measured)


@pytest.mark.parametrize("name", ["digits_long_tail", "digits_label_noise"])
def test_steps_on_the_embedded_data_are_those_of_its_task(name):
    run = presets.get(name).run
    examples = load_task(run.data, 0).class_counts.sum()
    assert presets.steps_per_epoch(run) == math.ceil(examples / run.batch_size)


def test_holding_out_takes_examples_from_training():
    run = presets.get("cifar10_lt100").run
    held_out = configs.replace(run, {"data.validation_per_class": 100})
    left = sum(imbalance.long_tail_counts(4900, 10, 100))
    assert presets.steps_per_epoch(held_out) == math.ceil(left / 128)
    clothing = configs.replace(
        presets.get("clothing1m").run, {"data.validation_per_class": 100}
    )
    assert presets.steps_per_epoch(clothing) == math.ceil((1_000_000 - 1400) / 128)


# The protocol: points in time, two stages, classes and baselines.


@pytest.mark.parametrize(
    ("name", "switch", "drops"),
    [
        ("cifar10_lt100_cb_ce", 160, [160, 180]),
        ("cifar10_lt100_cb_ce_author_code", 160, [159]),
        ("cifar10_sym20_tce", 80, [40, 80]),
        ("clothing1m", 5, [5]),
        ("imdb", 60, [30, 60]),
        ("imdb_from30", 30, [30, 60]),
        ("covid_lt10", 60, [30, 60]),
        ("imagenet_lt_cb_ce", 60, []),
        ("imagenet_lt", 0, []),
    ],
)
def test_shares_of_the_training_are_the_papers_epochs(name, switch, drops):
    run = presets.get(name).run
    assert run.epoch_at(run.method.start_at) == switch
    assert [run.epoch_at(share) for share in run.optimizer.drop_at] == drops
    if run.loss.class_weights:
        assert run.epoch_at(run.loss.class_weights_from) == switch


def test_truncation_first_looks_after_epoch_80():
    run = presets.get("cifar100_asym20_tce").run
    assert run.epoch_at(run.loss.prune_from) == 81
    assert presets.get("clothing1m_tce").run.loss.prune_from == 1.0


def test_paper_presets_begin_with_the_papers_normaliser():
    for preset in EVERY:
        method = preset.run.method
        if preset.family != "Digits" and method.attends:
            assert method.init_s == 0.0
            assert math.isfinite(method.lam)
            noisy = preset.run.data.noise_rate > 0.0 or (
                preset.run.data.source == "clothing1m"
            )
            assert (method.lam < 0.0) == noisy


def test_a_second_stage_has_the_network_and_the_data_of_its_first():
    second = [preset for preset in RUNS if preset.needs is not None]
    assert len(second) == 2 * (2 + 4 + 4)
    for preset in second:
        first = presets.get(preset.needs)
        assert first.run.model == preset.run.model
        assert first.run.data == preset.run.data
        assert not first.run.method.attends
        assert first.smoke == preset.smoke


def test_weights_are_divided_by_one_except_in_the_authors_code():
    for preset in EVERY:
        if "author_code" not in preset.name:
            assert preset.run.method.alpha == 1.0


def test_deferred_baselines_are_weighted_means():
    run = presets.get("cifar100_st100_drw_ce").run
    assert not run.method.attends
    assert run.loss.class_weights_norm == "weights"
    assert run.epoch_at(run.loss.class_weights_from) == 160
    preset = presets.get("cifar100_st100_cb_ce")
    sgd, *_ = preset.variants
    always = configs.replace(preset.run, sgd.changes)
    assert always == configs.replace(
        run, {"method": always.method, "loss.class_weights_from": 0.0}
    )


# Rehearsals.


@pytest.mark.parametrize("family", FAMILIES)
def test_a_smoke_preset_keeps_the_rules_and_reaches_every_stage(family):
    for preset in (preset for preset in EVERY if preset.family == family):
        run, small = preset.run, presets.smoke(preset.run)
        assert small == presets.get(f"{preset.name}_smoke").run
        assert presets.smoke(small) == small
        for part in ("loss", "method", "optimizer", "trainable"):
            assert getattr(small, part) == getattr(run, part)
        for field in ("head", "norm", "dropout"):
            assert getattr(small.model, field) == getattr(run.model, field)
        for field in ("source", "imbalance", "noise", "noise_rate", "flip", "jitter"):
            assert getattr(small.data, field) == getattr(run.data, field)
        shares = [run.method.start_at, run.loss.prune_from]
        shares += [run.loss.class_weights_from, *run.optimizer.drop_at[:1]]
        for share in shares:
            if share < 1.0:
                assert small.epoch_at(share) < small.epochs
        if run.method.start_at > 0.0:
            assert small.epoch_at(run.method.start_at) > 0
