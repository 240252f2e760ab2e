//! Text in, sentences out; nothing on both sides of a split; bad files named.

use std::collections::HashSet;
use std::fs;
use std::io::Write;
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;
use mlm_core::{Corpus, Format, Layout, Result, TextFiles, Tokenizer, TokenizerConfig};
use proptest::prelude::*;
use ruzstd::encoding::{CompressionLevel, compress_to_vec};

use crate::{assert_says, five_sentences, message, seeded};

fn file(content: &[u8]) -> (tempfile::TempDir, std::path::PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("text.txt");
    fs::write(&path, content).unwrap();
    (folder, path)
}

#[test]
fn the_lab_has_five_sentences() {
    let corpus = five_sentences().unwrap();
    assert_eq!(corpus.len(), 5);
    assert_eq!(corpus.sentences().iter().map(|s| s.split(' ').count()).sum::<usize>(), 33);
    assert_eq!(corpus.repeat(200).unwrap().len(), 1000);
}

#[test]
fn lines_are_sentences() {
    let (_folder, path) = file("\u{feff}One  line\r\n\r\n \t \nAnother. With two sentences\n".as_bytes());
    let corpus = Corpus::from_file(&path, Layout::Lines).unwrap();
    assert_eq!(corpus.sentences(), ["One line", "Another. With two sentences"]);
}

#[test]
fn a_carriage_return_ends_a_line_where_nothing_else_does() {
    let sentences = |content: &[u8]| {
        let (_folder, path) = file(content);
        Corpus::from_file(&path, Layout::Lines).unwrap().sentences().to_vec()
    };
    assert_eq!(sentences(b"of an old Mac\rits second line\r"), ["of an old Mac", "its second line"]);
    assert_eq!(sentences(b"a stray\rone\nline two\r\n"), ["a stray one", "line two"]);
}

/// Their bytes happen to be UTF-8: UTF-16 without a byte order mark, and ISO-2022-JP.
#[test]
fn text_in_other_encodings_is_refused_with_the_line() {
    let refused = |content: &[u8]| {
        let (_folder, path) = file(content);
        message(Corpus::from_file(&path, Layout::Lines))
    };
    let utf16: Vec<u8> =
        "\u{92d}\u{93e}\u{930}\u{924} \u{90f}\u{915}".encode_utf16().flat_map(u16::to_le_bytes).collect();
    assert_says(&refused(&utf16), &["line 1", "UTF-8", "a NUL, as UTF-16"]);
    assert_says(&refused(b"one line\n\x1b$BF|K\\\x1b(B\n"), &["line 2", "UTF-8", "ISO-2022-JP"]);
}

#[test]
fn prose_is_split_into_sentences() {
    let text =
        "It was late. The\ncat slept on\r\nthe mat!\n\nA title\n\nIs it 3.5 metres long? Yes. Он спит. 猫在睡觉。\n";
    let (_folder, path) = file(text.as_bytes());
    let corpus = Corpus::from_file(&path, Layout::Prose).unwrap();
    assert_eq!(
        corpus.sentences(),
        [
            "It was late.",
            "The cat slept on the mat!",
            "A title",
            "Is it 3.5 metres long?",
            "Yes.",
            "Он спит.",
            "猫在睡觉。"
        ]
    );
}

#[test]
fn bad_files_are_named() {
    assert_says(&message(Corpus::from_file("/no/such/file.txt", Layout::Lines)), &["read", "/no/such/file.txt"]);
    let (_folder, path) = file(b"fine\nna\xefve\n");
    assert_says(&message(Corpus::from_file(&path, Layout::Lines)), &["text.txt", "offset 7", "line 2", "UTF-8"]);
    let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n";
    let (_folder, path) = file(pointer);
    assert_says(&message(Corpus::from_file(&path, Layout::Lines)), &["text.txt", "Git LFS pointer", "git lfs pull"]);
    let (_folder, path) = file(b"");
    assert_says(&message(Corpus::from_file(&path, Layout::Lines)), &["text.txt", "empty"]);
    let (_folder, path) = file(b"\n  \n\t\n");
    assert_says(&message(Corpus::from_file(&path, Layout::Lines)), &["text.txt", "all of its lines are blank"]);
    assert_says(&message(Corpus::from_file(&path, Layout::Prose)), &["text.txt", "no sentence"]);
    assert_says(&message(Corpus::from_lines::<&str>([])), &["no sentence", "empty"]);
}

