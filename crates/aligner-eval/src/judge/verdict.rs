//! What a judge's reply comes to. Nothing is guessed: what is not plainly a verdict is unread.

/// Which answer a judge prefers, by its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// Answer A.
    First,
    /// Answer B.
    Second,
    /// Neither.
    Neither,
}

/// What a line holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    Nothing,
    One(Choice),
    /// A verdict that says more than one thing.
    Unclear,
}

/// Reads the last verdict of a reply, `None` where there is none or where it contradicts itself.
///
/// A verdict is `[[A]]`, `[[B]]` or `[[C]]` (neither) anywhere; `Verdict: A` up to the end of its line; or a capital letter
/// alone on the last line. Case, bold and other Markdown do not matter. The last line with a verdict counts, and two
/// different ones on it are none. A line that repeats the instruction (`[[A]] if …`) holds no verdict, and a chain of thought
/// in `<think>` is not read.
///
/// ```
/// use aligner_eval::judge::{Choice, read_choice};
/// assert_eq!(read_choice("A is wrong, B is right.\n\n**[[b]]**"), Some(Choice::Second));
/// assert_eq!(read_choice("Final verdict: **Tie**"), Some(Choice::Neither));
/// assert_eq!(read_choice("[[A]] or [[B]]"), None);
/// assert_eq!(read_choice("A is the better answer"), None);
/// ```
pub fn read_choice(said: &str) -> Option<Choice> {
    let text = after_thinking(said)?;
    let lines = text.lines().rev().map(str::trim).filter(|line| !line.is_empty());
    for (from_end, line) in lines.enumerate() {
        let found = match (line_verdict(line), from_end) {
            (Found::Nothing, 0) => letter_alone(line),
            (found, _) => found,
        };
        match found {
            Found::Nothing => {}
            Found::One(choice) => return Some(choice),
            Found::Unclear => return None,
        }
    }
    None
}

/// What follows a chain of thought; `None` where it never ends.
fn after_thinking(said: &str) -> Option<&str> {
    match said.rsplit_once("</think>") {
        Some((_, after)) => Some(after),
        None if said.trim_start().starts_with("<think>") => None,
        None => Some(said),
    }
}

fn line_verdict(line: &str) -> Found {
    let plain: String = line
        .chars()
        .filter(|c| !matches!(c, '*' | '_' | '`' | '\\' | '#' | '~'))
        .map(|c| c.to_ascii_lowercase())
        .collect();
    match bracketed(&plain) {
        Found::Nothing => labelled(&plain),
        found => found,
    }
}

/// `[[A]]`
fn bracketed(plain: &str) -> Found {
    let mut found = Found::Nothing;
    let mut rest = plain;
    while let Some((_, inside)) = rest.split_once("[[") {
        rest = inside;
        let Some((token, after)) = inside.split_once("]]") else {
            break;
        };
        let Some(choice) = choice_of(token) else {
            continue;
        };
        let next = words(after).next();
        if matches!(next, Some("if" | "when" | "means")) {
            return Found::Nothing;
        }
        found = match found {
            Found::One(other) if other != choice => Found::Unclear,
            Found::Unclear => Found::Unclear,
            _ => Found::One(choice),
        };
        rest = after;
    }
    found
}

/// `Verdict: A`. A line that announces a verdict and says something else is unclear: no earlier line stands in for it.
fn labelled(plain: &str) -> Found {
    let Some((_, after)) = plain.rsplit_once("verdict") else {
        return Found::Nothing;
    };
    let after = after.trim_start();
    let after = after
        .strip_prefix("is")
        .filter(|rest| !rest.starts_with(char::is_alphanumeric))
        .unwrap_or(after);
    match choice_of(after) {
        Some(choice) => Found::One(choice),
        None if after.trim_start().starts_with([':', '=']) && words(after).next().is_some() => Found::Unclear,
        None => Found::Nothing,
    }
}

/// A last line that is nothing but a capital letter.
fn letter_alone(line: &str) -> Found {
    let letter =
        line.trim_matches(|c: char| matches!(c, '*' | '_' | '`' | '#' | '[' | ']' | '(' | ')' | ' '));
    match letter {
        "A" => Found::One(Choice::First),
        "B" => Found::One(Choice::Second),
        "C" => Found::One(Choice::Neither),
        _ => Found::Nothing,
    }
}

