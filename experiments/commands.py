"""The commands: the configuration of each, and one table of all. Imports no JAX.

The docstring of a configuration is the help of its command.
"""

import dataclasses
import pathlib
from typing import Annotated, Any, Literal, NamedTuple

import tyro

from experiments.configs import Run, replace
from experiments.fields import (
    AtLeastTwo,
    Checked,
    Count,
    Nonzero,
    PositiveFinite,
    Size,
    T,
    refuse,
)
from experiments.train.session import Session

# No prefix: the flags are --seed and --method.lam, not --run.seed.
Flat = Annotated[T, tyro.conf.arg(name="")]
_SESSION = Session()


@dataclasses.dataclass(frozen=True)
class List:
    """Lists the presets: data, model, schedule and cost.

    Attributes:
      pattern: part of the names to be listed; None for all.
    """

    pattern: tyro.conf.Positional[str | None] = None


@dataclasses.dataclass(frozen=True)
class Train:
    """Trains a preset, or resumes; with --config DIR/config.json, as another run did.

    Attributes:
      run: what is trained.
      session: directories, devices and loaders.
    """

    run: Flat[Run]
    session: Flat[Session] = _SESSION


@dataclasses.dataclass(frozen=True)
class _Trained(Checked):
    """What commands on the newest checkpoint of a run have in common.

    Attributes:
      dir: run directory.
      data_dir: where the data sets are; None for where they were in training.
      devices: number of devices; None for all there are.
    """

    dir: tyro.conf.Positional[pathlib.Path]
    data_dir: pathlib.Path | None = None
    devices: Size | None = None


@dataclasses.dataclass(frozen=True)
class Resume(_Trained):
    """Goes on with a run as its config.json says; a finished one with more epochs.

    Schedule points are fractions of the epochs, so more epochs move those that are not
    reached yet, and may take the run back before one: the command says what holds from
    which epoch on. config.json then has the new number of epochs, and in `extended`
    those before it.

    Attributes:
      epochs: epochs in all, those that are trained already included; None for those of
        config.json.
      devices: number of devices; None for as many as were asked for in training.
    """

    epochs: Size | None = None


@dataclasses.dataclass(frozen=True)
class Compare(Checked):
    """Trains many methods on one preset's data, network and budget, and tabulates them.

    Every method has one hyperparameter with three values, each at three learning rates,
    or nine learning rates where it has none; validation accuracy over all seeds chooses
    among the nine, or another metric, see `choose_by`. Resumes from what the run
    directory holds, also with more methods, rates or seeds. Writes there:

      grid.json     what all trainings share
      table.md      one row a method
      results.json  the metrics of the table, seed by seed, and all values of every grid
      costs.json    time and memory of a step, and how they were measured
      runs/         a run directory for each training

    Attributes:
      run: data, network, schedule and optimizer. Of its loss and method only what all
        methods share is used: `logit_norm`, γ and s_0, and the epoch from which weights
        begin. Where its λ follows a radius, ρ and `start_at` are of the automatic λ,
        and other weights begin after 0.8 of the epochs, or 0.2 where λ < 0, unless
        `class_weights_from` says otherwise, with γ = 0.5. Heads, and the epochs that
        are evaluated, are those of the methods.
      methods: names with commas between them, such as `absgd,ldam_drw,tce+norm`; empty
        for all that fit. `+norm` divides the logits by their norm in training, `+adam`
        trains SGD's and ABSGD's by Adam.
      rates: learning rates that are tried with each value, as multiples of the method's
        own; only 1 gives each method three settings and not nine.
      seeds: number of seeds, from 0; each trains every method on its own split.
      choose_by: metric of the validation set that chooses settings, and epochs with
        `early_stopping`; that of the test set orders the table. `balanced` is the mean
        recall of the classes, for a validation set as imbalanced as the training set;
        `auroc` and `average_precision` are of two classes.
      early_stopping: whether each training counts as of the epoch of its highest
        metric on the validation set, and not of its last one. Methods of one stage
        only.
      measure: whether the steps are timed, each in turn with a step of plain SGD.
      reuse: results.json of earlier comparisons with the same run and versions, as of
        another machine. What they trained is not trained again, except by methods
        of two stages, which need the first one's network.
      session: directories, devices and loaders.
    """

    run: Flat[Run]
    methods: str = ""
    rates: tuple[PositiveFinite, ...] = (1.0, 0.5, 2.0)
    seeds: Size = 3
    choose_by: Literal["accuracy", "balanced", "auroc", "average_precision"] = (
        "accuracy"
    )
    early_stopping: bool = False
    measure: bool = True
    reuse: tuple[pathlib.Path, ...] = ()
    session: Flat[Session] = _SESSION

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse(not self.rates, "rates must have one at least, got none.")
        refuse(
            len({*self.rates}) < len(self.rates),
            f"rates must differ, got {self.rates}.",
        )
        _refuse_seed(self.run)
        refuse(
            self.session.distributed or self.session.parallel == "pmap",
            "A comparison runs in one process, under --parallel jit.",
        )


