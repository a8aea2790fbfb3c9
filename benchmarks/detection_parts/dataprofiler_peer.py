"""Time DataProfiler on lines of text; runs alone, in an environment of its own.

    python dataprofiler_peer.py TEXTS.json REPEATS

Its pins do not go with ours (pandas 2, TensorFlow for the labeler). Prints one line of JSON: rows
per second of the column statistics, of the labeler of columns (one label for each cell) and of the
labeler of text (one label for each character), each as a list over the repeats.
"""

import json
import os
import sys
import time
from pathlib import Path

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"


def main() -> None:
    """Measure and print."""
    import dataprofiler  # noqa: PLC0415 - this environment has neither for the linter
    import pandas as pd  # noqa: PLC0415

    texts = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    repeats = int(sys.argv[2])
    frame = pd.DataFrame({"text": texts})
    options = dataprofiler.ProfilerOptions()
    options.set({"data_labeler.is_enabled": False, "multiprocess.is_enabled": False})
    columns = dataprofiler.DataLabeler(labeler_type="structured")
    characters = dataprofiler.DataLabeler(labeler_type="unstructured")
    work = {
        "statistics": lambda: dataprofiler.Profiler(frame, options=options),
        "column labels": lambda: columns.predict(frame),
        "character labels": lambda: characters.predict(texts),
    }
    rates = {}
    for name, run in work.items():
        run()
        rates[name] = [len(texts) / _seconds(run) for _ in range(repeats)]
    print(json.dumps({"version": dataprofiler.__version__, "rates": rates}))


def _seconds(run: object) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
