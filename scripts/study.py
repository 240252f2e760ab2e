"""Trains many models with `mlm train`; `scripts/study` says what for, and builds what it needs."""

import csv
import gzip
import itertools
import json
import pathlib
import random
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parent.parent
MLM = ROOT / "target/release/mlm"
RESULTS = ROOT / "data/study.csv"
WORK = ROOT / "target/study"
SENTENCES = 5000
SEEDS = range(3)
# The package of Debian and the file in it.
STUDIED = {
    "jargon": ("dict-jargon", "usr/share/dictd/jargon.dict.dz"),  # the Jargon File, public domain
    "devil": ("dict-devil", "usr/share/dictd/devil.dict.dz"),  # Bierce, The Devil's Dictionary, public domain
    "faq": ("debian-faq", "usr/share/doc/debian/FAQ/debian-faq.en.txt.gz"),  # GPL
}
# Webster's of 1913 and WordNet, GPL: enough sentences to see what more of them bring.
GROWING = ("dict-gcide", "usr/share/dictd/gcide.dict.dz")
UNSEEN = {
    "foldoc": ("dict-foldoc", "usr/share/dictd/foldoc.dict.dz"),  # Free On-line Dictionary of Computing, GFDL
    "developers": ("developers-reference", "usr/share/developers-reference/developers-reference.txt.gz"),  # GPL
    "reference": ("debian-reference-en", "usr/share/debian-reference/debian-reference.en.txt.gz"),  # GPL
}
GRAMMAR = ["--grammar", "data/stories.grammar"]
VOCABULARY = ["--vocab-size", 1200]
STORIES = [*GRAMMAR, "--d-ff", 128]
# PyTorch's AdamW and initial weights that are noise.
NOISE = ["--init", "noise", "--beta2", 0.999, "--weight-decay", 0.01, "--batch-size", 32]
# The defaults, and what becomes of them with one thing changed.
SETTINGS: dict[str, list[Any]] = {
    "recipe": [],
    "noise of 0.02 and masks 15 %": [*NOISE, "--init-range", 0.02, "--mask-rate", 0.15, "--lr", 3e-3],
    "noise of 0.05 and masks 40 %": [*NOISE, "--init-range", 0.05, "--mask-rate", 0.4, "--lr", 5e-3],
    "initial weights: noise": ["--init", "noise"],
    "initializer range 0.02": ["--init-range", 0.02],
    "initializer range 0.1": ["--init-range", 0.1],
    "masks 15 %": ["--mask-rate", 0.15],
    "masks 30 %": ["--mask-rate", 0.3],
    "masks 50 %": ["--mask-rate", 0.5],
    "whole words": ["--whole-word"],
    "learning rate 0.002": ["--lr", 2e-3],
    "learning rate 0.008": ["--lr", 8e-3],
    "batches of 8": ["--batch-size", 8],
    "batches of 32": ["--batch-size", 32],
    "weight decay 0.01": ["--weight-decay", 0.01],
    "weight decay 0.3": ["--weight-decay", 0.3],
    "beta2 0.999": ["--beta2", 0.999],
    "dropout 0.1": ["--dropout", 0.1],
    "warm-up 2 %": ["--warmup", 0.02],
    "warm-up 30 %": ["--warmup", 0.3],
    "2 heads": ["--heads", 2],
}
# Of the stories: how the loss falls with the size of the model, with the text (at the same number of steps) and with time.
WIDTHS = [16, 24, 32, 48, 64, 96]
TEXTS = [500, 1000, 2000, 4000, 7200]
EPOCHS = [5, 10, 20, 40, 80]
# Of the growing text: sentences for a model of the lab's width, and for a larger one.
GROWTH = [3000, 6000, 12_000, 24_000, 48_000]
LARGER = ["--d-model", 128, "--layers", 4, "--d-ff", 512, "--lr", 2e-3]
GROWTH_OF_LARGER = [3000, 6000, 12_000]
COLUMNS = ["experiment", "text", "setting", "seed", "parameters", "epochs", "loss", "accuracy", "unigram",
           "neighbours", "best_neighbours", "floor"]


