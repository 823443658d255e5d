//! Who may use the server, as what, and by what they show who they are: the users file.
//!
//! ```
//! use kjob_server::users::{Password, Role, UserName, Users};
//!
//! let mut users = Users::default();
//! let ann: UserName = "ann".parse()?;
//! users.add(ann.clone(), Role::Admin)?;
//! users.set_password(&ann, &Password::new("correct horse".to_owned().into())?)?;
//! let token = users.add_token(&ann, "laptop")?;
//! assert!(token.reveal().starts_with("kjob_"));
//!
//! // What is kept tells neither.
//! let text = users.to_toml();
//! assert!(text.contains("$argon2id$"));
//! assert!(!text.contains("correct horse") && !text.contains(token.reveal()));
//! assert_eq!(Users::from_toml(&text)?.to_toml(), text);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod file;
mod name;
mod password;
mod text;
mod token;

use std::collections::{BTreeMap, HashMap};

pub use file::{FileError, edit, read};
pub use name::{BadName, UserName};
pub use password::{BadPassword, Password};
pub(crate) use password::{PasswordHash, dummy};
pub use text::TextError;
pub use token::Token;
pub(crate) use token::TokenHash;

/// What a user may do.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, serde::Deserialize, serde::Serialize,
)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Role {
    /// Sees and cancels everybody's jobs.
    Admin,
    /// Sees and cancels their own jobs only.
    User,
}

/// All users.
#[derive(Clone, Debug, Default)]
pub struct Users {
    users: BTreeMap<UserName, User>,
    /// Whose a token is.
    holders: HashMap<TokenHash, UserName>,
}

/// One user, without the name.
#[derive(Clone, Debug)]
pub struct User {
    role: Role,
    password: Option<PasswordHash>,
    tokens: BTreeMap<String, TokenEntry>,
}

/// A token as it is kept.
#[derive(Clone, Debug)]
pub(crate) struct TokenEntry {
    pub(crate) hash: TokenHash,
    /// When it was made, in RFC 3339.
    pub(crate) created: String,
}

/// By what somebody showed that they are a user: a part of the users file that must still be in it
/// for them to be taken for the user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Proof {
    Password(PasswordHash),
    Token { name: String, hash: TokenHash },
}

/// A change of the users is not possible.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EditError {
    /// There is such a user already.
    #[error("there is a user {0} already")]
    UserExists(UserName),
    /// There is no such user.
    #[error("there is no user {0}")]
    UnknownUser(UserName),
    /// The user has such a token already.
    #[error("user {user} has a token {token:?} already; remove it first, or choose another name")]
    TokenExists {
        /// The user.
        user: UserName,
        /// The token's name.
        token: String,
    },
    /// The user has no such token.
    #[error("user {user} has no token {token:?}")]
    UnknownToken {
        /// The user.
        user: UserName,
        /// The token's name.
        token: String,
    },
    /// A name is not possible.
    #[error(transparent)]
    Name(#[from] BadName),
}

impl Users {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.users.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.users.is_empty()
    }

    /// All, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&UserName, &User)> {
        self.users.iter()
    }

    /// Adds a user, who has neither a password nor a token yet.
    ///
    /// # Errors
    /// [`EditError::UserExists`].
    pub fn add(&mut self, name: UserName, role: Role) -> Result<(), EditError> {
        if self.users.contains_key(&name) {
            return Err(EditError::UserExists(name));
        }
        let user = User {
            role,
            password: None,
            tokens: BTreeMap::new(),
        };
        self.users.insert(name, user);
        Ok(())
    }

    /// Removes a user with all that the user has. The jobs stay, and belong to the name.
    ///
    /// # Errors
    /// [`EditError::UnknownUser`].
    pub fn remove(&mut self, name: &UserName) -> Result<(), EditError> {
        let user = self.users.remove(name);
        let user = user.ok_or_else(|| EditError::UnknownUser(name.clone()))?;
        for token in user.tokens.values() {
            self.holders.remove(&token.hash);
        }
        Ok(())
    }

    /// Gives a user another role.
    ///
    /// # Errors
    /// [`EditError::UnknownUser`].
    pub fn set_role(&mut self, name: &UserName, role: Role) -> Result<(), EditError> {
        self.user_mut(name)?.role = role;
        Ok(())
    }

    /// Gives a user a password in place of the one before. Takes some 20 ms of one core and 19 MiB.
    ///
    /// # Errors
    /// [`EditError::UnknownUser`].
    pub fn set_password(&mut self, name: &UserName, password: &Password) -> Result<(), EditError> {
        self.user_mut(name)?.password = Some(PasswordHash::of(password));
        Ok(())
    }

    /// Makes a token for a user. It cannot be told again.
    ///
    /// # Errors
    /// [`EditError::UnknownUser`], [`EditError::TokenExists`], [`EditError::Name`].
    pub fn add_token(&mut self, name: &UserName, token: &str) -> Result<Token, EditError> {
        let token_name: UserName = token.parse()?;
        let user = self.user_mut(name)?;
        if user.tokens.contains_key(token_name.as_str()) {
            return Err(EditError::TokenExists {
                user: name.clone(),
                token: token.to_owned(),
            });
        }
        let made = Token::random();
        let hash = TokenHash::of(made.reveal().as_bytes());
        let created = humantime::format_rfc3339_seconds(std::time::SystemTime::now()).to_string();
        let entry = TokenEntry { hash, created };
        user.tokens.insert(token_name.as_str().to_owned(), entry);
        self.holders.insert(hash, name.clone());
        Ok(made)
    }

    /// Removes a token of a user.
    ///
    /// # Errors
    /// [`EditError::UnknownUser`], [`EditError::UnknownToken`].
    pub fn remove_token(&mut self, name: &UserName, token: &str) -> Result<(), EditError> {
        let removed = self.user_mut(name)?.tokens.remove(token);
        let removed = removed.ok_or_else(|| EditError::UnknownToken {
            user: name.clone(),
            token: token.to_owned(),
        })?;
        self.holders.remove(&removed.hash);
        Ok(())
    }

    pub(crate) fn user(&self, name: &str) -> Option<(&UserName, &User)> {
        self.users.get_key_value(name)
    }

    /// Whose token this is.
    pub(crate) fn holder(&self, hash: &TokenHash) -> Option<(&UserName, Proof)> {
        let name = self.holders.get(hash)?;
        let tokens = &self.users.get(name)?.tokens;
        let (token, _) = tokens.iter().find(|(_, entry)| entry.hash == *hash)?;
        let proof = Proof::Token {
            name: token.clone(),
            hash: *hash,
        };
        Some((name, proof))
    }

    /// The role of a user whom something proved once, if it does so still.
    pub(crate) fn role_by(&self, name: &str, proof: &Proof) -> Option<Role> {
        let user = self.users.get(name)?;
        let is_there = match proof {
            Proof::Password(hash) => user.password.as_ref() == Some(hash),
            Proof::Token { name, hash } => {
                user.tokens.get(name).map(|entry| &entry.hash) == Some(hash)
            }
        };
        is_there.then_some(user.role)
    }

    fn user_mut(&mut self, name: &UserName) -> Result<&mut User, EditError> {
        let user = self.users.get_mut(name);
        user.ok_or_else(|| EditError::UnknownUser(name.clone()))
    }
}

