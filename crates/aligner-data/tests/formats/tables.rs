//! CSV and Parquet.

use super::*;

#[test]
fn csv_is_rfc_4180() {
    let text = "\u{feff}question,answer,correction,chat_history\r\n\
                \"Two\r\nlines, and \"\"quotes\"\"?\",a,c,\r\n\
                q,,c,\"[[\"\"x\"\",\"\"y\"\"]]\"\r\n";
    let outcome = read_text("rows.csv", text, ReadOptions::default()).unwrap();
    let got: Vec<Value> = outcome.records.iter().map(texts).collect();
    assert_eq!(
        got,
        [
            json!(["Two\r\nlines, and \"quotes\"?", "a", "c", []]),
            json!(["q", "", "c", [["x", "y"]]])
        ]
    );
    assert_eq!(
        (outcome.records[0].origin.line, outcome.records[1].origin.line),
        (2, 4)
    );
    let outcome = read_text("rows.TSV", "instruction\toutput\na, b\tx\n", pair()).unwrap();
    assert_eq!(texts(&outcome.records[0]), json!(["a, b", "x", null, []]));
    let chat = "messages\n\"[{\"\"role\"\":\"\"user\"\",\"\"content\"\":\"\"a\"\"},{\"\"role\"\":\"\"assistant\"\",\"\"content\"\":\"\"x\"\"}]\"\n";
    assert_eq!(
        texts(&read_text("chat.csv", chat, pair()).unwrap().records[0]),
        json!(["a", "x", null, []])
    );
    // JSON under a wrong name stays JSON.
    let json = "{\"question\": \"q\", \"answer\": \"a\", \"correction\": \"c\"}";
    assert_eq!(
        read_text("rows.csv", json, ReadOptions::default())
            .unwrap()
            .records
            .len(),
        1
    );
}

/// A CSV file of one row.
fn csv(names: &str, cells: &[&str]) -> String {
    let cells: Vec<String> = cells
        .iter()
        .map(|cell| format!("\"{}\"", cell.replace('"', "\"\"")))
        .collect();
    format!("{names}\n{}\n", cells.join(","))
}

#[test]
fn messages_in_a_cell_are_read_however_they_were_written() {
    let user = json!([{"role": "user", "content": "a"}]).to_string();
    let below = format!("\n{user}");
    let said = |text: &str| json!([{"role": "assistant", "content": text}]);
    let indented = |text: &str| serde_json::to_string_pretty(&said(text)).unwrap();
    let single = |text: &str| json!({"role": "assistant", "content": text}).to_string();
    for completion in [said("x").to_string(), indented("x"), single("x"), " x".into()] {
        for prompt in ["a", user.as_str(), below.as_str()] {
            let text = csv("prompt,completion", &[prompt, &completion]);
            let outcome = read_text("rows.csv", &text, pair()).unwrap();
            assert_eq!(texts(&outcome.records[0]), json!(["a", "x", null, []]), "{text}");
        }
    }
    for [chosen, rejected] in [
        [indented("y"), indented("x")],
        [single("y"), single("x")],
        [said("y").to_string(), "x".into()],
    ] {
        let text = csv("prompt,chosen,rejected", &["a", &chosen, &rejected]);
        let outcome = read_text("rows.csv", &text, ReadOptions::default()).unwrap();
        assert_eq!(texts(&outcome.records[0]), json!(["a", "x", "y", []]), "{text}");
    }
    // JSON that says nobody speaks is an answer.
    for answer in [r#"{"from": "Rome", "to": "Bari"}"#, "[1, 2]", "[1] says so."] {
        let text = csv("prompt,completion", &["a", answer]);
        let outcome = read_text("rows.csv", &text, pair()).unwrap();
        assert_eq!(outcome.records[0].answer, answer);
    }
}

