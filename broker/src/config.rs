//! Settings of a broker: one TOML file, every key overridable by the environment.
//!
//! `data_dir` is overridden by `SLUICE_SERVE_DATA_DIR`, `tls.certificate` by
//! `SLUICE_SERVE_TLS__CERTIFICATE`. Unknown keys are refused.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use figment::Figment;
use figment::providers::{Env, Format, Serialized, Toml};
use serde::{Deserialize, Serialize};
use sluicegate_protocol::limits::{BODY_BYTES_DEFAULT, BODY_BYTES_MAX};

/// Highest `http_write_seconds`.
const HTTP_WRITE_SECONDS_MAX: u64 = 86_400;

/// Settings of a broker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where everything is kept. Default `sluicegate-data` in the working directory.
    pub data_dir: PathBuf,
    /// UDP address of the QUIC listener. Default `127.0.0.1:7420`; port 0 takes a free one.
    pub listen: SocketAddr,
    /// TCP address of the admin HTTPS API. Default `127.0.0.1:7421`; port 0 takes a free one.
    pub admin_listen: SocketAddr,
    /// TCP address of the HTTPS door for messages. Default `127.0.0.1:7422`; port 0 takes a free one.
    pub http_listen: SocketAddr,
    /// Web pages of these origins, for example `https://app.example.com`, may use that door; `*` for all. Default none.
    pub http_origins: Vec<String>,
    /// Seconds for which a client of that door may take nothing of what is being sent to it; then its connection ends. Default 60, at
    /// least 1.
    pub http_write_seconds: u64,
    /// Development mode: a certificate is made, topics are made on first use, and loopback peers
    /// need no token. Default false.
    pub dev: bool,
    /// Shards of a new store; an existing store keeps its own number. Default 16.
    pub shards: u16,
    /// Seconds that a shutdown waits for open leases to be settled. Default 10.
    pub drain_seconds: u64,
    /// Room that is kept free on the disk of `data_dir`: with less, publishes are refused, all else goes on. Default 5 % of
    /// the disk, at least 64 MiB and at most 1 GiB. 0 refuses nothing.
    pub disk_reserve_bytes: Option<u64>,
    /// Bytes of the largest body that is taken. Default 64 MiB, at most 256 MiB.
    pub max_body_bytes: u64,
    /// Certificate and key, PEM files. Needed unless in development mode.
    pub tls: Option<TlsFiles>,
    /// Who may do what.
    pub tokens: Vec<TokenGrant>,
}

/// PEM files of the listener.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsFiles {
    /// Certificate chain, the broker's own first.
    pub certificate: PathBuf,
    /// Private key of the first certificate.
    pub key: PathBuf,
}

/// A token, by its hash, and what it allows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenGrant {
    /// Whose it is, for the log.
    pub name: String,
    /// SHA-256 of the token, 64 hexadecimal digits: `printf %s "$TOKEN" | sha256sum`.
    pub sha256: String,
    /// What it allows.
    pub rights: Vec<Right>,
}

/// Something that a token may allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Right {
    /// Publish to topics.
    Publish,
    /// Consume in groups.
    Consume,
    /// See what the admin API shows, change nothing.
    Read,
    /// Everything on the admin API.
    Admin,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data_dir: "sluicegate-data".into(),
            listen: SocketAddr::from(([127, 0, 0, 1], 7420)),
            admin_listen: SocketAddr::from(([127, 0, 0, 1], 7421)),
            http_listen: SocketAddr::from(([127, 0, 0, 1], 7422)),
            http_origins: Vec::new(),
            http_write_seconds: 60,
            dev: false,
            shards: 16,
            drain_seconds: 10,
            disk_reserve_bytes: None,
            max_body_bytes: BODY_BYTES_DEFAULT,
            tls: None,
            tokens: Vec::new(),
        }
    }
}

/// Settings that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file is not there or cannot be read.
    #[error("config file {}: {problem}", .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        problem: String,
    },
    /// A key or value is wrong; the message names it and where it came from.
    #[error("config: {0}")]
    Invalid(String),
}

fn in_file(path: &Path, error: &figment::Error) -> String {
    format!("{}: {}", path.display(), one_line(error).replace(" in TOML source string", ""))
}