impl User {
    /// What the user may do.
    pub fn role(&self) -> Role {
        self.role
    }

    /// Whether the user has a password.
    pub fn has_password(&self) -> bool {
        self.password.is_some()
    }

    /// The names of the user's tokens, each with the time at which it was made, in RFC 3339.
    pub fn tokens(&self) -> impl Iterator<Item = (&str, &str)> {
        let tokens = self.tokens.iter();
        tokens.map(|(name, entry)| (name.as_str(), entry.created.as_str()))
    }

    pub(crate) fn password(&self) -> Option<&PasswordHash> {
        self.password.as_ref()
    }
}

impl Role {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::User => "user",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> UserName {
        text.parse().unwrap()
    }

    #[test]
    fn a_token_ends_with_itself_and_with_its_user() {
        let mut users = Users::default();
        users.add(name("ann"), Role::User).unwrap();
        let hash = |token: &Token| TokenHash::of(token.reveal().as_bytes());
        let laptop = hash(&users.add_token(&name("ann"), "laptop").unwrap());
        let ci = hash(&users.add_token(&name("ann"), "ci").unwrap());
        assert_ne!(laptop, ci);
        let (holder, proof) = users.holder(&laptop).unwrap();
        assert_eq!(holder.as_str(), "ann");
        assert_eq!(users.role_by("ann", &proof), Some(Role::User));
        assert_eq!(users.role_by("bob", &proof), None);

        users.remove_token(&name("ann"), "laptop").unwrap();
        assert!(users.holder(&laptop).is_none());
        assert_eq!(users.role_by("ann", &proof), None);
        assert!(users.holder(&ci).is_some());
        users.remove(&name("ann")).unwrap();
        assert!(users.holder(&ci).is_none());
    }

    #[test]
    fn a_new_password_is_another_proof_though_it_be_the_same_word() {
        let mut users = Users::default();
        users.add(name("ann"), Role::Admin).unwrap();
        let password = Password::new("correct horse".to_owned().into()).unwrap();
        users.set_password(&name("ann"), &password).unwrap();
        let (_, user) = users.user("ann").unwrap();
        let proof = Proof::Password(user.password().unwrap().clone());
        assert_eq!(users.role_by("ann", &proof), Some(Role::Admin));
        users.set_password(&name("ann"), &password).unwrap();
        assert_eq!(users.role_by("ann", &proof), None, "salts differ");
    }

    #[test]
    fn what_is_not_there_cannot_be_changed() {
        let mut users = Users::default();
        let unknown = Err(EditError::UnknownUser(name("ann")));
        assert_eq!(users.remove(&name("ann")), unknown);
        assert_eq!(users.set_role(&name("ann"), Role::Admin), unknown);
        assert_eq!(users.remove_token(&name("ann"), "ci"), unknown);
        users.add(name("ann"), Role::User).unwrap();
        assert_eq!(
            users.add(name("ann"), Role::Admin),
            Err(EditError::UserExists(name("ann")))
        );
        users.add_token(&name("ann"), "ci").unwrap();
        let again = users.add_token(&name("ann"), "ci").unwrap_err();
        assert!(matches!(again, EditError::TokenExists { .. }), "{again}");
        let bad = users.add_token(&name("ann"), "a b").unwrap_err();
        assert!(matches!(bad, EditError::Name(_)), "{bad}");
    }
}
