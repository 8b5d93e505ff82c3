//! What the environment says: where the cache is, whose token, which endpoint.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

use crate::error::{HubError, Result};
use crate::retry::RetryPolicy;

const ENDPOINT: &str = "https://huggingface.co";

/// Where models come from and go to.
#[derive(Debug, Clone)]
pub struct HubConfig {
    /// Address of the Hub, without a slash at its end.
    pub endpoint: String,
    /// The folder of `models--org--name`.
    pub cache: PathBuf,
    /// Sent to the endpoint alone.
    pub token: Option<Token>,
    /// Only the cache is looked at; no connection is made.
    pub offline: bool,
    /// When a request is tried again.
    pub retry: RetryPolicy,
}

impl HubConfig {
    /// The configuration of Python's `huggingface_hub`: `HF_ENDPOINT`; `HF_HUB_CACHE`, else `HF_HOME/hub`, else
    /// `~/.cache/huggingface/hub`; `HF_TOKEN`, else the file `HF_TOKEN_PATH` or `HF_HOME/token`, unless
    /// `HF_HUB_DISABLE_IMPLICIT_TOKEN` is set; `HF_HUB_OFFLINE`.
    ///
    /// # Errors
    /// When a value cannot be used, or no home directory is known.
    pub fn from_env() -> Result<Self> {
        Self::from_variables(&|name| std::env::var_os(name))
    }

    fn from_variables(variable: &dyn Fn(&str) -> Option<OsString>) -> Result<Self> {
        let env = Env(variable);
        let home = env.hf_home();
        let cache = match env.path(&["HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"]) {
            Some(cache) => cache,
            None => home.clone()?.join("hub"),
        };
        let endpoint = match env.text("HF_ENDPOINT")? {
            Some(text) => endpoint(&text)?,
            None => ENDPOINT.to_string(),
        };
        Ok(Self {
            endpoint,
            cache,
            token: env.token(home.ok().as_deref())?,
            offline: env.is_on("HF_HUB_OFFLINE") || env.is_on("TRANSFORMERS_OFFLINE"),
            retry: RetryPolicy::default(),
        })
    }
}

/// An access token; it does not show itself, and this crate logs it nowhere. The HTTP client `ureq` dumps whole requests at
/// log level `trace`: a program that logs so must silence its targets `ureq` and `ureq_proto`.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// Takes a token as it was set or read; `origin` is named when it cannot be one.
    ///
    /// # Errors
    /// When it holds anything but visible ASCII.
    pub fn new(text: &str, origin: &str) -> Result<Self> {
        let text = text.trim();
        if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Ok(Self(text.to_string()));
        }
        Err(HubError::Environment {
            variable: origin.to_string(),
            reason: "a token is one word of visible ASCII characters".into(),
        })
    }

    pub(crate) fn header(&self) -> String {
        format!("Bearer {}", self.0)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

/// Checks an address and takes the slashes from its end.
fn endpoint(text: &str) -> Result<String> {
    let error = |reason: &str| HubError::Environment {
        variable: "HF_ENDPOINT".into(),
        reason: reason.into(),
    };
    let text = text.trim().trim_end_matches('/');
    let uri: ureq::http::Uri = text
        .parse()
        .map_err(|_| error("it is not an address like https://huggingface.co"))?;
    // The address is shown in messages.
    if uri
        .authority()
        .is_some_and(|authority| authority.as_str().contains('@'))
    {
        return Err(error("it must not hold a user or password; set HF_TOKEN"));
    }
    if uri.query().is_some() {
        return Err(error("it must not hold a question mark"));
    }
    match uri.scheme_str() {
        Some("http" | "https") if uri.host().is_some() => Ok(text.to_string()),
        _ => Err(error("it does not begin with https:// or http://")),
    }
}

struct Env<'a>(&'a dyn Fn(&str) -> Option<OsString>);

impl Env<'_> {
    fn get(&self, name: &str) -> Option<OsString> {
        (self.0)(name).filter(|value| !value.is_empty())
    }

    fn text(&self, name: &str) -> Result<Option<String>> {
        let text = self.get(name).map(OsString::into_string).transpose();
        text.map_err(|_| HubError::Environment {
            variable: name.to_string(),
            reason: "it is not UTF-8".into(),
        })
    }

    fn is_on(&self, name: &str) -> bool {
        let value = self.get(name).unwrap_or_default();
        ["1", "on", "yes", "true"]
            .iter()
            .any(|on| value.eq_ignore_ascii_case(on))
    }

    /// The first of these that is set; `~/` is the home, as in an environment that no shell has read.
    fn path(&self, names: &[&str]) -> Option<PathBuf> {
        let path = PathBuf::from(names.iter().find_map(|name| self.get(name))?);
        match (path.strip_prefix("~"), self.home()) {
            (Ok(rest), Some(home)) => Some(home.join(rest)),
            _ => Some(path),
        }
    }

    fn home(&self) -> Option<PathBuf> {
        self.get("HOME")
            .or_else(|| self.get("USERPROFILE"))
            .map(PathBuf::from)
    }

    fn hf_home(&self) -> std::result::Result<PathBuf, HomeUnknown> {
        if let Some(home) = self.path(&["HF_HOME"]) {
            return Ok(home);
        }
        match (self.path(&["XDG_CACHE_HOME"]), self.home()) {
            (Some(cache), _) => Ok(cache.join("huggingface")),
            (None, Some(home)) => Ok(home.join(".cache").join("huggingface")),
            (None, None) => Err(HomeUnknown),
        }
    }

    fn token(&self, home: Option<&Path>) -> Result<Option<Token>> {
        if self.is_on("HF_HUB_DISABLE_IMPLICIT_TOKEN") {
            return Ok(None);
        }
        for name in ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"] {
            if let Some(text) = self.text(name)? {
                return Token::new(&text, name).map(Some);
            }
        }
        let file = self
            .path(&["HF_TOKEN_PATH"])
            .or(home.map(|home| home.join("token")));
        let Some(file) = file else { return Ok(None) };
        match std::fs::read_to_string(&file) {
            Ok(text) if text.trim().is_empty() => Ok(None),
            Ok(text) => Token::new(&text, &file.display().to_string()).map(Some),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(HubError::io("read the token file", &file)(error)),
        }
    }
}

