//! A run as it can be watched: TensorBoard's event files, and the page at the end.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    missing_docs
)]

mod lab;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use lab::{Lab, TRAIN, lines, text};

type Curves = BTreeMap<String, Vec<(u64, f32)>>;

/// The numbers of `metrics.jsonl`, as TensorBoard should have them.
fn recorded(run: &Path) -> Curves {
    let mut curves = Curves::new();
    for record in lines(&std::fs::read_to_string(run.join("metrics.jsonl")).unwrap()) {
        let split = record["split"].as_str().unwrap();
        for (name, value) in record
            .as_object()
            .unwrap()
            .iter()
            .filter(|(name, _)| *name != "step")
        {
            if let Some(value) = value.as_f64() {
                let curve = curves.entry(format!("{split}/{name}")).or_default();
                curve.push((record["step"].as_u64().unwrap(), value as f32));
            }
        }
    }
    curves
}

/// The event files of a run read as TensorBoard reads them: by name, and what a session says it begins with is forgotten.
fn watched(dir: &Path) -> (Curves, usize) {
    let mut paths: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    let mut curves = Curves::new();
    for path in &paths {
        let bytes = std::fs::read(path).unwrap();
        let mut rest = &bytes[..];
        // A record that a kill cut off ends the file.
        while rest.len() >= 12 {
            let length = u64::from_le_bytes(rest[..8].try_into().unwrap()) as usize;
            let Some(event) = rest.get(12..12 + length) else {
                break;
            };
            take(&mut curves, event);
            rest = rest.get(16 + length..).unwrap_or_default();
        }
    }
    (curves, paths.len())
}

fn take(curves: &mut Curves, event: &[u8]) {
    let fields = fields(event);
    let step = fields
        .iter()
        .find(|field| field.0 == 2)
        .map_or(0, |field| field.1);
    for (number, _, bytes) in fields {
        match number {
            7 => curves
                .values_mut()
                .for_each(|curve| curve.retain(|point| point.0 < step)),
            5 => {
                for (_, _, value) in self::fields(bytes) {
                    let value = self::fields(value);
                    let tag = text(value[0].2);
                    let number = f32::from_bits(value[1].1 as u32);
                    curves.entry(tag).or_default().push((step, number));
                }
            }
            _ => {}
        }
    }
}

/// Fields of a protobuf message: number, value of a number, bytes.
fn fields(mut bytes: &[u8]) -> Vec<(u64, u64, &[u8])> {
    fn varint(bytes: &mut &[u8]) -> u64 {
        let (mut value, mut shift) = (0, 0);
        loop {
            let byte = bytes[0];
            *bytes = &bytes[1..];
            value |= u64::from(byte & 0x7f) << shift;
            shift += 7;
            if byte < 0x80 {
                return value;
            }
        }
    }
    let mut fields = Vec::new();
    while !bytes.is_empty() {
        let key = varint(&mut bytes);
        let length = match key & 7 {
            0 => {
                let value = varint(&mut bytes);
                fields.push((key >> 3, value, &bytes[..0]));
                continue;
            }
            1 => 8,
            2 => varint(&mut bytes) as usize,
            5 => 4,
            other => panic!("wire type {other}"),
        };
        let (value, rest) = bytes.split_at(length);
        let number = match length {
            4 => u64::from(u32::from_le_bytes(value.try_into().unwrap())),
            _ => 0,
        };
        fields.push((key >> 3, number, value));
        bytes = rest;
    }
    fields
}

/// The same by TensorBoard itself, which must agree.
const READ: &str = "
import json, sys
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
events = EventAccumulator(sys.argv[1], size_guidance={'scalars': 0})
events.Reload()
print(json.dumps({tag: [[e.step, e.value] for e in events.Scalars(tag)] for tag in events.Tags()['scalars']}))
";

fn read_by_tensorboard(dir: &Path) -> Option<Curves> {
    let Some(python) = std::env::var_os("ALIGNER_TEST_PYTHON") else {
        println!("skipped: ALIGNER_TEST_PYTHON names no Python with tensorboard");
        return None;
    };
    let has_it = Command::new(&python)
        .args(["-c", "import tensorboard"])
        .output()
        .unwrap();
    if !has_it.status.success() {
        println!("skipped: the Python of ALIGNER_TEST_PYTHON has no tensorboard");
        return None;
    }
    let output = Command::new(&python)
        .args(["-c", READ])
        .arg(dir)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    Some(serde_json::from_slice(&output.stdout).unwrap())
}

