//! Prints docs/configuration.md, as the code has it.

use std::io::Write as _;

fn main() -> std::io::Result<()> {
    let page = kjob_server::config::reference();
    std::io::stdout().write_all(page.as_bytes())
}
