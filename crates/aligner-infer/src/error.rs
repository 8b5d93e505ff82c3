//! What can go wrong when an answer is corrected.

use std::sync::Arc;

use aligner_data::DataError;
use aligner_model::{DeviceSpec, KvFormat, ModelError, RuntimeWeights};

/// The result of this crate's functions.
pub type Result<T, E = InferError> = std::result::Result<T, E>;

/// An error of this crate: what, where, and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InferError {
    /// The tokenizer or `aligner.json` cannot be used.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The model cannot be used.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The directory does not say which prompt template its model was trained on.
    #[error(
        "{0} has no aligner.json, so its prompt template is not known; name it with --template (edit, revision or correction)"
    )]
    NoTemplate(String),
    /// The template asked for is not the one the model was trained on.
    #[error(
        "the model in {model} was trained on template {trained:?} ({trained_fingerprint}), not on {asked:?} \
         ({asked_fingerprint}); a model only works with its own template"
    )]
    WrongTemplate {
        /// The model directory.
        model: String,
        /// Name of the template in `aligner.json`.
        trained: String,
        /// Its fingerprint.
        trained_fingerprint: String,
        /// Name of the template asked for.
        asked: String,
        /// Its fingerprint.
        asked_fingerprint: String,
    },
    /// The tokenizer beside a model is not the one the model was trained with.
    #[error("the tokenizer in {model} ({found}) is not the one the model was trained with ({recorded})")]
    WrongTokenizer {
        /// The model directory.
        model: String,
        /// Hash of the `tokenizer.json` that lies there.
        found: String,
        /// Hash in `aligner.json`.
        recorded: String,
    },
    /// Weights in a format that is for the CPU alone.
    #[error("weights in {weights} are for the CPU, not for {device}: run on the CPU, or hold them in f32")]
    WeightsOfDevice {
        /// The format asked for.
        weights: RuntimeWeights,
        /// The device asked for.
        device: DeviceSpec,
    },
    /// Keys and values in a format that is for the CPU alone.
    #[error(
        "keys and values in {format} are for the CPU, not for {device}: run on the CPU, or hold them in f32"
    )]
    KvOfDevice {
        /// The format asked for.
        format: KvFormat,
        /// The device asked for.
        device: DeviceSpec,
    },
    /// No adapter was loaded under that name.
    #[error("there is no adapter {name:?}; there are: {}", if known.is_empty() { "none".into() } else { known.join(", ") })]
    UnknownAdapter {
        /// The name asked for.
        name: String,
        /// The names of those that were loaded.
        known: Vec<String>,
    },
    /// A model cannot be exported as was asked.
    #[error("{0}")]
    Export(String),
    /// The prompt leaves no room for a correction.
    #[error(
        "question and answer give a prompt of {prompt_tokens} tokens, but the model's context holds {max_positions}; \
         shorten the answer, or have it corrected in windows (--long windows)"
    )]
    PromptTooLong {
        /// Tokens of the prompt.
        prompt_tokens: usize,
        /// Tokens the context holds.
        max_positions: usize,
    },
    /// A conversation that is to be scored is longer than the model's context: a score of a part of it would be of something
    /// else.
    #[error(
        "the conversation has {tokens} tokens, but the context of the model that scores it holds {max_positions}; leave earlier \
         turns out, or the answer unscored"
    )]
    ConversationTooLong {
        /// Tokens of the conversation.
        tokens: usize,
        /// Tokens the context holds.
        max_positions: usize,
    },
    /// A model that sorts texts into classes instead of scoring them.
    #[error("{model} gives {outputs} scores for an answer; a reward or cost model gives one")]
    ManyScores {
        /// The model directory.
        model: String,
        /// Its scores.
        outputs: usize,
    },
    /// An answer cannot be corrected in windows, because nothing would fit into one.
    #[error(
        "the question alone gives a prompt of {question_tokens} tokens; with a context of {max_positions} and at most \
         {max_new_tokens} new tokens no window of the answer has room: shorten the question or raise --max-new-tokens"
    )]
    NoRoomForWindows {
        /// Tokens of the prompt with an empty answer.
        question_tokens: usize,
        /// Tokens the context holds.
        max_positions: usize,
        /// Limit of new tokens.
        max_new_tokens: usize,
    },
    /// Prompt and correction together are longer than the context.
    #[error(
        "prompt ({prompt_tokens} tokens) and correction ({target_tokens}) are longer than the model's context of \
         {max_positions}"
    )]
    TargetTooLong {
        /// Tokens of the prompt.
        prompt_tokens: usize,
        /// Tokens of the correction, the end of sequence included.
        target_tokens: usize,
        /// Tokens the context holds.
        max_positions: usize,
    },
    /// Template, question and answer together have no token.
    #[error("the prompt is empty: the template has no text of its own, and neither have question and answer")]
    EmptyPrompt,
    /// The thread that wrote a stream ended without a result.
    #[error(
        "the correction broke off: the thread that computed it panicked, see its message on standard error"
    )]
    BrokenOff,
    /// A pass that computed several corrections at once failed, and with it each of them.
    #[error("the pass through the model that this correction was part of failed: {0}")]
    Pass(#[source] Arc<InferError>),
    /// A request needs more memory for its keys and values than all requests together may have.
    #[error(
        "prompt and correction of up to {tokens} tokens need {needed} bytes for keys and values, but all requests together may \
         have {allowed} (--kv-memory); allow more, or fewer new tokens"
    )]
    KvMemory {
        /// Tokens of the prompt and new tokens at most.
        tokens: usize,
        /// Bytes they need.
        needed: usize,
        /// Bytes there are.
        allowed: usize,
    },
    /// A strength is asked for, and the model has no control vector.
    #[error(
        "{0} has no steering.safetensors, which a strength other than 1 needs; make it with `aligner steer fit`"
    )]
    NoSteering(String),
    /// The control vector beside a model was fitted to another one.
    #[error(
        "steering.safetensors in {model} was fitted to another model: its {differs} is not this one's; \
         make it anew with `aligner steer fit`"
    )]
    WrongSteering {
        /// The model directory.
        model: String,
        /// What is not the same: `weights`, `base_weights` or `template`.
        differs: &'static str,
    },
    /// A sampling parameter has a value that cannot be used.
    #[error("{name} is {value}; it must be {rule}")]
    Sampling {
        /// The parameter.
        name: &'static str,
        /// Its value.
        value: f64,
        /// What it must be.
        rule: &'static str,
    },
    /// A text has a token that the model does not have.
    #[error(
        "the tokenizer gives id {id}, but the model has {vocab_size} tokens: they do not belong together"
    )]
    UnknownToken {
        /// The id.
        id: u32,
        /// Tokens of the model.
        vocab_size: usize,
    },
    /// The model gave scores that are not numbers.
    #[error(
        "the model's scores for token {position} are not numbers: its weights are damaged or the device failed"
    )]
    BadLogits {
        /// Position of the token in the sequence.
        position: usize,
    },
}
