"""Directories with the oddities that tokenizers of the Hugging Face world have; used by scripts/parity.

Of each, either the token ids equal those of `transformers`, or the directory is refused with the words that are given.
"""

import json
import pathlib
import subprocess
from collections.abc import Callable
from typing import Any, NamedTuple

import transformers

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
TOKENS = SPECIAL + (
    "the cat dog sat on mat a big red , . ! ? ' s not Paris paris caf café Caf ##é ##e ##s ##ing play 中 文 中文 z ##b ##r ##a zeb "
    "ent ##ity x"
).split(" ")
END = len(TOKENS)
TEXTS = [
    "the zebra [ENT] cat . [MASK]",
    "Zebra zebras zebra-s [ent] [ENT][ENT] [BOS]a[EOS]",
    "Paris paris PARIS Café café CAFÉ cafe",
    "中文 中 文",
    "re[MASK]ed  [MASK]  [mask]",
    "[X] [Y]a[Z] <mask>",
    "xxxxxxxx " + "x" * 100 + " " + "x" * 101,
]

Files = dict[str, Any]


class Odd(NamedTuple):
    name: str
    files: Files
    refused: tuple[str, ...] = ()
    """Words of the refusal; none, if the directory is read."""


def vocab(tokens: list[str], end: str = "\n") -> Files:
    return {"vocab.txt": end.join([*tokens, ""])}


def settings(**fields: Any) -> Files:
    return {"tokenizer_config.json": fields}


def token(content: str, **flags: bool) -> dict[str, Any]:
    plain = {"lstrip": False, "rstrip": False, "single_word": False, "normalized": False, "special": False}
    return {"content": content, **plain, **flags}


def saved(change: Callable[[dict[str, Any]], None] = lambda _: None, **options: Any) -> Files:
    """A tokenizer.json as transformers writes it, and then changed."""
    tokenizer = transformers.BertTokenizer(vocab={token: nth for nth, token in enumerate(TOKENS)}, **options)
    written = json.loads(tokenizer.backend_tokenizer.to_str())
    change(written)
    return {"tokenizer.json": written}


def set_field(*path: Any) -> Callable[[dict[str, Any]], None]:
    """Sets what the names before the last argument lead to."""
    *parts, name, value = path

    def change(json: dict[str, Any]) -> None:
        for part in parts:
            json = json[part]
        json[name] = value

    return change


def add_more(json: dict[str, Any]) -> None:
    json["added_tokens"] += [token("zebra", normalized=True) | {"id": END}, token("[ENT]", special=True) | {"id": END + 1}]


