"""Reports of training runs, from the records that such runs leave."""

import base64
import contextlib
import csv
import dataclasses
import html
import io
import json
import math
import os
import pathlib
import re
import statistics

import numpy as np
import pytest

from experiments import commands, configs, presets
from experiments.report import (
    axes,
    calibration,
    command,
    confusion,
    formatting,
    markdown,
    paper_results,
    plot_style,
    tables,
    weights,
)
from experiments.report import html as html_page
from experiments.results import aggregate, metrics, run_dir, run_log
from experiments.studies.digits import LONG_TAIL
from tests.outcomes import cells

FIGURES = ("curves.png", "calibration.png", "confusion.png", "weights.png")

# Two classes, no validation examples; ten; and a hundred.
TWO = configs.Run(
    data=configs.Data(source="imdb"), model=configs.Model(name="bilstm"), epochs=1
)
TEN = configs.replace(presets.get("cifar10_lt100").run, {"epochs": 10})
HUNDRED = configs.replace(presets.get("cifar100_lt100").run, {"epochs": 5})
EVEN = np.full(10, 5000)  # training examples of each class


def _evaluation(accuracy, class_counts, rng):
    """As `metrics.summary` makes it, with a hundred examples of each class."""
    classes = len(class_counts)
    right = np.full(classes, round(100 * accuracy)) + rng.integers(-5, 6, classes)
    wrong = 100 - right
    matrix = np.diag(right)
    matrix[np.arange(classes), (np.arange(classes) + 1) % classes] += wrong
    bins = np.zeros((3, metrics.BINS))
    bins[0, [7, 14]] = wrong.sum(), right.sum()
    bins[1] = bins[0] * (np.arange(metrics.BINS) + 0.5) / metrics.BINS
    bins[2, 14] = right.sum()
    counts = metrics.Counts(
        examples=np.full(classes, 100),
        correct=right,
        top5=right + wrong // 2,
        confusion=matrix,
        bin_examples=bins[0],
        bin_confidence=bins[1],
        bin_correct=bins[2],
        loss=np.float32(100.0),
    )
    return metrics.summary(counts, class_counts)


def _events(run, accuracies, validation=None, counts=EVEN, noise=False):
    """One event for each accuracy on the test set; None for an epoch without a test."""
    rng = np.random.default_rng(run.seed)
    for epoch, accuracy in enumerate(accuracies, start=1):
        yield {
            "event": "epoch",
            "epoch": epoch,
            "step": 100 * epoch,
            "loss": 2.0 / epoch,
            "tilted_loss": 2.5 / epoch,
            "learning_rate": 0.1,
            "lam": math.inf,
            "effective_sample_size": 0.5,
            "largest_weight": 3.0,
            "total_weight": 1.0,
            "weight_by_class": np.linspace(0.5, 2.0 + rng.random(), len(counts)),
            "weight_clean": 1.2,
            "weight_mislabelled": 0.2 if noise else None,
            "seconds": 40.0 if epoch == 1 else 20.0,
            "waited": 1.0,
            "validation": validation
            and _evaluation(validation[epoch - 1], counts, rng),
            "test": accuracy and _evaluation(accuracy, counts, rng),
        }


def _write(path, run=TEN, events=(), counts=EVEN, preset=None):
    """A run directory."""
    path.mkdir(parents=True)
    config = {"preset": preset, "run": run, "versions": {}, "class_counts": counts}
    (path / run_dir.CONFIG).write_text(json.dumps(run_log.to_jsonable(config)))
    with run_log.Recorder(path / run_dir.RECORDS) as recorder:
        for event in events:
            recorder.write(**event)
    return path


def _result(*args, **kwargs):
    return aggregate.read(_write(*args, **kwargs))


def _section(*results):
    """The section of the one run of these seeds."""
    return markdown.section(*aggregate.grouped(results))


def _finished(run):
    return {"event": "finished", "step": 100 * run.epochs, "seconds": 1.0}


def _long_tail(classes, head):
    return np.array([round(head * 0.01 ** (c / (classes - 1))) for c in range(classes)])


def _three_seeds(parent, run=TEN, preset="cifar10_lt100", rise=0.02):
    """Ten epochs each; validation is best at the ninth, test at the tenth."""
    counts = _long_tail(10, 5000)
    for seed in range(3):
        mine = dataclasses.replace(run, seed=seed)
        test = [0.5 + rise * epoch + 0.01 * seed for epoch in range(10)]
        validation = [*test[:8], 0.9, 0.7]
        events = [*_events(mine, test, validation, counts), _finished(mine)]
        yield _write(parent / f"{preset}-{seed}", mine, events, counts, preset)


