//! Stores through a shared map: what a container may do, and what safe code cannot say.

#![expect(unsafe_code, reason = "a test plays the container that maps a file")]

use std::fs::File;

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// One mapped page of a file.
pub struct Page(*mut std::ffi::c_void);

const LEN: usize = 4096;

impl Page {
    /// Maps the first page to write to it; the descriptor may be closed afterwards.
    pub fn shared(file: &File) -> Page {
        Page::map(file, ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED)
    }

    /// Maps the first page so that stores stay ours.
    pub fn private(file: &File) -> Page {
        Page::map(file, ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE)
    }

    fn map(file: &File, protection: ProtFlags, flags: MapFlags) -> Page {
        // SAFETY: the kernel chooses an address that nothing else uses.
        Page(unsafe { mmap(std::ptr::null_mut(), LEN, protection, flags, file, 0) }.unwrap())
    }

    pub fn store(&self, byte: u8) {
        // SAFETY: the page is mapped for writing as long as `self` lives, and files here have bytes in it.
        unsafe { self.0.cast::<u8>().write_volatile(byte) };
    }

    pub fn load(&self) -> u8 {
        // SAFETY: as for `store`.
        unsafe { self.0.cast::<u8>().read_volatile() }
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        // SAFETY: the map is ours, and nobody refers to it any more.
        unsafe { munmap(self.0, LEN) }.unwrap();
    }
}
