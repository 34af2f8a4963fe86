//! Sources on real overlay mounts: what is found, and what is refused.

#![expect(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "helpers of tests are tests; what is skipped is said loudly"
)]

mod support;

use std::ffi::OsStr;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::mount::{MountFlags, mount, mount_bind};
use save::source::{
    ErrorKind, FindOptions, Overlay, Redirect, Source, SourceError, SourceKind, Spec, Warning,
    XattrNamespace, find,
};
use support::{
    Bench, Container, Running, attach, dirs, mount_configured, mount_overlay, rootfs, wait_for, with_mounts,
};

fn overlay(source: &Source) -> &Overlay {
    match &source.kind {
        SourceKind::Overlay(overlay) => overlay,
        SourceKind::Trees { .. } => panic!("two trees"),
    }
}

fn find_at(point: &Path) -> Result<Source, SourceError> {
    find(&Spec::Overlay(point.to_owned()), &FindOptions::default())
}

fn find_pid(pid: i32) -> Result<Source, SourceError> {
    find(&Spec::Pid(pid), &FindOptions::default())
}

fn lower_paths(source: &Source) -> Vec<PathBuf> {
    overlay(source).lowers.iter().map(|dir| dir.path.clone()).collect()
}

#[test]
fn the_root_of_a_process() {
    with_mounts(|at| {
        let bench = Bench::mounted(at, "");
        std::fs::write(bench.merged.join("new"), "x").unwrap();
        mount("vol", bench.merged.join("data"), "tmpfs", MountFlags::empty(), None).unwrap();
        std::fs::write(bench.merged.join("data/kept"), "volume").unwrap();
        mount("proc", bench.merged.join("proc"), "proc", MountFlags::empty(), None).unwrap();
        let process = Running::in_root(&bench.merged);
        let source = find_pid(process.pid()).unwrap();

        assert_eq!(overlay(&source).upper.path, bench.upper);
        assert_eq!(lower_paths(&source), [bench.lower]);
        assert_eq!(overlay(&source).work.as_deref(), Some(&*bench.work));
        assert_eq!(overlay(&source).xattr_ns, XattrNamespace::Trusted);
        assert!(overlay(&source).ids.is_identity() && overlay(&source).lower_ids.is_identity());
        assert_eq!(source.warnings, []);
        let process_facts = source.process.as_ref().unwrap();
        assert_eq!(process_facts.handle.pid(), process.pid());
        assert!(process_facts.cgroups.freezer.is_some() || process_facts.cgroups.unified.is_some());

        let volumes: Vec<_> = source.over.iter().filter(|mount| !mount.by_runtime).collect();
        assert_eq!(volumes.len(), 1);
        assert_eq!(volumes[0].path, b"data");
        assert_eq!(volumes[0].fs_type, b"tmpfs");
        let volume = source.open_over(volumes[0]).unwrap();
        assert!(rustix::fs::statat(&volume, "kept", rustix::fs::AtFlags::empty()).is_ok());
        rustix::mount::unmount(bench.merged.join("data"), rustix::mount::UnmountFlags::DETACH).unwrap();
        assert!(matches!(source.open_over(volumes[0]), Err(SourceError::MountGone { .. })));

        source.check().unwrap();
        drop(process);
        assert_eq!(source.check().unwrap_err().kind(), ErrorKind::NotFound);
    });
}

#[test]
fn mount_points() {
    with_mounts(|at| {
        let bench = Bench::mounted(at, "");
        assert_eq!(overlay(&find_at(&bench.merged).unwrap()).upper.path, bench.upper);
        assert_eq!(
            find_at(&bench.merged).unwrap().warnings,
            [Warning::EmptyUpper { path: bench.upper.clone() }]
        );
        // Not the root of the mount, only a part of it, another type, nothing at all.
        let not_a_point = |path: &Path| {
            let error = find_at(path).unwrap_err();
            assert!(matches!(error, SourceError::NotMountPoint { .. }), "{error}");
        };
        not_a_point(&bench.merged.join("bin"));
        not_a_point(&bench.lower);
        let [part, other] = dirs(at, ["part", "other"]);
        mount_bind(bench.merged.join("bin"), &part).unwrap();
        not_a_point(&part);
        mount("t", &other, "tmpfs", MountFlags::empty(), None).unwrap();
        assert!(
            matches!(find_at(&other), Err(SourceError::NotOverlay { fs_type, .. }) if fs_type == "tmpfs")
        );
        assert_eq!(find_at(&at.join("none")).unwrap_err().kind(), ErrorKind::NotFound);
        // A second overlay on the same point hides the first.
        let [upper, work] = dirs(at, ["upper2", "work2"]);
        let second = Bench { upper, work, lower: bench.lower, merged: bench.merged };
        second.mount("");
        assert_eq!(overlay(&find_at(&second.merged).unwrap()).upper.path, second.upper);
        // The same overlay elsewhere, whole.
        mount_bind(&second.merged, &part).unwrap();
        assert_eq!(overlay(&find_at(&part).unwrap()).upper.path, second.upper);
    });
}