def _row(text, first, column=None):
    """The cells of the first row that begins so, in a table with that column."""
    for table in text.split("\n\n"):
        head, *rows = table.splitlines()
        own = [row for row in rows if row.startswith(f"| {first} ")]
        if own and column in (None, *cells(head)):
            return dict(zip(cells(head), cells(own[0]), strict=True))
    raise LookupError(first)


def _percent(values):
    values = [100.0 * float(value) for value in values]
    return f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f}"


def _report(*dirs, out=None, html=False):
    return command.main(commands.Report(dirs=dirs, out=out, html=html))


@pytest.fixture(scope="module")
def absgd(tmp_path_factory):
    """Run directories of three seeds."""
    return list(_three_seeds(tmp_path_factory.mktemp("absgd")))


@pytest.fixture(scope="module")
def sgd(tmp_path_factory):
    plain = configs.replace(TEN, {"method.name": "sgd"})
    return list(_three_seeds(tmp_path_factory.mktemp("sgd"), plain, rise=0.01))


@pytest.fixture(scope="module")
def both(absgd, sgd, tmp_path_factory):
    """The report of two runs, in a directory with files of an earlier one."""
    out = tmp_path_factory.mktemp("both")
    (out / tables.FOLDER).mkdir()
    for name in ("confusion.png", "weights-3.png", "mine-1.png"):
        (out / name).write_text("old")
    for name in ("99-old.csv", "mine.csv"):
        (out / tables.FOLDER / name).write_text("old")
    config = commands.Report(dirs=(*absgd, *sgd), out=out, html=True, tables=True)
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert command.main(config) == 0
    assert str(out / html_page.PAGE) in printed.getvalue()
    return out


def test_three_seeds_are_averaged_and_stand_beside_the_paper(figures, absgd, capsys):
    assert _report(*absgd, html=True) == 0
    folder = absgd[0].parent
    _check_page(folder)
    text = (folder / command.REPORT).read_text(encoding="utf-8")  # beside the runs
    assert text in capsys.readouterr().out
    for name in FIGURES:
        assert (folder / name).is_file()
        assert f"]({name})" in text

    events = [run_log.events(path / run_dir.RECORDS)[0] for path in absgd]
    _, accuracy = figures["curves.png"].axes
    test = next(line for line in accuracy.lines if len(line.get_xdata()) == 10)
    expected = [[100.0 * e["test"]["accuracy"] for e in of[:10]] for of in events]
    np.testing.assert_allclose(test.get_ydata(), np.mean(expected, axis=0))
    confusions = np.sum([of[9]["test"]["confusion"] for of in events], axis=0)
    (image,) = figures["confusion.png"].axes[0].images
    shares = confusions / confusions.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(image.get_array(), 100.0 * shares)
    names = ("accuracy", "top5", "balanced", "many", "medium", "calibration_error")
    for row, place in ((markdown.LAST, 9), (markdown.ON_VALIDATION, 8)):
        found = _row(text, row)
        assert found["epoch"] == str(place + 1)
        for key in names:
            expected = _percent(e[place]["test"][key] for e in events)
            assert found[markdown.MEASURES[key]] == expected
        of_validation = _percent(e[place]["validation"]["accuracy"] for e in events)
        assert found[markdown.VALIDATION] == of_validation
        assert "few" not in found  # of the ten classes none has so few
    best = [max(e["test"]["accuracy"] for e in of[:10]) for of in events]
    assert _row(text, markdown.ON_TEST)["accuracy"] == _percent(best)

    head, worst = _row(text, "airplane"), _row(text, "truck")
    assert (head["training examples"], worst["training examples"]) == ("5,000", "50")
    assert worst["last epoch"] == _percent(e[9]["test"]["recall"][9] for e in events)

    assert _row(text, "later version, Table 1")["percent"] == "71.75 ± 0.75"
    assert "| 72.43 ± 0.31 | 3    |          |" in text  # not this run: other epochs
    assert "None of these is this run" in text
    time = _row(text, "2", column="waited for input")
    assert time["training"] == "3 min 40 s"  # 40 s + 9 × 20 s
    assert time["a step"] == "200 ms"  # 20 s of 100 steps
    assert time["waited for input"] == "4.5%"  # 10 s of 220


