"""Seconds from the shell to the help text, in a process of its own each time.

    python benchmarks/startup.py [--rounds 7]

Bar: `kdtool --help` under 0.4 s. Beside it: Python alone, and an import of torch, which the help does without.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "kdtool --help": [sys.executable, "-c", "from kdtoolkit.cli.main import main; main()", "--help"],
    "kdtool plugins": [sys.executable, "-c", "from kdtoolkit.cli.main import main; main()", "plugins"],
    "import torch": [sys.executable, "-c", "import torch"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args()
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(given.rounds + 1):  # interleaved; the first round warms the file cache and is dropped
        for name, command in COMMANDS.items():
            started = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True)
            times[name].append(time.perf_counter() - started)
    for name, seconds in times.items():
        kept = sorted(seconds[1:])
        print(f"{name:<16} median {statistics.median(kept):.2f} s ({kept[0]:.2f} to {kept[-1]:.2f})")


if __name__ == "__main__":
    main()
