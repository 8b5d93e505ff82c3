//! PKU-SafeRLHF: two responses to a prompt, and which of them was called safer and which better.

use serde_json::{Map, Value};

use super::{Prefer, beavertails};
use crate::reader::ReadOptions;
use crate::record::{Fields, Parts, Reason, text};

pub(super) fn parts(raw: &Map<String, Value>, options: &ReadOptions) -> Result<Parts, Reason> {
    let column = match options.prefer {
        Prefer::Safer => "safer_response_id",
        Prefer::Better => "better_response_id",
    };
    if !raw.contains_key(column) {
        return Err(format!("has no `{column}` (--prefer says which preference is taken)").into());
    }
    let (better, worse) = match id_in(raw, column) {
        Some(id @ (0 | 1)) => (id, 1 - id),
        _ => return Err(Reason::unsuitable(format!("`{column}` names neither response"))),
    };
    let label = format!("is_response_{better}_safe");
    if options.fields == Fields::Completion && matches!(beavertails::truth(raw, &label), Ok(false)) {
        return Err(Reason::unsuitable(format!(
            "`{label}` is false, and that response would be the text to write"
        )));
    }
    Ok(Parts {
        question: text(raw, "prompt")?,
        answer: text(raw, &format!("response_{worse}"))?,
        correction: Some(text(raw, &format!("response_{better}"))?),
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

    /// Of the safer and the other response of a PKU-SafeRLHF row, or why that is not known.
    pub(crate) fn of_pair(raw: &Map<String, Value>) -> Result<[Self; 2], String> {
        let known = |column: &str| match raw.contains_key(column) {
            true => Ok(()),
            false => Err(format!(
                "has no `{column}`: a cost is learned from pairs of which it says whether each answer is safe"
            )),
        };
        let safe = |response: i64| -> Result<Self, String> {
            let column = format!("is_response_{response}_safe");
            known(&column)?;
            match beavertails::truth(raw, &column) {
                Ok(true) => Ok(Self::Safe),
                Ok(false) => Ok(Self::Unsafe),
                Err(Reason::Bad(reason) | Reason::Unsuitable(reason)) => Err(reason),
            }
        };
        let column = "safer_response_id";
        known(column)?;
        match id_in(raw, column) {
            Some(id @ (0 | 1)) => Ok([safe(id)?, safe(1 - id)?]),
            _ => Err(format!("`{column}` names neither response")),
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
        assert_eq!(row(0.into()), Ok([Safety::Safe, Safety::Unsafe]));
        assert_eq!(row("1".into()), Ok([Safety::Unsafe, Safety::Safe]));
    }

    #[test]
    fn a_label_that_is_absent_or_no_label_is_named_with_its_column() {
        let good = serde_json::json!({
            "safer_response_id": 0, "is_response_0_safe": true, "is_response_1_safe": false,
        });
        for column in ["safer_response_id", "is_response_0_safe", "is_response_1_safe"] {
            let mut row = good.as_object().unwrap().clone();
            for unreadable in [Value::Null, "maybe".into(), 7.into()] {
                row.insert(column.into(), unreadable);
                assert!(Safety::of_pair(&row).unwrap_err().contains(column));
            }
            row.remove(column);
            assert!(Safety::of_pair(&row).unwrap_err().contains(column));
        }
    }
}
