//! The program `kjob-server` as its operator meets it.

mod endings;
mod endpoints;
mod settings;
mod starts;
mod support;
