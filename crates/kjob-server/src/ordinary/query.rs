//! The query of a path: parameters with typed values, each known and given once.

use kjob_proto::StringMap;

use crate::options::{OPTIONS_MAX, OptionError, Options};
use crate::refusal::Refusal;

/// The parameters of a request, all of which its path knows.
#[derive(Debug)]
pub(super) struct Query {
    map: StringMap,
}

impl Query {
    pub(super) fn parse(text: &str, known: &[&'static str]) -> Result<Self, Refusal> {
        let mut map = StringMap::new();
        for (name, value) in form_urlencoded::parse(text.as_bytes()) {
            if map.len() > OPTIONS_MAX {
                break;
            }
            if map.contains_key(&name) {
                return Err(Refusal::Member {
                    name: name.into_owned(),
                    why: "is given twice".to_owned(),
                });
            }
            map.insert(name.into_owned(), value.into_owned());
        }
        Options::strict(&map, known)?;
        Ok(Self { map })
    }

    /// Their values.
    pub(super) fn options(&self) -> Result<Options<'_>, OptionError> {
        Options::new(&self.map, &[])
    }
}
