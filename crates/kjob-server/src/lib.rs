//! kjob-server
