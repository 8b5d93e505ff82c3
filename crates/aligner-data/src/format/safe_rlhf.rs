//! PKU-SafeRLHF: two responses to a prompt, and which of them was called safer and which better.

use serde_json::{Map, Value};

use super::{Prefer, beavertails};
use crate::record::{Parts, Reason, text};

pub(super) fn parts(raw: &Map<String, Value>, prefer: Prefer) -> Result<Parts, Reason> {
    let column = match prefer {
        Prefer::Safer => "safer_response_id",
        Prefer::Better => "better_response_id",
    };
    if !raw.contains_key(column) {
        return Err(format!("has no `{column}` (--prefer says which preference is taken)").into());
    }
    let id = id_in(raw, column);
    let (better, worse) = match id {
        Some(0) => ("response_0", "response_1"),
        Some(1) => ("response_1", "response_0"),
        _ => return Err(Reason::unsuitable(format!("`{column}` names neither response"))),
    };
    Ok(Parts {
        question: text(raw, "prompt")?,
        answer: text(raw, worse)?,
        correction: Some(text(raw, better)?),
        chat_history: Vec::new(),
    })
}

/// Whether an answer was called safe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Safety {
    /// Nobody said.
    Unknown = 0,
    /// It is not.
    Unsafe = 1,
    /// It is.
    Safe = 2,
}

impl Safety {
    /// As it is stored.
    pub(crate) fn from_id(id: u32) -> Self {
        match id {
            1 => Self::Unsafe,
            2 => Self::Safe,
            _ => Self::Unknown,
        }
    }

    /// Of the safer and the other response of a PKU-SafeRLHF row; rows of other formats say nothing.
    pub(crate) fn of_pair(raw: &Map<String, Value>) -> [Self; 2] {
        let safe = |response: i64| match beavertails::truth(raw, &format!("is_response_{response}_safe")) {
            Ok(true) => Self::Safe,
            Ok(false) => Self::Unsafe,
            Err(_) => Self::Unknown,
        };
        match id_in(raw, "safer_response_id") {
            Some(id @ (0 | 1)) => [safe(id), safe(1 - id)],
            _ => [Self::Unknown; 2],
        }
    }
}

/// The number of a response.
fn id_in(raw: &Map<String, Value>, column: &str) -> Option<i64> {
    match raw.get(column) {
        Some(Value::Number(id)) => id.as_i64(),
        // As a CSV file holds it.
        Some(Value::String(id)) => id.trim().parse().ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_labels_are_those_of_the_safer_and_the_other_response() {
        let row = |safer: Value| {
            let row = serde_json::json!({
                "safer_response_id": safer, "is_response_0_safe": true, "is_response_1_safe": "false",
            });
            Safety::of_pair(row.as_object().unwrap())
        };
        assert_eq!(row(0.into()), [Safety::Safe, Safety::Unsafe]);
        assert_eq!(row("1".into()), [Safety::Unsafe, Safety::Safe]);
        assert_eq!(row(7.into()), [Safety::Unknown; 2]);
        assert_eq!(Safety::of_pair(&Map::new()), [Safety::Unknown; 2]);
    }
}
