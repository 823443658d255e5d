//! What is said of a result, as bytes of its row: names and values in turn, each after its length
//! in four bytes, the lowest first.

use kjob_core::Info;
use kjob_proto::Text;

/// `None` where nothing is said.
pub(crate) fn encode(info: &Info) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    for text in info.iter().flat_map(|(name, value)| [name, value]) {
        // A text that long is not allowed in.
        let len = u32::try_from(text.len()).unwrap_or(u32::MAX);
        bytes.extend(len.to_le_bytes());
        bytes.extend(text.as_bytes());
    }
    (!bytes.is_empty()).then_some(bytes)
}

/// `None` where the bytes are not those of [`encode`].
pub(crate) fn decode(mut bytes: &[u8]) -> Option<Info> {
    let mut info = Info::new();
    while !bytes.is_empty() {
        let name = take(&mut bytes)?;
        let value = take(&mut bytes)?;
        let is_new = info.get(&name).is_none();
        info.insert(name, value).ok().filter(|()| is_new)?;
    }
    Some(info)
}

fn take(bytes: &mut &[u8]) -> Option<Text> {
    let (len, rest) = bytes.split_first_chunk()?;
    let len = usize::try_from(u32::from_le_bytes(*len)).ok()?;
    let (text, rest) = rest.split_at_checked(len)?;
    *bytes = rest;
    std::str::from_utf8(text).ok().map(Text::copy_from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_comes_back_and_nothing_else_is_taken_for_it() {
        assert_eq!(encode(&Info::new()), None);
        let mut info = Info::new();
        info.insert("content_type", "text/html; ä").unwrap();
        info.insert("empty", "").unwrap();
        let bytes = encode(&info).unwrap();
        assert_eq!(decode(&bytes), Some(info));
        let whole = [0, 33];
        for at in 0..bytes.len() {
            let cut = decode(&bytes[..at]);
            assert!(cut.is_none() || whole.contains(&at), "cut at {at}: {cut:?}");
        }
        let twice = [&bytes[..], &bytes[..]].concat();
        assert_eq!(decode(&twice), None, "a name comes once");
    }
}
