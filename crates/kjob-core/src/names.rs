//! Short numbers for values that many jobs share.

use std::collections::HashMap;
use std::hash::Hash;

/// A short number for a value that is in use.
pub type NameKey = u32;

/// Values that are in use, such as the owners of waiting jobs: each once, with a short number, and
/// how often it is used.
///
/// ```
/// use kjob_core::Names;
///
/// let mut names = Names::default();
/// let ann = names.enter(&"ann");
/// assert_eq!(names.enter(&"ann"), ann);
/// assert_ne!(names.enter(&"bob"), ann);
/// assert_eq!((names.name(ann), names.uses(&"ann")), (Some(&"ann"), 2));
/// assert!(!names.leave(ann) && names.leave(ann), "the second was the last");
/// assert_eq!(names.name(ann), None);
/// ```
#[derive(Clone, Debug)]
pub struct Names<T> {
    keys: HashMap<T, NameKey>,
    slots: Vec<Option<(T, usize)>>,
    free: Vec<NameKey>,
}

impl<T> Default for Names<T> {
    fn default() -> Self {
        Self {
            keys: HashMap::new(),
            slots: Vec::new(),
            free: Vec::new(),
        }
    }
}

impl<T: Clone + Eq + Hash> Names<T> {
    /// One use more.
    pub fn enter(&mut self, value: &T) -> NameKey {
        let key = match self.keys.get(value) {
            Some(key) => *key,
            None => self.add(value),
        };
        if let Some((_, uses)) = self.slots.get_mut(key as usize).and_then(Option::as_mut) {
            *uses += 1;
        }
        key
    }

    fn add(&mut self, value: &T) -> NameKey {
        let key = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() as NameKey - 1
        });
        if let Some(slot) = self.slots.get_mut(key as usize) {
            *slot = Some((value.clone(), 0));
        }
        self.keys.insert(value.clone(), key);
        key
    }

    /// One use fewer; says whether it was the last.
    pub fn leave(&mut self, key: NameKey) -> bool {
        let Some(slot) = self.slots.get_mut(key as usize) else {
            return true;
        };
        match slot {
            Some((_, uses)) if *uses > 1 => {
                *uses -= 1;
                false
            }
            _ => {
                if let Some((value, _)) = slot.take() {
                    self.keys.remove(&value);
                    self.free.push(key);
                }
                true
            }
        }
    }

    /// The number of a value that is in use.
    pub fn key(&self, value: &T) -> Option<NameKey> {
        self.keys.get(value).copied()
    }

    /// The value with this number.
    pub fn name(&self, key: NameKey) -> Option<&T> {
        let slot = self.slots.get(key as usize)?;
        slot.as_ref().map(|(value, _)| value)
    }

    /// How often a value is used.
    pub fn uses(&self, value: &T) -> usize {
        let slot = self.key(value).and_then(|key| self.slots.get(key as usize));
        slot.and_then(Option::as_ref).map_or(0, |(_, uses)| *uses)
    }

    /// Whether nothing is in use.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }
}