@dataclasses.dataclass(frozen=True)
class Sweep(Checked):
    """Trains one preset for every seed, λ and γ, as vmapped runs of one program.

    For accelerators, which one small network leaves idle. The metrics are those of the
    same runs under `train`, to float32 rounding. λ and γ are chosen by validation
    accuracy at the last epoch, the mean over the seeds; test accuracy is shown only for
    the chosen ones. Images are augmented on the device (`data.augment_on`), whatever
    the preset says. Writes to the output directory:

      grid.json     what all trainings share
      table.md      one row for every λ and γ
      results.json  the same, seed by seed
      runs/         config.json and records.jsonl of each training, as `train` writes
                    them; `report` reads them

    Finished runs are not trained again, also with more values or seeds. A run whose
    loss is not finite ends there, and the others go on.

    Attributes:
      run: the run of which seed, λ and γ vary.
      lams: values of `method.lam` with commas between them, such as `--lams=-1,0.5`
        (with =, since the first begins with a minus sign) or `--lams 0.5,inf`; empty
        for the preset's own.
      gammas: values of `method.gamma` with commas between them; empty for the preset's
        own.
      seeds: number of seeds, from 0; each trains on its own split, and all training
        sets must be of one size.
      vmapped: most runs in one program, which holds as many networks; None for all.
      session: directories and loaders; one process and one device.
    """

    run: Flat[Run]
    lams: str = ""
    gammas: str = ""
    seeds: Size = 3
    vmapped: Size | None = None
    session: Flat[Session] = _SESSION

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse(
            self.session.distributed
            or self.session.parallel == "pmap"
            or self.session.devices not in (None, 1),
            "A sweep runs in one process, on one device, under --parallel jit.",
        )
        refuse(
            self.session.record_losses,
            "A sweep records no losses of single examples: train the run by itself.",
        )
        _refuse_seed(self.run)
        self.settings()  # refuses what they refuse

    def settings(self) -> list[Run]:
        """A run for every λ and γ; the caller sets the seed."""
        lams = _numbers("lams", self.lams) or (self.run.method.lam,)
        gammas = _numbers("gammas", self.gammas) or (self.run.method.gamma,)
        return [
            replace(self.run, {"method.lam": lam, "method.gamma": gamma})
            for lam in lams
            for gamma in gammas
        ]


def _refuse_seed(run: Run) -> None:
    """A grid has seeds of its own."""
    refuse(
        run.seed != 0,
        f"seed is of a single training, got {run.seed}: here it is 0, and --seeds is "
        "how many there are, from 0.",
    )


def _numbers(name: str, text: str) -> tuple[float, ...]:
    """Parses comma-separated numbers, which must differ."""
    try:
        values = tuple(float(part) for part in text.split(",") if text.strip())
    except ValueError:
        raise ValueError(
            f"{name} must be numbers with commas between them, got {text!r}."
        ) from None
    refuse(len(set(values)) < len(values), f"{name} must differ, got {text!r}.")
    return values


@dataclasses.dataclass(frozen=True)
class Evaluate(_Trained):
    """Evaluates the newest checkpoint of a run, on validation and test examples.

    Prints the numbers and writes them to evaluation.json in the run directory, if it
    can be written to.
    """


@dataclasses.dataclass(frozen=True)
class Predict(_Trained):
    """Classifies examples with the newest checkpoint of a run; writes CSV.

    A row for each example: its path or index, from 0, the predicted class, and the
    probability of each class. They are prepared as the run prepares its test examples,
    whose index is that in the data set's test split, or in the split that it was held
    out of: of your own data the row of the file, without the header.

    Attributes:
      input: a folder of images (or one image); or an .npy or .npz file of examples as
        the data set stores them, `[n, ...]`: images of bytes, or of numbers in [0, 1],
        or token ids. Texts: .txt, one in each line, or a folder of .txt files, or the
        column of a CSV. Of your own data what they are made of, labels or not: CSV;
        arrays of any numbers. None, or -, for the run's own test set, which also has
        labels.
      out: CSV file to write; None for standard output.
      data_dir: where the published data sets are, for the test set and the vocabulary;
        None for where they were in training.
    """

    input: tyro.conf.Positional[pathlib.Path | None] = None
    out: pathlib.Path | None = None