/// A text that is the name of a choice, and punctuation.
fn choice_of(text: &str) -> Option<Choice> {
    let mut words = words(text);
    let choice = match (words.next()?, words.next()) {
        ("a", None) | ("answer", Some("a")) => Choice::First,
        ("b", None) | ("answer", Some("b")) => Choice::Second,
        ("c" | "tie", None) | ("a", Some("tie")) => Choice::Neither,
        _ => return None,
    };
    words.next().is_none().then_some(choice)
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_alphanumeric())
        .filter(|word| !word.is_empty())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FIRST: Option<Choice> = Some(Choice::First);
    const SECOND: Option<Choice> = Some(Choice::Second);
    const NEITHER: Option<Choice> = Some(Choice::Neither);

    #[test]
    fn what_judges_write_is_read() {
        for (said, expected) in [
            ("Both are fine.\n[[A]]", FIRST),
            ("Both are fine. [[b]]", SECOND),
            ("**[[C]]**", NEITHER),
            ("[[**A**]]", FIRST),
            ("\\[\\[B\\]\\]", SECOND),
            ("[[ Tie ]]", NEITHER),
            ("[[Answer B]].", SECOND),
            ("**Verdict:** A", FIRST),
            ("Verdict: [A].", FIRST),
            ("### Final verdict: **answer b**", SECOND),
            ("my verdict is: a tie!", NEITHER),
            ("Verdict — `C`", NEITHER),
            ("VERDICT: [[B]]", SECOND),
            ("A is shorter.\n\n**B**", SECOND),
            ("Verdict:\nA", FIRST),
            (
                "First [[A]] seemed better.\nIt is not.\n[[B]]\nI hope this helps.",
                SECOND,
            ),
            ("[[A]] [[A]]", FIRST),
            ("<think>[[A]]</think>\n[[B]]", SECOND),
            ("[[A]]\n([[A]] if A is better, [[B]] if B is)", FIRST),
        ] {
            assert_eq!(read_choice(said), expected, "{said}");
        }
    }

    #[test]
    fn what_is_no_plain_verdict_is_unread() {
        for said in [
            "",
            "A",
            "a",
            "A is better",
            "Verdict: A is better in style but B is better overall",
            "[[A]]\nVerdict: both",
            "Verdict: a close call",
            "Verdict: A or B",
            "The verdict on A is hard",
            "[[A]] and [[B]]",
            "[[B]]\nWell, [[A]] or [[B]]",
            "[[A]] if A is better, [[B]] if B is, [[C]] if neither",
            "[[D]]",
            "[[AB]]",
            "<think>so [[A]]",
            "verdicts: many",
        ] {
            let expected = if said == "A" { FIRST } else { None };
            assert_eq!(read_choice(said), expected, "{said}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(said in any::<String>(), tail in "[\\[\\]AaBbCc:*\\\\ \nverdict<>/thinké]{0,60}") {
            read_choice(&said);
            read_choice(&tail);
            read_choice(&format!("{said}{tail}"));
        }

        #[test]
        fn a_text_without_a_token_is_unread(said in "(?s).{0,200}", words in "[A-Ca-c .:\n*]{0,80}") {
            let text = format!("{words}{said}{words}");
            let bare: String = text.chars().filter(|c| !matches!(c, '[' | 'V' | 'v')).collect();
            prop_assert_eq!(read_choice(&format!("{bare}\nThat is all.")), None);
        }

        #[test]
        fn the_last_token_is_read_whatever_comes_before(
            said in "(?s).{0,200}",
            token in prop::sample::select(vec![("A", FIRST), ("b", SECOND), ("C", NEITHER)]),
            bold in prop::sample::select(vec!["", "*", "**", "__", "`"]),
        ) {
            let text = format!("{said}\n{bold}[[{}]]{bold}", token.0);
            prop_assert_eq!(read_choice(&text), token.1);
        }

        #[test]
        fn two_tokens_of_the_last_line_that_contradict_are_unread(
            said in "[a-z .\n]{0,200}",
            between in "[ a-z.,]{0,30}",
            pair in prop::sample::select(vec![("A", "B"), ("b", "a"), ("C", "A"), ("B", "c")]),
        ) {
            prop_assert_eq!(read_choice(&format!("{said}\n[[{}]]{between}[[{}]]", pair.0, pair.1)), None);
        }
    }
}
