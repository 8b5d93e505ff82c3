//! A look at a Parquet file's footer before it is read: its schema is built by recursion, and a few hundred kilobytes that
//! nest it deeply would end the process.
//!
//! The footer is a Thrift struct in the compact protocol; its field 2 is the schema, a list of elements depth first, each
//! with the number of its children in field 5 (apache/parquet-format, `parquet.thrift`).

use parquet::file::reader::ChunkReader;

/// Structs and lists within each other that a schema may have; messages need four.
const MAX_DEPTH: usize = 32;

/// Structs within structs of the footer itself; those before the schema and in it have fewer.
const MAX_STRUCTS: usize = 16;

const SCHEMA: i64 = 2;
const NUM_CHILDREN: i64 = 5;

const I32: u8 = 5;
const LIST: u8 = 9;
const STRUCT: u8 = 12;

/// Refuses a file whose footer is not one, or whose schema is nested too deep.
pub(super) fn check(file: &impl ChunkReader) -> Result<(), String> {
    let damaged = || "its footer is missing or damaged; is the file whole?".to_string();
    let read = |start: Option<u64>, length: usize| {
        let start = start.ok_or_else(damaged)?;
        file.get_bytes(start, length).map_err(|error| error.to_string())
    };
    let tail = read(file.len().checked_sub(8), 8)?;
    let (length, magic) = tail.split_first_chunk::<4>().ok_or_else(damaged)?;
    let length = u32::from_le_bytes(*length);
    if magic != super::parquet::MAGIC {
        return Err(damaged());
    }
    let footer = read((file.len() - 8).checked_sub(length.into()), length as usize)?;
    match Compact(&footer).schema_depth() {
        Some(depth) if depth <= MAX_DEPTH => Ok(()),
        Some(_) => Err(format!("its columns are nested more than {MAX_DEPTH} deep")),
        None => Err(damaged()),
    }
}

/// The compact protocol, as far as it takes to pass over values.
struct Compact<'a>(&'a [u8]);

impl Compact<'_> {
    /// How deep the schema is nested, or more than is allowed.
    fn schema_depth(&mut self) -> Option<usize> {
        let mut last = 0;
        loop {
            match self.field(&mut last)?? {
                (SCHEMA, LIST) => return self.depth_of_elements(),
                (_, kind) => self.skip(kind, 0)?,
            }
        }
    }

    fn depth_of_elements(&mut self) -> Option<usize> {
        let (length, STRUCT) = self.list()? else {
            return None;
        };
        // How many children are still to come of the groups that the next element is within.
        let mut open: Vec<u64> = Vec::new();
        let mut deepest = 0;
        for _ in 0..length {
            while open.pop_if(|left| *left == 0).is_some() {}
            if let Some(left) = open.last_mut() {
                *left -= 1;
            }
            match self.children()? {
                0 => {}
                children => open.push(children),
            }
            deepest = deepest.max(open.len());
            if deepest > MAX_DEPTH {
                break;
            }
        }
        Some(deepest)
    }

    /// Passes over a schema element; the number of its children.
    fn children(&mut self) -> Option<u64> {
        let (mut last, mut children) = (0, 0);
        while let Some((id, kind)) = self.field(&mut last)? {
            if (id, kind) == (NUM_CHILDREN, I32) {
                children = u64::try_from(self.signed()?).ok()?;
            } else {
                self.skip(kind, 0)?;
            }
        }
        Some(children)
    }

    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn pass(&mut self, bytes: u64) -> Option<()> {
        self.0 = self.0.get(usize::try_from(bytes).ok()?..)?;
        Some(())
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    fn signed(&mut self) -> Option<i64> {
        let value = self.varint()?;
        Some((value >> 1) as i64 ^ -((value & 1) as i64))
    }

    /// Id and type of the next field; `Some(None)` at the end of the struct.
    fn field(&mut self, last: &mut i64) -> Option<Option<(i64, u8)>> {
        let byte = self.byte()?;
        if byte == 0 {
            return Some(None);
        }
        *last = match byte >> 4 {
            0 => self.signed()?,
            step => last.checked_add(step.into())?,
        };
        Some(Some((*last, byte & 0x0f)))
    }

    /// Length and type of a list's elements.
    fn list(&mut self) -> Option<(u64, u8)> {
        let byte = self.byte()?;
        let length = match byte >> 4 {
            15 => self.varint()?,
            length => length.into(),
        };
        Some((length, byte & 0x0f))
    }

    fn skip(&mut self, kind: u8, depth: usize) -> Option<()> {
        if depth > MAX_STRUCTS {
            return None;
        }
        match kind {
            // A boolean's value is in its type.
            1 | 2 => Some(()),
            3 => self.pass(1),
            4..=6 => self.varint().map(drop),
            7 => self.pass(8),
            8 => {
                let length = self.varint()?;
                self.pass(length)
            }
            LIST | 10 => {
                let (length, kind) = self.list()?;
                // In a list a boolean is a byte.
                let kind = if kind <= 2 { 3 } else { kind };
                (0..length).try_for_each(|_| self.skip(kind, depth + 1))
            }
            STRUCT => {
                let mut last = 0;
                while let Some((_, kind)) = self.field(&mut last)? {
                    self.skip(kind, depth + 1)?;
                }
                Some(())
            }
            // The footer has no maps.
            _ => None,
        }
    }
}
