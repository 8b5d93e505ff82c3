//! Where the entries of a zip archive lie: stored ones only, with zip64 (PKWARE's APPNOTE 6.3.10, sections 4.3 and 4.5).

use std::collections::BTreeMap;
use std::ops::Range;

/// How a file that holds any entry begins.
pub(super) const MAGIC: &[u8] = b"PK\x03\x04";
const DIRECTORY_ENTRY: &[u8] = b"PK\x01\x02";
const END: &[u8] = b"PK\x05\x06";
const END_64: &[u8] = b"PK\x06\x06";
const LOCATOR_64: &[u8] = b"PK\x06\x07";
/// Sizes of the records without their variable parts.
const LOCAL_BYTES: usize = 30;
const DIRECTORY_ENTRY_BYTES: usize = 46;
const END_BYTES: usize = 22;
const LOCATOR_64_BYTES: usize = 20;
/// The longest comment behind the end record.
const MAX_COMMENT: usize = u16::MAX as usize;
/// A state dict has as many entries as tensors.
const MAX_ENTRIES: u64 = 1 << 20;
/// What a 32-bit field holds when its value is in the zip64 extra field.
const IN_EXTRA: u64 = u32::MAX as u64;

/// Name → place in the file, for every entry of the central directory.
///
/// # Errors
/// When the directory is damaged, an entry is compressed or encrypted, lies outside, shares bytes with another, or has
/// another's name.
pub(super) fn entries(file: &[u8]) -> Result<BTreeMap<String, Range<usize>>, String> {
    let (directory, count) = directory(file)?;
    if count > MAX_ENTRIES {
        return Err(format!("{count} entries; more than {MAX_ENTRIES} are not read"));
    }
    let mut entries = BTreeMap::new();
    let mut taken = Vec::new();
    let mut at = directory.start;
    for index in 0..count {
        let entry = Entry::parse(&file[..directory.end], at)
            .ok_or_else(|| format!("entry {index} of its directory is cut or damaged"))?;
        let name =
            std::str::from_utf8(entry.name).map_err(|_| format!("the name of entry {index} is no UTF-8"))?;
        let data = entry
            .data(file, directory.start)
            .map_err(|reason| format!("{name} {reason}"))?;
        taken.push((entry.local_header..data.end, name));
        if entries.insert(name.to_string(), data).is_some() {
            return Err(format!("{name} stands in it twice"));
        }
        at = entry.end;
    }
    taken.sort_unstable_by_key(|(range, _)| range.start);
    for pair in taken.windows(2) {
        if pair[1].0.start < pair[0].0.end {
            return Err(format!("{} and {} overlap", pair[0].1, pair[1].1));
        }
    }
    Ok(entries)
}

/// The place of the central directory and its number of entries.
fn directory(file: &[u8]) -> Result<(Range<usize>, u64), String> {
    let first = file.len().saturating_sub(END_BYTES + MAX_COMMENT);
    let last = file.len().checked_sub(END_BYTES);
    let ends_here = |&at: &usize| {
        file[at..].starts_with(END) && u16_at(file, at + 20) == Some((file.len() - at - END_BYTES) as u64)
    };
    let end = last.and_then(|last| (first..=last).rev().find(ends_here));
    let end = end.ok_or("its end is missing, the file is cut")?;
    let damaged = || "its end record is damaged".to_string();
    let mut fields = [(10, 2), (12, 4), (16, 4)].map(|(at, width)| number(file, end + at, width));
    let mut behind = end;
    // The zip64 record, where there is one, holds the same numbers in full.
    if let Some(locator) = end.checked_sub(LOCATOR_64_BYTES)
        && file[locator..].starts_with(LOCATOR_64)
    {
        let at = u64_at(file, locator + 8).and_then(|at| usize::try_from(at).ok());
        let at = at.filter(|&at| at < locator && file[at..].starts_with(END_64));
        let at = at.ok_or_else(damaged)?;
        fields = [32, 40, 48].map(|field| number(&file[..locator], at + field, 8));
        behind = at;
    }
    let [Some(count), Some(size), Some(start)] = fields else {
        return Err(damaged());
    };
    let range = usize::try_from(start).ok().zip(usize::try_from(size).ok());
    let range = range.and_then(|(start, size)| Some(start..start.checked_add(size)?));
    match range {
        Some(range) if range.end <= behind && count <= size / DIRECTORY_ENTRY_BYTES as u64 => {
            Ok((range, count))
        }
        _ => Err(format!(
            "its directory of {count} entries and {size} bytes at {start} does not lie in the file"
        )),
    }
}

