//! `kjob status`.

use comfy_table::{Table, presets};
use kjob_client::{Health, Server};
use serde::Serialize;

use super::failure::{Exit, Failure};
use super::session::{Session, print, print_json};
use super::text::shown;

#[derive(Serialize)]
struct Document {
    servers: Vec<ServerDocument>,
}

#[derive(Serialize)]
struct ServerDocument {
    url: String,
    /// `running`, `draining` or another word of the server; null if it cannot be asked.
    health: Option<String>,
    error: Option<String>,
    version: Option<String>,
    took_ms: u64,
}

/// Exits with 0 if one of the servers takes jobs.
pub(crate) async fn run(session: &Session) -> Result<Exit, Failure> {
    let servers = session.client.servers().await;
    let is_running = |server: &Server| matches!(server.health, Ok(Health::Running));
    let exit = match servers.iter().any(is_running) {
        true => Exit::Done,
        false => Exit::Failed,
    };
    let servers: Vec<_> = servers.into_iter().map(ServerDocument::from).collect();
    if session.is_json {
        print_json(&Document { servers })?;
        return Ok(exit);
    }
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(["URL", "HEALTH", "VERSION", "TOOK"]);
    for server in servers {
        let health = server.health.or(server.error).unwrap_or_default();
        let version = server.version.unwrap_or_default();
        let took = format!("{} ms", server.took_ms);
        let row = [server.url, health, version, took];
        table.add_row(row.map(|text| shown(&text).into_owned()));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    print(format!("{}\n", table.trim_fmt()).as_bytes())?;
    Ok(exit)
}

impl From<Server> for ServerDocument {
    fn from(server: Server) -> Self {
        let (health, error) = match server.health {
            Ok(Health::Running) => (Some("running".to_owned()), None),
            Ok(Health::Draining) => (Some("draining".to_owned()), None),
            Ok(Health::Other(word)) => (Some(word.to_string()), None),
            Ok(other) => (Some(format!("{other:?}")), None),
            Err(error) => (None, Some(error.to_string())),
        };
        Self {
            url: server.url,
            health,
            error,
            version: server.version.map(String::from),
            took_ms: u64::try_from(server.took.as_millis()).unwrap_or(u64::MAX),
        }
    }
}