#[test]
fn a_view_has_no_upper() {
    with_mounts(|at| {
        let bench = Bench::new(at);
        let [second] = dirs(at, ["second"]);
        mount_overlay(&bench.merged, format!("lowerdir={}:{}", bench.lower.display(), second.display()));
        assert!(matches!(find_at(&bench.merged), Err(SourceError::NoUpper { .. })));
    });
}

#[test]
fn options_are_read_as_the_mount_has_them() {
    with_mounts(|at| {
        for (index, (options, redirect, metacopy, xattrs, volatile)) in [
            ("redirect_dir=on", Redirect::On, false, XattrNamespace::Trusted, false),
            ("redirect_dir=follow", Redirect::Follow, false, XattrNamespace::Trusted, false),
            ("redirect_dir=nofollow", Redirect::NoFollow, false, XattrNamespace::Trusted, false),
            ("metacopy=on,redirect_dir=on", Redirect::On, true, XattrNamespace::Trusted, false),
            ("userxattr", Redirect::NoFollow, false, XattrNamespace::User, false),
            (
                "volatile,xino=on,uuid=null,redirect_dir=nofollow",
                Redirect::NoFollow,
                false,
                XattrNamespace::Trusted,
                true,
            ),
        ]
        .into_iter()
        .enumerate()
        {
            let bench = Bench::mounted(&dirs(at, [&index.to_string()])[0], options);
            let source = find_at(&bench.merged).unwrap();
            let found = overlay(&source);
            assert_eq!(found.redirect, redirect, "{options}");
            assert_eq!(found.xattr_ns, xattrs, "{options}");
            assert_eq!(found.volatile, volatile, "{options}");
            // A module may turn it on by itself.
            assert!(found.metacopy || !metacopy, "{options}");
        }
    });
}

#[test]
fn an_index_is_refused() {
    with_mounts(|at| {
        let bench = Bench::mounted(&at.join("on"), "index=on");
        let error = find_at(&bench.merged).unwrap_err();
        assert!(matches!(error, SourceError::Index { .. }), "{error}");
        assert_eq!(error.kind(), ErrorKind::NotPossible);
        assert!(error.hint().unwrap().contains("index=off"));

        let bench = Bench::mounted(&at.join("export"), "nfs_export=on,index=on");
        assert!(matches!(find_at(&bench.merged), Err(SourceError::NfsExport { .. })));

        // What an earlier mount with an index left in the workdir.
        let bench = Bench::mounted(&at.join("left"), "index=off");
        std::fs::create_dir_all(bench.work.join("index")).unwrap();
        find_at(&bench.merged).unwrap();
        std::fs::write(bench.work.join("index/00fb2100"), "").unwrap();
        assert!(matches!(find_at(&bench.merged), Err(SourceError::Index { .. })));
    });
}

#[test]
fn names_with_every_separator() {
    with_mounts(|at| {
        let odd = ["l,1", "l 2", "l:3", "l\\4", "l\n5", "l=6", "l\"7", "l\\:8"];
        let lowers: Vec<PathBuf> = odd.iter().map(|name| dirs(at, [name])[0].clone()).collect();
        for (index, lower) in lowers.iter().enumerate() {
            std::fs::write(lower.join(format!("file{index}")), "content").unwrap();
        }
        let [upper, work] = dirs(at, ["u,p:p\\e r", "w,o:r\\k"]);
        let escaped = |path: &Path| {
            let text = path.to_str().unwrap();
            text.replace('\\', "\\\\").replace(':', "\\:").replace(',', "\\,")
        };
        let [by_string, by_key, by_fd] = dirs(at, ["string", "key", "fd"]);
        let joined = lowers.iter().map(|path| escaped(path)).collect::<Vec<_>>().join(":");
        mount_overlay(
            &by_string,
            format!("lowerdir={joined},upperdir={},workdir={}", escaped(&upper), escaped(&work)),
        );
        let source = find_at(&by_string).unwrap();
        assert_eq!(lower_paths(&source), lowers);
        assert_eq!(overlay(&source).upper.path, upper);
        assert_eq!(overlay(&source).work.as_deref(), Some(&*work));
        drop(source);
        rustix::mount::unmount(&by_string, rustix::mount::UnmountFlags::empty()).unwrap();

        let upper_escaped = PathBuf::from(escaped(&upper).replace("\\,", ","));
        let work_escaped = PathBuf::from(escaped(&work).replace("\\,", ","));
        let mut options: Vec<(&str, Option<&Path>)> =
            lowers.iter().map(|path| ("lowerdir+", Some(&**path))).collect();
        options.extend([("upperdir", Some(&*upper_escaped)), ("workdir", Some(&*work_escaped))]);
        mount_configured(&by_key, &options);
        let source = find_at(&by_key).unwrap();
        assert_eq!(lower_paths(&source), lowers);
        assert_eq!(overlay(&source).upper.path, upper);
        drop(source);
        rustix::mount::unmount(&by_key, rustix::mount::UnmountFlags::empty()).unwrap();

        // Descriptors, since Linux 6.13: shown without escapes.
        let fs = rustix::mount::fsopen("overlay", rustix::mount::FsOpenFlags::FSOPEN_CLOEXEC).unwrap();
        let set = |key: &str, path: &Path| {
            let fd = std::fs::File::open(path).unwrap();
            rustix::mount::fsconfig_set_fd(&fs, key, &fd)
        };
        if set("upperdir", &upper).is_err() {
            eprintln!("SKIPPED, this kernel takes no layers as descriptors");
            return;
        }
        set("workdir", &work).unwrap();
        for lower in &lowers {
            set("lowerdir+", lower).unwrap();
        }
        rustix::mount::fsconfig_create(&fs).unwrap();
        attach(&fs, &by_fd);
        let source = find_at(&by_fd).unwrap();
        assert_eq!(lower_paths(&source), lowers);
        assert_eq!(overlay(&source).upper.path, upper);
        assert_eq!(overlay(&source).work.as_deref(), Some(&*work));
    });
}

