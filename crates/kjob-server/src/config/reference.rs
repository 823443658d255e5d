//! docs/configuration.md, as the table of settings has it.

use std::fmt::Write as _;

use super::keys::Keys;

/// What stands before the table.
const HEAD: &str = "\
# Configuration

All settings of `kjob-server`. This page is made from the code:
`cargo run -p kjob-server --example configuration_reference > docs/configuration.md` writes it, and a test holds it against
the code.

Each setting is a key of the config file (TOML, `--config FILE`), a variable of the environment and a flag: `max_queued` is
`KJOB_MAX_QUEUED` and `--max-queued`. A flag wins over a variable, a variable over the file, the file over the default.
Values are texts (`\"2h\"`); numbers and `true` and `false` may be written as such. A key that is not known is refused with
its line. `kjob-server check` prints what would be used, and where each value is from.

- **Durations** have units: `\"500ms\"`, `\"90s\"`, `\"1h 30m\"`, `\"7d\"`; at most 100 years.
- **Sizes** are in bytes, or have units: `\"64MiB\"` is 2^26, `\"64MB\"` is 64 million.
- **Paths** count from the directory in which the server was started.

`[[route]]` tables are in the file alone; their keys are in [gateway.md](gateway.md). SIGHUP reads the routes,
the users file and the TLS files anew, and opens the audit log anew; everything else takes a restart.

";

/// The text of docs/configuration.md: a page about all settings.
pub fn reference() -> String {
    let mut page = HEAD.to_owned();
    page.push_str("| key | takes | default | what |\n|---|---|---|---|\n");
    for row in Keys::rows() {
        let name = row.name;
        let form = row.form.unwrap_or_default();
        let form = form.trim_end_matches(", or \"none\"");
        // Texts can always be written to.
        let _ = writeln!(
            page,
            "| <a id=\"{name}\"></a>`{name}` | {form} | `{}` | {} |",
            row.default, row.what
        );
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_as_the_code_has_it() {
        let page = include_str!("../../../../docs/configuration.md");
        assert!(
            page == reference(),
            "write it anew: cargo run -p kjob-server --example configuration_reference > docs/configuration.md"
        );
    }

    #[test]
    fn each_setting_says_what_it_takes() {
        for row in Keys::rows() {
            assert!(
                row.form.is_some_and(|form| !form.is_empty()),
                "{}",
                row.name
            );
            assert!(
                !row.what.contains('|') && row.what.ends_with('.'),
                "{}",
                row.name
            );
        }
    }

    /// The page of routes names each of their keys, and no other, in a row of its own. What comes after
    /// them is about one upstream for all.
    #[test]
    fn each_key_of_routes_is_explained() {
        let page = include_str!("../../../../docs/gateway.md");
        let (page, _) = page.split_once("## Transparent mode").unwrap();
        let rows = page.lines().filter(|line| line.starts_with("| `"));
        let firsts = rows.filter_map(|row| row.split('|').nth(1));
        let mut named: Vec<_> = firsts
            .flat_map(|first| first.split('`').skip(1).step_by(2))
            .collect();
        let mut keys = super::super::routes::keys();
        named.sort_unstable();
        keys.sort_unstable();
        assert_eq!(named, keys);
    }
}
