//! The `SLURM*` variables of one process, and how one is looked up.

use std::collections::BTreeMap;
use std::str::FromStr;

use crate::AllocationError;

pub(crate) struct Vars(BTreeMap<String, String>);

impl Vars {
    /// Keeps what is Slurm's and not empty.
    pub(crate) fn from_pairs<I, K, V>(pairs: I) -> Self
    where
        I: IntoIterator<Item = (K, V)>,
        K: Into<String>,
        V: Into<String>,
    {
        let pairs = pairs.into_iter().map(|(name, value)| (name.into(), value.into()));
        Self(pairs.filter(|(name, value)| name.starts_with("SLURM") && !value.is_empty()).collect())
    }

    pub(crate) fn get(&self, variable: &'static str) -> Option<&str> {
        self.0.get(variable).map(String::as_str)
    }

    /// The first of `names` that is set.
    pub(crate) fn first(&self, names: &[&'static str]) -> Option<(&'static str, &str)> {
        names.iter().find_map(|&name| Some((name, self.get(name)?)))
    }

    pub(crate) fn required(&self, names: &[&'static str]) -> Result<(&'static str, &str), AllocationError> {
        self.first(names).ok_or(AllocationError::Missing { variable: names[0] })
    }

    pub(crate) fn number<T: FromStr>(&self, variable: &'static str) -> Result<Option<T>, AllocationError> {
        let Some(value) = self.get(variable) else {
            return Ok(None);
        };
        value.parse().map(Some).map_err(|_| AllocationError::Number { variable, value: value.to_owned() })
    }

    pub(crate) fn required_number<T: FromStr>(&self, variable: &'static str) -> Result<T, AllocationError> {
        self.number(variable)?.ok_or(AllocationError::Missing { variable })
    }
}
