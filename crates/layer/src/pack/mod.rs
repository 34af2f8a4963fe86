//! (placeholder until the packer lands)

/// Where a member lies in the tar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Offset of its header.
    pub offset: u64,
    /// Length of the header.
    pub header: u64,
    /// Length of header, data and padding.
    pub len: u64,
}
