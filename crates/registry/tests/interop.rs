//! Archives and layouts of ours, read by tools that we did not write, and theirs read by us.
//!
//! Each tool works in a directory of its own. One that is missing is skipped, loudly; `REQUIRE=skopeo,…`
//! makes that a failure.

#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "a test may panic, and says what it skips")]

mod common;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use common::{assert_consistent, layer, publish, publish_as, publish_packed};
use registry::archive::{Limits, load, save};
use registry::media::{Compression, Format};
use registry::{Digest, Reference, Store};
use tempfile::TempDir;

/// A store with two images, and the archive of both.
struct Fixture {
    dir: TempDir,
    store: Store,
    archive: PathBuf,
}

fn fixture() -> Fixture {
    let dir = TempDir::new().unwrap();
    let store = Store::open(&dir.path().join("root")).unwrap();
    publish(&store, None, &layer("a", b"1"), &["team/api:wip", "localhost/second:2"]).unwrap();
    publish_as(&store, Format::Docker, Some("team/api:wip"), &layer("b", b"2"), &["quay.io/top:1"]).unwrap();
    let archive = dir.path().join("both.tar");
    write(&store, &["team/api:wip", "quay.io/top:1"], &archive);
    Fixture { dir, store, archive }
}

fn write(store: &Store, names: &[&str], path: &Path) {
    let images: Vec<_> = names
        .iter()
        .map(|name| {
            let image = store.resolve(name).unwrap();
            let names: Vec<Reference> = image.names.iter().map(|name| name.parse().unwrap()).collect();
            (image, names)
        })
        .collect();
    save(store, &images, File::create(path).unwrap()).unwrap();
}

fn require(tool: &str) -> bool {
    if Command::new(tool).arg("--version").output().is_ok_and(|output| output.status.success()) {
        return true;
    }
    let required = std::env::var("REQUIRE").unwrap_or_default();
    assert!(!required.split(',').any(|r| r == tool), "{tool} is required and missing");
    eprintln!("SKIPPED: {tool} is not here");
    false
}

fn run(command: &mut Command) -> String {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let stdout = String::from_utf8(stdout).unwrap();
    assert!(status.success(), "{command:?}\n{stdout}{}", String::from_utf8_lossy(&stderr));
    stdout
}

fn skopeo(dir: &Path) -> Command {
    let mut command = Command::new("skopeo");
    command.arg("--tmpdir").arg(dir).arg("--insecure-policy");
    command
}

#[test]
fn skopeo_reads_the_archive_both_ways() {
    if !require("skopeo") {
        return;
    }
    let Fixture { dir, store, archive } = fixture();
    let archive = archive.display();
    for (name, whole) in [("team/api:wip", "docker.io/team/api:wip"), ("quay.io/top:1", "quay.io/top:1")] {
        let id = store.resolve(name).unwrap().id();
        let mut sources = vec![format!("docker-archive:{archive}:{whole}")];
        // skopeo looks for OCI media types only; images in docker's format it finds by the other way.
        if store.resolve(name).unwrap().manifest.format() == Format::Oci {
            sources.push(format!("oci-archive:{archive}:{whole}"));
        }
        for (n, source) in sources.iter().enumerate() {
            let out = dir.path().join(n.to_string());
            run(skopeo(dir.path()).args(["copy", source]).arg(format!("dir:{}", out.display())));
            assert!(out.join(id.hex()).exists(), "{source}: the configuration is not the same");
            fs::remove_dir_all(out).unwrap();
        }
    }
}

#[test]
fn skopeo_reads_and_writes_the_store_in_place() {
    if !require("skopeo") {
        return;
    }
    let Fixture { dir, store, .. } = fixture();
    let layout = store.layout().display();
    let config = run(skopeo(dir.path())
        .args(["inspect", "--config"])
        .arg(format!("oci:{layout}:docker.io/team/api:wip")));
    assert!(config.contains("a message"), "{config}");
    run(skopeo(dir.path())
        .arg("copy")
        .arg(format!("oci:{layout}:docker.io/team/api:wip"))
        .arg(format!("oci:{layout}:docker.io/by/skopeo:1")));
    let copied = store.resolve("by/skopeo:1").unwrap();
    assert_eq!(copied.id(), store.resolve("team/api:wip").unwrap().id());
    assert_consistent(&store);
    store.remove("by/skopeo:1", false).unwrap();
    assert_consistent(&store);
}

