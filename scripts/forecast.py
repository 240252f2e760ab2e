"""Compares forecasts with what two machines measure; `scripts/forecast` says how, and builds what it needs."""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
from typing import Any

from hosts import AS_ROOT, two_hosts

MODELS = {
    "the lab's, 32 x 32": ["--batch-size", "32", "--steps", "200"],
    "5.3M, 32 x 64": "--vocab-size 8000 --d-model 256 --layers 4 --d-ff 1024 --batch-size 32 --seq-len 64 --steps 20".split(),
}
GBITS = [0.1, 1, 3, 10]


def bench(launcher: list[str], mpi: pathlib.Path, *options: str) -> dict[str, Any]:
    command = [*launcher, str(mpi / "mlm"), "bench", "--threads", "1", "--json", *options]
    done = subprocess.run(command, env={**os.environ, **AS_ROOT}, stdout=subprocess.PIPE, text=True, check=True)
    outcome: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return outcome


def main(mpi: pathlib.Path) -> None:
    # Namespaces of one machine are near each other.
    forecasts = ["--machines", "2", "--latency-us", "15"]
    print(f"{'model':20} {'Gbit/s':>6} {'one':>9} {'forecast':>9} {'two':>9}  error  hidden")
    with tempfile.TemporaryDirectory() as folder, two_hosts(pathlib.Path(folder)) as hosts:
        for model, options in MODELS.items():
            for gbits in GBITS:
                hosts.limit(1000 * gbits)
                one = bench([], mpi, *options, *forecasts, "--gbits", str(gbits))
                two = bench(hosts.mpirun(mpi), mpi, *options)
                forecast, measured = one["forecast"][0]["same_batch_ms"], two["ms_per_step_median"]
                print(
                    f"{model:20} {gbits:6} {one['ms_per_step_median']:9.2f} {forecast:9.2f} {measured:9.2f}"
                    f" {forecast / measured - 1:+6.0%} {two['exchange']['hidden']:7.0%}"
                )


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
