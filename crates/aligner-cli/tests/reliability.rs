//! What can go wrong with a run: kills, a full disk, damaged files, a second process. Each is one clear error or none, and
//! afterwards the run ends as if nothing had happened.

#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod lab;

use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use aligner_data::Random;
use lab::{Lab, TRAIN, losses, text};

/// What must be equal to the last bit: the trained weights, and every loss on the way.
fn ending(lab: &Lab, run: &str) -> (Vec<u8>, Vec<(u64, String, u64)>) {
    let run = lab.path(run);
    (
        std::fs::read(run.join("final/model.safetensors")).unwrap(),
        losses(&run),
    )
}

fn start(lab: &Lab, arguments: &str) -> Child {
    let mut command = lab.command(arguments);
    command
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Waits for something in a process; `false` when the process ended before.
fn wait_for(child: &mut Child, mut happened: impl FnMut(Duration) -> bool) -> bool {
    let started = Instant::now();
    while !happened(started.elapsed()) {
        if let Some(status) = child.try_wait().unwrap() {
            assert!(status.success(), "the run failed: {status}");
            return false;
        }
        std::thread::sleep(Duration::from_micros(200));
    }
    true
}

fn is_saving(place: &Path) -> bool {
    let Ok(entries) = std::fs::read_dir(place) else {
        return false;
    };
    entries.flatten().any(|entry| {
        entry
            .path()
            .extension()
            .is_some_and(|extension| extension == "part")
    })
}

fn recorded(run: &Path) -> usize {
    std::fs::read_to_string(run.join("metrics.jsonl")).map_or(0, |text| text.lines().count())
}

/// 3 kills, or 50 with `ALIGNER_TEST_LONG=1`: at random moments from the start of the process on, while a checkpoint is
/// written, and between steps.
#[test]
fn a_run_killed_again_and_again_ends_as_an_undisturbed_one() {
    let kills = if std::env::var_os("ALIGNER_TEST_LONG").is_some() {
        50
    } else {
        3
    };
    let lab = Lab::new();
    let train = TRAIN
        .replace("--steps 16", &format!("--steps {}", 20 * kills))
        .replace("--save-every 3", "--save-every 1 --eval-every 7");
    let mut whole = start(&lab, &format!("{train} --out whole"));
    let started = Instant::now();
    wait_for(&mut whole, |_| recorded(&lab.path("whole")) > 1);
    let startup_ms = started.elapsed().as_millis() as u64;
    assert!(whole.wait().unwrap().success());
    let run = lab.path("killed");
    let mut dice = Random(2024);
    let (mut while_saving, mut longest) = (0, 0);
    for kill in 0..kills {
        let arguments = if run.join("run.toml").exists() {
            "train --resume --out killed".to_string()
        } else {
            format!("{train} --out killed")
        };
        let mut child = start(&lab, &arguments);
        let before = recorded(&run);
        let alive = match kill % 3 {
            0 => {
                let delay = Duration::from_millis(dice.below(2 * startup_ms));
                wait_for(&mut child, |elapsed| elapsed > delay)
            }
            1 => {
                let delay = Duration::from_micros(dice.below(4000));
                let saving = wait_for(&mut child, |_| {
                    is_saving(&run.join("checkpoints")) || is_saving(&run)
                });
                std::thread::sleep(delay);
                saving
            }
            _ => {
                let delay = Duration::from_micros(dice.below(30_000));
                let stepped = wait_for(&mut child, |_| recorded(&run) > before);
                std::thread::sleep(delay);
                stepped
            }
        };
        assert!(alive, "the run ended after {kill} kills: it is too short");
        child.kill().unwrap();
        child.wait().unwrap();
        while_saving += usize::from(is_saving(&run.join("checkpoints")) || is_saving(&run));
        longest = longest.max(recorded(&run).saturating_sub(before));
    }
    // Once more while the model at the end is written, where that can be caught.
    let mut child = start(&lab, "train --resume --out killed");
    if wait_for(&mut child, |_| run.join("final.part").exists()) {
        child.kill().unwrap();
        child.wait().unwrap();
        lab.ok("train --resume --out killed");
    }
    println!(
        "{kills} kills, {while_saving} of them while something was being saved; {} steps of which at most {longest} between \
         two kills; start {startup_ms} ms",
        20 * kills
    );
    assert!(
        ending(&lab, "killed") == ending(&lab, "whole"),
        "the end is another one"
    );
    assert!(
        !is_saving(&run) && !is_saving(&run.join("checkpoints")),
        "nothing half-written is left"
    );
}

fn bash(lab: &Lab, script: &str) -> Output {
    Command::new("bash")
        .args(["-c", script])
        .env("ALIGNER", env!("CARGO_BIN_EXE_aligner"))
        .env("TRAIN", TRAIN)
        .current_dir(lab.path("."))
        .output()
        .unwrap()
}

/// A file system of one megabyte that is full, and is then made larger. Needs Linux' user namespaces; skipped without.
#[test]
fn a_full_disk_is_an_error_and_the_run_goes_on_when_there_is_space() {
    let lab = Lab::new();
    lab.ok(&format!("{TRAIN} --out whole"));
    std::fs::create_dir(lab.path("small")).unwrap();
    if !bash(&lab, "unshare -rm mount -t tmpfs tmpfs small")
        .status
        .success()
    {
        println!("skipped: no file system can be mounted here (unshare -rm)");
        return;
    }
    let output = bash(
        &lab,
        r#"unshare -rm bash -c '
            mount -t tmpfs -o size=700k tmpfs small
            $ALIGNER $TRAIN --out small/run; echo "status $?"
            ls small/run/checkpoints
            mount -o remount,size=64m small
            $ALIGNER train --resume --out small/run; echo "status $?"
            cp -r small/run rescued'"#,
    );
    let (said, errors) = (text(&output.stdout), text(&output.stderr));
    assert!(said.starts_with("status 1\n"), "{said}{errors}");
    assert!(said.contains("small/run/final\nstatus 0\n"), "{said}{errors}");
    assert!(said.contains("step-") && !said.contains(".part"), "{said}");
    assert!(errors.contains("error: cannot write small/run/"), "{errors}");
    assert!(errors.contains("No space left on device"), "{errors}");
    assert!(errors.contains("free some space"), "{errors}");
    assert!(
        errors.contains("go on with: aligner train --resume --out small/run"),
        "{errors}"
    );
    assert!(ending(&lab, "rescued") == ending(&lab, "whole"));
}

/// `ulimit -f` fails every write beyond a size, wherever it happens: in a checkpoint, or in the middle of a line of metrics.
#[test]
fn a_write_that_fails_anywhere_is_an_error_and_the_run_goes_on() {
    let lab = Lab::new();
    lab.ok(&format!("{TRAIN} --out whole"));
    // Checkpoints are larger than the lines: with the small limit none is due before a line is too much.
    let late = TRAIN.replace("--save-every 3", "--save-every 9");
    let unsampled = format!("{late} --eval-sample 0");
    for (kilobytes, train, what) in [
        (1, &unsampled[..], "metrics.jsonl"),
        (1, &late[..], "samples.jsonl"),
        (40, TRAIN, "model.safetensors"),
    ] {
        let out = format!("limited-{what}");
        let output = bash(
            &lab,
            &format!(
                "trap '' XFSZ; ulimit -f {kilobytes}; exec $ALIGNER {train} --no-tensorboard --no-report --out {out}"
            ),
        );
        let errors = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{errors}");
        let named = errors.lines().find(|line| line.starts_with("error:"));
        assert!(named.is_some_and(|line| line.contains(what)), "{errors}");
        assert!(errors.contains("ulimit -f"), "{errors}");
        lab.ok(&format!("train --resume --out {out}"));
        assert!(ending(&lab, &out) == ending(&lab, "whole"), "{what}");
    }
}

#[test]
fn event_files_that_cannot_be_written_are_a_warning() {
    let lab = Lab::new();
    std::fs::create_dir(lab.path("run")).unwrap();
    std::fs::write(lab.path("run/tensorboard"), "in the way").unwrap();
    let output = lab.run(&format!("{TRAIN} --out run"));
    let said = text(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert_eq!(said.matches("for TensorBoard").count(), 1, "{said}");
    // Three steps of copying and sixteen of correcting; before them, between and behind them a validation.
    assert_eq!(recorded(&lab.path("run")), 22);
}

#[test]
fn a_run_directory_that_is_read_only_is_an_error() {
    let lab = Lab::new();
    lab.ok(&format!("{TRAIN} --steps 2 --out run").replace("--steps 16 ", ""));
    let output = bash(
        &lab,
        // Permissions do not hold root, unless it gives up that power.
        r#"chmod a-w run; chmod a-w run/.lock
           if [ "$(id -u)" = 0 ]; then as="setpriv --bounding-set=-dac_override,-dac_read_search"; fi
           if $as touch run/probe 2>/dev/null; then echo skipped; exit 0; fi
           $as $ALIGNER train --resume --out run; status=$?
           chmod u+w run run/.lock; exit $status"#,
    );
    if text(&output.stdout).contains("skipped") {
        println!("skipped: this user may write everywhere, and there is no setpriv");
        return;
    }
    let errors = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{errors}");
    assert!(
        errors.contains("run/.lock") && errors.contains("denied"),
        "{errors}"
    );
    assert!(errors.contains("writable for this user"), "{errors}");
    lab.ok("train --resume --out run");
}

#[test]
fn a_second_process_is_turned_away_and_the_first_goes_on() {
    let lab = Lab::new();
    let mut first = start(
        &lab,
        &format!("{TRAIN} --out run").replace("--steps 16", "--steps 100000"),
    );
    assert!(wait_for(&mut first, |_| recorded(&lab.path("run")) > 2));
    let second = lab.fails(1, "train --resume --out run");
    assert!(second.contains("another process is training in run"), "{second}");
    assert!(lab.fails(2, &format!("{TRAIN} --out run")).contains("--resume"));
    // Looking at it is no second process.
    assert_eq!(lab.ok("report run"), "run/report.html\n");
    let before = recorded(&lab.path("run"));
    assert!(wait_for(&mut first, |_| recorded(&lab.path("run")) > before));
    first.kill().unwrap();
    first.wait().unwrap();
}

#[test]
fn a_damaged_run_toml_is_named_and_can_be_put_back() {
    let lab = Lab::new();
    lab.ok(&format!("{TRAIN} --out whole"));
    stopped(&lab, "run");
    let place = lab.path("run/run.toml");
    let good = std::fs::read(&place).unwrap();
    // Half of `lr = 0.005` is a number too, and nothing behind it is needed for valid TOML.
    let in_lr = text(&good).find("lr = 0.00").unwrap() + "lr = 0.00".len();
    let damages: [(&[u8], &str); 5] = [
        (&good[..in_lr], "it was cut off"),
        (&good[..good.len() - 9], "it was cut off"),
        (b"", "it was cut off"),
        (b"\xff\xfe\x00", "UTF-8"),
        (b"modle = 'x'", "`model`"),
    ];
    for (damage, part) in damages {
        std::fs::write(&place, damage).unwrap();
        let error = lab.fails(2, "train --resume --out run");
        assert!(
            error.contains("run/run.toml") && error.contains(part) && error.contains("Put it back"),
            "{error}"
        );
    }
    std::fs::write(&place, good).unwrap();
    lab.ok("train --resume --out run");
    assert!(ending(&lab, "run") == ending(&lab, "whole"));
}

/// A run that was killed behind its second checkpoint.
fn stopped(lab: &Lab, out: &str) {
    let long = TRAIN.replace("--save-every 3", "--save-every 4");
    let mut child = start(lab, &format!("{long} --out {out}"));
    let second = lab.path(out).join("checkpoints/step-00000008");
    assert!(
        wait_for(&mut child, |_| second.is_dir()),
        "it ended before it was killed"
    );
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn damaged_metrics_cost_no_more_than_the_damaged_lines() {
    let lab = Lab::new();
    lab.ok(&format!(
        "{} --out whole",
        TRAIN.replace("--save-every 3", "--save-every 4")
    ));
    let whole = ending(&lab, "whole");
    type Damage = fn(&mut Vec<u8>);
    let damages: [(Damage, &str, usize); 4] = [
        (
            |bytes| bytes.truncate(300),
            "is shorter than the checkpoint says",
            9,
        ),
        (
            |bytes| bytes.splice(0..0, *b"garbage\n").for_each(drop),
            "metrics.damaged.jsonl",
            0,
        ),
        (|bytes| bytes[5] = 0xff, "1 lines that cannot be read", 1),
        (|bytes| bytes.extend(b"{\"step\":9,\"los"), "", 0),
    ];
    for (index, (damage, said, most_lost)) in damages.into_iter().enumerate() {
        let out = format!("run-{index}");
        stopped(&lab, &out);
        let place = lab.path(&out).join("metrics.jsonl");
        let mut bytes = std::fs::read(&place).unwrap();
        damage(&mut bytes);
        std::fs::write(&place, bytes).unwrap();
        let output = lab.run(&format!("train --resume --out {out}"));
        let errors = text(&output.stderr);
        assert!(output.status.success() && errors.contains(said), "{errors}");
        let (weights, losses) = ending(&lab, &out);
        assert!(weights == whole.0, "damage {index}");
        let lost = whole.1.len() - losses.len();
        assert!(lost <= most_lost, "damage {index}: {lost} records are lost");
        assert!(losses.iter().all(|loss| whole.1.contains(loss)), "damage {index}");
    }
    stopped(&lab, "gone");
    std::fs::remove_file(lab.path("gone/metrics.jsonl")).unwrap();
    let output = lab.run("train --resume --out gone");
    assert!(
        text(&output.stderr).contains("is missing"),
        "{}",
        text(&output.stderr)
    );
    assert!(ending(&lab, "gone").0 == whole.0);
}

#[test]
fn damaged_checkpoints_are_named_and_the_run_can_begin_anew() {
    let lab = Lab::new();
    lab.ok(&format!("{TRAIN} --out whole"));
    stopped(&lab, "run");
    let checkpoints = lab.path("run/checkpoints");
    for entry in std::fs::read_dir(&checkpoints).unwrap() {
        std::fs::write(entry.unwrap().path().join("optimizer.safetensors"), "short").unwrap();
    }
    let error = lab.fails(1, "train --resume --out run");
    assert!(
        error.contains("step-00000008: optimizer.safetensors: 5 bytes instead of"),
        "{error}"
    );
    assert!(
        error.contains("remove that directory to start the run from its beginning"),
        "{error}"
    );
    std::fs::remove_dir_all(&checkpoints).unwrap();
    lab.ok("train --resume --out run");
    assert!(ending(&lab, "run") == ending(&lab, "whole"));
}

#[test]
fn rows_that_can_be_read_only_once_are_trained_on_where_nothing_reads_them_again() {
    let lab = Lab::new();
    lab.ok(&format!("{TRAIN} --warmup-share 0 --eval-sample 0 --out whole"));
    let train = TRAIN
        .replace("train.jsonl", "<(cat train.jsonl)")
        .replace("few.jsonl", "<(cat few.jsonl)");
    for (flags, status, said) in [
        ("", 2, "warmup.share: reads the rows of /dev/fd/"),
        ("--warmup-share 0", 2, "eval_sample: reads the rows of /dev/fd/"),
        ("--warmup-share 0 --eval-sample 0", 0, ""),
    ] {
        let output = bash(&lab, &format!("$ALIGNER {train} {flags} --out piped"));
        let errors = text(&output.stderr);
        assert_eq!(output.status.code(), Some(status), "{errors}");
        assert!(errors.contains(said), "{errors}");
    }
    assert!(ending(&lab, "piped") == ending(&lab, "whole"));
}
