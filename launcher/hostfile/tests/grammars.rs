//! Both grammars: what they take, and the message for each mistake.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on must fail")]

use hostfile::{Grammar, Host, parse_hostfile, total_slots};
use proptest::prelude::*;

fn host(name: &str, slots: u32, max_slots: Option<u32>) -> Host {
    Host { name: name.to_owned(), slots, max_slots }
}

fn error(grammar: Grammar, text: &str) -> String {
    parse_hostfile(grammar, "hosts", text).unwrap_err().to_string()
}

#[test]
fn open_mpi_lines() {
    let text =
        "# two racks\nh1 slots=4 max_slots=8\n\nh2  # one\n user@h3\tslots = 2\n10.0.0.4 max-slots=3\nh1 slots=2\n";
    let hosts = parse_hostfile(Grammar::OpenMpi, "hosts", text).unwrap();
    assert_eq!(
        hosts,
        [host("h1", 6, Some(8)), host("h2", 1, None), host("user@h3", 2, None), host("10.0.0.4", 1, Some(3)),]
    );
    assert_eq!(total_slots(&hosts), 10);
}

#[test]
fn mpich_lines() {
    let hosts = parse_hostfile(Grammar::Mpich, "hosts", "h1:4\nh2\n#h3\nh1:2 # more\n").unwrap();
    assert_eq!(hosts, [host("h1", 6, None), host("h2", 1, None)]);
}

#[test]
fn each_mistake_says_file_line_and_what_is_expected() {
    let open_mpi = "; expected 'host', 'host slots=4' or 'host slots=4 max_slots=8'";
    for (text, found) in [
        ("h1\nh2:4", "hosts:2: 'h2:4' is no host name"),
        ("h1 4", "hosts:1: '4' is no setting"),
        ("h1 slot=4", "hosts:1: 'slot' is no setting of a host"),
        ("h1 slots=0", "hosts:1: slots is '0', which is no count above 0"),
        ("h1 slots=+4", "hosts:1: slots is '+4', which is no count above 0"),
        ("h1 slots=2 slots=3", "hosts:1: 'slots' is set twice"),
        ("h1 slots=4 max_slots=2", "hosts:1: max_slots=2 is below slots=4"),
    ] {
        assert_eq!(error(Grammar::OpenMpi, text), format!("{found}{open_mpi}"));
    }
    for (text, found) in [
        ("h1 slots=4", "hosts:1: 'slots=4' is not expected after the host"),
        ("h1:", "hosts:1: the number after ':' is '', which is no count above 0"),
        (":4", "hosts:1: '' is no host name"),
    ] {
        assert_eq!(error(Grammar::Mpich, text), format!("{found}; expected 'host' or 'host:4'"));
    }
    assert_eq!(error(Grammar::Mpich, "# nothing\n"), "hosts names no host; expected a line such as 'host' or 'host:4'");
}

proptest! {
    #[test]
    fn slots_add_up_in_the_order_of_the_names(lines in prop::collection::vec((0usize..5, 1u32..100), 1..20)) {
        let name = |index: usize| format!("host-{index}.example");
        let open_mpi: Vec<String> = lines.iter().map(|&(i, n)| format!("{} slots={n}", name(i))).collect();
        let mpich: Vec<String> = lines.iter().map(|&(i, n)| format!("{}:{n}", name(i))).collect();
        let hosts = parse_hostfile(Grammar::OpenMpi, "hosts", &open_mpi.join("\n")).unwrap();
        prop_assert_eq!(&hosts, &parse_hostfile(Grammar::Mpich, "hosts", &mpich.join("\n")).unwrap());
        prop_assert_eq!(total_slots(&hosts), lines.iter().map(|&(_, n)| n as usize).sum::<usize>());
        prop_assert_eq!(&hosts[0].name, &name(lines[0].0));
    }

    #[test]
    fn any_text_ends_in_hosts_or_an_error(text in "([a-z0-9=: #\\n]|slots)*|.*") {
        for grammar in [Grammar::OpenMpi, Grammar::Mpich] {
            if let Ok(hosts) = parse_hostfile(grammar, "hosts", &text) {
                prop_assert!(hosts.iter().all(|host| host.slots > 0 && !host.name.is_empty()));
            }
        }
    }
}
