//! What the process takes, as the operating system tells. Where it does not, there are no such metrics.

#[cfg(target_os = "linux")]
pub(super) use linux::Process;
#[cfg(not(target_os = "linux"))]
pub(super) use other::Process;

#[cfg(target_os = "linux")]
mod linux {
    use procfs::WithCurrentSystemInfo;
    use procfs::process::{LimitValue, Process as Looked};
    use procfs::{ProcResult, ticks_per_second};
    use prometheus::{Counter, Gauge, IntGauge};

    use crate::metrics::table::{self, Maker};

    #[derive(Debug)]
    pub(in crate::metrics) struct Process {
        cpu: Counter,
        memory: IntGauge,
        virtual_memory: IntGauge,
        files: IntGauge,
        files_limit: IntGauge,
        threads: IntGauge,
        start: Gauge,
    }

    impl Process {
        pub(in crate::metrics) fn new(maker: &Maker) -> Self {
            Self {
                cpu: maker.seconds(&table::PROCESS_CPU),
                memory: maker.gauge(&table::PROCESS_MEMORY),
                virtual_memory: maker.gauge(&table::PROCESS_VIRTUAL),
                files: maker.gauge(&table::PROCESS_FILES),
                files_limit: maker.gauge(&table::PROCESS_FILES_LIMIT),
                threads: maker.gauge(&table::PROCESS_THREADS),
                start: maker.fine_gauge(&table::PROCESS_START),
            }
        }

        /// Looks anew. What cannot be read stays as it was.
        pub(in crate::metrics) fn look(&self) {
            if let Err(error) = self.try_look() {
                tracing::debug!(%error, "what the process takes cannot be read");
            }
        }

        fn try_look(&self) -> ProcResult<()> {
            let process = Looked::myself()?;
            let stat = process.stat()?;
            let ticks = ticks_per_second() as f64;
            self.cpu.reset();
            self.cpu.inc_by((stat.utime + stat.stime) as f64 / ticks);
            self.memory.set(signed(stat.rss_bytes().get()));
            self.virtual_memory.set(signed(stat.vsize));
            self.threads.set(stat.num_threads);
            let boot = procfs::boot_time_secs()?;
            self.start.set(boot as f64 + stat.starttime as f64 / ticks);
            // One of them is what reads the list.
            self.files.set(signed(process.fd_count()? as u64) - 1);
            let limit = process.limits()?.max_open_files.soft_limit;
            self.files_limit.set(match limit {
                LimitValue::Value(files) => signed(files),
                LimitValue::Unlimited => i64::MAX,
            });
            Ok(())
        }
    }

    fn signed(number: u64) -> i64 {
        i64::try_from(number).unwrap_or(i64::MAX)
    }
}

#[cfg(not(target_os = "linux"))]
mod other {
    use crate::metrics::table::Maker;

    #[derive(Debug)]
    pub(in crate::metrics) struct Process;

    impl Process {
        pub(in crate::metrics) fn new(_: &Maker) -> Self {
            Self
        }

        pub(in crate::metrics) fn look(&self) {}
    }
}
