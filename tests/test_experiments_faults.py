"""What goes wrong for a user of the command line, and what it says."""

import contextlib
import errno
import functools
import io
import json
import math
import operator
import os
import pathlib
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile

import pytest

from experiments import cli, commands, configs, terminal
from experiments.data import datasets
from experiments.data.types import DamagedData
from experiments.report import formatting
from experiments.results import run_dir, run_log
from experiments.train import loop, runs
from tests.programs import events, newest, resumed
from tests.trees import write_csv

ROOT = pathlib.Path(__file__).parent.parent
# As in `test_experiments_commands.py`, hence with its programs.
SMALL = (
    "--model.widths", "4", "8", "--data.examples-per-class", "110",
    "--batch-size", "32",
)  # fmt: skip
TRAIN = ("train", "digits_label_noise", *SMALL, "--epochs", "2", "--no-tensorboard")
NOBODY = 65534  # a user that may write nowhere
ABSENT = 2**22 + 1  # no process has this number


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("finished") / "a run"
    assert cli.main([*TRAIN, "--out", str(out)]) == 0
    return out


@pytest.fixture
def read_only(finished):
    """A copy of the run that this process, which is not root for the time, may read."""
    import matplotlib.backends.backend_agg
    import matplotlib.pyplot  # noqa: F401

    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        out = shutil.copytree(finished, pathlib.Path(folder) / "run")
        for path in (out, *out.rglob("*")):
            path.chmod(0o555)
        root = os.geteuid() == 0
        if root:
            os.seteuid(NOBODY)
        try:
            yield out
        finally:
            if root:
                os.seteuid(0)
            for path in (out, *out.rglob("*")):
                path.chmod(0o755)


def experiments(*arguments, first="pass", **options):
    """Starts a process, which runs some other statements before the command line."""
    main = f"import runpy; {first}; runpy.run_module('experiments', None, '__main__')"
    return subprocess.Popen(
        [sys.executable, "-c", main, *map(str, arguments)],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options,
    )  # fmt: skip


# Two processes.


@pytest.mark.parametrize("command", [TRAIN, ("demo", "--seeds", "1", "--epochs", "1")])
def test_a_directory_in_use_is_refused_with_host_and_process(command, shell, tmp_path):
    out = tmp_path / "run"
    script = (
        "import pathlib, sys\n"
        "from experiments.results import run_dir\n"
        "with run_dir.lock(pathlib.Path(sys.argv[1])):\n"
        "    print(flush=True)\n"
        "    sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(out)], cwd=ROOT,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as other:  # fmt: skip
        other.stdout.readline()
        who = f"process {other.pid} on host {socket.gethostname()}"
        in_use = f"{out} is in use: {who} trains there."
        shell.refused(2, in_use, *command, "--out", out)
        assert [path.name for path in out.iterdir()] == [run_dir.LOCK]
        other.stdin.close()
    assert not out.exists()  # nothing was put into it


def test_a_file_of_records_in_use_is_refused_and_its_neighbour_is_not(
    shell, programs, tmp_path
):
    """The other process waits for its data, which come through a pipe."""
    data_dir, out = tmp_path / "data", tmp_path / "out" / "a.jsonl"
    data_dir.mkdir()
    os.mkfifo(data_dir / "phoneme.csv")
    command = ("untuned", "--data", "phoneme", "--data-dir")
    lock = out.with_name("a.jsonl.lock")
    other = programs.start(*command, data_dir, "--out", out)
    other.wait_for(lambda: lock.exists() and lock.read_text())
    who = f"process {other.process} on host {socket.gethostname()}"
    shell.refused(2, f"{out} is in use: {who}", *command, data_dir, "--out", out)
    # Another file next to it is free; for it the data are missing.
    free = (*command, tmp_path, "--out", out.with_name("b.jsonl"))
    shell.refused(3, "no phoneme.csv in it", *free)
    shell.refused(2, "no data set 'phonemes': there", "untuned", "--data", "phonemes")
    assert other.end(signal.SIGKILL) == -signal.SIGKILL
    # The lock of a process that was killed counts for nothing.
    status, _, said = shell("after-first-stage", "--data-dir", tmp_path, "--out", out)
    assert (status, "in use" in said) == (3, False)
    assert not lock.exists()


def _not_supported(*_):
    raise OSError(errno.ENOTSUP, "Operation not supported")


@pytest.mark.parametrize("kernel_locks", [True, False])
def test_the_lock_of_a_dead_process_counts_for_nothing(
    kernel_locks, tmp_path, monkeypatch
):
    if not kernel_locks:
        monkeypatch.setattr(run_dir.fcntl, "flock", _not_supported)
    (tmp_path / run_dir.LOCK).write_text(f"{ABSENT} {socket.gethostname()}\n")
    with run_dir.lock(tmp_path):
        owner = (tmp_path / run_dir.LOCK).read_text()
        assert owner == f"{os.getpid()} {socket.gethostname()}\n"
        with pytest.raises(run_dir.Locked), run_dir.lock(tmp_path):
            pass
        with run_dir.claim(tmp_path) as claimed:
            assert not claimed
    assert not (tmp_path / run_dir.LOCK).exists()


def test_where_the_kernel_has_no_locks_another_host_is_believed(tmp_path, monkeypatch):
    monkeypatch.setattr(run_dir.fcntl, "flock", _not_supported)
    (tmp_path / run_dir.LOCK).write_text(f"{ABSENT} elsewhere\n")
    elsewhere = pytest.raises(run_dir.Locked, match="on host elsewhere")
    with elsewhere, run_dir.lock(tmp_path):
        pass


# Disks and paths.


def test_a_last_checkpoint_that_cannot_be_saved_fails(shell, tmp_path):
    out = tmp_path / "run"
    out.mkdir()
    (out / "checkpoints").write_text("in the way")
    status, _, said = shell(*TRAIN, "--out", out)
    assert status == 1
    assert "its last checkpoint could not be saved" in said
    assert said.endswith("the same command then starts over.\n")
    assert "Traceback" not in said
    assert len(events(out, "save_failed")) == 2
    assert len(events(out, "finished")) == 1  # its numbers are known


def test_a_disk_that_takes_nothing_is_one_sentence(tmp_path):
    full = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))"
    with experiments("demo", "--out", tmp_path / "run", first=full) as process:
        _, said = process.communicate(timeout=300)
    assert process.returncode == 1
    assert said.count("\n") == 1, said
    assert "File too large" in said


