"""What several machines bring, from what a step takes on this one; `scripts/forecast` says how, and builds what it needs."""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
from typing import Any

from hosts import AS_ROOT, two_hosts

ROOT = pathlib.Path(__file__).resolve().parent.parent
FIGURE = ROOT / "notebooks/figures/machines.svg"
LARGE = "--vocab-size 8000 --d-model 256 --layers 4 --d-ff 1024 --seq-len 64".split()
BERT_BASE = "--vocab-size 30522 --d-model 768 --layers 12 --heads 12 --d-ff 3072 --seq-len 128".split()

# Compared with two machines.
COMPARED = {
    "the lab's, 32 x 32": ["--batch-size", "32", "--steps", "200"],
    "5.3M, 32 x 64": [*LARGE, "--batch-size", "32", "--steps", "20"],
}
# Gbit/s, and seconds that the link takes.
LINKS = [(0.1, 0.0), (1.0, 0.0), (3.0, 0.0), (10.0, 0.0), (1.0, 0.001), (1.0, 0.003)]

# Drawn: the options of each model, the sequences of its batch, and the steps that are measured.
DRAWN: dict[str, tuple[list[str], int, int]] = {
    "the lab's model, 32 x 32 tokens": ([], 32, 300),
    "5.3M parameters, 32 x 64": (LARGE, 32, 20),
    "BERT-base, 8 x 128": (BERT_BASE, 8, 3),
}
NETWORKS = [1, 10, 100]
# Until the first byte is there, through one switch.
LATENCY = ["--latency-us", "30"]
MACHINES = [2**power for power in range(11)]
LARGER = 4


def bench(launcher: list[str], mpi: pathlib.Path, *options: str) -> dict[str, Any]:
    command = [*launcher, str(mpi / "mlm"), "bench", "--json", *options]
    done = subprocess.run(command, env={**os.environ, **AS_ROOT}, stdout=subprocess.PIPE, text=True, check=True)
    outcome: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return outcome


def compare(mpi: pathlib.Path) -> None:
    print(f"{'model':20} {'Gbit/s':>6} {'us':>6} {'one':>9} {'forecast':>9} {'two':>9}  error  hidden")
    for model, options in COMPARED.items():
        options = [*options, "--threads", "1"]
        for gbits, delay in LINKS:
            with tempfile.TemporaryDirectory() as folder, two_hosts(pathlib.Path(folder), delay) as hosts:
                hosts.limit(1000 * gbits)
                two = bench(hosts.mpirun(mpi), mpi, *options)
            latency = two["exchange"]["latency_us"]
            one = bench([], mpi, *options, "--machines", "2", "--gbits", str(gbits), "--latency-us", str(latency))
            forecast, measured = one["forecast"][0]["same_batch_ms"], two["ms_per_step_median"]
            print(
                f"{model:20} {gbits:6} {latency:6.0f} {one['ms_per_step_median']:9.2f} {forecast:9.2f} {measured:9.2f}"
                f" {forecast / measured - 1:+6.0%} {two['exchange']['hidden']:7.0%}",
                flush=True,
            )


def measure(mpi: pathlib.Path) -> dict[tuple[str, int], list[dict[str, Any]]]:
    """The forecasts for each model, with its batch and with a larger one."""
    forecasts = {}
    options = ["--machines", ",".join(map(str, MACHINES)), "--gbits", ",".join(map(str, NETWORKS)), *LATENCY]
    for model, (of_model, batch_size, steps) in DRAWN.items():
        for larger in [1, LARGER]:
            batch = ["--batch-size", str(larger * batch_size), "--steps", str(steps)]
            outcome = bench([], mpi, *of_model, *batch, *options)
            print(f"{model}, batch x {larger}: {outcome['ms_per_step_median']:.2f} ms a step", flush=True)
            forecasts[model, larger] = outcome["forecast"]
    return forecasts


def draw(forecasts: dict[tuple[str, int], list[dict[str, Any]]]) -> None:
    """How much of the time of all machines is not lost, over their number."""
    from matplotlib import lines, pyplot

    # Colours that colour-blind readers tell apart, too (Okabe and Ito).
    colours = dict(zip(NETWORKS, ["#d55e00", "#0072b2", "#009e73"], strict=True))
    styles = {1: "-", LARGER: "--"}
    pyplot.rcParams.update({"svg.fonttype": "path", "font.size": 11})
    figure, grid = pyplot.subplots(2, len(DRAWN), figsize=(11, 6.5), sharex=True, sharey=True, layout="constrained")
    for row, batch, name in zip(grid, ["same", "growing"], ["one batch, shared out", "a batch for each machine"], strict=True):
        row[0].set_ylabel(f"{name}:\nefficiency, %")
        for axes, model in zip(row, DRAWN, strict=True):
            for gbits, colour in colours.items():
                for larger, style in styles.items():
                    of_network = [point for point in forecasts[model, larger] if point["gbits"] == gbits]
                    efficiency = [100 * point[f"{batch}_batch_efficiency"] for point in of_network]
                    axes.plot(MACHINES, efficiency, style, color=colour)
            axes.set(xscale="log", ylim=(0, 103), xticks=[1, 4, 16, 64, 256, 1024])
            axes.set_xticklabels(["1", "4", "16", "64", "256", "1,024"])
            axes.minorticks_off()
            axes.grid(True, alpha=0.3)
    for top, bottom, model in zip(*grid, DRAWN, strict=True):
        top.set_title(model)
        bottom.set_xlabel("machines")
    legend = [lines.Line2D([], [], color=colour, label=f"{gbits} Gbit/s") for gbits, colour in colours.items()]
    legend.append(lines.Line2D([], [], color="gray", linestyle="--", label=f"{LARGER} times the batch"))
    figure.legend(handles=legend, loc="outside lower center", ncols=len(legend))
    figure.savefig(FIGURE, facecolor="white")
    print(FIGURE.relative_to(ROOT))


def main(mpi: str, task: str = "") -> None:
    if task == "--draw":
        draw(measure(pathlib.Path(mpi)))
    else:
        compare(pathlib.Path(mpi))


if __name__ == "__main__":
    main(*sys.argv[1:])
