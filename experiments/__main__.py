"""`python -m experiments <command>`, if the required packages are installed."""

import importlib.util
import sys

from experiments import terminal

# What each requirement of the extra `experiments` is imported as.
MODULES = {
    "absl-py": "absl",
    "flatbuffers": "flatbuffers",
    "flax": "flax",
    "grain": "grain",
    "importlib_resources": "importlib_resources",
    "jax": "jax",
    "markdown-it-py": "markdown_it",
    "matplotlib": "matplotlib",
    "numpy": "numpy",
    "optax": "optax",
    "orbax-checkpoint": "orbax",
    "pillow": "PIL",
    "pydantic": "pydantic",
    "safetensors": "safetensors",
    "scikit-learn": "sklearn",
    "scipy": "scipy",
    "tensorboardX": "tensorboardX",
    "tensorflow-datasets": "tensorflow_datasets",
    "threadpoolctl": "threadpoolctl",
    "tqdm": "tqdm",
    "tyro": "tyro",
}


def main() -> int:
    """Runs the command line, or says what is missing and returns the status 1."""
    terminal.quiet_interrupts()
    missing = [
        requirement
        for requirement, module in MODULES.items()
        if importlib.util.find_spec(module) is None
    ]
    if missing:
        print(
            f"python -m experiments needs packages that are not installed "
            f"({', '.join(missing)}): pip install '.[experiments]'",
            file=sys.stderr,
        )
        return 1
    from experiments import cli

    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
