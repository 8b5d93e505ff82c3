//! `aligner chat`

use std::io::{BufRead, IsTerminal, Write};

use aligner_infer::{BatchOptions, Edit};
use aligner_serve::{LocalEngine, PlainListener, ServeConfig, ServeError, Service, UpstreamConfig, serve};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::builder;
use crate::args::ChatArgs;
use crate::error::{CliError, Result, stdout_error};
use crate::terminal::{render_diff, say, stdout_is_coloured};

/// Talks to an upstream, and shows each answer with its correction as changes.
pub fn run(args: &ChatArgs) -> Result<()> {
    let corrector = builder(&args.model)?.strength(args.strength).build()?;
    let config = ServeConfig {
        upstream: Some(UpstreamConfig::new(&args.upstream)),
        ..ServeConfig::default()
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| CliError::Failed(format!("cannot start threads: {error}")))?;
    let base = runtime.block_on(async {
        let engine = LocalEngine::new("aligner", corrector.batcher(BatchOptions::default()));
        let service = Service::new(config, engine)?;
        // The service itself, on a port of its own: what is seen here is what clients of `aligner serve` get.
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let listener = PlainListener::new(listener);
        tokio::spawn(serve(service, listener, std::future::pending()));
        Ok::<_, ServeError>(format!("http://{address}/v1"))
    })?;
    let mut chat = Chat::new(base, args)?;
    say(format!(
        "answers of {} and their corrections; /new begins anew, /quit ends",
        chat.model
    ));
    let mut lines = std::io::stdin().lock().lines();
    loop {
        if std::io::stdin().is_terminal() {
            invite();
        }
        let Some(line) = lines.next() else { break };
        let line = line.map_err(|error| CliError::Failed(format!("cannot read what is typed: {error}")))?;
        match line.trim() {
            "" => {}
            "/quit" | "/exit" => break,
            "/new" => chat.messages.truncate(chat.lead),
            question => chat.ask(question)?,
        }
    }
    Ok(())
}

/// A sign that something is awaited; where it cannot be written, nobody waits for it.
fn invite() {
    let mut stderr = std::io::stderr();
    let _ = stderr.write_all(b"\n> ").and_then(|()| stderr.flush());
}

/// A conversation.
struct Chat {
    base: String,
    model: String,
    messages: Vec<Value>,
    /// Messages that every conversation begins with.
    lead: usize,
}

impl Chat {
    fn new(base: String, args: &ChatArgs) -> Result<Self> {
        let model = match &args.upstream_model {
            Some(model) => model.clone(),
            None => first_model(&base, &args.upstream)?,
        };
        let lead = args
            .system
            .iter()
            .map(|text| json!({"role": "system", "content": text}));
        let messages: Vec<Value> = lead.collect();
        Ok(Self {
            base,
            model,
            lead: messages.len(),
            messages,
        })
    }

    /// Asks, and shows what came of it; an upstream that fails ends the question, not the conversation.
    fn ask(&mut self, question: &str) -> Result<()> {
        self.messages.push(json!({"role": "user", "content": question}));
        let body = json!({
            "model": self.model, "messages": self.messages, "aligner": {"edits": true, "include_original": true},
        });
        let answer = match post(&format!("{}/chat/completions", self.base), &body) {
            Ok(answer) => answer,
            Err(error) => {
                self.messages.pop();
                say(error);
                return Ok(());
            }
        };
        let message = answer["choices"][0]["message"].clone();
        let report = &answer["aligner"];
        let text = message["content"].as_str().unwrap_or_default();
        let shown = match serde_json::from_value::<Vec<Edit>>(report["edits"].clone()) {
            Ok(edits) => render_diff(&edits, stdout_is_coloured()),
            Err(_) => text.to_string(),
        };
        writeln!(std::io::stdout(), "{shown}").map_err(stdout_error)?;
        let ratio = report["edit_ratio"]
            .as_f64()
            .map_or(String::new(), |ratio| format!(", {:.0} % changed", 100.0 * ratio));
        say(format!(
            "{}{ratio}, {} ms added",
            report["outcome"].as_str().unwrap_or("unknown"),
            report["added_ms"]
        ));
        // The conversation goes on from what was served.
        self.messages.push(message);
        Ok(())
    }
}

fn first_model(base: &str, upstream: &str) -> Result<String> {
    let url = format!("{base}/models");
    let list = ureq::get(&url)
        .call()
        .and_then(|mut response| response.body_mut().read_to_string());
    let list: Value = list
        .ok()
        .and_then(|text| serde_json::from_str(&text).ok())
        .unwrap_or(Value::Null);
    // The last one is the Aligner.
    let models = list["data"].as_array().filter(|models| models.len() > 1);
    models
        .and_then(|models| models[0]["id"].as_str().map(str::to_string))
        .ok_or_else(|| {
            CliError::Failed(format!(
                "{upstream}/models names no model: is the upstream there? name one with --upstream-model"
            ))
        })
}

fn post(url: &str, body: &Value) -> Result<Value, String> {
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .build()
        .into();
    let sent = agent
        .post(url)
        .header("content-type", "application/json")
        .send(body.to_string());
    let text = sent
        .and_then(|mut response| response.body_mut().read_to_string())
        .map_err(|error| error.to_string())?;
    let answer: Value = serde_json::from_str(&text).map_err(|error| format!("{error}: {text}"))?;
    match answer["error"]["message"].as_str() {
        Some(message) => Err(message.to_string()),
        None => Ok(answer),
    }
}