def test_several_runs_are_compared_and_an_old_report_replaced(absgd, sgd, both):
    assert {path.name for path in both.iterdir()} == {
        "report.md", "report.html", "report.json", "tables", "mine-1.png", "curves.png",
        "calibration.png", "confusion-1.png", "confusion-2.png", "weights-1.png",
        "weights-2.png",
    }  # fmt: skip
    text = (both / command.REPORT).read_text(encoding="utf-8")
    for title, dirs in {"ABSGD, λ = 1": absgd, "SGD": sgd}.items():
        last = [run_log.events(path / run_dir.RECORDS)[0][9] for path in dirs]
        found = _row(text, f"cifar10_lt100, {title}")
        assert found["seeds"] == "3"
        for split, column in (("test", ""), ("validation", "validation ")):
            expected = _percent(e[split]["accuracy"] for e in last)
            assert found[f"{column}accuracy"] == expected
    _check_page(both)


def _text(source):
    assert "<" not in source  # a name of a class is no tag
    return html.unescape(source)


def _rows(page):
    """The cells of an HTML page, row by row."""
    rows = re.findall(r"<tr>(.*?)</tr>", page, re.DOTALL)
    cell = re.compile(r"<t[hd][^>]*>(.*?)</t[hd]>", re.DOTALL)
    return [[*map(_text, cell.findall(row))] for row in rows]


def _captions(page):
    found = re.findall(r"<figcaption>(.*?)</figcaption>", page, re.DOTALL)
    return [*map(_text, found)]


def _check_page(out):
    """It holds the whole report and loads nothing."""
    text = (out / command.REPORT).read_text(encoding="utf-8")
    page = (out / html_page.PAGE).read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert _rows(page) == [cells(line) for line in lines if line[1] != "-"]
    names = re.findall(r"^!\[.*]\((.*)\)$", text, re.MULTILINE)
    assert {path.name for path in out.glob("*.png")} - {"mine-1.png"} == set(names)
    images = re.findall('<img src="data:image/png;base64,([^"]*)"', page)
    assert [*map(base64.b64decode, images)] == [(out / n).read_bytes() for n in names]
    assert _captions(page) == re.findall(r"^!\[(.*)]\(", text, re.MULTILINE)
    assert "png" not in "".join(_captions(page))
    links = re.findall('(?:src|href)="([^"]*)"', page)
    assert all(link.startswith(("data:image/png", "#")) for link in links)
    assert "http" not in re.sub('base64,[^"]*', "", page)


def test_tables_are_written_as_csv_and_json(both):
    text = (both / command.REPORT).read_text(encoding="utf-8")
    saved = json.loads((both / tables.JSON).read_text())["tables"]
    paths = sorted((both / tables.FOLDER).glob("[0-9]*.csv"))
    assert "99-old.csv" not in [path.name for path in paths]
    assert (both / tables.FOLDER / "mine.csv").exists()
    assert len(saved) == len(paths) == text.count("\n|--")
    for table, path in zip(saved, paths, strict=True):
        with path.open(encoding="utf-8", newline="") as file:
            assert [*csv.reader(file)] == table["rows"]
    first = dict(zip(*saved[0]["rows"][:2], strict=True))
    shown = _row(text, "cifar10_lt100, ABSGD, λ = 1")
    assert saved[0]["title"] == "Comparison, Test set, last epoch"
    for name in ("accuracy", "validation accuracy", "balanced"):
        assert f"{first[name]} ± {first[f'{name} ±']}" == shown[name]
    by_class = next(t for t in saved if t["title"].endswith("Recall of each class"))
    assert by_class["rows"][1][:2] == ["airplane", "5000"]


def test_a_page_shows_names_as_they_are(tmp_path):
    (tmp_path / "a.png").write_bytes(bytes(24))
    name = "*a* <b>|</b> `c` [d](e) &amp;"
    rows = formatting.markdown([["class", "recall"], [name, "1"]])
    text = "\n".join([f"# {name}", "", *rows, "", "![What is <seen>](a.png)", ""])
    page = html_page.page(text, tmp_path)
    assert _rows(page) == [["class", "recall"], [name, "1"]]
    assert _captions(page) == ["What is <seen>"]
    assert f"<title>{html.escape(name)}</title>" in page


