//! Whether this machine has an NVIDIA driver.

use std::path::Path;
use std::process::{Command, Stdio};

/// Asks for signs of a driver rather than for a device: what the driver can do, the loader finds out.
pub(crate) fn has_driver() -> bool {
    // The second is how WSL 2 shows a GPU.
    ["/dev/nvidiactl", "/dev/dxg"].iter().any(|node| Path::new(node).exists())
        || Command::new("nvidia-smi")
            .arg("--list-gpus")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
}
