//! Checks whether this machine has an NVIDIA driver.

use std::path::Path;
use std::process::{Command, Stdio};

/// Returns whether there are signs of a driver. It does not look for a device: the loader checks the driver
/// itself.
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
