//! The program `kjob-server`.

fn main() {}
