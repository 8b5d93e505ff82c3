//! What fits into the memory there is.

use aligner_model::{LoraConfig, ModelConfig, WeightFormat};

use super::{MemoryChoices, MemoryPlan};

/// Changes of a run that take less memory, and change what is trained or how long it takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Switches {
    checkpointing: bool,
    lora: bool,
    int8: bool,
}

impl Switches {
    /// Fewest first, and of as many the cheapest to have first: checkpointing costs time and changes no number.
    const ALL: [Self; 6] = [
        Self::new(false, false, false),
        Self::new(true, false, false),
        Self::new(false, true, false),
        Self::new(true, true, false),
        // Weights that are trained are f32.
        Self::new(false, true, true),
        Self::new(true, true, true),
    ];

    const fn new(checkpointing: bool, lora: bool, int8: bool) -> Self {
        Self {
            checkpointing,
            lora,
            int8,
        }
    }

    /// The choices with these switched on; `None` where one is on already, or is not to be had.
    fn over(self, choices: &MemoryChoices) -> Option<MemoryChoices> {
        let mut changed = choices.clone();
        if self.checkpointing {
            changed.checkpointing = true;
        }
        if self.lora {
            changed.lora.get_or_insert_with(LoraConfig::default);
        }
        if self.int8 {
            changed.base_weights = WeightFormat::Int8;
        }
        let is_new = self == Self::ALL[0] || changed != *choices;
        is_new.then_some(changed)
    }
}

impl MemoryPlan {
    /// The most rows of `choices.max_length` tokens that fit at once; `None` when not even one does.
    pub fn largest_micro_batch(
        config: &ModelConfig,
        choices: &MemoryChoices,
        memory_bytes: u64,
    ) -> Option<usize> {
        largest(1 << 20, |micro_batch| {
            let choices = MemoryChoices {
                micro_batch,
                ..choices.clone()
            };
            Self::of(config, &choices).total_bytes <= memory_bytes
        })
    }

    /// The most tokens that `choices.micro_batch` rows can have, up to what the model was made for; `None` when not even
    /// one does.
    pub fn largest_length(config: &ModelConfig, choices: &MemoryChoices, memory_bytes: u64) -> Option<usize> {
        largest(config.max_positions, |max_length| {
            let choices = MemoryChoices {
                max_length,
                ..choices.clone()
            };
            Self::of(config, &choices).total_bytes <= memory_bytes
        })
    }

    /// The choices with which a run fits that trains the same: as many rows a step, however they are cut into micro-batches,
    /// and activations computed again only where fewer rows at once are not enough.
    pub fn fitted(config: &ModelConfig, choices: &MemoryChoices, memory_bytes: u64) -> Option<MemoryChoices> {
        let again = MemoryChoices {
            checkpointing: true,
            ..choices.clone()
        };
        [choices, &again]
            .into_iter()
            .find_map(|choices| with_most_rows(config, choices, memory_bytes))
    }

    /// Choices that make a run fit that does not, each with the most rows at once that it lets fit; all have as many rows a
    /// step as were asked for. Of two where one has all the switches of the other, it is there only when it fits more rows.
    pub fn remedies(config: &ModelConfig, choices: &MemoryChoices, memory_bytes: u64) -> Vec<MemoryChoices> {
        let mut found: Vec<MemoryChoices> = Vec::new();
        for switches in Switches::ALL {
            let Some(changed) = switches.over(choices) else {
                continue;
            };
            let Some(fitting) = with_most_rows(config, &changed, memory_bytes) else {
                continue;
            };
            let is_no_better = |simpler: &MemoryChoices| {
                simpler.micro_batch >= fitting.micro_batch
                    && simpler.checkpointing <= fitting.checkpointing
                    && simpler.lora.is_some() <= fitting.lora.is_some()
                    && [fitting.base_weights, WeightFormat::F32].contains(&simpler.base_weights)
            };
            if !found.iter().any(is_no_better) {
                found.push(fitting);
            }
        }
        found
    }

    /// Where nothing makes rows of `choices.max_length` tokens fit: an adapter over int8, checkpointing and one row at once, with
    /// the most tokens that it can have then. `None` when not even one does.
    pub fn with_shorter_rows(
        config: &ModelConfig,
        choices: &MemoryChoices,
        memory_bytes: u64,
    ) -> Option<MemoryChoices> {
        let smallest = MemoryChoices {
            micro_batch: 1,
            accumulate: choices.rows_per_step(),
            lora: Some(choices.lora.clone().unwrap_or_default()),
            base_weights: WeightFormat::Int8,
            checkpointing: true,
            ..choices.clone()
        };
        let max_length = Self::largest_length(config, &smallest, memory_bytes)?;
        Some(MemoryChoices {
            max_length,
            ..smallest
        })
    }
}

/// The choices with the most rows at once that fit: as many as asked for, or fewer by which the rows of a step can be divided.
fn with_most_rows(config: &ModelConfig, choices: &MemoryChoices, memory_bytes: u64) -> Option<MemoryChoices> {
    let rows = choices.rows_per_step();
    divisors(rows)
        .into_iter()
        .rev()
        .filter(|&micro_batch| micro_batch <= choices.micro_batch)
        .map(|micro_batch| MemoryChoices {
            micro_batch,
            accumulate: rows / micro_batch,
            ..choices.clone()
        })
        .find(|choices| MemoryPlan::of(config, choices).total_bytes <= memory_bytes)
}

/// All divisors, smallest first; of a number that nobody means only itself and 1.
fn divisors(number: usize) -> Vec<usize> {
    if number > 1 << 32 {
        return vec![1, number];
    }
    let small: Vec<usize> = (1..)
        .take_while(|divisor| divisor * divisor <= number)
        .filter(|divisor| number.is_multiple_of(*divisor))
        .collect();
    let large = small.iter().rev().map(|divisor| number / divisor);
    let mut all: Vec<usize> = small.iter().copied().chain(large).collect();
    all.dedup();
    all
}

/// The largest number in `1..=most` for which `fits` holds; it holds for all numbers up to some.
fn largest(most: usize, fits: impl Fn(usize) -> bool) -> Option<usize> {
    if most == 0 || !fits(1) {
        return None;
    }
    let (mut good, mut beyond) = (1, most.saturating_add(1));
    while beyond - good > 1 {
        let middle = good + (beyond - good) / 2;
        if fits(middle) {
            good = middle;
        } else {
            beyond = middle;
        }
    }
    Some(good)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn divisors_are_all_of_them_in_order() {
        assert_eq!(divisors(1), [1]);
        assert_eq!(divisors(32), [1, 2, 4, 8, 16, 32]);
        assert_eq!(divisors(36), [1, 2, 3, 4, 6, 9, 12, 18, 36]);
        assert_eq!(divisors(31), [1, 31]);
        assert_eq!(divisors(usize::MAX), [1, usize::MAX]);
    }
}
