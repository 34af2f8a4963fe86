//! The environment variables that the program reads, each declared once.

use std::ffi::OsString;

/// One variable.
#[derive(Debug)]
pub(crate) struct Variable {
    pub(crate) name: &'static str,
    /// For the reference.
    pub(crate) meaning: &'static str,
}

pub(crate) const ROOT: Variable = Variable {
    name: "HEADSTART_ROOT",
    meaning: "State directory, where images are kept. `--root` wins. Default: `/var/lib/headstart` for root, \
              else `$XDG_DATA_HOME/headstart` or `~/.local/share/headstart`.",
};

pub(crate) const RUN: Variable = Variable {
    name: "HEADSTART_RUN",
    meaning: "Directory for what must not outlive a reboot: records of frozen containers. Default: \
              `/run/headstart` for root, else `$XDG_RUNTIME_DIR/headstart` or `run` in the state directory.",
};

pub(crate) const SOURCE_DATE_EPOCH: Variable = Variable {
    name: "SOURCE_DATE_EPOCH",
    meaning: "Seconds since 1970: the time of creation of a new image, and the latest time of a file in it. \
              Equal content then gives equal digests.",
};

pub(crate) const NO_COLOR: Variable =
    Variable { name: "NO_COLOR", meaning: "No colours, whatever the terminal can show." };

pub(crate) const COMPLETE: Variable = Variable {
    name: "HEADSTART_COMPLETE",
    meaning: "Set by the completion scripts that `headstart completions` prints; names the shell that asks.",
};

pub(crate) const SEALED_LOG: Variable = Variable {
    name: "HEADSTART_SEALED_LOG",
    meaning: "Set by `commit --wait sealed` for the process that goes on: where it writes what goes wrong.",
};

/// All, for the reference.
pub(crate) const ALL: [&Variable; 6] = [&ROOT, &RUN, &SOURCE_DATE_EPOCH, &NO_COLOR, &COMPLETE, &SEALED_LOG];

impl Variable {
    /// Its value; one that is empty counts as not set.
    pub(crate) fn get(&self) -> Option<OsString> {
        std::env::var_os(self.name).filter(|value| !value.is_empty())
    }
}
