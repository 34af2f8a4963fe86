//! What people use today, each with a private store that holds the same base image.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use bench::image::Layout;
use bench::measure::{Contender, Sample, Stopwatch, cpu_of};
use harness::foreign::{Containerd, ContainersStorage, StorageTool, oci_name};
use harness::{Capability, Scratch};

use super::docker::Docker;
use super::setting::Setting;

/// The stores, with the base in each.
pub(crate) struct Peers {
    containerd: Option<(Containerd, String)>,
    storages: Vec<(&'static str, ContainersStorage)>,
    docker: Option<Docker>,
    base: PathBuf,
    /// Of the stores, and so dropped after them.
    scratch: Scratch,
}

impl Peers {
    /// Takes the base into the store of everybody who was asked for and works here.
    pub(crate) fn start(setting: &Setting<'_>, base: &Layout) -> Result<Self> {
        // at the top: podman refuses a run directory whose path is longer than 50 bytes
        let scratch = Scratch::new("p")?;
        let missing = |name: &str, why: &str| super::tell(&format!("LEFT OUT: {name}: {why}"));
        let wanted = |name: &str, capability: Capability| {
            let why = capability.missing();
            if let (true, Some(why)) = (setting.options.wants(name), why) {
                missing(name, why);
            }
            setting.options.wants(name) && why.is_none()
        };
        let base_dir = base.dir().to_owned();
        let mut peers =
            Self { containerd: None, storages: Vec::new(), docker: None, base: base_dir, scratch };
        if wanted("containerd", Capability::Containerd) {
            let containerd = Containerd::start(&peers.scratch)?;
            let mut import = containerd.command();
            import.args(["images", "import", "--base-name", "imported", "-"]);
            base.pipe_into(&mut import)?;
            let name = containerd.images()?.into_iter().next().context("containerd took in no image")?;
            peers.containerd = Some((containerd, name));
        }
        let tools = [
            ("podman", Capability::Podman, StorageTool::Podman),
            ("buildah", Capability::Buildah, StorageTool::Buildah),
        ];
        for (name, capability, tool) in tools {
            if wanted(name, capability) {
                peers.storages.push((name, ContainersStorage::new(&peers.scratch, tool)?));
            }
        }
        if setting.options.wants("docker") {
            match Docker::start(&peers.scratch).and_then(|docker| {
                docker.import(base)?;
                Ok(docker)
            }) {
                Ok(docker) => peers.docker = Some(docker),
                Err(error) => missing("docker", &format!("{error:#}")),
            }
        }
        Ok(peers)
    }

    /// One contender for each peer, whose container `fill` has changed.
    pub(crate) fn contenders<'p>(
        &'p self,
        stopwatch: &'p Stopwatch<'p>,
        case: char,
        fill: &dyn Fn(&Path) -> Result<()>,
    ) -> Result<Vec<Contender<'p>>> {
        let mut all = Vec::new();
        if let Some((containerd, image)) = &self.containerd {
            let mounted = containerd.mount(image, &self.scratch.join(format!("containerd-{case}")))?;
            fill(mounted.path())?;
            all.push(Contender::new(
                "containerd: ctr snapshots diff (walks both trees, gzip)",
                1,
                move || {
                    rustix::fs::sync();
                    let before = cpu_of(containerd.pid())?;
                    let mut command = containerd.command();
                    command
                        .args(["snapshots", "diff"])
                        .arg(mounted.path())
                        .stdout(std::process::Stdio::null());
                    let mut sample = stopwatch.time(&mut command)?;
                    sample.cpu_s += (cpu_of(containerd.pid())? - before).as_secs_f64();
                    Ok(sample)
                },
            ));
        }
        for (name, storage) in &self.storages {
            let mounted = storage.mount(&oci_name(&self.base, "base"))?;
            fill(mounted.path())?;
            all.push(Contender::new(format!("{name} commit (stored uncompressed)"), 1, move || {
                // a tag of its own: what was committed before is removed, untimed
                let _ = storage.ok(["rmi", "--force", "localhost/bench:now"]);
                rustix::fs::sync();
                let mut command = storage.command();
                command.args(["commit", "--quiet", mounted.container(), "localhost/bench:now"]);
                command.stdout(std::process::Stdio::null());
                synced(stopwatch, stopwatch.time(&mut command)?)
            }));
        }
        if let Some(docker) = &self.docker {
            let container = docker.create()?;
            fill(&container.upper)?;
            all.push(Contender::new("docker commit (stored uncompressed)", 1, move || {
                let _ = docker.ok(["rmi", "--force", "bench:now"]);
                rustix::fs::sync();
                let before = docker.cpu()?;
                let mut command = docker.command();
                command.args(["commit", &container.id, "bench:now"]).stdout(std::process::Stdio::null());
                let sample = stopwatch.time(&mut command)?;
                let mut sample = synced(stopwatch, sample)?;
                sample.cpu_s += (docker.cpu()? - before).as_secs_f64();
                Ok(sample)
            }));
        }
        Ok(all)
    }
}

/// These tools sync nothing: what it costs to make their result durable belongs to the save.
fn synced(stopwatch: &Stopwatch<'_>, mut sample: Sample) -> Result<Sample> {
    let sync = stopwatch.time(&mut std::process::Command::new("sync"))?;
    sample.wall_ms += sync.wall_ms;
    sample.cpu_s += sync.cpu_s;
    Ok(sample)
}
