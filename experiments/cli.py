"""The command line: `python -m experiments <command>`."""

import dataclasses
import difflib
import errno
import importlib
import itertools
import math
import operator
import os
import pathlib
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import tyro

from experiments import configs, registry, terminal
from experiments.commands import COMMANDS
from experiments.train.session import Session

PROGRAM = "python -m experiments"
DESCRIPTION = "The experiments of the ABSGD paper (arXiv 2012.06951)."

# Exit statuses; 2 is also that of a command line that cannot be parsed.
FAILED, BAD_CONFIGURATION, NO_DATA, NOT_FINITE, INTERRUPTED = 1, 2, 3, 4, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Parses the command line, then runs the command.

    Only a command that runs imports JAX, so `--help` is instant. The exit status is 0;
    1 for an unexpected failure; 2 for a bad configuration; 3 for missing or damaged
    data; 4 for a loss that is not finite; 130 if interrupted.
    """
    terminal.spell()
    try:
        try:
            return _command(list(sys.argv[1:] if arguments is None else arguments))
        except configs.BadConfiguration as error:
            print(error, file=sys.stderr)
            return BAD_CONFIGURATION
        finally:  # also where the parser has printed the help and exits
            sys.stdout.flush()
    except BrokenPipeError:  # the reader has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        print(_of_system(error), file=sys.stderr)
    except KeyboardInterrupt:
        return INTERRUPTED
    return FAILED


def _command(words: list[str]) -> int:
    """Finds the command and its configuration, and runs it."""
    if not words or words[0] in ("-h", "--help"):
        print(_usage())
        return 0 if words else BAD_CONFIGURATION
    name, *rest = words
    if name == "--version":
        print(_versions())
        return 0
    if name not in COMMANDS:
        close = difflib.get_close_matches(name, COMMANDS, n=1)
        meant = f"Did you mean {close[0]!r}?" if close else f"See {PROGRAM} --help."
        raise configs.BadConfiguration(f"There is no command {name!r}. {meant}")
    config = COMMANDS[name].config
    rest = _spelled_out(config, rest)
    if "run" in config.__annotations__:
        return _with_preset(name, rest)
    return _run(name, tyro.cli(config, prog=f"{PROGRAM} {name}", args=rest))


def _with_preset(command: str, arguments: list[str]) -> int:
    """Parses a preset's name, or --config FILE, then the fields that override it."""
    from experiments import presets
    from experiments.results import run_dir

    arguments, path = _config_file(arguments)
    if path is not None:
        kept = run_dir.load_file(path / run_dir.CONFIG if path.is_dir() else path)
        source = f"--config {path}"
        run = configs.replace(kept.run, {"data.contents": None})  # read again
        config = _overridden(command, run, kept.session, source, arguments)
        return _run(command, kept.preset or kept.run.data.source, config)
    if not arguments or arguments[0].startswith("-"):
        names = ", ".join(f"--{name}" for name in ALIASES)
        print(
            f"usage: {PROGRAM} {command} PRESET [--field value ...]\n"
            f"       {PROGRAM} {command} --config DIR/config.json [--field value ...]"
            "\n\n"
            f"The presets: {PROGRAM} list. "
            f"The fields: {PROGRAM} {command} PRESET --help.\n"
            f"Names of other programs are taken too: {names}."
        )
        return 0 if arguments[:1] in (["-h"], ["--help"]) else BAD_CONFIGURATION
    name, *rest = arguments
    preset = presets.get(name)
    description = preset.doc if command == "train" else None
    config = _overridden(command, preset.run, Session(), name, rest, description)
    if preset.needs is not None and config.run.start_from is None:
        raise configs.BadConfiguration(
            f"{name} is a second stage: give --start-from the directory of a "
            f"finished run of {preset.needs}."
        )
    return _run(command, name, config)


