//! Who may touch a file, where the operating system says so.

use std::fs::Metadata;

/// The mode of a file that grants any of the bits that it is not to.
#[cfg(unix)]
pub(crate) fn too_open(metadata: &Metadata, not_granted: u32) -> Option<u32> {
    use std::os::unix::fs::PermissionsExt;
    let mode = metadata.permissions().mode() & 0o777;
    (mode & not_granted != 0).then_some(mode)
}

#[cfg(not(unix))]
pub(crate) fn too_open(_: &Metadata, _: u32) -> Option<u32> {
    None
}
