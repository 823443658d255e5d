//! Maps of text to text.

use crate::Text;

/// A map of text to text that keeps the order of insertion, as the clients write and show it.
///
/// A key that is given twice keeps its first place and its last value, as in the Python client. Two maps
/// are equal if they have the same entries in the same order. Lookups are linear: the protocol's maps
/// have a handful of entries.
///
/// ```
/// use kjob_proto::StringMap;
///
/// let mut options = StringMap::from_iter([("job_tag", "nightly"), ("priority", "5")]);
/// options.insert("priority", "9");
/// assert_eq!(options.get("priority").map(|text| text.as_str()), Some("9"));
/// assert_eq!(options.len(), 2);
/// ```
#[derive(Clone, Debug, Default, Eq, PartialEq, Hash)]
pub struct StringMap {
    entries: Vec<(Text, Text)>,
}

impl StringMap {
    /// An empty map; allocates nothing.
    pub const fn new() -> Self {
        Self {
            entries: Vec::new(),
        }
    }

    /// An empty map with room for `entries`.
    pub fn with_capacity(entries: usize) -> Self {
        Self {
            entries: Vec::with_capacity(entries),
        }
    }

    /// The value of `key`.
    pub fn get(&self, key: &str) -> Option<&Text> {
        self.entries
            .iter()
            .find(|(name, _)| name == key)
            .map(|(_, value)| value)
    }

    /// Whether `key` is there.
    pub fn contains_key(&self, key: &str) -> bool {
        self.get(key).is_some()
    }

    /// Sets the value of `key` and returns the one it had.
    pub fn insert(&mut self, key: impl Into<Text>, value: impl Into<Text>) -> Option<Text> {
        let (key, value) = (key.into(), value.into());
        match self.entries.iter_mut().find(|(name, _)| *name == key) {
            Some((_, old)) => Some(std::mem::replace(old, value)),
            None => {
                self.entries.push((key, value));
                None
            }
        }
    }

    /// Removes `key` and returns its value; the order of the others stays.
    pub fn remove(&mut self, key: &str) -> Option<Text> {
        let at = self.entries.iter().position(|(name, _)| name == key)?;
        Some(self.entries.remove(at).1)
    }

    /// The entries, in order.
    pub fn iter(&self) -> std::slice::Iter<'_, (Text, Text)> {
        self.entries.iter()
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Takes entries that may repeat keys.
    pub(crate) fn from_entries(entries: Vec<(Text, Text)>) -> Self {
        let mut map = Self { entries };
        if map.entries.len() > 1 {
            map.merge_repeated_keys();
        }
        map
    }

    fn merge_repeated_keys(&mut self) {
        // Comparing all pairs is fastest for a few entries and a denial of service for many.
        const FEW: usize = 16;
        if self.entries.len() <= FEW {
            let mut at = 1;
            while let Some((key, _)) = self.entries.get(at) {
                match self
                    .entries
                    .iter()
                    .take(at)
                    .position(|(earlier, _)| earlier == key)
                {
                    Some(first) => self.merge(first, at),
                    None => at += 1,
                }
            }
        } else {
            self.merge_many();
        }
    }

    /// Gives the value at `later` to the key at `first`.
    fn merge(&mut self, first: usize, later: usize) {
        let (_, value) = self.entries.remove(later);
        if let Some((_, old)) = self.entries.get_mut(first) {
            *old = value;
        }
    }

    /// Sorts places by key, so that the cost does not depend on what the keys are.
    fn merge_many(&mut self) {
        let mut places: Vec<usize> = (0..self.entries.len()).collect();
        let key = |place: &usize| self.entries.get(*place).map(|(key, _)| key);
        places.sort_by(|a, b| key(a).cmp(&key(b)));
        let repeated = |pair: &[usize]| matches!(pair, [a, b] if key(a) == key(b));
        if !places.windows(2).any(repeated) {
            return;
        }
        // The sort is stable, so each run of equal keys is in the order of insertion.
        let mut last_value_of: Vec<Option<Text>> = vec![None; self.entries.len()];
        for run in places.chunk_by(|a, b| key(a) == key(b)) {
            if let (Some(&first), Some(&last)) = (run.first(), run.last())
                && let (Some(slot), Some((_, value))) =
                    (last_value_of.get_mut(first), self.entries.get(last))
            {
                *slot = Some(value.clone());
            }
        }
        let mut last_value_of = last_value_of.into_iter();
        self.entries
            .retain_mut(|(_, value)| match last_value_of.next().flatten() {
                Some(last) => {
                    *value = last;
                    true
                }
                None => false,
            });
    }
}

impl<K: Into<Text>, V: Into<Text>> FromIterator<(K, V)> for StringMap {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(entries: I) -> Self {
        Self::from_entries(
            entries
                .into_iter()
                .map(|(key, value)| (key.into(), value.into()))
                .collect(),
        )
    }
}

impl<K: Into<Text>, V: Into<Text>> Extend<(K, V)> for StringMap {
    fn extend<I: IntoIterator<Item = (K, V)>>(&mut self, entries: I) {
        self.entries.extend(
            entries
                .into_iter()
                .map(|(key, value)| (key.into(), value.into())),
        );
        self.merge_repeated_keys();
    }
}

impl IntoIterator for StringMap {
    type Item = (Text, Text);
    type IntoIter = std::vec::IntoIter<(Text, Text)>;

    fn into_iter(self) -> Self::IntoIter {
        self.entries.into_iter()
    }
}

impl<'a> IntoIterator for &'a StringMap {
    type Item = &'a (Text, Text);
    type IntoIter = std::slice::Iter<'a, (Text, Text)>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(map: &StringMap) -> Vec<(&str, &str)> {
        map.iter()
            .map(|(key, value)| (key.as_str(), value.as_str()))
            .collect()
    }

    #[test]
    fn a_repeated_key_keeps_its_place_and_takes_the_last_value() {
        let map =
            StringMap::from_iter([("a", "1"), ("b", "2"), ("a", "3"), ("a", "4"), ("b", "5")]);
        assert_eq!(pairs(&map), [("a", "4"), ("b", "5")]);
    }

    /// Few and many entries take different paths; both must agree with plain inserts.
    #[test]
    fn many_entries_merge_as_single_inserts_do() {
        for count in [0, 1, 15, 16, 17, 18, 100, 1000] {
            let entries: Vec<_> = (0..count)
                .map(|n| (format!("k{}", n * 7 % 23), n.to_string()))
                .collect();
            let mut expected = StringMap::new();
            for (key, value) in entries.clone() {
                expected.insert(key, value);
            }
            assert_eq!(StringMap::from_iter(entries.clone()), expected, "{count}");
            let mut extended = StringMap::new();
            extended.extend(entries);
            assert_eq!(extended, expected, "{count}");
        }
    }

    #[test]
    fn insert_and_remove_say_what_was_there() {
        let mut map = StringMap::new();
        assert_eq!(map.insert("a", "1"), None);
        assert_eq!(map.insert("a", "2"), Some(Text::from("1")));
        assert!(map.contains_key("a") && !map.contains_key("b"));
        assert_eq!(map.remove("b"), None);
        assert_eq!(map.remove("a"), Some(Text::from("2")));
        assert!(map.is_empty());
    }
}
