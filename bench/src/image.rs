//! An OCI image of one plain layer, made of a tree: what all contenders start from.

use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::json;
use sha2::{Digest as _, Sha256};

/// An OCI image layout that holds one image.
#[derive(Debug)]
pub struct Layout {
    dir: PathBuf,
    layer: PathBuf,
}

impl Layout {
    /// Packs `root` with GNU tar into a new layout at `dir`, as `name`.
    pub fn of_tree(root: &Path, dir: &Path, name: &str) -> Result<Self> {
        let blobs = dir.join("blobs/sha256");
        fs::create_dir_all(&blobs).context("create the layout")?;
        let tar = blobs.join("layer");
        let status = Command::new("tar")
            .args(["--create", "--sort=name", "--numeric-owner", "--file"])
            .arg(&tar)
            .arg("--directory")
            .arg(root)
            .arg(".")
            .status()
            .context("start tar")?;
        ensure!(status.success(), "tar ended with {status}");
        let (layer, size) = digest(&tar)?;
        fs::rename(&tar, blobs.join(&layer)).context("name the layer")?;
        let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
        let config = json!({"architecture": architecture, "os": "linux", "config": {"Cmd": ["/bin/true"]},
            "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{layer}")]}});
        let (config, config_size) = blob(&blobs, &config)?;
        let manifest = json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": format!("sha256:{config}"), "size": config_size},
            "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar",
                "digest": format!("sha256:{layer}"), "size": size}]});
        let (manifest, manifest_size) = blob(&blobs, &manifest)?;
        let index = json!({"schemaVersion": 2, "manifests": [{
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": format!("sha256:{manifest}"), "size": manifest_size,
            "annotations": {"org.opencontainers.image.ref.name": name}}]});
        fs::write(dir.join("index.json"), index.to_string()).context("write index.json")?;
        fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).context("write oci-layout")?;
        Ok(Self { dir: dir.to_owned(), layer: blobs.join(layer) })
    }

    /// The directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The tar of its only layer.
    #[must_use]
    pub fn layer(&self) -> &Path {
        &self.layer
    }

    /// Pipes the layout as an archive into `command`, which reads it from its standard input.
    pub fn pipe_into(&self, command: &mut Command) -> Result<()> {
        let mut tar = Command::new("tar")
            .args(["--create", "--directory"])
            .arg(&self.dir)
            .args(["oci-layout", "index.json", "blobs"])
            .stdout(Stdio::piped())
            .spawn()
            .context("start tar")?;
        let archive = tar.stdout.take().context("the output of tar")?;
        let output = command.stdin(archive).output().with_context(|| format!("start {command:?}"));
        let packed = tar.wait().context("wait for tar")?;
        let output = output?;
        ensure!(
            output.status.success() && packed.success(),
            "{command:?}: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(())
    }
}

fn blob(blobs: &Path, document: &serde_json::Value) -> Result<(String, usize)> {
    let text = document.to_string();
    let name = hex(&Sha256::digest(text.as_bytes()));
    fs::write(blobs.join(&name), &text).context("write a document")?;
    Ok((name, text.len()))
}

/// SHA-256 and length of a file.
pub fn digest(path: &Path) -> Result<(String, u64)> {
    let mut file = File::open(path).with_context(|| format!("open {}", path.display()))?;
    let (mut hash, mut buffer, mut size) = (Sha256::new(), vec![0; 1 << 20], 0);
    loop {
        let len = file.read(&mut buffer).with_context(|| format!("read {}", path.display()))?;
        if len == 0 {
            return Ok((hex(&hash.finalize()), size));
        }
        hash.update(&buffer[..len]);
        size += len as u64;
    }
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        // a string takes everything
        let _ = write!(text, "{byte:02x}");
        text
    })
}
