//! Lists of devices on the command line.

use cuda_sys::DeviceKind;
use loader::DeviceChoice;
use std::fmt;
use std::str::FromStr;

/// A list of devices, as the user wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DeviceList(Vec<Entry>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Entry {
    /// The program chooses. It is the only entry.
    Auto,
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
            "\"{entry}\" is no device: expected host, cuda:N, cuda:all or the number of a GPU, or auto alone"
        )
    }
}

impl std::error::Error for ParseListError {}

/// Writes the list as the option `--device` of this program.
impl fmt::Display for DeviceList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let entries: Vec<_> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&entries.join(","))
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::One(device) => device.fmt(f),
            Self::AllGpus => f.write_str("cuda:all"),
        }
    }
}

impl FromStr for DeviceList {
    type Err = ParseListError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "auto" {
            return Ok(Self(vec![Entry::Auto]));
        }
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

/// Returns the choice of exactly this device.
pub(super) fn choice(device: DeviceKind) -> DeviceChoice {
    match device {
        DeviceKind::Host => DeviceChoice::Host,
        DeviceKind::Cuda(ordinal) => DeviceChoice::Cuda(ordinal),
    }
}

impl DeviceList {
    /// Returns the devices in the order of the list; `None` for `auto`. `cuda:all` stands for these GPUs.
    pub(super) fn with_gpus(&self, gpus: &[DeviceKind]) -> Option<Vec<DeviceKind>> {
        let of_entry = |entry: &Entry| match *entry {
            Entry::Auto => None,
            Entry::One(device) => Some(vec![device]),
            Entry::AllGpus => Some(gpus.to_vec()),
        };
        let devices: Option<Vec<_>> = self.0.iter().map(of_entry).collect();
        Some(devices?.concat())
    }

    /// Returns whether the GPUs of this machine must be known.
    pub(super) fn names_all_gpus(&self) -> bool {
        self.0.contains(&Entry::AllGpus)
    }

    /// Returns the choice if the list has one entry, which names at most one device.
    pub(super) fn single(&self) -> Option<DeviceChoice> {
        match self.0[..] {
            [Entry::Auto] => Some(DeviceChoice::Auto),
            [Entry::One(device)] => Some(choice(device)),
            _ => None,
        }
    }

    /// Returns the list of the first device alone.
    pub(super) fn first(&self) -> Self {
        let first = match self.0.first() {
            Some(Entry::AllGpus) => Entry::One(DeviceKind::Cuda(0)),
            Some(entry) => *entry,
            None => Entry::Auto,
        };
        Self(vec![first])
    }

    /// Returns the ordinal of the GPU, if all GPUs of the list are this one. `auto` means the first GPU.
    pub(super) fn only_gpu(&self) -> Option<i32> {
        let mut gpus = self.0.iter().filter(|entry| **entry != Entry::One(DeviceKind::Host));
        let first = gpus.next().filter(|first| gpus.all(|other| other == *first))?;
        match first {
            Entry::Auto => Some(0),
            Entry::One(DeviceKind::Cuda(ordinal)) => Some(*ordinal),
            Entry::One(DeviceKind::Host) | Entry::AllGpus => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GPUS: [DeviceKind; 2] = [DeviceKind::Cuda(0), DeviceKind::Cuda(1)];

    fn list(text: &str) -> DeviceList {
        text.parse().unwrap()
    }

    fn devices(text: &str) -> Vec<String> {
        let devices = list(text).with_gpus(&GPUS).unwrap();
        devices.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_list_names_devices_in_order() {
        assert_eq!(devices("cuda:1,cuda:0"), ["cuda:1", "cuda:0"]);
        assert_eq!(devices("host,cuda,3,host"), ["host", "cuda:0", "cuda:3", "host"]);
        assert_eq!(devices("host,cuda:all"), ["host", "cuda:0", "cuda:1"]);
        assert_eq!(devices("cuda:0,cuda:0"), ["cuda:0", "cuda:0"]);
        assert_eq!(list("auto").with_gpus(&GPUS), None);
        assert!(list("cuda:all").names_all_gpus());
        for text in ["auto", "host", "host,cuda:3,cuda:all"] {
            assert_eq!(list(text).to_string(), text);
        }
    }

    #[test]
    fn a_wrong_entry_is_named() {
        for text in
            ["", "gpu", "host,", ",host", "auto,host", "cuda:", "cuda:-1", "+1", "cuda:65536"]
        {
            let error = text.parse::<DeviceList>().unwrap_err().to_string();
            assert!(error.contains("is no device: expected host"), "{text}: {error}");
        }
        assert!("host,x\n".parse::<DeviceList>().unwrap_err().to_string().contains("x\\n"));
    }

    #[test]
    fn the_first_device_of_a_list_is_one_device() {
        for (text, first) in [("auto", "auto"), ("cuda:all", "cuda:0"), ("host,2", "host")] {
            assert_eq!(list(text).first().to_string(), first);
            assert_eq!(list(text).first().single().unwrap().to_string(), first);
        }
        assert_eq!(list("cuda:all").single(), None);
    }

    #[test]
    fn the_only_gpu_of_a_list_is_found() {
        for (text, gpu) in [
            ("auto", Some(0)),
            ("cuda", Some(0)),
            ("3", Some(3)),
            ("host,cuda:1,host,cuda:1", Some(1)),
            ("host", None),
            ("cuda:0,cuda:1", None),
            ("cuda:all", None),
            ("cuda:0,cuda:all", None),
        ] {
            assert_eq!(list(text).only_gpu(), gpu, "{text}");
        }
    }
}
