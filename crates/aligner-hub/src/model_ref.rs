//! The name of a model on the Hub.

use std::fmt;
use std::str::FromStr;

use crate::error::{HubError, Result};

/// The branch that is meant when none is named.
const MAIN: &str = "main";

/// A model of the Hub: `org/name`, or `org/name@revision`.
///
/// The revision is a branch, a tag, a pull request (`refs/pr/1`) or a commit; `main` when none is named. Everything in a
/// reference is safe as part of a path and of a URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelRef {
    owner: String,
    name: String,
    revision: Option<String>,
}

impl ModelRef {
    /// Reads `org/name[@revision]`.
    ///
    /// # Errors
    /// When it is not of that form.
    pub fn parse(text: &str) -> Result<Self> {
        let error = |reason| HubError::Name {
            name: text.to_string(),
            reason,
        };
        let (id, revision) = match text.split_once('@') {
            Some((id, revision)) => (id, Some(revision)),
            None => (text, None),
        };
        let (owner, name) = id
            .split_once('/')
            .ok_or_else(|| error("there is no slash between organisation and name"))?;
        if ![owner, name].into_iter().all(is_name) {
            return Err(error(
                "organisation and name consist of letters, digits, '-', '_' and '.', do not begin or end with '-' or \
                 '.', and contain neither '--' nor '..'",
            ));
        }
        if !revision.is_none_or(is_revision) {
            return Err(error("the revision is neither a branch, a tag nor a commit"));
        }
        Ok(Self {
            owner: owner.to_string(),
            name: name.to_string(),
            revision: revision.map(str::to_string),
        })
    }

    /// `org/name`.
    pub fn id(&self) -> String {
        format!("{}/{}", self.owner, self.name)
    }

    /// The part behind the organisation.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The revision, `main` when none was named.
    pub fn revision(&self) -> &str {
        self.revision.as_deref().unwrap_or(MAIN)
    }
}

impl fmt::Display for ModelRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.owner, self.name)?;
        match &self.revision {
            Some(revision) => write!(f, "@{revision}"),
            None => Ok(()),
        }
    }
}

impl FromStr for ModelRef {
    type Err = HubError;

    fn from_str(text: &str) -> Result<Self> {
        Self::parse(text)
    }
}

/// The Hub's own rule for names of accounts and repositories.
fn is_name(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    (1..=96).contains(&text.len())
        && text.chars().all(plain)
        && !text.starts_with(['-', '.'])
        && !text.ends_with(['-', '.'])
        && !text.contains("--")
        && !text.contains("..")
}

/// What git takes as a reference, without the characters that mean something in a URL.
fn is_revision(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '+');
    let part = |part: &str| !part.is_empty() && !part.starts_with('.') && part.chars().all(plain);
    text.len() <= 255 && !text.contains("..") && text.split('/').all(part)
}

/// Whether a text is a full commit hash.
pub(crate) fn is_commit(text: &str) -> bool {
    text.len() == 40
        && text
            .bytes()
            .all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_and_without_revision() {
        let model = ModelRef::parse("HuggingFaceTB/SmolLM2-135M_v0.1").unwrap();
        assert_eq!(
            (model.id().as_str(), model.name(), model.revision()),
            ("HuggingFaceTB/SmolLM2-135M_v0.1", "SmolLM2-135M_v0.1", "main")
        );
        for (text, revision) in [
            ("a/b@v1.0", "v1.0"),
            ("a/b@refs/pr/1", "refs/pr/1"),
            ("a/b@main", "main"),
        ] {
            let model = ModelRef::parse(text).unwrap();
            assert_eq!((model.revision(), model.to_string().as_str()), (revision, text));
        }
    }

    #[test]
    fn nothing_that_leaves_a_folder_is_a_name() {
        for text in [
            "",
            "a",
            "a/",
            "/b",
            "a/b/c",
            "../b",
            "a/..",
            "./a",
            "a/b--c",
            "a/.b",
            "a/b.",
            "a b/c",
            "a/b@",
            "a/b@..",
            "a/b@x/../y",
            "a/b@/x",
            "a/b@x/",
            "a/b@.x",
            "a/b@x/.y",
            "a/b@a b",
            "a/b@a%2Fb",
            "a/b@a?b",
            "a/b@a#b",
            "a\\b/c",
            "C:/b",
            "a/b@c@d",
            "a/bü",
        ] {
            assert!(ModelRef::parse(text).is_err(), "{text:?}");
        }
    }
}
