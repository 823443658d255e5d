//! Whose jobs are whose, where an upstream says who calls: the names that owners have in the store.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use base64ct::{Base64, Encoding as _};
use kjob_core::Owner;
use secrecy::zeroize::Zeroizing;

use super::credentials::{Claim, Credentials};
use super::print::{Print, PrintKey};
use crate::file_mode::too_open;

/// The key's file in the data directory.
const FILE: &str = "owner.key";

/// More than the file ever has, in bytes.
const FILE_LEN_MAX: u64 = 1024;

/// The longest user name that is an owner's as it stands, in bytes.
const NAME_LEN_MAX: usize = 128;

/// Gives the callers whom an upstream lets in the names under which they own jobs. A user's is the user
/// name. Of a token only a keyed hash is stored, so that whoever has a copy of the store alone can neither
/// use the token nor guess at it; the key is to last as long as the jobs.
#[derive(Clone)]
pub struct OwnerKey(PrintKey);

/// The key cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OwnerKeyError {
    /// The file cannot be read, or made.
    #[error("{path} cannot be {doing}: {source}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What was to be done to it.
        doing: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Others than its owner may read the file, or write to it.
    #[error("{path} has the mode {mode:03o}, and is its owner's alone; chmod 600 it", path = path.display())]
    Mode {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// Jobs in the database have owners who are named by another key.
    #[error("{path} is not the key by which owners are named in the database; copy that of another node here, or see docs/clustering.md if it is lost", path = path.display())]
    Differs {
        /// The file.
        path: PathBuf,
    },
    /// There is something else in it.
    #[error("{path} is not 32 bytes in base64; without the key that it was, owners of jobs who showed tokens are not known again", path = path.display())]
    Form {
        /// The file.
        path: PathBuf,
    },
}

impl OwnerKey {
    /// One of this process alone, for jobs that end with it.
    pub fn random() -> Self {
        Self(PrintKey::random())
    }

    /// The file of the one of a data directory.
    pub(crate) fn file(dir: &Path) -> PathBuf {
        dir.join(FILE)
    }

    /// The one of a data directory. Both are made if they are not there.
    ///
    /// # Errors
    /// [`OwnerKeyError`].
    pub fn of_dir(dir: &Path) -> Result<Self, OwnerKeyError> {
        let path = Self::file(dir);
        match File::open(&path) {
            Ok(file) => read(&path, file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let key = Zeroizing::new(rand::random::<[u8; 32]>());
                make(dir, &path, &key).map_err(failed(&path, "made"))?;
                Ok(Self(PrintKey::new(*key)))
            }
            Err(source) => Err(failed(&path, "read")(source)),
        }
    }

    /// By which it is known whether two are the same. Tells nothing of the key.
    pub(crate) fn print(&self) -> [u8; 32] {
        self.0.print(b"owner key", b"")
    }

    /// Who owns the jobs of a caller with these credentials, which the upstream takes. No user has a
    /// colon in the name, as that ends it in HTTP's Basic scheme.
    pub(super) fn owner(&self, credentials: &Credentials) -> Owner {
        let value = match credentials {
            Credentials::Given(value) => value,
            Credentials::None | Credentials::Odd => return Owner::anonymous(),
        };
        match Claim::parse(value) {
            Some(Claim::Password { name, .. }) if is_plain(&name) => Owner::new(&name),
            Some(Claim::Password { name, .. }) => {
                named("name", &self.0.print(b"name", name.as_bytes()))
            }
            Some(Claim::Token(token)) => named("token", &self.0.print(b"token", &token)),
            None => named("token", &self.0.print(b"credentials", value)),
        }
    }
}

/// Whether a name is fit to stand in lists and logs, and is not that of those who have none.
fn is_plain(name: &str) -> bool {
    let is_long = name.is_empty() || name.len() > NAME_LEN_MAX;
    !is_long && !name.chars().any(char::is_control) && name != Owner::anonymous().as_str()
}

fn named(what: &str, print: &Print) -> Owner {
    // Half of it is more than enough not to meet another's.
    let (half, _) = print.split_at(print.len() / 2);
    let hex: String = half.iter().map(|byte| format!("{byte:02x}")).collect();
    Owner::new(&format!("{what}:{hex}"))
}

