//! Where resident weights are kept: a keeper behind a socket, or systemd.

use super::args::{Socket, wrong_use};
use super::failure::Failure;
use keeper::{Connection, Store, systemd};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// The value of `load --resident` for the descriptor store of systemd.
const SYSTEMD: &str = "systemd";

/// Opens the store that `load --resident` names.
pub(super) fn open(place: &Path) -> Result<Box<dyn Store>, Failure> {
    if place != Path::new(SYSTEMD) {
        return Ok(Box::new(Connection::open(place)?));
    }
    match systemd::Store::from_environment()? {
        // The command loads one model.
        Some(store) => Ok(Box::new(store.for_one_entry())),
        None => Err(usage(
            "--resident systemd needs a unit of systemd that runs this command, with FileDescriptorStoreMax=",
        )),
    }
}

impl Socket {
    pub(super) fn path(&self) -> Result<PathBuf, Failure> {
        let runtime_dir = std::env::var_os("XDG_RUNTIME_DIR");
        let default = || default_socket(runtime_dir, rustix::process::geteuid().is_root());
        self.path
            .clone()
            .or_else(default)
            .ok_or_else(|| usage("--socket is required, because XDG_RUNTIME_DIR is not set"))
    }

    pub(super) fn connect(&self) -> Result<Connection, Failure> {
        Ok(Connection::open(&self.path()?)?)
    }
}

/// Returns the path of the socket if the user gives none.
fn default_socket(runtime_dir: Option<OsString>, is_root: bool) -> Option<PathBuf> {
    let of_user = runtime_dir.map(PathBuf::from).filter(|folder| folder.is_absolute());
    let folder = of_user.or_else(|| is_root.then(|| PathBuf::from("/run")))?;
    Some(folder.join("phi3-loader/keeper.sock"))
}

fn usage(message: &str) -> Failure {
    Failure::Usage(wrong_use(message.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_socket_is_in_the_folder_of_the_user_or_for_root_in_run() {
        let default = |folder: Option<&str>, is_root| {
            let path = default_socket(folder.map(OsString::from), is_root)?;
            Some(path.to_str().unwrap().to_owned())
        };
        let of_user = Some("/run/user/7/phi3-loader/keeper.sock".to_owned());
        let of_root = Some("/run/phi3-loader/keeper.sock".to_owned());
        assert_eq!(default(Some("/run/user/7"), false), of_user);
        assert_eq!(default(Some("/run/user/7"), true), of_user);
        assert_eq!(default(None, true), of_root);
        assert_eq!(default(Some("relative"), true), of_root);
        assert_eq!(default(None, false), None);
        assert_eq!(default(Some(""), false), None);
    }
}
