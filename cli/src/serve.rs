//! `sluice serve`.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::Serialize;
use sluicegate_broker::{Config, PolicyCompiler, Server};
use tokio::signal::unix::{SignalKind, signal};

use crate::exit::WrongInput;
use crate::output::{self, Format};

/// Runs a broker until SIGTERM or Ctrl-C, then drains: no new leases, open ones may be settled,
/// sessions stay for the next process.
#[derive(Debug, clap::Args)]
pub(crate) struct Serve {
    /// TOML file with settings; see `--print-config` for all keys and their defaults.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Development mode: makes a certificate, makes topics on first use, needs no token on loopback.
    #[arg(long)]
    dev: bool,
    /// Where everything is kept.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// UDP address of the QUIC listener; port 0 takes a free one.
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<SocketAddr>,
    /// TCP address of the admin HTTPS API; port 0 takes a free one.
    #[arg(long, value_name = "ADDRESS")]
    admin_listen: Option<SocketAddr>,
    /// TCP address of the HTTPS door for messages; port 0 takes a free one.
    #[arg(long, value_name = "ADDRESS")]
    http_listen: Option<SocketAddr>,
    /// Print the settings as they would be used, as TOML, and exit.
    #[arg(long)]
    print_config: bool,
}

/// Printed when the broker serves.
#[derive(Debug, Serialize)]
struct Ready {
    listen: SocketAddr,
    admin: String,
    http: String,
    certificate: PathBuf,
    data_dir: PathBuf,
}

impl Serve {
    pub(crate) async fn run(self, format: Format) -> anyhow::Result<()> {
        let config = self.config()?;
        if self.print_config {
            output::line(toml::to_string(&config)?.trim_end())?;
            return Ok(());
        }
        config.check().map_err(|error| WrongInput(error.to_string()))?;
        // Before anybody can learn that the broker runs, and want it to stop.
        let stop = stop_requested()?;
        let server = Server::bind(config.clone(), PolicyCompiler::this_program()?)?;
        let certificate = config.tls.map_or_else(|| config.data_dir.join("dev-cert.pem"), |tls| tls.certificate);
        let ready = Ready {
            listen: server.address(),
            admin: format!("https://{}", server.admin_address()),
            http: format!("https://{}", server.http_address()),
            certificate,
            data_dir: config.data_dir,
        };
        output::print(format, &ready, |ready| {
            format!("serving on {} (QUIC) and {}, admin API on {}", ready.listen, ready.http, ready.admin)
        })?;
        Ok(server.run(stop).await?)
    }

    fn config(&self) -> anyhow::Result<Config> {
        let mut config =
            Config::load(self.config.as_deref(), self.dev).map_err(|error| WrongInput(error.to_string()))?;
        if let Some(data_dir) = &self.data_dir {
            config.data_dir.clone_from(data_dir);
        }
        config.listen = self.listen.unwrap_or(config.listen);
        config.admin_listen = self.admin_listen.unwrap_or(config.admin_listen);
        config.http_listen = self.http_listen.unwrap_or(config.http_listen);
        Ok(config)
    }
}

/// From now on, SIGTERM and Ctrl-C no longer end the process; what is returned resolves at the first.
fn stop_requested() -> std::io::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}
