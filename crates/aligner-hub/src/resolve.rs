//! From a model's name to its directory.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use hf_hub::api::RepoInfo;
use hf_hub::{Repo, RepoType};

use crate::cache::RepoCache;
use crate::config::HubConfig;
use crate::download::RemoteFile;
use crate::error::{HubError, Result};
use crate::files::{self, CONFIG, Files, Missing};
use crate::http::{Client, Kind, Request, malformed};
use crate::model_ref::{ModelRef, is_commit};

/// A listing that is longer is none.
const MAX_LISTING_BYTES: u64 = 64 << 20;

/// How far a file is.
#[derive(Debug, Clone, Copy)]
pub struct Progress<'a> {
    /// The file.
    pub file: &'a str,
    /// Bytes that are here.
    pub done_bytes: u64,
    /// Bytes of the whole file, when the Hub tells.
    pub total_bytes: Option<u64>,
}

/// A Hub and the cache of what came from it.
#[derive(Debug)]
pub struct Hub {
    config: HubConfig,
    client: Client,
}

/// What a revision is now.
struct Listing {
    commit: String,
    files: BTreeSet<String>,
}

impl Hub {
    /// A Hub as the environment describes it: see [`HubConfig::from_env`].
    ///
    /// # Errors
    /// When a value of the environment cannot be used.
    pub fn from_env() -> Result<Self> {
        Self::new(HubConfig::from_env()?)
    }

    /// A Hub as a configuration describes it.
    ///
    /// # Errors
    /// When the token cannot be sent.
    pub fn new(config: HubConfig) -> Result<Self> {
        let client = Client::new(&config)?;
        Ok(Self { config, client })
    }

    /// The configuration.
    pub fn config(&self) -> &HubConfig {
        &self.config
    }

    /// The directory of a model's files, which are fetched when they are not in the cache. `progress` hears of files that
    /// are fetched.
    ///
    /// The Hub is asked what the revision is now; when it cannot be reached and the cache holds what the revision was,
    /// that is taken. The directory is complete for what is wanted; a run that was stopped leaves a part that the next one
    /// goes on from.
    ///
    /// # Errors
    /// See [`HubError`].
    pub fn resolve(
        &self,
        model: &ModelRef,
        wanted: Files,
        progress: &mut dyn FnMut(Progress<'_>),
    ) -> Result<PathBuf> {
        let revision = model.revision().to_string();
        let repo = Repo::with_revision(model.id(), RepoType::Model, revision);
        let cache = RepoCache::new(&self.config.cache, &repo);
        if self.config.offline {
            return cached(model, wanted, &cache);
        }
        let listing = match self.listing(model, &repo) {
            Err(error) if error.is_network() => {
                let Ok(dir) = cached(model, wanted, &cache) else {
                    return Err(error);
                };
                tracing::warn!(%error, "the Hub cannot be reached; taking {model} from the cache");
                return Ok(dir);
            }
            listing => listing?,
        };
        self.complete(model, wanted, &cache, &listing, progress)?;
        cache.note_commit(&listing.commit)?;
        Ok(cache.snapshot(&listing.commit))
    }

    fn listing(&self, model: &ModelRef, repo: &Repo) -> Result<Listing> {
        let url = format!("{}/api/{}", self.client.endpoint(), repo.api_url());
        let request = Request {
            model,
            file: None,
            url: &url,
            kind: Kind::Get { from: 0 },
        };
        let body = self.client.read(&request, MAX_LISTING_BYTES)?;
        let info: RepoInfo = serde_json::from_slice(&body).map_err(|error| {
            malformed(
                &url,
                &format!("the answer is no listing of a repository: {error}"),
            )
        })?;
        // The commit becomes part of a path.
        if !is_commit(&info.sha) {
            return Err(malformed(&url, "the answer names no commit"));
        }
        Ok(Listing {
            commit: info.sha,
            files: info.siblings.into_iter().map(|file| file.rfilename).collect(),
        })
    }

    /// Fetches what the snapshot lacks.
    fn complete(
        &self,
        model: &ModelRef,
        wanted: Files,
        cache: &RepoCache,
        listing: &Listing,
        progress: &mut dyn FnMut(Progress<'_>),
    ) -> Result<()> {
        let plan = files::plan(wanted, &|file| listing.files.contains(file)).map_err(|Missing(file)| {
            let reason = format!("it has no {file}");
            HubError::NotAModel {
                model: model.to_string(),
                reason,
            }
        })?;
        let mut fetch = |file: &str| self.file(model, file, cache, &listing.commit, progress);
        plan.files.iter().try_for_each(|file| fetch(file))?;
        let Some(index) = plan.index else { return Ok(()) };
        files::shards(model, &cache.snapshot(&listing.commit), index)?
            .iter()
            .try_for_each(|shard| fetch(shard))
    }

    fn file(
        &self,
        model: &ModelRef,
        file: &str,
        cache: &RepoCache,
        commit: &str,
        progress: &mut dyn FnMut(Progress<'_>),
    ) -> Result<()> {
        // A file of a commit never changes.
        if cache.snapshot(commit).join(file).is_file() {
            return Ok(());
        }
        let at_commit = Repo::with_revision(model.id(), RepoType::Model, commit.to_string());
        let (endpoint, revision) = (self.client.endpoint(), at_commit.url_revision());
        let url = format!("{endpoint}/{}/resolve/{revision}/{file}", at_commit.url());
        let remote = RemoteFile::look_up(&self.client, model, file, url, commit)?;
        let (blob, part) = (cache.blob(&remote.etag), cache.part(&remote.etag));
        let _lock = cache.lock(&remote.etag)?;
        // Another process or another revision may have brought it.
        if !is_whole(&blob, remote.size) {
            tracing::info!(file, url = remote.url, bytes = remote.size, "fetching");
            let mut tell = |done_bytes| {
                progress(Progress {
                    file,
                    done_bytes,
                    total_bytes: remote.size,
                });
            };
            remote.fetch(&self.client, &part, &blob, &mut tell)?;
        }
        cache.link(commit, file, &remote.etag)
    }
}

fn is_whole(blob: &Path, size: Option<u64>) -> bool {
    blob.metadata()
        .is_ok_and(|found| found.is_file() && size.is_none_or(|size| size == found.len()))
}

/// The directory when the cache holds all of it.
fn cached(model: &ModelRef, wanted: Files, cache: &RepoCache) -> Result<PathBuf> {
    let missing = |file: &str, dir: PathBuf| HubError::Offline {
        model: model.to_string(),
        file: file.to_string(),
        cache: dir,
    };
    let Some(commit) = cache.commit() else {
        return Err(missing(CONFIG, cache.folder()));
    };
    let dir = cache.snapshot(&commit);
    let has = |file: &str| dir.join(file).is_file();
    let plan = files::plan(wanted, &has).map_err(|Missing(file)| missing(file, dir.clone()))?;
    let shards = match plan.index {
        Some(index) => files::shards(model, &dir, index)?,
        None => BTreeSet::new(),
    };
    match shards.iter().find(|shard| !has(shard)) {
        Some(shard) => Err(missing(shard, dir.clone())),
        None => Ok(dir),
    }
}
