use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::sync::{Mutex, PoisonError};

use base64ct::{Base64, Encoding as _};
use secrecy::zeroize::Zeroizing;

use super::*;

const HOME: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
const MINUTE: Duration = Duration::from_secs(60);

/// An upstream that gives these answers, one after the other, and counts those that are left.
#[derive(Clone)]
struct Script(Arc<Mutex<VecDeque<Result<Verdict, String>>>>);

impl Script {
    fn new(answers: impl IntoIterator<Item = Result<Verdict, String>>) -> Self {
        Self(Arc::new(Mutex::new(answers.into_iter().collect())))
    }

    fn left(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    fn then(&self, answer: Result<Verdict, String>) {
        let mut answers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        answers.push_back(answer);
    }

    fn accounts(&self) -> UpstreamAccounts {
        UpstreamAccounts::of(Box::new(self.clone()), OwnerKey::random())
    }
}

#[async_trait]
impl Ask for Script {
    async fn ask(&self, _: &Credentials, _: IpAddr) -> Result<Verdict, String> {
        let mut answers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        answers.pop_front().expect("another question")
    }
}

fn good() -> Result<Verdict, String> {
    Ok(Verdict::Good)
}

fn barred(status: StatusCode) -> Result<Verdict, String> {
    Ok(Verdict::Barred(Barred {
        status,
        message: Text::from_static("no"),
        retry_after: None,
    }))
}

fn wrong() -> Result<Verdict, String> {
    barred(StatusCode::UNAUTHORIZED)
}

fn silent() -> Result<Verdict, String> {
    Err("gone".to_owned())
}

fn basic(name: &str, password: &str) -> Arc<Credentials> {
    let pair = Base64::encode_string(format!("{name}:{password}").as_bytes());
    let value = format!("Basic {pair}").into_bytes();
    Arc::new(Credentials::Given(Zeroizing::new(value)))
}

/// The caller's name, or how the refusal is called.
async fn login(accounts: &UpstreamAccounts, credentials: &Arc<Credentials>) -> String {
    match accounts.login(credentials, HOME, None).await {
        Ok(login) => {
            assert!(!login.caller.admin, "nobody is an admin by an upstream");
            login.caller.owner.as_str().to_owned()
        }
        Err(refusal) => refusal.kind().name.to_owned(),
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_said_counts_for_its_time() {
    let script = Script::new([good(), wrong(), good(), wrong(), wrong()]);
    let accounts = script.accounts();
    let (ann, bob) = (basic("ann", "x"), basic("bob", "x"));
    for _ in 0..3 {
        assert_eq!(login(&accounts, &ann).await, "ann");
        assert_eq!(login(&accounts, &bob).await, "unauthorized");
    }
    assert_eq!(script.left(), 3);
    tokio::time::advance(MINUTE - Duration::from_millis(1)).await;
    assert_eq!(login(&accounts, &ann).await, "ann");
    assert_eq!(script.left(), 3, "not yet");
    tokio::time::advance(Duration::from_millis(1)).await;
    // Each has the other's answer now.
    assert_eq!(login(&accounts, &bob).await, "bob");
    assert_eq!(login(&accounts, &ann).await, "unauthorized");
    assert_eq!(login(&accounts, &ann).await, "unauthorized");
    // Other credentials are another question.
    assert_eq!(login(&accounts, &basic("ann", "y")).await, "unauthorized");
    assert_eq!(script.left(), 0);
}

#[tokio::test]
async fn with_no_time_each_request_asks() {
    let script = Script::new([good(), wrong()]);
    let accounts = script.accounts().hold_for(Duration::ZERO);
    let ann = basic("ann", "x");
    assert_eq!(login(&accounts, &ann).await, "ann");
    assert_eq!(login(&accounts, &ann).await, "unauthorized");
}

#[tokio::test]
async fn no_answer_lets_nobody_in_and_is_not_remembered() {
    let script = Script::new([silent(), barred(StatusCode::TOO_MANY_REQUESTS), good()]);
    let accounts = script.accounts();
    let ann = basic("ann", "x");
    assert_eq!(login(&accounts, &ann).await, "upstream");
    assert_eq!(login(&accounts, &ann).await, "throttled");
    assert_eq!(login(&accounts, &ann).await, "ann");
}

#[tokio::test]
async fn callers_without_credentials_are_one() {
    let script = Script::new([good(), barred(StatusCode::FORBIDDEN)]);
    let none = Arc::new(Credentials::None);
    let accounts = script.accounts().hold_for(Duration::ZERO);
    assert_eq!(login(&accounts, &none).await, "anonymous");
    assert_eq!(login(&accounts, &none).await, "forbidden");
    // Which of several would be the upstream's to say, and is not asked.
    assert_eq!(
        login(&accounts, &Arc::new(Credentials::Odd)).await,
        "unauthorized"
    );
}

/// The upstream sees all of them come from one address, and would hold back everybody.
#[tokio::test(start_paused = true)]
async fn guesses_are_held_back_here() {
    let script = Script::new([good()].into_iter().chain((0..10).map(|_| wrong())));
    let accounts = script.accounts();
    assert_eq!(login(&accounts, &basic("ann", "right")).await, "ann");
    for n in 0..10 {
        let guess = basic("ann", &n.to_string());
        assert_eq!(login(&accounts, &guess).await, "unauthorized");
    }
    assert_eq!(login(&accounts, &basic("ann", "10")).await, "throttled");
    assert_eq!(script.left(), 0, "it was not asked");
    // Who was let in before is no guess, also when it is time to ask again.
    let known = accounts.clone().hold_for(Duration::ZERO);
    script.then(good());
    assert_eq!(login(&known, &basic("ann", "right")).await, "ann");
    assert_eq!(script.left(), 0);
}

#[tokio::test(start_paused = true)]
async fn who_waits_is_told_when_they_are_out() {
    let script = Script::new([good(), good(), silent(), wrong()]);
    let accounts = script.accounts();
    let ann = basic("ann", "x");
    let login = accounts.login(&ann, HOME, None).await.unwrap();
    let began = Instant::now();
    accounts.revoked(&login, None).await;
    assert_eq!(script.left(), 0);
    // Asked again after each of two minutes, and a little later as there was no answer.
    assert_eq!(began.elapsed(), 2 * MINUTE + WAITING_ASKED_EVERY);
}
