"""Runs inside the real MLflow's venv: one process that imports its client once, then carries out functions by name.

A line of JSON in (``{"module", "name", "uri", "arguments"}``), a line out (``{"answer"}`` or ``{"failed": traceback}``).
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import traceback
import warnings


def main() -> None:
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # the client prints ("View run ... at ..."); answers have a pipe of their own
    import mlflow

    warnings.filterwarnings("error", message=".*", category=UserWarning, module="mlflow.tracking")
    for line in sys.stdin:
        asked = json.loads(line)
        if asked["uri"]:
            mlflow.set_tracking_uri(asked["uri"])
            mlflow.set_registry_uri(asked["uri"])
        try:
            function = getattr(importlib.import_module(asked["module"]), asked["name"])
            answer = {"answer": function(**asked["arguments"])}
        except BaseException:  # noqa: BLE001 (it goes to the test, which fails with it)
            answer = {"failed": traceback.format_exc()}
        finally:
            while mlflow.active_run() is not None:
                mlflow.end_run()
        out.write(json.dumps(answer) + "\n")
        out.flush()


if __name__ == "__main__":
    main()
