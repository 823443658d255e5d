//! As much of Markdown as the checks of the documentation need: fenced blocks, links and anchors.

use std::collections::HashSet;

/// What a page has in it, in its order.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Item {
    /// A fenced block.
    Block(Block),
    /// What stands in a comment `<!-- test: … -->`, and its line.
    Hint(usize, String),
}

/// A fenced block.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Block {
    /// The line of its first line of text, counted from 1.
    pub(crate) line: usize,
    /// The first word behind the fence.
    pub(crate) language: String,
    /// The second one: the file that the reader is to write this to.
    pub(crate) file: Option<String>,
    /// Its lines, without the fence's indent.
    pub(crate) text: Vec<String>,
}

/// A link, or the source of a picture.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) line: usize,
    pub(crate) target: String,
}

/// A line outside of fenced blocks, or a whole block.
enum Part<'a> {
    Line(usize, &'a str),
    Block(Block),
}

/// The blocks and hints of a page.
pub(crate) fn items(page: &str) -> Vec<Item> {
    let parts = parts(page).into_iter();
    parts
        .filter_map(|part| match part {
            Part::Block(block) => Some(Item::Block(block)),
            Part::Line(line, text) => {
                let hint = text
                    .trim()
                    .strip_prefix("<!-- test:")?
                    .strip_suffix("-->")?;
                Some(Item::Hint(line, hint.trim().to_owned()))
            }
        })
        .collect()
}

/// Where its links lead.
pub(crate) fn links(page: &str) -> Vec<Link> {
    let mut links = Vec::new();
    for (line, text) in lines(page) {
        let text = without_code(text);
        let mut add = |target: &str| {
            links.push(Link {
                line,
                target: target.to_owned(),
            });
        };
        for (start, end) in [
            ("](", &[')', ' '][..]),
            ("href=\"", &['"']),
            ("src=\"", &['"']),
        ] {
            for rest in text.split(start).skip(1) {
                add(rest.split(end).next().unwrap_or_default());
            }
        }
        // [name]: target
        if let Some((_, target)) = text
            .strip_prefix('[')
            .and_then(|text| text.split_once("]: "))
        {
            add(target.trim());
        }
    }
    links
}

/// What a link to the page may have behind its `#`.
pub(crate) fn anchors(page: &str) -> HashSet<String> {
    let mut anchors = HashSet::new();
    for (_, text) in lines(page) {
        for rest in text.split("<a id=\"").skip(1) {
            anchors.extend(rest.split('"').next().map(str::to_owned));
        }
        let level = text.bytes().take_while(|byte| *byte == b'#').count();
        if let Some(title) = text.get(level..).and_then(|text| text.strip_prefix(' '))
            && level > 0
        {
            let anchor = anchor_of(title.trim());
            let mut numbered = (1..).map(|n| format!("{anchor}-{n}"));
            if !anchors.insert(anchor.clone()) {
                let free = numbered.find(|anchor| !anchors.contains(anchor));
                anchors.extend(free);
            }
        }
    }
    anchors
}

/// As forges and mdBook make it of a heading.
fn anchor_of(title: &str) -> String {
    let mut text = String::new();
    let mut rest = title;
    // The words of a link, without where it leads.
    while let Some((before, behind)) = rest.split_once("](") {
        text.push_str(before);
        rest = behind.split_once(')').map_or("", |(_, rest)| rest);
    }
    text.push_str(rest);
    let letters = text.to_lowercase();
    let kept = letters
        .chars()
        .filter(|letter| letter.is_alphanumeric() || "-_ ".contains(*letter));
    kept.map(|letter| if letter == ' ' { '-' } else { letter })
        .collect()
}

fn lines(page: &str) -> impl Iterator<Item = (usize, &str)> {
    parts(page).into_iter().filter_map(|part| match part {
        Part::Line(line, text) => Some((line, text)),
        Part::Block(_) => None,
    })
}

fn parts(page: &str) -> Vec<Part<'_>> {
    let mut parts = Vec::new();
    let mut lines = (1..).zip(page.lines());
    while let Some((line, text)) = lines.next() {
        let Some(words) = text.trim_start().strip_prefix("```") else {
            parts.push(Part::Line(line, text));
            continue;
        };
        let indent = text.len() - text.trim_start().len();
        let inside = lines.by_ref().take_while(|(_, text)| text.trim() != "```");
        let inside = inside.map(|(_, text)| text.get(indent..).unwrap_or_default().to_owned());
        let mut words = words.split([' ', ',']).map(str::to_owned);
        parts.push(Part::Block(Block {
            line: line + 1,
            language: words.next().unwrap_or_default(),
            file: words.next(),
            text: inside.collect(),
        }));
    }
    parts
}

/// Without what stands between backticks, where a bracket is no link.
fn without_code(text: &str) -> String {
    text.split('`').step_by(2).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "# A `b` [c](d.md), e\n\
        See [x](y.md#z) and `[no](link)`, ![p](p.svg).\n\
        <!-- test: skip -->\n\
        - in a list:\n  ```toml kjob.toml\n  [a](b)\n  ```\n\
        ## Again\n## Again\n| <a id=\"row\"></a> |\n[ref]: https://example.org\n";

    #[test]
    fn links_are_those_outside_of_code() {
        let links = links(PAGE);
        let found: Vec<_> = links.iter().map(|it| (it.line, &*it.target)).collect();
        let wanted = [
            (1, "d.md"),
            (2, "y.md#z"),
            (2, "p.svg"),
            (11, "https://example.org"),
        ];
        assert_eq!(found, wanted);
    }

    #[test]
    fn anchors_are_those_of_headings_and_those_that_are_told() {
        let wanted = ["a-b-c-e", "again", "again-1", "row"];
        assert_eq!(anchors(PAGE), wanted.map(str::to_owned).into());
    }

    #[test]
    fn blocks_have_a_language_and_perhaps_a_file() {
        let block = Block {
            line: 6,
            language: "toml".to_owned(),
            file: Some("kjob.toml".to_owned()),
            text: vec!["[a](b)".to_owned()],
        };
        let wanted = [Item::Hint(3, "skip".to_owned()), Item::Block(block)];
        assert_eq!(items(PAGE), wanted);
    }
}
