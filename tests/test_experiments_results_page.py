"""What the page of results says of claims, of other papers, and of what is not run."""

import json
import math
import pathlib
import re
import shlex

import numpy as np
import pytest

from experiments import cli, presets
from experiments.results import paper, run_log
from experiments.studies import (
    claims_report,
    compare,
    equal_grids_report,
    method_grid,
    overview_report,
    paper_tables_report,
    reproduce,
    reproduce_report,
    results_page,
)

RESULTS = pathlib.Path(__file__).parents[1] / "results"
SETTING, WRONG = "cifar10_lt100", "cifar10_sym40"


@pytest.fixture(scope="module")
def campaign():
    return run_log.events(RESULTS / results_page.REPRODUCE)[0]


@pytest.fixture(scope="module")
def compared():
    paths = sorted(RESULTS.glob(results_page.COMPARED))
    results = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    return [(results_page._heading(one), one) for one in results]


@pytest.mark.parametrize(
    ("preset", "expected"),
    [
        ("digits_label_noise", "Balanced digits, 20% of labels wrong"),
        (WRONG, "CIFAR-10, symmetric noise of rate 0.2"),
    ],
)
def test_a_heading_has_the_share_of_wrong_labels_that_was_trained(preset, expected):
    run = run_log.to_jsonable(method_grid.plain(presets.get(preset).run))
    run["data"]["noise_rate"] = 0.2
    results = {"preset": preset, "run": run, "seeds": 3}
    assert results_page._heading(results) == expected
    run["epochs"] += 1
    assert results_page._heading(results) == f"{expected}, reduced"
    results["seeds"] = 10
    assert results_page._heading(results) == f"{expected}, reduced, 10 seeds"


def test_no_two_comparisons_have_one_heading(compared):
    headings = [heading for heading, _ in compared]
    assert len({*headings}) == len(headings)


def record(row, seed, accuracy, setting=SETTING, lam=math.inf, split="test", **more):
    cell = reproduce.Cell(setting, row, lam, seed, split)._asdict()
    epochs = presets.get(setting).run.epochs
    return cell | {"accuracy": accuracy, "epochs": epochs} | more


def table(text):
    """The cells of the first table, row by row, its head first."""
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]


def claims(*arguments):
    """Rows of the table of claims, by data, and the two methods."""
    found, data = {}, ""
    for first, ours, theirs, *cells in table(claims_report.section(*arguments))[1:]:
        data = first or data
        found[data, ours, theirs] = cells
    return found


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        ([1.0, 2.0, 3.0], "yes"),
        ([-1.0, -2.0, -3.0], "opposite"),
        ([-1.0, 2.0, 3.0], "not shown"),
        ([1.0, 3.0], "not shown"),  # 2 ± 1
        ([1.0, 2.9], "yes"),
        ([0.0, 0.0], "not shown"),
        ([5.0], "one seed"),
    ],
)
def test_a_claim_is_borne_out_by_more_than_two_standard_errors(points, expected):
    assert claims_report.verdict(np.array(points)) == expected


def test_a_claim_has_the_printed_and_our_paired_difference():
    accuracies = {"SGD (CE)": (0.70, 0.72), "ABSGD (CE)": (0.74, 0.75)}
    records = [
        record(row, seed, accuracy, lam=2.0 if row == "ABSGD (CE)" else math.inf)
        for row, of_seeds in accuracies.items()
        for seed, accuracy in enumerate(of_seeds)
    ]
    records.append(record("ABSGD (CE)", 2, 0.9, lam=2.0))  # a seed that SGD has not
    records += [
        record("ABSGD (CE)", 0, 0.6 + 0.1 * (lam == 2.0), lam=lam, split="validation")
        for lam in reproduce.LAMS
    ]
    heading = "CIFAR-10, long tail of ratio 100, in full"
    assert claims([records], []) == {
        (heading, "ABSGD (CE)", "SGD (CE)"): [
            *("+0.7", "+2.6", "+3.5 ± 0.5", "2", "yes")
        ]
    }
    text = claims_report.section([records], [])
    assert text.endswith('Of 1 pair: 1 "yes".')
    shorter = [each | {"epochs": 30} for each in records]
    assert {data for data, *_ in claims([shorter], [])} == {
        "CIFAR-10, long tail of ratio 100, 30 epochs"
    }


