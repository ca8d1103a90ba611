//! A set of completion indexes, in the API written as `1,3-5`.

use std::collections::BTreeSet;
use std::fmt;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Indexes(BTreeSet<u32>);

/// More indexes than this are not read: the API allows no more in an indexed Job.
const MOST: u32 = 100_000;

impl Indexes {
    /// Reads a list; what is not one is left out.
    pub(crate) fn parse(text: &str) -> Self {
        let mut indexes = BTreeSet::new();
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            if let (Ok(first), Ok(last)) = (first.parse::<u32>(), last.parse::<u32>()) {
                indexes.extend(first..=last.min(MOST));
            }
        }
        Self(indexes)
    }

    pub(crate) fn insert(&mut self, index: u32) {
        self.0.insert(index);
    }

    pub(crate) fn contains(&self, index: u32) -> bool {
        self.0.contains(&index)
    }

    pub(crate) fn len(&self) -> i32 {
        i32::try_from(self.0.len()).unwrap_or(i32::MAX)
    }
}

impl fmt::Display for Indexes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut runs: Vec<(u32, u32)> = Vec::new();
        for index in &self.0 {
            match runs.last_mut() {
                Some((_, last)) if *last + 1 == *index => *last = *index,
                _ => runs.push((*index, *index)),
            }
        }
        let texts = runs.into_iter().map(|(first, last)| match last - first {
            0 => first.to_string(),
            // Two neighbours are written as such, longer runs as a range.
            1 => format!("{first},{last}"),
            _ => format!("{first}-{last}"),
        });
        f.write_str(&texts.collect::<Vec<_>>().join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indexes_are_written_as_ranges_and_read_back() {
        let indexes = Indexes::parse("1,3-5,7,8");
        assert_eq!(indexes.to_string(), "1,3-5,7,8");
        assert_eq!(indexes.len(), 6);
        assert_eq!(Indexes::parse("x,5-2,"), Indexes::default());
    }
}
