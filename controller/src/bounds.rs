//! How much of clients' requests and results rank 0 keeps in memory, and where the rest goes.

use std::path::PathBuf;

/// Bounds, by default those for everybody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Bytes of results that wait for clients in memory.
    pub results: usize,
    /// Bytes of requests that one client may have under way before its socket is not read any more.
    pub requests: usize,
    /// Bytes of large buffers in the shared memory of a node; `None`: what the node has room for.
    pub shared: Option<u64>,
    /// Directory of the file for results that must wait outside of memory.
    pub spill: PathBuf,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { results: 64 << 20, requests: 256 << 20, shared: None, spill: "/var/tmp".into() }
    }
}

/// A variable that holds no number of bytes.
#[derive(Debug, thiserror::Error)]
#[error("{name}={value:?} is not a number of bytes: unset it, or set it to one such as 67108864")]
pub struct NoBytes {
    name: &'static str,
    value: String,
}

impl Bounds {
    /// From environment variables: `PXCLUSTER_RESULTS_MEMORY`, `PXCLUSTER_REQUESTS_MEMORY`, `PXCLUSTER_SHARED_MEMORY`,
    /// `PXCLUSTER_SPILL_DIR`, `TMPDIR`.
    pub fn from_variables(variable: impl Fn(&str) -> Option<String>) -> Result<Self, NoBytes> {
        let default = Self::default();
        let bytes = |name: &'static str, default: usize| match variable(name) {
            None => Ok(default),
            Some(value) => value.parse().map_err(|_| NoBytes { name, value }),
        };
        let spill = ["PXCLUSTER_SPILL_DIR", "TMPDIR"]
            .into_iter()
            .find_map(|name| variable(name).filter(|path| !path.is_empty()));
        Ok(Self {
            results: bytes("PXCLUSTER_RESULTS_MEMORY", default.results)?,
            requests: bytes("PXCLUSTER_REQUESTS_MEMORY", default.requests)?,
            shared: variable("PXCLUSTER_SHARED_MEMORY")
                .map(|_| bytes("PXCLUSTER_SHARED_MEMORY", 0))
                .transpose()?
                .map(|bytes| bytes as u64),
            spill: spill.map_or(default.spill, PathBuf::from),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_change_the_defaults() {
        assert_eq!(Bounds::from_variables(|_| None).expect("defaults"), Bounds::default());
        let set = |name: &str| match name {
            "PXCLUSTER_RESULTS_MEMORY" => Some("1000".to_owned()),
            "TMPDIR" => Some("/scratch".to_owned()),
            _ => None,
        };
        let bounds = Bounds::from_variables(set).expect("numbers");
        assert_eq!((bounds.results, bounds.requests), (1000, 256 << 20));
        assert_eq!(bounds.spill, PathBuf::from("/scratch"));
        let error = Bounds::from_variables(|_| Some("much".to_owned())).expect_err("no number").to_string();
        assert!(error.starts_with("PXCLUSTER_RESULTS_MEMORY=\"much\" is not a number of bytes"), "{error}");
    }
}