/// All that is wrong, on one line: an excerpt of the file would be several.
fn one_line(error: &figment::Error) -> String {
    let text = error.to_string();
    let is_excerpt = |line: &&str| line.trim_start_matches(|c: char| c.is_ascii_digit()).trim_start().starts_with('|');
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !is_excerpt(line));
    lines.collect::<Vec<_>>().join("; ")
}

impl Config {
    /// Defaults, then the file, then the environment; `dev` turns development mode on. [`Config::check`] comes after.
    ///
    /// # Errors
    /// [`ConfigError`] names the file, key or value that is wrong.
    pub fn load(file: Option<&Path>, dev: bool) -> Result<Self, ConfigError> {
        let mut figment = Figment::from(Serialized::defaults(Self::default()));
        if let Some(path) = file {
            let unreadable =
                |error: std::io::Error| ConfigError::Unreadable { path: path.into(), problem: error.to_string() };
            let text = std::fs::read_to_string(path).map_err(unreadable)?;
            let invalid = |error: figment::Error| ConfigError::Invalid(in_file(path, &error));
            // Alone first, so that what is wrong in the file is told with its name.
            let alone = figment.clone().merge(Toml::string(&text));
            alone.extract::<Self>().map_err(invalid)?;
            figment = alone;
        }
        let mut config: Self = figment
            .merge(Env::prefixed("SLUICE_SERVE_").split("__"))
            .extract()
            .map_err(|error| ConfigError::Invalid(one_line(&error)))?;
        config.dev |= dev;
        Ok(config)
    }

    /// Checks what types cannot say.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`] names the key.
    pub fn check(&self) -> Result<(), ConfigError> {
        let refuse = |message: String| Err(ConfigError::Invalid(message));
        if self.shards == 0 || self.shards > 1_024 {
            return refuse(format!("shards is {}, allowed are 1 to 1024", self.shards));
        }
        if self.max_body_bytes > BODY_BYTES_MAX {
            return refuse(format!("max_body_bytes is {}, at most {BODY_BYTES_MAX} are allowed", self.max_body_bytes));
        }
        if self.http_write_seconds == 0 || self.http_write_seconds > HTTP_WRITE_SECONDS_MAX {
            let (seconds, max) = (self.http_write_seconds, HTTP_WRITE_SECONDS_MAX);
            return refuse(format!("http_write_seconds is {seconds}, allowed are 1 to {max}"));
        }
        for origin in &self.http_origins {
            if !is_origin(origin) {
                return refuse(format!(
                    "http_origins: `{origin}` is not an origin as in `https://app.example.com`, or `*`"
                ));
            }
        }
        for token in &self.tokens {
            if token.sha256.len() != 64 || !token.sha256.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                return refuse(format!("tokens: sha256 of `{}` is not 64 hexadecimal digits", token.name));
            }
        }
        if self.dev {
            return Ok(());
        }
        if self.tls.is_none() {
            return refuse(
                "tls.certificate and tls.key are needed; `--dev` makes a certificate for development".into(),
            );
        }
        if self.tokens.is_empty() {
            return refuse("tokens is empty, so nobody could connect; `--dev` needs none on loopback".into());
        }
        Ok(())
    }
}

/// Whether it is `*`, or a scheme and a host as a browser says them: without a path.
fn is_origin(origin: &str) -> bool {
    let host = origin.strip_prefix("https://").or_else(|| origin.strip_prefix("http://"));
    let is_host = |host: &str| !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/');
    origin == "*" || host.is_some_and(is_host)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(text: &str) -> String {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let error = Config::load(Some(file.path()), true).unwrap_err().to_string();
        error.replace(file.path().to_str().unwrap(), "FILE")
    }

    #[test]
    fn an_origin_is_a_scheme_and_a_host() {
        assert!(["*", "https://a.example", "http://localhost:8080"].into_iter().all(is_origin));
        assert!(!["", "a.example", "https://", "https://a.example/", "https://a b"].into_iter().any(is_origin));
    }

    #[test]
    fn what_is_wrong_in_a_file_is_one_line_with_its_name() {
        let wrong_type = problem("dev = 'a|b'");
        assert!(wrong_type.starts_with("config: FILE: ") && wrong_type.contains("a|b"), "{wrong_type}");
        let syntax = problem("listen = \n");
        assert!(syntax.starts_with("config: FILE: TOML parse error at line 1") && !syntax.contains('\n'), "{syntax}");
        assert!(!syntax.contains('|'), "{syntax}");
    }
}