def test_a_claim_of_wrong_labels_has_two_epochs():
    records = [
        record(row, 0, last, WRONG, best_on_test={"accuracy": best})
        for row, last, best in (("SGD (SCE)", 0.8, 0.86), ("ABSGD (SCE)", 0.85, 0.85))
    ]
    heading = "CIFAR-10, symmetric noise of rate 0.4, in full"
    pair = ("ABSGD (SCE)", "SGD (SCE)")
    assert claims([records], []) == {
        (f"{heading}, last epoch", *pair): ["+0.8", "–", "+5.0", "1", "one seed"],
        (f"{heading}, best on test", *pair): ["+0.8", "–", "−1.0", "1", "one seed"],
    }


def test_every_pair_with_records_is_a_claim_unless_the_paper_prints_a_loss(
    campaign, compared
):
    def printed(data, *methods):
        """Printed accuracies of methods, version by version."""
        for version in paper.VERSIONS:
            of_data = [
                r for r in paper.rows() if (r.version, *r[2:5]) == (version, *data)
            ]
            means = {row.method: row.mean for row in of_data}
            yield [means.get(method) for method in methods]

    trained = []  # heading, data, and seeds by row
    for setting in reproduce_report.recorded_settings(campaign):
        seeds = {}
        for r in campaign:
            if (r["setting"], r["split"]) == (setting, "test") and r["accuracy"]:
                seeds.setdefault(r["row"], set()).add(r["seed"])
        data = reproduce_report.block(setting)
        trained.append((reproduce_report.title(setting), data, seeds))
    for heading, results in compared:
        imdb = results["preset"] == "imdb_from30"
        preset = presets.get("imdb" if imdb else results["preset"])
        names = claims_report._OF_IMDB if imdb else claims_report._OF_IMAGES
        chosen = compare.chosen(results)
        seeds = {r: {*chosen[n]["accuracy"]} for r, n in names.items() if n in chosen}
        trained += [(heading, key[2:5], seeds) for key in preset.paper[:1]]
    expected = set()
    for heading, data, seeds in trained:
        for ours, theirs in claims_report.PAIRS:
            gains = [a - b for a, b in printed(data, ours, theirs) if a and b]
            known = any(a for (a,) in printed(data, ours))
            both = seeds.get(ours, set()) & seeds.get(theirs, set())
            if both and known and (not gains or max(gains) > 0.0):
                expected.add((heading, ours, theirs))
    found = claims([campaign], compared)
    short = {
        (re.sub(", (in full|last epoch|best on test)", "", d), *p) for d, *p in found
    }
    assert short == expected
    assert len(expected) > 15
    data = "CIFAR-10, step of ratio 100, reduced"  # the paper has LDAM above, too
    assert (data, "ABSGD (CB-CE)", "SGD (CB-LDAM)") not in expected


def test_claims_have_the_gains_of_the_overview(campaign, compared):
    overview = table(overview_report.section([campaign], [], compared))
    head, found = overview[0], claims([campaign], compared)
    (gains,) = (
        row for row in overview if row[1] == "ABSGD, λ chosen" and len(row) == len(head)
    )
    checked = 0
    for heading, gain in zip(head, gains, strict=True):
        if (heading, "ABSGD (CE)", "SGD (CE)") in found:
            assert found[heading, "ABSGD (CE)", "SGD (CE)"][2] == gain
            checked += 1
    assert checked >= 3


def test_the_overview_has_no_table_of_what_was_not_trained(campaign):
    clean = [r for r in campaign if r["setting"] not in reproduce.MISLABELLED]
    for records, shown in ((campaign, True), (clean, False)):
        text = overview_report.section([records], [], [])
        assert ("### Wrong labels" in text) is shown
        assert "### Rare classes" in text
        assert "### Rare groups" not in text


def test_the_overview_has_every_row_of_wrong_labels(campaign):
    rows = {r["row"] for r in campaign if r["setting"] in reproduce.MISLABELLED}
    families = overview_report.MISLABELLED.values()
    shown = {row.in_full for methods in families for row in methods}
    assert rows - {reproduce.ROWS[0].name} <= shown


