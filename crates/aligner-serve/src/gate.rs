//! The do-no-harm gate: corrections that are plainly worse than what they correct.

use crate::config::GateConfig;
use crate::outcome::Outcome;

/// Words of a stretch that is looked for again.
const STRETCH: usize = 6;
/// How often such a stretch follows itself in a text that has run away.
const TIMES: usize = 4;
/// Characters from which a language can be told.
const TELLING: usize = 60;

/// A correction and what it is compared with.
#[derive(Debug, Clone, Copy)]
pub struct Gated<'a> {
    /// What was asked.
    pub question: &'a str,
    /// What was answered.
    pub answer: &'a str,
    /// What the Aligner wrote, perhaps only so far.
    pub correction: &'a str,
    /// Whether it ended by itself; `None` while it is being written.
    pub ended: Option<bool>,
}

impl GateConfig {
    /// Whether nothing of a correction is released before all of it was looked at.
    pub(crate) fn holds(&self, has_reward_model: bool) -> bool {
        self.enabled && (self.hold || has_reward_model)
    }

    /// What is wrong with a correction, if anything. While it is being written, only what can no longer come right.
    pub fn finds(&self, gated: Gated<'_>) -> Option<Outcome> {
        if !self.enabled {
            return None;
        }
        let Gated {
            question,
            answer,
            correction,
            ended,
        } = gated;
        let most = answer.chars().count() as f64 * self.max_length_ratio + self.length_allowance as f64;
        if correction.chars().count() as f64 > most {
            return Some(Outcome::GatedLength);
        }
        if ended == Some(false) || repeats(correction) && !repeats(answer) {
            return Some(Outcome::GatedRunaway);
        }
        ended?;
        if correction.trim().is_empty() && !answer.trim().is_empty() {
            return Some(Outcome::GatedEmpty);
        }
        if self.same_language && is_other_language(correction, [answer, question]) {
            return Some(Outcome::GatedLanguage);
        }
        None
    }
}

/// Whether a text ends with a stretch of words that has followed itself several times: any stretch of one to six words.
fn repeats(text: &str) -> bool {
    let words: Vec<&str> = text.split_whitespace().rev().take(STRETCH * TIMES * 2).collect();
    (1..=STRETCH).any(|length| {
        // Single words are said often; a row of as many as a long stretch has is not.
        let times = TIMES.max(STRETCH * 2 / length);
        words.len() >= length * times && (length..length * times).all(|at| words[at] == words[at - length])
    })
}

/// Whether a text is surely in a language, and surely in none of those of the others.
fn is_other_language(text: &str, others: [&str; 2]) -> bool {
    let told = |text: &str| {
        let enough = text.chars().filter(|letter| letter.is_alphabetic()).count() >= TELLING;
        let info = whatlang::detect(text)?;
        (enough && info.is_reliable()).then(|| info.lang())
    };
    let Some(language) = told(text) else {
        return false;
    };
    let known: Vec<_> = others.into_iter().filter_map(told).collect();
    !known.is_empty() && !known.contains(&language)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENGLISH: &str = "The Great Wall of China cannot be seen from the Moon with the naked eye, as astronauts have reported.";
    const GERMAN: &str = "Die Chinesische Mauer ist vom Mond aus mit bloßem Auge nicht zu sehen, wie Astronauten berichtet haben.";

    fn finds(answer: &str, correction: &str, ended: Option<bool>) -> Option<Outcome> {
        GateConfig::default().finds(Gated {
            question: "Can it be seen?",
            answer,
            correction,
            ended,
        })
    }

    #[test]
    fn what_is_plainly_worse_is_found() {
        assert_eq!(finds(ENGLISH, ENGLISH, Some(true)), None);
        assert_eq!(finds(ENGLISH, " ", Some(true)), Some(Outcome::GatedEmpty));
        assert_eq!(finds(ENGLISH, ENGLISH, Some(false)), Some(Outcome::GatedRunaway));
        assert_eq!(finds(ENGLISH, GERMAN, Some(true)), Some(Outcome::GatedLanguage));
        assert_eq!(
            finds("No.", &ENGLISH.repeat(10), Some(true)),
            Some(Outcome::GatedLength)
        );
        let loops = format!("{ENGLISH} {}", "and so on and so on ".repeat(8));
        assert_eq!(finds(ENGLISH, &loops, None), Some(Outcome::GatedRunaway));
        let one = format!("{ENGLISH} {}", "ha ".repeat(12));
        assert_eq!(finds(ENGLISH, &one, None), Some(Outcome::GatedRunaway));
        assert_eq!(finds(ENGLISH, "It is very, very, very far.", Some(true)), None);
    }

    #[test]
    fn what_is_being_written_is_not_judged_by_what_may_still_come() {
        assert_eq!(finds(ENGLISH, "", None), None);
        assert_eq!(finds(ENGLISH, GERMAN, None), None);
    }

    #[test]
    fn short_texts_have_no_language() {
        assert_eq!(finds("Yes, it is.", "Nein, das ist falsch.", Some(true)), None);
    }
}
