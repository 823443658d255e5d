//! Whether links in Markdown lead to something: those inside of the tree, and addresses of this tree
//! at its forge.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context as _, Result};

use super::markdown;

/// Where the tree is seen by those who have no copy of it: documentation of crates links to it there.
pub(crate) const FORGE: &str = "https://github.com/kjob-rs/kjob/blob/main/";

/// All Markdown files of the tree, below its root.
pub(crate) fn pages(root: &Path) -> Result<Vec<PathBuf>> {
    let mut pages = Vec::new();
    let mut directories = vec![root.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).with_context(|| directory.display().to_string())? {
            let entry = entry?;
            let (path, name) = (entry.path(), entry.file_name());
            let is_ours = !name.to_string_lossy().starts_with('.')
                && !["target", "node_modules"]
                    .iter()
                    .any(|other| name == *other);
            if entry.file_type()?.is_dir() && is_ours {
                directories.push(path);
            } else if path.extension().is_some_and(|extension| extension == "md") {
                pages.push(path);
            }
        }
    }
    pages.sort();
    Ok(pages)
}

/// What is wrong with the links of these pages, each as `file:line: why`; and how many links there are.
pub(crate) fn check(root: &Path, pages: &[PathBuf]) -> Result<(Vec<String>, u32)> {
    let mut anchors: HashMap<PathBuf, HashSet<String>> = HashMap::new();
    let (mut wrong, mut count) = (Vec::new(), 0);
    for page in pages {
        let text = fs::read_to_string(page).with_context(|| page.display().to_string())?;
        for link in markdown::links(&text) {
            let Some((file, anchor)) = place(root, page, &link.target) else {
                continue;
            };
            count += 1;
            let shown = page.strip_prefix(root).unwrap_or(page).display();
            let mut no = |why: &str| {
                wrong.push(format!("{shown}:{}: {}: {why}", link.line, link.target));
            };
            if !file.starts_with(root) {
                no("leads out of the tree");
            } else if !file.exists() {
                no("there is no such file");
            } else if let Some(anchor) = anchor
                && file.extension().is_some_and(|extension| extension == "md")
            {
                if !anchors.contains_key(&file) {
                    let text = fs::read_to_string(&file)?;
                    anchors.insert(file.clone(), markdown::anchors(&text));
                }
                if !anchors[&file].contains(&anchor) {
                    no("the page has no such heading");
                }
            }
        }
    }
    Ok((wrong, count))
}

/// The file and the anchor that a link means. `None` if it leads elsewhere.
fn place(root: &Path, page: &Path, target: &str) -> Option<(PathBuf, Option<String>)> {
    let (base, target) = match target.strip_prefix(FORGE) {
        Some(inside) => (root, inside),
        None if is_elsewhere(target) => return None,
        None => (page.parent()?, target),
    };
    let (path, anchor) = match target.split_once('#') {
        Some((path, anchor)) => (path, Some(anchor.to_owned())),
        None => (target, None),
    };
    let file = match path {
        "" => page.to_owned(),
        path => tidied(&base.join(path)),
    };
    Some((file, anchor))
}

/// Whether it has a scheme.
pub(crate) fn is_elsewhere(target: &str) -> bool {
    ["http://", "https://", "mailto:"]
        .iter()
        .any(|scheme| target.starts_with(scheme))
}

/// Without `.` and `..`, as a forge follows them.
fn tidied(path: &Path) -> PathBuf {
    let mut tidied = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => {
                tidied.pop();
            }
            Component::CurDir => {}
            part => tidied.push(part),
        }
    }
    tidied
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_dead_link_is_named_with_its_line() {
        let root = std::env::temp_dir().join(format!("kjob-links-{}", std::process::id()));
        fs::create_dir_all(root.join("docs")).unwrap();
        let (a, b) = (root.join("a.md"), root.join("docs/b.md"));
        let text = format!(
            "# Top\n[1](docs/b.md#there) [2](#top) [3](https://example.org)\n[4](docs/b.md#gone)\n\
            [5](gone.md)\n[6](../out.md)\n[7]({FORGE}docs/b.md#gone)\n"
        );
        fs::write(&a, text).unwrap();
        fs::write(&b, "# There\n[up](../a.md#top)\n").unwrap();
        assert_eq!(pages(&root).unwrap(), [a.clone(), b.clone()]);
        let (wrong, count) = check(&root, &[a, b]).unwrap();
        fs::remove_dir_all(&root).unwrap();
        let wanted = [
            "a.md:3: docs/b.md#gone: the page has no such heading".to_owned(),
            "a.md:4: gone.md: there is no such file".to_owned(),
            "a.md:5: ../out.md: leads out of the tree".to_owned(),
            format!("a.md:6: {FORGE}docs/b.md#gone: the page has no such heading"),
        ];
        assert_eq!(wrong, wanted);
        assert_eq!(count, 7);
    }
}