def test_numbers_of_ldams_paper_are_those_that_absgds_repeats():
    """It has all of CB-Focal from there, all but one of LDAM, and some of CB-CE."""
    equal = {}
    for row, accuracies in reproduce_report.LDAM_PAPER.items():
        assert accuracies.keys() == set(reproduce.IMBALANCED)
        equal[row] = sum(
            (printed := reproduce_report.printed("000", reproduce_report.block(s), row))
            is not None
            and printed.mean == accuracy
            for s, accuracy in accuracies.items()
        )
    assert equal == {
        "SGD (CB-CE), deferred": 0,
        "SGD (CE)": 0,
        "SGD (Focal)": 0,
        "SGD (CB-CE)": 3,
        "SGD (CB-Focal)": 8,
        "SGD (LDAM)": 7,
        "SGD (CB-LDAM)": 7,
    }
    assert equal.keys() <= {row.name for row in reproduce.ROWS}


def test_ldams_paper_is_shown_and_ours_less_it_at_all_epochs():
    more = {"recall": [0.7] * 10, "last_lam": "inf", "total_weight": 1.0}
    more |= {"device": "a", "jax": "0", "seconds": 1.0}
    names = ("SGD (CE)", "SGD (CB-CE), deferred", "ABSGD (CE), ρ = 0.4")
    records = [record(row, 0, 0.72, **more) for row in names]
    page = reproduce_report.sections(records, "a.jsonl")
    assert page.count("| 70.36 ") == page.count("| 74.86 ") == 1
    less = (
        "Ours less LDAM's paper, in points: SGD (CE) +1.6, SGD (CB-CE), deferred −2.9."
    )
    assert less in page
    fewer = [each | {"epochs": 30} for each in records]
    assert "Ours less" not in reproduce_report.fewer_epochs(fewer, "a.jsonl")


def not_run(records):
    """The columns after the data, by data."""
    return {
        data: cells for data, *cells in table(reproduce_report.not_run(records))[1:]
    }


def test_what_is_left_and_what_is_recorded_is_the_whole_campaign(campaign):
    whole, left = not_run([]), not_run(campaign)
    assert whole.keys() == {*map(reproduce_report.title, reproduce.SETTINGS)}
    for setting in reproduce.SETTINGS:
        title = reproduce_report.title(setting)
        done = sum(r["setting"] == setting for r in campaign)
        assert int(left[title][1]) + done == int(whole[title][1])
        rows = reproduce.rows_of(setting)
        tests, choices = reproduce.SEEDS * len(rows), sum(row.chooses for row in rows)
        assert int(whole[title][1]) == tests + choices * len(reproduce.LAMS)


def test_rows_that_are_left_stand_with_the_seeds_that_they_have():
    records = [record("SGD (TCE)", seed, 0.8, WRONG) for seed in range(2)]
    records += [record("EG (SCE)", seed, None, WRONG) for seed in range(3)]
    rows, trainings, *_ = not_run(records)[reproduce_report.title(WRONG)]
    assert rows == (
        "SGD (CE), ABSGD (CE), ρ = 0.4 from the first step, SGD (SCE), ABSGD (SCE), "
        "ABSGD (CE) (0 of 3 seeds); SGD (TCE) (2 of 3 seeds)"
    )
    assert trainings == "16"


def test_hours_left_count_what_rows_share_once():
    names = ("SGD (CE)", "ABSGD (CE), ρ = 0.4", "SGD (CB-Focal)")
    cells = [reproduce.Cell(SETTING, name, math.inf, 0, "test") for name in names]
    hours = 200 * 97 * 0.9 / 3600  # epochs, steps of one, and seconds of one
    for count, epochs in ((1, 200), (2, 240), (3, 440)):
        found = float(reproduce_report._hours(cells[:count]))
        assert found == round(hours * epochs / 200)
    other = [cell._replace(seed=1) for cell in cells[:1]]
    assert float(reproduce_report._hours(cells[:1] + other)) == round(2 * hours)


