//! Ctrl-C and SIGTERM.
//!
//! The first sets a flag that long work looks at; the work then undoes what it began and the program
//! ends with 130. The second ends it at once: a frozen container is then thawed by its guard.

use std::io::{self, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGINT, SIGTERM};

use crate::exit::Exit;

/// Whether the user wants the program to end. Clones share one flag.
#[derive(Debug, Clone, Default)]
pub(crate) struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// Begins to listen.
    pub(crate) fn listen() -> io::Result<Self> {
        let flag = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM] {
            // in this order: the first signal finds the flag unset, and sets it
            let status = i32::from(Exit::Interrupted.code());
            signal_hook::flag::register_conditional_shutdown(signal, status, Arc::clone(&flag))?;
            signal_hook::flag::register(signal, Arc::clone(&flag))?;
        }
        Ok(Self(flag))
    }

    pub(crate) fn flag(&self) -> &AtomicBool {
        &self.0
    }

    pub(crate) fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// A stream that ends with an error when the flag is set, for work that knows no flags.
    pub(crate) fn stream<T>(&self, inner: T) -> Cancellable<T> {
        Cancellable { inner, cancel: self.clone() }
    }
}

/// See [`Cancel::stream`].
#[derive(Debug)]
pub(crate) struct Cancellable<T> {
    inner: T,
    cancel: Cancel,
}

impl<T> Cancellable<T> {
    fn check(&self) -> io::Result<()> {
        // not `Interrupted`: callers try that again
        if self.cancel.is_set() { Err(io::Error::other("interrupted")) } else { Ok(()) }
    }

    pub(crate) fn into_inner(self) -> T {
        self.inner
    }
}

impl<R: Read> Read for Cancellable<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.check()?;
        self.inner.read(buffer)
    }
}

impl<W: Write> Write for Cancellable<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.check()?;
        self.inner.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