def _overridden(
    command: str,
    run: configs.Run,
    session: Session,
    source: str,
    arguments: list[str],
    description: str | None = None,
) -> Any:
    """The configuration of a command: a run and a session, and flags over them.

    A method without attention does not take over the radius of a preset, nor a cosine
    its drops. What the command refuses of a run may be overridden.
    """
    kind = COMMANDS[command].config
    given = {word.partition("=")[0].replace("_", "-") for word in arguments}
    info = registry.METHODS.get(_value_of("--method.name", arguments) or "")
    attends = info is None or info.plain is not None
    if not attends and run.method.rho is not None and "--method.rho" not in given:
        fixed = {"method.rho": None, "method.max_weight": None, "method.lam": math.inf}
        run = configs.replace(run, fixed)
    cosine = _value_of("--optimizer.decay", arguments) == "cosine"
    if cosine and "--optimizer.drop-at" not in given:
        run = configs.replace(run, {"optimizer.drop_at": ()})
    # Its own checks are of what the flags make of it, and not of what they change.
    default = kind(configs.Run())
    for field, value in {"run": run, "session": session}.items():
        object.__setattr__(default, field, value)
    try:
        config = tyro.cli(
            kind,
            default=default,
            prog=f"{PROGRAM} {command} {source}",
            description=description,
            args=_own_network(arguments),
        )
    except ValueError as error:  # fields that do not go together
        raise configs.BadConfiguration(str(error)) from error
    _refuse_of_one_run(command, given)
    first, pretrained = config.run.start_from, config.run.model.pretrained
    if first is not None and pretrained is not None:
        raise configs.BadConfiguration(
            f"All of --model.pretrained {pretrained} would be replaced by --start-from "
            f"{first}: give one of them."
        )
    if command == "compare":
        _refuse_of_one_method(given)
    else:
        _refuse_lam(config.run, run, given, swept=bool(getattr(config, "lams", "")))
        for one in config.settings() if command == "sweep" else [config.run]:
            one.refuse_too_late()
    _refuse_without(config, given, compared=command == "compare")
    return config


# What the methods of a comparison set, and what no run of a grid does.
_OF_ONE_RUN = {
    "compare": {
        "--data.sampling", "--data.meta-per-class", "--model.head", "--eval-every",
        "--tensorboard",
    },
    "sweep": {
        "--checkpoints", "--checkpoint-seconds", "--tensorboard", "--workers",
        "--prefetch",
    },
}  # fmt: skip


def _refuse_of_one_run(command: str, given: Collection[str]) -> None:
    """Refuses flags that only `train` reads."""
    if ignored := _OF_ONE_RUN.get(command, set()) & {*given}:
        raise configs.BadConfiguration(
            f"{', '.join(sorted(ignored))} would change nothing: `train` reads that, "
            f"and `{command}` does not."
        )


# What of loss and method a comparison takes from its run, and the sign of λ.
_COMPARED = {
    "--loss.logit-norm", "--loss.class-weights-from", "--method.lam", "--method.gamma",
    "--method.init-s", "--method.start-at", "--method.rho",
}  # fmt: skip


def _refuse_of_one_method(given: Collection[str]) -> None:
    """Refuses flags that a comparison does not read."""
    parts = ("--loss.", "--method.")
    ignored = [f for f in given if f.startswith(parts) and f not in _COMPARED]
    if ignored:
        raise configs.BadConfiguration(
            f"{', '.join(sorted(ignored))} would change nothing: `compare` gives every "
            "method its own loss and hyperparameters (--methods names them). What it "
            f"takes: {', '.join(sorted(_COMPARED))}."
        )