def test_differences_are_paired_by_seed_against_what_does_not_weight(
    absgd, sgd, tmp_path
):
    of_noise = configs.replace(TEN, {"data.noise_rate": 0.4})
    noisy = list(_three_seeds(tmp_path, of_noise))
    groups = aggregate.grouped(map(aggregate.read, [*absgd, *sgd[1:], *noisy]))
    text = command.text(groups, [])
    _, _, differences = text.partition("## Differences, paired by seed")
    differences, _, _ = differences.partition("\n# ")
    (row,) = [line for line in differences.splitlines() if line.startswith("| c")]
    last = lambda path: run_log.events(path / run_dir.RECORDS)[0][9]["test"]["accuracy"]
    found = 100.0 * np.subtract([*map(last, absgd[1:])], [*map(last, sgd[1:])])
    error = found.std(ddof=1) / math.sqrt(2)
    assert cells(row)[:3] == [
        "cifar10_lt100, ABSGD, λ = 1, data.noise_rate 0",
        "2",
        f"{found.mean():+.1f} ± {error:.1f}",
    ]


def test_settings_that_differ_from_the_preset_are_listed(tmp_path):
    run = configs.replace(
        TEN, {"optimizer.drop_at": (0.5,), "method.lam": -2.0, "data.flip": False}
    )
    usual = presets.get("cifar10_lt100").run
    text = _section(_result(tmp_path / "run", run, preset="cifar10_lt100"))
    _, _, settings = text.partition("## Settings that differ from the preset")
    settings, _, _ = settings.partition("\n## ")
    rows = [cells(line) for line in settings.splitlines() if line.startswith("| ")]
    drops = ", ".join(f"{share:g}" for share in usual.optimizer.drop_at)
    assert rows == [
        ["setting", "this run", "preset cifar10_lt100"],
        ["data.flip", "no", "yes"],
        ["method.lam", "−2", f"{usual.method.lam:g}"],
        ["optimizer.drop_at", "0.5", drops],
        ["epochs", "10", str(usual.epochs)],
    ]
    text = _section(_result(tmp_path / "own", configs.Run(epochs=7)))
    assert "## Settings that differ from the defaults" in text
    assert _row(text, "epochs")["this run"] == "7"


def test_bands_stay_on_a_logarithmic_axis_and_weights_of_one_are_not_drawn(
    figures, tmp_path
):
    dirs = []
    for seed, loss in enumerate((0.01, 0.01, 1.0)):  # the deviation is above the mean
        run = dataclasses.replace(TEN, seed=seed)
        events = list(_events(run, [0.5] * 10))
        for event in events:
            event |= {"loss": loss / event["epoch"], "tilted_loss": loss}
            event |= {"weight_by_class": np.ones(10), "weight_clean": 1.0}
            event |= {"effective_sample_size": 1.0, "seconds": 122.0}
        dirs.append(_write(tmp_path / str(seed), run, [*events, _finished(run)]))
    assert _report(*dirs) == 0
    text = (tmp_path / command.REPORT).read_text(encoding="utf-8")
    assert _row(text, "2", column="waited for input")["a step"] == "1.22 s"
    assert "weights.png" not in text
    assert not (tmp_path / "weights.png").exists()
    loss, _ = figures["curves.png"].axes
    assert loss.get_yscale() == "log"
    band, _ = (each.get_paths()[0].vertices[:, 1] for each in loss.collections)
    deviation = np.log([0.01, 0.01, 1.0]).std(ddof=1)
    expected = (1.02 / 3) * np.exp([-deviation, deviation])
    np.testing.assert_allclose([band.min() * 10, band.max()], expected)


def test_reports_of_two_and_of_a_hundred_classes(figures, tmp_path):
    counts = np.array([900, 90])
    two = _write(tmp_path / "two", TWO, _events(TWO, [0.7], counts=counts), counts)
    assert _report(two) == 0
    text = (two / command.REPORT).read_text(encoding="utf-8")
    assert "top 5" not in text
    assert markdown.ON_VALIDATION not in text
    assert "no validation examples to choose an epoch by" in text
    assert "not finished: epoch 1 of 1" in text  # its last line is yet to come
    assert "of one seed, which says nothing of the spread" in text

    run = configs.replace(HUNDRED, {"data.noise_rate": 0.4})
    counts = _long_tail(100, 500)
    tests = [None, 0.4, None, None, 0.5]
    events = [*_events(run, tests, counts=counts, noise=True), _finished(run)]
    events[1]["weight_by_class"][3] = math.nan
    events[2]["test"] = None
    hundred = _write(tmp_path / "hundred", run, events, counts)
    assert _report(hundred) == 0
    text = (hundred / command.REPORT).read_text(encoding="utf-8")
    assert "Recall of each class" not in text
    found = _row(text, markdown.LAST)
    assert found["epoch"] == "5"
    assert {"many", "medium", "few"} <= found.keys()
    for path in (two, hundred):
        assert all((path / name).is_file() for name in FIGURES)
    (image,) = figures["confusion.png"].axes[0].images
    assert image.get_array().shape == (100, 100)


