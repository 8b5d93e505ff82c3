//! Texts that would be something else.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use aligner_data::Turn;
use aligner_eval::Outcome;
use aligner_eval::report::{Group, Report, html, markdown, pictures};
use proptest::prelude::*;

use crate::fixture::full;
use crate::markup;

/// The same report with a text in every place where users' texts can be.
fn with_text(mut report: Report, text: &str) -> Report {
    let add = |place: &mut String| *place = format!("{text}{place}{text}");
    add(&mut report.title);
    report.facts = [(text.to_string(), serde_json::json!({text: [text, {text: text}]}))]
        .into_iter()
        .collect();
    report.notes.iter_mut().for_each(add);
    let named = |group: &mut Group| {
        [&mut group.upstream, &mut group.dataset, &mut group.aligner]
            .into_iter()
            .for_each(add);
    };
    for Outcome {
        item,
        output,
        aligner,
        ..
    } in &mut report.outcomes
    {
        let places = [
            &mut item.id,
            &mut item.question,
            &mut item.answer,
            &mut item.dataset,
            &mut item.upstream,
        ];
        places.into_iter().for_each(add);
        [output, aligner].into_iter().for_each(add);
        item.category = Some(text.into());
        item.chat_history = vec![Turn {
            question: text.into(),
            answer: text.into(),
        }];
    }
    for each in &mut report.verdicts {
        named(&mut each.group);
        add(&mut each.judge);
    }
    for each in &mut report.differences {
        named(&mut each.group);
        add(&mut each.scorer);
    }
    for table in &mut report.tables {
        [&mut table.title, &mut table.about].into_iter().for_each(add);
        for row in &mut table.rows {
            named(&mut row.group);
            row.figures.iter_mut().for_each(|figure| add(&mut figure.name));
        }
    }
    report.edit_ratios.iter_mut().for_each(|each| {
        named(&mut each.group);
    });
    report
}

/// Tags whose number depends on nothing that users wrote.
fn without_changes(mut tags: BTreeMap<String, usize>) -> BTreeMap<String, usize> {
    // How a text differs from another depends on the texts; so does where a gap in it is.
    for tag in ["ins", "del", "span"] {
        tags.remove(tag);
    }
    tags
}

fn check(text: &str) {
    // Intervals are drawn once for all texts.
    static REPORT: LazyLock<Report> = LazyLock::new(|| full(6));
    let plain = with_text(REPORT.clone(), "x");
    let hostile = with_text(REPORT.clone(), text);
    let page = html(&hostile);
    assert_eq!(
        without_changes(markup::html(&page)),
        without_changes(markup::html(&html(&plain)))
    );
    assert_eq!(
        markup::markdown(&markdown(&hostile)),
        markup::markdown(&markdown(&plain))
    );
    let pictures_of = pictures(&hostile);
    assert_eq!(pictures_of.len(), pictures(&plain).len());
    for ((name, svg), (plain_name, plain)) in pictures_of.iter().zip(pictures(&plain)) {
        assert_eq!((name, markup::svg(svg)), (&plain_name, markup::svg(&plain)));
    }
    assert_eq!(page, html(&hostile));
}

#[test]
fn hostile_texts_are_text() {
    for text in [
        "</p></article><script>alert(1)</script>",
        "\" onload=\"alert(1)",
        "]]></text><image href='x'/>",
        "<!-- --> &lt;b&gt; &#60;",
        "\n\n# title\n\n| a | b |\n|---|---|\n```\n",
        "[x](javascript:alert(1)) ![x](https://a.example/x.png) <https://a.example> www.a.example",
        "\\| \\` \\\\",
        "שלום \u{202e}evil\u{202c} مرحبا",
        "👨\u{200d}👩\u{200d}👧 e\u{301}\u{301}\u{301} \u{fffe}\u{ffff}\0\u{1b}[31m",
    ] {
        check(text);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_written_is_text(text in "[<>&\"'`|\\\\*_~#\\[\\]()!\\-\n\r\t a-z./:@\u{0}-\u{1f}\u{202e}א\u{301}🦀\u{ffff}]{0,40}") {
        // A text between each of its neighbours keeps the texts apart from "x", which is not empty.
        check(&format!("y{text}y"));
    }
}
