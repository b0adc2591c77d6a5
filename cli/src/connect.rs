//! Where the broker is and how it is trusted.

use std::path::PathBuf;

use sluicegate_client::admin::Admin;
use sluicegate_client::{Client, Trust};

/// Where the broker is.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Broker {
    /// Address of the broker's QUIC listener.
    #[arg(
        long = "broker",
        global = true,
        env = "SLUICE_BROKER",
        default_value = "127.0.0.1:7420",
        value_name = "HOST:PORT"
    )]
    address: String,
    /// Address of the broker's admin API.
    #[arg(long, global = true, env = "SLUICE_ADMIN", default_value = "https://127.0.0.1:7421", value_name = "URL")]
    admin: String,
    /// PEM file with the certificate to trust; a development broker writes its own to its data directory.
    #[arg(
        long,
        global = true,
        env = "SLUICE_CERTIFICATE",
        default_value = "sluicegate-data/dev-cert.pem",
        value_name = "FILE"
    )]
    certificate: PathBuf,
    /// Token to present; a development broker needs none on loopback.
    #[arg(long, global = true, env = "SLUICE_TOKEN", hide_env_values = true, value_name = "TOKEN")]
    token: Option<String>,
}

impl Broker {
    fn trust(&self) -> Trust {
        Trust::Certificate(self.certificate.clone())
    }

    /// A client for producers and consumers.
    pub(crate) fn client(&self) -> Client {
        let builder = Client::builder(&self.address, self.trust()).name(concat!("sluice/", env!("CARGO_PKG_VERSION")));
        // The certificate names the broker as its users call it; a development broker's names `localhost` and loopback.
        let builder = match self.address.rsplit_once(':') {
            Some((host, _)) => builder.server_name(host.trim_start_matches('[').trim_end_matches(']')),
            None => builder,
        };
        match &self.token {
            Some(token) => builder.token(token).build(),
            None => builder.build(),
        }
    }

    /// A client of the admin API.
    pub(crate) fn admin(&self) -> anyhow::Result<Admin> {
        Ok(Admin::new(&self.admin, &self.trust(), self.token.clone())?)
    }
}