def test_a_directory_that_cannot_be_is_one_sentence(shell, finished, tmp_path):
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "run"):
        for command in (TRAIN, ("demo",), ("report", finished)):
            status, _, said = shell(*command, "--out", out)
            assert status == 1, said
            said = said.removeprefix("Starting JAX.\n")
            assert said.startswith(f"{tmp_path / 'file'}")
            assert said.endswith("give --out a directory that you may write to.\n")
            assert said.count("\n") == 1


def test_a_read_only_run_is_evaluated_and_reported(shell, read_only):
    status, printed, said = shell("evaluate", read_only)
    assert status == 0
    assert "test: accuracy " in printed or "test: " in printed
    assert "evaluation.json could not be saved" in said
    status, printed, said = shell("report", read_only)
    assert status == 0
    assert "# digits_label_noise" in printed
    assert "The report could not be saved" in said
    status, _, said = shell(*TRAIN, "--out", read_only / "below")
    assert status == 1
    assert "that you may write to." in said
    assert "Permission denied" in said


# Reports.


def test_reports_skip_what_is_no_run(shell, finished, tmp_path):
    first = shutil.copytree(finished, tmp_path / "runs" / "a")
    other = shutil.copytree(finished, tmp_path / "runs" / "b")
    config = json.loads((other / run_dir.CONFIG).read_text())
    config["run"]["seed"] = 1
    (other / run_dir.CONFIG).write_text(json.dumps(config))
    (tmp_path / "runs" / "my grid" / run_dir.TRAININGS).mkdir(parents=True)
    for _ in range(2):  # the second time it meets the first report and its figures
        paths = sorted((tmp_path / "runs").iterdir())
        status, printed, said = shell("report", *paths)
        assert status == 0, said
        assert "over 2 seeds" in printed
        skipped = said.count(" is skipped: it is not the directory of a run.")
        assert skipped == len(paths) - 2
        within = tmp_path / "runs" / "my grid" / "runs"
        assert f"Its own runs: report '{within}'/*\n" in said
    assert skipped > 1
    shell.refused(2, "There is no directory", "report", first, tmp_path / "runs" / "c")
    nothing = "None of these is the directory of a run."
    shell.refused(2, nothing, "report", tmp_path / "runs" / "my grid")