def test_a_run_that_has_just_begun_has_a_report(tmp_path):
    begun = _write(tmp_path / "begun")
    (begun / run_dir.RECORDS).unlink()
    assert _report(begun) == 0
    text = (begun / command.REPORT).read_text(encoding="utf-8")
    assert "No epoch has been tested yet" in text
    assert "epoch 0 of 10" in text
    assert not list(begun.glob("*.png"))


def test_what_was_done_again_replaces_what_it_was(tmp_path):
    again = list(_events(TEN, [0.1, 0.2, 0.6]))[2:]
    events = [
        *_events(TEN, [0.1, 0.2, 0.3, 0.4]),
        {"event": "save_failed", "step": 400, "error": "disk full"},
        {"event": "resumed", "step": 250},  # in the middle of the third epoch
        *again,
    ]
    found = _result(tmp_path / "run", TEN, events)
    assert [e["epoch"] for e in found.epochs] == [1, 2, 3]
    assert found.epochs[2] == run_log.to_jsonable(again[0])
    assert (found.resumed, found.failed_saves, found.finished) == (1, 1, False)
    assert found.progress == "epoch 3 of 10"
    text = _section(found)
    assert "was interrupted and resumed once" in text
    assert "1 checkpoint could not be written" in text
    assert "is not finished: epoch 3 of 10" in text


def test_a_run_resumed_at_the_end_of_an_epoch_keeps_that_epoch(tmp_path):
    events = [*_events(TEN, [0.1, 0.2, 0.3]), {"event": "resumed", "step": 200}]
    found = _result(tmp_path / "run", TEN, events)
    assert [e["epoch"] for e in found.epochs] == [1, 2]


def test_torn_lines_are_passed_over_and_counted(tmp_path):
    path = _write(tmp_path / "run", TEN, _events(TEN, [0.1, 0.2, 0.3]))
    records = path / run_dir.RECORDS
    whole = records.read_bytes()
    one, two, three = whole.splitlines(keepends=True)
    for torn, epochs in (
        (whole[:-20], [1, 2]),  # the last line is being written
        (whole[: len(one) + len(two)], [1, 2]),
        (one + two[:50] + three, [1]),  # killed as it wrote, and resumed
        (one + "λ".encode()[:1], [1]),  # in the middle of a letter
        (one + b"12\n", [1]),  # JSON, but no event
    ):
        records.write_bytes(torn)
        found = aggregate.read(path)
        assert [e["epoch"] for e in found.epochs] == epochs
        assert found.unreadable == (not torn.endswith(two))
    assert "1 torn line of records.jsonl passed over" in _section(found)


def test_a_torn_line_costs_no_record_that_is_appended(tmp_path):
    path = tmp_path / "records.jsonl"
    path.write_text('{"seed": 0}\n{"se')
    run_log.append(path, [{"seed": 1}, {"seed": 2}])
    run_log.append(path, [{"seed": 3}])
    found, unreadable = run_log.events(path)
    assert [record["seed"] for record in found] == [0, 1, 2, 3]
    assert unreadable == 1


def test_unfinished_seeds_are_left_out_or_cut_to_what_all_have(tmp_path):
    *runs, last = [dataclasses.replace(TEN, seed=seed) for seed in range(4)]
    accuracies = ([0.1, 0.2, None, 0.4], [0.3, 0.5, 0.6], [])
    unfinished = [
        _result(tmp_path / str(run.seed), run, _events(run, tests))
        for run, tests in zip(runs, accuracies, strict=True)
    ]
    (group,) = aggregate.grouped(reversed(unfinished))
    assert [r.run.seed for r in group.results] == [0, 1]
    assert group.left_out == [unfinished[2]]
    assert [e["epoch"] for e in group.last()] == [2, 2]
    assert "all of these seeds were tested after" in _section(*unfinished)
    epochs, losses = group.course(lambda e: e["loss"])
    np.testing.assert_array_equal(epochs, [1, 2, 3])
    np.testing.assert_allclose(losses, np.tile(2.0 / epochs, (2, 1)))

    whole = _result(tmp_path / "3", last, [*_events(last, [0.7] * 10), _finished(last)])
    (group,) = aggregate.grouped([*unfinished, whole])
    assert group.results == [whole]
    assert group.left_out == unfinished
    assert "Seed 1 (" in _section(*unfinished, whole)


