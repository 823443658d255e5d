//! The control socket: how commands of this program reach a store that a running server has open.
//! A Unix socket in the data directory, for whoever owns that: one HTTP/1.1 POST of an order, in
//! JSON, and its answer.

use std::convert::Infallible;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use kjob_core::Clock;
use kjob_core::engine::SystemClock;
use kjob_store::embedded::EmbeddedStore;
use serde::{Deserialize, Serialize};
use tokio::net::{UnixListener, UnixStream};

use crate::audit::{AuditLog, Event};
use crate::store_orders::{Answer, Order};

/// Where orders are posted to.
const PATH: &str = "/store";

/// The longest order: a path and a few words.
const ORDER_BYTES_MAX: usize = 64 << 10;

/// The longest answer: a line for each segment, or for each damaged record.
const ANSWER_BYTES_MAX: usize = 256 << 20;

/// What is answered where nothing was done.
#[derive(Debug, Serialize, Deserialize)]
struct Refused {
    error: String,
}

/// Why a server cannot be asked, or did not do it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ControlError {
    /// The path does not fit into a socket's address.
    #[error("the path {path} is too long for a control socket; reach the data directory by a shorter one", path = path.display())]
    PathTooLong {
        /// The path.
        path: PathBuf,
    },
    /// Nobody listens.
    #[error("nobody listens at {path}: {source}", path = path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The socket cannot be made.
    #[error("cannot listen at {path}: {source}", path = path.display())]
    Listen {
        /// The socket.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The connection broke.
    #[error("the server went away before it answered: {0}")]
    Broken(Box<dyn std::error::Error + Send + Sync>),
    /// The server says why not.
    #[error("{0}")]
    Refused(String),
}

/// A control socket that is listened at; removed when dropped.
#[derive(Debug)]
pub(crate) struct ControlSocket {
    listener: UnixListener,
    path: PathBuf,
    /// Whose orders are taken, beside the superuser's.
    owner: u32,
}

/// Where the socket of a data directory is.
pub(crate) fn socket_path(data_dir: &Path) -> PathBuf {
    data_dir.join("control.sock")
}

impl ControlSocket {
    /// Listens in a data directory that this process has locked: a socket that is there already was
    /// left by a process that is gone.
    pub(crate) fn bind(data_dir: &Path) -> Result<Self, ControlError> {
        let path = socket_path(data_dir);
        check_path(&path)?;
        let bind = || {
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let listener = UnixListener::bind(&path)?;
            // The check of who connects is what holds; this tells others so at once.
            fs::set_permissions(&path, Permissions::from_mode(0o600))?;
            let owner = fs::metadata(&path)?.uid();
            Ok((listener, owner))
        };
        match bind() {
            Ok((listener, owner)) => Ok(Self {
                listener,
                path,
                owner,
            }),
            Err(source) => Err(ControlError::Listen { path, source }),
        }
    }

    /// Carries out orders until it is dropped, and writes who gave them.
    pub(crate) async fn serve(self, store: Arc<EmbeddedStore>, audit: Option<AuditLog>) {
        loop {
            let stream = match self.listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "a connection to the control socket was not accepted");
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                    continue;
                }
            };
            match stream.peer_cred() {
                Ok(peer) if [0, self.owner].contains(&peer.uid()) => {
                    let desk = Desk {
                        store: store.clone(),
                        audit: audit.clone(),
                        uid: peer.uid(),
                        pid: peer.pid(),
                    };
                    tokio::spawn(desk.serve(stream));
                }
                Ok(peer) => {
                    tracing::warn!(uid = peer.uid(), "refused at the control socket");
                }
                Err(error) => tracing::warn!(%error, "refused at the control socket"),
            }
        }
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        // What is left over is removed at the next start.
        let _ = fs::remove_file(&self.path);
    }
}

/// Where one who connected has orders carried out.
#[derive(Debug)]
struct Desk {
    store: Arc<EmbeddedStore>,
    audit: Option<AuditLog>,
    uid: u32,
    pid: Option<i32>,
}

