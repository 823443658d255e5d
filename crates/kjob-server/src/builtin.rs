//! The system endpoints as endpoints of jobs.