#[test]
fn curves_do_not_double_when_a_run_is_killed_and_resumed() {
    let lab = Lab::new();
    let run = lab.path("run");
    let train = TRAIN.replace("--save-every 3", "--save-every 5 --eval-every 4");
    // Killed before the first checkpoint, and behind it.
    for (arguments, until) in [
        (format!("{train} --out run"), 3),
        ("train --resume --out run".into(), 9),
    ] {
        let mut child = lab
            .command(&arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        while std::fs::read_to_string(run.join("metrics.jsonl")).map_or(0, |text| text.lines().count())
            < until
        {
            assert!(
                child.try_wait().unwrap().is_none(),
                "it ended before it was killed"
            );
            std::thread::sleep(Duration::from_millis(1));
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
    lab.ok("train --resume --out run");
    let metrics = recorded(&run);
    let steps: Vec<u64> = metrics["train/loss"].iter().map(|point| point.0).collect();
    // Three steps of copying, then sixteen.
    assert_eq!(steps, (1..=19).collect::<Vec<_>>());
    for number in [
        "valid/loss",
        "valid/exact_match",
        "train/grad_norm",
        "train/data_wait_seconds",
    ] {
        assert!(metrics.contains_key(number), "{number}");
    }
    let (curves, files) = watched(&run.join("tensorboard"));
    assert_eq!(files, 3);
    assert_eq!(curves, metrics);
    if let Some(curves) = read_by_tensorboard(&run.join("tensorboard")) {
        assert_eq!(curves, metrics);
    }
    // A run that has nothing left to do writes no file.
    lab.ok("train --resume --out run");
    assert_eq!(watched(&run.join("tensorboard")).1, 3);
}

#[test]
fn event_files_are_left_out_where_they_are_not_wanted() {
    let lab = Lab::new();
    lab.ok(&format!("{TRAIN} --out flag --no-tensorboard --no-report"));
    assert!(!lab.path("flag/tensorboard").exists() && !lab.path("flag/report.html").exists());
    let toml = std::fs::read_to_string(lab.path("flag/run.toml")).unwrap();
    assert!(toml.contains("tensorboard = false"), "{toml}");
    std::fs::write(lab.path("off.toml"), "tensorboard = false").unwrap();
    lab.ok(&format!("{TRAIN} --out key --config off.toml"));
    assert!(!lab.path("key/tensorboard").exists() && lab.path("key/report.html").exists());
    // Watched or not, a run is the same and can be resumed either way.
    lab.ok("train --resume --out key --no-tensorboard");
    lab.ok(&format!("{TRAIN} --out watched"));
    lab.ok("train --resume --out watched --no-tensorboard");
    let weights = |run: &str| std::fs::read(lab.path(run).join("final/model.safetensors")).unwrap();
    assert!(weights("flag") == weights("watched"));
}

#[test]
fn a_run_ends_with_a_page_and_can_be_drawn_again() {
    let lab = Lab::new();
    let output = lab.run(&format!("{TRAIN} --out runs/first"));
    assert_eq!(
        text(&output.stdout),
        "runs/first/final\n",
        "stdout is the model alone"
    );
    assert!(text(&output.stderr).contains("report: runs/first/report.html"));
    let page = std::fs::read_to_string(lab.path("runs/first/report.html")).unwrap();
    assert!(page.contains("Finished after 19 steps") && page.contains("micro_batch = 8"));
    // The stages in the manifest, their files, and what was written at the end.
    assert!(
        page.contains("<td>warmup</td>")
            && page.contains("train.jsonl (120 rows)")
            && page.contains("<article>")
    );
    assert_eq!(lab.ok("report --out page.html"), "page.html\n", "the latest run");
    assert_eq!(
        std::fs::read_to_string(lab.path("page.html")).unwrap().len(),
        page.len()
    );
    let error = lab.fails(2, "report base");
    assert!(error.contains("base holds no run"), "{error}");
    let error = lab.fails(1, "report runs/first --out no/such/page.html");
    assert!(error.contains("no/such/page.html"), "{error}");
}