def test_the_first_epoch_of_the_best_is_chosen_where_it_was_tested(tmp_path):
    events = list(_events(TEN, [0.1, 0.2, 0.3, 0.4, 0.5], [0.5] * 5))
    accuracies = (0.9, 0.6, 0.8, 0.8, math.nan)
    for event, accuracy in zip(events, accuracies, strict=True):
        event["validation"]["accuracy"] = accuracy
    events[0]["test"] = None
    found = _result(tmp_path / "run", TEN, events)
    assert found.best("validation")["epoch"] == 3
    assert found.best("test")["epoch"] == 5


def test_seeds_of_one_run_belong_together(tmp_path):
    written = lambda name, run: _result(tmp_path / name, run, preset="p")
    # A second stage of each seed starts from the first stage of that seed.
    firsts = [written(f"first{s}", dataclasses.replace(TEN, seed=s)) for s in (0, 1)]
    seconds = []
    for s, first in enumerate(firsts):
        run = dataclasses.replace(TEN, seed=s, start_from=first.directory)
        seconds.append(written(f"second{s}", run))
    lam = written("lam", configs.replace(TEN, {"method.lam": 2.0}))
    rate = written("rate", configs.replace(TEN, {"optimizer.learning_rate": 0.05}))
    groups = aggregate.grouped([*firsts, *seconds, lam, rate, firsts[0]])
    assert [group.results for group in groups] == [firsts, seconds, [lam], [rate]]
    titles = [group.title for group in groups]
    assert len(set(titles)) == 4
    assert titles[2].startswith("p, ABSGD, λ = 2, optimizer.learning_rate 0.1")
    assert "optimizer.learning_rate 0.05" in titles[3]
    (alone,) = aggregate.grouped(firsts)
    assert alone.title == "p"

    twin = written("twin", TEN)
    said = "same seed, 0: name one of them"
    with pytest.raises(configs.BadConfiguration, match=said):
        aggregate.grouped([*firsts, twin])


PLAIN = {"method.lam": math.inf, "method.init_s": None}
RADIUS = PLAIN | {"method.rho": 0.4}
AWAY = RADIUS | {"method.lam": -math.inf}


@pytest.mark.parametrize(
    ("changes", "titles"),
    [
        ([{"method.name": "eg", "method.lam": lam} for lam in (0.5, 1.0)],
         ["EG, λ = 0.5", "EG, λ = 1"]),
        ([{"method.name": "recover", "method.lam": lam} for lam in (0.5, -0.5)],
         ["RECOVER, λ = 0.5", "RECOVER, λ = −0.5"]),
        ([RADIUS, AWAY], ["ABSGD, ρ = 0.4", "ABSGD, λ < 0, ρ = 0.4"]),
        ([RADIUS, RADIUS | {"method.rho": 0.1}], ["ABSGD, ρ = 0.4", "ABSGD, ρ = 0.1"]),
        # Of one title, though not of one configuration.
        ([{"method.name": name} for name in ("sgd", "absgd")],
         ["SGD, method.name sgd", "SGD, method.name absgd"]),
        ([{"method.name": "sgd", "method.rho": rho} for rho in (None, 0.4)],
         ["SGD, method.rho None", "SGD, method.rho 0.4"]),
    ],
)  # fmt: skip
def test_runs_have_titles_that_tell_them_apart(changes, titles, tmp_path):
    runs = [configs.replace(TEN, PLAIN | each) for each in changes]
    results = [_result(tmp_path / str(n), run) for n, run in enumerate(runs)]
    found = [group.title for group in aggregate.grouped(results)]
    assert found == [f"cifar10, {title}" for title in titles]


def test_sgd_has_no_radius_to_make_smaller():
    absgd = configs.replace(TEN, RADIUS)
    assert "a smaller radius --method.rho (it is 0.4)" in aggregate.remedy(absgd)
    sgd = configs.replace(absgd, {"method.name": "sgd"})
    assert "radius" not in aggregate.remedy(sgd)


def test_what_is_no_run_is_refused_with_the_reason(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / run_dir.CONFIG).write_text('{"demo": {}, "studies": []}')
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / run_dir.CONFIG).write_text('{"run": ')
    bad = _write(tmp_path / "bad")
    config = json.loads((bad / run_dir.CONFIG).read_text())
    config["run"]["epochs"] = 0
    (bad / run_dir.CONFIG).write_text(json.dumps(config))
    for name, reason in (
        ("missing", "There is no directory .*missing"),
        ("empty", "empty is not the directory of a run: it has no config.json"),
        ("demo", "demo.config.json is not the config of a run: .*'run'"),
        ("broken", "broken.config.json is not the config of a run"),
        ("bad", "(?s)bad.config.json is not .*epochs must be at least 1, got 0"),
    ):
        with pytest.raises(configs.BadConfiguration, match=reason):
            _report(tmp_path / name)
    with pytest.raises(configs.BadConfiguration, match="at least one run directory"):
        _report()


