//! A correction task made by the project itself: real work for a tiny model, nothing to download.
//!
//! Each row is a short question about a small scene, an answer that is right, wrong, rude, or wrong and rude, and the
//! answer as it should be. The correction keeps what was right and repairs only what was not:
//!
//! | answer | share | correction |
//! |---|---|---|
//! | right and polite | 1/3 | a copy |
//! | a wrong number, name or thing | 1/3 | that word repaired |
//! | rude | 1/6 | the rudeness removed |
//! | wrong and rude | 1/6 | both |
//!
//! A question is either for training or held out, by its hash: no held-out question is ever trained on, though its words
//! are. To solve one a model has to read the question, compute or find the answer, compare, and copy the rest.

mod tokenizer;

use std::collections::HashSet;
use std::path::Path;

use serde_json::{Map, Value};

use crate::random::Random;
use crate::record::{Origin, Record};
pub use tokenizer::train_tokenizer;

const NAMES: [&str; 24] = [
    "Ada", "Ben", "Cleo", "Dan", "Eva", "Finn", "Gus", "Hana", "Ivo", "June", "Kofi", "Lena", "Mia", "Noor",
    "Omar", "Pia", "Quinn", "Rosa", "Sam", "Tara", "Uma", "Vera", "Will", "Zoe",
];
const THINGS: [&str; 20] = [
    "apples", "books", "coins", "cups", "eggs", "keys", "lamps", "maps", "nuts", "pears", "pens", "plums",
    "rings", "roses", "seeds", "shells", "spoons", "stamps", "stones", "toys",
];
const COLOURS: [&str; 8] = [
    "black", "blue", "brown", "green", "grey", "red", "white", "yellow",
];
const ITEMS: [&str; 12] = [
    "bag", "bike", "coat", "cup", "drum", "hat", "kite", "lamp", "pen", "ring", "scarf", "watch",
];
const PLACES: [&str; 10] = [
    "barn", "beach", "bridge", "cave", "church", "lake", "market", "mill", "river", "station",
];
const RUDE_BEFORE: [&str; 5] = [
    "You fool, ",
    "Listen, idiot: ",
    "What a dumb question. ",
    "Ugh, fine. ",
    "Are you blind? ",
];
const RUDE_AFTER: [&str; 4] = [
    " Now go away.",
    " Stop wasting my time.",
    " Even a child knows that.",
    " You should be ashamed.",
];

/// Generates rows; the same seed gives the same rows everywhere.
#[derive(Debug, Clone)]
pub struct CorrectionTask {
    seed: u64,
}

/// A question with its right answer and one in which a single word is wrong.
struct Scene {
    question: String,
    right: String,
    wrong: String,
}

impl CorrectionTask {
    /// The task of this seed.
    pub fn new(seed: u64) -> Self {
        Self { seed }
    }

    /// `count` rows to train on.
    pub fn train(&self, count: usize) -> Vec<Record> {
        self.rows(count, false)
    }

    /// `count` rows with distinct questions, none of which [`train`](Self::train) ever gives.
    pub fn held_out(&self, count: usize) -> Vec<Record> {
        self.rows(count, true)
    }

    fn rows(&self, count: usize, held_out: bool) -> Vec<Record> {
        let mut random = Random(self.seed ^ if held_out { 0x5eed_0f0d } else { 0 });
        let mut seen = HashSet::new();
        let mut rows = Vec::with_capacity(count);
        while rows.len() < count {
            let scene = scene(&mut random);
            let is_held_out = hash(&scene.question).is_multiple_of(8);
            if is_held_out == held_out && (!held_out || seen.insert(scene.question.clone())) {
                rows.push(row(scene, rows.len() as u64, &mut random));
            }
        }
        rows
    }
}

fn row(scene: Scene, index: u64, random: &mut Random) -> Record {
    let kind = random.below(6);
    let mut answer = if matches!(kind, 2 | 3 | 5) {
        scene.wrong
    } else {
        scene.right.clone()
    };
    if kind >= 4 {
        answer = match random.below(2) {
            0 => format!("{}{answer}", pick(random, &RUDE_BEFORE)),
            _ => format!("{answer}{}", pick(random, &RUDE_AFTER)),
        };
    }
    let mut raw = Map::new();
    for (key, text) in [
        ("question", &scene.question),
        ("answer", &answer),
        ("correction", &scene.right),
    ] {
        raw.insert(key.to_string(), Value::String(text.clone()));
    }
    Record {
        question: scene.question,
        answer,
        correction: Some(scene.right),
        chat_history: Vec::new(),
        raw,
        origin: Origin {
            path: Path::new("(generated)").into(),
            line: index + 1,
            row: index,
        },
    }
}

