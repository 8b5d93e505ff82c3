//! A Hub on this machine: what is fetched, what is not, and what happens when something breaks.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[path = "../common/mod.rs"]
mod common;

mod failures;

use std::path::{Path, PathBuf};
use std::time::Duration;

use aligner_hub::{Files, Hub, HubConfig, HubError, ModelRef, RetryPolicy, Token};
use common::{Access, COMMIT, Fault, Seen, Server, sha256};

const ID: &str = "org/tiny";

/// A server with a model, and a cache.
struct Lab {
    server: Server,
    cache: tempfile::TempDir,
    weights: Vec<u8>,
}

impl Lab {
    fn new() -> Self {
        let weights = noise(700_000);
        let server = Server::start(
            ID,
            &[
                ("config.json", b"{\"model_type\":\"llama\"}"),
                ("tokenizer.json", b"{}"),
                ("tokenizer_config.json", b"{\"eos_token\":\"x\"}"),
                ("model.safetensors", &weights),
                ("pytorch_model.bin", b"not wanted"),
                ("README.md", b"not wanted"),
                ("onnx/model.onnx", b"not wanted"),
            ],
        );
        Self {
            server,
            cache: tempfile::tempdir().unwrap(),
            weights,
        }
    }

    fn config(&self) -> HubConfig {
        HubConfig {
            endpoint: self.server.endpoint().to_string(),
            cache: self.cache.path().to_path_buf(),
            token: None,
            offline: false,
            retry: RetryPolicy {
                attempts: 3,
                first_wait: Duration::from_millis(1),
                longest_wait: Duration::from_secs(2),
            },
        }
    }

    fn get(&self) -> Result<PathBuf, HubError> {
        resolve(self.config(), ID)
    }

    fn repo(&self) -> PathBuf {
        self.cache.path().join("models--org--tiny")
    }

    fn part(&self) -> PathBuf {
        let name = format!("{}.aligner.incomplete", sha256(&self.weights));
        self.repo().join("blobs").join(name)
    }

    fn assert_whole(&self, dir: &Path) {
        assert!(std::fs::read(dir.join("model.safetensors")).unwrap() == self.weights);
        let left = std::fs::read_dir(self.repo().join("blobs")).unwrap();
        let left = left.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        assert_eq!(left.filter(|name| name.contains("incomplete")).count(), 0);
    }
}

fn resolve(config: HubConfig, model: &str) -> Result<PathBuf, HubError> {
    Hub::new(config)?.resolve(&ModelRef::parse(model)?, Files::Model, &mut |_| {})
}

/// Bytes without a pattern, the same each time.
fn noise(count: usize) -> Vec<u8> {
    let mut state = 7u64;
    let next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    };
    std::iter::repeat_with(next).take(count).collect()
}

fn bodies(seen: &[Seen]) -> Vec<&str> {
    let body = |seen: &&Seen| seen.method == "GET" && !seen.path.starts_with("/api/");
    seen.iter().filter(body).map(|seen| seen.path.as_str()).collect()
}