#[test]
fn bad_arguments_are_named() {
    let corpus = five_sentences().unwrap();
    assert_says(&message(corpus.repeat(0)), &["times", "at least 1"]);
    for fraction in [0.0, 1.0, -0.5, f64::NAN] {
        assert_says(&message(corpus.split(fraction, &mut seeded(0))), &["validation", &fraction.to_string()]);
    }
    let one = Corpus::from_lines(["the same", "The Same"]).unwrap();
    assert_says(&message(one.split(0.5, &mut seeded(0))), &["2 distinct sentences", "got 1"]);
}

/// Some 400 kB: blocks of a file end in it at many places.
fn long_text() -> String {
    let line = |i: usize| match i % 7 {
        0 => "\n".to_owned(),
        1 => format!("  Über {i} wird\u{a0}gesprochen. Это так!\r\n"),
        2 => format!("{} goes on{}\n", "a word ".repeat(i % 90), " \u{3000}".repeat(i % 3)),
        _ => format!("number {i} of many lines, and no more\n"),
    };
    (0..6000).map(line).collect::<String>() + "the end has no line feed"
}

#[test]
fn files_in_blocks_have_the_sentences_that_they_have_as_a_whole() {
    let text = long_text();
    let (_folder, path) = file(text.as_bytes());
    let read = |layout| Corpus::from_file(&path, layout).unwrap().sentences().to_vec();
    assert_eq!(read(Layout::Lines), Corpus::from_lines(text.lines()).unwrap().sentences());
    let blank = |line: &str| line.trim().is_empty();
    let paragraphs = text.lines().collect::<Vec<_>>();
    let paragraphs = paragraphs.split(|line| blank(line)).map(|lines| lines.join(" "));
    let each = paragraphs.flat_map(|paragraph| {
        let (_folder, path) = file((paragraph + "\n\nX.").as_bytes());
        let mut sentences = Corpus::from_file(&path, Layout::Prose).unwrap().sentences().to_vec();
        assert_eq!(sentences.pop().as_deref(), Some("X."));
        sentences
    });
    assert_eq!(read(Layout::Prose), each.collect::<Vec<_>>());
    // One line, one paragraph, and as old Macs wrote them.
    for (text, lines) in [(text.replace(['\r', '\n'], " "), 1), (text.replace('\r', "").replace('\n', "\r"), 5143)] {
        let (_folder, path) = file(text.as_bytes());
        assert_eq!(Corpus::from_file(&path, Layout::Lines).unwrap().len(), lines);
    }
}

#[test]
fn mistakes_deep_in_a_file_are_found_where_they_are() {
    let text = long_text();
    let refused = |bad: &[u8]| {
        let mut bytes = text.clone().into_bytes();
        let at = bytes[..300_000].iter().rposition(|&byte| byte == b'\n').unwrap() + 1;
        bytes.splice(at..at, bad.iter().copied());
        let line = 1 + bytes[..at].iter().filter(|&&byte| byte == b'\n').count();
        let (_folder, path) = file(&bytes);
        (message(Corpus::from_file(&path, Layout::Prose)), at, line)
    };
    let (said, at, line) = refused(b"na\xefve\n");
    assert_says(&said, &[&format!("offset {}", at + 2), &format!("line {line}"), "UTF-8"]);
    let (said, _, line) = refused(b"a\0b\n");
    assert_says(&said, &[&format!("line {line}:"), "a NUL"]);
}

#[test]
fn packed_files_are_read_as_what_is_in_them() {
    let text = long_text();
    let (folder, path) = file(text.as_bytes());
    let expected = Corpus::from_file(&path, Layout::Lines).unwrap();
    let (first, second) = text.as_bytes().split_at(100_001);
    let gzip = |bytes: &[u8]| {
        let mut packed = GzEncoder::new(Vec::new(), Compression::default());
        packed.write_all(bytes).unwrap();
        packed.finish().unwrap()
    };
    let zstd = |bytes: &[u8]| compress_to_vec(bytes, CompressionLevel::Fastest);
    let skipped = [[0x5a, 0x2a, 0x4d, 0x18].as_slice(), &3u32.to_le_bytes(), b"abc"].concat();
    let packed = [
        ("text.gz", [gzip(first), gzip(second)].concat()),
        ("text.zst", [zstd(first), skipped.clone(), zstd(second)].concat()),
        ("parallel.zst", [skipped, zstd(first), zstd(b""), zstd(second)].concat()),
    ];
    for (name, bytes) in packed {
        let path = folder.path().join(name);
        fs::write(&path, &bytes).unwrap();
        assert_eq!(Corpus::from_file(&path, Layout::Lines).unwrap(), expected, "{name}");
        fs::write(&path, &bytes[..bytes.len() - 20]).unwrap();
        assert_says(&message(Corpus::from_file(&path, Layout::Lines)), &["read", name]);
    }
}

