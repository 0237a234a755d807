"""A process that builds steps on request, and times them; see `interleave`."""

import gc
import json
import os
import sys
from typing import Any

from experiments.data.types import MissingData
from experiments.results import run_log


def main() -> int:
    """Answers requests until standard input ends."""
    # Only answers go to standard output; other prints go to standard error.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    run: Any = None
    ready: Any = None
    for line in sys.stdin:
        request = json.loads(line)
        if "build" in request:
            run = ready = None
            gc.collect()  # the last one's arrays
            try:
                ready = build(request["build"])
                answer = ready.facts
            except MissingData as error:
                answer = {"missing": str(error)}
        else:
            if run is None:
                run = ready.start()
            answer = {"seconds": run(request["run"])}
        print(json.dumps(run_log.plain(answer)), file=answers, flush=True)
    # Here, not when Python ends: a loader's processes would leave memory behind.
    run = ready = None
    gc.collect()
    return 0


def build(described: dict[str, Any]) -> Any:
    """Builds what a request describes.

    Args:
      described: `kind`, and the arguments of that kind.

    Returns:
      See `compiled.Ready`.
    """
    rest = {name: value for name, value in described.items() if name != "kind"}
    match described["kind"]:
        case "mlp":
            from benchmarks import mlp

            return mlp.build(**rest)
        case "network":
            from benchmarks import network

            return network.build(**rest)
        case "flax":
            from benchmarks import flax_resnet

            return flax_resnet.build(**rest)
        case "loader":
            from benchmarks import loading

            return loading.arrays(**rest)
        case "files":
            from benchmarks import loading

            return loading.files(**rest)
        case "training":
            from benchmarks import training

            return training.build(**rest)
        case "sweep":
            from benchmarks import sweeping

            return sweeping.build(**rest)
        case kind:
            raise ValueError(f"There is nothing called {kind!r} to build.")


if __name__ == "__main__":
    sys.exit(main())
