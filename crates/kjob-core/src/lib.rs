//! kjob-core
