//! /healthz and /readyz.