def test_a_diverged_run_is_reported_with_what_to_try(shell, tmp_path):
    large = ("--optimizer.learning-rate", "1e30")
    status, _, said = shell(*TRAIN, *large, "--out", tmp_path)
    advice = "Try a smaller learning rate (it is 1e+30), or a larger |λ| (it is 1), or"
    assert status == 4
    for what in (advice, "(ABSGD, λ = −1, seed 0)", "training examples "):
        assert what in said
    status, printed, _ = shell("report", tmp_path)
    assert status == 0
    assert "diverged after 0 whole epochs of 2. A loss is not finite at step" in printed
    assert f"{advice} a radius in place of λ (--method.rho 0.1" in printed
    assert "not finished" not in printed
    assert "No epoch was tested." in printed


def test_a_run_with_a_radius_diverges_by_its_radius(shell, tmp_path):
    large = ("--optimizer.learning-rate", "1e30", "--method.rho", "0.4")
    radius = ("--method.lam=inf", "--method.start-at", "0")
    said = "(ABSGD, ρ = 0.4, seed 0). Try a smaller learning rate (it is 1e+30), or"
    shell.refused(4, said, *TRAIN, *large, *radius, "--out", tmp_path)


# A config.json that was changed by hand, and data that were changed.


@pytest.mark.parametrize(
    ("section", "field", "meant"),
    [
        ("", "sesion", "session"),
        ("session", "worker", "session.workers"),
        ("run", "epochz", "run.epochs"),
        ("run.optimizer", "lerning_rate", "run.optimizer.learning_rate"),
        ("run.data.contents", "class_sices", "run.data.contents.class_sizes"),
    ],
)
def test_an_unknown_field_is_refused_with_its_path(
    section, field, meant, finished, shell, tmp_path
):
    config = json.loads((finished / run_dir.CONFIG).read_text())
    config["run"]["data"]["contents"] = {} if "contents" in section else None
    names = section.split(".") if section else []
    functools.reduce(operator.getitem, names, config)[field] = 7
    out = tmp_path / "run"
    out.mkdir()
    (out / run_dir.CONFIG).write_text(json.dumps(config))
    path = ".".join([*names, field])
    said = f"there is no field {path}. It is misspelled (for {meant}?), or of another"
    for command in (("evaluate", out), ("train", "--config", out)):
        shell.refused(2, said, *command)


def test_fields_may_be_missing_that_are_newer_than_the_file_and_sections_not(finished):
    config = json.loads((finished / run_dir.CONFIG).read_text())["run"]
    del config["data"]["positive"], config["new_head"]
    assert run_dir.parse(config) == run_dir.load(finished).run
    del config["optimizer"]
    with pytest.raises(ValueError, match=r"it has no run\.optimizer"):
        run_dir.parse(config)


def test_your_own_data_whose_contents_are_not_known_are_to_be_read(
    finished, shell, tmp_path, monkeypatch
):
    config = json.loads((finished / run_dir.CONFIG).read_text())
    path = write_csv(tmp_path / "x.csv", [["a", "y"], *([n, n % 2] for n in range(40))])
    own = {"source": "table", "path": str(path), "test_per_class": 0}
    config["run"]["data"] = run_log.to_jsonable(configs.Data(**own))
    config["run"]["model"]["name"] = "mlp"
    out = tmp_path / "run"
    out.mkdir()
    (out / run_dir.CONFIG).write_text(json.dumps(config))
    again = ("--config", out / run_dir.CONFIG, "--out")
    words = " ".join(map(str, again))
    said = f"are not known. Train again, which reads them from your data: train {words}"
    for command in ("evaluate", "predict", "export", "report", "resume"):
        shell.refused(2, said, command, out)
    monkeypatch.setattr(runs, "train", lambda preset, config: 0)
    shell.printed("train", *again, tmp_path / "again")


def test_committed_comparisons_are_still_read():
    paths = sorted((ROOT / "results").glob("compare_*.json"))
    assert len(paths) > 5
    for path in paths:
        run_dir.parse(json.loads(path.read_text())["run"])


