//! Errors of the engine, decoded from the one text that crosses the bridge.

use crate::device::DeviceKind;
use std::fmt;
use std::io;
use std::sync::Arc;

/// The kind of an [`Error`]. The order of the codes is that of the C++ side. Append-only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorCode {
    /// The request breaks the engine's contract: the caller's bug.
    InvalidArgument,
    /// No such device, no driver, or a build without CUDA.
    DeviceUnavailable,
    /// The device cannot hold the allocation.
    OutOfMemory,
    /// Host memory for staging cannot be allocated.
    HostOutOfMemory,
    /// Reading a source failed; the status is `errno`.
    Io,
    /// A source is shorter than promised.
    FileTruncated,
    /// A device call failed; the status is the device's own error number.
    DeviceFailure,
    /// The observer asked to stop.
    Cancelled,
    /// Anything that should not happen.
    Internal,
    /// Descriptors are not the memory of this device that they should be.
    ForeignMemory,
}

impl ErrorCode {
    /// Every code, in the order of the numbers on the C++ side, which start at 1.
    pub const ALL: [ErrorCode; 10] = [
        ErrorCode::InvalidArgument,
        ErrorCode::DeviceUnavailable,
        ErrorCode::OutOfMemory,
        ErrorCode::HostOutOfMemory,
        ErrorCode::Io,
        ErrorCode::FileTruncated,
        ErrorCode::DeviceFailure,
        ErrorCode::Cancelled,
        ErrorCode::Internal,
        ErrorCode::ForeignMemory,
    ];

    /// As the C++ side numbers it.
    pub(crate) fn number(self) -> i32 {
        (1..)
            .zip(Self::ALL)
            .find_map(|(number, code)| (code == self).then_some(number))
            .unwrap_or(0)
    }

    fn from_number(number: usize) -> Option<Self> {
        Self::ALL.get(number.checked_sub(1)?).copied()
    }
}

/// A failure inside the engine or its device.
///
/// A message is complete: it contains what the operating system said. For a source that could not be
/// read, [`source`](std::error::Error::source) returns the [`io::Error`].
#[derive(Clone, Debug)]
pub struct Error {
    code: ErrorCode,
    status: i32,
    source_file: Option<u32>,
    operation: Option<u32>,
    lane: Option<u32>,
    context: String,
    cause: Option<Arc<io::Error>>,
}

/// Ignores the cause, whose message is part of the context.
impl PartialEq for Error {
    fn eq(&self, other: &Self) -> bool {
        let fields = |error: &Self| {
            (error.code, error.status, error.source_file, error.operation, error.lane)
        };
        fields(self) == fields(other) && self.context == other.context
    }
}

impl Eq for Error {}

/// The error of the operating system for a file that could not be read. `context` contains its message.
fn io_cause(code: ErrorCode, status: i32, context: &str) -> Option<Arc<io::Error>> {
    match (code, status) {
        (ErrorCode::FileTruncated, _) => {
            Some(Arc::new(io::Error::new(io::ErrorKind::UnexpectedEof, context)))
        }
        (ErrorCode::Io, 1..) => Some(Arc::new(io::Error::from_raw_os_error(status))),
        _ => None,
    }
}

impl Error {
    pub(crate) fn new(code: ErrorCode, context: String) -> Self {
        Self {
            code,
            status: 0,
            source_file: None,
            operation: None,
            lane: None,
            context,
            cause: None,
        }
    }

    /// The kind of the failure.
    pub fn code(&self) -> ErrorCode {
        self.code
    }

    /// The number from the layer that failed: `errno` for a call of the operating system, CUDA's error for
    /// a call of CUDA. 0 if no such call failed, or if the C++ library had no memory.
    pub fn status(&self) -> i32 {
        self.status
    }

    /// The source that could not be read, by its place in [`Request::sources`](crate::Request::sources);
    /// `None` if it is unknown.
    pub fn source_file(&self) -> Option<u32> {
        self.source_file
    }

    /// The operation, by its place in [`Request::ops`](crate::Request::ops): the one that was refused, or
    /// the first one of the read or chunk that failed. `None` if it is unknown or there is none.
    pub fn operation(&self) -> Option<u32> {
        self.operation
    }

    /// The lane whose device failed, or whose destination was refused. `None` if the failure concerns no
    /// lane.
    pub fn lane(&self) -> Option<u32> {
        self.lane
    }

    /// Sets the error that a source returned.
    pub(crate) fn caused_by(mut self, cause: io::Error) -> Self {
        self.cause = Some(Arc::new(cause));
        self
    }