#[test]
fn data_only_lowers_are_apart() {
    with_mounts(|at| {
        let bench = Bench::new(at);
        let [data, more] = dirs(at, ["data1", "data2"]);
        mount_overlay(
            &bench.merged,
            format!(
                "metacopy=on,redirect_dir=on,lowerdir={}::{}::{},upperdir={},workdir={}",
                bench.lower.display(),
                data.display(),
                more.display(),
                bench.upper.display(),
                bench.work.display()
            ),
        );
        let source = find_at(&bench.merged).unwrap();
        assert_eq!(lower_paths(&source), [bench.lower]);
        let found: Vec<_> = overlay(&source).data_lowers.iter().map(|dir| dir.path.clone()).collect();
        assert_eq!(found, [data, more]);
    });
}

/// As containerd does for an image of many layers: `N/fs`, relative to its own directory.
fn snapshots(at: &Path, count: usize) -> (PathBuf, Vec<PathBuf>, Bench) {
    let [home] = dirs(at, ["snapshots"]);
    let lowers: Vec<PathBuf> =
        (0..count).rev().map(|n| dirs(&home, [&format!("{n}/fs")])[0].clone()).collect();
    for (index, lower) in lowers.iter().enumerate() {
        std::fs::write(lower.join(format!("from-{index}")), format!("{index}")).unwrap();
        std::fs::write(lower.join("replaced-in-each"), format!("{index}")).unwrap();
    }
    let [upper, work, merged] = dirs(&home, ["top/fs", "top/work", "top/merged"]);
    let lower = lowers.last().unwrap().clone();
    let relative: Vec<_> =
        lowers.iter().map(|path| path.strip_prefix(&home).unwrap().to_str().unwrap().to_owned()).collect();
    std::env::set_current_dir(&home).unwrap();
    mount_overlay(
        &merged,
        format!("lowerdir={},upperdir={},workdir={}", relative.join(":"), upper.display(), work.display()),
    );
    std::env::set_current_dir("/").unwrap();
    (home, lowers, Bench { lower, upper, work, merged })
}

#[test]
fn relative_lowers_of_120_layers() {
    with_mounts(|at| {
        let (home, lowers, bench) = snapshots(at, 120);
        let source = find_at(&bench.merged).unwrap();
        assert_eq!(lower_paths(&source), lowers);

        // A copy of all layers where the same words could lead is told from the original.
        let status = Command::new("cp").arg("-a").args(lowers_homes(&home)).arg(at).status().unwrap();
        assert!(status.success());
        assert_eq!(lower_paths(&find_at(&bench.merged).unwrap()), lowers);

        // Deleted and replaced files are no contradiction.
        std::fs::remove_file(bench.merged.join("from-3")).unwrap();
        std::fs::write(bench.merged.join("from-4"), "changed").unwrap();
        assert_eq!(lower_paths(&find_at(&bench.merged).unwrap()), lowers);

        // The originals are gone: a copy is no proof.
        for layer in lowers_homes(&home) {
            std::fs::rename(
                &layer,
                at.join(format!("moved-{}", layer.file_name().unwrap().to_str().unwrap())),
            )
            .unwrap();
        }
        let error = find_at(&bench.merged).unwrap_err();
        assert!(
            matches!(error, SourceError::Unresolved { .. } | SourceError::Contradiction { .. }),
            "{error}"
        );
        assert!(error.hint().unwrap().contains("--upper"));
    });
}

fn lowers_homes(home: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(home)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.file_name() != Some(OsStr::new("top")))
        .collect()
}

