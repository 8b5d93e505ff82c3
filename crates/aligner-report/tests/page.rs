//! Pages of whole run directories.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::fmt::Write;
use std::path::Path;

use aligner_report::{ReportError, render, write};

/// A run directory with stages, validations and samples.
fn full_run(dir: &Path, steps: u64) {
    let mut text = String::new();
    for step in 0..=steps {
        let stage = if step <= steps / 10 {
            "warmup"
        } else {
            "correction"
        };
        let loss = 4.0 / (1.0 + step as f64 / 50.0) + 0.2 * ((step * 7919) % 13) as f64 / 13.0;
        if step > 0 {
            let _ = writeln!(
                text,
                "{{\"step\":{step},\"epoch\":{:.3},\"split\":\"train\",\"stage\":\"{stage}\",\"loss\":{loss},\"lr\":2e-5,\
                 \"grad_norm\":1.5,\"tokens\":100,\"target_tokens\":40,\"tokens_per_second\":900.0,\"seconds\":0.1,\
                 \"peak_rss_bytes\":123456789,\"novelty\":{step}}}",
                step as f64 / 100.0
            );
        }
        if step % (steps / 5) == 0 {
            let share = step as f64 / steps as f64;
            let _ = writeln!(
                text,
                "{{\"step\":{step},\"epoch\":0.0,\"split\":\"valid\",\"stage\":\"{stage}\",\"loss\":{},\"copy_rate\":{},\
                 \"edit_ratio\":{share},\"copy_retention\":0.5,\"exact_match\":{share}}}",
                loss + 0.1,
                1.0 - share
            );
        }
    }
    std::fs::write(dir.join("metrics.jsonl"), text).unwrap();
    std::fs::write(
        dir.join("samples.jsonl"),
        "{\"step\":7,\"question\":\"old\",\"answer\":\"x\",\"correction\":\"x\",\"edit_ratio\":0}\n\
         {\"step\":9,\"question\":\"2 + 2?\",\"answer\":\"it is five\",\"correction\":\"it is four\",\"reference\":\"four\",\
         \"edit_ratio\":0.33}\n",
    )
    .unwrap();
    std::fs::write(dir.join("run.toml"), "model = \"base\"\nlr = 2e-5\n").unwrap();
    std::fs::create_dir_all(dir.join("final")).unwrap();
    std::fs::write(
        dir.join("final/aligner.json"),
        r#"{"base_model": "org/base", "template": {"id": "correction", "text": "t"}, "created_by": "aligner 0.1.0",
            "stages": [{"kind": "warmup", "steps": 10, "novel": true}, {"kind": "correction", "steps": 90, "lr": 2e-5}]}"#,
    )
    .unwrap();
}

#[test]
fn a_page_has_every_section() {
    let dir = tempfile::tempdir().unwrap();
    full_run(dir.path(), 100);
    let page = render(dir.path()).unwrap();
    for part in [
        "Finished after 100 steps",
        "<h3>Loss</h3>",
        "training, smoothed",
        "validation",
        "Learning rate",
        "Gradient norm",
        "Tokens per second",
        "copy retention",
        "exact match",
        "Edit ratio of the samples",
        "it is <del>five</del><ins>four</ins>",
        "<b>reference</b> four",
        ">warmup</span>",
        ">correction</span>",
        "org/base",
        "<th>novel</th>",
        "train/novelty",
        "lr = 2e-5",
    ] {
        assert!(page.contains(part), "{part} is missing");
    }
    assert!(
        !page.contains(">old<"),
        "samples are those of the last validation"
    );
    assert!(
        !page.contains("NaN") && !page.contains("inf"),
        "no number is out of bounds"
    );
}

#[test]
fn a_page_refers_to_nothing_outside_of_it() {
    let dir = tempfile::tempdir().unwrap();
    full_run(dir.path(), 100);
    let page = render(dir.path()).unwrap();
    for part in [
        "http:", "https:", "<script", "<link", "<img", "url(", "@import", "src=",
    ] {
        assert!(!page.contains(part), "{part}");
    }
}

#[test]
fn what_users_wrote_is_text() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("<b>run&");
    std::fs::create_dir(&run).unwrap();
    full_run(&run, 20);
    let evil = r#"</pre><script>alert(1)</script>\" onload=\"x"#;
    let sample = format!(
        "{{\"step\":99,\"question\":\"{evil}\",\"answer\":\"{evil} a\",\"correction\":\"{evil} b\",\"reference\":\"{evil}\",\
         \"edit_ratio\":0.5}}\n"
    );
    std::fs::write(run.join("samples.jsonl"), sample).unwrap();
    std::fs::write(run.join("run.toml"), "x = '</pre><script>'").unwrap();
    std::fs::write(
        run.join("final/aligner.json"),
        format!("{{\"base_model\": \"{evil}\", \"stages\": [{{\"{evil}\": \"{evil}\"}}]}}"),
    )
    .unwrap();
    let mut metrics = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let _ = writeln!(
        metrics,
        "{{\"step\":21,\"split\":\"{evil}\",\"stage\":\"{evil}\",\"{evil}\":1.5}}"
    );
    std::fs::write(run.join("metrics.jsonl"), metrics).unwrap();
    let page = render(&run).unwrap();
    assert!(!page.contains("<script") && !page.contains("onload=\"x") && !page.contains("<b>run"));
    assert!(page.matches("&lt;script&gt;").count() >= 7);
}

#[test]
fn a_long_run_gives_a_small_page() {
    let dir = tempfile::tempdir().unwrap();
    full_run(dir.path(), 100_000);
    assert!(std::fs::metadata(dir.path().join("metrics.jsonl")).unwrap().len() > 10 << 20);
    let page = render(dir.path()).unwrap();
    assert!(page.len() < 300 << 10, "{} bytes", page.len());
    assert!(page.contains("from the lowest to the highest") || page.contains("shade"));
}

#[test]
fn a_run_that_has_just_begun_or_was_damaged_has_a_page() {
    let dir = tempfile::tempdir().unwrap();
    assert!(matches!(render(dir.path()), Err(ReportError::NoRun(_))));
    std::fs::write(dir.path().join("run.toml"), "").unwrap();
    assert!(render(dir.path()).unwrap().contains("Not finished"));
    std::fs::write(
        dir.path().join("metrics.jsonl"),
        b"\xff\xfe\n{\"step\":1,\"loss\":2.0}\n{\"step\":2,\"lo",
    )
    .unwrap();
    std::fs::create_dir_all(dir.path().join("checkpoints/step-00000007")).unwrap();
    std::fs::write(dir.path().join("checkpoints/step-00000007/checkpoint.json"), "{").unwrap();
    let page = render(dir.path()).unwrap();
    assert!(page.contains("1 lines of metrics.jsonl") && page.contains("<h3>Loss</h3>"));
}

#[test]
fn a_page_is_written_whole() {
    let dir = tempfile::tempdir().unwrap();
    full_run(dir.path(), 20);
    let out = dir.path().join("report.html");
    write(dir.path(), &out).unwrap();
    assert!(std::fs::read_to_string(&out).unwrap().ends_with("</html>\n"));
    let mut names = std::fs::read_dir(dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name());
    assert!(!names.any(|name| name.to_string_lossy().ends_with(".part")));
    let missing = dir.path().join("no/such/report.html");
    let error = write(dir.path(), &missing).unwrap_err().to_string();
    assert!(error.contains("no/such/report.html"), "{error}");
}