#[test]
fn messages_as_python_prints_them_are_a_bad_row() {
    let printed = "[{'content': 'x', 'role': 'assistant'}]";
    for (names, cells) in [
        ("prompt,completion", vec!["a", printed]),
        ("prompt,completion", vec![printed, "x"]),
        ("prompt,chosen,rejected", vec!["a", printed, "x"]),
        ("prompt,chosen,rejected", vec!["a", "x", printed]),
        ("messages", vec![printed]),
    ] {
        let Err(error) = read_text("rows.csv", &csv(names, &cells), pair()) else {
            panic!("{names} {cells:?}")
        };
        assert!(matches!(error, DataError::BadRow(_)), "{error}");
        assert!(error.to_string().contains("json.dumps"), "{error}");
    }
}

#[test]
fn lines_of_csv_are_counted_whatever_ends_them() {
    for end in ["\n", "\r\n"] {
        for last in ["", end] {
            let rows = [
                "question,answer,correction",
                "q,a,c",
                "",
                "q,\"b",
                "b\",c",
                "q,d,c",
            ]
            .join(end)
                + last;
            let outcome = read_text("rows.csv", &rows, ReadOptions::default()).unwrap();
            let lines: Vec<u64> = outcome.records.iter().map(|record| record.origin.line).collect();
            assert_eq!(lines, [2, 4, 6], "{rows:?}");
        }
    }
}

#[test]
fn damaged_csv_is_named_and_the_rows_behind_it_are_read() {
    let skip = || ReadOptions {
        on_bad_row: OnBadRow::Skip,
        ..ReadOptions::default()
    };
    let header = "question,answer,correction\n";
    let read = |bytes: &[u8]| {
        let mut reader = RowReader::from_reader("rows.csv", bytes, skip()).unwrap();
        let answers: Vec<String> = reader.by_ref().map(|record| record.unwrap().answer).collect();
        (answers, reader.skipped().first().to_vec())
    };
    let (answers, left) = read(format!("{header}q,a,c\nq,a\nq,a,c,d\nq,b,c\n").as_bytes());
    assert_eq!(answers, ["a", "b"]);
    assert_eq!((left[0].line, left[1].line), (3, 4));
    assert!(
        left[0].reason.contains("2 fields where the header names 3"),
        "{}",
        left[0]
    );
    let (answers, left) = read(&[header.as_bytes(), b"q,\xff,c\nq,b,c\n"].concat());
    assert_eq!(answers, ["b"]);
    assert!(
        left[0].reason.contains("`answer` is not valid UTF-8"),
        "{}",
        left[0]
    );
    let (answers, left) = read(format!("{header}q,a,c\nq,b,\"c\nq,a,c\nq,a,c\n").as_bytes());
    assert_eq!(answers, ["a"]);
    assert!(left[0].reason.contains("not closed"), "{}", left[0]);
    for (text, part) in [
        ("a,a\n1,2\n", "twice"),
        ("\u{feff}", "is empty"),
        ("\n\n", "is empty"),
    ] {
        let error = RowReader::from_reader("rows.csv", text.as_bytes(), skip()).unwrap_err();
        assert!(error.to_string().contains(part), "{error}");
    }
}

#[test]
fn a_quote_that_is_not_closed_does_not_fill_the_memory() {
    let start = std::io::Cursor::new("question,answer,correction\nq,a,c\nq,b,\"");
    let endless = start.chain(std::io::repeat(b'x').take(10 << 30));
    let mut reader = RowReader::from_reader("rows.csv", endless, ReadOptions::default()).unwrap();
    assert!(reader.next().unwrap().is_ok());
    let error = reader.next().unwrap().unwrap_err().to_string();
    assert!(error.contains("is a quote not closed?"), "{error}");
    assert!(reader.next().is_none());
}

const PARQUET: [&str; 5] = ["snappy", "zstd", "gzip", "lz4", "datasets"];

