//! Lists of devices on the command line.

use cuda_sys::DeviceKind;
use std::fmt;
use std::str::FromStr;

/// A list of devices, as the user wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DeviceList(Vec<Entry>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Entry {
    One(DeviceKind),
    AllGpus,
}

/// A text that is no list of devices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ParseListError(String);

impl fmt::Display for ParseListError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let entry = gguf_format::escape(&self.0);
        write!(
            f,
            "\"{entry}\" is no device: expected host, cuda:N, cuda:all or the number of a GPU"
        )
    }
}

impl std::error::Error for ParseListError {}

impl FromStr for DeviceList {
    type Err = ParseListError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.split(',').map(Entry::from_str).collect::<Result<_, _>>().map(Self)
    }
}

impl FromStr for Entry {
    type Err = ParseListError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "host" => return Ok(Self::One(DeviceKind::Host)),
            "cuda" => return Ok(Self::One(DeviceKind::Cuda(0))),
            "cuda:all" => return Ok(Self::AllGpus),
            _ => {}
        }
        // `u16::from_str` accepts "+1", too.
        let number = text.strip_prefix("cuda:").unwrap_or(text);
        let ordinal = number.parse::<u16>().ok().filter(|_| !number.starts_with('+'));
        let device = |ordinal: u16| Self::One(DeviceKind::Cuda(ordinal.into()));
        ordinal.map(device).ok_or_else(|| ParseListError(text.to_owned()))
    }
}

impl DeviceList {
    /// Returns the devices in the order of the list. `cuda:all` stands for these GPUs.
    pub(super) fn with_gpus(&self, gpus: &[DeviceKind]) -> Vec<DeviceKind> {
        let of_entry = |entry: &Entry| match *entry {
            Entry::One(device) => vec![device],
            Entry::AllGpus => gpus.to_vec(),
        };
        self.0.iter().flat_map(of_entry).collect()
    }

    /// Returns whether the GPUs of this machine must be known.
    pub(super) fn names_all_gpus(&self) -> bool {
        self.0.contains(&Entry::AllGpus)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GPUS: [DeviceKind; 2] = [DeviceKind::Cuda(0), DeviceKind::Cuda(1)];

    fn devices(text: &str) -> Vec<String> {
        let list: DeviceList = text.parse().unwrap();
        list.with_gpus(&GPUS).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_list_names_devices_in_order() {
        assert_eq!(devices("cuda:1,cuda:0"), ["cuda:1", "cuda:0"]);
        assert_eq!(devices("host,cuda,3,host"), ["host", "cuda:0", "cuda:3", "host"]);
        assert_eq!(devices("host,cuda:all"), ["host", "cuda:0", "cuda:1"]);
        assert_eq!(devices("cuda:0,cuda:0"), ["cuda:0", "cuda:0"]);
        assert!("cuda:all".parse::<DeviceList>().unwrap().names_all_gpus());
    }

    #[test]
    fn a_wrong_entry_is_named() {
        for text in ["", "gpu", "host,", ",host", "auto", "cuda:", "cuda:-1", "+1", "cuda:65536"] {
            let error = text.parse::<DeviceList>().unwrap_err().to_string();
            assert!(error.contains("is no device: expected host"), "{text}: {error}");
        }
        assert!("host,x\n".parse::<DeviceList>().unwrap_err().to_string().contains("x\\n"));
    }
}
