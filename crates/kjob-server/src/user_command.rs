//! `kjob-server user`: changes the users file.

use std::fmt::Write as _;
use std::io::{self, BufRead, Read as _};
use std::path::Path;

use clap::{Args, Subcommand};
use secrecy::zeroize::Zeroizing;

use crate::users::{self, BadPassword, EditError, FileError, Password, Role, Token, UserName};

/// The longest line that is read as a password, in bytes: more than a password may have.
const LINE_LEN_MAX: u64 = 4096;

/// What to do with the users.
#[derive(Clone, Debug, PartialEq, Eq, Subcommand)]
#[non_exhaustive]
pub enum UserCommand {
    /// Add a user, and ask for the password. Makes the users file if it is not there.
    Add {
        /// The user's name: 1 to 128 of A-Z a-z 0-9 . _ @ + -
        name: UserName,
        /// What the user may do: "user" sees their own jobs, "admin" all.
        #[arg(long, value_enum, default_value_t = Role::User)]
        role: Role,
        /// How the password is given.
        #[command(flatten)]
        password: PasswordArgs,
        /// The user has no password, only tokens.
        #[arg(long, conflicts_with = "password_stdin")]
        no_password: bool,
    },
    /// Remove a user. The jobs stay, and belong to whoever gets the name next.
    Remove {
        /// The user's name.
        name: UserName,
    },
    /// List the users, their roles and their tokens.
    List,
    /// Give a user a new password.
    Passwd {
        /// The user's name.
        name: UserName,
        /// How the password is given.
        #[command(flatten)]
        password: PasswordArgs,
    },
    /// Give a user another role.
    Role {
        /// The user's name.
        name: UserName,
        /// What the user may do.
        #[arg(value_enum)]
        role: Role,
    },
    /// Make a token for a user, and print it: it cannot be shown again.
    Token {
        /// The user's name.
        name: UserName,
        /// What to call the token, such as the program that uses it.
        token: String,
        /// Remove the token instead.
        #[arg(long)]
        remove: bool,
    },
}

/// How a password is given. Never as an argument, which others on the machine can see.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Args)]
pub struct PasswordArgs {
    /// Read the password from the first line of the standard input, instead of asking for it.
    #[arg(long)]
    pub password_stdin: bool,
}

/// What a command has to say.
#[derive(Debug)]
#[non_exhaustive]
pub enum Said {
    /// What was done, or what was asked for: a text of lines.
    Text(String),
    /// The new token.
    Token(Token),
}

