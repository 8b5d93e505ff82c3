//! The pickle of a state dict, run by an interpreter that can do nothing else.
//!
//! It knows the opcodes of protocols 2 to 5 that make dictionaries, tuples, numbers and text, the names of [`Global`],
//! and PyTorch's persistent ids for storages. Values are small and never hold each other (containers are numbers of
//! slots), so that neither nesting nor cycles cost a stack, and every opcode costs a bounded amount of memory.

mod torch;

use std::collections::HashMap;

use self::torch::Global;
pub(super) use self::torch::{Dtype, Stored};

/// The longest pickle that is read: about a hundred thousand tensors.
const MAX_BYTES: usize = 16 << 20;
/// Values on the stack, and values in containers.
const MAX_STACK: usize = 1 << 20;
const MAX_HELD: usize = 1 << 22;

/// A value on the stack; what can hold others is a number.
#[derive(Debug, Clone, Copy)]
enum Value<'a> {
    /// Something that a state dict may have and that is never looked at: none, a truth value, a float, bytes, a list.
    Opaque,
    Int(i64),
    Str(&'a str),
    /// First place in `items`, and how many.
    Tuple(usize, usize),
    Dict(usize),
    Global(Global),
    Storage(usize),
    Tensor(usize),
}

/// The tensors of a state dict, in its order.
///
/// # Errors
/// The rest of a sentence that begins with "has a data.pkl that".
pub(super) fn state_dict(pickle: &[u8]) -> Result<Vec<(&str, Stored<'_>)>, String> {
    if pickle.len() > MAX_BYTES {
        let size = pickle.len();
        return Err(format!(
            "has {size} bytes; a state dict's is shorter than {MAX_BYTES}"
        ));
    }
    let mut machine = Machine {
        rest: pickle,
        ..Machine::default()
    };
    let result = loop {
        let at = pickle.len() - machine.rest.len();
        match machine
            .step()
            .map_err(|reason| format!("{reason} (at byte {at})"))?
        {
            None => {}
            Some(result) => break result,
        }
    };
    machine.tensors_of(result)
}

#[derive(Default)]
struct Machine<'a> {
    rest: &'a [u8],
    stack: Vec<Value<'a>>,
    marks: Vec<usize>,
    memo: HashMap<u32, Value<'a>>,
    /// The items of all tuples.
    items: Vec<Value<'a>>,
    dicts: Vec<Vec<(Value<'a>, Value<'a>)>>,
    storages: Vec<(Dtype, &'a str, usize)>,
    tensors: Vec<Stored<'a>>,
    held: usize,
}

