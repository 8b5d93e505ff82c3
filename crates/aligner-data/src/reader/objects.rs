//! Rows as they lie in a file, for readers of other shapes than a [`Format`](crate::Format).

use serde_json::{Map, Value};

use super::RowReader;
use crate::error::Result;
use crate::record::Origin;

impl RowReader<'_> {
    /// The next row as it lies in the file, whatever its columns: for data sets whose rows are no pair of answers, and so
    /// of no [`Format`](crate::Format). Damaged rows are dealt with as the options say.
    ///
    /// ```
    /// use aligner_data::{ReadOptions, RowReader};
    /// let rows = br#"{"prompt": "2 + 2?", "level": 1}"#;
    /// let mut reader = RowReader::from_reader("rows.jsonl", &rows[..], ReadOptions::default())?;
    /// let (row, origin) = reader.next_object()?.expect("a row");
    /// assert!(row["prompt"] == "2 + 2?" && origin.row == 0);
    /// # Ok::<(), aligner_data::DataError>(())
    /// ```
    ///
    /// # Errors
    /// When the file cannot be read, or a row is damaged and such rows are not left out.
    pub fn next_object(&mut self) -> Result<Option<(Map<String, Value>, Origin)>> {
        if self.done {
            return Ok(None);
        }
        let next = self.next_row();
        // Behind an error nothing is read.
        self.done = !matches!(next, Ok(Some(_)));
        next
    }

    /// The row that is next, as it lies in the file; reading goes on with it.
    ///
    /// # Errors
    /// As [`next_object`](Self::next_object).
    pub fn peek_object(&mut self) -> Result<Option<&Map<String, Value>>> {
        self.first = self.next_object()?;
        Ok(self.first.as_ref().map(|(raw, _)| raw))
    }
}
