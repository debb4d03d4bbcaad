"""A new process that measures saved models: JSON request on standard input, answer on output.

`python -m neuroprune.bench.fresh < request.json`; used by `neuroprune.bench.runner`.
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import redirect_stdout
from pathlib import Path


def main() -> None:
    """Read the request, evaluate, answer."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from transformers.utils import logging

    from neuroprune.bench.config import RunConfig
    from neuroprune.bench.runner import evaluate_saved

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    request = json.load(sys.stdin)
    data_dir = None if request["data_dir"] is None else Path(request["data_dir"])
    with redirect_stdout(sys.stderr):  # nothing but the answer goes to standard output
        config = RunConfig.from_dict(request["config"], "request")
        answer = {
            name: evaluate_saved(config, directory, data_dir)["metrics"]
            for name, directory in request["models"].items()
        }
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