#[test]
fn lowers_that_show_nothing_are_not_guessed() {
    with_mounts(|at| {
        let [home, merged] = dirs(at, ["home", "merged"]);
        let [_lower, upper, work] = dirs(&home, ["a/fs", "top/fs", "top/work"]);
        std::env::set_current_dir(&home).unwrap();
        mount_overlay(
            &merged,
            format!("lowerdir=a/fs,upperdir={},workdir={}", upper.display(), work.display()),
        );
        std::env::set_current_dir("/").unwrap();
        assert!(matches!(find_at(&merged), Err(SourceError::Unresolved { .. })));
    });
}

#[test]
fn links_and_relative_uppers_of_docker() {
    with_mounts(|at| {
        let [home] = dirs(at, ["overlay2"]);
        let [_links] = dirs(&home, ["l"]);
        let mut words = Vec::new();
        let mut lowers = Vec::new();
        for index in 0..40 {
            let [diff] = dirs(&home, [&format!("{index:064x}/diff")]);
            std::fs::write(diff.join(format!("file{index}")), "x").unwrap();
            let id = format!("{index:026}").replace('0', "A");
            symlink(format!("../{index:064x}/diff"), home.join("l").join(&id)).unwrap();
            words.push(format!("l/{id}"));
            lowers.push(diff);
        }
        let [_upper, _work, merged] = dirs(&home, ["top/diff", "top/work", "top/merged"]);
        std::env::set_current_dir(&home).unwrap();
        mount_overlay(&merged, format!("lowerdir={},upperdir=top/diff,workdir=top/work", words.join(":")));
        std::env::set_current_dir("/").unwrap();
        let source = find_at(&merged).unwrap();
        assert_eq!(lower_paths(&source), lowers);
        assert_eq!(overlay(&source).upper.path, home.join("top/diff"));
        assert_eq!(overlay(&source).work.as_deref(), Some(&*home.join("top/work")));
    });
}

#[test]
fn lines_of_74_kilobytes() {
    with_mounts(|at| {
        let lowers: Vec<PathBuf> =
            (0..500).map(|index| dirs(at, [&format!("{index:0>150}")])[0].clone()).collect();
        std::fs::write(lowers[499].join("deep"), "x").unwrap();
        let [upper, work, merged] = dirs(at, ["upper", "work", "merged"]);
        let mut options: Vec<(&str, Option<&Path>)> =
            lowers.iter().map(|path| ("lowerdir+", Some(&**path))).collect();
        options.extend([("upperdir", Some(&*upper)), ("workdir", Some(&*work))]);
        mount_configured(&merged, &options);
        assert!(std::fs::read("/proc/thread-self/mountinfo").unwrap().len() > 74_000);
        assert_eq!(lower_paths(&find_at(&merged).unwrap()), lowers);
    });
}

#[test]
fn gvisor_is_named() {
    with_mounts(|at| {
        let bench = Bench::mounted(at, "");
        std::fs::write(bench.merged.join(".gvisor.filestore.abc"), "opaque").unwrap();
        let error = find_at(&bench.merged).unwrap_err();
        assert!(matches!(error, SourceError::Gvisor { .. }), "{error}");
        assert!(error.hint().unwrap().contains("--overlay2=none"));
        let options = FindOptions { not_gvisor: true, ..FindOptions::default() };
        find(&Spec::Overlay(bench.merged), &options).unwrap();
        let lower = vec![bench.lower];
        let named = Spec::Upper { upper: bench.upper, lower };
        assert!(matches!(find(&named, &FindOptions::default()), Err(SourceError::Gvisor { .. })));
    });
}

#[test]
fn roots_that_are_no_whole_overlay() {
    with_mounts(|at| {
        let bench = Bench::mounted(at, "");
        // chroot into a directory of the overlay.
        let [inner] = dirs(&bench.merged, ["inner"]);
        rootfs(&inner);
        let process = Running::in_root(&inner);
        assert!(matches!(find_pid(process.pid()), Err(SourceError::NotRootOfMount { .. })));
        drop(process);
        // The same directory, bound: the root of a mount, not of the overlay.
        let [bound] = dirs(at, ["bound"]);
        mount_bind(&inner, &bound).unwrap();
        let process = Running::in_root(&bound);
        assert!(matches!(find_pid(process.pid()), Err(SourceError::NotRootOfMount { .. })));
        drop(process);
        // A plain directory, and another file system.
        let process = Running::in_root(&bench.lower);
        let error = find_pid(process.pid()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotPossible, "{error}");
        drop(process);
        let [other] = dirs(at, ["other"]);
        mount("t", &other, "tmpfs", MountFlags::empty(), None).unwrap();
        rootfs(&other);
        let process = Running::in_root(&other);
        let error = find_pid(process.pid()).unwrap_err();
        assert!(matches!(error, SourceError::NotOverlay { .. }), "{error}");
        assert!(error.hint().unwrap().contains("--tree"));
    });
}

