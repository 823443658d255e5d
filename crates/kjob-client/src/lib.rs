//! kjob-client