fn read(path: &Path, file: File) -> Result<OwnerKey, OwnerKeyError> {
    let failed = failed(path, "read");
    check_mode(path, &file.metadata().map_err(&failed)?)?;
    let mut text = Zeroizing::new(Vec::new());
    file.take(FILE_LEN_MAX)
        .read_to_end(&mut text)
        .map_err(&failed)?;
    let mut key = Zeroizing::new([0; 32]);
    let decoded = Base64::decode(text.trim_ascii(), &mut *key);
    match decoded {
        Ok(bytes) if bytes.len() == 32 => Ok(OwnerKey(PrintKey::new(*key))),
        _ => Err(OwnerKeyError::Form {
            path: path.to_owned(),
        }),
    }
}

/// Writes the file whole, or not at all.
fn make(dir: &Path, path: &Path, key: &[u8; 32]) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    // Made with the mode 600.
    let mut new = tempfile::NamedTempFile::new_in(dir)?;
    let text = Zeroizing::new(Base64::encode_string(key) + "\n");
    new.write_all(text.as_bytes())?;
    new.as_file().sync_all()?;
    new.persist_noclobber(path)?;
    #[cfg(unix)]
    File::open(dir)?.sync_all()?;
    Ok(())
}

fn failed<'a>(path: &'a Path, doing: &'static str) -> impl Fn(io::Error) -> OwnerKeyError + 'a {
    move |source| OwnerKeyError::Io {
        path: path.to_owned(),
        doing,
        source,
    }
}

fn check_mode(path: &Path, metadata: &fs::Metadata) -> Result<(), OwnerKeyError> {
    match too_open(metadata, 0o077) {
        None => Ok(()),
        Some(mode) => Err(OwnerKeyError::Mode {
            path: path.to_owned(),
            mode,
        }),
    }
}

impl fmt::Debug for OwnerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OwnerKey(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(value: &str) -> Credentials {
        Credentials::Given(Zeroizing::new(value.as_bytes().to_vec()))
    }

    fn basic(pair: &str) -> Credentials {
        given(&format!("Basic {}", Base64::encode_string(pair.as_bytes())))
    }

    fn owner(key: &OwnerKey, credentials: &Credentials) -> String {
        key.owner(credentials).as_str().to_owned()
    }

    #[test]
    fn users_are_called_as_they_call_themselves() {
        let key = OwnerKey::random();
        assert_eq!(owner(&key, &Credentials::None), "anonymous");
        for name in ["ann", "@ann", "DOMAIN\\ann", "Ann Müller"] {
            assert_eq!(owner(&key, &basic(&format!("{name}:x"))), name);
        }
        // Neither the owner of those without a name nor one that breaks a line, and still the user's own.
        let long = "a".repeat(NAME_LEN_MAX + 1);
        for name in ["", "anonymous", "a\nb", &long] {
            let found = owner(&key, &basic(&format!("{name}:x")));
            assert!(found.starts_with("name:"), "{found}");
            assert_eq!(found, owner(&key, &basic(&format!("{name}:y"))));
        }
    }

    #[test]
    fn of_a_token_there_is_a_hash_that_takes_the_key() {
        let key = OwnerKey::random();
        let found = owner(&key, &given("Bearer secret"));
        assert!(found.starts_with("token:") && found.len() == "token:".len() + 32);
        assert!(!found.contains("secret"));
        assert_eq!(found, owner(&key, &given("bearer  secret")));
        for other in ["Bearer secret2", "Negotiate secret", "Basic !"] {
            let other = owner(&key, &given(other));
            assert!(other.starts_with("token:") && other != found, "{other}");
        }
        assert_ne!(found, owner(&OwnerKey::random(), &given("Bearer secret")));
        // No user can be called so: the colon ends the name.
        assert_eq!(owner(&key, &basic(&format!("{found}:x"))), "token");
    }

    #[test]
    fn a_directory_has_one_key_for_good() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("data");
        let token = given("Bearer secret");
        let found = owner(&OwnerKey::of_dir(&dir).unwrap(), &token);
        assert_eq!(found, owner(&OwnerKey::of_dir(&dir).unwrap(), &token));
        let path = dir.join(FILE);
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let mode = |mode| fs::set_permissions(&path, fs::Permissions::from_mode(mode));
            assert_eq!(
                fs::metadata(&path).unwrap().permissions().mode() & 0o777,
                0o600
            );
            mode(0o640).unwrap();
            let error = OwnerKey::of_dir(&dir).unwrap_err();
            assert!(matches!(error, OwnerKeyError::Mode { mode: 0o640, .. }));
            mode(0o600).unwrap();
        }
        // One that is broken is not replaced: jobs would be nobody's.
        for broken in ["", "c2hvcnQ=", "?"] {
            fs::write(&path, broken).unwrap();
            let error = OwnerKey::of_dir(&dir).unwrap_err();
            assert!(matches!(error, OwnerKeyError::Form { .. }), "{broken:?}");
        }
    }
}
