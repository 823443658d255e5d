//! Short names for the owners who have waiting jobs.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use crate::Owner;

/// A short name for an owner who has waiting jobs.
pub(super) type OwnerKey = u32;

/// Owners who have waiting jobs, and how many.
#[derive(Debug, Default)]
pub(super) struct Owners {
    keys: HashMap<Owner, OwnerKey>,
    slots: Vec<Option<(Owner, usize)>>,
    free: Vec<OwnerKey>,
}

impl Owners {
    /// One job more.
    pub(super) fn enter(&mut self, owner: &Owner) -> OwnerKey {
        let key = match self.keys.entry(owner.clone()) {
            Entry::Occupied(known) => *known.get(),
            Entry::Vacant(new) => {
                let key = self.free.pop().unwrap_or(self.slots.len() as OwnerKey);
                if key as usize == self.slots.len() {
                    self.slots.push(None);
                }
                self.slots[key as usize] = Some((owner.clone(), 0));
                *new.insert(key)
            }
        };
        if let Some((_, jobs)) = &mut self.slots[key as usize] {
            *jobs += 1;
        }
        key
    }

    /// One job fewer; says whether it was the last.
    pub(super) fn leave(&mut self, key: OwnerKey) -> bool {
        let slot = &mut self.slots[key as usize];
        match slot {
            Some((_, jobs)) if *jobs > 1 => {
                *jobs -= 1;
                false
            }
            _ => {
                if let Some((owner, _)) = slot.take() {
                    self.keys.remove(&owner);
                    self.free.push(key);
                }
                true
            }
        }
    }

    /// The owner with this key.
    pub(super) fn name(&self, key: OwnerKey) -> Option<Owner> {
        let slot = self.slots.get(key as usize)?;
        slot.as_ref().map(|(owner, _)| owner.clone())
    }

    pub(super) fn key(&self, owner: &Owner) -> Option<OwnerKey> {
        self.keys.get(owner).copied()
    }

    /// Whether nobody has waiting jobs.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    pub(super) fn jobs_of(&self, owner: &Owner) -> usize {
        let slot = self.key(owner).and_then(|key| self.slots.get(key as usize));
        slot.and_then(Option::as_ref).map_or(0, |(_, jobs)| *jobs)
    }
}