def test_data_that_changed_are_refused_with_what_differs(tmp_path):
    rows = [["a", "b", "y"], *([n, n % 7, "uv"[n % 2]] for n in range(40))]
    path = write_csv(tmp_path / "table.csv", rows)
    data = datasets.resolve(configs.Data("table", path=str(path)))
    for changed, said in (
        ([*rows, [1, 2, "u"], [1, 2, "w"], [3, 4, "w"]],
         "class 'u': 20 examples, now 21 examples; class 'w': none, now 2 examples."),
        ([[a, y] for a, _, y in rows], "shape of an example: [2], now [1]."),
    ):  # fmt: skip
        write_csv(path, changed)
        with pytest.raises(DamagedData, match=re.escape(f"run began: {said} Train")):
            datasets.resolve(data)


# Terminals and signals.


def test_a_reader_that_leaves_ends_the_help_quietly():
    with experiments("train", "cifar10_lt100", "--help") as process:
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(timeout=300) == 1


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_other_terminals_get_greek_spelled_out(encoding, monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    with monkeypatch.context() as patched, contextlib.suppress(SystemExit):
        patched.setattr(sys, "stdout", stream)
        assert cli.main(["train", "digits_label_noise", "--help"]) == 0
    text = stream.buffer.getvalue().decode(encoding)
    assert "lambda = -1" in text
    stream.write("ρ ∞ ± 语\udcff")
    stream.flush()
    shown = stream.buffer.getvalue().decode(encoding).removeprefix(text)
    assert shown == {"ascii": "rho inf +- ??", "cp1252": "rho inf ± ??"}[encoding]


def test_what_a_run_starts_from_is_kept_by_its_whole_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    paths = {"start_from": pathlib.Path("a"), "model.pretrained": pathlib.Path("../b")}
    run = configs.replace(configs.Run(), paths)
    whole = cli._resolved(commands.Train(run)).run
    assert whole.start_from == tmp_path / "a"
    assert whole.model.pretrained == tmp_path.parent / "b"
    assert cli._resolved(commands.Train(configs.Run())).run == configs.Run()


@pytest.mark.parametrize("closed", ["stdout", "stderr"])
def test_a_closed_stream_takes_everything(closed, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(sys, closed, None)
        assert cli.main(["--version"]) == 0
        assert cli.main(["no-such-command"]) == 2
        getattr(sys, closed).close()


def test_an_interrupt_during_imports_is_quiet(tmp_path):
    """Sent by a module that takes the place of one that is imported."""
    (tmp_path / "tyro.py").write_text(
        "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(60)\n"
    )
    path = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    usual = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    with experiments("list", first=usual, env=path) as process:
        assert process.communicate(timeout=300) == ("", "")
    assert process.returncode == 130


def test_after_the_imports_an_interrupt_is_an_exception(interruptible):
    terminal.quiet_interrupts()
    assert signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    terminal.usual_interrupts()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_closed_terminal_saves_as_sigterm_does(shell, programs, tmp_path):
    out = tmp_path / "run"
    arguments = (*TRAIN[:-3], "--epochs", "2000", "--no-tensorboard", "--out", out)
    program = programs.start(*arguments)
    program.wait_for(lambda: newest(out) > 0)
    # And until then the directory is its own.
    shell.refused(2, f"in use: process {program.process} on host", *arguments)
    assert program.end(signal.SIGHUP) == 130, program.said
    assert "Interrupted; the same command goes on from" in program.said
    assert not resumed(out)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with runs._interruptible():
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


# Flags and suggestions.


@pytest.mark.parametrize(
    ("command", "words", "fields"),
    [
        ("train digits_label_noise", "--lr 0.5", {"run.optimizer.learning_rate": 0.5}),
        ("sweep digits_label_noise", "--lam=-2", {"run.method.lam": -2.0}),
        ("train digits_label_noise", "--lr=0.5 --lambda 3 --weight_decay=1 --bs 9",
         {"run.optimizer.learning_rate": 0.5, "run.method.lam": 3.0,
          "run.optimizer.weight_decay": 1.0, "run.batch_size": 9}),
        ("compare digits_label_noise", "--gpus 1 --model my:net --output-dir here",
         {"session.devices": 1, "run.model.custom": "my:net",
          "session.out": pathlib.Path("here")}),
        ("demo", "--output here --num-epochs 3",
         {"out": pathlib.Path("here"), "epochs": 3}),
        ("toy", "--lam 0.3", {"lam": 0.3}),
        ("train digits_label_noise", "--log-dir=~/a --data-dir ~/b --start-from=~/c",
         {"session.out": pathlib.Path.home() / "a",
          "session.data_dir": pathlib.Path.home() / "b",
          "run.start_from": pathlib.Path.home() / "c"}),
    ],
)  # fmt: skip
def test_flags_of_other_programs_are_taken(command, words, fields, monkeypatch):
    configs = []
    run = lambda name, *found: configs.append(found[-1]) or 0
    monkeypatch.setattr(cli, "_run", run)
    assert cli.main([*command.split(), *words.split()]) == 0
    for name, value in fields.items():
        assert operator.attrgetter(name)(configs[0]) == value


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--loss.effective-beta 0.9", "--loss.class-weights, got False"),
        ("--loss.class-weights-from=0.5", "--loss.class-weights, got False"),
        ("--loss.class_weights_norm weights", "--loss.class-weights, got False"),
        ("--loss.name truncated --loss.prune-every 2", "below 1, got 1.0"),
        ("--method.first-lam 2 --method.start-at 0", "--method.start-at above 0, got"),
        ("--method.start-at 0.1 --method.name sgd", "that weights examples, got sgd"),
        ("--model.statistics-momentum 0 --model.norm group", "batch, got group"),
        (
            "--optimizer.hidden-weight-decay 0",
            "sce_cnn or module:function, got convnet",
        ),
        ("--model.custom my:net --model.dropout 0.1", "of the package, got my:net"),
        ("--data.vocabulary 9", "--data.source of texts (imdb, text), got digits"),
        ("--data.length=9", "--data.source of texts (imdb, text), got digits"),
        ("--data.noise symmetric_sce --data.noise-rate 0", "above 0, got 0.0"),
        ("--data.imbalance step", "--data.imbalance-ratio above 1, got 1.0"),
        ("--data.total 100", "--data.imbalance-ratio above 1, got 1.0"),
        ("--data.scarce-first", "--data.imbalance-ratio above 1, got 1.0"),
        ("--data.sampling-beta 0.9", "--data.sampling effective, got shuffled"),
        ("--data.test-share 0.3", "--data.source of your own data (table, ...), got"),
        ("--optimizer.b2 0.9", "--method.name adam or abadam, got absgd"),
        ("--method.name adam --optimizer.momentum 0", "without Adam, got adam"),
        ("--method.name adam --optimizer.no-nesterov", "without Adam, got adam"),
        ("--optimizer.nesterov --optimizer.momentum 0", "momentum above 0, got 0.0"),
        ("--optimizer.drop-factor 2 --optimizer.drop-at", "or more, got ()"),
        ("--new-head", "--start-from, got None"),
        ("--processes 2", "--distributed, got False"),
    ],
)
def test_flags_without_what_they_need_are_refused(words, said, shell):
    words = words.split()
    field = next(w for w in words if w.startswith("--") and "name" not in w)
    flag = field.partition("=")[0].replace("_", "-")
    said = f"{flag} would change nothing: it needs {said}" if "--" in said else said
    shell.refused(2, said, "train", "digits_label_noise", *words)