def _refuse_lam(
    run: configs.Run, of_preset: configs.Run, given: Collection[str], *, swept: bool
) -> None:
    """Refuses a λ that the method does not follow, or that is plain training."""
    method = run.method
    same = (method.lam, method.rho) == (of_preset.method.lam, of_preset.method.rho)
    if same and method.rho and method.attends and "--method.lam" in given:
        raise configs.BadConfiguration(
            f"--method.lam {method.lam:g} changes nothing: with --method.rho "
            f"{method.rho} λ follows the losses, and only its sign counts. Plain "
            f"training is --method.name {method.info.plain}; a λ of your own needs "
            "--method.rho None --method.max-weight None --method.gamma 0.5 "
            "--method.start-at 0.8, too (0.2 for λ < 0)."
        )
    plain = method.attends and method.rho is None and method.lam == -math.inf
    if plain and "--method.lam" in given:
        raise configs.BadConfiguration(
            "--method.lam -inf without a radius is plain SGD, which is inf or "
            "--method.name sgd. For λ < 0 that follows the losses from the first step "
            "on, give --method.rho 0.4 --method.gamma 0.1 --method.max-weight 2 "
            "--method.init-s None --method.start-at 0, too."
        )
    needs_lam = method.baseline and "lam" in method.info.reads and not swept
    if needs_lam and math.isinf(method.lam):
        raise configs.BadConfiguration(
            f"{method.title} with --method.lam {method.lam:g} weights all examples "
            "alike: give it a λ, such as --method.lam 1 (less than 0 where labels are "
            "wrong), or to `sweep` --lams."
        )


class _Need(NamedTuple):
    """What some fields of a configuration need, without which nothing reads them."""

    fields: str  # with spaces between them
    setting: str  # that decides it
    value: str  # that the setting must have, in words; "" for a flag that is given
    holds: Callable[[Any], bool] = bool  # of the value


def _of(part: str, reads: Mapping[str, Sequence[str]]) -> Iterator[_Need]:
    """The needs of fields of the loss or the method that only some of them read."""
    for field in sorted({field for fields in reads.values() for field in fields}):
        readers = [name for name, fields in reads.items() if field in fields]
        names = " or ".join(readers)
        yield _Need(f"{part}.{field}", f"run.{part}.name", names, readers.__contains__)


_above_zero: Callable[[float], bool] = lambda value: value > 0.0
_adam = [name for name, info in registry.METHODS.items() if info.adam]
_NEEDS = (
    *_of("method", {name: info.reads for name, info in registry.METHODS.items()}),
    *_of("loss", registry.LOSSES),
    _Need(
        "loss.effective_beta loss.class_weights_from loss.class_weights_norm "
        "loss.class_weights_in",
        "run.loss.class_weights",
        "",
    ),
    _Need(
        "loss.prune_every",
        "run.loss.prune_from",
        "below 1",
        lambda share: share < 1.0,
    ),
    _Need(
        "method.start_at",
        "run.method.name",
        "of a method that weights examples",
        lambda name: registry.METHODS[name].weights,
    ),
    _Need("method.first_lam", "run.method.start_at", "above 0", _above_zero),
    _Need("data.noise", "run.data.noise_rate", "above 0", _above_zero),
    _Need(
        "data.imbalance data.total data.scarce_first",
        "run.data.imbalance_ratio",
        "above 1",
        lambda ratio: ratio > 1.0,
    ),
    _Need("data.sampling_beta", "run.data.sampling", "effective", "effective".__eq__),
    _Need(
        "data.test_share data.validation_share",
        "run.data.source",
        "of your own data (table, ...)",
        lambda source: registry.DATASETS[source].own,
    ),
    _Need(
        "data.vocabulary data.length",
        "run.data.source",
        "of texts (imdb, text)",
        lambda source: registry.DATASETS[source].inputs == "text",
    ),
    _Need("data.text", "run.data.source", "text", "text".__eq__),
    _Need(
        "data.label data.drop",
        "run.data.source",
        "table or text",
        ("table", "text").__contains__,
    ),
    _Need(
        "data.validation_share",
        "run.data.validation_per_class",
        "0",
        operator.not_,
    ),
    _Need(
        "optimizer.b1 optimizer.b2 optimizer.eps",
        "run.method.name",
        " or ".join(_adam),
        lambda name: name in _adam,
    ),
    _Need(
        "optimizer.momentum optimizer.nesterov",
        "run.method.name",
        "of a method without Adam",
        lambda name: name not in _adam,
    ),
    _Need(
        "optimizer.hidden_weight_decay",
        "run.model.title",
        "sce_cnn or module:function",
        lambda name: name == "sce_cnn" or ":" in name,
    ),
    _Need(
        "model.norm model.statistics_momentum",
        "run.model.title",
        "of images or module:function",
        lambda name: name not in ("bilstm", "mlp"),
    ),
    _Need("model.statistics_momentum", "run.model.norm", "batch", "batch".__eq__),
    _Need(
        "model.widths model.blocks model.statistics_momentum model.dropout",
        "run.model.title",
        "of a network of the package",
        lambda name: ":" not in name,
    ),
    _Need("optimizer.nesterov", "run.optimizer.momentum", "above 0", _above_zero),
    _Need("optimizer.drop_factor", "run.optimizer.drop_at", "with a fraction or more"),
    _Need("new_head", "run.start_from", ""),
    _Need("processes process stall_timeout_seconds", "session.distributed", ""),
)
# Of these a comparison sets what its methods need.
_OF_METHODS = ("run.loss.", "run.method.", "run.data.sampling")


