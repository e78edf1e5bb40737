//! The addresses under which clients on other hosts may reach this one.

use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;
use std::net::Ipv4Addr;

/// `host:port` of every interface that is up, loopback last.
pub(crate) fn addresses(port: u16) -> Vec<String> {
    let mut found: Vec<(bool, Ipv4Addr)> = getifaddrs()
        .into_iter()
        .flatten()
        .filter(|interface| interface.flags.contains(InterfaceFlags::IFF_UP))
        .filter_map(|interface| Some(interface.address?.as_sockaddr_in()?.ip()))
        .map(|address| (address.is_loopback(), address))
        .collect();
    found.sort_unstable();
    found.dedup();
    found.into_iter().map(|(_, address)| format!("{address}:{port}")).collect()
}
