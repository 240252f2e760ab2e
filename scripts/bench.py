"""Measures `mlm bench` and its peers in turns; `scripts/bench` says how to call it and installs what it needs."""

import argparse
import csv
import datetime
import json
import os
import pathlib
import platform
import subprocess
import sys
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parent.parent
FIGURE = ROOT / "notebooks/figures/speed.svg"
SIZE = ["vocab_size", "d_model", "layers", "heads", "d_ff", "batch_size", "seq_len"]
SIZES = {
    "lab": (1000, 64, 2, 4, 256, 8, 32),
    "lab, 32 x 32": (1000, 64, 2, 4, 256, 32, 32),
    "5.3M": (8000, 256, 4, 4, 1024, 32, 64),
    "57k": (500, 48, 1, 4, 192, 8, 32),
    "lab, 16 x 32": (1000, 64, 2, 4, 256, 16, 32),
    "0.7M": (2000, 128, 2, 4, 512, 16, 64),
    "2.6M": (4000, 192, 4, 4, 768, 32, 64),
    "17M": (8000, 384, 8, 6, 1536, 64, 128),
}
MAIN = ["lab", "lab, 32 x 32", "5.3M"]
# Those of the figure.
CURVE = ["57k", "lab, 16 x 32", "0.7M", "2.6M", "5.3M", "17M"]
ENGINE = "mlm_core"
PEERS = {
    "BertForMaskedLM": ["bert"],
    "BertForMaskedLM, compiled": ["bert", "--compile"],
    "TransformerEncoder": ["encoder"],
    "TransformerEncoder, compiled": ["encoder", "--compile"],
    "JAX, jitted": ["jax"],
}
COLUMNS = ["date", "machine", "cores", "threads", "size", *SIZE, "peer", "version", "precision",
           "parameters", "ms_per_step_median", "tokens_per_second", "gflops", "sgemm_gflops"]


def measure(command: list[Any], threads: int) -> dict[str, Any] | None:
    """The JSON object in the last line of what a program says; none when it fails."""
    # The libraries that PyTorch multiplies with start threads of their own.
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, env=environment)
    if done.returncode != 0:
        print(f"bench: {' '.join(map(str, command))} failed:\n{done.stderr[-2000:]}", file=sys.stderr)
        return None
    return json.loads(done.stdout.splitlines()[-1])


def steps(size: str) -> int:
    """Enough for a median, few where one takes a second."""
    vocab, d_model, layers, _, d_ff, batch, seq = SIZES[size]
    numbers = (layers * (4 * d_model**2 + 2 * d_model * d_ff) + 0.15 * vocab * d_model) * batch * seq
    return max(10, min(300, round(1e10 / numbers)))


def runs(quick: bool) -> list[tuple[str, int, str]]:
    """What is measured, in order: (size, threads, precision)."""
    if quick:
        return [(size, 2, "f32") for size in MAIN]
    return [(size, 2, "f32") for size in SIZES] + [(size, 1, "f32") for size in MAIN] + [(size, 2, "bf16") for size in MAIN]


def peers(quick: bool) -> dict[str, list[str]]:
    if quick:  # to compile takes most of the time
        return {name: peer for name, peer in PEERS.items() if name != "BertForMaskedLM, compiled"}
    return PEERS


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    date = datetime.datetime.now()
    path = ROOT / f"target/bench/{date:%Y-%m-%d-%H%M}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    with path.open("w", newline="") as file:
        table = csv.DictWriter(file, COLUMNS)
        table.writeheader()
        for size, threads, precision in runs(quick):
            print(f"\n{size}, {threads} thread{'s' * (threads > 1)}, {precision}", flush=True)
            numbers = dict(zip(SIZE, SIZES[size], strict=True))
            arguments = [f"--{name.replace('_', '-')}={value}" for name, value in numbers.items()]
            arguments += [f"--steps={steps(size)}", f"--threads={threads}"]
            for name, peer in {ENGINE: None, **peers(quick)}.items():
                ours = [ROOT / "target/release/mlm", "bench", "--json"]
                command = [sys.executable, ROOT / "scripts/peers.py", *peer] if peer else ours
                outcome = measure([*command, f"--precision={precision}", *arguments], threads)
                if outcome is None:
                    continue
                row = {"date": f"{date:%Y-%m-%d %H:%M}", "machine": machine(), "cores": os.cpu_count(), "peer": name,
                       "threads": threads, "size": size, "precision": precision,
                       **numbers, **{key: value for key, value in outcome.items() if key in COLUMNS}}
                rows.append(row | {"plan": (size, threads, precision)})
                table.writerow(row)
                file.flush()
                print(f"  {name:30} {outcome['ms_per_step_median']:10.3f} ms", flush=True)
    report(rows)
    print(f"\nbench: {path.relative_to(ROOT)}")
    if not quick:
        draw(rows)
        print(f"bench: {FIGURE.relative_to(ROOT)}")


def machine() -> str:
    """The processor's name, as far as the system tells it."""
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def report(rows: list[dict[str, Any]]) -> None:
    """A table for each size, in Markdown."""
    for plan in dict.fromkeys(row["plan"] for row in rows):
        size, threads, precision = plan
        times = {row["peer"]: row["ms_per_step_median"] for row in rows if row["plan"] == plan}
        mine = next((row for row in rows if row["plan"] == plan and row["peer"] == ENGINE), None)
        if mine is None:
            continue
        print(f"\n| {size}, threads: {threads}, {precision} | ms a step | times {ENGINE} |\n| --- | ---: | ---: |")
        for name, time in times.items():
            print(f"| {name} | {time:.2f} | {time / times[ENGINE]:.1f} |")
        share = mine["gflops"] / mine["sgemm_gflops"]
        print(f"\n{ENGINE}: {100 * share:.0f} % of the speed of a product of 1024^3 in f32 in the same run")


def draw(rows: list[dict[str, Any]]) -> None:
    """Tokens a second over the size of the model."""
    from matplotlib import pyplot

    # A colour that colour-blind readers tell apart, too (Okabe and Ito), and a shape for each.
    colours = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00"]
    pyplot.rcParams.update({"svg.fonttype": "path", "font.size": 11})
    pyplot.rcParams["axes.prop_cycle"] = pyplot.cycler(color=colours, marker=["o", "s", "^", "D", "v", "x"])
    figure, axes = pyplot.subplots(figsize=(8, 5))
    rows = [row for row in rows if row["plan"] in [(size, 2, "f32") for size in CURVE]]
    rows.sort(key=lambda row: CURVE.index(row["size"]))
    ours = [row for row in rows if row["peer"] == ENGINE]
    parameters = {row["size"]: row["parameters"] for row in ours}
    rows = [row for row in rows if row["size"] in parameters]
    for name in dict.fromkeys(row["peer"] for row in rows):
        points = [(parameters[row["size"]], row["tokens_per_second"]) for row in rows if row["peer"] == name]
        axes.plot(*zip(*points, strict=True), label=name, linewidth=3 if name == ENGINE else 1.5)
    # What the engine would do if all of its useful operations ran as fast as a large product.
    ceiling = [row["tokens_per_second"] * row["sgemm_gflops"] / row["gflops"] for row in ours]
    axes.plot(parameters.values(), ceiling, "--", color="gray", label="ceiling: a product of 1024³")
    axes.set(xscale="log", yscale="log", xlabel="parameters", ylabel="tokens a second, 2 threads, f32")
    axes.grid(True, which="both", alpha=0.3)
    axes.legend()
    figure.savefig(FIGURE, bbox_inches="tight", facecolor="white")


if __name__ == "__main__":
    main()
