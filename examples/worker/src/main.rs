//! A daemon that loads a model and reports progress, health and metrics over HTTP.

mod failure;
mod health;
mod http;
mod load;
mod metrics;
mod progress;
mod status;

use clap::Parser;
use loader::{CancelToken, DeviceChoice, Error};
use serde_json::json;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::pin;
use std::process::ExitCode;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{oneshot, watch};
use tracing_subscriber::EnvFilter;

/// Loads a Phi-3 model from a GGUF file and reports its health over HTTP.
#[derive(Parser)]
struct Args {
    /// The GGUF file
    model: PathBuf,
    /// The address and port to listen on; port 0 takes a free port
    #[arg(long, value_name = "ADDR")]
    listen: SocketAddr,
    /// The device to load to: auto, host, cuda or cuda:N
    #[arg(long, default_value_t)]
    device: DeviceChoice,
    /// Where the weights stay when the worker ends: the socket of a keeper, or `systemd`
    #[arg(long, value_name = "SOCKET", env = "WORKER_RESIDENT")]
    resident: Option<PathBuf>,
}

/// The time that open requests have to end when the process ends.
const SHUTDOWN_TIME: Duration = Duration::from_secs(5);

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    // The worker prints the error of a failed load itself.
    let log = EnvFilter::from_default_env()
        .add_directive("loader::failure=off".parse().expect("a directive"));
    tracing_subscriber::fmt().with_env_filter(log).with_writer(io::stderr).init();
    run(args).await.unwrap_or_else(|error| {
        tracing::error!("{error}");
        ExitCode::FAILURE
    })
}

async fn run(args: Args) -> io::Result<ExitCode> {
    let mut signal = pin!(end_signal()?);
    let listener = TcpListener::bind(args.listen).await.map_err(|error| {
        io::Error::new(error.kind(), format!("cannot listen on {}: {error}", args.listen))
    })?;
    let address = listener.local_addr()?;
    let status = watch::Sender::default();
    let (stop, stopped) = oneshot::channel::<()>();
    let server = axum::serve(listener, http::router(status.clone()))
        .with_graceful_shutdown(async { drop(stopped.await) });
    let server = tokio::spawn(server.into_future());
    writeln!(io::stdout(), "listening {address}")?;
    io::stdout().flush()?;

    let cancel = CancelToken::new();
    let token = cancel.clone();
    let mut load = pin!(load::blocking(move || {
        load::load(args.model, args.device, args.resident, &token, &status)
    }));
    let (loaded, signalled) = tokio::select! {
        loaded = &mut load => (loaded, None),
        code = &mut signal => {
            cancel.cancel();
            (load.await, Some(code))
        }
    };
    let code = match loaded {
        Ok(resident) => {
            // Here a real worker starts to serve requests with the model.
            tracing::info!(device = %resident.model.device(), "the model is ready");
            // A signal that came too late to cancel the load ends the worker now.
            if signalled.is_none() {
                signal.await;
            }
            0
        }
        Err(error) => report(&error, signalled),
    };
    drop(stop);
    if tokio::time::timeout(SHUTDOWN_TIME, server).await.is_err() {
        tracing::warn!("requests were still open after {SHUTDOWN_TIME:?}");
    }
    Ok(ExitCode::from(code))
}

/// Installs the handlers of Ctrl-C and SIGTERM. The result waits for the first signal, and returns the exit code
/// of a process that it ends.
fn end_signal() -> io::Result<impl Future<Output = u8>> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => 130,
            _ = terminate.recv() => 143,
        }
    })
}

/// Prints the error of a load as one line of JSON. Returns the exit code of the process.
fn report(error: &Error, signalled: Option<u8>) -> u8 {
    let of_signal = signalled.filter(|_| matches!(error, Error::Cancelled));
    let code = of_signal.unwrap_or(error.exit_code());
    let mut line = json!(error);
    line["exit_code"] = code.into();
    // If standard error is closed, the exit code still tells the cause.
    let _ = writeln!(io::stderr(), "{line}");
    code
}