@pytest.mark.parametrize(
    ("preset", "words", "said"),
    [
        ("own_table", "--model.norm group", "images or module:function, got mlp"),
        ("own_text", "--model.statistics-momentum 0", "module:function, got bilstm"),
        ("own_table", "--data.text a", "--data.source text, got table"),
        ("own_arrays", "--data.vocabulary 9", "of texts (imdb, text), got arrays"),
        ("own_arrays", "--data.label y", "--data.source table or text, got arrays"),
        ("own_images", "--data.drop a", "--data.source table or text, got folder"),
    ],
)
def test_flags_of_other_data_of_your_own_are_refused(preset, words, said, shell):
    flag, *_ = words = words.split()
    shell.refused(2, f"{flag} would change nothing: it needs", "train", preset, *words)
    shell.refused(2, said, "train", preset, *words)


def test_weights_that_a_first_stage_replaces_are_refused(shell):
    words = ("--start-from", "runs/first", "--model.pretrained", "weights.npz")
    said = "All of --model.pretrained weights.npz would be replaced by --start-from"
    shell.refused(2, said, "train", "digits_label_noise", *words)


@pytest.mark.parametrize(
    "words",
    [
        "train digits_label_noise --data.noise symmetric_sce",
        "train digits_label_noise --loss.class-weights --loss.effective-beta 0.9",
        "train imdb_from30 --optimizer.b1 0.8 --method.name adam",
        "train digits_long_tail --data.imbalance step --data.scarce-first",
        "train digits_long_tail --distributed --processes 2 --process 0",
        "train own_table --data.path x.csv --data.validation-share 0.2",
        "train own_text --data.path x.csv --data.vocabulary 9 --data.length 9",
        "train digits_long_tail --model my:net --optimizer.hidden-weight-decay 0.1",
        "train own_table --data.path x.csv --model my:net --model.norm group",
        "train own_text --data.path x.csv --data.text a --data.label b --data.drop c",
        "sweep own_table --data.path x.csv --method.name eg --lams 0.5,1",
        # What the methods of a comparison need they have, and the others do without.
        "compare digits_label_noise --optimizer.b1 0.8 --data.sampling-beta 0.9",
        "compare digits_long_tail --loss.class-weights-from 0.5",
    ],
)
def test_flags_with_what_they_need_are_taken(words, monkeypatch):
    monkeypatch.setattr(cli, "_run", lambda *_: 0)
    assert cli.main(words.split()) == 0


