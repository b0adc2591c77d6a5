//! Bodies that are made, of any size.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncRead, ReadBuf};

/// Bytes that look like nothing, the same for the same seed.
#[derive(Debug)]
pub struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// So many of them.
    pub fn body(seed: u64, bytes: usize) -> Bytes {
        let mut noise = Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let mut body = Vec::with_capacity(bytes + 8);
        while body.len() < bytes {
            body.extend_from_slice(&noise.next().to_le_bytes());
        }
        body.truncate(bytes);
        body.into()
    }
}

/// A body that is made while it is read, so that no memory holds it; ends in a failure if it is told to.
#[derive(Debug)]
pub struct Made {
    noise: Noise,
    digest: Sha256,
    left: usize,
    fails: bool,
    done: Option<tokio::sync::oneshot::Sender<Vec<u8>>>,
}

impl Made {
    /// So many bytes, and their digest when all of them were read.
    pub fn new(bytes: usize) -> (Self, tokio::sync::oneshot::Receiver<Vec<u8>>) {
        let (done, digest) = tokio::sync::oneshot::channel();
        (Self { noise: Noise(7), digest: Sha256::new(), left: bytes, fails: false, done: Some(done) }, digest)
    }

    /// One that fails behind so many.
    pub fn failing_after(bytes: usize) -> Self {
        Self { fails: true, ..Self::new(bytes).0 }
    }
}

impl AsyncRead for Made {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        if self.left == 0 && self.fails {
            return Poll::Ready(Err(std::io::Error::other("the source broke")));
        }
        let bytes = out.remaining().min(self.left).min(64 << 10);
        let mut part = Vec::with_capacity(bytes + 8);
        while part.len() < bytes {
            part.extend_from_slice(&self.noise.next().to_le_bytes());
        }
        part.truncate(bytes);
        self.digest.update(&part);
        self.left -= bytes;
        out.put_slice(&part);
        if self.left == 0
            && let Some(done) = self.done.take()
        {
            // The test may not want to know.
            let _ = done.send(self.digest.clone().finalize().to_vec());
        }
        Poll::Ready(Ok(()))
    }
}
