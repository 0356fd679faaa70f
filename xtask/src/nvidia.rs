//! Checks whether this machine has an NVIDIA driver.

use std::path::Path;
use std::process::{Command, Stdio};

/// Looks for signs of a driver, not for a device: the loader itself checks what the driver can do.
pub(crate) fn has_driver() -> bool {
    // The second path is for GPUs under WSL 2.
    ["/dev/nvidiactl", "/dev/dxg"].iter().any(|node| Path::new(node).exists())
        || Command::new("nvidia-smi")
            .arg("--list-gpus")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
}