#[test]
fn skopeos_archives_are_loaded() {
    if !require("skopeo") {
        return;
    }
    let Fixture { dir, store, .. } = fixture();
    let layout = store.layout().display();
    let (docker, oci) = (dir.path().join("d.tar"), dir.path().join("o.tar"));
    let source = format!("oci:{layout}:docker.io/team/api:wip");
    run(skopeo(dir.path())
        .args(["copy", &source])
        .arg(format!("docker-archive:{}:team/d:1", docker.display())));
    run(skopeo(dir.path()).args(["copy", &source]).arg(format!("oci-archive:{}:team/o:1", oci.display())));
    let other = Store::open(&dir.path().join("other")).unwrap();
    for (path, name) in [(docker, "team/d:1"), (oci, "team/o:1")] {
        load(&other, File::open(path).unwrap(), Limits::default()).unwrap();
        let image = other.resolve(name).unwrap();
        let diff_id = Digest::of(&layer("a", b"1"));
        assert_eq!(image.config.rootfs.diff_ids, [diff_id]);
    }
    assert_consistent(&other);
}

/// What the module doc of `archive` says about compressed layers.
#[test]
fn compressed_layers_are_read_from_docker_archives() {
    if !require("skopeo") {
        return;
    }
    let Fixture { dir, store, .. } = fixture();
    let tar = layer("a", &[b'x'; 5000]);
    let plain = dir.path().join("plain");
    fs::write(&plain, &tar).unwrap();
    for (tool, compression) in [("gzip", Compression::Gzip), ("zstd", Compression::Zstd)] {
        if !require(tool) {
            continue;
        }
        let packed = Command::new(tool).arg("-c").arg(&plain).output().unwrap().stdout;
        let name = format!("packed:{tool}");
        publish_packed(&store, (Format::Oci, compression), None, (&tar, &packed), &[&name]).unwrap();
        let archive = dir.path().join(format!("{tool}.tar"));
        write(&store, &[&name], &archive);
        let whole = format!("docker.io/library/{name}");
        for (n, transport) in ["docker-archive", "oci-archive"].iter().enumerate() {
            let out = dir.path().join(format!("{tool}{n}"));
            let source = format!("{transport}:{}:{whole}", archive.display());
            run(skopeo(dir.path()).args(["copy", &source]).arg(format!("dir:{}", out.display())));
            assert!(out.join(store.resolve(&name).unwrap().id().hex()).exists(), "{source}");
        }
        // The docker part alone, as an old docker would have written it.
        let members = dir.path().join(format!("{tool}-members"));
        fs::create_dir(&members).unwrap();
        run(Command::new("tar").arg("-xf").arg(&archive).arg("-C").arg(&members));
        let old = dir.path().join("old.tar");
        run(Command::new("tar")
            .arg("-cf")
            .arg(&old)
            .arg("-C")
            .arg(&members)
            .args(["blobs", "manifest.json"]));
        let other = Store::open(&dir.path().join(format!("other-{tool}"))).unwrap();
        load(&other, File::open(&old).unwrap(), Limits::default()).unwrap();
        let image = other.resolve(&name).unwrap();
        assert_eq!(image.manifest.layers[0].compression().unwrap(), compression);
        assert_eq!(image.id(), store.resolve(&name).unwrap().id());
        // Docker's own types, but for zstd, which has none among them.
        assert_eq!(image.manifest.format() == Format::Docker, compression == Compression::Gzip);
    }
}

/// podman with all of its state below `dir`; dropped, its storage is unmounted by removing the images.
fn podman(dir: &Path) -> Command {
    let mut command = Command::new("podman");
    command.arg("--root").arg(dir.join("podman")).arg("--runroot").arg(dir.join("podman-run"));
    command.arg("--tmpdir").arg(dir.join("podman-tmp"));
    command.args(["--storage-driver=vfs", "--cgroup-manager=cgroupfs", "--events-backend=none"]);
    command
}

