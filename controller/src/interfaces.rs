//! The addresses under which clients on other hosts may reach this one.

use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;
use std::net::Ipv4Addr;

/// Which addresses the connection file has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Advertise {
    /// These, in this order: names or addresses of this host, each with a port if it is another one, as behind a
    /// forwarding host. None: those of its interfaces.
    pub addresses: Vec<String>,
    /// Those of this interface alone.
    pub interface: Option<String>,
}

/// An interface that is not there.
#[derive(Debug, thiserror::Error)]
#[error("--interface {wanted}: no interface of this name is up and has an IPv4 address on host {host}; there {there}")]
pub struct NoInterface {
    wanted: String,
    host: String,
    there: String,
}

/// An interface that is up, by one of its addresses.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Interface {
    is_loopback: bool,
    address: Ipv4Addr,
    name: String,
}

/// `host:port` of every interface that is up, loopback last.
pub(crate) fn addresses(port: u16) -> Vec<String> {
    with_port(up().iter().map(|interface| interface.address.to_string()), port)
}

/// `host:port` of what is to be advertised.
pub(crate) fn advertised(advertise: &Advertise, port: u16) -> Result<Vec<String>, NoInterface> {
    select(advertise, &up()).map(|hosts| with_port(hosts.into_iter(), port))
}

/// Addresses, or names, with a port or without.
fn select(advertise: &Advertise, up: &[Interface]) -> Result<Vec<String>, NoInterface> {
    if !advertise.addresses.is_empty() {
        return Ok(advertise.addresses.clone());
    }
    let wanted = |interface: &&Interface| advertise.interface.as_ref().is_none_or(|name| *name == interface.name);
    let found: Vec<String> = up.iter().filter(wanted).map(|interface| interface.address.to_string()).collect();
    match &advertise.interface {
        Some(wanted) if found.is_empty() => {
            let names: Vec<&str> = up.iter().map(|interface| interface.name.as_str()).collect();
            let there = if names.is_empty() { "are none".to_owned() } else { format!("are {}", names.join(", ")) };
            Err(NoInterface { wanted: wanted.clone(), host: crate::event_loop::host(), there })
        }
        _ => Ok(found),
    }
}

fn with_port(hosts: impl Iterator<Item = String>, port: u16) -> Vec<String> {
    hosts.map(|host| if host.contains(':') { host } else { format!("{host}:{port}") }).collect()
}

fn up() -> Vec<Interface> {
    let mut found: Vec<Interface> = getifaddrs()
        .into_iter()
        .flatten()
        .filter(|interface| interface.flags.contains(InterfaceFlags::IFF_UP))
        .filter_map(|interface| {
            let address = interface.address?.as_sockaddr_in()?.ip();
            Some(Interface { is_loopback: address.is_loopback(), address, name: interface.interface_name })
        })
        .collect();
    found.sort_unstable();
    found.dedup();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interface(name: &str, address: [u8; 4]) -> Interface {
        let address = Ipv4Addr::from(address);
        Interface { is_loopback: address.is_loopback(), address, name: name.to_owned() }
    }

    fn selected(advertise: &Advertise) -> Result<Vec<String>, String> {
        let mut up =
            vec![interface("lo", [127, 0, 0, 1]), interface("ib0", [10, 1, 0, 7]), interface("eth0", [10, 0, 0, 7])];
        up.sort();
        select(advertise, &up).map(|hosts| with_port(hosts.into_iter(), 80)).map_err(|error| error.to_string())
    }

    #[test]
    fn all_interfaces_are_advertised_unless_some_are_named() {
        let all = Advertise::default();
        assert_eq!(selected(&all).unwrap(), ["10.0.0.7:80", "10.1.0.7:80", "127.0.0.1:80"]);
        let one = Advertise { interface: Some("ib0".to_owned()), ..all.clone() };
        assert_eq!(selected(&one).unwrap(), ["10.1.0.7:80"]);
        let named = Advertise { addresses: vec!["login.example.org:8022".to_owned(), "node7".to_owned()], ..one };
        assert_eq!(selected(&named).unwrap(), ["login.example.org:8022", "node7:80"]);
        let wrong = selected(&Advertise { interface: Some("ib1".to_owned()), ..all }).unwrap_err();
        assert!(wrong.starts_with("--interface ib1: no interface of this name is up"), "{wrong}");
        assert!(wrong.ends_with("there are eth0, ib0, lo"), "{wrong}");
    }
}