#[test]
fn what_is_needed_is_fetched_once_in_the_hubs_own_layout() {
    let lab = Lab::new();
    let mut told: Vec<(String, u64, Option<u64>)> = Vec::new();
    let hub = Hub::new(lab.config()).unwrap();
    let model = ModelRef::parse(ID).unwrap();
    let dir = hub
        .resolve(&model, Files::Model, &mut |progress| {
            told.push((
                progress.file.to_string(),
                progress.done_bytes,
                progress.total_bytes,
            ));
        })
        .unwrap();
    assert_eq!(dir, lab.repo().join("snapshots").join(COMMIT));
    assert_eq!(
        std::fs::read_to_string(lab.repo().join("refs/main")).unwrap(),
        COMMIT
    );
    lab.assert_whole(&dir);
    let mut files: Vec<_> = std::fs::read_dir(&dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    files.sort();
    let wanted = [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ];
    assert_eq!(files, wanted);
    let blob = Path::new("../../blobs").join(sha256(&lab.weights));
    if cfg!(unix) {
        assert_eq!(std::fs::read_link(dir.join("model.safetensors")).unwrap(), blob);
    }
    let of_weights: Vec<_> = told
        .iter()
        .filter(|(file, ..)| file == "model.safetensors")
        .collect();
    let size = lab.weights.len() as u64;
    assert_eq!((of_weights[0].1, of_weights.last().unwrap().1), (0, size));
    assert!(of_weights.windows(2).all(|pair| pair[0].1 <= pair[1].1));
    assert!(of_weights.iter().all(|(.., total)| *total == Some(size)));

    lab.server.take_seen();
    assert_eq!(lab.get().unwrap(), dir);
    let seen = lab.server.take_seen();
    assert_eq!(
        seen.len(),
        1,
        "a second run asks what main is now, and nothing else: {seen:?}"
    );
    assert_eq!(seen[0].path, "/api/models/org/tiny/revision/main");
}

#[test]
fn a_tokenizer_needs_no_weights() {
    let lab = Lab::new();
    let model = ModelRef::parse(ID).unwrap();
    let hub = Hub::new(lab.config()).unwrap();
    let dir = hub.resolve(&model, Files::Tokenizer, &mut |_| {}).unwrap();
    assert!(dir.join("tokenizer.json").is_file() && !dir.join("model.safetensors").exists());
    let offline = HubConfig {
        offline: true,
        ..lab.config()
    };
    let error = resolve(offline, ID).unwrap_err().to_string();
    assert!(error.contains("model.safetensors of org/tiny"), "{error}");
}

#[test]
fn offline_takes_the_cache_and_connects_to_nothing() {
    let lab = Lab::new();
    let offline = || HubConfig {
        offline: true,
        ..lab.config()
    };
    let error = resolve(offline(), ID).unwrap_err();
    assert!(matches!(error, HubError::Offline { .. }), "{error}");
    for part in [
        "config.json of org/tiny",
        "HF_HUB_OFFLINE",
        "hf download org/tiny`",
    ] {
        assert!(error.to_string().contains(part), "{error}");
    }
    assert_eq!(lab.server.take_seen().len(), 0);
    let dir = lab.get().unwrap();
    lab.server.take_seen();
    assert_eq!(resolve(offline(), ID).unwrap(), dir);
    assert_eq!(resolve(offline(), &format!("{ID}@{COMMIT}")).unwrap(), dir);
    assert_eq!(lab.server.take_seen().len(), 0);
}

#[test]
fn a_hub_that_cannot_be_reached_leaves_the_cache() {
    let lab = Lab::new();
    let dir = lab.get().unwrap();
    let gone = || HubConfig {
        // Nothing listens there.
        endpoint: "http://127.0.0.1:1".into(),
        ..lab.config()
    };
    assert_eq!(resolve(gone(), ID).unwrap(), dir);
    let error = resolve(gone(), "org/other").unwrap_err();
    assert!(matches!(error, HubError::Network { .. }), "{error}");
    assert!(
        error
            .to_string()
            .contains("http://127.0.0.1:1/api/models/org/other"),
        "{error}"
    );
}

#[test]
fn private_and_gated_repositories_want_a_token() {
    let with = |lab: &Lab, token: &str| HubConfig {
        token: Some(Token::new(token, "test").unwrap()),
        ..lab.config()
    };
    for access in [
        Access::Private("hf_right".into()),
        Access::Gated("hf_right".into()),
    ] {
        let lab = Lab::new();
        lab.server.set_access(access.clone());
        let error = lab.get().unwrap_err();
        let gated = matches!(error, HubError::Gated { status: 401, .. });
        let hidden = matches!(error, HubError::NoAccess { status: 401, .. });
        assert!(
            if matches!(access, Access::Gated(_)) {
                gated
            } else {
                hidden
            },
            "{error}"
        );
        let page = format!("{}/org/tiny", lab.server.endpoint());
        for part in ["HF_TOKEN", "licence", "no token was sent", &page] {
            assert!(error.to_string().contains(part), "{error}");
        }
        let error = resolve(with(&lab, "hf_wrong"), ID).unwrap_err().to_string();
        assert!(
            error.contains("a token was sent") && !error.contains("hf_wrong"),
            "{error}"
        );
        lab.assert_whole(&resolve(with(&lab, "hf_right"), ID).unwrap());
    }
}

#[test]
fn the_token_goes_to_the_endpoint_alone() {
    let lab = Lab::new();
    let config = HubConfig {
        token: Some(Token::new("hf_secret", "test").unwrap()),
        ..lab.config()
    };
    resolve(config, ID).unwrap();
    let seen = lab.server.take_seen();
    let (cdn, hub): (Vec<_>, Vec<_>) = seen.iter().partition(|seen| seen.at_cdn);
    assert!(cdn.len() == 1 && hub.len() > 5);
    assert!(
        hub.iter()
            .all(|seen| seen.header("authorization") == Some("Bearer hf_secret"))
    );
    assert_eq!(cdn[0].header("authorization"), None);
    assert!(!format!("{:?}", cdn[0].headers).contains("hf_secret"));
}

#[test]
fn a_renamed_repository_is_followed() {
    let lab = Lab::new();
    lab.server.renamed_from("old/name");
    let dir = resolve(lab.config(), "old/name").unwrap();
    assert!(dir.starts_with(lab.cache.path().join("models--old--name")));
    assert!(std::fs::read(dir.join("model.safetensors")).unwrap() == lab.weights);
}

#[test]
fn a_revision_is_what_it_was_named() {
    let lab = Lab::new();
    let old = "2222222222222222222222222222222222222222";
    lab.server.set_revision("refs/pr/1", old);
    let first = resolve(lab.config(), "org/tiny@refs/pr/1").unwrap();
    assert!(first.ends_with(old));
    assert_eq!(
        std::fs::read_to_string(lab.repo().join("refs/refs/pr/1")).unwrap(),
        old
    );
    lab.server.take_seen();
    let second = resolve(lab.config(), &format!("{ID}@{COMMIT}")).unwrap();
    assert!(second.ends_with(COMMIT));
    assert_eq!(
        bodies(&lab.server.take_seen()),
        Vec::<&str>::new(),
        "the same blobs serve both"
    );
    assert!(!lab.repo().join("refs").join(COMMIT).exists());
}

#[test]
fn main_moves_on() {
    let lab = Lab::new();
    let before = lab.get().unwrap();
    lab.server
        .set_revision("main", "3333333333333333333333333333333333333333");
    lab.server.set_file("config.json", b"{\"model_type\":\"qwen2\"}");
    lab.server.take_seen();
    let after = lab.get().unwrap();
    assert_ne!(before, after);
    assert_eq!(
        bodies(&lab.server.take_seen()).len(),
        1,
        "only what changed is fetched"
    );
    assert!(
        std::fs::read_to_string(after.join("config.json"))
            .unwrap()
            .contains("qwen2")
    );
    assert!(
        std::fs::read_to_string(before.join("config.json"))
            .unwrap()
            .contains("llama")
    );
}

/// A repository whose weights are in shards that an index names so.
fn sharded(names: &[&str]) -> (Server, tempfile::TempDir, Result<PathBuf, HubError>) {
    let map: serde_json::Map<_, _> = names
        .iter()
        .enumerate()
        .map(|(n, name)| (format!("t{n}"), (*name).into()))
        .collect();
    let index = serde_json::json!({ "weight_map": map }).to_string();
    let files: [(&str, &[u8]); 5] = [
        ("config.json", b"{}"),
        ("tokenizer.json", b"{}"),
        ("model.safetensors.index.json", index.as_bytes()),
        ("model-1.safetensors", b"one"),
        ("model-2.safetensors", b"two"),
    ];
    let server = Server::start(ID, &files);
    let cache = tempfile::tempdir().unwrap();
    let config = HubConfig {
        endpoint: server.endpoint().to_string(),
        cache: cache.path().join("hub"),
        ..Lab::new().config()
    };
    let found = resolve(config, ID);
    (server, cache, found)
}

#[test]
fn shards_come_with_their_index() {
    let (_server, cache, dir) = sharded(&[
        "model-1.safetensors",
        "model-2.safetensors",
        "model-1.safetensors",
    ]);
    let dir = dir.unwrap();
    assert_eq!(std::fs::read(dir.join("model-2.safetensors")).unwrap(), b"two");
    let offline = HubConfig {
        cache: cache.path().join("hub"),
        offline: true,
        ..Lab::new().config()
    };
    assert_eq!(resolve(offline.clone(), ID).unwrap(), dir);
    std::fs::remove_file(dir.join("model-2.safetensors")).unwrap();
    let error = resolve(offline, ID).unwrap_err().to_string();
    assert!(error.contains("model-2.safetensors of org/tiny"), "{error}");
}

#[test]
fn an_index_cannot_name_what_lies_elsewhere() {
    for name in [
        "../../../../escaped.safetensors",
        "/tmp/escaped.safetensors",
        "a\\b.safetensors",
        "config.json",
    ] {
        let (server, cache, found) = sharded(&["model-1.safetensors", name]);
        let error = found.unwrap_err();
        assert!(
            matches!(&error, HubError::ShardName { file, .. } if file == name),
            "{error}"
        );
        assert!(
            !server
                .take_seen()
                .iter()
                .any(|seen| seen.path.contains("escaped"))
        );
        assert!(!cache.path().join("escaped.safetensors").exists());
    }
    let (_server, _cache, found) = sharded(&["model-9.safetensors"]);
    let error = found.unwrap_err().to_string();
    assert!(
        error.contains("model-9.safetensors of org/tiny was not found"),
        "{error}"
    );
}

#[test]
fn a_commit_cannot_name_what_lies_elsewhere() {
    let lab = Lab::new();
    lab.server.set_revision("main", "../../escaped");
    let error = lab.get().unwrap_err().to_string();
    assert!(error.contains("names no commit"), "{error}");
}

#[test]
fn two_at_once_fetch_a_file_once() {
    let lab = Lab::new();
    std::thread::scope(|scope| {
        let runs: Vec<_> = (0..4).map(|_| scope.spawn(|| lab.get().unwrap())).collect();
        for run in runs {
            lab.assert_whole(&run.join().unwrap());
        }
    });
    let seen = lab.server.take_seen();
    assert_eq!(seen.iter().filter(|seen| seen.at_cdn).count(), 1);
}
