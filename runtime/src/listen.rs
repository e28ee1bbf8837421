//! Listening sockets.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::Path;

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

/// A TCP listener that shares its port with the other shards' (`SO_REUSEPORT`).
///
/// # Errors
/// What the system says: the port is taken, the address is not ours.
pub fn tcp_reuseport(address: SocketAddr, backlog: u32) -> io::Result<OwnedFd> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.bind(&address.into())?;
    socket.listen(i32::try_from(backlog).unwrap_or(i32::MAX))?;
    Ok(socket.into())
}

/// A listener on a Unix socket that any user of the machine may connect to. A socket file that nobody answers on is
/// replaced.
///
/// # Errors
/// What the system says: somebody else listens there, the directory is missing or not ours.
pub fn unix(path: &Path, backlog: u32) -> io::Result<OwnedFd> {
    match UnixStream::connect(path) {
        Ok(_) => return Err(io::ErrorKind::AddrInUse.into()),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path)?,
        Err(_) => {}
    }
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.bind(&SockAddr::unix(path)?)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777))?;
    socket.listen(i32::try_from(backlog).unwrap_or(i32::MAX))?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_file_that_nobody_answers_on_is_replaced_and_one_in_use_is_not() {
        let dir = std::env::temp_dir().join(format!("optimacore-listen-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join("socket");
        let first = unix(&path, 1).unwrap();
        assert_eq!(unix(&path, 1).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(first);
        drop(unix(&path, 1).unwrap());
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