@pytest.mark.parametrize("name", ["sgd", "adam", "term"])
def test_a_method_without_attention_has_no_radius(name, monkeypatch):
    found = []
    monkeypatch.setattr(
        cli, "_run", lambda *arguments: found.append(arguments[-1]) or 0
    )
    words = ["own_table", "--data.path", "x.csv", "--method.name", name]
    lam = ["--method.lam", "2"] if name == "term" else []
    assert cli.main(["train", *words, *lam]) == 0
    method = found[0].run.method
    expected = (None, None, 2.0 if lam else math.inf)
    assert (method.rho, method.max_weight, method.lam) == expected
    title = formatting.method(method)
    assert title == {"sgd": "SGD", "adam": "Adam", "term": "TERM, λ = 2"}[name]


def test_every_command_of_the_pages_is_taken(monkeypatch):
    monkeypatch.setattr(cli, "_run", lambda *_: 0)
    commands = set()
    for page in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md")):
        text = page.read_text("utf-8").replace("\\\n", " ")
        commands |= {*re.findall(r"-m experiments ((?:train|compare|sweep) .*)", text)}
    taken = 0
    for command in commands:
        line = re.split("[`|;]", command)[0].replace("$lam", "-1").replace("$seed", "0")
        words = shlex.split(line, comments=True)
        if "--help" not in words and not {"PRESET", "..."} & {*words}:
            assert cli.main(words) == 0, command
            taken += 1
    assert taken > 25


def test_a_suggested_command_can_be_pasted(shell, finished):
    shell.refused(0, "is finished", *TRAIN, "--seed", "0", "--out", finished)
    out = finished.parent / "two words"
    _, _, said = shell(*TRAIN, "--out", out)
    last = said.splitlines()[-1]
    assert last.startswith("Finished: test accuracy ")
    assert last.endswith(f"In {out}; its report: python -m experiments report '{out}'")


def test_a_sweep_augments_on_the_device_by_itself(shell, tmp_path, monkeypatch):
    failed = lambda together, callbacks: ["A loss is not finite."] * len(callbacks)
    monkeypatch.setattr(loop, "fit_all", failed)
    small = (*SMALL, "--epochs", "1", "--lams=-1", "--seeds", "1")
    status, _, said = shell("sweep", "digits_label_noise", *small, "--out", tmp_path)
    assert status == 0, said
    assert "--data.augment-on device" in said
    (trial,) = (tmp_path / run_dir.TRAININGS).iterdir()
    assert run_dir.load(trial).run.data.augment_on == "device"


def test_the_bar_of_a_trial_has_its_name(shell, tmp_path, monkeypatch):
    shown = []

    class Bar(runs.tqdm):
        def __init__(self, *args, desc=None, **kwargs):
            shown.append(desc)
            super().__init__(*args, desc=desc, **kwargs)

    monkeypatch.setattr(runs, "tqdm", Bar)
    small = ("--model.widths", "2", "--data.examples-per-class", "80", "--epochs", "1")
    small += ("--seeds", "1", "--no-measure")
    arguments = ("compare", "digits_label_noise", "--methods", "absgd", *small)
    assert shell(*arguments, "--out", tmp_path)[0] == 0
    assert shown == [
        json.loads(path.read_text())["session"]["out"].rpartition("/")[2]
        for path in sorted(
            (tmp_path / "runs").glob("*/config.json"), key=lambda p: p.stat().st_mtime
        )
    ]