    /// Adds the device of the lane to the text, if the engine has several lanes.
    pub(crate) fn naming(mut self, devices: &[DeviceKind]) -> Self {
        let index = self.lane.and_then(|lane| usize::try_from(lane).ok());
        if let (Some(index), 2..) = (index, devices.len())
            && let Some(device) = devices.get(index)
        {
            self.context = format!("lane {index} ({device}): {}", self.context);
        }
        self
    }

    /// The call that failed and what it was for.
    pub fn context(&self) -> &str {
        &self.context
    }

    /// Decodes the text of `transfer::Error::what()`: a tag, the code, the status, the source, the
    /// operation and the lane (-1 if there is none) and the context, with a unit separator between them.
    /// Any other text is an internal error with that text.
    fn decode(what: &str) -> Self {
        let mut fields = what.splitn(7, '\x1f');
        let decoded = (|| {
            (fields.next()? == "transfer").then_some(())?;
            let code = ErrorCode::from_number(fields.next()?.parse().ok()?)?;
            let status = fields.next()?.parse().ok()?;
            let mut index = || Some(u32::try_from(fields.next()?.parse::<i64>().ok()?).ok());
            let (source_file, operation, lane) = (index()?, index()?, index()?);
            let context = fields.next()?;
            Some(Self {
                code,
                status,
                source_file,
                operation,
                lane,
                context: context.to_owned(),
                cause: io_cause(code, status, context),
            })
        })();
        decoded.unwrap_or_else(|| Self::new(ErrorCode::Internal, what.to_owned()))
    }
}

impl From<cxx::Exception> for Error {
    fn from(exception: cxx::Exception) -> Self {
        Self::decode(exception.what())
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.context)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.cause.as_deref().map(|cause| cause as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_survives_the_bridge() {
        for (index, code) in ErrorCode::ALL.into_iter().enumerate() {
            let number = index + 1;
            assert_eq!(usize::try_from(code.number()), Ok(number));
            let sites = [("-1", None), ("0", Some(0)), ("4294967295", Some(u32::MAX))];
            for shift in 0..sites.len() {
                let mut sites = sites;
                sites.rotate_left(shift);
                let [source, operation, lane] = sites;
                let what = format!(
                    "transfer\x1f{number}\x1f-7\x1f{}\x1f{}\x1f{}\x1fcontext: with\x1fanything",
                    source.0, operation.0, lane.0
                );
                let error = Error::decode(&what);
                assert_eq!((error.code(), error.status()), (code, -7));
                assert_eq!(error.source_file(), source.1);
                assert_eq!((error.operation(), error.lane()), (operation.1, lane.1));
                assert_eq!(error.context(), "context: with\x1fanything");
            }
        }
    }

    #[test]
    fn the_cause_of_a_failed_read_is_the_io_error() {
        let cause = |what| {
            let error = Error::decode(what);
            let cause = std::error::Error::source(&error)?.downcast_ref::<io::Error>()?;
            Some((cause.kind(), cause.raw_os_error()))
        };
        let denied = io::ErrorKind::PermissionDenied;
        assert_eq!(
            cause("transfer\x1f5\x1f13\x1f0\x1f-1\x1f-1\x1fpread"),
            Some((denied, Some(13)))
        );
        let ended = io::ErrorKind::UnexpectedEof;
        assert_eq!(cause("transfer\x1f6\x1f0\x1f0\x1f-1\x1f-1\x1fpread"), Some((ended, None)));
        // An error number of a device is not an error number of the operating system.
        assert_eq!(cause("transfer\x1f7\x1f13\x1f-1\x1f-1\x1f-1\x1fcudaMemcpy"), None);
        assert_eq!(cause("transfer\x1f5\x1f0\x1f0\x1f-1\x1f-1\x1fpread"), None);
    }

    #[test]
    fn several_lanes_are_named_with_their_devices() {
        let of_lane = |lane| Error { lane, ..Error::new(ErrorCode::DeviceFailure, "lost".into()) };
        let devices = [DeviceKind::Host, DeviceKind::Cuda(3)];
        assert_eq!(of_lane(Some(1)).naming(&devices).context(), "lane 1 (cuda:3): lost");
        assert_eq!(of_lane(None).naming(&devices).context(), "lost");
        assert_eq!(of_lane(Some(0)).naming(&devices[..1]).context(), "lost");
    }

    #[test]
    fn foreign_text_is_an_internal_error() {
        for what in [
            "std::bad_alloc",
            "",
            "transfer\x1f0\x1f0\x1f0\x1f0\x1f0\x1fx",
            "transfer\x1f11\x1f0\x1f0\x1f0\x1f0\x1fx",
        ] {
            let error = Error::decode(what);
            assert_eq!(error.code(), ErrorCode::Internal);
            assert_eq!(error.context(), what);
        }
    }
}
