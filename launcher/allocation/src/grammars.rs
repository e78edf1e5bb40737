//! The grammars, line by line and word by word. Pure; mistakes are a few words for a message.

use std::collections::HashMap;

use crate::Host;

/// Hosts in the order in which they are first named; naming one again adds up what it has.
#[derive(Default)]
pub(crate) struct Hosts {
    list: Vec<Host>,
    places: HashMap<String, usize>,
}

impl Hosts {
    pub(crate) fn add(&mut self, name: &str, slots: u32, cpus: Option<u32>) {
        if let Some(&place) = self.places.get(name) {
            let host = &mut self.list[place];
            host.slots = host.slots.saturating_add(slots);
            host.cpus = host.cpus.zip(cpus).map(|(one, other)| one.saturating_add(other));
        } else {
            self.places.insert(name.to_owned(), self.list.len());
            self.list.push(Host { name: name.to_owned(), slots, cpus, gpus: None });
        }
    }

    /// One more GPU on a host that is known.
    pub(crate) fn add_gpu(&mut self, name: &str) -> Result<(), String> {
        let place = *self.places.get(name).ok_or_else(|| format!("'{name}' is no host of the job"))?;
        let gpus = &mut self.list[place].gpus;
        *gpus = Some(gpus.unwrap_or(0).saturating_add(1));
        Ok(())
    }

    pub(crate) fn into_vec(self) -> Vec<Host> {
        self.list
    }
}

/// A host alone on its line: one slot, or one host.
pub(crate) fn parse_name_line(line: &str, hosts: &mut Hosts) -> Result<(), String> {
    let mut words = line.split_whitespace();
    let name = parse_name(words.next().unwrap_or_default())?;
    if let Some(word) = words.next() {
        return Err(format!("'{word}' is not expected after the host"));
    }
    hosts.add(name, 1, None);
    Ok(())
}

/// Grid Engine's `host slots queue range` (`sge_pe(5)`); a host has a line for each of its queues.
pub(crate) fn parse_sge_line(line: &str, hosts: &mut Hosts) -> Result<(), String> {
    let mut words = line.split_whitespace();
    let name = parse_name(words.next().unwrap_or_default())?;
    let slots = parse_slots(words.next().unwrap_or_default())?;
    // The queue's name matters to nobody here.
    let cpus = words.nth(1).and_then(parse_binding);
    hosts.add(name, slots, cpus);
    Ok(())
}

/// How many cores a binding such as `0,0:0,1` names, as pairs of socket and core; others (`UNDEFINED`) say nothing.
fn parse_binding(range: &str) -> Option<u32> {
    range.split(':').try_fold(0_u32, |count, pair| {
        let (socket, core) = pair.split_once(',')?;
        (is_number(socket) && is_number(core)).then_some(count + 1)
    })
}

/// Torque's `host-gpuN`, one line for each GPU.
pub(crate) fn parse_gpu_line(line: &str, hosts: &mut Hosts) -> Result<(), String> {
    match line.rsplit_once("-gpu") {
        Some((name, number)) if is_number(number) => hosts.add_gpu(name),
        _ => Err(format!("'{line}' is no GPU of a host")),
    }
}

/// LSF's `h1 2 h2 4`.
pub(crate) fn parse_pairs(text: &str) -> Result<Vec<Host>, String> {
    let mut hosts = Hosts::default();
    let mut words = text.split_whitespace();
    while let Some(name) = words.next() {
        let slots = words.next().ok_or_else(|| format!("'{name}' has no number of slots"))?;
        hosts.add(parse_name(name)?, parse_slots(slots)?, None);
    }
    some(hosts)
}

/// LSF's `h1 h1 h2`.
pub(crate) fn parse_names(text: &str) -> Result<Vec<Host>, String> {
    let mut hosts = Hosts::default();
    for name in text.split_whitespace() {
        hosts.add(parse_name(name)?, 1, None);
    }
    some(hosts)
}

fn some(hosts: Hosts) -> Result<Vec<Host>, String> {
    let hosts = hosts.into_vec();
    if hosts.is_empty() { Err("no host is named".to_owned()) } else { Ok(hosts) }
}

fn parse_name(word: &str) -> Result<&str, String> {
    let plain = |c: char| c.is_alphanumeric() || matches!(c, '.' | '-' | '_');
    if !word.is_empty() && word.chars().all(plain) { Ok(word) } else { Err(format!("'{word}' is no host name")) }
}

fn parse_slots(word: &str) -> Result<u32, String> {
    let slots = parse_number(word).filter(|&slots| slots > 0);
    slots.ok_or_else(|| format!("'{word}' is no number of slots above 0"))
}

fn is_number(word: &str) -> bool {
    parse_number::<u32>(word).is_some()
}

/// Digits alone: `str::parse` would also take a sign.
pub(crate) fn parse_number<T: std::str::FromStr>(word: &str) -> Option<T> {
    word.bytes().all(|b| b.is_ascii_digit()).then(|| word.parse().ok())?
}
