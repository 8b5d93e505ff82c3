//! `aligner serve`

use aligner_data::{AlignerManifest, PromptTemplate, Turn};
use aligner_hub::Files;
use aligner_infer::{InferError, Input, Scorer};
use aligner_model::ScoreKind;
use aligner_serve::{
    LocalEngine, PlainListener, RemoteEngine, RewardError, RewardModel, ServeError, Service, Telemetry,
    TlsListener, serve,
};
use tokio::net::TcpListener;

use super::builder;
use crate::args::{EngineChoice, ServeArgs, template};
use crate::error::{CliError, Result};
use crate::runs::{model_dir, model_name};
use crate::terminal::{Log, log_to_stderr, say};

/// Serves until it is told to stop.
pub fn run(args: &ServeArgs, verbose: u8) -> Result<()> {
    let telemetry = Telemetry::from_env()?;
    log_to_stderr(&Log {
        verbose,
        service: true,
        json: args.log_json,
        telemetry: telemetry.as_ref(),
    });
    let served = serve_until_stopped(args);
    // Behind the runtime, so that spans of its last tasks are among those that are sent.
    if let Some(telemetry) = telemetry {
        telemetry.shutdown();
    }
    served
}

fn serve_until_stopped(args: &ServeArgs) -> Result<()> {
    let config = args.settings()?;
    config.check()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| CliError::Failed(format!("cannot start threads: {error}")))?;
    let service = runtime.block_on(async {
        Ok::<_, CliError>(match args.engine()? {
            EngineChoice::Local => {
                let corrector = builder(&args.model)?.strength(args.strength).build()?;
                Service::new(
                    config,
                    LocalEngine::new(name(args)?, corrector.batcher(args.batch())),
                )?
            }
            EngineChoice::Remote(url) => Service::new(config, remote(args, &url)?)?,
        })
    })?;
    if let Some(model) = &args.reward_model {
        let dir = model_dir(Some(model), Files::Model)?;
        let scorer = Scorer::builder(dir)
            .device(args.model.place.device)
            .weights(args.model.place.weights)
            .build()?;
        service.set_reward_model(Reward(scorer));
    }
    runtime.block_on(listen(service, args))
}

/// A reward or cost model as the gate asks it.
struct Reward(Scorer);

impl RewardModel for Reward {
    fn rewards(
        &self,
        question: &str,
        chat_history: &[Turn],
        answers: [&str; 2],
    ) -> Result<[f64; 2], RewardError> {
        let inputs = answers.map(|answer| Input {
            question,
            answer,
            chat_history,
        });
        let failed = |error: InferError| RewardError(error.to_string());
        let scores = self.0.score_batch(&inputs).map_err(failed)?;
        let sign = match self.0.kind() {
            ScoreKind::Reward => 1.0,
            ScoreKind::Cost => -1.0,
        };
        let [answer, correction] = scores[..] else {
            return Err(RewardError(format!("{} scores for two answers", scores.len())));
        };
        Ok([sign * answer, sign * correction])
    }
}

/// An engine in this process.
fn local(args: &ServeArgs) -> Result<LocalEngine> {
    let corrector = builder(&args.model)?.strength(args.strength).build()?;
    Ok(LocalEngine::new(name(args)?, corrector.batcher(args.batch())))
}

/// The model's name: its directory's, or that of the run it ended.
fn name(args: &ServeArgs) -> Result<String> {
    if let Some(name) = &args.name {
        return Ok(name.clone());
    }
    let dir = match &args.model.adapter {
        Some(adapter) => model_dir(Some(adapter), Files::Model)?,
        None => model_dir(args.model.model.as_deref(), Files::Model)?,
    };
    Ok(model_name(&dir))
}

/// An engine elsewhere: the template is that which was named, or that of the model's directory here.
fn remote(args: &ServeArgs, url: &str) -> Result<RemoteEngine> {
    let template = match &args.model.template {
        Some(typed) => template(typed)?,
        None => recorded_template(args)?,
    };
    let key = std::env::var("ALIGNER_ENGINE_KEY").ok();
    let name = args.name.clone().ok_or_else(|| {
        CliError::Usage(
            "--engine openai:URL needs --name, the name by which that server knows the model".into(),
        )
    })?;
    Ok(RemoteEngine::new(url, name, template, key.as_deref())?)
}

fn recorded_template(args: &ServeArgs) -> Result<PromptTemplate> {
    let unknown = || {
        CliError::Usage(
            "--engine openai:URL needs --template, or --model with the directory that was exported, to prompt the model as it was trained"
                .into(),
        )
    };
    let model = args.model.model.as_deref().ok_or_else(unknown)?;
    let manifest = AlignerManifest::read(&model_dir(Some(model), Files::Model)?)?;
    Ok(manifest.ok_or_else(unknown)?.template)
}