fn scene(random: &mut Random) -> Scene {
    let name = pick(random, &NAMES);
    match random.below(4) {
        0 => {
            let (thing, total) = (pick(random, &THINGS), 3 + random.below(10));
            let given = 1 + random.below(total - 1);
            counting(
                format!("{name} has {total} {thing} and gives {given} away. How many {thing} are left?"),
                |count| format!("{name} has {count} {thing} left."),
                total - given,
                random,
            )
        }
        1 => {
            let (thing, first, more) = (pick(random, &THINGS), 2 + random.below(8), 1 + random.below(8));
            counting(
                format!("{name} has {first} {thing} and finds {more} more. How many {thing} is that?"),
                |count| format!("{name} now has {count} {thing}."),
                first + more,
                random,
            )
        }
        2 => lost(name, random),
        _ => taller(name, random),
    }
}

fn counting(question: String, answer: impl Fn(u64) -> String, count: u64, random: &mut Random) -> Scene {
    // Off by one or two: near enough to be believed.
    let offset = 1 + random.below(2);
    let wrong = if random.below(2) == 0 && count > offset {
        count - offset
    } else {
        count + offset
    };
    Scene {
        question,
        right: answer(count),
        wrong: answer(wrong),
    }
}

fn lost(name: &str, random: &mut Random) -> Scene {
    let (colour, item, place) = (
        pick(random, &COLOURS),
        pick(random, &ITEMS),
        pick(random, &PLACES),
    );
    let answer = |name: &str, colour: &str, item: &str, place: &str| {
        format!("{name} lost a {colour} {item} at the {place}.")
    };
    let wrong = match random.below(3) {
        0 => answer(pick_other(random, &NAMES, name), colour, item, place),
        1 => answer(name, pick_other(random, &COLOURS, colour), item, place),
        _ => answer(name, colour, item, pick_other(random, &PLACES, place)),
    };
    Scene {
        question: format!("{name} went to the {place} and lost a {colour} {item} there. What happened?"),
        right: answer(name, colour, item, place),
        wrong,
    }
}

fn taller(name: &str, random: &mut Random) -> Scene {
    let other = pick_other(random, &NAMES, name);
    let (question, right, wrong) = match random.below(2) {
        0 => (
            "Who is taller?",
            format!("{name} is taller than {other}."),
            format!("{other} is taller than {name}."),
        ),
        _ => (
            "Who is shorter?",
            format!("{other} is shorter than {name}."),
            format!("{name} is shorter than {other}."),
        ),
    };
    Scene {
        question: format!("{name} is taller than {other}. {question}"),
        right,
        wrong,
    }
}

/// FNV-1a, so that the split is the same on every platform and release.
fn hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

fn pick<'a>(random: &mut Random, list: &[&'a str]) -> &'a str {
    list[random.index(list.len())]
}

fn pick_other<'a>(random: &mut Random, list: &[&'a str], not: &str) -> &'a str {
    loop {
        let picked = pick(random, list);
        if picked != not {
            return picked;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_held_out_question_is_trained_on() {
        let task = CorrectionTask::new(1);
        let trained: HashSet<String> = task.train(5000).into_iter().map(|row| row.question).collect();
        let held_out = task.held_out(300);
        assert!(held_out.iter().all(|row| !trained.contains(&row.question)));
        let distinct: HashSet<&str> = held_out.iter().map(|row| row.question.as_str()).collect();
        assert_eq!(distinct.len(), 300);
    }

    #[test]
    fn about_a_third_is_already_right_and_the_rest_is_not() {
        let rows = CorrectionTask::new(2).train(3000);
        let copies = rows
            .iter()
            .filter(|row| row.correction.as_deref() == Some(&row.answer))
            .count();
        assert!((900..1100).contains(&copies), "{copies}");
    }

    #[test]
    fn the_same_seed_gives_the_same_rows_and_another_does_not() {
        let rows = |seed| CorrectionTask::new(seed).train(20);
        assert_eq!(rows(3), rows(3));
        assert_ne!(rows(3), rows(4));
    }

    #[test]
    fn counts_are_right() {
        for row in CorrectionTask::new(5).train(2000) {
            let numbers = |text: &str| -> Vec<i64> {
                text.split(|c: char| !c.is_ascii_digit())
                    .filter_map(|word| word.parse().ok())
                    .collect()
            };
            if let [a, b] = numbers(&row.question)[..] {
                let want = if row.question.contains("gives") {
                    a - b
                } else {
                    a + b
                };
                assert_eq!(
                    numbers(row.correction.as_deref().unwrap()),
                    [want],
                    "{}",
                    row.question
                );
            }
        }
    }
}