@dataclasses.dataclass(frozen=True)
class Export:
    """Writes the network of a run for use without this programme.

    To the output directory:

      network.stablehlo    from examples, of any number, to probabilities: what
                           `jax.export.deserialize` reads, for CPU, CUDA and TPU
      weights.safetensors  parameters and BatchNorm's statistics by name
      prepare.json         of your own tables, arrays and texts: how they are prepared
      export.json          shapes, dtypes, classes and versions
      README.txt           how to use them

    Attributes:
      dir: run directory.
      out: output directory; None for DIR/export.
    """

    dir: tyro.conf.Positional[pathlib.Path]
    out: pathlib.Path | None = None


@dataclasses.dataclass(frozen=True)
class Report:
    """Tables and figures of one run or several, also of unfinished runs.

    Runs that differ only in the seed are averaged.

    Attributes:
      dirs: run directories.
      out: where report.md and the figures go; None for the run directory, of several
        the first one's parent.
      html: whether to write report.html too: the whole report with its figures in one
        page, which can be sent and opened anywhere.
      tables: whether to write every table as CSV too, in tables/, and all of them to
        report.json.
      features: whether to draw the penultimate features by t-SNE.
      data_dir: where the data sets are, for the features; None for where they were in
        training.
    """

    dirs: tyro.conf.Positional[tuple[pathlib.Path, ...]]
    out: pathlib.Path | None = None
    html: bool = False
    tables: bool = False
    features: bool = False
    data_dir: pathlib.Path | None = None


@dataclasses.dataclass(frozen=True)
class Suspects(_Trained):
    """Lists the training examples whose labels are most likely wrong.

    The trained network classifies its training set once, not augmented. Writes to the
    run directory:

      suspects.csv         one row an example, the most suspect first
      suspects.npz         labels and predicted probabilities, as cleanlab takes them
      suspects_epochs.csv  loss and weight after every epoch, of those that are printed,
                           if the run was trained with --record-losses

    `report` shows the first of them. What the columns mean, and how often the list is
    right: docs/wrong_labels.md.

    Attributes:
      out: where the files go; None for the run directory.
      show: examples that are printed.
    """

    out: pathlib.Path | None = None
    show: Count = 10


@dataclasses.dataclass(frozen=True)
class _OnDigits(Checked):
    """What the studies of the demo's two presets have in common.

    Attributes:
      out: output directory.
      seeds: number of seeds, from 0; each trains every method on its own split.
      epochs: epochs of every training, in place of those of the two presets.
    """

    out: pathlib.Path
    seeds: Size = 8
    epochs: Size | None = None


@dataclasses.dataclass(frozen=True)
class Demo(_OnDigits):
    """Trains SGD and ABSGD on scikit-learn's handwritten digits, in a minute or two.

    Twice: long-tailed (imbalance ratio 50), and balanced with 40% of the labels wrong.
    Prints a table, and writes to the output directory:

      grid.json  what all trainings of a study share
      table.md   the table
      demo.png   the figure
      runs/      config.json and records.jsonl of each training, as `train` writes them

    Finished trainings are not repeated; another number of epochs needs another
    directory. Ctrl-C reports on the finished runs and exits with 130; the same command
    then continues. The same seeds give the same numbers on the same machine.
    """

    out: pathlib.Path = pathlib.Path("runs/demo")


@dataclasses.dataclass(frozen=True)
class Recipes(_OnDigits):
    """Varies when attention is switched on, γ and λ, on the demo's two data sets.

    Prints how far each recipe is from SGD on the test set, in points; a few minutes.

    Attributes:
      out: output directory, with the files of the demo but its figure; finished
        trainings are not repeated.
    """

    out: pathlib.Path = pathlib.Path("runs/recipes")


@dataclasses.dataclass(frozen=True)
class Untuned(Checked):
    """Compares radii without tuning with SGD and ten fixed λ, on five data sets.

    Attributes:
      data_dir: of mammography.csv, oil-spill.csv and phoneme.csv: no header, the label
        last.
      seeds: number of seeds, from 0; of splits, networks and batches.
      out: JSON lines, one per run; runs that it has are not repeated. The page is
        written next to it, with the suffix .md.
      data: some of the data sets; all if none is given.
    """

    data_dir: pathlib.Path = pathlib.Path("data")
    seeds: Size = 5
    out: pathlib.Path = pathlib.Path("runs/untuned.jsonl")
    data: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        _refuse_page(self.out)


