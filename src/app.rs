//! The proxy as a whole: constructs its parts from a configuration, owns their start and stop.

use crate::config::Config;

#[derive(Debug, thiserror::Error)]
pub enum AppError {
    #[error("cannot start the runtime: {0}")]
    Runtime(std::io::Error),
}

/// Runs until the process is told to stop.
pub fn run(config: Config) -> Result<(), AppError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(AppError::Runtime)?;
    tracing::info!(listen = ?config.proxy.listen, "running");
    runtime.block_on(async { drop(tokio::signal::ctrl_c().await) });
    Ok(())
}
