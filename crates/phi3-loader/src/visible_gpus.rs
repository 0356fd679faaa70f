//! Hides the GPUs that a load does not use from the CUDA driver. Otherwise the driver starts all of them before it
//! creates a context, which takes longer.

use std::ffi::OsStr;
use std::fs::read_dir;
use std::path::Path;

/// The variable that the driver reads when it starts.
const VARIABLE: &str = "CUDA_VISIBLE_DEVICES";

/// Hides all GPUs but this one from the driver. The rest of the program still finds it under its ordinal.
///
/// Changes nothing if it is not certain that the ordinal exists and which GPU it names. The load then takes longer, and
/// a wrong ordinal has the same error as with all GPUs.
pub(super) fn hide_all_but(ordinal: i32) {
    let is_alone = read_dir("/proc/self/task").is_ok_and(|threads| threads.count() == 1);
    if !cuda_sys::cuda_compiled() || !is_alone {
        return;
    }
    let list = std::env::var_os(VARIABLE);
    if let Some(only) = entry_of(list.as_deref(), ordinal, gpus(Path::new("/"))) {
        // SAFETY: `is_alone` shows that this process has one thread, and its signal handlers do not read the
        // environment. Hence nothing reads the environment while it changes.
        unsafe { std::env::set_var(VARIABLE, only) };
        cuda_sys::number_gpus_from(ordinal);
    }
}

/// Returns the entry of `list`, the value of [`VARIABLE`], that names the GPU with this ordinal. `None` if there is no
/// such entry, nothing to hide, or if CUDA may understand the list in another way. `gpus` is the number of GPUs of the
/// machine.
fn entry_of(list: Option<&OsStr>, ordinal: i32, gpus: usize) -> Option<String> {
    let numbers: Vec<_>;
    let entries: Vec<_> = match list {
        Some(list) => list.to_str()?.split(',').collect(),
        None => {
            numbers = (0..gpus).map(|gpu| gpu.to_string()).collect();
            numbers.iter().map(String::as_str).collect()
        }
    };
    // CUDA ignores an invalid entry and all entries after it. If one is there twice, it shows no GPU.
    let is_number = |entry: &&str| (0..gpus).any(|gpu| gpu.to_string() == **entry);
    let numbers = entries.iter().take_while(|entry| is_number(entry)).count();
    let uuids = entries.iter().take_while(|entry| is_uuid(entry)).count();
    let visible = &entries[..numbers.max(uuids)];
    let is_mixed = entries.get(visible.len()).is_some_and(|next| is_number(next) || is_uuid(next));
    let is_double = (1..entries.len()).any(|at| entries[..at].contains(&entries[at]));
    if visible.len() < 2 || is_mixed || is_double {
        return None;
    }
    visible.get(usize::try_from(ordinal).ok()?).map(|&entry| entry.to_owned())
}

/// Returns whether an entry is the whole UUID of a GPU. CUDA also accepts the start of one.
fn is_uuid(entry: &str) -> bool {
    const DIGITS: [usize; 5] = [8, 4, 4, 4, 12];
    let Some(uuid) = entry.strip_prefix("GPU-") else { return false };
    let is_hex = |part: &str| part.bytes().all(|byte| byte.is_ascii_hexdigit());
    uuid.split('-').map(str::len).eq(DIGITS) && uuid.split('-').all(is_hex)
}

