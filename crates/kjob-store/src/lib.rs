//! kjob-store
