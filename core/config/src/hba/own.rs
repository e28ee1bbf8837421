//! This machine's own addresses, for `samehost` and `samenet`.

use std::io;
use std::net::IpAddr;

use nix::ifaddrs::getifaddrs;
use nix::sys::socket::SockaddrStorage;

use super::Network;

/// Every address of every interface, with the mask of its network.
pub(crate) fn networks() -> io::Result<Vec<Network>> {
    let ip = |address: &SockaddrStorage| {
        let v4 = address.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip())))
    };
    let interfaces = getifaddrs().map_err(io::Error::from)?;
    Ok(interfaces
        .filter_map(|interface| {
            let address = interface.address.as_ref().and_then(ip)?;
            let mask = interface.netmask.as_ref().and_then(ip).filter(|mask| mask.is_ipv4() == address.is_ipv4())?;
            Some(Network { address, mask })
        })
        .collect())
}
