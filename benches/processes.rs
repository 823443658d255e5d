//! What processes had of the processors, as Linux tells it.

use std::fs;

/// A process.
pub struct Process {
    /// Its id.
    pub id: u32,
    /// That of its parent.
    pub parent: u32,
    /// Seconds that it had.
    own: f64,
    /// Seconds that its children had which have ended.
    ended_children: f64,
}

/// All processes.
///
/// # Panics
/// Where there is no `/proc`.
pub fn all() -> Vec<Process> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").expect("Linux").flatten() {
        let Ok(id) = entry.file_name().to_string_lossy().parse() else {
            continue;
        };
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else {
            continue;
        };
        let Some((_, fields)) = stat.rsplit_once(") ") else {
            continue;
        };
        let fields: Vec<&str> = fields.split(' ').collect();
        // Clock ticks, of which a second has a hundred.
        let ticks = |places: [usize; 2]| -> f64 {
            let each = places
                .iter()
                .filter_map(|place| fields.get(*place)?.parse::<f64>().ok());
            each.sum::<f64>() / 100.0
        };
        found.push(Process {
            id,
            parent: fields.get(1).and_then(|it| it.parse().ok()).unwrap_or(0),
            own: ticks([11, 12]),
            ended_children: ticks([13, 14]),
        });
    }
    found
}

/// Seconds that these servers with their children, and this process, had so far.
pub fn spent(servers: &[u32]) -> (f64, f64) {
    let (mut of_servers, mut of_ours) = (0.0, 0.0);
    for process in all() {
        if servers.contains(&process.id) {
            of_servers += process.own + process.ended_children;
        } else if servers.contains(&process.parent) {
            of_servers += process.own;
        } else if process.id == std::process::id() {
            of_ours += process.own;
        }
    }
    (of_servers, of_ours)
}