/// Returns the number of GPUs that have device files. 0 if one is divided (MIG): CUDA then shows a part of a GPU and
/// hides the others itself.
fn gpus(root: &Path) -> usize {
    let names = |folder: &Path| {
        let entries = read_dir(folder).into_iter().flatten().flatten();
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect::<Vec<_>>()
    };
    let capabilities = root.join("proc/driver/nvidia/capabilities");
    let is_divided = names(&capabilities).iter().any(|gpu| {
        names(&capabilities.join(gpu).join("mig")).iter().any(|name| name.starts_with("gi"))
    });
    let is_number = |text: &str| text.parse::<u16>().is_ok();
    let devices = names(&root.join("dev"));
    let gpus = devices.iter().filter_map(|name| name.strip_prefix("nvidia"));
    if is_divided { 0 } else { gpus.filter(|number| is_number(number)).count() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{create_dir_all, write};
    use std::os::unix::ffi::OsStrExt;

    const A: &str = "GPU-8b2c3a10-1f2e-4d5c-9a8b-0123456789ab";
    const B: &str = "GPU-8b2c3a10-1f2e-4d5c-9a8b-0123456789AC";

    /// Returns the new value on a machine with 4 GPUs.
    fn entry(list: &str, ordinal: i32) -> Option<String> {
        entry_of(Some(OsStr::new(list)), ordinal, 4)
    }

    #[test]
    fn without_a_list_the_ordinal_is_the_entry() {
        assert_eq!(entry_of(None, 0, 2).as_deref(), Some("0"));
        assert_eq!(entry_of(None, 1, 2).as_deref(), Some("1"));
        assert_eq!(entry_of(None, 2, 2), None);
        // Nothing is to be hidden, or the number of GPUs is unknown.
        assert_eq!(entry_of(None, 0, 1), None);
        assert_eq!(entry_of(None, 0, 0), None);
    }

    #[test]
    fn an_ordinal_counts_the_entries_of_the_list() {
        assert_eq!(entry("2,3,0", 0).as_deref(), Some("2"));
        assert_eq!(entry("2,3,0", 2).as_deref(), Some("0"));
        assert_eq!(entry("2,3,0", 3), None);
        let uuids = format!("{B},{A}");
        assert_eq!(entry(&uuids, 1).as_deref(), Some(A));
        assert_eq!(entry(&uuids, 2), None);
    }

    #[test]
    fn an_invalid_entry_ends_the_list() {
        for invalid in ["-1", "4", "", "x", "NoDevFiles", "GPU-", "MIG-8b2c3a10"] {
            let list = format!("3,1,{invalid},2");
            assert_eq!(entry(&list, 1).as_deref(), Some("1"), "{list}");
            assert_eq!(entry(&list, 2), None, "{list}");
            assert_eq!(entry(&format!("{A},{B},{invalid}"), 1).as_deref(), Some(B));
        }
    }

    #[test]
    fn a_list_that_cuda_may_understand_in_another_way_is_left_alone() {
        let short = &A[..12];
        for list in [
            "",
            "0",
            A,
            "-1",
            "0,0",
            "1,0,1",
            "0,1,x,0",
            " 0,1",
            "0, 1",
            "+0,1",
            "00,1",
            "0x0,1",
            "MIG-8b2c3a10,MIG-8b2c3a11",
            "MIG-GPU-8b2c3a10/1/0,0",
        ] {
            assert_eq!(entry(list, 0), None, "{list}");
        }
        for list in
            [format!("0,{A}"), format!("{A},{B},0"), format!("{short},{B}"), format!("{A},{A}")]
        {
            assert_eq!(entry(&list, 0), None, "{list}");
        }
        assert_eq!(entry_of(Some(OsStr::from_bytes(b"0,1\xff")), 0, 4), None);
    }

    #[test]
    fn gpus_are_counted_by_their_device_files() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(gpus(root.path()), 0);
        create_dir_all(root.path().join("dev/nvidia-caps")).unwrap();
        for name in ["nvidia0", "nvidia11", "nvidiactl", "nvidia-uvm", "nvidia", "null"] {
            write(root.path().join("dev").join(name), "").unwrap();
        }
        assert_eq!(gpus(root.path()), 2);
        let gpu = root.path().join("proc/driver/nvidia/capabilities/gpu1/mig");
        create_dir_all(&gpu).unwrap();
        write(gpu.join("config"), "").unwrap();
        assert_eq!(gpus(root.path()), 2);
        create_dir_all(gpu.join("gi3")).unwrap();
        assert_eq!(gpus(root.path()), 0);
    }
}
