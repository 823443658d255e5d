//! The examples run.

use std::process::Command;

/// `cargo test` builds the examples too, but with `--test` or `--tests` it does not.
#[test]
fn the_codec_alone() {
    let test = std::env::current_exe().unwrap();
    let example = test.parent().unwrap().with_file_name("examples/codec");
    let output = Command::new(example).output();
    let output = output.expect("an example; is it built? (cargo build --examples)");
    assert!(output.status.success(), "{output:?}");
    let said = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines.len(), 5, "{said}");
    assert!(lines[0].starts_with("binary: "), "{said}");
    assert_eq!(lines[3..], ["job 7", "refused: no such endpoint"]);
}