def fetched(name: str, package: str, inside: str, most: int = SENTENCES) -> pathlib.Path:
    """A text of Debian as a file with a sentence a line, in an order drawn once: only whole sentences, none twice."""
    path = WORK / f"{name}.txt"
    if path.exists():
        return path
    folder = WORK / package
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["apt-get", "download", package], cwd=folder, check=True)
    subprocess.run(["dpkg-deb", "-x", next(folder.glob("*.deb")), folder], check=True)
    text = gzip.open(folder / inside, "rt", encoding="utf-8", errors="replace").read()
    sentences = []
    for paragraph in re.split(r"\n\s*\n", text):
        for sentence in re.split(r"(?<=[.!?])\s+(?=[A-Z\"“'‘(])", " ".join(paragraph.split())):
            letters = sum(character.isalpha() or character == " " for character in sentence)
            if len(sentence.split()) >= 4 and sentence[-1] in ".!?" and letters >= 0.9 * len(sentence):
                sentences.append(sentence)
    sentences = list(dict.fromkeys(sentences))
    random.Random(0).shuffle(sentences)
    path.write_text("\n".join(sentences[:most]) + "\n", encoding="utf-8")
    return path


def mlm(*arguments: Any) -> dict[str, Any]:
    """The JSON object in the last line of what `mlm` says."""
    done = subprocess.run([MLM, *map(str, arguments), "--json"], cwd=ROOT, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"study: mlm {' '.join(map(str, arguments))}:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def trained(corpus: pathlib.Path, out: pathlib.Path, epochs: int, seed: Any, options: list[Any]) -> dict[str, Any]:
    shutil.rmtree(out, ignore_errors=True)
    return mlm("train", "--corpus", corpus, "--out", out, "--epochs", epochs, "--seed", seed, *options)


def experiments() -> Iterator[tuple[str, str, pathlib.Path, str, int, list[Any]]]:
    """All that is measured: experiment, text, its file, setting, epochs, options."""
    stories = ROOT / "data/stories.txt"
    texts: dict[str, tuple[pathlib.Path, int, list[Any]]]
    texts = {name: (fetched(name, *where), 10, ["--validation", 0.1]) for name, where in STUDIED.items()}
    whole = [*VOCABULARY, "--validation", 0.1]
    texts["stories"] = (stories, 20, [*STORIES, *whole])
    for setting, options in SETTINGS.items():
        for text, (path, epochs, base) in texts.items():
            yield "ablation", text, path, setting, epochs, [*base, *options]
    for width in WIDTHS:
        shape = ["--d-model", width, "--d-ff", 2 * width]
        yield "parameters", "stories", stories, f"d_model {width}", 30, [*GRAMMAR, *shape, *whole]
    for epochs in EPOCHS:
        yield "epochs", "stories", stories, f"{epochs} epochs", epochs, [*STORIES, *whole]
    # As many tokens to be recovered as in 5 epochs of the recipe.
    yield "questions", "stories", stories, "masks 15 %", 13, [*STORIES, *whole, "--mask-rate", 0.15]
    for count in TEXTS:
        path, options = part(stories, VOCABULARY, count, 800)
        yield "sentences", "stories", path, f"{count} sentences", round(30 * 7200 / count), [*STORIES, *options]
    growing = fetched("gcide", *GROWING, most=GROWTH[-1] + 2000)
    for setting, counts, more in [("", GROWTH, []), (" and a larger model", GROWTH_OF_LARGER, LARGER)]:
        for count in counts:
            path, options = part(growing, [], count, 2000)
            yield "text", "gcide", path, f"{count} sentences{setting}", 10, [*more, *options]


def part(text: pathlib.Path, vocabulary: list[Any], count: int, held_back: int) -> tuple[pathlib.Path, list[Any]]:
    """So many of the sentences of a text, with others to be held back; and the options for that, with the tokenizer of all."""
    whole = WORK / f"{text.stem}-whole"
    if not whole.exists():
        trained(text, whole, 1, 0, vocabulary)
    path = WORK / f"{text.stem}-{count}.txt"
    lines = text.read_text(encoding="utf-8").splitlines(keepends=True)
    path.write_text("".join(lines[: count + held_back]), encoding="utf-8")
    return path, ["--tokenizer", whole / "tokenizer.json", "--validation", held_back / (count + held_back)]


def study() -> None:
    rows: dict[tuple[str, str, str, str], dict[str, Any]] = {}
    if RESULTS.exists():
        with RESULTS.open(newline="") as file:
            rows = {(row["experiment"], row["text"], row["setting"], row["seed"]): row for row in csv.DictReader(file)}
    for experiment, text, path, setting, epochs, options in experiments():
        for seed in map(str, SEEDS):
            key = (experiment, text, setting, seed)
            if key in rows:
                continue
            outcome = trained(path, WORK / "run", epochs, seed, options)
            last = outcome["epochs"][-1]
            rows[key] = {
                "experiment": experiment, "text": text, "setting": setting, "seed": seed,
                "parameters": outcome["parameters"], "epochs": epochs,
                "loss": f"{last['validation_loss']:.4f}", "accuracy": f"{last['masked_accuracy']:.4f}",
                **{name: f"{baseline['loss']:.4f}" for name, baseline in outcome["baselines"].items() if baseline},
            }
            print(f"{experiment:10}  {text:8}  {setting:24}  {seed}  {rows[key]['loss']}", flush=True)
            with RESULTS.open("w", newline="") as file:
                writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
                writer.writeheader()
                writer.writerows(rows.values())


def pytorch(path: pathlib.Path, tokenizer: pathlib.Path, out: pathlib.Path, epochs: int, seed: int) -> tuple[int, float]:
    """Trains Hugging Face's BertForMaskedLM, of the size of `mlm train`, with the best settings for weights that start as
    noise, saves it as `mlm eval` reads it, and returns the seconds of its loop."""
    import torch
    import transformers
    from tokenizers import Tokenizer

    torch.manual_seed(seed)
    order = random.Random(seed)
    vocabulary = Tokenizer.from_file(str(tokenizer))
    pad, cls, sep, mask = (vocabulary.token_to_id(token) for token in ["[PAD]", "[CLS]", "[SEP]", "[MASK]"])
    size, max_len, rate, lr, batch_size = vocabulary.get_vocab_size(), 32, 0.4, 5e-3, 32
    sequences = []
    for line in path.read_text(encoding="utf-8").splitlines():
        ids = vocabulary.encode(line, add_special_tokens=False).ids
        parts = -(-len(ids) // (max_len - 2))
        cuts = [len(ids) * part // parts for part in range(parts + 1)]
        sequences += [torch.tensor([cls, *ids[start:end], sep]) for start, end in itertools.pairwise(cuts)]
    config = transformers.BertConfig(
        vocab_size=size, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=256,
        max_position_embeddings=max_len, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, initializer_range=0.05,
        pad_token_id=pad,
    )
    model = transformers.BertForMaskedLM(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr, weight_decay=0.01, fused=True)
    steps = epochs * -(-len(sequences) // batch_size)
    warmup = round(0.1 * steps)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warmup, (steps - step) / (steps - warmup))
    )
    start = time.perf_counter()
    for _ in range(epochs):
        order.shuffle(sequences)
        for first in range(0, len(sequences), batch_size):
            targets = torch.nn.utils.rnn.pad_sequence(sequences[first : first + batch_size], True, pad)
            chosen = (torch.rand(targets.shape) < rate) & (targets != pad) & (targets != cls) & (targets != sep)
            treatment, words = torch.rand(targets.shape), torch.randint(5, size, targets.shape)
            input_ids = torch.where(chosen & (treatment < 0.8), mask, targets)
            input_ids = torch.where(chosen & (treatment >= 0.9), words, input_ids)
            labels = targets.masked_fill(~chosen, -100)
            model(input_ids=input_ids, attention_mask=(targets != pad).long(), labels=labels).loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad(set_to_none=True)
    seconds = time.perf_counter() - start
    model.save_pretrained(out)
    shutil.copy(tokenizer, out)
    return model.num_parameters(), seconds


def compare(epochs: int = 10) -> None:
    """`mlm train` as it is and PyTorch, on 90 % of each text; both are tested on the rest by `mlm eval`."""
    print("text        seed  sentences   mlm_core: loss  seconds  parameters   PyTorch: loss  seconds  parameters   times as fast")
    for name, where in UNSEEN.items():
        lines = fetched(name, *where).read_text(encoding="utf-8").splitlines(keepends=True)
        held_back = len(lines) // 10
        parts = {"test": lines[:held_back], "train": lines[held_back:]}
        test, train = (WORK / f"{name}-{part}.txt" for part in parts)
        for path, part in zip([test, train], parts.values(), strict=True):
            path.write_text("".join(part), encoding="utf-8")
        for seed in SEEDS:
            ours, theirs = WORK / "ours", WORK / "theirs"
            outcome = trained(train, ours, epochs, seed, ["--validation", 0])
            parameters, seconds = pytorch(train, ours / "tokenizer.json", theirs, epochs, seed)
            losses = [mlm("eval", "--model", model, "--corpus", test)["loss"] for model in [ours, theirs]]
            print(
                f"{name:10}  {seed:4}  {len(parts['train']):9}  {losses[0]:15.3f}  {outcome['train_seconds']:7.1f}"
                f"  {outcome['parameters']:10}  {losses[1]:14.3f}  {seconds:7.1f}  {parameters:10}"
                f"  {seconds / outcome['train_seconds']:14.1f}",
                flush=True,
            )


if __name__ == "__main__":
    WORK.mkdir(parents=True, exist_ok=True)
    compare() if sys.argv[1:] == ["--peer"] else study()
