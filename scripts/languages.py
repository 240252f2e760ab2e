"""Names of the world's territories, languages, currencies and zones in ten scripts, as text; used by scripts/parity.

Of each script a tokenizer is trained on 200 lines, cased and uncased. It is to give the ids that `transformers` gives, as it is
saved, and as a vocab.txt with the same settings; and the text is to come back as it went in.
"""

import json
import pathlib
import random
import subprocess
import unicodedata

import babel
import transformers

SCRIPTS = {
    "Latin with accents": "vi", "Greek": "el", "Cyrillic": "ru", "Devanagari": "hi", "Arabic with joiners": "fa", "Hebrew": "he",
    "Thai": "th", "Chinese": "zh", "Japanese": "ja", "Korean": "ko",
}  # fmt: skip
LINES = 200


def lines(locale: str) -> list[str]:
    """Lines of two to four names."""
    data = babel.Locale(locale)
    names = [*data.territories.values(), *data.languages.values(), *data.currencies.values(), *data.days["format"]["wide"].values()]
    rng = random.Random(locale)
    return [" ".join(rng.sample(names, rng.randint(2, 4))) for _ in range(LINES)]


def letters(text: str) -> str:
    """A text as BERT's clean-up leaves it: without format characters, such as joiners, and here without spaces."""
    return "".join(c for c in unicodedata.normalize("NFC", text) if unicodedata.category(c)[0] not in "CZ")


def compare_languages(parity: pathlib.Path, scratch: pathlib.Path) -> None:
    for script, locale in SCRIPTS.items():
        texts = lines(locale)
        file, out = scratch / f"{locale}.json", scratch / f"{locale}-ids.json"
        file.write_text(json.dumps(texts))
        unknown = []
        for case in ("cased", "uncased"):
            saved, released = scratch / f"{locale}-{case}", scratch / f"{locale}-{case}-vocab"
            subprocess.run([parity, "train", file, case, saved, out], check=True)
            ours = json.loads(out.read_text())
            tokenizer = transformers.AutoTokenizer.from_pretrained(saved)
            released.mkdir()
            vocabulary = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().__getitem__)
            (released / "vocab.txt").write_text("".join(f"{token}\n" for token in vocabulary), encoding="utf-8")
            settings = {"tokenizer_class": "BertTokenizer", "do_lower_case": case == "uncased"}
            (released / "tokenizer_config.json").write_text(json.dumps(settings))
            for directory in (saved, released):
                theirs = transformers.AutoTokenizer.from_pretrained(directory)
                subprocess.run([parity, "ids", directory, file, out], check=True)
                for text, our_ids, read in zip(texts, ours["ids"], json.loads(out.read_text()), strict=True):
                    their_ids = theirs(text)["input_ids"]
                    assert our_ids == read == their_ids, f"{script}, {case}: {text!r}: ours {our_ids}, theirs {their_ids}"
            for text, ids, back in zip(texts, ours["ids"], ours["texts"], strict=True):
                if tokenizer.unk_token_id in ids:
                    unknown.append(text)
                elif case == "cased":
                    assert letters(back) == letters(text), f"{script}: {text!r} comes back as {back!r}"
        print(f"{script}: {LINES} lines, cased and uncased, the same ids; {len(unknown)} with an unknown word", flush=True)
