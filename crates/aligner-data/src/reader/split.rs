//! Cuts a stream into rows without parsing them.

use std::io::BufRead;

/// The bytes of one row.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Chunk {
    pub line: u64,
    pub bytes: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Lines,
    Array,
}

/// What [`Splitter::next_chunk`] found: a row, or the line and reason of a damaged one.
pub(super) type Found = Result<Chunk, (u64, String)>;

pub(super) struct Splitter<R> {
    input: R,
    mode: Mode,
    max_bytes: usize,
    /// Line of the next byte, counted from 1.
    line: u64,
    /// Whether the array's closing bracket, or a damage that hides where rows end, was met.
    ended: bool,
    rows: u64,
}

impl<R: BufRead> Splitter<R> {
    /// Tells the format by the first byte that is not blank.
    pub fn new(input: R, max_bytes: usize) -> Result<Self, String> {
        let mut splitter = Self {
            input,
            mode: Mode::Lines,
            max_bytes,
            line: 1,
            ended: false,
            rows: 0,
        };
        splitter.skip_byte_order_mark()?;
        match splitter.peek_after_blanks().map_err(|error| error.to_string())? {
            None => Err("is empty".into()),
            Some(b'[') => {
                splitter.take();
                splitter.mode = Mode::Array;
                Ok(splitter)
            }
            Some(_) => Ok(splitter),
        }
    }

    /// The next row, or `None` at the end of the file.
    pub fn next_chunk(&mut self) -> std::io::Result<Option<Found>> {
        if self.ended {
            return Ok(None);
        }
        let found = match self.mode {
            Mode::Lines => self.next_line()?,
            Mode::Array => self.next_element()?,
        };
        self.rows += 1;
        Ok(found)
    }

    fn next_line(&mut self) -> std::io::Result<Option<Found>> {
        if self.peek_after_blanks()?.is_none() {
            return Ok(None);
        }
        let line = self.line;
        let mut bytes = Vec::new();
        let mut too_long = false;
        loop {
            let buffer = self.input.fill_buf()?;
            if buffer.is_empty() {
                break;
            }
            let end = buffer.iter().position(|&byte| byte == b'\n');
            let part = &buffer[..end.unwrap_or(buffer.len())];
            too_long |= bytes.len() + part.len() > self.max_bytes;
            if !too_long {
                bytes.extend_from_slice(part);
            }
            let used = part.len() + usize::from(end.is_some());
            self.input.consume(used);
            if end.is_some() {
                self.line += 1;
                break;
            }
        }
        Ok(Some(if too_long {
            Err((line, self.too_long()))
        } else {
            Ok(Chunk { line, bytes })
        }))
    }

    /// The next element of the array: everything up to the comma or bracket that ends it.
    fn next_element(&mut self) -> std::io::Result<Option<Found>> {
        match self.peek_after_blanks()? {
            None => return Ok(Some(self.unfinished("the array is not closed"))),
            Some(b']') => {
                self.take();
                return self.after_array();
            }
            Some(b',') if self.rows > 0 => {
                self.take();
                match self.peek_after_blanks()? {
                    None => return Ok(Some(self.unfinished("the array is not closed"))),
                    Some(b']') => {
                        return Ok(Some(self.unfinished("a comma stands before the closing bracket")));
                    }
                    Some(_) => {}
                }
            }
            Some(_) if self.rows > 0 => {
                return Ok(Some(self.unfinished("a comma is missing before this row")));
            }
            Some(_) => {}
        }
        let line = self.line;
        let mut element = Element::default();
        let mut bytes = Vec::new();
        loop {
            let buffer = self.input.fill_buf()?;
            if buffer.is_empty() {
                if element.closed {
                    return Ok(Some(Ok(Chunk { line, bytes })));
                }
                self.ended = true;
                return Ok(Some(Err((line, "the file ends inside this row".into()))));
            }
            let end = buffer.iter().position(|&byte| element.ends_before(byte));
            let part = &buffer[..end.unwrap_or(buffer.len())];
            if bytes.len() + part.len() > self.max_bytes {
                self.ended = true;
                return Ok(Some(Err((line, self.too_long()))));
            }
            bytes.extend_from_slice(part);
            self.line += part.iter().filter(|&&byte| byte == b'\n').count() as u64;
            let used = part.len();
            self.input.consume(used);
            if end.is_some() {
                return Ok(Some(Ok(Chunk { line, bytes })));
            }
        }
    }

    fn after_array(&mut self) -> std::io::Result<Option<Found>> {
        self.ended = true;
        match self.peek_after_blanks()? {
            None => Ok(None),
            Some(_) => Ok(Some(Err((
                self.line,
                "something stands behind the closing bracket".into(),
            )))),
        }
    }

    /// Damage behind which rows can no longer be told apart.
    fn unfinished(&mut self, reason: &str) -> Found {
        self.ended = true;
        Err((self.line, format!("{reason}; what follows cannot be read")))
    }

    fn too_long(&self) -> String {
        format!("is longer than {} bytes", self.max_bytes)
    }

    fn skip_byte_order_mark(&mut self) -> Result<(), String> {
        let buffer = self.input.fill_buf().map_err(|error| error.to_string())?;
        if buffer.starts_with(&[0xef, 0xbb, 0xbf]) {
            self.input.consume(3);
        }
        Ok(())
    }

    fn peek_after_blanks(&mut self) -> std::io::Result<Option<u8>> {
        loop {
            let buffer = self.input.fill_buf()?;
            if buffer.is_empty() {
                return Ok(None);
            }
            let blanks = buffer
                .iter()
                .take_while(|byte| byte.is_ascii_whitespace())
                .count();
            let next = buffer.get(blanks).copied();
            self.line += buffer[..blanks].iter().filter(|&&byte| byte == b'\n').count() as u64;
            self.input.consume(blanks);
            if next.is_some() {
                return Ok(next);
            }
        }
    }

    fn take(&mut self) {
        self.input.consume(1);
    }
}

/// Follows brackets and strings to find where an element ends.
#[derive(Debug, Default)]
struct Element {
    depth: u32,
    in_string: bool,
    escaped: bool,
    /// Whether the bracket that closes the element has passed.
    closed: bool,
}

impl Element {
    fn ends_before(&mut self, byte: u8) -> bool {
        if self.in_string {
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' => self.escaped = true,
                b'"' => self.in_string = false,
                _ => {}
            }
            return false;
        }
        if self.closed {
            return true;
        }
        match byte {
            b',' | b']' | b'}' if self.depth == 0 => return true,
            b'"' => self.in_string = true,
            b'{' | b'[' => self.depth += 1,
            b'}' | b']' => {
                self.depth -= 1;
                self.closed = self.depth == 0;
            }
            _ => {}
        }
        false
    }
}