def test_a_run_finds_its_row_in_the_paper():
    known = presets.get("cifar10_lt100")

    def own(changes):
        run = configs.replace(known.run, changes)
        return {r.printed for r, same in paper_results.rows(known.name, run) if same}

    absgd = {"72.43 ± 0.31", "73.10 ± 0.08"}  # of the two versions
    assert own({}) == absgd
    assert own({"seed": 3, "method.lam": 5.0, "method.gamma": 0.1}) == absgd
    assert own({"method.name": "sgd"}) == {"71.75 ± 0.75", "70.46 ± 0.21"}
    assert own({"method.name": "adam"}) == set()
    assert own({"epochs": 100}) == set()
    assert own({"method.start_at": 0.0}) == set()
    assert len(paper_results.rows(known.name, known.run)) == len(known.results)
    assert paper_results.rows("a name of my own", known.run) == []
    assert paper_results.rows(None, known.run) == []
    # EG is ABSGD with γ = 1, and printed as a method of its own.
    noisy = presets.get("cifar10_sym40_sce")
    for gamma, method in ((1.0, "EG"), (0.9, "ABSGD")):
        run = configs.replace(noisy.run, {"method.gamma": gamma})
        rows = paper_results.rows(noisy.name, run)
        assert {row.method for row, same in rows if same} == {f"{method} (SCE)"}