impl Desk {
    async fn serve(self, stream: UnixStream) {
        let desk = &self;
        let answer = |request| async move { Ok::<_, Infallible>(desk.answer(request).await) };
        let service = service_fn(answer);
        let connection = hyper::server::conn::http1::Builder::new();
        let served = connection.serve_connection(TokioIo::new(stream), service);
        if let Err(error) = served.await {
            tracing::debug!(%error, "a connection to the control socket ended early");
        }
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        if request.method() != Method::POST || request.uri().path() != PATH {
            return reply(StatusCode::NOT_FOUND, &refused(format!("POST {PATH} only")));
        }
        let order = match read_order(request.into_body()).await {
            Ok(order) => order,
            Err(error) => return reply(StatusCode::BAD_REQUEST, &refused(error)),
        };
        let (name, uid, pid) = (order.name(), self.uid, self.pid);
        tracing::info!(order = name, details = ?order, uid, pid, "store command");
        let noted = Noted {
            audit: self.audit.as_ref(),
            event: Some(Event::store_order(order.clone(), uid, pid)),
        };
        match order.carry_out(&self.store, SystemClock.now()).await {
            Ok(answer) => {
                let outcome = answer.outline();
                tracing::info!(order = name, outcome, uid, pid, "store command done");
                noted.done(&outcome).await;
                reply(StatusCode::OK, &answer)
            }
            Err(error) => {
                tracing::warn!(order = name, %error, uid, pid, "store command failed");
                noted.done(&format!("failed: {error}")).await;
                reply(StatusCode::CONFLICT, &refused(error))
            }
        }
    }
}

/// An order that is to be in the audit log, however it ends.
struct Noted<'a> {
    audit: Option<&'a AuditLog>,
    /// `None` once it was written.
    event: Option<Event>,
}

impl Noted<'_> {
    async fn done(mut self, outcome: &str) {
        if let Some(event) = self.event.take() {
            AuditLog::note(self.audit, event.with_outcome(outcome)).await;
        }
    }
}

impl Drop for Noted<'_> {
    /// Whoever gave the order went away, and it was left half done.
    fn drop(&mut self) {
        if let (Some(audit), Some(event)) = (self.audit.cloned(), self.event.take()) {
            let event = event.with_outcome("given up");
            tokio::spawn(async move { AuditLog::note(Some(&audit), event).await });
        }
    }
}

async fn read_order(body: Incoming) -> Result<Order, String> {
    let body = Limited::new(body, ORDER_BYTES_MAX).collect().await;
    let body = body.map_err(|error| match error.is::<LengthLimitError>() {
        true => format!("an order has at most {ORDER_BYTES_MAX} bytes"),
        false => error.to_string(),
    })?;
    serde_json::from_slice(&body.to_bytes()).map_err(|error| format!("no order: {error}"))
}

fn refused(error: impl Into<String>) -> Refused {
    Refused {
        error: error.into(),
    }
}

fn reply(status: StatusCode, body: &impl Serialize) -> Response<Full<Bytes>> {
    // Structs of numbers and texts: turning them into JSON does not fail.
    let body = serde_json::to_vec(body).unwrap_or_default();
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    let json = http::HeaderValue::from_static("application/json");
    response
        .headers_mut()
        .insert(http::header::CONTENT_TYPE, json);
    response
}

/// Has the server that has a data directory open carry out an order.
pub(crate) async fn ask(data_dir: &Path, order: &Order) -> Result<Answer, ControlError> {
    fn broken(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> ControlError {
        ControlError::Broken(error.into())
    }
    let path = socket_path(data_dir);
    check_path(&path)?;
    let connected = UnixStream::connect(&path).await;
    let stream = connected.map_err(|source| ControlError::Connect { path, source })?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(broken)?;
    let order = serde_json::to_vec(order).map_err(broken)?;
    let request = Request::post(PATH)
        .header(http::header::HOST, "localhost")
        .body(Full::<Bytes>::from(order))
        .map_err(broken)?;
    let exchange = async {
        let response = sender.send_request(request).await.map_err(broken)?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX);
        let body = body
            .collect()
            .await
            .map_err(ControlError::Broken)?
            .to_bytes();
        if status == StatusCode::OK {
            return serde_json::from_slice(&body).map_err(broken);
        }
        let refused: Refused = serde_json::from_slice(&body).map_err(broken)?;
        Err(ControlError::Refused(refused.error))
    };
    tokio::select! {
        biased;
        answer = exchange => answer,
        // It ends by itself only where the server went away.
        ended = connection => match ended {
            Ok(()) => Err(broken("the connection was closed")),
            Err(error) => Err(broken(error)),
        },
    }
}

/// A socket's address has room for a path of some hundred bytes.
fn check_path(path: &Path) -> Result<(), ControlError> {
    match std::os::unix::net::SocketAddr::from_pathname(path) {
        Ok(_) => Ok(()),
        Err(_) => Err(ControlError::PathTooLong {
            path: path.to_owned(),
        }),
    }
}
