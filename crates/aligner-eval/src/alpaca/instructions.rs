//! How difficult instructions are.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::table;
use crate::error::{EvalError, Result};

/// An instruction and how difficult it is for the baseline.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Instruction {
    /// Its number; AlpacaEval counts from 0 in the order of its file.
    // Pandas leaves the header of an index empty.
    #[serde(alias = "")]
    pub index: u64,
    /// Its text, where known. Annotations without an index are matched by it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instruction: Option<String>,
    /// The difficulty that AlpacaEval fitted once for all models.
    pub instruction_difficulty: f64,
}

/// Difficulties of instructions, by index.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Instructions {
    rows: BTreeMap<u64, Instruction>,
}

impl Instructions {
    /// Reads rows of [`Instruction`]: JSON lines, a JSON array, or a CSV file such as AlpacaEval's
    /// `instruction_difficulty.csv` and `df_gamed.csv`.
    ///
    /// # Errors
    ///
    /// A file that cannot be read; a row, by its number, with a column missing, a difficulty that is no number, or the index
    /// of another row and not the same content.
    pub fn read(path: &Path) -> Result<Self> {
        let mut instructions = Self::default();
        for (row, instruction) in table::rows(path)? {
            instructions
                .add(instruction)
                .map_err(|reason| EvalError::row(path, row, reason))?;
        }
        Ok(instructions)
    }

    /// Takes rows that are in memory.
    ///
    /// # Errors
    ///
    /// As [`Instructions::read`].
    pub fn from_rows(rows: impl IntoIterator<Item = Instruction>) -> Result<Self> {
        let mut instructions = Self::default();
        for (row, instruction) in (1..).zip(rows) {
            instructions
                .add(instruction)
                .map_err(|reason| EvalError::Invalid(format!("instruction {row}: {reason}")))?;
        }
        Ok(instructions)
    }

    /// The difficulty of an instruction; none where the index is unknown.
    pub fn difficulty(&self, index: u64) -> Option<f64> {
        self.rows.get(&index).map(|row| row.instruction_difficulty)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    fn add(&mut self, new: Instruction) -> Result<(), String> {
        if !new.instruction_difficulty.is_finite() {
            return Err(format!(
                "instruction_difficulty is {}, not a finite number",
                new.instruction_difficulty
            ));
        }
        match self.rows.get(&new.index) {
            // AlpacaEval's gamed rows name each instruction once for each gamed model.
            Some(known) if *known == new => Ok(()),
            Some(_) => Err(format!(
                "index {} is that of an earlier, different row",
                new.index
            )),
            None => {
                self.rows.insert(new.index, new);
                Ok(())
            }
        }
    }

    /// Finds indices by text; none where no text is known.
    pub(super) fn by_text(&self) -> Option<ByText<'_>> {
        let mut texts: HashMap<&str, VecDeque<u64>> = HashMap::new();
        for row in self.rows.values() {
            if let Some(text) = row.instruction.as_deref() {
                texts.entry(text).or_default().push_back(row.index);
            }
        }
        (!texts.is_empty()).then_some(ByText { texts })
    }
}

/// Indices by text. Of instructions with one text, each is found once, in order.
#[derive(Debug)]
pub(super) struct ByText<'a> {
    texts: HashMap<&'a str, VecDeque<u64>>,
}

impl ByText<'_> {
    pub(super) fn take(&mut self, text: &str) -> Result<u64, String> {
        let short: String = text.chars().take(60).collect();
        match self.texts.get_mut(text).map(VecDeque::pop_front) {
            Some(Some(index)) => Ok(index),
            Some(None) => Err(format!(
                "the instruction {short:?} was annotated by an earlier row"
            )),
            None => Err(format!(
                "the instruction {short:?} is none of the instructions': use the file of this evaluation set"
            )),
        }
    }
}