/// What a text's training learns, encodes and holds back is the same, whether it is in memory or not.
#[test]
fn a_text_in_files_is_what_it_is_in_memory() {
    let folder = tempfile::tempdir().unwrap();
    let paths = ["one.txt", "two.txt"].map(|name| folder.path().join(name));
    let text = long_text();
    fs::write(&paths[0], &text).unwrap();
    fs::write(&paths[1], "A second file\nthe end has no line feed\n").unwrap();
    let files = TextFiles::open(&paths, Format::Text, Layout::Lines).unwrap();
    let corpus = Corpus::from_lines(text.lines().chain(["A second file", "the end has no line feed"])).unwrap();
    let (train, validation) = files.split(0.2, &mut seeded(7)).unwrap();
    let (train_in_memory, validation_in_memory) = corpus.split(0.2, &mut seeded(7)).unwrap();
    let config = TokenizerConfig::new(300);
    let tokenizer = Tokenizer::train(&train, &config).unwrap();
    let in_memory = Tokenizer::train(&train_in_memory, &config).unwrap();
    assert!((0..300).all(|id| tokenizer.token(id) == in_memory.token(id)));
    let twice = (train.repeat(2).unwrap(), train_in_memory.repeat(2).unwrap());
    assert_eq!(tokenizer.encode_windows(&twice.0, 32).unwrap(), tokenizer.encode_windows(&twice.1, 32).unwrap());
    let encoded = tokenizer.encode_corpus(&validation, 16).unwrap();
    assert_eq!(encoded, tokenizer.encode_corpus(&validation_in_memory, 16).unwrap());
    assert_eq!(encoded.sentences, validation_in_memory.len());
    let halves = train.split(0.5, &mut seeded(1)).unwrap();
    let of_both = tokenizer.encode_corpus(&halves.0, 32).unwrap().sentences
        + tokenizer.encode_corpus(&halves.1, 32).unwrap().sentences;
    assert_eq!(of_both, train_in_memory.len());

    let empty = folder.path().join("empty.txt");
    fs::write(&empty, "\n\n").unwrap();
    assert_says(
        &message(TextFiles::open([&paths[0], &empty], Format::Text, Layout::Lines)),
        &["empty.txt", "all of its lines are blank"],
    );
    assert_says(
        &message(TextFiles::open([Path::new("/no/such/file.txt")], Format::Text, Layout::Lines)),
        &["/no/such/file.txt"],
    );
    fs::write(&paths[1], "Somebody writes\n").unwrap();
    assert_says(&message(tokenizer.encode_corpus(&train, 16)), &["two.txt", "when it was opened"]);
}

/// The sentences that a text in a file has for those who read it.
fn read(path: &Path, format: Format, layout: Layout) -> Result<Vec<String>> {
    let text = TextFiles::open([path], format, layout)?;
    let tokenizer = Tokenizer::train(&text, &TokenizerConfig::cased(1000))?;
    tokenizer.encode_corpus(&text, 512)?.sequences.iter().map(|ids| tokenizer.decode(&ids?)).collect()
}

#[test]
fn each_object_of_json_lines_is_a_text() {
    let (_folder, path) = file(b"");
    let format = || Format::JsonLines { field: "text".to_owned() };
    let read = |json: &str, layout| {
        fs::write(&path, json).unwrap();
        read(&path, format(), layout)
    };
    let json = concat!(
        "\u{feff}{\"text\": \"One line\\nand another\", \"id\": 7}\r\n",
        "\n",
        "{\"id\": 8, \"text\": null}\n",
        "{\"meta\": {\"text\": 5}, \"text\": \"\\u00fcber\\n\\nA title\"}",
    );
    assert_eq!(read(json, Layout::Lines).unwrap(), ["One line", "and another", "über", "A title"]);
    assert_eq!(read(json, Layout::Prose).unwrap(), ["One line and another", "über", "A title"]);
    // In many blocks.
    let many: String = (0..9000).map(|i| format!("{{\"n\": {i}, \"text\": \"number {i}\"}}\n")).collect();
    assert_eq!(read(&many, Layout::Prose).unwrap().len(), 9000);
    let refused = |last: &str| message(read(&format!("{many}{last}"), Layout::Lines));
    for (last, said) in [
        ("{\"text\": \"a\"", "EOF"),
        ("{\"Text\": \"a\", \"id\": 1}", "one with the fields Text, id"),
        ("{\"text\": [\"a\"]}", "[\"a\"] in it"),
        ("\"text\"", "\"text\""),
    ] {
        assert_says(&refused(last), &["text.txt", "line 9001", "a string in its field \"text\"", "--field", said]);
    }
}

