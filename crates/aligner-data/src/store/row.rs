//! One row's entry in the table of rows.

use crate::encode::Example;

/// Words of an entry: the position of its first token (two words, the low one first), the length of its prompt, its
/// length, and a CRC-32 of its tokens and these numbers.
pub(super) const WORDS: usize = 5;

pub(super) type Entry = [u32; WORDS];

/// The entry of a row whose tokens begin at `start`.
pub(super) fn entry(start: u64, prompt_len: usize, ids: &[u32]) -> Entry {
    let mut entry = [
        start as u32,
        (start >> 32) as u32,
        prompt_len as u32,
        ids.len() as u32,
        0,
    ];
    entry[4] = checksum(&entry, ids);
    entry
}

/// The row that an entry describes, or `None` when entry and tokens do not belong together.
pub(super) fn read<'a>(entry: &[u32], ids: &'a [u32]) -> Option<Example<'a>> {
    let entry: &Entry = entry.try_into().ok()?;
    let [low, high, prompt_len, len, check] = *entry;
    let start = usize::try_from(u64::from(low) | u64::from(high) << 32).ok()?;
    let ids = ids.get(start..start.checked_add(len as usize)?)?;
    let fits = prompt_len > 0 && prompt_len <= len && check == checksum(entry, ids);
    fits.then_some(Example {
        ids,
        prompt_len: prompt_len as usize,
    })
}

fn checksum(entry: &Entry, ids: &[u32]) -> u32 {
    let mut hash = crc32fast::Hasher::new();
    hash.update(bytemuck::cast_slice(ids));
    hash.update(bytemuck::cast_slice(&entry[..4]));
    hash.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_changed_bit_is_noticed() {
        let ids = [7, 8, 9, 10, 11, 12];
        let good = entry(1, 2, &ids[1..5]);
        assert_eq!(
            read(&good, &ids),
            Some(Example {
                ids: &[8, 9, 10, 11],
                prompt_len: 2
            })
        );
        for bit in 0..32 * WORDS {
            let mut bad = good;
            bad[bit / 32] ^= 1 << (bit % 32);
            assert_eq!(read(&bad, &ids), None, "bit {bit} of the entry");
        }
        for bit in 0..32 * 4 {
            let mut bad = ids;
            bad[1 + bit / 32] ^= 1 << (bit % 32);
            assert_eq!(read(&good, &bad), None, "bit {bit} of the tokens");
        }
        assert_eq!(read(&good[..4], &ids), None);
        assert_eq!(read(&good, &ids[..4]), None);
    }

    #[test]
    fn a_position_beyond_four_billion_is_kept() {
        let far = entry(u64::from(u32::MAX) + 6, 1, &[3, 4]);
        assert_eq!(far[..2], [5, 1]);
    }
}
