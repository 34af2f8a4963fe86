//! One page of a file in memory: stores and loads through a map (mmap(2)).
//!
//! For programs that must do to a file what any process can do to it and no system call tells. A store
//! beyond the end of the file raises SIGBUS and ends the process: memory is never wrong.

use std::ffi::c_void;
use std::io;
use std::os::fd::BorrowedFd;

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

const LEN: usize = 4096;

/// The first page of a file, mapped for reading and writing.
#[derive(Debug)]
pub struct Page(*mut c_void);

impl Page {
    /// Stores reach the file. The descriptor may be closed afterwards.
    ///
    /// # Errors
    /// Those of mmap(2).
    pub fn shared(file: BorrowedFd<'_>) -> io::Result<Page> {
        Page::map(file, MapFlags::SHARED)
    }

    /// Stores stay ours.
    ///
    /// # Errors
    /// Those of mmap(2).
    pub fn private(file: BorrowedFd<'_>) -> io::Result<Page> {
        Page::map(file, MapFlags::PRIVATE)
    }

    fn map(file: BorrowedFd<'_>, flags: MapFlags) -> io::Result<Page> {
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: the kernel chooses an address that nothing else uses.
        let page = unsafe { mmap(std::ptr::null_mut(), LEN, protection, flags, file, 0) };
        Ok(Page(page?))
    }

    /// Stores into the first byte.
    pub fn store(&self, byte: u8) {
        // SAFETY: the page is mapped for writing as long as `self` lives.
        unsafe { self.0.cast::<u8>().write_volatile(byte) };
    }

    /// The first byte.
    #[must_use]
    pub fn load(&self) -> u8 {
        // SAFETY: the page is mapped for reading as long as `self` lives.
        unsafe { self.0.cast::<u8>().read_volatile() }
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        // SAFETY: the map is ours, and nobody refers to it any more.
        let _ = unsafe { munmap(self.0, LEN) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;
    use std::os::unix::fs::FileExt;

    #[test]
    fn a_shared_store_reaches_the_file_and_a_private_one_does_not() {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(b"abc", 0).unwrap();
        let read = || {
            let mut byte = [0];
            file.read_exact_at(&mut byte, 0).unwrap();
            byte[0]
        };
        let private = Page::private(file.as_fd()).unwrap();
        private.store(b'x');
        assert_eq!((private.load(), read()), (b'x', b'a'));
        Page::shared(file.as_fd()).unwrap().store(b'y');
        assert_eq!(read(), b'y');
    }
}
