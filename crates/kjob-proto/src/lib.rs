//! kjob-proto