def odd_directories() -> list[Odd]:
    truncation = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
    bert, fast = {"tokenizer_class": "BertTokenizer"}, {"tokenizer_class": "PreTrainedTokenizerFast"}
    plain, blank = vocab(TOKENS), vocab([*TOKENS, "", "", ""])
    added = {"zebra": END, "[ENT]": END + 1}
    decoder = {str(END): token("zebra", normalized=True), str(END + 1): token("[ENT]", special=True)}
    names = dict(zip(["pad_token", "unk_token", "cls_token", "sep_token", "mask_token"], SPECIAL, strict=True))
    capital = vocab(SPECIAL + list("ACDEFGHIKLMNPQRSTVWY"))
    return [
        Odd("a vocabulary alone", plain),
        Odd("cased", plain | settings(do_lower_case=False)),
        Odd("uncased with accents", plain | settings(strip_accents=False)),
        Odd("cased without accents", plain | settings(do_lower_case=False, strip_accents=True)),
        Odd("Chinese words", plain | settings(tokenize_chinese_chars=False)),
        Odd("line ends of Windows", vocab(TOKENS, "\r\n")),
        Odd("duplicates", vocab([*TOKENS, "cat", "dog"])),
        Odd("blank lines", blank),
        Odd("blank lines within", vocab([*SPECIAL, "", "", *TOKENS[5:]])),
        Odd("settings against a tokenizer.json", saved(do_lower_case=False) | settings(do_lower_case=True, **bert)),
        Odd("cased settings against a tokenizer.json", saved() | settings(do_lower_case=False, **bert)),
        Odd("a tokenizer.json as it stands", saved(do_lower_case=False) | settings(do_lower_case=True, **fast)),
        Odd("TokenizersBackend", saved(strip_accents=False) | settings(tokenizer_class="TokenizersBackend")),
        Odd("a tokenizer.json alone", saved(strip_accents=False) | {"config.json": None}),
        Odd("a tokenizer.json of a BERT", saved(strip_accents=False)),
        Odd("the class of config.json", saved(strip_accents=False) | {"config.json": {"model_type": "bert"} | fast}),
        Odd("DistilBERT's", saved(do_lower_case=False) | settings(tokenizer_class="DistilBertTokenizerFast")),
        Odd("Electra's", plain | settings(tokenizer_class="ElectraTokenizer")),
        Odd("short words, not read", saved(set_field("model", "max_input_chars_per_word", 5))),
        Odd("short words", saved(set_field("model", "max_input_chars_per_word", 5)) | settings(**fast)),
        Odd("truncation", saved(set_field("truncation", truncation))),
        Odd("added_tokens.json", plain | {"added_tokens.json": added}),
        Odd("added_tokens.json, blank lines", blank | {"added_tokens.json": {"zebra": END + 1, "[ENT]": END + 2}}),
        Odd("added_tokens.json, special", plain | settings(additional_special_tokens=["[ENT]"]) | {"added_tokens.json": added}),
        Odd("added_tokens.json, special_tokens_map.json",
            plain | {"added_tokens.json": added, "special_tokens_map.json": {"additional_special_tokens": ["[ENT]"], **names}}),
        Odd("special_tokens_map.json with flags",
            plain | {"special_tokens_map.json": names | {"mask_token": token("[MASK]", lstrip=True, rstrip=True)}}),
        Odd("added_tokens_decoder", plain | settings(added_tokens_decoder=decoder)),
        Odd("added_tokens_decoder, and what it keeps out",
            plain | settings(added_tokens_decoder=decoder)
            | {"added_tokens.json": {"[X]": END + 2}, "special_tokens_map.json": {"additional_special_tokens": ["[Y]"]}}),
        Odd("an empty added_tokens_decoder", plain | settings(added_tokens_decoder={}) | {"added_tokens.json": added}),
        Odd("a mask that is a word", plain | settings(added_tokens_decoder={"4": token("[MASK]", normalized=True)})),
        Odd("tokens of single words", plain | settings(added_tokens_decoder={str(END): token("zebra", single_word=True)})),
        Odd("an added word in upper case", plain | settings(added_tokens_decoder={str(END): token("Zebra", normalized=True)})),
        Odd("an added word in upper case, verbatim", plain | settings(added_tokens_decoder={str(END): token("Zebra")})),
        Odd("tokenizer.json with added tokens", saved(add_more)),
        Odd("tokenizer.json with added tokens as it stands", saved(add_more) | settings(**fast)),
        Odd("tokenizer.json with a decoder beside it",
            saved() | settings(added_tokens_decoder=decoder, **fast) | {"added_tokens.json": {"[X]": END + 2}}),
        Odd("tokenizer.json with an added_tokens.json", saved(add_more) | {"added_tokens.json": {"[X]": END + 2}}),
        Odd("tokenizer.json, extra", saved(extra_special_tokens=["[ENT]"]) | settings(extra_special_tokens=["[ENT]"], **bert)),
        Odd("extra_special_tokens", plain | settings(extra_special_tokens=["[X]", "[ENT]", "[X]"])),
        Odd("both names of extra_special_tokens",
            plain | settings(extra_special_tokens=["[Y]"], additional_special_tokens=["[X]", "[ENT]"])),
        Odd("an empty new name", plain | settings(extra_special_tokens=[], additional_special_tokens=["[X]", "[ENT]"])),
        Odd("an empty new name, old name elsewhere",
            plain | settings(extra_special_tokens=[]) | {"special_tokens_map.json": {"additional_special_tokens": ["[X]"]}}),
        Odd("more names", plain | settings(eos_token="[EOS]", bos_token="[BOS]", extra_special_tokens=["[ENT]"])),
        Odd("names of its own", saved(add_more) | settings(entity_token="[ENT]", extra_special_tokens={"z": "zebra"}, **fast)),
        Odd("bytes before the text", vocab(["\ufeff[PAD]", *TOKENS[1:]]), ("vocab.txt", "byte order mark")),
        Odd("upper case, nothing said", capital, ("tokenizer_config.json", "do_lower_case", "20 of the 25", "vocab.txt")),
        Odd("upper case, nothing said, tokenizer.json",
            saved(set_field("model", "vocab", {token: nth for nth, token in enumerate(SPECIAL + list("ABC"))}), do_lower_case=False),
            ("tokenizer_config.json", "do_lower_case", "3 of the 8", "tokenizer.json")),
        Odd("upper case, said", capital | settings(do_lower_case=False)),
        Odd("upper case, read in lower case", capital | settings(do_lower_case=True)),
        Odd("an id too large", plain | {"added_tokens.json": {"zebra": END + 1}},
            ("added_tokens.json", "zebra", f"{END}", f"{END + 1}")),
        Odd("an id of another token, after duplicates", vocab([*TOKENS, "cat"]) | {"added_tokens.json": {"zebra": END}},
            ("added_tokens.json", "zebra", "cat", f"{END}")),
        Odd("an id of blank lines", blank | {"added_tokens.json": {"zebra": END + 3}}, ("added_tokens.json", "zebra")),
        Odd("an id too large in added_tokens_decoder",
            plain | settings(added_tokens_decoder={"99": token("[ENT]")}), ("added_tokens_decoder, 99", f"{END}", "99")),
        Odd("two tokens of an id", saved(add_more) | {"added_tokens.json": {"[X]": END}}, ("tokenizer.json", "zebra", "[X]")),
        Odd("a name for a new token", plain | settings(entity_token="[ENT]"), ("entity_token", "[ENT]")),
        Odd("another mask", plain | settings(mask_token="<mask>"), ("tokenizer_config.json", "mask_token", "<mask>")),
        Odd("no mask", saved() | settings(mask_token=None, **fast), ("tokenizer_config.json", "mask_token", "null")),
        Odd("special tokens that are split", plain | settings(split_special_tokens=True), ("split_special_tokens",)),
        Odd("another class", plain | settings(tokenizer_class="MPNetTokenizer"), ("tokenizer_class", "MPNetTokenizer")),
        Odd("a program of its own", plain | settings(auto_map={"AutoTokenizer": [None, "a.B"]}), ("auto_map", "a.B")),
        Odd("other files", saved() | settings(fast_tokenizer_files=["tokenizer.4.0.0.json"]), ("fast_tokenizer_files",)),
        Odd("no tokenizer.json", plain | settings(**fast), ("tokenizer_class", "PreTrainedTokenizerFast", "tokenizer.json")),
        Odd("another model", saved() | {"config.json": {"model_type": "roberta"}}, ("config.json", "model_type", "roberta")),
        Odd("another algorithm", saved(set_field("model", "type", "WordLevel")), ("tokenizer.json", "model, type", "WordLevel")),
        Odd("no frame", saved(set_field("post_processor", None)) | settings(**fast), ("tokenizer.json", "post_processor", "[CLS]")),
        Odd("no frame, which a BertTokenizer has", saved(set_field("post_processor", None)) | settings(**bert)),
        Odd("tokens in a list", plain | settings(added_tokens_decoder=[]), ("added_tokens_decoder", "object")),
        Odd("a token without content", plain | settings(added_tokens_decoder={"5": {}}), ("added_tokens_decoder, 5", "content")),
    ]  # fmt: skip