@dataclasses.dataclass(frozen=True)
class AfterFirstStage(Checked):
    """Whether the losses after plain training predict that a fixed λ > 0 harms.

    Attributes:
      data_dir: of mammography.csv, oil-spill.csv and phoneme.csv: no header, the label
        last.
      seeds: number of seeds, from 0; of splits, networks and batches.
      out: JSON lines, one per data set and seed; runs that it has are not
        repeated. The page is written next to it, with the suffix .md.
    """

    data_dir: pathlib.Path = pathlib.Path("data")
    seeds: Size = 10
    out: pathlib.Path = pathlib.Path("runs/after_first_stage.jsonl")

    def __post_init__(self) -> None:
        super().__post_init__()
        _refuse_page(self.out)


def _refuse_page(out: pathlib.Path) -> None:
    """Refuses records that the page next to them would overwrite."""
    refuse(
        out.suffix.lower() == ".md",
        "out must be a file of JSON lines, such as runs/a.jsonl: its page ends in .md, "
        f"got {out}.",
    )


@dataclasses.dataclass(frozen=True)
class EqualGrids(Checked):
    """Methods at equally many settings, the learning rate among them.

    On imbalanced tables, on the last layer of CIFAR networks, and on rare groups that
    are no classes. What came out is a part of docs/results.md, which the command
    `results` writes.

    Attributes:
      data_dir: of mammography.csv, oil-spill.csv and phoneme.csv: no header, the label
        last; or of SETTING-head.npz, which `reproduce --features` writes; or of
        CIFAR-10.
      seeds: number of seeds, from 0.
      out: JSON lines, one per run; runs that it has are not repeated.
      data: names of the files, or DATA-tail-groups or DATA-attribute-groups, where DATA
        is digits or cifar10; the three tables if none is given.
    """

    data_dir: pathlib.Path = pathlib.Path("data")
    seeds: Size = 10
    out: pathlib.Path = pathlib.Path("results/equal_grids.jsonl")
    data: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Reproduce(Checked):
    """Trains the cells of the paper's tables on CIFAR at the full protocol.

    Three seeds of 200 epochs of ResNet-32, with λ chosen on validation examples; of 120
    where labels are wrong, with nothing chosen. In order of importance, and resumable:
    a recorded cell is not trained again, and a training that ran out of time is
    resumed. Several processes may share one directory.

    Attributes:
      minutes: time after which trainings stop, each with a checkpoint.
      out: directory of the trainings.
      data_dir: of the official binary files, or TFDS's.
      packed: folder that --pack wrote, in place of `data_dir`.
      records: JSON lines, one per cell; None for `out`/records.jsonl.
      settings: columns of the tables, such as cifar10_lt100 or cifar10_sym40; all if
        none is given.
      rows: rows by name, such as "SGD (CE)"; all if none is given.
      seeds: number of seeds, from 0.
      smoke: whether to train the smoke presets: tiny networks on a few examples.
      pack: folder to write the settings' images to, in parts of at most 48 MiB, for a
        machine that all of the data cannot be sent to; nothing is trained.
      list: whether the cells that can be trained next are printed, and nothing trained.
      features: .npz file to write what enters the last layer after plain training to,
        for the first of the settings; networks that are not there are trained.
      epochs: epochs in place of 200; the rate is changed, and λ and class weights
        begin, at the same fractions of them. Needs records of its own, and settings
        without wrong labels.
    """

    minutes: PositiveFinite = 25.0
    out: pathlib.Path = pathlib.Path("runs/reproduce")
    data_dir: pathlib.Path | None = None
    packed: pathlib.Path | None = None
    records: pathlib.Path | None = None
    settings: tuple[str, ...] = ()
    rows: tuple[str, ...] = ()
    seeds: Size = 3
    smoke: bool = False
    pack: pathlib.Path | None = None
    list: bool = False
    features: pathlib.Path | None = None
    epochs: Size | None = None


@dataclasses.dataclass(frozen=True)
class Results:
    """Writes the page of all results, next to the paper's numbers.

    Attributes:
      records: folder of the JSON lines of `reproduce`, `equal-grids` and `figures`.
      out: Markdown file to write.
      html: file to write the same page to as HTML, with its figures and style inside;
        None for none.
    """

    records: pathlib.Path = pathlib.Path("results")
    out: pathlib.Path = pathlib.Path("docs/results.md")
    html: pathlib.Path | None = None


