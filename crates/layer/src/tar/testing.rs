//! Archives for tests, the wrong ones too: each field can say anything.

/// A tar under construction.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tar {
    bytes: Vec<u8>,
}

/// One member; the defaults are a regular file of root, 0644, from second 1000.
#[derive(Debug, Clone)]
pub(crate) struct Item {
    pub(crate) name: Vec<u8>,
    pub(crate) flag: u8,
    pub(crate) link: Vec<u8>,
    pub(crate) mode: u32,
    pub(crate) ids: (u32, u32),
    pub(crate) mtime: u64,
    pub(crate) device: (u32, u32),
    pub(crate) data: Vec<u8>,
    /// What the size field says, if it is not the length of the data.
    pub(crate) size: Option<u64>,
    pub(crate) pax: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Item {
    pub(crate) fn new(name: impl AsRef<[u8]>, flag: u8) -> Self {
        Self {
            name: name.as_ref().to_vec(),
            flag,
            link: Vec::new(),
            mode: if flag == b'5' { 0o755 } else { 0o644 },
            ids: (0, 0),
            mtime: 1000,
            device: (0, 0),
            data: Vec::new(),
            size: None,
            pax: Vec::new(),
        }
    }

    pub(crate) fn file(name: impl AsRef<[u8]>, data: impl AsRef<[u8]>) -> Self {
        Self { data: data.as_ref().to_vec(), ..Self::new(name, b'0') }
    }

    pub(crate) fn dir(name: impl AsRef<[u8]>) -> Self {
        Self::new(name, b'5')
    }

    pub(crate) fn symlink(name: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Self {
        Self { link: target.as_ref().to_vec(), ..Self::new(name, b'2') }
    }

    pub(crate) fn hardlink(name: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Self {
        Self { link: target.as_ref().to_vec(), ..Self::new(name, b'1') }
    }

    pub(crate) fn mode(self, mode: u32) -> Self {
        Self { mode, ..self }
    }

    pub(crate) fn ids(self, uid: u32, gid: u32) -> Self {
        Self { ids: (uid, gid), ..self }
    }

    pub(crate) fn device(self, major: u32, minor: u32) -> Self {
        Self { device: (major, minor), ..self }
    }

    pub(crate) fn pax(mut self, key: &str, value: impl AsRef<[u8]>) -> Self {
        self.pax.push((key.into(), value.as_ref().to_vec()));
        self
    }

    pub(crate) fn xattr(self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.pax(&format!("SCHILY.xattr.{name}"), value)
    }
}

impl Tar {
    pub(crate) fn of(items: impl IntoIterator<Item = Item>) -> Vec<u8> {
        items.into_iter().fold(Self::default(), Self::with).end()
    }

    pub(crate) fn with(mut self, item: Item) -> Self {
        if !item.pax.is_empty() {
            let records = item.pax.iter().flat_map(|(key, value)| record(key, value)).collect();
            self = self.with(Item { data: records, ..Item::new("pax", b'x') });
        }
        self.bytes.extend(header(&item));
        self.bytes.extend(&item.data);
        self.bytes.resize(self.bytes.len().next_multiple_of(512), 0);
        self
    }

    pub(crate) fn raw(mut self, bytes: &[u8]) -> Self {
        self.bytes.extend(bytes);
        self
    }

    pub(crate) fn end(mut self) -> Vec<u8> {
        self.bytes.extend([0; 1024]);
        self.bytes
    }

    pub(crate) fn unended(self) -> Vec<u8> {
        self.bytes
    }
}

pub(crate) fn record(key: &[u8], value: &[u8]) -> Vec<u8> {
    let body = [b" ", key, b"=", value, b"\n"].concat();
    let mut len = body.len();
    while len != body.len() + len.to_string().len() {
        len = body.len() + len.to_string().len();
    }
    [len.to_string().as_bytes(), &body].concat()
}

pub(crate) fn header(item: &Item) -> [u8; 512] {
    let mut block = [0; 512];
    let mut put = |at: usize, len: usize, bytes: &[u8]| {
        let len = bytes.len().min(len);
        block[at..at + len].copy_from_slice(&bytes[..len]);
    };
    put(0, 100, &item.name);
    put(100, 8, format!("{:07o}", item.mode).as_bytes());
    put(108, 8, format!("{:07o}", item.ids.0).as_bytes());
    put(116, 8, format!("{:07o}", item.ids.1).as_bytes());
    put(124, 12, format!("{:011o}", item.size.unwrap_or(item.data.len() as u64)).as_bytes());
    put(136, 12, format!("{:011o}", item.mtime).as_bytes());
    put(156, 1, &[item.flag]);
    put(157, 100, &item.link);
    put(257, 8, b"ustar\x0000");
    put(329, 8, format!("{:07o}", item.device.0).as_bytes());
    put(337, 8, format!("{:07o}", item.device.1).as_bytes());
    seal(&mut block);
    block
}

/// Writes the checksum.
pub(crate) fn seal(block: &mut [u8; 512]) {
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|&b| u32::from(b)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}
