//! Reports of whole evaluations.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod fixture;
mod hostile;
mod markup;

use aligner_eval::report::{Report, html, markdown, pictures, write};
use aligner_eval::stats::Tally;

use fixture::{full, outcome};

#[test]
fn every_part_is_told_in_all_three() {
    let report = full(40);
    let (page, text) = (html(&report), markdown(&report));
    let tags = markup::html(&page);
    assert_eq!((tags["article"], tags["svg"]), (20, 2));
    assert_eq!(markup::markdown(&text)["picture"], 5);
    for part in [
        "First",
        "2 rows could not be read.",
        "Data set: questions · Aligner: small",
        "Helpfulness, scored by a scorer",
        "Harmlessness, scored by a scorer",
        "−1.25",
        "11.3 %",
        "copy rate",
        "(5.0 to 15.0)",
        "aligner › path",
        "models/small",
        "Changed most",
        "Changed least",
        "Not among them: copies (8)",
        "Judge: a judge",
    ] {
        assert!(page.contains(part), "{part} is not in the page");
        assert!(text.contains(part), "{part} is not in the Markdown");
    }
    let pictures = pictures(&report);
    let names: Vec<&str> = pictures.iter().map(|(name, _)| name.as_str()).collect();
    let expected = [
        "win-rate-helpful.svg",
        "win-rate-harmless.svg",
        "score-difference-1.svg",
        "score-difference-2.svg",
        "edit-ratio.svg",
    ];
    assert_eq!(names, expected);
    for (name, svg) in &pictures {
        markup::svg(svg);
        assert!(text.contains(&format!("]({name})")), "{name}");
    }
    assert!(pictures[0].1.contains("ω +11.3 % (") && pictures[0].1.contains(";224&"));
}

#[test]
fn a_cost_is_told_with_its_sign_turned() {
    let page = html(&full(1));
    let rewards = page.find("Helpfulness, scored by").unwrap();
    let costs = page.find("Harmlessness, scored by").unwrap();
    assert!(
        page[rewards..costs].contains("−1.25 (−1.30 to −1.20)"),
        "{}",
        &page[rewards..costs]
    );
    assert!(page[costs..].contains("+1.25 (1.20 to 1.30)"));
}

#[test]
fn what_has_no_data_is_left_out() {
    let mut report = full(3);
    report.tables[0].rows[1]
        .figures
        .retain(|figure| figure.name != "copy rate");
    for each in &mut report.verdicts {
        (each.win_rate, each.p, each.contradictions) = (None, Some(f64::NAN), None);
        each.tally.unread = 0;
    }
    report.verdicts[0].tally = Tally::default();
    report.differences[0].difference.low = f64::NEG_INFINITY;
    report.edit_ratios[0].counts = vec![0; 10];
    let (page, text) = (html(&report), markdown(&report));
    let tags = markup::html(&page);
    markup::markdown(&text);
    for part in ["NaN", "inf", "perplexity", "contradictions<", "unread<", ">p<"] {
        assert!(!page.contains(part), "{part}");
    }
    assert!(page.contains("<td></td>"), "the copy rate of one upstream");
    assert_eq!(tags["svg"], 1, "no picture of nothing");
    assert!(!page.contains("class=\"track\"></div>"));
    assert!(page.contains(">11.3 %<"), "ω without an interval is told");
}

#[test]
fn an_empty_evaluation_and_one_row_have_a_report() {
    let empty = Report::default();
    assert!(html(&empty).contains("nothing in this evaluation"));
    assert!(markdown(&empty).contains("nothing in this evaluation"));
    markup::html(&html(&empty));
    assert!(pictures(&empty).is_empty());
    let one = Report {
        outcomes: vec![outcome(1, "one", "it is five", "it is four")],
        ..Report::default()
    };
    let page = html(&one);
    assert_eq!(markup::html(&page)["article"], 1);
    assert!(page.contains("it is <del>five</del>") && page.contains("it is <ins>four</ins>"));
    assert!(markdown(&one).contains("| it is <del>five</del> | it is <ins>four</ins> |"));
}

#[test]
fn a_thousand_rows_give_a_page_that_is_not_larger() {
    let page = html(&full(1000));
    assert_eq!(markup::html(&page)["article"], 20);
    assert!(page.len() < 120 << 10, "{} bytes", page.len());
}

#[test]
fn the_order_of_the_rows_does_not_matter() {
    let report = full(30);
    let mut other = report.clone();
    other.outcomes.reverse();
    other.verdicts.reverse();
    other.differences.reverse();
    other.edit_ratios.reverse();
    assert_eq!(html(&report), html(&other));
    assert_eq!(markdown(&report), markdown(&other));
    assert_eq!(pictures(&report), pictures(&other));
}

#[test]
fn a_long_answer_is_shortened_and_says_so() {
    let words = "many words ".repeat(2000);
    let report = Report {
        outcomes: vec![outcome(
            1,
            "one",
            &format!("{words}old {words}"),
            &format!("{words}new {words}"),
        )],
        ..Report::default()
    };
    let page = html(&report);
    assert!(
        page.contains("characters …]") && page.contains("<del>old</del>") && page.contains("<ins>new</ins>")
    );
    assert!(page.len() < 30 << 10, "{} bytes", page.len());
    assert!(markdown(&report).contains("characters …*"));
}

#[test]
fn a_report_is_written_whole_beside_its_pictures() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("new/report");
    write(&full(5), &out).unwrap();
    let files = std::fs::read_dir(&out).unwrap();
    let mut names: Vec<_> = files
        .map(|file| file.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names.len(), 7, "{names:?}");
    assert!(names.contains(&"report.html".to_string()) && names.contains(&"report.md".to_string()));
    assert_eq!(
        std::fs::read_to_string(out.join("report.html")).unwrap(),
        html(&full(5))
    );
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    let error = write(&full(1), &file).unwrap_err().to_string();
    assert!(error.contains("file"), "{error}");
}
