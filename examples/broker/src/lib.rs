//! Where the broker is, as every example is told it: by the options and variables of `sluice`.
//!
//! `cargo xtask example NAME` starts a broker and sets the variables. Without it an example expects `sluice serve --dev` in the same
//! directory, or is told another place.

use std::path::PathBuf;

use sluicegate_client::admin::{Admin, AdminError};
use sluicegate_client::{Client, Trust};

/// Where the broker is.
#[derive(Debug, Clone, clap::Args)]
pub struct Broker {
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
}

impl Broker {
    /// A client with a connection of its own.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn client(&self) -> Client {
        Client::builder(&self.address, self.trust()).build()
    }

    /// The admin API.
    ///
    /// # Errors
    /// The certificate cannot be read.
    pub fn admin(&self) -> Result<Admin, AdminError> {
        Admin::new(&self.admin, &self.trust(), None)
    }

    /// The variables that tell another process of the example the same place.
    pub fn variables(&self) -> [(&'static str, PathBuf); 3] {
        [
            ("SLUICE_BROKER", self.address.clone().into()),
            ("SLUICE_ADMIN", self.admin.clone().into()),
            ("SLUICE_CERTIFICATE", self.certificate.clone()),
        ]
    }

    fn trust(&self) -> Trust {
        Trust::Certificate(self.certificate.clone())
    }
}