#[test]
fn processes_that_are_no_container() {
    with_mounts(|_| {
        let own = i32::try_from(std::process::id()).unwrap();
        let error = find_pid(own).unwrap_err();
        assert!(matches!(error, SourceError::OwnRoot { .. }), "{error}");
        let neighbour = Running::start(Command::new("sleep").arg("1000"), "sleep");
        assert!(matches!(find_pid(neighbour.pid()), Err(SourceError::OwnRoot { .. })));
        assert_eq!(find_pid(i32::MAX).unwrap_err().kind(), ErrorKind::NotFound);
        let mut zombie = Command::new("true").spawn().unwrap();
        let pid = i32::try_from(zombie.id()).unwrap();
        wait_for(|| std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap().contains(") Z"));
        assert_eq!(find_pid(pid).unwrap_err().kind(), ErrorKind::NotFound);
        zombie.wait().unwrap();
    });
}

/// Fails when anything beneath a directory was opened.
struct Watched(rustix::fd::OwnedFd);

impl Watched {
    fn new(path: &Path) -> Self {
        use rustix::fs::inotify;
        let fd = inotify::init(inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC).unwrap();
        inotify::add_watch(&fd, path, inotify::WatchFlags::OPEN | inotify::WatchFlags::ACCESS).unwrap();
        Self(fd)
    }

    fn assert_untouched(&self) {
        let mut buffer = [0u8; 512];
        assert_eq!(
            rustix::io::read(&self.0, &mut buffer),
            Err(rustix::io::Errno::AGAIN),
            "the secret was opened"
        );
    }
}

#[test]
fn a_lying_mount_of_another_user() {
    with_mounts(|at| {
        // The host's secret, and the words that mean it when we read them.
        let [secret, base] = dirs(at, ["secret", "base"]);
        std::fs::write(secret.join("key"), "private").unwrap();
        let liar = at.join("liar");
        rootfs(&liar);
        let inside = |path: &Path| dirs(&liar, [path.to_str().unwrap().trim_start_matches('/')])[0].clone();
        inside(&secret);
        rootfs(&inside(&base));
        let [_work, _merged] = dirs(&liar, ["work", "merged"]);
        Command::new("chown").args(["-R", "65534:65534"]).arg(&liar).status().unwrap();
        for path in [at, &liar] {
            std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        }
        let work = inside(&secret).parent().unwrap().join("work");
        std::fs::create_dir_all(&work).unwrap();
        std::os::unix::fs::chown(&work, Some(65534), Some(65534)).unwrap();
        let script = format!(
            "mount -t overlay overlay -o userxattr,lowerdir={base},upperdir={secret},workdir={work} /merged \
             && exec chroot /merged /bin/sleep 1000",
            base = base.display(),
            secret = secret.display(),
            work = secret.parent().unwrap().join("work").display(),
        );
        symlink("busybox", liar.join("bin/chroot")).unwrap();
        let process = Running::start(
            Command::new("setpriv")
                .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
                .args(["unshare", "-Urm", "chroot"])
                .arg(&liar)
                .args(["/bin/sh", "-c", &script]),
            "/bin/sleep",
        );
        let watched = Watched::new(&secret);
        let error = find_pid(process.pid()).unwrap_err();
        assert!(matches!(error, SourceError::Foreign { .. }), "{error}");
        assert_eq!(error.kind(), ErrorKind::NotPossible);
        assert!(error.hint().unwrap().contains("nsenter"));
        let through = PathBuf::from(format!("/proc/{}/root", process.pid()));
        let error = find_at(&through).unwrap_err();
        assert!(matches!(error, SourceError::Foreign { .. }), "{error}");
        watched.assert_untouched();
        // The words are indeed those of the host's secret, and the mount is real.
        let theirs = std::fs::read_to_string(format!("/proc/{}/mountinfo", process.pid())).unwrap();
        assert!(theirs.contains(&format!("upperdir={}", secret.display())), "{theirs}");
    });
}

