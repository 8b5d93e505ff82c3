//! Tokens as text, as they come.

use crate::error::Result;
use crate::tokenizer::Tokenizer;

/// Turns tokens into text as they come: every piece is whole UTF-8, and the pieces together are the text of all tokens.
#[derive(Debug, Clone)]
pub struct TokenStream {
    tokenizer: Tokenizer,
    ids: Vec<u32>,
    /// Where the window that is decoded starts.
    prefix: usize,
    /// Tokens before this one have been given out.
    read: usize,
}

impl TokenStream {
    pub(crate) fn new(tokenizer: Tokenizer) -> Self {
        Self {
            tokenizer,
            ids: Vec::new(),
            prefix: 0,
            read: 0,
        }
    }

    /// Tokens after which bytes that make no character are given out as they are: a character has at most four bytes.
    const LONGEST_CHARACTER: usize = 8;

    /// Takes a token; gives the text that it completes, if any.
    ///
    /// # Errors
    /// When the tokenizer fails on the ids.
    pub fn push(&mut self, id: u32) -> Result<Option<String>> {
        self.ids.push(id);
        let held = self.ids.len() - self.read;
        let piece = self.held_back()?;
        if piece.is_empty() && held >= Self::LONGEST_CHARACTER {
            // Tokens without text, such as special ones: kept, all of them would be decoded again with each that follows.
            self.prefix = self.read;
            self.read = self.ids.len();
            return Ok(None);
        }
        // A replacement character at the end may be the first bytes of one that is still coming.
        if piece.is_empty() || (piece.ends_with('\u{fffd}') && held < Self::LONGEST_CHARACTER) {
            return Ok(None);
        }
        self.prefix = self.read;
        self.read = self.ids.len();
        Ok(Some(piece))
    }

    /// Gives out what was held back.
    ///
    /// # Errors
    /// When the tokenizer fails on the ids.
    pub fn finish(&mut self) -> Result<Option<String>> {
        let piece = self.held_back()?;
        self.prefix = self.ids.len();
        self.read = self.ids.len();
        Ok(Some(piece).filter(|piece| !piece.is_empty()))
    }

    /// The text of the tokens that have not been given out, with the tokens before them for context.
    fn held_back(&self) -> Result<String> {
        let before = self.tokenizer.decode(&self.ids[self.prefix..self.read])?;
        let now = self.tokenizer.decode(&self.ids[self.prefix..])?;
        match now.strip_prefix(&before) {
            Some(piece) => Ok(piece.to_string()),
            // Broken bytes changed how the tokens before them are read; what was given out cannot be taken back.
            None => self.tokenizer.decode(&self.ids[self.read..]),
        }
    }
}
