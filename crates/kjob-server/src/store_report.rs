//! Answers about a store, for people.

use std::fmt::{self, Display, Write};

use bytesize::ByteSize;

use crate::store_orders::{
    Answer, BackupAnswer, CheckAnswer, CompactAnswer, PurgeAnswer, StatsAnswer,
};

impl Answer {
    /// In one line, for the log.
    pub(crate) fn outline(&self) -> String {
        match self {
            Self::Check(check) => format!("{} findings", check.findings.len()),
            Self::Stats(stats) => format!("{} segments", stats.segments.len()),
            Self::Backup(backup) => format!("{} jobs, {} bytes", backup.jobs, backup.bytes),
            Self::Compact(compact) => format!(
                "{} jobs deleted, {} bytes on disk before, {} after",
                compact.jobs, compact.disk_before, compact.disk_after
            ),
            Self::Purge(purge) => format!(
                "{} jobs of {} bytes{}",
                purge.total.jobs,
                purge.total.bytes,
                if purge.dry_run { ", dry run" } else { "" }
            ),
        }
    }
}

impl Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Check(check) => check.fmt(f),
            Self::Stats(stats) => stats.fmt(f),
            Self::Backup(backup) => backup.fmt(f),
            Self::Compact(compact) => compact.fmt(f),
            Self::Purge(purge) => purge.fmt(f),
        }
    }
}

impl Display for CheckAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for finding in &self.findings {
            write!(f, "{}", finding.file)?;
            for place in [&finding.table, &finding.record].into_iter().flatten() {
                write!(f, ", {place}")?;
            }
            writeln!(f, ": {}", finding.what)?;
        }
        let (segments, jobs, blobs) = (self.segments, self.jobs, self.blob_files);
        writeln!(
            f,
            "{segments} segments, {jobs} jobs, {blobs} blob files read"
        )?;
        if self.in_use {
            writeln!(f, "in use: its logs were checked when it was opened")?;
        }
        match self.findings.len() {
            0 => writeln!(f, "no damage found"),
            count => writeln!(f, "damage found: {count}"),
        }
    }
}

impl Display for StatsAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let jobs = &self.jobs;
        let oldest = self.oldest_received_at.map_or_else(
            || "none".to_owned(),
            |millis| {
                let since = std::time::Duration::from_millis(u64::try_from(millis).unwrap_or(0));
                let at = std::time::UNIX_EPOCH + since;
                humantime::format_rfc3339_millis(at).to_string()
            },
        );
        let rows = [
            ("format", self.format.to_string()),
            ("next id", self.next_id.to_string()),
            ("jobs queued", jobs.queued.to_string()),
            ("jobs running", jobs.running.to_string()),
            ("jobs cancelling", jobs.cancelling.to_string()),
            ("jobs ended, kept", jobs.ended.to_string()),
            ("jobs expired", jobs.expired.to_string()),
            ("oldest job", oldest),
            ("owners", self.owners.to_string()),
            ("payloads and results", bytes(self.bytes)),
            ("  of expired jobs", bytes(self.expired_bytes)),
            ("on disk", bytes(self.disk.total)),
            ("  databases", bytes(self.disk.databases)),
            ("  logs", bytes(self.disk.logs)),
            (
                "  blobs",
                format!(
                    "{} in {} files",
                    bytes(self.disk.blobs),
                    self.disk.blob_files
                ),
            ),
        ];
        pairs(f, &rows)?;
        let heads = [
            "segment", "first id", "jobs", "live", "expired", "bytes", "on disk",
        ];
        let mut table = vec![heads.map(str::to_owned)];
        table.extend(self.segments.iter().map(|segment| {
            [
                format!(
                    "{}-{}{}",
                    segment.number,
                    segment.generation,
                    if segment.is_sealed { "" } else { " (newest)" }
                ),
                segment.first_id.to_string(),
                segment.jobs.to_string(),
                segment.live.to_string(),
                segment.expired.to_string(),
                segment.bytes.to_string(),
                segment.disk.total.to_string(),
            ]
        }));
        writeln!(f)?;
        columns(f, &table)
    }
}

impl Display for BackupAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows = [
            ("backup", self.dir.clone()),
            ("jobs", self.jobs.to_string()),
            ("segments", self.segments.to_string()),
            ("blob files", self.blob_files.to_string()),
            ("size", bytes(self.bytes)),
            ("next id once opened", self.next_id.to_string()),
        ];
        pairs(f, &rows)
    }
}

impl Display for CompactAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows = [
            ("expired jobs deleted", self.jobs.to_string()),
            ("their payloads and results", bytes(self.bytes)),
            ("on disk before", bytes(self.disk_before)),
            ("on disk after", bytes(self.disk_after)),
        ];
        pairs(f, &rows)
    }
}

impl Display for PurgeAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let head = if self.dry_run {
            "would be dropped"
        } else {
            "dropped"
        };
        let mut table = vec![[head, "jobs", "bytes"].map(str::to_owned)];
        let rows = [
            ("DONE", self.done),
            ("ERROR", self.error),
            ("CANCELLED", self.cancelled),
            ("total", self.total),
        ];
        table.extend(rows.map(|(word, usage)| {
            [
                word.to_owned(),
                usage.jobs.to_string(),
                usage.bytes.to_string(),
            ]
        }));
        columns(f, &table)
    }
}

fn bytes(count: u64) -> String {
    if count < 1024 {
        format!("{count} bytes")
    } else {
        format!("{} ({count} bytes)", ByteSize(count))
    }
}

/// Names and values, one below the other.
fn pairs(f: &mut fmt::Formatter<'_>, rows: &[(&str, String)]) -> fmt::Result {
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    for (name, value) in rows {
        writeln!(f, "{name:width$}  {value}")?;
    }
    Ok(())
}

/// A table with its heads: the first column to the left, the others to the right.
fn columns<const N: usize>(f: &mut fmt::Formatter<'_>, rows: &[[String; N]]) -> fmt::Result {
    let mut widths = [0; N];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.len().max(*width);
        }
    }
    for row in rows {
        let mut line = String::new();
        for (at, (cell, width)) in row.iter().zip(widths).enumerate() {
            if at == 0 {
                write!(line, "{cell:width$}")?;
            } else {
                write!(line, "  {cell:>width$}")?;
            }
        }
        writeln!(f, "{}", line.trim_end())?;
    }
    Ok(())
}