def test_groups_of_classes_and_their_mean_weight():
    counts = np.array([1000, 200, 101, 100, 20, 19])
    halves, shots = weights.halves(counts), weights.shots(counts)
    assert list(halves) == ["majority, 0 to 2", "minority, 3 to 5"]
    assert [*weights.halves(counts[::-1])] == ["minority, 0 to 2", "majority, 3 to 5"]
    assert weights.halves(np.full(6, 7)) == {}
    inside = [np.flatnonzero(part).tolist() for part in shots.values()]
    assert inside == [[0, 1, 2], [3, 4], [5]]
    assert len(weights.shots(np.full(6, 500))) == 1

    of_class = np.array(
        [[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [1.0, np.nan, 3.0, 4.0, 5.0, 6.0]]
    )
    majority, minority = halves.values()
    np.testing.assert_allclose(
        weights.mean_weight(of_class, counts, majority),
        [(1000 + 2 * 200 + 3 * 101) / 1301, (1000 + 3 * 101) / 1101],
    )
    np.testing.assert_allclose(
        weights.mean_weight(of_class, counts, minority), np.full(2, 614 / 139)
    )
    assert np.isnan(weights.mean_weight(np.full(6, np.nan), counts, majority))


def test_marks_stand_where_the_schedule_changes_and_not_beyond_the_records(tmp_path):
    run = configs.replace(TEN, {"optimizer.drop_at": (0.5, 0.8)})
    for epochs, drops, switch in ((10, (5, 8), (8,)), (7, (5,), ()), (5, (), ())):
        events = _events(run, [None] * epochs)
        (group,) = aggregate.grouped([_result(tmp_path / str(epochs), run, events)])
        assert axes.marks(group) == (drops, switch)
    sgd = configs.replace(run, {"method.name": "sgd"})
    plain = dataclasses.replace(group.results[0], run=sgd)
    assert axes.marks(dataclasses.replace(group, results=[plain])).switch == ()


@pytest.mark.parametrize(
    ("changes", "title"),
    [(RADIUS, "ABSGD, ρ = 0.4"), (AWAY, "ABSGD, λ < 0, ρ = 0.4")],
)
def test_the_switch_to_a_radius_is_marked_and_described(changes, title, tmp_path):
    run = configs.replace(TEN, changes | {"method.gamma": 0.1})
    result = _result(tmp_path / "run", run, _events(run, [0.5] * 10))
    (group,) = aggregate.grouped([result])
    assert axes.marks(group).switch == (8,)
    (switch, *_) = axes.mark((), [group], ["red"])
    assert switch.get_label() == f"start of {title}"
    said = f"{title} from epoch 9 on, λ = ∞ before, γ = 0.1; cross entropy loss"
    assert said in markdown.describe(group)


def test_a_switch_is_grey_where_every_run_has_it(tmp_path):
    from matplotlib.figure import Figure

    sgd = configs.replace(TEN, {"method.name": "sgd"})
    runs = (TEN, configs.replace(TEN, {"method.lam": 2.0}), sgd)
    first, second, plain = aggregate.grouped(
        _result(tmp_path / str(n), run, _events(run, [0.5] * 10))
        for n, run in enumerate(runs)
    )
    for groups, expected in (
        ([first, second], [plot_style.GREY]),
        ([first, plain], ["red"]),
    ):
        panel = Figure().subplots()
        axes.mark([panel], groups, ["red", "blue"])
        broad = [line for line in panel.lines if line.get_linewidth() == 5]
        assert [line.get_color() for line in broad] == expected


def test_seeds_are_pooled_in_calibration_and_confusion(absgd):
    (group,) = aggregate.grouped(map(aggregate.read, absgd))
    last = [run_log.events(path / run_dir.RECORDS)[0][9]["test"] for path in absgd]
    found = calibration.bins(group)
    examples = np.sum([e["calibration"]["examples"] for e in last], axis=0)
    np.testing.assert_array_equal(found.examples, examples)
    # All are sure of what is right, by 29/30, and of what is wrong, by a half.
    right = sum(np.trace(e["confusion"]) for e in last)
    assert found.accuracy[14] == 1.0
    assert found.accuracy[7] == 0.0
    assert found.confidence[14] == pytest.approx(29 / 30)
    assert np.isnan(found.accuracy[0])
    assert found.examples[14] == right
    expected = (right / 30 + (3000 - right) / 2) / 3000
    assert found.error == pytest.approx(expected, abs=1e-6)

    shares = confusion.shares_of(np.array([[3, 1, 0], [0, 0, 0], [0, 2, 2]]))
    np.testing.assert_array_equal(
        shares, [[0.75, 0.25, 0.0], [np.nan] * 3, [0.0, 0.5, 0.5]]
    )


def test_numbers_are_written_as_print_does():
    assert formatting.number(math.inf) == "∞"
    assert formatting.number(-0.5) == "−0.5"
    assert formatting.spread(np.array([0.5])) == "50.0"
    assert formatting.spread(np.array([0.5, 0.7])) == "60.0 ± 14.1"
    assert formatting.spread(np.array([0.5, np.nan])) == "–"
    assert formatting.difference(np.array([-0.01, -0.03])) == "−2.0 ± 1.0"
    lines = formatting.markdown([["a", "bcd"], ["λλ", "e"]])
    assert lines == ["| a  | bcd |", "|----|-----|", "| λλ | e   |"]


def test_a_text_is_written_whole_and_to_what_is_no_file(tmp_path, monkeypatch):
    path, link = tmp_path / "new" / "a.txt", tmp_path / "link"
    link.symlink_to(path)
    run_log.save_text(link, "one")
    assert link.is_symlink()
    assert path.read_text() == "one"
    with monkeypatch.context() as patched:
        patched.setattr(pathlib.Path, "replace", None)  # as if it were killed before
        with pytest.raises(TypeError):
            run_log.save_text(path, "two")
    assert path.read_text() == "one"
    run_log.save_text(path, "two")
    assert {p: p.read_text() for p in path.parent.iterdir()} == {path: "two"}
    run_log.save_text(pathlib.Path(os.devnull), "three")
    assert not pathlib.Path(os.devnull).is_file()


def test_names_that_are_not_utf8_come_back(tmp_path):
    path = pathlib.Path(os.fsdecode(b"bad\xff.csv"))
    run_log.save(tmp_path / "a.json", {"path": path})
    assert json.loads((tmp_path / "a.json").read_bytes()) == {"path": str(path)}
    run_log.save_csv(tmp_path / "a.csv", [["λ", str(path)]])
    assert (tmp_path / "a.csv").read_text("utf-8") == "λ,bad\\udcff.csv\n"


def test_records_come_back(tmp_path):
    path = tmp_path / "records.jsonl"
    path.write_text("left over from another run\n")
    with run_log.Recorder(path) as recorder:
        recorder.write(lam=math.inf, loss=np.float32(0.5), counts=np.arange(3))
        # On the disk already, whatever happens next.
        assert run_log.events(path)[0] == [
            {"lam": "inf", "loss": 0.5, "counts": [0, 1, 2]}
        ]
        recorder.write(run=LONG_TAIL.run, name="λ", bound=None)
        with pytest.raises(TypeError, match="not JSON serializable"):
            recorder.write(value=object())
    last = run_log.events(path)[0][-1]
    assert last["run"]["data"]["imbalance_ratio"] == 50.0
    assert float(last["run"]["method"]["lam"]) == math.inf
    assert last["name"] == "λ"
