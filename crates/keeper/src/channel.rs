//! Messages with descriptors between a keeper and its clients.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use minicbor::{Decode, Encode};
use rustix::cmsg_space;
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};

use crate::{Error, Key, Manifest};

/// The version of the protocol. A keeper greets its clients with it.
pub(crate) const PROTOCOL: u32 = 1;

/// The length of the longest message in bytes.
const MAX_MESSAGE: usize = 4096;

/// The most descriptors that Linux passes with one message. One more would be refused on the way.
const MAX_DESCRIPTORS: usize = 253;

const _: () = assert!(Manifest::MAX_DESCRIPTORS + 1 == MAX_DESCRIPTORS);

/// What a client asks for. It gets one [`Reply`]. Append-only.
#[derive(Debug, Encode, Decode)]
pub(crate) enum Request {
    /// The entry with this key, or else the claim on it. The reply may come late.
    #[n(0)]
    Find(#[n(0)] Key),
    /// The entry with this key.
    #[n(1)]
    Fetch(#[n(0)] Key),
    /// Keep the entry whose descriptors come with this message.
    #[n(2)]
    Publish,
    #[n(3)]
    Remove(#[n(0)] Key),
    /// End the wait for this key, or the claim on it.
    #[n(4)]
    GiveUp(#[n(0)] Key),
    /// The first entry whose key is greater than this one.
    #[n(5)]
    List(#[n(0)] Option<Key>),
}

/// What a keeper says. Append-only.
#[derive(Debug, PartialEq, Encode, Decode)]
pub(crate) enum Reply {
    /// The first message of every connection, if it is not a refusal.
    #[n(0)]
    Welcome(#[n(0)] u32),
    /// The entry comes with this message.
    #[n(1)]
    Entry,
    #[n(2)]
    Claimed,
    /// There is no entry.
    #[n(3)]
    Absent,
    /// The request was carried out.
    #[n(4)]
    Done,
    /// The manifest comes with this message.
    #[n(5)]
    Listed {
        #[n(0)]
        users: u32,
        #[n(1)]
        unused_seconds: Option<u64>,
    },
    /// A limit is reached.
    #[n(6)]
    Full(#[n(0)] String),
    /// The published entry is not valid.
    #[n(7)]
    Invalid(#[n(0)] String),
    /// The client's user is not served. The connection ends.
    #[n(8)]
    OtherUser,
    /// The request breaks the protocol. The connection ends.
    #[n(9)]
    Malformed(#[n(0)] String),
}

/// The result of [`receive`].
pub(crate) enum Received<T> {
    Message(T, Vec<OwnedFd>),
    /// No message is there yet.
    Nothing,
    /// The other side has closed the connection.
    Closed,
}

/// Sends a message with descriptors.
pub(crate) fn send<T: Encode<()>>(
    socket: BorrowedFd<'_>,
    message: &T,
    descriptors: &[OwnedFd],
) -> Result<(), Errno> {
    let mut bytes = [0; MAX_MESSAGE];
    let mut free = &mut bytes[..];
    minicbor::encode(message, &mut free).map_err(|_| Errno::MSGSIZE)?;
    let left = free.len();
    let descriptors: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
    send_bytes(socket, &bytes[..MAX_MESSAGE - left], &descriptors)
}

/// Sends bytes with descriptors.
pub(crate) fn send_bytes(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    descriptors: &[BorrowedFd<'_>],
) -> Result<(), Errno> {
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(Errno::TOOMANYREFS);
    }
    let flags = SendFlags::NOSIGNAL;
    rustix::io::retry_on_intr(|| {
        rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut control, flags)
    })?;
    Ok(())
}

/// Takes the next message, if there is one. Does not wait.
pub(crate) fn receive<T: for<'b> Decode<'b, ()>>(
    socket: BorrowedFd<'_>,
) -> Result<Received<T>, Error> {
    let mut bytes = [0; MAX_MESSAGE];
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let received = rustix::io::retry_on_intr(|| {
        rustix::net::recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, flags)
    });
    let received = match received {
        Ok(received) => received,
        Err(Errno::AGAIN) => return Ok(Received::Nothing),
        Err(Errno::CONNRESET) => return Ok(Received::Closed),
        Err(error) => return Err(Error::io("receive a message")(error)),
    };
    let messages = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
        _ => None,
    });
    let descriptors = messages.flatten().collect();
    if received.flags.contains(ReturnFlags::CTRUNC) {
        // The buffer has room for all, so the process has reached its own limit.
        let limit = "the receiving process has too many descriptors".to_owned();
        return Err(Error::Full { limit });
    }
    if received.flags.contains(ReturnFlags::TRUNC) {
        return Err(Error::protocol(format!("a message has more than {MAX_MESSAGE} bytes")));
    }
    if received.bytes == 0 {
        return Ok(Received::Closed);
    }
    let mut decoder = minicbor::Decoder::new(&bytes[..received.bytes]);
    let message = decoder.decode().map_err(|error| Error::protocol(error.to_string()))?;
    if decoder.position() != received.bytes {
        return Err(Error::protocol("a message has bytes after its end"));
    }
    Ok(Received::Message(message, descriptors))
}

/// Returns the user of the process on the other side, if it is not one that is trusted.
pub(crate) fn untrusted_peer(socket: BorrowedFd<'_>) -> Result<Option<u32>, Error> {
    let peer = rustix::net::sockopt::socket_peercred(socket)
        .map_err(Error::io("find out who is on the other side of a socket"))?;
    let is_trusted = peer.uid.is_root() || peer.uid == rustix::process::geteuid();
    Ok((!is_trusted).then(|| peer.uid.as_raw()))
}
