//! With which status the program ends, and what each means.

/// How a command ended; the numbers are part of the interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    Done,
    Failed,
    Usage,
    NotFound,
    Conflict,
    NotPossible,
    Corrupt,
    Partial,
    Interrupted,
}

impl Exit {
    /// In the order of their numbers.
    pub(crate) const ALL: [Self; 9] = [
        Self::Done,
        Self::Failed,
        Self::Usage,
        Self::NotFound,
        Self::Conflict,
        Self::NotPossible,
        Self::Corrupt,
        Self::Partial,
        Self::Interrupted,
    ];

    /// What the status of another process of ours means.
    pub(crate) fn from_code(code: Option<i32>) -> Self {
        let is_same = |exit: &&Self| Some(i32::from(exit.code())) == code;
        Self::ALL.iter().find(is_same).copied().unwrap_or(Self::Failed)
    }

    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::NotFound => 3,
            Self::Conflict => 4,
            Self::NotPossible => 5,
            Self::Corrupt => 6,
            Self::Partial => 7,
            Self::Interrupted => 130,
        }
    }

    /// For the reference.
    pub(crate) fn meaning(self) -> &'static str {
        match self {
            Self::Done => "Done. A reader of stdout that goes away early counts as done, too.",
            Self::Failed => "Failed, for a reason that has no status of its own: an I/O error, a full disk.",
            Self::Usage => "The command line, or a file it names, asks for something that makes no sense.",
            Self::NotFound => "What was named does not exist: an image, a process, a file.",
            Self::Conflict => "What was named is in use, exists already, or is ambiguous.",
            Self::NotPossible => {
                "Not possible here: a right or a capability is missing, or the source cannot be saved rightly."
            }
            Self::Corrupt => "Stored or received bytes are damaged or not what they claim to be.",
            Self::Partial => {
                "Done, but something that the output names was left out, is torn, or is unreadable."
            }
            Self::Interrupted => "Interrupted by SIGINT or SIGTERM; what was begun has been undone.",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Exit;

    #[test]
    fn numbers_are_distinct_and_ascending() {
        let codes: Vec<u8> = Exit::ALL.iter().map(|exit| exit.code()).collect();
        assert_eq!(codes, [0, 1, 2, 3, 4, 5, 6, 7, 130]);
    }
}
