//! `describe` has no configuration: what it does is written into the component by the test that uploads it.

use std::hint::black_box;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};

use crate::{Call, Misbehaviour};
use crate::harm::Harm;

/// The part before the first full stop is patched: the same length in any case.
#[used]
static PATCH: [AtomicU8; 32] = {
    let text = *b"describe=as-usual...............";
    let mut bytes = [const { AtomicU8::new(0) }; 32];
    let mut at = 0;
    while at < 32 {
        bytes[at] = AtomicU8::new(text[at]);
        at += 1;
    }
    bytes
};

/// Does what the patch says, and answers the version.
pub(crate) fn describe() -> &'static str {
    let text: Vec<u8> = black_box(&PATCH).iter().map(|byte| byte.load(Relaxed)).collect();
    let text = String::from_utf8(text).expect("a patch is text");
    let how = match text.trim_start_matches("describe=").trim_end_matches('.') {
        "spin" => Misbehaviour::Spin,
        "panic" => Misbehaviour::Panic,
        "trap" => Misbehaviour::Trap,
        "allocate-all" => Misbehaviour::AllocateAll,
        "recurse" => Misbehaviour::Recurse,
        "flood-log" => Misbehaviour::FloodLog,
        "version-2" => return "2.0.0",
        "long" => return Box::leak("v".repeat(3 << 20).into_boxed_str()),
        "forged" => return "1.0.0\n\x1b[2J",
        _ => Misbehaviour::None,
    };
    Harm::new(how, 0).during(how, Call::Any, Call::Any);
    env!("CARGO_PKG_VERSION")
}
