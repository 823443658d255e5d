//! The book as pages for browsers, by mdBook.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::links::{FORGE, is_elsewhere};
use super::markdown;
use crate::metadata::Workspace;
use crate::process::{self, Tool};
use crate::tools;

/// `cargo xtask book`: makes it below the target directory, and says where it is.
pub(crate) fn build(workspace: &Workspace) -> Result<()> {
    let mdbook = tools::MDBOOK.ensure(workspace)?;
    let source = workspace.target.join("book-source");
    process::empty_dir(&source)?;
    copy(&workspace.root.join("docs"), &source)?;
    let book = workspace.target.join("book");
    let mut build = Tool::At(mdbook).command();
    process::run(build.arg("build").arg("--dest-dir").arg(&book).arg(&source))?;
    println!("the book is {}", book.join("index.html").display());
    Ok(())
}

/// Copies a directory. Links that lead out of it, to files that the book has not, lead to the forge in the
/// copy.
fn copy(from: &Path, to: &PathBuf) -> Result<()> {
    fs::create_dir_all(to).with_context(|| to.display().to_string())?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (path, copied) = (entry.path(), to.join(entry.file_name()));
        if entry.file_type()?.is_dir() {
            copy(&path, &copied)?;
        } else if path.extension().is_some_and(|extension| extension == "md") {
            fs::write(&copied, outward(&fs::read_to_string(&path)?))?;
        } else {
            fs::copy(&path, &copied)?;
        }
    }
    Ok(())
}

fn outward(page: &str) -> String {
    let mut text = page.to_owned();
    for link in markdown::links(page) {
        if let Some(path) = link.target.strip_prefix("../")
            && !is_elsewhere(path)
        {
            let (from, to) = (format!("]({}", link.target), format!("]({FORGE}{path}"));
            text = text.replace(&from, &to);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_out_of_the_book_lead_to_the_forge() {
        let page = "[a](b.md) [c](../SECURITY.md#d) `[e](../f)`";
        let wanted = format!("[a](b.md) [c]({FORGE}SECURITY.md#d) `[e](../f)`");
        assert_eq!(outward(page), wanted);
    }
}
