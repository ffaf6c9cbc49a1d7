//! The `quintet` program: reads the command line, runs one command, turns errors into words.
//!
//! - `args`: what can be typed; `settings`: what the environment says
//! - `commands`: one file each
//! - `input`, `output`, `rows`, `npy`: data in and out; `sample`: texts where the user names none
//! - `model`: from `--model` to a loaded model
//! - `table`, `progress`: what people see
//! - `hub`: the model hub over HTTP
//! - `state`: the state of a hosted service
//! - `failure`: errors, hints and exit codes

use std::process::ExitCode;

mod args;
mod commands;
mod failure;
mod hub;
mod input;
mod model;
mod npy;
mod output;
mod progress;
mod rows;
mod sample;
mod settings;
mod state;
mod table;

use args::{Args, Command};
use settings::Settings;

fn main() -> ExitCode {
    match std::panic::catch_unwind(quintet) {
        Ok(exit_code) => exit_code,
        Err(_) => failure::report_panic(),
    }
}

fn quintet() -> ExitCode {
    let args = match Args::read() {
        Ok(args) => args,
        Err(usage) => return failure::report_usage(&usage),
    };
    match run(args.command, &Settings::from_env()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failure::report(&error),
    }
}

fn run(command: Command, settings: &Settings) -> anyhow::Result<()> {
    match command {
        Command::Embed(args) => commands::embed::run(&args, settings),
        Command::Similarity(args) => commands::similarity::run(&args, settings),
        Command::Tokenize(args) => commands::tokenize::run(&args, settings),
        Command::Pull(args) => {
            let (output, log) = (&mut output::Output::stdout(), &mut std::io::stderr());
            Ok(commands::pull::run(&args, &settings.hub, output, log)?)
        }
        Command::Models(args) => commands::models::run(&args, settings),
        Command::Calibrate(args) => commands::calibrate::run(&args, settings),
        Command::Pack(args) => commands::pack::run(&args, settings),
        Command::Info(args) => commands::info::run(&args, settings),
        Command::Verify(args) => commands::verify::run(&args, settings),
        Command::Bench(args) => commands::bench::run(&args, settings),
        Command::Tune(args) => commands::tune::run(&args, settings),
        Command::Serve(args) => commands::serve::run(&args, settings),
        Command::Config(args) => commands::config::run(&args, settings),
        Command::Accounts(args) => commands::accounts::run(&args, settings),
        Command::Keys(args) => commands::keys::run(&args, settings),
        Command::Credit(args) => commands::credit::run(&args, settings),
        Command::Usage(args) => commands::usage::run(&args, settings),
        Command::Ledger(args) => commands::ledger::run(&args, settings),
    }
}
