//! API keys: only their hashes are known, and how long a look takes does not tell how much of a key is right.

use axum::http::{HeaderMap, header};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// The hashes of all keys.
#[derive(Debug, Clone, Default)]
pub(crate) struct Keys(Vec<[u8; 32]>);

impl Keys {
    /// Keys by their hashes in hexadecimal, as a checked configuration has them.
    pub fn new(hashes: &[String]) -> Self {
        Self(hashes.iter().filter_map(|hash| unhex(hash)).collect())
    }

    /// Whether nobody needs one.
    pub fn is_open(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a request may pass.
    pub fn allow(&self, headers: &HeaderMap) -> bool {
        if self.is_open() {
            return true;
        }
        let Some(key) = bearer(headers) else {
            return false;
        };
        let hash: [u8; 32] = Sha256::digest(key).into();
        // All of them are looked at, whichever it is.
        let found = self.0.iter().map(|known| known.ct_eq(&hash));
        found.fold(subtle::Choice::from(0), |any, one| any | one).into()
    }
}

/// The key of `Authorization: Bearer …`.
fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let value = headers.get(header::AUTHORIZATION)?.as_bytes();
    let (scheme, key) = value.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| key.trim_ascii())
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * at..2 * at + 2)?, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn asked_with(value: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(
            header::AUTHORIZATION,
            HeaderValue::from_str(value).expect("a header"),
        );
        headers
    }

    #[test]
    fn one_of_several_keys_opens_and_nothing_else() {
        // printf %s sesame | sha256sum
        let sesame = "d0c04f4b1951e4aeaaec8223ed2039e542f3aae805a6fa7f6d794e5afff5d272";
        let keys = Keys::new(&["00".repeat(32), sesame.to_uppercase()]);
        assert!(keys.allow(&asked_with("Bearer sesame")) && keys.allow(&asked_with("bearer sesame ")));
        for wrong in ["Bearer sesam", "sesame", "Basic sesame", "Bearer ", "B", sesame] {
            assert!(!keys.allow(&asked_with(wrong)), "{wrong}");
        }
        assert!(!keys.allow(&HeaderMap::new()));
        assert!(Keys::default().allow(&HeaderMap::new()));
    }
}
