//! Reading request bodies within limits, and sending replies in segments.
