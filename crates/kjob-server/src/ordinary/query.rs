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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KNOWN: [&str; 3] = ["limit", "after", "a b"];

    fn written(pairs: &[(&str, String)]) -> String {
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.extend_pairs(pairs).finish()
    }

    #[test]
    fn what_is_given_twice_or_is_not_known_is_refused() {
        assert!(Query::parse("limit=1&after=2", &KNOWN).is_ok());
        assert!(Query::parse("limit=1&limit=1", &KNOWN).is_err());
        assert!(Query::parse("limit=1&other=2", &KNOWN).is_err());
        let many: String = (0..100_000).map(|number| format!("{number}&")).collect();
        assert!(Query::parse(&many, &KNOWN).is_err());
    }

    proptest! {
        #[test]
        fn any_query_is_refused_or_has_what_is_known(
            text in "(limit|after|a\\+b|=|&|%[0-9a-fA-F]{0,2}|\\PC){0,16}",
        ) {
            if let Ok(query) = Query::parse(&text, &KNOWN) {
                prop_assert!(query.options().is_ok());
                prop_assert!(query.map.len() <= KNOWN.len());
                prop_assert!(query.map.iter().all(|(name, _)| KNOWN.contains(&name.as_str())));
            }
        }

        #[test]
        fn any_values_are_read_as_they_were_written(values: [String; 3]) {
            let pairs: Vec<_> = KNOWN.into_iter().zip(values).collect();
            let query = Query::parse(&written(&pairs), &KNOWN).unwrap();
            for (name, value) in pairs {
                prop_assert_eq!(query.map.get(name).map(|text| text.as_str()), Some(value.as_str()));
            }
        }
    }
}
