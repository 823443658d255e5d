use std::future::{Future, poll_fn};
use std::net::Ipv4Addr;
use std::pin::Pin;
use std::task::Poll;

use base64ct::{Base64, Encoding as _};
use secrecy::zeroize::Zeroizing;

use super::*;
use crate::users::Password;

const HOME: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
const ELSEWHERE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2));

fn name(text: &str) -> UserName {
    text.parse().unwrap()
}

fn given(value: String) -> Credentials {
    Credentials::Given(Zeroizing::new(value.into_bytes()))
}

fn basic(name: &str, password: &str) -> Credentials {
    let pair = Base64::encode_string(format!("{name}:{password}").as_bytes());
    given(format!("Basic {pair}"))
}

fn set_password(users: &mut Users, name: &UserName, password: &str) {
    let password = Password::new(password.to_owned().into()).unwrap();
    users.set_password(name, &password).unwrap();
}

fn ann() -> Users {
    let mut users = Users::default();
    users.add(name("ann"), Role::User).unwrap();
    set_password(&mut users, &name("ann"), "correct horse");
    users
}

async fn login(accounts: &Accounts, credentials: &Credentials) -> Result<Caller, Denied> {
    let login = accounts.login(credentials, HOME, None).await?;
    Ok(login.caller)
}

#[tokio::test]
async fn a_password_and_a_token_show_who_calls() {
    let mut users = ann();
    users.set_role(&name("ann"), Role::Admin).unwrap();
    let token = users.add_token(&name("ann"), "ci").unwrap();
    let accounts = Accounts::new(users);
    let caller = Caller::admin(name("ann").owner());
    for good in [
        basic("ann", "correct horse"),
        given(format!("Bearer {}", token.reveal())),
    ] {
        assert_eq!(login(&accounts, &good).await, Ok(caller.clone()));
    }
    for (bad, why) in [
        (basic("ann", "correct horsf"), Denied::Wrong),
        (basic("Ann", "correct horse"), Denied::Wrong),
        (basic("bob", "correct horse"), Denied::Wrong),
        (given("Bearer undefined".into()), Denied::Wrong),
        (basic("ann", token.reveal()), Denied::Wrong),
        (given("Negotiate abc".into()), Denied::Malformed),
        (Credentials::Odd, Denied::Malformed),
        (Credentials::None, Denied::Missing),
    ] {
        assert_eq!(login(&accounts, &bad).await, Err(why));
    }
}

/// A user who has only tokens has no password, not an empty one.
#[tokio::test]
async fn nobody_logs_in_where_there_is_no_password() {
    let mut users = Users::default();
    users.add(name("robot"), Role::User).unwrap();
    let accounts = Accounts::new(users);
    for password in ["", "robot", "correct horse"] {
        let credentials = basic("robot", password);
        assert_eq!(login(&accounts, &credentials).await, Err(Denied::Wrong));
    }
}

#[tokio::test]
async fn a_change_of_the_users_is_felt_at_once() {
    let users = ann();
    let accounts = Accounts::new(users.clone());
    let old = basic("ann", "correct horse");
    let caller = Caller::user(name("ann").owner());
    assert_eq!(login(&accounts, &old).await, Ok(caller.clone()));

    let mut changed = users.clone();
    set_password(&mut changed, &name("ann"), "battery staple");
    accounts.replace(changed.clone());
    assert_eq!(login(&accounts, &old).await, Err(Denied::Wrong));
    let new = basic("ann", "battery staple");
    assert_eq!(login(&accounts, &new).await, Ok(caller));

    changed.set_role(&name("ann"), Role::Admin).unwrap();
    accounts.replace(changed);
    let admin = Caller::admin(name("ann").owner());
    assert_eq!(login(&accounts, &new).await, Ok(admin));

    // What was wrong a moment ago is good again.
    accounts.replace(users);
    assert!(login(&accounts, &old).await.is_ok());
    accounts.replace(Users::default());
    assert_eq!(login(&accounts, &old).await, Err(Denied::Wrong));
}

#[tokio::test]
async fn a_login_is_revoked_by_what_concerns_it_alone() {
    let mut users = ann();
    users.add(name("bob"), Role::User).unwrap();
    let accounts = Accounts::new(users.clone());
    let credentials = basic("ann", "correct horse");
    let login = accounts.login(&credentials, HOME, None).await.unwrap();
    let mut revoked = tokio_util::task::AbortOnDropHandle::new(tokio::spawn({
        let accounts = accounts.clone();
        async move { accounts.revoked(&login).await }
    }));
    users.remove(&name("bob")).unwrap();
    accounts.replace(users.clone());
    let soon = Duration::from_millis(50);
    assert!(tokio::time::timeout(soon, &mut revoked).await.is_err());
    users.remove(&name("ann")).unwrap();
    accounts.replace(users);
    let in_time = tokio::time::timeout(Duration::from_secs(30), revoked).await;
    in_time.unwrap().unwrap();
}

/// Hashing is what costs: a remembered login takes none, which the paused clock shows, as it stands
/// still while a thread works.
#[tokio::test(start_paused = true)]
async fn good_credentials_are_remembered_for_a_minute() {
    let accounts = Accounts::new(ann());
    let credentials = basic("ann", "correct horse");
    assert!(login(&accounts, &credentials).await.is_ok());
    let none_is_hashed = accounts.0.hashing.clone();
    let places = none_is_hashed.available_permits();
    let all = none_is_hashed.acquire_many(places as u32).await.unwrap();
    tokio::time::advance(KNOWN_FOR - Duration::from_millis(1)).await;
    assert!(login(&accounts, &credentials).await.is_ok());
    tokio::time::advance(Duration::from_millis(1)).await;
    let hashes = tokio::time::timeout(Duration::from_secs(1), login(&accounts, &credentials));
    assert!(hashes.await.is_err(), "it waits for a place to hash");
    drop(all);
    assert!(login(&accounts, &credentials).await.is_ok());
}