#[test]
fn a_lying_mount_over_host_directories() {
    with_mounts(|at| {
        // Not chrooted: the lower really is a directory of the host, so its inodes agree; only the upper lies.
        let [base] = dirs(at, ["base"]);
        rootfs(&base);
        std::fs::set_permissions(at, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let script = format!(
            "mount -t tmpfs t /mnt && mkdir /mnt/u /mnt/w /mnt/m && \
             mount -t overlay overlay -o userxattr,lowerdir={},upperdir=/mnt/u,workdir=/mnt/w /mnt/m && \
             exec chroot /mnt/m /bin/sleep 1000",
            base.display()
        );
        let process = Running::start(
            Command::new("setpriv")
                .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
                .args(["unshare", "-Urm", "sh", "-c", &script]),
            "/bin/sleep",
        );
        let error = find_pid(process.pid()).unwrap_err();
        assert!(matches!(error, SourceError::Foreign { .. }), "{error}");
    });
}

#[test]
fn a_mount_of_our_namespace_that_was_made_in_a_chroot() {
    with_mounts(|at| {
        // Root, our namespace, but the words were meant inside of a jail: the upper shows other times.
        let [secret, base] = dirs(at, ["secret", "base"]);
        std::fs::write(secret.join("key"), "private").unwrap();
        std::fs::write(base.join("file"), "x").unwrap();
        let jail = at.join("jail");
        rootfs(&jail);
        let inside = |path: &Path| dirs(&jail, [path.to_str().unwrap().trim_start_matches('/')])[0].clone();
        inside(&secret);
        rootfs(&inside(&base));
        let work = secret.parent().unwrap().join("work");
        inside(&work);
        let [merged] = dirs(&jail, ["merged"]);
        let script = format!(
            "mount -t overlay overlay -o lowerdir={},upperdir={},workdir={} /merged",
            base.display(),
            secret.display(),
            work.display()
        );
        assert!(
            Command::new("chroot").arg(&jail).args(["/bin/sh", "-c", &script]).status().unwrap().success()
        );
        let error = find_at(&merged).unwrap_err();
        assert!(matches!(error, SourceError::Contradiction { .. }), "{error}");
        let process = Running::in_root(&merged);
        assert!(matches!(find_pid(process.pid()), Err(SourceError::Contradiction { .. })));
    });
}

#[test]
fn a_layer_that_was_replaced_after_the_mount() {
    with_mounts(|at| {
        let bench = Bench::mounted(at, "");
        std::fs::rename(&bench.lower, at.join("aside")).unwrap();
        assert_eq!(find_at(&bench.merged).unwrap_err().kind(), ErrorKind::NotFound);
        rootfs(&bench.lower);
        assert!(matches!(find_at(&bench.merged), Err(SourceError::Contradiction { .. })));
        std::fs::remove_dir_all(&bench.lower).unwrap();
        std::fs::rename(at.join("aside"), &bench.lower).unwrap();
        find_at(&bench.merged).unwrap();
    });
}

#[test]
fn hidden_lowers_are_no_contradiction() {
    with_mounts(|at| {
        let [top, bottom, upper, work, merged] = dirs(at, ["top", "bottom", "upper", "work", "merged"]);
        for (path, text) in [("opaque/a", "1"), ("removed/b", "1"), ("changed", "1"), ("becomes-dir", "1")] {
            let path = bottom.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        std::fs::write(top.join("changed"), "other").unwrap();
        mount_overlay(
            &merged,
            format!(
                "redirect_dir=on,lowerdir={}:{},upperdir={},workdir={}",
                top.display(),
                bottom.display(),
                upper.display(),
                work.display()
            ),
        );
        std::fs::remove_dir_all(merged.join("opaque")).unwrap();
        std::fs::create_dir(merged.join("opaque")).unwrap();
        std::fs::rename(merged.join("removed"), merged.join("renamed")).unwrap();
        std::fs::create_dir(merged.join("removed")).unwrap();
        std::fs::remove_file(merged.join("becomes-dir")).unwrap();
        std::fs::create_dir(merged.join("becomes-dir")).unwrap();
        let source = find_at(&merged).unwrap();
        assert_eq!(lower_paths(&source), [top, bottom]);
    });
}

#[test]
fn a_root_that_changes_all_the_time() {
    with_mounts(|at| {
        let bench = Bench::mounted(at, "");
        let script = "while :; do touch /x; rm /x; done";
        let mut busy = Command::new("chroot");
        busy.arg(&bench.merged).args(["/bin/busybox", "sh", "-c", script]);
        let process = Running::start(&mut busy, "/bin/busybox");
        for _ in 0..50 {
            find_pid(process.pid()).unwrap();
        }
    });
}

#[test]
fn directories_by_name() {
    with_mounts(|at| {
        let bench = Bench::new(at);
        let spec = |upper: &Path, lower: &[&Path]| Spec::Upper {
            upper: upper.to_owned(),
            lower: lower.iter().map(|path| (*path).to_owned()).collect(),
        };
        let try_find = |upper: &Path, lower: &[&Path]| find(&spec(upper, lower), &FindOptions::default());
        let source = try_find(&bench.upper, &[&bench.lower]).unwrap();
        assert_eq!(overlay(&source).upper.path, bench.upper);
        assert_eq!(source.warnings, []);
        assert_eq!(overlay(&source).xattr_ns, XattrNamespace::Trusted);
        let user = FindOptions { userxattr: true, ..FindOptions::default() };
        let source = find(&spec(&bench.upper, &[&bench.lower]), &user).unwrap();
        assert_eq!(overlay(&source).xattr_ns, XattrNamespace::User);

        let link = at.join("link");
        symlink(&bench.upper, &link).unwrap();
        assert!(matches!(try_find(&link, &[&bench.lower]), Err(SourceError::Symlink { .. })));
        let with_slash = at.join("link/");
        assert!(matches!(try_find(&with_slash, &[&bench.lower]), Err(SourceError::Symlink { .. })));
        let [nested] = dirs(&bench.lower, ["nested"]);
        for (upper, lower) in [(&nested, &bench.lower), (&bench.lower, &nested), (&bench.upper, &bench.upper)]
        {
            let error = try_find(upper, &[lower]).unwrap_err();
            assert!(matches!(error, SourceError::Nested { .. }), "{error}");
            assert_eq!(error.kind(), ErrorKind::Usage);
        }
        assert!(matches!(
            try_find(&bench.upper, &[&bench.lower, &bench.lower]),
            Err(SourceError::Nested { .. })
        ));
        assert_eq!(try_find(&at.join("none"), &[&bench.lower]).unwrap_err().kind(), ErrorKind::NotFound);
        let file = bench.lower.join("etc/issue");
        assert!(matches!(try_find(&file, &[&bench.lower]), Err(SourceError::NotDirectory { .. })));
        assert!(matches!(try_find(&bench.upper, &[]), Err(SourceError::NoLower { .. })));

        bench.mount("userxattr");
        let source = try_find(&bench.upper, &[&bench.lower]).unwrap();
        assert!(source.warnings.contains(&Warning::InUse { point: bench.merged.clone() }));
        assert!(source.warnings.contains(&Warning::XattrNamespace { userxattr: true }));
        assert_eq!(overlay(&source).xattr_ns, XattrNamespace::User);
    });
}

#[test]
fn two_trees() {
    let scratch = tempfile::tempdir().unwrap();
    let at = scratch.path().canonicalize().unwrap();
    let [tree, against, nested] = dirs(&at, ["tree", "against", "tree/nested"]);
    let spec =
        |tree: &Path, against: &Path| Spec::Trees { tree: tree.to_owned(), against: against.to_owned() };
    let source = find(&spec(&tree, &against), &FindOptions::default()).unwrap();
    let SourceKind::Trees { tree: found, against: other } = source.kind else { panic!("an overlay") };
    assert_eq!((found.path, other.path), (tree.clone(), against));
    for (tree, against) in [(&tree, &nested), (&nested, &tree), (&tree, &tree)] {
        assert!(matches!(
            find(&spec(tree, against), &FindOptions::default()),
            Err(SourceError::Nested { .. })
        ));
    }
}

#[test]
fn without_rights_the_answer_is_clear() {
    with_mounts(|at| {
        let bench = Bench::mounted(at, "");
        let process = Running::in_root(&bench.merged);
        let pid = process.pid();
        // This thread may soon not kill the child any more.
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let killer = std::thread::spawn(move || {
            let _ = wait.recv();
            drop(process);
        });
        // Ids belong to threads for the kernel: only this one becomes nobody.
        let nobody = rustix::thread::Uid::from_raw(65534);
        rustix::thread::set_thread_res_uid(nobody, nobody, nobody).unwrap();
        let error = find_pid(pid).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotPossible, "{error}");
        assert!(error.hint().unwrap().contains("root"));
        assert!(error.hint().unwrap().contains("podman unshare"));
        let root = rustix::thread::Uid::ROOT;
        assert!(rustix::thread::set_thread_res_uid(root, root, root).is_err());
        drop(go);
        killer.join().unwrap();
    });
}

#[test]
fn shifted_layers_of_a_user_namespace() {
    with_mounts(|at| {
        let bench = Bench::new(at);
        for tree in [&bench.lower, &bench.upper] {
            Command::new("chown").args(["-hR", "100000:100000"]).arg(tree).status().unwrap();
        }
        bench.mount("");
        let process = in_user_namespace(&bench.merged);
        let source = find_pid(process.pid()).unwrap();
        let found = overlay(&source);
        assert_eq!(found.ids.uid(100_007), Some(7));
        assert_eq!(found.ids.uid(7), None);
        assert_eq!(found.lower_ids.gid(100_000), Some(0));
        assert_eq!(std::fs::metadata(&found.upper.path).unwrap().uid(), 100_000);
        assert!(!source.warnings.contains(&Warning::IdsUnproven));
    });
}

#[test]
fn a_container_of_runc() {
    with_mounts(|at| {
        let bench = Bench::mounted(at, "");
        let [volume] = dirs(at, ["volume"]);
        std::fs::write(volume.join("kept"), "volume").unwrap();
        let Some(container) = Container::start(at, &bench.merged, &volume) else { return };
        let source = find_pid(container.pid()).unwrap();
        assert_eq!(overlay(&source).upper.path, bench.upper);
        assert_eq!(lower_paths(&source), [bench.lower]);
        let volumes: Vec<_> = source.over.iter().filter(|mount| !mount.by_runtime).collect();
        assert_eq!(volumes.len(), 1, "{volumes:?}");
        assert_eq!(volumes[0].path, b"data");
        assert!(volumes[0].root.ends_with(b"/volume"));
        let opened = source.open_over(volumes[0]).unwrap();
        assert!(rustix::fs::statat(&opened, "kept", rustix::fs::AtFlags::empty()).is_ok());
        let hosts = source.over.iter().find(|mount| mount.path == b"etc/hosts").unwrap();
        assert!(hosts.by_runtime);
        let mut text = String::new();
        std::io::Read::read_to_string(&mut std::fs::File::from(source.open_over(hosts).unwrap()), &mut text)
            .unwrap();
        assert_eq!(text, "127.0.0.1 localhost\n");
        let cgroups = &source.process.as_ref().unwrap().cgroups;
        let path = cgroups.freezer.as_ref().or(cgroups.unified.as_ref()).unwrap();
        assert!(path.to_str().unwrap().contains("headstart-test-"), "{path:?}");
    });
}

/// A process in a user namespace of its own, ids from 0 being those from 100000 outside.
fn in_user_namespace(root: &Path) -> Running {
    let process = Running::start(
        Command::new("unshare").args(["-U", "-R"]).arg(root).args(["/bin/sleep", "1000"]),
        "/bin/sleep",
    );
    for map in ["uid_map", "gid_map"] {
        std::fs::write(format!("/proc/{}/{map}", process.pid()), "0 100000 65536").unwrap();
    }
    process
}

#[test]
fn idmapped_lowers() {
    use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};
    with_mounts(|at| {
        // As containerd does it: the lowers keep the ids of the image, the upper has those of the host.
        let mut bench = Bench::new(at);
        let on_disk = bench.lower.clone();
        let [idmapped] = dirs(at, ["idmapped"]);
        let helper = in_user_namespace(Path::new("/"));
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let tree = open_tree(rustix::fs::CWD, &on_disk, flags).unwrap();
        let userns = std::fs::File::open(format!("/proc/{}/ns/user", helper.pid())).unwrap();
        linux::idmap::map_ids(std::os::fd::AsFd::as_fd(&tree), &userns).unwrap();
        let empty = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        move_mount(&tree, "", rustix::fs::CWD, &idmapped, empty).unwrap();
        drop(tree);
        assert_eq!(std::fs::metadata(idmapped.join("etc/issue")).unwrap().uid(), 100_000);
        std::os::unix::fs::chown(&bench.upper, Some(100_000), Some(100_000)).unwrap();
        bench.lower = idmapped;
        bench.mount("");

        let process = in_user_namespace(&bench.merged);
        let source = find_pid(process.pid()).unwrap();
        let found = overlay(&source);
        assert_eq!(found.ids.uid(100_007), Some(7));
        assert_eq!(found.ids.uid(7), None);
        // Read through the directory that was opened, a file of the lower has the owner in the image.
        let issue =
            rustix::fs::statat(&found.lowers[0].fd, "etc/issue", rustix::fs::AtFlags::empty()).unwrap();
        assert_eq!(found.lower_ids.uid(issue.st_uid), Some(0));
        assert!(!source.warnings.contains(&Warning::IdsUnproven));

        // What the user says goes before what is seen.
        let range = linux::process::IdRange { container: 5, host: 100_000, size: 10 };
        let options = FindOptions {
            uidmap: vec![range],
            gidmap: vec![range],
            lower_unmapped: true,
            ..FindOptions::default()
        };
        let source = find(&Spec::Pid(process.pid()), &options).unwrap();
        assert_eq!(overlay(&source).ids.uid(100_001), Some(6));
        assert!(overlay(&source).lower_ids.is_identity());
    });
}