def test_every_printed_method_is_a_row_or_has_a_reason_and_a_command(
    campaign, monkeypatch
):
    text, left, without = reproduce_report.not_run(campaign), not_run(campaign), set()
    costs = {row[0]: row[1] for row in table(paper_tables_report.costs(campaign))}
    for setting in reproduce.SETTINGS:
        block = reproduce_report.block(setting)
        printed = {r.method for r in paper.rows() if r[2:5] == block and r.mean}
        rows = {row.name for row in reproduce.rows_of(setting)}
        cell = left[reproduce_report.title(setting)][3]
        assert {*cell.split(", ")} - {"–"} == printed - rows
        without |= printed - rows
        assert costs[" ".join(block)].endswith(f" of {len(printed)}")
    assert {name.split()[0] for name in without} == reproduce_report.NO_ROW.keys()
    runs = []
    monkeypatch.setattr(cli, "_run", lambda *given: runs.append(given[2].run) or 0)
    for name in reproduce_report.NO_ROW:
        (line,) = (line for line in text.splitlines() if line.startswith(f"* {name} "))
        (command,) = re.findall("`(python[^`]*)`", line)
        assert cli.main(shlex.split(command)[3:]) == 0
    resampling, meta = runs
    assert (resampling.method.name, resampling.data.sampling) == ("sgd", "effective")
    assert not resampling.loss.class_weights
    assert (meta.method.name, meta.loss.class_weights) == ("meta", True)


def test_a_row_of_no_preset_is_one_that_no_preset_has():
    head, *rows = table(paper_tables_report.costs([]))
    for row in rows:
        cells = dict(zip(head, row, strict=True))
        base, *ends = re.findall("`([^`]*)`", cells["presets"])
        names = [base, *(base + end for end in ends)]
        assert {
            variant.method for name in names for variant in presets.get(name).variants
        }.isdisjoint(cells["rows of no preset"].split(", "))


def test_notes_of_presets_stand_on_the_page_once_with_whom_they_are_of():
    section = paper_tables_report.section([])
    _, _, text = section.partition(paper_tables_report._DIFFERENCES)
    sections = dict(re.findall(r"\*\*(.*?)\.\*\*(.*?)(?=\n\*\*|\Z)", text, re.S))
    of_tables = [p for p in presets.every() if p.paper and "author" not in p.name]
    assert sections.keys() == {preset.family for preset in of_tables}
    for preset in of_tables:
        section = sections[preset.family]
        for sentence in re.split(r"(?<=\.) (?=[A-ZΑ-ω`])", preset.note):
            if preset.name.split("_")[0] not in sentence:  # one that names a preset
                assert section.count(sentence) == 1, sentence
    noisy, imagenet = sections["CIFAR, noisy"], sections["ImageNet-LT"]
    assert "\n* `NAME_fc`: Trains what the texts say; " in imagenet
    assert "\n* CIFAR100 asymmetric: What the paper calls a superclass " in noisy
    assert "\n* `NAME`, `NAME_tce`; `NAME_sce` on CIFAR100 symmetric: The " in noisy
    assert "see NAME_drw_focal." in sections["CIFAR, imbalanced"]


def test_the_overview_has_the_gains_of_groups_as_their_section_has_them():
    grids = run_log.events(RESULTS / results_page.EQUAL_GRIDS)[0]
    overview = overview_report.section([], grids, [])
    head, _, *rows = table(overview.partition("### Rare groups")[2])[:12]
    sections = equal_grids_report.groups(grids).split("### ")[1:]
    assert head[2:] == [section.partition("\n")[0] for section in sections]
    titles = equal_grids_report.titles()
    names = {
        r.title: r.grids for rows in overview_report.GROUPED.values() for r in rows
    }
    for number, section in enumerate(sections):
        by_accuracy = table(section.partition("best by the mean")[0])
        gain = by_accuracy[0].index("mean of the groups against SGD")
        of_title = {
            row[0]: row[1] if row[1] == "diverged" else row[gain] for row in by_accuracy
        }
        found = {row[1]: row[2 + number] for row in rows if row[1] in names}
        assert len(found) == len(names)
        for title, shown in found.items():
            assert shown == of_title[titles[names[title]][0]]
