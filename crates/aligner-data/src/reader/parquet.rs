//! Parquet as Hugging Face stores data sets: one row group after the other, a batch of its rows in memory.

use std::fs::File;
use std::io::Read;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use bytes::Bytes;
use parquet::basic::{Compression, ConvertedType, Repetition};
use parquet::errors::ParquetError;
use parquet::file::metadata::{ParquetMetaData, RowGroupMetaData};
use parquet::file::reader::{ChunkReader, FileReader, SerializedFileReader};
use parquet::record::reader::{ReaderIter, TreeBuilder};
use parquet::record::{Field, Row as ParquetRow};
use parquet::schema::types::Type;
use serde_json::{Map, Value};

use super::source::{Found, Input, Row};
use super::{footer, format_error};
use crate::error::{DataError, Result};

/// How a Parquet file begins.
pub(super) const MAGIC: &[u8] = b"PAR1";

/// Values of a column that are decoded at a time.
const BATCH: usize = 256;

/// What is read from something that is no file, whole.
const MAX_IN_MEMORY: u64 = 1 << 30;

pub(super) struct ParquetRows {
    file: Box<dyn FileReader + Send>,
    next_group: usize,
    rows: Option<ReaderIter>,
    row: u64,
}

impl ParquetRows {
    pub fn of_file(path: &Path, file: File) -> Result<Self> {
        Self::new(file).map_err(|reason| format_error(path, &reason))
    }

    pub fn of_reader(path: &Path, input: Input<'_>) -> Result<Self> {
        let mut bytes = Vec::new();
        let read = input.take(MAX_IN_MEMORY + 1).read_to_end(&mut bytes);
        if read.map_err(DataError::io("read", path))? as u64 > MAX_IN_MEMORY {
            let reason = "is a Parquet file of more than 1 GB behind gzip or a pipe; give the file itself";
            return Err(format_error(path, reason));
        }
        Self::new(Bytes::from(bytes)).map_err(|reason| format_error(path, &reason))
    }

    fn new(file: impl ChunkReader + 'static) -> Result<Self, String> {
        let open = || {
            footer::check(&file)?;
            guarded(|| SerializedFileReader::new(file))
        };
        let file = open().map_err(|reason| format!("cannot be read as Parquet: {reason}"))?;
        check_compression(file.metadata())?;
        for column in file.metadata().file_metadata().schema().get_fields() {
            check(column).map_err(|reason| format!("column `{}` {reason}", column.name()))?;
        }
        Ok(Self {
            file: Box::new(file),
            next_group: 0,
            rows: None,
            row: 0,
        })
    }

    /// The next row; the error is the reason why there are no more.
    pub fn next_row(&mut self) -> Result<Option<Found>, String> {
        loop {
            let Some(rows) = &mut self.rows else {
                if self.next_group >= self.file.num_row_groups() {
                    return Ok(None);
                }
                self.rows = Some(self.open_group()?);
                self.next_group += 1;
                continue;
            };
            match guarded(|| rows.next().transpose())
                .map_err(|reason| self.place(&reason, self.next_group - 1))?
            {
                Some(row) => {
                    self.row += 1;
                    let raw = object(&row);
                    return Ok(Some(Ok(Row { line: self.row, raw })));
                }
                None => self.rows = None,
            }
        }
    }

    fn open_group(&self) -> Result<ReaderIter, String> {
        let open = || {
            let group = self.file.get_row_group(self.next_group)?;
            let schema = self.file.metadata().file_metadata().schema_descr_ptr();
            TreeBuilder::new().with_batch_size(BATCH).as_iter(schema, &*group)
        };
        guarded(open).map_err(|reason| self.place(&reason, self.next_group))
    }

    fn place(&self, reason: &str, group: usize) -> String {
        format!("row group {group} cannot be read: {reason}")
    }
}

/// Damaged files make the decoders of the `parquet` crate panic in places; nothing of them is used afterwards.
fn guarded<T>(read: impl FnOnce() -> Result<T, ParquetError>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(read)) {
        Ok(read) => read.map_err(|error| error.to_string()),
        Err(_) => Err("it is damaged".into()),
    }
}

/// Names a compression that is not compiled in before rows are asked for.
fn check_compression(file: &ParquetMetaData) -> Result<(), String> {
    for column in file.row_groups().iter().flat_map(RowGroupMetaData::columns) {
        let name = match column.compression() {
            Compression::BROTLI(_) => "brotli",
            Compression::LZO => "lzo",
            _ => continue,
        };
        return Err(format!(
            "is a Parquet file compressed with {name}, which is not read; write it anew with snappy or zstd"
        ));
    }
    Ok(())
}

/// Refuses what the crate takes for granted of lists, maps and structs. How deep they are nested was looked at before.
fn check(column: &Type) -> Result<(), String> {
    if column.is_primitive() {
        return Ok(());
    }
    let fields = column.get_fields();
    let one_repeated = fields.len() == 1 && fields[0].get_basic_info().repetition() == Repetition::REPEATED;
    let is_whole = match column.get_basic_info().converted_type() {
        ConvertedType::LIST => one_repeated,
        ConvertedType::MAP | ConvertedType::MAP_KEY_VALUE => {
            one_repeated && !fields[0].is_primitive() && (1..=2).contains(&fields[0].get_fields().len())
        }
        _ => !fields.is_empty(),
    };
    if !is_whole {
        return Err("is a list, map or struct without what it should hold".into());
    }
    fields.iter().try_for_each(|field| check(field))
}

fn object(row: &ParquetRow) -> Map<String, Value> {
    row.get_column_iter()
        .map(|(name, field)| (name.clone(), value(field)))
        .collect()
}

/// A value as JSON holds it. Numbers that JSON has not, and bytes that are no text, are null: no text of ours is one.
fn value(field: &Field) -> Value {
    match field {
        Field::Null => Value::Null,
        Field::Bool(value) => Value::from(*value),
        Field::Byte(value) => Value::from(*value),
        Field::Short(value) => Value::from(*value),
        Field::Int(value) | Field::Date(value) | Field::TimeMillis(value) => Value::from(*value),
        Field::Long(value)
        | Field::TimeMicros(value)
        | Field::TimestampMillis(value)
        | Field::TimestampMicros(value) => Value::from(*value),
        Field::UByte(value) => Value::from(*value),
        Field::UShort(value) => Value::from(*value),
        Field::UInt(value) => Value::from(*value),
        Field::ULong(value) => Value::from(*value),
        Field::Float16(value) => Value::from(value.to_f32()),
        Field::Float(value) => Value::from(*value),
        Field::Double(value) => Value::from(*value),
        Field::Decimal(_) => Value::from(field.to_string()),
        Field::Str(text) => Value::from(text.as_str()),
        Field::Bytes(bytes) => bytes.as_utf8().map_or(Value::Null, Value::from),
        Field::Group(row) => Value::Object(object(row)),
        Field::ListInternal(list) => list.elements().iter().map(value).collect(),
        Field::MapInternal(map) => Value::Object(
            map.entries()
                .iter()
                .map(|(key, field)| (key_text(key), value(field)))
                .collect(),
        ),
    }
}

fn key_text(key: &Field) -> String {
    match key {
        Field::Str(text) => text.clone(),
        other => other.to_string(),
    }
}
