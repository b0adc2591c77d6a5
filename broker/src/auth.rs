//! Who may do what: tokens are compared by their hash.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use axum::http::{HeaderMap, header};
use sha2::{Digest, Sha256};
use sluicegate_protocol::ErrorCode;

use crate::config::{Config, Right};
use crate::refusal::Refusal;

/// Whose a request is: the name of its token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Who(pub(crate) Arc<str>);

/// The token that a request's headers bring, if any.
///
/// # Errors
/// `unauthenticated`: the header is something else.
pub(crate) fn bearer(headers: &HeaderMap) -> Result<Option<&str>, Refusal> {
    let Some(value) = headers.get(header::AUTHORIZATION) else { return Ok(None) };
    let token = value.to_str().ok().and_then(|text| text.strip_prefix("Bearer ")).map(str::trim);
    let wrong = || Refusal::new(ErrorCode::Unauthenticated, "the Authorization header is not `Bearer TOKEN`");
    token.map(Some).ok_or_else(wrong)
}

/// Checks tokens.
#[derive(Debug)]
pub(crate) struct Auth {
    grants: HashMap<[u8; 32], (Who, Vec<Right>)>,
    open_on_loopback: bool,
}

impl Auth {
    pub(crate) fn new(config: &Config) -> Self {
        let grants = config
            .tokens
            .iter()
            .filter_map(|token| Some((unhex(&token.sha256)?, (Who(token.name.as_str().into()), token.rights.clone()))));
        Self { grants: grants.collect(), open_on_loopback: config.dev }
    }

    /// Refuses a peer whose token does not give `right`.
    pub(crate) fn check(&self, token: &str, peer: IpAddr, right: Right) -> Result<Who, Refusal> {
        if token.is_empty() {
            return if self.open_on_loopback && peer.is_loopback() {
                Ok(Who(peer.to_string().into()))
            } else {
                Err(Refusal::new(ErrorCode::Unauthenticated, "a token is needed"))
            };
        }
        let digest: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        match self.grants.get(&digest) {
            Some((who, rights)) if rights.contains(&right) => Ok(who.clone()),
            Some(_) => {
                let message = format!("the token lacks the right `{}`", name(right));
                Err(Refusal::new(ErrorCode::PermissionDenied, message))
            }
            None => Err(Refusal::new(ErrorCode::Unauthenticated, "the token is not known")),
        }
    }
}

const fn name(right: Right) -> &'static str {
    match right {
        Right::Publish => "publish",
        Right::Consume => "consume",
        Right::Read => "read",
        Right::Admin => "admin",
    }
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::TokenGrant;

    fn auth(dev: bool) -> Auth {
        let sha256 = format!("{:x}", Sha256::digest(b"secret"));
        let grant = TokenGrant { name: "ann".into(), sha256, rights: vec![Right::Publish] };
        Auth::new(&Config { dev, tokens: vec![grant], ..Config::default() })
    }

    #[test]
    fn a_token_gives_its_rights_and_no_others() {
        let (auth, far) = (auth(false), IpAddr::from([10, 0, 0, 1]));
        let code = |token, right| auth.check(token, far, right).map(drop).map_err(|refusal| refusal.code);
        assert_eq!(code("secret", Right::Publish), Ok(()));
        assert_eq!(code("secret", Right::Admin), Err(ErrorCode::PermissionDenied));
        assert_eq!(code("wrong", Right::Publish), Err(ErrorCode::Unauthenticated));
        assert_eq!(code("", Right::Publish), Err(ErrorCode::Unauthenticated));
    }

    #[test]
    fn development_mode_opens_loopback_only_and_not_to_wrong_tokens() {
        let (auth, near, far) = (auth(true), IpAddr::from([127, 0, 0, 1]), IpAddr::from([10, 0, 0, 1]));
        assert!(auth.check("", near, Right::Admin).is_ok());
        assert!(auth.check("", far, Right::Admin).is_err());
        assert!(auth.check("wrong", near, Right::Admin).is_err());
    }
}
