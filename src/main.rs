//! The command line: arguments → configuration → telemetry → run → exit code.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use keyway::config::{Inputs, Mistakes, Resolved, resolve};
use keyway::demo;
use keyway::telemetry::log;

/// Makes a Redis or Valkey Cluster look like one standalone server.
#[derive(Debug, Parser)]
#[command(version, about, after_help = AFTER_HELP)]
struct Arguments {
    #[command(flatten)]
    configuration: Configuration,
    #[command(subcommand)]
    command: Option<Command>,
}

const AFTER_HELP: &str = "\
Without a command the proxy runs. config.toml documents every key; each can also be given as
--set proxy.listen=127.0.0.1:6380 or as an environment variable, KEYWAY_PROXY_LISTEN.";

#[derive(Debug, Args)]
struct Configuration {
    /// The configuration file (TOML); without it the defaults hold
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Overrule one key, as in --set proxy.workers=2; may be given several times
    #[arg(long, global = true, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Report every mistake in the configuration, or show what holds
    CheckConfig,
    /// Start a cluster on this machine and the proxy before it; both are gone when it stops
    Demo(demo::Options),
}

fn main() -> ExitCode {
    let Arguments { configuration, command } = Arguments::parse();
    let outcome = match command {
        None => configuration.resolve().map_err(report).and_then(run),
        Some(Command::CheckConfig) => configuration.resolve().map_err(report).map(|resolved| print!("{}", resolved.show())),
        Some(Command::Demo(options)) => run_demo(configuration, &options),
    };
    outcome.map_or_else(|failed| failed, |()| ExitCode::SUCCESS)
}

impl Configuration {
    fn resolve(self) -> Result<Resolved, Mistakes> {
        let resolved = resolve(&Inputs::gather(self.config.as_deref(), self.set))?;
        let mistakes = keyway::app::mistakes(&resolved);
        if mistakes.is_empty() { Ok(resolved) } else { Err(Mistakes(mistakes)) }
    }
}

fn run_demo(mut configuration: Configuration, options: &demo::Options) -> Result<(), ExitCode> {
    let plan = demo::Plan::new(options).map_err(report)?;
    configuration.set.extend(plan.settings());
    let resolved = configuration.resolve().map_err(report)?;
    let demo = plan.start().map_err(report)?;
    print!("{}", demo.guide());
    let outcome = run(resolved);
    // The cluster outlives the proxy, which may still be answering clients until here.
    drop(demo);
    outcome
}

fn run(resolved: Resolved) -> Result<(), ExitCode> {
    log::init(&resolved.config.log);
    keyway::app::run(resolved.config).map_err(report)
}

fn report(error: impl std::error::Error) -> ExitCode {
    eprintln!("keyway: {error}");
    ExitCode::FAILURE
}
