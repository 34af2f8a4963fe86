//! Buffers that go round: fresh memory costs a page fault per page, so each is used again and again.

use crossbeam_channel::{Receiver, Sender, unbounded};

/// A fixed number of buffers of one size; what bounds the memory of a [`Packer`](super::Packer).
#[derive(Debug)]
pub(super) struct Pool {
    size: usize,
    /// How many may still be allocated.
    fresh: usize,
    free: Receiver<Box<[u8]>>,
    back: Sender<Box<[u8]>>,
}

impl Pool {
    pub(super) fn new(count: usize, size: usize) -> Self {
        let (back, free) = unbounded();
        Pool { size, fresh: count, free, back }
    }

    /// An empty buffer; waits until one comes back when all are in use.
    pub(super) fn take(&mut self) -> Buffer {
        let bytes = match self.free.try_recv() {
            Ok(bytes) => bytes,
            Err(_) if self.fresh > 0 => {
                self.fresh -= 1;
                vec![0; self.size].into_boxed_slice()
            }
            // The pool holds a sender itself, so that the channel cannot be closed.
            Err(_) => self.free.recv().unwrap_or_else(|_| vec![0; self.size].into_boxed_slice()),
        };
        Buffer { bytes, len: 0, back: self.back.clone() }
    }
}

/// Memory of a fixed capacity, filled up to a length; goes back to its pool when dropped.
#[derive(Debug)]
pub(super) struct Buffer {
    bytes: Box<[u8]>,
    len: usize,
    back: Sender<Box<[u8]>>,
}

impl Buffer {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn filled(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    pub(super) fn capacity(&self) -> usize {
        self.bytes.len()
    }

    /// What is behind the filled part, whatever was there before.
    pub(super) fn spare(&mut self) -> &mut [u8] {
        &mut self.bytes[self.len..]
    }

    /// Counts `len` more bytes as filled.
    pub(super) fn advance(&mut self, len: usize) {
        self.len = (self.len + len).min(self.bytes.len());
    }

    pub(super) fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Appends bytes that fit.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.spare()[..bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
    }

    /// Appends zeros that fit.
    pub(super) fn zeros(&mut self, len: usize) {
        self.spare()[..len].fill(0);
        self.len += len;
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // Nobody takes it back when the packer is gone; then the memory is freed.
        let _ = self.back.send(std::mem::take(&mut self.bytes));
    }
}