#[derive(Debug, Clone)]
struct HomeUnknown;

impl From<HomeUnknown> for HubError {
    fn from(_: HomeUnknown) -> Self {
        Self::Environment {
            variable: "HF_HOME".into(),
            reason: "no home directory is known; set HF_HOME to the folder of the cache".into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(variables: &[(&str, &str)]) -> Result<HubConfig> {
        HubConfig::from_variables(&|name| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| OsString::from(value))
        })
    }

    #[test]
    fn the_cache_is_where_python_has_it() {
        let cases: [(&[(&str, &str)], &str); 6] = [
            (&[("HOME", "/h")], "/h/.cache/huggingface/hub"),
            (&[("HOME", "/h"), ("XDG_CACHE_HOME", "/x")], "/x/huggingface/hub"),
            (&[("HOME", "/h"), ("HF_HOME", "/f")], "/f/hub"),
            (&[("HOME", "/h"), ("HF_HOME", "~/f")], "/h/f/hub"),
            (&[("HOME", "/h"), ("HF_HOME", "/f"), ("HF_HUB_CACHE", "/c")], "/c"),
            (&[("HUGGINGFACE_HUB_CACHE", "/c")], "/c"),
        ];
        for (variables, cache) in cases {
            assert_eq!(
                config(variables).unwrap().cache,
                Path::new(cache),
                "{variables:?}"
            );
        }
        assert!(config(&[]).unwrap_err().to_string().contains("set HF_HOME"));
    }

    #[test]
    fn the_token_comes_from_the_variable_before_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().to_str().unwrap();
        assert_eq!(config(&[("HF_HOME", home)]).unwrap().token, None);
        std::fs::write(dir.path().join("token"), "hf_file\n").unwrap();
        let token = |variables: &[(&str, &str)]| config(variables).unwrap().token.map(|token| token.0);
        assert_eq!(token(&[("HF_HOME", home)]).as_deref(), Some("hf_file"));
        assert_eq!(
            token(&[("HF_HOME", home), ("HF_TOKEN", " hf_set ")]).as_deref(),
            Some("hf_set")
        );
        assert_eq!(
            token(&[("HF_HOME", home), ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")]),
            None
        );
        std::fs::write(dir.path().join("other"), "hf_other").unwrap();
        let other = dir.path().join("other");
        let variables = [("HF_HOME", home), ("HF_TOKEN_PATH", other.to_str().unwrap())];
        assert_eq!(token(&variables).as_deref(), Some("hf_other"));
        let error = config(&[("HF_HOME", home), ("HF_TOKEN", "hf_a\nb")]).unwrap_err();
        assert!(!error.to_string().contains("hf_a"), "{error}");
        let shown = format!("{:?}", config(&[("HF_HOME", home)]).unwrap());
        assert!(!shown.contains("hf_file"), "{shown}");
    }

    #[test]
    fn offline_and_endpoint() {
        for (value, offline) in [
            ("1", true),
            ("true", true),
            ("YES", true),
            ("0", false),
            ("", false),
        ] {
            let variables = [("HOME", "/h"), ("HF_HUB_OFFLINE", value)];
            assert_eq!(config(&variables).unwrap().offline, offline, "{value}");
        }
        let endpoint =
            |value| config(&[("HOME", "/h"), ("HF_ENDPOINT", value)]).map(|config| config.endpoint);
        assert_eq!(endpoint("").unwrap(), "https://huggingface.co");
        assert_eq!(
            endpoint("http://127.0.0.1:80/hub/").unwrap(),
            "http://127.0.0.1:80/hub"
        );
        for value in ["huggingface.co", "ftp://x", "https://me:secret@x", "https://x?y"] {
            let error = endpoint(value).unwrap_err().to_string();
            assert!(
                error.starts_with("HF_ENDPOINT") && !error.contains("secret"),
                "{error}"
            );
        }
    }
}