def write(directory: pathlib.Path, files: Files) -> None:
    directory.mkdir()
    for name, content in ({"config.json": {"model_type": "bert"}} | files).items():
        if content is not None:
            text = content if isinstance(content, str) else json.dumps(content)
            (directory / name).write_text(text, encoding="utf-8", newline="")


def theirs(directory: pathlib.Path, texts: list[str]) -> list[list[int]]:
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    return [tokenizer(text, truncation=False)["input_ids"] for text in texts]


def compare_directories(parity: pathlib.Path, scratch: pathlib.Path, more_texts: list[str]) -> None:
    """Compares all of them, for these texts as well."""
    texts = TEXTS + more_texts
    (scratch / "odd.json").write_text(json.dumps(texts))
    read = refused = 0
    for odd in odd_directories():
        directory = scratch / odd.name
        write(directory, odd.files)
        subprocess.run([parity, "ids", directory, scratch / "odd.json", scratch / "out.json"], check=True)
        ours = json.loads((scratch / "out.json").read_text())
        if odd.refused:
            assert isinstance(ours, str), f"{odd.name}: not refused"
            assert all(word in ours for word in odd.refused), f"{odd.name}: {ours}"
            refused += 1
            continue
        assert not isinstance(ours, str), f"{odd.name}: {ours}"
        for text, our_ids, their_ids in zip(texts, ours, theirs(directory, texts), strict=True):
            assert our_ids == their_ids, f"{odd.name}: {text!r}: ours {our_ids}, theirs {their_ids}"
        read += 1
    print(f"odd directories: {read} read, the same ids of {len(texts)} texts each; {refused} refused by the field", flush=True)


def write_golden(path: pathlib.Path, scratch: pathlib.Path) -> None:
    """What the tests of the library compare with: the directories, some texts, and their ids or the words of the refusal."""
    cases = []
    for odd in odd_directories():
        directory = scratch / f"{odd.name}, golden"
        write(directory, odd.files)
        files = {file.name: file.read_bytes().decode() for file in sorted(directory.iterdir())}
        expected = {"refused": odd.refused} if odd.refused else {"ids": theirs(directory, TEXTS)}
        cases.append({"name": odd.name, "files": files} | expected)
    lines = ",\n".join(json.dumps(case) for case in cases)
    path.write_text(f'{{"texts": {json.dumps(TEXTS)},\n"directories": [\n{lines}\n]}}\n')
