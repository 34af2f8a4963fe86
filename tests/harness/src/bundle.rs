//! `config.json` for a container that crun 1.8 and runc 1.1 both accept on any host we know.
//!
//! Left out on purpose: CAP_SYS_RESOURCE, rlimits, a negative oom score, `unified`, huge pages and
//! block-I/O weights: one runtime or a restricted host refuses each of them. The cgroup path is absolute
//! because the two resolve a relative one differently.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

/// What goes into `config.json`.
#[derive(Debug, Clone)]
pub(crate) struct Bundle {
    pub(crate) root: PathBuf,
    pub(crate) args: Vec<String>,
    pub(crate) env: Vec<String>,
    pub(crate) binds: Vec<(PathBuf, String)>,
    pub(crate) tmpfs: Vec<String>,
    pub(crate) sys_admin: bool,
    pub(crate) user_namespace: Option<(u32, u32)>,
    pub(crate) cgroup: String,
}

const CAPABILITIES: [&str; 14] = [
    "CAP_AUDIT_WRITE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_MKNOD",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
];

impl Bundle {
    pub(crate) fn config(&self) -> Value {
        let mut capabilities = CAPABILITIES.to_vec();
        if self.sys_admin {
            capabilities.push("CAP_SYS_ADMIN");
        }
        let mut namespaces = vec!["pid", "ipc", "uts", "mount", "network"];
        let mut linux = json!({
            "cgroupsPath": self.cgroup,
            "resources": { "devices": [{ "allow": true, "access": "rwm" }] },
        });
        if let Some((first, count)) = self.user_namespace {
            namespaces.push("user");
            let map = json!([{ "containerID": 0, "hostID": first, "size": count }]);
            linux["uidMappings"] = map.clone();
            linux["gidMappings"] = map;
        }
        linux["namespaces"] = namespaces.iter().map(|name| json!({ "type": name })).collect();
        json!({
            "ociVersion": "1.0.2",
            "root": { "path": self.root, "readonly": false },
            "hostname": "headstart-test",
            "process": {
                "terminal": false,
                "user": { "uid": 0, "gid": 0 },
                "args": self.args,
                "env": self.env,
                "cwd": "/",
                "noNewPrivileges": false,
                "capabilities": {
                    "bounding": capabilities,
                    "effective": capabilities,
                    "permitted": capabilities,
                },
            },
            "mounts": self.mounts(),
            "linux": linux,
        })
    }

    fn mounts(&self) -> Vec<Value> {
        let mount = |destination: &str, kind: &str, source: &Path, options: &[&str]| json!({ "destination": destination, "type": kind, "source": source, "options": options });
        let dev_options = ["nosuid", "strictatime", "mode=755", "size=65536k"];
        let mut mounts = vec![
            mount("/proc", "proc", Path::new("proc"), &[]),
            mount("/dev", "tmpfs", Path::new("tmpfs"), &dev_options),
        ];
        for target in &self.tmpfs {
            mounts.push(mount(target, "tmpfs", Path::new("tmpfs"), &["nosuid", "nodev"]));
        }
        for (source, target) in &self.binds {
            mounts.push(mount(target, "bind", source, &["rbind", "rw"]));
        }
        mounts
    }
}