/// A command was not done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UserCommandError {
    /// It is not known which file.
    #[error("users_file is not set: name the file with --users-file FILE, or in the config")]
    NoFile,
    /// The file cannot be used.
    #[error("users_file: {0}")]
    File(#[from] FileError),
    /// The change is not possible.
    #[error(transparent)]
    Edit(#[from] EditError),
    /// The password is not possible.
    #[error(transparent)]
    Password(#[from] BadPassword),
    /// The two passwords that were typed differ.
    #[error("the two passwords differ; nothing was changed")]
    PasswordsDiffer,
    /// No password was read.
    #[error(
        "the password cannot be read: {0}; with --password-stdin it is read from the standard input"
    )]
    Unread(#[source] io::Error),
}

/// Does a command. Passwords are asked for at the terminal, or read from `stdin`.
///
/// # Errors
/// [`UserCommandError`]; the file is then as it was.
pub fn run(
    command: UserCommand,
    file: Option<&Path>,
    stdin: &mut dyn BufRead,
) -> Result<Said, UserCommandError> {
    let path = file.ok_or(UserCommandError::NoFile)?;
    match command {
        UserCommand::Add {
            name,
            role,
            password,
            no_password,
        } => {
            // Before the file is locked: people take their time.
            let password = match no_password {
                true => None,
                false => Some(ask(password, &name, stdin)?),
            };
            edit(path, |users| {
                users.add(name.clone(), role)?;
                match &password {
                    Some(password) => users.set_password(&name, password),
                    None => Ok(()),
                }
            })?;
            Ok(done(format!("user {name} added, as {}", role.as_str())))
        }
        UserCommand::Remove { name } => {
            edit(path, |users| users.remove(&name))?;
            Ok(done(format!("user {name} removed")))
        }
        UserCommand::List => Ok(Said::Text(list(&users::read(path)?))),
        UserCommand::Passwd { name, password } => {
            let password = ask(password, &name, stdin)?;
            edit(path, |users| users.set_password(&name, &password))?;
            Ok(done(format!("user {name} has a new password")))
        }
        UserCommand::Role { name, role } => {
            edit(path, |users| users.set_role(&name, role))?;
            Ok(done(format!("user {name} is {}", role.as_str())))
        }
        UserCommand::Token {
            name,
            token,
            remove: true,
        } => {
            edit(path, |users| users.remove_token(&name, &token))?;
            Ok(done(format!("token {token} of user {name} removed")))
        }
        UserCommand::Token { name, token, .. } => {
            let made = edit(path, |users| users.add_token(&name, &token))?;
            Ok(Said::Token(made))
        }
    }
}

fn edit<T>(
    path: &Path,
    change: impl FnOnce(&mut users::Users) -> Result<T, EditError>,
) -> Result<T, UserCommandError> {
    users::edit(path, |users| Ok(change(users)?))
}

fn done(what: String) -> Said {
    Said::Text(format!(
        "{what}; a running server knows once it gets a SIGHUP\n"
    ))
}

fn list(users: &users::Users) -> String {
    let width = users.iter().map(|(name, _)| name.as_str().len()).max();
    let width = width.unwrap_or_default();
    let mut text = String::new();
    for (name, user) in users.iter() {
        let password = if user.has_password() { "password" } else { "-" };
        let role = user.role().as_str();
        // A text takes all that is written to it.
        let _ = write!(text, "{:width$}  {role:5}  {password:8}", name.as_str());
        for (token, created) in user.tokens() {
            let _ = write!(text, "  {token} ({created})");
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
    }
    text
}

fn ask(
    args: PasswordArgs,
    name: &UserName,
    stdin: &mut dyn BufRead,
) -> Result<Password, UserCommandError> {
    if args.password_stdin {
        let mut line = Zeroizing::new(String::new());
        let read = stdin.take(LINE_LEN_MAX).read_line(&mut line);
        read.map_err(UserCommandError::Unread)?;
        let text = line.strip_suffix('\n').unwrap_or(&line);
        let text = text.strip_suffix('\r').unwrap_or(text);
        return Ok(Password::new(text.into())?);
    }
    let prompt = |text: String| {
        let typed = rpassword::prompt_password(text);
        typed.map(Zeroizing::new).map_err(UserCommandError::Unread)
    };
    let typed = prompt(format!("password for {name}: "))?;
    let password = Password::new(typed.as_str().into())?;
    if prompt("again: ".to_owned())? != typed {
        return Err(UserCommandError::PasswordsDiffer);
    }
    Ok(password)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(path: &Path, command: UserCommand, stdin: &str) -> Result<String, String> {
        match run(command, Some(path), &mut stdin.as_bytes()) {
            Ok(Said::Text(text)) => Ok(text),
            Ok(Said::Token(token)) => Ok(token.reveal().to_owned()),
            Err(error) => Err(error.to_string()),
        }
    }

    fn add(name: &str) -> UserCommand {
        UserCommand::Add {
            name: name.parse().unwrap(),
            role: Role::Admin,
            password: PasswordArgs {
                password_stdin: true,
            },
            no_password: false,
        }
    }

    #[test]
    fn the_password_is_the_first_line() {
        for (text, password) in [
            ("correct horse", "correct horse"),
            ("correct horse\n", "correct horse"),
            ("correct horse\r\nmore\n", "correct horse"),
            (" spaces stay ", " spaces stay "),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("users.toml");
            said(&path, add("ann"), text).unwrap();
            let users = users::read(&path).unwrap();
            let (_, ann) = users.user("ann").unwrap();
            assert!(
                ann.password().unwrap().is_of(password.as_bytes()),
                "{text:?}"
            );
        }
    }

    #[test]
    fn what_cannot_be_done_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("users.toml");
        let error = said(&path, UserCommand::List, "").unwrap_err();
        assert!(error.contains("users.toml is not there"), "{error}");
        let error = said(&path, add("ann"), "short").unwrap_err();
        assert!(error.contains("5 characters"), "{error}");
        assert!(!path.exists());
        let error = run(UserCommand::List, None, &mut "".as_bytes()).unwrap_err();
        assert!(matches!(error, UserCommandError::NoFile), "{error}");
    }

    #[test]
    fn the_list_has_a_line_a_user() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("users.toml");
        said(&path, add("ann"), "correct horse").unwrap();
        let robot = UserCommand::Add {
            name: "robot".parse().unwrap(),
            role: Role::User,
            password: PasswordArgs {
                password_stdin: false,
            },
            no_password: true,
        };
        said(&path, robot, "").unwrap();
        let token = |remove| UserCommand::Token {
            name: "robot".parse().unwrap(),
            token: "ci".into(),
            remove,
        };
        let secret = said(&path, token(false), "").unwrap();
        let list = said(&path, UserCommand::List, "").unwrap();
        let lines: Vec<&str> = list.lines().collect();
        assert_eq!(lines[0], "ann    admin  password");
        assert!(
            lines[1].starts_with("robot  user   -         ci (20"),
            "{list}"
        );
        assert!(!list.contains(&secret));
        said(&path, token(true), "").unwrap();
        let list = said(&path, UserCommand::List, "").unwrap();
        assert_eq!(list.lines().nth(1), Some("robot  user   -"));
    }
}
