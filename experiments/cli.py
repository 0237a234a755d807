"""The command line: `python -m experiments <command>`."""

import difflib
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import tyro

from experiments import configs

PROGRAM = "python -m experiments"
DESCRIPTION = "The experiments of the ABSGD paper (arXiv 2012.06951)."

# Exit statuses; 2 is also that of a command line that cannot be parsed.
FAILED, BAD_CONFIGURATION, NO_DATA, NOT_FINITE, INTERRUPTED = 1, 2, 3, 4, 130

COMMANDS: dict[str, Any] = {
    "list": configs.List,
    "train": configs.Train,
    "compare": configs.Compare,
    "sweep": configs.Sweep,
    "evaluate": configs.Evaluate,
    "report": configs.Report,
    "demo": configs.Demo,
    "recipes": configs.Recipes,
    "untuned": configs.Untuned,
    "after-first-stage": configs.AfterFirstStage,
    "reproduce": configs.Reproduce,
    "results": configs.Results,
    "toy": configs.Toy,
    "bench": configs.Bench,
}
SUMMARIES = {
    "list": "the presets: data, model, schedule and cost",
    "train": "PRESET [--field value ...] [--out DIR] [--seed N]: train, or resume",
    "compare": "PRESET --methods a,b,c --seeds N: methods on equal terms, in a table",
    "sweep": "PRESET --lams a,b --gammas x,y --seeds N: vmapped runs in one program",
    "evaluate": "DIR: the newest checkpoint on validation and test examples",
    "report": "DIR...: tables and figures, next to the paper's numbers",
    "demo": "SGD against ABSGD on embedded data; a minute or two",
    "recipes": "the demo with other switching epochs, γ and λ",
    "untuned": "--data-dir DIR --seeds N --out FILE: a radius against fixed λ",
    "after-first-stage": "--data-dir DIR: do the losses predict that a fixed λ harms",
    "reproduce": "--minutes N: the paper's tables on CIFAR in full, over many sittings",
    "results": "the page of what reproduce recorded, next to the paper's numbers",
    "toy": "the paper's toy figure",
    "bench": "[SUITE ...]: the cost of a step, of loading data and of whole trainings",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Parses the command line, then runs the command.

    Only a command that runs imports JAX, so `--help` is instant.

    Args:
      arguments: after the program's name; None for the process's own.

    Returns:
      Exit status: 0; 1 for an unexpected failure; 2 for a bad configuration; 3 for
      missing or damaged data; 4 for a loss that is not finite; 130 if interrupted.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help"):
        print(_usage())
        return 0 if words else BAD_CONFIGURATION
    name, *rest = words
    if name not in COMMANDS:
        return _refuse(f"There is no command {name!r}.{_meant(name, COMMANDS)}")
    if name in ("train", "compare", "sweep"):
        return _with_preset(name, rest)
    config = tyro.cli(COMMANDS[name], prog=f"{PROGRAM} {name}", args=rest)
    return _run(_command, config)


def _command(config: Any) -> int:
    """Imports and runs the module of a command."""
    match config:
        case configs.List():
            from experiments import presets

            print(presets.listing(config.pattern))
            return 0
        case configs.Evaluate():
            from experiments.train import runs

            return runs.evaluate(config)
        case configs.Report():
            from experiments.report import command

            return command.main(config)
        case configs.Demo():
            from experiments.studies import demo

            return demo.main(config)
        case configs.Recipes():
            from experiments.studies import recipes

            return recipes.main(config)
        case configs.Untuned():
            from experiments.studies import untuned

            return untuned.main(config)
        case configs.AfterFirstStage():
            from experiments.studies import after_first_stage

            return after_first_stage.main(config)
        case configs.Reproduce():
            from experiments.studies import reproduce

            return reproduce.main(config)
        case configs.Results():
            from experiments.studies import reproduce_report

            return reproduce_report.main(config)
        case configs.Bench():
            from benchmarks import command

            return command.main(config)
        case _:
            from experiments.studies import toy

            return toy.main(config)


def _with_preset(command: str, arguments: list[str]) -> int:
    """Parses a preset's name, then the fields that override it."""
    from experiments import presets

    if not arguments or arguments[0].startswith("-"):
        print(
            f"usage: {PROGRAM} {command} PRESET [--field value ...]\n\n"
            f"The presets: {PROGRAM} list. "
            f"The fields: {PROGRAM} {command} PRESET --help."
        )
        return 0 if arguments[:1] in (["-h"], ["--help"]) else BAD_CONFIGURATION
    name, *rest = arguments
    try:
        preset = presets.get(name)
    except presets.UnknownPreset as error:
        return _refuse(str(error))
    kind = COMMANDS[command]
    try:
        config = tyro.cli(
            kind,
            default=kind(preset.run),
            prog=f"{PROGRAM} {command} {name}",
            description=preset.doc if command == "train" else None,
            args=rest,
        )
    except ValueError as error:  # fields that do not go together
        return _refuse(str(error))

    if preset.needs is not None and config.run.start_from is None:
        return _refuse(
            f"{name} is a second stage: give --start-from the directory of a "
            f"finished run of {preset.needs}."
        )

    def train(config: configs.Train) -> int:
        from experiments.train import runs

        return runs.main(name, config.run, config.session)

    def compare(config: configs.Compare) -> int:
        from experiments.studies import compare

        return compare.main(name, config)

    def sweep(config: configs.Sweep) -> int:
        from experiments.studies import sweep

        return sweep.main(name, config)

    commands = {"train": train, "compare": compare, "sweep": sweep}
    return _run(commands[command], config)


def _run(command: Callable[[Any], int], config: Any) -> int:
    """Runs a command, and maps each kind of failure to its exit status."""
    from experiments.data.types import DamagedData, MissingData

    try:
        return command(config)
    except configs.BadConfiguration as error:
        return _refuse(str(error))
    except (MissingData, DamagedData) as error:
        print(error, file=sys.stderr)
        return NO_DATA
    except FloatingPointError as error:
        print(error, file=sys.stderr)
        return NOT_FINITE
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # the reader has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED


def _usage() -> str:
    width = max(map(len, SUMMARIES))
    lines = [f"  {name:<{width}}  {what}" for name, what in SUMMARIES.items()]
    usage, more = (
        f"usage: {PROGRAM} COMMAND ...",
        f"{PROGRAM} COMMAND --help lists the flags of a command.",
    )
    return "\n".join([usage, "", DESCRIPTION, "", *lines, "", more])


def _meant(name: str, names: Iterable[str]) -> str:
    """Suggests the nearest name as a sentence, if one is near."""
    close = difflib.get_close_matches(name, names, n=1)
    return f" Did you mean {close[0]!r}?" if close else f" See {PROGRAM} --help."


def _refuse(message: str) -> int:
    print(message, file=sys.stderr)
    return BAD_CONFIGURATION
