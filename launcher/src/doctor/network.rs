//! The addresses that a connection file would have, and the host's name, which mpirun looks up.

use std::io;
use std::net::{IpAddr, Ipv4Addr, ToSocketAddrs};

use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;

use super::ask::Ask;
use super::finding::Finding;
use crate::machine::host_name;

const CHECK: &str = "interfaces";
const NAME: &str = "host name";

/// Looks at the interfaces and looks the host's name up.
pub(crate) fn examine(ask: &Ask) -> [Finding; 2] {
    let name = host_name();
    let asked = name.clone();
    let addresses = ask.within(move || resolve(&asked));
    [judge_interfaces(&interfaces()), judge_name(&name, addresses.as_ref(), &ask.patience())]
}

/// The IPv4 addresses of interfaces that are up, which rank 0 advertises.
fn interfaces() -> Vec<Ipv4Addr> {
    let up = getifaddrs().into_iter().flatten().filter(|interface| interface.flags.contains(InterfaceFlags::IFF_UP));
    let mut found: Vec<Ipv4Addr> = up.filter_map(|interface| Some(interface.address?.as_sockaddr_in()?.ip())).collect();
    found.sort_unstable();
    found.dedup();
    found
}

fn resolve(name: &str) -> io::Result<Vec<IpAddr>> {
    let mut addresses: Vec<IpAddr> = (name, 0).to_socket_addrs()?.map(|address| address.ip()).collect();
    addresses.dedup();
    Ok(addresses)
}

fn judge_interfaces(found: &[Ipv4Addr]) -> Finding {
    let outward: Vec<String> = found.iter().filter(|address| !address.is_loopback()).map(Ipv4Addr::to_string).collect();
    if outward.is_empty() {
        return Finding::warning(
            CHECK,
            "no interface with an IPv4 address is up but the loopback, so that only clients on this host can connect",
            "run clients on this host, bring a network up, or start the container with --network=host",
        );
    }
    Finding::ok(CHECK, format!("clients on other hosts connect to {}", outward.join(" or ")))
}

fn judge_name(name: &str, addresses: Option<&io::Result<Vec<IpAddr>>>, patience: &str) -> Finding {
    let mend = format!("add a line such as `127.0.1.1 {name}` to /etc/hosts, or set the name service right");
    match addresses {
        None => Finding::warning(NAME, format!("nobody said within {patience} which address host {name} has"), mend),
        Some(Err(error)) => {
            Finding::warning(NAME, format!("the name of this host, {name}, has no address ({error})"), mend)
        }
        Some(Ok(addresses)) => {
            let addresses: Vec<String> = addresses.iter().map(IpAddr::to_string).collect();
            Finding::ok(NAME, format!("this host's name, {name}, is that of {}", addresses.join(", ")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_hosts_need_an_interface() {
        let [lo, eth] = [Ipv4Addr::LOCALHOST, Ipv4Addr::new(10, 0, 0, 7)];
        assert_eq!(judge_interfaces(&[eth, lo]).to_string(), "ok      clients on other hosts connect to 10.0.0.7");
        assert!(judge_interfaces(&[lo]).to_string().starts_with("warning no interface with an IPv4 address is up but"));
    }

    #[test]
    fn the_hosts_name_must_have_an_address() {
        let judge = |addresses| judge_name("h1", addresses, "2 seconds").to_string();
        let found = Ok(vec![IpAddr::V4(Ipv4Addr::LOCALHOST)]);
        assert_eq!(judge(Some(&found)), "ok      this host's name, h1, is that of 127.0.0.1");
        let unknown = Err(io::Error::other("unknown"));
        assert!(judge(Some(&unknown)).starts_with("warning the name of this host, h1, has no address (unknown): add"));
        assert!(judge(None).starts_with("warning nobody said within 2 seconds which address host h1 has: add a line"));
        assert!(resolve("localhost").unwrap().iter().all(IpAddr::is_loopback));
    }
}