async fn listen(service: Service, args: &ServeArgs) -> Result<()> {
    let listener = TcpListener::bind(args.listen)
        .await
        .map_err(|source| ServeError::Listen {
            address: args.listen,
            source,
        })?;
    let address = listener.local_addr().map_err(ServeError::Io)?;
    reload_on_hangup(service.clone(), args)?;
    let stop = stop_signal()?;
    match (&args.tls_cert, &args.tls_key) {
        (Some(certificates), Some(key)) => {
            let listener = TlsListener::new(listener, certificates, key)?;
            say(format!("listening on https://{address}"));
            serve(service, listener, stop).await?;
        }
        _ => {
            say(format!("listening on http://{address}"));
            serve(service, PlainListener::new(listener), stop).await?;
        }
    }
    Ok(())
}

/// Ctrl-C, or the signal of a service manager; a second one ends the process at once. SIGHUP is not among them, as it is for other
/// commands: it reads the settings anew.
fn stop_signal() -> Result<impl Future<Output = ()> + Send + 'static> {
    let (told, heard) = tokio::sync::oneshot::channel();
    let mut signals = Signals::new()?;
    tokio::spawn(async move {
        signals.next().await;
        let _ = told.send(());
        signals.next().await;
        std::process::exit(130);
    });
    Ok(async {
        let _ = heard.await;
        say("stopping: requests that are being served end first");
    })
}

/// Signals that ask to stop.
struct Signals {
    #[cfg(unix)]
    terminate: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> Result<Self> {
        Ok(Self {
            #[cfg(unix)]
            terminate: tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())
                .map_err(|error| CliError::Failed(format!("cannot catch signals: {error}")))?,
        })
    }

    async fn next(&mut self) {
        #[cfg(unix)]
        tokio::select! {
            _ = tokio::signal::ctrl_c() => {}
            _ = self.terminate.recv() => {}
        }
        #[cfg(not(unix))]
        let _ = tokio::signal::ctrl_c().await;
    }
}

/// Reads the settings anew when told to, and the model when another one lies in its place; what cannot be used changes nothing.
#[cfg(unix)]
fn reload_on_hangup(service: Service, args: &ServeArgs) -> Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut hangup = signal(SignalKind::hangup())
        .map_err(|error| CliError::Failed(format!("cannot catch signals: {error}")))?;
    let args = args.clone();
    let mut model = state(&args);
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            match args.settings().and_then(|config| Ok(service.reload(config)?)) {
                Ok(()) => say("the settings were read anew"),
                Err(error) => say(format!("the settings stay as they were: {error}")),
            }
            let found = state(&args);
            if found == model {
                continue;
            }
            let opened = args.clone();
            let engine = tokio::task::spawn_blocking(move || local(&opened)).await;
            match engine {
                Ok(Ok(engine)) => {
                    service.swap_engine(engine);
                    model = found;
                    say("the model was read anew");
                }
                Ok(Err(error)) => say(format!("the model stays as it was: {error}")),
                Err(error) => say(format!("the model stays as it was: {error}")),
            }
        }
    });
    Ok(())
}

/// Where the model lies and when its files were written; nothing where it is another server's.
#[cfg(unix)]
fn state(args: &ServeArgs) -> Option<Vec<(std::path::PathBuf, Option<std::time::SystemTime>)>> {
    if args.engine().ok()? != EngineChoice::Local {
        return None;
    }
    let dirs = [args.model.adapter.as_deref(), args.model.model.as_deref()];
    let dirs = dirs
        .into_iter()
        .filter(|dir| dir.is_some() || args.model.model.is_none());
    let mut files = Vec::new();
    for dir in dirs.filter_map(|dir| model_dir(dir, Files::Model).ok()) {
        let Ok(dir) = dir.canonicalize() else { continue };
        let listed = std::fs::read_dir(&dir).into_iter().flatten().flatten();
        let own = listed.map(|entry| entry.path()).filter(|path| {
            // Rounded weights are written by the service itself.
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            ["json", "safetensors", "bin"]
                .iter()
                .any(|end| name.ends_with(end))
                && !name.starts_with('.')
        });
        files.extend(own.map(|path| {
            let written = path.metadata().and_then(|data| data.modified()).ok();
            (path, written)
        }));
    }
    files.sort();
    Some(files)
}

#[cfg(not(unix))]
fn reload_on_hangup(_: Service, _: &ServeArgs) -> Result<()> {
    Ok(())
}