def _refuse_without(config: Any, given: Collection[str], *, compared: bool) -> None:
    """Refuses flags that were given without what they need, see `_NEEDS`."""
    for need in _NEEDS:
        found = operator.attrgetter(need.setting)(config)
        if need.holds(found) or (compared and need.setting.startswith(_OF_METHODS)):
            continue
        for field in need.fields.split():
            *part, name = field.replace("_", "-").split(".")
            flags = {f"--{'.'.join([*part, word])}" for word in (name, f"no-{name}")}
            for flag in flags & {*given}:
                setting = need.setting.partition(".")[2].replace("_", "-")
                setting = setting.replace("model.title", "model.name")  # or custom
                needed = f"--{setting} {need.value}".rstrip()
                raise configs.BadConfiguration(
                    f"{flag} would change nothing: it needs {needed}, got {found}."
                )


def _value_of(flag: str, arguments: Sequence[str]) -> str | None:
    """The value that a flag is given, `--flag value` or `--flag=value`; else None."""
    found = None
    for word, value in itertools.zip_longest(arguments, arguments[1:]):
        name, _, joined = word.partition("=")
        if name.replace("_", "-") == flag:
            found = joined or value
    return found


def _own_network(arguments: list[str]) -> list[str]:
    """The flags with `--model.custom` for a `--model.name` that is module:function."""
    flag = "--model.name"
    if ":" not in (_value_of(flag, arguments) or ""):
        return arguments
    return [word.replace(flag, "--model.custom", 1) for word in arguments]


def _config_file(arguments: list[str]) -> tuple[list[str], pathlib.Path | None]:
    """Takes `--config FILE` out of the arguments, where no preset comes first."""
    at = [i for i, word in enumerate(arguments) if word.split("=")[0] == "--config"]
    if not at:
        return arguments, None
    first, *rest = arguments[at[0] :]
    _, _, path = first.partition("=")
    if not path:
        path, *rest = rest or [""]
    if not path or path.startswith("-"):
        raise configs.BadConfiguration("--config takes the config.json of a run.")
    if arguments[:1] and not arguments[0].startswith("-"):
        raise configs.BadConfiguration(
            f"Give a preset or --config, not both, got {arguments[0]} and {path}."
        )
    return [*arguments[: at[0]], *rest], pathlib.Path(path)


def _versions() -> str:
    """Versions of the library and of what its numbers depend on."""
    import absgd_jax
    from experiments.results import run_log

    found = run_log.versions()
    others = (f"{name} {found[name]}" for name in ("jax", "flax", "optax", "python"))
    return f"absgd-jax {absgd_jax.__version__} ({', '.join(others)})"