impl<'a> Machine<'a> {
    /// Runs one opcode; gives the result at the last.
    fn step(&mut self) -> Result<Option<Value<'a>>, String> {
        let opcode = self.take(1)?[0];
        match opcode {
            0x80 => self.protocol()?,
            // A frame is a hint for readers of streams.
            0x95 => {
                self.take(8)?;
            }
            b'.' => return self.pop().map(Some),
            b'N' | 0x88 | 0x89 | b']' => self.push(Value::Opaque)?,
            b'J' | b'K' | b'M' | 0x8a => self.int(opcode)?,
            b'G' => self.opaque(8)?,
            b'X' | 0x8c | 0x8d | b'T' | b'U' => {
                let bytes = self.counted(opcode)?;
                let text = std::str::from_utf8(bytes).map_err(|_| "has text that is no UTF-8")?;
                self.push(Value::Str(text))?;
            }
            b'B' | b'C' | 0x8e => {
                self.counted(opcode)?;
                self.push(Value::Opaque)?;
            }
            b'(' => self.mark()?,
            b')' | b't' | 0x85..=0x87 => self.tuple(opcode)?,
            b'}' | b'd' | b's' | b'u' => self.dict(opcode)?,
            b'l' | b'a' | b'e' => self.list(opcode)?,
            b'q' | b'r' | 0x94 | b'h' | b'j' => self.memo(opcode)?,
            b'0' => {
                self.pop()?;
            }
            b'1' => {
                self.since_mark()?;
            }
            b'2' => {
                let top = self.pop()?;
                self.push(top)?;
                self.push(top)?;
            }
            b'c' | 0x93 => self.global(opcode)?,
            b'Q' => self.persistent_id()?,
            b'R' | 0x81 => self.reduce()?,
            b'b' => self.build()?,
            other => return Err(format!("uses opcode {other:#04x}, which no state dict needs")),
        }
        Ok(None)
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], String> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or("is cut")?;
        self.rest = rest;
        Ok(taken)
    }

    /// A little-endian number of `width` bytes.
    fn unsigned(&mut self, width: usize) -> Result<u64, String> {
        let bytes = self.take(width)?;
        Ok(bytes
            .iter()
            .rev()
            .fold(0, |number, &byte| number << 8 | u64::from(byte)))
    }

    fn line(&mut self) -> Result<&'a str, String> {
        let end = self.rest.iter().position(|&byte| byte == b'\n').ok_or("is cut")?;
        let line = self.take(end + 1)?;
        std::str::from_utf8(&line[..end]).map_err(|_| "has a name that is no UTF-8".into())
    }

    fn push(&mut self, value: Value<'a>) -> Result<(), String> {
        if self.stack.len() == MAX_STACK {
            return Err(format!("piles up more than {MAX_STACK} values"));
        }
        self.stack.push(value);
        Ok(())
    }

    /// The top of the stack; what lies before a mark is out of reach.
    fn pop(&mut self) -> Result<Value<'a>, String> {
        if self.marks.last().is_some_and(|&mark| mark == self.stack.len()) {
            return Err("takes a value that is not there".into());
        }
        self.stack
            .pop()
            .ok_or_else(|| "takes a value that is not there".into())
    }

    fn mark(&mut self) -> Result<(), String> {
        if self.marks.len() == MAX_STACK {
            return Err(format!("piles up more than {MAX_STACK} marks"));
        }
        self.marks.push(self.stack.len());
        Ok(())
    }

    fn since_mark(&mut self) -> Result<Vec<Value<'a>>, String> {
        let mark = self.marks.pop().filter(|&mark| mark <= self.stack.len());
        let mark = mark.ok_or("asks for a mark that is not there")?;
        Ok(self.stack.split_off(mark))
    }

    /// Accounts for values that a container takes.
    fn hold(&mut self, count: usize) -> Result<(), String> {
        self.held += count;
        if self.held > MAX_HELD {
            return Err(format!("holds more than {MAX_HELD} values"));
        }
        Ok(())
    }

    fn protocol(&mut self) -> Result<(), String> {
        match self.take(1)?[0] {
            2..=5 => Ok(()),
            other => Err(format!("is of pickle protocol {other}; 2 to 5 are supported")),
        }
    }

    fn int(&mut self, opcode: u8) -> Result<(), String> {
        let number = match opcode {
            b'K' => self.unsigned(1)? as i64,
            b'M' => self.unsigned(2)? as i64,
            b'J' => i64::from(self.unsigned(4)? as u32 as i32),
            _ => {
                let width = self.unsigned(1)? as usize;
                if width > 8 {
                    return Err("has a number of more than 64 bits".into());
                }
                let number = self.unsigned(width)?;
                // The highest bit is the sign's.
                let unused = 64 - 8 * width as u32;
                if width == 0 {
                    0
                } else {
                    (number << unused) as i64 >> unused
                }
            }
        };
        self.push(Value::Int(number))
    }

    fn opaque(&mut self, bytes: usize) -> Result<(), String> {
        self.take(bytes)?;
        self.push(Value::Opaque)
    }

    /// Bytes behind their number.
    fn counted(&mut self, opcode: u8) -> Result<&'a [u8], String> {
        let width = match opcode {
            0x8c | b'U' | b'C' => 1,
            0x8d | 0x8e => 8,
            _ => 4,
        };
        let count = self.unsigned(width)?;
        self.take(usize::try_from(count).map_err(|_| "is cut")?)
    }

    fn tuple(&mut self, opcode: u8) -> Result<(), String> {
        let start = self.items.len();
        let count = match opcode {
            b')' => 0,
            b't' => {
                let values = self.since_mark()?;
                self.items.extend(&values);
                values.len()
            }
            _ => {
                let count = usize::from(opcode - 0x84);
                for _ in 0..count {
                    let value = self.pop()?;
                    self.items.push(value);
                }
                self.items[start..].reverse();
                count
            }
        };
        self.hold(count)?;
        self.push(Value::Tuple(start, count))
    }

    fn dict(&mut self, opcode: u8) -> Result<(), String> {
        let values = match opcode {
            b'}' => return self.new_dict(),
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                vec![key, value]
            }
            _ => self.since_mark()?,
        };
        if opcode == b'd' {
            self.new_dict()?;
        }
        let Some(Value::Dict(dict)) = self.stack.last().copied() else {
            return Err("sets an item of something that is no dictionary".into());
        };
        let (pairs, []) = values.as_chunks::<2>() else {
            return Err("has a key without a value".into());
        };
        self.hold(values.len())?;
        self.dicts[dict].extend(pairs.iter().map(|&[key, value]| (key, value)));
        Ok(())
    }

    fn new_dict(&mut self) -> Result<(), String> {
        self.hold(1)?;
        self.dicts.push(Vec::new());
        self.push(Value::Dict(self.dicts.len() - 1))
    }

    /// Lists may be there (in hooks or metadata); what is in them is never looked at.
    fn list(&mut self, opcode: u8) -> Result<(), String> {
        match opcode {
            b'a' => {
                self.pop()?;
            }
            _ => {
                self.since_mark()?;
            }
        }
        if opcode == b'l' {
            return self.push(Value::Opaque);
        }
        match self.stack.last() {
            Some(Value::Opaque) => Ok(()),
            _ => Err("appends to something that is no list".into()),
        }
    }

    fn memo(&mut self, opcode: u8) -> Result<(), String> {
        let index = match opcode {
            b'q' | b'h' => self.unsigned(1)? as u32,
            b'r' | b'j' => self.unsigned(4)? as u32,
            _ => self.memo.len() as u32,
        };
        if matches!(opcode, b'h' | b'j') {
            let value = self.memo.get(&index).copied();
            return self.push(value.ok_or_else(|| format!("asks for memo {index}, which is not there"))?);
        }
        let top = self.pop()?;
        self.push(top)?;
        self.memo.insert(index, top);
        if self.memo.len() > MAX_HELD {
            return Err(format!("remembers more than {MAX_HELD} values"));
        }
        Ok(())
    }
}