@dataclasses.dataclass(frozen=True)
class Figures(Checked):
    """Trains small problems and draws the figures of the page of results.

    Attributes:
      records: JSON lines; figures that it has are drawn, and their runs not repeated.
      out: folder of the figures.
      seeds: number of seeds, from 0.
    """

    records: pathlib.Path = pathlib.Path("results/figures.jsonl")
    out: pathlib.Path = pathlib.Path("docs/figures")
    seeds: AtLeastTwo = 10


@dataclasses.dataclass(frozen=True)
class Toy(Checked):
    """Draws the paper's toy figure: one step on 16 points of two unequal classes.

    Attributes:
      out: directory of the figure.
      seed: of the points.
      lam: λ, in units of loss.
    """

    out: pathlib.Path = pathlib.Path("runs/toy")
    seed: Count = 0
    lam: Nonzero = 0.2


Suite = Literal["overhead", "dense", "peers", "input", "end_to_end", "sweep"]


@dataclasses.dataclass(frozen=True)
class Bench(Checked):
    """Measures the cost of a step, of loading data and of whole trainings.

    Every variant is a process of its own; they are timed in turn, in random order, so
    that the machine's drift affects all alike. Prints tables, and writes by suite:

      SUITE.json  device, versions, load, all samples, medians and quartiles
      SUITE.png   the figure

    The suites: ABSGD over SGD, over sizes and batches (overhead); per-example gradients
    (dense); other methods, Flax and PyTorch (peers); the loaders without a step
    (input); whole trainings, and their start-up time (end_to_end); vmapped runs
    (sweep). How to read the tables is in benchmarks/__init__.py.

    Attributes:
      suites: which to run; all if none is given.
      out: directory of the results.
      data_dir: where CIFAR-10 is, for end_to_end; without it that part is left out.
      repeats: samples of every variant.
      sizes: numbers of parameters, for overhead.
      batches: numbers of examples, for overhead and dense.
      quick: whether to run tiny sizes and three samples: a smoke test.
      torch_python: an interpreter with torch, and with `absgd` if it is to be measured,
        for peers; None leaves PyTorch out.
    """

    suites: tyro.conf.Positional[tuple[Suite, ...]] = ()
    out: pathlib.Path = pathlib.Path("runs/bench")
    data_dir: pathlib.Path | None = None
    repeats: Size = 20
    sizes: tuple[Size, ...] = (10_000, 100_000, 1_000_000, 10_000_000, 100_000_000)
    batches: tuple[Size, ...] = (32, 256, 1024, 4096)
    quick: bool = False
    torch_python: pathlib.Path | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse(
            not (self.sizes and self.batches),
            "sizes and batches must have at least one number each, got "
            f"{self.sizes} and {self.batches}.",
        )


class Command(NamedTuple):
    """A command; its summary is the first line of the docstring of its configuration.

    Attributes:
      config: its configuration.
      usage: what follows its name on the command line, without most of the flags.
      module: what runs it, imported only then; "" for the study of its name.
      function: from the configuration to the exit status. Of a command with a preset,
        whose fields are the defaults of `config.run`, the preset's name comes first.
    """

    config: Any
    usage: str = ""
    module: str = ""
    function: str = "main"


_RUNS, _EVALUATION = "experiments.train.runs", "experiments.train.evaluation"
COMMANDS = {
    "list": Command(List, "", "experiments.presets"),
    "train": Command(Train, "PRESET [--out DIR] [--seed N]", _RUNS, "train"),
    "resume": Command(Resume, "DIR [--epochs N]", _RUNS, "resume"),
    "compare": Command(Compare, "PRESET --methods a,b,c --seeds N"),
    "sweep": Command(Sweep, "PRESET --lams a,b --gammas x,y --seeds N"),
    "evaluate": Command(Evaluate, "DIR", _EVALUATION, "evaluate"),
    "predict": Command(Predict, "DIR [INPUT] [--out FILE]", _EVALUATION, "predict"),
    "export": Command(Export, "DIR [--out FOLDER]", "experiments.train.export"),
    "report": Command(Report, "DIR...", "experiments.report.command"),
    "suspects": Command(Suspects, "DIR", "experiments.report.suspects"),
    "demo": Command(Demo),
    "recipes": Command(Recipes),
    "untuned": Command(Untuned, "--data-dir DIR --seeds N --out FILE"),
    "after-first-stage": Command(AfterFirstStage, "--data-dir DIR"),
    "equal-grids": Command(EqualGrids, "--data-dir DIR"),
    "reproduce": Command(Reproduce, "--data-dir DIR --minutes N"),
    "results": Command(Results, "", "experiments.studies.results_page"),
    "figures": Command(Figures),
    "toy": Command(Toy),
    "bench": Command(Bench, "[SUITE ...]", "benchmarks.command"),
}
