"""The campaign over the paper's tables: cells, their order, resuming, and the page."""

import contextlib
import dataclasses
import itertools
import json
import math
import pathlib
import re
import shutil
import socket
import subprocess
import sys

import chex
import numpy as np
import pytest

from experiments import cli, commands, configs, presets
from experiments.data import packed
from experiments.data.task import Task, load_task
from experiments.data.types import Examples, MissingData
from experiments.report import formatting
from experiments.results import aggregate, paper, run_dir, run_log
from experiments.studies import (
    equal_grids_report,
    method_grid,
    overview_report,
    paper_tables_report,
    reproduce,
    reproduce_report,
    results_page,
    untuned,
    untuned_report,
)
from experiments.studies.reproduce import LAMS, Cell
from experiments.train import checkpoint, loop, runs, sharding, steps
from experiments.train.session import Session
from tests import trees

ROOT = pathlib.Path(__file__).parents[1]
SETTING = "cifar10_lt100"
CELL = Cell(SETTING, "ABSGD (CE)", 1.0, 1, "test")
WRONG = Cell("cifar10_sym40", "ABSGD (SCE)", math.inf, 0, "test")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The smoke presets' images, packed."""
    directory = tmp_path_factory.mktemp("reproduce")
    data_dir = trees.build("cifar10", directory / "data")
    settings = ["--settings", SETTING, WRONG.setting, "--data-dir", str(data_dir)]
    command = ["reproduce", "--smoke", *settings, "--pack", str(directory / "pack")]
    assert cli.main(command) == 0
    return directory


def campaign(folder, out, *more, setting=SETTING):
    arguments = ["--smoke", "--settings", setting, "--packed", str(folder / "pack")]
    return ["reproduce", *arguments, "--out", str(out), *more]


def numbers(out):
    """Records without what differs from run to run."""
    return {
        (r["row"], r["lam"], r["seed"], r["split"]): (r["recall"], r["total_weight"])
        for r in run_log.events(out / "records.jsonl")[0]
    }


def test_packed_examples_are_those_of_the_data_set(folder):
    cells = [CELL._replace(split=s, seed=0) for s in ("test", "validation")]
    for cell in (*cells, WRONG):
        run = reproduce.run_of(cell, smoke=True)
        task = load_task(run.data, 0, folder / "data")
        read = packed.read(folder / "pack", run.data)
        names = ("train", "validation", "test", "class_counts", "mislabelled")
        ours, theirs = (
            [getattr(each, name) for name in names] for each in (read, task)
        )
        chex.assert_trees_all_equal(ours, theirs)


def test_packed_examples_of_another_configuration_are_missing(folder):
    data = configs.Data(source="cifar10", imbalance_ratio=3.0)
    with pytest.raises(MissingData) as raised:
        packed.read(folder / "pack", data)
    assert str(raised.value) == (
        f"{folder / 'pack'} has no examples of this configuration: source=cifar10, "
        "imbalance_ratio=3.0. Pack them: python -m experiments reproduce --pack."
    )


def test_a_field_that_is_new_to_the_configuration_keeps_what_was_packed(folder):
    """The fields of another build: one more, and the values of all others."""
    newer = dataclasses.make_dataclass(
        "Data", [("newer", int, 3)], bases=(configs.Data,), frozen=True
    )
    data = reproduce.run_of(CELL._replace(seed=0), smoke=True).data
    of_newer = newer(**vars(data))
    read, expected = (packed.read(folder / "pack", one) for one in (of_newer, data))
    np.testing.assert_array_equal(read.train.inputs, expected.train.inputs)
    with pytest.raises(MissingData, match=r", newer=4\."):
        packed.read(folder / "pack", dataclasses.replace(of_newer, newer=4))


DATA = configs.Data(source="cifar10")
OTHERS = dataclasses.replace(DATA, imbalance_ratio=3.0)


def tiny(seed=0):
    """A task of 20 images of 4 × 4 pixels, without validation examples."""
    images = np.random.default_rng(seed).integers(0, 256, (20, 4, 4, 3), np.uint8)
    labels = np.arange(20, dtype=np.int32) % 10
    train, test = (Examples(images[i::2], labels[i::2]) for i in range(2))
    return Task(train, None, test, np.arange(10) < 3, np.array([2, 0] * 5))


@pytest.mark.parametrize("part_bytes", [1, 100, 10**6])
def test_images_are_read_as_packed_whatever_the_size_of_the_parts(tmp_path, part_bytes):
    packed.write(tmp_path, [(DATA, tiny())], part_bytes)
    parts = sorted(tmp_path.glob("images.webp.*"))
    *full, last = (path.stat().st_size for path in parts)
    assert set(full) <= {part_bytes}
    assert 0 < last <= part_bytes
    chex.assert_trees_all_equal(packed.read(tmp_path, DATA), tiny())
    joined = b"".join(path.read_bytes() for path in parts)
    packed.write(tmp_path, [(DATA, tiny())])
    assert (tmp_path / "images.webp.1-of-1").read_bytes() == joined


