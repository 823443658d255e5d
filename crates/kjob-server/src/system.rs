//! What /show/system/status and /show/system/properties say.