#[test]
fn parquet_rows_are_those_that_pyarrow_reads() {
    let text = std::fs::read_to_string(golden("rows.jsonl")).unwrap();
    let want: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    for name in PARQUET {
        let path = golden(&format!("{name}.parquet"));
        let opened = RowReader::open(&path, pair()).unwrap();
        let in_memory = RowReader::from_reader("rows", std::fs::File::open(&path).unwrap(), pair()).unwrap();
        for mut reader in [opened, in_memory] {
            let records: Vec<Record> = reader.by_ref().map(Result::unwrap).collect();
            assert_eq!(reader.format().unwrap(), Some(Format::Messages));
            let rows: Vec<Value> = records
                .iter()
                .map(|record| Value::Object(record.raw.clone()))
                .collect();
            assert_eq!(rows, want, "{name}");
            assert_eq!(records[4].chat_history[0].answer, "4 of them — “all”.\n");
            assert_eq!((records[12].origin.row, records[12].origin.line), (12, 13));
        }
    }
}

#[test]
fn damaged_parquet_is_an_error_with_the_file() {
    let whole = std::fs::read(golden("snappy.parquet")).unwrap();
    for length in [4, 8, 100, whole.len() / 2, whole.len() - 1] {
        let error = RowReader::from_reader("rows.parquet", &whole[..length], pair()).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("rows.parquet: cannot be read as Parquet"),
            "{error}"
        );
    }
}

/// A Parquet file that is nothing but a footer.
fn footer(schema: &[u8]) -> Vec<u8> {
    // version 1, the schema, no rows, no row groups
    let footer = [b"\x15\x02\x19", schema, b"\x16\0\x19\x0c\0"].concat();
    let length = (footer.len() as u32).to_le_bytes();
    [b"PAR1", &footer[..], &length, b"PAR1"].concat()
}

#[test]
fn a_schema_that_is_nested_without_end_does_not_end_the_process() {
    let root = b"\x48\x01r\x15\x02\0";
    let group = b"\x35\0\x18\x01a\x15\x02\0";
    let leaf = b"\x15\x0c\x25\0\x18\x01a\0";
    let nested = |groups: usize| {
        let elements = groups + 2;
        let header = [
            0xfc,
            elements as u8 | 0x80,
            (elements >> 7) as u8 | 0x80,
            (elements >> 14) as u8,
        ];
        footer(&[&header[..], root, &group.repeat(groups), leaf].concat())
    };
    let read =
        |groups| RowReader::from_reader("rows.parquet", &nested(groups)[..], pair()).map(Iterator::count);
    assert_eq!(read(20).unwrap(), 0);
    for groups in [40, 2000, 200_000] {
        let error = read(groups).unwrap_err().to_string();
        assert!(error.contains("more than 32 deep"), "{error}");
    }
}

#[test]
fn a_compression_that_is_not_read_is_named() {
    let error = RowReader::open(&golden("brotli.parquet"), pair())
        .unwrap_err()
        .to_string();
    assert!(error.contains("compressed with brotli"), "{error}");
}

/// Bytes of Parquet files changed at random: an error or rows, in the end. Panics of the decoders are caught, and would only
/// fill the output.
#[test]
fn changed_parquet_ends_in_rows_or_an_error() {
    std::panic::set_hook(Box::new(|_| {}));
    let mut seed = 7_u64;
    let mut random = |below: usize| {
        seed = seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) as usize % below
    };
    let mut ends = [0_u32; 2];
    for name in PARQUET {
        let whole = std::fs::read(golden(&format!("{name}.parquet"))).unwrap();
        for _ in 0..400 {
            let mut bytes = whole.clone();
            for _ in 0..=random(3) {
                let at = random(bytes.len());
                bytes[at] = random(256) as u8;
            }
            let rows = RowReader::from_reader("rows", &bytes[..], pair())
                .map(|reader| reader.take(5000).collect::<Vec<_>>());
            match rows {
                Ok(rows) => {
                    assert!(rows.len() < 5000);
                    ends[usize::from(rows.iter().any(Result::is_err))] += 1;
                }
                Err(_) => ends[1] += 1,
            }
        }
    }
    let _ = std::panic::take_hook();
    assert!(ends[0] > 0 && ends[1] > 0, "{ends:?}");
}
