//! Whether databases fit together: to be opened as a set, or to become one.

use kjob_core::{Placement, PlacementError};

use super::shard_set::{Generation, ShardSet};
use super::{OpenError, ShardsError};

/// What has to be known of a database to say so.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Known {
    /// Who it is; nothing where it has no tables yet.
    pub(super) own_id: Vec<u8>,
    pub(super) set: ShardSet,
    /// The first id that it has not given, if it has given any.
    pub(super) next_job: i64,
}

impl Known {
    /// Whether it is the same database, by what it says of itself. Copies that were made before there was a set, and
    /// that have become different shards since, are not.
    pub(super) fn is(&self, other: &Self) -> bool {
        match (self.set.newest(), other.set.newest()) {
            (Some(a), Some(b)) => a.set_id == b.set_id && a.shard == b.shard,
            (None, None) => !self.own_id.is_empty() && self.own_id == other.own_id,
            _ => false,
        }
    }
}

/// The set that all of those have that were reached, each as the shard of its number.
pub(super) fn agreed(known: &[Option<Known>]) -> Result<ShardSet, ShardsError> {
    let reached = || {
        let numbered = known.iter().enumerate();
        numbered.filter_map(|(number, it)| Some((number, &it.as_ref()?.set)))
    };
    let Some((_, set)) = reached().next() else {
        return Err(PlacementError::None.into());
    };
    if known.len() == 1 && set.newest().is_none() {
        return Ok(set.clone());
    }
    each_once(known)?;
    for (number, found) in reached() {
        check_seat(number, found, set)?;
    }
    let largest = reached().filter_map(|(_, set)| set.newest().map(|row| row.size));
    let wanted = largest.max().unwrap_or(0);
    let found = known.len();
    if usize::try_from(wanted) != Ok(found) {
        return Err(ShardsError::Missing { found, wanted });
    }
    for (number, found) in reached() {
        check_place(number, found, set)?;
    }
    Ok(set.clone())
}

/// This error; or what `migrate` would say, where that is what the error advises, and it would refuse.
pub(super) fn advised(error: ShardsError, known: &[Option<Known>]) -> ShardsError {
    if !advises_migration(&error) {
        return error;
    }
    let known: Option<Vec<Known>> = known.iter().cloned().collect();
    match known.map(|known| planned(&known)) {
        Some(Err(refusal)) => refusal,
        _ => error,
    }
}

/// Whether an error says that the tables or the set are to be made first.
pub(super) fn advises_migration(error: &ShardsError) -> bool {
    match error {
        ShardsError::NotYet { .. } => true,
        ShardsError::Open { source, .. } => {
            matches!(source, OpenError::NoSchema | OpenError::OlderSchema { .. })
        }
        _ => false,
    }
}

fn each_once(known: &[Option<Known>]) -> Result<(), ShardsError> {
    for (number, it) in known.iter().enumerate() {
        let Some(it) = it else { continue };
        let before = known.iter().take(number);
        let mut before = before.map(|other| other.as_ref().is_some_and(|other| other.is(it)));
        if let Some(first) = before.position(|is_same| is_same) {
            return Err(ShardsError::GivenTwice { number, first });
        }
    }
    Ok(())
}

/// Whether a database is the shard of its number in the same set as another is.
fn check_seat(number: usize, found: &ShardSet, other: &ShardSet) -> Result<(), ShardsError> {
    let Some(newest) = found.newest() else {
        return Err(ShardsError::NotYet { number });
    };
    // The set before the place: in another set the place says nothing.
    if let Some(other) = other.newest()
        && other.set_id != newest.set_id
    {
        return Err(ShardsError::OtherSet { number });
    }
    if usize::try_from(newest.shard) != Ok(number) {
        let found = newest.shard;
        return Err(ShardsError::Order { number, found });
    }
    match other.newest() {
        Some(_) => Ok(()),
        None => Err(ShardsError::OtherSet { number }),
    }
}

/// Whether that is so, and both know the set by the same sizes.
pub(super) fn check_place(
    number: usize,
    found: &ShardSet,
    other: &ShardSet,
) -> Result<(), ShardsError> {
    check_seat(number, found, other)?;
    match found.agrees_with(other) {
        true => Ok(()),
        false => Err(ShardsError::NotYet { number }),
    }
}

/// What the set is to be that these are to be made, and how many databases it has had before.
pub(super) fn planned(found: &[Known]) -> Result<(Vec<Generation>, usize), ShardsError> {
    let Some(first) = found.first() else {
        return Err(PlacementError::None.into());
    };
    let given = found.iter().map(|it| it.next_job - 1).max();
    let rows = grown(first, given.unwrap_or(0).max(0), found.len())?;
    let before = first.set.newest().map_or(0, |newest| newest.size);
    let before = usize::try_from(before).unwrap_or(0);
    if found.len() > 1 || before > 0 {
        check(found, before, &rows)?;
    }
    Ok((rows, before))
}

/// What the set is to be, for its first database.
fn grown(first: &Known, given: i64, size: usize) -> Result<Vec<Generation>, ShardsError> {
    let mut rows = first.set.rows.clone();
    if rows.is_empty() {
        let row = |number, size, ids_until| Generation {
            number,
            set_id: first.own_id.clone(),
            shard: 0,
            size,
            alone_until: (first.next_job - 1).max(0),
            ids_until,
        };
        if first.next_job > 1 {
            // What it has so far was placed when it was the only one.
            rows.push(row(1, 1, 0));
        }
        rows.push(row(rows.len() as i64 + 1, size as i64, given));
    } else if let Some(newest) = rows.last()
        && newest.size != size as i64
    {
        let next = Generation {
            number: newest.number + 1,
            size: size as i64,
            ids_until: given,
            ..newest.clone()
        };
        rows.push(next);
    }
    // Neither too many nor fewer than before.
    let set = ShardSet { rows };
    let sizes = set
        .rows
        .iter()
        .map(|row| usize::try_from(row.size).unwrap_or(0));
    Placement::new(&sizes.collect::<Vec<_>>(), 0)?;
    Ok(set.rows)
}

/// Whether each may be in the set that is to have these rows: those that are have their places, and those that come
/// are empty.
fn check(found: &[Known], before: usize, rows: &[Generation]) -> Result<(), ShardsError> {
    let set_id = rows.first().map(|row| &row.set_id);
    for (number, it) in found.iter().enumerate() {
        if let Some(first) = found.iter().take(number).position(|other| other.is(it))
            && it.set.newest().is_some()
        {
            return Err(ShardsError::GivenTwice { number, first });
        }
        // Of this set it may know more or less than the first, where a change of it was not made to its end, or was
        // lost with the database's last moments. The set comes before the place: in another the place says nothing.
        if it.set.rows.iter().any(|row| Some(&row.set_id) != set_id) {
            return Err(ShardsError::OtherSet { number });
        }
        if let Some(newest) = it.set.newest()
            && usize::try_from(newest.shard) != Ok(number)
        {
            let found = newest.shard;
            return Err(ShardsError::Order { number, found });
        }
        let is_known = number < before && !it.set.rows.is_empty();
        if number > 0 && !is_known && it.next_job > 1 {
            return Err(ShardsError::HasJobs { number });
        }
    }
    Ok(())
}
