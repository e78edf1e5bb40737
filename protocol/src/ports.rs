//! Which TCP port a controller may take: any, one, or the first free one of a range.

use std::fmt;
use std::str::FromStr;

/// Ports that a controller may listen on, in this order; 0 stands for any free one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PortRange {
    first: u16,
    last: u16,
}

/// What is no port and no range of ports.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected a port such as 40000, a range such as 40000-40100, or 0 for any free port")]
pub struct PortRangeError;

impl PortRange {
    /// The ports, from the first to the last.
    pub fn ports(self) -> impl Iterator<Item = u16> {
        self.first..=self.last
    }
}

impl From<u16> for PortRange {
    fn from(port: u16) -> Self {
        Self { first: port, last: port }
    }
}

impl FromStr for PortRange {
    type Err = PortRangeError;

    fn from_str(text: &str) -> Result<Self, PortRangeError> {
        let port = |text: &str| {
            let digits = text.bytes().all(|byte| byte.is_ascii_digit());
            text.parse::<u16>().ok().filter(|_| digits).ok_or(PortRangeError)
        };
        let Some((first, last)) = text.split_once('-') else { return port(text).map(Self::from) };
        let range = Self { first: port(first)?, last: port(last)? };
        if range.first == 0 || range.last < range.first { Err(PortRangeError) } else { Ok(range) }
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last { write!(f, "{}", self.first) } else { write!(f, "{}-{}", self.first, self.last) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_and_ranges_are_read_and_written() {
        for (text, ports) in [("0", vec![0]), ("65535", vec![65535]), ("7-9", vec![7, 8, 9]), ("80-80", vec![80])] {
            let range: PortRange = text.parse().unwrap();
            assert_eq!(range.ports().collect::<Vec<_>>(), ports);
            assert_eq!(range.to_string().parse(), Ok(range));
        }
        assert_eq!("7-9".parse::<PortRange>().unwrap().to_string(), "7-9");
        for bad in ["", "x", "-1", "+5", "9-7", "0-9", "7-", "-", "7-9-11", "70000", "65535-65536", "7 - 9"] {
            assert_eq!(bad.parse::<PortRange>(), Err(PortRangeError), "{bad}");
        }
    }
}