#[test]
fn podman_loads_ours_and_we_load_podmans() {
    if !require("podman") {
        return;
    }
    let Fixture { dir, store, archive } = fixture();
    run(podman(dir.path()).arg("load").arg("-i").arg(&archive));
    let names = run(podman(dir.path()).args([
        "images",
        "--format",
        "{{.Repository}}:{{.Tag}} {{.Id}}",
        "--no-trunc",
    ]));
    for name in ["team/api:wip", "localhost/second:2", "quay.io/top:1"] {
        let id = store.resolve(name).unwrap().id().hex();
        let line = names.lines().find(|line| line.contains(name));
        assert!(line.is_some_and(|line| line.contains(&id)), "{name} in\n{names}");
    }
    let other = Store::open(&dir.path().join("other")).unwrap();
    for format in ["docker-archive", "oci-archive"] {
        let path = dir.path().join(format);
        run(podman(dir.path()).args(["save", "--format", format, "-o"]).arg(&path).arg("quay.io/top:1"));
        let loaded = load(&other, File::open(&path).unwrap(), Limits::default()).unwrap();
        assert_eq!(loaded.len(), 1, "{format}");
        let image = other.resolve("quay.io/top:1").unwrap();
        let diff_ids = [Digest::of(&layer("a", b"1")), Digest::of(&layer("b", b"2"))];
        assert_eq!(image.config.rootfs.diff_ids, diff_ids, "{format}");
        assert_consistent(&other);
    }
    run(podman(dir.path()).args(["rmi", "--all", "--force"]));
}

#[test]
fn umoci_unpacks_the_store_and_the_archive() {
    if !require("umoci") {
        return;
    }
    let Fixture { dir, store, archive } = fixture();
    let untarred = dir.path().join("untarred");
    fs::create_dir(&untarred).unwrap();
    run(Command::new("tar").arg("-xf").arg(&archive).arg("-C").arg(&untarred));
    // umoci's own grammar knows tags only, so it is asked for a copy with such a name.
    for (n, layout) in [store.layout(), &untarred].into_iter().enumerate() {
        let tags = run(Command::new("umoci").arg("ls").arg("--layout").arg(layout));
        assert!(tags.contains("docker.io/team/api:wip"), "{tags}");
        let index = layout.join("index.json");
        let text = fs::read_to_string(&index).unwrap();
        fs::write(&index, text.replace("docker.io/team/api:wip", "wip")).unwrap();
        let bundle = dir.path().join(format!("bundle{n}"));
        run(Command::new("umoci")
            .arg("unpack")
            .arg("--image")
            .arg(format!("{}:wip", layout.display()))
            .arg(&bundle));
        assert_eq!(fs::read(bundle.join("rootfs/a")).unwrap(), b"1");
    }
}

/// A containerd of our own, ended with its test.
struct Containerd {
    child: std::process::Child,
    socket: PathBuf,
}

impl Containerd {
    fn start(dir: &Path) -> Self {
        let socket = dir.join("c.sock");
        let config = dir.join("containerd.toml");
        let text = format!(
            "version = 2\nroot = {root:?}\nstate = {state:?}\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n[grpc]\naddress = {socket:?}\n[ttrpc]\naddress = {ttrpc:?}\n",
            root = dir.join("c-root"),
            state = dir.join("c-state"),
            ttrpc = dir.join("c-ttrpc.sock"),
        );
        fs::write(&config, text).unwrap();
        let log = File::create(dir.join("containerd.log")).unwrap();
        let child = Command::new("containerd").arg("--config").arg(config).stderr(log).spawn().unwrap();
        let containerd = Self { child, socket };
        for _ in 0..100 {
            if containerd.ctr().arg("version").output().unwrap().status.success() {
                return containerd;
            }
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
        panic!("{}", fs::read_to_string(dir.join("containerd.log")).unwrap());
    }

    fn ctr(&self) -> Command {
        let mut command = Command::new("ctr");
        command.arg("--address").arg(&self.socket);
        command
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn containerd_imports_ours_and_we_load_containerds() {
    if !require("ctr") || !require("containerd") {
        return;
    }
    let Fixture { dir, store, archive } = fixture();
    let containerd = Containerd::start(dir.path());
    run(containerd.ctr().args(["image", "import", "--no-unpack"]).arg(&archive));
    let names = run(containerd.ctr().args(["image", "list"]));
    for (name, whole) in [("team/api:wip", "docker.io/team/api:wip "), ("quay.io/top:1", "quay.io/top:1 ")] {
        let digest = store.resolve(name).unwrap().digest().to_string();
        let line = names.lines().find(|line| line.starts_with(whole));
        assert!(line.is_some_and(|line| line.contains(&digest)), "{whole} in\n{names}");
    }
    let back = dir.path().join("back.tar");
    run(containerd.ctr().args(["image", "export"]).arg(&back).arg("docker.io/team/api:wip"));
    let other = Store::open(&dir.path().join("other")).unwrap();
    load(&other, File::open(&back).unwrap(), Limits::default()).unwrap();
    assert_eq!(
        other.resolve("team/api:wip").unwrap().digest(),
        store.resolve("team/api:wip").unwrap().digest()
    );
}