def _run(name: str, *arguments: Any) -> int:
    """Runs a command, and maps each kind of failure to its exit status."""
    from experiments.data.types import DamagedData, MissingData

    command = COMMANDS[name]
    if command.module.startswith("experiments.train."):  # a sign of life
        print("Starting JAX.", file=sys.stderr, flush=True)
    study = f"experiments.studies.{name.replace('-', '_')}"
    try:
        module = importlib.import_module(command.module or study)
        arguments = tuple(map(_resolved, arguments))
        terminal.usual_interrupts()
        return getattr(module, command.function)(*arguments)
    except (MissingData, DamagedData) as error:
        print(error, file=sys.stderr)
        return NO_DATA
    except FloatingPointError as error:
        print(error, file=sys.stderr)
        return NOT_FINITE


def _resolved(argument: Any) -> Any:
    """The configuration of a command, with what its own data have and whole paths."""
    run = getattr(argument, "run", None)
    if not isinstance(run, configs.Run):
        return argument
    started = {"start_from": run.start_from, "model.pretrained": run.model.pretrained}
    whole = {f"run.{n}": p.resolve() for n, p in started.items() if p is not None}
    argument = configs.replace(argument, whole)
    if not run.data.info.own:
        return argument
    from experiments.data import datasets, imbalance

    try:
        data = datasets.resolve(run.data)
        if reordered := imbalance.reordered(data):
            print(reordered, file=sys.stderr)
        return configs.replace(argument, {"run.data": data})
    except ValueError as error:  # fields that do not go with the data
        raise configs.BadConfiguration(str(error)) from error


def _usage() -> str:
    width = max(map(len, COMMANDS))
    lines = []
    for name, command in COMMANDS.items():
        summary = command.config.__doc__.partition("\n")[0]
        said = ": ".join(filter(None, (command.usage, summary)))
        lines.append(f"  {name:<{width}}  {said}")
    usage = f"usage: {PROGRAM} COMMAND ..."
    more = (
        f"{PROGRAM} COMMAND --help lists the flags of a command; --version, versions."
    )
    return "\n".join([usage, "", DESCRIPTION, "", *lines, "", more])


# What other programs call a flag of this one; these names are taken too.
ALIASES = {
    "arch": "model.name",
    "augment": "data.augment-on",
    "batch": "batch-size",
    "bs": "batch-size",
    "dataset": "data.source",
    "gpus": "devices",
    "lam": "method.lam",
    "lambda": "method.lam",
    "learning-rate": "optimizer.learning-rate",
    "log-dir": "out",
    "logdir": "out",
    "loss": "loss.name",
    "lr": "optimizer.learning-rate",
    "method": "method.name",
    "model": "model.name",
    "num-epochs": "epochs",
    "num-workers": "workers",
    "optimizer": "method.name",
    "output": "out",
    "output-dir": "out",
    "wd": "optimizer.weight-decay",
    "weight-decay": "optimizer.weight-decay",
}


def _spelled_out(config: type, arguments: list[str]) -> list[str]:
    """The flags of a command with our names for `ALIASES`, and directories for ~."""
    own, found = {field.name for field in dataclasses.fields(config)}, []
    for word in map(os.path.expanduser, arguments):
        flag, *value = word.split("=", 1)
        value = map(os.path.expanduser, value)  # which no shell does after =
        name = flag.removeprefix("--").replace("_", "-")
        meant = ALIASES.get(name) if flag.startswith("--") and name not in own else None
        found.append("=".join([f"--{meant}" if meant else flag, *value]))
    return found


# What a path that cannot be written, or read, is refused by.
_PATHS = (
    errno.EACCES, errno.EPERM, errno.EROFS, errno.EEXIST, errno.ENOTDIR, errno.EISDIR,
)  # fmt: skip


def _of_system(error: OSError) -> str:
    """A sentence about what the operating system refused."""
    reason = error.strerror or str(error)
    where = f"{error.filename}: " if error.filename is not None else ""
    advice = "If it was to be written, give --out a directory that you may write to."
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        advice = "Make room, or give --out a directory on another disk."
    elif error.errno not in _PATHS:
        advice = ""
    return f"{where}{reason.rstrip('.')}. {advice}".rstrip()
