//! Strict readers of what a report writes: they know the tags that it uses, and panic at all else.

use std::collections::BTreeMap;

/// Tags of the page, with the attributes they may have.
const HTML: &[(&str, &[&str])] = &[
    ("html", &["lang"]),
    ("head", &[]),
    ("meta", &["charset", "http-equiv", "content", "name"]),
    ("title", &[]),
    ("style", &[]),
    ("body", &[]),
    ("main", &[]),
    ("header", &[]),
    ("footer", &[]),
    ("section", &[]),
    ("article", &[]),
    ("figure", &["class"]),
    ("figcaption", &[]),
    ("h1", &["dir"]),
    ("h2", &[]),
    ("h3", &["class", "dir"]),
    ("h4", &["dir"]),
    ("p", &["class", "dir"]),
    ("div", &["class", "role", "aria-label"]),
    ("dl", &["class"]),
    ("dt", &[]),
    ("dd", &[]),
    ("table", &["class"]),
    ("thead", &[]),
    ("tbody", &[]),
    ("tr", &[]),
    ("th", &["class", "scope"]),
    ("td", &["class", "data-name", "dir"]),
    ("span", &["class", "style"]),
    ("small", &[]),
    ("bdi", &[]),
    ("i", &["class", "style"]),
    ("ins", &[]),
    ("del", &[]),
    ("svg", &["viewBox", "preserveAspectRatio", "aria-hidden"]),
    ("g", &["class"]),
    ("path", &["class", "d"]),
    ("rect", &["x", "y", "width", "height"]),
];

/// Tags of a picture.
const SVG: &[(&str, &[&str])] = &[
    ("svg", &["xmlns", "width", "height", "viewBox", "role"]),
    ("title", &[]),
    ("style", &[]),
    ("rect", &["class", "x", "y", "width", "height", "rx"]),
    ("circle", &["class", "cx", "cy", "r"]),
    ("text", &["class", "x", "y", "text-anchor"]),
];

/// How often each tag occurs in a page that is well formed.
pub fn html(text: &str) -> BTreeMap<String, usize> {
    let text = text.strip_prefix("<!doctype html>\n").expect("a doctype");
    tags(text, HTML, &["meta"])
}

/// How often each tag occurs in a picture that is well formed.
pub fn svg(text: &str) -> BTreeMap<String, usize> {
    tags(text, SVG, &[])
}

fn tags(mut text: &str, known: &[(&str, &[&str])], void: &[&str]) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    let mut open: Vec<String> = Vec::new();
    while let Some(start) = text.find('<') {
        content(&text[..start]);
        let end = start + text[start..].find('>').expect("a tag ends");
        let tag = &text[start + 1..end];
        text = &text[end + 1..];
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop().as_deref(), Some(name), "nesting");
            continue;
        }
        let is_closed = tag.ends_with('/');
        let tag = tag.trim_end_matches('/');
        let (name, rest) = tag.split_once(' ').unwrap_or((tag, ""));
        let (_, attributes) = known
            .iter()
            .find(|(known, _)| *known == name)
            .unwrap_or_else(|| panic!("<{tag}>"));
        check_attributes(name, rest, attributes);
        *counts.entry(name.to_string()).or_default() += 1;
        if !is_closed && !void.contains(&name) {
            open.push(name.to_string());
        }
    }
    content(text);
    assert!(open.is_empty(), "{open:?} are open");
    counts
}

/// `name="value"` with a space before each, and nothing else.
fn check_attributes(tag: &str, mut rest: &str, known: &[&str]) {
    while !rest.is_empty() {
        let (name, behind) = rest.split_once("=\"").unwrap_or_else(|| panic!("<{tag} {rest}>"));
        assert!(known.contains(&name), "<{tag} {name}>");
        let (value, behind) = behind.split_once('"').unwrap_or_else(|| panic!("<{tag} {rest}>"));
        content(value);
        if name == "style" {
            let is_place = |c: char| c.is_ascii_alphanumeric() || ":;%.-".contains(c);
            assert!(value.chars().all(is_place), "{value}");
        }
        rest = behind.strip_prefix(' ').unwrap_or(behind);
    }
}

/// Characters and entities that XML and HTML allow.
fn content(text: &str) {
    for (index, _) in text.match_indices('&') {
        let entities = ["&amp;", "&lt;", "&gt;", "&quot;", "&#39;", "&#x2068;", "&#x2069;"];
        assert!(
            entities.iter().any(|entity| text[index..].starts_with(entity)),
            "{}",
            &text[index..]
        );
    }
    let is_bad =
        |c: char| (c.is_control() && c != '\n' && c != '\t') || ('\u{202a}'..='\u{202e}').contains(&c);
    assert!(!text.contains(is_bad), "{text:?}");
}

/// The table rows and headings of Markdown in which no text has become markup.
pub fn markdown(text: &str) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    let mut columns = None;
    for line in text.lines() {
        let kind = match line {
            _ if line.starts_with("| ") || line.starts_with("|-") => "row",
            _ if line.starts_with('#') => "heading",
            _ if line.starts_with("![") => "picture",
            _ if line.starts_with("- ") => "item",
            "" => "empty",
            "---" => "rule",
            _ => "text",
        };
        *counts.entry(kind.to_string()).or_default() += 1;
        let bare = bare(line);
        let pipes = bare.matches('|').count();
        if kind == "row" {
            assert_eq!(*columns.get_or_insert(pipes), pipes, "{line}");
        } else {
            assert_eq!(pipes, 0, "{line}");
            columns = None;
        }
        let picture = if kind == "picture" { 1 } else { 0 };
        assert_eq!(bare.matches('[').count(), picture, "{line}");
        assert!(!bare.contains(['`', '~', '_']) && !bare.contains("://"), "{line}");
        let tags = ["<br>", "<ins>", "</ins>", "<del>", "</del>"];
        let without = tags.iter().fold(bare, |line, tag| line.replace(tag, ""));
        assert!(!without.contains(['<', '>']), "{line}");
    }
    counts
}

/// A line with an x for each character that stands behind a backslash.
fn bare(line: &str) -> String {
    let mut bare = String::new();
    let mut rest = line.chars();
    while let Some(c) = rest.next() {
        if c == '\\' {
            assert!(rest.next().is_some_and(|c| c.is_ascii_punctuation()), "{line}");
            // It keeps what is before and behind it apart.
            bare.push('x');
        } else {
            bare.push(c);
        }
    }
    bare
}