#[test]
fn ids_without_proof_are_said() {
    with_mounts(|at| {
        let bench = Bench::mounted(at, "");
        let process = in_user_namespace(&bench.merged);
        let source = find_pid(process.pid()).unwrap();
        assert!(source.warnings.contains(&Warning::IdsUnproven));
        assert!(overlay(&source).ids.is_identity());
    });
}

#[test]
fn fuse_overlayfs_is_named() {
    with_mounts(|at| {
        let bench = Bench::new(at);
        let mut options = std::ffi::OsString::from("lowerdir=");
        for (word, path) in [("", &bench.lower), (",upperdir=", &bench.upper), (",workdir=", &bench.work)] {
            options.push(word);
            options.push(path);
        }
        // In the background it would outlive the test when something fails.
        let mut command = Command::new("fuse-overlayfs");
        command.arg("-f").arg("-o").arg(options).arg(&bench.merged);
        if Command::new("fuse-overlayfs").arg("--version").output().is_err()
            || !Path::new("/dev/fuse").exists()
        {
            eprintln!("SKIPPED, no fuse-overlayfs");
            return;
        }
        let server = Running::start(&mut command, "fuse-overlayfs");
        wait_for(|| std::fs::metadata(bench.merged.join("bin")).is_ok());
        let error = find_at(&bench.merged).unwrap_err();
        assert!(matches!(error, SourceError::FuseOverlayfs { .. }), "{error}");
        assert_eq!(error.kind(), ErrorKind::NotPossible);
        let process = Running::in_root(&bench.merged);
        let error = find_pid(process.pid()).unwrap_err();
        assert!(matches!(error, SourceError::FuseOverlayfs { .. }), "{error}");
        drop(process);
        drop(server);
    });
}
