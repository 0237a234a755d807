"""A process that builds steps on request, and times them; see `interleave`."""

import gc
import importlib
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
                ready = build(**request["build"])
                answer = ready.facts
            except MissingData as error:
                answer = {"missing": str(error)}
        else:
            run = run or ready.start()
            answer = {"seconds": run(request["run"])}
        print(json.dumps(run_log.to_jsonable(answer)), file=answers, flush=True)
    # Here, not when Python ends: a loader's processes would leave memory behind.
    run = ready = None
    gc.collect()
    return 0


def build(function: str, arguments: dict[str, Any]) -> Any:
    """Calls what `interleave.call` describes, `benchmarks.mlp:build` for example.

    Lists become the tuples that they were before JSON. Returns a `step_cost.Ready`.
    """
    module, _, name = function.partition(":")
    return getattr(importlib.import_module(module), name)(**_with_tuples(arguments))


def _with_tuples(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _with_tuples(item) for name, item in value.items()}
    return tuple(map(_with_tuples, value)) if isinstance(value, list) else value


if __name__ == "__main__":
    sys.exit(main())
