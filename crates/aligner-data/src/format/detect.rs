//! Which format a row is of.

use serde_json::{Map, Value};

use super::{Format, hh_rlhf};
use crate::record::Columns;

impl Format {
    /// The format of a file whose first row this is; the error names the columns and what is known.
    pub(crate) fn detect(raw: &Map<String, Value>, columns: &Columns) -> Result<Self, String> {
        let has = |names: &[&str]| names.iter().all(|name| raw.contains_key(*name));
        // Who maps the question means our own rows.
        if columns.mapped().contains(&"question") || has(&[&columns.question, &columns.answer]) {
            return Ok(Self::Qac);
        }
        let signs: [(&[&str], Self); 10] = [
            (&["question", "prefix", "last"], Self::StreamAligner),
            (&["prompt", "response_0", "response_1"], Self::SafeRlhf),
            (&["prompt", "response", "is_safe"], Self::BeaverTails),
            (&["chosen", "rejected"], Self::Preference),
            (&["prompt", "completion"], Self::PromptCompletion),
            (&["instruction", "output"], Self::Alpaca),
            (&["conversations"], Self::ShareGpt),
            (&["conversation"], Self::ShareGpt),
            (&["messages"], Self::Messages),
            // A row of ours that lacks something: the error names what.
            (&[&columns.question], Self::Qac),
        ];
        let found = signs
            .iter()
            .find(|(names, _)| has(names))
            .map(|(_, format)| *format);
        // Alpaca's output may be mapped to another column.
        let found = found.or_else(|| has(&["instruction", &columns.answer]).then_some(Self::Alpaca));
        match found {
            Some(Self::Preference) if hh_rlhf::looks_like(raw) => Ok(Self::HhRlhf),
            Some(format) => Ok(format),
            None => Err(unknown(raw)),
        }
    }
}

fn unknown(raw: &Map<String, Value>) -> String {
    let columns = raw
        .keys()
        .map(|key| format!("`{key}`"))
        .collect::<Vec<_>>()
        .join(", ");
    let known = Format::all()
        .map(|format| format!("{format} ({})", format.columns()))
        .collect::<Vec<_>>()
        .join("; ");
    format!(
        "the first row's columns are of no known format; it has {columns}. Map them (--columns \
         question=…,answer=…,correction=…) or name the format (--format). Formats are {known}"
    )
}
