//! Error codes of the wire and of the HTTP API. What the caller should do decides the code.

use std::fmt;
use std::str::FromStr;

/// Text that is no [`ErrorCode`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an error code")]
pub struct UnknownErrorCode(String);

macro_rules! error_codes {
    ($($(#[$doc:meta])* $name:ident = $text:literal, $number:literal, http $http:literal;)*) => {
        /// Why a request was refused. Numbers and texts are stable: they are stored and sent.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum ErrorCode {
            $($(#[$doc])* $name,)*
        }

        impl ErrorCode {
            /// All codes, in the order of their numbers.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// The stable text, as HTTP and the command line show it.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// The stable number, as the wire carries it.
            pub const fn number(self) -> u32 {
                match self { $(Self::$name => $number,)* }
            }

            /// The HTTP status that the same error has on the HTTP API.
            pub const fn http_status(self) -> u16 {
                match self { $(Self::$name => $http,)* }
            }

            /// The code with this number. A number from a newer peer is [`ErrorCode::Internal`].
            pub const fn from_number(number: u32) -> Self {
                match number { $($number => Self::$name,)* _ => Self::Internal }
            }
        }
    };
}

error_codes! {
    /// The frame cannot be understood; the stream is closed. Correct the client.
    ProtocolViolation = "protocol_violation", 1, http 400;
    /// No protocol version in common. Update the older side.
    VersionUnsupported = "version_unsupported", 2, http 400;
    /// A value in the request broke a rule. Correct the request.
    InvalidArgument = "invalid_argument", 3, http 400;
    /// No token, or one that the broker does not know. Present a valid token.
    Unauthenticated = "unauthenticated", 10, http 401;
    /// The token lacks the right. Use another token.
    PermissionDenied = "permission_denied", 11, http 403;
    /// The topic does not exist. Create it.
    UnknownTopic = "unknown_topic", 20, http 404;
    /// The group does not exist. Create it.
    UnknownGroup = "unknown_group", 21, http 404;
    /// The policy does not exist. Upload it.
    UnknownPolicy = "unknown_policy", 22, http 404;
    /// The lite topic does not exist, or its life is over.
    UnknownLite = "unknown_lite", 23, http 404;
    /// The messages from that offset on are not kept any more. Read from `detail.first` on, and know that there is a gap.
    Trimmed = "trimmed", 24, http 410;
    /// The life of the lite topic that was being read, or that a position names, is over. Begin with the life that there is.
    Reclaimed = "reclaimed", 25, http 410;
    /// No message has that offset yet, and the next one will not either. Correct the position.
    BeyondEnd = "beyond_end", 26, http 416;
    /// The capsule is not kept, or not any more.
    UnknownCapsule = "unknown_capsule", 27, http 404;
    /// There is no such session, or it was silent for too long, or it was another process's. Open one.
    UnknownSession = "unknown_session", 28, http 404;
    /// It exists already with other settings. Choose another name.
    AlreadyExists = "already_exists", 30, http 409;
    /// The idempotency key was used for another body; or the producer sequence is older than any that may be resent: what
    /// became of it is forgotten.
    IdempotencyConflict = "idempotency_conflict", 31, http 409;
    /// The message's tenant differs from its lite topic's.
    TenantConflict = "tenant_conflict", 32, http 409;
    /// The lease ended before: settled, expired, or given to another session. Drop the work.
    LeaseLost = "lease_lost", 33, http 409;
    /// Something open stands in the way, for example a lease. End it first.
    InUse = "in_use", 34, http 409;
    /// The worker says that the request failed for good, or it was cancelled; the message says why.
    RequestFailed = "request_failed", 35, http 502;
    /// A body, header or frame is larger than its limit.
    TooLarge = "too_large", 40, http 413;
    /// A limit is reached. Wait `retry_after_ms` or remove something.
    LimitReached = "limit_reached", 41, http 429;
    /// The broker's disk is nearly full: nothing was published. Try again after `retry_after_ms`, or make room.
    DiskFull = "disk_full", 42, http 507;
    /// The policy was refused; the message says why and what would help.
    PolicyRejected = "policy_rejected", 50, http 422;
    /// The broker is draining or starting. Reconnect after `retry_after_ms`.
    Unavailable = "unavailable", 60, http 503;
    /// The store failed; whether the last change is durable is unknown. Resend with the same sequence.
    StoreFailed = "store_failed", 61, http 503;
    /// A fault of the broker. Report it.
    Internal = "internal", 99, http 500;
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for ErrorCode {
    type Err = UnknownErrorCode;

    fn from_str(text: &str) -> Result<Self, UnknownErrorCode> {
        Self::ALL.iter().copied().find(|code| code.as_str() == text).ok_or_else(|| UnknownErrorCode(text.into()))
    }
}

impl serde::Serialize for ErrorCode {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> serde::Deserialize<'de> for ErrorCode {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_found_by_its_number_and_its_text() {
        for &code in ErrorCode::ALL {
            assert_eq!(ErrorCode::from_number(code.number()), code);
            assert_eq!(code.as_str().parse(), Ok(code));
        }
        assert_eq!(ErrorCode::from_number(4_000), ErrorCode::Internal);
    }
}
