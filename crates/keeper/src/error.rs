//! Errors of keepers and stores.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use rustix::io::Errno;

use crate::ManifestError;

/// Why a store or a keeper failed.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No keeper listens at the path, or it no longer does.
    #[error("the keeper at {} cannot be reached: {}", path.display(), unreachable_because(cause))]
    Unreachable {
        /// The socket.
        path: PathBuf,
        /// What the system says.
        #[source]
        cause: Arc<io::Error>,
    },
    /// The keeper runs as a user that is neither root nor the user of this process.
    #[error("the keeper runs as user {found}; {}", trusted_by(*own))]
    OtherUser {
        /// The user of the keeper.
        found: u32,
        /// The user of this process.
        own: u32,
    },
    /// The keeper does not serve the user of this process.
    #[error("the keeper serves only its own user and root")]
    Refused,
    /// The process on the other side does not keep to the protocol, or does not answer.
    #[error("the process on the other side of the socket breaks the protocol: {problem}")]
    Protocol {
        /// What it did.
        problem: String,
    },
    /// A limit of the keeper, or the number of descriptors of a process, is reached.
    #[error("no room: {limit}")]
    Full {
        /// The limit.
        limit: String,
    },
    /// A manifest is not valid, or does not fit to its entry.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// A keeper cannot listen at the path.
    #[error("cannot listen at {}: {problem}", path.display())]
    Socket {
        /// The socket.
        path: PathBuf,
        /// Why.
        problem: String,
    },
    /// The caller ended the wait for another process that loads the same weights.
    #[error("cancelled while another process loads the same weights")]
    Cancelled,
    /// The system refused a call.
    #[error("cannot {what}: {cause}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// What the system says.
        #[source]
        cause: Arc<io::Error>,
    },
}

/// Says which keepers a user trusts.
fn trusted_by(user: u32) -> String {
    match user {
        0 => "root trusts only a keeper of root".to_owned(),
        user => format!("user {user} trusts only its own keeper and a keeper of root"),
    }
}

/// Returns why a keeper cannot be reached.
fn unreachable_because(cause: &io::Error) -> String {
    // The system says "wrong type for socket", but only for a socket of another type.
    match Errno::from_io_error(cause) {
        Some(Errno::PROTOTYPE) => "this is no socket of a keeper".to_owned(),
        _ => cause.to_string(),
    }
}

impl Error {
    /// Returns the error's code, which does not change between versions.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Unreachable { .. } => "KEEPER_UNREACHABLE",
            Self::OtherUser { .. } | Self::Refused => "KEEPER_REFUSED",
            Self::Protocol { .. } => "KEEPER_PROTOCOL",
            Self::Full { .. } => "KEEPER_FULL",
            Self::Manifest(_) => "MANIFEST_INVALID",
            Self::Socket { .. } => "KEEPER_SOCKET",
            Self::Cancelled => "CANCELLED",
            Self::Io { .. } => "KEEPER_IO",
        }
    }

    /// Returns a function that makes an error of a refused call.
    pub(crate) fn io<E: Into<io::Error>>(what: &'static str) -> impl FnOnce(E) -> Self {
        move |cause| Self::Io { what, cause: Arc::new(cause.into()) }
    }

    pub(crate) fn protocol(problem: impl Into<String>) -> Self {
        Self::Protocol { problem: problem.into() }
    }
}
