//! Heat maps of corrections whose texts may be anything.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use aligner_report::tokens::{Cell, Heat, Likelihood, probability};

const EVIL: [&str; 6] = [
    "</p><script>alert(1)</script>",
    "\" onmouseover=\"x",
    "'><img src=x>",
    "&lt;\u{0}\u{202e}\r\n\n",
    "</style><!--",
    "]]><?php",
];

fn heat(cells: &[(&'static str, f64)]) -> Heat<'static> {
    let cell = |(index, &(text, probability)): (usize, &(&'static str, f64))| Cell {
        text,
        tokens: 1,
        not_first: usize::from(probability < 0.5),
        logprob: f64::ln(probability),
        kept: index % 2 == 0,
        is_end: false,
        alternatives: vec![(EVIL[index % EVIL.len()], -0.5), ("b", -2.0)],
    };
    let mut all: Vec<Cell<'_>> = cells.iter().enumerate().map(cell).collect();
    all.push(Cell {
        text: "",
        tokens: 1,
        not_first: 0,
        logprob: -0.2,
        kept: false,
        is_end: true,
        alternatives: Vec::new(),
    });
    Heat {
        question: EVIL[0],
        answer: EVIL[1],
        model: EVIL[2],
        cells: all,
    }
}

/// Every element that is opened is closed, in order, and attributes are quoted.
fn assert_well_formed(page: &str) {
    let mut open = Vec::new();
    let mut rest = page;
    while let Some(start) = rest.find('<') {
        assert!(
            !rest[..start].contains('>'),
            "a stray > before {:?}",
            &rest[start..start + 20]
        );
        let end = start + rest[start..].find('>').expect("a tag that ends");
        let tag = &rest[start + 1..end];
        rest = &rest[end + 1..];
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop(), Some(name), "closed out of order");
            continue;
        }
        let name = tag.split_whitespace().next().unwrap();
        assert!(
            name.trim_start_matches('!')
                .chars()
                .all(|c| c.is_ascii_alphanumeric()),
            "{name}"
        );
        assert_eq!(tag.matches('"').count() % 2, 0, "{tag}");
        if name == "style" {
            rest = &rest[rest.find("</style>").unwrap()..];
        }
        if !["!doctype", "meta"].contains(&name) {
            open.push(name);
        }
    }
    assert!(open.is_empty(), "{open:?} are not closed");
}

#[test]
fn hostile_texts_are_text() {
    let cells: Vec<(&'static str, f64)> = EVIL
        .iter()
        .zip([0.99, 0.6, 0.3, 0.1, 0.02, 1e-9])
        .map(|(a, b)| (*a, b))
        .collect();
    let page = heat(&cells).page();
    assert_well_formed(&page);
    for part in [
        "<script",
        "<img",
        "onmouseover=\"x\"",
        "http:",
        "https:",
        "url(",
        "@import",
        "\u{202e}",
    ] {
        assert!(!page.contains(part), "{part}");
    }
    assert!(page.contains("default-src 'none'"));
    for step in 0..6 {
        assert!(page.contains(&format!("<b class=\"p{step}")), "{step}");
    }
}

#[test]
fn kept_and_new_tokens_look_different() {
    let page = heat(&[("same", 0.95), (" other", 0.3)]).page();
    assert!(page.contains("<b class=\"p0\" title=\"95 %"), "{page}");
    assert!(page.contains("<b class=\"p2 new\" title=\"30 %"), "{page}");
    assert!(page.contains(">end</b>"));
    // One of two is a line of its own, and all are in the list.
    assert_eq!(page.matches("<code>␣other</code>").count(), 2);
    assert_eq!(page.matches("<code>same</code>").count(), 1);
}

#[test]
fn tokens_that_make_one_character_are_counted_each() {
    let mut heat = heat(&[("世", 0.3), ("a", 0.9)]);
    // Three bytes, of which the last alone is what the model would rather not have; no alternatives were asked for.
    (heat.cells[0].tokens, heat.cells[0].not_first) = (3, 1);
    heat.cells.iter_mut().for_each(|cell| cell.alternatives.clear());
    let page = heat.page();
    let tile = |name: &str, value: &str| format!("<div><dt>{name}</dt><dd>{value}</dd></div>");
    assert!(page.contains(&tile("Tokens", "5")), "{page}");
    assert!(
        page.contains(&tile("Not the model's first choice", "1")),
        "{page}"
    );
    let logprob = f64::ln(0.3) + f64::ln(0.9) - 0.2;
    assert!(page.contains(&tile("Perplexity", &format!("{:.2}", (-logprob / 5.0).exp()))));
    assert!(page.contains("All 5 tokens"));
}

#[test]
fn a_correction_without_tokens_has_a_page() {
    let mut empty = heat(&[]);
    empty.cells.clear();
    let page = empty.page();
    assert_well_formed(&page);
    assert!(!page.contains("NaN") && !page.contains("inf"));
}

#[test]
fn probabilities_are_written_short_and_never_rounded_to_certain() {
    for (value, expected) in [
        (1.0, "> 99.9 %"),
        (0.9999, "> 99.9 %"),
        (0.997, "99.7 %"),
        (0.42, "42 %"),
        (0.051, "5.1 %"),
        (0.00002, "2e-5"),
    ] {
        assert_eq!(probability(f64::ln(value)), expected);
    }
    let steps = [1.0, 0.9, 0.89, 0.5, 0.2, 0.05, 0.01, 0.0].map(|value: f64| Likelihood::of(value.ln()).0);
    assert_eq!(steps, [0, 0, 1, 1, 2, 3, 4, 5]);
}
