//! The `aligner` command: train a corrector, correct answers, score corrections, look at data.
//!
//! The command has no logic of its own: it turns what was typed into what is meant and calls the libraries. stdout is
//! data, stderr is for people. Exit status: 0 done, 1 failed, 2 asked wrongly.

mod allocator;
mod args;
mod commands;
mod error;
mod evaluator;
mod heat;
mod hub;
mod runs;
mod terminal;

use std::process::ExitCode;

use clap::Parser;

use args::{Cli, Command, DataCommand, InspectCommand, SteerCommand};
use error::CliError;
use terminal::Log;

fn main() -> ExitCode {
    let cli = Cli::parse();
    // A service sets its own log up, with what its arguments say of it.
    if !matches!(cli.command, Command::Serve(_)) {
        terminal::log_to_stderr(&Log {
            verbose: cli.verbose,
            ..Log::default()
        });
    }
    let done = match cli.command {
        Command::Train(args) => commands::train::run(&args),
        Command::Plan(args) => commands::plan::run(&args),
        Command::Report(args) => commands::report::run(&args),
        Command::Correct(args) => commands::correct::run(&args),
        Command::Serve(args) => commands::serve::run(&args, cli.verbose),
        Command::Chat(args) => commands::chat::run(&args),
        Command::Score(args) => commands::score::run(&args),
        Command::Eval { command } => commands::eval::run(&command),
        Command::Bootstrap(args) => commands::bootstrap::run(&args),
        Command::Steer {
            command: SteerCommand::Fit(args),
        } => commands::steer::fit(&args),
        Command::Inspect {
            command: InspectCommand::Layers(args),
        } => commands::inspect::layers::run(&args),
        Command::Inspect {
            command: InspectCommand::Tokens(args),
        } => commands::inspect::tokens::run(&args),
        Command::Import(args) => commands::import::run(&args),
        Command::Export(args) => commands::export::run(&args),
        Command::Data {
            command: DataCommand::Check(args),
        } => commands::data::check(&args),
        Command::Data {
            command: DataCommand::Show(args),
        } => commands::data::show(&args),
        Command::Data {
            command: DataCommand::Convert(args),
        } => commands::convert::run(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        // The reader of our output has gone, as `head` does: nothing failed.
        Err(CliError::ClosedPipe) => ExitCode::SUCCESS,
        Err(error) => {
            terminal::say_error(&error);
            if let Some(advice) = error.advice() {
                terminal::say(advice);
            }
            ExitCode::from(error.status())
        }
    }
}