#[test]
#[cfg(feature = "cli")]
fn each_row_of_parquet_is_a_text() {
    use std::sync::Arc;

    use parquet::basic::{Compression, ZstdLevel};
    use parquet::data_type::{ByteArray, ByteArrayType};
    use parquet::file::properties::WriterProperties;
    use parquet::file::writer::SerializedFileWriter;
    use parquet::schema::parser::parse_message_type;

    let (_folder, path) = file(b"");
    let schema = "message rows { required int64 id; optional binary text (UTF8); optional group answers { required binary text (UTF8); } }";
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let rows: Vec<Option<String>> = (0..5000).map(|i| (i % 5 > 0).then(|| format!("number {i}\nof many"))).collect();
    for packed in
        [Compression::UNCOMPRESSED, Compression::SNAPPY, Compression::ZSTD(ZstdLevel::default()), Compression::LZ4_RAW]
    {
        let properties = WriterProperties::builder().set_compression(packed).build().into();
        let mut writer =
            SerializedFileWriter::new(fs::File::create(&path).unwrap(), Arc::clone(&schema), properties).unwrap();
        for rows in rows.chunks(2000) {
            let mut group = writer.next_row_group().unwrap();
            let mut column = group.next_column().unwrap().unwrap();
            let ids: Vec<i64> = (0..rows.len() as i64).collect();
            column.typed::<parquet::data_type::Int64Type>().write_batch(&ids, None, None).unwrap();
            column.close().unwrap();
            for other in ["", " too"] {
                let mut column = group.next_column().unwrap().unwrap();
                let defined: Vec<i16> = rows.iter().map(|row| i16::from(row.is_some())).collect();
                let texts: Vec<ByteArray> =
                    rows.iter().flatten().map(|text| format!("{text}{other}").as_str().into()).collect();
                column.typed::<ByteArrayType>().write_batch(&texts, Some(&defined), None).unwrap();
                column.close().unwrap();
            }
            group.close().unwrap();
        }
        writer.close().unwrap();
        let column = |name: &str| Format::Parquet { column: name.to_owned() };
        let sentences = |name, layout| read(&path, column(name), layout);
        let lines = sentences("text", Layout::Lines).unwrap();
        assert_eq!((lines.len(), &*lines[2], &*lines[7999]), (8000, "number 2", "of many"));
        assert_eq!(sentences("answers.text", Layout::Prose).unwrap()[3999], "number 4999 of many too");
        assert_says(
            &message(sentences("Text", Layout::Lines)),
            &["text.txt", "\"Text\"", "--field", "id, text, answers.text"],
        );
        assert_says(&message(sentences("id", Layout::Lines)), &["text.txt", "one of strings"]);
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..bytes.len() - 100]).unwrap();
        assert_says(&message(sentences("text", Layout::Lines)), &["text.txt", "Apache Parquet"]);
    }
}

/// A pipe can be read only once.
#[test]
#[cfg(unix)]
fn a_pipe_is_a_file() {
    let (folder, _) = file(b"");
    let pipe = folder.path().join("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let writer = std::thread::spawn({
        let pipe = pipe.clone();
        move || fs::write(pipe, "one sentence\nand another\n").unwrap()
    });
    let text = TextFiles::open([pipe], Format::Text, Layout::Lines).unwrap();
    writer.join().unwrap();
    let tokenizer = Tokenizer::train(&text, &TokenizerConfig::new(100)).unwrap();
    assert_eq!(tokenizer.encode_corpus(&text, 16).unwrap().sentences, 2);
}

proptest! {
    #[test]
    fn a_split_keeps_all_sentences_and_parts_no_copies(
        picks in prop::collection::vec(0usize..12, 2..60), validation in 0.01f64..0.99, seed: u64,
    ) {
        let lines: Vec<String> = picks.iter().map(|n| if n % 2 == 0 { format!("Word {}", n / 4) } else { format!("word {n}") }).collect();
        let corpus = Corpus::from_lines(&lines).unwrap();
        let key = |sentence: &String| sentence.to_lowercase();
        let distinct: HashSet<String> = lines.iter().map(key).collect();
        prop_assume!(distinct.len() >= 2);
        let (train, held_out) = corpus.split(validation, &mut seeded(seed)).unwrap();
        let train_keys: HashSet<String> = train.sentences().iter().map(key).collect();
        let held_out_keys: HashSet<String> = held_out.sentences().iter().map(key).collect();
        prop_assert!(train_keys.is_disjoint(&held_out_keys));
        let mut all = [train.sentences(), held_out.sentences()].concat();
        let mut wanted = lines;
        all.sort();
        wanted.sort();
        prop_assert_eq!(all, wanted);
        prop_assert_eq!(corpus.split(validation, &mut seeded(seed)).unwrap(), (train, held_out));
    }
}
