//! Counts per node such as `2(x3),1`, which is 2, 2, 2, 1 (sbatch(1), `SLURM_TASKS_PER_NODE`).

use crate::MAX_HOSTS;

/// Why a list of counts per node is not one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CountsError {
    /// An item is neither `N` nor `N(xM)`.
    #[error("'{item}' in '{text}': expected a count such as 2 or 2(x3)")]
    Syntax {
        /// The whole text.
        text: String,
        /// The item at fault.
        item: String,
    },
    /// The repetitions add up to more than [`MAX_HOSTS`] nodes.
    #[error("'{text}' counts more than {MAX_HOSTS} nodes")]
    TooMany {
        /// The whole text.
        text: String,
    },
}

/// Expands counts per node, one number for each node.
///
/// # Errors
/// [`CountsError`] names the item at fault.
pub fn parse_counts(text: &str) -> Result<Vec<u32>, CountsError> {
    let mut counts = Vec::new();
    for item in text.split(',') {
        let Some((count, times)) = parse_item(item) else {
            return Err(CountsError::Syntax { text: text.to_owned(), item: item.to_owned() });
        };
        if times > MAX_HOSTS - counts.len() {
            return Err(CountsError::TooMany { text: text.to_owned() });
        }
        counts.extend(std::iter::repeat_n(count, times));
    }
    Ok(counts)
}

fn parse_item(item: &str) -> Option<(u32, usize)> {
    match item.split_once('(') {
        None => Some((parse_digits(item)?, 1)),
        Some((count, rest)) => {
            let times: usize = parse_digits(rest.strip_prefix('x')?.strip_suffix(')')?)?;
            (times > 0).then_some((parse_digits(count)?, times))
        }
    }
}

/// Digits alone: `str::parse` would also take a sign.
pub(crate) fn parse_digits<T: std::str::FromStr>(text: &str) -> Option<T> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok())?
}