/// An entry as the central directory describes it.
struct Entry<'a> {
    name: &'a [u8],
    flags: u64,
    method: u64,
    stored_bytes: u64,
    bytes: u64,
    local_header: usize,
    /// Where the next entry begins.
    end: usize,
}

impl<'a> Entry<'a> {
    fn parse(file: &'a [u8], at: usize) -> Option<Self> {
        if !file.get(at..)?.starts_with(DIRECTORY_ENTRY) {
            return None;
        }
        let name_at = at + DIRECTORY_ENTRY_BYTES;
        let extra_at = name_at + u16_at(file, at + 28)? as usize;
        let comment_at = extra_at + u16_at(file, at + 30)? as usize;
        let mut sizes = [
            u32_at(file, at + 24)?,
            u32_at(file, at + 20)?,
            u32_at(file, at + 42)?,
        ];
        in_full(&mut sizes, file.get(extra_at..comment_at)?)?;
        let [bytes, stored_bytes, local_header] = sizes;
        Some(Self {
            name: file.get(name_at..extra_at)?,
            flags: u16_at(file, at + 8)?,
            method: u16_at(file, at + 10)?,
            stored_bytes,
            bytes,
            local_header: usize::try_from(local_header).ok()?,
            end: comment_at + u16_at(file, at + 32)? as usize,
        })
    }

    /// Where its bytes lie: behind its local header and before the directory.
    fn data(&self, file: &[u8], directory_start: usize) -> Result<Range<usize>, String> {
        if self.flags & 1 != 0 {
            return Err("is encrypted".into());
        }
        if self.method != 0 || self.stored_bytes != self.bytes {
            return Err("is compressed; torch.save stores entries as they are".into());
        }
        let place = || {
            let before = &file[..directory_start];
            let at = self.local_header;
            let name_at = at.checked_add(LOCAL_BYTES)?;
            let local = before.get(at..name_at)?.starts_with(MAGIC);
            let extra_at = name_at + u16_at(before, at + 26)? as usize;
            let start = extra_at + u16_at(before, at + 28)? as usize;
            let end = start.checked_add(usize::try_from(self.bytes).ok()?)?;
            let named = before.get(name_at..extra_at)? == self.name;
            (local && named && end <= directory_start).then_some(start..end)
        };
        place().ok_or_else(|| "does not lie where the directory says".into())
    }
}

/// Takes the numbers that do not fit 32 bits from the zip64 field, which lists them in this order.
fn in_full(sizes: &mut [u64; 3], extra: &[u8]) -> Option<()> {
    const ZIP_64: u64 = 1;
    let mut at = 0;
    let mut field = None;
    while at + 4 <= extra.len() {
        let (kind, length) = (u16_at(extra, at)?, u16_at(extra, at + 2)? as usize);
        let content = extra.get(at + 4..at + 4 + length)?;
        if kind == ZIP_64 {
            field = Some(content);
        }
        at += 4 + length;
    }
    let mut at = 0;
    for size in sizes.iter_mut().filter(|size| **size == IN_EXTRA) {
        *size = u64_at(field?, at)?;
        at += 8;
    }
    Some(())
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u64> {
    number(bytes, at, 2)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u64> {
    number(bytes, at, 4)
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    number(bytes, at, 8)
}

/// A little-endian number of `width` bytes.
fn number(bytes: &[u8], at: usize, width: usize) -> Option<u64> {
    let bytes = bytes.get(at..at.checked_add(width)?)?;
    Some(
        bytes
            .iter()
            .rev()
            .fold(0, |number, &byte| number << 8 | u64::from(byte)),
    )
}