def test_a_missing_part_is_refused(tmp_path):
    packed.write(tmp_path, [(DATA, tiny())], part_bytes=100)
    parts = sorted(tmp_path.glob("images.webp.*"))
    assert len(parts) > 9  # names have two digits
    for part in (parts[0], parts[8], parts[-1]):
        content = part.read_bytes()
        part.unlink()
        with pytest.raises(MissingData) as raised:
            packed.read(tmp_path, DATA)
        assert str(raised.value) == (
            f"{tmp_path} has no {part.name}: it must have all {len(parts)} parts of "
            "images.webp."
        )
        part.write_bytes(content[:-1])
        with pytest.raises(MissingData, match="Copy all files of one packing"):
            packed.read(tmp_path, DATA)
        part.write_bytes(content)
    packed.read(tmp_path, DATA)


@pytest.mark.parametrize("parts", [0, 1, 99])
@pytest.mark.parametrize("earlier", [False, True], ids=["new", "again"])
def test_an_interrupted_packing_is_not_read(tmp_path, monkeypatch, parts, earlier):
    """It stops in the middle of a part, or of the task's own file after all parts."""
    if earlier:
        packed.write(tmp_path, [(DATA, tiny())], part_bytes=400)
    write_bytes, left = pathlib.Path.write_bytes, iter(range(parts))

    def write_some(path, content):
        whole = next(left, None) is not None
        write_bytes(path, content if whole else content[: len(content) // 2])
        if not whole:
            raise KeyboardInterrupt

    def stop(file, **arrays):
        file.write(b"PK")
        raise KeyboardInterrupt

    monkeypatch.setattr(pathlib.Path, "write_bytes", write_some)
    monkeypatch.setattr(np, "savez_compressed", stop)
    with pytest.raises(KeyboardInterrupt):
        packed.write(tmp_path, [(DATA, tiny(seed=1))], part_bytes=400)
    with pytest.raises(MissingData):
        packed.read(tmp_path, DATA)


def test_images_of_another_packing_are_refused(tmp_path):
    packed.write(tmp_path, [(OTHERS, tiny())])
    packed.write(tmp_path, [(DATA, tiny(seed=1))])
    packed.read(tmp_path, DATA)
    with pytest.raises(MissingData, match=r"are not those that .*npz was packed with"):
        packed.read(tmp_path, OTHERS)


def found(lams, best=None, **more):
    """Records that choose λ."""
    cells = [Cell(SETTING, "ABSGD (CE)", lam, 0, "validation") for lam in lams]
    accuracy = lambda cell: 0.9 if cell.lam == best else 0.5
    return [cell._asdict() | {"accuracy": accuracy(cell)} | more for cell in cells]


def test_a_row_is_tested_once_its_lam_is_chosen():
    pending = lambda records: reproduce.pending(records, [SETTING], ["ABSGD (CE)"])
    choosing = [Cell(SETTING, "ABSGD (CE)", lam, 0, "validation") for lam in LAMS]
    assert pending([]) == choosing
    assert pending(found(LAMS[:-1])) == choosing[-1:]
    tests = [Cell(SETTING, "ABSGD (CE)", 2.0, seed, "test") for seed in range(3)]
    assert pending(found(LAMS, best=2.0)) == tests
    assert reproduce.chosen(found(LAMS), SETTING, "ABSGD (CE)") == max(LAMS)
    diverged = found(LAMS[:1], accuracy=None) + found(LAMS[1:], best=LAMS[1])
    assert reproduce.chosen(diverged, SETTING, "ABSGD (CE)") == LAMS[1]


def test_rows_of_one_loss_share_their_plain_training():
    """Adjusted logits, class weights and λ begin only after it."""
    rows = [row for row in reproduce.ROWS if row.preset in ("", "_cb_ce")]
    cells = [Cell(SETTING, row.name, 1.0, 0, "test") for row in rows]
    runs = [run for run in map(reproduce.run_of, cells) if run.method.start_at]
    assert {run.loss.name for run in runs} == {"cross_entropy", "logit_adjusted"}
    assert {run.loss.class_weights_in for run in runs} == {"loss", "base"}
    plain, *others = map(reproduce.first_stage, runs)
    assert others == [plain] * len(others)
    assert plain.loss == configs.Loss()


def test_the_hardest_columns_of_cifar10_come_first():
    cells = reproduce.pending([], reproduce.SETTINGS)
    order = [setting for setting, _ in itertools.groupby(c.setting for c in cells)]
    assert order[:2] == ["cifar10_lt100", "cifar10_st100"]
    assert order[2:4] == ["cifar10_sym40", "cifar10_asym40"]
    assert order[4:] == [*reproduce.IMBALANCED[2:], *reproduce.MISLABELLED[2:]]


def test_a_cell_that_is_listed_has_the_cost_of_its_own_epochs(tmp_path, shell):
    command = ["reproduce", "--list", "--out", tmp_path, "--settings", SETTING]
    printed = shell.printed(*command, "--rows", "SGD (CE)", "SGD (CB-Focal)")
    late, whole = (line for line in printed.splitlines() if "seed1: " in line)
    assert late.endswith(": 40 of 200 epochs are its own: 3,880 steps in 58 min")
    assert whole.endswith(": 200 of 200 epochs are its own: 19,400 steps in 4.8 h")


def test_a_preset_that_is_no_column_is_not_trained_as_one(tmp_path, shell):
    said = "no setting 'cifar10_lt100_cb_ce': there are 'cifar10_lt100', 'cifar10_st"
    command = ["reproduce", "--list", "--out", tmp_path, "--settings"]
    shell.refused(2, said, *command, "cifar10_lt100_cb_ce")


def test_only_equal_plain_trainings_share_a_directory(tmp_path):
    config = commands.Reproduce(out=tmp_path, smoke=True)
    worker, found = reproduce.new_worker(config), {}
    for setting in reproduce.SETTINGS:
        for row, split in itertools.product(
            reproduce.rows_of(setting), ("test", "validation")
        ):
            run = reproduce.run_of(Cell(setting, row.name, 1.0, 0, split))
            if run.method.start_at:
                directory = reproduce._plain_directory(run, worker)
                found.setdefault(directory, set()).add(reproduce.first_stage(run))
    assert {len(trainings) for trainings in found.values()} == {1}
    assert len(set.union(*found.values())) == len(found)


def test_a_cell_holds_examples_out_for_its_choice_alone():
    """Where labels are wrong, in every cell, to stop early by."""
    for setting, held_out in (("cifar10_lt100", 100), ("cifar100_st10", 10)):
        cell = CELL._replace(setting=setting)
        assert reproduce.run_of(cell).data.validation_per_class == 0
        run = reproduce.run_of(cell._replace(split="validation"))
        assert run.data.validation_per_class == held_out
        assert (run.seed, run.method.lam) == (CELL.seed, CELL.lam)
    radius = WRONG._replace(row="ABSGD (CE), ρ = 0.4 from the first step")
    for setting, held_out in (("cifar10_sym40", 100), ("cifar100_asym20", 10)):
        run = reproduce.run_of(radius._replace(setting=setting))
        assert run.data.validation_per_class == held_out
        method = run.method
        assert method.lam == -math.inf
        assert (method.rho, method.gamma, method.bound) == (reproduce.RHO, 0.1, 2.0)
    deferred = reproduce.run_of(CELL._replace(row="SGD (CB-CE), deferred")).loss
    assert deferred.class_weights_norm == "weights"
    assert deferred.class_weights_from == 0.8


@pytest.mark.parametrize("split", ["validation", "test"])
def test_a_record_has_the_accuracy_of_its_split(split, tmp_path):
    rest = {"lam": 1.0, "total_weight": 1.0, "effective_sample_size": 1.0}
    measured = {
        name: {"accuracy": score, "recall": [score], "calibration_error": 0.1}
        for name, score in (("validation", 0.5), ("test", 0.9))
    }
    result = aggregate.Result(
        tmp_path, None, configs.Run(), np.zeros(10), [measured | rest]
    )
    records, cell = tmp_path / "records.jsonl", CELL._replace(split=split)
    reproduce._append(records, cell, result, 1.0, [{"device": "a", "jax": "0"}])
    (record,) = run_log.events(records)[0]
    assert record["accuracy"] == measured[split]["accuracy"]
    assert record["recall"] == measured[split]["recall"]


def test_what_is_recorded_is_not_pending():
    rows = ["SGD (CE)", "SGD (LDAM)"]
    cells = reproduce.pending([], [SETTING, "cifar10_st100"], rows, seeds=2)
    assert len(cells) == 8
    assert cells[0] == Cell(SETTING, "SGD (CE)", math.inf, 0, "test")
    line = json.loads(json.dumps(run_log.to_jsonable(cells[0]._asdict())))
    assert reproduce.pending([line], [SETTING, "cifar10_st100"], rows, 2) == cells[1:]


@pytest.mark.parametrize("cell", [CELL, WRONG], ids=lambda cell: cell.setting)
def test_a_cell_is_the_run_that_trains_from_the_first_step(folder, tmp_path, cell):
    row = ("--rows", cell.row)
    assert cli.main(campaign(folder, tmp_path, *row, setting=cell.setting)) == 0
    records = run_log.events(tmp_path / "records.jsonl")[0]
    tested = next(r for r in records if r["split"] == "test")
    cell = Cell(**{name: tested[name] for name in Cell._fields})
    run = reproduce.run_of(cell, smoke=True)
    task = load_task(run.data, cell.seed, folder / "data")
    layout, session = sharding.layout(1), Session(devices=1, workers=0)
    events = []
    callbacks = loop.Callbacks(lambda **event: events.append(event))
    start = loop.begin(run, task, layout)
    loop.fit(run, task, layout, session, start, callbacks)
    recall, weight = numbers(tmp_path)[cell[1:]]
    np.testing.assert_allclose(recall, events[-1]["test"]["recall"], atol=1e-4)
    np.testing.assert_allclose(weight, events[-1]["total_weight"], atol=1e-4)
    best_by = {"stopped_early": "validation", "best_on_test": "test"}
    there = best_by.keys() & tested.keys()
    assert there == (best_by.keys() if cell.setting == WRONG.setting else set())
    if there:
        course = [event["validation"]["accuracy"] for event in events]
        np.testing.assert_allclose(tested["validation_by_epoch"], course, atol=1e-4)
    for name in there:
        best = max(events, key=lambda event: event[best_by[name]]["accuracy"])
        expected = best["test"]["accuracy"], best["test"]["calibration_error"]
        assert tested[name]["epoch"] == best["epoch"]
        found = tested[name]["accuracy"], tested[name]["calibration_error"]
        np.testing.assert_allclose(found, expected, atol=1e-4)


def test_sgd_weighs_all_alike_and_a_radius_does_not(folder, tmp_path):
    rows = ["SGD (CE)", "ABSGD (CE), ρ = 0.4"]
    command = campaign(folder, tmp_path, "--seeds", "1", "--rows", *rows)
    assert cli.main(command) == 0
    sgd, radius = run_log.events(tmp_path / "records.jsonl")[0]
    assert sgd["effective_sample_size"] == sgd["total_weight"] == 1.0
    assert sgd["last_lam"] == "inf"
    assert radius["effective_sample_size"] < 1.0
    assert 0.0 < radius["last_lam"] < math.inf


def test_a_campaign_goes_on_where_the_time_ended(folder, tmp_path, monkeypatch, capsys):
    rows = ("--rows", "SGD (CE)", "SGD (CB-CE), deferred", "--seeds", "1")
    assert cli.main(campaign(folder, tmp_path / "whole", *rows)) == 0
    clock = iter(range(10**9))  # a second passes whenever somebody looks
    monkeypatch.setattr(reproduce.time, "monotonic", lambda: next(clock))
    sittings = 0
    while sittings < 20:
        sittings += 1
        monkeypatch.setattr(reproduce.jax, "__version__", f"0.{sittings}")
        minutes = ("--minutes", str(12 / 60))
        assert cli.main(campaign(folder, tmp_path / "parts", *rows, *minutes)) == 0
        over = "2 cells are recorded, 0 can be trained next.\n"
        if capsys.readouterr().out.endswith(over):
            break
    assert sittings > 2
    assert numbers(tmp_path / "parts") == numbers(tmp_path / "whole")
    # A cell names the versions of all its sittings.
    one, _ = run_log.events(tmp_path / "whole" / "records.jsonl")[0]
    first, second = run_log.events(tmp_path / "parts" / "records.jsonl")[0]
    assert ", then " not in one["jax"]
    assert first["device"] == one["device"]
    for record in (first, second):
        assert record["jax"].startswith("0.1, then 0.2, then ")
        # And the time of all its epochs, also of those that a sitting ended in.
        cell = Cell(SETTING, record["row"], math.inf, 0, "test")
        found, _ = run_log.events(tmp_path / "parts" / cell.name / run_dir.RECORDS)
        spent = sum(each["seconds"] for each in found if each["event"] == "epoch")
        assert record["seconds"] >= spent > 0.0


def test_a_cell_does_not_go_on_from_another_configuration(
    folder, tmp_path, monkeypatch, shell
):
    rows = ("--rows", "SGD (CE)", "--seeds", "1", "--minutes", "0.0001")
    given = campaign(folder, tmp_path / "out", *rows)
    assert cli.main(given) == 0
    (kept,) = (tmp_path / "out").glob("*-first-*/config.json")
    stored, plain = kept.read_bytes(), reproduce.first_stage
    other = {"optimizer.weight_decay": 0.1}  # as of a build with another preset
    monkeypatch.setattr(
        reproduce, "first_stage", lambda run: configs.replace(plain(run), other)
    )
    shell.refused(2, "optimizer.weight_decay: 0.0002 there, 0.1 here", *given)
    assert kept.read_bytes() == stored


def test_a_plain_training_that_diverges_is_recorded_for_its_rows(
    folder, tmp_path, monkeypatch
):
    run_of = reproduce.run_of
    too_fast = {"optimizer.learning_rate": 1e30}
    monkeypatch.setattr(
        reproduce, "run_of", lambda *cell: configs.replace(run_of(*cell), too_fast)
    )
    command = campaign(folder, tmp_path, "--rows", "SGD (CE)", "--seeds", "1")
    assert cli.main(command) == 0
    (record,) = run_log.events(tmp_path / "records.jsonl")[0]
    assert record["accuracy"] is None
    assert "not finite" in record["diverged"]


def test_a_cell_is_recorded_though_no_checkpoint_of_its_own_is_written(
    folder, tmp_path, monkeypatch, shell
):
    command = campaign(folder, tmp_path, "--rows", "SGD (CE)", "--seeds", "1")
    prepare, full = checkpoint.Checkpoints._prepare, "-first-"

    def refuse(self, size):
        if full in str(self._directory):
            raise OSError("No space left.")
        prepare(self, size)

    monkeypatch.setattr(checkpoint.Checkpoints, "_prepare", refuse)
    monkeypatch.setattr(runs.RunLogger, "_late", lambda self: True)
    # The cell starts from the end of its plain training.
    shell.refused(1, "its last checkpoint could not be saved", *command)
    full = "-test-"
    assert cli.main(command) == 0
    (record,) = run_log.events(tmp_path / "records.jsonl")[0]
    assert record["accuracy"] is not None
    events = run_log.events(next(tmp_path.glob("*-test-*")) / run_dir.RECORDS)[0]
    assert "save_failed" in {event["event"] for event in events}


def test_processes_share_a_campaign(folder, tmp_path):
    arguments = campaign(folder, tmp_path, "--rows", "SGD (CE)")
    # Of a process that was killed; its number is one that no process can have.
    claimed = tmp_path / f"{Cell(SETTING, 'SGD (CE)', math.inf, 0, 'test').name}"
    claimed.mkdir()
    owner = f"{2**22 + 1} {socket.gethostname()}\n"
    (claimed / run_dir.LOCK).write_text(owner, encoding="utf-8")
    command = [sys.executable, "-m", "experiments", *arguments]
    with subprocess.Popen(command, cwd=ROOT) as other:
        assert cli.main(arguments) == 0
        assert other.wait(timeout=300) == 0
    assert (
        len(run_log.events(tmp_path / "records.jsonl")[0])
        == len(numbers(tmp_path))
        == 3
    )


def test_the_page_is_what_the_records_make():
    page = results_page.page(ROOT / "results")
    assert (ROOT / "docs" / "results.md").read_bytes() == page.encode()


def test_the_page_has_the_rates_of_a_comparison():
    path = ROOT / "results" / "compare_digits_long_tail.json"
    results = json.loads(path.read_text(encoding="utf-8"))
    for rates, shown in (
        ([1.0, 0.5, 2.0], ""),
        ([1.0, 0.5], " --rates 1 0.5"),
        ([1.0], " --rates 1"),
    ):
        page = results_page._compared(results | {"rates": rates})
        words = " ".join(page.replace("\\", "").split())
        assert f"digits_long_tail{shown} --seeds" in words


def test_the_overview_has_the_gains_of_the_sections():
    page = results_page.page(ROOT / "results")
    overview, _, sections = page.partition("## The paper's protocol in full")
    gains = {}  # by the method's title in the overview, in the order of columns
    for line in overview.splitlines():
        if line.startswith("| "):
            _, title, *cells = (cell.strip() for cell in line.split("|")[1:-1])
            gains.setdefault(title, cells)
    for title, of_sections in {
        "logit adjustment from the first step": ("Logit adjustment",),
        "logit adjustment, deferred": ("SGD (CE), logit adjustment, deferred",),
        "ABSGD on SCE": ("ABSGD (SCE)",),
        "ABSGD, λ chosen": ("ABSGD", "ABSGD (CE)"),
    }.items():
        shown = {cell for cell in gains[title] if cell != "–"}
        of_rows = {
            cell.strip()
            for line in sections.splitlines()
            if line.split("|")[1:2] and line.split("|")[1].strip() in of_sections
            for cell in line.split("|")
        }
        assert shown
        assert shown <= of_rows


def test_a_row_that_diverged_at_every_lam_has_nothing_left():
    of_row = {"setting": SETTING, "row": "ABSGD (CE)", "seed": 0, "split": "validation"}
    records = [of_row | {"lam": lam, "accuracy": None} for lam in reproduce.LAMS]
    left = lambda known: [
        cell.row for cell in reproduce_report._left(known, SETTING)
    ].count("ABSGD (CE)")
    assert left(records) == 0
    assert left(records[1:]) == 1 + reproduce.SEEDS
    assert ["ABSGD (CE)", *["diverged"] * 5, "none"] in reproduce_report._choices(
        records, SETTING
    )


def test_the_overview_leaves_out_data_without_sgd():
    of_row = {"setting": SETTING, "row": "ABSGD (CE), ρ = 0.4", "lam": "inf"}
    of_row["epochs"] = 200
    record = of_row | {"seed": 0, "split": "test", "accuracy": 0.7}
    diverged = record | {"row": "SGD (CE)", "accuracy": None}
    for records in ([record], [record, diverged]):
        assert "in full |" not in overview_report.section([records], [], [])
    records = [record, diverged | {"accuracy": 0.6}]
    assert "in full |" in (page := overview_report.section([records], [], []))
    assert "| +10.0 " in page


def test_the_overview_names_methods_that_there_are():
    known = {
        "compared": {
            one
            for name in ("digits_long_tail", "digits_label_noise")
            for one in method_grid.every(presets.get(name).run)
        },
        "grids": equal_grids_report.titles(),
        "in_full": {r.name for r in reproduce.ROWS + reproduce.MISLABELLED_ROWS},
    }
    families = [*overview_report.IMBALANCED.values()]
    families += overview_report.MISLABELLED.values()
    families += overview_report.GROUPED.values()
    for row in itertools.chain(*families):
        for study, names in known.items():
            name = getattr(row, study)
            assert name is None or name.removesuffix("+norm") in names


def test_a_diverged_seed_is_counted_and_the_others_are_shown():
    row = reproduce.ROWS[0].name
    done = {"recall": [0.5] * 10, "last_lam": "inf", "total_weight": 1.0}
    place = {"device": "a", "jax": "0", "seconds": 1.0, "split": "test", "lam": "inf"}
    records = [
        {"setting": SETTING, "row": row, "seed": seed, "accuracy": accuracy}
        | place
        | (done if accuracy else {})
        for seed, accuracy in enumerate((None, 0.60, 0.64))
    ]
    page = reproduce_report.sections(records, "a.jsonl")
    own = [line for line in page.splitlines() if line.startswith(f"| {row}")]
    assert len(own) == 2  # accuracy, and recall of each class
    assert all("| 2; 1 of 3 diverged |" in line for line in own)
    assert "| 62.0 ± 2.8 |" in own[0]


def test_a_setting_without_a_finished_test_has_no_recall():
    place = {"device": "a", "jax": "0", "seconds": 1.0}
    cell = {"setting": SETTING, "row": "SGD (CE)", "lam": "inf", "seed": 0}
    diverged = cell | {"split": "test", "accuracy": None} | place
    for records in ([diverged], found(LAMS[:1], **place)):
        page = reproduce_report.sections(records, "a.jsonl")
        assert f"### {reproduce_report.title(SETTING)}" in page
        assert "Recall of each class" not in page


def test_wrong_labels_are_tabulated_at_the_last_epoch_and_at_two_earlier_ones():
    rows = reproduce.MISLABELLED_ROWS[0].name, WRONG.row
    measured = ((0.60, 0.80), (0.62, 0.80)), ((0.70, 0.82), (0.74, 0.80))
    records = [
        {"row": row, "seed": seed, "accuracy": last, "calibration_error": 0.1}
        | {"setting": WRONG.setting, "split": "test", "lam": "inf", "last_lam": "inf"}
        | {"stopped_early": {"accuracy": early, "calibration_error": 0.05}}
        | {"best_on_test": {"accuracy": early + 0.01, "calibration_error": 0.05}}
        | {"device": "a", "jax": "0", "seconds": 1.0, "epochs": 120}
        for row, results in zip(rows, measured, strict=True)
        for seed, (last, early) in enumerate(results)
    ]
    page = reproduce_report.sections(records, "a.jsonl")
    _, absgd = (
        [cell.strip() for cell in line.split("|")[2:-1]]
        for line in page.partition(reproduce_report.title(WRONG.setting))[
            2
        ].splitlines()
        if line.startswith(tuple(f"| {row}" for row in rows))
    )
    last = ["72.0 ± 2.8", "+11.0 ± 1.0", "10.0 ± 0.0"]
    early = ["81.0 ± 1.4", "+1.0 ± 1.0", "5.0 ± 0.0"]
    best = ["82.0 ± 1.4", "+1.0 ± 1.0", "5.0 ± 0.0"]
    assert absgd == [*last, *early, *best, "2", "∞", "88.65 ± 0.21 (+2.9)"]
    overview = overview_report.section([records], [], [])
    rare, wrong = overview.split("### Wrong labels")
    assert "noise" not in rare.partition("### Rare")[2]
    assert (
        "rate 0.4, in full | CIFAR-10, symmetric noise of rate 0.4, in full, e" in wrong
    )
    assert re.search(r"\| ABSGD on SCE *\| \+11.0 ± 1.0 *\| \+1.0 ± 1.0", wrong)


def _tables(text):
    """Cells of the tables under headings, by heading, method and column."""
    tables = {}
    for part in text.split("\n### ")[1:]:
        heading, *lines = part.splitlines()
        rows = [
            [cell.strip() for cell in line.split("|")[1:-1]]
            for line in lines
            if line.startswith("| ")
        ]
        head, *rows = rows or [[]]  # what follows the tables has none
        for method, *cells in rows:
            for column, cell in zip(head[1:], cells, strict=True):
                tables[heading, method, column] = cell
    return tables


def test_every_printed_result_stands_in_its_table_once():
    found = _tables(paper_tables_report.section([]))
    assert len(found) >= len(paper.rows())
    for row in paper.rows():
        heading = f"{paper.VERSIONS[row.version].capitalize()}, Table {row.table}"
        of_row = {
            column: found.pop((heading, method, column))
            for at, method, column in list(found)
            if (at, method) == (heading, row.method)
            and column.startswith(f"{row.dataset} ")
            and (f" {row.imbalance} {row.ratio} " in column or not row.ratio)
            and row.backbone in column
            and ("top 5" in column) == (row.metric == "top5")
        }
        assert [cell.rstrip("?") for cell in of_row.values()] == [row.printed or "–"]
    assert set(found.values()) <= {"–"}  # a method that the paper has for other data


def test_ours_stands_only_next_to_the_same_row_of_the_same_data():
    records = run_log.events(ROOT / "results" / results_page.REPRODUCE)[0]
    bold = {
        key: cell
        for key, cell in _tables(paper_tables_report.section(records)).items()
        if "**" in cell
    }
    assert {column for _, _, column in bold} == {
        " ".join((*key[2:5], paper.lookup(key)[0].backbone))
        for setting in reproduce_report.recorded_settings(records)
        for key in presets.get(setting).paper
    }
    own = (SETTING, "SGD (CE)", "test")
    ours = [
        r["accuracy"] for r in records if (r["setting"], r["row"], r["split"]) == own
    ]
    shown = f"**{formatting.spread(np.array(ours))} ({len(ours)})**"
    assert bold["Later version, Table 1", "SGD (CE)", "CIFAR10 LT 100 ResNet32"] == (
        f"71.75 ± 0.75; {shown}"
    )


def test_a_setting_has_the_tests_of_its_own_rows():
    record = {"row": "SGD (CE)", "lam": "inf", "seed": 0, "split": "test"}
    records = [
        record | {"setting": setting, "accuracy": accuracy}
        for setting, accuracy in ((SETTING, 0.7), ("cifar10_st100", 0.5))
    ]
    for order in (records, records[::-1]):
        (tested,) = reproduce_report.tested_rows(order, SETTING)
        assert tested.values("accuracy").tolist() == [0.7]


def test_what_is_left_has_a_preset_for_all_data_of_the_paper():
    lines = paper_tables_report.costs([]).splitlines()
    _, *rows = (line for line in lines if line.startswith("| "))
    data = {line.split("|")[1].strip() for line in rows}
    assert data == {
        " ".join(filter(None, (row.dataset, row.imbalance, row.ratio)))
        for row in paper.rows()
    }


def test_the_page_is_written_as_html_too(tmp_path, capsys):
    out, page = tmp_path / "results.md", tmp_path / "results.html"
    records = str(ROOT / "results")
    command = ["results", "--records", records, "--out", str(out), "--html", str(page)]
    assert cli.main(command) != 0
    assert f"figures --out {tmp_path / 'figures'}` draws" in capsys.readouterr().err
    shutil.copytree(ROOT / "docs" / "figures", tmp_path / "figures")
    assert cli.main(command) == 0
    text = page.read_text(encoding="utf-8")
    rows = [line for line in out.read_text().splitlines() if line.startswith("| ")]
    assert text.count("<tr>") == len(rows)
    assert text.count("<h2") == text.count('href="#section-')
    assert "<code>reproduce.jsonl</code>" in text
    assert "http" not in re.sub('base64,[^"]*', "", text)


def test_the_last_layer_is_trained_on_what_enters_it(folder, tmp_path):
    file = tmp_path / f"{untuned_report.HEAD}.npz"
    more = ("--seeds", "2", "--features", str(file))
    assert cli.main(campaign(folder, tmp_path, *more)) == 0
    data = untuned.task(untuned_report.HEAD, tmp_path, [0, 1])
    assert data.train[0].shape[:2] == data.train[1].shape
    # The network itself, on its test images, has the logits of its last layer.
    cell = Cell(SETTING, "SGD (CE)", math.inf, 1, "test")
    config = commands.Reproduce(out=tmp_path, packed=folder / "pack", smoke=True)
    run = reproduce.run_of(cell, smoke=True)
    own = reproduce.new_worker(config)
    task = own.task(run)
    state = reproduce.plainly_trained(run, task, own)
    program = steps.program(run, sharding.layout(1))
    batches = loop.in_order(task.test, run, own.layout, own.session)
    counts = [program.evaluate(state, batch) for batch in batches]
    (layer,) = data.params
    with np.load(file) as found:
        logits = found["test"][1] @ layer["w"][1] + layer["b"][1]
        right = np.argmax(logits, -1) == found["test_labels"][1]
        assert found["epochs"].tolist() == [run.epoch_at(run.method.start_at)] * 2
    assert sum(int(count.correct.sum()) for count in counts) == right.sum()


def test_features_are_of_passes_that_no_training_has_had(tmp_path, monkeypatch):
    seen = {}

    def stop(*_, **given):
        seen.update(given)
        raise KeyboardInterrupt

    monkeypatch.setattr(reproduce.loader, "training", stop)
    own = reproduce.new_worker(commands.Reproduce(out=tmp_path))
    run = reproduce.run_of(CELL, smoke=True)
    with pytest.raises(KeyboardInterrupt):
        reproduce._features_of(run, tiny(), None, own)
    assert seen["seed"] == run.seed
    assert len(seen["epochs"]) == equal_grids_report.PASSES
    assert min(seen["epochs"]) == run.epochs


def test_the_last_layer_is_written_in_many_sittings(
    folder, tmp_path, monkeypatch, capsys
):
    file, clock = tmp_path / "f.npz", iter(range(10**9))
    command = campaign(folder, tmp_path, "--seeds", "1", "--features", str(file))
    monkeypatch.setattr(reproduce.time, "monotonic", lambda: next(clock))
    sittings = 0
    while sittings < 20 and not file.exists():
        assert cli.main([*command, "--minutes", str(12 / 60)]) == 0
        sittings += 1
        over = f"{file}: the time is up; what is trained is saved.\n"
        assert (over in capsys.readouterr().out) == (not file.exists())
    assert 1 < sittings < 20
    file.unlink()
    sleeps = iter(range(20))  # another process trains the network
    monkeypatch.setattr(reproduce.time, "sleep", lambda _: next(sleeps))
    (plain,) = tmp_path.glob("*-first-*")
    with run_dir.lock(plain):
        assert cli.main([*command, "--minutes", str(12 / 60)]) == 0
    assert capsys.readouterr().out == over


def test_processes_share_the_networks_of_a_last_layer(folder, tmp_path, monkeypatch):
    """The file is the same where another process has the first network for a while."""
    more = ("--seeds", "2", "--epochs", "5", "--features")
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    assert cli.main(campaign(folder, alone, *more, str(alone / "f.npz"))) == 0
    first, _ = sorted(path.name for path in alone.glob("*-first-4-epochs-seed?"))
    with contextlib.ExitStack() as other:
        other.enter_context(run_dir.lock(shared / first))
        monkeypatch.setattr(reproduce.time, "sleep", lambda _: other.close())
        assert cli.main(campaign(folder, shared, *more, str(shared / "f.npz"))) == 0
    with np.load(alone / "f.npz") as one, np.load(shared / "f.npz") as two:
        chex.assert_trees_all_equal({**one}, {**two})
        assert one["epochs"].tolist() == [4, 4]


def test_cells_of_fewer_epochs_have_records_of_their_own(folder, tmp_path, shell):
    command = campaign(folder, tmp_path, "--rows", "SGD (CB-CE), deferred")
    command += ["--seeds", "1"]
    fewer = ["--epochs", "5", "--records", tmp_path / "fewer.jsonl"]
    wrong = campaign(folder, tmp_path, *fewer, setting=WRONG.setting)
    shell.refused(2, f"without wrong labels, got {WRONG.setting}", *wrong)
    shell.printed(*command)
    shell.refused(2, "trainings of 3 epochs, and these would", *command, *fewer[:2])
    shell.printed(*command, *fewer)
    (whole,), (record,) = (
        run_log.events(tmp_path / name)[0] for name in ("records.jsonl", "fewer.jsonl")
    )
    assert (whole["epochs"], record["epochs"]) == (3, 5)
    # The last fifth begins after plain training of four epochs.
    (own,) = tmp_path.glob("*-5-epochs")
    (plain,) = tmp_path.glob("*-first-4-epochs-seed0")
    epochs = [
        [e["epoch"] for e in run_log.events(each / run_dir.RECORDS)[0] if "loss" in e]
        for each in (plain, own)
    ]
    assert epochs == [[1, 2, 3, 4], [5]]


def test_the_section_of_fewer_epochs_says_where_its_stages_begin():
    place = {"device": "a", "jax": "0", "seconds": 1.0, "split": "test", "lam": "inf"}
    record = {"setting": SETTING, "row": "SGD (CE)", "seed": 0, "accuracy": 0.6}
    record |= {"recall": [0.6] * 10, "last_lam": "inf", "total_weight": 1.0} | place
    page = reproduce_report.fewer_epochs([record | {"epochs": 30}], "a.jsonl")
    assert page.startswith("## The paper's protocol in 30 epochs\n")
    assert "at epochs 24 and 27," in page
    assert "| SGD (CE) | 60.0 " in page
    found = [[record | {"epochs": 200}], [record | {"epochs": 30}]]
    overview = overview_report.section(found, [], [])
    assert "ratio 100, in full | CIFAR-10, long tail of ratio 100, 30 epochs |" in (
        overview
    )