#[tokio::test]
async fn whoever_guesses_has_to_wait_and_nobody_else_has() {
    let mut users = ann();
    users.add(name("bob"), Role::User).unwrap();
    set_password(&mut users, &name("bob"), "battery staple");
    let accounts = Accounts::new(users);
    let (good, bob) = (
        basic("ann", "correct horse"),
        basic("bob", "battery staple"),
    );
    assert!(login(&accounts, &good).await.is_ok());

    let mut guesses = 0;
    let wait = loop {
        let guess = basic("ann", &format!("guess {guesses}"));
        match login(&accounts, &guess).await {
            Err(Denied::Wrong) => guesses += 1,
            other => break other,
        }
        // The same guess again is none.
        assert_eq!(login(&accounts, &guess).await, Err(Denied::Wrong));
    };
    assert!(matches!(wait, Err(Denied::Throttled(_))), "{wait:?}");
    assert_eq!(guesses, 10, "as many as one name has");

    // From elsewhere the name waits as well; another name does not, nor from here.
    let guess = basic("ann", "another guess");
    let answer = accounts.login(&guess, ELSEWHERE, None).await;
    assert!(matches!(answer, Err(Denied::Throttled(_))));
    assert!(login(&accounts, &bob).await.is_ok());
    // Nor does who has shown the right password before, even when it has to be hashed again.
    assert!(login(&accounts, &good).await.is_ok());
    let print = match &good {
        Credentials::Given(value) => accounts.0.key.print(b"credentials", value),
        _ => unreachable!(),
    };
    let mut known = accounts.0.known.get(&print).unwrap();
    known.at -= KNOWN_FOR;
    accounts.0.known.insert(print, known);
    assert!(login(&accounts, &good).await.is_ok());
}

/// The bug: no wrong token was ever held back, but each counted, and the right password had to wait 13.5
/// days after 233,600 of them.
#[tokio::test(start_paused = true)]
async fn wrong_tokens_are_held_back_and_nobody_else_is() {
    let mut users = ann();
    users.add(name("bob"), Role::User).unwrap();
    set_password(&mut users, &name("bob"), "battery staple");
    let token = users.add_token(&name("bob"), "ci").unwrap();
    let accounts = Accounts::new(users);
    let known = basic("ann", "correct horse");
    assert!(login(&accounts, &known).await.is_ok());

    let guess = |number: usize| given(format!("Bearer guess-{number}"));
    for number in 0..20 {
        assert_eq!(login(&accounts, &guess(number)).await, Err(Denied::Wrong));
    }
    let wait = Duration::from_secs(5);
    for number in 20..10_000 {
        let answer = login(&accounts, &guess(number)).await;
        assert_eq!(answer, Err(Denied::Throttled(wait)));
    }
    // The same again tells nobody anything, and is remembered.
    assert_eq!(login(&accounts, &guess(19)).await, Err(Denied::Wrong));
    let elsewhere = accounts.login(&guess(20), ELSEWHERE, None).await;
    assert_eq!(elsewhere.unwrap_err(), Denied::Wrong);

    // The right token and the right password, both for the first time, and one that is known.
    for good in [
        given(format!("Bearer {}", token.reveal())),
        basic("bob", "battery staple"),
        known,
    ] {
        assert!(login(&accounts, &good).await.is_ok());
    }
    assert_eq!(
        login(&accounts, &basic("ann", "guess")).await,
        Err(Denied::Wrong)
    );

    tokio::time::advance(wait).await;
    assert_eq!(login(&accounts, &guess(10_000)).await, Err(Denied::Wrong));
    let answer = login(&accounts, &guess(10_001)).await;
    assert!(matches!(answer, Err(Denied::Throttled(_))), "{answer:?}");
}

/// Ten at a time is what one source may fail at one name; a flood of tries that do not wait for their
/// answers must not get more.
#[tokio::test]
async fn tries_that_are_dropped_count() {
    let accounts = Accounts::new(ann());
    for number in 0..100 {
        let guess = basic("ann", &format!("guess {number}"));
        let mut attempt = Box::pin(accounts.login(&guess, HOME, None));
        // Begins to hash, and goes away.
        let answer = polled_once(attempt.as_mut()).await;
        drop(attempt);
        if let Some(Err(Denied::Throttled(_))) = answer {
            return;
        }
        // The hash that was left ends by itself.
        let all = HASHED_AT_ONCE_MAX.min(std::thread::available_parallelism().unwrap().get());
        drop(accounts.0.hashing.acquire_many(all as u32).await.unwrap());
    }
    panic!("a hundred tries got through");
}

async fn polled_once<F: Future>(mut future: Pin<&mut F>) -> Option<F::Output> {
    poll_fn(|context| {
        Poll::Ready(match future.as_mut().poll(context) {
            Poll::Ready(output) => Some(output),
            Poll::Pending => None,
        })
    })
    .await
}

#[test]
fn debug_tells_nothing() {
    let accounts = Accounts::new(ann());
    assert_eq!(format!("{accounts:?}"), "Accounts { users: 1, .. }");
}
