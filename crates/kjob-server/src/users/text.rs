//! The text of a users file.

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};

use super::{BadName, PasswordHash, Role, TokenEntry, TokenHash, User, UserName, Users};

const HEAD: &str = "\
# The users of a kjob server. Change it with `kjob-server user`, which keeps no comments, and send the
# server a SIGHUP.
";

/// A text is no users file. Never repeats a hash.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TextError {
    /// It is no TOML, or has other keys.
    #[error("line {line}: {message}")]
    Syntax {
        /// Counted from 1.
        line: usize,
        /// What is wrong there.
        message: String,
    },
    /// A name is not possible.
    #[error(transparent)]
    Name(#[from] BadName),
    /// Two users have one name.
    #[error("user {0} is there twice")]
    UserTwice(UserName),
    /// A hash of a password cannot be used.
    #[error("user {user}: the hash of the password cannot be used: {why}")]
    Password {
        /// Whose.
        user: UserName,
        /// Why not.
        why: String,
    },
    /// A hash of a token cannot be used.
    #[error("user {user}, token {token:?}: the hash is not of the form blake2b-256:…")]
    Token {
        /// Whose.
        user: UserName,
        /// Which.
        token: String,
    },
    /// A token is there twice, by its name or by its hash.
    #[error("user {user}, token {token:?}: it is there twice, by name or by hash")]
    TokenTwice {
        /// Whose.
        user: UserName,
        /// Which.
        token: String,
    },
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Rows {
    #[serde(default, rename = "user", skip_serializing_if = "Vec::is_empty")]
    users: Vec<UserRow>,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct UserRow {
    name: String,
    role: Role,
    #[serde(skip_serializing_if = "Option::is_none")]
    password: Option<String>,
    #[serde(default, rename = "token", skip_serializing_if = "Vec::is_empty")]
    tokens: Vec<TokenRow>,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct TokenRow {
    name: String,
    hash: String,
    #[serde(default)]
    created: String,
}

impl Users {
    /// Reads the text of a users file.
    ///
    /// # Errors
    /// [`TextError`].
    pub fn from_toml(text: &str) -> Result<Self, TextError> {
        let rows: Rows = toml::from_str(text).map_err(|error| {
            // The error's own text shows the line itself, which may have a hash.
            let at = error.span().map_or(text.len(), |span| span.start);
            let message = error.message().split_whitespace().collect::<Vec<_>>();
            TextError::Syntax {
                line: 1 + text.bytes().take(at).filter(|byte| *byte == b'\n').count(),
                message: message.join(" "),
            }
        })?;
        let mut users = Self::default();
        for row in rows.users {
            let name: UserName = row.name.parse()?;
            if users.users.contains_key(&name) {
                return Err(TextError::UserTwice(name));
            }
            let password = row.password.as_deref().map(PasswordHash::parse);
            let password = password.transpose().map_err(|why| TextError::Password {
                user: name.clone(),
                why,
            })?;
            let tokens = tokens(&name, row.tokens, &mut users.holders)?;
            let user = User {
                role: row.role,
                password,
                tokens,
            };
            users.users.insert(name, user);
        }
        Ok(users)
    }

    /// The text of a users file with these.
    pub fn to_toml(&self) -> String {
        let users = self.users.iter().map(|(name, user)| UserRow {
            name: name.to_string(),
            role: user.role,
            password: user.password.as_ref().map(ToString::to_string),
            tokens: user
                .tokens
                .iter()
                .map(|(name, entry)| TokenRow {
                    name: name.clone(),
                    hash: entry.hash.to_string(),
                    created: entry.created.clone(),
                })
                .collect(),
        });
        let rows = Rows {
            users: users.collect(),
        };
        match toml::to_string(&rows) {
            Ok(text) => format!("{HEAD}\n{text}"),
            // TOML has a form for texts and lists of tables, whatever is in them.
            Err(error) => unreachable!("users cannot be written as TOML: {error}"),
        }
    }
}

fn tokens(
    user: &UserName,
    rows: Vec<TokenRow>,
    holders: &mut HashMap<TokenHash, UserName>,
) -> Result<BTreeMap<String, TokenEntry>, TextError> {
    let mut tokens = BTreeMap::new();
    for row in rows {
        let name: UserName = row.name.parse()?;
        let (user, token) = (user.clone(), name.to_string());
        let Some(hash) = TokenHash::parse(&row.hash) else {
            return Err(TextError::Token { user, token });
        };
        let entry = TokenEntry {
            hash,
            created: row.created,
        };
        let is_new = holders.insert(hash, user.clone()).is_none();
        if !is_new || tokens.insert(token.clone(), entry).is_some() {
            return Err(TextError::TokenTwice { user, token });
        }
    }
    Ok(tokens)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn refusal(text: &str) -> String {
        Users::from_toml(text).map(drop).unwrap_err().to_string()
    }

    #[test]
    fn a_file_without_users_is_one() {
        assert!(Users::from_toml("").unwrap().is_empty());
        let text = Users::default().to_toml();
        assert!(Users::from_toml(&text).unwrap().is_empty());
    }

    #[test]
    fn what_is_wrong_is_named_and_no_hash_repeated() {
        let ann = "[[user]]\nname = 'ann'\nrole = 'user'\n";
        let token = |name: &str, hash: &str| {
            format!("[[user.token]]\nname = '{name}'\nhash = '{hash}'\ncreated = ''\n")
        };
        let hash = TokenHash::of(b"x").to_string();
        for (text, words) in [
            (format!("{ann}{ann}"), "user ann is there twice"),
            (format!("{ann}pasword = 'secret'"), "line 4: unknown field"),
            (
                format!("{ann}password = 'secret'"),
                "user ann: the hash of the password",
            ),
            (format!("{ann}password = secret"), "line 4"),
            (
                "[[user]]\nname = 'ann'\nrole = 'root'".into(),
                "line 3: unknown variant",
            ),
            (
                "[[user]]\nname = 'a b'\nrole = 'user'".into(),
                "\"a b\" is no name",
            ),
            (
                format!("{ann}{}", token("ci", "secret")),
                "token \"ci\": the hash",
            ),
            (
                format!("{ann}{}{}", token("ci", &hash), token("ci", "blake2b-256:")),
                "token \"ci\": the hash",
            ),
            (
                format!("{ann}{}{}", token("ci", &hash), token("other", &hash)),
                "token \"other\": it is there twice",
            ),
        ] {
            let error = refusal(&text);
            assert!(error.contains(words), "{error}");
            assert!(!error.contains("secret"), "{error}");
        }
    }

    fn row() -> impl Strategy<Value = String> {
        let hash = prop_oneof![
            any::<[u8; 32]>().prop_map(|bytes| TokenHash::of(&bytes).to_string()),
            "(blake2b-256:)?[A-Za-z0-9_-]{0,45}",
        ];
        let token = (name(), hash)
            .prop_map(|(name, hash)| format!("[[user.token]]\nname = '{name}'\nhash = '{hash}'\n"));
        let tokens = prop::collection::vec(token, 0..3);
        (name(), "(user|admin|root)", tokens).prop_map(|(name, role, tokens)| {
            format!(
                "[[user]]\nname = '{name}'\nrole = '{role}'\n{}",
                tokens.concat()
            )
        })
    }

    fn name() -> impl Strategy<Value = String> {
        prop_oneof![4 => "[a-z0-9_.@+-]{1,3}", 1 => "[^'\n]{0,6}"]
    }

    proptest! {
        /// What is read comes back from its own text, and each token leads to who has it.
        #[test]
        fn any_file_is_read_or_refused(rows in prop::collection::vec(row(), 0..4), other in "(\\PC|\\s){0,40}") {
            let _ = Users::from_toml(&other);
            let _ = Users::from_toml(&format!("{}{other}", rows.concat()));
            let Ok(users) = Users::from_toml(&rows.concat()) else {
                return Ok(());
            };
            prop_assert_eq!(users.len(), rows.len());
            for (name, user) in users.iter() {
                for entry in user.tokens.values() {
                    prop_assert_eq!(users.holder(&entry.hash).unwrap().0, name);
                }
            }
            let text = users.to_toml();
            prop_assert_eq!(Users::from_toml(&text).unwrap().to_toml(), text);
        }
    }
}
