"""The command line: `python -m experiments <command>`."""

import sys

import tyro

from experiments import configs


def main() -> int:
    """Reads the command line, then runs.

    Only a command that runs imports JAX, so `--help` is instant.

    Returns:
      Exit status; 130 if interrupted.
    """
    command = tyro.extras.subcommand_cli_from_dict(
        {"demo": configs.Demo, "recipes": configs.Recipes},
        prog="python -m experiments",
        description="The experiments of the ABSGD paper (arXiv 2012.06951).",
    )
    try:
        match command:
            case configs.Demo():
                from experiments import demo

                return demo.main(command)
            case configs.Recipes():
                from experiments import recipes

                return recipes.main(command)
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
